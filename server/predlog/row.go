package predlog

//go:generate go test -run TestBigQuerySchemas . -update

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"time"

	"github.com/google/uuid"
)

// Row is a record as it is read, with the column names that all formats share (JSON, CSV, Parquet,
// SQLite, Pub/Sub, BigQuery).
type Row struct {
	ID             string    `json:"id" parquet:"id" doc:"UUIDv7 of the record. A record that is delivered twice has the same ID."`
	Time           time.Time `json:"time" parquet:"time,timestamp(microsecond)" doc:"When the request was received, UTC, with microseconds."`
	RequestID      string    `json:"request_id" parquet:"request_id" doc:"Request ID from the client or proxy; may be empty."`
	TraceID        string    `json:"trace_id" parquet:"trace_id" doc:"W3C trace ID, 32 hexadecimal digits; may be empty."`
	Model          string    `json:"model" parquet:"model,dict" doc:"Digest of the model file, sha256:…"`
	Label          string    `json:"label" parquet:"label,dict" doc:"Predicted class."`
	Probability    float64   `json:"probability" parquet:"probability" doc:"Reported probability, 0 to 1: that of the model's positive class, if it has one, or else of the predicted class."`
	LatencySeconds float64   `json:"latency_seconds" parquet:"latency_seconds" doc:"Time from the last byte of the request until the prediction, in seconds."`
	ImageSHA256    string    `json:"image_sha256" parquet:"image_sha256" doc:"SHA-256 of the image file as received, in hexadecimal."`
	ImageFormat    string    `json:"image_format" parquet:"image_format,dict" doc:"jpeg, png, gif, webp, bmp, tiff, heic, avif or tensor."`
	ImageBytes     int64     `json:"image_bytes" parquet:"image_bytes" doc:"Size of the image file as received, in bytes."`
	Width          int64     `json:"width" parquet:"width" doc:"Width of the original image, in pixels."`
	Height         int64     `json:"height" parquet:"height" doc:"Height of the original image, in pixels."`
	Mean           float64   `json:"mean" parquet:"mean" doc:"Mean of all pixel values of the input, 0 to 1."`
	StdDev         float64   `json:"std_dev" parquet:"std_dev" doc:"Standard deviation of all pixel values of the input, 0 to 0.5."`
	Brightness     float64   `json:"brightness" parquet:"brightness" doc:"Mean luma of the input, 0 to 1."`
	Contrast       float64   `json:"contrast" parquet:"contrast" doc:"Standard deviation of the luma of the input, 0 to 0.5."`
	Sharpness      float64   `json:"sharpness" parquet:"sharpness" doc:"Variance of the Laplacian of the luma of the input, 0 to 16."`
	Saturation     float64   `json:"saturation" parquet:"saturation" doc:"Mean HSV saturation of the input, 0 to 1."`
	Embedding      []float32 `json:"embedding" parquet:"embedding,list" doc:"Activation of the model's last hidden layer; may be empty."`
	Image          []byte    `json:"image,omitempty" parquet:"image,optional" doc:"Image file (base64 in JSON and CSV); absent unless images are logged."`
	Orientation    int64     `json:"orientation" parquet:"orientation" doc:"EXIF orientation of the image, which is applied if the model's preprocessing includes it: 1 to 8, 1 if the image has none; 0 for a tensor, and in records of older versions."`
	ModelName      string    `json:"model_name" parquet:"model_name,dict" doc:"Name of the model in requests; empty in records of older versions."`
}

// timeFormat is RFC 3339 in UTC with six decimals, so that lexical order is chronological order.
const timeFormat = "2006-01-02T15:04:05.000000Z"

// MarshalJSON formats the time with exactly six decimals.
func (r Row) MarshalJSON() ([]byte, error) {
	type plain Row
	return json.Marshal(struct {
		ID   string `json:"id"`
		Time string `json:"time"`
		plain
	}{r.ID, r.Time.UTC().Format(timeFormat), plain(r)})
}

// Entry is a row of a readable log, with its latest feedback.
type Entry struct {
	Row
	FeedbackLabel   string     `json:"feedback_label,omitempty" parquet:"feedback_label,optional,dict" doc:"Correct label according to the latest feedback; absent without feedback."`
	FeedbackComment string     `json:"feedback_comment,omitempty" parquet:"feedback_comment,optional" doc:"Comment of the latest feedback; absent if empty."`
	FeedbackTime    *time.Time `json:"feedback_time,omitempty" parquet:"feedback_time,optional,timestamp(microsecond)" doc:"Time of the latest feedback; absent without feedback."`
}

// feedbackTime returns the formatted time of the feedback, or an empty string without feedback.
func (e *Entry) feedbackTime() string {
	if e.FeedbackTime == nil {
		return ""
	}
	return e.FeedbackTime.UTC().Format(timeFormat)
}

// MarshalJSON writes the fields of the row, followed by those of the feedback.
func (e Entry) MarshalJSON() ([]byte, error) {
	row, err := e.Row.MarshalJSON() // json.Marshal would parse the result again
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

// row returns the record as a Row, which shares embedding and image with it.
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
		Embedding: embedding, Image: r.Image, Orientation: int64(r.Orientation), ModelName: r.ModelName,
	}
}

// appendFloats appends the values in SQLite's format: four bytes each, little-endian.
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
