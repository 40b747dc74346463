package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/onnx"
	"fakeart/internal/onnx/onnxpb"
	"fakeart/server/source"
)

// detector returns a graph that classifies images of one color (0 is red, 2 is blue) as FAKE.
func detector(t testing.TB, colour int) *onnxpb.ModelProto {
	t.Helper()
	weights := []float32{0, 0, 0}
	weights[colour] = 8
	g := onnx.NewGraph("detector")
	x := g.Input("input", onnx.Float32, onnx.Batch, imaging.Channels, imaging.Size, imaging.Size)
	mean := g.ReduceMean(x, 2, 3)
	g.Output("logit", g.Gemm(mean, g.Param("w", weights, 1, 3), false, true, g.Param("b", []float32{-4}, 1)))
	g.Output("embedding", mean)
	graph, err := g.Model()
	if err != nil {
		t.Fatal(err)
	}
	return graph
}

// modelBytes returns the content of a model file.
func modelBytes(t *testing.T, graph *onnxpb.ModelProto) []byte {
	t.Helper()
	data, err := marshal(graph, metadata())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// change requests another model.
func change(t *testing.T, m *Main, ref, digest string) (*http.Response, []byte) {
	t.Helper()
	body, err := json.Marshal(ModelChange{Model: ref, SHA256: digest})
	if err != nil {
		t.Fatal(err)
	}
	return do(t, "PUT", m.URL()+"/models/current", "application/x-www-form-urlencoded", body) // the content type that curl -d sends
}

func mustChange(t *testing.T, m *Main, ref, digest string) ModelInUse {
	t.Helper()
	response, body := change(t, m, ref, digest)
	var use ModelInUse
	if err := json.Unmarshal(body, &use); response.StatusCode != 200 || err != nil {
		t.Fatalf("status %d: %s (%v)", response.StatusCode, body, err)
	}
	return use
}

// publish writes a file atomically.
func publish(t *testing.T, path string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(path+".new", data, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// startFolder starts a server with a folder that contains a red detector.
func startFolder(t *testing.T, change ...func(*Config)) (m *Main, dir string, first []byte) {
	t.Helper()
	dir, first = t.TempDir(), modelBytes(t, detector(t, 0))
	publish(t, filepath.Join(dir, "red.onnx"), first)
	m = start(t, append(change, func(c *Config) { c.Model = []string{dir} })...)
	return m, dir, first
}

func TestModelChange_Rollback(t *testing.T) {
	m, dir, first := startFolder(t)
	second := modelBytes(t, detector(t, 2))
	path := publish(t, filepath.Join(dir, "blue.onnx"), second)
	img := pngOf(t, solid(red, 32, 32))
	ask := func(want, digest string) {
		t.Helper()
		response, body := do(t, "POST", m.URL()+"/predict", "", img)
		var p Prediction
		if err := json.Unmarshal(body, &p); err != nil || response.StatusCode != 200 || p.Label != want || p.Model != digest {
			t.Errorf("status %d: %s, want %s by %s", response.StatusCode, body, want, digest)
		}
	}
	ask(model.Fake, digestOf(first))
	response, body := change(t, m, "previous", "")
	checkProblem(t, response, body, 409, "previous")
	for _, ref := range []string{path, "file://" + path} {
		use := mustChange(t, m, ref, strings.ToUpper(strings.TrimPrefix(digestOf(second), "sha256:")))
		if use.Model != digestOf(second) || use.Name != "red detector" {
			t.Errorf("in use: %+v", use)
		}
		ask(model.Real, digestOf(second))
		// The file was deleted, but the server still has the previous model.
		_ = os.Remove(filepath.Join(dir, "red.onnx"))
		if use := mustChange(t, m, "previous", ""); use.Model != digestOf(first) {
			t.Errorf("after the rollback: %+v", use)
		}
		ask(model.Fake, digestOf(first))
	}
	var models Models
	_, body = do(t, "GET", m.URL()+"/models", "", nil)
	if err := json.Unmarshal(body, &models); err != nil || len(models.Models) != 1 || models.Models[0].Ref != path || models.Models[0].Current || models.Previous == nil || models.Previous.Model != digestOf(second) {
		t.Errorf("models: %s, %v", body, err)
	}
	if got := metric(t, m, `fakeart_model_swaps_total{model_name="fakeart",result="success"}`); got != 4 {
		t.Errorf("%g changes counted, want 4", got)
	}
	if got := metric(t, m, `fakeart_model_swaps_total{model_name="fakeart",result="failed"}`); got != 1 {
		t.Errorf("%g failures counted, want 1", got)
	}
	if got := metric(t, m, fmt.Sprintf(`fakeart_model_info{data_digest="",model="%s",model_name="fakeart",name="red detector",preprocessing="%s"}`, digestOf(first), imaging.PreprocessingID)); got != 1 {
		t.Error("fakeart_model_info lacks the model in use")
	}
}

// TestModelChange_UnreachableBucket checks that a bucket that a request names isn't a failure of the server.
func TestModelChange_UnreachableBucket(t *testing.T) {
	m := NewMain(testConfig(t, writeModel(t, redDetector(t), metadata())), slog.New(slog.DiscardHandler))
	m.otherSource = source.Options{Timeout: time.Second}
	startMain(t, m)
	before := inUse(m)
	response, body := change(t, m, "gs://bucket/new.onnx", "")
	checkProblem(t, response, body, 409, "gs://bucket/new.onnx")
	if inUse(m) != before {
		t.Errorf("in use is %s", inUse(m))
	}
}

func TestModelChange_Invalid(t *testing.T) {
	m, dir, first := startFolder(t)
	good := modelBytes(t, detector(t, 2))
	broken := detector(t, 2)
	broken.Graph.Node[0].OpType = &[]string{"ReduceMeen"}[0]
	constant := detector(t, 1)
	constant.Graph.Initializer[0].RawData = make([]byte, 12)
	narrow := detector(t, 2)
	narrow.Graph.Input[0].Type.GetTensorType().Shape.Dim[1].Value = &onnxpb.TensorShapeProto_Dimension_DimValue{DimValue: 1}
	shape, err := model.Marshal(detector(t, 2), metadata())
	if err != nil {
		t.Fatal(err)
	}
	bare := detector(t, 2)
	bareBytes, err := proto.Marshal(bare)
	if err != nil {
		t.Fatal(err)
	}
	narrowBytes, err := proto.Marshal(withMetadata(narrow, shape))
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) string { return publish(t, filepath.Join(dir, name), data) }
	outside := writeFile(t, "outside.onnx", good)
	for _, test := range []struct {
		name, ref, digest string
		status            int
		words             []string
	}{
		{"truncated", write("half.onnx", good[:len(good)/2]), "", 422, []string{"truncated"}},
		{"empty_file", write("empty.onnx", nil), "", 422, []string{"empty"}},
		{"wrong_input_shape", write("narrow.onnx", narrowBytes), "", 422, []string{"shape"}},
		{"no_metadata", write("bare.onnx", bareBytes), "", 422, []string{"without Fakeart's metadata"}},
		{"unknown_operator", write("broken.onnx", modelBytes(t, broken)), "", 422, []string{"ReduceMeen"}},
		{"constant_output", write("constant.onnx", modelBytes(t, constant)), "", 422, []string{"every probe image"}},
		{"PNG", write("picture.onnx", pngOf(t, solid(red, 8, 8))), "", 422, []string{"not an ONNX model"}},
		{"digest_mismatch", write("good.onnx", good), digestOf(first), 409, []string{digestOf(first), digestOf(good)}},
		{"invalid_digest", write("good.onnx", good), "sha256:12", 422, []string{"64 hexadecimal"}},
		{"missing_file", "file://" + filepath.Join(dir, "absent.onnx"), "", 404, []string{"absent.onnx"}},
		{"long_file_name", "file:///" + strings.Repeat("x", 5000), "", 404, []string{"no such file"}},
		{"path_outside_source", outside, "", 404, []string{"outside.onnx", "file:// URL"}},
		{"path_traversal", "../../etc/passwd", "", 404, nil},
		{"system_file", "/etc/passwd", "", 404, nil},
		{"endpoint_parameter", "s3://bucket/model.onnx?endpoint=http://127.0.0.1:1&region=x", "", 403, []string{"--model-source"}},
		{"unknown_scheme", "https://example.org/model.onnx", "", 400, []string{"gs://"}},
		{"empty_reference", "", "", 422, []string{"model"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, body := change(t, m, test.ref, test.digest)
			checkProblem(t, response, body, test.status, test.words...)
			response, body = do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 32, 32)))
			checkPrediction(t, m, response, body, model.Fake)
			if inUse(m) != digestOf(first) {
				t.Errorf("in use is %s", inUse(m))
			}
		})
	}
	// Without --model-source, any file:// URL is allowed.
	mustChange(t, m, "file://"+outside, "")
}

