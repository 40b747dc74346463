package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"github.com/gofiber/fiber/v2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"fakeart/server/failure"
	"fakeart/server/infer"
	"fakeart/server/limit"
	"fakeart/server/oip"
	"fakeart/server/oip/oippb"
	"fakeart/server/request"
)

// The gRPC services that the server implements.
const (
	inferenceService = "inference.GRPCInferenceService"
	healthService    = "grpc.health.v1.Health"
)

// modelStreamInfer is the procedure whose messages are counted one by one.
const modelStreamInfer = "/" + inferenceService + "/ModelStreamInfer"

// newGRPC returns the server for --grpc-addr. Its protocol is HTTP/2 without TLS (h2c).
//
// net/http and Connect implement the protocol rather than grpc-go's server, which reads a message into
// memory before it calls any code of ours, so that nothing would bound the memory of all messages.
func (m *Main) newGRPC() *http.Server {
	c := &m.config
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           &rpcHandler{m: m, mux: m.procedures(), errors: connect.NewErrorWriter()},
		Protocols:         &protocols,
		MaxHeaderBytes:    int(c.MaxHeader),
		ReadHeaderTimeout: c.ReadTimeout,
		IdleTimeout:       c.IdleTimeout,
		HTTP2: &http.HTTP2Config{
			// Data that no handler has read yet. The default would be 1 MiB per request.
			MaxReceiveBufferPerStream:     256 << 10,
			MaxReceiveBufferPerConnection: 1 << 20,
			WriteByteTimeout:              c.WriteTimeout,
		},
		ErrorLog: slog.NewLogLogger(m.log.Handler(), slog.LevelDebug), // about broken connections
	}
}

// grpcApp is the application for gRPC.
type grpcApp struct{ *http.Server }

// Listener serves the connections of l until it is closed.
func (a grpcApp) Listener(l net.Listener) error { return a.Serve(l) }

// ShutdownWithContext waits for the RPCs in progress until ctx is done.
func (a grpcApp) ShutdownWithContext(ctx context.Context) error { return a.Shutdown(ctx) }

