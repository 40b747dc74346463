package drift

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/parquet-go/parquet-go"
)

// ReferenceFile is the file name of the drift reference in a run folder.
const ReferenceFile = "reference.parquet"

// ReferenceRows is the maximum number of rows in a reference. It limits the file to about
// 1 MB, most of it embeddings.
const ReferenceRows = 2000

// maxFile is the size in bytes of the largest file that is read, so that a wrong path can't
// exhaust the memory.
const maxFile = 64 << 20

// Reference is a drift reference: a sample of a model's predictions on its validation split.
// [ReadReference] reads one from a file.
type Reference struct {
	// Model and Data are the digests of the model file and of the dataset.
	Model, Data string
	Rows        []Row
}

// Keys of the Parquet file's metadata.
const (
	modelKey = "fakeart.model"
	dataKey  = "fakeart.data_digest"
)

// referenceRow is a row of the Parquet file. The columns have the names of the prediction log.
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

// Marshal returns the reference as a Parquet file. The output is deterministic.
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

// ErrNoReference is returned for a file that isn't a drift reference.
var ErrNoReference = errors.New("not a drift reference")

// ReadReference reads the reference at path, which is a file or a run folder. It returns an
// error that matches [ErrNoReference] if the file isn't a valid reference.
func ReadReference(path string) (*Reference, error) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		path = filepath.Join(path, ReferenceFile)
		info, err = os.Stat(path)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read reference: %w; give the folder of a completed run, or the %s in it", err, ReferenceFile)
	}
	if err != nil {
		return nil, fmt.Errorf("read reference: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("read reference %s: %w: not a regular file, or larger than %d MiB", path, ErrNoReference, maxFile>>20)
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
	// The library panics on some corrupt files.
	defer func() {
		if e := recover(); e != nil {
			err = fmt.Errorf("%w: the file is corrupt: %v", ErrNoReference, e)
		}
	}()
	file, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, fmt.Errorf("%w: not a Parquet file: %w", ErrNoReference, err)
	}
	r := &Reference{}
	var ok bool
	if r.Model, ok = file.Lookup(modelKey); !ok {
		return nil, fmt.Errorf("%w: the metadata key %s is missing", ErrNoReference, modelKey)
	}
	r.Data, _ = file.Lookup(dataKey)
	if n := file.NumRows(); n > ReferenceRows {
		return nil, fmt.Errorf("%w: %d rows, more than the maximum of %d", ErrNoReference, n, ReferenceRows)
	}
	rows, err := parquet.Read[referenceRow](bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, fmt.Errorf("%w: read rows: %w", ErrNoReference, err)
	}
	for i, row := range rows {
		r.Rows = append(r.Rows, Row{
			Model: r.Model, Label: row.Label, Probability: row.Probability, Mean: row.Mean, StdDev: row.StdDev, Brightness: row.Brightness,
			Contrast: row.Contrast, Sharpness: row.Sharpness, Saturation: row.Saturation, Embedding: row.Embedding,
		})
		if !r.Rows[i].Finite() {
			return nil, fmt.Errorf("%w: row %d has a NaN or infinite value", ErrNoReference, i)
		}
	}
	return r, nil
}
