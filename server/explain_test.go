package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"fakeart/internal/explain"
	"fakeart/internal/model"
	"fakeart/internal/onnx"
	"fakeart/internal/onnx/onnxpb"
	"fakeart/server/infer"
)

// explainableDetector is like detector with Grad-CAM: its saliency at a pixel is the amount of the
// color above one half.
func explainableDetector(t testing.TB, colour int64) *onnxpb.ModelProto {
	t.Helper()
	weights := []float32{0, 0, 0}
	weights[colour] = 8
	g := onnx.NewGraph("detector that explains")
	x := g.Input("input", onnx.Float32, onnx.Batch, 3, 32, 32)
	mean := g.ReduceMean(x, 2, 3)
	g.Output("logit", g.Gemm(mean, g.Param("w", weights, 1, 3), false, true, g.Param("b", []float32{-4}, 1)))
	g.Output("embedding", mean)
	g.Output("gradcam", g.Reshape(g.Sub(g.Slice(x, 1, colour, colour+1), g.Scalar(0.5)), onnx.Batch, 32, 32))
	graph, err := g.Model()
	if err != nil {
		t.Fatal(err)
	}
	return graph
}

// startExplainable starts a server with the model of explainableDetector.
func startExplainable(t *testing.T, change ...func(*Config)) *Main {
	t.Helper()
	path := writeModel(t, explainableDetector(t, 0), metadata())
	return start(t, append([]func(*Config){func(c *Config) { c.Model = []string{path} }}, change...)...)
}

// leftRed returns an image whose first columns are red and the others black.
func leftRed(t *testing.T, columns int) []byte {
	m := image.NewRGBA(image.Rect(0, 0, 32, 32))
	for y := range 32 {
		for x := range 32 {
			m.Set(x, y, color.RGBA{A: 255})
			if x < columns {
				m.Set(x, y, red)
			}
		}
	}
	return pngOf(t, m)
}

// predictOne sends one image.
func predictOne(t *testing.T, m *Main, query string, img []byte) Prediction {
	t.Helper()
	response, body := do(t, "POST", m.URL()+"/predict"+query, "", img)
	var p Prediction
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %s (%v)", response.StatusCode, body, err)
	}
	return p
}

// sides returns the means of the saliency map left and right of a column.
func sides(t *testing.T, e *Explanation, column int) (left, right float32) {
	t.Helper()
	if e == nil || len(e.Map) != 32 {
		t.Fatalf("no map of 32 rows: %+v", e)
	}
	for _, row := range e.Map {
		if len(row) != 32 {
			t.Fatalf("a row of %d", len(row))
		}
		for x, v := range row {
			if v < 0 || v > 1 || float32(int(v*1e4+0.5))/1e4 != v {
				t.Fatalf("%g is not in [0,1], or has more than 4 decimals", v)
			}
			if x < column {
				left += v / float32(32*column)
			} else {
				right += v / float32(32*(32-column))
			}
		}
	}
	return left, right
}

func TestPredict_Explain(t *testing.T) {
	m := startExplainable(t)
	for _, c := range []struct {
		columns int
		label   string
	}{{20, model.Fake}, {12, model.Real}} {
		img := leftRed(t, c.columns)
		plain := predictOne(t, m, "", img)
		if plain.Explanation != nil {
			t.Error("explanation without ?explain")
		}
		for _, method := range explain.Methods() {
			p := predictOne(t, m, "?explain="+string(method)+"&embedding=true", img)
			if p.Explanation == nil || p.Explanation.Method != method || p.Explanation.PNG != nil || len(p.Embedding) != 3 {
				t.Fatalf("%+v", p)
			}
			left, right := sides(t, p.Explanation, c.columns)
			if c.label == model.Real { // black areas contribute to REAL
				left, right = right, left
			}
			if p.Label != c.label || left < 0.5 || right > 0.3 || method == explain.GradCAM && (left < 0.999 || right != 0) {
				t.Errorf("%s of %s: mean %g in the contributing area, %g outside", method, p.Label, left, right)
			}
			if diff := cmp.Diff(plain, p, cmpopts.IgnoreFields(Prediction{}, "ID", "Explanation", "Embedding")); diff != "" {
				t.Errorf("the explanation changed the prediction: %s", diff)
			}
			// The PNG contains the same map.
			drawn := predictOne(t, m, "?explain_format=png&explain="+string(method), img).Explanation
			if drawn.Map != nil {
				t.Error("both formats at once")
			}
			decoded, err := png.Decode(bytes.NewReader(drawn.PNG))
			if err != nil {
				t.Fatal(err)
			}
			grey, ok := decoded.(*image.Gray)
			if !ok || grey.Bounds() != image.Rect(0, 0, 32, 32) {
				t.Fatalf("a %T of %v", decoded, decoded.Bounds())
			}
			for i, v := range grey.Pix {
				if want := 255 * p.Explanation.Map[i/32][i%32]; float32(v) < want-0.6 || float32(v) > want+0.6 {
					t.Fatalf("pixel %d is %d, want %g", i, v, want)
				}
			}
		}
	}
	if got := metric(t, m, `fakeart_explanations_total{method="gradcam"}`); got != 4 {
		t.Errorf("%g explanations by Grad-CAM are counted, want 4", got)
	}
	if got := metric(t, m, `fakeart_explanation_duration_seconds_count{method="occlusion"}`); got != 4 {
		t.Errorf("%g explanations by occlusion have a duration, want 4", got)
	}
}