// procedures returns the handlers of all RPCs by path.
func (m *Main) procedures() *http.ServeMux {
	mux := http.NewServeMux()
	maxBody := int64(m.config.MaxBody)
	options := connect.WithHandlerOptions(
		connect.WithCompression("gzip", func() connect.Decompressor {
			return &decompressor{limit: maxBody, open: func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }}
		}, func() connect.Compressor { return gzip.NewWriter(nil) }),
		connect.WithCompression("deflate", func() connect.Decompressor {
			return &decompressor{limit: maxBody, open: zlib.NewReader}
		}, func() connect.Compressor { return zlib.NewWriter(nil) }),
		connect.WithRecover(m.recoverRPC),
		connect.WithCodec(messageCodec{}),
	)
	unary(mux, m, inferenceService, "ServerLive", options, func(context.Context, *oippb.ServerLiveRequest) (*oippb.ServerLiveResponse, error) {
		return &oippb.ServerLiveResponse{Live: true}, nil
	})
	unary(mux, m, inferenceService, "ServerReady", options, func(context.Context, *oippb.ServerReadyRequest) (*oippb.ServerReadyResponse, error) {
		return &oippb.ServerReadyResponse{Ready: m.unready() == nil}, nil
	})
	unary(mux, m, inferenceService, "ModelReady", options, func(_ context.Context, in *oippb.ModelReadyRequest) (*oippb.ModelReadyResponse, error) {
		ready, err := m.modelReady(in.GetName(), in.GetVersion())
		return &oippb.ModelReadyResponse{Ready: ready}, err
	})
	unary(mux, m, inferenceService, "ServerMetadata", options, func(context.Context, *oippb.ServerMetadataRequest) (*oippb.ServerMetadataResponse, error) {
		return oip.Message(new(oippb.ServerMetadataResponse), serverMetadata()), nil
	})
	unary(mux, m, inferenceService, "ModelMetadata", options, func(_ context.Context, in *oippb.ModelMetadataRequest) (*oippb.ModelMetadataResponse, error) {
		metadata, err := m.modelMetadata(in.GetName(), in.GetVersion())
		return oip.Message(new(oippb.ModelMetadataResponse), metadata), err
	})
	unary(mux, m, inferenceService, "ModelConfig", options, func(_ context.Context, in *oippb.ModelConfigRequest) (*oippb.ModelConfigResponse, error) {
		config, err := m.modelConfig(in.GetName(), in.GetVersion())
		if err != nil {
			return nil, err
		}
		return &oippb.ModelConfigResponse{Config: oip.Message(new(oippb.ModelConfig), config)}, nil
	})
	unary(mux, m, inferenceService, "ModelStatistics", options, func(_ context.Context, in *oippb.ModelStatisticsRequest) (*oippb.ModelStatisticsResponse, error) {
		statistics, err := m.modelStatistics(in.GetName(), in.GetVersion())
		return oip.Message(new(oippb.ModelStatisticsResponse), statistics), err
	})
	unary(mux, m, inferenceService, "RepositoryIndex", options, func(_ context.Context, in *oippb.RepositoryIndexRequest) (*oippb.RepositoryIndexResponse, error) {
		index := struct {
			Models []oip.ModelIndex `json:"models"`
		}{m.modelIndex(in.GetReady())}
		return oip.Message(new(oippb.RepositoryIndexResponse), index), nil
	})
	unary(mux, m, inferenceService, "ModelInfer", options, func(ctx context.Context, in *oippb.ModelInferRequest) (*oippb.ModelInferResponse, error) {
		return m.inferMessage(ctx, rpcOf(ctx), in)
	})
	mux.Handle(modelStreamInfer, connect.NewBidiStreamHandler(modelStreamInfer, m.handleStreamInfer, options))

	unary(mux, m, healthService, "Check", options, func(_ context.Context, in *health.HealthCheckRequest) (*health.HealthCheckResponse, error) {
		if s := in.GetService(); !m.knownService(s) {
			return nil, fiber.NewError(fiber.StatusNotFound, fmt.Sprintf("unknown service %.80q", s))
		}
		return &health.HealthCheckResponse{Status: m.healthStatus()}, nil
	})
	unary(mux, m, healthService, "List", options, func(context.Context, *health.HealthListRequest) (*health.HealthListResponse, error) {
		one := &health.HealthCheckResponse{Status: m.healthStatus()}
		return &health.HealthListResponse{Statuses: map[string]*health.HealthCheckResponse{"": one, inferenceService: one}}, nil
	})
	const watch = "/" + healthService + "/Watch"
	mux.Handle(watch, connect.NewServerStreamHandlerSimple(watch, m.watchHealth, options))

	reflector := grpcreflect.NewStaticReflector(inferenceService, healthService)
	mux.Handle(grpcreflect.NewHandlerV1(reflector, options))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, options))
	return mux
}

// unary adds an RPC to the mux. An error of handle is converted by rpcError.
func unary[In, Out any](mux *http.ServeMux, m *Main, service, method string, options connect.HandlerOption, handle func(context.Context, *In) (*Out, error)) {
	procedure := "/" + service + "/" + method
	mux.Handle(procedure, connect.NewUnaryHandlerSimple(procedure, func(ctx context.Context, in *In) (*Out, error) {
		rpcOf(ctx).beginTrace(m)
		out, err := handle(ctx, in)
		if err != nil {
			return nil, m.rpcError(err)
		}
		return out, nil
	}, options))
}

