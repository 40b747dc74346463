package predlog

//go:generate go test -run TestTheBigQuerySchemasAreThoseOfTheMessages . -update

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"time"

	"github.com/google/uuid"
)

// Row is a record as it is read: texts and numbers, under the names that they have
// everywhere (JSON, CSV, Parquet, SQLite, Pub/Sub, BigQuery).
type Row struct {
	ID             string    `json:"id" parquet:"id" doc:"UUIDv7 of the record. A record that is delivered twice has the same id."`
	Time           time.Time `json:"time" parquet:"time,timestamp(microsecond)" doc:"When the request was received, UTC, with microseconds."`
	RequestID      string    `json:"request_id" parquet:"request_id" doc:"The client's or proxy's name for the request; may be empty."`
	TraceID        string    `json:"trace_id" parquet:"trace_id" doc:"W3C trace id, 32 hexadecimal digits; may be empty."`
	Model          string    `json:"model" parquet:"model,dict" doc:"Digest of the model file, sha256:…"`
	Label          string    `json:"label" parquet:"label,dict" doc:"The verdict, REAL or FAKE."`
	Probability    float64   `json:"probability" parquet:"probability" doc:"Probability of FAKE, 0 to 1."`
	LatencySeconds float64   `json:"latency_seconds" parquet:"latency_seconds" doc:"How long the answer took, in seconds."`
	ImageSHA256    string    `json:"image_sha256" parquet:"image_sha256" doc:"SHA-256 of the picture's bytes as they were sent, in hexadecimal."`
	ImageFormat    string    `json:"image_format" parquet:"image_format,dict" doc:"jpeg, png, gif, webp, bmp or tensor."`
	ImageBytes     int64     `json:"image_bytes" parquet:"image_bytes" doc:"Size of the picture as it was sent, in bytes."`
	Width          int64     `json:"width" parquet:"width" doc:"Width of the picture as it was sent, in pixels."`
	Height         int64     `json:"height" parquet:"height" doc:"Height of the picture as it was sent, in pixels."`
	Mean           float64   `json:"mean" parquet:"mean" doc:"Average of all levels of the 32×32 input, 0 to 1."`
	StdDev         float64   `json:"std_dev" parquet:"std_dev" doc:"Standard deviation of all levels of the 32×32 input, 0 to 0.5."`
	Brightness     float64   `json:"brightness" parquet:"brightness" doc:"Average luma of the 32×32 input, 0 to 1."`
	Contrast       float64   `json:"contrast" parquet:"contrast" doc:"Standard deviation of luma of the 32×32 input, 0 to 0.5."`
	Sharpness      float64   `json:"sharpness" parquet:"sharpness" doc:"Variance of the Laplacian of luma of the 32×32 input, 0 to 16."`
	Saturation     float64   `json:"saturation" parquet:"saturation" doc:"Average HSV saturation of the 32×32 input, 0 to 1."`
	Embedding      []float32 `json:"embedding" parquet:"embedding,list" doc:"The model's last hidden layer; may be empty."`
	Image          []byte    `json:"image,omitempty" parquet:"image,optional" doc:"The picture's bytes (base64 in JSON and CSV); absent unless pictures are logged."`
}

// timeFormat is RFC 3339 in UTC with six decimals, so that texts sort as times do.
const timeFormat = "2006-01-02T15:04:05.000000Z"

// MarshalJSON writes the time with exactly six decimals.
func (r Row) MarshalJSON() ([]byte, error) {
	type plain Row
	return json.Marshal(struct {
		ID   string `json:"id"`
		Time string `json:"time"`
		plain
	}{r.ID, r.Time.UTC().Format(timeFormat), plain(r)})
}

// Entry is a row of a log that can be read, with the last feedback on it.
type Entry struct {
	Row
	FeedbackLabel   string     `json:"feedback_label,omitempty" parquet:"feedback_label,optional,dict" doc:"What the picture is, as a user last said: REAL or FAKE; absent without feedback."`
	FeedbackComment string     `json:"feedback_comment,omitempty" parquet:"feedback_comment,optional" doc:"What the user said with it; absent when nothing."`
	FeedbackTime    *time.Time `json:"feedback_time,omitempty" parquet:"feedback_time,optional,timestamp(microsecond)" doc:"When it was said; absent without feedback."`
}

// feedbackTime is the text of the time; empty without one.
func (e *Entry) feedbackTime() string {
	if e.FeedbackTime == nil {
		return ""
	}
	return e.FeedbackTime.UTC().Format(timeFormat)
}

// MarshalJSON writes the row as it is written alone, and the feedback behind it.
func (e Entry) MarshalJSON() ([]byte, error) {
	row, err := e.Row.MarshalJSON() // json.Marshal would read it all once more
	if err != nil || e.FeedbackLabel == "" {
		return row, err
	}
	feedback, err := json.Marshal(struct {
		Label   string `json:"feedback_label"`
		Comment string `json:"feedback_comment,omitempty"`
		Time    string `json:"feedback_time"`
	}{e.FeedbackLabel, e.FeedbackComment, e.feedbackTime()})
	if err != nil {
		return nil, err
	}
	return append(append(row[:len(row)-1], ','), feedback[1:]...), nil
}

// row returns the record as it is read. It shares embedding and image.
func (r *Record) row() Row {
	embedding := r.Embedding
	if embedding == nil {
		embedding = []float32{} // a list in JSON, not null
	}
	return Row{
		ID: uuid.UUID(r.ID).String(), Time: r.Time.UTC().Truncate(time.Microsecond), RequestID: r.RequestID, TraceID: r.TraceID,
		Model: r.Model, Label: r.Label, Probability: r.Probability, LatencySeconds: r.Latency.Seconds(),
		ImageSHA256: hex.EncodeToString(r.ImageSHA256[:]), ImageFormat: r.ImageFormat, ImageBytes: int64(r.ImageBytes),
		Width: int64(r.Width), Height: int64(r.Height),
		Mean: r.Mean, StdDev: r.StdDev, Brightness: r.Brightness, Contrast: r.Contrast, Sharpness: r.Sharpness, Saturation: r.Saturation,
		Embedding: embedding, Image: r.Image,
	}
}

// appendFloats appends the values as SQLite keeps them: little-endian, four bytes each.
func appendFloats(dst []byte, values []float32) []byte {
	for _, v := range values {
		dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(v))
	}
	return dst
}

func parseFloats(data []byte) []float32 {
	values := make([]float32, len(data)/4)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return values
}
