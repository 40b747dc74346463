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

// Cosign returns the arguments with which cosign signs an image: with a key, or, where
// key is empty, with an identity.
func Cosign(ref name.Digest, key string) []string {
	args := []string{"sign", "--yes"}
	if key != "" {
		// A key is its own proof; without it the public log of signatures is.
		args = append(args, "--key", key, "--tlog-upload=false")
	}
	return append(args, ref.String())
}

// Lines are the images' programs and names, a line each.
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
