package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/onnx"
)

// serverVariable makes the test binary act as a server with the fault in its value.
const serverVariable = "FAKEART_TEST_SERVER"

func TestMain(m *testing.M) {
	if fault := os.Getenv(serverVariable); fault != "" {
		if err := serve(fault); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	setTracing()
	os.Exit(m.Run())
}

// setTracing sets the variables that a CI system sets to trace its own steps. The programs started
// here may not inherit them.
func setTracing() {
	os.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/v1/traces")
	os.Setenv("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
}

// serve is a fake of bin/server. It runs until SIGTERM.
func serve(fault string) error {
	if fault == "fails to start" {
		return fmt.Errorf("the model is missing")
	}
	if os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")+os.Getenv("TRACEPARENT") != "" {
		return errors.New("unexpected OpenTelemetry variables in the environment")
	}
	handler, err := newFakeServer(fault)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server := httptest.NewServer(handler)
	fmt.Fprintf(os.Stderr, "listening on %s\n", server.URL)
	<-ctx.Done()
	server.CloseClientConnections()
	return nil
}

// fakeServer responds like the server, except for its fault. Its model knows the labels of the images.
// With faults that start with "many classes", it has other classes and a name.
type fakeServer struct {
	fault  string
	data   string
	labels map[[sha256.Size]byte]string
	other  atomic.Bool  // the second model is in use
	served atomic.Int64 // number of predictions
}

func newFakeServer(fault string) (*fakeServer, error) {
	s := &fakeServer{fault: fault, labels: map[[sha256.Size]byte]string{}}
	text, err := os.ReadFile("pictures/index.json")
	if err != nil {
		return nil, err
	}
	var index struct {
		Data     string
		Pictures []struct{ File, Label string }
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return nil, err
	}
	s.data = index.Data
	for _, p := range index.Pictures {
		data, err := os.ReadFile(filepath.Join("pictures", p.File))
		if err != nil {
			return nil, err
		}
		s.labels[sha256.Sum256(data)] = p.Label
	}
	return s, nil
}

func (s *fakeServer) digest() string {
	if s.other.Load() {
		return "sha256:2"
	}
	return "sha256:1"
}

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	respond := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	if name := r.URL.Query().Get("model"); s.many() != (name == manyName) || name != "" && name != manyName {
		w.WriteHeader(http.StatusNotFound)
		respond(map[string]any{"detail": "unknown model " + name})
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /models/current":
		if s.many() {
			respond(map[string]any{"model": s.digest(), "classes": []string{"cat", "dog", "owl"}, "data_digest": "sha256:3"})
			return
		}
		current := map[string]any{"model": s.digest(), "classes": []string{"REAL", "FAKE"}, "threshold": 0.5, "data_digest": s.data}
		if s.fault == "named model" {
			current["model_name"] = "cifake"
		}
		respond(current)
	case "GET /v2/models/cifake": // only described: other requests of the protocol fail
		tensors := []map[string]any{{"name": "input", "datatype": "FP32", "shape": []int{-1, 1}}}
		respond(map[string]any{"inputs": tensors, "outputs": tensors})
	case "GET /models":
		respond(map[string]any{"models": []map[string]any{{"ref": "1", "current": !s.other.Load()}, {"ref": "2", "current": s.other.Load()}}})
	case "PUT /models/current":
		var change struct{ Model string }
		switch {
		case r.Header.Get("Authorization") != "Bearer "+os.Getenv("FAKEART_ADMIN_TOKEN"):
			w.WriteHeader(http.StatusUnauthorized)
		case json.NewDecoder(r.Body).Decode(&change) != nil:
			w.WriteHeader(http.StatusBadRequest)
		default:
			s.other.Store(change.Model == "2")
			respond(map[string]any{"model": s.digest(), "classes": []string{"REAL", "FAKE"}, "threshold": 0.5, "data_digest": s.data})
		}
	case "GET /v2/health/ready":
		respond(map[string]any{"ready": s.fault != "not ready"})
	case "POST /predict":
		s.predict(w, r)
	default:
		http.NotFound(w, r)
	}
}

// manyName is the name of the model with many classes.
const manyName = "pets & more"

func (s *fakeServer) many() bool { return strings.HasPrefix(s.fault, "many classes") }

// predictMany returns a prediction of the model with many classes.
func (s *fakeServer) predictMany() map[string]any {
	probabilities := map[string]float64{"cat": 0.25, "dog": 0.625, "owl": 0.125}
	label := "dog"
	switch s.fault {
	case "many classes, unknown label":
		label = "cow"
	case "many classes, improbable label":
		label = "cat"
	case "many classes, unknown class":
		probabilities["cow"] = 0
	case "many classes, too probable":
		probabilities["cat"] = 0.5
	}
	return map[string]any{
		"id": fmt.Sprintf("01a21b12-16b3-73fc-bc1a-%012d", s.served.Add(1)), "label": label, "model": s.digest(),
		"probability": probabilities[label], "probabilities": probabilities,
	}
}

