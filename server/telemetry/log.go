package telemetry

import (
	"io"
	"log/slog"
	"time"
)

// Keys of log attributes that Cloud Logging maps to its own fields.
const (
	// TraceKey is the trace that a line belongs to; see Tracing.CloudTraceName.
	TraceKey = "logging.googleapis.com/trace"
	// SpanKey is the span ID, 16 hexadecimal digits.
	SpanKey = "logging.googleapis.com/spanId"
	// SampledKey is a boolean: whether the trace is sampled.
	SampledKey = "logging.googleapis.com/trace_sampled"
)

// NewLogger returns a logger that writes to w: plain text, or JSON objects in the format of Cloud
// Logging (severity, message, time, httpRequest), see
// https://cloud.google.com/logging/docs/structured-logging.
func NewLogger(w io.Writer, level slog.Level, asJSON bool) *slog.Logger {
	if !asJSON {
		return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) > 0 {
			return a
		}
		switch a.Key {
		case slog.LevelKey:
			return slog.String("severity", severity(a.Value.Any().(slog.Level)))
		case slog.MessageKey:
			a.Key = "message"
		case slog.TimeKey:
			a.Value = slog.StringValue(a.Value.Time().UTC().Format(time.RFC3339Nano))
		}
		return a
	}}))
}

// severity returns Cloud Logging's name of the level.
func severity(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "ERROR"
	case level >= slog.LevelWarn:
		return "WARNING"
	case level >= slog.LevelInfo:
		return "INFO"
	}
	return "DEBUG"
}
