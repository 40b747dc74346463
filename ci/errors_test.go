//go:build offline

package main

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vektah/gqlparser/v2/gqlerror"

	"dagger/fakeart/internal/dagger"
	"dagger/fakeart/internal/publish/registrytest"
	"dagger/fakeart/internal/stage/stagetest"
)

// shown returns the text of an error that callers of a function see. It works like the generated
// code of Dagger v0.20.3 (convertError in cmd/codegen/generator/go/templates/modules.go), which
// replaces an error with the engine's error at the end of its chain.
func shown(err error) string {
	if original := engineError(err); original != nil {
		return original.Message
	}
	return err.Error()
}

// reason returns the last line of the text that callers see, without hints.
func reason(err error) string {
	text, _, _ := strings.Cut(shown(err), "\nhint: ")
	return text[strings.LastIndex(text, "\n")+1:]
}

// engineError returns the engine's error at the end of a chain of single errors, or nil.
func engineError(err error) *gqlerror.Error {
	switch x := err.(type) { //nolint:errorlint // like the generated code
	case *gqlerror.Error:
		return x
	case interface{ Unwrap() []error }:
		return nil
	case interface{ Unwrap() error }:
		return engineError(x.Unwrap())
	}
	return nil
}

// function is an exported method of the module's object. It can be called with arguments by name.
type function struct {
	name   string
	params []string
	method reflect.Method
}

// functions returns all exported methods that can fail.
func functions(t *testing.T) []function {
	t.Helper()
	packages, err := parser.ParseDir(token.NewFileSet(), ".", nil, 0) //nolint:staticcheck // parameter names don't need type information
	if err != nil {
		t.Fatal(err)
	}
	params := map[string][]string{}
	for _, file := range packages["main"].Files {
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv == nil {
				continue
			}
			for _, field := range f.Type.Params.List {
				for _, name := range field.Names {
					params[f.Name.Name] = append(params[f.Name.Name], name.Name)
				}
			}
		}
	}
	var all []function
	for object := reflect.TypeFor[*Fakeart](); len(all) < object.NumMethod(); {
		method := object.Method(len(all))
		all = append(all, function{method.Name, params[method.Name], method})
	}
	return slices.DeleteFunc(all, func(f function) bool {
		results := f.method.Type.NumOut()
		return results == 0 || f.method.Type.Out(results-1) != reflect.TypeFor[error]()
	})
}

// call calls the function. Parameters that aren't in values get their zero value.
func (f function) call(ctx context.Context, m *Fakeart, values map[string]any) error {
	in := []reflect.Value{reflect.ValueOf(m)}
	for i, name := range f.params {
		kind := f.method.Type.In(i + 1)
		value := reflect.Zero(kind)
		if kind == reflect.TypeFor[context.Context]() {
			value = reflect.ValueOf(ctx)
		} else if v, ok := values[name]; ok {
			value = reflect.ValueOf(v).Convert(kind)
		}
		in = append(in, value)
	}
	out := f.method.Func.Call(in)
	err, _ := out[len(out)-1].Interface().(error)
	return err
}

