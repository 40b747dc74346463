package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"fakeart/tools/reference"
)

func TestReferenceServer(t *testing.T) {
	app := newParser(&commands{}, streams{io.Discard, io.Discard}).Model
	var groups []string
	flags := map[string][]*kong.Flag{}
	for _, f := range app.Flags {
		group := "Other flags"
		if f.Group != nil {
			group = f.Group.Key
		}
		if flags[group] == nil && group != "Other flags" {
			groups = append(groups, group)
		}
		flags[group] = append(flags[group], f)
	}
	var b strings.Builder
	b.WriteString(`This page lists the flags of the server. A flag takes precedence over its environment variable, and both take precedence over the YAML file of ` + "`--config`" + `, whose keys are the names of the flags without dashes:

` + "```yaml" + `
addr: 0.0.0.0:8080
trusted-proxy: [10.0.0.0/8]
` + "```" + `

| value | examples |
|---|---|
| list | repeat the flag, or separate the values by commas |
| duration | ` + "`100ms`, `30s`, `2m`, `24h`, `7d`" + ` |
| size | ` + "`10485760`, `10MB` (10⁷ bytes), `10MiB` (10·2²⁰ bytes)" + ` |

The server also reads these environment variables:

| variable | meaning |
|---|---|
| ` + "`PORT`" + ` | sets ` + "`--addr=:PORT`" + `, unless a flag or variable sets the address |
| ` + "`ONNXRUNTIME_SHARED_LIBRARY_PATH`" + ` | path of the ONNX Runtime library |
| ` + "`OTEL_…`" + ` | [traces](../how-to/operate.md#traces) |
| ` + "`AWS_…`, `GOOGLE_…`" + ` | [credentials](../how-to/models.md#credentials-for-s3-and-gcs) |

How to run the server: [operations](../how-to/operate.md).

`)
	for _, group := range append(groups, "Other flags") {
		fmt.Fprintf(&b, "## %s\n%s", group, reference.Flags(flags[group]))
	}
	b.WriteString(reference.Commands(app))
	reference.Page(t, "server", "Server: flags, variables and file", "server/config.go", b.String())
}

func TestReferenceHTTP(t *testing.T) {
	response, text := do(t, "GET", start(t, func(c *Config) { c.AdminToken = []string{"a token of some length"} }).URL()+"/openapi.json", "", nil)
	if response.StatusCode != 200 {
		t.Fatalf("status %d", response.StatusCode)
	}
	var document openAPI
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	reference.Page(t, "http", "HTTP API: operations", "server/api.go", document.markdown())

	// The site also contains the document itself, for generating clients.
	var indented bytes.Buffer
	if err := json.Indent(&indented, bytes.Replace(bytes.TrimSpace(text), []byte(`"version":"`+versionText()+`"`), []byte(`"version":"0"`), 1), "", " "); err != nil {
		t.Fatal(err)
	}
	reference.File(t, "docs/site/public/openapi.json", append(indented.Bytes(), '\n'))
}

// openAPI is the part of an OpenAPI document that a page shows.
type openAPI struct {
	Tags       []struct{ Name string }
	Paths      map[string]map[string]*documented
	Components struct{ Schemas map[string]*schema }
}

type documented struct {
	Summary, Description string
	Tags                 []string
	Security             []any
	Parameters           []struct {
		Name, In, Description string
		Required              bool
		Schema                *schema
	}
	RequestBody *described
	Responses   map[string]described
}

type described struct {
	Description string
	Content     map[string]struct{ Schema *schema }
}

type schema struct {
	Ref                 string `json:"$ref"`
	Type                any    // a name, or a list of them
	Format, Description string
	Items               *schema
	OneOf               []*schema
	Properties          map[string]*schema
	Required            []string
	Enum                []any
	Default             any
	Minimum, Maximum    *float64
}

func (d *openAPI) markdown() string {
	var b strings.Builder
	b.WriteString(`This page lists the operations of the server's HTTP API. A running server provides it as an OpenAPI document at ` + "`/openapi.json`" + ` and as a page at ` + "`/docs`" + `. The documentation contains it as [openapi.json](../site/public/openapi.json).
For examples, statuses, headers and the protocol's binary format, see [API](api.md).
A response with a status that isn't listed is a [Problem](#schema-problem) or, under ` + "`/v2`" + `, an [ErrorObject](#schema-errorobject).

`)
	for _, tag := range d.Tags {
		fmt.Fprintf(&b, "## %s\n", tag.Name)
		for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
			for _, method := range slices.Sorted(maps.Keys(d.Paths[path])) {
				if op := d.Paths[path][method]; slices.Contains(op.Tags, tag.Name) {
					d.operation(&b, strings.ToUpper(method)+" "+path, op)
				}
			}
		}
	}
	b.WriteString("## Schemas\n")
	for _, name := range slices.Sorted(maps.Keys(d.Components.Schemas)) {
		fmt.Fprintf(&b, "### Schema %s\n", name)
		s := d.Components.Schemas[name]
		if s.Description != "" {
			b.WriteString(reference.Text(s.Description) + "\n\n")
		}
		b.WriteString(properties(s))
	}
	return b.String()
}

