package main

import (
	"bufio"
	"bytes"
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

	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/onnx"
	"fakeart/internal/onnx/onnxpb"
	"fakeart/internal/ort"
	"fakeart/internal/otelenv"
)

// programVariable makes the test binary be the server: tests of signals and exit
// codes start it as a process of its own.
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

// redDetector is a graph that takes red for a sign of forgery:
// logit = 8·mean(red) - 4.
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
	return model.Metadata{
		Name: "red detector", Classes: []string{model.Real, model.Fake}, Threshold: 0.5,
		InputSize: imaging.Size, Preprocessing: imaging.PreprocessingID,
	}
}

// writeModel writes a model file and returns its path.
func writeModel(t testing.TB, graph *onnxpb.ModelProto, md model.Metadata) string {
	t.Helper()
	data, err := model.Marshal(graph, md)
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

// testConfig is what a user gets who names the model, but for limits that tests can
// reach, and a log of its own.
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

// start starts the program and closes it when the test ends.
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

// startHeld starts the program with one worker, which has judged one picture and is
// held up before the next until it is released.
func startHeld(t *testing.T, change ...func(*Config)) (m *Main, release func()) {
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
	t.Cleanup(release) // before the program is closed
	response, answer := do(t, "POST", m.URL()+"/predict", "", pngOf(t, plain(red, 32, 32)))
	checkPrediction(t, m, response, answer, model.Fake)
	return m, release
}

// until waits for something that another goroutine brings about.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

var (
	red  = color.RGBA{R: 255, A: 255}
	blue = color.RGBA{B: 255, A: 255}
)

func plain(c color.Color, width, height int) image.Image {
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

// withPNGSize changes the size that a PNG announces, and the checksum of its header.
func withPNGSize(data []byte, width, height uint32) []byte {
	data = bytes.Clone(data)
	binary.BigEndian.PutUint32(data[16:], width)
	binary.BigEndian.PutUint32(data[20:], height)
	binary.BigEndian.PutUint32(data[29:], crc32.ChecksumIEEE(data[12:29]))
	return data
}

// field is one field of a form.
type field struct {
	name, file string
	content    []byte
}

// form is the content type and the body of a form.
func formOf(t *testing.T, fields ...field) (string, []byte) {
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

// do sends a request and returns the answer with its whole body.
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
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, answer
}

// checkProblem checks that the answer is a problem of that status which says the words.
func checkProblem(t *testing.T, response *http.Response, body []byte, status int, words ...string) {
	t.Helper()
	if response.StatusCode != status {
		t.Fatalf("status %d, want %d: %s", response.StatusCode, status, body)
	}
	if got := response.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("content type %q", got)
	}
	var p problem
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
			t.Errorf("detail %q does not say %q", p.Detail, w)
		}
	}
}

