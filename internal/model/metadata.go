package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"fakeart/internal/imaging"
	"fakeart/internal/onnx/onnxpb"
)

// FormatVersion is the version of the model file format that this package writes, and the
// newest that it reads. It increases with changes that older readers would misinterpret. New
// keys that older readers can ignore don't increase it.
const FormatVersion = 2

// MaxClasses is the maximum number of classes of a model.
const MaxClasses = 10_000

// maxName is the maximum length of a class name in bytes.
const maxName = 500

// keyPrefix distinguishes our metadata from that of other tools.
const keyPrefix = "fakeart."

// OutputKind is what the values of a model's output are.
type OutputKind string

// Values of OutputKind.
const (
	// Logits become probabilities by the logistic function (one column) or by softmax (one column per class).
	Logits OutputKind = "logits"
	// Probabilities are used as they are.
	Probabilities OutputKind = "probabilities"
)

// CAMKind is what the values of a class-activation map are evidence for.
type CAMKind string

// Values of CAMKind.
const (
	// CAMOfSecond is evidence for the second class, and negative evidence for the first. Shape [batch,H,W].
	CAMOfSecond CAMKind = "second"
	// CAMOfPredicted is evidence for the class with the highest output. Shape [batch,H,W].
	CAMOfPredicted CAMKind = "predicted"
	// CAMOfEach has one map per class. Shape [batch,C,H,W].
	CAMOfEach CAMKind = "each"
)

// Metadata is everything about a model except its graph: what is needed to serve it, and where it comes from. It's stored
// in the ONNX metadata_props, one entry per field, under the keys of [Fields].
type Metadata struct {
	// FormatVersion is the version of the file format. Marshal writes the current one.
	FormatVersion int
	// Name, Description, License and Source describe the model. All may be empty. License is an SPDX identifier
	// and Source a URL or a description of where a foreign model comes from.
	Name, Description, License, Source string
	// Classes holds the names of the classes in the order of the outputs, 2 to MaxClasses. Names can repeat; see
	// Labels.
	Classes []string
	// Positive, if not empty, is the name of the class that Threshold and the reported probability refer to. Only models
	// with two classes can have one.
	Positive string
	// Threshold, in (0,1), is the probability above which the predicted class is Positive. 0 without Positive.
	Threshold float64
	// Input is the name of the graph's input tensor.
	Input string
	// Preprocessing describes how an image file becomes the input tensor, including its size, type and layout.
	Preprocessing imaging.Preprocessing
	// Output is the name of the output with the scores of the classes, and OutputKind what they are.
	Output     string
	OutputKind OutputKind
	// Columns is the number of scores per image: one per class, or 1 for a model with two classes that only outputs the
	// score of the second one.
	Columns int
	// Embedding is the name of the output with features of the image, usually those of the last hidden layer. It's empty if
	// the model has none.
	Embedding string
	// CAM is the name of the output with the class-activation map, and CAMKind what it shows. Both are empty if the model has
	// none.
	CAM     string
	CAMKind CAMKind
	// DataSource describes the origin of the training images. It's empty if unknown.
	DataSource string
	// DataDigest and ConfigDigest identify the training data and the configuration. They are empty if unknown.
	DataDigest, ConfigDigest string
	// Seed is the random seed of the training.
	Seed int64
	// ValLoss and ValAccuracy are the results on the validation split, or NaN if unknown.
	ValLoss, ValAccuracy float64
	// Revision is the source revision of the trainer, or empty if unknown.
	Revision string
}

// Labels returns a unique text for each class, which identifies it in responses, logs, metrics and feedback: its name or, if
// several classes have that name, the name followed by "#" and the index of the class, as in "crane#134".
func (m *Metadata) Labels() []string {
	count := map[string]int{}
	for _, c := range m.Classes {
		count[c]++
	}
	labels := slices.Clone(m.Classes)
	for i, c := range m.Classes {
		if count[c] > 1 {
			labels[i] = fmt.Sprintf("%s#%d", c, i)
		}
	}
	return labels
}

// PositiveClass returns the index of the positive class, or -1 if the model has none.
func (m *Metadata) PositiveClass() int {
	if m.Positive == "" {
		return -1
	}
	return slices.Index(m.Classes, m.Positive)
}

