package page

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

var (
	//go:embed docs.html
	docsTemplate string
	//go:embed docs.css
	docsStyle string
)

// DocsPolicy is the Content-Security-Policy of the page that [Docs] returns: its own style, no
// scripts, and nothing from other hosts.
var DocsPolicy = func() string {
	digest := sha256.Sum256([]byte(docsStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(digest[:]) + "'; img-src data:; connect-src 'self'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

// Docs returns an OpenAPI document as an HTML page: operations by tag, each with an example for
// curl, and schemas. The page is one file without scripts, and its only links to the server are
// relative to the document next to it, openapi.json. It returns an error if the document has a
// schema whose default or example isn't valid JSON.
func Docs(document *huma.OpenAPI) (*File, error) {
	d := docs{document}
	t, err := template.New("docs").Funcs(template.FuncMap{
		"style": func() template.CSS { return template.CSS(docsStyle) }, //nolint:gosec // embedded in the program
		"text":  formatText, "type": typeOf, "limits": limits, "groups": operationGroups, "curl": d.curl,
		"required": func(s *huma.Schema, name string) bool { return slices.Contains(s.Required, name) },
	}).Parse(docsTemplate)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, document); err != nil {
		return nil, err
	}
	return newFile("docs.html", text.Bytes())
}

// group contains the operations with one tag.
type group struct {
	Name       string
	Operations []*huma.Operation
}

// operationGroups returns the operations by tag, in the order of the document's tags, sorted by path.
func operationGroups(document *huma.OpenAPI) []group {
	byTag := map[string][]*huma.Operation{}
	for path, item := range document.Paths {
		for method, o := range map[string]*huma.Operation{"GET": item.Get, "POST": item.Post, "PUT": item.Put, "DELETE": item.Delete, "PATCH": item.Patch} {
			if o == nil || len(o.Tags) == 0 {
				continue
			}
			shown := *o
			shown.Method, shown.Path = method, path
			byTag[o.Tags[0]] = append(byTag[o.Tags[0]], &shown)
		}
	}
	var groups []group
	for _, tag := range document.Tags {
		operations := byTag[tag.Name]
		slices.SortFunc(operations, func(a, b *huma.Operation) int {
			return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Method, b.Method))
		})
		groups = append(groups, group{tag.Name, operations})
	}
	return groups
}

// formatText escapes a text for HTML. Text between backquotes becomes code, and an empty line a break.
func formatText(text string) template.HTML {
	var b strings.Builder
	for i, part := range strings.Split(text, "`") {
		part = template.HTMLEscapeString(part)
		if i%2 == 1 {
			part = "<code>" + part + "</code>"
		}
		b.WriteString(part)
	}
	return template.HTML(strings.ReplaceAll(b.String(), "\n\n", "<br><br>")) //nolint:gosec // every part is escaped
}

// schemaName returns the name of a referenced schema, or "" if the schema isn't a reference.
func schemaName(s *huma.Schema) string {
	return s.Ref[strings.LastIndex(s.Ref, "/")+1:]
}

// typeOf describes the type of a schema, with links to named schemas.
func typeOf(s *huma.Schema) template.HTML {
	var text string
	switch {
	case s == nil:
		return "any"
	case s.Ref != "":
		name := template.HTMLEscapeString(schemaName(s))
		text = `<a href="#schema-` + name + `">` + name + `</a>`
	case len(s.OneOf)+len(s.AnyOf) > 0:
		var parts []string
		for _, option := range append(slices.Clone(s.OneOf), s.AnyOf...) {
			parts = append(parts, string(typeOf(option)))
		}
		text = strings.Join(parts, " or ")
	case s.Items != nil:
		text = "array of " + string(typeOf(s.Items))
	case s.Type == "":
		text = "any"
	default:
		text = template.HTMLEscapeString(s.Type)
		if s.Format != "" {
			text += " (" + template.HTMLEscapeString(s.Format) + ")"
		}
		if values, ok := s.AdditionalProperties.(*huma.Schema); ok {
			text += " with values of type " + string(typeOf(values))
		}
	}
	if s.Nullable {
		text += " or null"
	}
	return template.HTML(text) //nolint:gosec // every part is escaped
}

