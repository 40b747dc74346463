package main

import (
	"bufio"
	"bytes"
	"fmt"
	"image"
	"image/color"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"fakeart/internal/model"
)

// gradient returns an image with many colors.
func gradient(width, height int) image.Image {
	m := image.NewNRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			m.SetNRGBA(x, y, color.NRGBA{uint8(x * 7), uint8(y * 5), uint8(x + y), 255})
		}
	}
	return m
}

// metric returns the value of one series of the server's metrics, or 0 if it doesn't exist.
func metric(t *testing.T, m *Main, series string) float64 {
	t.Helper()
	recorder := httptest.NewRecorder()
	m.metrics.Handler().ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(recorder.Body.String()) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	return 0
}

func TestResponseHeaders(t *testing.T) {
	m := start(t)
	for _, test := range []struct{ name, given, want string }{
		{"none", "", ""},
		{"valid", "abc-123", "abc-123"},
		{"too_long", strings.Repeat("x", 129), ""},
		{"space", "a b", ""},
		{"not_ASCII", "ä", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, path := range []string{"/healthz", "/nowhere", "/predict", "/log"} {
				request, err := http.NewRequestWithContext(t.Context(), "GET", m.URL()+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				if test.given != "" {
					request.Header["X-Request-Id"] = []string{test.given}
				}
				response, _ := send(t, request)
				got := response.Header.Get("X-Request-Id")
				if _, err := uuid.Parse(got); test.want != "" && got != test.want || test.want == "" && err != nil {
					t.Errorf("%s: X-Request-Id: %q, want %q", path, got, test.want)
				}
				for header, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "Cache-Control": "no-store", "Access-Control-Allow-Origin": ""} {
					if response.Header.Get(header) != want {
						t.Errorf("%s: %s: %q, want %q", path, header, response.Header.Get(header), want)
					}
				}
			}
		})
	}
}