func TestModelChange_ModelSource(t *testing.T) {
	allowed := t.TempDir()
	m, _, _ := startFolder(t, func(c *Config) { c.ModelSource = []string{allowed} })
	good := modelBytes(t, detector(t, 2))
	outside := writeFile(t, "outside.onnx", good)
	for _, ref := range []string{"file://" + outside, "file://" + allowed + "/../" + filepath.Base(outside), "file://" + allowed + "/%2e%2e/x.onnx", "gs://bucket/x.onnx"} {
		response, body := change(t, m, ref, "")
		checkProblem(t, response, body, 403)
	}
	mustChange(t, m, "file://"+publish(t, filepath.Join(allowed, "new.onnx"), good), "")
}

func TestModelWatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.onnx")
	first, second, third := modelBytes(t, detector(t, 0)), modelBytes(t, detector(t, 2)), modelBytes(t, detector(t, 1))
	publish(t, path, first)
	m := start(t, func(c *Config) { c.Model, c.ModelWatch = []string{path}, interval(20*time.Millisecond) })
	publish(t, path, second)
	waitFor(t, "the new model", func() bool { return inUse(m) == digestOf(second) })
	// A rollback lasts until a new model is published.
	mustChange(t, m, "previous", "")
	publish(t, path, []byte("no model"))
	waitFor(t, "the failure", func() bool {
		return metric(t, m, `fakeart_model_swaps_total{model_name="fakeart",result="failed"}`) == 1
	})
	if inUse(m) != digestOf(first) {
		t.Errorf("in use is %s", inUse(m))
	}
	publish(t, path, third)
	waitFor(t, "the newest model", func() bool { return inUse(m) == digestOf(third) })
}

