// Package foreign makes model files from ONNX image classifiers of other frameworks. [Import] reads the graph and the settings beside it,
// asks for what is still unknown by naming the option, and checks the result on drawn images. [Verify] compares it with outputs that the
// other framework has computed.
package foreign

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/onnx/onnxpb"
	"fakeart/internal/ort"
)

// Options are the settings of an import. All fields are optional.
type Options struct {
	// Settings override those of the preset and of the files beside the model.
	Settings Settings
	// Preset is one of [Presets].
	Preset string
	// NoConfig ignores the files beside the model.
	NoConfig bool
	// Output, Embedding and CAM are names of values or nodes in the graph.
	Scores, Embedding, CAM string
	// NoEmbedding and NoCAM leave out these outputs.
	NoEmbedding, NoCAM bool
	// The following are fields of [model.Metadata]. A Threshold of 0 with a positive class means 0.5.
	Positive                           string
	Threshold                          float64
	Name, Description, License, Source string
}

// Imported is the result of [Import].
type Imported struct {
	// Data is the model file, and File the same after parsing.
	Data []byte
	File *model.File
	// Facts are the settings with their sources, for display.
	Facts []Fact
	// Notes are remarks for the user, such as why there is no class-activation map.
	Notes []string
}

// Fact is a setting and where it comes from.
type Fact struct{ Name, Value, Origin string }

// importer holds the state of Import.
type importer struct {
	path    string
	options Options
	m       *onnxpb.ModelProto
	g       *graph
	facts   facts
	md      model.Metadata
	plan    *imaging.Plan
	probes  []imaging.Tensor
	// batch is the fixed size of the batch axis, or free. declared is what the file has.
	batch, declared int64
	// sample is the shape of the input without the batch.
	sample []int64
	// columns is the number of scores, and scores those of each probe.
	columns int
	scores  [][]float32
	// flat reports whether the exported graph's scores have the shape [batch,columns].
	flat  bool
	notes []string
}

// Import makes a model file from the ONNX model at path. Errors say what is wrong with the model or which option is missing, with a hint.
func Import(path string, o Options) (*Imported, error) {
	im := &importer{path: path, options: o}
	result, err := im.run()
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", path, err)
	}
	return result, nil
}

func (im *importer) run() (_ *Imported, err error) {
	if im.m, err = load(im.path); err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), im.path+": ", ""))
	}
	strip(im.m)
	if err := errors.Join(checkOperators(im.m), checkWeights(im.m)); err != nil {
		return nil, err
	}
	if err := im.collect(); err != nil {
		return nil, err
	}
	for _, step := range []func() error{im.input, im.castOutputs, im.preprocessing, im.findScores, im.classes, im.freeBatch, im.head} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return im.finish()
}

// collect gathers the settings from all sources.
func (im *importer) collect() error {
	im.facts.add(im.options.Settings, "flags")
	if im.options.Preset != "" {
		s, err := Preset(im.options.Preset)
		if err != nil {
			return err
		}
		im.facts.add(s, "preset "+im.options.Preset)
	}
	if im.options.NoConfig {
		return nil
	}
	sources, err := beside(im.path)
	if err != nil {
		return err
	}
	for _, s := range sources {
		im.facts.add(s.Settings, s.name)
	}
	if placeholders(im.facts.Classes) {
		im.notes = append(im.notes, "the classes have no names but "+im.facts.Classes[0]+" and so on; set --labels=FILE to name them")
	}
	return nil
}

