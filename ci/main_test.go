//go:build offline

package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/parser"

	"dagger/fakeart/internal/dagger"
	"dagger/fakeart/internal/enginetest"
	"dagger/fakeart/internal/images"
	"dagger/fakeart/internal/oci"
	"dagger/fakeart/internal/publish/registrytest"
	"dagger/fakeart/internal/stage"
	"dagger/fakeart/internal/stage/stagetest"
)

// engine is a fake Dagger engine. It represents a query as a chain, a text in which other chains
// replace the identifiers: from(golang…).withExec(make, lint).combinedOutput.
type engine struct {
	mu     sync.Mutex
	chains []string // by identifier
	calls  []string // chains whose value was requested

	// fail is the start of commands that fail; "" means that none fails.
	fail string
	// failing is the query that fails. queries has all queries since the last failOn. Both are
	// without the parts that differ between runs, see changing.
	failing string
	queries []string
	// images is a directory with an OCI layout per program.
	images string
	// accuracy is the accuracy of the trained model.
	accuracy float64
	// service is the address of services that are started.
	service string
	// archive means that the source has no .git. Otherwise, changes is the list of modified files
	// that git prints.
	archive bool
	changes string
}

// imagesFile is the content of images.yaml.
//
//go:embed images.yaml
var imagesFile string

// current is the engine of the running test.
var current struct {
	sync.Mutex
	*engine
}

// requests is the set of connections on which the engine is handling a request.
var requests sync.Map

func TestMain(m *testing.M) {
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		current.Lock()
		e := current.engine
		current.Unlock()
		e.serve(w, r)
	})}
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateActive {
			requests.Store(conn, true)
		} else {
			requests.Delete(conn)
		}
	}
	go func() {
		if err := server.Serve(enginetest.Listener); !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()
	code := m.Run()
	if err := errors.Join(server.Close(), os.RemoveAll(built.dir)); err != nil {
		log.Print(err)
	}
	os.Exit(code)
}

// built is the directory that layouts returns.
var built struct {
	sync.Once
	dir string
}

// handling reports whether the engine is handling a request.
func handling() (active bool) {
	requests.Range(func(_, _ any) bool { active = true; return false })
	return active
}

// layouts returns a directory with images of small test programs, which are built once for all tests.
func layouts(t *testing.T) string {
	t.Helper()
	built.Do(func() {
		dir, err := os.MkdirTemp("", "images-") //nolint:usetesting // other tests use it as well
		if err != nil {
			t.Fatal(err)
		}
		built.dir = dir
		root, staged, archive := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "base.tar")
		stagetest.Checkout(t, root)
		if _, err = stage.Write(t.Context(), staged, stage.Options{
			Root: root, Source: stage.Source{Revision: strings.Repeat("ab", 20), Created: time.Unix(1795749335, 0).UTC()},
			Platforms: own, GoVersion: strings.TrimPrefix(runtime.Version(), "go"), Log: io.Discard,
		}); err != nil {
			t.Fatal(err)
		}
		if err := oci.Archive(stagetest.Base(t, nil), "base:1", archive, time.Unix(0, 0)); err != nil {
			t.Fatal(err)
		}
		base, err := oci.ReadBase(archive)
		if err != nil {
			t.Fatal(err)
		}
		made, err := images.Make(images.Options{Stage: staged, Base: base, Repository: "https://git.example/a/b", Builder: "https://git.example"})
		if err != nil {
			t.Fatal(err)
		}
		for program, b := range made {
			if err := b.Save(filepath.Join(dir, program), program); err != nil {
				t.Fatal(err)
			}
		}
		list, err := images.DigestList(made)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "digests.txt"), []byte(list+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	return built.dir
}

// start makes a new engine the current one and returns it.
func start(t *testing.T) *engine {
	t.Helper()
	e := &engine{images: layouts(t), accuracy: 0.98}
	// If a step fails, the others are canceled, but their requests may still arrive. Wait for them,
	// because this test's engine must not receive them.
	for deadline := time.Now().Add(10 * time.Second); handling(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("requests of an earlier test are still open")
		}
	}
	current.Lock()
	current.engine = e
	current.Unlock()
	return e
}

