package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"log/slog"
	"math"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"fakeart/internal/cli"
	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/onnx"
	"fakeart/internal/onnx/onnxpb"
	"fakeart/internal/ort"
	"fakeart/internal/otelenv"
	"fakeart/server/failure"
)

// programVariable makes the test binary run the server instead of the tests. Tests of signals and exit
// codes start it as a separate process.
const programVariable = "FAKEART_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(programVariable) != "" {
		main()
		os.Exit(0)
	}
	if err := otelenv.Clear(); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// redDetector returns a graph that classifies red images as FAKE: logit = 8·mean(red) - 4.
func redDetector(t testing.TB) *onnxpb.ModelProto {
	t.Helper()
	g := onnx.NewGraph("red detector")
	x := g.Input("input", onnx.Float32, onnx.Batch, imaging.Channels, imaging.Size, imaging.Size)
	mean := g.ReduceMean(x, 2, 3)
	g.Output("logit", g.Gemm(mean, g.Param("w", []float32{8, 0, 0}, 1, 3), false, true, g.Param("b", []float32{-4}, 1)))
	g.Output("embedding", mean)
	graph, err := g.Model()
	if err != nil {
		t.Fatal(err)
	}
	return graph
}

func metadata() model.Metadata {
	md := model.Trained(32, model.Real, model.Fake)
	md.Name = "red detector"
	return md
}

// marshal returns a model file. Grad-CAM is added to the metadata if the graph has it.
func marshal(graph *onnxpb.ModelProto, md model.Metadata) ([]byte, error) {
	for _, o := range graph.GetGraph().GetOutput() {
		if o.GetName() == "gradcam" {
			md.CAM, md.CAMKind = "gradcam", model.CAMOfSecond
		}
	}
	return model.Marshal(graph, md)
}

// writeModel writes a model file and returns its path.
func writeModel(t testing.TB, graph *onnxpb.ModelProto, md model.Metadata) string {
	t.Helper()
	data, err := marshal(graph, md)
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, "model.onnx", data)
}

