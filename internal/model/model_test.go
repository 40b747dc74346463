package model

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	"fakeart/internal/imaging"
	"fakeart/internal/onnx/onnxpb"
	"fakeart/internal/ort"
)

const (
	channels      = 3
	testSize      = 4
	testEmbedding = 2
)

// testMetadata differs from the zero value in every field.
func testMetadata() Metadata {
	return Metadata{
		FormatVersion: FormatVersion,
		Name:          `base "quoted", ünïcode`,
		Description:   "Tells photographs from other images.",
		License:       "Apache-2.0",
		Source:        "https://example.com/model",
		Classes:       []string{Real, Fake},
		Positive:      Fake,
		Threshold:     0.625,
		Input:         "input",
		Preprocessing: imaging.Square(testSize),
		Output:        "logit",
		OutputKind:    Logits,
		Columns:       1,
		Embedding:     "embedding",
		DataSource:    "archive of images.zip",
		DataDigest:    "sha256:d0",
		ConfigDigest:  "sha256:c0",
		Seed:          -420,
		ValLoss:       0.1,
		ValAccuracy:   1.0 / 3,
		Revision:      "v1.2.3-4-gabcdef",
	}
}

// testGraph flattens the image into two embeddings, the mean of all values and
// their sum, and computes logit = mean*10 - 5.
func testGraph() *onnxpb.ModelProto {
	const values = channels * testSize * testSize
	weights := make([]float32, testEmbedding*values)
	for i := range values {
		weights[i], weights[values+i] = 1.0/values, 1
	}
	attribute := func(name string, i int64) *onnxpb.AttributeProto {
		return &onnxpb.AttributeProto{Name: proto.String(name), Type: onnxpb.AttributeProto_INT.Enum(), I: proto.Int64(i)}
	}
	node := func(op string, in []string, out string, attributes ...*onnxpb.AttributeProto) *onnxpb.NodeProto {
		return &onnxpb.NodeProto{Name: proto.String(op + " " + out), OpType: proto.String(op), Input: in, Output: []string{out}, Attribute: attributes}
	}
	return &onnxpb.ModelProto{
		IrVersion:    proto.Int64(8),
		ProducerName: proto.String("test"),
		OpsetImport:  []*onnxpb.OperatorSetIdProto{{Version: proto.Int64(17)}},
		MetadataProps: []*onnxpb.StringStringEntryProto{
			{Key: proto.String("zoo"), Value: proto.String("kept")},
			{Key: proto.String("fakeart.name"), Value: proto.String("replaced")},
		},
		Graph: &onnxpb.GraphProto{
			Name: proto.String("tiny"),
			Node: []*onnxpb.NodeProto{
				node("Flatten", []string{"input"}, "flat", attribute("axis", 1)),
				node("Gemm", []string{"flat", "w1"}, "embedding", attribute("transB", 1)),
				node("Gemm", []string{"embedding", "w2", "b2"}, "logit", attribute("transB", 1)),
			},
			Initializer: []*onnxpb.TensorProto{
				tensor("w1", weights, testEmbedding, values),
				tensor("w2", []float32{10, 0}, 1, testEmbedding),
				tensor("b2", []float32{-5}, 1),
			},
			Input:  []*onnxpb.ValueInfoProto{value("input", onnxpb.TensorProto_FLOAT, "batch", 3, testSize, testSize)},
			Output: []*onnxpb.ValueInfoProto{value("logit", onnxpb.TensorProto_FLOAT, "batch", 1), value("embedding", onnxpb.TensorProto_FLOAT, "batch", testEmbedding)},
		},
	}
}

func tensor(name string, values []float32, dims ...int64) *onnxpb.TensorProto {
	raw, err := binary.Append(nil, binary.LittleEndian, values)
	if err != nil {
		panic(err)
	}
	return &onnxpb.TensorProto{Name: proto.String(name), DataType: proto.Int32(int32(onnxpb.TensorProto_FLOAT)), Dims: dims, RawData: raw}
}