// input finds the image input, and gives it a fixed size and the type float32 or uint8.
func (im *importer) input() error {
	initialized := map[string]bool{}
	for _, t := range im.m.GetGraph().GetInitializer() {
		initialized[t.GetName()] = true
	}
	var inputs []*onnxpb.ValueInfoProto
	var names []string
	for _, v := range im.m.GetGraph().GetInput() {
		if !initialized[v.GetName()] {
			dims, _ := shape(v)
			inputs = append(inputs, v)
			names = append(names, v.GetName()+" "+shapeText(dims))
		}
	}
	switch {
	case len(inputs) == 0:
		return errors.New("the graph has no input")
	case len(inputs) > 1:
		return fmt.Errorf("the graph has %d inputs: %s\nhint: only models with a single input, the image, can be served; export a wrapper whose forward takes the image only", len(inputs), strings.Join(names, ", "))
	}
	in := inputs[0]
	im.g = newGraph(im.m, in.GetName())
	dims, ok := shape(in)
	if !ok {
		dims = []int64{free, free, free, free}
	}
	if len(dims) != 4 {
		is := ""
		switch len(dims) {
		case 3:
			is = "\nhint: if it's one image without a batch axis, export with an example of shape [1,3,H,W]"
		case 2:
			is = "\nhint: it looks like a model of text or tables; only image classifiers can be imported"
		case 5:
			is = "\nhint: it looks like a model of videos or volumes; only image classifiers can be imported"
		}
		return fmt.Errorf("input %q has shape %s, expected [batch,channels,height,width] or [batch,height,width,channels]%s", in.GetName(), shapeText(dims), is)
	}
	elem := onnxpb.TensorProto_DataType(in.GetType().GetTensorType().GetElemType())
	t, cast := imaging.Float32, false
	switch elem {
	case onnxpb.TensorProto_FLOAT:
	case onnxpb.TensorProto_FLOAT16, onnxpb.TensorProto_DOUBLE:
		cast = true
	case onnxpb.TensorProto_UINT8:
		t = imaging.Uint8
	default:
		return fmt.Errorf("input %q is %s, expected an image of float32 or uint8\nhint: export a wrapper that converts the image", in.GetName(), strings.ToLower(elem.String()))
	}
	im.md.Preprocessing.Type = t
	if err := im.layout(in.GetName(), dims); err != nil {
		return err
	}
	if cast {
		im.g.castInput(int32(elem))
	}
	im.declared, im.batch = dims[0], dims[0]
	im.md.Input = in.GetName()
	im.setInput()
	im.g = newGraph(im.m, im.md.Input)
	return nil
}

// setInput declares the input with the size of the batch.
func (im *importer) setInput() {
	elem := onnxpb.TensorProto_FLOAT
	if im.md.Preprocessing.Type == imaging.Uint8 {
		elem = onnxpb.TensorProto_UINT8
	}
	g := im.m.GetGraph()
	at := slices.IndexFunc(g.Input, func(v *onnxpb.ValueInfoProto) bool { return v.GetName() == im.md.Input })
	g.Input[at] = declare(im.md.Input, elem, append([]int64{im.batch}, im.sample...)...)
}

// layout determines the layout, channels and size of an input of four dimensions.
func (im *importer) layout(name string, dims []int64) error {
	is := func(d int64) bool { return d == 1 || d == 3 }
	byGraph, convolved := im.follows()
	f := &im.facts
	switch {
	case f.Layout != "":
	case is(dims[1]) && !is(dims[3]):
		f.Layout = imaging.NCHW
	case is(dims[3]) && !is(dims[1]):
		f.Layout = imaging.NHWC
	case byGraph != "":
		f.Layout = byGraph
	case dims[1] != free && dims[3] != free && !is(dims[1]) && !is(dims[3]):
		return fmt.Errorf("input %q has shape %s, but only images with 1 or 3 channels are supported\nhint: export a wrapper that takes RGB", name, shapeText(dims))
	default:
		return fmt.Errorf("input %q has shape %s, from which the layout can't be known\nhint: set --layout=nchw or --layout=nhwc", name, shapeText(dims))
	}
	channels, height, width := dims[1], dims[2], dims[3]
	if f.Layout == imaging.NHWC {
		height, width, channels = dims[1], dims[2], dims[3]
	}
	if channels == free {
		channels = convolved
	}
	if channels == free || channels == 0 {
		channels = 3
		if f.Color == imaging.Gray {
			channels = 1
		}
	}
	switch {
	case !is(channels):
		return fmt.Errorf("input %q has %d channels, but only images with 1 or 3 channels are supported\nhint: export a wrapper that takes RGB", name, channels)
	case channels == 1 && f.Color != imaging.Gray && f.origin[keyColor] == "flags":
		return fmt.Errorf("input %q has one channel, which contradicts --color=%s\nhint: leave it out", name, f.Color)
	case channels == 3 && f.Color == imaging.Gray:
		return fmt.Errorf("input %q has 3 channels, but the color is gray (%s)\nhint: set --color=rgb or --color=bgr", name, f.origin[keyColor])
	case channels == 1:
		f.Color = imaging.Gray
		f.origin[keyColor] = "graph"
	case f.Color == "":
		f.Color = imaging.RGB
		f.origin[keyColor] = "assumed"
	}
	if err := im.size(width, height); err != nil {
		return err
	}
	im.sample = []int64{channels, int64(f.Height), int64(f.Width)}
	if f.Layout == imaging.NHWC {
		im.sample = []int64{int64(f.Height), int64(f.Width), channels}
	}
	return nil
}

