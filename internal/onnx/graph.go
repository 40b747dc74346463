// Package onnx builds ONNX graphs. Start with [NewGraph], declare inputs with [Graph.Input], combine
// values with the operator methods, such as [Graph.Conv], declare outputs with [Graph.Output], and
// get the file with [Graph.Marshal].
//
// Each operator method checks the shapes and element types of its operands. So an invalid graph
// fails while it's being built, and the error names the invalid node.
//
// The operators have the semantics of the ONNX operator set [OpsetVersion]. The methods of
// [Blocked] use operators that are internal to ONNX Runtime.
package onnx

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"fakeart/internal/onnx/onnxpb"
)

const (
	// OpsetVersion is the version of the ONNX operator set used by graphs.
	OpsetVersion = 17
	// IRVersion is the version of the ONNX file format.
	IRVersion = 8
	// Batch is the batch dimension in shapes, whose size is only known when a graph runs.
	Batch int64 = -1

	batchName = "batch"
)

// DType is the element type of a tensor.
type DType int32

// Supported element types.
const (
	Float32 = DType(onnxpb.TensorProto_FLOAT)
	Int64   = DType(onnxpb.TensorProto_INT64)
	Bool    = DType(onnxpb.TensorProto_BOOL)
)

func (t DType) String() string {
	return strings.ToLower(onnxpb.TensorProto_DataType(t).String())
}

// Value is a tensor in a graph, with a name, an element type and a shape. Methods return the zero
// Value after an error.
type Value struct {
	name  string
	dtype DType
	shape []int64
	graph *Graph // the graph that the tensor belongs to
}

// Name returns the tensor's name, which is unique in its graph.
func (v Value) Name() string { return v.name }

// Shape returns a copy of the tensor's shape. The batch dimension is [Batch].
func (v Value) Shape() []int64 { return slices.Clone(v.shape) }

// Dim returns the size of dimension i. A negative i counts from the end. Dim returns 0 if there is
// no such dimension, as in the zero Value.
func (v Value) Dim(i int) int64 {
	if i < 0 {
		i += len(v.shape)
	}
	if i < 0 || i >= len(v.shape) {
		return 0
	}
	return v.shape[i]
}

// DType returns the tensor's element type.
func (v Value) DType() DType { return v.dtype }

// Size returns the number of elements. The batch dimension counts as one.
func (v Value) Size() int64 {
	n := int64(1)
	for _, d := range v.shape {
		if d != Batch {
			n *= d
		}
	}
	return n
}

func (v Value) String() string {
	dims := make([]string, len(v.shape))
	for i, d := range v.shape {
		dims[i] = fmt.Sprint(d)
		if d == Batch {
			dims[i] = batchName
		}
	}
	return fmt.Sprintf("%s %s[%s]", v.name, v.dtype, strings.Join(dims, ","))
}

// Graph is an ONNX graph under construction. It keeps the first error, which Err and Model return.
// All later calls do nothing, so that networks can be written as expressions without checking
// errors at each step. A Graph isn't safe for concurrent use.
type Graph struct {
	pb     *onnxpb.GraphProto
	names  map[string]bool
	scope  []string
	consts map[string]Value
	// Old name → new name of tensors that Output has renamed. Values may still have the old name.
	renamed map[string]string
	nchwc   bool
	err     error
}

// NewGraph returns an empty graph with the given name.
func NewGraph(name string) *Graph {
	return &Graph{
		pb:      &onnxpb.GraphProto{Name: proto.String(name)},
		names:   map[string]bool{},
		consts:  map[string]Value{},
		renamed: map[string]string{},
	}
}

// Err returns the first error that occurred while building the graph, or nil.
func (g *Graph) Err() error { return g.err }

// In calls f and prefixes the names of all nodes that f adds with "name/", so that errors and
// profiles show which layer a node belongs to. Calls can be nested.
func (g *Graph) In(name string, f func()) {
	g.scope = append(g.scope, name)
	defer func() { g.scope = g.scope[:len(g.scope)-1] }()
	f()
}

// Fail records an error detected by the caller, together with the current scope. It does nothing if
// the graph already has an error.
func (g *Graph) Fail(format string, args ...any) {
	if g.err != nil {
		return
	}
	at := strings.Join(g.scope, "/")
	if at == "" {
		at = g.pb.GetName()
	}
	g.err = fmt.Errorf("build graph %s: at %s: %w", g.pb.GetName(), at, fmt.Errorf(format, args...))
}

// unique returns an unused name that consists of the scope, base and, if necessary, a number.
func (g *Graph) unique(base string) string {
	prefix := strings.Join(append(slices.Clone(g.scope), base), "/")
	name := prefix
	for i := 2; g.names[name]; i++ {
		name = fmt.Sprintf("%s_%d", prefix, i)
	}
	g.names[name] = true
	return name
}

// claim reserves the exact name for an input, output or parameter.
func (g *Graph) claim(name string) string {
	if name == "" || g.names[name] {
		g.Fail("the name %q is empty or already used", name)
	}
	g.names[name] = true
	return name
}

// Input declares an input of the graph.
func (g *Graph) Input(name string, t DType, shape ...int64) Value {
	v := Value{g.claim(name), t, slices.Clone(shape), g}
	for _, d := range shape {
		if d < 1 && d != Batch {
			g.Fail("input %s has a dimension of size %d", v, d)
		}
	}
	g.pb.Input = append(g.pb.Input, v.info())
	return v
}

