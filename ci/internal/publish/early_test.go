package publish

import (
	"context"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dagger/fakeart/internal/publish/registrytest"
)

func TestCheckPush(t *testing.T) {
	status := func(path string, status int) func(*http.Request) int {
		return func(r *http.Request) int {
			if strings.HasPrefix(r.URL.Path, path) {
				return status
			}
			return 0
		}
	}
	for _, c := range []struct {
		name   string
		reject func(*http.Request) int
		want   []string
	}{
		{"accepted", nil, nil},
		{"unauthorized", status("/v2/", http.StatusUnauthorized), []string{"push to HOST/fakeart/server: ", "401", "hint: HOST requires other credentials: set --registry-username"}},
		{"forbidden", status("/v2/fakeart/trainer/blobs/", http.StatusForbidden), []string{"push to HOST/fakeart/trainer: ", "403", "hint: give the account access to HOST/fakeart/trainer, "}},
		{"missing_repository", status("/v2/fakeart/", http.StatusNotFound), []string{"push to HOST/fakeart/server: ", "404", "hint: check the repository's name, and create it on HOST"}},
		{"server_error", status("/v2/fakeart/", http.StatusInternalServerError), []string{"push to HOST/fakeart/server: ", "500"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var mu sync.Mutex
			var methods []string
			host, tags := registrytest.Serve(t, func(r *http.Request) int {
				mu.Lock()
				defer mu.Unlock()
				methods = append(methods, r.Method)
				if c.reject == nil {
					return 0
				}
				return c.reject(r)
			})
			err := Target{Registry: host + "/fakeart"}.CheckPush(t.Context(), []string{"server", "trainer"})
			if c.want == nil && err != nil || c.want != nil && err == nil {
				t.Fatalf("error %v", err)
			}
			for _, want := range c.want {
				if want = strings.ReplaceAll(want, "HOST", host); !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q", err, want)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if slices.Contains(methods, http.MethodPut) || slices.Contains(methods, http.MethodPatch) || len(tags()) > 0 {
				t.Errorf("CheckPush() sent %q, want no upload", methods)
			}
		})
	}
}

func TestCheckPush_unreachable(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // accepts and hangs up, like a tunnel to a closed port
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	for _, c := range []struct {
		name   string
		target Target
		want   string
	}{
		{"connection_refused", Target{Registry: "127.0.0.1:1/a"}, "hint: check the registry's name, and that 127.0.0.1:1 is running; for a registry on the machine's loopback interface, Dagger also needs --registry-service=tcp://127.0.0.1:1"},
		{"service_hangs_up", Target{Registry: "127.0.0.1:1/a", Dial: l.Addr().String()}, "hint: check the registry's name, and that 127.0.0.1:1 is running at the address of --registry-service"},
		{"unknown_host", Target{Registry: "registry.invalid/a"}, "hint: check the registry's name, and that registry.invalid is running"},
		{"unknown_authority", Target{Registry: "example.com/a", Dial: secure.Listener.Addr().String()}, "hint: trust the certificate authority of example.com: pass its certificate with --ca-bundle"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.target.CheckPush(t.Context(), []string{"server"})
			if err == nil || !strings.HasPrefix(err.Error(), "push to "+c.target.Registry+"/server: ") || !strings.Contains(err.Error(), "\n"+c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	t.Run("canceled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			cancel()
			<-r.Context().Done()
		}))
		defer hanging.Close()
		err := Target{Registry: strings.TrimPrefix(hanging.URL, "http://") + "/a"}.CheckPush(ctx, []string{"server"})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}

func TestCheckKey(t *testing.T) {
	key := func(kind string) string { return "-----BEGIN " + kind + "-----\nAAAA\n-----END " + kind + "-----\n" }
	for _, c := range []struct{ name, text, want string }{
		{"sigstore", key("ENCRYPTED SIGSTORE PRIVATE KEY"), ""},
		{"cosign", key("ENCRYPTED COSIGN PRIVATE KEY"), ""},
		{"public_key", key("PUBLIC KEY"), `is a PEM block of type "PUBLIC KEY"`},
		{"other_key", key("PRIVATE KEY"), "cosign import-key-pair"},
		{"file_name", "cosign.key", "isn't in PEM"},
		{"empty", "", "isn't in PEM"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := CheckKey(c.text); c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestCheckToken(t *testing.T) {
	now := time.Date(2026, 11, 27, 3, 15, 35, 0, time.UTC)
	token := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".AA"
	}
	for _, c := range []struct{ name, text, want string }{
		{"valid", token(`{"exp":1795749336}`) + "\n", ""},
		{"expired", token(`{"exp":1795749334}`), "expired at 2026-11-27T03:15:34Z"},
		{"no_time", token(`{}`), "expired at 1970-01-01T00:00:00Z"},
		{"file_name", "token.txt", "isn't a JSON Web Token"},
		{"no_json", "a.b.c", "isn't a JSON Web Token"},
		{"no_base64", "a.!.c", "isn't a JSON Web Token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := CheckToken(c.text, now); c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}
