package docs

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/yuin/goldmark/ast"
)

// known holds what commands can name, from the Makefile and the generated reference pages.
type known struct {
	makefile                         string
	server, trainer, keys, dagger    string
	targets, stackKeys, functions    []string
	setting, choice, flag, stackName *regexp.Regexp
}

func load(t *testing.T) *known {
	t.Helper()
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	k := &known{
		makefile: read("../Makefile"), server: read("reference/server.md"), trainer: read("reference/trainer.md"),
		keys: read("reference/keys.md"), dagger: read("reference/dagger.md"),
		setting: regexp.MustCompile(`^([a-z]+\.[a-z0-9_]+)=`), choice: regexp.MustCompile(`^([a-z]+=[a-z0-9]+)$`),
		flag: regexp.MustCompile(`^--([a-z0-9-]+)`), stackName: regexp.MustCompile(`\bfakeart:([a-zA-Z]+)(?:[^:\w]|$)`), // fakeart:infra:Service is a type
	}
	for _, target := range targets(k.makefile) {
		k.targets = append(k.targets, target[0])
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-zA-Z]+)` \\|").FindAllStringSubmatch(read("reference/stacks.md"), -1) {
		k.stackKeys = append(k.stackKeys, m[1])
	}
	for _, m := range regexp.MustCompile(`(?m)^## ([a-z-]+)$`).FindAllStringSubmatch(k.dagger, -1) {
		k.functions = append(k.functions, m[1])
	}
	return k
}

func TestCommands(t *testing.T) {
	k := load(t)
	pages, err := pagesOf(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, page := range pages {
		if page == "CHANGELOG.md" || strings.HasPrefix(page, "docs/decisions/") {
			continue // may name what no longer exists
		}
		source, err := fs.ReadFile(os.DirFS(".."), page)
		if err != nil {
			t.Fatal(err)
		}
		for _, code := range codes(source) {
			for _, problem := range k.problems(code, seen) {
				t.Errorf("%s: %s", page, problem)
			}
		}
	}
	for _, program := range []string{"make", "bin/server", "bin/trainer", "dagger", "fakeart:"} {
		if seen[program] == 0 {
			t.Errorf("no page has a command with %s: does problems still recognize commands?", program)
		}
	}
}

func TestProblems(t *testing.T) {
	k := load(t)
	for command, want := range map[string]string{
		"make demo": "",
		"bin/trainer train experiment.epoch=3\nerror: unknown key": "",
		"cd x && make demos":                                    "make has no target demos",
		"make images PLATFORMS=linux/amd64":                     "",
		"make images PLATFORM=linux/amd64":                      "the Makefile has no PLATFORM",
		"bin/server --model x --log-store=none":                 "",
		"bin/server --model x \\\n  --model-wacht=1":            "the server has no --model-wacht",
		"bin/trainer train experiment=base experiment.epochs=3": "",
		"bin/trainer train experiment=basic":                    "no configuration file is experiment=basic",
		"bin/trainer train experiment.epoch=3":                  "the configuration has no experiment.epoch",
		"bin/trainer evaluate --modell=x | grep --color":        "the trainer has no --modell",
		"dagger call --experiment=base train":                   "",
		"dagger call --go-proxy=URL trains":                     "the module has no function trains",
		"dagger call train --experiments=base":                  "the module has no --experiments",
		"pulumi config set fakeart:image x":                     "",
		"pulumi import fakeart:infra:Service":                   "",
		"pulumi config set --path fakeart:canary.image x":       "",
		"pulumi config set fakeart:images x":                    "a stack has no key images",
	} {
		if got := strings.Join(k.problems(command, map[string]int{}), "; "); got != want {
			t.Errorf("problems(%q) = %q, want %q", command, got, want)
		}
	}
}

// problems returns what the commands in code name that doesn't exist, and counts the programs in seen.
func (k *known) problems(code string, seen map[string]int) (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for _, m := range k.stackName.FindAllStringSubmatch(code, -1) {
		seen["fakeart:"]++
		if !slices.Contains(k.stackKeys, m[1]) {
			bad("a stack has no key %s", m[1])
		}
	}
	lines := strings.Split(strings.ReplaceAll(code, "\\\n", " "), "\n")
	for i, line := range lines {
		if i+1 < len(lines) && regexp.MustCompile(`^error: `).MatchString(lines[i+1]) {
			continue // an invalid command, followed by its error
		}
		line, _, _ = strings.Cut(line, " #")
		for _, command := range regexp.MustCompile(`\s(?:\||&&|&|;)(?:\s|$)|;\s|\$\(|\)`).Split(line, -1) {
			words := strings.Fields(command)
			if len(words) > 0 && words[0] == "$" {
				words = words[1:]
			}
			for len(words) > 0 && regexp.MustCompile(`^[A-Z_]+=`).MatchString(words[0]) {
				words = words[1:]
			}
			if len(words) < 2 {
				continue
			}
			program, words := words[0], words[1:]
			switch program {
			case "make":
				seen[program]++
				for _, word := range words {
					name, _, variable := strings.Cut(word, "=")
					switch {
					case variable && !regexp.MustCompile(`\b`+name+`\b`).MatchString(k.makefile):
						bad("the Makefile has no %s", name)
					case !variable && regexp.MustCompile(`^[a-z][a-z-]*$`).MatchString(word) && !slices.Contains(k.targets, word):
						bad("make has no target %s", word)
					}
				}
			case "bin/server", "bin/trainer":
				seen[program]++
				name, page := "server", k.server
				if program == "bin/trainer" {
					name, page = "trainer", k.trainer
				}
				for _, word := range words {
					if m := k.flag.FindStringSubmatch(word); m != nil && m[1] != "help" && !has(page, "--"+m[1]) {
						bad("the %s has no --%s", name, m[1])
					}
					if name == "server" {
						continue
					}
					if m := k.setting.FindStringSubmatch(word); m != nil && !has(k.keys, m[1]) {
						bad("the configuration has no %s", m[1])
					}
					if m := k.choice.FindStringSubmatch(word); m != nil && !strings.Contains(k.keys, "### "+m[1]+"\n") {
						bad("no configuration file is %s", m[1])
					}
				}
			case "dagger":
				if words[0] != "call" {
					continue
				}
				seen[program]++
				function := false
				for _, word := range words[1:] {
					if word == "export" || word == "with-exec" || word == "up" {
						break // the rest belongs to Dagger's own types
					}
					if m := k.flag.FindStringSubmatch(word); m != nil && m[1] != "help" && !has(k.dagger, "--"+m[1]) {
						bad("the module has no --%s", m[1])
					}
					if !function && regexp.MustCompile(`^[a-z][a-z-]+$`).MatchString(word) {
						function = true
						if !slices.Contains(k.functions, word) {
							bad("the module has no function %s", word)
						}
					}
				}
			}
		}
	}
	return problems
}

// has reports whether a page contains the name as code, with or without a value.
func has(page, name string) bool {
	return regexp.MustCompile("`(?:--no-)?" + regexp.QuoteMeta(name) + "[`=]").MatchString(page)
}

// codes returns the code blocks and code spans of a page.
func codes(source []byte) (all []string) {
	_ = ast.Walk(parse(source), func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.CodeBlock:
			all = append(all, string(n.Lines().Value(source)))
		case *ast.FencedCodeBlock:
			all = append(all, string(n.Lines().Value(source)))
		case *ast.CodeSpan:
			all = append(all, words(source, n))
		}
		return ast.WalkContinue, nil
	})
	return all
}

