package foreign

import (
	"fmt"
	"math"
	"slices"

	"fakeart/internal/model"
	"fakeart/internal/onnx/onnxpb"
)

// dense is the last layer of a network: scores = features·weights + bias.
type dense struct {
	// features is the value that the layer reads, of shape [batch,K] or [batch,K,1,1]. It's the scores' own value if the network ends in a
	// pooling without a dense layer.
	features string
	// weights is [columns,K] if rows is true, [columns,K,1,1] if conv is true, and [K,columns] otherwise. It's empty without a layer.
	weights    string
	rows, conv bool
	// logits is the result of the layer.
	logits string
}

// pool is a global average pooling.
type pool struct {
	// maps is the value that is averaged, of shape [batch,K,H,W], or [batch,H,W,K] if last.
	maps string
	last bool
}

// findDense follows the scores back to the last layer. It returns nil if that isn't a dense layer.
func (im *importer) findDense() *dense {
	g := im.g
	through := append([]string{"Softmax", "Sigmoid", "LogSoftmax", "Transpose"}, pass...) // channels last and first: [batch,1,1,K]
	n, value := g.follow(im.md.Output, through...)
	logits := value
	if n.GetOpType() == "Add" { // the bias
		for i, name := range n.GetInput() {
			if g.live[name] && !g.live[n.GetInput()[1-i]] {
				n, _ = g.follow(name, through...)
				break
			}
		}
		if op := n.GetOpType(); op != "MatMul" && op != "Conv" && op != "Gemm" {
			return nil
		}
	}
	in := n.GetInput()
	switch op := n.GetOpType(); {
	case op == "Gemm" && integer(n, "transA", 0) == 0 && (attribute(n, "alpha") == nil || attribute(n, "alpha").GetF() == 1):
		return &dense{features: in[0], weights: in[1], rows: integer(n, "transB", 0) != 0, logits: logits}
	case op == "MatMul" && g.live[in[0]] && !g.live[in[1]]:
		return &dense{features: in[0], weights: in[1], logits: logits}
	case op == "Conv" && integer(n, "group", 1) == 1:
		return &dense{features: in[0], weights: in[1], conv: true, logits: logits}
	}
	if _, ok := g.asPool(n); ok {
		return &dense{features: value, logits: logits}
	}
	return nil
}

// asPool returns the pooling that a node computes. A node of AveragePool is one only if its kernel has the size of the maps, which the caller must check.
func (g *graph) asPool(n *onnxpb.NodeProto) (pool, bool) {
	switch n.GetOpType() {
	case "GlobalAveragePool", "AveragePool":
		return pool{maps: n.GetInput()[0]}, true
	case "ReduceMean":
		axes := attribute(n, "axes").GetInts()
		if len(n.GetInput()) > 1 {
			axes = g.integers(n.GetInput()[1])
		}
		axes = slices.Clone(axes)
		for i := range axes {
			if axes[i] < 0 {
				axes[i] += 4
			}
		}
		slices.Sort(axes)
		switch {
		case slices.Equal(axes, []int64{2, 3}):
			return pool{maps: n.GetInput()[0]}, true
		case slices.Equal(axes, []int64{1, 2}):
			return pool{maps: n.GetInput()[0], last: true}, true
		}
	}
	return pool{}, false
}

// head adds the embedding and the class-activation map as outputs of the graph if the end of the network allows it.
func (im *importer) head() error {
	d := im.findDense()
	if err := im.embedding(d); err != nil {
		return err
	}
	if im.options.NoCAM {
		return nil
	}
	reason, err := im.cam(d)
	if err != nil {
		return err
	}
	if reason == "" {
		return nil
	}
	if im.options.CAM != "" {
		return fmt.Errorf("--cam=%s: %s\nhint: a map that shows exactly how the score comes about needs a network that ends in global average pooling and one dense layer; "+
			"leave out --cam, and use explanations by occlusion, which work with any model", im.options.CAM, reason)
	}
	im.notes = append(im.notes, "no class-activation map: "+reason)
	return nil
}

// shapes runs the graph on a probe image and returns the values with the given names, or false if one of them can't be computed.
func (im *importer) values(probe int, names ...string) ([]result, bool) {
	r, err := newRunner(im.m, im.md.Input, im.sample, names...)
	if err != nil {
		return nil, false
	}
	defer r.close()
	results, err := r.run(im.probes[probe], 1)
	return results, err == nil
}

