package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"fakeart/internal/model"
	"fakeart/server/telemetry"
)

// traceCollector is an OpenTelemetry collector that stores the spans.
type traceCollector struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []*tracepb.Span
}

func (c *traceCollector) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range r.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func TestTracing(t *testing.T) {
	for _, protocol := range []string{"http/protobuf", "grpc"} {
		t.Run(protocol, func(t *testing.T) {
			var c traceCollector
			if protocol == "grpc" {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				s := grpc.NewServer()
				collector.RegisterTraceServiceServer(s, &c)
				go func() { _ = s.Serve(l) }()
				defer s.Stop()
				t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+l.Addr().String())
			} else {
				s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					var request collector.ExportTraceServiceRequest
					if err := proto.Unmarshal(body, &request); err != nil || r.URL.Path != "/v1/traces" {
						t.Errorf("%s: %v", r.URL, err)
					}
					_, _ = c.Export(r.Context(), &request)
				}))
				defer s.Close()
				t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", s.URL)
			}
			t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
			m := start(t)
			request, err := http.NewRequestWithContext(t.Context(), "POST", m.URL()+"/predict?explain=occlusion", bytes.NewReader(pngOf(t, solid(red, 32, 32))))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
			response, body := send(t, request)
			if response.StatusCode != 200 {
				t.Fatalf("status %d: %s", response.StatusCode, body)
			}
			// A second request reuses Fiber's buffers. The span of the first one must not change.
			if request, err = http.NewRequestWithContext(t.Context(), "PUT", m.URL()+"/nowhere", nil); err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
			response, body = send(t, request)
			checkProblem(t, response, body, 404)
			if err := m.Close(); err != nil { // flushes the spans
				t.Fatal(err)
			}
			names := map[string]*tracepb.Span{}
			for _, s := range c.spans {
				names[s.Name] = s
				if got := hexOf(s.TraceId); got != "0af7651916cd43dd8448eb211c80319c" {
					t.Errorf("%s belongs to trace %s", s.Name, got)
				}
			}
			root := names["POST /predict"]
			if root == nil || hexOf(root.ParentSpanId) != "b7ad6b7169203331" || root.Kind != tracepb.Span_SPAN_KIND_SERVER {
				t.Fatalf("spans %v", c.spans)
			}
			attributes := map[string]string{}
			for _, a := range root.Attributes {
				attributes[a.Key] = a.Value.GetStringValue()
			}
			if attributes["url.path"] != "/predict" || attributes["http.request.method"] != "POST" || attributes["http.route"] != "/predict" {
				t.Errorf("attributes %v", attributes)
			}
			var before uint64
			for _, name := range []string{"decode", "queue", "inference", "explain", "log"} {
				s := names[name]
				if s == nil {
					t.Errorf("no span %q among %v", name, names)
					continue
				}
				if !bytes.Equal(s.ParentSpanId, root.SpanId) || s.StartTimeUnixNano < root.StartTimeUnixNano || s.EndTimeUnixNano > root.EndTimeUnixNano || s.EndTimeUnixNano < s.StartTimeUnixNano {
					t.Errorf("%s isn't within its parent: %v in %v", name, s, root)
				}
				if s.StartTimeUnixNano < before {
					t.Errorf("%s begins before the previous step", name)
				}
				before = s.StartTimeUnixNano
			}
		})
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}

func TestTracing_CollectorDown(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("OTEL_BSP_EXPORT_TIMEOUT", "100")
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "100")
	m := start(t, func(c *Config) { c.ShutdownTimeout = 2 * time.Second })
	for range 10 {
		response, body := do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 32, 32)))
		checkPrediction(t, m, response, body, model.Fake)
	}
}

// requestLog starts a server with a JSON log, calls f to send requests, and returns the log entries of
// requests.
func requestLog(t *testing.T, level slog.Level, f func(m *Main)) (requests []map[string]any) {
	t.Helper()
	var out bytes.Buffer
	m := NewMain(testConfig(t, writeModel(t, redDetector(t), metadata())), telemetry.NewLogger(&out, level, true))
	if err := m.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	f(m)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(out.Bytes()) {
		var fields map[string]any
		if err := json.Unmarshal(line, &fields); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if fields["message"] == "request" {
			requests = append(requests, fields)
		}
	}
	return requests
}

