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
	"maps"
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
		return 0, fmt.Errorf("%q isn't a number", text)
	}
	return v, nil
}

// jsonRow is the part of a JSON record that goes into a [drift.Row].
type jsonRow struct {
	Label       string    `json:"label"`
	Probability number    `json:"probability"`
	Format      string    `json:"image_format"`
	Width       number    `json:"width"`
	Height      number    `json:"height"`
	Mean        number    `json:"mean"`
	StdDev      number    `json:"std_dev"`
	Brightness  number    `json:"brightness"`
	Contrast    number    `json:"contrast"`
	Sharpness   number    `json:"sharpness"`
	Saturation  number    `json:"saturation"`
	Embedding   []float32 `json:"embedding"`
}

// eachNDJSON calls f for each line of an NDJSON export.
func eachNDJSON(ctx context.Context, in *bufio.Reader, f func(record) error) error {
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
			if err := readNDJSONLine(text, line == 1, f); err != nil {
				return fmt.Errorf("line %d: %w", line, err)
			}
		}
		if end {
			return nil
		}
	}
}

// readNDJSONLine calls f for one line. It checks the columns of the first line.
func readNDJSONLine(text []byte, first bool, f func(record) error) error {
	if first {
		var members map[string]json.RawMessage
		if err := json.Unmarshal(text, &members); err != nil {
			return fmt.Errorf("%w: line isn't a JSON object: %w", ErrFormat, err)
		}
		if err := checkColumns(slices.Collect(maps.Keys(members))); err != nil {
			return err
		}
	}
	var head struct {
		Time  string `json:"time"`
		Model string `json:"model"`

		Feedback string `json:"feedback_label"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return fmt.Errorf("invalid JSON: %w\nhint: export the log again if the file is truncated", err)
	}
	t, err := parseTime(head.Time)
	if err != nil {
		return err
	}
	r := record{time: t, model: head.Model, feedback: head.Feedback, fill: func(r *drift.Row) error {
		var j jsonRow
		if err := json.Unmarshal(text, &j); err != nil {
			return err
		}
		*r = drift.Row{
			Label: j.Label, Probability: float64(j.Probability), Format: j.Format, Width: int64(j.Width), Height: int64(j.Height),
			Mean: float64(j.Mean), StdDev: float64(j.StdDev), Brightness: float64(j.Brightness), Contrast: float64(j.Contrast),
			Sharpness: float64(j.Sharpness), Saturation: float64(j.Saturation), Embedding: j.Embedding,
		}
		return nil
	}}
	if bytes.Contains(text, []byte(`"image":"`)) {
		r.image = func() ([]byte, error) {
			var record struct {
				Image []byte `json:"image"`
			}
			err := json.Unmarshal(text, &record)
			return record.Image, err
		}
	}
	return f(r)
}

// eachCSV calls f for each row of a CSV export.
func eachCSV(ctx context.Context, in *bufio.Reader, f func(record) error) error {
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
	image, hasImage := at["image"]
	feedback, hasFeedback := at["feedback_label"] // missing in logs of older versions
	for n := 1; ; n++ {
		fields, err := table.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n%1000 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		field := func(name string) string { return fields[at[name]] }
		line, _ := table.FieldPos(0)
		t, err := parseTime(field("time"))
		if err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		r := record{time: t, model: field("model"), fill: func(r *drift.Row) error {
			*r = drift.Row{Label: strings.Clone(field("label")), Format: strings.Clone(field("image_format"))}
			var errs []error
			number := func(name string) float64 {
				v, err := parseFloat(field(name))
				if err != nil {
					errs = append(errs, fmt.Errorf("line %d: %s: %w", line, name, err))
				}
				return v
			}
			r.Probability, r.Width, r.Height = number("probability"), int64(number("width")), int64(number("height"))
			r.Mean, r.StdDev, r.Brightness = number("mean"), number("std_dev"), number("brightness")
			r.Contrast, r.Sharpness, r.Saturation = number("contrast"), number("sharpness"), number("saturation")
			if err := json.Unmarshal([]byte(field("embedding")), &r.Embedding); err != nil {
				errs = append(errs, fmt.Errorf("line %d: embedding: %w", line, err))
			}
			return errors.Join(errs...)
		}}
		if hasFeedback {
			r.feedback = strings.Clone(fields[feedback])
		}
		if hasImage && fields[image] != "" {
			r.image = func() ([]byte, error) { return base64.StdEncoding.DecodeString(fields[image]) }
		}
		if err := f(r); err != nil {
			return err
		}
	}
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