// checkPrediction checks the answer for a picture.
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
		t.Errorf("id %q is no UUIDv7: %v", p.ID, err)
	}
	if p.Label != want || p.IsAI != (want == model.Fake) || p.Model != inUse(m) {
		t.Errorf("got %+v, want %s by %s", p, want, inUse(m))
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

func TestPredictJudgesAPicture(t *testing.T) {
	m := start(t)
	asJPEG := func(w io.Writer, m image.Image) error { return jpeg.Encode(w, m, nil) }
	asGIF := func(w io.Writer, m image.Image) error { return gif.Encode(w, m, nil) }
	for _, test := range []struct {
		name    string
		picture []byte
		want    string
	}{
		{"a PNG", pngOf(t, plain(red, 32, 32)), model.Fake},
		{"a PNG of the other class", pngOf(t, plain(blue, 32, 32)), model.Real},
		{"a JPEG", encode(t, plain(red, 32, 32), asJPEG), model.Fake},
		{"a large GIF", encode(t, plain(red, 640, 480), asGIF), model.Fake},
		{"a picture of one pixel", pngOf(t, plain(blue, 1, 1)), model.Real},
	} {
		t.Run(test.name, func(t *testing.T) {
			contentType, body := formOf(t, field{"data", "picture", test.picture})
			response, answer := do(t, "POST", m.URL()+"/predict", contentType, body)
			checkPrediction(t, m, response, answer, test.want)
			// What a raw body claims to be does not matter; curl claims a form.
			for _, contentType := range []string{"", "image/png", "application/octet-stream", "application/x-www-form-urlencoded", "nonsense;;"} {
				response, answer = do(t, "POST", m.URL()+"/predict", contentType, test.picture)
				checkPrediction(t, m, response, answer, test.want)
			}
		})
	}
}

func TestPredictTakesAFormAsItComes(t *testing.T) {
	m := start(t)
	picture := pngOf(t, plain(red, 32, 32))
	for _, test := range []struct {
		name   string
		fields []field
	}{
		{"among other fields", []field{{"comment", "", []byte("hi")}, {"data", "a.png", picture}, {"more", "b.png", []byte("x")}}},
		{"without a file name", []field{{"data", "", picture}}},
		{"with a file name that misleads", []field{{"data", "../../etc/passwd", picture}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			contentType, body := formOf(t, test.fields...)
			response, answer := do(t, "POST", m.URL()+"/predict", contentType, body)
			checkPrediction(t, m, response, answer, model.Fake)
		})
	}
}

func TestPredictTakesABodyInChunks(t *testing.T) {
	m := start(t)
	// A reader of unknown length makes the client send chunks.
	body := struct{ io.Reader }{bytes.NewReader(pngOf(t, plain(red, 32, 32)))}
	request, err := http.NewRequestWithContext(t.Context(), "POST", m.URL()+"/predict", body)
	if err != nil {
		t.Fatal(err)
	}
	response, answer := send(t, request)
	checkPrediction(t, m, response, answer, model.Fake)
}

func TestPredictAnswersManyAtOnceEachItsOwn(t *testing.T) {
	m := start(t)
	pictures := map[string][]byte{model.Fake: pngOf(t, plain(red, 32, 32)), model.Real: pngOf(t, plain(blue, 32, 32))}
	var wg sync.WaitGroup
	for range 8 {
		for want, picture := range pictures {
			wg.Go(func() {
				for range 10 {
					response, answer := do(t, "POST", m.URL()+"/predict", "", picture)
					checkPrediction(t, m, response, answer, want)
				}
			})
		}
	}
	wg.Wait()
}

func TestPredictRefuses(t *testing.T) {
	m := start(t)
	good := pngOf(t, plain(red, 32, 32))
	goodType, goodForm := formOf(t, field{"data", "a.png", good})
	noneType, noneForm := formOf(t, field{"file", "a.png", good}, field{"x", "", nil})
	emptyType, emptyForm := formOf(t, field{"data", "a.png", nil})
	textType, textForm := formOf(t, field{"data", "a.png", []byte("hello")})
	brokenType, brokenForm := formOf(t, field{"data", "a.png", good[:len(good)-20]})
	lateType, lateForm := formOf(t, field{"data", "a.png", good}, field{"x", "", bytes.Repeat([]byte("x"), 100)})
	wide := pngOf(t, plain(red, 32, 32))
	// The header announces 60,000 × 60,000 pixels; its checksum is made to fit.
	wide = withPNGSize(wide, 60000, 60000)
	for _, test := range []struct {
		name, contentType string
		body              []byte
		status            int
		words             []string
	}{
		{"nothing", "", nil, 400, []string{"no image", `"data"`}},
		{"nothing, said to be a picture", "image/png", nil, 400, []string{"no image"}},
		{"a form without the field", noneType, noneForm, 400, []string{"no image", `"data"`, `"file"`}},
		{"a form whose field is empty", emptyType, emptyForm, 400, []string{"no image"}},
		{"a form without content", goodType, nil, 400, []string{"malformed form"}},
		{"a form that breaks off before the picture", goodType, goodForm[:100], 400, []string{"malformed form"}},
		{"a form that breaks off in the picture", goodType, goodForm[:bytes.Index(goodForm, []byte("IDAT"))], 400, []string{"malformed form"}},
		{"a form that breaks off after the picture", lateType, lateForm[:len(lateForm)-100], 400, []string{"malformed form"}},
		{"a form of another boundary", "multipart/form-data; boundary=other", goodForm, 400, []string{"malformed form"}},
		{"a form without a boundary", "multipart/form-data", goodForm, 400, []string{"malformed form", "boundary"}},
		{"a form with a type that cannot be read", `multipart/form-data; boundary="`, goodForm, 400, []string{"malformed form"}},
		{"several parts that are no form", strings.Replace(goodType, "form-data", "mixed", 1), goodForm, 415, []string{"multipart/mixed"}},
		{"text in a form", textType, textForm, 415, []string{"image"}},
		{"text", "image/png", []byte("hello"), 415, []string{"image"}},
		{"JSON without instances", "application/json", []byte(`{"data":"aGVsbG8="}`), 400, []string{"instances"}},
		{"JSON that is none", "application/json; charset=utf-8", []byte(`{"instances":[`), 400, []string{"instances"}},
		{"JSON with an instance that is none", "application/json", []byte(`{"instances":[{"b64":"aGVsbG8="},{}]}`), 400, []string{"instance 1", "b64"}},
		{"a TIFF", "image/tiff", []byte("II*\x00\x08\x00\x00\x00"), 415, nil},
		{"a picture that breaks off", "", good[:len(good)-20], 422, nil},
		{"a picture that breaks off, in a form", brokenType, brokenForm, 422, nil},
		{"a picture of too many pixels", "", wide, 413, nil},
		{"a body that is too large", "", make([]byte, 1<<20+1), 413, []string{"1048576 bytes"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, answer := do(t, "POST", m.URL()+"/predict", test.contentType, test.body)
			checkProblem(t, response, answer, test.status, test.words...)
			response, answer = do(t, "POST", m.URL()+"/predict", "", good)
			checkPrediction(t, m, response, answer, model.Fake)
		})
	}
}

func TestPredictDoesNotUnpackABody(t *testing.T) {
	m := start(t)
	request, err := http.NewRequestWithContext(t.Context(), "POST", m.URL()+"/predict", bytes.NewReader([]byte("\x1f\x8b")))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Encoding", "gzip")
	response, answer := send(t, request)
	checkProblem(t, response, answer, 415, "gzip")
}

// A client that is still sending when it is refused must get the answer, and not
// a reset connection: the body here is far larger than what the sockets buffer.
func TestAClientThatSendsFarTooMuchGetsTheAnswer(t *testing.T) {
	m := start(t)
	for range 3 {
		response, answer := do(t, "POST", m.URL()+"/predict", "", make([]byte, 64<<20))
		checkProblem(t, response, answer, 413, "1048576 bytes")
		request, err := http.NewRequestWithContext(t.Context(), "POST", m.URL()+"/predict", struct{ io.Reader }{bytes.NewReader(make([]byte, 64<<20))})
		if err != nil {
			t.Fatal(err)
		}
		response, answer = send(t, request)
		checkProblem(t, response, answer, 413, "1048576 bytes")
	}
}

func TestTheLimitsAreTheLargestThatPass(t *testing.T) {
	picture := pngOf(t, plain(red, 20, 10))
	m := start(t, func(c *Config) { c.MaxBody, c.MaxPixels = len(picture), 200 })
	response, answer := do(t, "POST", m.URL()+"/predict", "", picture)
	checkPrediction(t, m, response, answer, model.Fake)
	response, answer = do(t, "POST", m.URL()+"/predict", "", append(picture, 0))
	checkProblem(t, response, answer, 413)
	tall := pngOf(t, plain(red, 3, 67))
	if len(tall) > len(picture) {
		t.Fatal("the picture with too many pixels has too many bytes as well")
	}
	response, answer = do(t, "POST", m.URL()+"/predict", "", tall)
	checkProblem(t, response, answer, 413)
}

func TestOtherRequests(t *testing.T) {
	m := start(t)
	for _, test := range []struct {
		name, method, path string
		status             int
		words              []string
		allow              string
	}{
		{"an unknown path", "GET", "/nowhere", 404, []string{"/nowhere"}, ""},
		{"a file that the page does not have", "GET", "/ui/nowhere.js", 404, nil, ""},
		{"a path with markup", "GET", "/%3Cscript%3E", 404, nil, ""},
		{"the wrong method for predict", "GET", "/predict", 405, []string{"/predict", "GET"}, "POST"},
		{"another wrong method for predict", "PUT", "/predict", 405, []string{"PUT"}, "POST"},
		{"the wrong method for healthz", "POST", "/healthz", 405, nil, "GET"},
		{"a method that does not exist", "BREW", "/predict", 501, []string{"BREW"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, answer := do(t, test.method, m.URL()+test.path, "", nil)
			checkProblem(t, response, answer, test.status, test.words...)
			if !strings.Contains(response.Header.Get("Allow"), test.allow) {
				t.Errorf("Allow: %q, want %q", response.Header.Get("Allow"), test.allow)
			}
		})
	}
	t.Run("a greeting that is TLS, not HTTP", func(t *testing.T) {
		conn := dial(t, m)
		if _, err := io.WriteString(conn, "\x16\x03\x01\x02\x00\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		response, answer := receive(t, conn)
		checkProblem(t, response, answer, 400)
	})
	t.Run("headers that never end", func(t *testing.T) {
		conn := dial(t, m)
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 10000)); err != nil {
			t.Fatal(err)
		}
		response, answer := receive(t, conn)
		checkProblem(t, response, answer, 431)
	})
	for series, want := range map[string]float64{
		`fakeart_requests_total{code="404",method="GET",route="unmatched"}`:    2,
		`fakeart_requests_total{code="405",method="PUT",route="unmatched"}`:    1,
		`fakeart_requests_total{code="501",method="_OTHER",route="unmatched"}`: 1,
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
	response, answer := do(t, "GET", m.URL()+"/readyz", "", nil)
	checkProblem(t, response, answer, 503)
	if response, _ := do(t, "GET", m.URL()+"/healthz", "", nil); response.StatusCode != 200 {
		t.Errorf("healthz of a server that is stopping: status %d", response.StatusCode)
	}
}

// inUse is the digest of the model in use.
// inUse returns the digest of the model in use, or "none".
func inUse(m *Main) string {
	use := m.models.current.Load()
	if use == nil {
		return "none"
	}
	return use.file.Digest
}

func dial(t *testing.T, m *Main) net.Conn {
	t.Helper()
	return dialAddr(t, m.fronts[0].listener.Addr().String())
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
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, answer
}

// begin sends a request but for the last byte of its body, and returns once the
// server has answered that it may be sent.
func begin(t *testing.T, addr string, body []byte) net.Conn {
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
	// The blank line after it; the reader above has read no more than it had to,
	// or all of it, for the server has nothing else to say yet.
	if _, err := conn.Write(body[:len(body)-1]); err != nil {
		t.Fatal(err)
	}
	return conn
}

// finish sends the last byte and returns the answer.
func finish(t *testing.T, conn net.Conn, body []byte) (*http.Response, []byte) {
	t.Helper()
	if _, err := conn.Write(body[len(body)-1:]); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	for {
		// What is left of "100 Continue".
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
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, answer
}

// untilClosed returns when no new connection is taken at addr.
func untilClosed(t *testing.T, addr string) {
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

func TestCloseAnswersWhatHasBegun(t *testing.T) {
	m := start(t)
	addr := m.fronts[0].listener.Addr().String()
	picture := pngOf(t, plain(red, 32, 32))
	var conns []net.Conn
	for range 5 {
		conns = append(conns, begin(t, addr, picture))
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
	untilClosed(t, addr)
	for _, conn := range conns {
		select {
		case err := <-closed:
			t.Fatalf("closed before everything was answered: %v", err)
		default:
		}
		response, answer := finish(t, conn, picture)
		if response.StatusCode != 200 || !bytes.Contains(answer, []byte(digest)) {
			t.Errorf("status %d: %s", response.StatusCode, answer)
		}
		if !response.Close {
			t.Error("the answer does not tell the client to connect elsewhere")
		}
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	// The connection that had nothing to say was closed, too.
	if n, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %d, %v from an idle connection, want EOF", n, err)
	}
	if err := m.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
}

func TestCloseDoesNotWaitForeverForAClientThatDoesNotSend(t *testing.T) {
	m := start(t, func(c *Config) { c.ShutdownTimeout = 10 * time.Millisecond })
	begin(t, m.fronts[0].listener.Addr().String(), []byte("never sent"))
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// Browsers and HTTP libraries open connections in advance.
func TestCloseDoesNotWaitForAConnectionThatWasNeverUsed(t *testing.T) {
	m := start(t, func(c *Config) { c.ShutdownTimeout = 24 * time.Hour })
	conn := dial(t, m)
	// Taken after it, so that it has been taken as well.
	do(t, "GET", m.URL()+"/healthz", "", nil)
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes, want the end", n)
	}
}

func TestShutdownSaysWhenARequestStaysUnanswered(t *testing.T) {
	m, release := startHeld(t, func(c *Config) { c.ShutdownTimeout = 10 * time.Millisecond })
	conn := dial(t, m)
	picture := pngOf(t, plain(red, 32, 32))
	if _, err := fmt.Fprintf(conn, "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%s", len(picture), picture); err != nil {
		t.Fatal(err)
	}
	until(t, "the request", func() bool { return m.pending.Load() > 0 })
	if err := m.Close(); err == nil || !strings.Contains(err.Error(), "1 requests unanswered") {
		t.Errorf("error %v", err)
	}
	release()
	until(t, "the answer", func() bool { return m.pending.Load() == 0 })
}

func TestRunRefuses(t *testing.T) {
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
	otherPreprocessing, otherClasses := metadata(), metadata()
	otherPreprocessing.Preprocessing = "bgr-v0"
	otherClasses.Classes = []string{model.Fake, model.Real}
	damaged := redDetector(t)
	damaged.Graph.Node[0].OpType = &[]string{"ReduceMeen"}[0]
	for _, test := range []struct {
		name, model, addr string
		words             []string
	}{
		{"a model that is missing", filepath.Join(t.TempDir(), "absent.onnx"), "127.0.0.1:0", []string{"absent.onnx", "no such file"}},
		{"a folder without a model", t.TempDir(), "127.0.0.1:0", []string{"no model", ".onnx"}},
		{"a model that is no model", writeFile(t, "picture.onnx", pngOf(t, plain(red, 1, 1))), "127.0.0.1:0", []string{"picture.onnx", "not an ONNX model"}},
		{"half a model", writeFile(t, "half.onnx", data[:len(data)/2]), "127.0.0.1:0", []string{"half.onnx", "truncated"}},
		{"a model of another preprocessing", writeModel(t, redDetector(t), otherPreprocessing), "127.0.0.1:0", []string{"bgr-v0", imaging.PreprocessingID}},
		{"a model with its classes the other way round", writeModel(t, redDetector(t), otherClasses), "127.0.0.1:0", []string{`["FAKE" "REAL"]`}},
		{"a model that does not run", writeModel(t, damaged, metadata()), "127.0.0.1:0", []string{"ReduceMeen"}},
		{"a port that is taken", good, taken.Addr().String(), []string{taken.Addr().String(), "in use", "--addr"}},
		{"an address that is none", good, "nonsense", []string{"nonsense"}},
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
				t.Fatal("it runs")
			}
			for _, w := range test.words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error is more than one line: %q", err)
			}
		})
	}
}

