package foreign_test

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/onnx"
	"fakeart/internal/onnx/onnxpb"
	"fakeart/internal/ort"
	"fakeart/trainer/foreign"
)

// abc are the classes of the test networks.
var abc = foreign.Settings{Classes: []string{"a", "b", "c"}}

func mustImport(t *testing.T, path string, o foreign.Options) *foreign.Imported {
	t.Helper()
	imported, err := foreign.Import(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return imported
}

// wantError checks that an error contains all parts and a hint.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error = %q, want it to contain %q", err, part)
		}
	}
}

// scores runs an imported model on drawn pixels and returns scores, class-activation maps and embeddings of a batch.
func scores(t *testing.T, f *model.File, batch int) (s, cam, embedding []float32) {
	t.Helper()
	session, err := f.NewExplainer(batch, ort.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = session.Close() }()
	pixels := make([]uint8, f.Plan.Len())
	for i := range batch {
		for j := range pixels {
			pixels[j] = uint8(j*(i+3) + i*j/7)
		}
		session.Fill(i, pixels)
	}
	if err := session.Run(batch); err != nil {
		t.Fatal(err)
	}
	return slices.Clone(session.Scores()), slices.Clone(session.CAM()), slices.Clone(session.Embeddings())
}

func TestImport(t *testing.T) {
	for name, test := range map[string]struct {
		path    string
		options foreign.Options
		want    model.Metadata
		free    bool
		cam     bool
	}{
		"dynamo_external_data_fixed_batch": {
			path: "testdata/dynamo/model.onnx", options: foreign.Options{Settings: abc, Preset: "torchvision"}, free: true, cam: true,
			want: model.Metadata{Name: "model", Classes: abc.Classes, OutputKind: model.Logits, Columns: 3, Input: "image"},
		},
		"torchscript": {
			path: "testdata/torchscript.onnx", options: foreign.Options{Settings: abc, Preset: "torchvision"}, free: true, cam: true,
			want: model.Metadata{Name: "torchscript", Classes: abc.Classes, OutputKind: model.Logits, Columns: 3, Input: "input.1"},
		},
		"dynamic_batch": {
			path: "testdata/dynamic.onnx", options: foreign.Options{Settings: abc, Preset: "timm", Name: "mine", License: "MIT", Source: "https://example.com", Description: "Tests."},
			free: true, cam: true,
			want: model.Metadata{Name: "mine", License: "MIT", Source: "https://example.com", Description: "Tests.", Classes: abc.Classes, OutputKind: model.Logits, Columns: 3, Input: "image"},
		},
		"uint8_NHWC_softmax": {
			path: "testdata/uint8.onnx", options: foreign.Options{Settings: abc, Preset: "torchvision"}, free: true, cam: true,
			want: model.Metadata{Name: "uint8", Classes: abc.Classes, OutputKind: model.Probabilities, Columns: 3, Input: "image"},
		},
		"timm": {
			path: "testdata/timm/model.onnx", free: true,
			want: model.Metadata{Name: "model", Classes: []string{"tench, Tinca tinca", `the "big" one`, "C#", "crane", "crane"}, OutputKind: model.Logits, Columns: 5, Input: "x"},
		},
		"transformers": {
			path: "testdata/transformers/onnx/model.onnx", free: true,
			want: model.Metadata{
				Name: "model", OutputKind: model.Logits, Columns: 11, Input: "pixel_values",
				Classes: []string{"label 0", "label 1", "label 2", "label 3", "label 4", "label 5", "label 6", "label 7", "label 8", "label 9", "label 10"},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			imported := mustImport(t, test.path, test.options)
			md := imported.File.Metadata
			if md.Name != test.want.Name || md.License != test.want.License || md.Source != test.want.Source || md.Description != test.want.Description ||
				!slices.Equal(md.Classes, test.want.Classes) || md.OutputKind != test.want.OutputKind || md.Columns != test.want.Columns || md.Input != test.want.Input {
				t.Errorf("metadata = %+v, want %+v", md, test.want)
			}
			if md.Embedding == "" || imported.File.EmbeddingSize < 8 {
				t.Errorf("embedding %q has %d values", md.Embedding, imported.File.EmbeddingSize)
			}
			if imported.File.HasCAM() != test.cam {
				t.Errorf("class-activation map = %v, want %v; notes: %q", imported.File.HasCAM(), test.cam, imported.Notes)
			}
			if got := slices.ContainsFunc(imported.Notes, func(n string) bool { return strings.Contains(n, "one image at a time") }); got == test.free {
				t.Errorf("notes = %q", imported.Notes)
			}
			for _, private := range []string{"export.py", "site-packages", "stack_trace"} {
				if bytes.Contains(imported.Data, []byte(private)) {
					t.Errorf("the file contains %q", private)
				}
			}
			again := mustImport(t, test.path, test.options)
			if !bytes.Equal(again.Data, imported.Data) {
				t.Error("a second import gives another file")
			}
			var m onnxpb.ModelProto
			if err := proto.Unmarshal(imported.Data, &m); err != nil {
				t.Fatal(err)
			}
			if batch := m.Graph.Input[0].GetType().GetTensorType().GetShape().Dim[0]; (batch.GetDimParam() != "") != test.free {
				t.Errorf("batch axis = %v, want it free: %v", batch, test.free)
			}
			three, _, _ := scores(t, imported.File, 3)
			one, _, _ := scores(t, imported.File, 1)
			for i, v := range one {
				if math.Abs(float64(v-three[i])) > 1e-4 {
					t.Errorf("score %d is %g alone and %g in a batch", i, v, three[i])
				}
			}
		})
	}
}