// value describes an input or output; a dimension is an int or a name.
func value(name string, elem onnxpb.TensorProto_DataType, shape ...any) *onnxpb.ValueInfoProto {
	var dims []*onnxpb.TensorShapeProto_Dimension
	for _, d := range shape {
		dim := &onnxpb.TensorShapeProto_Dimension{}
		switch d := d.(type) {
		case int:
			dim.Value = &onnxpb.TensorShapeProto_Dimension_DimValue{DimValue: int64(d)}
		case string:
			dim.Value = &onnxpb.TensorShapeProto_Dimension_DimParam{DimParam: d}
		}
		dims = append(dims, dim)
	}
	return &onnxpb.ValueInfoProto{Name: proto.String(name), Type: &onnxpb.TypeProto{Value: &onnxpb.TypeProto_TensorType{
		TensorType: &onnxpb.TypeProto_Tensor{ElemType: proto.Int32(int32(elem)), Shape: &onnxpb.TensorShapeProto{Dim: dims}},
	}}}
}

// testFile returns the bytes of a valid model file.
func testFile(t testing.TB) []byte {
	t.Helper()
	data, err := Marshal(testGraph(), testMetadata())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParse_roundTrip(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Metadata)
	}{
		{"all fields set", func(*Metadata) {}},
		{"empty name, revision and digests", func(m *Metadata) { m.Name, m.Revision, m.DataDigest, m.ConfigDigest = "", "", "", "" }},
		{"smallest seed", func(m *Metadata) { m.Seed = math.MinInt64 }},
		{"validation loss with all digits", func(m *Metadata) { m.ValLoss = math.Nextafter(0.1, 1) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := testMetadata()
			test.change(&want)
			data, err := Marshal(testGraph(), want)
			if err != nil {
				t.Fatal(err)
			}
			f, err := Parse(data)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, f.Metadata); diff != "" {
				t.Errorf("metadata (-written +read):\n%s", diff)
			}
			if f.EmbeddingSize != testEmbedding {
				t.Errorf("embedding size %d, want %d", f.EmbeddingSize, testEmbedding)
			}
		})
	}
}

func TestParse_noValidation(t *testing.T) {
	md := testMetadata()
	md.ValLoss, md.ValAccuracy = math.NaN(), math.NaN()
	data, err := Marshal(testGraph(), md)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if !math.IsNaN(f.Metadata.ValLoss) || !math.IsNaN(f.Metadata.ValAccuracy) {
		t.Errorf("read %+v, want NaN", f.Metadata)
	}
}

func TestMarshal_deterministic(t *testing.T) {
	graph := testGraph()
	md := testMetadata()
	md.FormatVersion = 0
	first, err := Marshal(graph, md)
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(graph, testGraph()) {
		t.Error("Marshal changed the graph")
	}
	for range 20 {
		again, err := Marshal(graph, md)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, again) {
			t.Fatal("the bytes differ")
		}
	}
	// A parsed graph can be marshaled again.
	var m onnxpb.ModelProto
	if err := proto.Unmarshal(first, &m); err != nil {
		t.Fatal(err)
	}
	again, err := Marshal(&m, testMetadata())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, again) {
		t.Error("the bytes differ after a round trip")
	}
	var keys []string
	for _, e := range m.GetMetadataProps() {
		keys = append(keys, e.GetKey())
	}
	want := []string{
		"fakeart.classes", "fakeart.columns", "fakeart.config_digest", "fakeart.data_digest", "fakeart.data_source", "fakeart.description",
		"fakeart.embedding", "fakeart.format_version", "fakeart.input", "fakeart.license", "fakeart.name", "fakeart.output", "fakeart.output_kind",
		"fakeart.positive", "fakeart.preprocessing", "fakeart.revision", "fakeart.seed", "fakeart.source", "fakeart.threshold",
		"fakeart.val_accuracy", "fakeart.val_loss", "zoo",
	}
	if diff := cmp.Diff(want, keys); diff != "" {
		t.Errorf("metadata keys (-want +got):\n%s", diff)
	}
}

