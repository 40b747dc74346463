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

// set is the names, as a set.
func set(names ...string) map[string]bool {
	m := map[string]bool{}
	for _, name := range names {
		m[name] = true
	}
	return m
}

func TestEverythingThatCanBeNamedIsRead(t *testing.T) {
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

func TestWhatCannotBeReadIsAnError(t *testing.T) {
	for _, test := range []struct{ name, path, text, want string }{
		{"no Makefile", "Makefile", "", "Makefile: open"},
		{"a Makefile of files", "Makefile", "all: b\n", "Makefile: no .PHONY names a target"},
		{"no dagger.json", "dagger.json", "", "dagger.json: open"},
		{"a dagger.json of another kind", "dagger.json", "{}", "dagger.json: has no engineVersion"},
		{"no module", "ci/main.go", "", "ci: has no func New"},
		{"a module that is no Go", "ci/main.go", "func", "ci: "},
		{"a module without functions", "ci/main.go", "package main\ntype M struct{}\nfunc New() *M { return nil }\n", "ci: M has no exported method"},
		{"no Pulumi program", "infra/main.go", "", "infra/main.go: open"},
		{"no outputs", "infra/main.go", "package main\n", "infra/main.go: puts nothing"},
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

// workflow is a good one with these steps.
func workflow(steps string) string {
	return "on: push\npermissions: {}\nconcurrency: one\njobs:\n  a:\n    timeout-minutes: 1\n    steps:\n" + steps
}

func TestWhatIsNotThereOrNotSafeIsFound(t *testing.T) {
	known, err := Read("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, text string
		want       []string // a part of each problem; none for a good workflow
	}{
		{"a target, a variable, and what is no call", workflow("      - run: make -s loadtest MODEL=\"$MODEL\" && echo make nothing\n"), nil},
		{"a function, flags on both sides, an export", workflow(`      - run: |
          dagger call --go-image=a server-image --platform="$P" \
            --registry-password=env:TOKEN export --path=image.tar > "$RUNNER_TEMP/x"
`), nil},
		{"an unknown target", workflow("      - run: make tset\n"), []string{"w.yaml:8: make: the Makefile has no phony target tset"}},
		{"a target behind others, in a loop", workflow("      - run: |\n          cd x\n          for i in 1 2; do FOO=1 make test deploy; done\n"), []string{"w.yaml:10: make: the Makefile has no phony target deploy"}},
		{"a target in a substitution", workflow("      - run: echo \"$(make nothing)\"\n"), []string{"target nothing"}},
		{"a file is no phony target", workflow("      - run: make built\n"), []string{"target built"}},
		{"an unknown variable of make", workflow("      - run: make loadtest NOTHING=x\n"), []string{"no variable NOTHING"}},
		{"an unknown function", workflow("      - run: dagger call serverImage\n"), []string{"no function serverImage: there are lint, server-image"}},
		{"a method that is not exported", workflow("      - run: dagger call unexported\n"), []string{"no function unexported"}},
		{"a method of another type", workflow("      - run: dagger call other\n"), []string{"no function other"}},
		{"an unknown flag", workflow("      - run: dagger call server-image --tag=x\n"), []string{"the function server-image has no flag --tag: there are platform, registry-password, registry-username"}},
		{"a flag on the wrong side", workflow("      - run: dagger call --platform=x server-image --go-image=y\n"), []string{"the constructor has no flag --platform", "server-image has no flag --go-image"}},
		{"a flag of a function without any", workflow("      - run: dagger call lint --platform=x\n"), []string{"the function lint has no flag --platform: there are none"}},
		{"a value that is a word of its own", workflow("      - run: dagger call server-image --platform x\n"), []string{"x after the function server-image: want export"}},
		{"an unknown flag of export", workflow("      - run: dagger call server-image export --to=x\n"), []string{"export has no flag --to"}},
		{"no function", workflow("      - run: dagger call --go-image=x\n"), []string{"names no function"}},
		{"dagger by another way", workflow("      - run: dagger run make test\n"), []string{"dagger without call"}},
		{"an output", workflow("      - run: echo \"$R\"\n        env: {R: \"${{ vars.WORKLOAD_IDENTITY_PROVIDER }} ${{ vars.DEPLOY }}\"}\n"), nil},
		{"an unknown output", workflow("      - run: echo \"$R\"\n        env:\n          R: ${{ vars.REGISTRIES }}\n"), []string{"w.yaml:10: vars.REGISTRIES is no output of infra/main.go: there are CANARY_URL, DEPLOY, "}},
		{"an expression in a script", workflow("      - run: echo ${{ github.event.pull_request.title }}\n"), []string{"hand it over in env"}},
		{"a script that is none", workflow("      - run: if then\n"), []string{"the script is none of bash"}},
		{"a pinned action", workflow("      - uses: actions/cache/restore@" + commit + " # v6.0.2\n      - uses: ./.github/actions/setup\n"), nil},
		{"an action by tag", workflow("      - uses: actions/cache@v6\n"), []string{"actions/cache@v6 can change"}},
		{"an action by a short commit", workflow("      - uses: actions/cache@de0fac2 # v6.0.2\n"), []string{"can change"}},
		{"an image by tag", workflow("      - uses: docker://alpine:3\n"), []string{"can change"}},
		{"an action without its version", workflow("      - uses: actions/cache@" + commit + "\n"), []string{`has the comment ""`}},
		{"an action with half a version", workflow("      - uses: actions/cache@" + commit + " # v6\n"), []string{`has the comment "# v6"`}},
		{"a called workflow by branch", "on: push\npermissions: {}\nconcurrency: one\njobs:\n  a:\n    uses: o/r/.github/workflows/w.yaml@main\n", []string{"can change"}},
		{"a checkout that keeps its token", workflow("      - uses: actions/checkout@" + commit + " # v6.0.2\n"), []string{"persist-credentials"}},
		{"another version of Dagger", workflow("      - uses: dagger/dagger-for-github@" + commit + " # v8.4.1\n        with: {version: latest}\n"), []string{`Dagger "latest": dagger.json wants 0.20.3`}},
		{"Dagger called by its action", workflow("      - uses: dagger/dagger-for-github@" + commit + " # v8.4.1\n        with: {version: 0.20.3, call: nothing}\n"), []string{"call: only have it installed"}},
		{"a login without an environment", workflow("      - uses: google-github-actions/auth@" + commit + " # v3.0.0\n"), []string{"w.yaml:8: the job a logs in to Google Cloud without an environment"}},
		{"a login in an environment", strings.Replace(workflow("      - uses: google-github-actions/auth@"+commit+" # v3.0.0\n"), "    timeout", "    environment: prod\n    timeout", 1), nil},
		{"no permissions", "on: push\nconcurrency: one\njobs:\n  a:\n    timeout-minutes: 1\n    steps: []\n", []string{"has no permissions"}},
		{"no concurrency", "on: push\npermissions: {}\njobs:\n  a:\n    timeout-minutes: 1\n    steps: []\n", []string{"nor the job a has a concurrency"}},
		{"a job's own concurrency", "on: push\npermissions: {}\njobs:\n  a:\n    concurrency: one\n    timeout-minutes: 1\n    steps: []\n", nil},
		{"no end", "on: push\npermissions: {}\nconcurrency: one\njobs:\n  a:\n    steps: []\n", []string{"no timeout-minutes"}},
		{"no jobs", "on: push\npermissions: {}\n", []string{"has no jobs"}},
		{
			"a stranger's code with our rights", strings.Replace(workflow("      - uses: actions/checkout@"+commit+" # v6.0.2\n        with: {persist-credentials: false}\n"), "on: push", "on: [push, pull_request_target]", 1),
			[]string{"runs a stranger's code"},
		},
		{
			"the same by mapping", strings.Replace(workflow("      - uses: actions/checkout@"+commit+" # v6.0.2\n        with: {persist-credentials: false}\n"), "on: push", "on:\n  pull_request_target:\n    types: [opened]", 1),
			[]string{"runs a stranger's code"},
		},
		{"pull_request_target without a checkout", strings.Replace(workflow("      - run: echo\n"), "on: push", "on: pull_request_target", 1), nil},
		{"an action of our own", "runs:\n  using: composite\n  steps:\n    - run: make nothing\n      shell: bash\n    - uses: a/b@v1\n", []string{"w.yaml:4: make: ", "a/b@v1 can change"}},
		{"a list", "- a\n", []string{"is no workflow"}},
		{"nothing", "", []string{"is no workflow"}},
		{"no YAML", "a: [\n", []string{"w.yaml: yaml:"}},
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

// files are the workflows, and the actions of our own.
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

func TestTheWorkflowsNameWhatIsThere(t *testing.T) {
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
				t.Errorf("%s: %s is %s, and elsewhere %s", path, m[1], m[2], pin)
			}
			pins[m[1]] = m[2]
		}
	}
}

func TestTheWorkflowsAreWorkflows(t *testing.T) {
	// Without shellcheck and pyflakes, which may be installed or not.
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

func TestTheDocumentationHasEveryVariableAndSecret(t *testing.T) {
	text := string(read(t, filepath.Join(root, "docs/how-to/ci.md")))
	workflows, _ := files(t)
	for _, path := range workflows {
		if !strings.Contains(text, "`"+filepath.Base(path)+"`") {
			t.Errorf("docs/how-to/ci.md does not have %s", filepath.Base(path))
		}
		for _, name := range Settings(read(t, path)) {
			if !strings.Contains(text, "`"+name+"`") {
				t.Errorf("docs/how-to/ci.md does not say what %s is, which %s reads", name, filepath.Base(path))
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
