// Package docs has no program: its test keeps the links of the documentation alive.
package docs

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"
)

func TestEveryLinkLeadsSomewhere(t *testing.T) {
	pages, err := pagesOf(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	dead, err := deadLinks(os.DirFS(".."), pages)
	if err != nil {
		t.Fatal(err)
	}
	for _, message := range dead {
		t.Error(message)
	}
}

func TestDeadLinksAreFound(t *testing.T) {
	files := fstest.MapFS{
		"LICENSE":        {},
		"server/main.go": {},
		"docs/b.md":      {Data: []byte("# B\n## What `x/y` *costs*, [about](a.md)\n## Twice\n## Twice\n## Größe_1 – 2\nUnderlined\n---\n")},
	}
	for link, want := range map[string]string{
		"b.md":                          "",
		"b.md#b":                        "",
		"b.md#what-xy-costs-about":      "",
		"b.md#twice-1":                  "",
		"b.md#gr%C3%B6%C3%9Fe_1--2":     "",
		"b.md#underlined":               "",
		"#here":                         "",
		"../LICENSE":                    "",
		"../server/":                    "",
		"../server":                     "",
		"https://example.org/gone.md#x": "",
		"mailto:somebody@example.org":   "",
		"c.md":                          "docs/a.md:5: c.md: there is no docs/c.md",
		"docs/b.md":                     "docs/a.md:5: docs/b.md: there is no docs/docs/b.md",
		"../server/gone.go":             "docs/a.md:5: ../server/gone.go: there is no server/gone.go",
		"../../b.md":                    "docs/a.md:5: ../../b.md: leaves the repository",
		"/docs/b.md":                    "docs/a.md:5: /docs/b.md: begins with a slash; a forge and the site take that for different places",
		"b.md#costs":                    "docs/a.md:5: b.md#costs: docs/b.md has no heading of that name",
		"b.md#Twice":                    "docs/a.md:5: b.md#Twice: docs/b.md has no heading of that name",
		"b.md#twice-2":                  "docs/a.md:5: b.md#twice-2: docs/b.md has no heading of that name",
		"#there":                        "docs/a.md:5: #there: docs/a.md has no heading of that name",
		"../LICENSE#x":                  "docs/a.md:5: ../LICENSE#x: LICENSE is no page with headings",
		"b%zz.md":                       `docs/a.md:5: b%zz.md: invalid URL escape "%zz"`,
	} {
		files["docs/a.md"] = &fstest.MapFile{Data: []byte("# Here\n\n    [not](a-link.md) `[nor](this.md)`\n\nText, [link](" + link + ").\n")}
		got, err := deadLinks(files, []string{"docs/a.md"})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Join(got, "\n") != want {
			t.Errorf("[link](%s): %q, want %q", link, got, want)
		}
	}
}

func TestLinksAreFoundWhereverTheyStand(t *testing.T) {
	files := fstest.MapFS{"a.md": {Data: []byte("# A\n| x |\n|---|\n| [in a table](1) |\n\n- ![a picture](2)\n\n[by name][n], > **[bold](4)**\n\n[n]: 3\n")}}
	got, err := deadLinks(files, []string{"a.md"})
	want := []string{"a.md:4: 1: there is no 1", "a.md:6: 2: there is no 2", "a.md:8: 3: there is no 3", "a.md:8: 4: there is no 4"}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	files["h.md"] = &fstest.MapFile{Data: []byte("---\nhero:\n  - text: x\n    link: gone.md\n    link: a.md\n---\n# H\n")}
	if got, err := deadLinks(files, []string{"h.md"}); err != nil || len(got) != 1 || got[0] != "h.md: gone.md: there is no gone.md" {
		t.Errorf("links in a head: %q, %v", got, err)
	}
	if _, err := deadLinks(files, []string{"b.md"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a page that is not there: %v", err)
	}
}

// deadLinks says of each link of the pages that leads nowhere in files where it
// stands and what is missing. Links to elsewhere (https:, mailto:) are not followed.
func deadLinks(files fs.FS, pages []string) ([]string, error) {
	var dead []string
	anchors := map[string]map[string]bool{}
	for _, page := range pages {
		source, err := fs.ReadFile(files, page)
		if err != nil {
			return nil, err
		}
		for _, link := range headLinks(source) {
			if problem := follow(files, anchors, page, link); problem != nil {
				dead = append(dead, fmt.Sprintf("%s: %s: %v", page, link, problem))
			}
		}
		err = ast.Walk(parse(source), func(n ast.Node, entering bool) (ast.WalkStatus, error) {
			var link string
			switch n := n.(type) {
			case *ast.Link:
				link = string(n.Destination)
			case *ast.Image:
				link = string(n.Destination)
			default:
				return ast.WalkContinue, nil
			}
			if !entering {
				return ast.WalkContinue, nil
			}
			if problem := follow(files, anchors, page, link); problem != nil {
				dead = append(dead, fmt.Sprintf("%s:%d: %s: %v", page, line(source, n), link, problem))
			}
			return ast.WalkContinue, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return dead, nil
}

// headLinks are the links in a page's head, which the site shows as buttons.
func headLinks(source []byte) (links []string) {
	rest, ok := strings.CutPrefix(string(source), "---\n")
	head, _, ended := strings.Cut(rest, "\n---\n")
	if !ok || !ended {
		return nil
	}
	for _, m := range regexp.MustCompile(`(?m)^\s+link: (.*)$`).FindAllStringSubmatch(head, -1) {
		links = append(links, m[1])
	}
	return links
}

// follow returns why the link of the page leads nowhere. It keeps the anchors of the
// pages that it has read.
func follow(files fs.FS, anchors map[string]map[string]bool, page, link string) error {
	to, err := url.Parse(link)
	if err != nil {
		return errors.Unwrap(err) // without the link, which the message has
	}
	if to.Scheme != "" || to.Host != "" {
		return nil
	}
	target := page
	if to.Path != "" {
		if path.IsAbs(to.Path) {
			return errors.New("begins with a slash; a forge and the site take that for different places")
		}
		target = path.Join(path.Dir(page), to.Path)
		if !fs.ValidPath(target) {
			return errors.New("leaves the repository")
		}
		if _, err := fs.Stat(files, target); err != nil {
			return fmt.Errorf("there is no %s", target)
		}
	}
	if to.Fragment == "" {
		return nil
	}
	if path.Ext(target) != ".md" {
		return fmt.Errorf("%s is no page with headings", target)
	}
	if anchors[target] == nil {
		source, err := fs.ReadFile(files, target)
		if err != nil {
			return err
		}
		anchors[target] = headings(source)
	}
	if !anchors[target][to.Fragment] {
		return fmt.Errorf("%s has no heading of that name", target)
	}
	return nil
}

// headings returns the anchors that a forge makes of a page's headings. The site has
// the same ones, for its slugs are those of the package github-slugger.
func headings(source []byte) map[string]bool {
	anchors := map[string]bool{}
	_ = ast.Walk(parse(source), func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if n.Kind() != ast.KindHeading || !entering {
			return ast.WalkContinue, nil
		}
		slug := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', unicode.IsLetter(r), unicode.IsMark(r), unicode.IsNumber(r):
				return unicode.ToLower(r)
			}
			return -1
		}, words(source, n))
		anchor := slug
		for again := 1; anchors[anchor]; again++ {
			anchor = fmt.Sprintf("%s-%d", slug, again)
		}
		anchors[anchor] = true
		return ast.WalkSkipChildren, nil
	})
	return anchors
}

func parse(source []byte) ast.Node {
	return goldmark.New(goldmark.WithExtensions(extension.GFM)).Parser().Parse(text.NewReader(source))
}

// words returns the text of a node, without its marks.
func words(source []byte, n ast.Node) string {
	var b strings.Builder
	for child := n.FirstChild(); child != nil; child = child.NextSibling() {
		if leaf, ok := child.(*ast.Text); ok {
			b.Write(leaf.Value(source))
		} else {
			b.WriteString(words(source, child))
		}
	}
	return b.String()
}

// line returns the line that an inline node begins on.
func line(source []byte, n ast.Node) int {
	return 1 + strings.Count(string(source[:n.Pos()]), "\n")
}