// graphFaults are changes that make a graph invalid for a model, with parts of the expected error.
var graphFaults = []struct {
	name   string
	change func(*onnxpb.GraphProto)
	want   []string
}{
	{"wrong input name", func(g *onnxpb.GraphProto) { g.Input[0].Name = proto.String("image") }, []string{`"image"`, `"input"`}},
	{"second input", func(g *onnxpb.GraphProto) { g.Input = append(g.Input, value("mask", onnxpb.TensorProto_FLOAT, 1)) }, []string{`"mask"`}},
	{"no input", func(g *onnxpb.GraphProto) { g.Input = nil }, []string{"inputs are []"}},
	{"wrong input type", func(g *onnxpb.GraphProto) {
		g.Input[0] = value("input", onnxpb.TensorProto_UINT8, "batch", 3, testSize, testSize)
	}, []string{`"input"`, "UINT8"}},
	{"input not a tensor", func(g *onnxpb.GraphProto) { g.Input[0].Type = nil }, []string{`"input"`, "not a tensor"}},
	{"input with channels last", func(g *onnxpb.GraphProto) {
		g.Input[0] = value("input", onnxpb.TensorProto_FLOAT, "batch", testSize, testSize, 3)
	}, []string{"[batch,4,4,3]", "[batch,3,4,4]"}},
	{"wrong input size", func(g *onnxpb.GraphProto) {
		g.Input[0] = value("input", onnxpb.TensorProto_FLOAT, "batch", 3, 5, 5)
	}, []string{"[batch,3,5,5]"}},
	{"input with a fixed batch", func(g *onnxpb.GraphProto) {
		g.Input[0] = value("input", onnxpb.TensorProto_FLOAT, 2, 3, testSize, testSize)
	}, []string{"[2,3,4,4]"}},
	{"input without a batch", func(g *onnxpb.GraphProto) {
		g.Input[0] = value("input", onnxpb.TensorProto_FLOAT, 3, testSize, testSize)
	}, []string{"[3,4,4]"}},
	{"input of unknown rank", func(g *onnxpb.GraphProto) { g.Input[0] = value("input", onnxpb.TensorProto_FLOAT) }, []string{"shape []"}},
	{"no logit", func(g *onnxpb.GraphProto) { g.Output[0].Name = proto.String("score") }, []string{`"score"`, `"logit"`}},
	{"two logits per image", func(g *onnxpb.GraphProto) { g.Output[0] = value("logit", onnxpb.TensorProto_FLOAT, "batch", 2) }, []string{"[batch,2]", "[batch,1]"}},
	{"wrong logit type", func(g *onnxpb.GraphProto) { g.Output[0] = value("logit", onnxpb.TensorProto_DOUBLE, "batch", 1) }, []string{"DOUBLE"}},
	{"no embedding", func(g *onnxpb.GraphProto) { g.Output = g.Output[:1] }, []string{`"embedding"`}},
	{"embedding of unknown width", func(g *onnxpb.GraphProto) {
		g.Output[1] = value("embedding", onnxpb.TensorProto_FLOAT, "batch", "width")
	}, []string{"[batch,width]"}},
	{"embedding too wide", func(g *onnxpb.GraphProto) {
		g.Output[1] = value("embedding", onnxpb.TensorProto_FLOAT, "batch", 1<<40)
	}, []string{"embedding"}},
	{"output with a fixed batch", func(g *onnxpb.GraphProto) {
		g.Output[0] = value("logit", onnxpb.TensorProto_FLOAT, 1, 1)
	}, []string{`"logit"`, "fixed batch size"}},
	{"external weights", func(g *onnxpb.GraphProto) {
		g.Initializer[0].DataLocation = onnxpb.TensorProto_EXTERNAL.Enum()
	}, []string{`"w1"`, "stored in another file"}},
}

func checkError(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range want {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q, want %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error is more than one line: %q", err)
	}
}

func TestMarshalParse_invalidGraph(t *testing.T) {
	for _, test := range graphFaults {
		t.Run(test.name, func(t *testing.T) {
			bad := testGraph()
			test.change(bad.Graph)
			_, err := Marshal(bad, testMetadata())
			checkError(t, err, test.want...)

			var m onnxpb.ModelProto
			if err := proto.Unmarshal(testFile(t), &m); err != nil {
				t.Fatal(err)
			}
			test.change(m.Graph)
			data, err := proto.Marshal(&m)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse(data)
			checkError(t, err, test.want...)
		})
	}
}

