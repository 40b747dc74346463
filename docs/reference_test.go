package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"fakeart/monitoring/slo"
	"fakeart/tools/reference"
)

// The program in infra/ needs all of a cloud's library to be compiled, and the module in
// ci/ an engine to run: both are read as text.

func TestReferenceStacks(t *testing.T) {
	types := structs(t, "../infra/config.go")
	var rows [][]string
	var objects []string
	for _, f := range types["Config"].Fields.List {
		tag := tagOf(f)
		key := tag.Get("key")
		if key == "" {
			continue
		}
		kind := goType(f.Type)
		if tag.Get("secret") != "" {
			kind = "secret"
		} else if types[kind] != nil {
			var members []string
			for _, member := range types[kind].Fields.List {
				members = append(members, reference.Code(key+"."+tagOf(member).Get("json"))+", "+goType(member.Type))
			}
			objects = append(objects, "- "+strings.Join(members, "; "))
			kind = "object"
		}
		usual, about := reference.Code(tag.Get("default")), reference.Text(tag.Get("doc"))
		if len(usual) > 30 {
			usual, about = "", about+" Default: "+usual // which is too long for a column
		}
		rows = append(rows, []string{reference.Code(key), kind, usual, about})
	}
	reference.Page(t, "stacks", "Stack configuration keys", "infra/config.go", "A stack is configured in the file `Pulumi.STACK.yaml`. Prefix the keys below with `fakeart:`. The keys `gcp:project` and `gcp:region` set the project and the region. "+
		"Set a secret with `pulumi config set --secret`, and a member of an object with `--path`, such as `fakeart:canary.percent`. All values are checked before any resource is created. "+
		"An error names the key and the values that are allowed. [Infrastructure](infra.md) describes the resources.\n\n"+
		reference.Table([]string{"key", "type", "default", ""}, rows)+"## Members of objects\n"+strings.Join(objects, "\n"))
}

func TestReferenceDagger(t *testing.T) {
	files, err := filepath.Glob("../ci/*.go")
	if err != nil {
		t.Fatal(err)
	}
	functions := map[string]*ast.FuncDecl{}
	set := token.NewFileSet()
	for _, file := range files {
		parsed, err := parser.ParseFile(set, file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		// Go's parser doesn't attach comments to parameters. Index them by the line that follows.
		above := map[int]*ast.CommentGroup{}
		for _, c := range parsed.Comments {
			above[set.Position(c.End()).Line+1] = c
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if f, ok := n.(*ast.FuncDecl); ok {
				for _, p := range f.Type.Params.List {
					p.Doc = above[set.Position(p.Pos()).Line]
				}
			}
			return true
		})
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Name.IsExported() && !strings.HasSuffix(file, "_test.go") && f.Doc != nil && (f.Recv == nil || goType(f.Recv.List[0].Type) == "Fakeart") {
				functions[f.Name.Name] = f
			}
		}
	}
	var b strings.Builder
	b.WriteString("`dagger call FUNCTION ARGUMENTS`, with the CLI v0.20.3: [the pipeline](../how-to/ci.md#run-the-pipeline-with-dagger).\n\n")
	b.WriteString("## Arguments of the module\nThese come before the function's name. " + function(functions["New"]))
	delete(functions, "New")
	for _, name := range slices.Sorted(maps.Keys(functions)) {
		f := functions[name]
		fmt.Fprintf(&b, "## %s\n%s", kebab(name), function(f))
	}
	reference.Page(t, "dagger", "Dagger functions", "ci/*.go", b.String())
}

// function returns a function's description and a table of its arguments.
func function(f *ast.FuncDecl) string {
	about, pragmas := split(f.Doc)
	text := strings.TrimSuffix(reference.Text(about), ".") + "."
	if f.Name.Name != "New" && !strings.Contains(text, "returns") {
		text += " Returns " + daggerType(f.Type.Results.List[0].Type) + "."
	}
	if pragmas["cache"] == `"never"` {
		text += " Runs at each call."
	}
	var rows [][]string
	for _, p := range f.Type.Params.List {
		if goType(p.Type) == "context.Context" {
			continue
		}
		about, pragmas := split(p.Doc)
		usual := reference.Code(pragmas["default"])
		if path := pragmas["defaultPath"]; path != "" {
			usual = "the checkout"
		}
		_, optional := pragmas["optional"]
		if usual == "" && !optional {
			usual = "required"
		}
		rows = append(rows, []string{reference.Code("--" + kebab(p.Names[0].Name)), daggerType(p.Type), usual, reference.Text(about)})
	}
	text += "\n\n"
	if rows != nil {
		text += reference.Table([]string{"argument", "type", "default", ""}, rows)
	}
	return text
}

