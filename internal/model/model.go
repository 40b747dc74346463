// Package model reads, validates, writes and runs model files: ONNX graphs with the metadata
// needed to serve them. Use [Open] to read a file and [File.NewSession] to run it. Programs that
// make models write files with [Marshal]. Trainer and server share this package, so that the server
// can run every model that the trainer exports or imports.
//
// The [Metadata] names the graph's only input and its outputs, and describes how an image becomes
// the input and what the outputs mean. [Fields] documents it. The input has the shape
// [batch,C,H,W] or [batch,H,W,C], and the output with the scores the shape [batch,columns], where
// batch is a free dimension or 1. A graph that only takes batches of one image is run once per image.
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

	"fakeart/internal/imaging"
	"fakeart/internal/onnx"
	"fakeart/internal/onnx/onnxpb"
	"fakeart/internal/ort"
)

// maxFileSize is the maximum size of a protocol buffer, and therefore of an ONNX file.
const maxFileSize = math.MaxInt32

// Marshal returns the model file for a graph and its metadata. The output is deterministic.
// Marshal doesn't change graph. It keeps the graph's existing metadata, except for Fakeart's
// own. md.FormatVersion may be 0.
//
// Like Parse, Marshal rejects invalid metadata, and a graph whose inputs and outputs don't match it. Unlike Parse, it also rejects
// operators that are neither in the ONNX standard nor built into ONNX Runtime.
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
	if _, err := checkGraph(graph.GetGraph(), &md); err != nil {
		return nil, fmt.Errorf("marshal model: %w", err)
	}
	for i, n := range graph.GetGraph().GetNode() {
		if d := n.GetDomain(); !slices.Contains(domains, d) {
			return nil, fmt.Errorf("marshal model: node %d %q: operator %s of domain %q is neither a standard operator nor one of ONNX Runtime's", i, n.GetName(), n.GetOpType(), d)
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

// domains are the domains of the operators that ONNX Runtime runs without additional libraries.
var domains = []string{"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}

// File is a validated model file. It's immutable and safe for concurrent use.
type File struct {
	// Metadata is the metadata in the file.
	Metadata Metadata
	// Digest identifies the file: "sha256:" and the hash of its bytes in hexadecimal.
	Digest string
	// EmbeddingSize is the number of values of the embedding, 0 if the model has none.
	EmbeddingSize int
	// Plan is the compiled preprocessing.
	Plan *imaging.Plan

	path   string // empty if the model wasn't read from a file
	shapes shapes
	// ONNX Runtime computes all outputs of a graph, even unused ones. So data holds the graph without the class-activation map and the
	// outputs that the metadata doesn't name, and cam holds that map and the nodes that only it needs (empty if absent).
	// The concatenation of both is a graph with both: see onnx.Detach.
	data, cam []byte
}

// HasCAM reports whether the model has a class-activation map.
func (f *File) HasCAM() bool { return len(f.cam) > 0 }

// CAMSize returns the width and height in values of the model's class-activation map, which is usually smaller than the
// input. It panics if the model has none.
func (f *File) CAMSize() (width, height int) {
	shape := f.shapes.cam
	return int(shape[len(shape)-1]), int(shape[len(shape)-2])
}

// Size returns the number of bytes of the graph, most of which are weights. Each session needs about as much memory.
func (f *File) Size() int { return len(f.data) }

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
	if info.IsDir() {
		return nil, fmt.Errorf("%s is a directory; give the path of the model.onnx in it", path)
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
	if md.FormatVersion == 1 {
		dropMissing(&md, m.GetGraph())
	}
	shapes, err := checkGraph(m.GetGraph(), &md)
	if err != nil {
		return nil, err
	}
	plan, err := md.Preprocessing.Compile()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	f := &File{Metadata: md, Digest: "sha256:" + hex.EncodeToString(sum[:]), Plan: plan, shapes: shapes, data: data}
	if shapes.embedding != nil {
		f.EmbeddingSize = int(product(shapes.embedding))
	}
	used := []string{md.Output, md.Embedding, md.CAM}
	unused := slices.DeleteFunc(valueNames(m.GetGraph().GetOutput()), func(name string) bool { return slices.Contains(used, name) })
	for _, name := range unused {
		onnx.Detach(&m, name)
	}
	if md.CAM != "" { // the last one, because others may use its nodes
		if f.cam, err = proto.Marshal(onnx.Detach(&m, md.CAM)); err != nil {
			return nil, err
		}
	}
	if len(unused) > 0 || md.CAM != "" {
		if f.data, err = proto.Marshal(&m); err != nil {
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

// dropMissing removes the class-activation map from metadata of format 1 if the graph doesn't have it, as in files of older
// trainers.
func dropMissing(md *Metadata, g *onnxpb.GraphProto) {
	if !slices.Contains(valueNames(g.GetOutput()), md.CAM) {
		md.CAM, md.CAMKind = "", ""
	}
}

// shapes are the dimensions of the graph's input and outputs without the batch.
type shapes struct {
	input, scores, embedding, cam []int64 // the last two are nil if absent
	// single reports whether the graph only takes batches of one image.
	single bool
}

func product(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}

// checkGraph checks the inputs and outputs of the graph against the metadata. It allows additional outputs.
func checkGraph(g *onnxpb.GraphProto, md *Metadata) (s shapes, err error) {
	if g == nil {
		return s, errors.New("not an ONNX model: it has no graph")
	}
	initialized := map[string]bool{}
	for _, t := range g.GetInitializer() {
		initialized[t.GetName()] = true
		// External weights wouldn't be covered by the digest of the file.
		if t.GetDataLocation() == onnxpb.TensorProto_EXTERNAL {
			return s, fmt.Errorf("weight %q is stored in another file", t.GetName())
		}
	}
	// Up to IR version 3, ONNX also lists the weights among the inputs.
	inputs := slices.DeleteFunc(slices.Clone(g.GetInput()), func(v *onnxpb.ValueInfoProto) bool { return initialized[v.GetName()] })
	if len(inputs) != 1 || inputs[0].GetName() != md.Input {
		return s, fmt.Errorf("the graph's inputs are %q, want only %q", valueNames(inputs), md.Input)
	}
	p := &md.Preprocessing
	want := []int64{int64(p.Channels()), int64(p.Height), int64(p.Width)}
	if p.Layout == imaging.NHWC {
		want = []int64{int64(p.Height), int64(p.Width), int64(p.Channels())}
	}
	elem := onnxpb.TensorProto_FLOAT
	if p.Type == imaging.Uint8 {
		elem = onnxpb.TensorProto_UINT8
	}
	if s.input, s.single, err = checkValue("input", inputs[0], elem, want...); err != nil {
		return s, err
	}
	output := func(name string, want ...int64) ([]int64, error) {
		i := slices.IndexFunc(g.GetOutput(), func(v *onnxpb.ValueInfoProto) bool { return v.GetName() == name })
		if i < 0 {
			return nil, fmt.Errorf("the graph has no output %q, only %q", name, valueNames(g.GetOutput()))
		}
		shape, single, err := checkValue("output", g.GetOutput()[i], onnxpb.TensorProto_FLOAT, want...)
		if err == nil && single && !s.single {
			err = fmt.Errorf("output %q has a fixed batch size, but the input hasn't", name)
		}
		return shape, err
	}
	if s.scores, err = output(md.Output, int64(md.Columns)); err != nil {
		return s, err
	}
	if md.Embedding != "" {
		if s.embedding, err = output(md.Embedding, anySize); err != nil {
			return s, err
		}
	}
	if md.CAM != "" {
		want := []int64{anySize, anySize}
		if md.CAMKind == CAMOfEach {
			want = []int64{int64(len(md.Classes)), anySize, anySize}
		}
		if s.cam, err = output(md.CAM, want...); err != nil {
			return s, err
		}
	}
	return s, nil
}

// anySize is a dimension of any fixed size.
const anySize = -1

// checkValue checks that v is a tensor of the type elem and of the shape [batch, want...], and returns its dimensions without
// the batch. Trailing dimensions of 1 are allowed. single reports whether batch is 1 instead of a free dimension.
func checkValue(kind string, v *onnxpb.ValueInfoProto, elem onnxpb.TensorProto_DataType, want ...int64) (_ []int64, single bool, err error) {
	t := v.GetType().GetTensorType()
	if t == nil || t.GetElemType() != int32(elem) {
		is := "not a tensor"
		if t != nil {
			is = "a tensor of " + onnxpb.TensorProto_DataType(t.GetElemType()).String()
		}
		return nil, false, fmt.Errorf("%s %q is %s, want %s", kind, v.GetName(), is, elem)
	}
	shape := t.GetShape().GetDim()
	ok := len(shape) > len(want)
	dims := make([]int64, len(shape))
	for i, d := range shape {
		dims[i] = d.GetDimValue()
		switch {
		case !ok:
		case i == 0:
			// With another fixed batch size, other batch sizes would fail.
			_, fixed := d.GetValue().(*onnxpb.TensorShapeProto_Dimension_DimValue)
			single = fixed && dims[0] == 1
			ok = !fixed || single
		case i > len(want):
			ok = dims[i] == 1
		case want[i-1] == anySize:
			ok = 0 < dims[i] && dims[i] <= 1<<20
		default:
			ok = dims[i] == want[i-1]
		}
	}
	if !ok {
		return nil, false, fmt.Errorf("%s %q has shape %s, want %s", kind, v.GetName(), shapeText(shape), wantText(want))
	}
	return dims[1:], single, nil
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
			text += ",N"
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

// Check returns an error unless the model takes images with the preprocessing of the given ID ([imaging.Preprocessing.ID]) and
// has the given class names in the same order.
func (f *File) Check(preprocessing string, classes []string) error {
	if id := f.Metadata.Preprocessing.ID(); id != preprocessing {
		return fmt.Errorf("%s: has preprocessing %q, but the images have %q; prepare the images again for this model, or use a matching model",
			f.title(), id, preprocessing)
	}
	if !slices.Equal(f.Metadata.Classes, classes) {
		return fmt.Errorf("%s: its classes are %s, want %s in this order; use a model trained on data with these classes",
			f.title(), classList(f.Metadata.Classes), classList(classes))
	}
	return nil
}

// classList formats class names for an error message and shortens a long list.
func classList(classes []string) string {
	const most = 10
	if len(classes) <= most {
		return fmt.Sprintf("%q", classes)
	}
	return fmt.Sprintf("%q and %d more", classes[:most], len(classes)-most)
}

// title returns the name of the file for error messages.
func (f *File) title() string {
	if f.path != "" {
		return "model " + f.path
	}
	return "model " + f.Digest
}

// Session runs a model on batches of up to a maximum size. It isn't safe for concurrent use.
type Session struct {
	file    *File
	session *ort.MultiSession
	batch   int // maximum
	// Each buffer has room for the largest batch. Smaller batches use its beginning.
	input                  imaging.Tensor
	scores, embedding, cam []float32 // cam is nil unless the session computes it
	// bound has the session bound to tensors for each batch size or, if the graph only takes single images, for each image of
	// a batch. It's created on first use.
	bound []boundTensors
}

// boundTensors is a session bound to tensors.
type boundTensors struct {
	bound   *ort.Bound
	tensors []ortgo.Value
}

// NewSession creates a session for batches of up to the given size, and loads the ONNX Runtime
// library if necessary. It runs the model once on a blank batch of that size, which detects
// corrupt graphs and warms up the session. The caller must close the session.
func (f *File) NewSession(batch int, o ort.Options) (*Session, error) {
	return f.named(f.newSession(f.data, batch, o, false))
}

// NewExplainer is like NewSession, but the session also computes CAM if the model has it. Each run takes slightly longer.
func (f *File) NewExplainer(batch int, o ort.Options) (*Session, error) {
	if !f.HasCAM() {
		return f.NewSession(batch, o)
	}
	return f.named(f.newSession(slices.Concat(f.data, f.cam), batch, o, true))
}

// named adds the name of the file to an error.
func (f *File) named(s *Session, err error) (*Session, error) {
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.title(), err)
	}
	return s, nil
}

func (f *File) newSession(graph []byte, batch int, o ort.Options, cam bool) (_ *Session, err error) {
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
		file: f, session: session, batch: batch, bound: make([]boundTensors, batch),
		input: f.Plan.NewTensor(batch), scores: make([]float32, batch*f.Metadata.Columns), embedding: make([]float32, batch*f.EmbeddingSize),
	}
	if cam {
		s.cam = make([]float32, batch*int(product(f.shapes.cam)))
	}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if err := s.Run(batch); err != nil {
		return nil, fmt.Errorf("the graph fails on a blank image; if the file is corrupt, export it again: %w", err)
	}
	for _, v := range s.scores[:f.Metadata.Columns] {
		if x := float64(v); math.IsNaN(x) || math.IsInf(x, 0) {
			return nil, fmt.Errorf("output %q of a blank image is %g: the weights are corrupt; export the model again", f.Metadata.Output, x)
		}
	}
	return s, nil
}

// bind binds the session to tensors for n images, the first of which is at the given place in the buffers.
func (s *Session) bind(first, n int) (_ *ort.Bound, tensors []ortgo.Value, err error) {
	defer func() {
		if err != nil {
			for _, t := range tensors {
				_ = t.Destroy()
			}
		}
	}()
	f, b := s.file, int64(n)
	var bindings []ort.Binding
	add := func(name string, shape []int64, floats []float32, bytes []uint8) (err error) {
		full := ortgo.NewShape(append([]int64{b}, shape...)...)
		var t ortgo.Value
		if bytes != nil {
			t, err = ortgo.NewTensor(full, bytes)
		} else {
			t, err = ortgo.NewTensor(full, floats)
		}
		if err != nil {
			return fmt.Errorf("create a tensor of shape %v: %w", full, err)
		}
		tensors = append(tensors, t)
		bindings = append(bindings, ort.Binding{Name: name, Value: t})
		return nil
	}
	part := func(buffer []float32, shape []int64) []float32 {
		size := int(product(shape))
		return buffer[first*size : (first+n)*size]
	}
	in := s.input.Slice(first*f.Plan.Len(), (first+n)*f.Plan.Len())
	if err = add(f.Metadata.Input, f.shapes.input, in.Float32, in.Uint8); err != nil {
		return nil, tensors, err
	}
	if err = add(f.Metadata.Output, f.shapes.scores, part(s.scores, f.shapes.scores), nil); err != nil {
		return nil, tensors, err
	}
	if f.EmbeddingSize > 0 {
		if err = add(f.Metadata.Embedding, f.shapes.embedding, part(s.embedding, f.shapes.embedding), nil); err != nil {
			return nil, tensors, err
		}
	}
	if s.cam != nil {
		if err = add(f.Metadata.CAM, f.shapes.cam, part(s.cam, f.shapes.cam), nil); err != nil {
			return nil, tensors, err
		}
	}
	bound, err := s.session.Bind(bindings[:1], bindings[1:])
	return bound, tensors, err
}

// Input returns the buffer for the next batch of images. Each image has Plan.Len values, as Plan.Fill writes them. The buffer has room
// for the largest batch.
func (s *Session) Input() imaging.Tensor { return s.input }

// Fill writes the pixels of an image ([imaging.Plan]) to Input as image i of the next batch.
func (s *Session) Fill(i int, pixels []uint8) {
	n := s.file.Plan.Len()
	s.file.Plan.Fill(s.input.Slice(i*n, (i+1)*n), pixels)
}

// File returns the file that the session runs.
func (s *Session) File() *File { return s.file }

// Batch returns the maximum batch size.
func (s *Session) Batch() int { return s.batch }

// Run computes Scores, Embeddings and CAM for the first n images of Input. n is between 1 and the maximum batch size. The first run
// of each size takes longer because it creates tensors.
func (s *Session) Run(n int) error {
	if s.session == nil {
		return errors.New("run model: the session is closed")
	}
	if n < 1 || n > s.batch {
		return fmt.Errorf("run model: batch of %d images, want 1 to %d", n, s.batch)
	}
	if !s.file.shapes.single {
		return s.run(n-1, 0, n)
	}
	for i := range n {
		if err := s.run(i, i, 1); err != nil {
			return err
		}
	}
	return nil
}

// run runs the model on n images from the given one, with tensors that are kept under the given index.
func (s *Session) run(index, first, n int) (err error) {
	b := &s.bound[index]
	if b.bound == nil {
		bound, tensors, err := s.bind(first, n)
		if err != nil {
			return fmt.Errorf("run model: %w", err)
		}
		*b = boundTensors{bound, tensors}
	}
	return b.bound.Run()
}

// Scores returns a buffer with Metadata.Columns values per image of the last run, which Metadata.Probabilities converts. Values after these
// are undefined. The next run overwrites the buffer.
func (s *Session) Scores() []float32 { return s.scores }

// Embeddings returns a buffer with EmbeddingSize values per image of the last run. It's empty if the model has no embedding. See Scores for
// its lifetime.
func (s *Session) Embeddings() []float32 { return s.embedding }

// CAM returns a buffer with the class-activation map of each image of the last run: rows of values, for each class one after another if
// Metadata.CAMKind is CAMOfEach. CAMSize has the size of a map. CAM returns nil unless the session was created by NewExplainer and the model
// has a map. See Scores for the lifetime of the buffer.
func (s *Session) CAM() []float32 { return s.cam }

// Close frees the session, and writes its profile if requested. Further calls do nothing.
func (s *Session) Close() error {
	var errs []error
	if s.session != nil {
		errs = append(errs, s.session.Close())
	}
	for _, b := range s.bound {
		for _, t := range b.tensors {
			errs = append(errs, t.Destroy())
		}
	}
	s.session, s.bound = nil, nil
	return errors.Join(errs...)
}
