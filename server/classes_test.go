package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
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
	"fakeart/server/api"
	"fakeart/server/models"
	"fakeart/server/oip"
	"fakeart/server/oip/oippb"
)

// classifier describes a model whose first three classes are red, green and blue: the score of each is the mean of the
// channel. The scores of the other classes are low and descend.
type classifier struct {
	classes       []string
	width, height int
	uint8s        bool // uint8 NHWC instead of normalized float32 NCHW
	embedding     bool
}

func (c classifier) metadata() model.Metadata {
	md := model.Metadata{
		Name: "colors", Classes: c.classes, Input: "pixels", Output: "scores", OutputKind: model.Logits, Columns: len(c.classes),
		Preprocessing: imaging.Square(c.width), ValLoss: math.NaN(), ValAccuracy: math.NaN(),
	}
	p := &md.Preprocessing
	p.Height = c.height
	if c.uint8s {
		p.Type, p.Layout, p.Scale = imaging.Uint8, imaging.NHWC, 1
	} else {
		p.Mean, p.Std = []float64{0.485, 0.456, 0.406}, []float64{0.229, 0.224, 0.225}
	}
	if c.embedding {
		md.Embedding = "features"
	}
	return md
}

// bytes returns the model file.
func (c classifier) bytes(t testing.TB) []byte {
	t.Helper()
	n, g := len(c.classes), onnx.NewGraph("classifier")
	scale, shape, axes := 4.0, []int64{onnx.Batch, 3, int64(c.height), int64(c.width)}, []int64{2, 3}
	if c.uint8s {
		scale, shape, axes = 8.0/255, []int64{onnx.Batch, int64(c.height), int64(c.width), 3}, []int64{1, 2}
	}
	mean := g.ReduceMean(g.Input("pixels", onnx.Float32, shape...), axes...)
	weights, bias := make([]float32, 3*n), make([]float32, n)
	for i := range n {
		if i < 3 {
			weights[3*i+i] = float32(scale)
		} else {
			bias[i] = -10 - float32(i)/100
		}
	}
	g.Output("scores", g.Gemm(mean, g.Param("w", weights, int64(n), 3), false, true, g.Param("b", bias, int64(n))))
	if c.embedding {
		g.Output("features", mean)
	}
	graph, err := g.Model()
	if err != nil {
		t.Fatal(err)
	}
	if c.uint8s {
		graph.Graph.Input[0].Type.GetTensorType().ElemType = proto.Int32(int32(onnxpb.TensorProto_UINT8))
		for _, node := range graph.Graph.Node {
			for i, name := range node.Input {
				if name == "pixels" {
					node.Input[i] = "floats"
				}
			}
		}
		graph.Graph.Node = append([]*onnxpb.NodeProto{{
			Name: proto.String("cast"), OpType: proto.String("Cast"), Input: []string{"pixels"}, Output: []string{"floats"},
			Attribute: []*onnxpb.AttributeProto{{Name: proto.String("to"), Type: onnxpb.AttributeProto_INT.Enum(), I: proto.Int64(int64(onnxpb.TensorProto_FLOAT))}},
		}}, graph.Graph.Node...)
	}
	data, err := model.Marshal(graph, c.metadata())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// write writes the model file and returns its path.
func (c classifier) write(t testing.TB) string { return writeFile(t, "model.onnx", c.bytes(t)) }

var tenClasses = []string{"red", "green", "blue", "=sum(A1)", `"quoted"`, "ünïcode", "six", "seven", "eight", "a<b>&c"}

// tenColors is a model with ten classes and a wide, normalized input.
func tenColors() classifier {
	return classifier{classes: tenClasses, width: 64, height: 48, embedding: true}
}

// thousandColors is a model with many classes, two of which have the same name, and an input of bytes.
func thousandColors() classifier {
	c := classifier{classes: []string{"red", "green", "blue"}, width: 40, height: 56, uint8s: true}
	for i := 3; i < 1000; i++ {
		c.classes = append(c.classes, fmt.Sprint("class ", i))
	}
	c.classes[134], c.classes[517] = "crane", "crane"
	return c
}

var colors = map[string]color.Color{"red": red, "green": color.RGBA{G: 255, A: 255}, "blue": blue}

func total(p Probabilities) (sum float64) {
	for _, one := range p {
		sum += one.Probability
	}
	return sum
}

func TestPredict_TenClasses(t *testing.T) {
	m := start(t, func(c *Config) { c.Model = []string{tenColors().write(t)} })
	for want, shade := range colors {
		p := predictOne(t, m, "", pngOf(t, solid(shade, 200, 31)))
		if p.Label != want || p.IsAI != nil || p.Probability != p.Probabilities[0].Probability || p.Probabilities[0].Label != want {
			t.Errorf("%s: %+v", want, p)
		}
		if len(p.Probabilities) != 10 || math.Abs(total(p.Probabilities)-1) > 1e-9 ||
			!slices.IsSortedFunc(p.Probabilities, func(a, b ClassProbability) int { return -int(math.Copysign(1, a.Probability-b.Probability)) }) {
			t.Errorf("%s: probabilities %v, want those of 10 classes in descending order", want, p.Probabilities)
		}
	}
	img := pngOf(t, solid(red, 64, 48))
	for query, want := range map[string]int{"?top=1": 1, "?top=3": 3, "?top=10": 10} {
		if p := predictOne(t, m, query, img); len(p.Probabilities) != want || p.Probabilities[0].Label != "red" {
			t.Errorf("%s: %v", query, p.Probabilities)
		}
	}
	for query, words := range map[string][]string{
		"?top=11": {"top=11", "only 10 classes", "1 to 10"}, "?top=0": {"top", "from 1"}, "?top=-1": {"top"}, "?top=x": {"top"}, "?top=": {"top"}, "?top=10001": {"10000"},
		"?top=2&top=3": {"more than once"},
	} {
		response, body := do(t, "POST", m.URL()+"/predict"+query, "", img)
		checkProblem(t, response, body, 400, words...)
	}
	response, body := do(t, "POST", m.URL()+"/predict?explain=gradcam", "", img)
	checkProblem(t, response, body, 422, "no class-activation map", "occlusion")

	var use ModelInUse
	_, body = do(t, "GET", m.URL()+"/models/current", "", nil)
	if err := json.Unmarshal(body, &use); err != nil || !slices.Equal(use.Classes, tenClasses) || use.Positive != "" || use.Threshold != nil || use.InputWidth != 64 || use.InputHeight != 48 ||
		use.EmbeddingSize != 3 || !slices.Equal(use.Explanations, []string{"occlusion"}) || use.ModelName != "fakeart" || use.Memory <= 0 {
		t.Errorf("model in use: %s, %v", body, err)
	}
	if got := metric(t, m, `fakeart_predictions_total{label="green",model="`+inUse(m)+`",model_name="fakeart"}`); got != 1 {
		t.Errorf("%g predictions of green counted, want 1", got)
	}
	s := getStats(t, m)
	if s.Images != 6 || s.Predictions["red"] != 4 || s.History[0].Predictions["blue"] != 1 {
		t.Errorf("stats: %+v", s)
	}
}

func TestPredict_OtherSize(t *testing.T) {
	m := start(t, func(c *Config) { c.Model = []string{tenColors().write(t)} })
	img := image.NewRGBA(image.Rect(0, 0, 64, 48))
	for y := range 48 {
		for x := range 64 {
			img.Set(x, y, color.RGBA{R: uint8(4 * x), G: uint8(5 * y), A: 255})
		}
	}
	p := predictOne(t, m, "?input=png&explain=occlusion&embedding=true", pngOf(t, img))
	if decoded, err := png.Decode(bytes.NewReader(p.Input)); err != nil || decoded.Bounds() != img.Bounds() || decoded.At(60, 40) != (color.RGBA{240, 200, 0, 255}) {
		t.Errorf("input: %v (%v)", decoded, err)
	}
	if len(p.Explanation.Map) != 48 || len(p.Explanation.Map[0]) != 64 || len(p.Embedding) != 3 {
		t.Errorf("map of %d rows of %d values, embedding %v", len(p.Explanation.Map), len(p.Explanation.Map[0]), p.Embedding)
	}
	p = predictOne(t, m, "?explain=occlusion&explain_format=png", pngOf(t, img))
	if decoded, err := png.Decode(bytes.NewReader(p.Explanation.PNG)); err != nil || decoded.Bounds() != img.Bounds() {
		t.Errorf("map: %v", err)
	}
}

func TestPredict_LargeMapAsArray(t *testing.T) {
	large := classifier{classes: tenClasses, width: 600, height: 500}
	m := start(t, func(c *Config) { c.Model = []string{large.write(t)} })
	img := pngOf(t, solid(red, 8, 8))
	response, body := do(t, "POST", m.URL()+"/predict?explain=occlusion", "", img)
	checkProblem(t, response, body, 400, "600×500", "explain_format=png")
	if p := predictOne(t, m, "?explain=occlusion&explain_format=png", img); p.Explanation == nil || p.Label != "red" {
		t.Errorf("%+v", p)
	}
}

func TestPredict_ThousandClasses(t *testing.T) {
	m := start(t, func(c *Config) { c.Model = []string{thousandColors().write(t)} })
	img := pngOf(t, solid(red, 100, 50))
	for query, want := range map[string]int{"": 5, "?top=2": 2, "?top=70": 70, "?top=1000": 1000} {
		p := predictOne(t, m, query, img)
		if len(p.Probabilities) != want || p.Label != "red" || p.Probabilities[0].Label != "red" || want == 1000 && math.Abs(total(p.Probabilities)-1) > 1e-9 {
			t.Errorf("%q: %+v", query, p)
		}
		seen := map[string]bool{}
		for _, one := range p.Probabilities {
			seen[one.Label] = true
		}
		if len(seen) != want || want == 1000 && (!seen["crane#134"] || !seen["crane#517"]) {
			t.Errorf("%q: %d different labels", query, len(seen))
		}
	}
	p := predictOne(t, m, "?input=png&explain=occlusion&explain_format=png", img)
	if decoded, err := png.Decode(bytes.NewReader(p.Input)); err != nil || decoded.Bounds() != image.Rect(0, 0, 40, 56) {
		t.Errorf("input: %v", err)
	}
	// Feedback accepts the labels of the model.
	for label, status := range map[string]int{"crane#134": 200, "class 999": 200, "crane": 422, "FAKE": 422} {
		response, body := do(t, "POST", m.URL()+"/feedback", "application/json", fmt.Appendf(nil, `{"id":%q,"label":%q}`, p.ID, label))
		if status == 422 {
			checkProblem(t, response, body, 422, label, `"red", "green", "blue", "class 3"`, "990 more")
		} else if response.StatusCode != status {
			t.Errorf("feedback %s: status %d, %s", label, response.StatusCode, body)
		}
	}
	if got := metric(t, m, `fakeart_feedback_total{correct="false",label="crane#134",model_name="fakeart"}`); got != 1 {
		t.Errorf("%g feedbacks counted, want 1", got)
	}
	_, body := do(t, "GET", m.URL()+"/log?limit=1", "", nil)
	var page api.LogPage
	if err := json.Unmarshal(body, &page); err != nil || page.Records[0].Label != "red" || page.Records[0].ModelName != "fakeart" || len(page.Records[0].Embedding) != 0 {
		t.Errorf("log: %s (%v)", body, err)
	}
}

// TestOIP_Uint8 sends tensors of bytes, in every form.
func TestOIP_Uint8(t *testing.T) {
	m := start(t, withGRPC, func(c *Config) { c.Model = []string{thousandColors().write(t)} })
	url := m.URL() + "/v2/models/fakeart"
	_, body := do(t, "GET", url, "", nil)
	want := `"inputs":[{"name":"pixels","datatype":"UINT8","shape":[-1,56,40,3]}],"outputs":[{"name":"scores","datatype":"FP32","shape":[-1,1000]}]`
	if !strings.Contains(string(body), want) {
		t.Errorf("metadata %s, want %s", body, want)
	}
	_, body = do(t, "GET", url+"/config", "", nil)
	if want := `"input":[{"name":"pixels","data_type":"TYPE_UINT8","format":"FORMAT_NHWC","dims":[56,40,3]}],"output":[{"name":"scores","data_type":"TYPE_FP32","dims":[1000]}]`; !strings.Contains(string(body), want) {
		t.Errorf("config %s, want %s", body, want)
	}
	pixels := bytes.Repeat([]byte{10, 20, 255}, 40*56) // blue
	numbers := strings.TrimSuffix(strings.Repeat("10,20,255,", 40*56), ",")
	header := `{"inputs":[{"name":"pixels","shape":[1,56,40,3],"datatype":"UINT8"`
	infer := func(body, lengthHeader string) (int, []byte) {
		request, err := http.NewRequestWithContext(t.Context(), "POST", url+"/infer", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if lengthHeader != "" {
			request.Header.Set(oip.LengthHeader, lengthHeader)
		}
		response, result := send(t, request)
		return response.StatusCode, result
	}
	binaryJSON := header + `,"parameters":{"binary_data_size":6720}}],"outputs":[{"name":"scores"}]}`
	for name, test := range map[string]struct{ body, header string }{
		"JSON":   {header + `,"data":[` + numbers + `]}]}`, ""},
		"binary": {binaryJSON + string(pixels), fmt.Sprint(len(binaryJSON))},
	} {
		status, body := infer(test.body, test.header)
		var r oip.InferResponse
		if err := json.Unmarshal(body, &r); err != nil || status != 200 || len(r.Outputs) != 1 || len(r.Outputs[0].Data) != 1000 || slices.Max(r.Outputs[0].Data) != r.Outputs[0].Data[2] {
			t.Errorf("%s: status %d, %.300s", name, status, body)
		}
	}
	status, body := infer(string(pixels), "0") // the tensor alone
	if status != 200 || !bytes.Contains(body, []byte(`"binary_data_size":4000`)) {
		t.Errorf("raw: status %d, %.300s", status, body)
	}
	for name, test := range map[string]struct{ body, want string }{
		"too_large":   {header + `,"data":[256,` + strings.Repeat("0,", 6718) + `0]}]}`, "256: out of range for UINT8"},
		"negative":    {header + `,"data":[-1,` + strings.Repeat("0,", 6718) + `0]}]}`, "-1: out of range for UINT8"},
		"fraction":    {header + `,"data":[0.5,` + strings.Repeat("0,", 6718) + `0]}]}`, "0.5: out of range for UINT8"},
		"wrong_type":  {strings.Replace(header, "UINT8", "FP32", 1) + `,"data":[` + numbers + `]}]}`, `datatype \"FP32\": expected \"UINT8\"`},
		"wrong_shape": {strings.Replace(header, "[1,56,40,3]", "[1,3,56,40]", 1) + `,"data":[` + numbers + `]}]}`, "expected [N,56,40,3]"},
		"wrong_name":  {strings.Replace(header, "pixels", "input", 1) + `,"data":[` + numbers + `]}]}`, `only input is \"pixels\", UINT8, [N,56,40,3]`},
		"embedding":   {header + `,"data":[` + numbers + `]}],"outputs":[{"name":"embedding"}]}`, `the model has only \"scores\"`},
	} {
		if status, body := infer(test.body, ""); status != 400 || !strings.Contains(string(body), test.want) {
			t.Errorf("%s: status %d, %.300s, want %s", name, status, body, test.want)
		}
	}

	conn := dialGRPC(t, m)
	typed := make([]uint32, len(pixels))
	for i, v := range pixels {
		typed[i] = uint32(v)
	}
	input := &oippb.ModelInferRequest_InferInputTensor{Name: "pixels", Datatype: "UINT8", Shape: []int64{1, 56, 40, 3}}
	withContents := proto.CloneOf(input)
	withContents.Contents = &oippb.InferTensorContents{UintContents: typed}
	for name, in := range map[string]*oippb.ModelInferRequest{
		"raw":   {ModelName: "fakeart", Inputs: []*oippb.ModelInferRequest_InferInputTensor{input}, RawInputContents: [][]byte{pixels}},
		"typed": {ModelName: "fakeart", Inputs: []*oippb.ModelInferRequest_InferInputTensor{withContents}},
	} {
		out, err := call[oippb.ModelInferResponse](t.Context(), conn, "ModelInfer", in)
		if err != nil || len(out.GetOutputs()) != 1 || out.GetOutputs()[0].GetShape()[1] != 1000 {
			t.Errorf("%s: %v, %v", name, out, err)
		}
	}
	typed[5] = 256
	if _, err := call[oippb.ModelInferResponse](t.Context(), conn, "ModelInfer", &oippb.ModelInferRequest{
		ModelName: "fakeart", Inputs: []*oippb.ModelInferRequest_InferInputTensor{withContents},
	}); err == nil || !strings.Contains(err.Error(), "256: out of range") {
		t.Errorf("error %v", err)
	}
	// The statistics in the log are those of the pixels.
	waitForRecords(t, m, 5)
	_, body = do(t, "GET", m.URL()+"/log?limit=1", "", nil)
	var page api.LogPage
	if err := json.Unmarshal(body, &page); err != nil || page.Records[0].Label != "blue" || page.Records[0].ImageFormat != "tensor" || page.Records[0].Width != 40 || page.Records[0].Height != 56 ||
		page.Records[0].ImageBytes != 6720 || math.Abs(page.Records[0].Mean-95.0/255) > 1e-9 {
		t.Errorf("log: %s (%v)", body, err)
	}
}

// TestOIP_Range checks that values are checked against the range of the model's preprocessing.
func TestOIP_Range(t *testing.T) {
	m := start(t, func(c *Config) { c.Model = []string{tenColors().write(t)} })
	infer := func(value float32) (int, string) {
		data := make([]byte, 0, 4*3*48*64)
		for range 3 * 48 * 64 {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(value))
		}
		request, err := http.NewRequestWithContext(t.Context(), "POST", m.URL()+"/v2/models/fakeart/infer", bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set(oip.LengthHeader, "0")
		response, body := send(t, request)
		return response.StatusCode, string(body)
	}
	for _, value := range []float32{-2.1179, 0, 2.64} { // (0-0.485)/0.229 to (1-0.406)/0.225
		if status, body := infer(value); status != 200 {
			t.Errorf("%g: status %d, %s", value, status, body)
		}
	}
	for _, value := range []float32{-2.2, 2.7, 255} {
		if status, body := infer(value); status != 400 || !strings.Contains(body, "expected -2.118 to 2.64") {
			t.Errorf("%g: status %d, %s", value, status, body)
		}
	}
}

// startTwo starts a server with the models colors and cifake.
func startTwo(t *testing.T, change ...func(*Config)) *Main {
	t.Helper()
	return start(t, append([]func(*Config){func(c *Config) {
		c.Model = []string{"colors=" + tenColors().write(t) + ",cifake=" + writeModel(t, redDetector(t), metadata())}
	}}, change...)...)
}

func TestSeveralModels(t *testing.T) {
	m := startTwo(t, withGRPC)
	img := pngOf(t, solid(color.RGBA{G: 255, A: 255}, 32, 32))
	for query, want := range map[string]struct{ label, name string }{
		"": {"green", "colors"}, "?model=colors": {"green", "colors"}, "?model=cifake": {model.Real, "cifake"}, "?model=cifake&explain=occlusion": {model.Real, "cifake"},
	} {
		p := predictOne(t, m, query, img)
		if p.Label != want.label || p.ModelName != want.name || (p.IsAI != nil) != (want.name == "cifake") || p.Model != digestNamed(t, m, want.name) {
			t.Errorf("%q: %+v, want %s by %s", query, p, want.label, want.name)
		}
	}
	response, body := do(t, "POST", m.URL()+"/predict?model=dogs", "", img)
	checkProblem(t, response, body, 404, `unknown model "dogs"`, `"colors", "cifake"`)
	for _, path := range []string{"/models?model=dogs", "/models/current?model=dogs"} {
		response, body = do(t, "GET", m.URL()+path, "", nil)
		checkProblem(t, response, body, 404, `"dogs"`)
	}
	response, body = do(t, "PUT", m.URL()+"/models/current?model=dogs", "application/json", []byte(`{"model":"previous"}`))
	checkProblem(t, response, body, 404, `"dogs"`)

	// The log, metrics and feedback name the model.
	waitForRecords(t, m, 4)
	p := predictOne(t, m, "?model=cifake", img)
	waitForRecords(t, m, 5)
	_, body = do(t, "GET", m.URL()+"/log?limit=1", "", nil)
	if !bytes.Contains(body, []byte(`"model_name":"cifake"`)) {
		t.Errorf("log: %s", body)
	}
	if response, body := do(t, "POST", m.URL()+"/feedback", "", fmt.Appendf(nil, `{"id":%q,"label":"green"}`, p.ID)); response.StatusCode != 422 || !bytes.Contains(body, []byte(`\"REAL\", \"FAKE\"`)) {
		t.Errorf("feedback with another model's label: status %d, %s", response.StatusCode, body)
	}
	if response, body := do(t, "POST", m.URL()+"/feedback", "", fmt.Appendf(nil, `{"id":%q,"label":"FAKE"}`, p.ID)); response.StatusCode != 200 {
		t.Errorf("feedback: status %d, %s", response.StatusCode, body)
	}
	for name, want := range map[string]float64{
		`fakeart_predictions_total{label="REAL",model="` + digestNamed(t, m, "cifake") + `",model_name="cifake"}`: 3,
		`fakeart_feedback_total{correct="false",label="FAKE",model_name="cifake"}`:                                1,
		`fakeart_feedback_accuracy_ratio{model_name="cifake"}`:                                                    0,
		`fakeart_probability_count{model_name="colors"}`:                                                          2,
	} {
		if got := metric(t, m, name); got != want {
			t.Errorf("%s = %g, want %g", name, got, want)
		}
	}

	// The Open Inference Protocol, over HTTP and gRPC.
	conn := dialGRPC(t, m)
	for name, shape := range map[string]string{"colors": "[-1,3,48,64]", "cifake": "[-1,3,32,32]"} {
		_, body := do(t, "GET", m.URL()+"/v2/models/"+name, "", nil)
		if !bytes.Contains(body, []byte(shape)) || !bytes.Contains(body, []byte(`"name":"`+name+`"`)) {
			t.Errorf("metadata of %s: %s", name, body)
		}
		for _, path := range []string{"/ready", "/config", "/stats", "/versions/" + digestNamed(t, m, name), "/versions/" + digestNamed(t, m, name) + "/ready"} {
			if response, body := do(t, "GET", m.URL()+"/v2/models/"+name+path, "", nil); response.StatusCode != 200 || !bytes.Contains(body, []byte(`"`+name+`"`)) {
				t.Errorf("%s of %s: status %d, %s", path, name, response.StatusCode, body)
			}
		}
		out, err := call[oippb.ModelMetadataResponse](t.Context(), conn, "ModelMetadata", &oippb.ModelMetadataRequest{Name: name})
		if err != nil || out.GetName() != name || out.GetInputs()[0].GetShape()[2] == 0 {
			t.Errorf("gRPC metadata of %s: %v, %v", name, out, err)
		}
	}
	_, body = do(t, "GET", m.URL()+"/v2/models/stats", "", nil)
	var stats oip.Statistics
	if err := json.Unmarshal(body, &stats); err != nil || len(stats.ModelStats) != 2 || stats.ModelStats[0].Name != "colors" || stats.ModelStats[1].InferenceCount != 3 {
		t.Errorf("statistics: %s", body)
	}
	index, err := call[oippb.RepositoryIndexResponse](t.Context(), conn, "RepositoryIndex", &oippb.RepositoryIndexRequest{})
	if err != nil || len(index.GetModels()) != 2 || index.GetModels()[1].GetName() != "cifake" || index.GetModels()[1].GetState() != "READY" {
		t.Errorf("index: %v, %v", index, err)
	}
	response, body = do(t, "GET", m.URL()+"/v2/models/colors/versions/"+digestNamed(t, m, "cifake"), "", nil)
	if response.StatusCode != 404 {
		t.Errorf("version of another model: status %d, %s", response.StatusCode, body)
	}

	// Each model has its own source and history.
	var list Models
	_, body = do(t, "GET", m.URL()+"/models?model=cifake", "", nil)
	if err := json.Unmarshal(body, &list); err != nil || len(list.Served) != 2 || list.Served[0].Name != "colors" || list.Served[1].Model != digestNamed(t, m, "cifake") || len(list.Models) != 1 || !list.Models[0].Current {
		t.Errorf("models: %s", body)
	}
	other := writeFile(t, "blue.onnx", modelBytes(t, detector(t, 2)))
	response, body = do(t, "PUT", m.URL()+"/models/current?model=cifake", "application/json", fmt.Appendf(nil, `{"model":"file://%s"}`, other))
	if response.StatusCode != 200 || !bytes.Contains(body, []byte(`"model_name":"cifake"`)) {
		t.Fatalf("change: status %d, %s", response.StatusCode, body)
	}
	if p := predictOne(t, m, "?model=cifake", pngOf(t, solid(blue, 32, 32))); p.Label != model.Fake {
		t.Errorf("after the change: %+v", p)
	}
	if p := predictOne(t, m, "", img); p.Label != "green" {
		t.Errorf("the other model after the change: %+v", p)
	}
	response, body = do(t, "PUT", m.URL()+"/models/current?model=colors", "application/json", []byte(`{"model":"previous"}`))
	checkProblem(t, response, body, 409, "no previous model")
	response, _ = do(t, "PUT", m.URL()+"/models/current?model=cifake", "application/json", []byte(`{"model":"previous"}`))
	if p := predictOne(t, m, "?model=cifake", pngOf(t, solid(blue, 32, 32))); response.StatusCode != 200 || p.Label != model.Real {
		t.Errorf("after the rollback: %+v", p)
	}
}

// digestNamed returns the digest of the model in use with the name.
func digestNamed(t *testing.T, m *Main, name string) string {
	t.Helper()
	d, err := m.models.Find(name)
	if err != nil {
		t.Fatal(err)
	}
	return d.Current().File.Digest
}

// TestSeveralModels_Missing checks that the other models are served while one is missing.
func TestSeveralModels_Missing(t *testing.T) {
	dir := t.TempDir()
	m := start(t, func(c *Config) {
		c.Model, c.ModelWatch = []string{"cifake=" + writeModel(t, redDetector(t), metadata()), "colors=" + dir}, interval(20*time.Millisecond)
	})
	img := pngOf(t, solid(red, 32, 32))
	if p := predictOne(t, m, "", img); p.Label != model.Fake {
		t.Errorf("%+v", p)
	}
	response, body := do(t, "POST", m.URL()+"/predict?model=colors", "", img)
	checkProblem(t, response, body, 503, `no model is loaded yet as "colors"`, "no model in the folder")
	response, body = do(t, "GET", m.URL()+"/readyz", "", nil)
	checkProblem(t, response, body, 503, "colors")
	for path, status := range map[string]int{"/v2/models/cifake/ready": 200, "/v2/models/colors/ready": 503, "/v2/health/ready": 503} {
		if response, body := do(t, "GET", m.URL()+path, "", nil); response.StatusCode != status {
			t.Errorf("%s: status %d, %s", path, response.StatusCode, body)
		}
	}
	_, body = do(t, "POST", m.URL()+"/v2/repository/index", "", []byte(`{"ready":true}`))
	if !bytes.Contains(body, []byte("cifake")) || bytes.Contains(body, []byte("colors")) {
		t.Errorf("ready models: %s", body)
	}
	publish(t, filepath.Join(dir, "a.onnx"), tenColors().bytes(t))
	waitFor(t, "the model", func() bool {
		response, _ := do(t, "GET", m.URL()+"/readyz", "", nil)
		return response.StatusCode == 200
	})
	if p := predictOne(t, m, "?model=colors", img); p.Label != "red" {
		t.Errorf("%+v", p)
	}
}

// TestModelChange_OtherClassesUnderLoad swaps between models with other classes, sizes and types of input under load. It checks that no
// request fails.
func TestModelChange_OtherClassesUnderLoad(t *testing.T) {
	dir := t.TempDir()
	files := map[string][]byte{"cifake.onnx": modelBytes(t, redDetector(t)), "ten.onnx": tenColors().bytes(t), "thousand.onnx": thousandColors().bytes(t)}
	want := map[string]string{digestOf(files["cifake.onnx"]): model.Fake, digestOf(files["ten.onnx"]): "red", digestOf(files["thousand.onnx"]): "red"}
	for name, data := range files {
		publish(t, filepath.Join(dir, name), data)
	}
	m := start(t, func(c *Config) { c.Model = []string{filepath.Join(dir, "cifake.onnx")} })
	img := pngOf(t, solid(red, 300, 200))
	manyType, many := newForm(t, field{"data", "a", img}, field{"data", "b", img}, field{"data", "c", img})
	var stop atomic.Bool
	var group sync.WaitGroup
	for i := range 6 {
		group.Go(func() {
			for !stop.Load() {
				contentType, requestBody, query := "", img, []string{"", "?input=png", "?top=2"}[i%3]
				if i == 0 {
					contentType, requestBody = manyType, many
				}
				response, body := do(t, "POST", m.URL()+"/predict"+query, contentType, requestBody)
				if response.StatusCode != 200 {
					t.Errorf("status %d: %s", response.StatusCode, body)
					return
				}
				items := []Item{{}}
				if i == 0 {
					items = predictions(t, response, body)
				} else if err := json.Unmarshal(body, &items[0].Prediction); err != nil {
					t.Error(err)
					return
				}
				for _, item := range items {
					if item.Prediction == nil || want[item.Model] != item.Label {
						t.Errorf("%s", body)
						return
					}
				}
			}
		})
	}
	for i := range 24 {
		mustChange(t, m, "file://"+filepath.Join(dir, []string{"ten.onnx", "thousand.onnx", "cifake.onnx"}[i%3]), "")
		for range 2 { // while requests of the old model are in flight
			predictOne(t, m, "", img)
		}
	}
	stop.Store(true)
	group.Wait()
	// Documents that describe the model follow it.
	for name, words := range map[string][]string{"thousand.onnx": {"[-1,56,40,3]", "UINT8", "1000"}, "ten.onnx": {"[-1,3,48,64]", "FP32", "features"}} {
		mustChange(t, m, "file://"+filepath.Join(dir, name), "")
		_, body := do(t, "GET", m.URL()+"/v2/models/fakeart", "", nil)
		for _, word := range words {
			if !bytes.Contains(body, []byte(word)) {
				t.Errorf("metadata of %s: %s, want %s", name, body, word)
			}
		}
	}
	if p := predictOne(t, m, "", img); len(p.Probabilities) != 10 && len(p.Probabilities) != 5 {
		t.Errorf("%+v", p)
	}
}

// TestModelMemory checks that a model that needs too much memory is rejected, and the old one stays in use.
func TestModelMemory(t *testing.T) {
	huge := classifier{classes: tenClasses, width: 2048, height: 2048} // 48 MiB per image
	path := huge.write(t)
	m := start(t, func(c *Config) { c.ModelMemory = 100 << 20 })
	before := inUse(m)
	response, body := change(t, m, "file://"+path, "")
	checkProblem(t, response, body, 422, "not enough memory for the model", "100.0 MiB", "--model-memory")
	if inUse(m) != before {
		t.Errorf("in use is %s", inUse(m))
	}
	response, body = do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 32, 32)))
	checkPrediction(t, m, response, body, model.Fake)
	// The memory of replaced models is free again.
	for range 50 {
		mustChange(t, m, "file://"+writeFile(t, "a.onnx", modelBytes(t, detector(t, 2))), "")
		mustChange(t, m, "previous", "")
	}
	config := testConfig(t, path)
	config.ModelMemory = 100 << 20
	refused := NewMain(config, slog.New(slog.DiscardHandler))
	err := refused.Run(t.Context())
	_ = refused.Close()
	if err == nil || !strings.Contains(err.Error(), "--model-memory") {
		t.Errorf("error %v", err)
	}
}