func TestRequestLog_Debug(t *testing.T) {
	t.Setenv("GOOGLE_CLOUD_PROJECT", "my-project")
	got := requestLog(t, slog.LevelDebug, func(m *Main) {
		for _, path := range []string{"/healthz", "/nowhere?token=secret", "/log?limit=1"} {
			request, err := http.NewRequestWithContext(t.Context(), "GET", m.URL()+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
			request.Header.Set("X-Request-Id", "r1")
			send(t, request)
		}
	})
	if len(got) != 3 {
		t.Fatalf("%d lines: %v", len(got), got)
	}
	request := got[1]["httpRequest"].(map[string]any)
	if request["requestMethod"] != "GET" || request["requestUrl"] != "/nowhere?…" || got[2]["httpRequest"].(map[string]any)["requestUrl"] != "/log?limit=1" || request["status"] != 404.0 || request["remoteIp"] != "127.0.0.1" || !strings.HasSuffix(request["latency"].(string), "s") {
		t.Errorf("httpRequest: %v", request)
	}
	if got[1]["request_id"] != "r1" || got[1][telemetry.TraceKey] != "projects/my-project/traces/0af7651916cd43dd8448eb211c80319c" || got[1]["severity"] != "DEBUG" {
		t.Errorf("line %v", got[1])
	}
}

func TestRequestLog_Info(t *testing.T) {
	got := requestLog(t, slog.LevelInfo, func(m *Main) {
		for range 200 {
			do(t, "GET", m.URL()+"/healthz", "", nil)
		}
		m.draining.Store(true)
		for range 3 {
			do(t, "GET", m.URL()+"/readyz", "", nil)
		}
		m.draining.Store(false)
	})
	severities := []string{}
	for _, line := range got {
		severities = append(severities, line["severity"].(string))
	}
	failures := slices.DeleteFunc(slices.Clone(severities), func(s string) bool { return s != "WARNING" })
	if len(failures) != 3 || len(got) < 4 || len(got) > 60 {
		t.Errorf("%d lines for 203 requests, of severities %v", len(got), severities)
	}
}

func TestMetrics_Routes(t *testing.T) {
	m := start(t)
	for _, path := range []string{"/v2/models/a", "/v2/models/b", "/x", "/y", "/healthz"} {
		do(t, "GET", m.URL()+path, "", nil)
	}
	do(t, "DELETE", m.URL()+"/predict", "", nil)
	for series, want := range map[string]float64{
		`fakeart_requests_total{code="404",method="GET",route="/v2/models/:name"}`: 2,
		`fakeart_requests_total{code="404",method="GET",route="unmatched"}`:        2,
		`fakeart_requests_total{code="405",method="DELETE",route="unmatched"}`:     1,
		`fakeart_requests_total{code="200",method="GET",route="/healthz"}`:         1,
	} {
		if got := metric(t, m, series); got != want {
			t.Errorf("%s is %g, want %g", series, got, want)
		}
	}
}

// TestServerTime sends bodies in pieces, one per hour of the server's clock. The server's time starts
// with the last one.
func TestServerTime(t *testing.T) {
	noise := image.NewNRGBA(image.Rect(0, 0, 64, 64)) // as PNG larger than the 8 KiB that fasthttp reads in advance
	for i, random := 0, rand.New(rand.NewPCG(1, 2)); i < len(noise.Pix); i++ {
		noise.Pix[i] = uint8(random.Uint32())
	}
	img := pngOf(t, noise)
	chunked := fmt.Appendf(nil, "%x\r\n%s\r\n0\r\n\r\n", len(img), img)
	tensor := make([]byte, 4*3*32*32)
	for name, test := range map[string]struct {
		path, header string
		body         []byte
		pieces       []int // ends of the pieces after the header, as indices of body
	}{
		"at_once":        {"/predict", fmt.Sprintf("Content-Length: %d", len(img)), img, []int{len(img)}},
		"halves":         {"/predict", fmt.Sprintf("Content-Length: %d", len(img)), img, []int{len(img) / 2, len(img)}},
		"small_first":    {"/predict", fmt.Sprintf("Content-Length: %d", len(img)), img, []int{10, len(img)}},
		"first_8_KiB":    {"/predict", fmt.Sprintf("Content-Length: %d", len(img)), img, []int{8 << 10, len(img)}},
		"last_byte":      {"/predict", fmt.Sprintf("Content-Length: %d", len(img)), img, []int{100, len(img) - 1, len(img)}},
		"chunked":        {"/predict", "Transfer-Encoding: chunked", chunked, []int{3, 500, len(chunked)}},
		"before_the_end": {"/predict", "Transfer-Encoding: chunked", chunked, []int{len(chunked) - 5, len(chunked)}},
		"tensor":         {"/v2/models/fakeart/infer", fmt.Sprintf("Inference-Header-Content-Length: 0\r\nContent-Length: %d", len(tensor)), tensor, []int{5000, len(tensor)}},
	} {
		t.Run(name, func(t *testing.T) {
			m := NewMain(testConfig(t, writeModel(t, redDetector(t), metadata())), slog.New(slog.DiscardHandler))
			begin := time.Now()
			var hours, asked atomic.Int64
			m.now = func() time.Time {
				asked.Add(1)
				return begin.Add(time.Duration(hours.Load()) * time.Hour)
			}
			startMain(t, m)
			conn := dial(t, m)
			if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n", test.path, test.header); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the first byte", func() bool { return asked.Load() > 0 }) // when its time is noted
			sent := 0
			for _, end := range test.pieces {
				hours.Add(1)
				if _, err := conn.Write(test.body[sent:end]); err != nil {
					t.Fatal(err)
				}
				sent = end
			}
			if response, body := receive(t, conn); response.StatusCode != 200 {
				t.Fatalf("status %d: %s", response.StatusCode, body)
			}
			route := strings.Replace(test.path, "fakeart", ":name", 1)
			labels := fmt.Sprintf(`{method="POST",route=%q}`, route)
			size := ""
			if route == "/predict" {
				size = "small"
			}
			sized := fmt.Sprintf(`{method="POST",route=%q,size=%q}`, route, size)
			waitFor(t, "the metrics", func() bool { return metric(t, m, "fakeart_request_duration_seconds_count"+sized) == 1 })
			if got := metric(t, m, "fakeart_request_duration_seconds_sum"+sized); got != 0 {
				t.Errorf("latency %g s, want 0", got)
			}
			if got, want := metric(t, m, "fakeart_request_receive_duration_seconds_sum"+labels), 3600*float64(len(test.pieces)); got != want {
				t.Errorf("received in %g s, want %g", got, want)
			}
			waitForRecords(t, m, 1)
			r := logPage(t, m, "").Records[0]
			if want := m.now().UTC().Truncate(time.Microsecond); r.LatencySeconds != 0 || !r.Time.Truncate(time.Microsecond).Equal(want) {
				t.Errorf("record of %s with latency %g, want %s and 0", r.Time, r.LatencySeconds, want)
			}
		})
	}
}