func TestCORS(t *testing.T) {
	m := start(t, func(c *Config) { c.CORSOrigin = []string{"https://good.example"} })
	for origin, want := range map[string]string{"https://good.example": "https://good.example", "https://bad.example": ""} {
		request, err := http.NewRequestWithContext(t.Context(), "OPTIONS", m.URL()+"/predict", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Origin", origin)
		request.Header.Set("Access-Control-Request-Method", "PUT")
		response, _ := send(t, request)
		if got := response.Header.Get("Access-Control-Allow-Origin"); got != want {
			t.Errorf("%s: allowed origin %q, want %q", origin, got, want)
		}
		if methods := response.Header.Get("Access-Control-Allow-Methods"); strings.Contains(methods, "PUT") {
			t.Errorf("%s: allowed methods %s", origin, methods)
		}
	}
}

func TestSlowClients(t *testing.T) {
	m := start(t, func(c *Config) {
		c.ReadTimeout, c.IdleTimeout, c.MaxConnections = 300*time.Millisecond, 300*time.Millisecond, 64
	})
	img := pngOf(t, solid(red, 32, 32))
	beginnings := map[string]string{
		"nothing":         "",
		"partial header":  "POST /predict HTTP/1.1\r\nHost: te",
		"partial body":    "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nhalf",
		"partial chunk":   "POST /predict HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf",
		"partial v2 body": "POST /v2/models/fakeart/infer HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n{",
	}
	var conns []io.Reader
	for _, beginning := range beginnings {
		for range 10 {
			conn := dial(t, m)
			if _, err := io.WriteString(conn, beginning); err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
	}
	// Complete requests are served meanwhile.
	response, respBody := do(t, "POST", m.URL()+"/predict", "", img)
	checkPrediction(t, m, response, respBody, model.Fake)
	// The slow connections are all closed: with status 408, or without a response if nothing was sent.
	for _, conn := range conns {
		respBody, err := io.ReadAll(conn)
		if err != nil {
			t.Fatalf("%q, %v", respBody, err)
		}
		if len(respBody) > 0 && !bytes.HasPrefix(respBody, []byte("HTTP/1.1 408")) {
			t.Errorf("received %.100q, want status 408", respBody)
		}
	}
	http.DefaultClient.CloseIdleConnections() // the server is closing idle connections
	response, respBody = do(t, "POST", m.URL()+"/predict", "", img)
	checkPrediction(t, m, response, respBody, model.Fake)
}

func TestMaxConnections(t *testing.T) {
	m := start(t, func(c *Config) { c.MaxConnections = 2 })
	for range 2 {
		conn := dial(t, m)
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if response, body := receive(t, conn); response.StatusCode != 200 {
			t.Fatalf("status %d: %s", response.StatusCode, body)
		}
	}
	third := dial(t, m)
	line, err := bufio.NewReader(third).ReadString('\n')
	if err != nil || !strings.Contains(line, "503") {
		t.Errorf("%q, %v, want 503", line, err)
	}
}

// The rest of a body that no handler read must not be parsed as a request.
func TestUnreadBody(t *testing.T) {
	m := start(t)
	smuggled := "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"
	for _, path := range []string{"/nowhere", "/healthz", "/predict/nothing"} {
		conn := dial(t, m)
		body := strings.Repeat("x", 9000) + smuggled
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body); err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(all, []byte("HTTP/1.1 ")); n != 1 || bytes.Contains(all, []byte(`"ok"`)) {
			t.Errorf("%s: %d responses: %q", path, n, all)
		}
	}
}

func TestPipelinedRequests(t *testing.T) {
	m := start(t)
	conn := dial(t, m)
	img := pngOf(t, solid(red, 32, 32))
	var pipelined bytes.Buffer
	for i := range 20 {
		fmt.Fprintf(&pipelined, "POST /predict HTTP/1.1\r\nHost: test\r\nX-Request-Id: %d\r\nContent-Length: %d\r\n\r\n%s", i, len(img), img)
	}
	if _, err := conn.Write(pipelined.Bytes()); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	for i := range 20 {
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		checkPrediction(t, m, response, body, model.Fake)
		if got := response.Header.Get("X-Request-Id"); got != fmt.Sprint(i) {
			t.Errorf("response %d is for request %s", i, got)
		}
	}
}

func TestPanic(t *testing.T) {
	m := start(t)
	use := m.models.Default().Current()
	tensors := use.Tensors
	use.Tensors = nil // makes handlers panic
	response, respBody := do(t, "GET", m.URL()+"/v2/models/fakeart", "", nil)
	use.Tensors = tensors
	if response.StatusCode != 500 || bytes.Contains(respBody, []byte("nil pointer")) {
		t.Errorf("status %d: %s", response.StatusCode, respBody)
	}
	if got := metric(t, m, "fakeart_panics_total"); got != 1 {
		t.Errorf("%g panics counted", got)
	}
	if response, _ := do(t, "GET", m.URL()+"/healthz", "", nil); response.StatusCode != 200 {
		t.Errorf("status %d after the panic", response.StatusCode)
	}
}

// TestJSONResponses_Newline checks that terminals show the prompt on a new line after each response.
func TestJSONResponses_Newline(t *testing.T) {
	m := start(t)
	img := pngOf(t, solid(red, 32, 32))
	formType, form := newForm(t, field{"data", "a.png", img}, field{"data", "b.png", img})
	tensor := []byte(`{"inputs":[{"name":"input","shape":[1,3,32,32],"datatype":"FP32","data":[` + strings.TrimSuffix(strings.Repeat("0,", 3072), ",") + `]}]}`)
	for _, test := range []struct {
		method, path, contentType string
		body                      []byte
		status                    int
	}{
		{"GET", "/healthz", "", nil, 200},
		{"GET", "/readyz", "", nil, 200},
		{"GET", "/stats", "", nil, 200},
		{"GET", "/models", "", nil, 200},
		{"GET", "/models/current", "", nil, 200},
		{"GET", "/log", "", nil, 200},
		{"GET", "/drift", "", nil, 404},
		{"GET", "/nowhere", "", nil, 404},
		{"GET", "/openapi.json", "", nil, 200},
		{"POST", "/predict", "", img, 200},
		{"POST", "/predict?explain=occlusion", "", img, 200},
		{"POST", "/predict", formType, form, 200},
		{"POST", "/predict", "", []byte("hello"), 415},
		{"POST", "/feedback", "application/json", []byte("{}"), 422},
		{"GET", "/v2", "", nil, 200},
		{"GET", "/v2/health/live", "", nil, 200},
		{"GET", "/v2/health/ready", "", nil, 200},
		{"GET", "/v2/models/fakeart", "", nil, 200},
		{"GET", "/v2/models/fakeart/ready", "", nil, 200},
		{"GET", "/v2/models/other", "", nil, 404},
		{"POST", "/v2/models/fakeart/infer", "application/json", tensor, 200},
		{"POST", "/v2/models/fakeart/infer", "application/json", []byte("{}"), 400},
	} {
		response, body := do(t, test.method, m.URL()+test.path, test.contentType, test.body)
		if response.StatusCode != test.status || !bytes.HasSuffix(body, []byte("}\n")) || bytes.HasSuffix(body, []byte("\n\n")) {
			t.Errorf("%s %s: status %d, want %d and one newline after %q", test.method, test.path, response.StatusCode, test.status, body[max(0, len(body)-100):])
		}
	}
}

// TestProblems_Wording checks that details don't contain the wording of Go's libraries.
func TestProblems_Wording(t *testing.T) {
	m := start(t)
	for _, test := range []struct{ method, path, body string }{
		{"POST", "/predict", `{"instances":[{"b64":7}]}`},
		{"POST", "/predict", `{"instances":[{"b64":"!"},{"b64`},
		{"POST", "/predict", `{"instances":[}`},
		{"POST", "/predict", `nonsense`},
		{"POST", "/predict", `{"instances":[{"b64":"!"}]}`},
		{"POST", "/feedback", `nonsense`},
		{"POST", "/feedback", `{"id":7}`},
		{"PUT", "/models/current", `{"model":7}`},
		{"PUT", "/models/current", `nonsense`},
		{"GET", "/log?limit=many", ``},
		{"GET", "/log?limit=99999999999999999999", ``},
		{"GET", "/log?cursor=!", ``},
		{"GET", "/log/export?format=xls", ``},
		{"POST", "/feedback", `{"id":1e999}`},
		{"POST", "/feedback", `{"id":[{}]}`},
		{"POST", "/feedback", `[1]`},
		{"POST", "/feedback", `null`},
		{"PUT", "/models/current", `{"model":"file:///dev/null"}`},
		{"PUT", "/models/current", `{"model":"file://` + writeFile(t, "bad.onnx", []byte("\x08\x07\x3a\x02\x0a\xff")) + `"}`},
		{"POST", "/v2/models/fakeart/infer", `{"inputs":[{"name":7}]}`},
		{"POST", "/v2/models/fakeart/infer", `{"id":7}`},
	} {
		_, body := do(t, test.method, m.URL()+test.path, "application/json", []byte(test.body))
		t.Logf("%s %s %s: %s", test.method, test.path, test.body, body)
		for _, word := range []string{"strconv", "json:", "Go value", "Go struct", "invalid character", "looking for beginning", "illegal base64", "EOF", "unmarshal", "proto", "uint8", "float64", "map[", "main."} {
			if bytes.Contains(body, []byte(word)) {
				t.Errorf("%s %s %s: response contains %q: %s", test.method, test.path, test.body, word, body)
			}
		}
	}
}
