package foreign

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"fakeart/internal/onnx/onnxpb"
)

// graph is a foreign graph with indices for following its values.
type graph struct {
	model *onnxpb.ModelProto
	// constants holds the initializers and the values of Constant nodes, producers the node that computes a value, and consumers the number
	// of nodes that read it.
	constants map[string]*onnxpb.TensorProto
	producers map[string]*onnxpb.NodeProto
	consumers map[string][]*onnxpb.NodeProto
	// input is the name of the image.
	input string
	// live has the values that are computed from the image, as opposed to constants and shapes.
	live map[string]bool
}

// newGraph returns the graph of a model with an image input of the given name.
func newGraph(m *onnxpb.ModelProto, input string) *graph {
	g := &graph{
		model: m, input: input, constants: map[string]*onnxpb.TensorProto{}, producers: map[string]*onnxpb.NodeProto{},
		consumers: map[string][]*onnxpb.NodeProto{}, live: map[string]bool{input: true},
	}
	for _, t := range m.GetGraph().GetInitializer() {
		g.constants[t.GetName()] = t
	}
	for _, n := range m.GetGraph().GetNode() {
		live := false
		for _, in := range n.GetInput() {
			g.consumers[in] = append(g.consumers[in], n)
			live = live || g.live[in]
		}
		if n.GetOpType() == "Shape" || n.GetOpType() == "Size" {
			live = false
		}
		for _, out := range n.GetOutput() {
			g.producers[out] = n
			if live {
				g.live[out] = true
			}
		}
		if t := attribute(n, "value").GetT(); n.GetOpType() == "Constant" && t != nil {
			g.constants[n.GetOutput()[0]] = t
		}
	}
	return g
}

// attribute returns the attribute of a node, or nil.
func attribute(n *onnxpb.NodeProto, name string) *onnxpb.AttributeProto {
	for _, a := range n.GetAttribute() {
		if a.GetName() == name {
			return a
		}
	}
	return nil
}

// integer returns an integer attribute of a node, or a default.
func integer(n *onnxpb.NodeProto, name string, otherwise int64) int64 {
	if a := attribute(n, name); a != nil {
		return a.GetI()
	}
	return otherwise
}

// integers returns the values of a constant int64 tensor, or nil if name isn't one.
func (g *graph) integers(name string) []int64 {
	if n := g.producers[name]; n != nil && n.GetOpType() == "Constant" {
		if a := attribute(n, "value_ints"); a != nil {
			return a.GetInts()
		}
	}
	t := g.constants[name]
	if t == nil || t.GetDataType() != int32(onnxpb.TensorProto_INT64) {
		return nil
	}
	if raw := t.GetRawData(); len(raw) > 0 {
		values := make([]int64, len(raw)/8)
		for i := range values {
			values[i] = int64(binary.LittleEndian.Uint64(raw[8*i:]))
		}
		return values
	}
	return t.GetInt64Data()
}

// follow returns the value at which one arrives by going from a value to the first input of its node, as long as nodes have the given
// operators, and the node that computes it. The node is nil for inputs and constants.
func (g *graph) follow(name string, skip ...string) (n *onnxpb.NodeProto, value string) {
	for {
		n := g.producers[name]
		if n == nil || !slices.Contains(skip, n.GetOpType()) || len(n.GetInput()) == 0 {
			return n, name
		}
		name = n.GetInput()[0]
	}
}

// resolve returns the value that a user means by the name of a value or of a node.
func (g *graph) resolve(name string) (string, error) {
	if name == g.input || g.producers[name] != nil {
		return name, nil
	}
	for _, n := range g.model.GetGraph().GetNode() {
		if n.GetName() == name && len(n.GetOutput()) > 0 {
			return n.GetOutput()[0], nil
		}
	}
	return "", fmt.Errorf("the graph has no value or node %q\nhint: Netron (https://netron.app) shows the names in a graph", name)
}

// add inserts nodes before the first node that reads or, if before is nil, at the end.
func (g *graph) add(before *onnxpb.NodeProto, list ...*onnxpb.NodeProto) {
	pb := g.model.GetGraph()
	at := len(pb.Node)
	if before != nil {
		at = slices.Index(pb.Node, before)
	}
	pb.Node = slices.Insert(pb.Node, at, list...)
}

// unused returns a name that the graph doesn't have yet.
func (g *graph) unused(base string) string {
	taken := func(name string) bool {
		return name == g.input || g.producers[name] != nil || g.constants[name] != nil || len(g.consumers[name]) > 0 ||
			slices.ContainsFunc(g.model.GetGraph().GetNode(), func(n *onnxpb.NodeProto) bool {
				return n.GetName() == name || slices.Contains(n.GetOutput(), name)
			})
	}
	name := base
	for i := 2; taken(name); i++ {
		name = fmt.Sprintf("%s_%d", base, i)
	}
	return name
}