func TestMetrics_SizeClass(t *testing.T) {
	m := startExplainable(t)
	small, large := pngOf(t, solid(red, 32, 32)), pngOf(t, solid(red, 1000, 1001))
	half := pngOf(t, solid(red, 1000, 501))
	oneMegapixel := pngOf(t, solid(red, 1000, 1000))
	read := func(name string) []byte {
		data, err := os.ReadFile("../internal/imaging/testdata/heif/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	heic, avif := read("plain.heic"), read("plain.avif")
	form := func(images ...[]byte) (string, []byte) {
		var fields []field
		for _, img := range images {
			fields = append(fields, field{"data", "a.png", img})
		}
		return newForm(t, fields...)
	}
	want := map[string]float64{}
	for _, test := range []struct {
		query  string
		images [][]byte
		size   string
	}{
		{"", [][]byte{small}, "small"},
		{"", [][]byte{oneMegapixel}, "small"},
		{"", [][]byte{large}, "large"},
		{"", [][]byte{small, half}, "small"},
		{"", [][]byte{half, half}, "large"},
		{"", [][]byte{small, large}, "large"},
		{"", [][]byte{heic}, "large"},
		{"", [][]byte{avif}, "large"},
		{"", [][]byte{[]byte("no image")}, "small"},
		{"", [][]byte{large[:len(large)-20]}, "large"}, // fails only while it is being decoded
		{"?explain=occlusion", [][]byte{small}, "large"},
		{"?explain=x", [][]byte{small}, "small"},
		{"", nil, "small"},
	} {
		contentType, body := form(test.images...)
		do(t, "POST", m.URL()+"/predict"+test.query, contentType, body)
		want[test.size]++
		for _, size := range []string{"small", "large"} {
			series := fmt.Sprintf(`fakeart_request_duration_seconds_count{method="POST",route="/predict",size=%q}`, size)
			waitFor(t, series, func() bool { return metric(t, m, series) >= want[size] })
			if got := metric(t, m, series); got != want[size] {
				t.Fatalf("%q, %d images: %g %s requests, want %g", test.query, len(test.images), got, size, want[size])
			}
		}
	}
}
