package main

import (
	"encoding/json"
	"net/http"
	"reflect"
	"testing"
	"time"

	"fakeart/server/oip"
)

// getJSON requests a document and decodes it.
func getJSON[T any](t *testing.T, method, url, body string) (document T) {
	t.Helper()
	response, text := do(t, method, url, "application/json", []byte(body))
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%s: status %d, %s: %s", url, response.StatusCode, response.Header.Get("Content-Type"), text)
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return document
}

func TestV2Config(t *testing.T) {
	m := start(t, func(c *Config) { c.Workers, c.MaxBatch, c.MaxImages = 3, 4, 20 })
	var want, got any
	if err := json.Unmarshal([]byte(`{"name":"fakeart","platform":"onnxruntime_onnx","backend":"onnxruntime",
		"version_policy":{"latest":{"num_versions":1}},"max_batch_size":20,
		"input":[{"name":"input","data_type":"TYPE_FP32","format":"FORMAT_NCHW","dims":[3,32,32]}],
		"output":[{"name":"logit","data_type":"TYPE_FP32","dims":[1]},{"name":"embedding","data_type":"TYPE_FP32","dims":[3]}],
		"instance_group":[{"name":"fakeart","kind":"KIND_CPU","count":3}],"dynamic_batching":{"preferred_batch_size":[4]}}`), &want); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v2/models/fakeart/config", "/v2/models/fakeart/versions/" + inUse(m) + "/config"} {
		if got = getJSON[any](t, "GET", m.URL()+path, ""); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v", path, got)
		}
	}
}

func TestV2Stats(t *testing.T) {
	m := start(t)
	before := time.Now().UnixMilli()
	if s := getJSON[oip.Statistics](t, "GET", m.URL()+"/v2/models/stats", ""); len(s.ModelStats) != 1 || s.ModelStats[0].LastInference != 0 || s.ModelStats[0].InferenceCount != 0 {
		t.Errorf("before any request: %+v", s)
	}
	for range 2 {
		if response, body := do(t, "POST", m.URL()+"/v2/models/fakeart/infer", "", tensorRequest(3)); response.StatusCode != 200 {
			t.Fatalf("status %d: %s", response.StatusCode, body)
		}
	}
	predict(t, m)
	for _, path := range []string{"/v2/models/stats", "/v2/models/fakeart/stats", "/v2/models/fakeart/versions/" + inUse(m) + "/stats"} {
		all := getJSON[oip.Statistics](t, "GET", m.URL()+path, "").ModelStats
		if len(all) != 1 {
			t.Fatalf("%s: %+v", path, all)
		}
		s := all[0]
		if s.Name != "fakeart" || s.Version != inUse(m) || s.LastInference < before || s.InferenceCount != 7 || s.ExecutionCount < 3 || s.ExecutionCount > 7 {
			t.Errorf("%s: %+v", path, s)
		}
		i := s.InferenceStats
		if i.Success.Count != 3 || i.Fail.Count != 0 || i.Queue.Count != 3 || i.ComputeInfer.Count != s.ExecutionCount || i.ComputeInput.Count != s.ExecutionCount || i.ComputeOutput.Count != s.ExecutionCount {
			t.Errorf("%s: %+v", path, i)
		}
		if i.Success.Nanoseconds <= 0 || i.ComputeInfer.Nanoseconds <= 0 || i.Success.Nanoseconds < i.Queue.Nanoseconds {
			t.Errorf("%s: %+v", path, i)
		}
		var images, batches int64
		for _, b := range s.BatchStats {
			images += int64(b.BatchSize) * b.ComputeInfer.Count
			batches += b.ComputeInfer.Count
		}
		if images != s.InferenceCount || batches != s.ExecutionCount {
			t.Errorf("%s: %+v", path, s.BatchStats)
		}
	}
	// A request that the model can't serve counts as failed.
	if response, body := do(t, "POST", m.URL()+"/predict", "", []byte("\x89PNG\r\n\x1a\n")); response.StatusCode/100 != 4 {
		t.Fatalf("status %d: %s", response.StatusCode, body)
	}
	if s := getJSON[oip.Statistics](t, "GET", m.URL()+"/v2/models/stats", ""); s.ModelStats[0].InferenceStats.Fail.Count != 1 {
		t.Errorf("after a failure: %+v", s)
	}
}

func TestV2Index(t *testing.T) {
	m := start(t)
	ready := []oip.ModelIndex{{Name: "fakeart", Version: inUse(m), State: "READY"}}
	for _, body := range []string{"", "{}", `{"ready":true}`, `{"ready":false,"unknown":1}`} {
		if got := getJSON[[]oip.ModelIndex](t, "POST", m.URL()+"/v2/repository/index", body); !reflect.DeepEqual(got, ready) {
			t.Errorf("%s: %+v", body, got)
		}
	}
	empty := startWithoutModel(t, t.TempDir())
	if got := getJSON[[]oip.ModelIndex](t, "POST", empty.URL()+"/v2/repository/index", ""); len(got) != 1 || got[0].State != "UNAVAILABLE" || got[0].Version != "" || got[0].Reason == "" {
		t.Errorf("without a model: %+v", got)
	}
	if got := getJSON[[]oip.ModelIndex](t, "POST", empty.URL()+"/v2/repository/index", `{"ready":true}`); got == nil || len(got) != 0 {
		t.Errorf("without a ready model: %+v", got)
	}
	if got := getJSON[oip.Statistics](t, "GET", empty.URL()+"/v2/models/stats", ""); got.ModelStats == nil || len(got.ModelStats) != 0 {
		t.Errorf("without a model: %+v", got)
	}
	for _, body := range []string{"x", "[]", `{"ready":1}`} {
		response, text := do(t, "POST", m.URL()+"/v2/repository/index", "application/json", []byte(body))
		if response.StatusCode != 400 || !json.Valid(text) {
			t.Errorf("%s: status %d: %s", body, response.StatusCode, text)
		}
	}
}
