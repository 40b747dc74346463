package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"fakeart/internal/model"
	"fakeart/server/failure"
)

// startWithoutModel starts a server that waits for its first model at ref.
func startWithoutModel(t *testing.T, ref string, change ...func(*Config)) *Main {
	t.Helper()
	return start(t, append(change, func(c *Config) { c.Model, c.ModelWatch = []string{ref}, interval(20*time.Millisecond) })...)
}

func TestWithoutModel_Routes(t *testing.T) {
	reference := filepath.Join(t.TempDir(), "run") // published together with the model
	m := startWithoutModel(t, t.TempDir(), func(c *Config) { c.DriftReference, c.DriftEvery = reference, time.Hour })
	tensor := []byte(`{"inputs":[{"name":"input","shape":[1,3,32,32],"datatype":"FP32","data":[` + strings.TrimSuffix(strings.Repeat("0,", 3072), ",") + `]}]}`)
	img := pngOf(t, solid(red, 32, 32))
	const reason = "no model is loaded yet"
	for _, test := range []struct {
		method, path string
		body         []byte
		status       int
		want         string
	}{
		{"GET", "/healthz", nil, 200, `"status":"ok"`},
		{"GET", "/v2/health/live", nil, 200, `"live":true`},
		{"GET", "/", nil, 200, "<html"},
		{"GET", "/docs", nil, 200, "Fakeart"},
		{"GET", "/metrics", nil, 200, "fakeart_build_info"},
		{"GET", "/models", nil, 200, `"models":[]`},
		{"GET", "/log", nil, 200, `"records":[]`},
		{"GET", "/v2", nil, 200, `"name":"fakeart"`},
		{"GET", "/readyz", nil, 503, reason},
		{"GET", "/v2/health/ready", nil, 503, `{"ready":false}`},
		{"GET", "/stats", nil, 200, `"ready":false,"reason":"` + reason},
		{"GET", "/models/current", nil, 503, reason},
		{"POST", "/predict", img, 503, reason},
		{"POST", "/model/", img, 503, reason},
		{"POST", "/predict?explain=gradcam", img, 503, reason},
		{"GET", "/v2/models/fakeart", nil, 503, `{"error":"` + reason},
		{"GET", "/v2/models/fakeart/versions/sha256:0", nil, 503, `{"error":"` + reason},
		{"GET", "/v2/models/fakeart/ready", nil, 503, `{"name":"fakeart","ready":false}`},
		{"GET", "/v2/models/fakeart/versions/sha256:0/ready", nil, 503, `"ready":false`},
		{"POST", "/v2/models/fakeart/infer", tensor, 503, `{"error":"` + reason},
		{"GET", "/v2/models/other", nil, 404, "other"},
		{"GET", "/v2/models/other/ready", nil, 404, "other"},
		{"POST", "/v2/models/other/infer", tensor, 404, "other"},
		{"PUT", "/models/current", []byte(`{"model":"previous"}`), 409, "no previous model"},
		{"PUT", "/models/current", []byte(`{"model":"file:///nowhere.onnx"}`), 404, "nowhere.onnx"},
	} {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			response, body := do(t, test.method, m.URL()+test.path, "", test.body)
			if response.StatusCode != test.status || !strings.Contains(string(body), test.want) {
				t.Errorf("status %d, want %d with %q: %.300s", response.StatusCode, test.status, test.want, body)
			}
			retry, _ := strconv.Atoi(response.Header.Get("Retry-After"))
			problem := strings.HasPrefix(response.Header.Get("Content-Type"), failure.ProblemType)
			if test.status == 503 && problem && (retry < 1 || retry > 60) {
				t.Errorf("Retry-After: %q, want 1 to 60", response.Header.Get("Retry-After"))
			}
		})
	}
	waitFor(t, "a drift check", func() bool {
		response, body := do(t, "GET", m.URL()+"/drift", "", nil)
		return response.StatusCode == http.StatusConflict && strings.Contains(string(body), reason)
	})
	if _, known := m.currentAccuracy(); known {
		t.Error("the accuracy is known without a model")
	}
}

