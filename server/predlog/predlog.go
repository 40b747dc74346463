// Package predlog is the prediction log: it records the inputs and results of predictions in a
// configurable store.
//
// Create a [Log] with [New] and call [Log.Append] for each request. The log buffers records in
// memory, and one goroutine writes them in batches to a [Store]:
//
//   - [SQLite], a database file ([OpenSQLite])
//   - [PubSub], a topic, with a database file as outbox for what cannot be sent ([OpenPubSub])
//
// A program without a prediction log doesn't create a Log.
//
// A [Record] is written, a [Row] is read. The columns have the same names in JSON, CSV, Parquet,
// SQLite, Pub/Sub and BigQuery. [Feedback] is the correct label of a prediction, from a user. An
// [Entry] is a Row with its latest feedback.
package predlog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Errors for errors.Is.
var (
	// ErrLost is returned if records were not accepted and are lost: the buffer is full while the
	// store fails or is too slow.
	ErrLost = errors.New("prediction not logged")
	// ErrNotDurable is returned by a durable log if records are buffered, but were not yet in the
	// store when Append returned. They are written once the store works.
	ErrNotDurable = errors.New("prediction not yet logged")
	// ErrInvalid is returned for a record that no store accepts.
	ErrInvalid = errors.New("invalid prediction record")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("prediction log closed")
	// ErrCursor is returned for a cursor that Page didn't return.
	ErrCursor = errors.New("invalid cursor")
)

// Result is the outcome of a record.
type Result string

// Counted results. A spilled record is counted again, as written, when it is sent.
const (
	// Written records are durable in the store.
	Written Result = "written"
	// Failed records are lost.
	Failed Result = "failed"
	// Spilled records could not be sent. They are in the outbox, a local file, to be sent later.
	Spilled Result = "spilled"
)

// Counter counts n records with the same result. It must be safe for concurrent use and must not
// block.
type Counter func(result Result, n int)

func (c Counter) count(result Result, n int) {
	if c != nil && n > 0 {
		c(result, n)
	}
}

// Store stores records. Log calls its methods from one goroutine at a time.
type Store interface {
	// Write stores all of the records or none. When it returns nil, they are as durable as the
	// store guarantees. Records that are already stored, by ID, are skipped. Without records, Write
	// only checks that the store is writable. It doesn't retain records, and returns once ctx is
	// done.
	Write(ctx context.Context, records []Record) error
	// Close releases all resources. It waits for work in progress until ctx is done.
	Close(ctx context.Context) error
}

// maxRequestID is the maximum length of a stored request ID, in bytes.
const maxRequestID = 128

// Record describes one prediction. Append copies it, except the strings Model, ModelName, Label and
// ImageFormat. Those must not be views of a buffer that is reused.
type Record struct {
	// ID is a UUIDv7. Append generates one if it is zero.
	ID [16]byte
	// Time is when the request was received. It is stored with microsecond precision.
	Time time.Time
	// RequestID is the client's or proxy's ID of the request, possibly empty. It is truncated to
	// 128 bytes, and invalid UTF-8 is replaced.
	RequestID string
	// TraceID is the W3C trace ID, 32 hexadecimal digits, or empty.
	TraceID string
	// Model is the model's digest, "sha256:…".
	Model string
	// ModelName is the name of the model in requests. It may be empty.
	ModelName string
	// Label is the predicted class.
	Label string
	// Probability is the reported probability, in [0,1]: that of the model's positive class, if it has one, or else of the
	// predicted class.
	Probability float64
	// Latency is the time from the last byte of the request until the prediction was made.
	Latency time.Duration
	// ImageSHA256 is the digest of the image file as received.
	ImageSHA256 [32]byte
	// ImageFormat is the Name of one of imaging.Formats, or "tensor".
	ImageFormat string
	// ImageBytes is the size of the image file as received.
	ImageBytes int
	// Width and Height are those of the original image, in pixels.
	Width, Height int
	// Orientation is that of imaging.Info, or 0 for a tensor.
	Orientation int
	// Mean, StdDev, Brightness, Contrast, Sharpness and Saturation are the values of imaging.Stats.
	// They must be finite.
	Mean, StdDev, Brightness, Contrast, Sharpness, Saturation float64
	// Embedding is the activation of the model's last hidden layer. It must be finite, and may be
	// empty.
	Embedding []float32
	// Image is the image file if images are logged, else nil.
	Image []byte
}

