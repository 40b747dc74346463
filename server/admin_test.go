package main

import (
	"bytes"
	"net/http"
	"os"
	"strings"
	"testing"

	"fakeart/internal/model"
)

// adminRoutes are the routes that require admin access.
var adminRoutes = []struct{ method, path, body string }{
	{"GET", "/log", ""},
	{"GET", "/log/export", ""},
	{"GET", "/drift", ""},
	{"PUT", "/models/current", `{"model":"previous"}`},
}

func requestWithHeader(t *testing.T, method, url, body string, header map[string]string) (*http.Response, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range header {
		if key == "Host" {
			request.Host = value
		} else {
			request.Header.Set(key, value)
		}
	}
	return send(t, request)
}

func TestAdmin_Token(t *testing.T) {
	file := writeFile(t, "tokens", []byte("old-token-in-the-file\n\nnew-token-in-the-file\n"))
	m := start(t, func(c *Config) { c.AdminToken, c.AdminTokenFile = []string{"first-token-here,second-token-here"}, file })
	for _, route := range adminRoutes {
		for _, test := range []struct {
			name, authorization string
			status              int
			challenge           string
		}{
			{"no_header", "", 401, `Bearer realm="fakeart"`},
			{"other_scheme", "Basic Zmlyc3Q6dG9rZW4=", 401, `Bearer realm="fakeart"`},
			{"empty_token", "Bearer ", 401, `Bearer realm="fakeart"`},
			{"wrong_token", "Bearer first-token-herE", 401, "invalid_token"},
			{"token_prefix", "Bearer first", 401, "invalid_token"},
			{"all_tokens", "Bearer first-token-here,second-token-here", 401, "invalid_token"},
			{"first_token", "Bearer first-token-here", 0, ""},
			{"second_token", "bearer second-token-here", 0, ""},
			{"token_from_file", "Bearer new-token-in-the-file", 0, ""},
		} {
			t.Run(route.method+route.path+" "+test.name, func(t *testing.T) {
				header := map[string]string{}
				if test.authorization != "" {
					header["Authorization"] = test.authorization
				}
				response, body := requestWithHeader(t, route.method, m.URL()+route.path, route.body, header)
				if test.status == 0 {
					if response.StatusCode == 401 || response.StatusCode == 403 {
						t.Errorf("status %d: %s", response.StatusCode, body)
					}
					return
				}
				checkProblem(t, response, body, test.status)
				if !strings.Contains(response.Header.Get("WWW-Authenticate"), test.challenge) {
					t.Errorf("challenge %q, want %q", response.Header.Get("WWW-Authenticate"), test.challenge)
				}
			})
		}
	}
	// Tokens are rotated by replacing the file.
	if err := os.WriteFile(file, []byte("newest-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]int{"old-token-in-the-file": 401, "newest-token": 200} {
		if response, body := requestWithHeader(t, "GET", m.URL()+"/log", "", map[string]string{"Authorization": "Bearer " + token}); response.StatusCode != want {
			t.Errorf("%s: status %d, want %d: %s", token, response.StatusCode, want, body)
		}
	}
}

func TestAdmin_LoopbackWithoutToken(t *testing.T) {
	m := start(t)
	for _, route := range adminRoutes {
		for _, test := range []struct {
			name   string
			header map[string]string
			local  bool
		}{
			{"loopback", nil, true},
			{"localhost", map[string]string{"Host": "localhost:1234"}, true},
			{"X-Forwarded-For", map[string]string{"X-Forwarded-For": "127.0.0.1"}, false},
			{"Forwarded", map[string]string{"Forwarded": "for=192.0.2.1"}, false},
			{"dns_rebinding", map[string]string{"Host": "evil.example"}, false},
		} {
			t.Run(route.path+" "+test.name, func(t *testing.T) {
				response, body := requestWithHeader(t, route.method, m.URL()+route.path, route.body, test.header)
				if test.local {
					if response.StatusCode == 403 {
						t.Errorf("rejected: %s", body)
					}
					return
				}
				checkProblem(t, response, body, 403, "loopback", "FAKEART_ADMIN_TOKEN")
			})
		}
	}
}

func TestAdminAddr_Profiles(t *testing.T) {
	m := start(t, func(c *Config) { c.AdminAddr = "127.0.0.1:0" })
	admin := "http://" + m.endpoints[1].listener.Addr().String()
	response, body := do(t, "GET", m.URL()+"/debug/pprof/", "", nil)
	checkProblem(t, response, body, 404)
	for path, word := range map[string]string{
		"/debug/pprof/": "goroutine", "/debug/pprof/goroutine?debug=1": "goroutine profile", "/debug/pprof/profile?seconds=1": "\x1f\x8b",
		"/debug/pprof/cmdline": "", "/metrics": "fakeart_build_info", "/healthz": "ok", "/log": "records", "/models/current": inUse(m),
	} {
		response, body := do(t, "GET", admin+path, "", nil)
		if response.StatusCode != 200 || !bytes.Contains(body, []byte(word)) {
			t.Errorf("%s: status %d: %.100q", path, response.StatusCode, body)
		}
	}
	response, body = requestWithHeader(t, "GET", admin+"/debug/pprof/", "", map[string]string{"X-Forwarded-For": "192.0.2.1"})
	checkProblem(t, response, body, 403)
	response, body = do(t, "POST", admin+"/predict", "", pngOf(t, solid(red, 32, 32)))
	checkPrediction(t, m, response, body, model.Fake)
}