func TestPredict_ExplainBatch(t *testing.T) {
	m := startExplainable(t)
	var fields []field
	for i := range 128 {
		fields = append(fields, field{"data", fmt.Sprint(i), leftRed(t, i%33)})
	}
	fields[7].content = []byte("hello")
	contentType, form := newForm(t, fields...)
	for _, method := range explain.Methods() {
		response, body := do(t, "POST", m.URL()+"/model/?explain="+string(method), contentType, form)
		items := predictions(t, response, body)
		for i, item := range items {
			if i == 7 {
				if item.Error == nil || item.Error.Status != 415 {
					t.Errorf("%+v", item)
				}
				continue
			}
			columns := i % 33
			if columns < 4 || columns > 28 {
				continue // almost one color
			}
			left, right := sides(t, item.Explanation, columns)
			if (left > right) != (item.Label == model.Fake) {
				t.Errorf("%s of image %d, %s: mean %g on red, %g outside", method, i, item.Label, left, right)
			}
		}
	}
	waitForRecords(t, m, 2*127)
}

func TestPredict_ExplainInvalid(t *testing.T) {
	m, old := startExplainable(t), start(t)
	img := leftRed(t, 20)
	for _, c := range []struct {
		m      *Main
		query  string
		status int
		words  []string
	}{
		{m, "explain=lime", 400, []string{`explain="lime"`, "gradcam, occlusion"}},
		{m, "explain=GradCAM", 400, []string{"gradcam, occlusion"}},
		{m, "explain=gradcam&explain_format=svg", 400, []string{`explain_format="svg"`, "array, png"}},
		{m, "explain_format=svg", 400, []string{"array, png"}},
		{m, "explain=" + strings.Repeat("x", 1000), 400, []string{"gradcam, occlusion"}},
		{old, "explain=gradcam", 422, []string{"no class-activation map", "occlusion"}},
	} {
		response, body := do(t, "POST", c.m.URL()+"/predict?"+c.query, "", img)
		checkProblem(t, response, body, c.status, c.words...)
	}
	// No image was classified.
	if got := metric(t, m, `fakeart_probability_count{model_name="fakeart"}`); got != 0 {
		t.Errorf("%g images were classified", got)
	}
	for _, query := range []string{"", "?explain_format=png"} {
		if p := predictOne(t, m, query, img); p.Explanation != nil {
			t.Errorf("%s: %+v", query, p)
		}
	}
	if left, right := sides(t, predictOne(t, old, "?explain=occlusion", img).Explanation, 20); left < 3*right {
		t.Errorf("occlusion of an older model: mean %g on red, %g outside", left, right)
	}
}