func writeFile(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// testConfig returns the default configuration with the given model, except for lower limits and a
// prediction log in a temporary directory.
func testConfig(t testing.TB, modelPath string) Config {
	t.Helper()
	c, _, err := parse([]string{
		"--model", modelPath, "--addr=127.0.0.1:0", "--max-body=1048576", "--max-pixels=1048576", "--shutdown-timeout=1m",
		"--log-path", filepath.Join(t.TempDir(), "predictions.db"),
	}, streams{io.Discard, io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	return *c
}

// start starts a server and closes it when the test ends.
func start(t testing.TB, change ...func(*Config)) *Main {
	t.Helper()
	config := testConfig(t, writeModel(t, redDetector(t), metadata()))
	for _, f := range change {
		f(&config)
	}
	return startMain(t, NewMain(config, slog.New(slog.DiscardHandler)))
}

func startMain(t testing.TB, m *Main) *Main {
	t.Helper()
	if err := m.Run(t.Context()); err != nil {
		_ = m.Close()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// startBlocked starts a server with one worker, which has classified one image and blocks before the
// next one until release is called.
func startBlocked(t *testing.T, change ...func(*Config)) (m *Main, release func()) {
	t.Helper()
	config := testConfig(t, writeModel(t, redDetector(t), metadata()))
	config.Workers, config.MaxBatch = 1, 1
	for _, f := range change {
		f(&config)
	}
	m = NewMain(config, slog.New(slog.DiscardHandler))
	gate := make(chan struct{})
	release = sync.OnceFunc(func() { close(gate) })
	m.afterBatch = func(int, time.Duration) { <-gate }
	startMain(t, m)
	t.Cleanup(release) // before the server is closed
	response, respBody := do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 32, 32)))
	checkPrediction(t, m, response, respBody, model.Fake)
	return m, release
}

// waitFor waits until the condition holds, or fails the test after three minutes.
func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}

var (
	red  = color.RGBA{R: 255, A: 255}
	blue = color.RGBA{B: 255, A: 255}
)

func solid(c color.Color, width, height int) image.Image {
	return image.NewPaletted(image.Rect(0, 0, width, height), color.Palette{c})
}

func pngOf(t *testing.T, m image.Image) []byte {
	t.Helper()
	return encode(t, m, png.Encode)
}

func encode(t *testing.T, m image.Image, to func(io.Writer, image.Image) error) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := to(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// withPNGSize changes the size in a PNG's header, and the header's checksum.
func withPNGSize(data []byte, width, height uint32) []byte {
	data = bytes.Clone(data)
	binary.BigEndian.PutUint32(data[16:], width)
	binary.BigEndian.PutUint32(data[20:], height)
	binary.BigEndian.PutUint32(data[29:], crc32.ChecksumIEEE(data[12:29]))
	return data
}

// field is a field of a form.
type field struct {
	name, file string
	content    []byte
}

// newForm returns the content type and the body of a form.
func newForm(t *testing.T, fields ...field) (string, []byte) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, f := range fields {
		create := func() (io.Writer, error) { return w.CreateFormFile(f.name, f.file) }
		if f.file == "" {
			create = func() (io.Writer, error) { return w.CreateFormField(f.name) }
		}
		part, err := create()
		if err == nil {
			_, err = part.Write(f.content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return w.FormDataContentType(), b.Bytes()
}

// do sends a request and returns the response with its whole body.
func do(t *testing.T, method, url, contentType string, body []byte) (*http.Response, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	return send(t, request)
}

func send(t *testing.T, request *http.Request) (*http.Response, []byte) {
	t.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	respBody, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, respBody
}

// checkProblem checks that the response is a problem document with the status, whose detail contains
// the words.
func checkProblem(t *testing.T, response *http.Response, body []byte, status int, words ...string) {
	t.Helper()
	if response.StatusCode != status {
		t.Fatalf("status %d, want %d: %s", response.StatusCode, status, body)
	}
	if got := response.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("content type %q", got)
	}
	var p failure.Problem
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if p.Type != "about:blank" || p.Status != status || p.Title != http.StatusText(status) {
		t.Errorf("problem %+v, want about:blank, %d, %s", p, status, http.StatusText(status))
	}
	for _, w := range words {
		if !strings.Contains(p.Detail, w) {
			t.Errorf("detail %q doesn't contain %q", p.Detail, w)
		}
	}
}

// checkPrediction checks that the response is a prediction of the class want.
func checkPrediction(t *testing.T, m *Main, response *http.Response, body []byte, want string) {
	t.Helper()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %s", response.StatusCode, body)
	}
	if got := response.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("content type %q", got)
	}
	var p Prediction
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if id, err := uuid.Parse(p.ID); err != nil || id.Version() != 7 {
		t.Errorf("id %q, want a UUIDv7: %v", p.ID, err)
	}
	if p.Label != want || p.IsAI == nil || *p.IsAI != (want == model.Fake) || p.Model != inUse(m) {
		t.Errorf("got %+v, want %s by %s", p, want, inUse(m))
	}
	if all := p.Probabilities; len(all) != 2 || all[0].Label != want || all[0].Probability < 0.5 || all[0].Probability+all[1].Probability != 1 || p.ModelName != "fakeart" {
		t.Errorf("probabilities %v of %s", all, p.ModelName)
	}
	// The mean of red is 1 or 0.
	probability := model.Probability(4)
	if want == model.Real {
		probability = model.Probability(-4)
	}
	if math.Abs(p.Probability-probability) > 0.01 {
		t.Errorf("probability %g, want about %g", p.Probability, probability)
	}
}

func TestPredict_Formats(t *testing.T) {
	m := start(t)
	asJPEG := func(w io.Writer, m image.Image) error { return jpeg.Encode(w, m, nil) }
	asGIF := func(w io.Writer, m image.Image) error { return gif.Encode(w, m, nil) }
	for _, test := range []struct {
		name string
		img  []byte
		want string
	}{
		{"PNG", pngOf(t, solid(red, 32, 32)), model.Fake},
		{"PNG_real", pngOf(t, solid(blue, 32, 32)), model.Real},
		{"JPEG", encode(t, solid(red, 32, 32), asJPEG), model.Fake},
		{"large_GIF", encode(t, solid(red, 640, 480), asGIF), model.Fake},
		{"one_pixel", pngOf(t, solid(blue, 1, 1)), model.Real},
	} {
		t.Run(test.name, func(t *testing.T) {
			contentType, body := newForm(t, field{"data", "image", test.img})
			response, respBody := do(t, "POST", m.URL()+"/predict", contentType, body)
			checkPrediction(t, m, response, respBody, test.want)
			// The content type of a raw body doesn't matter; curl sends that of a form.
			for _, contentType := range []string{"", "image/png", "application/octet-stream", "application/x-www-form-urlencoded", "nonsense;;"} {
				response, respBody = do(t, "POST", m.URL()+"/predict", contentType, test.img)
				checkPrediction(t, m, response, respBody, test.want)
			}
		})
	}
}

func TestPredict_Form(t *testing.T) {
	m := start(t)
	img := pngOf(t, solid(red, 32, 32))
	for _, test := range []struct {
		name   string
		fields []field
	}{
		{"other_fields", []field{{"comment", "", []byte("hi")}, {"data", "a.png", img}, {"more", "b.png", []byte("x")}}},
		{"no_file_name", []field{{"data", "", img}}},
		{"path_in_file_name", []field{{"data", "../../etc/passwd", img}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			contentType, body := newForm(t, test.fields...)
			response, respBody := do(t, "POST", m.URL()+"/predict", contentType, body)
			checkPrediction(t, m, response, respBody, model.Fake)
		})
	}
}

func TestPredict_ChunkedBody(t *testing.T) {
	m := start(t)
	// A reader of unknown length makes the client send chunks.
	body := struct{ io.Reader }{bytes.NewReader(pngOf(t, solid(red, 32, 32)))}
	request, err := http.NewRequestWithContext(t.Context(), "POST", m.URL()+"/predict", body)
	if err != nil {
		t.Fatal(err)
	}
	response, respBody := send(t, request)
	checkPrediction(t, m, response, respBody, model.Fake)
}

func TestPredict_Concurrent(t *testing.T) {
	m := start(t)
	images := map[string][]byte{model.Fake: pngOf(t, solid(red, 32, 32)), model.Real: pngOf(t, solid(blue, 32, 32))}
	var wg sync.WaitGroup
	for range 8 {
		for want, img := range images {
			wg.Go(func() {
				for range 10 {
					response, respBody := do(t, "POST", m.URL()+"/predict", "", img)
					checkPrediction(t, m, response, respBody, want)
				}
			})
		}
	}
	wg.Wait()
}

func TestPredict_InvalidRequests(t *testing.T) {
	m := start(t)
	good := pngOf(t, solid(red, 32, 32))
	goodType, goodForm := newForm(t, field{"data", "a.png", good})
	noneType, noneForm := newForm(t, field{"file", "a.png", good}, field{"x", "", nil})
	emptyType, emptyForm := newForm(t, field{"data", "a.png", nil})
	textType, textForm := newForm(t, field{"data", "a.png", []byte("hello")})
	brokenType, brokenForm := newForm(t, field{"data", "a.png", good[:len(good)-20]})
	lateType, lateForm := newForm(t, field{"data", "a.png", good}, field{"x", "", bytes.Repeat([]byte("x"), 100)})
	wide := pngOf(t, solid(red, 32, 32))
	// The header specifies 60,000 × 60,000 pixels, with a valid checksum.
	wide = withPNGSize(wide, 60000, 60000)
	for _, test := range []struct {
		name, contentType string
		body              []byte
		status            int
		words             []string
	}{
		{"empty_body", "", nil, 400, []string{"no image", `"data"`}},
		{"empty_body_image_type", "image/png", nil, 400, []string{"no image"}},
		{"form_without_field", noneType, noneForm, 400, []string{"no image", `"data"`, `"file"`}},
		{"form_with_empty_field", emptyType, emptyForm, 400, []string{"no image"}},
		{"empty_form", goodType, nil, 400, []string{"malformed form"}},
		{"form_truncated_before_image", goodType, goodForm[:100], 400, []string{"malformed form"}},
		{"form_truncated_in_image", goodType, goodForm[:bytes.Index(goodForm, []byte("IDAT"))], 400, []string{"malformed form"}},
		{"form_truncated_after_image", lateType, lateForm[:len(lateForm)-100], 400, []string{"malformed form"}},
		{"form_with_wrong_boundary", "multipart/form-data; boundary=other", goodForm, 400, []string{"malformed form"}},
		{"form_without_boundary", "multipart/form-data", goodForm, 400, []string{"malformed form", "boundary"}},
		{"form_with_invalid_type", `multipart/form-data; boundary="`, goodForm, 400, []string{"malformed form"}},
		{"multipart_mixed", strings.Replace(goodType, "form-data", "mixed", 1), goodForm, 415, []string{"multipart/form-data"}},
		{"text_in_form", textType, textForm, 415, []string{"image"}},
		{"text", "image/png", []byte("hello"), 415, []string{"image"}},
		{"JSON_without_instances", "application/json", []byte(`{"data":"aGVsbG8="}`), 400, []string{"instances"}},
		{"truncated_JSON", "application/json; charset=utf-8", []byte(`{"instances":[`), 400, []string{"instances"}},
		{"instance_without_b64", "application/json", []byte(`{"instances":[{"b64":"aGVsbG8="},{}]}`), 400, []string{"instance 1", "b64"}},
		{"JPEG_XL", "image/jxl", []byte("\xff\x0a\x00\x00\x00\x00\x00\x00"), 415, []string{"JPEG XL"}},
		{"truncated_image", "", good[:len(good)-20], 422, nil},
		{"truncated_image_in_form", brokenType, brokenForm, 422, nil},
		{"too_many_pixels", "", wide, 413, nil},
		{"large_body", "", make([]byte, 1<<20+1), 413, []string{"1048576 bytes"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, respBody := do(t, "POST", m.URL()+"/predict", test.contentType, test.body)
			checkProblem(t, response, respBody, test.status, test.words...)
			response, respBody = do(t, "POST", m.URL()+"/predict", "", good)
			checkPrediction(t, m, response, respBody, model.Fake)
		})
	}
}

// A client that is still sending when its request is rejected must get the response instead of a reset
// connection. The body is far larger than the buffers of the sockets.
func TestPredict_HugeBodyGetsResponse(t *testing.T) {
	m := start(t)
	for range 3 {
		response, respBody := do(t, "POST", m.URL()+"/predict", "", make([]byte, 64<<20))
		checkProblem(t, response, respBody, 413, "1048576 bytes")
		request, err := http.NewRequestWithContext(t.Context(), "POST", m.URL()+"/predict", struct{ io.Reader }{bytes.NewReader(make([]byte, 64<<20))})
		if err != nil {
			t.Fatal(err)
		}
		response, respBody = send(t, request)
		checkProblem(t, response, respBody, 413, "1048576 bytes")
	}
}

func TestPredict_LimitsInclusive(t *testing.T) {
	img := pngOf(t, solid(red, 20, 10))
	m := start(t, func(c *Config) { c.MaxBody, c.MaxPixels = byteSize(len(img)), 200 })
	response, respBody := do(t, "POST", m.URL()+"/predict", "", img)
	checkPrediction(t, m, response, respBody, model.Fake)
	response, respBody = do(t, "POST", m.URL()+"/predict", "", append(img, 0))
	checkProblem(t, response, respBody, 413)
	tall := pngOf(t, solid(red, 3, 67))
	if len(tall) > len(img) {
		t.Fatal("the image with too many pixels is also too large in bytes")
	}
	response, respBody = do(t, "POST", m.URL()+"/predict", "", tall)
	checkProblem(t, response, respBody, 413)
}

func TestUnmatchedRequests(t *testing.T) {
	m := start(t)
	for _, test := range []struct {
		name, method, path string
		status             int
		words              []string
		allow              string
	}{
		{"unknown_path", "GET", "/nowhere", 404, []string{"/nowhere"}, ""},
		{"unknown_page_file", "GET", "/ui/nowhere.js", 404, nil, ""},
		{"markup_in_path", "GET", "/%3Cscript%3E", 404, nil, ""},
		{"GET_predict", "GET", "/predict", 405, []string{"/predict", "GET"}, "POST"},
		{"PUT_predict", "PUT", "/predict", 405, []string{"PUT"}, "POST"},
		{"POST_healthz", "POST", "/healthz", 405, nil, "GET"},
		{"unknown_method", "BREW", "/predict", 405, []string{"/predict", "BREW"}, "POST"},
		{"unknown_method_with_parameter", "QUERY", "/v2/models/fakeart/infer", 405, nil, "POST"},
		{"unknown_method_and_path", "QUERY", "/nowhere", 404, nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, respBody := do(t, test.method, m.URL()+test.path, "", nil)
			if !strings.HasPrefix(test.path, "/v2/") {
				checkProblem(t, response, respBody, test.status, test.words...)
			} else if response.StatusCode != test.status {
				t.Errorf("status %d, want %d", response.StatusCode, test.status)
			}
			if response.Header.Get("X-Request-Id") == "" {
				t.Error("no X-Request-Id")
			}
			if !strings.Contains(response.Header.Get("Allow"), test.allow) {
				t.Errorf("Allow: %q, want %q", response.Header.Get("Allow"), test.allow)
			}
		})
	}
	t.Run("TLS_handshake", func(t *testing.T) {
		conn := dial(t, m)
		if _, err := io.WriteString(conn, "\x16\x03\x01\x02\x00\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		response, respBody := receive(t, conn)
		checkProblem(t, response, respBody, 400)
	})
	t.Run("endless_header", func(t *testing.T) {
		conn := dial(t, m)
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 10000)); err != nil {
			t.Fatal(err)
		}
		response, respBody := receive(t, conn)
		checkProblem(t, response, respBody, 431)
	})
	for series, want := range map[string]float64{
		`fakeart_requests_total{code="404",method="GET",route="unmatched"}`:    2,
		`fakeart_requests_total{code="405",method="PUT",route="unmatched"}`:    1,
		`fakeart_requests_total{code="405",method="_OTHER",route="unmatched"}`: 2,
		`fakeart_requests_total{code="404",method="_OTHER",route="unmatched"}`: 1,
		`fakeart_requests_total{code="400",method="_OTHER",route="unmatched"}`: 1,
		`fakeart_requests_total{code="431",method="_OTHER",route="unmatched"}`: 1,
	} {
		if got := metric(t, m, series); got != want {
			t.Errorf("%s is %g, want %g", series, got, want)
		}
	}
}