// TestErrorsNameTheStep makes the first and the last query of each kind fail, for each function.
// Failures are, for example, an image that can't be pulled or a command that exits with 2. The
// errors must name the step.
func TestErrorsNameTheStep(t *testing.T) {
	all := functions(t)
	t.Chdir(t.TempDir()) // for files that functions write to the working directory
	e := start(t)
	host, _ := registrytest.Serve(t, nil)
	e.service = host
	secret := dag.SetSecret("p", "x")
	complete := func() *Fakeart {
		m := module(to(host+"/fakeart"), withPassword(secret))
		m.RegistryService = dag.Address("tcp://" + host).Service()
		return m
	}
	values := map[string]any{
		"signingKey": signingKey(), "signingPassword": secret, "platform": stagetest.Platform, "program": "server",
		"backend": "gs://state", "stack": "dev", "image": host + "/server@sha256:" + strings.Repeat("1", 64), "scenario": "smoke", "path": "/",
	}
	digests, err := module(to(host+"/dev")).Publish(t.Context(), nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	values["from"] = strings.Fields(digests)[1]
	for _, f := range all {
		t.Run(f.name, func(t *testing.T) {
			e.failOn("")
			if err := f.call(t.Context(), complete(), values); err != nil {
				t.Fatal(err)
			}
			for _, query := range firstAndLast(e.failOn("")) {
				e.failOn(query)
				err := f.call(t.Context(), complete(), values)
				sent := e.failOn("")
				if err == nil && !slices.Contains(sent, query) {
					continue // a query of an earlier call, which was canceled
				}
				if err == nil {
					t.Fatalf("query %s failed, but the function returned no error", query)
				}
				if reason := reason(err); !strings.HasPrefix(reason, "step ") || !strings.Contains(reason, " failed: ") {
					t.Errorf("query %s failed: error %q doesn't name a step", query, shown(err))
				}
				if strings.Contains(query, "withExec(") && (!strings.HasPrefix(shown(err), "one\ntwo\nthree\nstep ") || !strings.Contains(reason(err), ": exit code 2")) {
					t.Errorf("query %s failed: error %q doesn't have the command's output", query, shown(err))
				}
			}
		})
	}
}

// firstAndLast returns the first and the last query for each final field.
func firstAndLast(queries []string) []string {
	var first, last []string
	seen := map[string]int{} // index in last, by field
	for i, q := range queries {
		field := q[strings.LastIndex(q, ").")+1:]
		field, _, _ = strings.Cut(field, "(")
		at, ok := seen[field]
		switch {
		case !ok:
			seen[field] = len(last)
			first, last = append(first, q), append(last, q)
		case !slices.Contains(queries[:i], q):
			last[at] = q
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(append(first, last...))))
}

func TestFailure(t *testing.T) {
	for _, c := range []struct{ name, command, text, want string }{
		{"command", "make lint", "%w", "make lint: exit code 2"},
		{"script", "sh -euc \n\tapt-get update\n\tapt-get install chromium\n", "%w", "sh -euc apt-get update apt-get install chromium: exit code 2"},
		{"long_command", strings.Repeat("é", 300), "%w", strings.Repeat("é", 60) + "…: exit code 2"},
		{"wrapped", "make lint", "sign image: %w\nhint: try again", "sign image: make lint: exit code 2\nhint: try again"},
	} {
		t.Run(c.name, func(t *testing.T) {
			start(t).fail = c.command
			_, err := dag.Container().WithExec([]string{c.command}).Stdout(t.Context())
			err = explained("test", fmt.Errorf(c.text, err))
			if got, want := shown(err), "one\ntwo\nthree\nstep test failed: "+c.want; got != want {
				t.Errorf("error\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestFailure_output(t *testing.T) {
	for _, c := range []struct{ stdout, stderr, want string }{
		{"one\n\n", "two\n", "one\ntwo"}, {"", "\ntwo\n", "two"}, {"one", "", "one"}, {"", "", ""},
	} {
		f := &failure{exec: &dagger.ExecError{Stdout: c.stdout, Stderr: c.stderr}}
		if got := f.Output(); got != c.want {
			t.Errorf("Output() = %q, want %q", got, c.want)
		}
	}
}

func TestSource(t *testing.T) {
	commit := strings.Repeat("ab", 20)
	const created = "2026-11-27T03:15:35Z"
	for _, c := range []struct {
		name, revision, created, changes string
		archive                          bool
		want, err                        string
	}{
		{name: "git", want: commit},
		{name: "git_with_changes", changes: " M go.mod\n", want: commit + "-modified"},
		{name: "arguments", revision: commit, created: created, want: commit},
		{name: "arguments_with_changes", revision: commit + "-modified", created: created, changes: "?? x\n", want: commit + "-modified"},
		{name: "arguments_for_archive", revision: strings.Repeat("c", 40), created: created, archive: true, want: strings.Repeat("c", 40)},
		{name: "other_commit", revision: strings.Repeat("c", 40), created: created, err: "the checkout's commit is " + commit},
		{name: "modified_tree", revision: commit, created: created, changes: " M go.mod\n", err: "differs from that commit:\n M go.mod\nhint: omit"},
		{name: "other_time", revision: commit, created: "2026-11-27T03:15:36Z", err: "but the commit's time is " + created},
		{name: "no_time", revision: commit, err: "--revision or --created is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, m := start(t), module()
			e.archive, e.changes, m.Revision, m.Created = c.archive, c.changes, c.revision, c.created
			_, err := m.Build(t.Context())
			if c.err != "" {
				if err == nil || !strings.HasPrefix(shown(err), "step build failed: ") || !strings.Contains(shown(err), c.err) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			e.checkRan(t, "make stage PLATFORMS="+stagetest.Platform+" REVISION="+c.want+" CREATED="+created)
		})
	}
	t.Run("no_git", func(t *testing.T) {
		start(t).fail = "sh -euc git"
		_, err := module().Build(t.Context())
		if err == nil || !strings.HasSuffix(shown(err), ": exit code 2\nhint: worktrees and archives have no .git directory; pass --revision and --created") {
			t.Errorf("error %v", err)
		}
	})
}