// TestShellSyntax parses blocks of language sh with bash, also those that aren't executed.
func TestShellSyntax(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatalf("%v: install bash", err)
	}
	pages, err := pagesOf(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, page := range pages {
		source, err := fs.ReadFile(os.DirFS(".."), page)
		if err != nil {
			t.Fatal(err)
		}
		_ = ast.Walk(parse(source), func(n ast.Node, entering bool) (ast.WalkStatus, error) {
			fence, ok := n.(*ast.FencedCodeBlock)
			if !ok || !entering || string(fence.Language(source)) != "sh" {
				return ast.WalkContinue, nil
			}
			checked++
			if info := string(fence.Info.Value(source)); info != "sh" && info != "sh checked" {
				t.Errorf("%s: block %q, want sh (executed by the tutorials test) or sh checked", page, info)
			}
			cmd := exec.CommandContext(t.Context(), bash, "-n")
			cmd.Stdin = strings.NewReader(string(fence.Lines().Value(source)))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", page, err, out)
			}
			return ast.WalkContinue, nil
		})
	}
	if checked == 0 {
		t.Error("no page has a block sh")
	}
}

// pagesOf returns the pages in docs/ and at the root of the repository.
func pagesOf(root fs.FS) ([]string, error) {
	pages, err := fs.Glob(root, "*.md")
	if err != nil {
		return nil, err
	}
	err = fs.WalkDir(root, "docs", func(name string, _ fs.DirEntry, err error) error {
		if name == "docs/site" {
			return fs.SkipDir // the generator and its packages
		}
		if path.Ext(name) == ".md" {
			pages = append(pages, name)
		}
		return err
	})
	return pages, err
}
