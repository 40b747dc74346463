// Package workflows checks the GitHub workflows of this repository. The make targets, Dagger functions, flags
// and Pulumi outputs that they refer to must exist, and the actions that they use must be pinned.
//
// [Read] collects the names that exist in a checkout; [Known.Check] checks one workflow against them.
package workflows

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/iancoleman/strcase"
)

// Known has the names that workflows may refer to. All maps are sets: only their keys count.
type Known struct {
	// Targets are the phony targets of the Makefile, and Variables its variables.
	Targets, Variables map[string]bool
	// Constructor has the flags of the Dagger module's constructor, which come before the function, and
	// Functions the flags of each function.
	Constructor map[string]bool
	Functions   map[string]map[string]bool
	// Engine is the Dagger version that the module requires, without a v.
	Engine string
	// Outputs are the outputs of the Pulumi program.
	Outputs map[string]bool
}

// Read collects the names from the Makefile, dagger.json, ci/ and infra/main.go of a checkout. It returns an
// error if one of them is missing or defines no names.
func Read(root string) (*Known, error) {
	k := &Known{}
	for _, part := range []struct {
		path string
		read func(path string) error
	}{
		{"Makefile", k.readMakefile},
		{"dagger.json", k.readEngine},
		{"ci", k.readModule},
		{"infra/main.go", k.readOutputs},
	} {
		if err := part.read(filepath.Join(root, part.path)); err != nil {
			return nil, fmt.Errorf("%s: %w", part.path, err)
		}
	}
	return k, nil
}

var (
	phony    = regexp.MustCompile(`(?m)^\.PHONY:(.*)$`)
	variable = regexp.MustCompile(`(?m)^([A-Za-z_]+) *[:?]?=`)
)

func (k *Known) readMakefile(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	k.Targets, k.Variables = map[string]bool{}, map[string]bool{}
	for _, m := range phony.FindAllSubmatch(text, -1) {
		for name := range strings.FieldsSeq(string(m[1])) {
			k.Targets[name] = true
		}
	}
	for _, m := range variable.FindAllSubmatch(text, -1) {
		k.Variables[string(m[1])] = true
	}
	if len(k.Targets) == 0 {
		return fmt.Errorf("no phony targets")
	}
	return nil
}

func (k *Known) readEngine(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var module struct {
		EngineVersion string `json:"engineVersion"`
	}
	if err := json.Unmarshal(text, &module); err != nil {
		return err
	}
	k.Engine = strings.TrimPrefix(module.EngineVersion, "v")
	if k.Engine == "" {
		return fmt.Errorf("engineVersion is missing")
	}
	return nil
}

// readModule reads the functions as Dagger does: each exported method of the type that New returns is a
// function, and each parameter is a flag.
func (k *Known) readModule(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return err
	}
	files := token.NewFileSet()
	var object string
	var methods []*ast.FuncDecl
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".gen.go") {
			continue
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			function, ok := decl.(*ast.FuncDecl)
			switch {
			case !ok || !function.Name.IsExported():
			case function.Recv != nil:
				methods = append(methods, function)
			case function.Name.Name == "New" && function.Type.Results != nil:
				object = typeName(function.Type.Results.List[0].Type)
				k.Constructor = flags(function)
			}
		}
	}
	if object == "" {
		return fmt.Errorf("func New, which returns the module's object, is missing")
	}
	k.Functions = map[string]map[string]bool{}
	for _, method := range methods {
		if typeName(method.Recv.List[0].Type) == object {
			k.Functions[kebab(method.Name.Name)] = flags(method)
		}
	}
	if len(k.Functions) == 0 {
		return fmt.Errorf("%s has no exported method", object)
	}
	return nil
}

// flags returns the names of the parameters as flags, except the context.
func flags(function *ast.FuncDecl) map[string]bool {
	names := map[string]bool{}
	for _, parameter := range function.Type.Params.List {
		if selector, ok := parameter.Type.(*ast.SelectorExpr); ok && selector.Sel.Name == "Context" {
			continue
		}
		for _, name := range parameter.Names {
			names[kebab(name.Name)] = true
		}
	}
	return names
}

// kebab converts a name as the Dagger CLI does, with the same library.
func kebab(name string) string { return strcase.ToKebab(strcase.ToLowerCamel(name)) }

func typeName(e ast.Expr) string {
	if pointer, ok := e.(*ast.StarExpr); ok {
		e = pointer.X
	}
	if name, ok := e.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}

// readOutputs reads the keys of the map variable named outputs.
func (k *Known) readOutputs(path string) error {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	k.Outputs = map[string]bool{}
	add := func(e ast.Expr) {
		if literal, ok := e.(*ast.BasicLit); ok {
			if name, err := strconv.Unquote(literal.Value); err == nil {
				k.Outputs[name] = true
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		assignment, ok := n.(*ast.AssignStmt)
		if !ok {
			return true
		}
		for i, left := range assignment.Lhs {
			switch left := left.(type) {
			case *ast.IndexExpr:
				if typeName(left.X) == "outputs" {
					add(left.Index)
				}
			case *ast.Ident:
				if left.Name != "outputs" || i >= len(assignment.Rhs) {
					continue
				}
				if literal, ok := assignment.Rhs[i].(*ast.CompositeLit); ok {
					for _, element := range literal.Elts {
						if pair, ok := element.(*ast.KeyValueExpr); ok {
							add(pair.Key)
						}
					}
				}
			}
		}
		return true
	})
	if len(k.Outputs) == 0 {
		return fmt.Errorf("no keys in a map named outputs")
	}
	return nil
}

// settings returns the GitHub variables that workflows may read: each output in screaming snake case, and the
// settings of the deployment.
func (k *Known) settings() []string {
	names := []string{"DEPLOY", "PULUMI_BACKEND_URL"}
	for name := range maps.Keys(k.Outputs) {
		names = append(names, strcase.ToScreamingSnake(name))
	}
	return slices.Sorted(slices.Values(names))
}
