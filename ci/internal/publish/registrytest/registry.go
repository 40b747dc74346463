// Package registrytest provides a container registry for tests, which can reject requests. Call
// [Serve].
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

// Serve starts a registry on a loopback address, which is closed when the test ends. Before it
// handles a request, it calls reject, which may be nil. If reject returns a status other than 0,
// the registry responds with that status. The function tags returns the paths of the tags that were
// set so far, in order. Both functions may be called concurrently.
func Serve(t *testing.T, reject func(*http.Request) int) (host string, tags func() []string) {
	t.Helper()
	var mu sync.Mutex
	var seen []string
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if reject != nil {
			if status := reject(r); status != 0 {
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
