// Package module tests the source of the Dagger module: the functions' help texts, arguments, defaults
// and caching. It needs no engine.
package module

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// function is an exported method of the module's object.
type function struct {
	doc    string
	params map[string]param
}

// param is a parameter's type, without its package, and its comment.
type param struct{ kind, doc string }

// functions returns the module's functions by name, including New.
func functions(t *testing.T) map[string]function {
	t.Helper()
	files, err := filepath.Glob("../../*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("find the module's files: %v, %v", files, err)
	}
	all := map[string]function{}
	set := token.NewFileSet()
	for _, file := range files {
		if filepath.Base(file) == "dagger.gen.go" {
			continue
		}
		parsed, err := parser.ParseFile(set, file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || !f.Name.IsExported() || f.Recv == nil && f.Name.Name != "New" {
				continue
			}
			if f.Recv != nil {
				if star, ok := f.Recv.List[0].Type.(*ast.StarExpr); !ok || star.X.(*ast.Ident).Name != "Fakeart" {
					continue
				}
			}
			fn := function{doc: f.Doc.Text(), params: map[string]param{}}
			for _, p := range f.Type.Params.List {
				for _, name := range p.Names {
					if name.Name != "ctx" {
						fn.params[name.Name] = param{kind(p.Type), comment(parsed, set, p)}
					}
				}
			}
			all[f.Name.Name] = fn
		}
	}
	return all
}

// comment returns the comment that ends on the line above a parameter.
func comment(file *ast.File, set *token.FileSet, p *ast.Field) string {
	for _, c := range file.Comments {
		if set.Position(c.End()).Line == set.Position(p.Pos()).Line-1 && c.Pos() > 0 {
			return c.Text()
		}
	}
	return ""
}

// kind returns the name of a type without its package.
func kind(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return "*" + kind(e.X)
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.ArrayType:
		return "[]" + kind(e.Elt)
	case *ast.Ident:
		return e.Name
	}
	return "?"
}

func TestFunctions(t *testing.T) {
	all := functions(t)
	for _, name := range []string{
		"New", "Pipeline", "Run", "Lint", "Prose", "Test", "Cover", "Report", "SloCheck", "Fuzz", "Smoke", "Interop", "Docs", "Vulns", "Build", "Train",
		"ServerImage", "TrainerImage", "ImageTarball", "Publish", "Promote", "Serve", "LoadTest", "Terminal",
		"Fmt", "Reference", "RenewImages", "InfraPreview", "InfraUp", "Deploy",
	} {
		if _, ok := all[name]; !ok {
			t.Errorf("%s is missing", name)
		}
		delete(all, name)
	}
	for name := range all {
		t.Errorf("%s is exported, so callers can use it: add it to this test or unexport it", name)
	}
}

// verbs lists the words that a help text can start with.
var verbs = []string{
	"Apply", "Build", "Check", "Configure", "Copy", "Deploy", "Find", "Format", "Generate", "Lint", "Look", "Make", "Open", "Prepare", "Run", "Serve", "Show", "Test",
}

func TestHelp(t *testing.T) {
	// The engine would take this for a pragma and remove it from the help text.
	trap := regexp.MustCompile(`\s\+\s?\w`)
	pragma := regexp.MustCompile(`(?m)^\+(optional|default=.*|defaultPath=.*|ignore=.*|cache=.*|private|check|generate)$`)
	for name, f := range functions(t) {
		if first, _, _ := strings.Cut(f.doc, " "); !slices.Contains(verbs, first) {
			t.Errorf("%s: the help text starts with %q, want one of %q", name, first, verbs)
		}
		if text := pragma.ReplaceAllString(f.doc, ""); trap.MatchString(text) {
			t.Errorf("%s: the help text contains a pragma: %q", name, text)
		}
		for p, about := range f.params {
			text := strings.TrimSpace(pragma.ReplaceAllString(about.doc, ""))
			if text == "" {
				t.Errorf("%s: argument %s has no comment", name, p)
			}
			if trap.MatchString(text) {
				t.Errorf("%s: the comment of argument %s contains a pragma: %q", name, p, text)
			}
		}
	}
}

func TestDefaults(t *testing.T) {
	pragma := regexp.MustCompile(`(?m)^\+(?:default|ignore)=(.*)$`)
	for name, f := range functions(t) {
		for p, about := range f.params {
			text := pragma.FindStringSubmatch(about.doc)
			if text == nil {
				continue
			}
			var value any
			if err := json.Unmarshal([]byte(text[1]), &value); err != nil {
				t.Errorf("%s: argument %s: default %s: %v", name, p, text[1], err)
				continue
			}
			ok := false
			switch value.(type) {
			case string:
				ok = slices.Contains([]string{"string", "Program", "Scenario"}, about.kind)
			case float64:
				ok = about.kind == "float64" || about.kind == "int"
			case []any:
				ok = slices.Contains([]string{"[]string", "[]Platform", "*Directory"}, about.kind)
			}
			if !ok {
				t.Errorf("%s: argument %s is of type %s, but its default is %s", name, p, about.kind, text[1])
			}
		}
	}
}

