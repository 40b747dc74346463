package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"
	"github.com/valyala/fasthttp"
)

// problem is an error as RFC 9457 has it. The type "about:blank" says that the
// status means no more than it does anyway.
type problem struct {
	Type   string `json:"type" enum:"about:blank" doc:"The status says it all."`
	Title  string `json:"title" doc:"The status in words."`
	Status int    `json:"status" doc:"The HTTP status."`
	Detail string `json:"detail,omitempty" doc:"What is wrong with this request, and what to do."`
}

func newProblem(status int, detail string) *problem {
	title := http.StatusText(status)
	if title == "" {
		title = "Error"
	}
	return &problem{Type: "about:blank", Title: title, Status: status, Detail: detail}
}

// unavailable is a refusal that may be different soon: it is answered with
// Retry-After.
type unavailable struct {
	detail string
	after  int // seconds
}

func (e *unavailable) Error() string { return e.detail }

// busy is the refusal of a request that the server cannot take on now.
func busy(detail string) error { return &unavailable{detail, 1} }

// problemOf says what the client is told of an error, and whether that is all there
// is to it: an error of any other type is our own failure, for the log alone.
func problemOf(err error) (status int, detail string, told bool) {
	if e, ok := errors.AsType[*fiber.Error](err); ok {
		return e.Code, e.Message, true
	}
	if e, ok := errors.AsType[*unavailable](err); ok {
		return fiber.StatusServiceUnavailable, e.detail, true
	}
	return fiber.StatusInternalServerError, "the server failed to answer; its log says why", false
}

func appendProblem(b []byte, err error) []byte {
	status, detail, _ := problemOf(err)
	text, err := json.Marshal(newProblem(status, detail))
	if err != nil {
		panic(err) // texts and a number always have a JSON form
	}
	return append(b, text...)
}

func writeProblem(response *fasthttp.Response, status int, detail string) {
	text, err := json.Marshal(newProblem(status, detail))
	if err != nil {
		panic(err) // as above
	}
	response.SetStatusCode(status)
	response.Header.SetContentType("application/problem+json")
	response.SetBody(text)
}

// appendFloat appends a finite number as encoding/json does, so that both read the
// same: exponents below 1e-6 and from 1e21, without a leading zero.
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

// appendUUID appends the text of id.
func appendUUID(b []byte, id uuid.UUID) []byte {
	for i, part := range [][]byte{id[:4], id[4:6], id[6:8], id[8:10], id[10:]} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, part)
	}
	return b
}