func TestHealthAndReadiness(t *testing.T) {
	m := start(t)
	for _, method := range []string{"GET", "HEAD"} {
		for _, path := range []string{"/healthz", "/readyz"} {
			if response, _ := do(t, method, m.URL()+path, "", nil); response.StatusCode != 200 {
				t.Errorf("%s %s: status %d", method, path, response.StatusCode)
			}
		}
	}
	m.draining.Store(true)
	response, respBody := do(t, "GET", m.URL()+"/readyz", "", nil)
	checkProblem(t, response, respBody, 503)
	if response, _ := do(t, "GET", m.URL()+"/healthz", "", nil); response.StatusCode != 200 {
		t.Errorf("healthz during shutdown: status %d", response.StatusCode)
	}
}

// inUse returns the digest of the model in use, or "none".
func inUse(m *Main) string {
	use := m.models.Default().Current()
	if use == nil {
		return "none"
	}
	return use.File.Digest
}

func dial(t *testing.T, m *Main) net.Conn {
	t.Helper()
	return dialAddr(t, m.endpoints[0].listener.Addr().String())
}

func dialAddr(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func receive(t *testing.T, conn net.Conn) (*http.Response, []byte) {
	t.Helper()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	respBody, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, respBody
}

// beginRequest sends a request except for the last byte of its body. It sends the body after the
// server has responded with 100 Continue.
func beginRequest(t *testing.T, addr string, body []byte) net.Conn {
	t.Helper()
	conn := dialAddr(t, addr)
	_, err := fmt.Fprintf(conn, "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", len(body))
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
	if err != nil || !strings.Contains(line, "100") {
		t.Fatalf("%q, %v, want 100 Continue", line, err)
	}
	// The blank line that follows may still be unread. The server sends nothing else before the body
	// is complete.
	if _, err := conn.Write(body[:len(body)-1]); err != nil {
		t.Fatal(err)
	}
	return conn
}

// finishRequest sends the last byte and returns the response.
func finishRequest(t *testing.T, conn net.Conn, body []byte) (*http.Response, []byte) {
	t.Helper()
	if _, err := conn.Write(body[len(body)-1:]); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	for {
		// Skip the rest of "100 Continue".
		b, err := reader.Peek(1)
		if err != nil {
			t.Fatal(err)
		}
		if b[0] == 'H' {
			break
		}
		_, _ = reader.Discard(1)
	}
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	respBody, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, respBody
}

// waitUntilClosed waits until addr accepts no more connections.
func waitUntilClosed(t *testing.T, addr string) {
	t.Helper()
	for {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			return
		}
		_ = conn.Close()
		time.Sleep(5 * time.Millisecond)
	}
}

