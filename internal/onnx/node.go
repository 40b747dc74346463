package onnx

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"fakeart/internal/onnx/onnxpb"
)

// attrs holds a node's attributes: int64, []int64, float32, []float32 or string values.
type attrs map[string]any

// node is an operator to be added to the graph. Its methods check the inputs and report errors with
// the operator's name.
type node struct {
	g      *Graph
	op     string
	domain string
	inputs []Value
	failed bool
}

func (g *Graph) node(op string, inputs ...Value) *node {
	n := &node{g: g, op: op, inputs: inputs}
	for _, v := range inputs {
		if v.name == "" {
			n.failf("an input is missing")
		}
		n.check(v.graph == nil || v.graph == g, "%s belongs to another graph", v)
	}
	return n
}

// failf records an error for the node, with its inputs.
func (n *node) failf(format string, args ...any) {
	if n.failed {
		return
	}
	n.failed = true
	in := make([]string, len(n.inputs))
	for i, v := range n.inputs {
		in[i] = v.String()
	}
	n.g.Fail("%s(%s): %s", n.op, strings.Join(in, ", "), fmt.Sprintf(format, args...))
}

func (n *node) check(ok bool, format string, args ...any) {
	if !ok {
		n.failf(format, args...)
	}
}

// dtype checks that all inputs have the element type.
func (n *node) dtype(t DType) {
	for _, v := range n.inputs {
		n.check(v.dtype == t, "%s isn't %s", v, t)
	}
}

func (n *node) rank(i, rank int) {
	if !n.failed {
		n.check(len(n.inputs[i].shape) == rank, "%s must have rank %d", n.inputs[i], rank)
	}
}

// out adds the node and returns its single result.
func (n *node) out(t DType, shape []int64, a attrs) Value {
	vs := n.outs(a, Value{dtype: t, shape: shape})
	return vs[0]
}

// outs adds the node with results of the given types and shapes.
func (n *node) outs(a attrs, results ...Value) []Value {
	if n.failed || n.g.err != nil {
		return make([]Value, len(results))
	}
	pb := &onnxpb.NodeProto{OpType: proto.String(n.op), Name: proto.String(n.g.unique(n.op))}
	if n.domain != "" {
		pb.Domain = proto.String(n.domain)
	}
	for _, v := range n.inputs {
		pb.Input = append(pb.Input, n.g.current(v.name))
	}
	for i := range results {
		for _, d := range results[i].shape {
			if d < 1 && d != Batch {
				n.failf("the result has the empty shape %v", results[i].shape)
				return make([]Value, len(results))
			}
		}
		results[i].graph = n.g
		results[i].name = n.g.unique(n.op + ":" + fmt.Sprint(i))
		pb.Output = append(pb.Output, results[i].name)
	}
	for _, key := range sortedKeys(a) {
		pb.Attribute = append(pb.Attribute, attribute(key, a[key]))
	}
	n.g.pb.Node = append(n.g.pb.Node, pb)
	return results
}

func (g *Graph) ok(vs ...Value) bool {
	for _, v := range vs {
		if v.name == "" {
			g.Fail("the output is missing")
		} else if v.graph != g {
			g.Fail("%s belongs to another graph", v)
		}
	}
	return g.err == nil
}

func sortedKeys(a attrs) []string {
	keys := make([]string, 0, len(a))
	for k := range a {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func attribute(name string, value any) *onnxpb.AttributeProto {
	pb := &onnxpb.AttributeProto{Name: proto.String(name)}
	switch v := value.(type) {
	case int64:
		pb.Type, pb.I = onnxpb.AttributeProto_INT.Enum(), proto.Int64(v)
	case []int64:
		pb.Type, pb.Ints = onnxpb.AttributeProto_INTS.Enum(), v
	case float32:
		pb.Type, pb.F = onnxpb.AttributeProto_FLOAT.Enum(), proto.Float32(v)
	case []float32:
		pb.Type, pb.Floats = onnxpb.AttributeProto_FLOATS.Enum(), v
	case string:
		pb.Type, pb.S = onnxpb.AttributeProto_STRING.Enum(), []byte(v)
	default:
		panic(fmt.Sprintf("onnx: unsupported type %T of attribute %s", value, name))
	}
	return pb
}

func littleEndian(data []float32) []byte {
	out := make([]byte, 4*len(data))
	for i, x := range data {
		binary.LittleEndian.PutUint32(out[4*i:], math.Float32bits(x))
	}
	return out
}