// inferMessage classifies the images in a message.
func (m *Main) inferMessage(ctx context.Context, call *rpc, in *oippb.ModelInferRequest) (*oippb.ModelInferResponse, error) {
	if _, err := m.namedModel(in.GetModelName(), in.GetModelVersion()); err != nil {
		return nil, err
	}
	x := m.beginExchange(&call.State, call.Received)
	defer x.free()
	x.client = rpcClient{ctx}
	if d, ok := ctx.Deadline(); ok && d.Before(x.deadline) {
		x.deadline = d
	}
	t := tensorPool.Get().(*tensors)
	defer tensorPool.Put(t)
	if err := x.classifyTensor(t, in.GetModelName(), in.GetModelVersion(), func(tensors *oip.Model) error {
		return t.request.DecodeMessage(tensors, in)
	}); err != nil {
		return nil, err
	}
	return t.request.ResponseMessage(x.result(t))
}

// handleStreamInfer classifies the images of each message and sends the responses in the same order. A
// request that fails doesn't end the stream.
func (m *Main) handleStreamInfer(ctx context.Context, stream *connect.BidiStream[oippb.ModelInferRequest, oippb.ModelStreamInferResponse]) error {
	call := rpcOf(ctx)
	route := m.metrics.Route(modelStreamInfer, http.MethodPost)
	for {
		in, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		out := &oippb.ModelStreamInferResponse{}
		status := http.StatusOK
		if out.InferResponse, err = m.inferMessage(ctx, call, in); err != nil {
			e := m.rpcError(err)
			status = rpcStatus(e.Code())
			out.ErrorMessage, out.InferResponse = e.Message(), &oippb.ModelInferResponse{Id: in.GetId()}
		}
		route.Observe(status, m.now().Sub(call.Received))
		route.ObserveReceive(call.receiving)
		if err := stream.Send(out); err != nil {
			return err
		}
	}
}

func (m *Main) knownService(name string) bool { return name == "" || name == inferenceService }

func (m *Main) healthStatus() health.HealthCheckResponse_ServingStatus {
	if m.unready() != nil {
		return health.HealthCheckResponse_NOT_SERVING
	}
	return health.HealthCheckResponse_SERVING
}

// healthInterval is how often watchHealth checks the state.
const healthInterval = 250 * time.Millisecond

// watchHealth sends the state of the server, and again whenever it changes, until the shutdown.
func (m *Main) watchHealth(ctx context.Context, in *health.HealthCheckRequest, stream *connect.ServerStream[health.HealthCheckResponse]) error {
	ticker := time.NewTicker(healthInterval)
	defer ticker.Stop()
	for last := health.HealthCheckResponse_UNKNOWN; ; {
		now := health.HealthCheckResponse_SERVICE_UNKNOWN
		if m.knownService(in.GetService()) {
			now = m.healthStatus()
		}
		if now != last {
			last = now
			if err := stream.Send(&health.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.streams.Done():
			return m.rpcError(request.ErrShuttingDown)
		case <-ticker.C:
		}
	}
}

// rpcError converts an error to one with the gRPC status to send to the client.
func (m *Main) rpcError(err error) *connect.Error {
	if e, ok := errors.AsType[*connect.Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[*oip.Error](err); ok {
		return connect.NewError(connect.CodeInvalidArgument, errors.New(failure.OneLine(e.Message)))
	}
	status, detail, public := failure.Of(err)
	if !public {
		m.log.Error("request failed", "error", err)
	}
	code := connect.CodeInternal
	switch {
	case errors.Is(err, request.ErrTimedOut):
		code = connect.CodeDeadlineExceeded
	case status == fiber.StatusServiceUnavailable:
		code = connect.CodeUnavailable
	case status == fiber.StatusRequestEntityTooLarge, status == fiber.StatusTooManyRequests:
		code = connect.CodeResourceExhausted
	case status == fiber.StatusNotFound:
		code = connect.CodeNotFound
	case status == request.StatusClientClosed:
		code = connect.CodeCanceled
	case status >= 400 && status < 500:
		code = connect.CodeInvalidArgument
	}
	e := connect.NewError(code, errors.New(failure.OneLine(detail)))
	if u, ok := errors.AsType[*failure.Unavailable](err); ok && code == connect.CodeUnavailable {
		retryAfter(e, time.Duration(u.After)*time.Second)
	}
	return e
}

// retryAfter adds the time after which to retry: clients with a retry policy obey the trailer
// grpc-retry-pushback-ms, and RetryInfo is for programs.
func retryAfter(e *connect.Error, after time.Duration) {
	e.Meta().Set("Grpc-Retry-Pushback-Ms", fmt.Sprint(after.Milliseconds()))
	if detail, err := connect.NewErrorDetail(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)}); err == nil {
		e.AddDetail(detail)
	}
}

