package main

import (
	"github.com/gofiber/fiber/v2"

	"fakeart/server/page"
)

// pageFolder is where the page's files are; the page itself is at /.
const pageFolder = "/ui/"

// registerPage gives the routes of the web page. They are no part of the API.
func (m *Main) registerPage(router fiber.Router) {
	router.Add(fiber.MethodGet, "/", func(c *fiber.Ctx) error { return sendFile(c, page.Files()[page.Index]) })
	router.Add(fiber.MethodGet, pageFolder+"*", func(c *fiber.Ctx) error {
		f, ok := page.Files()[c.Params("*")]
		if !ok {
			return fiber.ErrNotFound
		}
		return sendFile(c, f)
	})
}

// sendFile sends a file of the page, unless the browser has it already. Its name stays
// the same when it changes, so the browser asks each time.
func sendFile(c *fiber.Ctx, f *page.File) error {
	h := &c.Response().Header
	h.Set(fiber.HeaderContentSecurityPolicy, page.Policy)
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
