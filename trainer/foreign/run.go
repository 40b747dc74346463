package foreign

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strings"

	ortgo "github.com/yalue/onnxruntime_go"
	"google.golang.org/protobuf/proto"

	"fakeart/internal/imaging"
	"fakeart/internal/onnx/onnxpb"
	"fakeart/internal/ort"
)

// result is an output of a run.
type result struct {
	shape []int64
	// floats are the values of float tensors, nil for other types.
	floats []float32
	// kind is the element type as ONNX names it, or "sequence" or "map".
	kind string
}

// runner runs a graph and returns the outputs with the shapes that they turn out to have.
type runner struct {
	program *ort.Program
	shape   []int64 // of the input without the batch
	names   []string
}

// newRunner creates a runner for some values of the model. It declares those that aren't outputs yet in a copy of the model.
func newRunner(m *onnxpb.ModelProto, input string, inputShape []int64, names ...string) (*runner, error) {
	declared := map[string]*onnxpb.ValueInfoProto{}
	for _, v := range m.GetGraph().GetOutput() {
		declared[v.GetName()] = v
	}
	g := &onnxpb.GraphProto{
		Name: m.Graph.Name, Node: m.Graph.Node, Initializer: m.Graph.Initializer, SparseInitializer: m.Graph.SparseInitializer,
		Input: m.Graph.Input, QuantizationAnnotation: m.Graph.QuantizationAnnotation,
	}
	for _, name := range names {
		v := &onnxpb.ValueInfoProto{Name: proto.String(name)} // ONNX Runtime infers type and shape
		if d := declared[name]; d != nil && d.GetType().GetTensorType() == nil {
			v = d
		}
		g.Output = append(g.Output, v)
	}
	all := &onnxpb.ModelProto{IrVersion: m.IrVersion, OpsetImport: m.OpsetImport, Graph: g, Functions: m.Functions}
	prune(all)
	data, err := proto.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("the model is larger than 2 GiB: %w", err)
	}
	p, err := ort.NewProgram(data, []string{input}, names, ort.Options{})
	if err != nil {
		return nil, rejected(err)
	}
	return &runner{p, inputShape, names}, nil
}

var (
	irVersion = regexp.MustCompile(`model IR version: (\d+), max supported IR version: (\d+)`)
	opset     = regexp.MustCompile(`Opset (\d+) is under development.*official support for domain \S+ is till opset (\d+)`)
)

// rejected explains why ONNX Runtime doesn't load a graph.
func rejected(err error) error {
	if ort.Version() == "" { // the library couldn't be loaded
		return err
	}
	text := err.Error()
	runtime := "ONNX Runtime " + ort.Version()
	if m := irVersion.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("the file has IR version %s, but %s only reads versions up to %s\nhint: export it with an older version of the package onnx, or with a lower opset", m[1], runtime, m[2])
	}
	if m := opset.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("the graph uses opset %s, but %s only supports opsets up to %s\nhint: export it with opset_version=%s", m[1], runtime, m[2], m[2])
	}
	return fmt.Errorf("%s rejects the graph: %s\nhint: check the file with python -c 'import onnx; onnx.checker.check_model(\"model.onnx\")'", runtime, plain(text))
}

// plain removes the prefixes of our wrappers and line breaks from an error text of ONNX Runtime.
func plain(text string) string {
	for _, prefix := range []string{"open ONNX program: ", "run ONNX program: ", "Error creating C session: ", "Error creating session: "} {
		text = strings.Replace(text, prefix, "", 1)
	}
	return strings.Join(strings.Fields(text), " ")
}

// run runs the graph on a batch of images.
func (r *runner) run(images imaging.Tensor, batch int) ([]result, error) {
	full := ortgo.NewShape(append([]int64{int64(batch)}, r.shape...)...)
	var in ortgo.Value
	var err error
	if images.Uint8 != nil {
		in, err = ortgo.NewTensor(full, images.Uint8)
	} else {
		in, err = ortgo.NewTensor(full, images.Float32)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Destroy() }()
	out := make([]ortgo.Value, len(r.names)) // allocated by the run
	defer func() {
		for _, v := range out {
			// After a failed run, there can be nil pointers in the interfaces.
			if v != nil && !reflect.ValueOf(v).IsNil() {
				_ = v.Destroy()
			}
		}
	}()
	if err := r.program.Run([]ortgo.Value{in}, out); err != nil {
		return nil, errors.New(plain(err.Error()))
	}
	results := make([]result, len(out))
	for i, v := range out {
		switch t := v.(type) {
		case *ortgo.Tensor[float32]:
			results[i] = result{floats: append([]float32{}, t.GetData()...), kind: "float"}
		case *ortgo.Tensor[float64]:
			results[i] = result{kind: "double"}
		case *ortgo.Tensor[int64]:
			results[i] = result{kind: "int64"}
		case *ortgo.Tensor[int32]:
			results[i] = result{kind: "int32"}
		case *ortgo.Sequence:
			results[i] = result{kind: "sequence"}
			continue
		case *ortgo.Map:
			results[i] = result{kind: "map"}
			continue
		default:
			results[i] = result{kind: "another type"}
		}
		results[i].shape = v.GetShape()
	}
	return results, nil
}

func (r *runner) close() { _ = r.program.Close() }

// row returns the values of one image of a batch.
func (r result) row(i, batch int) []float32 {
	n := len(r.floats) / batch
	return r.floats[i*n : (i+1)*n]
}

// close reports whether two rows are equal except for rounding, which depends on the size of the batch.
func closeTo(a, b []float32) bool {
	if len(a) != len(b) {
		return false
	}
	greatest := 0.0
	for _, v := range b {
		greatest = max(greatest, math.Abs(float64(v)))
	}
	for i := range a {
		if d := math.Abs(float64(a[i]) - float64(b[i])); !(d <= 1e-3*greatest+1e-6) {
			return false
		}
	}
	return true
}
