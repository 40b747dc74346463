// Package model reads, checks, writes and runs the model file: an ONNX graph
// with the metadata that is needed to serve it. Trainer and server both use it,
// so that a model that the one exports is a model that the other can run.
//
// The graph has one input, `input`, float32 [batch,3,size,size], and the outputs
// `logit`, float32 [batch,1], and `embedding`, float32 [batch,E]. The image is
// Fake when Probability(logit) exceeds the metadata's threshold. It may have the
// output `gradcam`, float32 [batch,size,size]: the evidence for Fake by place, which
// is computed by the sessions of NewExplainer alone.
package model

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	ortgo "github.com/yalue/onnxruntime_go"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"fakeart/internal/onnx"
	"fakeart/internal/onnx/onnxpb"
	"fakeart/internal/ort"
)

// The names of the graph's input and outputs.
const (
	inputName     = "input"
	logitName     = "logit"
	embeddingName = "embedding"
	gradCAMName   = "gradcam"
)

// channels is the number of colours of the input: red, green, blue.
const channels = 3

// maxFileSize is the most that a protocol buffer, and so an ONNX file, can hold.
const maxFileSize = math.MaxInt32

// Marshal returns the model file of the graph and the metadata. The same
// arguments give the same bytes. graph is left as it is. Metadata that the graph
// already has is kept, unless it is Fakeart's own. FormatVersion may be left 0.
//
// It refuses what Parse would: a graph whose input or outputs are not the ones
// above, or metadata no model can be served with. Unlike Parse it also refuses
// operators outside the ONNX standard, which other readers could not run.
func Marshal(graph *onnxpb.ModelProto, md Metadata) ([]byte, error) {
	if graph == nil {
		return nil, errors.New("marshal model: no graph")
	}
	if md.FormatVersion == 0 {
		md.FormatVersion = FormatVersion
	}
	if md.FormatVersion != FormatVersion {
		return nil, fmt.Errorf("marshal model: format version %d, want %d", md.FormatVersion, FormatVersion)
	}
	if err := md.check(); err != nil {
		return nil, fmt.Errorf("marshal model: metadata: %w", err)
	}
	if _, err := checkGraph(graph.GetGraph(), md.InputSize); err != nil {
		return nil, fmt.Errorf("marshal model: %w", err)
	}
	for i, n := range graph.GetGraph().GetNode() {
		if d := n.GetDomain(); d != "" && d != "ai.onnx" {
			return nil, fmt.Errorf("marshal model: node %d %q: operator %s of domain %q is not a standard one", i, n.GetName(), n.GetOpType(), d)
		}
	}
	m := proto.CloneOf(graph)
	m.MetadataProps = md.props(m.GetMetadataProps())
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("marshal model: %w", err)
	}
	return data, nil
}

// File is a model file that has been read and checked. It does not change, and
// is safe for concurrent use.
type File struct {
	// Metadata is what the file says about itself.
	Metadata Metadata
	// Digest identifies the file: "sha256:" and the hash of its bytes in hexadecimal.
	Digest string
	// EmbeddingSize is the width of the `embedding` output.
	EmbeddingSize int

	path string // empty when the model did not come from a file
	// ONNX Runtime computes every output of a graph, so that data is the graph without
	// `gradcam`, and that output and what leads to it alone are in gradCAM, empty
	// without one: the bytes of both one behind the other are the whole graph.
	data, gradCAM []byte
}

// HasGradCAM tells whether the model can say by Grad-CAM where it looked.
func (f *File) HasGradCAM() bool { return len(f.gradCAM) > 0 }

// Open reads and checks the model file at path. See Parse.
func Open(path string) (*File, error) {
	data, err := readFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open model: %w; name the model.onnx in the folder of a training run", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open model: %w", err)
	}
	f, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("open model %s: %w", path, err)
	}
	f.path = path
	return f, nil
}

// readFile reads a file that is no larger than a model can be, so that a wrong
// path (a device, a disk image) cannot exhaust the memory.
func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Size() > maxFileSize {
		return nil, fmt.Errorf("%s: %d bytes are more than an ONNX model can have", path, info.Size())
	}
	return io.ReadAll(io.LimitReader(file, maxFileSize))
}

// Parse reads and checks the bytes of a model file: the ONNX form, the metadata,
// and the names, types and shapes of input and outputs. It does not need the ONNX
// Runtime library; whether the graph in between can be run is found out by
// NewSession. data must not be changed afterwards.
func Parse(data []byte) (*File, error) {
	f, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("parse model: %w", err)
	}
	return f, nil
}

