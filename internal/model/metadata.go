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

// FormatVersion is the version of the model file format that this package writes, and the
// newest that it reads. It increases with changes that older readers would misinterpret. New
// keys that older readers can ignore don't increase it.
const FormatVersion = 1

// Names of the two classes. Label 0 is Real, label 1 is Fake.
const (
	Real = "REAL"
	Fake = "FAKE"
)

// keyPrefix distinguishes our metadata from that of other tools.
const keyPrefix = "fakeart."

// Metadata holds what is needed to serve a model, and its provenance. It's stored in the ONNX
// metadata_props, with one string per field, under the keys in fields.
type Metadata struct {
	// FormatVersion is the version of the file format. Marshal writes the current one.
	FormatVersion int
	// Name is the name of the experiment, which may be empty.
	Name string
	// Classes holds the names of the classes, indexed by label: [Real, Fake].
	Classes []string
	// Threshold, in (0,1), is the probability above which an image is classified as Fake.
	Threshold float64
	// InputSize is the width and height of the input image in pixels.
	InputSize int
	// Preprocessing identifies how images are converted to the input tensor.
	Preprocessing string
	// DataSource describes the origin of the training images. It's empty if unknown, as in files
	// of older versions.
	DataSource string
	// DataDigest and ConfigDigest identify the training data and the configuration.
	DataDigest, ConfigDigest string
	// Seed is the random seed of the training.
	Seed int64
	// ValLoss and ValAccuracy are the results on the validation split, or NaN without one.
	ValLoss, ValAccuracy float64
	// Revision is the source revision of the trainer, or empty if unknown.
	Revision string
}

// Label returns the predicted class for a probability of Fake, and whether it's Fake.
func (m Metadata) Label(probability float64) (label string, fake bool) {
	if probability > m.Threshold {
		return m.Classes[1], true
	}
	return m.Classes[0], false
}

// field is one entry of the metadata.
type field struct {
	key      string
	value    any  // *string, *int, *int64, *float64 or *[]string
	optional bool // missing in files of older versions
}

// fields returns all entries, for writing and reading. The format version comes first because
// it determines whether the others can be read.
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
		return fmt.Errorf("metadata %s%s: invalid value %q; the file is corrupt, export it again", keyPrefix, f.key, text)
	}
	return nil
}

// check returns an error for the first value with which a model can't be served.
func (m *Metadata) check() error {
	switch {
	case len(m.Classes) != 2 || m.Classes[0] == "" || m.Classes[1] == "" || m.Classes[0] == m.Classes[1]:
		return fmt.Errorf("classes: %q, want two different names", m.Classes)
	case !(m.Threshold > 0 && m.Threshold < 1):
		return fmt.Errorf("threshold: %g isn't between 0 and 1", m.Threshold)
	case m.InputSize < 1 || m.InputSize > 1<<14:
		return fmt.Errorf("input size: %d pixels, want 1 to %d", m.InputSize, 1<<14)
	case m.Preprocessing == "":
		return errors.New("preprocessing: empty")
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
		texts[keyPrefix+f.key] = f.text()
	}
	var entries []*onnxpb.StringStringEntryProto
	for _, key := range slices.Sorted(maps.Keys(texts)) {
		entries = append(entries, &onnxpb.StringStringEntryProto{Key: proto.String(key), Value: proto.String(texts[key])})
	}
	return entries
}

// parseProps parses ONNX metadata. It ignores unknown keys.
func parseProps(entries []*onnxpb.StringStringEntryProto) (Metadata, error) {
	var m Metadata
	texts := map[string]string{}
	for _, e := range entries {
		key, ours := strings.CutPrefix(e.GetKey(), keyPrefix)
		if !ours {
			continue
		}
		if _, twice := texts[key]; twice {
			return m, fmt.Errorf("metadata %s%s: duplicate key", keyPrefix, key)
		}
		texts[key] = e.GetValue()
	}
	if len(texts) == 0 {
		return m, errors.New("an ONNX model without Fakeart's metadata; use a model exported by `trainer train`")
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
			return m, fmt.Errorf("format version %d is newer than the newest supported one (%d); use a newer release of Fakeart", m.FormatVersion, FormatVersion)
		}
		if m.FormatVersion < 1 {
			return m, fmt.Errorf("metadata %sformat_version: invalid version %d", keyPrefix, m.FormatVersion)
		}
	}
	if err := m.check(); err != nil {
		return m, fmt.Errorf("metadata: %w", err)
	}
	return m, nil
}