func TestWaitReportsAListenerThatFails(t *testing.T) {
	m := NewMain(testConfig(t, writeModel(t, redDetector(t), metadata())), slog.New(slog.DiscardHandler))
	if err := m.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = m.fronts[0].listener.Close()
	if err := m.Wait(t.Context()); err == nil {
		t.Error("no error")
	}
	if err := m.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// program starts the server as a process of its own.
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

// listening starts the program and returns its address and what it says later on.
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
		t.Fatalf("%q does not tell the address", line)
	}
	return m[1], rest
}

func TestTheProgramAnswersWhatItHasAcceptedThenExits0(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd, stdout := program(t, nil, "--model", writeModel(t, redDetector(t), metadata()), "--addr=127.0.0.1:0", "--shutdown-timeout=1m")
			addr, rest := listening(t, cmd)
			picture := pngOf(t, plain(red, 32, 32))
			conn := begin(t, addr, picture)
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			untilClosed(t, addr)
			response, answer := finish(t, conn, picture)
			if response.StatusCode != 200 || !bytes.Contains(answer, []byte(`"label":"FAKE","isAI":true,"probability":0.98`)) {
				t.Errorf("status %d: %s", response.StatusCode, answer)
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

func TestTheProgramTakesItsFlagsFromVariables(t *testing.T) {
	cmd, _ := program(t, []string{
		"FAKEART_MODEL=" + writeModel(t, redDetector(t), metadata()), "FAKEART_ADDR=127.0.0.1:0", "FAKEART_MAX_BODY=10",
	})
	addr, _ := listening(t, cmd)
	response, answer := do(t, "POST", "http://"+addr+"/predict", "", make([]byte, 11))
	checkProblem(t, response, answer, 413, "10 bytes")
}

func TestTheProgramFailsWithOneLineAndExit1(t *testing.T) {
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
		{"a model that is missing", nil, []string{"--model=absent.onnx"}, []string{"absent.onnx", "no such file"}},
		{"a port that is taken", nil, []string{"--model", good, "--addr", taken.Addr().String()}, []string{"in use", "--addr"}},
		{"a library that is missing", []string{ort.LibraryPathVariable + "=" + missing}, []string{"--model", good}, []string{missing, "npm ci --ignore-scripts"}},
		{"a library that is missing, and no model yet", []string{ort.LibraryPathVariable + "=" + missing}, []string{"--model=absent.onnx", "--model-watch"}, []string{missing, "npm ci --ignore-scripts"}},
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
			if !strings.HasPrefix(text, "server: ") || strings.Contains(text, "\n") || stdout.Len() > 0 {
				t.Errorf("want one line, got %q and on stdout %q", text, stdout)
			}
			for _, w := range test.words {
				if !strings.Contains(text, w) {
					t.Errorf("%q does not say %q", text, w)
				}
			}
		})
	}
}

func TestTheProgramRefusesWrongFlags(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		word string
	}{
		{"no model", nil, "--model"},
		{"an unknown flag", []string{"--model=m", "--moddel=x"}, "--moddel"},
		{"no bytes at all", []string{"--model=m", "--max-body=0"}, "--max-body"},
		{"no pixels at all", []string{"--model=m", "--max-pixels=-1"}, "--max-pixels"},
		{"a time before now", []string{"--model=m", "--shutdown-timeout=-1s"}, "--shutdown-timeout"},
		{"a number that is none", []string{"--model=m", "--max-body=big"}, "--max-body"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd, _ := program(t, nil, test.args...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if _, ok := errors.AsType[*exec.ExitError](cmd.Run()); !ok {
				t.Error("exit status 0")
			}
			if !strings.Contains(stderr.String(), test.word) {
				t.Errorf("%q does not say %q", &stderr, test.word)
			}
		})
	}
	cmd, stdout := program(t, nil, "--version")
	if err := cmd.Run(); err != nil || strings.TrimSpace(stdout.String()) == "" {
		t.Errorf("--version: %q, %v", stdout, err)
	}
}