func parse(data []byte) (*File, error) {
	if len(data) == 0 {
		return nil, errors.New("the file is empty; copy or export it again")
	}
	var m onnxpb.ModelProto
	if err := proto.Unmarshal(data, &m); err != nil {
		if truncated(data) {
			return nil, fmt.Errorf("the file is truncated: it ends after %d bytes, inside the model; copy or export it again", len(data))
		}
		return nil, errors.New("not an ONNX model; name the model.onnx in the folder of a training run")
	}
	if m.GetGraph() == nil {
		return nil, errors.New("not an ONNX model: it holds no graph")
	}
	md, err := parseProps(m.GetMetadataProps())
	if err != nil {
		return nil, err
	}
	embedding, err := checkGraph(m.GetGraph(), md.InputSize)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	f := &File{Metadata: md, Digest: "sha256:" + hex.EncodeToString(sum[:]), EmbeddingSize: embedding, data: data}
	if gradCAM := onnx.Detach(&m, gradCAMName); gradCAM != nil {
		if f.gradCAM, err = proto.Marshal(gradCAM); err == nil {
			f.data, err = proto.Marshal(&m)
		}
		if err != nil {
			return nil, err
		}
	}
	return f, nil
}

// truncated tells whether data begins as an ONNX model does, with its IR version,
// and has fields that are well-formed but for an end that comes too early.
func truncated(data []byte) bool {
	number, kind, n := protowire.ConsumeTag(data)
	if n < 0 || number != 1 || kind != protowire.VarintType {
		return false
	}
	for len(data) > 0 {
		_, _, n := protowire.ConsumeField(data)
		if n < 0 {
			return errors.Is(protowire.ParseError(n), io.ErrUnexpectedEOF)
		}
		data = data[n:]
	}
	return false
}

// checkGraph checks that the graph takes and gives what a model does, and returns
// the width of the embedding. More outputs than needed are no harm.
func checkGraph(g *onnxpb.GraphProto, size int) (embedding int, err error) {
	if g == nil {
		return 0, errors.New("not an ONNX model: it holds no graph")
	}
	initialized := map[string]bool{}
	for _, t := range g.GetInitializer() {
		initialized[t.GetName()] = true
		// The file is the model, and its digest names it: nothing may come from elsewhere.
		if t.GetDataLocation() == onnxpb.TensorProto_EXTERNAL {
			return 0, fmt.Errorf("weight %q is kept outside the file", t.GetName())
		}
	}
	// Up to IR version 3, ONNX lists the weights among the inputs as well.
	inputs := slices.DeleteFunc(slices.Clone(g.GetInput()), func(v *onnxpb.ValueInfoProto) bool { return initialized[v.GetName()] })
	if len(inputs) != 1 || inputs[0].GetName() != inputName {
		return 0, fmt.Errorf("the graph's inputs are %q, want only %q", valueNames(inputs), inputName)
	}
	if _, err := checkValue("input", inputs[0], channels, int64(size), int64(size)); err != nil {
		return 0, err
	}
	output := func(name string) (*onnxpb.ValueInfoProto, error) {
		i := slices.IndexFunc(g.GetOutput(), func(v *onnxpb.ValueInfoProto) bool { return v.GetName() == name })
		if i < 0 {
			return nil, fmt.Errorf("the graph's outputs are %q, want %q among them", valueNames(g.GetOutput()), name)
		}
		return g.GetOutput()[i], nil
	}
	logit, err := output(logitName)
	if err != nil {
		return 0, err
	}
	if _, err := checkValue("output", logit, 1); err != nil {
		return 0, err
	}
	e, err := output(embeddingName)
	if err != nil {
		return 0, err
	}
	dims, err := checkValue("output", e, anySize)
	if err != nil {
		return 0, err
	}
	if gradCAM, err := output(gradCAMName); err == nil { // older models have none
		if _, err := checkValue("output", gradCAM, int64(size), int64(size)); err != nil {
			return 0, err
		}
	}
	return int(dims[1]), nil
}

// anySize stands for a dimension that has some fixed size.
const anySize = -1

