package foreign

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"fakeart/internal/imaging"
	"fakeart/internal/onnx/onnxpb"
)

// freeBatch makes the graph take batches of any size, or of one image if that isn't possible. It checks that the scores of an image don't
// depend on the other images of its batch.
func (im *importer) freeBatch() error {
	exported, output := im.m, im.md.Output
	if im.declared == free {
		im.flatten()
		works, independent := im.tryBatches()
		if works && independent {
			return nil
		}
		im.m, im.md.Output = exported, output
		if works && !im.dynamicQuantization() {
			return errors.New("the scores of an image depend on the other images of its batch\nhint: call model.eval() before the export; a softmax or a mean over the batch axis has the same effect")
		}
	}
	// Constants in the graph may contain the size of the batch.
	if m, err := im.freed(); err == nil {
		im.m, im.batch = m, free
		im.g = newGraph(im.m, im.md.Input)
		im.flatten()
		im.setInput()
		if works, independent := im.tryBatches(); works && independent {
			return nil
		}
	}
	if im.declared > 1 {
		return fmt.Errorf("the batch axis is fixed to %d, and the graph doesn't work with other sizes\nhint: export with a batch of 1, or with a dynamic batch axis", im.declared)
	}
	im.m, im.batch, im.md.Output = exported, 1, output
	im.g = newGraph(im.m, im.md.Input)
	im.flatten()
	im.setInput()
	note := "the graph only takes one image at a time, so that requests can't be batched"
	if im.dynamicQuantization() {
		note = "the graph quantizes activations by the values in a batch, so that it's run with one image at a time"
	}
	im.notes = append(im.notes, note+"; exporting with a dynamic batch axis (dynamic_shapes) or static quantization is faster")
	r, err := newRunner(im.m, im.md.Input, im.sample, im.md.Output)
	if err != nil {
		return err
	}
	defer r.close()
	got, err := r.run(im.probes[1], 1)
	if err != nil {
		return fmt.Errorf("the graph fails on a single image: %w\nhint: export with a dynamic batch axis", err)
	}
	if !closeTo(got[0].row(0, 1), im.scores[1]) {
		return errors.New("the graph gives other scores for a single image\nhint: export with a dynamic batch axis")
	}
	return nil
}

// dynamicQuantization reports whether the graph quantizes activations by the range of the values in a batch.
func (im *importer) dynamicQuantization() bool {
	return slices.ContainsFunc(im.m.GetGraph().GetNode(), func(n *onnxpb.NodeProto) bool {
		return n.GetOpType() == "DynamicQuantizeLinear" || n.GetOpType() == "DynamicQuantizeMatMul"
	})
}

// tryBatches runs the graph on batches of several sizes, and compares the scores with those of single images.
func (im *importer) tryBatches() (works, independent bool) {
	r, err := newRunner(im.m, im.md.Input, im.sample, im.md.Output)
	if err != nil {
		return false, false
	}
	defer r.close()
	independent = true
	for _, batch := range [][]int{{0, 1, 2}, {3, 4}, {5}, {4, 3}} {
		var images []imaging.Tensor
		for _, i := range batch {
			images = append(images, im.probes[i])
		}
		results, err := r.run(join(images...), len(batch))
		if err != nil || !slices.Equal(results[0].shape, []int64{int64(len(batch)), int64(im.columns)}) {
			return false, false
		}
		for row, i := range batch {
			independent = independent && closeTo(results[0].row(row, len(batch)), im.scores[i])
		}
	}
	return true, independent
}

// flatten gives the scores the shape [batch,columns], and declares them as the only output. The model is copied, except its weights.
func (im *importer) flatten() {
	im.m = shallow(im.m)
	im.g = newGraph(im.m, im.md.Input)
	name := im.md.Output
	if im.flat {
		im.m.Graph.Output = []*onnxpb.ValueInfoProto{declare(name, onnxpb.TensorProto_FLOAT, im.batch, int64(im.columns))}
		return
	}
	flat := im.g.unused(name + "_flat")
	im.g.add(nil, im.g.node("Reshape", flat, []string{name, im.g.constant("fakeart/columns", -1, int64(im.columns))}))
	im.md.Output = flat
	im.m.Graph.Output = []*onnxpb.ValueInfoProto{declare(flat, onnxpb.TensorProto_FLOAT, im.batch, int64(im.columns))}
	im.g = newGraph(im.m, im.md.Input)
}