// limits describes the values that a schema allows, as text for formatText.
func limits(s *huma.Schema) (string, error) {
	var parts []string
	code := func(v any) (string, error) {
		data, err := json.Marshal(v)
		return "`" + string(data) + "`", err
	}
	add := func(name string, values ...any) error {
		var list []string
		for _, v := range values {
			c, err := code(v)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			list = append(list, c)
		}
		parts = append(parts, name+" "+strings.Join(list, ", ")+".")
		return nil
	}
	var err error
	set := func(ok bool, name string, values ...any) {
		if ok && err == nil {
			err = add(name, values...)
		}
	}
	set(len(s.Enum) > 0, "One of", s.Enum...)
	set(s.Default != nil, "Default:", s.Default)
	set(s.Minimum != nil, "At least", s.Minimum)
	set(s.ExclusiveMinimum != nil, "Greater than", s.ExclusiveMinimum)
	set(s.Maximum != nil, "At most", s.Maximum)
	set(s.ExclusiveMaximum != nil, "Less than", s.ExclusiveMaximum)
	set(s.MinItems != nil, "Minimum number of items:", s.MinItems)
	set(s.MaxItems != nil, "Maximum number of items:", s.MaxItems)
	set(s.MinLength != nil, "Minimum length:", s.MinLength)
	set(s.MaxLength != nil, "Maximum length:", s.MaxLength)
	set(s.Pattern != "", "Pattern:", s.Pattern)
	return strings.Join(parts, " "), err
}

// docs creates examples for an OpenAPI document.
type docs struct{ document *huma.OpenAPI }

// curl returns a command that calls an operation.
func (d docs) curl(o *huma.Operation) (string, error) {
	command := []string{"curl"}
	if o.Method == "PUT" || o.Method == "DELETE" || o.Method == "PATCH" || o.Method == "POST" && o.RequestBody == nil {
		command = append(command, "-X "+o.Method)
	}
	if len(o.Security) > 0 {
		command = append(command, "-H 'Authorization: Bearer TOKEN'")
	}
	if o.RequestBody != nil {
		content := o.RequestBody.Content
		json := content["application/json"]
		switch {
		case content["multipart/form-data"] != nil:
			for _, field := range content["multipart/form-data"].Schema.Required {
				command = append(command, "-F "+field+"=@image.jpg")
			}
		case json != nil:
			body, err := d.body(json)
			if err != nil {
				return "", err
			}
			command = append(command, "-H 'Content-Type: application/json' -d '"+body+"'")
		}
	}
	path := o.Path
	var query []string
	for _, p := range o.Parameters {
		if p.In == "path" {
			path = strings.ReplaceAll(path, "{"+p.Name+"}", strings.ToUpper(p.Name))
		} else if p.In == "query" && p.Required {
			query = append(query, p.Name+"="+strings.ToUpper(p.Name))
		}
	}
	if len(query) > 0 {
		path += "?" + strings.Join(query, "&")
	}
	return strings.Join(append(command, `"$URL`+path+`"`), " "), nil
}

// body returns an example of a JSON body.
func (d docs) body(m *huma.MediaType) (string, error) {
	v := m.Example
	if v == nil {
		v = d.example(m.Schema, 0)
	}
	data, err := json.Marshal(v)
	return strings.ReplaceAll(string(data), "'", `'\''`), err
}

// example returns a value that matches a schema: its first example, default or allowed value, or
// else the required properties of an object, and a placeholder otherwise.
func (d docs) example(s *huma.Schema, depth int) any {
	if s != nil && s.Ref != "" {
		s = d.document.Components.Schemas.SchemaFromRef(s.Ref)
	}
	const deepest = 8 // a schema can refer to itself
	switch {
	case s == nil || depth > deepest:
		return nil
	case len(s.Examples) > 0:
		return s.Examples[0]
	case s.Default != nil:
		return s.Default
	case len(s.Enum) > 0:
		return s.Enum[0]
	case len(s.OneOf) > 0:
		return d.example(s.OneOf[0], depth+1)
	case s.Type == huma.TypeArray:
		return []any{d.example(s.Items, depth+1)}
	case s.Type == huma.TypeObject:
		object := map[string]any{}
		for _, name := range s.Required {
			object[name] = d.example(s.Properties[name], depth+1)
		}
		return object
	case s.Type == huma.TypeBoolean:
		return true
	case s.Type == huma.TypeInteger || s.Type == huma.TypeNumber:
		return 1
	}
	return "…"
}
