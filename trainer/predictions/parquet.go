package predictions

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"fakeart/internal/drift"
)

// eachParquet calls f for each row of a Parquet export. It identifies columns only by name: exports of
// BigQuery have other column types than the server's.
func eachParquet(ctx context.Context, path string, f func(record, error) error) (err error) {
	// The library panics on some corrupt files.
	defer func() {
		if e := recover(); e != nil {
			err = fmt.Errorf("%w: corrupt Parquet file: %v", ErrFormat, e)
		}
	}()
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	table, err := parquet.OpenFile(file, info.Size())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	columns := table.Schema().Columns()
	names := make([]string, len(columns)) // by column index
	for i, c := range columns {
		names[i] = c[0]
	}
	if err := checkColumns(names); err != nil {
		return err
	}
	at := func(name string) int { return slices.Index(names, name) }
	leaf, _ := table.Schema().Lookup(columns[at("time")]...)
	unit := time.Microsecond
	if l := leaf.Node.Type().LogicalType(); l != nil {
		if stamp, ok := l.Value.(*format.TimestampType); ok {
			switch stamp.Unit.Value.(type) {
			case *format.MilliSeconds:
				unit = time.Millisecond
			case *format.NanoSeconds:
				unit = time.Nanosecond
			}
		}
	}
	idAt, timeAt, modelAt, embeddingAt, imageAt := at("id"), at("time"), at("model"), at("embedding"), at("image")
	feedbackAt := at("feedback_label") // -1 for logs of older versions
	rows := parquet.NewReader(table)
	defer func() { _ = rows.Close() }()
	batch := make([]parquet.Row, 64)
	for number := 0; ; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n, err := rows.ReadRows(batch)
		for _, row := range batch[:n] {
			var stamp int64
			var id, model, feedback string
			hasImage := false
			number++
			place := fmt.Sprintf(", row %d", number)
			if name := missing(row, names); name != "" {
				if err := f(record{place: place}, &badRecord{err: fmt.Errorf("missing field %q", name)}); err != nil {
					return err
				}
				continue
			}
			for _, v := range row {
				switch v.Column() {
				case idAt:
					if !v.IsNull() {
						id = string(v.ByteArray())
					}
				case timeAt:
					stamp = v.Int64()
				case modelAt:
					model = string(v.ByteArray())
				case feedbackAt:
					if !v.IsNull() {
						feedback = string(v.ByteArray())
					}
				case imageAt:
					hasImage = !v.IsNull() && len(v.ByteArray()) > 0
				}
			}
			r := record{place: place, id: id, time: time.UnixMicro(0).Add(time.Duration(stamp) * unit).UTC(), model: model, feedback: feedback, fill: func(to *drift.Row) error {
				*to = drift.Row{}
				for _, v := range row {
					if v.Column() == embeddingAt {
						if !v.IsNull() {
							to.Embedding = append(to.Embedding, float32(toFloat(v)))
						}
						continue
					}
					set(to, names[v.Column()], v)
				}
				return nil
			}}
			if hasImage {
				r.image = func() ([]byte, error) {
					i := slices.IndexFunc(row, func(v parquet.Value) bool { return v.Column() == imageAt })
					return bytes.Clone(row[i].ByteArray()), nil
				}
			}
			if err := f(r, nil); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// missing returns the name of the first required column that is null in the row, or "". An empty
// embedding is null as well.
func missing(row parquet.Row, names []string) string {
	for _, v := range row {
		if name := names[v.Column()]; v.IsNull() && name != "embedding" && slices.Contains(requiredColumns, name) {
			return name
		}
	}
	return ""
}

// set sets the field of a column.
func set(to *drift.Row, name string, v parquet.Value) {
	switch name {
	case "label":
		to.Label = string(v.ByteArray())
	case "image_format":
		to.Format = string(v.ByteArray())
	case "width":
		to.Width = int64(toFloat(v))
	case "height":
		to.Height = int64(toFloat(v))
	case "probability":
		to.Probability = toFloat(v)
	case "mean":
		to.Mean = toFloat(v)
	case "std_dev":
		to.StdDev = toFloat(v)
	case "brightness":
		to.Brightness = toFloat(v)
	case "contrast":
		to.Contrast = toFloat(v)
	case "sharpness":
		to.Sharpness = toFloat(v)
	case "saturation":
		to.Saturation = toFloat(v)
	}
}

// toFloat converts a number of any type. It returns NaN for other values.
func toFloat(v parquet.Value) float64 {
	switch v.Kind() {
	case parquet.Double:
		return v.Double()
	case parquet.Float:
		return float64(v.Float())
	case parquet.Int64:
		return float64(v.Int64())
	case parquet.Int32:
		return float64(v.Int32())
	}
	return math.NaN()
}