// rpcStatus returns the HTTP status that corresponds to a gRPC status, for metrics and logs.
func rpcStatus(code connect.Code) int {
	switch code {
	case 0:
		return http.StatusOK
	case connect.CodeCanceled:
		return request.StatusClientClosed
	case connect.CodeInvalidArgument:
		return http.StatusBadRequest
	case connect.CodeDeadlineExceeded:
		return http.StatusGatewayTimeout
	case connect.CodeNotFound:
		return http.StatusNotFound
	case connect.CodeResourceExhausted:
		return http.StatusTooManyRequests
	case connect.CodeUnimplemented:
		return http.StatusNotFound // as for an unknown path, which isn't an error of the server
	case connect.CodeUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// recoverRPC converts a panic of a handler to an error.
func (m *Main) recoverRPC(_ context.Context, spec connect.Spec, _ http.Header, reason any) error {
	m.metrics.Panic()
	m.log.Error("panic", "reason", reason, "method", http.MethodPost, "path", spec.Procedure, "stack", string(debug.Stack()))
	return connect.NewError(connect.CodeInternal, errors.New(failure.Internal))
}

// rpcClient is the client of an RPC, for the engine.
type rpcClient struct{ context.Context }

// Disconnected reports whether the client has canceled the RPC or closed its connection.
func (c rpcClient) Disconnected() bool { return errors.Is(c.Err(), context.Canceled) }

var _ infer.Peer = rpcClient{}

// rpc is an RPC in progress.
type rpc struct {
	request.State               // Received is the time of the last message or, before that, of the header
	receiving     time.Duration // time to receive the last message
	header        http.Header
	procedure     string
}

// beginTrace starts the RPC's span unless it has been started.
func (c *rpc) beginTrace(m *Main) {
	m.requests.StartTrace(&c.State, propagation.HeaderCarrier(c.header), strings.TrimPrefix(c.procedure, "/"))
}

type rpcKey struct{}

func rpcOf(ctx context.Context) *rpc { return ctx.Value(rpcKey{}).(*rpc) }

// rpcHandler does for every RPC what package front does for an HTTP request.
type rpcHandler struct {
	m      *Main
	mux    *http.ServeMux
	errors *connect.ErrorWriter
	rate   limit.Rate
	open   atomic.Int64 // RPCs, including those that are being received
}

func (h *rpcHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m := h.m
	overLimit := m.requests.Begin()
	defer m.requests.End()
	tooMany := h.open.Add(1) > int64(m.config.MaxConnections) // a connection can have many
	defer h.open.Add(-1)
	if mediaType := r.Header.Get("Content-Type"); r.Method != http.MethodPost || mediaType != "application/grpc" && mediaType != "application/grpc+proto" {
		m.metrics.Route(request.Unmatched, request.OtherMethod).Observe(http.StatusUnsupportedMediaType, 0)
		http.Error(w, "this port serves gRPC only; the HTTP API is at the address of --addr", http.StatusUnsupportedMediaType)
		return
	}
	began := m.now()
	if m.portClosed.Load() {
		w.Header().Set("Connection", "close") // asks the client to connect elsewhere
	}
	if r.Header.Get("Grpc-Encoding") == "" {
		r.Header.Del("Grpc-Accept-Encoding") // compress only for clients that do so themselves
	}

	handler, pattern := h.mux.Handler(r)
	if pattern == "" {
		pattern = request.Unmatched
	}
	call := &rpc{header: r.Header, procedure: pattern}
	call.Method, call.Received, call.ID = http.MethodPost, began, request.ID([]byte(r.Header.Get("X-Request-Id")))
	w.Header().Set("X-Request-Id", call.ID)
	ip := m.clients.Resolve(r.RemoteAddr, func() string { return strings.Join(r.Header.Values("X-Forwarded-For"), ",") })
	control := http.NewResponseController(w)
	switch {
	case pattern == request.Unmatched:
		h.reject(w, r, connect.NewError(connect.CodeUnimplemented, fmt.Errorf("unknown method %.80q", r.URL.Path)))
	case !validTimeout.MatchString(r.Header.Get("Grpc-Timeout")): // Connect would repeat it
		h.reject(w, r, connect.NewError(connect.CodeInvalidArgument, errors.New("the header grpc-timeout is invalid")))
	case !slices.Contains([]string{"", "identity", "gzip", "deflate"}, r.Header.Get("Grpc-Encoding")): // likewise
		w.Header().Set("Grpc-Accept-Encoding", "gzip,deflate")
		h.reject(w, r, connect.NewError(connect.CodeUnimplemented, errors.New("the encoding isn't supported; use gzip or deflate")))
	case overLimit:
		h.reject(w, r, m.rpcError(m.requests.ErrOverLimit()))
	case tooMany:
		h.reject(w, r, m.rpcError(failure.Busy(fmt.Sprintf("more than %d RPCs", m.config.MaxConnections))))
	case m.config.RateLimit > 0 && !strings.HasPrefix(pattern, "/"+healthService) && !h.rate.Allow(limit.ClientKey(ip), m.config.RateLimit, began):
		e := connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("more than %d requests per second from one client", m.config.RateLimit))
		retryAfter(e, time.Second)
		h.reject(w, r, e)
	default:
		body := &rpcBody{m: m, source: r.Body, control: control, call: call, start: began}
		defer body.free()
		if isStream(pattern) {
			body.stream = true
			call.beginTrace(m)
			// Wake the stream if it waits for a message at shutdown.
			stop := context.AfterFunc(m.streams, func() { _ = control.SetReadDeadline(time.Now()) })
			defer stop()
		}
		r.Body = body
		handler.ServeHTTP(&rpcWriter{w, control, m.config.WriteTimeout}, r.WithContext(context.WithValue(r.Context(), rpcKey{}, call)))
	}

	code := sentCode(w.Header())
	status, took := rpcStatus(code), m.now().Sub(call.Received)
	route := m.metrics.Route(pattern, http.MethodPost)
	switch {
	case !isStream(pattern):
		route.Observe(status, took)
		if call.BodyRead {
			route.ObserveReceive(call.receiving)
		}
	case pattern != modelStreamInfer || code != 0: // its messages have been counted already
		route.Observe(status, 0)
	}
	call.beginTrace(m)
	if call.Span != nil {
		endRPCSpan(call.Span, pattern, code, status)
	}
	if level, ok := m.requests.Level(status); ok {
		line := request.Line{URL: r.URL.Path, Status: status, UserAgent: r.UserAgent(), Client: ip, Took: took}
		m.requests.Log(level, &call.State, line, slog.String("grpc_status", codeName(code)))
	}
}

// validTimeout matches the header grpc-timeout, which may be absent.
var validTimeout = regexp.MustCompile("^(?:[0-9]{1,8}[HMSmun])?$")

// reject responds with an error without reading the request.
func (h *rpcHandler) reject(w http.ResponseWriter, r *http.Request, err error) {
	_ = h.errors.Write(w, r, err)
}

// isStream reports whether a procedure may have more than one message in a direction.
func isStream(procedure string) bool {
	return procedure == modelStreamInfer || strings.HasSuffix(procedure, "/Watch") || strings.Contains(procedure, "ServerReflection")
}

// sentCode returns the status in the trailer of a response.
func sentCode(header http.Header) connect.Code {
	text := header.Get(http.TrailerPrefix + "Grpc-Status")
	if text == "" {
		text = header.Get("Grpc-Status")
	}
	var code connect.Code
	if _, err := fmt.Sscan(text, (*uint32)(&code)); err != nil {
		return connect.CodeUnknown // the response has no trailer
	}
	return code
}

func codeName(code connect.Code) string {
	if code == 0 {
		return "ok"
	}
	return code.String()
}

// endRPCSpan ends the span of an RPC. The attributes follow OpenTelemetry's semantic conventions.
func endRPCSpan(span trace.Span, pattern string, code connect.Code, status int) {
	if span.IsRecording() {
		service, method, _ := strings.Cut(strings.Trim(pattern, "/"), "/")
		span.SetAttributes(
			attribute.String("rpc.system", "grpc"), attribute.String("rpc.service", service), attribute.String("rpc.method", method),
			attribute.Int("rpc.grpc.status_code", int(code)),
		)
		if status >= 500 {
			span.SetStatus(codes.Error, "")
		}
	}
	span.End()
}

// rpcBody reads the messages of a client. It bounds their size, the memory that large ones take
// together, and the time to receive one.
type rpcBody struct {
	m       *Main
	source  io.ReadCloser
	control *http.ResponseController
	call    *rpc
	stream  bool // whether there may be more than one message

	start  time.Time // when the current message, or the header of the RPC, was received
	began  bool      // whether there was a message
	prefix [5]byte   // of the current message: whether it is compressed, and its length
	unread []byte    // end of prefix that Read hasn't returned yet
	left   int64     // bytes of the message that aren't read yet
	held   int64     // bytes reserved from Main.bodies
	err    error
}

// Read returns an error with a gRPC status if the client exceeds a limit. Like an HTTP request, an RPC
// doesn't count as in progress while it is being received.
func (b *rpcBody) Read(p []byte) (int, error) {
	b.m.requests.End()
	defer b.m.requests.Begin()
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	if len(b.unread) == 0 && b.left == 0 {
		if b.err = b.next(); b.err != nil {
			return 0, b.err
		}
	}
	if len(b.unread) > 0 {
		n := copy(p, b.unread)
		b.unread = b.unread[n:]
		return n, nil
	}
	n, err := b.source.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if b.left == 0 {
		b.received()
	} else if err != nil {
		b.err = b.failure(err)
	}
	return n, b.err
}

// next reads the prefix of the next message and reserves memory for it.
func (b *rpcBody) next() error {
	limits := &b.m.config
	wait := limits.ReadTimeout
	if b.stream {
		b.free() // the previous message has been processed
		wait = limits.IdleTimeout
	}
	if err := b.deadline(wait); err != nil {
		return err
	}
	if n, err := io.ReadFull(b.source, b.prefix[:]); err != nil {
		if n == 0 && errors.Is(err, io.EOF) {
			return io.EOF
		}
		return b.failure(err)
	}
	switch {
	case b.stream:
		b.start = b.m.now()
		if err := b.deadline(limits.ReadTimeout); err != nil {
			return err
		}
	case b.began:
		return connect.NewError(connect.CodeInvalidArgument, errors.New("the request has more than one message"))
	}
	b.began = true
	size := int64(b.prefix[1])<<24 | int64(b.prefix[2])<<16 | int64(b.prefix[3])<<8 | int64(b.prefix[4])
	if size > int64(limits.MaxBody) {
		return connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("the message has %d bytes: the maximum is %d", size, limits.MaxBody))
	}
	need := 2 * size // the message as received and as decoded
	if b.prefix[0] != 0 {
		const maxRatio = 1032 // of deflate
		need = size + 2*min(maxRatio*size, int64(limits.MaxBody))
	}
	held, err := b.m.bodies.Reserve(need)
	if err != nil {
		return b.m.rpcError(err)
	}
	b.held = held
	b.unread, b.left = b.prefix[:], size
	if size == 0 {
		b.received()
	}
	return nil
}

