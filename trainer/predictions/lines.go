package predictions

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"fakeart/internal/drift"
)

// requiredColumns are the columns that every export must have.
var requiredColumns = []string{
	"time", "model", "label", "probability", "image_format", "width", "height",
	"mean", "std_dev", "brightness", "contrast", "sharpness", "saturation", "embedding",
}

// number is a JSON number, or a string that contains one: BigQuery exports integers, NaN and
// infinities as strings.
type number float64

// UnmarshalJSON implements json.Unmarshaler.
func (n *number) UnmarshalJSON(text []byte) error {
	v, err := parseFloat(string(bytes.Trim(text, `"`)))
	*n = number(v)
	return err
}

// parseFloat is [strconv.ParseFloat] with an error for users.
func parseFloat(text string) (float64, error) {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, fmt.Errorf("%.40q isn't a number", text)
	}
	return v, nil
}

// embedding is a list of numbers that is parsed only if it is used.
type embedding []byte

// UnmarshalJSON implements json.Unmarshaler.
func (e *embedding) UnmarshalJSON(text []byte) error {
	if text[0] != '[' || bytes.LastIndexByte(text, '[') != 0 || bytes.ContainsAny(text, `"{tfn`) {
		return errors.New("embedding: must be a list of numbers")
	}
	*e = append((*e)[:0], text...)
	return nil
}

// values returns the numbers. Those beyond the range of float32 are infinite.
func (e embedding) values() ([]float32, error) {
	var numbers []float64
	if err := json.Unmarshal(e, &numbers); err != nil {
		return nil, fmt.Errorf("embedding: must be a list of numbers: %w", err)
	}
	values := make([]float32, len(numbers))
	for i, v := range numbers {
		values[i] = float32(v)
	}
	return values, nil
}

// jsonRecord is the part of a JSON record that is used. Members that are missing or null are nil.
type jsonRecord struct {
	ID          string    `json:"id"`
	Time        *string   `json:"time"`
	Model       *string   `json:"model"`
	Label       *string   `json:"label"`
	Probability *number   `json:"probability"`
	Format      *string   `json:"image_format"`
	Width       *number   `json:"width"`
	Height      *number   `json:"height"`
	Mean        *number   `json:"mean"`
	StdDev      *number   `json:"std_dev"`
	Brightness  *number   `json:"brightness"`
	Contrast    *number   `json:"contrast"`
	Sharpness   *number   `json:"sharpness"`
	Saturation  *number   `json:"saturation"`
	Embedding   embedding `json:"embedding"`
	Feedback    string    `json:"feedback_label"`
}

// missing returns the name of the first required member that is missing or null, or "".
func (j *jsonRecord) missing() string {
	for i, has := range []bool{
		j.Time != nil, j.Model != nil, j.Label != nil, j.Probability != nil, j.Format != nil, j.Width != nil, j.Height != nil,
		j.Mean != nil, j.StdDev != nil, j.Brightness != nil, j.Contrast != nil, j.Sharpness != nil, j.Saturation != nil, j.Embedding != nil,
	} {
		if !has {
			return requiredColumns[i]
		}
	}
	return ""
}

