// Package model reads, validates, writes and runs model files: ONNX graphs with the metadata
// needed to serve them. Use [Open] to read a file and [File.NewSession] to run it. The trainer
// writes files with [Marshal]. Trainer and server share this package, so that the server can run
// every model that the trainer exports.
//
// The graph has the input `input`, float32 [batch,3,size,size], and the outputs `logit`,
// float32 [batch,1], and `embedding`, float32 [batch,E]. An image is classified as [Fake] if
// [Probability] of the logit exceeds the threshold in the metadata. The graph may also have the
// output `gradcam`, float32 [batch,size,size], with the evidence for Fake at each pixel. Only
// sessions of [File.NewExplainer] compute it.
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

// Names of the graph's input and outputs.
const (
	inputName     = "input"
	logitName     = "logit"
	embeddingName = "embedding"
	gradCAMName   = "gradcam"
)

// channels is the number of color channels of the input: red, green, blue.
const channels = 3

// maxFileSize is the maximum size of a protocol buffer, and therefore of an ONNX file.
const maxFileSize = math.MaxInt32

// Marshal returns the model file for a graph and its metadata. The output is deterministic.
// Marshal doesn't change graph. It keeps the graph's existing metadata, except for Fakeart's
// own. md.FormatVersion may be 0.
//
// Like Parse, Marshal rejects a graph with other inputs or outputs than those described in the
// package documentation, and invalid metadata. Unlike Parse, it also rejects operators outside
// of the ONNX standard, which other runtimes can't run.
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
			return nil, fmt.Errorf("marshal model: node %d %q: operator %s of domain %q isn't a standard operator", i, n.GetName(), n.GetOpType(), d)
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

// File is a validated model file. It's immutable and safe for concurrent use.
type File struct {
	// Metadata is the metadata in the file.
	Metadata Metadata
	// Digest identifies the file: "sha256:" and the hash of its bytes in hexadecimal.
	Digest string
	// EmbeddingSize is the width of the `embedding` output.
	EmbeddingSize int

	path string // empty if the model wasn't read from a file
	// ONNX Runtime computes all outputs of a graph, even unused ones. So data holds the graph
	// without `gradcam`, and gradCAM holds this output and the nodes that only it needs (empty
	// if absent). The concatenation of both is the complete graph: see onnx.Detach.
	data, gradCAM []byte
}

// HasGradCAM reports whether the model has the output for Grad-CAM.
func (f *File) HasGradCAM() bool { return len(f.gradCAM) > 0 }

// Open reads and validates the model file at path. See [Parse].
func Open(path string) (*File, error) {
	data, err := readFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open model: %w; give the path of the model.onnx in a run folder", err)
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

// readFile reads a regular file of at most maxFileSize, so that a wrong path (a device, a disk
// image) can't exhaust the memory.
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
		return nil, fmt.Errorf("%s: %d bytes, more than the maximum size of an ONNX model", path, info.Size())
	}
	return io.ReadAll(io.LimitReader(file, maxFileSize))
}