// deadline sets the time to wait for data. A stream that waits at shutdown ends.
func (b *rpcBody) deadline(wait time.Duration) error {
	_ = b.control.SetReadDeadline(time.Now().Add(wait)) // always supported by HTTP/2
	if b.stream && b.m.streams.Err() != nil {
		return b.m.rpcError(request.ErrShuttingDown)
	}
	return nil
}

// received notes that the message was received completely.
func (b *rpcBody) received() {
	b.call.Received, b.call.BodyRead = b.m.now(), true
	b.call.receiving = b.call.Received.Sub(b.start)
}

// failure converts an error of the connection.
func (b *rpcBody) failure(err error) error {
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		if b.stream && b.m.streams.Err() != nil {
			return b.m.rpcError(request.ErrShuttingDown)
		}
		return connect.NewError(connect.CodeDeadlineExceeded, errors.New(b.m.front.ReceiveTimeout()))
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("the request ends within a message"))
	}
	return connect.NewError(connect.CodeCanceled, errors.New("the client closed the stream"))
}

// free releases the memory of the current message.
func (b *rpcBody) free() {
	b.m.bodies.Release(b.held)
	b.held = 0
}

// Close closes the request of the client.
func (b *rpcBody) Close() error { return b.source.Close() }

// rpcWriter bounds the time to send each part of a response.
type rpcWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
}