func TestClose_FinishesRequests(t *testing.T) {
	m := start(t)
	addr := m.endpoints[0].listener.Addr().String()
	img := pngOf(t, solid(red, 32, 32))
	var conns []net.Conn
	for range 5 {
		conns = append(conns, beginRequest(t, addr, img))
	}
	idle := dial(t, m)
	if _, err := io.WriteString(idle, "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if response, _ := receive(t, idle); response.StatusCode != 200 {
		t.Fatalf("status %d", response.StatusCode)
	}
	digest := inUse(m)
	closed := make(chan error, 1)
	go func() { closed <- m.Close() }()
	waitUntilClosed(t, addr)
	for _, conn := range conns {
		select {
		case err := <-closed:
			t.Fatalf("Close returned before all requests were finished: %v", err)
		default:
		}
		response, respBody := finishRequest(t, conn, img)
		if response.StatusCode != 200 || !bytes.Contains(respBody, []byte(digest)) {
			t.Errorf("status %d: %s", response.StatusCode, respBody)
		}
		if !response.Close {
			t.Error("the response lacks Connection: close")
		}
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	// The idle connection was closed.
	if n, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %d, %v from an idle connection, want EOF", n, err)
	}
	if err := m.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestClose_StalledClient(t *testing.T) {
	m := start(t, func(c *Config) { c.ShutdownTimeout = 10 * time.Millisecond })
	beginRequest(t, m.endpoints[0].listener.Addr().String(), []byte("never sent"))
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// Browsers and HTTP libraries open connections in advance, and may never use them.
func TestClose_UnusedConnection(t *testing.T) {
	m := start(t, func(c *Config) { c.ShutdownTimeout = 24 * time.Hour })
	conn := dial(t, m)
	// This connection is accepted after the unused one, which must have been accepted by then.
	do(t, "GET", m.URL()+"/healthz", "", nil)
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes, want the end", n)
	}
}

func TestClose_RequestUnfinished(t *testing.T) {
	m, release := startBlocked(t, func(c *Config) { c.ShutdownTimeout = 10 * time.Millisecond })
	conn := dial(t, m)
	img := pngOf(t, solid(red, 32, 32))
	if _, err := fmt.Fprintf(conn, "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%s", len(img), img); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the request", func() bool { return m.requests.InProgress() > 0 })
	if err := m.Close(); err == nil || !strings.Contains(err.Error(), "1 requests without a response") {
		t.Errorf("error %v", err)
	}
	release()
	waitFor(t, "the response", func() bool { return m.requests.InProgress() == 0 })
}

func TestRun_Invalid(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	good := writeModel(t, redDetector(t), metadata())
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	damaged := redDetector(t)
	damaged.Graph.Node[0].OpType = &[]string{"ReduceMeen"}[0]
	for _, test := range []struct {
		name, model, addr string
		words             []string
	}{
		{"missing_model", filepath.Join(t.TempDir(), "absent.onnx"), "127.0.0.1:0", []string{"absent.onnx", "no such file"}},
		{"empty_folder", t.TempDir(), "127.0.0.1:0", []string{"no model", ".onnx"}},
		{"PNG_as_model", writeFile(t, "picture.onnx", pngOf(t, solid(red, 1, 1))), "127.0.0.1:0", []string{"picture.onnx", "not an ONNX model"}},
		{"truncated_model", writeFile(t, "half.onnx", data[:len(data)/2]), "127.0.0.1:0", []string{"half.onnx", "truncated"}},
		{"unknown_operator", writeModel(t, damaged, metadata()), "127.0.0.1:0", []string{"ReduceMeen"}},
		{"address_in_use", good, taken.Addr().String(), []string{taken.Addr().String(), "in use", "--addr"}},
		{"invalid_address", good, "nonsense", []string{"nonsense", "HOST:PORT"}},
		{"unknown_host", good, "fakeart.invalid:0", []string{`unknown host "fakeart.invalid"`, "HOST:PORT"}},
		{"address_of_another_machine", good, "192.0.2.1:0", []string{"192.0.2.1:0", "isn't one of this machine"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := testConfig(t, test.model)
			config.Addr = test.addr
			m := NewMain(config, slog.New(slog.DiscardHandler))
			err := m.Run(t.Context())
			if err := m.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if err == nil {
				t.Fatal("Run succeeded, want an error")
			}
			for _, w := range test.words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q doesn't contain %q", err, w)
				}
			}
			if text, hint, _ := strings.Cut(err.Error(), "\n"); strings.Contains(hint, "\n") || hint != "" && !strings.HasPrefix(hint, cli.HintPrefix) {
				t.Errorf("error %q, want one line and at most one hint: %q", text, hint)
			}
		})
	}
}