// Probabilities computes the probability of each class from the scores of one image, a row of Session.Scores. dst must have one
// element per class. It returns an error if a score is NaN or infinite.
func (m *Metadata) Probabilities(dst []float64, scores []float32) error {
	for _, v := range scores[:m.Columns] {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return fmt.Errorf("the model's output is %g for this image", v)
		}
	}
	switch {
	case m.Columns == 1 && m.OutputKind == Logits:
		dst[0], dst[1] = Probability(-scores[0]), Probability(scores[0])
	case m.Columns == 1:
		p := clamped(scores[0])
		dst[0], dst[1] = 1-p, p
	case m.OutputKind == Logits:
		softmax(dst, scores)
	default:
		for i := range dst {
			dst[i] = clamped(scores[i])
		}
	}
	return nil
}

// clamped returns a probability, which rounding in the graph can have moved out of [0,1].
func clamped(p float32) float64 { return min(max(float64(p), 0), 1) }

// Probability returns the logistic function of a logit, 1/(1+e^−logit).
func Probability(logit float32) float64 { return 1 / (1 + math.Exp(-float64(logit))) }

func softmax(dst []float64, logits []float32) {
	greatest := float64(slices.Max(logits[:len(dst)]))
	sum := 0.0
	for i := range dst {
		dst[i] = math.Exp(float64(logits[i]) - greatest)
		sum += dst[i]
	}
	for i := range dst {
		dst[i] /= sum
	}
}

// Decide returns the index of the predicted class for the probabilities of all classes: the positive class if its probability
// exceeds the threshold, and otherwise the other one. In a model without a positive class, it's the class with the highest
// probability, and the first of several.
func (m *Metadata) Decide(probabilities []float64) int {
	if p := m.PositiveClass(); p >= 0 {
		if probabilities[p] > m.Threshold {
			return p
		}
		return 1 - p
	}
	best := 0
	for i, p := range probabilities {
		if p > probabilities[best] {
			best = i
		}
	}
	return best
}

// Reported returns the probability to report with a predicted class: that of the positive class or, in a model without one,
// that of the predicted class.
func (m *Metadata) Reported(probabilities []float64, class int) float64 {
	if p := m.PositiveClass(); p >= 0 {
		return probabilities[p]
	}
	return probabilities[class]
}

// Top returns the indices of the n largest probabilities in descending order, and all of them if n is larger. Equal
// probabilities are in the order of the classes.
func Top(probabilities []float64, n int) []int {
	indices := make([]int, len(probabilities))
	for i := range indices {
		indices[i] = i
	}
	slices.SortStableFunc(indices, func(a, b int) int {
		switch {
		case probabilities[a] > probabilities[b]:
			return -1
		case probabilities[a] < probabilities[b]:
			return 1
		}
		return 0
	})
	return indices[:min(max(n, 0), len(indices))]
}

// Field documents one entry of the metadata.
type Field struct {
	// Key is the key in the ONNX metadata_props.
	Key string
	// Doc describes the value, in Markdown.
	Doc string
	// Optional reports whether the entry can be missing.
	Optional bool
}

// Fields returns all entries of the metadata, for documentation. Readers ignore keys that aren't listed.
func Fields() []Field {
	var list []Field
	for _, f := range new(Metadata).fields() {
		list = append(list, Field{keyPrefix + f.key, f.doc, f.optional})
	}
	return list
}

// field is one entry of the metadata.
type field struct {
	key      string
	value    any // *string, *int, *int64, *float64, *[]string or *imaging.Preprocessing
	doc      string
	optional bool
}

