package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

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

func TestPredict_Base64(t *testing.T) {
	m := start(t)
	img := pngOf(t, gradient(32, 32)) // long enough for both characters that differ
	standard := base64.StdEncoding.EncodeToString(img)
	if !strings.ContainsAny(standard, "+/") || !strings.HasSuffix(standard, "=") {
		t.Fatal("the image doesn't distinguish the alphabets")
	}
	classify := func(text string) []byte {
		response, body := do(t, "POST", m.URL()+"/predict", "application/json", fmt.Appendf(nil, `{"instances":[{"b64":%q}]}`, text))
		if response.StatusCode != 200 {
			t.Fatalf("status %d: %s", response.StatusCode, body)
		}
		return body
	}
	for name, text := range map[string]string{
		"standard":          standard,
		"without_padding":   strings.TrimRight(standard, "="),
		"URL_safe":          base64.URLEncoding.EncodeToString(img),
		"URL_safe_unpadded": base64.RawURLEncoding.EncodeToString(img),
		"data_URL":          "data:image/png;base64," + standard,
		"data_URL_upper":    "DATA:image/png;name=a.png;BASE64," + standard,
		"data_URL_untyped":  "data:;base64," + base64.RawURLEncoding.EncodeToString(img),
		"lines":             standard[:76] + "\r\n" + standard[76:] + "\r\n",
	} {
		if body := classify(text); !bytes.Contains(body, []byte(`"label"`)) {
			t.Errorf("%s: %s", name, body)
		}
	}
	for name, text := range map[string]string{
		"mixed_alphabets": "-_+/",
		"wrong_padding":   standard[:len(standard)-1] + "==",
		"data_URL_text":   "data:image/png," + standard,
		"other_URL":       "https://example.org/;base64," + standard,
		"space":           standard[:40] + " " + standard[40:],
	} {
		if body := classify(text); !bytes.Contains(body, []byte("isn't valid base64")) {
			t.Errorf("%s: %s", name, body)
		}
	}
}