// A failed start releases what it opened, in particular the first of two ports, and doesn't wait
// for what never ran.
func TestRun_SecondPortFails(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for name, addr := range map[string]string{
		"in_use": taken.Addr().String(), "without_port": "127.0.0.1", "unknown_host": "fakeart.invalid:0", "invalid_port": "127.0.0.1:99999",
	} {
		t.Run(name, func(t *testing.T) {
			free, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			config := testConfig(t, writeModel(t, redDetector(t), metadata()))
			config.Addr, config.AdminAddr, config.ShutdownTimeout = free.Addr().String(), addr, time.Hour
			_ = free.Close()
			m := NewMain(config, slog.New(slog.NewTextHandler(&out, nil)))
			if err := m.Run(t.Context()); err == nil || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "--admin-addr") {
				t.Errorf("error %v", err)
			}
			if err := m.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if out.Len() > 0 {
				t.Errorf("logged %s", &out)
			}
			config.AdminAddr = ""
			again := NewMain(config, slog.New(slog.DiscardHandler)) // with the same port and prediction log
			if err := errors.Join(again.Run(t.Context()), again.Close()); err != nil {
				t.Errorf("second start: %v", err)
			}
		})
	}
}

func TestRun_Interrupted(t *testing.T) {
	store, err := net.Listen("tcp", "127.0.0.1:0") // accepts connections, but doesn't answer
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	t.Setenv("STORAGE_EMULATOR_HOST", store.Addr().String())
	ctx, interrupt := context.WithCancel(t.Context())
	go func() {
		conn, err := store.Accept() // the server is reading the model
		if err == nil {
			defer func() { _ = conn.Close() }()
		}
		interrupt()
		<-t.Context().Done()
	}()
	m := NewMain(testConfig(t, "gs://bucket/model.onnx"), slog.New(slog.DiscardHandler))
	if err := m.Run(ctx); !errors.Is(err, context.Canceled) && (err == nil || !strings.Contains(err.Error(), "canceled")) {
		t.Errorf("error %v", err)
	}
	if err := m.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestWait_ListenerFails(t *testing.T) {
	m := NewMain(testConfig(t, writeModel(t, redDetector(t), metadata())), slog.New(slog.DiscardHandler))
	if err := m.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = m.endpoints[0].listener.Close()
	if err := m.Wait(t.Context()); err == nil {
		t.Error("no error")
	}
	if err := m.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// program returns a command that runs the server as a separate process.
func program(t *testing.T, variables []string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(append(os.Environ(), programVariable+"=1", "FAKEART_LOG_PATH="+filepath.Join(t.TempDir(), "predictions.db")), variables...)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	return cmd, &stdout
}

// listening starts the command, and returns the server's address and the rest of its log.
func listening(t *testing.T, cmd *exec.Cmd) (addr string, rest *bufio.Reader) {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	rest = bufio.NewReader(stderr)
	line, err := rest.ReadString('\n')
	if err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	m := regexp.MustCompile(`listening on http://([^ "]+)`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("%q doesn't contain the address", line)
	}
	return m[1], rest
}

func TestProgram_Signals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd, stdout := program(t, nil, "--model", writeModel(t, redDetector(t), metadata()), "--addr=127.0.0.1:0", "--shutdown-timeout=1m")
			addr, rest := listening(t, cmd)
			img := pngOf(t, solid(red, 32, 32))
			conn := beginRequest(t, addr, img)
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			waitUntilClosed(t, addr)
			response, respBody := finishRequest(t, conn, img)
			if response.StatusCode != 200 || !bytes.Contains(respBody, []byte(`"label":"FAKE","isAI":true,"probability":0.98`)) {
				t.Errorf("status %d: %s", response.StatusCode, respBody)
			}
			log, _ := io.ReadAll(rest)
			if err := cmd.Wait(); err != nil {
				t.Errorf("%v: %s", err, log)
			}
			if stdout.Len() > 0 {
				t.Errorf("stdout: %s", stdout)
			}
		})
	}
}

