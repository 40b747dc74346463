package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A passage is a text that Vale reads as one paragraph: a paragraph of a comment, or a message.
type passage struct {
	text []rune
	at   []pos // at[i] is the place of text[i] in the source
}

// pos is a line and a column in runes; both count from 1.
type pos struct{ line, column int }

func (p *passage) add(text string, at pos) {
	for _, r := range text {
		if r == '\t' {
			r = ' '
		}
		p.text, p.at = append(p.text, r), append(p.at, at)
		at.column++
	}
}

// join returns the passages as a text file: each a line, with an empty line after it.
func join(passages []passage) []byte {
	var b strings.Builder
	for _, p := range passages {
		b.WriteString(mask(string(p.text)))
		b.WriteString("\n\n")
	}
	return []byte(b.String())
}

// position returns the place in the source of a place in the text that join returns.
func position(passages []passage, line, column int) (int, int) {
	i := min((line-1)/2, len(passages)-1)
	at := passages[i].at
	p := at[max(0, min(column, len(at))-1)]
	return p.line, p.column
}

// original returns the text of a span before join masked it.
func original(passages []passage, line int, span [2]int) string {
	text := passages[min((line-1)/2, len(passages)-1)].text
	end := min(span[1], len(text))
	return string(text[max(0, min(span[0]-1, end)):end])
}

// code matches tokens that aren't prose: code in backquotes, doc links, URLs, paths, identifiers,
// flags and format verbs.
var code = regexp.MustCompile("`[^`]*`" + `|\[\*?[A-Z][\w.]*\]|https?://\S+|[\w"'.:%*-]*[/_=\\<>{}|$@#&][^\s,;]*|\w+(?:\.\w+)+|\.\w+|\b[a-z]+[A-Z]\w*|\b[A-Z]+[a-z0-9]+[A-Z]\w*|\B--?[a-z][\w-]*|%[-+# 0-9.*\[\]]*[a-zA-Z]`)

// mask replaces the code in a text, rune by rune, so that no rule finds words in it.
func mask(text string) string {
	return code.ReplaceAllStringFunc(text, func(s string) string { return strings.Repeat("x", utf8.RuneCountInString(s)) })
}

var (
	word  = regexp.MustCompile(`^[("'“]*[A-Za-z][a-z’'-]*[.,:;!?)"'”…]*$`)
	query = regexp.MustCompile(`\b(?:SELECT|INSERT|CREATE|UPDATE|DELETE|PRAGMA|WHERE|FROM)\b`)
)

// prose reports whether a string literal is meant for people: it has at least three words, and they
// are most of it.
func prose(text string) bool {
	words, fields := 0, strings.Fields(text)
	for _, f := range fields {
		if word.MatchString(f) {
			words++
		}
	}
	return words >= 3 && 2*words > len(fields) && !query.MatchString(text)
}

// supported reports whether a file has prose that can be checked.
func supported(name string) bool {
	switch path.Ext(name) {
	case ".md", ".go", ".html", ".tmpl":
		return true
	}
	_, ok := languageOf(name)
	return ok
}

// extract returns the comments and messages of a source file.
func extract(name string, text []byte) ([]passage, error) {
	switch path.Ext(name) {
	case ".go":
		return extractGo(name, text)
	case ".html", ".tmpl":
		return extractHTML(string(text)), nil
	}
	l, _ := languageOf(name)
	return scan(l, string(text)), nil
}

func extractGo(name string, text []byte) ([]passage, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, text, parser.ParseComments)
	if err != nil {
		return nil, fmt.Errorf("parse Go: %w", err)
	}
	if ast.IsGenerated(file) {
		return nil, nil
	}
	lines := strings.Split(string(text), "\n")
	// place converts the parser's columns, which count bytes.
	place := func(p token.Pos) pos {
		at := set.Position(p)
		return pos{at.Line, utf8.RuneCountInString(lines[at.Line-1][:at.Column-1]) + 1}
	}
	e := &goFile{place: place, test: strings.HasSuffix(name, "_test.go"), documented: map[*ast.CommentGroup]string{}}
	ast.Inspect(file, e.visit)
	for _, group := range file.Comments {
		e.comment(group)
	}
	return e.passages, nil
}

type goFile struct {
	place      func(token.Pos) pos
	test       bool
	documented map[*ast.CommentGroup]string // by doc comment, the name that it documents
	passages   []passage
}

func (g *goFile) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.FuncDecl:
		g.documented[n.Doc] = n.Name.Name
	case *ast.TypeSpec:
		g.documented[n.Doc] = n.Name.Name
	case *ast.ValueSpec:
		g.documented[n.Doc] = n.Names[0].Name
	case *ast.GenDecl:
		if len(n.Specs) == 1 {
			switch s := n.Specs[0].(type) {
			case *ast.TypeSpec:
				g.documented[n.Doc] = s.Name.Name
			case *ast.ValueSpec:
				g.documented[n.Doc] = s.Names[0].Name
			}
		}
	case *ast.ImportSpec:
		return false
	case *ast.Field:
		if len(n.Names) > 0 {
			g.documented[n.Doc] = n.Names[0].Name
		}
		if n.Tag != nil {
			g.tag(n.Tag)
		}
		ast.Inspect(n.Type, g.visit)
		return false
	case *ast.CallExpr:
		// Other strings of tests are data.
		if g.test && reports(n) {
			for _, arg := range n.Args {
				g.message(arg)
			}
		}
	case *ast.BinaryExpr:
		if !g.test && g.message(n) {
			return false
		}
	case *ast.BasicLit:
		if !g.test {
			g.message(n)
		}
	}
	return true
}

