package telemetry

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
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

// LogSDK makes OpenTelemetry's SDK, which by default writes to standard error, log to log. Problems
// are warnings, because tracing doesn't affect requests. It changes the state of the process: the
// SDK's handlers, and the default loggers of packages slog and log, which the SDK uses as well.
func LogSDK(log *slog.Logger) {
	slog.SetDefault(log)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("tracing", "error", err) }))
	otel.SetLogger(logr.FromSlogHandler(sdkHandler{log.Handler()}))
}

// sdkHandler is a handler for the SDK's logger. logr passes the SDK's verbosity as a negative level:
// -1 for warnings, which is below slog's INFO, and -4 for information.
type sdkHandler struct{ slog.Handler }

// Enabled implements slog.Handler. Handle decides about the level of information.
func (h sdkHandler) Enabled(ctx context.Context, level slog.Level) bool {
	if level < -4 {
		return h.Handler.Enabled(ctx, slog.LevelDebug)
	}
	return h.Handler.Enabled(ctx, slog.LevelWarn)
}

// Handle implements slog.Handler. It drops the content of headers, which may be secret.
func (h sdkHandler) Handle(ctx context.Context, r slog.Record) error {
	level := slog.LevelWarn
	if r.Level < -1 && !strings.Contains(r.Message, "invalid value") { // of a variable
		level = slog.LevelDebug
	}
	if !h.Handler.Enabled(ctx, level) {
		return nil
	}
	now := slog.NewRecord(r.Time, level, "tracing: "+r.Message, r.PC)
	secret := strings.Contains(r.Message, "header")
	r.Attrs(func(a slog.Attr) bool {
		switch {
		case a.Key == "err":
			a.Key = "error"
		case secret:
			return true
		}
		now.AddAttrs(a)
		return true
	})
	return h.Handler.Handle(ctx, now)
}

// WithAttrs implements slog.Handler.
func (h sdkHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return sdkHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h sdkHandler) WithGroup(name string) slog.Handler {
	return sdkHandler{h.Handler.WithGroup(name)}
}