// size determines the size of the input, whose declared width and height can be free.
func (im *importer) size(width, height int64) error {
	f := &im.facts
	if f.Width == 0 {
		if width == free || height == free {
			return errors.New("the graph takes images of any size, and the size to use is unknown\nhint: set --size=WIDTHxHEIGHT to the size that the model was trained with, such as --size=224x224")
		}
		f.Width, f.Height = int(width), int(height)
		f.origin[keySize] = "graph"
		return nil
	}
	if width != free && int(width) != f.Width || height != free && int(height) != f.Height {
		text := func(d int64) string {
			if d == free {
				return "?"
			}
			return fmt.Sprint(d)
		}
		return fmt.Errorf("the size is %d×%d according to %s, but the graph takes %s×%s\nhint: export the graph for the other size, or set --size",
			f.Width, f.Height, f.origin[keySize], text(width), text(height))
	}
	return nil
}

// follows looks at how the graph uses the image: the layout, and the number of channels of the first convolution or 0 if unknown.
func (im *importer) follows() (imaging.Layout, int64) {
	name, layout := im.g.input, imaging.NCHW
	for range 50 {
		next := ""
		for _, n := range im.g.consumers[name] {
			switch n.GetOpType() {
			case "Conv", "ConvInteger", "QLinearConv":
				if w := im.g.constants[n.GetInput()[1]]; n.GetInput()[0] == name && n.GetOpType() == "Conv" && w != nil && len(w.GetDims()) == 4 {
					return layout, w.GetDims()[1] * integer(n, "group", 1)
				}
				return layout, 0
			case "Transpose":
				if perm := attribute(n, "perm").GetInts(); slices.Equal(perm, []int64{0, 3, 1, 2}) {
					layout, next = imaging.NHWC, n.GetOutput()[0]
				}
			case "Sub", "Mul", "Div", "Add", "Cast", "BatchNormalization", "Identity", "Pad", "Clip", "QuantizeLinear", "DequantizeLinear":
				next = n.GetOutput()[0]
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	return "", 0
}

// castOutputs makes outputs of other float types float32.
func (im *importer) castOutputs() error {
	for i, v := range im.m.GetGraph().GetOutput() {
		switch onnxpb.TensorProto_DataType(v.GetType().GetTensorType().GetElemType()) {
		case onnxpb.TensorProto_FLOAT16, onnxpb.TensorProto_DOUBLE, onnxpb.TensorProto_BFLOAT16:
			name := im.g.unused(v.GetName() + "_float32")
			im.g.add(nil, im.g.node("Cast", name, []string{v.GetName()}, "to", int64(onnxpb.TensorProto_FLOAT)))
			im.m.Graph.Output[i] = &onnxpb.ValueInfoProto{Name: proto.String(name)}
			if im.options.Scores == v.GetName() {
				im.options.Scores = name
			}
		}
	}
	im.g = newGraph(im.m, im.md.Input)
	return nil
}

// preprocessing completes the preprocessing, compiles it and prepares the probe images.
func (im *importer) preprocessing() error {
	t := im.md.Preprocessing.Type
	if err := im.facts.missing(t); err != nil {
		return err
	}
	p, err := im.facts.preprocessing(t)
	if err != nil {
		return fmt.Errorf("preprocessing: %w", err)
	}
	im.md.Preprocessing = p
	if im.plan, err = p.Compile(); err != nil {
		return err
	}
	im.probes, err = probes(im.plan)
	return err
}

// perRun is the number of images per run of the graph as it was exported.
func (im *importer) perRun() int {
	if im.declared == free {
		return 1
	}
	return int(im.declared)
}

// repeated returns the batch in which each image is the probe with the given index.
func (im *importer) repeated(probe int) imaging.Tensor {
	return join(slices.Repeat([]imaging.Tensor{im.probes[probe]}, im.perRun())...)
}

// findScores finds the output with the scores, and computes the scores of the probe images with the exported graph.
func (im *importer) findScores() error {
	var names []string
	if im.options.Scores != "" {
		name, err := im.g.resolve(im.options.Scores)
		if err != nil {
			return fmt.Errorf("--scores: %w", err)
		}
		names = []string{name}
	} else {
		for _, v := range im.m.GetGraph().GetOutput() {
			names = append(names, v.GetName())
		}
	}
	if len(names) == 0 {
		return errors.New("the graph has no output")
	}
	r, err := newRunner(im.m, im.md.Input, im.sample, names...)
	if err != nil {
		return err
	}
	results, err := r.run(im.repeated(0), im.perRun())
	r.close()
	if err != nil {
		return fmt.Errorf("the graph fails on an image of %d×%d pixels: %w\nhint: check the size (%s), and that the model runs in its own framework's ONNX export test",
			im.facts.Width, im.facts.Height, err, im.facts.origin[keySize])
	}
	chosen, err := im.choose(names, results)
	if err != nil {
		return err
	}
	im.md.Output = names[chosen]
	return im.reference()
}

// perImage returns the number of scores per image of an output, or 0 if its shape isn't that of scores.
func perImage(r result, batch int) int {
	if r.floats == nil || len(r.shape) == 0 {
		return 0
	}
	b := int64(batch)
	switch s := r.shape; {
	case len(s) == 1 && s[0] == b:
		return 1
	case len(s) == 1 && b == 1: // the batch axis is missing
		return int(s[0])
	case s[0] != b:
		return 0
	case len(s) == 2:
		return int(s[1])
	default:
		// All but one dimension are 1, as in [batch,C,1,1].
		n, larger := int64(1), 0
		for _, d := range s[1:] {
			if d != 1 {
				n, larger = d, larger+1
			}
		}
		if larger > 1 {
			return 0
		}
		return int(n)
	}
}

// choose returns the index of the output with the scores.
func (im *importer) choose(names []string, results []result) (int, error) {
	classes := len(im.facts.Classes)
	var usable, matching []int
	var list []string
	for i, r := range results {
		list = append(list, names[i]+" "+shapeText(r.shape))
		n := perImage(r, im.perRun())
		if n == 0 {
			continue
		}
		usable = append(usable, i)
		if n == classes || n == 1 && classes == 2 {
			matching = append(matching, i)
		}
	}
	switch {
	case len(matching) == 1:
		return matching[0], nil
	case len(usable) == 0:
		return 0, im.noScores(names, results)
	case len(usable) > 1 && (len(matching) > 1 || classes == 0):
		return 0, fmt.Errorf("several outputs could be the scores: %s\nhint: choose one with --scores=NAME", strings.Join(list, ", "))
	case len(usable) > 1:
		return 0, fmt.Errorf("there are %d classes (%s), but no output has as many scores: %s\nhint: correct the labels, or choose an output with --scores=NAME",
			classes, im.facts.origin[keyClasses], strings.Join(list, ", "))
	}
	return usable[0], nil // classes explains the mismatch
}

// noScores explains why no output has the shape of scores.
func (im *importer) noScores(names []string, results []result) error {
	var list []string
	hint := "only models that compute one score per class can be imported; if the graph does inside, choose that value with --scores=NAME"
	for i, r := range results {
		var is string
		switch {
		case strings.HasPrefix(r.kind, "int"):
			is = "class indices, as of ArgMax"
			if n := im.g.producers[names[i]]; n != nil && len(n.GetInput()) > 0 {
				hint = "export the model without its last step, or choose the scores with --scores=" + n.GetInput()[0]
			}
		case r.kind == "sequence" || r.kind == "map":
			is = "a " + r.kind
			hint = "export with zipmap disabled (skl2onnx: options={'zipmap': False})"
		case len(r.shape) == 4:
			is = "a map per class or feature, as of segmentation"
		case len(r.shape) == 3:
			is = "a list per image, as of object detection or of tokens"
		case len(r.shape) == 2:
			is = "a list of another length than the batch, as the boxes of object detection"
		default:
			is = "a value for the batch instead of for each image"
		}
		kind := r.kind
		if kind == "float" {
			kind = "float32"
		}
		list = append(list, fmt.Sprintf("%s is %s%s (%s)", names[i], kind, shapeText(r.shape), is))
	}
	return fmt.Errorf("no output has one score per class: %s\nhint: %s", strings.Join(list, "; "), hint)
}

// reference computes the scores of the probe images one by one, and checks them.
func (im *importer) reference() error {
	r, err := newRunner(im.m, im.md.Input, im.sample, im.md.Output)
	if err != nil {
		return err
	}
	defer r.close()
	per := im.perRun()
	for i := range im.probes {
		results, err := r.run(im.repeated(i), per)
		if err != nil {
			return fmt.Errorf("the graph fails on an image: %w", err)
		}
		row := results[0].row(0, per)
		for _, v := range row {
			if x := float64(v); math.IsNaN(x) || math.IsInf(x, 0) {
				return fmt.Errorf("output %q is %g for an image\nhint: the weights are corrupt, or the values overflow: check the preprocessing (--scale, --mean, --std), and float16 weights", im.md.Output, x)
			}
		}
		im.scores = append(im.scores, row)
		im.columns = len(row)
		im.flat = len(results[0].shape) == 2
	}
	again, err := r.run(im.repeated(0), per)
	if err != nil {
		return err
	}
	if !closeTo(again[0].row(0, per), im.scores[0]) {
		return errors.New("the graph gives different outputs for the same image, as with dropout that is active\nhint: call model.eval() before the export")
	}
	if constant(im.scores) {
		return fmt.Errorf("output %q doesn't depend on the image: it's the same for %d different ones\n"+
			"hint: export a trained model, and check the preprocessing (--scale, --mean, --std): with levels that are far too large, every image can look the same", im.md.Output, len(im.probes))
	}
	return nil
}

// constant reports whether all rows are exactly equal. Networks with random weights can have outputs that hardly differ.
func constant(rows [][]float32) bool {
	return !slices.ContainsFunc(rows, func(row []float32) bool { return !slices.Equal(row, rows[0]) })
}

// classes checks the number of classes, and determines what the scores are.
func (im *importer) classes() error {
	f := &im.facts
	n := len(f.Classes)
	switch {
	case n == 0 && im.columns == 1:
		return errors.New("the model has one output, and the names of its two classes are unknown\nhint: set --classes=NEGATIVE,POSITIVE; high outputs mean the second one")
	case n == 0:
		return fmt.Errorf("the model has %d outputs, and nothing names the classes\nhint: set --labels=FILE with one name per line in the order of the outputs, or --classes=NAME,NAME,…", im.columns)
	case im.columns == 1 && n == 1:
		return fmt.Errorf("the model has one output and one label, %q, but two classes are needed\nhint: set --classes=NEGATIVE,POSITIVE; high outputs mean the second one", f.Classes[0])
	case n != im.columns && (im.columns != 1 || n != 2):
		hint := "one name per output is needed, in the order of the outputs"
		switch im.columns {
		case 1:
			hint = "a model with one output has two classes: set --classes=NEGATIVE,POSITIVE"
		case n + 1:
			hint = "TensorFlow's models often have a background class first: add a line for it at the top of the labels"
		}
		return fmt.Errorf("there are %d classes (%s), but output %q has %d scores\nhint: %s", n, f.origin[keyClasses], im.md.Output, im.columns, hint)
	}
	if im.columns == 1 && im.declared != free && im.declared > 1 {
		return fmt.Errorf("the batch axis is fixed to %d\nhint: export with a batch of 1, or with a dynamic batch axis", im.declared)
	}
	return im.kind()
}

// pass are operators that only copy or rearrange scores.
var pass = []string{"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear"}

// kind determines whether the scores are logits or probabilities.
func (im *importer) kind() error {
	n, _ := im.g.follow(im.md.Output, pass...)
	op := n.GetOpType()
	sums, within := true, true
	for _, row := range im.scores {
		sum := 0.0
		for _, v := range row {
			sum += float64(v)
			within = within && v >= 0 && v <= 1+1e-4
		}
		sums = sums && math.Abs(sum-1) < 1e-2
	}
	kind := model.Logits
	switch {
	case im.columns > 1 && within && sums:
		kind = model.Probabilities
	case im.columns > 1 && op == "Sigmoid":
		return fmt.Errorf("the graph computes a probability for each class on its own (Sigmoid), as for labels that don't exclude one another, but Fakeart predicts one class per image\n"+
			"hint: if only one class can apply, choose the values before it with --scores=%s", n.GetInput()[0])
	case im.columns == 1 && op == "Sigmoid":
		kind = model.Probabilities
	}
	f := &im.facts
	switch {
	case f.OutputKind == "":
		f.OutputKind = kind
		f.origin[keyKind] = "graph"
	case f.OutputKind == model.Probabilities && (!within || !sums && im.columns != 1):
		return errors.New("the outputs aren't probabilities: they are outside of 0 to 1, or don't sum to 1\nhint: set --output-kind=logits")
	case f.OutputKind == model.Logits && kind == model.Probabilities:
		return errors.New("the outputs are probabilities already: the graph ends in a softmax or sigmoid\nhint: leave out --output-kind")
	}
	return nil
}

// finish writes the model file, reads it again and compares its scores with those of the exported graph.
func (im *importer) finish() (*Imported, error) {
	f, md := &im.facts, &im.md
	md.Classes, md.OutputKind, md.Columns = f.Classes, f.OutputKind, im.columns
	md.Positive, md.Threshold = im.options.Positive, im.options.Threshold
	if md.Positive != "" && md.Threshold == 0 {
		md.Threshold = 0.5
	}
	if md.Threshold != 0 && md.Positive == "" {
		return nil, errors.New("--threshold needs --positive=CLASS, the class that the threshold refers to")
	}
	md.Name = orDefault(im.options.Name, strings.TrimSuffix(filepath.Base(im.path), filepath.Ext(im.path)))
	md.Description, md.License, md.Source = im.options.Description, im.options.License, im.options.Source
	md.ValLoss, md.ValAccuracy = math.NaN(), math.NaN()
	prune(im.m)
	data, err := model.Marshal(im.m, *md)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "marshal model: "))
	}
	file, err := model.Parse(data)
	if err != nil {
		return nil, err
	}
	if err := im.compare(file); err != nil {
		return nil, err
	}
	return &Imported{Data: data, File: file, Facts: im.list(), Notes: im.notes}, nil
}