// checkValue checks that v is a float32 tensor of the shape [batch, want...] and
// returns its dimensions, the batch as 0.
func checkValue(kind string, v *onnxpb.ValueInfoProto, want ...int64) ([]int64, error) {
	t := v.GetType().GetTensorType()
	if t == nil || t.GetElemType() != int32(onnxpb.TensorProto_FLOAT) {
		elem := "no tensor"
		if t != nil {
			elem = "a tensor of " + onnxpb.TensorProto_DataType(t.GetElemType()).String()
		}
		return nil, fmt.Errorf("%s %q is %s, want float32 (FLOAT)", kind, v.GetName(), elem)
	}
	shape := t.GetShape().GetDim()
	ok := len(shape) == len(want)+1
	dims := make([]int64, len(shape))
	for i, d := range shape {
		dims[i] = d.GetDimValue()
		switch {
		case !ok:
		case i == 0:
			// A fixed batch would break at any other size.
			_, fixed := d.GetValue().(*onnxpb.TensorShapeProto_Dimension_DimValue)
			ok = !fixed
		case want[i-1] == anySize:
			ok = 0 < dims[i] && dims[i] <= 1<<20
		default:
			ok = dims[i] == want[i-1]
		}
	}
	if !ok {
		return nil, fmt.Errorf("%s %q has the shape %s, want %s", kind, v.GetName(), shapeText(shape), wantText(want))
	}
	return dims, nil
}

func shapeText(shape []*onnxpb.TensorShapeProto_Dimension) string {
	text := "["
	for i, d := range shape {
		if i > 0 {
			text += ","
		}
		if _, fixed := d.GetValue().(*onnxpb.TensorShapeProto_Dimension_DimValue); fixed {
			text += fmt.Sprint(d.GetDimValue())
		} else if d.GetDimParam() != "" {
			text += d.GetDimParam()
		} else {
			text += "?"
		}
	}
	return text + "]"
}

func wantText(want []int64) string {
	text := "[batch"
	for _, n := range want {
		if n == anySize {
			text += ",E"
		} else {
			text += fmt.Sprintf(",%d", n)
		}
	}
	return text + "]"
}

func valueNames(values []*onnxpb.ValueInfoProto) []string {
	names := []string{}
	for _, v := range values {
		names = append(names, v.GetName())
	}
	return names
}

// Check reports whether the model can judge images that were prepared in the
// given way and labelled with the given class names, in this order.
func (f *File) Check(preprocessing string, classes []string) error {
	if f.Metadata.Preprocessing != preprocessing {
		return fmt.Errorf("%s: made for images prepared as %q, but these are prepared as %q; train it anew or use a release of Fakeart that fits it",
			f.title(), f.Metadata.Preprocessing, preprocessing)
	}
	if !slices.Equal(f.Metadata.Classes, classes) {
		return fmt.Errorf("%s: its classes are %q, want %q in this order; use a model that was trained on such data",
			f.title(), f.Metadata.Classes, classes)
	}
	return nil
}

// title names the file in errors.
func (f *File) title() string {
	if f.path != "" {
		return "model " + f.path
	}
	return "model " + f.Digest
}

// Probability turns a logit into the probability that the image is Fake: the
// logistic function.
func Probability(logit float32) float64 { return 1 / (1 + math.Exp(-float64(logit))) }

// Session runs a model on batches of up to a fixed size. It is not safe for
// concurrent use.
type Session struct {
	file    *File
	session *ort.MultiSession
	// One buffer each for the largest batch; a smaller one uses the beginning.
	input, logit, embedding, gradCAM []float32   // gradCAM is nil unless it explains
	sizes                            []boundSize // by batch size; made when first asked for
}

// boundSize is the session tied to tensors for one batch size.
type boundSize struct {
	bound   *ort.Bound
	tensors []*ortgo.Tensor[float32]
}

// NewSession loads the ONNX Runtime library if need be and prepares the model for
// batches of up to the given size. It runs the model once, on a blank batch of
// that size: a graph that is damaged inside is found out here, and the first real
// run is not slower than the next. The caller closes the session.
func (f *File) NewSession(batch int, o ort.Options) (*Session, error) {
	return f.named(f.newSession(f.data, batch, o, nil))
}

// NewExplainer is NewSession for a session that computes GradCAM as well where the
// model has it, which makes each run a little longer.
func (f *File) NewExplainer(batch int, o ort.Options) (*Session, error) {
	if !f.HasGradCAM() {
		return f.NewSession(batch, o)
	}
	gradCAM := make([]float32, max(batch, 0)*f.Metadata.InputSize*f.Metadata.InputSize)
	return f.named(f.newSession(slices.Concat(f.data, f.gradCAM), batch, o, gradCAM))
}

// named adds the file's name to an error.
func (f *File) named(s *Session, err error) (*Session, error) {
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.title(), err)
	}
	return s, nil
}