func TestMarshal_errors(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*onnxpb.ModelProto, *Metadata)
		want   string
	}{
		{"non-standard operator", func(g *onnxpb.ModelProto, _ *Metadata) {
			g.Graph.Node[1].Domain = proto.String("com.microsoft.nchwc")
		}, `operator Gemm of domain "com.microsoft.nchwc"`},
		{"no graph", func(g *onnxpb.ModelProto, _ *Metadata) { g.Graph = nil }, "no graph"},
		{"wrong format version", func(_ *onnxpb.ModelProto, m *Metadata) { m.FormatVersion = 1 }, "format version 1, want 2"},
		{"one class", func(_ *onnxpb.ModelProto, m *Metadata) { m.Classes = []string{Fake} }, "classes"},
		{"two classes of the same name", func(_ *onnxpb.ModelProto, m *Metadata) { m.Classes = []string{Fake, Fake} }, "classes"},
		{"too many classes", func(_ *onnxpb.ModelProto, m *Metadata) { m.Classes = make([]string, MaxClasses+1) }, "classes: 10001 names"},
		{"empty class name", func(_ *onnxpb.ModelProto, m *Metadata) { m.Classes[1] = " " }, "class 1 is empty"},
		{"control character in a class name", func(_ *onnxpb.ModelProto, m *Metadata) { m.Classes[0] = "a\nb" }, "class 0"},
		{"ambiguous labels", func(_ *onnxpb.ModelProto, m *Metadata) {
			m.Classes, m.Columns, m.Positive, m.Threshold = []string{"a", "a", "a#1"}, 3, "", 0
		}, "rename"},
		{"positive class of three", func(_ *onnxpb.ModelProto, m *Metadata) {
			m.Classes, m.Columns = []string{Real, Fake, "other"}, 3
		}, "positive: only valid with two classes"},
		{"unknown positive class", func(_ *onnxpb.ModelProto, m *Metadata) { m.Positive = "CAT" }, `"CAT"`},
		{"threshold without a positive class", func(_ *onnxpb.ModelProto, m *Metadata) { m.Positive = "" }, "threshold"},
		{"one column for three classes", func(_ *onnxpb.ModelProto, m *Metadata) {
			m.Classes, m.Positive, m.Threshold = []string{"a", "b", "c"}, "", 0
		}, "columns: 1 for 3 classes"},
		{"unknown output kind", func(_ *onnxpb.ModelProto, m *Metadata) { m.OutputKind = "odds" }, "output_kind"},
		{"embedding that is the output", func(_ *onnxpb.ModelProto, m *Metadata) { m.Embedding = "logit" }, "outputs of their own"},
		{"map without its kind", func(_ *onnxpb.ModelProto, m *Metadata) { m.CAM = "gradcam" }, "cam_kind"},
		{"missing map", func(_ *onnxpb.ModelProto, m *Metadata) { m.CAM, m.CAMKind = "gradcam", CAMOfSecond }, `no output "gradcam"`},
		{"threshold 0", func(_ *onnxpb.ModelProto, m *Metadata) { m.Threshold = 0 }, "threshold"},
		{"threshold NaN", func(_ *onnxpb.ModelProto, m *Metadata) { m.Threshold = math.NaN() }, "threshold"},
		{"no input size", func(_ *onnxpb.ModelProto, m *Metadata) { m.Preprocessing.Width = 0 }, "size: 0×4 pixels"},
		{"no preprocessing", func(_ *onnxpb.ModelProto, m *Metadata) { m.Preprocessing = imaging.Preprocessing{} }, "preprocessing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			graph, md := testGraph(), testMetadata()
			test.change(graph, &md)
			_, err := Marshal(graph, md)
			checkError(t, err, test.want)
		})
	}
	_, err := Marshal(nil, testMetadata())
	checkError(t, err, "no graph")
}