func (openAPI) operation(b *strings.Builder, route string, op *documented) {
	fmt.Fprintf(b, "### %s\n%s.", reference.Code(route), reference.Text(op.Summary))
	if op.Description != "" {
		b.WriteString(" " + reference.Text(op.Description))
	}
	if len(op.Security) > 0 {
		b.WriteString(" Requires [admin access](../how-to/operate.md#authentication).")
	}
	b.WriteString("\n\n")
	var parameters [][]string
	for _, p := range op.Parameters {
		required := ""
		if p.Required {
			required = "yes"
		}
		parameters = append(parameters, []string{reference.Code(p.Name), p.In, kind(p.Schema), required, meaning(cmp.Or(p.Description, p.Schema.Description), p.Schema)})
	}
	if parameters != nil {
		b.WriteString(reference.Table([]string{"parameter", "in", "type", "required", ""}, parameters))
	}
	if op.RequestBody != nil {
		var bodies [][]string
		for _, mediaType := range slices.Sorted(maps.Keys(op.RequestBody.Content)) {
			s := op.RequestBody.Content[mediaType].Schema
			bodies = append(bodies, []string{reference.Code(mediaType), kind(s), fields(s)})
		}
		b.WriteString(reference.Table([]string{"body", "type", ""}, bodies))
	}
	var answers [][]string
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		response := op.Responses[status]
		var kinds []string
		for _, mediaType := range slices.Sorted(maps.Keys(response.Content)) {
			kinds = append(kinds, reference.Code(mediaType)+" "+kind(response.Content[mediaType].Schema))
		}
		body := strings.Join(kinds, ", ")
		about := reference.Text(response.Description)
		if code, _ := strconv.Atoi(status); http.StatusText(code) == response.Description || status == "default" {
			about = ""
		}
		status = strings.Replace(status, "default", "any other", 1)
		// Statuses with the same body and description share a row.
		if last := len(answers) - 1; last >= 0 && answers[last][1] == body && answers[last][2] == about {
			answers[last][0] += ", " + status
			continue
		}
		answers = append(answers, []string{status, body, about})
	}
	b.WriteString(reference.Table([]string{"status", "body", ""}, answers))
}

// properties returns a table of an object's members.
func properties(s *schema) string {
	var rows [][]string
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[name]
		required := ""
		if slices.Contains(s.Required, name) {
			required = "yes"
		}
		rows = append(rows, []string{reference.Code(name), kind(p), required, meaning(p.Description, p)})
	}
	return reference.Table([]string{"member", "type", "required", "description"}, rows)
}

// fields describes the fields of a form in a sentence.
func fields(s *schema) string {
	var texts []string
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		texts = append(texts, reference.Code(name)+": "+reference.Text(s.Properties[name].Description))
	}
	return strings.Join(texts, "; ")
}

// meaning returns a description with the values that the schema allows.
func meaning(description string, s *schema) string {
	text := reference.Text(description)
	if text != "" && !strings.HasSuffix(text, ".") {
		text += "."
	}
	if len(s.Enum) > 0 {
		var values []string
		for _, v := range s.Enum {
			values = append(values, reference.Code(fmt.Sprint(v)))
		}
		text += " One of " + strings.Join(values, ", ") + "."
	}
	if s.Minimum != nil {
		text += fmt.Sprintf(" At least %v.", *s.Minimum)
	}
	if s.Maximum != nil {
		text += fmt.Sprintf(" At most %v.", *s.Maximum)
	}
	if s.Default != nil {
		text += " Default: " + reference.Code(fmt.Sprint(s.Default)) + "."
	}
	return strings.TrimSpace(text)
}

// kind returns the type of a schema, with a link if the page describes it.
func kind(s *schema) string {
	switch {
	case s == nil:
		return ""
	case s.Ref != "":
		name := s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
		return "[" + name + "](#schema-" + strings.ToLower(name) + ")"
	case s.OneOf != nil:
		var kinds []string
		for _, one := range s.OneOf {
			kinds = append(kinds, kind(one))
		}
		return strings.Join(kinds, " or ")
	case s.Items != nil:
		return "list of " + kind(s.Items)
	case s.Format == "binary":
		return "bytes"
	case s.Format != "" && s.Type == "string":
		return s.Format
	}
	switch kinds := s.Type.(type) {
	case string:
		return kinds
	case []any: // such as number and null
		var texts []string
		for _, k := range kinds {
			texts = append(texts, fmt.Sprint(k))
		}
		return strings.Join(texts, " or ")
	}
	return "any"
}