// eachNDJSON calls f for each line of an NDJSON export.
func eachNDJSON(ctx context.Context, in *bufio.Reader, f func(record, error) error) error {
	var long []byte // holds lines that are longer than the reader's buffer
	for line := 1; ; line++ {
		if line%1000 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		text, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long[:0], text...)
			for errors.Is(err, bufio.ErrBufferFull) {
				text, err = in.ReadSlice('\n')
				long = append(long, text...)
			}
			text = long
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		end := err != nil
		if text = bytes.TrimSpace(text); len(text) > 0 {
			r, err := parseLine(text)
			r.place = fmt.Sprintf(":%d", line)
			if err != nil {
				err = &badRecord{err: err}
			}
			if err := f(r, err); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

// parseLine parses a line of an NDJSON export.
func parseLine(text []byte) (r record, err error) {
	var j jsonRecord
	if err := json.Unmarshal(text, &j); err != nil {
		if _, ok := errors.AsType[*json.SyntaxError](err); ok {
			err = errors.New("the line isn't a JSON object, or is truncated")
		}
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			err = fmt.Errorf("field %q: unexpected %s", e.Field, e.Value)
		}
		return r, err
	}
	if name := j.missing(); name != "" {
		return r, fmt.Errorf("missing field %q", name)
	}
	if r.time, err = parseTime(*j.Time); err != nil {
		return r, err
	}
	r.id, r.model, r.feedback = j.ID, *j.Model, j.Feedback
	r.fill = func(r *drift.Row) (err error) {
		*r = drift.Row{
			Label: *j.Label, Probability: float64(*j.Probability), Format: *j.Format, Width: int64(*j.Width), Height: int64(*j.Height),
			Mean: float64(*j.Mean), StdDev: float64(*j.StdDev), Brightness: float64(*j.Brightness), Contrast: float64(*j.Contrast),
			Sharpness: float64(*j.Sharpness), Saturation: float64(*j.Saturation),
		}
		r.Embedding, err = j.Embedding.values()
		return err
	}
	if bytes.Contains(text, []byte(`"image":"`)) {
		r.image = func() ([]byte, error) {
			var record struct {
				Image []byte `json:"image"`
			}
			if err := json.Unmarshal(text, &record); err != nil {
				return nil, &badRecord{err: errors.New("image: must be base64")}
			}
			return record.Image, nil
		}
	}
	return r, nil
}

// eachCSV calls f for each row of a CSV export.
func eachCSV(ctx context.Context, in *bufio.Reader, f func(record, error) error) error {
	if head, err := in.Peek(3); err == nil && string(head) == "\ufeff" {
		_, _ = in.Discard(3)
	}
	table := csv.NewReader(in)
	table.ReuseRecord = true
	header, err := table.Read()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	at := map[string]int{}
	for i, name := range header {
		at[strings.Clone(name)] = i
	}
	if err := checkColumns(header); err != nil {
		return err
	}
	for n := 1; ; n++ {
		fields, err := table.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if n%1000 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		var r record
		var line int
		if e, ok := errors.AsType[*csv.ParseError](err); ok {
			line, err = e.StartLine, fmt.Errorf("the row is damaged or truncated: %w", e.Err)
		} else if err != nil {
			return err
		} else {
			line, _ = table.FieldPos(0)
			r, err = parseRow(fields, at)
		}
		r.place = fmt.Sprintf(":%d", line)
		if err != nil {
			err = &badRecord{err: err}
		}
		if err := f(r, err); err != nil {
			return err
		}
	}
}

// parseRow parses a row of a CSV export. at has the index of each column.
func parseRow(fields []string, at map[string]int) (r record, err error) {
	for _, name := range requiredColumns {
		if fields[at[name]] == "" {
			return r, fmt.Errorf("missing field %q", name)
		}
	}
	field := func(name string) string { // empty for a column that the export doesn't have
		if i, ok := at[name]; ok {
			return fields[i]
		}
		return ""
	}
	number := func(name string) float64 {
		v, e := parseFloat(field(name))
		if e != nil && err == nil {
			err = fmt.Errorf("field %q: %w", name, e)
		}
		return v
	}
	row := drift.Row{
		Probability: number("probability"), Width: int64(number("width")), Height: int64(number("height")),
		Mean: number("mean"), StdDev: number("std_dev"), Brightness: number("brightness"),
		Contrast: number("contrast"), Sharpness: number("sharpness"), Saturation: number("saturation"),
	}
	if err != nil {
		return r, err
	}
	if r.time, err = parseTime(field("time")); err != nil {
		return r, err
	}
	var vector embedding
	if text := []byte(field("embedding")); !json.Valid(text) || vector.UnmarshalJSON(text) != nil {
		return r, errors.New("embedding: must be a list of numbers")
	}
	r.id, r.model, r.feedback = field("id"), field("model"), strings.Clone(field("feedback_label"))
	r.fill = func(r *drift.Row) (err error) {
		*r = row
		r.Label, r.Format = strings.Clone(field("label")), strings.Clone(field("image_format"))
		r.Embedding, err = vector.values()
		return err
	}
	if image := field("image"); image != "" {
		r.image = func() ([]byte, error) {
			data, err := base64.StdEncoding.DecodeString(image)
			if err != nil {
				return nil, &badRecord{err: errors.New("image: must be base64")}
			}
			return data, nil
		}
	}
	return r, nil
}

// checkColumns returns an error that names the first required column that is missing.
func checkColumns(names []string) error {
	for _, name := range requiredColumns {
		if !slices.Contains(names, name) {
			return fmt.Errorf("%w: missing column %q", ErrFormat, name)
		}
	}
	return nil
}
