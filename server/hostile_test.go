package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fakeart/internal/model"
	"fakeart/server/infer"
)

// raw sends bytes unchanged and returns the first response.
func raw(t *testing.T, m *Main, request string) (*http.Response, []byte) {
	t.Helper()
	conn := dial(t, m)
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return receive(t, conn)
}

func TestAmbiguousHeaders(t *testing.T) {
	m := start(t)
	const inner = "GET /v2/health/live HTTP/1.1\r\nHost: smuggled\r\n\r\n"
	for name, header := range map[string]string{
		"space_before_colon":           "Host: a\r\nTransfer-Encoding : chunked\r\n",
		"space_before_colon_of_length": fmt.Sprintf("Host: a\r\nContent-Length : %d\r\n", len(inner)),
		"folded_line":                  "Host: a\r\nX: y\r\n z: 1\r\n",
		"two_hosts":                    "Host: a\r\nHost: localhost\r\n",
		"length_and_encoding":          "Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
		"two_encodings":                "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, m)
			if _, err := io.WriteString(conn, "POST /predict HTTP/1.1\r\n"+header+"\r\n"+inner); err != nil {
				t.Fatal(err)
			}
			all, err := io.ReadAll(conn)
			if bytes.Count(all, []byte("HTTP/1.1 ")) != 1 || !bytes.HasPrefix(all, []byte("HTTP/1.1 400 ")) {
				t.Errorf("received %q (%v), want one response with status 400", all, err)
			}
		})
	}
}

func TestAdmin_RemoteRequests(t *testing.T) {
	m := start(t, func(c *Config) { c.CORSOrigin = []string{"https://x.example"} })
	for name, header := range map[string]string{
		"empty X-Forwarded-For before a proxy's": "X-Forwarded-For:\r\nX-Forwarded-For: 6.6.6.6\r\n",
		"empty X-Forwarded-For":                  "X-Forwarded-For:\r\n",
		"page of another origin":                 "Origin: https://x.example\r\n",
		"page of another port":                   "Origin: http://localhost:3000\r\n",
	} {
		response, body := raw(t, m, "GET /log HTTP/1.1\r\nHost: localhost\r\n"+header+"\r\n")
		if response.StatusCode != 403 {
			t.Errorf("%s: status %d: %s", name, response.StatusCode, body)
		}
	}
	host := m.endpoints[0].listener.Addr().String()
	if response, body := raw(t, m, "GET /log HTTP/1.1\r\nHost: "+host+"\r\nOrigin: http://"+host+"\r\n\r\n"); response.StatusCode != 200 {
		t.Errorf("page of the server itself: status %d: %s", response.StatusCode, body)
	}
}

func TestRateLimit_SeveralForwardedForLines(t *testing.T) {
	m := start(t, func(c *Config) { c.RateLimit, c.TrustedProxy = 2, []string{"127.0.0.0/8"} })
	limited := 0
	for i := range 10 {
		response, _ := raw(t, m, fmt.Sprintf("GET /v2 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.%d\r\nX-Forwarded-For: 5.5.5.5\r\n\r\n", i))
		if response.StatusCode == 429 {
			limited++
		}
	}
	if limited < 4 {
		t.Errorf("%d of 10 requests were limited, want at least 4: the first X-Forwarded-For line must be ignored", limited)
	}
}

func TestMalformedPath(t *testing.T) {
	m := start(t, func(c *Config) { c.AdminAddr = "127.0.0.1:0" })
	for i, path := range []string{"/docs/%zz", "/debug/pprof/%zz"} {
		conn := dialAddr(t, m.endpoints[i].listener.Addr().String())
		if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if response, body := receive(t, conn); response.StatusCode != 404 {
			t.Errorf("%s: status %d: %s", path, response.StatusCode, body)
		}
	}
}

func TestExport_HEAD(t *testing.T) {
	m := start(t)
	conn := dial(t, m)
	if _, err := io.WriteString(conn, "HEAD /log/export HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(all, []byte("\r\n\r\n"))
	if !bytes.HasPrefix(all, []byte("HTTP/1.1 200 ")) || !bytes.HasPrefix(rest, []byte("HTTP/1.1 200 ")) {
		t.Errorf("received %q", all)
	}
}

func TestPredict_InvalidInstances(t *testing.T) {
	m := start(t)
	for name, test := range map[string]struct {
		body   string
		status int
		word   string
	}{
		"duplicate_instances": {`{"instances":[{"b64":""}],"instances":[{}]}`, 400, "duplicate key"},
		"too_many_instances":  {`{"instances":[` + strings.Repeat("{},", 300_000) + `{}]}`, 413, "more than 128"},
		"array":               {`[]`, 400, "expected {"},
		"instances_not_array": {`{"instances":{}}`, 400, "expected ["},
		"trailing_data":       {`{"instances":[{"b64":""}]}x`, 400, "unexpected data after"},
		"no_instances":        {`{"other":[[[{}]]]}`, 400, "at least one"},
		"null":                {`{"instances":[null]}`, 400, "b64"},
	} {
		t.Run(name, func(t *testing.T) {
			response, body := do(t, "POST", m.URL()+"/predict", "application/json", []byte(test.body))
			checkProblem(t, response, body, test.status, test.word)
		})
	}
}

func TestPredict_DecoderTimeout(t *testing.T) {
	m := start(t, func(c *Config) { c.RequestTimeout, c.ShutdownTimeout = 50*time.Millisecond, time.Second })
	held := []*decoder{}
	for len(m.decoders.free) > 0 {
		held = append(held, <-m.decoders.free)
	}
	img := pngOf(t, solid(red, 32, 32))
	response, body := do(t, "POST", m.URL()+"/predict", "", img)
	checkProblem(t, response, body, 503, "timed out")
	// During shutdown, waiting requests are rejected before their timeout.
	m.config.RequestTimeout = time.Hour
	conn := dial(t, m)
	if _, err := fmt.Fprintf(conn, "POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(img), img); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the request", func() bool { return m.pending.Load() > 0 })
	closed := make(chan error, 1)
	go func() { closed <- m.Close() }()
	response, body = receive(t, conn)
	checkProblem(t, response, body, 503, infer.ErrClosed.Error())
	if err := <-closed; err != nil {
		t.Error(err)
	}
	for _, d := range held {
		m.decoders.put(d)
	}
}

func TestConfig_FileValuesVerbatim(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("model: m\nadmin-token: [1e10, 0x10]\nmax-images: 7\nmodel-sha256:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := parse([]string{"--config", path}, streams{io.Discard, io.Discard})
	if err != nil || fmt.Sprint(c.tokens()) != "[1e10 0x10]" || c.MaxImages != 7 {
		t.Errorf("%v, %+v", err, c)
	}
}

func TestPredict_EmptyFormPart(t *testing.T) {
	m := start(t)
	body := "--b\r\nContent-Disposition: form-data; name=\"data\"\r\n\r\n--b\r\nContent-Disposition: form-data; name=\"data\"\r\n\r\n" + string(pngOf(t, solid(red, 32, 32))) + "\r\n--b--\r\n"
	response, respBody := do(t, "POST", m.URL()+"/predict", "multipart/form-data; boundary=b", []byte(body))
	if response.StatusCode != 200 || !bytes.Contains(respBody, []byte(`"error"`)) || !bytes.Contains(respBody, []byte(model.Fake)) {
		t.Errorf("status %d: %s, want an error and a prediction", response.StatusCode, respBody)
	}
}