// TestModelMemory_SmallerBatches checks that a fast model with a large input runs in smaller batches if its usual ones need too much memory.
func TestModelMemory_SmallerBatches(t *testing.T) {
	path := classifier{classes: tenClasses, width: 224, height: 224}.write(t)
	m := start(t, func(c *Config) { c.Model, c.Workers, c.ModelMemory = []string{path}, 1, 128<<20 })
	if use := m.models.Default().Current(); use.MaxBatch() >= m.config.MaxBatch || use.Memory() > 128<<20 {
		t.Errorf("batches of %d, %d bytes; want smaller batches within the limit", use.MaxBatch(), use.Memory())
	}
	response, body := do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 32, 32)))
	if response.StatusCode != 200 {
		t.Errorf("status %d: %s", response.StatusCode, body)
	}
}

// TestQueueMemory checks that the inputs of large models are bounded together.
func TestQueueMemory(t *testing.T) {
	m := start(t, func(c *Config) {
		c.Model, c.MaxMemory = []string{classifier{classes: tenClasses, width: 512, height: 512}.write(t)}, 8<<20 // 3 MiB per image
	})
	img := pngOf(t, solid(red, 8, 8))
	contentType, body := newForm(t, field{"data", "a", img}, field{"data", "b", img}, field{"data", "c", img})
	response, respBody := do(t, "POST", m.URL()+"/predict", contentType, body)
	checkProblem(t, response, respBody, 413, "at most 2 images")
	contentType, body = newForm(t, field{"data", "a", img}, field{"data", "b", img})
	if response, respBody = do(t, "POST", m.URL()+"/predict", contentType, body); response.StatusCode != 200 {
		t.Errorf("status %d: %s", response.StatusCode, respBody)
	}
}