// The baseline of `server benchmark` responds to the same requests as the server, without a model.
func TestProgram_Constant(t *testing.T) {
	cmd, _ := program(t, nil, "constant", "--addr=127.0.0.1:0")
	addr, rest := listening(t, cmd)
	for range 2 {
		response, body := do(t, "POST", "http://"+addr+"/predict", "", pngOf(t, solid(red, 32, 32)))
		if response.StatusCode != 200 || !json.Valid(body) {
			t.Errorf("status %d: %s", response.StatusCode, body)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	log, _ := io.ReadAll(rest)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, log)
	}
}

func TestProgram_EnvironmentVariables(t *testing.T) {
	cmd, _ := program(t, []string{
		"FAKEART_MODEL=" + writeModel(t, redDetector(t), metadata()), "FAKEART_ADDR=127.0.0.1:0", "FAKEART_MAX_BODY=10",
	})
	addr, _ := listening(t, cmd)
	response, respBody := do(t, "POST", "http://"+addr+"/predict", "", make([]byte, 11))
	checkProblem(t, response, respBody, 413, "10 bytes")
}

func TestProgram_StartFails(t *testing.T) {
	good := writeModel(t, redDetector(t), metadata())
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	missing := filepath.Join(t.TempDir(), "missing.so")
	for _, test := range []struct {
		name      string
		variables []string
		args      []string
		words     []string
	}{
		{"missing_model", nil, []string{"--model=absent.onnx"}, []string{"absent.onnx", "no such file"}},
		{"address_in_use", nil, []string{"--model", good, "--addr", taken.Addr().String()}, []string{"in use", "--addr"}},
		{"admin_address_in_use", nil, []string{"--model", good, "--addr=127.0.0.1:0", "--admin-addr", taken.Addr().String()}, []string{"in use", "--admin-addr"}},
		{"grpc_address_in_use", nil, []string{"--model", good, "--addr=127.0.0.1:0", "--grpc-addr", taken.Addr().String()}, []string{"in use", "--grpc-addr"}},
		{"unknown_host", nil, []string{"--model", good, "--addr=127.0.0.1:0", "--admin-addr=fakeart.invalid:9090"}, []string{"fakeart.invalid", "--admin-addr"}},
		{"missing_library", []string{ort.LibraryPathVariable + "=" + missing}, []string{"--model", good}, []string{missing, "npm ci --ignore-scripts"}},
		{"missing_library_without_model", []string{ort.LibraryPathVariable + "=" + missing}, []string{"--model=absent.onnx", "--model-watch"}, []string{missing, "npm ci --ignore-scripts"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd, stdout := program(t, test.variables, test.args...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			err := cmd.Run()
			exit, ok := errors.AsType[*exec.ExitError](err)
			if !ok || exit.ExitCode() != 1 {
				t.Errorf("%v, want exit status 1", err)
			}
			text := strings.TrimSuffix(stderr.String(), "\n")
			if message, hint, _ := strings.Cut(text, "\n"); !strings.HasPrefix(message, "error: ") || strings.Contains(hint, "\n") || hint != "" && !strings.HasPrefix(hint, cli.HintPrefix) || stdout.Len() > 0 {
				t.Errorf("stderr %q, stdout %q, want an error on stderr with at most one hint", text, stdout)
			}
			for _, w := range test.words {
				if !strings.Contains(text, w) {
					t.Errorf("%q doesn't contain %q", text, w)
				}
			}
		})
	}
}

func TestProgram_InvalidFlags(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		word string
	}{
		{"no_model", nil, "--model"},
		{"unknown_flag", []string{"--model=m", "--moddel=x"}, "--moddel"},
		{"zero_max_body", []string{"--model=m", "--max-body=0"}, "--max-body"},
		{"negative_max_pixels", []string{"--model=m", "--max-pixels=-1"}, "--max-pixels"},
		{"negative_shutdown_timeout", []string{"--model=m", "--shutdown-timeout=-1s"}, "--shutdown-timeout"},
		{"invalid_size", []string{"--model=m", "--max-body=big"}, "--max-body"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd, _ := program(t, nil, test.args...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if _, ok := errors.AsType[*exec.ExitError](cmd.Run()); !ok {
				t.Error("exit status 0")
			}
			if !strings.Contains(stderr.String(), test.word) {
				t.Errorf("%q doesn't contain %q", &stderr, test.word)
			}
		})
	}
	cmd, stdout := program(t, nil, "--version")
	if err := cmd.Run(); err != nil || strings.TrimSpace(stdout.String()) == "" {
		t.Errorf("--version: %q, %v", stdout, err)
	}
}