// compare runs the finished file on the probe images.
func (im *importer) compare(file *model.File) error {
	const batch = 3
	s, err := file.NewExplainer(batch, ort.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	for at := 0; at+batch <= len(im.probes); at += batch {
		s.Input().Copy(join(im.probes[at : at+batch]...))
		if err := s.Run(batch); err != nil {
			return err
		}
		for i := range batch {
			if got := s.Scores()[i*im.columns : (i+1)*im.columns]; !closeTo(got, im.scores[at+i]) {
				return fmt.Errorf("the imported model's scores differ from those of the exported graph by more than rounding: %g instead of %g\nhint: this is a fault of the importer; please report it with the model", got[:min(5, len(got))], im.scores[at+i][:min(5, len(got))])
			}
		}
	}
	return nil
}

// list returns the facts for display.
func (im *importer) list() []Fact {
	f, p := &im.facts, &im.md.Preprocessing
	origin := func(key string) string { return orDefault(f.origin[key], "default") }
	facts := []Fact{
		{"classes", fmt.Sprint(len(im.md.Classes)), origin(keyClasses)},
		{"input", fmt.Sprintf("%s, %s, %s", im.md.Input, p.Type, strings.ToUpper(string(p.Layout))), "graph"},
		{"size", fmt.Sprintf("%d×%d", p.Width, p.Height), origin(keySize)},
		{"color", string(p.Color), origin(keyColor)},
		{"fit", DescribeFit(p), origin(keyFit)},
		{"filter", DescribeFilter(p), origin(keyFilter)},
		{"orientation", string(p.Orientation), origin(keyTurn)},
	}
	if p.Type == imaging.Float32 {
		facts = append(facts, Fact{"levels", DescribeLevels(p), origin(keyScale)})
	}
	facts = append(facts, Fact{"output", fmt.Sprintf("%s, %s", im.md.Output, im.md.OutputKind), origin(keyKind)})
	batch := "any size"
	if im.batch != free {
		batch = "one image per run"
	} else if im.declared != free {
		batch = fmt.Sprintf("any size (exported for %d)", im.declared)
	}
	facts = append(facts, Fact{"batch", batch, "graph"})
	if im.md.Embedding != "" {
		facts = append(facts, Fact{"embedding", im.md.Embedding, "graph"})
	}
	if im.md.CAM != "" {
		facts = append(facts, Fact{"class-activation map", im.md.CAM, "graph"})
	}
	return facts
}

// DescribeFit describes how an image is fitted into the input.
func DescribeFit(p *imaging.Preprocessing) string {
	to := fmt.Sprint(p.Resize)
	if p.ResizeHeight != 0 && p.ResizeHeight != p.Resize {
		to = fmt.Sprintf("%d×%d", p.Resize, p.ResizeHeight)
	}
	switch {
	case p.Fit == imaging.ShortestEdge:
		return fmt.Sprintf("shorter side to %s, then the center %d×%d", to, p.Width, p.Height)
	case p.Fit == imaging.Contain:
		return fmt.Sprintf("inside %d×%d, with a border of the color %v", p.Width, p.Height, p.Padding)
	case p.Resize != 0:
		if p.ResizeHeight == 0 {
			to = fmt.Sprintf("%d×%d", p.Resize, p.Resize)
		}
		return fmt.Sprintf("stretched to %s, then the center %d×%d", to, p.Width, p.Height)
	}
	return fmt.Sprintf("stretched to %d×%d", p.Width, p.Height)
}

// DescribeFilter describes the resampling filter.
func DescribeFilter(p *imaging.Preprocessing) string {
	switch {
	case p.Filter == imaging.Nearest:
		return string(p.Filter)
	case p.Antialias && p.Passes == imaging.Pillow13Passes:
		return string(p.Filter) + " with antialiasing, as Pillow 13"
	case p.Antialias:
		return string(p.Filter) + " with antialiasing"
	}
	return string(p.Filter) + " without antialiasing"
}

// DescribeLevels describes the normalization of levels as a formula.
func DescribeLevels(p *imaging.Preprocessing) string {
	text := "v"
	switch p.Scale {
	case 1:
	case 1.0 / 255:
		text = "v/255"
	default:
		text = fmt.Sprintf("v·%.6g", p.Scale)
	}
	if len(p.Mean) > 0 {
		text += " − " + numbers(p.Mean)
		if len(p.Std) > 0 {
			text = "(" + text + ")"
		}
	}
	if len(p.Std) > 0 {
		text += " / " + numbers(p.Std)
	}
	return text
}

func numbers(values []float64) string {
	values = single(values)
	var parts []string
	for _, v := range values {
		parts = append(parts, fmt.Sprintf("%.6g", v))
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return "[" + strings.Join(parts, " ") + "]"
}
