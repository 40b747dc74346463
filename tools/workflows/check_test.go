package workflows

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/rhysd/actionlint"
)

// set returns a set of the names.
func set(names ...string) map[string]bool {
	m := map[string]bool{}
	for _, name := range names {
		m[name] = true
	}
	return m
}

func TestRead(t *testing.T) {
	got, err := Read("testdata")
	if err != nil {
		t.Fatal(err)
	}
	want := &Known{
		Targets:     set("test", "lint", "loadtest"),
		Variables:   set("MODEL", "groups"),
		Constructor: set("source", "go-image", "ca-bundle", "go-sumdb"),
		Functions: map[string]map[string]bool{
			"lint": {}, "server-image": set("platform", "registry-username", "registry-password"),
		},
		Engine:  "0.20.3",
		Outputs: set("registry", "workloadIdentityProvider", "url", "canaryUrl"),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestRead_Errors(t *testing.T) {
	for _, test := range []struct{ name, path, text, want string }{
		{"no Makefile", "Makefile", "", "Makefile: open"},
		{"Makefile without phony targets", "Makefile", "all: b\n", "Makefile: no phony targets"},
		{"no dagger.json", "dagger.json", "", "dagger.json: open"},
		{"dagger.json without a version", "dagger.json", "{}", "dagger.json: engineVersion is missing"},
		{"no module", "ci/main.go", "", "ci: func New, which"},
		{"invalid Go", "ci/main.go", "func", "ci: "},
		{"module without functions", "ci/main.go", "package main\ntype M struct{}\nfunc New() *M { return nil }\n", "ci: M has no exported method"},
		{"no Pulumi program", "infra/main.go", "", "infra/main.go: open"},
		{"no outputs", "infra/main.go", "package main\n", "infra/main.go: no keys"},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			if err := os.CopyFS(root, os.DirFS("testdata")); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(root, test.path)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if test.text != "" {
				if err := os.WriteFile(path, []byte(test.text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if test.path == "ci/main.go" {
				_ = os.Remove(filepath.Join(root, "ci/publish.go"))
			}
			if _, err := Read(root); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

const commit = "de0fac2e4500dabe0009e67214ff5f5447ce83dd"

// workflow returns a valid workflow with these steps.
func workflow(steps string) string {
	return "on: push\npermissions: {}\nconcurrency: one\njobs:\n  a:\n    timeout-minutes: 1\n    steps:\n" + steps
}

func TestCheck(t *testing.T) {
	known, err := Read("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, text string
		want       []string // a substring of each problem
	}{
		{"known target and variable", workflow("      - run: make -s loadtest MODEL=\"$MODEL\" && echo make nothing\n"), nil},
		{"known function and flags", workflow(`      - run: |
          dagger call --go-image=a server-image --platform="$P" \
            --registry-password=env:TOKEN export --path=image.tar > "$RUNNER_TEMP/x"
`), nil},
		{"unknown target", workflow("      - run: make tset\n"), []string{"w.yaml:8: make: the Makefile has no phony target tset"}},
		{"unknown target in a loop", workflow("      - run: |\n          cd x\n          for i in 1 2; do FOO=1 make test deploy; done\n"), []string{"w.yaml:10: make: the Makefile has no phony target deploy"}},
		{"unknown target in a substitution", workflow("      - run: echo \"$(make nothing)\"\n"), []string{"target nothing"}},
		{"target that is a file", workflow("      - run: make built\n"), []string{"target built"}},
		{"unknown make variable", workflow("      - run: make loadtest NOTHING=x\n"), []string{"no variable NOTHING"}},
		{"unknown function", workflow("      - run: dagger call serverImage\n"), []string{"unknown function serverImage; the functions are lint, server-image"}},
		{"unexported method", workflow("      - run: dagger call unexported\n"), []string{"unknown function unexported"}},
		{"method of another type", workflow("      - run: dagger call other\n"), []string{"unknown function other"}},
		{"unknown flag", workflow("      - run: dagger call server-image --tag=x\n"), []string{"the function server-image has no flag --tag; its flags are platform, registry-password, registry-username"}},
		{"flag in the wrong place", workflow("      - run: dagger call --platform=x server-image --go-image=y\n"), []string{"the constructor has no flag --platform", "server-image has no flag --go-image"}},
		{"flag of a function without flags", workflow("      - run: dagger call lint --platform=x\n"), []string{"the function lint has no flag --platform; its flags are none"}},
		{"flag value as a separate word", workflow("      - run: dagger call server-image --platform x\n"), []string{"x after the function server-image: expected export"}},
		{"unknown flag of export", workflow("      - run: dagger call server-image export --to=x\n"), []string{"export has no flag --to"}},
		{"no function", workflow("      - run: dagger call --go-image=x\n"), []string{"without a function"}},
		{"dagger without call", workflow("      - run: dagger run make test\n"), []string{"dagger without call can't"}},
		{"known output", workflow("      - run: echo \"$R\"\n        env: {R: \"${{ vars.WORKLOAD_IDENTITY_PROVIDER }} ${{ vars.DEPLOY }}\"}\n"), nil},
		{"unknown output", workflow("      - run: echo \"$R\"\n        env:\n          R: ${{ vars.REGISTRIES }}\n"), []string{"w.yaml:10: vars.REGISTRIES isn't an output of infra/main.go; the outputs are CANARY_URL, DEPLOY, "}},
		{"expression in a script", workflow("      - run: echo ${{ github.event.pull_request.title }}\n"), []string{"pass it in env"}},
		{"invalid script", workflow("      - run: if then\n"), []string{"invalid bash"}},
		{"pinned action", workflow("      - uses: actions/cache/restore@" + commit + " # v6.0.2\n      - uses: ./.github/actions/setup\n"), nil},
		{"action by tag", workflow("      - uses: actions/cache@v6\n"), []string{"actions/cache@v6 isn't pinned"}},
		{"action by short commit", workflow("      - uses: actions/cache@de0fac2 # v6.0.2\n"), []string{"isn't pinned"}},
		{"image by tag", workflow("      - uses: docker://alpine:3\n"), []string{"isn't pinned"}},
		{"action without a version comment", workflow("      - uses: actions/cache@" + commit + "\n"), []string{`has the comment ""`}},
		{"action with a partial version", workflow("      - uses: actions/cache@" + commit + " # v6\n"), []string{`has the comment "# v6"`}},
		{"reusable workflow by branch", "on: push\npermissions: {}\nconcurrency: one\njobs:\n  a:\n    uses: o/r/.github/workflows/w.yaml@main\n", []string{"isn't pinned"}},
		{"checkout that stores its token", workflow("      - uses: actions/checkout@" + commit + " # v6.0.2\n"), []string{"persist-credentials"}},
		{"other Dagger version", workflow("      - uses: dagger/dagger-for-github@" + commit + " # v8.4.1\n        with: {version: latest}\n"), []string{`Dagger version "latest": dagger.json requires 0.20.3`}},
		{"Dagger call in the action", workflow("      - uses: dagger/dagger-for-github@" + commit + " # v8.4.1\n        with: {version: 0.20.3, call: nothing}\n"), []string{"call: only install Dagger"}},
		{"login without an environment", workflow("      - uses: google-github-actions/auth@" + commit + " # v3.0.0\n"), []string{"w.yaml:8: the job a logs in to Google Cloud without an environment"}},
		{"login in an environment", strings.Replace(workflow("      - uses: google-github-actions/auth@"+commit+" # v3.0.0\n"), "    timeout", "    environment: prod\n    timeout", 1), nil},
		{"no permissions", "on: push\nconcurrency: one\njobs:\n  a:\n    timeout-minutes: 1\n    steps: []\n", []string{"has no permissions"}},
		{"no concurrency", "on: push\npermissions: {}\njobs:\n  a:\n    timeout-minutes: 1\n    steps: []\n", []string{"nor the job a sets concurrency"}},
		{"concurrency of a job", "on: push\npermissions: {}\njobs:\n  a:\n    concurrency: one\n    timeout-minutes: 1\n    steps: []\n", nil},
		{"no timeout", "on: push\npermissions: {}\nconcurrency: one\njobs:\n  a:\n    steps: []\n", []string{"no timeout-minutes"}},
		{"no jobs", "on: push\npermissions: {}\n", []string{"has no jobs"}},
		{
			"checkout on pull_request_target in a list", strings.Replace(workflow("      - uses: actions/checkout@"+commit+" # v6.0.2\n        with: {persist-credentials: false}\n"), "on: push", "on: [push, pull_request_target]", 1),
			[]string{"runs foreign code"},
		},
		{
			"checkout on pull_request_target in a mapping", strings.Replace(workflow("      - uses: actions/checkout@"+commit+" # v6.0.2\n        with: {persist-credentials: false}\n"), "on: push", "on:\n  pull_request_target:\n    types: [opened]", 1),
			[]string{"runs foreign code"},
		},
		{"pull_request_target without a checkout", strings.Replace(workflow("      - run: echo\n"), "on: push", "on: pull_request_target", 1), nil},
		{"local action", "runs:\n  using: composite\n  steps:\n    - run: make nothing\n      shell: bash\n    - uses: a/b@v1\n", []string{"w.yaml:4: make: ", "a/b@v1 isn't pinned"}},
		{"list", "- a\n", []string{"isn't a workflow"}},
		{"empty file", "", []string{"isn't a workflow"}},
		{"invalid YAML", "a: [\n", []string{"w.yaml: yaml:"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := known.Check("w.yaml", []byte(test.text))
			if len(got) != len(test.want) {
				t.Fatalf("got %q, want %q", got, test.want)
			}
			for i := range got {
				if !strings.Contains(got[i], test.want[i]) {
					t.Errorf("got %q, want %q", got[i], test.want[i])
				}
			}
		})
	}
}

const root = "../.."

// files returns the paths of the workflows and the local actions.
func files(t *testing.T) (workflows, actions []string) {
	t.Helper()
	for pattern, into := range map[string]*[]string{".github/workflows/*": &workflows, ".github/actions/*/action.y*ml": &actions} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: no file, %v", pattern, err)
		}
		*into = found
	}
	return workflows, actions
}

func TestCheck_Repository(t *testing.T) {
	known, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	pins := map[string]string{}
	workflows, actions := files(t)
	for _, path := range append(workflows, actions...) {
		text := read(t, path)
		for _, problem := range known.Check(strings.TrimPrefix(filepath.ToSlash(path), root+"/"), text) {
			t.Error(problem)
		}
		for _, m := range regexp.MustCompile(`uses: ([^\s@]+)@(.*)`).FindAllStringSubmatch(string(text), -1) {
			if pin := pins[m[1]]; pin != "" && pin != m[2] {
				t.Errorf("%s: %s is pinned to %s, elsewhere to %s", path, m[1], m[2], pin)
			}
			pins[m[1]] = m[2]
		}
	}
}

func TestActionlint(t *testing.T) {
	// Without shellcheck and pyflakes, which aren't installed everywhere.
	var out strings.Builder
	linter, err := actionlint.NewLinter(&out, &actionlint.LinterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	workflows, _ := files(t)
	problems, err := linter.LintFiles(workflows, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(problems) > 0 {
		t.Error(out.String())
	}
}

func TestDocumentedSettings(t *testing.T) {
	text := string(read(t, filepath.Join(root, "docs/how-to/ci.md")))
	workflows, _ := files(t)
	for _, path := range workflows {
		if !strings.Contains(text, "`"+filepath.Base(path)+"`") {
			t.Errorf("docs/how-to/ci.md doesn't mention %s", filepath.Base(path))
		}
		for _, name := range Settings(read(t, path)) {
			if !strings.Contains(text, "`"+name+"`") {
				t.Errorf("docs/how-to/ci.md doesn't explain %s, which %s reads", name, filepath.Base(path))
			}
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