func TestPredict_DecoderTimeout(t *testing.T) {
	m := start(t, func(c *Config) { c.RequestTimeout, c.ShutdownTimeout = 50*time.Millisecond, time.Second })
	held := []*decoder{}
	for m.decoders.Idle() > 0 {
		d, err := m.decoders.Take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, d)
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
	waitFor(t, "the request", func() bool { return m.requests.InProgress() > 0 })
	closed := make(chan error, 1)
	go func() { closed <- m.Close() }()
	response, body = receive(t, conn)
	checkProblem(t, response, body, 503, infer.ErrClosed.Error())
	if err := <-closed; err != nil {
		t.Error(err)
	}
	for _, d := range held {
		m.decoders.Put(d)
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

// checkEarly checks that a raw response is a problem document with the headers of all responses.
func checkEarly(t *testing.T, response *http.Response, body []byte, status int) {
	t.Helper()
	checkProblem(t, response, body, status)
	if _, err := uuid.Parse(response.Header.Get("X-Request-Id")); err != nil || response.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("headers %v, want a request ID and nosniff", response.Header)
	}
}

// fasthttp's own errors quote the request.
func TestMalformedRequests_NoEcho(t *testing.T) {
	m := start(t)
	const secret = "Authorization: Bearer s3cret-s3cret\r\n"
	for name, test := range map[string]struct {
		request string
		status  int
	}{
		"two_lengths":           {"POST /predict HTTP/1.1\r\nHost: a\r\n" + secret + "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400},
		"invalid_length":        {"POST /predict HTTP/1.1\r\nHost: a\r\n" + secret + "Content-Length: s3cret\r\n\r\nx", 400},
		"unknown_encoding":      {"POST /predict HTTP/1.1\r\nHost: a\r\n" + secret + "Transfer-Encoding: s3cret\r\n\r\nx", 400},
		"invalid_version":       {"GET /healthz HTTP/s3cret\r\nHost: a\r\n" + secret + "\r\n", 400},
		"no_target":             {"GET s3cret\r\nHost: a\r\n" + secret + "\r\n", 400},
		"two_spaces":            {"GET  /healthz HTTP/1.1\r\nHost: a\r\n" + secret + "\r\n", 400},
		"invalid_host":          {"GET /healthz HTTP/1.1\r\nHost: s3cret:s3cret\r\n" + secret + "\r\n", 400},
		"host_with_space":       {"GET /healthz HTTP/1.1\r\nHost: s3cret s3cret\r\n" + secret + "\r\n", 400},
		"no_host":               {"GET /healthz HTTP/1.1\r\n" + secret + "\r\n", 400},
		"invalid_field":         {"GET /healthz HTTP/1.1\r\nHost: a\r\ns3cret\x01: 1\r\n" + secret + "\r\n", 400},
		"large_header":          {"GET /healthz HTTP/1.1\r\nHost: a\r\n" + secret + "X: " + strings.Repeat("s3cret", 10_000) + "\r\n\r\n", 431},
		"folded_line":           {"GET /healthz HTTP/1.1\r\nHost: a\r\nX: y\r\n s3cret\r\n\r\n", 400},
		"unknown_expectation":   {"POST /predict HTTP/1.1\r\nHost: a\r\n" + secret + "Expect: s3cret\r\nContent-Length: 9\r\n\r\n", 417},
		"encoded_slash":         {"GET /log%2Fexport HTTP/1.1\r\nHost: localhost\r\n" + secret + "\r\n", 404},
		"encoded_slash_lower":   {"GET /log%2fexport HTTP/1.1\r\nHost: localhost\r\n" + secret + "\r\n", 404},
		"encoded_slash_in_name": {"GET /v2%2Fhealth%2Flive HTTP/1.1\r\nHost: localhost\r\n" + secret + "\r\n", 404},
	} {
		t.Run(name, func(t *testing.T) {
			response, body := raw(t, m, test.request)
			checkEarly(t, response, body, test.status)
			if bytes.Contains(body, []byte("s3cret")) {
				t.Errorf("the response repeats the request: %s", body)
			}
		})
	}
	if response, body := raw(t, m, "GET /healthz HTTP/1.0\r\n\r\n"); response.StatusCode != 200 {
		t.Errorf("HTTP/1.0 without Host: status %d: %s", response.StatusCode, body)
	}
}

// TestErrors_NoEcho puts a long text into every part of requests that fail.
func TestErrors_NoEcho(t *testing.T) {
	m := start(t)
	for name, long := range map[string]string{"word": strings.Repeat("s3cret", 3000), "words": strings.Repeat("s3 ret ", 3000)} {
		path := url.PathEscape(long[:5000])
		tensor := func(format string) string { return fmt.Sprintf(format, long) }
		for i, test := range []struct{ method, path, contentType, body string }{
			{"GET", "/" + path, "", ""},
			{"PUT", "/predict/" + path, "", ""},
			{"GET", "/predict?" + path, "", ""},
			{"POST", "/predict?explain=" + path, "", "x"},
			{"POST", "/predict?input=" + path, "", "x"},
			{"POST", "/predict?" + path + "=1", "", "x"},
			{"GET", "/log?limit=" + path, "", ""},
			{"GET", "/log?cursor=" + path, "", ""},
			{"GET", "/log/export?format=" + path, "", ""},
			{"GET", "/v2/models/" + path, "", ""},
			{"GET", "/v2/models/fakeart/versions/" + path, "", ""},
			{"POST", "/predict", "multipart/" + long[:5000], "x"},
			{"POST", "/predict", "multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=\"" + long + "\"\r\n\r\nx\r\n--b--\r\n"},
			{"POST", "/predict", "multipart/form-data; boundary=b", "--b\r\n" + long + "\r\n\r\nx\r\n--b--\r\n"},
			{"POST", "/predict", "", long},
			{"POST", "/predict", "application/json", long},
			{"POST", "/predict", "application/json", `{"instances":"` + long + `"}`},
			{"POST", "/predict", "application/json", `{"instances":[{"b64":` + strings.Repeat("1", 1000) + `}]}`},
			{"POST", "/feedback", "text/" + long[:5000], "{}"},
			{"POST", "/feedback", "application/json", `{"id":"` + long + `","label":"` + long + `"}`},
			{"POST", "/feedback", "application/json", `{"` + long + `":1,"` + long + `2":1}`},
			{"POST", "/feedback", "application/json", `{"id":` + strings.Repeat("1", 1000) + `}`},
			{"PUT", "/models/current", "application/json", `{"model":"` + long + `"}`},
			{"PUT", "/models/current", "application/json", `{"model":"file:///` + long + `"}`},
			{"PUT", "/models/current", "application/json", `{"model":"gs://` + long + `/x"}`},
			{"PUT", "/models/current", "application/json", `{"model":"` + m.config.model() + `","sha256":"` + long + `"}`},
			{"POST", "/v2/models/fakeart/infer", "application/json", tensor(`{"inputs":[{"name":"%s"}]}`)},
			{"POST", "/v2/models/fakeart/infer", "application/json", tensor(`{"inputs":[{"name":"input","datatype":"%s","shape":[1]}]}`)},
			{"POST", "/v2/models/fakeart/infer", "application/json", tensor(`{"outputs":[{"name":"%s"}]}`)},
			{"POST", "/v2/models/fakeart/infer", "application/json", long},
		} {
			response, body := do(t, test.method, m.URL()+test.path, test.contentType, []byte(test.body))
			if response.StatusCode < 400 || response.StatusCode == 500 {
				t.Errorf("%s %d: %s %.40s: status %d: %s", name, i, test.method, test.path, response.StatusCode, body)
			}
			if n := strings.Count(string(body), "s3")*len("s3cret") + bytes.Count(body, []byte("1111111111"))*10; n > 130 {
				t.Errorf("%s %d: %s %.40s: %d bytes of the request in %s", name, i, test.method, test.path, n, body)
			}
		}
	}
}

func TestMaxConnections_Response(t *testing.T) {
	m := start(t, func(c *Config) { c.MaxConnections = 1 })
	first := dial(t, m)
	if _, err := io.WriteString(first, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	receive(t, first)
	response, body := receive(t, dial(t, m))
	checkEarly(t, response, body, 503)
	if response.Header.Get("Retry-After") != "1" {
		t.Errorf("headers %v", response.Header)
	}
	// The closed connection no longer counts.
	_ = first.Close()
	waitFor(t, "a free connection", func() bool {
		conn := dial(t, m)
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			return false
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		return err == nil && response.StatusCode == 200
	})
}

// A client that waits for 100 Continue must not send a body that would only be discarded.
func TestExpectContinue(t *testing.T) {
	m := start(t, func(c *Config) { c.AdminToken, c.MaxBody = []string{"secret-secret-secret"}, 1000 })
	empty := startWithoutModel(t, t.TempDir())
	unlogged := start(t, func(c *Config) { c.LogStore = "none" })
	for name, test := range map[string]struct {
		m      *Main
		head   string
		status int
	}{
		"too_large":              {m, "POST /predict HTTP/1.1\r\nContent-Length: 1001", 413},
		"content_encoding":       {m, "POST /predict HTTP/1.1\r\nContent-Encoding: br\r\nContent-Length: 9", 415},
		"form_without_boundary":  {m, "POST /predict HTTP/1.1\r\nContent-Type: multipart/form-data\r\nContent-Length: 9", 400},
		"content_type":           {m, "POST /feedback HTTP/1.1\r\nContent-Type: text/html\r\nContent-Length: 9", 415},
		"invalid_parameter":      {m, "POST /predict?explain=x HTTP/1.1\r\nContent-Length: 9", 400},
		"no_token":               {m, "PUT /models/current HTTP/1.1\r\nContent-Length: 9", 401},
		"unknown_route":          {m, "POST /nowhere HTTP/1.1\r\nContent-Length: 9", 404},
		"unknown_route_chunked":  {m, "POST /nowhere HTTP/1.1\r\nTransfer-Encoding: chunked", 404},
		"wrong_method":           {m, "PUT /predict HTTP/1.1\r\nContent-Length: 9", 405},
		"unknown_model":          {m, "POST /v2/models/other/infer HTTP/1.1\r\nContent-Length: 9", 404},
		"unknown_version":        {m, "POST /v2/models/fakeart/versions/1/infer HTTP/1.1\r\nContent-Length: 9", 404},
		"no_model":               {empty, "POST /predict HTTP/1.1\r\nContent-Length: 9", 503},
		"no_model_for_tensors":   {empty, "POST /v2/models/fakeart/infer HTTP/1.1\r\nContent-Length: 9", 503},
		"feedback_without_a_log": {unlogged, "POST /feedback HTTP/1.1\r\nContent-Length: 9", 404},
	} {
		t.Run(name, func(t *testing.T) {
			response, body := raw(t, test.m, test.head+"\r\nHost: localhost\r\nExpect: 100-Continue\r\n\r\n")
			if response.StatusCode != test.status || !response.Close {
				t.Errorf("status %d, want %d and a closed connection: %s", response.StatusCode, test.status, body)
			}
		})
	}
	img := pngOf(t, solid(red, 32, 32))
	for _, value := range []string{"100-continue", "100-Continue", "100-CONTINUE"} {
		conn := dial(t, m)
		if _, err := fmt.Fprintf(conn, "POST /predict HTTP/1.1\r\nHost: a\r\nExpect: %s\r\nContent-Length: %d\r\n\r\n", value, len(img)); err != nil {
			t.Fatal(err)
		}
		const interim = "HTTP/1.1 100 Continue\r\n\r\n"
		got := make([]byte, len(interim))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != interim {
			t.Fatalf("%s: received %q, %v", value, got, err)
		}
		if _, err := conn.Write(img); err != nil {
			t.Fatal(err)
		}
		response, body := receive(t, conn)
		checkPrediction(t, m, response, body, model.Fake)
	}
	// HTTP/1.0 has no interim responses.
	response, body := raw(t, m, fmt.Sprintf("POST /predict HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n%s", len(img), img))
	checkPrediction(t, m, response, body, model.Fake)
}

// A pipelined request must not get 100 Continue before the response to the one before it.
func TestExpectContinue_Pipelined(t *testing.T) {
	m := start(t)
	img := pngOf(t, solid(red, 32, 32))
	conn := dial(t, m)
	if _, err := fmt.Fprintf(conn, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nPOST /predict HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n%s", len(img), img); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	for range 2 {
		response, err := http.ReadResponse(reader, nil)
		if err != nil || response.StatusCode != 200 {
			t.Fatalf("%v, %v", response, err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
	}
}

// A body that is still being received doesn't count as a request in progress.
func TestMaxRequests_SlowBodies(t *testing.T) {
	m := start(t, func(c *Config) { c.MaxRequests = 1 })
	img := pngOf(t, solid(red, 32, 32))
	slow := beginRequest(t, m.endpoints[0].listener.Addr().String(), img)
	response, body := do(t, "POST", m.URL()+"/predict", "", img)
	checkPrediction(t, m, response, body, model.Fake)
	response, body = finishRequest(t, slow, img)
	checkPrediction(t, m, response, body, model.Fake)
}

// fasthttp's adapter for net/http would read the whole body of any size.
func TestGET_WithBody(t *testing.T) {
	m := start(t)
	for _, path := range []string{"/metrics", "/docs", "/healthz"} {
		response, _ := raw(t, m, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n")
		if response.StatusCode != 200 || !response.Close {
			t.Errorf("%s: status %d, want 200 and a closed connection", path, response.StatusCode)
		}
	}
}