func TestImport_timmSettings(t *testing.T) {
	p := mustImport(t, "testdata/timm/model.onnx", foreign.Options{}).File.Metadata.Preprocessing
	want := imaging.Preprocessing{
		Width: 32, Height: 32, Color: imaging.RGB, Type: imaging.Float32, Layout: imaging.NCHW, Orientation: imaging.IgnoreOrientation, JPEG: imaging.FullJPEG,
		Fit: imaging.ShortestEdge, Resize: 35, Crop: imaging.HalfEven, Filter: imaging.Bicubic, Antialias: true, Passes: imaging.Pillow13Passes, Scale: 1.0 / 255,
		Mean: []float64{0.5, 0.5, 0.5}, Std: []float64{0.5, 0.5, 0.5},
	}
	if p.ID() != want.ID() || !slices.Equal(p.Mean, want.Mean) || p.Scale != want.Scale {
		t.Errorf("preprocessing = %+v, want %+v", p, want)
	}
}

// TestImport_flagsOverrideFiles checks the order of sources: flags, preset, files.
func TestImport_flagsOverrideFiles(t *testing.T) {
	s := foreign.Settings{Filter: imaging.Lanczos, Frame: &foreign.Frame{Resize: 40}, Mean: []float64{0.1}, Classes: []string{"1", "2", "3", "4", "5"}}
	p := mustImport(t, "testdata/timm/model.onnx", foreign.Options{Settings: s}).File.Metadata
	if p.Preprocessing.Filter != imaging.Lanczos || p.Preprocessing.Resize != 40 || p.Preprocessing.Fit != imaging.ShortestEdge || p.Preprocessing.Mean[2] != 0.1 || p.Classes[4] != "5" {
		t.Errorf("metadata = %+v", p)
	}
	p = mustImport(t, "testdata/timm/model.onnx", foreign.Options{Preset: "keras"}).File.Metadata
	if p.Preprocessing.Filter != imaging.Nearest || p.Preprocessing.Fit != imaging.Stretch || p.Preprocessing.Scale != 1 || len(p.Preprocessing.Mean) != 0 || p.Preprocessing.Resize != 0 {
		t.Errorf("with a preset: %+v", p)
	}
}

