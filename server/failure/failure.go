// Package failure holds the errors that the server returns to clients. [Busy] and [Unavailable] are
// errors after which a request can be repeated, and *fiber.Error is one with any other HTTP status.
// [Of] returns what to tell the client about an error, and [Write] writes that as a problem document.
package failure

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
)

// Problem is an error as a problem document (RFC 9457). The type "about:blank" means that the
// status code alone identifies the problem.
type Problem struct {
	Type   string `json:"type" enum:"about:blank" doc:"Always about:blank: the status identifies the problem."`
	Title  string `json:"title" doc:"Text of the HTTP status."`
	Status int    `json:"status" doc:"HTTP status."`
	Detail string `json:"detail,omitempty" doc:"Cause of the error, and how to fix it."`
}

// ProblemType is the media type of problem documents.
const ProblemType = "application/problem+json"

// NewProblem returns a problem document. A hint, which programs print on a line of its own, is
// appended to the detail's first line.
func NewProblem(status int, detail string) *Problem {
	title := http.StatusText(status)
	if title == "" {
		title = "Error"
	}
	return &Problem{Type: "about:blank", Title: title, Status: status, Detail: OneLine(detail)}
}

// Error returns the detail.
func (p *Problem) Error() string { return p.Detail }

// GetStatus returns the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType returns the media type of problem documents, regardless of what the client accepts.
func (p *Problem) ContentType(string) string { return ProblemType }

// Unavailable is a temporary failure. The response has status 503 and the header Retry-After.
type Unavailable struct {
	Detail string
	After  int // seconds after which to repeat the request
}

// Error returns the detail.
func (e *Unavailable) Error() string { return e.Detail }

// Busy returns an error that rejects a request which the server can't process now but may in a
// second.
func Busy(detail string) error { return &Unavailable{detail, 1} }

// Of returns the status and the detail to send to the client for err. public reports whether detail
// is the error's own text. If it is false, err is an internal failure that must only be logged.
func Of(err error) (status int, detail string, public bool) {
	if e, ok := errors.AsType[*fiber.Error](err); ok {
		return e.Code, e.Message, true
	}
	if e, ok := errors.AsType[*Unavailable](err); ok {
		return fiber.StatusServiceUnavailable, e.Detail, true
	}
	return fiber.StatusInternalServerError, Internal, false
}

// Internal is the detail of an internal failure.
const Internal = "internal error; the server's log has the details"

// ForOperation converts an error to one that an operation of package huma can return. The response is
// as [Of] specifies.
func ForOperation(err error) error {
	status, detail, _ := Of(err)
	if e, ok := errors.AsType[*Unavailable](err); ok {
		return huma.ErrorWithHeaders(NewProblem(status, detail), http.Header{fiber.HeaderRetryAfter: {strconv.Itoa(e.After)}})
	}
	return NewProblem(status, detail)
}

// OneLine joins the lines of a message. A hint, which programs print on a line of its own, follows
// the message after a semicolon. Words that are longer than [MaxEcho], which can only originate from
// the request, are cut.
func OneLine(message string) string {
	if len(message) <= MaxEcho {
		return separators.Replace(message)
	}
	words := strings.Split(separators.Replace(message), " ")
	for i, w := range words {
		words[i] = Shortened(w)
	}
	return strings.Join(words, " ")
}

var separators = strings.NewReplacer("\nhint: ", "; ", "\n", "; ")

// MaxEcho is the maximum number of bytes of a request that an error repeats.
const MaxEcho = 100

// Shortened cuts text to [MaxEcho] bytes.
func Shortened(text string) string {
	if len(text) <= MaxEcho {
		return text
	}
	return strings.ToValidUTF8(text[:MaxEcho-len("…")], "") + "…"
}

// AppendProblem appends the problem document for err.
func AppendProblem(b []byte, err error) []byte {
	status, detail, _ := Of(err)
	return append(b, encoded(status, detail)...)
}

// WriteProblem writes a problem document as the response.
func WriteProblem(response *fasthttp.Response, status int, detail string) {
	response.SetStatusCode(status)
	response.Header.SetContentType(ProblemType)
	response.SetBody(append(encoded(status, detail), '\n'))
}

func encoded(status int, detail string) []byte {
	text, err := json.Marshal(NewProblem(status, detail))
	if err != nil {
		panic(err) // strings and a number always encode
	}
	return text
}
