package main

import (
	"bufio"
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
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

var pngEncode = png.Encode

// gradient is a picture of many colours.
func gradient(width, height int) image.Image {
	m := image.NewNRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			m.SetNRGBA(x, y, color.NRGBA{uint8(x * 7), uint8(y * 5), uint8(x + y), 255})
		}
	}
	return m
}

// metric is the value of one series of the server's metrics; 0 when it is not there.
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

func TestEveryAnswerHasItsNameAndKeepsBrowsersFromMischief(t *testing.T) {
	m := start(t)
	for _, test := range []struct{ name, given, want string }{
		{"none given", "", ""},
		{"a name given", "abc-123", "abc-123"},
		{"too long a name", strings.Repeat("x", 129), ""},
		{"a name with a space", "a b", ""},
		{"a name with more than ASCII", "ä", ""},
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
				for header, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Content-Security-Policy": contentSecurityPolicy, "Cache-Control": "no-store", "Access-Control-Allow-Origin": ""} {
					if response.Header.Get(header) != want {
						t.Errorf("%s: %s: %q, want %q", path, header, response.Header.Get(header), want)
					}
				}
			}
		})
	}
}

func TestWebPagesMayUseTheAPIOnlyWhenAllowed(t *testing.T) {
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
			t.Errorf("%s: may use %s", origin, methods)
		}
	}
}

func TestSlowClientsDoNotHoldTheServer(t *testing.T) {
	m := start(t, func(c *Config) {
		c.ReadTimeout, c.IdleTimeout, c.MaxConnections = 300*time.Millisecond, 300*time.Millisecond, 64
	})
	picture := pngOf(t, plain(red, 32, 32))
	beginnings := map[string]string{
		"nothing":        "",
		"half a header":  "POST /predict HTTP/1.1\r\nHost: te",
		"half a body":    "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nhalf",
		"half a chunk":   "POST /predict HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf",
		"half a request": "POST /v2/models/fakeart/infer HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n{",
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
	// Whoever sends a whole request is served meanwhile.
	response, answer := do(t, "POST", m.URL()+"/predict", "", picture)
	checkPrediction(t, m, response, answer, model.Fake)
	// They all end: refused, or just closed where nothing had been said.
	for _, conn := range conns {
		answer, err := io.ReadAll(conn)
		if err != nil {
			t.Fatalf("%q, %v", answer, err)
		}
		if len(answer) > 0 && !bytes.HasPrefix(answer, []byte("HTTP/1.1 408")) {
			t.Errorf("answered %.100q, want 408", answer)
		}
	}
	http.DefaultClient.CloseIdleConnections() // the server is closing them just now
	response, answer = do(t, "POST", m.URL()+"/predict", "", picture)
	checkPrediction(t, m, response, answer, model.Fake)
}

func TestMoreConnectionsThanAllowedAreRefused(t *testing.T) {
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

// What is left of a body that no handler wanted must not be taken for a request.
func TestAnUnreadBodyIsNoRequest(t *testing.T) {
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
			t.Errorf("%s: %d answers: %q", path, n, all)
		}
	}
}

func TestRequestsOnOneConnectionAreAnsweredOneByOne(t *testing.T) {
	m := start(t)
	conn := dial(t, m)
	picture := pngOf(t, plain(red, 32, 32))
	var pipelined bytes.Buffer
	for i := range 20 {
		fmt.Fprintf(&pipelined, "POST /predict HTTP/1.1\r\nHost: test\r\nX-Request-Id: %d\r\nContent-Length: %d\r\n\r\n%s", i, len(picture), picture)
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
			t.Errorf("answer %d is to request %s", i, got)
		}
	}
}

func TestAPanicIsAnsweredAndCounted(t *testing.T) {
	m := start(t)
	before := m.models.current.Swap(&served{}) // without a file, which no handler expects
	response, answer := do(t, "GET", m.URL()+"/v2/models/fakeart", "", nil)
	m.models.current.Store(before)
	if response.StatusCode != 500 || bytes.Contains(answer, []byte("nil pointer")) {
		t.Errorf("status %d: %s", response.StatusCode, answer)
	}
	if got := metric(t, m, "fakeart_panics_total"); got != 1 {
		t.Errorf("%g panics counted", got)
	}
	if response, _ := do(t, "GET", m.URL()+"/healthz", "", nil); response.StatusCode != 200 {
		t.Errorf("status %d after it", response.StatusCode)
	}
}