// Parse validates the bytes of a model file: the ONNX format, the metadata, and the names, types
// and shapes of inputs and outputs. It doesn't need the ONNX Runtime library and doesn't check
// whether the graph can be run, which [File.NewSession] does. The caller must not change data
// afterwards.
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
			return nil, fmt.Errorf("the file is truncated after %d bytes; copy or export it again", len(data))
		}
		return nil, errors.New("not an ONNX model; use the model.onnx in a run folder")
	}
	if m.GetGraph() == nil {
		return nil, errors.New("not an ONNX model: it has no graph")
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

// truncated reports whether data starts like an ONNX model, with the IR version, and consists of
// valid fields that end too early.
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

// checkGraph checks the inputs and outputs of the graph and returns the width of the embedding.
// It allows additional outputs.
func checkGraph(g *onnxpb.GraphProto, size int) (embedding int, err error) {
	if g == nil {
		return 0, errors.New("not an ONNX model: it has no graph")
	}
	initialized := map[string]bool{}
	for _, t := range g.GetInitializer() {
		initialized[t.GetName()] = true
		// External weights wouldn't be covered by the digest of the file.
		if t.GetDataLocation() == onnxpb.TensorProto_EXTERNAL {
			return 0, fmt.Errorf("weight %q is stored in another file", t.GetName())
		}
	}
	// Up to IR version 3, ONNX also lists the weights among the inputs.
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
			return nil, fmt.Errorf("the graph has no output %q, only %q", name, valueNames(g.GetOutput()))
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
	if gradCAM, err := output(gradCAMName); err == nil { // missing in older models
		if _, err := checkValue("output", gradCAM, int64(size), int64(size)); err != nil {
			return 0, err
		}
	}
	return int(dims[1]), nil
}

// anySize is a dimension of any fixed size.
const anySize = -1

// checkValue checks that v is a float32 tensor of shape [batch, want...] and returns its
// dimensions, with 0 for the batch.
func checkValue(kind string, v *onnxpb.ValueInfoProto, want ...int64) ([]int64, error) {
	t := v.GetType().GetTensorType()
	if t == nil || t.GetElemType() != int32(onnxpb.TensorProto_FLOAT) {
		elem := "not a tensor"
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
			// With a fixed batch size, other batch sizes would fail.
			_, fixed := d.GetValue().(*onnxpb.TensorShapeProto_Dimension_DimValue)
			ok = !fixed
		case want[i-1] == anySize:
			ok = 0 < dims[i] && dims[i] <= 1<<20
		default:
			ok = dims[i] == want[i-1]
		}
	}
	if !ok {
		return nil, fmt.Errorf("%s %q has shape %s, want %s", kind, v.GetName(), shapeText(shape), wantText(want))
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

// Check returns an error unless the model was trained with the given preprocessing and with the
// given class names in the same order.
func (f *File) Check(preprocessing string, classes []string) error {
	if f.Metadata.Preprocessing != preprocessing {
		return fmt.Errorf("%s: trained with preprocessing %q, but the images have %q; train it again or use a matching release of Fakeart",
			f.title(), f.Metadata.Preprocessing, preprocessing)
	}
	if !slices.Equal(f.Metadata.Classes, classes) {
		return fmt.Errorf("%s: its classes are %q, want %q in this order; use a model trained on data with these classes",
			f.title(), f.Metadata.Classes, classes)
	}
	return nil
}

// title returns the name of the file for error messages.
func (f *File) title() string {
	if f.path != "" {
		return "model " + f.path
	}
	return "model " + f.Digest
}

// Probability returns the probability of Fake for a logit: the logistic function.
func Probability(logit float32) float64 { return 1 / (1 + math.Exp(-float64(logit))) }

// Session runs a model on batches of up to a maximum size. It isn't safe for concurrent use.
type Session struct {
	file    *File
	session *ort.MultiSession
	// Each buffer has room for the largest batch. Smaller batches use its beginning.
	input, logit, embedding, gradCAM []float32   // gradCAM is nil unless the session computes it
	sizes                            []boundSize // by batch size; created on first use
}

// boundSize is the session bound to tensors of one batch size.
type boundSize struct {
	bound   *ort.Bound
	tensors []*ortgo.Tensor[float32]
}

// NewSession creates a session for batches of up to the given size, and loads the ONNX Runtime
// library if necessary. It runs the model once on a blank batch of that size, which detects
// corrupt graphs and warms up the session. The caller must close the session.
func (f *File) NewSession(batch int, o ort.Options) (*Session, error) {
	return f.named(f.newSession(f.data, batch, o, nil))
}

// NewExplainer is like NewSession, but the session also computes GradCAM if the model has it.
// Each run takes slightly longer.
func (f *File) NewExplainer(batch int, o ort.Options) (*Session, error) {
	if !f.HasGradCAM() {
		return f.NewSession(batch, o)
	}
	gradCAM := make([]float32, max(batch, 0)*f.Metadata.InputSize*f.Metadata.InputSize)
	return f.named(f.newSession(slices.Concat(f.data, f.gradCAM), batch, o, gradCAM))
}

// named adds the name of the file to an error.
func (f *File) named(s *Session, err error) (*Session, error) {
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.title(), err)
	}
	return s, nil
}

func (f *File) newSession(graph []byte, batch int, o ort.Options, gradCAM []float32) (_ *Session, err error) {
	if batch < 1 {
		return nil, fmt.Errorf("invalid batch size %d", batch)
	}
	session, err := ort.NewMultiSession(graph, o)
	if err != nil {
		if ort.Version() == "" { // the library couldn't be loaded
			return nil, err
		}
		return nil, fmt.Errorf("ONNX Runtime %s rejects the graph; if the file is corrupt, export it again: %w", ort.Version(), err)
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
		return nil, fmt.Errorf("the graph fails on a blank image; if the file is corrupt, export it again: %w", err)
	}
	if l := float64(s.logit[0]); math.IsNaN(l) || math.IsInf(l, 0) {
		return nil, fmt.Errorf("the logit of a blank image is %g: the weights are corrupt; export the model again", l)
	}
	return s, nil
}

// imageSize returns the number of input values per image.
func (f *File) imageSize() int { return channels * f.Metadata.InputSize * f.Metadata.InputSize }

// bind creates the tensors for batches of n images.
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
			return nil, fmt.Errorf("create a tensor of shape %v: %w", t.shape, err)
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

// Input returns the buffer for the next batch of images. Each image has 3*size*size values in
// [0,1], as planes of red, green and blue. The buffer has room for the largest batch.
func (s *Session) Input() []float32 { return s.input }

// Run computes Logits, Embeddings and GradCAM for the first n images of Input. n is between 1
// and the maximum batch size. The first run of each size takes longer because it creates
// tensors.
func (s *Session) Run(n int) error {
	if s.session == nil {
		return errors.New("run model: the session is closed")
	}
	if n < 1 || n >= len(s.sizes) {
		return fmt.Errorf("run model: batch of %d images, want 1 to %d", n, len(s.sizes)-1)
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

// Logits returns a buffer with one value per image of the last run. Values after these are
// undefined. The next run overwrites the buffer.
func (s *Session) Logits() []float32 { return s.logit }

// Embeddings returns a buffer with EmbeddingSize values per image of the last run: the outputs
// of the last hidden layer. See Logits for its lifetime.
func (s *Session) Embeddings() []float32 { return s.embedding }

// GradCAM returns a buffer with InputSize rows of InputSize values per image of the last run.
// Positive values are evidence for Fake at that pixel, negative ones for Real. GradCAM returns
// nil unless the session was created by NewExplainer and the model has Grad-CAM. See Logits for
// the lifetime of the buffer.
func (s *Session) GradCAM() []float32 { return s.gradCAM }

// Close frees the session, and writes its profile if requested. Further calls do nothing.
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