func TestPredict_NoEmbedding(t *testing.T) {
	m := start(t, func(c *Config) { c.Model = []string{classifier{classes: tenClasses, width: 32, height: 32}.write(t)} })
	response, body := do(t, "POST", m.URL()+"/predict?embedding=true", "", pngOf(t, solid(red, 8, 8)))
	checkProblem(t, response, body, 422, "the model has no embedding")
}

func TestConfig_Models(t *testing.T) {
	for _, test := range []struct {
		name  string
		args  []string
		want  string // name=URL@digest of each model, or words of an error
		fails bool
	}{
		{"one", []string{"--model=a.onnx"}, "fakeart=a.onnx@", false},
		{"comma", []string{"--model=a,b.onnx"}, "fakeart=a,b.onnx@", false},
		{"parameters", []string{"--model=s3://b/k?region=x"}, "fakeart=s3://b/k?region=x@", false},
		{"named", []string{"--model", "cats=a.onnx", "--model", "dogs=s3://b/k?region=x"}, "cats=a.onnx@ dogs=s3://b/k?region=x@", false},
		{"list", []string{"--model=cats=a,b.onnx,dogs=gs://b/x/"}, "cats=a,b.onnx@ dogs=gs://b/x/@", false},
		{"one_named_one_not", []string{"--model=a.onnx", "--model=dogs=b.onnx"}, "fakeart=a.onnx@ dogs=b.onnx@", false},
		{"digests", []string{"--model=cats=a,dogs=b", "--model-sha256=dogs=" + strings.Repeat("1", 64)}, "cats=a@ dogs=b@" + strings.Repeat("1", 64), false},
		{"digest", []string{"--model=cats=a", "--model-sha256=" + strings.Repeat("1", 64)}, "cats=a@" + strings.Repeat("1", 64), false},
		{"without_names", []string{"--model=a.onnx", "--model=b.onnx"}, "several models need names", true},
		{"same_name", []string{"--model=x=a.onnx", "--model=x=b.onnx"}, "two models have the name x", true},
		{"invalid_name", []string{"--model=my model=a.onnx"}, "invalid name", true},
		{"no_URL", []string{"--model=cats="}, "URL is missing", true},
		{"reserved", []string{"--model=stats=a.onnx"}, "reserved", true},
		{"digest_without_name", []string{"--model=x=a,y=b", "--model-sha256=" + strings.Repeat("1", 64)}, "needs a name", true},
		{"digest_of_unknown", []string{"--model=x=a", "--model-sha256=z=" + strings.Repeat("1", 64)}, "no --model has the name z", true},
		{"invalid_digest", []string{"--model=x=a", "--model-sha256=x=123"}, "64 hexadecimal", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := parsed(t, test.args...)
			if test.fails {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want %q", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := modelsOf(t, c); got != test.want {
				t.Errorf("models %s, want %s", got, test.want)
			}
		})
	}
	t.Setenv("FAKEART_MODEL", "cats=a.onnx,dogs=b.onnx")
	c, err := parsed(t)
	if err != nil || modelsOf(t, c) != "cats=a.onnx@ dogs=b.onnx@" {
		t.Errorf("by the variable: %v, %v", c, err)
	}
	text, err := c.print()
	if err != nil || !strings.Contains(text, "- cats=a.onnx\n") {
		t.Errorf("printed: %s, %v", text, err)
	}
	path := writeFile(t, "config.yaml", []byte("model: [cats=x.onnx, dogs=y.onnx]\n"))
	if err := os.Unsetenv("FAKEART_MODEL"); err != nil {
		t.Fatal(err)
	}
	if c, err = parsed(t, "--config", path); err != nil || modelsOf(t, c) != "cats=x.onnx@ dogs=y.onnx@" {
		t.Errorf("by the file: %v, %v", c, err)
	}
}

// modelsOf formats the models of a configuration as NAME=URL@DIGEST.
func modelsOf(t *testing.T, c *Config) string {
	t.Helper()
	refs, err := models.ParseRefs(c.Model, c.ModelSHA256)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, r := range refs {
		texts = append(texts, r.Name+"="+r.URL+"@"+r.Digest)
	}
	return strings.Join(texts, " ")
}