func TestWithoutModel_FirstModel(t *testing.T) {
	good := modelBytes(t, detector(t, 0))
	for _, test := range []struct {
		name   string
		ref    string // value of --model, relative to a temporary folder
		before func(dir string) error
		file   string // name under which the first model is published
		reason string
	}{
		{"empty_folder", "", nil, "a.onnx", "no model in the folder"},
		{"folder_without_models", "", func(dir string) error { return os.WriteFile(filepath.Join(dir, "README"), nil, 0o600) }, "a.onnx", "no model in the folder"},
		{"missing_folder", "models/", nil, "models/a.onnx", "no such file or directory"},
		{"missing_file", "model.onnx", nil, "model.onnx", "no such file or directory"},
		{"invalid_file", "model.onnx", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "model.onnx"), []byte("no model"), 0o600)
		}, "model.onnx", "model.onnx"},
		{"empty_file", "model.onnx", func(dir string) error { return os.WriteFile(filepath.Join(dir, "model.onnx"), nil, 0o600) }, "model.onnx", "model.onnx"},
		{"invalid_model_in_folder", "", func(dir string) error { return os.WriteFile(filepath.Join(dir, "a.onnx"), []byte("no model"), 0o600) }, "b.onnx", "a.onnx"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if test.before != nil {
				if err := test.before(dir); err != nil {
					t.Fatal(err)
				}
			}
			m := startWithoutModel(t, filepath.Join(dir, test.ref))
			response, body := do(t, "GET", m.URL()+"/readyz", "", nil)
			checkProblem(t, response, body, 503, "no model is loaded yet: ", test.reason)
			path := filepath.Join(dir, test.file)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			publish(t, path, good)
			waitFor(t, "the first model", func() bool {
				response, _ := do(t, "GET", m.URL()+"/readyz", "", nil)
				return response.StatusCode == 200
			})
			response, body = do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 32, 32)))
			checkPrediction(t, m, response, body, model.Fake)
			response, body = change(t, m, "previous", "")
			checkProblem(t, response, body, 409, "previous")
			if got := metric(t, m, `fakeart_model_swaps_total{model_name="fakeart",result="success"}`); got != 1 {
				t.Errorf("%g changes counted, want 1", got)
			}
		})
	}
}

func TestWithoutModel_Put(t *testing.T) {
	m := startWithoutModel(t, t.TempDir())
	data := modelBytes(t, detector(t, 2))
	if use := mustChange(t, m, "file://"+writeFile(t, "new.onnx", data), ""); use.Model != digestOf(data) {
		t.Errorf("in use: %+v", use)
	}
	response, body := do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 32, 32)))
	checkPrediction(t, m, response, body, model.Real)
}

// TestWithoutModel_Bucket tests the states of a bucket in a new stack on Google Cloud: empty, or not yet
// readable by the service.
func TestWithoutModel_Bucket(t *testing.T) {
	for _, test := range []struct {
		name, ref string
		status    int
		reason    string
	}{
		{"empty_prefix", "gs://bucket/models/production/", 200, "no model in the folder"},
		{"missing_object", "gs://bucket/models/first.onnx", 404, "no such object or bucket"},
		{"access_denied", "gs://bucket/models/production/", 403, "access denied by the store"},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(test.status)
				_ = json.NewEncoder(w).Encode(map[string]any{"kind": "storage#objects"})
			}))
			defer store.Close()
			t.Setenv("STORAGE_EMULATOR_HOST", strings.TrimPrefix(store.URL, "http://"))
			m := startWithoutModel(t, test.ref)
			response, body := do(t, "GET", m.URL()+"/readyz", "", nil)
			checkProblem(t, response, body, 503, "no model is loaded yet: "+test.ref+": "+test.reason)
		})
	}
}

func TestWithoutModel_Log(t *testing.T) {
	dir := t.TempDir()
	cmd, _ := program(t, nil, "--model", dir, "--model-watch=1s", "--addr=127.0.0.1:0", "--log-format=json")
	_, rest := listening(t, cmd)
	line, err := rest.ReadString('\n')
	if err != nil || !strings.Contains(line, "WARN") || !strings.Contains(line, "no model in the folder") {
		t.Errorf("after the address: %q, %v", line, err)
	}
	data := modelBytes(t, detector(t, 0))
	publish(t, filepath.Join(dir, "a.onnx"), data)
	// The missing model is logged only once.
	if line, err = rest.ReadString('\n'); err != nil || !strings.Contains(line, "model in use") || !strings.Contains(line, digestOf(data)) {
		t.Errorf("after the first model: %q, %v", line, err)
	}
}

func TestWithoutModel_StartFails(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "model.onnx")
	for _, test := range []struct {
		name   string
		change func(*Config)
		want   []string
	}{
		{"not_watched", func(c *Config) { c.Model = []string{missing} }, []string{missing, "no such file or directory", "--model-watch"}},
		{"not_watched_empty_folder", func(c *Config) { c.Model = []string{dir} }, []string{dir, "no model in the folder", "--model-watch"}},
		{"not_watched_invalid_model", func(c *Config) { c.Model = []string{writeFile(t, "model.onnx", []byte("no model"))} }, []string{"model.onnx"}},
		{"invalid_reference", func(c *Config) { c.Model, c.ModelWatch = []string{"ftp://x/y"}, defaultInterval }, []string{"ftp://x/y"}},
		{"unreadable_drift_reference", func(c *Config) { c.ModelWatch, c.DriftReference = defaultInterval, missing }, []string{"--drift-reference", missing}},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := testConfig(t, writeModel(t, redDetector(t), metadata()))
			test.change(&config)
			m := NewMain(config, slog.New(slog.DiscardHandler))
			err := m.Run(t.Context())
			if closed := m.Close(); closed != nil {
				t.Error(closed)
			}
			for _, word := range test.want {
				if text := fmt.Sprint(err); err == nil || !strings.Contains(text, word) {
					t.Errorf("error %q, want one with %q", text, word)
				}
			}
		})
	}
}