// shallow copies a model so that nodes, inputs and outputs can be changed. The weights are shared.
func shallow(m *onnxpb.ModelProto) *onnxpb.ModelProto {
	g := m.GetGraph()
	c := &onnxpb.GraphProto{
		Name: g.Name, Initializer: slices.Clone(g.Initializer), SparseInitializer: slices.Clone(g.SparseInitializer),
		Input: slices.Clone(g.Input), Output: slices.Clone(g.Output), QuantizationAnnotation: g.QuantizationAnnotation,
	}
	for _, n := range g.GetNode() {
		c.Node = append(c.Node, &onnxpb.NodeProto{
			Input: slices.Clone(n.Input), Output: slices.Clone(n.Output), Name: n.Name, OpType: n.OpType, Domain: n.Domain, Attribute: slices.Clone(n.Attribute),
		})
	}
	return &onnxpb.ModelProto{
		IrVersion: m.IrVersion, OpsetImport: m.OpsetImport, ProducerName: m.ProducerName, ProducerVersion: m.ProducerVersion,
		Domain: m.Domain, ModelVersion: m.ModelVersion, MetadataProps: m.MetadataProps, Graph: c, Functions: m.Functions,
	}
}

// freed returns a copy of the exported model without the places where the size of the batch is a constant: in the shapes of Reshape, in
// constants that are concatenated with values of the image, such as the class token of a transformer, and in Squeeze without axes.
func (im *importer) freed() (*onnxpb.ModelProto, error) {
	m := shallow(im.m)
	g := newGraph(m, im.md.Input)
	type site struct {
		node *onnxpb.NodeProto
		at   int // of the value whose shape is needed among values
	}
	var values []string
	var sites []site
	for _, n := range m.Graph.Node {
		in := n.GetInput()
		switch n.GetOpType() {
		case "Reshape":
			if s := g.integers(in[1]); g.live[in[0]] && len(s) > 0 && s[0] > 0 {
				sites = append(sites, site{n, len(values)})
				values = append(values, n.GetOutput()[0])
			}
		case "Gather":
			// PyTorch exports as_strided as a Gather from all values of the batch.
			if flat, indices := g.producers[in[0]], g.constants[in[1]]; g.live[in[0]] && integer(n, "axis", 0) == 0 && flat.GetOpType() == "Reshape" &&
				slices.Equal(g.integers(flat.GetInput()[1]), []int64{-1}) && len(indices.GetDims()) > 1 && indices.GetDims()[0] == 1 && im.perRun() == 1 {
				sites = append(sites, site{n, len(values)})
				values = append(values, flat.GetInput()[0])
			}
		case "Squeeze":
			if g.live[in[0]] && len(in) == 1 && attribute(n, "axes") == nil {
				sites = append(sites, site{n, len(values)})
				values = append(values, in[0])
			}
		case "Concat":
			if live := slices.IndexFunc(in, func(name string) bool { return g.live[name] }); live >= 0 && integer(n, "axis", 0) != 0 &&
				slices.ContainsFunc(in, func(name string) bool { return !g.live[name] }) {
				sites = append(sites, site{n, len(values)})
				values = append(values, in...)
			}
		}
	}
	if len(sites) == 0 {
		return m, nil
	}
	unique := slices.Compact(slices.Sorted(slices.Values(values)))
	constants := map[string]result{}
	var computed []string
	for _, name := range unique {
		if t := g.constants[name]; t != nil {
			constants[name] = result{shape: t.GetDims()}
		} else {
			computed = append(computed, name)
		}
	}
	r, err := newRunner(im.m, im.md.Input, im.sample, computed...)
	if err != nil {
		return nil, err
	}
	results, err := r.run(im.repeated(0), im.perRun())
	r.close()
	if err != nil {
		return nil, err
	}
	for i, name := range computed {
		constants[name] = results[i]
	}
	for _, s := range sites {
		shape := slices.Clone(constants[values[s.at]].shape)
		switch s.node.GetOpType() {
		case "Reshape":
			if len(shape) > 0 && shape[0]%int64(im.perRun()) == 0 {
				shape[0] = -1
				s.node.Input[1] = g.constant("fakeart/shape", shape...)
			}
		case "Gather":
			gatherPerImage(g, s.node, values[s.at], shape)
		case "Squeeze":
			var axes []int64
			for i, d := range shape {
				if d == 1 && i > 0 {
					axes = append(axes, int64(i))
				}
			}
			if opsetVersion(m) >= 13 {
				s.node.Input = append(s.node.Input, g.constant("fakeart/axes", axes...))
			} else {
				s.node.Attribute = append(s.node.Attribute, &onnxpb.AttributeProto{Name: proto.String("axes"), Type: onnxpb.AttributeProto_INTS.Enum(), Ints: axes})
			}
		case "Concat":
			expand(g, s.node, func(i int) []int64 { return constants[values[s.at+i]].shape })
		}
	}
	return m, nil
}