func TestPredict_ExplainRejectedNotLogged(t *testing.T) {
	m := startExplainable(t)
	img := leftRed(t, 20)
	rejected := func(words ...string) {
		t.Helper()
		response, body := do(t, "POST", m.URL()+"/predict?explain=occlusion", "", img)
		checkProblem(t, response, body, 503, words...)
		if response.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	others, err := m.models.Default().Admit(1, time.Now().Add(time.Minute), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := others.AdmitExplanations(explain.Occlusion, 256); err != nil {
		t.Fatal(err)
	}
	rejected(infer.ErrTooManyExplanations.Error())
	others.Close()
	predictOne(t, m, "?explain=occlusion", img)
	close(m.rejectWaiting) // as during shutdown
	rejected(infer.ErrClosed.Error())
	id := predictOne(t, m, "", img).ID
	waitForRecords(t, m, 2)
	if page := logPage(t, m, ""); len(page.Records) != 2 || page.Records[0].ID != id {
		t.Errorf("records %+v, want only those of successful responses, the last one %s", page.Records, id)
	}
}

// Each explanation must be computed by the model that made the prediction, even if another model is in
// use by then.
func TestPredict_ExplainDuringModelChange(t *testing.T) {
	m, dir, _ := startFolder(t)
	files := map[string][]byte{ // in the order of their names
		"a.onnx": modelBytes(t, explainableDetector(t, 0)),
		"b.onnx": modelBytes(t, explainableDetector(t, 2)),
		"c.onnx": modelBytes(t, detector(t, 1)), // without Grad-CAM
	}
	var refs []string
	for _, name := range []string{"a.onnx", "b.onnx", "c.onnx"} {
		refs = append(refs, publish(t, filepath.Join(dir, name), files[name]))
	}
	mustChange(t, m, refs[0], "")
	sees := map[string]bool{digestOf(files["a.onnx"]): true, digestOf(files["b.onnx"]): true}
	img := leftRed(t, 20)
	var stop atomic.Bool
	var maps [2]atomic.Int64
	var group sync.WaitGroup
	for i := range 6 {
		group.Go(func() {
			method := explain.Methods()[i%2]
			for !stop.Load() {
				response, body := do(t, "POST", m.URL()+"/predict?explain="+string(method), "", img)
				if response.StatusCode == 422 && method == explain.GradCAM {
					continue // it is c's turn
				}
				var p Prediction
				if err := json.Unmarshal(body, &p); err != nil || response.StatusCode != 200 {
					t.Errorf("status %d: %.300s", response.StatusCode, body)
					return
				}
				left, right := sides(t, p.Explanation, 20)
				switch {
				case method == explain.GradCAM && !sees[p.Model]:
					t.Errorf("%s explains by Grad-CAM without supporting it", p.Model)
				case p.Label == model.Fake && left < 2*right:
					t.Errorf("%s: mean %g on red, %g outside", method, left, right)
				case method == explain.GradCAM && p.Label == model.Real && (left < 0.99 || right < 0.99):
					t.Errorf("mean %g and %g for REAL of an image without blue, want about 1", left, right)
				}
				maps[i%2].Add(1)
			}
		})
	}
	for i := range 30 {
		before := [2]int64{maps[0].Load(), maps[1].Load()}
		mustChange(t, m, refs[i%3], "")
		waitFor(t, "explanations between two model changes", func() bool {
			return maps[1].Load() > before[1] && (i%3 == 2 || maps[0].Load() > before[0])
		})
	}
	stop.Store(true)
	group.Wait()
	t.Logf("%d maps by Grad-CAM and %d by occlusion during 30 changes", maps[0].Load(), maps[1].Load())
}

func TestPredict_ExplainCORS(t *testing.T) {
	m := startExplainable(t, func(c *Config) { c.CORSOrigin = []string{"https://example.org"} })
	request, err := http.NewRequestWithContext(t.Context(), "POST", m.URL()+"/predict?explain=gradcam", bytes.NewReader(leftRed(t, 20)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Origin", "https://example.org")
	if response, _ := send(t, request); response.StatusCode != 200 || response.Header.Get("Access-Control-Allow-Origin") != "https://example.org" {
		t.Errorf("status %d, header %v", response.StatusCode, response.Header)
	}
}

func TestExplanation_JSON(t *testing.T) {
	values := make([]float32, 32*32)
	for i := range values {
		values[i] = float32(i) / 1023
	}
	var e Explanation
	text := explanationRequest{explain.Occlusion, explainArray}.append(nil, values, 32)
	if err := json.Unmarshal(bytes.TrimPrefix(text, []byte(`,"explanation":`)), &e); err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	if got := bytes.TrimPrefix(text, []byte(`,"explanation":`)); !bytes.Equal(got, want) {
		t.Errorf("%.200s\nwant %.200s", got, want)
	}
	if e.Map[0][1] != 0.001 || e.Map[31][31] != 1 || !slices.IsSorted(slices.Concat(e.Map...)) {
		t.Errorf("map %v", e.Map)
	}
}
