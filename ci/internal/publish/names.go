package publish

import (
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// CommitTag returns an image's tag for its commit: the first twelve digits of the hash, and
// "-modified" if the tree differed from the commit.
func CommitTag(revision string) string {
	hash, modified, _ := strings.Cut(revision, "-")
	tag := hash[:min(12, len(hash))]
	if modified != "" {
		tag += "-" + modified
	}
	return tag
}

// CosignArgs returns the arguments for cosign to sign an image with a key, or with an identity if
// key is empty. If dial isn't empty, cosign connects to the registry at that address, HOST:PORT,
// without TLS; the signature still has the image's own name.
func CosignArgs(ref name.Digest, key, dial string) []string {
	args := []string{"sign", "--yes"}
	if key != "" {
		// Signatures that are verified with a key don't need the public transparency log.
		args = append(args, "--key", key, "--tlog-upload=false")
	}
	if dial == "" {
		return append(args, ref.String())
	}
	own := ref.Context()
	return append(args, "--allow-http-registry", "--sign-container-identity="+own.Name(),
		dial+"/"+own.RepositoryStr()+"@"+ref.DigestStr())
}

// Lines returns one line per image, sorted: the program and the image's reference by digest.
func Lines(pushed map[string]name.Digest) string {
	var lines []string
	for _, program := range slices.Sorted(maps.Keys(pushed)) {
		lines = append(lines, program+" "+pushed[program].String())
	}
	return strings.Join(lines, "\n")
}

// WithRootCAs returns a copy of a transport that trusts only the certificate authorities in pool.
func WithRootCAs(t *http.Transport, pool *x509.CertPool) *http.Transport {
	t = t.Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return t
}