// expand repeats the constant operands of Concat for each image of the batch, which is the first dimension of its other operands.
func expand(g *graph, n *onnxpb.NodeProto, shapeOf func(i int) []int64) {
	live := slices.IndexFunc(n.Input, func(name string) bool { return g.live[name] })
	var size string // the name of the batch size, a vector of one element
	for i, name := range n.Input {
		shape := shapeOf(i)
		if g.live[name] || len(shape) < 2 || shape[0] != 1 {
			continue
		}
		if size == "" {
			all := g.unused("fakeart/dims")
			g.add(n, g.node("Shape", all, []string{n.Input[live]}))
			size = g.unused("fakeart/batch")
			g.add(n, g.node("Gather", size, []string{all, g.constant("fakeart/first", 0)}, "axis", int64(0)))
		}
		dims, expanded := g.unused("fakeart/expanded_dims"), g.unused("fakeart/expanded")
		g.add(n, g.node("Concat", dims, []string{size, g.constant("fakeart/rest", shape[1:]...)}, "axis", int64(0)))
		g.add(n, g.node("Expand", expanded, []string{name, dims}))
		n.Input[i] = expanded
	}
}

// gatherPerImage makes a Gather with constant indices, from all values of one image, gather from each image of a batch. from is the value before
// it was flattened, and shape its shape for one image.
func gatherPerImage(g *graph, n *onnxpb.NodeProto, from string, shape []int64) {
	size := int64(1)
	for _, d := range shape {
		size *= d
	}
	constant := g.constants[n.Input[1]]
	if values := g.integers(n.Input[1]); slices.Equal(values, count(size)) { // it only adds dimensions
		n.OpType, n.Attribute = proto.String("Reshape"), nil
		n.Input = []string{from, g.constant("fakeart/shape", append([]int64{-1}, constant.GetDims()[1:]...)...)}
		return
	}
	indices := proto.CloneOf(constant)
	indices.Name, indices.Dims = proto.String(g.unused("fakeart/indices")), indices.Dims[1:]
	g.model.Graph.Initializer = append(g.model.Graph.Initializer, indices)
	g.constants[indices.GetName()] = indices
	flat := g.unused("fakeart/flat")
	g.add(n, g.node("Reshape", flat, []string{from, g.constant("fakeart/per_image", -1, size)}))
	n.Input = []string{flat, indices.GetName()}
	n.Attribute = slices.DeleteFunc(n.Attribute, func(a *onnxpb.AttributeProto) bool { return a.GetName() == "axis" })
	n.Attribute = append(n.Attribute, &onnxpb.AttributeProto{Name: proto.String("axis"), Type: onnxpb.AttributeProto_INT.Enum(), I: proto.Int64(1)})
}

// count returns the numbers from 0 to n−1.
func count(n int64) []int64 {
	list := make([]int64, n)
	for i := range list {
		list[i] = int64(i)
	}
	return list
}

// opsetVersion returns the version of the standard operators.
func opsetVersion(m *onnxpb.ModelProto) int64 {
	for _, o := range m.GetOpsetImport() {
		if o.GetDomain() == "" || o.GetDomain() == "ai.onnx" {
			return o.GetVersion()
		}
	}
	return 0
}
