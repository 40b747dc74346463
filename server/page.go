package main

import (
	"github.com/gofiber/fiber/v2"

	"fakeart/server/page"
)

// pagePrefix is the path of the web page's files. The page itself is at /.
const pagePrefix = "/ui/"

// registerPage adds the routes of the web page. They aren't part of the API.
func (m *Main) registerPage(router fiber.Router) {
	router.Add(fiber.MethodGet, "/", func(c *fiber.Ctx) error { return sendFile(c, page.Files()[page.Index], page.Policy) })
	router.Add(fiber.MethodGet, pagePrefix+"*", func(c *fiber.Ctx) error {
		f, ok := page.Files()[c.Params("*")]
		if !ok {
			return fiber.ErrNotFound
		}
		return sendFile(c, f, page.Policy)
	})
}

// sendFile sends a file of the web page with a Content-Security-Policy, or 304 if the browser's copy is current. The name of a
// file stays the same when its content changes, so browsers revalidate it on each use.
func sendFile(c *fiber.Ctx, f *page.File, policy string) error {
	h := &c.Response().Header
	h.Set(fiber.HeaderContentSecurityPolicy, policy)
	h.Set(fiber.HeaderReferrerPolicy, "no-referrer")
	h.Set(fiber.HeaderCacheControl, "no-cache")
	h.Set(fiber.HeaderETag, f.ETag)
	h.Set(fiber.HeaderVary, fiber.HeaderAcceptEncoding)
	if c.Fresh() {
		return c.SendStatus(fiber.StatusNotModified)
	}
	h.SetContentType(f.Type)
	if f.Gzip != nil && c.Request().Header.HasAcceptEncoding("gzip") {
		h.Set(fiber.HeaderContentEncoding, "gzip")
		return c.Send(f.Gzip)
	}
	return c.Send(f.Plain)
}
