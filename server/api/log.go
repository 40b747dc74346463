package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"

	"fakeart/server/failure"
	"fakeart/server/listen"
	"fakeart/server/predlog"
)

// LogPage is one page of the prediction log.
type LogPage struct {
	Records []predlog.Entry `json:"records" doc:"Records, newest first, without their images."`
	Next    string          `json:"next,omitempty" doc:"Cursor of the next page; absent on the last page."`
	Total   int64           `json:"total" doc:"Number of records in the log."`
}

type logQuery struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Maximum number of records."`
	Cursor string `query:"cursor" pattern:"^([1-9][0-9]{0,17})?$" patternDescription:"the field next of the previous page" doc:"Where to continue: the field next of the previous page."`
}

// Log are the routes that read the prediction log.
type Log struct {
	Reader       predlog.Reader // nil if this server can't read the log
	Store        string         // where predictions are logged
	WriteTimeout time.Duration  // maximum time to send the next part of an export
	Logger       *slog.Logger
}

// errUnreadable returns the error for requests to read the log of a server that can't read it.
func (l Log) errUnreadable() error {
	return fiber.NewError(fiber.StatusNotFound, fmt.Sprintf("this server can't read the prediction log (--log-store=%s)", l.Store))
}

// Register adds the route of a page of the log.
func (l Log) Register(api huma.API, guard Guard) {
	huma.Register(api, huma.Operation{
		Method: http.MethodGet, Path: "/log", OperationID: "log", Tags: []string{TagLog}, Summary: "Read the prediction log",
		Security: guard.Security(), Middlewares: huma.Middlewares{guard.AdminOperation}, Errors: []int{400, 401, 403, 404},
	}, func(ctx context.Context, q *logQuery) (*struct{ Body LogPage }, error) {
		if l.Reader == nil {
			return nil, failure.ForOperation(l.errUnreadable())
		}
		rows, next, err := l.Reader.Page(ctx, q.Cursor, q.Limit)
		if errors.Is(err, predlog.ErrCursor) {
			return nil, failure.NewProblem(fiber.StatusBadRequest, err.Error())
		}
		var total int64
		if err == nil {
			total, err = l.Reader.Count(ctx)
		}
		if err != nil {
			l.Logger.Error("read prediction log", "error", err)
			return nil, failure.ForOperation(err)
		}
		if rows == nil {
			rows = []predlog.Entry{}
		}
		return &struct{ Body LogPage }{LogPage{rows, next, total}}, nil
	})
}

// ExportFormats are the formats of the query parameter format.
var ExportFormats = []predlog.Format{predlog.NDJSON, predlog.CSV, predlog.Parquet, predlog.Database}

// Export is the handler that streams the whole log as a file.
func (l Log) Export(c *fiber.Ctx) error {
	format := Constant(ExportFormats, c.Query("format", string(predlog.NDJSON)))
	if l.Reader == nil {
		return l.errUnreadable()
	}
	if c.Method() == fiber.MethodHead {
		c.Response().Header.SetContentType(format.ContentType())
		return nil
	}
	from, to := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		err := l.Reader.Export(ctx, to, format)
		if err != nil && ctx.Err() == nil {
			l.Logger.Error("export prediction log", "format", format, "error", err)
		}
		// On an error the response is truncated, so the client detects that the export is incomplete.
		_ = to.CloseWithError(err)
	}()
	stream := &exportStream{Reader: bufio.NewReaderSize(from, 64<<10), pipe: from, cancel: cancel}
	// An error before the first byte still gets a status.
	if _, err := stream.Peek(1); err != nil && !errors.Is(err, io.EOF) {
		_ = stream.Close()
		return err
	}
	if conn, ok := c.Context().Conn().(*listen.Conn); ok {
		conn.RenewWriteDeadline(l.WriteTimeout)
	}
	c.Set(fiber.HeaderContentDisposition, fmt.Sprintf(`attachment; filename="predictions-%s.%s"`, time.Now().UTC().Format("20060102T150405Z"), format))
	c.Response().Header.SetContentType(format.ContentType())
	c.Context().SetBodyStream(stream, -1)
	return nil
}

// exportStream is the body of an export in progress. Closing it stops the export.
type exportStream struct {
	*bufio.Reader
	pipe   *io.PipeReader
	cancel context.CancelFunc
}

// Close is called by fasthttp when the response has been sent or can't be sent.
func (s *exportStream) Close() error {
	s.cancel()
	return s.pipe.Close()
}