// embedding declares the input of the last layer, or the value that the user names, as an output.
func (im *importer) embedding(d *dense) error {
	name := im.options.Embedding
	switch {
	case im.options.NoEmbedding || name == "" && (d == nil || d.weights == ""):
		return nil
	case name != "":
		var err error
		if name, err = im.g.resolve(name); err != nil {
			return fmt.Errorf("--embedding: %w", err)
		}
	default:
		name = d.features
	}
	name = im.float32(name)
	results, ok := im.values(0, name)
	if !ok || len(results[0].shape) < 2 || results[0].shape[0] != 1 || perImage(results[0], 1) < 2 || name == im.md.Output {
		if im.options.Embedding == "" {
			return nil
		}
		shape := "can't be computed as float32"
		if ok {
			shape = "has the shape " + shapeText(results[0].shape)
		}
		return fmt.Errorf("--embedding: value %q %s, expected one vector of float32 per image, [batch,N]", name, shape)
	}
	im.md.Embedding = name
	shape := slices.Clone(results[0].shape)
	if n := slices.Max(shape[1:]); len(shape) != 2 && shape[1] != n { // such as [batch,1,N]
		flat := im.g.unused(name + "_flat")
		im.g.add(nil, im.g.node("Reshape", flat, []string{name, im.g.constant("fakeart/embedding", -1, n)}))
		im.md.Embedding, shape = flat, []int64{1, n}
	}
	shape[0] = im.batch
	im.m.Graph.Output = append(im.m.Graph.Output, declare(im.md.Embedding, onnxpb.TensorProto_FLOAT, shape...))
	return nil
}

// cam adds the class-activation map. It returns the reason if that isn't possible.
func (im *importer) cam(d *dense) (reason string, err error) {
	g := im.g
	var p pool
	if im.options.CAM != "" {
		name, err := g.resolve(im.options.CAM)
		if err != nil {
			return "", fmt.Errorf("--cam: %w", err)
		}
		name = im.float32(name)
		results, ok := im.values(0, name)
		if !ok || results[0].floats == nil {
			return "the value can't be computed as float32", nil
		}
		shape := results[0].shape
		switch {
		case len(shape) == 4 && shape[1] == int64(im.columns) && shape[2]*shape[3] > 1 && (d == nil || d.weights == "" || im.columns > 1):
			im.declareCAM(name, shape)
			return "", nil
		case len(shape) == 3 && im.columns == 1 && shape[1]*shape[2] > 1:
			im.declareCAM(name, shape)
			return "", nil
		case len(shape) != 4:
			return fmt.Sprintf("it has the shape %s, expected feature maps [batch,K,H,W] or one map per class", shapeText(shape)), nil
		}
		p = pool{maps: name}
	}
	if d == nil {
		return "the network doesn't end in a dense layer", nil
	}
	if p.maps == "" {
		n, _ := g.follow(d.features, append([]string{"Transpose"}, pass...)...)
		var ok bool
		if p, ok = g.asPool(n); !ok {
			if n == nil {
				return "the last dense layer reads the image itself", nil
			}
			return fmt.Sprintf("the last dense layer doesn't read the result of a global average pooling, but of %s", n.GetOpType()), nil
		}
	}
	nodes, constants, outputs, embedding := len(im.m.Graph.Node), len(im.m.Graph.Initializer), im.m.Graph.Output, im.md
	d.logits, p.maps = im.float32(d.logits), im.float32(p.maps)
	results, ok := im.values(0, p.maps)
	if !ok || len(results[0].shape) != 4 || results[0].floats == nil {
		return "the pooled value isn't a feature map", nil
	}
	shape := results[0].shape
	k, h, w := shape[1], shape[2], shape[3]
	if p.last {
		h, w, k = shape[1], shape[2], shape[3]
	}
	if h*w == 1 {
		return "the feature maps have a single pixel", nil
	}
	name := im.project(d, p, k, h, w)
	if im.linear(d, name) {
		c := int64(im.columns)
		if c == 1 {
			im.declareCAM(name, []int64{1, h, w})
			return "", nil
		}
		im.declareCAM(name, []int64{1, c, h, w})
		return "", nil
	}
	im.m.Graph.Node, im.m.Graph.Initializer, im.m.Graph.Output, im.md = im.m.Graph.Node[:nodes], im.m.Graph.Initializer[:constants], outputs, embedding
	return "the scores aren't the mean of weighted feature maps, because there is a nonlinear step between the maps and the scores", nil
}