// TestImport_classActivationMap checks that the mean of each map is the class's logit without the bias.
func TestImport_classActivationMap(t *testing.T) {
	f := mustImport(t, "testdata/dynamic.onnx", foreign.Options{Settings: abc, Preset: "torchvision"}).File
	if f.Metadata.CAMKind != model.CAMOfEach {
		t.Fatalf("kind = %q", f.Metadata.CAMKind)
	}
	s, cam, embedding := scores(t, f, 3)
	w, h := f.CAMSize()
	if w != 16 || h != 16 || len(embedding) != 3*8 {
		t.Errorf("map of %d×%d, %d values of the embedding; want 16×16 and 24", w, h, len(embedding))
	}
	var bias [3]float64
	for i := range 3 {
		for c := range 3 {
			sum := 0.0
			for _, v := range cam[(i*3+c)*w*h : (i*3+c+1)*w*h] {
				sum += float64(v)
			}
			difference := float64(s[i*3+c]) - sum/float64(w*h)
			if i == 0 {
				bias[c] = difference
			} else if math.Abs(difference-bias[c]) > 1e-4 {
				t.Errorf("image %d, class %d: logit − mean of the map = %g, want the bias %g", i, c, difference, bias[c])
			}
		}
	}
	for name, o := range map[string]foreign.Options{
		"no_cam":       {NoCAM: true, NoEmbedding: true},
		"no_embedding": {NoEmbedding: true},
	} {
		o.Settings, o.Preset = abc, "torchvision"
		f := mustImport(t, "testdata/dynamic.onnx", o).File
		if f.HasCAM() == o.NoCAM || f.EmbeddingSize != 0 {
			t.Errorf("%s: CAM %v, embedding of %d", name, f.HasCAM(), f.EmbeddingSize)
		}
	}
}

// network builds a graph and writes it as an ONNX file.
func network(t *testing.T, build func(g *onnx.Graph), change func(m *onnxpb.ModelProto)) string {
	t.Helper()
	g := onnx.NewGraph("test")
	build(g)
	m, err := g.Model()
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(m)
	}
	return write(t, m)
}