// split separates a comment's words from its pragmas, such as +default="/".
func split(comment *ast.CommentGroup) (words string, pragmas map[string]string) {
	pragmas = map[string]string{}
	var lines []string
	for line := range strings.SplitSeq(comment.Text(), "\n") {
		if pragma, ok := strings.CutPrefix(line, "+"); ok {
			name, value, _ := strings.Cut(pragma, "=")
			pragmas[name] = value
			continue
		}
		lines = append(lines, line)
	}
	return strings.Join(strings.Fields(strings.Join(lines, " ")), " "), pragmas
}

func TestReferenceMake(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]string
	for _, target := range targets(string(makefile)) {
		rows = append(rows, []string{reference.Code("make " + target[0]), reference.Text(target[1])})
	}
	reference.Page(t, "make", "Make targets", "Makefile", "`make help` prints the same. A target installs what it needs and does nothing twice.\n\n"+reference.Table([]string{"target", ""}, rows))
}

func TestReferenceObjectives(t *testing.T) {
	objectives, err := slo.Load()
	if err != nil {
		t.Fatal(err)
	}
	const page = "docs/explanation/slo-arithmetic.md"
	percent := func(share float64) string { return fmt.Sprintf("%.4g\u00a0%%", 100*share) }
	var promised, rates [][]string
	head := []string{"burn rate", "long and short window", "budget gone by then"}
	for _, o := range objectives {
		promised = append(promised, []string{
			reference.Code(o.Name), reference.Text(o.Description), percent(o.Target), slo.FormatDuration(o.Window),
			percent(1-o.Target) + ": " + fmt.Sprintf("%.0f of a million", 1e6*(1-o.Target)),
		})
	}
	// An objective that nobody is woken for has no rates.
	objectives = slices.DeleteFunc(objectives, func(o slo.Objective) bool { return len(o.BurnAlerts()) == 0 })
	for _, o := range objectives {
		head = append(head, o.Name)
	}
	for i, alert := range objectives[0].BurnAlerts() {
		row := []string{
			fmt.Sprint(alert.Factor), slo.FormatDuration(alert.Long) + " and " + slo.FormatDuration(alert.Short),
			percent(alert.Factor * alert.Long.Hours() / objectives[0].Window.Hours()),
		}
		for _, o := range objectives {
			row = append(row, percent(o.BurnAlerts()[i].Factor*(1-o.Target)))
		}
		rates = append(rates, append(row, map[bool]string{true: "page", false: "ticket"}[alert.Page]))
	}
	reference.Block(t, page, "objectives", reference.Table([]string{"objective", "", "target", "window", "budget"}, promised))
	reference.Block(t, page, "rates", reference.Table(append(head, ""), rates))
}

// targets are those of a Makefile that say what they do, as `make help` finds them.
func targets(makefile string) [][2]string {
	var all [][2]string
	for _, m := range regexp.MustCompile(`(?m)^([a-z-]+):.*## (.*)$`).FindAllStringSubmatch(makefile, -1) {
		all = append(all, [2]string{m[1], m[2]})
	}
	return all
}

// structs are the struct types of a file.
func structs(t *testing.T, file string) map[string]*ast.StructType {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]*ast.StructType{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		if spec, ok := n.(*ast.TypeSpec); ok {
			if s, ok := spec.Type.(*ast.StructType); ok {
				found[spec.Name.Name] = s
			}
		}
		return true
	})
	return found
}

func tagOf(f *ast.Field) reflect.StructTag {
	if f.Tag == nil {
		return ""
	}
	text, _ := strconv.Unquote(f.Tag.Value)
	return reflect.StructTag(text)
}

// goType is a type in few words.
func goType(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		switch e.Name {
		case "int":
			return "integer"
		case "bool":
			return "boolean"
		case "float64":
			return "number"
		}
		return e.Name
	case *ast.StarExpr:
		return goType(e.X)
	case *ast.ArrayType:
		return "list of " + goType(e.Elt)
	case *ast.MapType:
		return "object of " + goType(e.Value)
	case *ast.SelectorExpr:
		return goType(e.X) + "." + e.Sel.Name
	}
	return fmt.Sprintf("%T", e)
}

// daggerType is a type by the words of Dagger's command line.
func daggerType(e ast.Expr) string {
	return strings.NewReplacer("dagger.Directory", "folder", "dagger.File", "file", "dagger.Secret", "secret",
		"dagger.Service", "service", "dagger.Container", "container", "dagger.Platform", "platform", "string", "text").Replace(goType(e))
}

// kebab is a name as it is on a command line.
func kebab(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
