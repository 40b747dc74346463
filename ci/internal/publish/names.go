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

// CommitTag is the tag that says of which commit an image is: its first twelve digits,
// and "-modified" if the tree held more.
func CommitTag(revision string) string {
	hash, modified, _ := strings.Cut(revision, "-")
	tag := hash[:min(12, len(hash))]
	if modified != "" {
		tag += "-" + modified
	}
	return tag
}

// Cosign returns the arguments of cosign to sign an image with a key, or with an identity if key is empty. If
// dial isn't empty, cosign reaches the registry at that address, HOST:PORT, without TLS; the signature still has
// the image's own name.
func Cosign(ref name.Digest, key, dial string) []string {
	args := []string{"sign", "--yes"}
	if key != "" {
		// Who verifies with a key needs no public log of signatures.
		args = append(args, "--key", key, "--tlog-upload=false")
	}
	if dial == "" {
		return append(args, ref.String())
	}
	own := ref.Context()
	return append(args, "--allow-http-registry", "--sign-container-identity="+own.Name(),
		dial+"/"+own.RepositoryStr()+"@"+ref.DigestStr())
}

// Lines returns a line for each image: its program and its name.
func Lines(pushed map[string]name.Digest) string {
	var lines []string
	for _, program := range slices.Sorted(maps.Keys(pushed)) {
		lines = append(lines, program+" "+pushed[program].String())
	}
	return strings.Join(lines, "\n")
}

// Trusting is a transport that trusts these certificates.
func Trusting(t *http.Transport, pool *x509.CertPool) *http.Transport {
	t = t.Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return t
}
