package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"
	"github.com/valyala/fasthttp"
)

// problem is an error as a problem document (RFC 9457). The type "about:blank" means that the
// status code alone identifies the problem.
type problem struct {
	Type   string `json:"type" enum:"about:blank" doc:"Always about:blank: the status identifies the problem."`
	Title  string `json:"title" doc:"Text of the HTTP status."`
	Status int    `json:"status" doc:"HTTP status."`
	Detail string `json:"detail,omitempty" doc:"Cause of the error, and how to fix it."`
}

// newProblem returns a problem document. A hint, which programs print on a line of its own, is
// appended to the detail's first line.
func newProblem(status int, detail string) *problem {
	title := http.StatusText(status)
	if title == "" {
		title = "Error"
	}
	return &problem{Type: "about:blank", Title: title, Status: status, Detail: oneLine(detail)}
}

// unavailable is a temporary failure. The response has status 503 and the header Retry-After.
type unavailable struct {
	detail string
	after  int // seconds
}

func (e *unavailable) Error() string { return e.detail }

// busy returns an error that rejects a request which the server can't process now but may in a
// second.
func busy(detail string) error { return &unavailable{detail, 1} }

// problemOf returns the status and the detail to send to the client for err. public reports
// whether detail is the error's own text. If it is false, err is an internal failure that must
// only be logged.
func problemOf(err error) (status int, detail string, public bool) {
	if e, ok := errors.AsType[*fiber.Error](err); ok {
		return e.Code, e.Message, true
	}
	if e, ok := errors.AsType[*unavailable](err); ok {
		return fiber.StatusServiceUnavailable, e.detail, true
	}
	return fiber.StatusInternalServerError, internalDetail, false
}

const internalDetail = "internal error; the server's log has the details"

// oneLine joins the lines of a message. A hint, which programs print on a line of its own, follows
// the message after a semicolon. Words that are longer than maxEcho, which can only originate from
// the request, are cut.
func oneLine(message string) string {
	if len(message) <= maxEcho {
		return separators.Replace(message)
	}
	words := strings.Split(separators.Replace(message), " ")
	for i, w := range words {
		words[i] = shortened(w)
	}
	return strings.Join(words, " ")
}

var separators = strings.NewReplacer("\nhint: ", "; ", "\n", "; ")

// maxEcho is the maximum number of bytes of a request that an error repeats.
const maxEcho = 100

// shortened cuts text to maxEcho.
func shortened(text string) string {
	if len(text) <= maxEcho {
		return text
	}
	return strings.ToValidUTF8(text[:maxEcho-len("…")], "") + "…"
}

func appendProblem(b []byte, err error) []byte {
	status, detail, _ := problemOf(err)
	text, err := json.Marshal(newProblem(status, detail))
	if err != nil {
		panic(err) // strings and a number always encode
	}
	return append(b, text...)
}

func writeProblem(response *fasthttp.Response, status int, detail string) {
	text, err := json.Marshal(newProblem(status, detail))
	if err != nil {
		panic(err) // see appendProblem
	}
	response.SetStatusCode(status)
	response.Header.SetContentType("application/problem+json")
	response.SetBody(append(text, '\n'))
}

// appendFloat appends a finite number exactly as encoding/json does: with an exponent below 1e-6
// and from 1e21, and no leading zero in the exponent.
func appendFloat(b []byte, v float64, bits int) []byte {
	format := byte('f')
	if abs := math.Abs(v); abs != 0 {
		small, large := abs < 1e-6, abs >= 1e21
		if bits == 32 {
			small, large = float32(abs) < 1e-6, float32(abs) >= 1e21
		}
		if small || large {
			format = 'e'
		}
	}
	b = strconv.AppendFloat(b, v, format, -1, bits)
	if n := len(b); format == 'e' && n >= 4 && b[n-4] == 'e' && b[n-2] == '0' {
		b[n-2] = b[n-1]
		b = b[:n-1]
	}
	return b
}

// appendUUID appends the canonical text form of id.
func appendUUID(b []byte, id uuid.UUID) []byte {
	for i, part := range [][]byte{id[:4], id[4:6], id[6:8], id[8:10], id[10:]} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, part)
	}
	return b
}