// fields returns all entries, for writing, reading and documentation. The format version comes first because it determines whether
// the others can be read. Optional entries with the zero value aren't written.
func (m *Metadata) fields() []field {
	return []field{
		{key: "format_version", value: &m.FormatVersion, doc: "Version of the format: 2."},
		{key: "name", value: &m.Name, doc: "Name of the model or of the experiment; can be empty."},
		{key: "description", value: &m.Description, optional: true, doc: "Purpose of the model, in a sentence or two."},
		{key: "license", value: &m.License, optional: true, doc: "License of the model, an [SPDX](https://spdx.org/licenses/) identifier."},
		{key: "source", value: &m.Source, optional: true, doc: "Where a foreign model comes from."},
		{key: "classes", value: &m.Classes, doc: "JSON list of 2 to 10,000 class names, in the order of the outputs. Names can repeat."},
		{key: "positive", value: &m.Positive, optional: true, doc: "Class that `probability` and the threshold refer to. Only for two classes."},
		{key: "threshold", value: &m.Threshold, optional: true, doc: "Probability above which the positive class is predicted, between 0 and 1. Set if and only if there is a positive class."},
		{key: "input", value: &m.Input, doc: "Name of the input tensor."},
		{key: "preprocessing", value: &m.Preprocessing, doc: "JSON object that describes how an image file becomes the input tensor. See [preprocessing](preprocessing.md)."},
		{key: "output", value: &m.Output, doc: "Name of the output tensor with the scores of the classes."},
		{key: "output_kind", value: (*string)(&m.OutputKind), doc: "`logits` or `probabilities`."},
		{key: "columns", value: &m.Columns, doc: "Scores per image: the number of classes, or 1 for two classes and the score of the second one. Logits become probabilities by softmax, or by the logistic function if there is one column."},
		{key: "embedding", value: &m.Embedding, optional: true, doc: "Name of the output with the image's features, usually those of the last hidden layer."},
		{key: "cam", value: &m.CAM, optional: true, doc: "Name of the output with the class-activation map."},
		{key: "cam_kind", value: (*string)(&m.CAMKind), optional: true, doc: "Meaning of the map: evidence for the `second` class or for the `predicted` one (shape [batch,H,W]), or for `each` class ([batch,C,H,W]). Maps are scaled to the size of the input."},
		{key: "data_source", value: &m.DataSource, optional: true, doc: "Description of the training images."},
		{key: "data_digest", value: &m.DataDigest, optional: true, doc: "Digest of the training data."},
		{key: "config_digest", value: &m.ConfigDigest, optional: true, doc: "Digest of the [configuration](configuration.md#configuration-digest)."},
		{key: "seed", value: &m.Seed, optional: true, doc: "Random seed of the training."},
		{key: "val_loss", value: &m.ValLoss, optional: true, doc: "Loss of the exported epoch on the validation images."},
		{key: "val_accuracy", value: &m.ValAccuracy, optional: true, doc: "Accuracy of the exported epoch on the validation images."},
		{key: "revision", value: &m.Revision, optional: true, doc: "Source revision of the trainer, with `-modified` if the tree had changes."},
	}
}

// text formats the value. setText restores exactly the same value.
func (f field) text() string {
	switch v := f.value.(type) {
	case *string:
		return *v
	case *int:
		return strconv.Itoa(*v)
	case *int64:
		return strconv.FormatInt(*v, 10)
	case *float64:
		return strconv.FormatFloat(*v, 'g', -1, 64)
	case *[]string, *imaging.Preprocessing:
		text, err := json.Marshal(v)
		if err != nil {
			return "" // only for NaN or infinite numbers, which check rejects
		}
		return string(text)
	}
	panic(fmt.Sprintf("metadata %s has the type %T", f.key, f.value))
}

// missing reports whether the value is what an optional entry stands for if it's missing.
func (f field) missing() bool {
	switch v := f.value.(type) {
	case *string:
		return *v == ""
	case *int64:
		return *v == 0
	case *float64:
		return *v == 0 || math.IsNaN(*v)
	}
	return false
}

func (f field) setText(text string) (err error) {
	switch v := f.value.(type) {
	case *string:
		*v = text
	case *int:
		*v, err = strconv.Atoi(text)
	case *int64:
		*v, err = strconv.ParseInt(text, 10, 64)
	case *float64:
		*v, err = strconv.ParseFloat(text, 64)
	case *[]string:
		err = json.Unmarshal([]byte(text), v)
	case *imaging.Preprocessing:
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields() // a step that this release doesn't know would be skipped
		err = d.Decode(v)
	default:
		panic(fmt.Sprintf("metadata %s has the type %T", f.key, f.value))
	}
	if err != nil {
		const maxShown = 100
		if len(text) > maxShown {
			text = strings.ToValidUTF8(text[:maxShown], "") + "…"
		}
		return fmt.Errorf("metadata %s%s: invalid value %q; the file is corrupt, export it again", keyPrefix, f.key, text)
	}
	return nil
}