// withProps returns the valid model file with changed metadata.
func withProps(t *testing.T, change func(map[string]string)) []byte {
	t.Helper()
	var m onnxpb.ModelProto
	if err := proto.Unmarshal(testFile(t), &m); err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, e := range m.MetadataProps {
		texts[e.GetKey()] = e.GetValue()
	}
	change(texts)
	m.MetadataProps = nil
	for k, v := range texts {
		m.MetadataProps = append(m.MetadataProps, &onnxpb.StringStringEntryProto{Key: proto.String(k), Value: proto.String(v)})
	}
	data, err := proto.Marshal(&m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParse_errors(t *testing.T) {
	good := testFile(t)
	set := func(key, text string) []byte {
		return withProps(t, func(m map[string]string) { m[key] = text })
	}
	plain, err := proto.Marshal(testGraph())
	if err != nil {
		t.Fatal(err)
	}
	noGraph, err := proto.Marshal(&onnxpb.ModelProto{IrVersion: proto.Int64(8)})
	if err != nil {
		t.Fatal(err)
	}
	double := append(bytes.Clone(good), bytes.Clone(withProps(t, func(map[string]string) {}))...)
	for _, test := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "the file is empty"},
		{"text", []byte("<!DOCTYPE html><title>404</title>"), "not an ONNX model"},
		{"Git LFS pointer", []byte("version https://git-lfs.github.com/spec/v1\noid sha256:4665a5ea\nsize 2\n"), "not an ONNX model"},
		{"image", []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"), "not an ONNX model"},
		{"zeros", make([]byte, 1000), "not an ONNX model"},
		{"first half", good[:len(good)/2], "the file is truncated"},
		{"last byte missing", good[:len(good)-1], "the file is truncated"},
		{"two models", double, "duplicate key"},
		{"ONNX without a graph", noGraph, "no graph"},
		{"foreign graph", withProps(t, func(m map[string]string) { clear(m) }), "without Fakeart's metadata"},
		{"single key", plain, "missing"},
		{"newer format version", set("fakeart.format_version", "3"), "format version 3 is newer than the newest supported one (2)"},
		{"newer format version with other fields", withProps(t, func(m map[string]string) {
			clear(m)
			m["fakeart.format_version"] = "7"
		}), "format version 7 is newer"},
		{"format version 0", set("fakeart.format_version", "0"), "invalid version 0"},
		{"format version not a number", set("fakeart.format_version", "one"), `fakeart.format_version: invalid value "one"`},
		{"classes not a list", set("fakeart.classes", "REAL,FAKE"), "fakeart.classes"},
		{"three classes", set("fakeart.classes", `["a","b","c"]`), "positive"},
		{"unknown step of the preprocessing", set("fakeart.preprocessing", `{"width":4,"sharpen":true}`), "fakeart.preprocessing: invalid value"},
		{"threshold 1", set("fakeart.threshold", "1"), "threshold"},
		{"threshold not a number", set("fakeart.threshold", "half"), `fakeart.threshold: invalid value "half"`},
		{"seed too large", set("fakeart.seed", "99999999999999999999"), "fakeart.seed"},
		{"missing field", withProps(t, func(m map[string]string) { delete(m, "fakeart.output") }), "fakeart.output: missing"},
		{"input size differs from the graph", withProps(t, func(m map[string]string) {
			m["fakeart.preprocessing"] = strings.Replace(m["fakeart.preprocessing"], `"width":4`, `"width":32`, 1)
		}), "[batch,3,4,32]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse(test.data)
			checkError(t, err, test.want)
		})
	}
}

func TestParse_truncated(t *testing.T) {
	// Leave out the foreign and the optional entry: a file truncated before such an entry at its
	// end would be valid.
	good := withProps(t, func(m map[string]string) {
		delete(m, "zoo")
		for _, f := range Fields() {
			if f.Optional && f.Key != "fakeart.positive" && f.Key != "fakeart.threshold" {
				delete(m, f.Key)
			}
		}
	})
	for n := range good {
		if _, err := Parse(good[:n]); err == nil {
			t.Fatalf("no error for the first %d of %d bytes", n, len(good))
		}
	}
}

func TestParse_unknownMetadata(t *testing.T) {
	data := withProps(t, func(m map[string]string) { m["fakeart.mood"] = "sunny" })
	if _, err := Parse(data); err != nil {
		t.Error(err)
	}
}

func TestParse_noDataSource(t *testing.T) {
	file, err := Parse(withProps(t, func(m map[string]string) { delete(m, "fakeart.data_source") }))
	if err != nil {
		t.Fatal(err)
	}
	if file.Metadata.DataSource != "" {
		t.Errorf("data source %q, want none", file.Metadata.DataSource)
	}
}

