// Package request tracks requests, whether they arrive by HTTP or by gRPC: how many are in progress, and
// the ID, the trace and the log line of each. A protocol's server calls [Tracker.Begin] and [Tracker.End]
// around a request, and keeps its [State].
package request

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"fakeart/server/failure"
	"fakeart/server/telemetry"
)

// Labels in metrics of requests that match no route, and of unknown methods.
const (
	Unmatched   = "unmatched"
	OtherMethod = "_OTHER"
)

// StatusClientClosed is the status in metrics and logs of requests whose client closed the connection
// before the response. It is never sent. The number is the one that nginx uses.
const StatusClientClosed = 499

var (
	// ErrClientClosed stops the processing of such a request.
	ErrClientClosed = fiber.NewError(StatusClientClosed, "the client closed the connection")
	// ErrTimedOut is returned for a request that wasn't processed by its deadline.
	ErrTimedOut = failure.Busy("the request timed out")
	// ErrShuttingDown is returned for a request that a shutdown ends.
	ErrShuttingDown = failure.Busy("the server is shutting down")
)

// State is what the server tracks about a request besides its content. It is owned by the goroutine that
// handles the request.
type State struct {
	Method    string          // as received; the request itself has OtherMethod for an unknown one
	ID        string          // X-Request-Id: the client's value or a new UUID
	TraceID   string          // hexadecimal ID of the request's trace; empty without one
	Ctx       context.Context // carries the request's span; nil if the request isn't traced
	OverLimit bool            // whether the request exceeds the number of concurrent requests
	Received  time.Time       // when its last byte was received, which is when the server's time starts
	Span      trace.Span      // span of the request; nil if it isn't traced or hasn't been received
	Continues bool            // whether the client waits for 100 Continue before it sends the body
	HasBody   bool            // whether it has a body that isn't empty
	BodyRead  bool            // whether the whole body was read
	Pixels    int             // number of pixels of all images, as far as they were decoded
	Slow      bool            // whether an image has a format that takes ten times as long as JPEG to decode
	Explained bool            // whether explanations were requested
	Canceled  bool            // whether the client closed the connection before the response
}

// Options configure a Tracker.
type Options struct {
	Limit   int // maximum number of requests in progress
	Tracing *telemetry.Tracing
	Logger  *slog.Logger
	Now     func() time.Time // clock of the times of requests
}

// Tracker tracks the requests of a server. It is safe for concurrent use.
type Tracker struct {
	Options
	debug      bool // whether each request is logged
	sample     rate.Sometimes
	inProgress atomic.Int64
}

// NewTracker returns a tracker of no requests.
func NewTracker(o Options) *Tracker {
	return &Tracker{Options: o, debug: o.Logger.Enabled(context.Background(), slog.LevelDebug), sample: rate.Sometimes{Interval: time.Second}}
}

// InProgress returns the number of requests in progress.
func (t *Tracker) InProgress() int { return int(t.inProgress.Load()) }

// Begin counts a request, and reports whether it exceeds the limit. Call End after its response.
func (t *Tracker) Begin() (overLimit bool) { return t.inProgress.Add(1) > int64(t.Limit) }

// End ends a request.
func (t *Tracker) End() { t.inProgress.Add(-1) }

// ErrOverLimit returns the error for a request that exceeds the limit.
func (t *Tracker) ErrOverLimit() error {
	return failure.Busy(fmt.Sprintf("more than %d concurrent requests", t.Limit))
}

// maxID is the maximum length of a request ID that a client can set.
const maxID = 128

// ID returns the ID that a client sent if it is valid, or else a new one.
func ID(given []byte) string {
	if n := len(given); n == 0 || n > maxID || slices.ContainsFunc(given, func(b byte) bool { return b <= ' ' || b > '~' }) {
		return NewID()
	}
	return string(given)
}

// NewID returns a new UUIDv7.
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

// Level returns the level at which a request is logged: server errors at warn or error, and one per
// second of the others at info, or all at debug if that is enabled. ok is false if it isn't logged.
func (t *Tracker) Level(status int) (level slog.Level, ok bool) {
	level = slog.LevelDebug
	if status >= 500 {
		level = slog.LevelError
		if status == fiber.StatusServiceUnavailable {
			level = slog.LevelWarn
		}
	}
	if level == slog.LevelDebug && !t.debug {
		t.sample.Do(func() { level = slog.LevelInfo })
	}
	return level, t.Logger.Enabled(context.Background(), level)
}

// Line is what is logged about a request besides its state.
type Line struct {
	URL       string
	Status    int
	UserAgent string
	Client    netip.Addr
	Took      time.Duration
}

// Log logs a request at the level that Level returned.
func (t *Tracker) Log(level slog.Level, s *State, r Line, more ...slog.Attr) {
	attrs := append(more,
		slog.Group("httpRequest",
			slog.String("requestMethod", s.Method),
			slog.String("requestUrl", r.URL),
			slog.Int("status", r.Status),
			slog.String("userAgent", r.UserAgent),
			slog.String("remoteIp", r.Client.String()),
			slog.String("latency", strconv.FormatFloat(r.Took.Seconds(), 'f', 6, 64)+"s"),
		),
		slog.String("request_id", s.ID),
	)
	if s.TraceID != "" {
		attrs = append(attrs, slog.String(telemetry.TraceKey, t.Tracing.CloudTraceName(s.TraceID)))
	}
	t.Logger.LogAttrs(context.Background(), level, "request", attrs...)
}