func (s *fakeServer) predict(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseMultipartForm(1 << 20); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var predictions []map[string]any
	for _, header := range r.MultipartForm.File["data"] {
		file, err := header.Open()
		if err != nil {
			panic(err)
		}
		data, err := io.ReadAll(file)
		if err != nil {
			panic(err)
		}
		if s.many() {
			predictions = append(predictions, s.predictMany())
			continue
		}
		label := cmp.Or(s.labels[sha256.Sum256(data)], "REAL")
		if s.fault == "wrong labels" {
			label = "FAKE"
		}
		predictions = append(predictions, map[string]any{
			"id": fmt.Sprintf("01a21b12-16b3-73fc-bc1a-%012d", s.served.Add(1)), "label": label, "isAI": label == "FAKE",
			"probability": map[string]float64{"REAL": 0.25, "FAKE": 0.75}[label], "model": s.digest(),
		})
	}
	if len(predictions) != 1 {
		_ = json.NewEncoder(w).Encode(map[string]any{"predictions": predictions})
		return
	}
	prediction, n := predictions[0], s.served.Load()
	status := http.StatusOK
	switch s.fault {
	case "slow":
		time.Sleep(100 * time.Millisecond)
	case "no response":
		<-r.Context().Done()
		return
	case "some 5xx":
		if n%10 == 0 {
			status = http.StatusServiceUnavailable
		}
	case "some 429":
		if n%10 == 0 {
			status = http.StatusTooManyRequests
		}
	case "null response":
		prediction = nil
	case "invalid id":
		prediction["id"] = "1"
	case "inconsistent label":
		prediction["isAI"] = prediction["label"] != "FAKE"
	case "probability above 1":
		prediction["probability"] = 1.5
	case "unknown model":
		prediction["model"] = "sha256:3"
	case "keeps first model":
		prediction["model"] = "sha256:1"
	case "depends on batch":
		prediction["probability"] = prediction["probability"].(float64) + 0.001
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(prediction)
}

const k6Program = "../bin/tools/k6"

// newRun returns a run against a fake server with the given fault. The latency SLO is relaxed so far
// that the fake server meets it even on a busy machine.
func newRun(t *testing.T, fault, scenario, duration string) (*loadtest, *bytes.Buffer) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs k6, which takes minutes to build")
	}
	if _, err := os.Stat(k6Program); err != nil {
		t.Fatalf("%v\nhint: run make bin/tools/k6 in the root of the checkout", err)
	}
	out := new(bytes.Buffer)
	return &loadtest{
		server: os.Args[0], k6: k6Program, script: relaxed(t), model: "model.onnx", dir: filepath.Join(t.TempDir(), "run"),
		scenario: scenario, duration: duration, out: out,
		env: []string{
			serverVariable + "=" + fault, "SCENARIO=" + scenario, "RATE=" + map[string]string{"steady": "25", "swap": "25"}[scenario],
			"MODEL_NAME=" + map[bool]string{true: manyName}[strings.HasPrefix(fault, "many classes")],
		},
	}, out
}

// relaxed returns the path of a copy of the script with a latency SLO of 20 s instead of 25 ms.
func relaxed(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "loadtest")
	if err := os.CopyFS(dir, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "slo.json")
	var objectives map[string]any
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &objectives)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objectives["objectives"].([]any) {
		if o := o.(map[string]any); o["within_seconds"] != nil {
			o["within_seconds"] = 20
		}
	}
	if data, err = json.Marshal(objectives); err == nil {
		err = os.WriteFile(path, data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "predict.js")
}

func TestRun_Passes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ fault, scenario string }{{"none", "steady"}, {"none", "users"}, {"none", "spike"}, {"slow", "steady"}, {"many classes", "steady"}} {
		t.Run(c.fault+"_"+c.scenario, func(t *testing.T) {
			t.Parallel()
			l, out := newRun(t, c.fault, c.scenario, "1s")
			if err := l.run(t.Context()); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			var summary struct {
				Passed     bool
				Conditions []struct{ Name, Measured string }
				K6         struct{ Metrics map[string]any }
			}
			data, err := os.ReadFile(filepath.Join(l.dir, "summary.json"))
			if err == nil {
				err = json.Unmarshal(data, &summary)
			}
			if err != nil || !summary.Passed || len(summary.Conditions) < 5 || summary.K6.Metrics["http_reqs"] == nil {
				t.Errorf("summary %+v, %v", summary, err)
			}
			for _, c := range summary.Conditions[:2] {
				if c.Measured == "none counted" {
					t.Errorf("%s: no events counted", c.Name)
				}
			}
			page, err := os.ReadFile(filepath.Join(l.dir, "report.html"))
			if err != nil || !bytes.Contains(page, []byte("PASSED")) || regexp.MustCompile(`src=|href=|url\(|@import`).Match(page) {
				t.Errorf("page without the result or with external resources: %s, %v", page, err)
			}
			if !strings.Contains(out.String(), "✓ Small images within 25 ms") {
				t.Errorf("output doesn't contain the latency SLO:\n%s", out)
			}
		})
	}
}

