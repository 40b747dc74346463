package page

import "github.com/gofiber/fiber/v2"

// Prefix is the path of the web page's files. The page itself is at /.
const Prefix = "/ui/"

// Register adds the routes of the web  They aren't part of the API.
func Register(router fiber.Router) {
	router.Add(fiber.MethodGet, "/", func(c *fiber.Ctx) error { return Send(c, Files()[Index], Policy) })
	router.Add(fiber.MethodGet, Prefix+"*", func(c *fiber.Ctx) error {
		f, ok := Files()[c.Params("*")]
		if !ok {
			return fiber.ErrNotFound
		}
		return Send(c, f, Policy)
	})
}

// Send sends a file with a Content-Security-Policy, or 304 if the browser's copy is current. The name of a
// file stays the same when its content changes, so browsers revalidate it on each use.
func Send(c *fiber.Ctx, f *File, policy string) error {
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