func TestParse_weightsAmongInputs(t *testing.T) {
	graph := testGraph()
	graph.Graph.Input = append(graph.Graph.Input, value("b2", onnxpb.TensorProto_FLOAT, 1))
	data, err := Marshal(graph, testMetadata())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(data); err != nil {
		t.Error(err)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "model.onnx")
	if err := os.WriteFile(path, testFile(t), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := Parse(testFile(t))
	if err != nil {
		t.Fatal(err)
	}
	if f.Digest != parsed.Digest || !strings.HasPrefix(f.Digest, "sha256:") || len(f.Digest) != len("sha256:")+64 {
		t.Errorf("digests %s and %s", f.Digest, parsed.Digest)
	}
	checkError(t, f.Check("other-v2", []string{Real, Fake}), path)

	text := filepath.Join(dir, "text.onnx")
	if err := os.WriteFile(text, []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = Open(text)
	checkError(t, err, "open model", text, "not an ONNX model")
	_, err = Open(dir)
	checkError(t, err, "open model", dir, "is a directory; give the path of the model.onnx in it")
	_, err = Open(filepath.Join(dir, "absent.onnx"))
	checkError(t, err, "open model", "absent.onnx", "no such file")
}

func TestFile_Check(t *testing.T) {
	f, err := Parse(testFile(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Check("rgb-4x4-bilinear-aa-v3", []string{Real, Fake}); err != nil {
		t.Error(err)
	}
	checkError(t, f.Check("rgb-4x4-bilinear-aa-v2", []string{Real, Fake}), `"rgb-4x4-bilinear-aa-v3"`, `"rgb-4x4-bilinear-aa-v2"`, f.Digest)
	checkError(t, f.Check("rgb-4x4-bilinear-aa-v3", []string{Fake, Real}), `["REAL" "FAKE"]`, `["FAKE" "REAL"]`)
	checkError(t, f.Check("rgb-4x4-bilinear-aa-v3", nil), "classes")
}

func TestSession_Run(t *testing.T) {
	f, err := Parse(testFile(t))
	if err != nil {
		t.Fatal(err)
	}
	const imageSize, most = channels * testSize * testSize, 3
	s, err := f.NewSession(most, ort.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	if s.Input().Len() != most*imageSize || len(s.Scores()) != most || len(s.Embeddings()) != most*testEmbedding {
		t.Fatalf("buffers for %d inputs, %d logits, %d embeddings", s.Input().Len(), len(s.Scores()), len(s.Embeddings()))
	}
	for _, batch := range []int{3, 1, 2, 3} {
		clear(s.Scores())
		clear(s.Embeddings())
		for i := range batch {
			for j := range imageSize {
				s.Input().Float32[i*imageSize+j] = float32(i) / 2
			}
		}
		if err := s.Run(batch); err != nil {
			t.Fatal(err)
		}
		if batch < most && s.Scores()[batch] != 0 {
			t.Errorf("a batch of %d wrote the logit %g after its end", batch, s.Scores()[batch])
		}
		for i := range batch {
			mean := float64(i) / 2
			for _, value := range []struct {
				name      string
				got, want float64
			}{
				{"logit", float64(s.Scores()[i]), mean*10 - 5},
				{"mean", float64(s.Embeddings()[i*testEmbedding]), mean},
				{"sum", float64(s.Embeddings()[i*testEmbedding+1]), mean * imageSize},
			} {
				if math.Abs(value.got-value.want) > 1e-4 {
					t.Errorf("batch %d, image %d: %s %g, want %g", batch, i, value.name, value.got, value.want)
				}
			}
		}
	}
	for _, n := range []int{-1, 0, most + 1} {
		checkError(t, s.Run(n), fmt.Sprintf("batch of %d images, want 1 to 3", n))
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	checkError(t, s.Run(1), "closed")
}

func TestNewSession_corruptGraph(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*onnxpb.GraphProto)
		want   string
	}{
		{"unknown operator", func(g *onnxpb.GraphProto) { g.Node[1].OpType = proto.String("Gamm") }, "Gamm"},
		{"missing weight", func(g *onnxpb.GraphProto) { g.Initializer = g.Initializer[1:] }, "w1"},
		{"wrong shape of a weight", func(g *onnxpb.GraphProto) { g.Initializer[0].Dims = []int64{testEmbedding * 2, 24} }, "fails on a blank image"},
		{"truncated weight", func(g *onnxpb.GraphProto) { g.Initializer[0].RawData = g.Initializer[0].RawData[:100] }, "rejects the graph"},
		{"embedding wider than declared", func(g *onnxpb.GraphProto) {
			g.Output[1] = value("embedding", onnxpb.TensorProto_FLOAT, "batch", testEmbedding+1)
		}, "embedding"},
		{"NaN weights", func(g *onnxpb.GraphProto) {
			g.Initializer[2] = tensor("b2", []float32{float32(math.NaN())}, 1)
		}, "NaN"},
	} {
		t.Run(test.name, func(t *testing.T) {
			graph := testGraph()
			test.change(graph.Graph)
			data, err := Marshal(graph, testMetadata())
			if err != nil {
				t.Fatal(err)
			}
			f, err := Parse(data)
			if err != nil {
				t.Fatal(err)
			}
			s, err := f.NewSession(2, ort.Options{Threads: 1})
			if err == nil {
				_ = s.Close()
			}
			checkError(t, err, f.Digest, test.want)
		})
	}
	f, err := Parse(testFile(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.NewSession(0, ort.Options{})
	checkError(t, err, "invalid batch size 0")
}

// version1 returns a file of format 1, as trainers wrote it, with changed metadata.
func version1(t *testing.T, graph *onnxpb.ModelProto, change func(map[string]string)) []byte {
	t.Helper()
	texts := map[string]string{
		"format_version": "1", "name": "base", "classes": `["REAL","FAKE"]`, "threshold": "0.625", "input_size": "4",
		"preprocessing": "rgb-4x4-bilinear-aa-v3", "data_source": "archive of images.zip", "data_digest": "sha256:d0", "config_digest": "sha256:c0",
		"seed": "-420", "val_loss": "0.1", "val_accuracy": "NaN", "revision": "v1.2.3",
	}
	if change != nil {
		change(texts)
	}
	graph.MetadataProps = nil
	for k, v := range texts {
		graph.MetadataProps = append(graph.MetadataProps, &onnxpb.StringStringEntryProto{Key: proto.String("fakeart." + k), Value: proto.String(v)})
	}
	data, err := proto.Marshal(graph)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParse_version1(t *testing.T) {
	data := version1(t, explainingGraph(), nil)
	f, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	want := testMetadata()
	want.FormatVersion, want.Name, want.Description, want.License, want.Source = 1, "base", "", "", ""
	want.CAM, want.CAMKind, want.ValAccuracy, want.Revision = "gradcam", CAMOfSecond, 0, "v1.2.3"
	got := f.Metadata
	if !math.IsNaN(got.ValAccuracy) {
		t.Errorf("validation accuracy %g, want NaN", got.ValAccuracy)
	}
	got.ValAccuracy = 0
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if f, err = Parse(version1(t, testGraph(), nil)); err != nil || f.HasCAM() || f.Metadata.CAM != "" {
		t.Errorf("file of an older trainer: error %v, want none and no class-activation map", err)
	}
	for _, test := range []struct{ key, text, want string }{
		{"preprocessing", "rgb-4x4-bilinear-aa-v2", "train it again"},
		{"classes", `["REAL"]`, "classes"},
		{"input_size", "0", "size"},
		{"threshold", "", "threshold"},
	} {
		_, err := Parse(version1(t, testGraph(), func(m map[string]string) { m[test.key] = test.text }))
		checkError(t, err, test.want)
	}
	_, err = Parse(version1(t, testGraph(), func(m map[string]string) { delete(m, "seed") }))
	checkError(t, err, "fakeart.seed: missing")
}

// single returns testGraph for batches of one image.
func single() *onnxpb.ModelProto {
	g := testGraph()
	g.Graph.Input[0] = value("input", onnxpb.TensorProto_FLOAT, 1, 3, testSize, testSize)
	g.Graph.Output[0] = value("logit", onnxpb.TensorProto_FLOAT, 1, 1)
	g.Graph.Output[1] = value("embedding", onnxpb.TensorProto_FLOAT, 1, testEmbedding)
	return g
}

func TestSession_singleImages(t *testing.T) {
	free, one := parsed(t, testGraph(), testMetadata()), parsed(t, single(), testMetadata())
	var scores, embeddings [][]float32
	for _, f := range []*File{free, one} {
		s, err := f.NewSession(3, ort.Options{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		for i := range s.Input().Float32 {
			s.Input().Float32[i] = float32(i%71) / 71
		}
		if err := s.Run(3); err != nil {
			t.Fatal(err)
		}
		scores, embeddings = append(scores, s.Scores()), append(embeddings, s.Embeddings())
	}
	if diff := cmp.Diff(scores[0], scores[1], cmpopts.EquateApprox(1e-5, 1e-5)); diff != "" {
		t.Errorf("scores (-batch +single images):\n%s", diff)
	}
	if diff := cmp.Diff(embeddings[0], embeddings[1], cmpopts.EquateApprox(1e-5, 1e-4)); diff != "" {
		t.Errorf("embeddings (-batch +single images):\n%s", diff)
	}
}

// An output that the metadata doesn't name isn't computed.
func TestNewSession_unusedOutput(t *testing.T) {
	graph := explainingGraph()
	graph.Graph.Node[4].OpType = proto.String("Mull") // unknown operator
	f := parsed(t, graph, testMetadata())
	s, err := f.NewSession(1, ort.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
}

func TestMetadata_Probabilities(t *testing.T) {
	nan := float32(math.NaN())
	for _, test := range []struct {
		name    string
		kind    OutputKind
		classes int
		scores  []float32
		want    []float64 // nil: an error
	}{
		{"one logit", Logits, 2, []float32{1}, []float64{1 / (1 + math.E), math.E / (1 + math.E)}},
		{"one probability", Probabilities, 2, []float32{0.25}, []float64{0.75, 0.25}},
		{"logits", Logits, 3, []float32{0, 0, float32(math.Log(2))}, []float64{0.25, 0.25, 0.5}},
		{"large logits", Logits, 2, []float32{1e4, 1e4}, []float64{0.5, 0.5}},
		{"probabilities", Probabilities, 3, []float32{0.5, 0.25, 0.25}, []float64{0.5, 0.25, 0.25}},
		{"NaN", Logits, 3, []float32{0, nan, 0}, nil},
		{"infinity", Probabilities, 2, []float32{float32(math.Inf(1))}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			md := Metadata{Classes: make([]string, test.classes), OutputKind: test.kind, Columns: len(test.scores)}
			got := make([]float64, test.classes)
			err := md.Probabilities(got, test.scores)
			if (err != nil) != (test.want == nil) {
				t.Fatalf("error %v", err)
			}
			if diff := cmp.Diff(test.want, got, cmpopts.EquateApprox(0, 1e-7)); err == nil && diff != "" {
				t.Errorf("probabilities (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMetadata_Decide(t *testing.T) {
	positive := testMetadata()
	first := testMetadata()
	first.Positive = Real
	three := Metadata{Classes: []string{"cat", "dog", "cat"}, Columns: 3}
	for _, test := range []struct {
		name          string
		md            Metadata
		probabilities []float64
		label         string
		reported      float64
	}{
		{"at the threshold", positive, []float64{0.375, 0.625}, Real, 0.625},
		{"above the threshold", positive, []float64{0.375, math.Nextafter(0.625, 1)}, Fake, math.Nextafter(0.625, 1)},
		{"first class positive", first, []float64{0.75, 0.25}, Real, 0.75},
		{"first class positive, below the threshold", first, []float64{0.6, 0.4}, Fake, 0.6},
		{"highest of three", three, []float64{0.2, 0.3, 0.5}, "cat#2", 0.5},
		{"first of two equal ones", three, []float64{0.4, 0.4, 0.2}, "cat#0", 0.4},
	} {
		t.Run(test.name, func(t *testing.T) {
			class := test.md.Decide(test.probabilities)
			if label := test.md.Labels()[class]; label != test.label {
				t.Errorf("label %s, want %s", label, test.label)
			}
			if p := test.md.Reported(test.probabilities, class); p != test.reported {
				t.Errorf("reported probability %g, want %g", p, test.reported)
			}
		})
	}
}

func TestTop(t *testing.T) {
	p := []float64{0.1, 0.3, 0.1, 0.5}
	for n, want := range map[int][]int{0: {}, 1: {3}, 3: {3, 1, 0}, 9: {3, 1, 0, 2}} {
		if got := Top(p, n); !slices.Equal(got, want) {
			t.Errorf("Top(%d) = %v, want %v", n, got, want)
		}
	}
}

func TestMetadata_IsAI(t *testing.T) {
	md := testMetadata()
	if ai, ok := md.IsAI(1); !ai || !ok {
		t.Errorf("IsAI of %s = %t, %t", md.Classes[1], ai, ok)
	}
	md.Classes = []string{Fake, "PHOTO"}
	if _, ok := md.IsAI(0); ok {
		t.Error("IsAI is defined for other classes")
	}
}

func TestProbability(t *testing.T) {
	for _, test := range []struct {
		logit float32
		want  float64
	}{{0, 0.5}, {1, 0.7310585786300049}, {-1, 0.2689414213699951}, {200, 1}, {float32(math.Inf(-1)), 0}} {
		if got := Probability(test.logit); math.Abs(got-test.want) > 1e-15 {
			t.Errorf("Probability(%g) = %g, want %g", test.logit, got, test.want)
		}
	}
}

func TestMetadata_Probabilities_rounding(t *testing.T) {
	md := &Metadata{Classes: []string{"a", "b", "c"}, OutputKind: Probabilities, Columns: 3}
	dst := make([]float64, 3)
	if err := md.Probabilities(dst, []float32{1.0000001, -1e-8, 0}); err != nil || !slices.Equal(dst, []float64{1, 0, 0}) {
		t.Errorf("probabilities %v, %v, want those in [0,1]", dst, err)
	}
	md = &Metadata{Classes: []string{"a", "b"}, OutputKind: Probabilities, Columns: 1}
	if err := md.Probabilities(dst[:2], []float32{1.0000001}); err != nil || !slices.Equal(dst[:2], []float64{0, 1}) {
		t.Errorf("probabilities %v, %v, want those in [0,1]", dst[:2], err)
	}
}