// reports reports whether a call prints a test's failure: t.Errorf.
func reports(call *ast.CallExpr) bool {
	f, ok := call.Fun.(*ast.SelectorExpr)
	return ok && slices.Contains([]string{"Error", "Errorf", "Fatal", "Fatalf", "Log", "Logf", "Skip", "Skipf"}, f.Sel.Name)
}

var described = regexp.MustCompile(`\b(?:help|description|doc|usage|title|summary):"((?:[^"\\]|\\.)*)"`)

// tag adds the texts of a struct tag.
func (g *goFile) tag(tag *ast.BasicLit) {
	for _, m := range described.FindAllStringSubmatchIndex(tag.Value, -1) {
		at := g.place(tag.Pos())
		at.column += utf8.RuneCountInString(tag.Value[:m[2]])
		var p passage
		p.add(tag.Value[m[2]:m[3]], at)
		g.passages = append(g.passages, p)
	}
}

// message adds a string literal, or several that are joined by +, if it is prose. It returns false
// for an expression of another kind.
func (g *goFile) message(e ast.Expr) bool {
	var parts []ast.Expr
	found := false
	var flatten func(ast.Expr)
	flatten = func(e ast.Expr) {
		switch e := e.(type) {
		case *ast.ParenExpr:
			flatten(e.X)
		case *ast.BinaryExpr:
			if e.Op == token.ADD {
				flatten(e.X)
				flatten(e.Y)
				return
			}
			parts = append(parts, e)
		case *ast.BasicLit:
			found = found || e.Kind == token.STRING
			parts = append(parts, e)
		default:
			parts = append(parts, e)
		}
	}
	flatten(e)
	if !found {
		return false
	}
	p := passage{}
	finish := func() {
		if prose(string(p.text)) {
			g.passages = append(g.passages, p)
		}
		p = passage{}
	}
	for _, part := range parts {
		literal, ok := part.(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			p.add("x", g.place(part.Pos()))
			ast.Inspect(part, g.visit)
			continue
		}
		at := g.place(literal.Pos())
		at.column++
		rest := literal.Value[1 : len(literal.Value)-1]
		raw := literal.Value[0] == '`'
		for len(rest) > 0 {
			r, tail := utf8.DecodeRuneInString(rest)
			next := rest[tail:]
			if !raw {
				var err error
				if r, _, next, err = strconv.UnquoteChar(rest, '"'); err != nil {
					return true // the parser has checked the literal
				}
			}
			switch {
			// A line of its own is a message of its own, in a raw string a paragraph.
			case r == '\n' && (!raw || strings.HasPrefix(next, "\n") || strings.HasPrefix(next, "hint:")):
				finish()
			case r == '\n':
				p.add(" ", at)
			default:
				p.add(string(r), at)
			}
			if raw && r == '\n' {
				at = pos{at.line + 1, 1}
			} else {
				at.column += utf8.RuneCountInString(rest[:len(rest)-len(next)])
			}
			rest = next
		}
	}
	finish()
	return true
}

var (
	directive = regexp.MustCompile(`^//(?:nolint:\S+ // |(?:go|line|export|nolint)\b)`)
	item      = regexp.MustCompile(`^(?:\s*(?:[-*•]|\d+\.)\s+|#+\s)`)
)

// comment adds the paragraphs of a comment, without its code.
func (g *goFile) comment(group *ast.CommentGroup) {
	var lines []line
	for _, c := range group.List {
		at := g.place(c.Pos())
		text := c.Text
		if d := directive.FindString(text); d != "" {
			if !strings.HasSuffix(d, "// ") {
				continue
			}
			at.column += utf8.RuneCountInString(d)
			lines = append(lines, line{text[len(d):], at})
			continue
		}
		body, block := strings.CutPrefix(text, "/*")
		if block {
			body = strings.TrimSuffix(body, "*/")
		} else {
			body = body[2:]
		}
		at.column += 2
		for l := range strings.SplitSeq(body, "\n") {
			lines = append(lines, line{l, at})
			at = pos{at.line + 1, 1}
		}
	}
	paragraphs := paragraphs(lines)
	if name := g.documented[group]; name != "" && len(paragraphs) > 0 {
		// The name that is documented isn't prose.
		if p := paragraphs[0]; strings.HasPrefix(string(p.text), name+" ") {
			for i := range []rune(name) {
				p.text[i] = 'X'
			}
		}
	}
	g.passages = append(g.passages, paragraphs...)
}

// A line of a comment, without its marker.
type line struct {
	text string
	at   pos
}

// paragraphs joins the lines of a comment. It drops code, which is indented, and Dagger's pragmas.
func paragraphs(lines []line) []passage {
	var all []passage
	var p passage
	finish := func() {
		if len(p.text) > 0 {
			all = append(all, p)
		}
		p = passage{}
	}
	for _, l := range lines {
		trimmed := strings.TrimSpace(l.text)
		indent := len(l.text) - len(strings.TrimLeft(l.text, " \t"))
		marker := item.FindString(l.text)
		switch {
		case trimmed == "", strings.HasPrefix(trimmed, "+"):
			finish()
			continue
		case strings.HasPrefix(l.text, "\t"), indent > 4 && marker == "" && len(p.text) == 0:
			finish()
			continue
		case marker != "":
			finish()
			l.text, l.at.column = l.text[len(marker):], l.at.column+utf8.RuneCountInString(marker)
		}
		trimmed = strings.TrimLeft(l.text, " \t")
		l.at.column += len(l.text) - len(trimmed)
		if len(p.text) > 0 {
			p.add(" ", l.at)
		}
		p.add(strings.TrimRight(trimmed, " \t\r"), l.at)
	}
	finish()
	return all
}
