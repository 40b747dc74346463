package onnx

import (
	"slices"

	"fakeart/internal/onnx/onnxpb"
)

// Detach takes an output out of the model, with the nodes and the constants that
// lead to it alone, and returns them: ONNX Runtime computes every output of a graph,
// whichever are asked for. Marshalled, what is left with what was taken behind it is
// the whole model again, for that is how protocol buffers are merged. Nothing is
// taken, and nil returned, when the model has no such output.
func Detach(m *onnxpb.ModelProto, output string) *onnxpb.ModelProto {
	g := m.GetGraph()
	at := slices.IndexFunc(g.GetOutput(), func(v *onnxpb.ValueInfoProto) bool { return v.GetName() == output })
	if at < 0 {
		return nil
	}
	taken := &onnxpb.GraphProto{Output: []*onnxpb.ValueInfoProto{g.Output[at]}}
	g.Output = slices.Delete(g.Output, at, at+1)

	needed := map[string]bool{}
	for _, v := range slices.Concat(g.Output, g.Input) { // old files list constants among the inputs
		needed[v.GetName()] = true
	}
	// Nodes stand behind those that they read from.
	kept := make([]*onnxpb.NodeProto, 0, len(g.Node))
	for _, n := range slices.Backward(g.Node) {
		if !slices.ContainsFunc(n.GetOutput(), func(name string) bool { return needed[name] }) {
			taken.Node = append(taken.Node, n)
			continue
		}
		kept = append(kept, n)
		need(needed, n)
	}
	slices.Reverse(taken.Node)
	slices.Reverse(kept)
	g.Node = kept
	g.Initializer = slices.DeleteFunc(g.Initializer, func(t *onnxpb.TensorProto) bool {
		if needed[t.GetName()] {
			return false
		}
		taken.Initializer = append(taken.Initializer, t)
		return true
	})
	return &onnxpb.ModelProto{Graph: taken}
}

// need marks what the node reads, and what the graphs inside it may read.
func need(needed map[string]bool, n *onnxpb.NodeProto) {
	for _, name := range n.GetInput() {
		needed[name] = true
	}
	for _, a := range n.GetAttribute() {
		graphs := a.GetGraphs()
		if a.GetG() != nil {
			graphs = append(slices.Clone(graphs), a.GetG())
		}
		for _, g := range graphs {
			for _, v := range g.GetOutput() {
				needed[v.GetName()] = true
			}
			for _, inner := range g.GetNode() {
				need(needed, inner)
			}
		}
	}
}