// recordSize is the approximate size of a buffered record with its strings, in bytes.
const recordSize = 512

// size returns the approximate size of the record in the buffer, in bytes.
func (r *Record) size() int {
	return recordSize + 4*len(r.Embedding) + len(r.Image)
}

// check sets a missing ID. It returns an error for a record that some store could not store: such a
// record would block all records after it.
func (r *Record) check() error {
	if r.ID == ([16]byte{}) {
		r.ID = uuid.Must(uuid.NewV7()) // fails only if the system has no source of random numbers
	}
	switch year := r.Time.UTC().Year(); {
	case r.Time.IsZero() || year < 1 || year > 9999:
		return fmt.Errorf("%w: time: %v: the year must be from 1 to 9999", ErrInvalid, r.Time)
	case r.TraceID != "" && !isTraceID(r.TraceID):
		return fmt.Errorf("%w: trace ID: %.40q: must be 32 hexadecimal digits", ErrInvalid, r.TraceID)
	case r.Model == "" || r.Label == "" || r.ImageFormat == "":
		return fmt.Errorf("%w: model %q, label %q, image format %q: must not be empty", ErrInvalid, r.Model, r.Label, r.ImageFormat)
	case !(r.Probability >= 0 && r.Probability <= 1):
		return fmt.Errorf("%w: probability: %g: must be from 0 to 1", ErrInvalid, r.Probability)
	case !finite(r.Mean, r.StdDev, r.Brightness, r.Contrast, r.Sharpness, r.Saturation):
		return fmt.Errorf("%w: statistics: mean %g, standard deviation %g, brightness %g, contrast %g, sharpness %g, saturation %g: must be finite",
			ErrInvalid, r.Mean, r.StdDev, r.Brightness, r.Contrast, r.Sharpness, r.Saturation)
	case !allFinite(r.Embedding):
		return fmt.Errorf("%w: embedding: all %d values must be finite", ErrInvalid, len(r.Embedding))
	}
	return nil
}

func isTraceID(s string) bool {
	if len(s) != 32 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}

func finite(values ...float64) bool {
	for _, v := range values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return false
		}
	}
	return true
}

// allFinite sums the values times zero, which is zero unless one is NaN or infinite. Four
// independent sums let the CPU add in parallel.
func allFinite(values []float32) bool {
	var a, b, c, d float32
	i := 0
	for ; i+4 <= len(values); i += 4 {
		v := values[i : i+4 : i+4]
		a += v[0] * 0
		b += v[1] * 0
		c += v[2] * 0
		d += v[3] * 0
	}
	for ; i < len(values); i++ {
		a += values[i] * 0
	}
	return a+b+c+d == 0
}

// clip returns the request ID as it is stored: truncated to maxRequestID bytes and valid UTF-8,
// which JSON and Parquet require. A bad ID comes from a client and must not cost the record.
func clip(id string) string {
	if len(id) > maxRequestID {
		id = id[:maxRequestID]
		// Don't cut a character in half.
		for i := len(id) - 1; i >= len(id)-utf8.UTFMax; i-- {
			if utf8.RuneStart(id[i]) {
				if !utf8.FullRuneInString(id[i:]) {
					id = id[:i]
				}
				break
			}
		}
	}
	if !utf8.ValidString(id) {
		// The replacement can be longer than the invalid bytes.
		return clip(strings.ToValidUTF8(id, "?"))
	}
	return id
}