func (f *File) newSession(graph []byte, batch int, o ort.Options, gradCAM []float32) (_ *Session, err error) {
	if batch < 1 {
		return nil, fmt.Errorf("a batch of %d images", batch)
	}
	session, err := ort.NewMultiSession(graph, o)
	if err != nil {
		if ort.Version() == "" { // the library is what is missing
			return nil, err
		}
		return nil, fmt.Errorf("ONNX Runtime %s does not accept the graph; if the file is damaged, export it again: %w", ort.Version(), err)
	}
	s := &Session{
		file: f, session: session, sizes: make([]boundSize, batch+1),
		input: make([]float32, batch*f.imageSize()), logit: make([]float32, batch), embedding: make([]float32, batch*f.EmbeddingSize),
		gradCAM: gradCAM,
	}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if err := s.Run(batch); err != nil {
		return nil, fmt.Errorf("the graph fails on a blank image; if the file is damaged, export it again: %w", err)
	}
	if l := float64(s.logit[0]); math.IsNaN(l) || math.IsInf(l, 0) {
		return nil, fmt.Errorf("the graph answers a blank image with %g: its weights are damaged; export it again", l)
	}
	return s, nil
}

// imageSize is the number of values that an image has in the input.
func (f *File) imageSize() int { return channels * f.Metadata.InputSize * f.Metadata.InputSize }

// bind makes the tensors for batches of n images.
func (s *Session) bind(n int) (_ *ort.Bound, err error) {
	size, b := int64(s.file.Metadata.InputSize), int64(n)
	var made []*ortgo.Tensor[float32]
	defer func() {
		if err != nil {
			for _, t := range made {
				_ = t.Destroy()
			}
		}
	}()
	type tensor struct {
		name  string
		shape ortgo.Shape
		data  []float32
	}
	tensors := []tensor{
		{inputName, ortgo.NewShape(b, channels, size, size), s.input},
		{logitName, ortgo.NewShape(b, 1), s.logit},
		{embeddingName, ortgo.NewShape(b, int64(s.file.EmbeddingSize)), s.embedding},
	}
	if s.gradCAM != nil {
		tensors = append(tensors, tensor{gradCAMName, ortgo.NewShape(b, size, size), s.gradCAM})
	}
	var bindings []ort.Binding
	for _, t := range tensors {
		tensor, err := ortgo.NewTensor(t.shape, t.data)
		if err != nil {
			return nil, fmt.Errorf("make a tensor of shape %v: %w", t.shape, err)
		}
		made = append(made, tensor)
		bindings = append(bindings, ort.Binding{Name: t.name, Value: tensor})
	}
	bound, err := s.session.Bind(bindings[:1], bindings[1:])
	if err != nil {
		return nil, err
	}
	s.sizes[n] = boundSize{bound, made}
	return bound, nil
}

// Input is where the next batch of images goes: for each image 3*size*size
// values, as planes of red, green and blue in [0,1]. It has room for the largest batch.
func (s *Session) Input() []float32 { return s.input }

// Run computes Logits and Embeddings from the first n images of Input; n is 1 to
// the size that the session was made for. The first run of a size makes its
// tensors and takes longer.
func (s *Session) Run(n int) error {
	if s.session == nil {
		return errors.New("run model: the session is closed")
	}
	if n < 1 || n >= len(s.sizes) {
		return fmt.Errorf("run model: a batch of %d images, want 1 to %d", n, len(s.sizes)-1)
	}
	bound := s.sizes[n].bound
	if bound == nil {
		var err error
		if bound, err = s.bind(n); err != nil {
			return fmt.Errorf("run model: %w", err)
		}
	}
	return bound.Run()
}

// Logits holds one value for each image of the last run, and what earlier runs
// left behind it. The next run overwrites it.
func (s *Session) Logits() []float32 { return s.logit }

// Embeddings holds EmbeddingSize values for each image of the last run: the last
// hidden layer. Otherwise it is as Logits.
func (s *Session) Embeddings() []float32 { return s.embedding }

// GradCAM holds, for each image of the last run, InputSize rows of InputSize
// values: what spoke for Fake at each place, and where it is below zero, for Real.
// It is nil unless the session is an explainer's and the model has it. Otherwise it
// is as Logits.
func (s *Session) GradCAM() []float32 { return s.gradCAM }

// Close frees the session, and writes its profile if one was asked for. A second
// Close does nothing.
func (s *Session) Close() error {
	var errs []error
	if s.session != nil {
		errs = append(errs, s.session.Close())
	}
	for _, b := range s.sizes {
		for _, t := range b.tensors {
			errs = append(errs, t.Destroy())
		}
	}
	s.session, s.sizes = nil, nil
	return errors.Join(errs...)
}
