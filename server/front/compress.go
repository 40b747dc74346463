package front

import (
	"bytes"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"fakeart/server/failure"
	"fakeart/server/oip"
)

// minCompressed is the size in bytes from which responses are compressed. Smaller ones fit into one
// packet anyway.
const minCompressed = 1 << 10

// compressResponse compresses the response if the client accepts it and if it is JSON. Tensors in
// binary form, which hardly shrink, are compressed only for a client that accepts a single encoding.
// Browsers and HTTP libraries list several with every request, without a need.
func compressResponse(c *fiber.Ctx) {
	response := c.Response()
	if response.IsBodyStream() || len(response.Body()) < minCompressed || len(response.Header.ContentEncoding()) > 0 {
		return
	}
	accepted := c.Request().Header.Peek(fiber.HeaderAcceptEncoding)
	switch mediaType := response.Header.ContentType(); {
	case bytes.HasPrefix(mediaType, []byte(fiber.MIMEApplicationJSON)), bytes.HasPrefix(mediaType, []byte(failure.ProblemType)):
	case bytes.Equal(mediaType, []byte(oip.TypeBinary)) && len(response.Header.Peek(oip.LengthHeader)) > 0:
		if bytes.IndexByte(accepted, ',') >= 0 {
			accepted = nil
		}
	default:
		return
	}
	c.Vary(fiber.HeaderAcceptEncoding)
	if len(accepted) == 0 {
		return
	}
	encoding := c.AcceptsEncodings("gzip", "deflate", "identity")
	switch encoding {
	case "gzip":
		response.SetBodyRaw(fasthttp.AppendGzipBytesLevel(nil, response.Body(), fasthttp.CompressBestSpeed))
	case "deflate":
		response.SetBodyRaw(fasthttp.AppendDeflateBytesLevel(nil, response.Body(), fasthttp.CompressBestSpeed))
	default:
		return
	}
	response.Header.SetContentEncoding(encoding)
}