// constant adds a constant int64 vector and returns its name.
func (g *graph) constant(base string, values ...int64) string {
	name := g.unused(base)
	t := &onnxpb.TensorProto{
		Name: proto.String(name), DataType: proto.Int32(int32(onnxpb.TensorProto_INT64)), Dims: []int64{int64(len(values))}, Int64Data: values,
	}
	g.model.Graph.Initializer = append(g.model.Graph.Initializer, t)
	g.constants[name] = t
	return name
}

// node returns a new node with one output. attributes are pairs of a name and an int64, or []int64.
func (g *graph) node(op string, output string, inputs []string, attributes ...any) *onnxpb.NodeProto {
	n := &onnxpb.NodeProto{OpType: proto.String(op), Name: proto.String(g.unused("fakeart/" + op)), Input: inputs, Output: []string{output}}
	g.producers[output] = n
	for i := 0; i+1 < len(attributes); i += 2 {
		a := &onnxpb.AttributeProto{Name: proto.String(attributes[i].(string))}
		switch v := attributes[i+1].(type) {
		case int64:
			a.Type, a.I = onnxpb.AttributeProto_INT.Enum(), proto.Int64(v)
		case []int64:
			a.Type, a.Ints = onnxpb.AttributeProto_INTS.Enum(), v
		}
		n.Attribute = append(n.Attribute, a)
	}
	return n
}

// cast makes all consumers of the image read a copy with another element type. The declared type of the input must be changed by the caller.
func (g *graph) castInput(to int32) {
	name := g.unused("fakeart/image")
	for _, n := range g.model.GetGraph().GetNode() {
		for i, in := range n.GetInput() {
			if in == g.input {
				n.Input[i] = name
			}
		}
	}
	g.model.Graph.Node = slices.Insert(g.model.Graph.Node, 0, g.node("Cast", name, []string{g.input}, "to", int64(to)))
}

// prune removes nodes and constants that no output needs.
func prune(m *onnxpb.ModelProto) {
	g := m.GetGraph()
	needed := map[string]bool{}
	for _, v := range g.GetOutput() {
		needed[v.GetName()] = true
	}
	var need func(n *onnxpb.NodeProto)
	need = func(n *onnxpb.NodeProto) {
		for _, in := range n.GetInput() {
			needed[in] = true
		}
		for _, a := range n.GetAttribute() {
			for _, sub := range append(slices.Clone(a.GetGraphs()), a.GetG()) {
				for _, v := range sub.GetOutput() {
					needed[v.GetName()] = true
				}
				for _, inner := range sub.GetNode() {
					need(inner)
				}
			}
		}
	}
	var kept []*onnxpb.NodeProto
	for _, n := range slices.Backward(g.GetNode()) { // in topological order
		if slices.ContainsFunc(n.GetOutput(), func(name string) bool { return needed[name] }) {
			kept = append(kept, n)
			need(n)
		}
	}
	slices.Reverse(kept)
	g.Node = kept
	constants := map[string]bool{}
	g.Initializer = slices.DeleteFunc(slices.Clone(g.Initializer), func(t *onnxpb.TensorProto) bool {
		constants[t.GetName()] = true
		return !needed[t.GetName()]
	})
	// Up to IR version 3, constants are also listed as inputs.
	g.Input = slices.DeleteFunc(slices.Clone(g.Input), func(v *onnxpb.ValueInfoProto) bool { return constants[v.GetName()] && !needed[v.GetName()] })
	g.SparseInitializer = slices.DeleteFunc(slices.Clone(g.SparseInitializer), func(t *onnxpb.SparseTensorProto) bool { return !needed[t.GetValues().GetName()] })
}

// checkWeights returns an error for the first weight with a NaN.
func checkWeights(m *onnxpb.ModelProto) error {
	var err error
	tensors(m, func(t *onnxpb.TensorProto) {
		if err == nil && hasNaN(t) {
			err = fmt.Errorf("weight %q contains NaN: the training has diverged or the file is corrupt\nhint: export another checkpoint", t.GetName())
		}
	})
	return err
}