func write(t *testing.T, m *onnxpb.ModelProto) string {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// weights returns n different numbers around 0.
func weights(n int64) []float32 {
	w := make([]float32, n)
	for i := range w {
		w[i] = float32(math.Sin(float64(7*i + 1)))
	}
	return w
}

// body is a network of one convolution, global average pooling and a dense layer.
func body(g *onnx.Graph, x onnx.Value, channels, classes int64) onnx.Value {
	x = g.Conv(x, g.Param("conv", weights(4*channels*9), 4, channels, 3, 3), onnx.Window{Kernel: [2]int64{3, 3}})
	x = g.Reshape(g.ReduceMean(g.LeakyRelu(x, 0.1), 2, 3), onnx.Batch, 4)
	return g.Gemm(x, g.Param("dense", weights(4*classes), 4, classes), false, false)
}

func TestImport_oneColumn(t *testing.T) {
	build := func(sigmoid bool) func(g *onnx.Graph) {
		return func(g *onnx.Graph) {
			y := body(g, g.Input("x", onnx.Float32, onnx.Batch, 3, 8, 8), 3, 1)
			if sigmoid {
				y = g.Sigmoid(y)
			}
			g.Output("y", y)
		}
	}
	two := foreign.Settings{Classes: []string{"no", "yes"}}
	for name, test := range map[string]struct {
		sigmoid bool
		want    model.OutputKind
	}{"logit": {false, model.Logits}, "sigmoid": {true, model.Probabilities}} {
		t.Run(name, func(t *testing.T) {
			md := mustImport(t, network(t, build(test.sigmoid), nil), foreign.Options{Settings: two, Preset: "unit", Positive: "yes"}).File.Metadata
			if md.Columns != 1 || md.OutputKind != test.want || md.Threshold != 0.5 || md.Positive != "yes" || md.CAMKind != model.CAMOfSecond {
				t.Errorf("metadata = %+v", md)
			}
		})
	}
	_, err := foreign.Import(network(t, build(false), nil), foreign.Options{Settings: foreign.Settings{Classes: []string{"yes"}}, Preset: "unit"})
	wantError(t, err, "one output and one label", "--classes=NEGATIVE,POSITIVE")
	_, err = foreign.Import(network(t, build(false), nil), foreign.Options{Settings: abc, Preset: "unit"})
	wantError(t, err, "3 classes (flags)", "1 scores", "two classes")
	_, err = foreign.Import(network(t, build(false), nil), foreign.Options{Preset: "unit"})
	wantError(t, err, "names of its two classes are unknown", "--classes")
}

// TestImport_gray checks a model of one channel, with a class token of ImageNet's presets that doesn't fit.
func TestImport_gray(t *testing.T) {
	path := network(t, func(g *onnx.Graph) {
		g.Output("y", body(g, g.Input("x", onnx.Float32, onnx.Batch, 1, 8, 8), 1, 3))
	}, nil)
	md := mustImport(t, path, foreign.Options{Settings: abc, Preset: "vit"}).File.Metadata
	if md.Preprocessing.Color != imaging.Gray || len(md.Preprocessing.Mean) != 1 {
		t.Errorf("preprocessing = %+v", md.Preprocessing)
	}
	s := abc
	s.Color = imaging.BGR
	_, err := foreign.Import(path, foreign.Options{Settings: s, Preset: "vit"})
	wantError(t, err, "one channel", "--color=bgr")
}

// setDim changes a declared dimension of the input: 0 makes it unknown, and a negative size is written as it is.
func setDim(m *onnxpb.ModelProto, i int, size int64) {
	d := m.Graph.Input[0].GetType().GetTensorType().GetShape().Dim
	d[i] = &onnxpb.TensorShapeProto_Dimension{}
	if size != 0 {
		d[i].Value = &onnxpb.TensorShapeProto_Dimension_DimValue{DimValue: size}
	}
}

func TestImport_dynamicAxes(t *testing.T) {
	build := func(g *onnx.Graph) {
		g.Output("y", body(g, g.Input("x", onnx.Float32, onnx.Batch, 3, 8, 8), 3, 3))
	}
	for name, size := range map[string]int64{"unnamed": 0, "minus_one": -1} {
		t.Run(name, func(t *testing.T) {
			path := network(t, build, func(m *onnxpb.ModelProto) {
				for i := range 4 {
					setDim(m, i, size)
				}
				m.Graph.Output[0].Type.GetTensorType().Shape = nil // as some exporters do
			})
			_, err := foreign.Import(path, foreign.Options{Settings: abc, Preset: "unit"})
			wantError(t, err, "images of any size", "--size=WIDTHxHEIGHT")
			s := abc
			s.Width, s.Height = 12, 10
			p := mustImport(t, path, foreign.Options{Settings: s, Preset: "unit"}).File.Metadata.Preprocessing
			if p.Width != 12 || p.Height != 10 || p.Layout != imaging.NCHW {
				t.Errorf("preprocessing = %+v", p)
			}
		})
	}
	path := network(t, build, nil)
	s := abc
	s.Width, s.Height = 12, 10
	_, err := foreign.Import(path, foreign.Options{Settings: s, Preset: "unit"})
	wantError(t, err, "12×10 according to flags", "the graph takes 8×8")
}

// TestImport_fixedBatch imports graphs whose batch axis is fixed, and whose shapes contain its size.
func TestImport_fixedBatch(t *testing.T) {
	build := func(batch int64) func(g *onnx.Graph) {
		return func(g *onnx.Graph) {
			x := g.Input("x", onnx.Float32, batch, 3, 8, 8)
			x = g.Conv(x, g.Param("conv", weights(4*27), 4, 3, 3, 3), onnx.Window{Kernel: [2]int64{3, 3}})
			// Tokens with a class token, as in a transformer.
			x = g.Transpose(g.Reshape(x, batch, 4, 36), 0, 2, 1)
			if batch == 1 {
				x = g.Concat(1, g.Param("token", weights(4), 1, 1, 4), x)
			}
			x = g.Reshape(g.ReduceMean(x, 1), batch, 4)
			g.Output("y", g.Gemm(x, g.Param("dense", weights(12), 4, 3), false, false))
		}
	}
	for _, batch := range []int64{1, 2, 4} {
		imported := mustImport(t, network(t, build(batch), nil), foreign.Options{Settings: abc, Preset: "unit"})
		if slices.ContainsFunc(imported.Notes, func(n string) bool { return strings.Contains(n, "one image") }) {
			t.Errorf("batch %d: notes = %q", batch, imported.Notes)
		}
		scores(t, imported.File, 5)
	}
}

// TestImport_batchOfOne imports a graph that can't process batches: the attention is over the batch axis.
func TestImport_batchOfOne(t *testing.T) {
	build := func(batch int64) string {
		return network(t, func(g *onnx.Graph) {
			x := g.Input("x", onnx.Float32, batch, 3, 8, 8)
			x = g.Reshape(g.Conv(x, g.Param("conv", weights(4*27), 4, 3, 3, 3), onnx.Window{Kernel: [2]int64{3, 3}}), 4*batch, 36)
			x = g.Reshape(g.MatMul(g.Transpose(x, 1, 0), x), 1, 36*36)
			g.Output("y", g.Gemm(x, g.Param("dense", weights(36*36*3), 36*36, 3), false, false))
		}, nil)
	}
	imported := mustImport(t, build(1), foreign.Options{Settings: abc, Preset: "unit"})
	if len(imported.Notes) == 0 || !strings.Contains(imported.Notes[0], "one image at a time") {
		t.Errorf("notes = %q", imported.Notes)
	}
	scores(t, imported.File, 3)
}

func TestImport_rejects(t *testing.T) {
	x := func(g *onnx.Graph) onnx.Value { return g.Input("x", onnx.Float32, onnx.Batch, 3, 8, 8) }
	classifier := func(g *onnx.Graph) { g.Output("y", body(g, x(g), 3, 3)) }
	four := abc
	four.Classes = []string{"a", "b", "c", "d"}
	two := abc
	two.Classes = []string{"a", "b"}
	for name, test := range map[string]struct {
		build    func(g *onnx.Graph)
		change   func(m *onnxpb.ModelProto)
		settings foreign.Settings
		want     []string
	}{
		"two_inputs": {build: func(g *onnx.Graph) {
			y := body(g, x(g), 3, 3)
			g.Output("y", g.Add(y, g.Input("mask", onnx.Float32, 1, 3)))
		}, want: []string{"2 inputs", "mask [1,3]", "forward takes the image only"}},
		"segmentation": {build: func(g *onnx.Graph) {
			g.Output("masks", g.Conv(x(g), g.Param("w", weights(81), 3, 3, 3, 3), onnx.Window{Kernel: [2]int64{3, 3}}))
		}, want: []string{"masks is float32[1,3,6,6]", "segmentation"}},
		"detection": {build: func(g *onnx.Graph) {
			y := g.Reshape(g.Conv(x(g), g.Param("w", weights(6*27), 6, 3, 3, 3), onnx.Window{Kernel: [2]int64{3, 3}}), onnx.Batch, 36, 6)
			g.Output("boxes", y)
		}, want: []string{"boxes is float32[1,36,6]", "object detection"}},
		"argmax": {build: func(g *onnx.Graph) {
			g.Output("class", g.ArgMax(body(g, x(g), 3, 3)))
		}, want: []string{"class is int64", "ArgMax", "--scores=Gemm:0"}},
		"NaN_weight": {build: func(g *onnx.Graph) {
			w := weights(12)
			w[5] = float32(math.NaN())
			y := g.ReduceMean(x(g), 2, 3)
			g.Output("y", g.Gemm(g.Reshape(y, onnx.Batch, 3), g.Param("bad", append(w[:8], w[5]), 3, 3), false, false))
		}, want: []string{`weight "bad" contains NaN`}},
		"infinite_output": {build: func(g *onnx.Graph) {
			g.Output("y", g.Div(body(g, x(g), 3, 3), g.Param("zero", []float32{0}, 1)))
		}, want: []string{`output "y" is`, "Inf", "corrupt"}},
		"constant_output": {build: func(g *onnx.Graph) {
			g.Output("y", g.Mul(body(g, x(g), 3, 3), g.Param("zero", []float32{0}, 1)))
		}, want: []string{"doesn't depend on the image"}},
		"depends_on_batch": {build: func(g *onnx.Graph) {
			y := body(g, x(g), 3, 3)
			g.Output("y", g.Add(y, g.ReduceSum(y, 0)))
		}, want: []string{"depend on the other images of its batch", "model.eval()"}},
		"too_many_classes": {build: classifier, settings: four, want: []string{"there are 4 classes (flags)", `"y" has 3 scores`}},
		"too_few_classes":  {build: classifier, settings: two, want: []string{"there are 2 classes (flags)", `"y" has 3 scores`, "background class"}},
		"no_classes":       {build: classifier, settings: foreign.Settings{Layout: imaging.NCHW}, want: []string{"3 outputs", "--labels=FILE"}},
		"custom_operator": {build: classifier, change: func(m *onnxpb.ModelProto) {
			m.Graph.Node[1].Domain, m.Graph.Node[1].OpType = proto.String("com.example"), proto.String("Swish")
		}, want: []string{"com.example.Swish"}},
		"functions": {build: classifier, change: func(m *onnxpb.ModelProto) {
			m.Functions = []*onnxpb.FunctionProto{{Name: proto.String("aten_relu")}}
		}, want: []string{"aten_relu", "inline_local_functions"}},
		"opset_too_new": {build: classifier, change: func(m *onnxpb.ModelProto) { m.OpsetImport[0].Version = proto.Int64(99) }, want: []string{"opset 99", "ONNX Runtime", "opset_version="}},
		"IR_too_new":    {build: classifier, change: func(m *onnxpb.ModelProto) { m.IrVersion = proto.Int64(99) }, want: []string{"IR version 99", "ONNX Runtime"}},
		"training_mode": {build: func(g *onnx.Graph) { classifier(g) }, change: func(m *onnxpb.ModelProto) {
			m.Graph.Node[1].OpType = proto.String("BatchNormalization")
			m.Graph.Node[1].Attribute = []*onnxpb.AttributeProto{{Name: proto.String("training_mode"), Type: onnxpb.AttributeProto_INT.Enum(), I: proto.Int64(1)}}
		}, want: []string{"training mode", "model.eval()"}},
		"text_model": {build: func(g *onnx.Graph) {
			g.Output("y", g.Abs(g.Input("tokens", onnx.Float32, onnx.Batch, 16)))
		}, want: []string{"[batch,16]", "text"}},
		"integer_image": {build: classifier, change: func(m *onnxpb.ModelProto) {
			m.Graph.Input[0].GetType().GetTensorType().ElemType = proto.Int32(int32(onnxpb.TensorProto_INT64))
		}, want: []string{"int64", "float32 or uint8"}},
		"four_channels": {build: func(g *onnx.Graph) {
			g.Output("y", body(g, g.Input("x", onnx.Float32, onnx.Batch, 4, 8, 8), 4, 3))
		}, want: []string{"4 channels", "1 or 3 channels"}},
		"multi_label": {build: func(g *onnx.Graph) { g.Output("y", g.Sigmoid(body(g, x(g), 3, 3))) }, want: []string{"Sigmoid", "one class per image", "--scores=Gemm:0"}},
		"several_outputs": {build: func(g *onnx.Graph) {
			y := body(g, x(g), 3, 3)
			g.Output("y", y)
			g.Output("aux", g.Abs(y))
		}, want: []string{"several outputs", "y [1,3]", "aux [1,3]", "--scores=NAME"}},
		"broken_shape": {build: func(g *onnx.Graph) {
			g.Output("y", g.Gemm(g.Reshape(x(g), onnx.Batch, 192), g.Param("w", weights(576), 192, 3), false, false))
		}, change: func(m *onnxpb.ModelProto) { setDim(m, 2, 9) }, want: []string{"hint:"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := test.settings
			if s.Classes == nil && s.Layout == "" {
				s = abc
			}
			_, err := foreign.Import(network(t, test.build, test.change), foreign.Options{Settings: s, Preset: "unit"})
			wantError(t, err, append(test.want, "import ", "\nhint: ")...)
			if err != nil && strings.Count(err.Error(), "\nhint: ") != 1 {
				t.Errorf("error = %q, want one hint", err)
			}
		})
	}
}

// TestImport_scores chooses the scores inside of a graph.
func TestImport_scores(t *testing.T) {
	path := network(t, func(g *onnx.Graph) {
		g.Output("class", g.ArgMax(body(g, g.Input("x", onnx.Float32, onnx.Batch, 3, 8, 8), 3, 3)))
	}, nil)
	md := mustImport(t, path, foreign.Options{Settings: abc, Preset: "unit", Scores: "Gemm"}).File.Metadata
	if md.Output != "Gemm:0" {
		t.Errorf("output = %q", md.Output)
	}
	_, err := foreign.Import(path, foreign.Options{Settings: abc, Preset: "unit", Scores: "softmax"})
	wantError(t, err, "no value or node", "Netron")
}

// TestImport_camOption checks explicit names of maps, and that maps which don't explain the scores are rejected.
func TestImport_camOption(t *testing.T) {
	path := network(t, func(g *onnx.Graph) {
		x := g.Conv(g.Input("x", onnx.Float32, onnx.Batch, 3, 8, 8), g.Param("conv", weights(4*27), 4, 3, 3, 3), onnx.Window{Kernel: [2]int64{3, 3}})
		x = g.LeakyRelu(x, 0.1)
		y := g.Gemm(g.Reshape(g.ReduceMean(x, 2, 3), onnx.Batch, 4), g.Param("hidden", weights(16), 4, 4), false, false)
		g.Output("y", g.Gemm(g.LeakyRelu(y, 0.1), g.Param("dense", weights(12), 4, 3), false, false))
	}, nil)
	imported := mustImport(t, path, foreign.Options{Settings: abc, Preset: "unit"})
	if imported.File.HasCAM() || len(imported.Notes) != 1 || !strings.Contains(imported.Notes[0], "LeakyRelu") {
		t.Errorf("notes = %q", imported.Notes)
	}
	_, err := foreign.Import(path, foreign.Options{Settings: abc, Preset: "unit", CAM: "LeakyRelu"})
	wantError(t, err, "--cam=LeakyRelu", "nonlinear", "occlusion")
	_, err = foreign.Import(path, foreign.Options{Settings: abc, Preset: "unit", CAM: "Gemm"})
	wantError(t, err, "[1,4]", "feature maps")
	_, err = foreign.Import(path, foreign.Options{Settings: abc, Preset: "unit", CAM: "layer4"})
	wantError(t, err, "no value or node")
	_, err = foreign.Import(path, foreign.Options{Settings: abc, Preset: "unit", Embedding: "Conv"})
	wantError(t, err, "--embedding", "[1,4,6,6]")
	f := mustImport(t, "testdata/dynamic.onnx", foreign.Options{Settings: abc, Preset: "torchvision", Embedding: "view"}).File
	if f.EmbeddingSize != 8 {
		t.Errorf("embedding of %d values, want 8", f.EmbeddingSize)
	}
}

// TestImport_float16 imports a model with half-precision input, weights and outputs.
func TestImport_float16(t *testing.T) {
	path := network(t, func(g *onnx.Graph) {
		g.Output("y", body(g, g.Input("x", onnx.Float32, onnx.Batch, 3, 8, 8), 3, 3))
	}, func(m *onnxpb.ModelProto) {
		half := int32(onnxpb.TensorProto_FLOAT16)
		for _, v := range []*onnxpb.ValueInfoProto{m.Graph.Input[0], m.Graph.Output[0]} {
			v.GetType().GetTensorType().ElemType = &half
		}
		for _, w := range m.Graph.Initializer {
			if w.GetDataType() != int32(onnxpb.TensorProto_FLOAT) {
				continue
			}
			raw := make([]byte, 0, len(w.RawData)/2)
			for i := 0; i < len(w.RawData); i += 4 {
				bits := uint32(w.RawData[i]) | uint32(w.RawData[i+1])<<8 | uint32(w.RawData[i+2])<<16 | uint32(w.RawData[i+3])<<24
				h := uint16(bits>>16&0x8000) | uint16((bits>>23&0xff-112)<<10) | uint16(bits>>13&0x3ff)
				raw = append(raw, byte(h), byte(h>>8))
			}
			w.RawData, w.DataType = raw, &half
		}
	})
	f := mustImport(t, path, foreign.Options{Settings: abc, Preset: "unit"}).File
	if f.Metadata.Preprocessing.Type != imaging.Float32 || !f.HasCAM() {
		t.Errorf("type %s, map %v", f.Metadata.Preprocessing.Type, f.HasCAM())
	}
}