// Output declares v as an output of the graph, under the given name.
func (g *Graph) Output(name string, v Value) {
	if !g.ok(v) {
		return
	}
	v.name = g.current(v.name)
	out := Value{g.claim(name), v.dtype, v.shape, g}
	if g.rename(v.name, name) {
		g.pb.Output = append(g.pb.Output, out.info())
		return
	}
	// v is an input, a constant or already an output, and keeps its name. Add a copy.
	g.pb.Node = append(g.pb.Node, &onnxpb.NodeProto{
		OpType: proto.String("Identity"), Name: proto.String(g.unique("Identity")),
		Input: []string{v.name}, Output: []string{name},
	})
	g.pb.Output = append(g.pb.Output, out.info())
}

// current returns the current name of a tensor.
func (g *Graph) current(name string) string {
	if to, ok := g.renamed[name]; ok {
		return to
	}
	return name
}

// rename renames the output of a node, so that no node for copying it is needed. It returns false
// if no node computes the tensor, or if it's already an output of the graph.
func (g *Graph) rename(from, to string) bool {
	found := false
	for _, o := range g.pb.Output {
		if o.GetName() == from {
			return false
		}
	}
	for _, n := range g.pb.Node {
		if i := slices.Index(n.Output, from); i >= 0 {
			n.Output[i] = to
			found = true
		}
	}
	if !found {
		return false
	}
	for _, n := range g.pb.Node {
		for i, in := range n.Input {
			if in == from {
				n.Input[i] = to
			}
		}
	}
	g.renamed[from] = to
	return true
}

// Param adds a named constant tensor, such as trained weights. len(data) must be the product of the
// dimensions.
func (g *Graph) Param(name string, data []float32, shape ...int64) Value {
	v := Value{g.claim(name), Float32, slices.Clone(shape), g}
	g.initializer(v, len(data), &onnxpb.TensorProto{FloatData: data})
	return v
}

// Const adds an unnamed constant tensor. Small tensors with the same values are shared.
func (g *Graph) Const(data []float32, shape ...int64) Value {
	return shared(g, Float32, data, shape, &onnxpb.TensorProto{FloatData: data})
}

// Scalar returns a constant of shape [1], which broadcasts to any shape.
func (g *Graph) Scalar(x float64) Value { return g.Const([]float32{float32(x)}, 1) }

// Ints returns a constant int64 vector, as used for shapes and axes.
func (g *Graph) Ints(data ...int64) Value {
	return shared(g, Int64, data, []int64{int64(len(data))}, &onnxpb.TensorProto{Int64Data: data})
}

func shared[T any](g *Graph, t DType, data []T, shape []int64, pb *onnxpb.TensorProto) Value {
	key := ""
	if len(data) <= 16 {
		key = fmt.Sprint(t, shape, data)
		if v, ok := g.consts[key]; ok {
			return v
		}
	}
	// Layers share constants, so their names have no scope.
	scope := g.scope
	g.scope = nil
	v := Value{g.unique("const"), t, slices.Clone(shape), g}
	g.scope = scope
	g.initializer(v, len(data), pb)
	if key != "" {
		g.consts[key] = v
	}
	return v
}

func (g *Graph) initializer(v Value, n int, pb *onnxpb.TensorProto) {
	if v.Size() != int64(n) || slices.Contains(v.shape, Batch) {
		g.Fail("constant %s has %d values", v, n)
		return
	}
	pb.Name = proto.String(v.name)
	pb.DataType = proto.Int32(int32(v.dtype))
	pb.Dims = v.shape
	if pb.FloatData != nil {
		// Little-endian raw data is what other writers use, and the fastest to load.
		pb.RawData = littleEndian(pb.FloatData)
		pb.FloatData = nil
	}
	g.pb.Initializer = append(g.pb.Initializer, pb)
}

func (v Value) info() *onnxpb.ValueInfoProto {
	shape := &onnxpb.TensorShapeProto{}
	for _, d := range v.shape {
		dim := &onnxpb.TensorShapeProto_Dimension{Value: &onnxpb.TensorShapeProto_Dimension_DimValue{DimValue: d}}
		if d == Batch {
			dim.Value = &onnxpb.TensorShapeProto_Dimension_DimParam{DimParam: batchName}
		}
		shape.Dim = append(shape.Dim, dim)
	}
	return &onnxpb.ValueInfoProto{
		Name: proto.String(v.name),
		Type: &onnxpb.TypeProto{Value: &onnxpb.TypeProto_TensorType{TensorType: &onnxpb.TypeProto_Tensor{
			ElemType: proto.Int32(int32(v.dtype)), Shape: shape,
		}}},
	}
}

// Model returns the finished graph as a model, or the first error that occurred while building it.
func (g *Graph) Model() (*onnxpb.ModelProto, error) {
	if g.err == nil && len(g.pb.Output) == 0 {
		g.Fail("%w", errors.New("the graph has no output"))
	}
	if g.err != nil {
		return nil, g.err
	}
	m := &onnxpb.ModelProto{
		IrVersion:    proto.Int64(IRVersion),
		ProducerName: proto.String("fakeart"),
		OpsetImport:  []*onnxpb.OperatorSetIdProto{{Domain: proto.String(""), Version: proto.Int64(OpsetVersion)}},
		Graph:        g.pb,
	}
	if g.nchwc {
		m.OpsetImport = append(m.OpsetImport,
			&onnxpb.OperatorSetIdProto{Domain: proto.String(nchwcDomain), Version: proto.Int64(1)})
	}
	return m, nil
}

// Marshal is like Model but returns the bytes of an ONNX file. The output is deterministic.
func (g *Graph) Marshal() ([]byte, error) {
	m, err := g.Model()
	if err != nil {
		return nil, err
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("build graph %s: %w", g.pb.GetName(), err)
	}
	return data, nil
}