func hasNaN(t *onnxpb.TensorProto) bool {
	for _, v := range t.GetFloatData() {
		if v != v {
			return true
		}
	}
	for _, v := range t.GetDoubleData() {
		if v != v {
			return true
		}
	}
	raw := t.GetRawData()
	switch onnxpb.TensorProto_DataType(t.GetDataType()) {
	case onnxpb.TensorProto_FLOAT:
		for i := 0; i+4 <= len(raw); i += 4 {
			if binary.LittleEndian.Uint32(raw[i:])&0x7fffffff > 0x7f800000 {
				return true
			}
		}
	case onnxpb.TensorProto_FLOAT16:
		for i := 0; i+2 <= len(raw); i += 2 {
			if binary.LittleEndian.Uint16(raw[i:])&0x7fff > 0x7c00 {
				return true
			}
		}
	case onnxpb.TensorProto_BFLOAT16:
		for i := 0; i+2 <= len(raw); i += 2 {
			if binary.LittleEndian.Uint16(raw[i:])&0x7fff > 0x7f80 {
				return true
			}
		}
	case onnxpb.TensorProto_DOUBLE:
		for i := 0; i+8 <= len(raw); i += 8 {
			if v := math.Float64frombits(binary.LittleEndian.Uint64(raw[i:])); v != v {
				return true
			}
		}
	}
	return false
}

// checkOperators returns an error for operators that ONNX Runtime doesn't have, and for nodes in training mode.
func checkOperators(m *onnxpb.ModelProto) error {
	custom := map[string]bool{}
	training := ""
	nodes(m, func(*onnxpb.GraphProto) {}, func(n *onnxpb.NodeProto) {
		switch n.GetDomain() {
		case "", "ai.onnx", "ai.onnx.ml", "com.microsoft":
		default:
			custom[n.GetDomain()+"."+n.GetOpType()] = true
		}
		if n.GetOpType() == "BatchNormalization" && integer(n, "training_mode", 0) != 0 {
			training = n.GetOpType()
		}
	})
	if len(m.GetFunctions()) > 0 {
		return fmt.Errorf("the graph calls functions defined in the file, such as %s\n"+
			"hint: inline them: onnx.save(onnx.inliner.inline_local_functions(onnx.load(\"in.onnx\")), \"out.onnx\")", m.GetFunctions()[0].GetName())
	}
	if len(custom) > 0 {
		return fmt.Errorf("the graph uses operators that neither ONNX nor ONNX Runtime has: %s\n"+
			"hint: export without this extension, or replace the layer by standard ones", strings.Join(sorted(custom), ", "))
	}
	if training != "" {
		return fmt.Errorf("the graph has %s in training mode, so that predictions depend on the other images of a batch\nhint: call model.eval() before the export", training)
	}
	return nil
}

func sorted(set map[string]bool) []string {
	var list []string
	for s := range set {
		list = append(list, s)
	}
	slices.Sort(list)
	return list
}

// dimension returns a dimension of a fixed size or, if size is free, one with a name.
func dimension(size int64) *onnxpb.TensorShapeProto_Dimension {
	if size == free {
		return &onnxpb.TensorShapeProto_Dimension{Value: &onnxpb.TensorShapeProto_Dimension_DimParam{DimParam: "batch"}}
	}
	return &onnxpb.TensorShapeProto_Dimension{Value: &onnxpb.TensorShapeProto_Dimension_DimValue{DimValue: size}}
}

// free is the size of a dimension that is only known when the graph runs.
const free = -1

// shape returns the declared shape of a tensor, with free for unknown sizes, and whether a shape is declared at all.
func shape(v *onnxpb.ValueInfoProto) (dims []int64, ok bool) {
	s := v.GetType().GetTensorType().GetShape()
	if s == nil {
		return nil, false
	}
	for _, d := range s.GetDim() {
		size := int64(free)
		// Exporters also write 0 and -1 for unknown sizes.
		if f, fixed := d.GetValue().(*onnxpb.TensorShapeProto_Dimension_DimValue); fixed && f.DimValue > 0 {
			size = f.DimValue
		}
		dims = append(dims, size)
	}
	return dims, true
}

// declare returns the declaration of a tensor.
func declare(name string, elem onnxpb.TensorProto_DataType, dims ...int64) *onnxpb.ValueInfoProto {
	s := &onnxpb.TensorShapeProto{}
	for _, d := range dims {
		s.Dim = append(s.Dim, dimension(d))
	}
	return &onnxpb.ValueInfoProto{Name: proto.String(name), Type: &onnxpb.TypeProto{Value: &onnxpb.TypeProto_TensorType{
		TensorType: &onnxpb.TypeProto_Tensor{ElemType: proto.Int32(int32(elem)), Shape: s},
	}}}
}

// shapeText formats a shape for messages, as in [batch,3,224,224].
func shapeText(dims []int64) string {
	var parts []string
	for i, d := range dims {
		switch {
		case d != free:
			parts = append(parts, fmt.Sprint(d))
		case i == 0:
			parts = append(parts, "batch")
		default:
			parts = append(parts, "?")
		}
	}
	return "[" + strings.Join(parts, ",") + "]"
}
