// Package predlog is the prediction log: what each prediction was made of, kept
// in a store of the user's choice.
//
// Request goroutines append to a Log, which gathers records in memory and has one
// goroutine write them, many at a time, to a Store:
//
//   - SQLite, a database file (OpenSQLite),
//   - PubSub, a topic, with a database file for what cannot be sent (OpenPubSub).
//
// A program that keeps no log makes none.
//
// A Record is what is written, a Row is what is read: the same names go through
// JSON, CSV, Parquet, SQLite, Pub/Sub and BigQuery. Feedback is what a user said of a
// prediction; an Entry is a Row with the last of it.
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

// The ways in which records do not get into the log, for errors.Is.
var (
	// ErrLost means that the records were not taken: the store fails or is busy
	// and the buffer is full.
	ErrLost = errors.New("prediction not logged")
	// ErrNotDurable means that the records are kept in memory and will be written
	// once the store can be written again, but that they were not when Append
	// returned. Only a durable log says so.
	ErrNotDurable = errors.New("prediction not yet logged")
	// ErrInvalid means that a record can be stored by no store.
	ErrInvalid = errors.New("invalid prediction record")
	// ErrClosed means that the log has been closed.
	ErrClosed = errors.New("prediction log closed")
	// ErrCursor means that a page was asked for with a cursor that no page gave.
	ErrCursor = errors.New("invalid cursor")
)

// Result is what became of a record.
type Result string

// The results that are counted. A record that is spilled is counted again, as
// written, when it is sent.
const (
	// Written records are durably in the store.
	Written Result = "written"
	// Failed records are lost.
	Failed Result = "failed"
	// Spilled records could not be sent and are in a local file, to be sent later.
	Spilled Result = "spilled"
)

// Counter is told of n records that had the same result. It is called from
// several goroutines at once, and must not block.
type Counter func(result Result, n int)

func (c Counter) count(result Result, n int) {
	if c != nil && n > 0 {
		c(result, n)
	}
}

// Store keeps records. Its methods are called by one goroutine at a time.
type Store interface {
	// Write stores the records, all or none; when it returns nil they are as safe
	// as the store promises. A record that is stored already (by its id) is no
	// error and stays once. Without records it only finds out whether the store
	// can be written. It keeps nothing of records after it has returned, and gives
	// up once ctx is done.
	Write(ctx context.Context, records []Record) error
	// Close frees everything. It waits for what is under way until ctx is done.
	Close(ctx context.Context) error
}

// maxRequestID is the number of bytes that are kept of a request id.
const maxRequestID = 128

// Record is what one prediction leaves. Append copies it, all but the texts Model,
// Label and ImageFormat, so that those must be ordinary strings (not views of a
// request's buffer).
type Record struct {
	// ID identifies the record: a UUIDv7. Append makes one where it is zero.
	ID [16]byte
	// Time is when the request was received; the log keeps microseconds.
	Time time.Time
	// RequestID is the client's or proxy's name for the request; it may be empty. Of a longer one the
	// first 128 bytes are kept, and what is not UTF-8 is replaced.
	RequestID string
	// TraceID is the W3C trace id, 32 hexadecimal digits, or empty.
	TraceID string
	// Model is the model's digest, "sha256:…".
	Model string
	// Label is the verdict, "REAL" or "FAKE".
	Label string
	// Probability is that of FAKE, in [0,1].
	Probability float64
	// Latency is how long the answer took.
	Latency time.Duration
	// ImageSHA256 is the digest of the picture's bytes, as they were sent.
	ImageSHA256 [32]byte
	// ImageFormat is "jpeg", "png", "gif", "webp", "bmp", or "tensor".
	ImageFormat string
	// ImageBytes is the number of bytes of the picture, as it was sent.
	ImageBytes int
	// Width and Height are the picture's own, in pixels.
	Width, Height int
	// Mean, StdDev, Brightness, Contrast, Sharpness and Saturation are the figures
	// of imaging.Stats. They must be finite numbers.
	Mean, StdDev, Brightness, Contrast, Sharpness, Saturation float64
	// Embedding is the model's last hidden layer, finite numbers; it may be empty.
	Embedding []float32
	// Image holds the picture's bytes where pictures are to be logged, else nil.
	Image []byte
}

// recordSize is about what a record takes in the buffer with its texts.
const recordSize = 512

// size is about what the record takes in the buffer, in bytes.
func (r *Record) size() int {
	return recordSize + 4*len(r.Embedding) + len(r.Image)
}

// check refuses what not every store could keep, and gives a record without an id one.
// A record that one store takes and another chokes on would block those behind it.
func (r *Record) check() error {
	if r.ID == ([16]byte{}) {
		r.ID = uuid.Must(uuid.NewV7()) // fails only where the system has no random numbers
	}
	switch year := r.Time.UTC().Year(); {
	case r.Time.IsZero() || year < 1 || year > 9999:
		return fmt.Errorf("%w: time: %v is not in the years 1 to 9999", ErrInvalid, r.Time)
	case r.TraceID != "" && !isTraceID(r.TraceID):
		return fmt.Errorf("%w: trace id: %.40q is not 32 hexadecimal digits", ErrInvalid, r.TraceID)
	case r.Model == "" || r.Label == "" || r.ImageFormat == "":
		return fmt.Errorf("%w: model %q, label %q, image format %q: none may be empty", ErrInvalid, r.Model, r.Label, r.ImageFormat)
	case !(r.Probability >= 0 && r.Probability <= 1):
		return fmt.Errorf("%w: probability: %g is not between 0 and 1", ErrInvalid, r.Probability)
	case !finite(r.Mean, r.StdDev, r.Brightness, r.Contrast, r.Sharpness, r.Saturation):
		return fmt.Errorf("%w: statistics: mean %g, standard deviation %g, brightness %g, contrast %g, sharpness %g, saturation %g are not all finite",
			ErrInvalid, r.Mean, r.StdDev, r.Brightness, r.Contrast, r.Sharpness, r.Saturation)
	case !allFinite(r.Embedding):
		return fmt.Errorf("%w: embedding: not all of the %d numbers are finite", ErrInvalid, len(r.Embedding))
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

// allFinite multiplies by zero, which leaves zero of all numbers but the infinite
// ones and NaN, in four sums that do not wait for one another.
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

// clip returns the request id as it is kept: no longer than it may be, and UTF-8,
// which JSON and Parquet insist on. It comes from a client, and is no reason to
// lose a record.
func clip(id string) string {
	if len(id) > maxRequestID {
		id = id[:maxRequestID]
		// Not through the middle of a character.
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
		// A replacement may be longer than what it replaces.
		return clip(strings.ToValidUTF8(id, "?"))
	}
	return id
}