// check returns an error for the first value with which a model can't be served.
func (m *Metadata) check() error {
	if len(m.Classes) < 2 || len(m.Classes) > MaxClasses {
		return fmt.Errorf("classes: %d names, want 2 to %d", len(m.Classes), MaxClasses)
	}
	for i, c := range m.Classes {
		switch {
		case strings.TrimSpace(c) == "":
			return fmt.Errorf("classes: the name of class %d is empty", i)
		case len(c) > maxName || !utf8.ValidString(c) || strings.ContainsFunc(c, unicode.IsControl):
			return fmt.Errorf("classes: the name of class %d is longer than %d bytes, or has control characters or invalid UTF-8", i, maxName)
		}
	}
	switch unique := slices.Compact(slices.Sorted(slices.Values(m.Labels()))); {
	case len(unique) != len(m.Classes):
		return errors.New(`classes: a name ends in "#" and the index of a class whose name repeats; rename it`)
	case len(m.Classes) == 2 && m.Classes[0] == m.Classes[1]:
		return fmt.Errorf("classes: both are %q", m.Classes[0])
	case m.Positive == "" && m.Threshold != 0:
		return errors.New("threshold: only valid with a positive class")
	case m.Positive != "" && len(m.Classes) != 2:
		return fmt.Errorf("positive: only valid with two classes, not %d", len(m.Classes))
	case m.Positive != "" && m.PositiveClass() < 0:
		return fmt.Errorf("positive: %q isn't one of the classes %q", m.Positive, m.Classes)
	case m.Positive != "" && !(m.Threshold > 0 && m.Threshold < 1):
		return fmt.Errorf("threshold: %g isn't between 0 and 1", m.Threshold)
	case m.Input == "":
		return errors.New("input: empty")
	case m.Output == "":
		return errors.New("output: empty")
	case m.OutputKind != Logits && m.OutputKind != Probabilities:
		return fmt.Errorf("output_kind: %q, want %s or %s", m.OutputKind, Logits, Probabilities)
	case m.Columns != len(m.Classes) && (m.Columns != 1 || len(m.Classes) != 2):
		return fmt.Errorf("columns: %d for %d classes, expected one per class, or 1 for two classes", m.Columns, len(m.Classes))
	case m.Embedding == m.Output || m.CAM == m.Output || m.CAM != "" && m.CAM == m.Embedding:
		return fmt.Errorf("output %q: embedding and cam need outputs of their own", m.Output)
	case (m.CAM == "") != (m.CAMKind == ""):
		return errors.New("cam and cam_kind: both or neither must be set")
	case m.CAM != "" && m.CAMKind != CAMOfSecond && m.CAMKind != CAMOfPredicted && m.CAMKind != CAMOfEach:
		return fmt.Errorf("cam_kind: %q, want %s, %s or %s", m.CAMKind, CAMOfSecond, CAMOfPredicted, CAMOfEach)
	case m.CAMKind == CAMOfSecond && len(m.Classes) != 2:
		return fmt.Errorf("cam_kind: %s is only valid with two classes", CAMOfSecond)
	}
	if err := m.Preprocessing.Check(); err != nil {
		return fmt.Errorf("preprocessing: %w", err)
	}
	return nil
}

// props returns m as ONNX metadata, together with the entries of others that aren't ours. The
// entries are sorted by key, so that the output is deterministic.
func (m *Metadata) props(others []*onnxpb.StringStringEntryProto) []*onnxpb.StringStringEntryProto {
	texts := map[string]string{}
	for _, e := range others {
		if !strings.HasPrefix(e.GetKey(), keyPrefix) {
			texts[e.GetKey()] = e.GetValue()
		}
	}
	for _, f := range m.fields() {
		if !f.optional || !f.missing() {
			texts[keyPrefix+f.key] = f.text()
		}
	}
	var entries []*onnxpb.StringStringEntryProto
	for _, key := range slices.Sorted(maps.Keys(texts)) {
		entries = append(entries, &onnxpb.StringStringEntryProto{Key: proto.String(key), Value: proto.String(texts[key])})
	}
	return entries
}

