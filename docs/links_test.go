// Package docs contains only tests of the documentation: links, commands, versions and generated pages.
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

func TestLinks(t *testing.T) {
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

func TestDeadLinks(t *testing.T) {
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
		"c.md":                          "docs/a.md:5: c.md: no docs/c.md",
		"docs/b.md":                     "docs/a.md:5: docs/b.md: no docs/docs/b.md",
		"../server/gone.go":             "docs/a.md:5: ../server/gone.go: no server/gone.go",
		"../../b.md":                    "docs/a.md:5: ../../b.md: leaves the repository",
		"/docs/b.md":                    "docs/a.md:5: /docs/b.md: begins with a slash, which GitHub and the site resolve differently",
		"b.md#costs":                    "docs/a.md:5: b.md#costs: docs/b.md has no such heading",
		"b.md#Twice":                    "docs/a.md:5: b.md#Twice: docs/b.md has no such heading",
		"b.md#twice-2":                  "docs/a.md:5: b.md#twice-2: docs/b.md has no such heading",
		"#there":                        "docs/a.md:5: #there: docs/a.md has no such heading",
		"../LICENSE#x":                  "docs/a.md:5: ../LICENSE#x: LICENSE isn't a Markdown page",
		"b%zz.md":                       `docs/a.md:5: b%zz.md: invalid URL escape "%zz"`,
	} {
		files["docs/a.md"] = &fstest.MapFile{Data: []byte("# Here\n\n    [not](a-link.md) `[nor](this.md)`\n\nText, [link](" + link + ").\n")}
		got, err := deadLinks(files, []string{"docs/a.md"})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Join(got, "\n") != want {
			t.Errorf("deadLinks([link](%s)) = %q, want %q", link, got, want)
		}
	}
}

func TestDeadLinks_Places(t *testing.T) {
	files := fstest.MapFS{"a.md": {Data: []byte("# A\n| x |\n|---|\n| [in a table](1) |\n\n- ![a picture](2)\n\n[by name][n], > **[bold](4)**\n\n[n]: 3\n")}}
	got, err := deadLinks(files, []string{"a.md"})
	want := []string{"a.md:4: 1: no 1", "a.md:6: 2: no 2", "a.md:8: 3: no 3", "a.md:8: 4: no 4"}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	files["h.md"] = &fstest.MapFile{Data: []byte("---\nhero:\n  - text: x\n    link: gone.md\n    link: a.md\n---\n# H\n")}
	if got, err := deadLinks(files, []string{"h.md"}); err != nil || len(got) != 1 || got[0] != "h.md: gone.md: no gone.md" {
		t.Errorf("deadLinks of front matter = %q, %v", got, err)
	}
	if _, err := deadLinks(files, []string{"b.md"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("deadLinks of a missing page: %v, want fs.ErrNotExist", err)
	}
}

// deadLinks returns the links in pages whose target doesn't exist in files, each with its position and
// the reason. It ignores links with a scheme or host (https:, mailto:).
func deadLinks(files fs.FS, pages []string) ([]string, error) {
	var dead []string
	anchors := map[string]map[string]bool{}
	for _, page := range pages {
		source, err := fs.ReadFile(files, page)
		if err != nil {
			return nil, err
		}
		for _, link := range frontMatterLinks(source) {
			if problem := checkLink(files, anchors, page, link); problem != nil {
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
			if problem := checkLink(files, anchors, page, link); problem != nil {
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

// frontMatterLinks returns the links in a page's front matter, which the site shows as buttons.
func frontMatterLinks(source []byte) (links []string) {
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

// checkLink returns an error if the target of a page's link doesn't exist. It caches the anchors of
// pages in anchors.
func checkLink(files fs.FS, anchors map[string]map[string]bool, page, link string) error {
	to, err := url.Parse(link)
	if err != nil {
		return errors.Unwrap(err) // the caller adds the link
	}
	if to.Scheme != "" || to.Host != "" {
		return nil
	}
	target := page
	if to.Path != "" {
		if path.IsAbs(to.Path) {
			return errors.New("begins with a slash, which GitHub and the site resolve differently")
		}
		target = path.Join(path.Dir(page), to.Path)
		if !fs.ValidPath(target) {
			return errors.New("leaves the repository")
		}
		if _, err := fs.Stat(files, target); err != nil {
			return fmt.Errorf("no %s", target)
		}
	}
	if to.Fragment == "" {
		return nil
	}
	if path.Ext(target) != ".md" {
		return fmt.Errorf("%s isn't a Markdown page", target)
	}
	if anchors[target] == nil {
		source, err := fs.ReadFile(files, target)
		if err != nil {
			return err
		}
		anchors[target] = headings(source)
	}
	if !anchors[target][to.Fragment] {
		return fmt.Errorf("%s has no such heading", target)
	}
	return nil
}

// headings returns the anchors of a page's headings, as GitHub generates them. The site has
// the same ones, because it uses the package github-slugger.
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

// words returns the text of a node without markup.
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

// line returns the line on which an inline node begins.
func line(source []byte, n ast.Node) int {
	return 1 + strings.Count(string(source[:n.Pos()]), "\n")
}