// swapUnderLoad changes the model repeatedly under load. It checks that no request fails and that each
// prediction matches the model that it names.
func swapUnderLoad(t *testing.T, swaps, clients int) {
	t.Helper()
	m, dir, first := startFolder(t)
	second := modelBytes(t, detector(t, 2))
	refs := []string{publish(t, filepath.Join(dir, "blue.onnx"), second), filepath.Join(dir, "red.onnx")}
	truth := map[string]map[string]string{ // expected label by model and color
		digestOf(first):  {"red": model.Fake, "blue": model.Real},
		digestOf(second): {"red": model.Real, "blue": model.Fake},
	}
	images := map[string][]byte{"red": pngOf(t, solid(red, 32, 32)), "blue": pngOf(t, solid(blue, 32, 32))}
	manyType, many := newForm(t, field{"data", "a", images["red"]}, field{"data", "b", images["red"]}, field{"data", "c", images["red"]})
	var predicted, stop atomic.Int64
	byModel := sync.Map{}
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			colour := []string{"red", "blue"}[i%2]
			for stop.Load() == 0 {
				if i == 0 { // images of one request are classified by the same model
					response, body := do(t, "POST", m.URL()+"/predict", manyType, many)
					for _, item := range predictions(t, response, body) {
						if item.Prediction == nil || truth[item.Model]["red"] != item.Label {
							t.Errorf("%s", body)
						}
					}
					continue
				}
				response, body := do(t, "POST", m.URL()+"/predict", "", images[colour])
				var p Prediction
				if err := json.Unmarshal(body, &p); err != nil || response.StatusCode != 200 {
					t.Errorf("status %d: %s", response.StatusCode, body)
					return
				}
				if truth[p.Model][colour] != p.Label {
					t.Errorf("%s is %s by %s", colour, p.Label, p.Model)
				}
				byModel.Store(p.Model, true)
				predicted.Add(1)
			}
		})
	}
	for i := range swaps {
		before := predicted.Load()
		mustChange(t, m, refs[i%2], "")
		// Wait until the new model has served requests.
		waitFor(t, "predictions between two model changes", func() bool { return predicted.Load() > before })
	}
	stop.Store(1)
	group.Wait()
	for digest := range truth {
		if _, ok := byModel.Load(digest); !ok {
			t.Errorf("no prediction by %s", digest)
		}
	}
	t.Logf("%d predictions during %d changes", predicted.Load(), swaps)
}

func TestModelChange_UnderLoad(t *testing.T) { swapUnderLoad(t, 50, 8) }

func TestModel_FolderAndDigest(t *testing.T) {
	dir := t.TempDir()
	data := modelBytes(t, detector(t, 0))
	publish(t, filepath.Join(dir, "a.onnx"), data)
	config := testConfig(t, dir)
	config.ModelSHA256 = []string{digestOf([]byte("another"))}
	m := NewMain(config, slog.New(slog.DiscardHandler))
	err := m.Run(t.Context())
	_ = m.Close()
	if err == nil || !strings.Contains(err.Error(), digestOf(data)) {
		t.Errorf("error %v, want one that names %s", err, digestOf(data))
	}
	m = start(t, func(c *Config) { c.Model, c.ModelSHA256 = []string{"file://" + dir + "/"}, []string{digestOf(data)} })
	if inUse(m) != digestOf(data) {
		t.Errorf("in use is %s", inUse(m))
	}
}

// withMetadata adds the metadata of a model file to a graph.
func withMetadata(graph *onnxpb.ModelProto, file []byte) *onnxpb.ModelProto {
	var whole onnxpb.ModelProto
	if err := proto.Unmarshal(file, &whole); err != nil {
		panic(err) // made by Marshal
	}
	graph.MetadataProps = whole.MetadataProps
	return graph
}
