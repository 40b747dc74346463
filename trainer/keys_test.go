package main

import (
	"go/ast"
	"go/token"
	"go/types"
	"io/fs"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"

	"fakeart/configs"
	"fakeart/internal/config"
)

// Every configuration key and every flag is read by the trainer, or a built-in file refers to it.
func TestKeysAndFlagsAreRead(t *testing.T) {
	loaded, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedImports | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedExportFile,
	}, "fakeart/trainer/...")
	if err != nil {
		t.Fatal(err)
	}
	read := map[*types.Var]bool{}
	var program, configuration *types.Package
	for _, p := range loaded {
		for _, err := range p.Errors {
			t.Fatal(err)
		}
		for _, file := range p.Syntax {
			markRead(read, p.TypesInfo, file)
		}
		if p.PkgPath == "fakeart/trainer" {
			program = p.Types
		}
		for _, imported := range p.Types.Imports() {
			if imported.Path() == "fakeart/internal/config" {
				configuration = imported
			}
		}
	}

	referred := references(t)
	keys := 0
	sections := structOf(configuration.Scope().Lookup("Config").Type())
	for i := range sections.NumFields() {
		section := structOf(sections.Field(i).Type())
		for j := range section.NumFields() {
			key := reflect.StructTag(sections.Tag(i)).Get("key") + "." + reflect.StructTag(section.Tag(j)).Get("key")
			keys++
			if !read[section.Field(j)] && !referred[key] {
				t.Errorf("nothing reads the key %s", key)
			}
		}
	}
	if want := len(config.Keys()); keys != want {
		t.Errorf("%d keys checked, want %d", keys, want)
	}

	flags := 0
	for _, name := range program.Scope().Names() {
		command := structOf(program.Scope().Lookup(name).Type())
		for i := range command.NumFields() {
			tag, field := reflect.StructTag(command.Tag(i)), command.Field(i)
			if _, isCommand := tag.Lookup("cmd"); isCommand || tag.Get("help") == "" || strings.HasSuffix(field.Type().String(), "kong.VersionFlag") {
				continue
			}
			flags++
			if !read[field] {
				t.Errorf("nothing reads the flag %s of %s", field.Name(), name)
			}
		}
	}
	if flags < 20 {
		t.Errorf("only %d flags checked", flags)
	}
}

// markRead adds the fields that a file reads. An assignment to a field doesn't read it.
func markRead(read map[*types.Var]bool, info *types.Info, file *ast.File) {
	written := map[ast.Expr]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for _, left := range n.Lhs {
				written[left] = n.Tok == token.ASSIGN
			}
		case *ast.SelectorExpr:
			if s, ok := info.Selections[n]; ok && s.Kind() == types.FieldVal && !written[n] {
				read[s.Obj().(*types.Var)] = true
			}
		}
		return true
	})
}

// structOf returns the fields of a struct type, and of an empty struct for any other type.
func structOf(t types.Type) *types.Struct {
	if s, ok := t.Underlying().(*types.Struct); ok {
		return s
	}
	return types.NewStruct(nil, nil)
}

// references returns the keys that the built-in files refer to as ${key}.
func references(t *testing.T) map[string]bool {
	referred := map[string]bool{}
	files, err := fs.Glob(configs.Files, "*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(files, "config.yaml") {
		text, err := fs.ReadFile(configs.Files, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^[^#\n]*\$\{([a-z_.]+)\}`).FindAllSubmatch(text, -1) {
			referred[string(m[1])] = true
		}
	}
	return referred
}
