package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"fakeart/internal/onnx/onnxpb"
)

// FormatVersion is the version of the model file that this package writes, and
// the newest that it reads. It grows when a reader of the older version would
// misunderstand the file; a key that may be ignored does not change it.
const FormatVersion = 1

// The names of the two classes. A label of 0 is Real, a label of 1 is Fake.
const (
	Real = "REAL"
	Fake = "FAKE"
)

// keyPrefix sets our metadata apart from that of other tools.
const keyPrefix = "fakeart."

// Metadata is what a model file says about itself: all that is needed to serve
// it, and where it comes from. It is kept in the ONNX metadata_props, one text
// per field, under the names in fields.
type Metadata struct {
	// FormatVersion is the version of the file; Marshal writes the current one.
	FormatVersion int
	// Name is the experiment's name; it may be empty.
	Name string
	// Classes names the classes by label: [Real, Fake].
	Classes []string
	// Threshold, in (0,1), is the probability of Fake above which the verdict is Fake.
	Threshold float64
	// InputSize is the width and height, in pixels, of the input image.
	InputSize int
	// Preprocessing identifies how an image became the input tensor.
	Preprocessing string
	// DataSource says in words where the images came from that the model was trained
	// on; empty when unknown, as in files of before it was written.
	DataSource string
	// DataDigest and ConfigDigest identify what the model was trained on and how.
	DataDigest, ConfigDigest string
	// Seed is the training seed.
	Seed int64
	// ValLoss and ValAccuracy are measured on the validation split; NaN without one.
	ValLoss, ValAccuracy float64
	// Revision is the source revision of the trainer; empty when unknown.
	Revision string
}

// Label returns the verdict for a probability of Fake, and whether it is Fake.
func (m Metadata) Label(probability float64) (label string, fake bool) {
	if probability > m.Threshold {
		return m.Classes[1], true
	}
	return m.Classes[0], false
}

// field is one entry of the metadata: its key, and where its value is.
type field struct {
	key      string
	value    any  // *string, *int, *int64, *float64 or *[]string
	optional bool // files of before it was written are read, too
}

// fields states the file's vocabulary once, for writing and for reading. The
// format version comes first: it decides whether the others can be understood.
func (m *Metadata) fields() []field {
	return []field{
		{key: "format_version", value: &m.FormatVersion},
		{key: "name", value: &m.Name},
		{key: "classes", value: &m.Classes},
		{key: "threshold", value: &m.Threshold},
		{key: "input_size", value: &m.InputSize},
		{key: "preprocessing", value: &m.Preprocessing},
		{key: "data_source", value: &m.DataSource, optional: true},
		{key: "data_digest", value: &m.DataDigest},
		{key: "config_digest", value: &m.ConfigDigest},
		{key: "seed", value: &m.Seed},
		{key: "val_loss", value: &m.ValLoss},
		{key: "val_accuracy", value: &m.ValAccuracy},
		{key: "revision", value: &m.Revision},
	}
}

// text writes the value such that setText reads back exactly the same.
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
	case *[]string:
		text, _ := json.Marshal(*v) // a list of strings always has a JSON form
		return string(text)
	}
	panic(fmt.Sprintf("metadata %s has the type %T", f.key, f.value))
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
	default:
		panic(fmt.Sprintf("metadata %s has the type %T", f.key, f.value))
	}
	if err != nil {
		return fmt.Errorf("metadata %s%s: %q cannot be read; the file is damaged, export it again", keyPrefix, f.key, text)
	}
	return nil
}

// check reports the first value that no model can be served with.
func (m *Metadata) check() error {
	switch {
	case len(m.Classes) != 2 || m.Classes[0] == "" || m.Classes[1] == "" || m.Classes[0] == m.Classes[1]:
		return fmt.Errorf("classes: %q are not two different names", m.Classes)
	case !(m.Threshold > 0 && m.Threshold < 1):
		return fmt.Errorf("threshold: %g is not between 0 and 1", m.Threshold)
	case m.InputSize < 1 || m.InputSize > 1<<14:
		return fmt.Errorf("input size: %d pixels", m.InputSize)
	case m.Preprocessing == "":
		return errors.New("preprocessing: no id")
	}
	return nil
}

// props returns m as ONNX metadata, merged with the foreign entries of others and
// sorted by key, so that the same model is the same bytes.
func (m *Metadata) props(others []*onnxpb.StringStringEntryProto) []*onnxpb.StringStringEntryProto {
	texts := map[string]string{}
	for _, e := range others {
		if !strings.HasPrefix(e.GetKey(), keyPrefix) {
			texts[e.GetKey()] = e.GetValue()
		}
	}
	for _, f := range m.fields() {
		texts[keyPrefix+f.key] = f.text()
	}
	var entries []*onnxpb.StringStringEntryProto
	for _, key := range slices.Sorted(maps.Keys(texts)) {
		entries = append(entries, &onnxpb.StringStringEntryProto{Key: proto.String(key), Value: proto.String(texts[key])})
	}
	return entries
}

// parseProps reads the metadata back. Keys that this version does not know are ignored.
func parseProps(entries []*onnxpb.StringStringEntryProto) (Metadata, error) {
	var m Metadata
	texts := map[string]string{}
	for _, e := range entries {
		key, ours := strings.CutPrefix(e.GetKey(), keyPrefix)
		if !ours {
			continue
		}
		if _, twice := texts[key]; twice {
			return m, fmt.Errorf("metadata %s%s: stated twice", keyPrefix, key)
		}
		texts[key] = e.GetValue()
	}
	if len(texts) == 0 {
		return m, errors.New("an ONNX model without Fakeart's metadata; only models that `trainer train` exported can be used")
	}
	for _, f := range m.fields() {
		text, ok := texts[f.key]
		if !ok && f.optional {
			continue
		}
		if !ok {
			return m, fmt.Errorf("metadata %s%s: missing; the file is incomplete, export it again", keyPrefix, f.key)
		}
		if err := f.setText(text); err != nil {
			return m, err
		}
		if m.FormatVersion > FormatVersion {
			return m, fmt.Errorf("format version %d is newer than this program reads (%d); use a newer release of Fakeart", m.FormatVersion, FormatVersion)
		}
		if m.FormatVersion < 1 {
			return m, fmt.Errorf("metadata %sformat_version: %d is no version", keyPrefix, m.FormatVersion)
		}
	}
	if err := m.check(); err != nil {
		return m, fmt.Errorf("metadata: %w", err)
	}
	return m, nil
}