// parseProps parses ONNX metadata. It ignores unknown keys.
func parseProps(entries []*onnxpb.StringStringEntryProto) (Metadata, error) {
	texts := map[string]string{}
	for _, e := range entries {
		key, ours := strings.CutPrefix(e.GetKey(), keyPrefix)
		if !ours {
			continue
		}
		if _, twice := texts[key]; twice {
			return Metadata{}, fmt.Errorf("metadata %s%s: duplicate key", keyPrefix, key)
		}
		texts[key] = e.GetValue()
	}
	if len(texts) == 0 {
		return Metadata{}, errors.New("an ONNX model without Fakeart's metadata; use a model exported by `trainer train`, or add the metadata with `trainer model import`")
	}
	m := Metadata{ValLoss: math.NaN(), ValAccuracy: math.NaN()}
	fields := m.fields()
	// The version determines whether the other fields can be read.
	if err := readFields(fields[:1], texts); err != nil {
		return m, err
	}
	switch {
	case m.FormatVersion > FormatVersion:
		return m, fmt.Errorf("format version %d is newer than the newest supported one (%d); use a newer release of Fakeart", m.FormatVersion, FormatVersion)
	case m.FormatVersion < 1:
		return m, fmt.Errorf("metadata %sformat_version: invalid version %d", keyPrefix, m.FormatVersion)
	case m.FormatVersion == 1:
		return parseVersion1(texts)
	}
	if err := readFields(fields[1:], texts); err != nil {
		return m, err
	}
	if err := m.check(); err != nil {
		return m, fmt.Errorf("metadata: %w", err)
	}
	return m, nil
}

// readFields sets the values of fields from their texts by key, without the prefix.
func readFields(fields []field, texts map[string]string) error {
	for _, f := range fields {
		text, ok := texts[f.key]
		if !ok && f.optional {
			continue
		}
		if !ok {
			return fmt.Errorf("metadata %s%s: missing; the file is incomplete, export it again", keyPrefix, f.key)
		}
		if err := f.setText(text); err != nil {
			return err
		}
	}
	return nil
}

// parseVersion1 parses the metadata of format 1, which only described two classes, the second one being the positive one, with
// one logit, and one preprocessing.
func parseVersion1(texts map[string]string) (Metadata, error) {
	m := Metadata{
		FormatVersion: 1, Input: "input", Output: "logit", OutputKind: Logits, Columns: 1,
		Embedding: "embedding", CAM: "gradcam", CAMKind: CAMOfSecond,
	}
	var size int
	var preprocessing string
	err := readFields([]field{
		{key: "name", value: &m.Name},
		{key: "classes", value: &m.Classes},
		{key: "threshold", value: &m.Threshold},
		{key: "input_size", value: &size},
		{key: "preprocessing", value: &preprocessing},
		{key: "data_source", value: &m.DataSource, optional: true},
		{key: "data_digest", value: &m.DataDigest},
		{key: "config_digest", value: &m.ConfigDigest},
		{key: "seed", value: &m.Seed},
		{key: "val_loss", value: &m.ValLoss},
		{key: "val_accuracy", value: &m.ValAccuracy},
		{key: "revision", value: &m.Revision},
	}, texts)
	if err != nil {
		return m, err
	}
	if len(m.Classes) == 2 {
		m.Positive = m.Classes[1]
	}
	m.Preprocessing = imaging.Square(size)
	if err := m.check(); err != nil {
		return m, fmt.Errorf("metadata: %w", err)
	}
	if id := m.Preprocessing.ID(); preprocessing != id {
		return m, fmt.Errorf("metadata: trained with preprocessing %q, but this release has %q; train it again or use a matching release of Fakeart", preprocessing, id)
	}
	return m, nil
}

// Names of the classes of the CIFAKE detector.
const (
	Real = "REAL"
	Fake = "FAKE"
)

// IsAI reports whether the class with the given index stands for AI-generated images. ok is false for models with other classes
// than those of the CIFAKE detector.
func (m *Metadata) IsAI(class int) (ai, ok bool) {
	if len(m.Classes) != 2 || !slices.Contains(m.Classes, Real) || !slices.Contains(m.Classes, Fake) {
		return false, false
	}
	return m.Classes[class] == Fake, true
}

// Trained returns the metadata of a network of the trainer for the given classes and images of size×size pixels: input `input`, embedding
// `embedding`, and the output `logit` with the logit of the second of two classes, or `logits` with one logit per class. A model of two
// classes gets the second one as its positive class, with the threshold 0.5.
func Trained(size int, classes ...string) Metadata {
	m := Metadata{
		Classes: classes, Input: "input", Output: "logits", OutputKind: Logits, Columns: len(classes), Embedding: "embedding",
		Preprocessing: imaging.Square(size), ValLoss: math.NaN(), ValAccuracy: math.NaN(),
	}
	if len(classes) == 2 {
		m.Output, m.Columns, m.Positive, m.Threshold = "logit", 1, classes[1], 0.5
	}
	return m
}
