// Package registrytest is a registry for tests, which may refuse.
package registrytest

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
)

// Serve starts a registry on loopback that ends with the test. It answers a request with the
// status that refuse returns, unless that is 0; refuse may be nil. tags lists the paths
// of the tags that were set so far, in turn.
func Serve(t *testing.T, refuse func(*http.Request) int) (host string, tags func() []string) {
	t.Helper()
	var mu sync.Mutex
	var seen []string
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refuse != nil {
			if status := refuse(r); status != 0 {
				if status == http.StatusUnauthorized {
					w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
				}
				w.WriteHeader(status)
				return
			}
		}
		if path := r.URL.Path; r.Method == http.MethodPut && strings.Contains(path, "/manifests/") && !strings.Contains(path, "/manifests/sha256") {
			mu.Lock()
			seen = append(seen, path)
			mu.Unlock()
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen)
	}
}