// The images of SIZE are sent, and count as large if they are.
func TestRun_Size(t *testing.T) {
	t.Parallel()
	for size, line := range map[string]string{"640x480": "✓ Small images within", "4000x3000": "✓ Large images within"} {
		t.Run(size, func(t *testing.T) {
			t.Parallel()
			l, out := newRun(t, "none", "steady", "1s")
			l.env = append(l.env, "SIZE="+size)
			if err := l.run(t.Context()); err != nil || !strings.Contains(out.String(), line) || !strings.Contains(out.String(), "– Labels are correct") {
				t.Errorf("%v, want %q and no labels\n%s", err, line, out)
			}
		})
	}
}

// The same slow server passes with the relaxed SLO above.
func TestRun_LatencySLOMissed(t *testing.T) {
	t.Parallel()
	l, out := newRun(t, "slow", "steady", "2s")
	l.script = "predict.js"
	err := l.run(t.Context())
	if exitCode(err) != 99 || !strings.Contains(out.String(), "✗ Small images within 25 ms") || !strings.Contains(out.String(), "✓ Predictions without") {
		t.Errorf("%v\n%s", err, out)
	}
	// The server must be stopped.
	_, url, _ := strings.Cut(out.String(), "TARGET=")
	url, _, _ = strings.Cut(url, " ")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := http.DefaultClient.Do(request); err == nil {
		t.Errorf("%s still responds", url)
	}
}

func TestRun_Fails(t *testing.T) {
	t.Parallel()
	for fault, line := range map[string]string{
		"no response":         "✗ Images were classified",
		"some 5xx":            "✗ Predictions without a server error",
		"some 429":            "✗ status is 200",
		"null response":       "✗ id is a UUIDv7",
		"invalid id":          "✗ id is a UUIDv7",
		"inconsistent label":  "✗ isAI matches the label",
		"probability above 1": "✗ probability is between 0 and 1",
		"unknown model":       "✗ model is the current one",
		"wrong labels":        "✗ Labels are correct",
		"depends on batch":    "✗ same pixels, same probability",

		"many classes, unknown label":    "✗ label is a class of the model",
		"many classes, improbable label": "✗ probability matches the label",
		"many classes, unknown class":    "✗ probabilities are of the classes of the model",
		"many classes, too probable":     "✗ probabilities are of the classes of the model",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			l, out := newRun(t, fault, "steady", "1s")
			if err := l.run(t.Context()); exitCode(err) != 99 || !strings.Contains(out.String(), line) {
				t.Errorf("error %v, want exit code 99 and %q\n%s", err, line, out)
			}
		})
	}
	for name, c := range map[string]struct{ fault, scenario, duration, line string }{
		"not_ready":     {"not ready", "users", "2s", "✗ server is ready"},
		"breakpoint":    {"slow", "breakpoint", "10s", "the SLOs were missed at the first step, 50 requests/s"},
		"smoke":         {"none", "smoke", "10s", "✗ v2: the server describes the tensors of the model"}, // the fake server has no v2 protocol
		"smoke_named":   {"named model", "smoke", "10s", "✗ v2: id is the one sent"},
		"smoke_cut_off": {"slow", "smoke", "2s", "✗ All requests were sent in time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, out := newRun(t, c.fault, c.scenario, c.duration)
			if c.scenario == "breakpoint" {
				l.script = "predict.js"
			}
			if err := l.run(t.Context()); exitCode(err) != 99 || !strings.Contains(out.String(), c.line) {
				t.Errorf("error %v, want exit code 99 and %q\n%s", err, c.line, out)
			}
		})
	}
}

