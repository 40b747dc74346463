package drift

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/parquet-go/parquet-go"
)

// ReferenceFile is the name of the reference in a run folder.
const ReferenceFile = "reference.parquet"

// ReferenceRows is how many rows a reference has at most: about a megabyte, most of it
// embeddings.
const ReferenceRows = 2000

// maxFile bounds what is read, so that a wrong path cannot exhaust the memory.
const maxFile = 64 << 20

// Reference is what a model was like when it was made.
type Reference struct {
	// Model and Data are the digests of the model file and of the data set.
	Model, Data string
	Rows        []Row
}

// The file's metadata.
const (
	modelKey = "fakeart.model"
	dataKey  = "fakeart.data_digest"
)

// referenceRow is a row of the file, under the log's names.
type referenceRow struct {
	Label       string    `parquet:"label,dict"`
	Probability float64   `parquet:"probability"`
	Mean        float64   `parquet:"mean"`
	StdDev      float64   `parquet:"std_dev"`
	Brightness  float64   `parquet:"brightness"`
	Contrast    float64   `parquet:"contrast"`
	Sharpness   float64   `parquet:"sharpness"`
	Saturation  float64   `parquet:"saturation"`
	Embedding   []float32 `parquet:"embedding,list"`
}

// Marshal returns the reference as a Parquet file. The same reference gives the same bytes.
func (r *Reference) Marshal() ([]byte, error) {
	var file bytes.Buffer
	w := parquet.NewGenericWriter[referenceRow](&file, parquet.Compression(&parquet.Snappy), parquet.CreatedBy("fakeart", "", ""),
		parquet.KeyValueMetadata(modelKey, r.Model), parquet.KeyValueMetadata(dataKey, r.Data))
	for _, row := range r.Rows {
		_, err := w.Write([]referenceRow{{
			row.Label, row.Probability, row.Mean, row.StdDev, row.Brightness, row.Contrast, row.Sharpness, row.Saturation, row.Embedding,
		}})
		if err != nil {
			return nil, fmt.Errorf("make reference: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("make reference: %w", err)
	}
	return file.Bytes(), nil
}

// ErrNoReference means that a file is none.
var ErrNoReference = errors.New("not a reference")

// ReadReference reads a reference: a file, or the one in a run folder.
func ReadReference(path string) (*Reference, error) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		path = filepath.Join(path, ReferenceFile)
		info, err = os.Stat(path)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read reference: %w; name a run folder whose training has ended, or the %s of one", err, ReferenceFile)
	}
	if err != nil {
		return nil, fmt.Errorf("read reference: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("read reference %s: %w: it is no file, or one of more than %d MiB", path, ErrNoReference, maxFile>>20)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read reference: %w", err)
	}
	r, err := parseReference(data)
	if err != nil {
		return nil, fmt.Errorf("read reference %s: %w", path, err)
	}
	return r, nil
}

func parseReference(data []byte) (_ *Reference, err error) {
	// The library panics on some damaged files.
	defer func() {
		if e := recover(); e != nil {
			err = fmt.Errorf("%w: the file is damaged: %v", ErrNoReference, e)
		}
	}()
	file, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoReference, err)
	}
	r := &Reference{}
	var ok bool
	if r.Model, ok = file.Lookup(modelKey); !ok {
		return nil, fmt.Errorf("%w: it does not name a model (%s)", ErrNoReference, modelKey)
	}
	r.Data, _ = file.Lookup(dataKey)
	if n := file.NumRows(); n > ReferenceRows {
		return nil, fmt.Errorf("%w: it has %d rows, more than %d", ErrNoReference, n, ReferenceRows)
	}
	rows, err := parquet.Read[referenceRow](bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoReference, err)
	}
	for i, row := range rows {
		r.Rows = append(r.Rows, Row{
			Model: r.Model, Label: row.Label, Probability: row.Probability, Mean: row.Mean, StdDev: row.StdDev, Brightness: row.Brightness,
			Contrast: row.Contrast, Sharpness: row.Sharpness, Saturation: row.Saturation, Embedding: row.Embedding,
		})
		if !r.Rows[i].Finite() {
			return nil, fmt.Errorf("%w: row %d has a value that is no number", ErrNoReference, i)
		}
	}
	return r, nil
}
