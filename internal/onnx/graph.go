// Package onnx builds ONNX graphs. Every operator is a method that knows the
// shapes and the element types that it accepts and gives, so that a wrong
// graph fails while it is being built and the error names the wrong node; what
// is built is an ONNX protocol buffer, ready for ONNX Runtime.
//
// Operator semantics are those of the ONNX operator set given by OpsetVersion.
// The methods in nchwc.go name operators that are internal to ONNX Runtime.
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
	// OpsetVersion is the version of the default operator set that graphs use.
	OpsetVersion = 17
	// IRVersion is the version of the ONNX file format that graphs are written in.
	IRVersion = 8
	// Batch stands for the one dimension that is known only when a graph runs.
	Batch int64 = -1

	batchName = "batch"
)

// DType is the element type of a tensor.
type DType int32

// The element types that graphs here use.
const (
	Float32 = DType(onnxpb.TensorProto_FLOAT)
	Int64   = DType(onnxpb.TensorProto_INT64)
	Bool    = DType(onnxpb.TensorProto_BOOL)
)

func (t DType) String() string {
	return strings.ToLower(onnxpb.TensorProto_DataType(t).String())
}

// Value is a tensor in a graph: a name, an element type and a shape. The zero
// Value is what a method returns after the graph has failed.
type Value struct {
	name  string
	dtype DType
	shape []int64
	graph *Graph // whose tensor it is
}

// Name is the tensor's name, unique in its graph.
func (v Value) Name() string { return v.name }

// Shape is a copy of the tensor's shape; Batch stands for the batch dimension.
func (v Value) Shape() []int64 { return slices.Clone(v.shape) }

// Dim is the size of dimension i, counted from the end when negative; 0 where
// there is no such dimension, as in the zero Value of a failed graph.
func (v Value) Dim(i int) int64 {
	if i < 0 {
		i += len(v.shape)
	}
	if i < 0 || i >= len(v.shape) {
		return 0
	}
	return v.shape[i]
}

// DType is the tensor's element type.
func (v Value) DType() DType { return v.dtype }

// Size is the number of elements; a batch dimension counts as one.
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

// Graph is an ONNX graph under construction. The first mistake is kept, makes
// every later call a no-op, and is returned by Model, so that a network can be
// written as plain expressions. Not safe for concurrent use.
type Graph struct {
	pb     *onnxpb.GraphProto
	names  map[string]bool
	scope  []string
	consts map[string]Value
	// Values handed out before Output gave their tensors other names.
	renamed map[string]string
	nchwc   bool
	err     error
}

// NewGraph starts an empty graph with the given name.
func NewGraph(name string) *Graph {
	return &Graph{
		pb:      &onnxpb.GraphProto{Name: proto.String(name)},
		names:   map[string]bool{},
		consts:  map[string]Value{},
		renamed: map[string]string{},
	}
}

// Err is the first mistake made while building, or nil.
func (g *Graph) Err() error { return g.err }

// In runs f with name added to the names of all nodes that f makes, so that an
// error or a profile says to which layer a node belongs.
func (g *Graph) In(name string, f func()) {
	g.scope = append(g.scope, name)
	defer func() { g.scope = g.scope[:len(g.scope)-1] }()
	f()
}

// Fail records a mistake that the caller has found in what it was given,
// together with the current scope. Only the first is kept.
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

// unique makes a name from the scope and base that no tensor or node has yet.
func (g *Graph) unique(base string) string {
	prefix := strings.Join(append(slices.Clone(g.scope), base), "/")
	name := prefix
	for i := 2; g.names[name]; i++ {
		name = fmt.Sprintf("%s_%d", prefix, i)
	}
	g.names[name] = true
	return name
}

// claim takes a name as it is, for inputs, outputs and parameters.
func (g *Graph) claim(name string) string {
	if name == "" || g.names[name] {
		g.Fail("the name %q is empty or taken", name)
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
	// v is an input, a constant or an output already: it keeps its name.
	g.pb.Node = append(g.pb.Node, &onnxpb.NodeProto{
		OpType: proto.String("Identity"), Name: proto.String(g.unique("Identity")),
		Input: []string{v.name}, Output: []string{name},
	})
	g.pb.Output = append(g.pb.Output, out.info())
}

// current is the name that a tensor goes by now.
func (g *Graph) current(name string) string {
	if to, ok := g.renamed[name]; ok {
		return to
	}
	return name
}

// rename gives a node's result another name, where it is made and wherever it
// is read, which spares a node that copies it.
func (g *Graph) rename(from, to string) bool {
	made := false
	for _, o := range g.pb.Output {
		if o.GetName() == from {
			return false
		}
	}
	for _, n := range g.pb.Node {
		if i := slices.Index(n.Output, from); i >= 0 {
			n.Output[i] = to
			made = true
		}
	}
	if !made {
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

// Param adds a named tensor of constants, as trained weights are kept.
// The number of data must be the product of shape.
func (g *Graph) Param(name string, data []float32, shape ...int64) Value {
	v := Value{g.claim(name), Float32, slices.Clone(shape), g}
	g.initializer(v, len(data), &onnxpb.TensorProto{FloatData: data})
	return v
}

// Const is an unnamed tensor of constants; equal small ones are shared.
func (g *Graph) Const(data []float32, shape ...int64) Value {
	return shared(g, Float32, data, shape, &onnxpb.TensorProto{FloatData: data})
}

// Scalar is a constant of shape [1], which broadcasts over anything.
func (g *Graph) Scalar(x float64) Value { return g.Const([]float32{float32(x)}, 1) }

// Ints is a vector of int64 constants, as shapes and axes are given.
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
	// Constants are shared by layers, so their names carry no scope.
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
		g.Fail("constant %s was given %d numbers", v, n)
		return
	}
	pb.Name = proto.String(v.name)
	pb.DataType = proto.Int32(int32(v.dtype))
	pb.Dims = v.shape
	if pb.FloatData != nil {
		// Raw bytes, little endian, are what other writers use and readers load fastest.
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

// Model closes the graph and returns it as a model, or the first mistake that
// was made while building it.
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

// Marshal is Model, as the bytes that ONNX Runtime reads. The same graph gives
// the same bytes.
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
