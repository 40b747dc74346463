package onnx

import (
	"slices"

	"fakeart/internal/onnx/onnxpb"
)

// Detach removes an output from the model, together with the nodes and constants that only this
// output needs, and returns them. It returns nil and doesn't change the model if there is no such
// output.
//
// Detaching saves time because ONNX Runtime computes all outputs of a graph, even unused ones.
// The marshaled model followed by the marshaled result is the complete model again, because
// concatenating protocol buffers merges them.
func Detach(m *onnxpb.ModelProto, output string) *onnxpb.ModelProto {
	g := m.GetGraph()
	at := slices.IndexFunc(g.GetOutput(), func(v *onnxpb.ValueInfoProto) bool { return v.GetName() == output })
	if at < 0 {
		return nil
	}
	taken := &onnxpb.GraphProto{Output: []*onnxpb.ValueInfoProto{g.Output[at]}}
	g.Output = slices.Delete(g.Output, at, at+1)

	needed := map[string]bool{}
	for _, v := range slices.Concat(g.Output, g.Input) { // old files also list constants as inputs
		needed[v.GetName()] = true
	}
	// Nodes are in topological order: each one comes after those whose outputs it reads.
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

// need marks the values that the node and its subgraphs read.
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