// project adds nodes that apply the weights of the last layer to each position of the maps, and returns the result's name. Its shape is
// [batch,columns,H,W], or [batch,H,W] if there is one column.
func (im *importer) project(d *dense, p pool, k, h, w int64) string {
	g := im.g
	maps, weights := p.maps, d.weights
	next := func(op, base string, inputs []string, attributes ...any) string {
		name := g.unused("fakeart/" + base)
		g.add(nil, g.node(op, name, inputs, attributes...))
		return name
	}
	if p.last {
		maps = next("Transpose", "maps", []string{maps}, "perm", []int64{0, 3, 1, 2})
	}
	if weights == "" {
		if im.columns > 1 && !p.last {
			return next("Identity", "cam", []string{maps})
		}
	} else {
		weights = im.float32(weights)
		if !d.conv {
			if !d.rows {
				weights = next("Transpose", "weights", []string{weights}, "perm", []int64{1, 0})
			}
			weights = next("Reshape", "weights", []string{weights, g.constant("fakeart/kernel", int64(im.columns), k, 1, 1)})
		}
		maps = next("Conv", "cam", []string{maps, weights})
	}
	if im.columns == 1 {
		maps = next("Reshape", "cam", []string{maps, g.constant("fakeart/cam_shape", -1, h, w)})
	}
	return maps
}

// float32 returns the name of a value as float32. It adds a conversion if the graph has weights of another float type.
func (im *importer) float32(name string) string {
	if !slices.ContainsFunc(im.m.GetGraph().GetInitializer(), func(t *onnxpb.TensorProto) bool {
		switch onnxpb.TensorProto_DataType(t.GetDataType()) {
		case onnxpb.TensorProto_FLOAT16, onnxpb.TensorProto_BFLOAT16, onnxpb.TensorProto_DOUBLE:
			return true
		}
		return false
	}) {
		return name
	}
	cast := im.g.unused("fakeart/float32")
	im.g.add(nil, im.g.node("Cast", cast, []string{name}, "to", int64(onnxpb.TensorProto_FLOAT)))
	return cast
}

// linear reports whether the mean of each map differs from the class's score by the same number, the bias, for all probe images.
func (im *importer) linear(d *dense, cam string) bool {
	r, err := newRunner(im.m, im.md.Input, im.sample, cam, d.logits)
	if err != nil {
		return false
	}
	defer r.close()
	var bias []float64
	for i := range im.probes {
		results, err := r.run(im.probes[i], 1)
		if err != nil || len(results[1].floats) != im.columns || len(results[0].floats)%im.columns != 0 {
			return false
		}
		size := len(results[0].floats) / im.columns
		greatest := 0.0
		difference := make([]float64, im.columns)
		for c := range difference {
			sum := 0.0
			for _, v := range results[0].floats[c*size : (c+1)*size] {
				sum += float64(v)
				greatest = max(greatest, math.Abs(float64(v)))
			}
			difference[c] = float64(results[1].floats[c]) - sum/float64(size)
		}
		if bias == nil {
			bias = difference
		}
		for c := range difference {
			if !(math.Abs(difference[c]-bias[c]) <= 1e-3*greatest+1e-6) {
				return false
			}
		}
	}
	return true
}

// declareCAM declares a value as the class-activation map. shape is that for one image.
func (im *importer) declareCAM(name string, shape []int64) {
	if name == im.md.Embedding || name == im.md.Output {
		copied := im.g.unused("fakeart/cam")
		im.g.add(nil, im.g.node("Identity", copied, []string{name}))
		name = copied
	}
	shape = slices.Clone(shape)
	shape[0] = im.batch
	im.md.CAM, im.md.CAMKind = name, model.CAMOfEach
	if im.columns == 1 {
		im.md.CAMKind = model.CAMOfSecond
		if len(shape) == 4 { // [batch,1,H,W]
			flat := im.g.unused("fakeart/cam")
			im.g.add(nil, im.g.node("Reshape", flat, []string{name, im.g.constant("fakeart/cam_shape", -1, shape[2], shape[3])}))
			im.md.CAM, shape = flat, []int64{im.batch, shape[2], shape[3]}
		}
	}
	im.m.Graph.Output = append(im.m.Graph.Output, declare(im.md.CAM, onnxpb.TensorProto_FLOAT, shape...))
}