// module returns a module with default arguments, changed by options.
func module(options ...func(*Fakeart)) *Fakeart {
	m := New(dag.Directory().WithNewDirectory("checkout"), "", "", "", nil, "", "", "", "", "", nil, nil, "", "",
		"smoke", 0.9, []dagger.Platform{dagger.Platform(stagetest.Platform)}, "", nil, "", nil, nil, "")
	for _, o := range options {
		o(m)
	}
	return m
}

// to sets the registry to push to, and tags.
func to(registry string, tags ...string) func(*Fakeart) {
	return func(m *Fakeart) { m.Registry, m.Tags = registry, tags }
}

// withPassword sets the registry's credentials.
func withPassword(password *dagger.Secret) func(*Fakeart) {
	return func(m *Fakeart) { m.RegistryUsername, m.RegistryPassword = "me", password }
}

// serve responds to a GraphQL request.
func (e *engine) serve(w http.ResponseWriter, r *http.Request) {
	var request struct{ Query string }
	err := json.NewDecoder(r.Body).Decode(&request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	query, err := parser.ParseQuery(&ast.Source{Input: request.Query})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	data, err := e.selection("", query.Operations[0].SelectionSet)
	var failed *commandError
	response := map[string]any{"data": data}
	switch {
	case errors.As(err, &failed):
		response = map[string]any{"errors": []any{map[string]any{
			"message":    `process "` + failed.command + `" did not complete successfully: exit code: 2`,
			"path":       []string{"container", "withExec"},
			"extensions": map[string]any{"_type": "EXEC_ERROR", "cmd": strings.Split(failed.command, " "), "exitCode": 2, "stdout": "one\ntwo", "stderr": "three\n"},
		}}}
	case err != nil:
		response = map[string]any{"errors": []any{map[string]any{"message": err.Error()}}}
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(response); err != nil {
		log.Print(err)
	}
}

// commandError makes a query fail with the engine's error for a failed command.
type commandError struct{ command string }

func (c *commandError) Error() string { return c.command }

// selection returns the values of the fields in set, which extend chain.
func (e *engine) selection(chain string, set ast.SelectionSet) (map[string]any, error) {
	data := map[string]any{}
	for _, s := range set {
		f := s.(*ast.Field)
		var args []string
		// The client's order of arguments differs between calls.
		slices.SortFunc(f.Arguments, func(a, b *ast.Argument) int { return strings.Compare(a.Name, b.Name) })
		for _, a := range f.Arguments {
			args = append(args, e.expand(a.Value))
		}
		text := strings.TrimPrefix(chain+"."+f.Name+"("+strings.Join(args, ", ")+")", ".")
		var err error
		if len(f.SelectionSet) > 0 {
			data[f.Alias], err = e.selection(text, f.SelectionSet)
		} else {
			data[f.Alias], err = e.value(text, f, args)
		}
		if err != nil {
			return nil, err
		}
	}
	return data, nil
}

// expand returns a value as text, with identifiers replaced by their chains.
func (e *engine) expand(v *ast.Value) string {
	if len(v.Children) > 0 {
		var all []string
		for _, c := range v.Children {
			all = append(all, e.expand(c.Value))
		}
		return strings.Join(all, " ")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var id int
	if n, err := fmt.Sscanf(v.Raw, "identifier-%d", &id); n == 1 && err == nil {
		if id >= len(e.chains) {
			return "[of an earlier test]" // a canceled call
		}
		return "[" + e.chains[id] + "]"
	}
	return v.Raw
}

// value returns the value of a chain that ends in the field f.
func (e *engine) value(chain string, f *ast.Field, args []string) (any, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	query := changing.ReplaceAllString(chain, "")
	if e.queries = append(e.queries, query); query == e.failing {
		if at := strings.LastIndex(chain, "withExec("); at >= 0 {
			return nil, &commandError{chain[at:]}
		}
		return nil, errors.New("lookup registry.example: no such host")
	}
	if f.Name == "id" {
		e.chains = append(e.chains, strings.TrimSuffix(chain, ".id()"))
		return fmt.Sprintf("identifier-%d", len(e.chains)-1), nil
	}
	e.calls = append(e.calls, chain)
	if at := strings.LastIndex(chain, "withExec("+e.fail); e.fail != "" && at >= 0 {
		command, _, _ := strings.Cut(chain[at+len("withExec("):], ")")
		return nil, &commandError{command}
	}
	has := func(part string) bool { return strings.Contains(chain, part) }
	of := func(file string) bool { return strings.HasSuffix(chain, ".file("+file+").contents()") }
	switch f.Name {
	case "sync":
		e.chains = append(e.chains, strings.TrimSuffix(chain, ".sync()"))
		return fmt.Sprintf("identifier-%d", len(e.chains)-1), nil
	case "start":
		e.chains = append(e.chains, strings.TrimSuffix(chain, ".start()"))
		return fmt.Sprintf("identifier-%d", len(e.chains)-1), nil
	case "exists":
		return !strings.Contains(chain, "none") && (!e.archive || !strings.Contains(chain, ".git")), nil
	case "defaultPlatform":
		return stagetest.Platform, nil
	case "endpoint":
		return e.service, nil
	case "plaintext":
		_, text, _ := strings.Cut(strings.TrimSuffix(chain, ").plaintext()"), ", ")
		return text, nil
	case "imageRef":
		return strings.TrimSuffix(strings.SplitN(chain, "from(", 2)[1], ").imageRef()") + "@sha256:" + strings.Repeat("5", 64), nil
	case "contents":
		switch {
		case of("ci/images.yaml"):
			return imagesFile, nil
		case of("eval.json"):
			return fmt.Sprintf(`{"accuracy":%v,"count":1000}`, e.accuracy), nil
		case of("digests.txt"):
			text, err := os.ReadFile(filepath.Join(e.images, "digests.txt"))
			return string(text), err
		}
	case "entries":
		return []string{".git/", ".golangci.yml", "Makefile", "README.md", "docs/", "server/"}, nil
	case "glob":
		return []string{"docs/links_test.go"}, nil
	case "stdout", "combinedOutput":
		switch {
		case has("git log -1"):
			return strings.Repeat("ab", 20) + " 1795749335\n" + e.changes, nil
		}
		return "printed\n", nil
	case "export":
		return args[0], os.CopyFS(args[0], os.DirFS(e.images))
	}
	return nil, fmt.Errorf("the fake engine doesn't support %s", chain)
}

// failOn makes a query fail, or none if it's empty. It returns the queries since the previous call.
func (e *engine) failOn(query string) (sent []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	sent, e.failing, e.queries = e.queries, query, nil
	return sent
}

// changing matches the parts of a query that differ between runs.
var changing = regexp.MustCompile(`FAKEART_CALLED_AT, [^)]*|export\(.*`)

// ran returns the commands that the engine was asked to run, without duplicates.
func (e *engine) ran() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []string
	for _, chain := range e.calls {
		for _, exec := range strings.Split(chain, "withExec(")[1:] {
			if command, _, _ := strings.Cut(exec, ")"); !slices.Contains(all, command) {
				all = append(all, command)
			}
		}
	}
	return all
}

// checkRan fails the test unless commands that start with these texts ran.
func (e *engine) checkRan(t *testing.T, commands ...string) {
	t.Helper()
	ran := e.ran()
	for _, c := range commands {
		if !slices.ContainsFunc(ran, func(r string) bool { return strings.HasPrefix(r, c) }) {
			t.Errorf("commands %q, want one that starts with %q", ran, c)
		}
	}
}

var own = []string{stagetest.Platform}

func TestPipeline(t *testing.T) {
	e := start(t)
	host, tags := registrytest.Serve(t, nil)
	digests, err := module(to(host+"/fakeart", "latest")).Pipeline(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(digests, "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "server "+host+"/fakeart/server@sha256:") || !strings.HasPrefix(lines[1], "trainer ") {
		t.Errorf("Pipeline() =\n%s", digests)
	}
	e.checkRan(t, "make lint-go workflows", "make prose", "make cover", "make slo-check", "make fuzz", "make smoke", "make docs-check",
		"make stage PLATFORMS="+stagetest.Platform+" REVISION=abab", "make images STAGED=1 PLATFORMS="+stagetest.Platform,
		"/app/trainer train run.dir=run experiment=smoke", "tools/build.sh")
	want := []string{
		"/v2/fakeart/server/manifests/abababababab", "/v2/fakeart/trainer/manifests/abababababab",
		"/v2/fakeart/server/manifests/latest", "/v2/fakeart/trainer/manifests/latest",
	}
	if got := tags(); !slices.Equal(got, want) {
		t.Errorf("tags %v, want %v", got, want)
	}
	again, err := module(to(host + "/fakeart")).Run(t.Context())
	if err != nil || again != digests {
		t.Errorf("Run() =\n%s (%v), want\n%s", again, err, digests)
	}
	unpushed, err := module().Pipeline(t.Context())
	if err != nil || !strings.HasPrefix(unpushed, "server sha256:") || !strings.Contains(digests, strings.Fields(unpushed)[1]) {
		t.Errorf("Pipeline() without a registry =\n%s (%v)", unpushed, err)
	}
}

// TestPipelineTargets checks that the pipeline runs every check of `make test`, and `make interop`.
func TestPipelineTargets(t *testing.T) {
	e := start(t)
	if _, err := module().Pipeline(t.Context()); err != nil {
		t.Fatal(err)
	}
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	test := regexp.MustCompile(`(?m)^test: (.*) ##`).FindSubmatch(makefile)
	if test == nil {
		t.Fatal("the Makefile has no target test")
	}
	ran := strings.Join(e.ran(), " ") + " "
	for target := range strings.FieldsSeq(string(test[1]) + " interop") {
		if !strings.Contains(ran, " "+target+" ") {
			t.Errorf("the pipeline doesn't run make %s", target)
		}
	}
}

// TestStepsReadOwnPaths checks that a step's cache key depends only on the paths of the checkout
// that the step reads.
func TestStepsReadOwnPaths(t *testing.T) {
	e := start(t)
	if _, err := module().Pipeline(t.Context()); err != nil {
		t.Fatal(err)
	}
	for command, others := range map[string][]string{
		"tools/build.sh": {"file(Makefile)", "directory(docs)", "directory(server)", "directory(tools)"},
		"npm ci":         {"file(Makefile)", "directory(server)"},
		"make lint-go":   {"directory(docs)", "file(README.md)"},
		"make cover":     {"directory(docs)", "file(README.md)"},
		"make stage":     {"directory(docs)", "directory(tools)", "file(README.md)"},
		"make slo-check": {"directory(docs)", "directory(server)"},
	} {
		found := false
		for _, chain := range e.calls {
			before, _, ok := strings.Cut(chain, "withExec("+command)
			if !ok {
				continue
			}
			found, before = true, innermost(before)
			for _, other := range others {
				if strings.Contains(before, other) {
					t.Errorf("%s depends on %s", command, other)
				}
			}
			// If a copy has a filter, the engine doesn't cache it by content.
			if strings.Contains(before, "*") {
				t.Errorf("%s copies with a filter: %s", command, before)
			}
		}
		if !found {
			t.Errorf("%s didn't run", command)
		}
	}
}

// innermost returns the part of a chain after the last bracket that isn't closed.
func innermost(chain string) string {
	for i, closed := len(chain)-1, 0; i >= 0; i-- {
		switch chain[i] {
		case ']':
			closed++
		case '[':
			if closed--; closed < 0 {
				return chain[i+1:]
			}
		}
	}
	return chain
}

func TestPipeline_failure(t *testing.T) {
	for _, c := range []struct{ command, step string }{
		{"make lint-go", "lint"},
		{"make prose", "prose"},
		{"make cover", "cover"},
		{"make slo-check", "slo-check"},
		{"make fuzz", "fuzz"},
		{"make smoke", "smoke"},
		{"make interop", "interop"},
		{"make docs-check", "docs-check"},
		{"make stage", ""},
		{"make images", "images"},
		{"/app/trainer data prepare", "train"},
		{"/app/trainer train", "train"},
		{"npm ci", ""},
		{"tools/build.sh lint", "tool golangci-lint"},
	} {
		t.Run(c.command, func(t *testing.T) {
			e := start(t)
			e.fail = c.command
			host, tags := registrytest.Serve(t, nil)
			digests, err := module(to(host+"/fakeart", "latest")).Pipeline(t.Context())
			if err == nil || digests != "" {
				t.Fatalf("Pipeline() = %q, %v, want an error", digests, err)
			}
			lines := strings.Split(shown(err), "\n")
			last := lines[len(lines)-1]
			if !strings.HasPrefix(last, "step "+c.step) || !strings.Contains(last, " failed: "+c.command) || !strings.Contains(last, "exit code 2") {
				t.Errorf("last line of the error = %q", last)
			}
			if !slices.Equal(lines[:len(lines)-1], []string{"one", "two", "three"}) {
				t.Errorf("lines of the error = %q", lines)
			}
			if got := tags(); len(got) > 0 {
				t.Errorf("tags %v", got)
			}
		})
	}
}

func TestPipeline_inaccurateModel(t *testing.T) {
	e := start(t)
	e.accuracy = 0.5
	host, tags := registrytest.Serve(t, nil)
	_, err := module(to(host + "/fakeart")).Pipeline(t.Context())
	if err == nil || !strings.HasPrefix(shown(err), "step gate failed: accuracy 0.5000 on 1000 images is below the minimum, 0.9000\nhint: ") {
		t.Errorf("error %v", err)
	}
	if got := tags(); len(got) > 0 {
		t.Errorf("tags %v", got)
	}
}

func TestInvalidArguments(t *testing.T) {
	e := start(t)
	secret := dag.SetSecret("password", "x")
	on := func(platform dagger.Platform) func(*Fakeart) {
		return func(m *Fakeart) { m.Platforms = []dagger.Platform{platform} }
	}
	local := to("127.0.0.1:1/x")
	for want, call := range map[string]func(context.Context) (string, error){
		`unsupported platform "linux/mips"`: func(ctx context.Context) (string, error) { return module(on("linux/mips")).Pipeline(ctx) },
		"set --registry=":                   func(ctx context.Context) (string, error) { return module(to("", "latest")).Pipeline(ctx) },
		`invalid registry "x"`:              func(ctx context.Context) (string, error) { return module(to("x")).Pipeline(ctx) },
		"user name or password is missing": func(ctx context.Context) (string, error) {
			return module(local, withPassword(nil)).Publish(ctx, nil, nil, nil)
		},
		"--signing-password is missing": func(ctx context.Context) (string, error) {
			return module(local).Publish(ctx, secret, nil, nil)
		},
		"can't be used together": func(ctx context.Context) (string, error) {
			return module(local).Publish(ctx, secret, secret, secret)
		},
		`image "server:v1" has no digest`: func(ctx context.Context) (string, error) {
			return module().Deploy(ctx, "gs://state", "server:v1", "", "dev", nil, nil, nil)
		},
		`image "a/server:v1" has no digest`: func(ctx context.Context) (string, error) {
			return module(local).Promote(ctx, "a/server:v1")
		},
		"minimum accuracy 90 isn't between 0 and 1": func(ctx context.Context) (string, error) {
			return module(func(m *Fakeart) { m.MinAccuracy = 90 }).Pipeline(ctx)
		},
		"--experiment=none: the checkout has no configs/experiment/none.yaml": func(ctx context.Context) (string, error) {
			return module(func(m *Fakeart) { m.Experiment = "none" }).Pipeline(ctx)
		},
		"step train failed: --experiment=none": func(ctx context.Context) (string, error) {
			_, err := module(func(m *Fakeart) { m.Experiment = "none" }).Train(ctx, nil, nil)
			return "", err
		},
		"--revision or --created is missing": func(ctx context.Context) (string, error) {
			m := module()
			m.Revision = strings.Repeat("a", 40)
			_, err := m.Build(ctx)
			return "", err
		},
	} {
		if _, err := call(t.Context()); err == nil || !strings.Contains(shown(err), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if ran := e.ran(); len(ran) > 0 {
		t.Errorf("commands %q, want none", ran)
	}
}

func TestPublish_forbidden(t *testing.T) {
	start(t)
	host, tags := registrytest.Serve(t, func(r *http.Request) int {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/trainer/manifests/") {
			return http.StatusForbidden
		}
		return 0
	})
	_, err := module(to(host+"/fakeart", "latest")).Publish(t.Context(), nil, nil, nil)
	if err == nil || !strings.HasPrefix(shown(err), "step push failed: push "+host+"/fakeart/trainer@sha256:") {
		t.Errorf("error %v", err)
	}
	if got := tags(); len(got) > 0 {
		t.Errorf("tags %v", got)
	}
}

func TestPublish_tunnel(t *testing.T) {
	e := start(t)
	host, _ := registrytest.Serve(t, nil)
	e.service = host
	m := module(to("127.0.0.1:1/fakeart"), withPassword(dag.SetSecret("p", "x")))
	m.RegistryService = dag.Address("tcp://127.0.0.1:1").Service()
	digests, err := m.Publish(t.Context(), signingKey(), dag.SetSecret("kp", "x"), nil)
	if err != nil || !strings.HasPrefix(digests, "server 127.0.0.1:1/fakeart/server@sha256:") {
		t.Errorf("Publish() =\n%s, %v", digests, err)
	}
	// Signatures have the registry's name, not the tunnel's.
	e.checkRan(t, "cosign sign --yes --key /run/cosign.key --tlog-upload=false --allow-http-registry --sign-container-identity=127.0.0.1:1/fakeart/server "+host+"/fakeart/server@sha256:")
}

func TestPublish_signed(t *testing.T) {
	e := start(t)
	host, tags := registrytest.Serve(t, nil)
	e.fail = "cosign sign"
	_, err := module(to(host+"/fakeart", "latest"), withPassword(dag.SetSecret("p", "x"))).Publish(t.Context(), signingKey(), dag.SetSecret("kp", "x"), nil)
	if err == nil || !strings.Contains(shown(err), "step sign failed: sign "+host+"/fakeart/server@sha256:") || !strings.Contains(shown(err), "cosign sign --yes --key /run/cosign.key") {
		t.Errorf("error %v", err)
	}
	if got := tags(); len(got) > 0 {
		t.Errorf("tags %v", got)
	}
	e.fail = ""
	if _, err := module(to(host+"/fakeart")).Publish(t.Context(), nil, nil, identityToken(time.Hour)); err != nil {
		t.Error(err)
	}
	e.checkRan(t, "cosign sign --yes "+host+"/fakeart/server@sha256:", "cosign sign --yes "+host+"/fakeart/trainer@sha256:")
}

func TestPromote(t *testing.T) {
	start(t)
	host, _ := registrytest.Serve(t, nil)
	digests, err := module(to(host+"/dev")).Publish(t.Context(), nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	from := strings.Fields(digests)[1]
	got, err := module(to(host+"/prod", "v1")).Promote(t.Context(), from)
	if want := "server " + strings.Replace(from, "/dev/", "/prod/", 1); err != nil || got != want {
		t.Errorf("Promote() = %q (%v), want %q", got, err, want)
	}
}

func TestInfra_neverCached(t *testing.T) {
	e := start(t)
	m, secret := module(), dag.SetSecret("s", "x")
	image := "registry.example/server@sha256:" + strings.Repeat("1", 64)
	for _, call := range []func(context.Context) (string, error){
		func(ctx context.Context) (string, error) { return m.InfraPreview(ctx, "dev", secret, "", nil, nil) },
		func(ctx context.Context) (string, error) {
			return m.InfraUp(ctx, "gs://state", "dev", secret, secret, dag.Directory())
		},
		func(ctx context.Context) (string, error) {
			return m.Deploy(ctx, "gs://state", image, "", "prod", nil, secret, nil)
		},
	} {
		if out, err := call(t.Context()); err != nil || out != "printed\n" {
			t.Errorf("output %q, %v", out, err)
		}
	}
	e.checkRan(t, "make infra-preview STACK=dev", "make infra-up STACK=dev ARGS=--non-interactive --yes", "make deploy STACK=prod IMAGE="+image)
	for _, chain := range e.calls {
		if strings.Contains(chain, "withExec(make infra-up") && !strings.Contains(chain, "withEnvVariable(FAKEART_CALLED_AT, ") {
			t.Errorf("the engine may cache %s", chain)
		}
		if strings.Contains(chain, "withExec(make infra-up") && !strings.Contains(chain, "withEnvVariable(PULUMI_GCP_SKIP_REGION_VALIDATION, true)") {
			t.Errorf("the provider would request the regions from Compute Engine: %s", chain)
		}
	}
}

func TestSettings(t *testing.T) {
	e := start(t)
	m := New(dag.Directory().WithNewDirectory("checkout"), "golang@sha256:1", "node@sha256:2", "", nil,
		"http://go.example", "off", "http://npm.example", "http://pip.example", "http://apt.example/", dag.File("ca.pem", "x"), dag.SetSecret("netrc", "x"), "", "",
		"smoke", 0.9, nil, "", nil, "", nil, nil, "")
	if _, err := m.Lint(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := strings.Join(e.calls, "\n")
	for _, want := range []string{
		"from(golang@sha256:1)", "from(node@sha256:2)", "withEnvVariable(GOPROXY, http://go.example)", "withEnvVariable(GOSUMDB, off)",
		"withEnvVariable(NPM_CONFIG_REGISTRY, http://npm.example)", "withEnvVariable(PIP_INDEX_URL, http://pip.example)", `://[^/]+|\1http://apt.example|`, "withExec(update-ca-certificates)",
		"withMountedSecret(/root/.netrc,",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no query contains %s", want)
		}
	}
}

func TestOtherFunctions(t *testing.T) {
	e := start(t)
	t.Chdir(t.TempDir()) // for files that functions write to the working directory
	base := module(func(m *Fakeart) { m.Experiment = "base" })
	model := dag.File("model.onnx", "x")
	for name, call := range map[string]func(context.Context, *Fakeart) error{
		"docs": func(ctx context.Context, m *Fakeart) error {
			_, err := m.Docs(ctx, "/x/", "https://git.example/a/b")
			return err
		},
		"test":   func(ctx context.Context, m *Fakeart) error { _, err := m.Test(ctx); return err },
		"report": func(ctx context.Context, m *Fakeart) error { _, err := m.Report(ctx); return err },
		"build":  func(ctx context.Context, m *Fakeart) error { _, err := m.Build(ctx); return err },
		"train": func(ctx context.Context, m *Fakeart) error {
			_, err := m.Train(ctx, []string{"seed=1"}, dag.Directory())
			return err
		},
		"load-test": func(ctx context.Context, m *Fakeart) error { _, err := m.LoadTest(ctx, Spike, nil); return err },
		"image": func(ctx context.Context, m *Fakeart) error {
			_, err := m.TrainerImage(ctx, dagger.Platform(stagetest.Platform))
			return err
		},
		"vulns": func(ctx context.Context, m *Fakeart) error { _, err := m.Vulns(ctx, dag.Directory()); return err },
		"serve": func(ctx context.Context, m *Fakeart) error {
			service, err := m.Serve(ctx, model)
			if err == nil {
				_, err = service.ID(ctx)
			}
			return err
		},
		"terminal": func(ctx context.Context, m *Fakeart) error {
			c, err := m.Terminal(ctx)
			if err == nil {
				_, err = c.ID(ctx)
			}
			return err
		},
		"fmt":       func(ctx context.Context, m *Fakeart) error { _, err := m.Fmt(ctx); return err },
		"reference": func(ctx context.Context, m *Fakeart) error { _, err := m.Reference(ctx); return err },
	} {
		if err := call(t.Context(), base); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	e.checkRan(t, "make docs", "make test-short", "make --keep-going cover", "make fmt", "make reference", "make vulns GOVULNDB=file:///vulndb",
		"/app/trainer train run.dir=run experiment=base dataset.dir=data seed=1",
		"k6 run --no-usage-report -e TARGET=http://server:8080 -e SCENARIO=spike")
}

func TestRenewImages(t *testing.T) {
	e := start(t)
	if _, err := module().RenewImages(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(e.calls, "\n"); strings.Count(all, "@sha256:"+strings.Repeat("5", 64)) != 3 {
		t.Errorf("want 3 new digests in\n%s", all)
	}
}