func (w *rpcWriter) Write(p []byte) (int, error) {
	_ = w.control.SetWriteDeadline(time.Now().Add(w.timeout)) // always supported by HTTP/2
	return w.ResponseWriter.Write(p)
}

// Flush sends what was written. A stream may then wait for any time.
func (w *rpcWriter) Flush() {
	_ = w.control.Flush()
	_ = w.control.SetWriteDeadline(time.Time{})
}

// messageCodec is Connect's binary codec with an error message for users.
type messageCodec struct{}

// Name returns the name of the format.
func (messageCodec) Name() string { return "proto" }

// Marshal returns the encoding of a message.
func (messageCodec) Marshal(v any) ([]byte, error) { return proto.Marshal(v.(proto.Message)) }

// MarshalAppend appends the encoding of a message.
func (messageCodec) MarshalAppend(b []byte, v any) ([]byte, error) {
	return proto.MarshalOptions{}.MarshalAppend(b, v.(proto.Message))
}

// Unmarshal decodes a message.
func (messageCodec) Unmarshal(data []byte, v any) error {
	in := v.(proto.Message)
	if proto.Unmarshal(data, in) != nil {
		return fmt.Errorf("%d bytes aren't a valid %s", len(data), in.ProtoReflect().Descriptor().FullName())
	}
	return nil
}

// decompressor decompresses messages up to a limit. Connect's own would decompress the rest to measure
// it.
type decompressor struct {
	open  func(io.Reader) (io.ReadCloser, error)
	limit int64 // in bytes per message
	inner io.ReadCloser
	left  int64 // of limit
}

// Reset begins another message.
func (d *decompressor) Reset(r io.Reader) (err error) {
	d.left = d.limit
	if d.inner, err = d.open(r); err != nil {
		d.inner = nil
		return errors.New("the message isn't valid compressed data")
	}
	return nil
}

// Read returns an error with a gRPC status if the message is invalid or exceeds the limit.
func (d *decompressor) Read(p []byte) (int, error) {
	n, err := d.inner.Read(p)
	if d.left -= int64(n); d.left < 0 {
		return 0, connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("the decompressed message is larger than %d bytes", d.limit))
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = connect.NewError(connect.CodeInvalidArgument, errors.New("the message is truncated or isn't valid compressed data"))
	}
	return n, err
}

// Close ends a message.
func (d *decompressor) Close() error {
	if d.inner == nil {
		return nil
	}
	return d.inner.Close()
}
