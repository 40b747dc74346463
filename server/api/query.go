package api

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"
)

// CheckQuery returns a 400 error unless each parameter in the request's query is documented, occurs
// once and has a value that its schema allows. An empty value is one like any other, so only a
// free text can be empty. Handlers can then read the parameters without checking them.
func CheckQuery(c *fiber.Ctx, documented []*huma.Param) error {
	if len(c.Context().URI().QueryString()) == 0 {
		return nil
	}
	var seen []string
	for name, value := range c.Context().QueryArgs().All() {
		var known []string
		var schema *huma.Schema
		for _, p := range documented {
			if p.In == "query" {
				known = append(known, p.Name)
				if p.Name == string(name) {
					schema = p.Schema
				}
			}
		}
		switch {
		case schema == nil && len(known) == 0:
			return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("unknown parameter %.80q; this route has none", name))
		case schema == nil:
			return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("unknown parameter %.80q; use %s", name, strings.Join(known, ", ")))
		case slices.Contains(seen, string(name)):
			return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("the parameter %s is given more than once", name))
		}
		if want := expected(schema, string(value)); want != "" {
			return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf("invalid %s=%.80q; use %s", name, value, want))
		}
		seen = append(seen, string(name))
	}
	return nil
}

// expected returns "" if the schema of a query parameter allows the value, and otherwise the values
// that it allows.
func expected(schema *huma.Schema, value string) string {
	switch {
	case schema.Type == huma.TypeBoolean && value != "true" && value != "false":
		return "true or false"
	case schema.Type == huma.TypeInteger:
		n, err := strconv.Atoi(value)
		if err != nil || strconv.Itoa(n) != value || float64(n) < *schema.Minimum || float64(n) > *schema.Maximum {
			return fmt.Sprintf("a whole number from %g to %g", *schema.Minimum, *schema.Maximum)
		}
	case schema.Pattern != "" && !regexp.MustCompile(schema.Pattern).MatchString(value):
		return schema.PatternDescription
	case len(schema.Enum) > 0 && !slices.Contains(schema.Enum, any(value)):
		names := make([]string, len(schema.Enum))
		for i, e := range schema.Enum {
			names[i] = fmt.Sprint(e)
		}
		if len(names) == 1 {
			return names[0]
		}
		return "one of " + strings.Join(names, ", ")
	}
	return ""
}

// Constant returns the element of values that equals text, or "". Fiber's strings are only valid
// during the request.
func Constant[T ~string](values []T, text string) T {
	if i := slices.Index(values, T(text)); i >= 0 {
		return values[i]
	}
	return ""
}