func TestRun_Swap(t *testing.T) {
	t.Parallel()
	g := onnx.NewGraph("red detector")
	x := g.Input("input", onnx.Float32, onnx.Batch, imaging.Channels, 32, 32)
	mean := g.ReduceMean(x, 2, 3)
	g.Output("logit", g.Gemm(mean, g.Param("w", []float32{8, 0, 0}, 1, 3), false, true, g.Param("b", []float32{-4}, 1)))
	g.Output("embedding", mean)
	graph, err := g.Model()
	if err != nil {
		t.Fatal(err)
	}
	md := model.Trained(32, model.Real, model.Fake)
	md.Name = "red detector"
	data, err := model.Marshal(graph, md)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}

	t.Run("swapped", func(t *testing.T) {
		t.Parallel()
		l, out := newRun(t, "none", "swap", "6s")
		l.model = path
		if err := l.run(t.Context()); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		digests := map[string]bool{}
		for _, name := range []string{"one.onnx", "other.onnx"} {
			file, err := model.Open(filepath.Join(l.dir, "models", name))
			if err != nil {
				t.Fatal(err)
			}
			digests[file.Digest] = true
		}
		if len(digests) != 2 {
			t.Errorf("both models have the same digest: %v", digests)
		}
	})
	t.Run("not_swapped", func(t *testing.T) {
		t.Parallel()
		l, out := newRun(t, "keeps first model", "swap", "6s")
		l.model = path
		if err := l.run(t.Context()); exitCode(err) != 99 || !strings.Contains(out.String(), "✗ model is the current one") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func TestRun_Errors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change  func(*loadtest)
		message string
	}{
		"server_fails_to_start": {func(l *loadtest) { l.env = append(l.env, serverVariable+"=fails to start") }, "see "},
		"server_missing":        {func(l *loadtest) { l.server = filepath.Join(t.TempDir(), "none") }, "none"},
		"k6_missing":            {func(l *loadtest) { l.k6 = filepath.Join(t.TempDir(), "none") }, "none"},
		"model_missing":         {func(l *loadtest) { l.scenario = "swap"; l.model = filepath.Join(t.TempDir(), "none") }, "none"},
		"model_invalid":         {func(l *loadtest) { l.scenario = "swap"; l.model = "main.go" }, "main.go"},
		"unknown_scenario":      {func(l *loadtest) { l.env = append(l.env, "SCENARIO=nope") }, "SCENARIO=nope: unknown scenario; expected one of users, smoke"},
		"invalid_duration":      {func(l *loadtest) { l.duration = "soon" }, "DURATION=soon: expected a duration such as 90s"},
		"invalid_rate":          {func(l *loadtest) { l.env = append(l.env, "RATE=fast") }, "RATE=fast: expected requests per second"},
		"unknown_size":          {func(l *loadtest) { l.env = append(l.env, "SIZE=1x1") }, "SIZE=1x1: unknown size; expected one of 320x240, 640x480, 4000x3000"},
		"unknown_model":         {func(l *loadtest) { l.env = append(l.env, "MODEL_NAME=cats") }, "MODEL_NAME=cats: unknown model cats"},
		"incomplete_folder": {func(l *loadtest) {
			if err := os.RemoveAll(filepath.Join(filepath.Dir(l.script), "pictures")); err != nil {
				t.Error(err)
			}
		}, "the folder loadtest/ is incomplete"},
		"script_error": {func(l *loadtest) {
			text, err := os.ReadFile(l.script)
			if err == nil {
				err = os.WriteFile(l.script, bytes.ReplaceAll(text, []byte("sendForm(pick("), []byte("sendForm(none(")), 0o644)
			}
			if err != nil {
				t.Error(err)
			}
		}, "ReferenceError: none is not defined"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, out := newRun(t, "none", "steady", "2s")
			c.change(l)
			err := l.run(t.Context())
			if err == nil || exitCode(err) == 0 || exitCode(err) == 99 || !strings.Contains(err.Error()+out.String(), c.message) {
				t.Errorf("error %v, want %q\n%s", err, c.message, out)
			}
		})
	}
}

// The script must run with only k6 and the folder loadtest, as in a container.
func TestScript_Standalone(t *testing.T) {
	t.Parallel()
	handler, err := newFakeServer("none")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	defer server.Close()
	l, _ := newRun(t, "none", "steady", "2s")
	k6, err := filepath.Abs(l.k6)
	if err != nil {
		t.Fatal(err)
	}
	runFor := func(ctx context.Context, target, duration string) (string, int) {
		cmd := exec.CommandContext(ctx, k6, "run", "--quiet", "--address=", "--no-usage-report", "-e", "TARGET="+target, "-e", "SCENARIO=steady", "-e", "DURATION="+duration, "loadtest/predict.js")
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.Dir = filepath.Dir(filepath.Dir(l.script))
		cmd.Env = []string{"HOME=" + t.TempDir()}
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	run := func(target string) (string, int) { return runFor(t.Context(), target, "1s") }
	if out, code := run(server.URL + "/"); code != 0 || !strings.Contains(out, "PASSED") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	interrupted, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if out, code := runFor(interrupted, server.URL, "30s"); code == 0 || !strings.Contains(out, "CUT SHORT") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	server.Close()
	if out, code := run(server.URL); code == 0 || !strings.Contains(out, "no response from "+server.URL) || !strings.Contains(out, "-e TARGET=") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	if out, code := run(other.URL); code == 0 || !strings.Contains(out, "is it Fakeart's server?") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}