// TestNeverCached checks the functions that push, deploy or read the state of another system. The
// engine would skip a repeated call of them if it were cached.
func TestNeverCached(t *testing.T) {
	const never = `+cache="never"`
	all := functions(t)
	for _, name := range []string{"Pipeline", "Run", "Publish", "Promote", "LoadTest", "InfraPreview", "InfraUp", "Deploy", "RenewImages", "Vulns"} {
		if !strings.Contains(all[name].doc, never) {
			t.Errorf("%s may be cached: add %s", name, never)
		}
		delete(all, name)
	}
	for name, f := range all {
		if strings.Contains(f.doc, never) {
			t.Errorf("%s is never cached: remove %s or add it to this test", name, never)
		}
	}
}

func TestChecks(t *testing.T) {
	all := functions(t)
	for _, name := range []string{"Lint", "Prose", "Test", "Docs"} {
		if !strings.Contains(all[name].doc, "\n+check\n") {
			t.Errorf("dagger check doesn't run %s", name)
		}
		for p, about := range all[name].params {
			if !strings.Contains(about.doc, "+optional") && !strings.Contains(about.doc, "+default=") {
				t.Errorf("%s is a check, but its argument %s is required", name, p)
			}
		}
	}
}

// TestScenarios checks that callers can choose every scenario of the k6 script, except swap, which
// needs a server with two models.
func TestScenarios(t *testing.T) {
	script, err := os.ReadFile("../../../loadtest/predict.js")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(script), "const scenarios = {\n")
	list, _, _ = strings.Cut(list, "\n};\n")
	source, err := os.ReadFile("../../serve.go")
	if err != nil {
		t.Fatal(err)
	}
	names := func(pattern, text string) (all []string) {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			all = append(all, m[1])
		}
		return slices.Sorted(slices.Values(all))
	}
	want := slices.DeleteFunc(names(`(?m)^  (\w+): \{`, list), func(name string) bool { return name == "swap" })
	if got := names(`Scenario = "(\w+)"`, string(source)); len(want) < 2 || !slices.Equal(got, want) {
		t.Errorf("scenarios in serve.go = %v, want those in loadtest/predict.js, %v", got, want)
	}
}

// TestDocsOfTests checks that testDocs contains every page that a test reads.
func TestDocsOfTests(t *testing.T) {
	source, err := os.ReadFile("../../checks.go")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(source), "var testDocs = []string{")
	list, _, _ = strings.Cut(list, "}")
	var pages []string
	for _, m := range regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(list, -1) {
		pages = append(pages, m[1])
	}
	read := regexp.MustCompile(`"(?:\.\./)*(docs/[^"*]*)`)
	found := 0
	root := os.DirFS("../../..")
	// Packages below docs/ run in the same step and need the pages in their own directory.
	packages, err := fs.Glob(root, "docs/*/*_test.go")
	if err != nil || len(packages) == 0 {
		t.Errorf("find the tests below docs/: %v, %v", packages, err)
	}
	for _, file := range packages {
		if dir := path.Dir(file) + "/"; !slices.Contains(pages, dir) {
			t.Errorf("%s isn't in testDocs in checks.go, so the pipeline doesn't run its tests", dir)
		}
	}
	err = fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{"docs", "ci", "tools", "node_modules", "build", ".git"}, path) {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := fs.ReadFile(root, path)
		if err != nil {
			return err
		}
		for _, m := range read.FindAllStringSubmatch(string(text), -1) {
			found++
			if !slices.ContainsFunc(pages, func(page string) bool { return strings.HasPrefix(m[1], page) }) {
				t.Errorf("%s reads %s, which isn't in testDocs in checks.go", path, m[1])
			}
		}
		return nil
	})
	if err != nil || found == 0 {
		t.Errorf("found %d pages that tests read, want at least one (%v)", found, err)
	}
}

func TestSecrets(t *testing.T) {
	secret := regexp.MustCompile(`(?i)password|passphrase|credentials|token|netrc|^signingKey$`)
	for name, f := range functions(t) {
		for p, about := range f.params {
			if secret.MatchString(p) && about.kind != "*Secret" {
				t.Errorf("%s: argument %s is of type %s, want *Secret", name, p, about.kind)
			}
		}
	}
}

// TestEngineVersion checks that the code that the engine generates matches the committed code in
// internal/dagger.
func TestEngineVersion(t *testing.T) {
	text, err := os.ReadFile("../../../dagger.json")
	if err != nil {
		t.Fatal(err)
	}
	var module struct {
		Name, EngineVersion, Source string
		SDK                         struct{ Source string }
	}
	if err := json.Unmarshal(text, &module); err != nil {
		t.Fatal(err)
	}
	if module.Name != "fakeart" || module.EngineVersion != "v0.20.3" || module.Source != "ci" || module.SDK.Source != "go" {
		t.Errorf("dagger.json: %+v", module)
	}
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	// These are the versions that the engine's code generator requires. Its code doesn't compile
	// with newer versions of OpenTelemetry.
	for _, want := range []string{
		"module dagger/fakeart\n", "\tdagger.io/dagger v0.19.11\n", "\tgithub.com/dagger/otel-go v1.41.0\n", "\tgo.opentelemetry.io/otel v1.41.0\n",
		"replace go.opentelemetry.io/otel/log => go.opentelemetry.io/otel/log v0.16.0\n",
	} {
		if !strings.Contains(string(mod), want) {
			t.Errorf("go.mod has no line %q", want)
		}
	}
}
