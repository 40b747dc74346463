package workflows

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"mvdan.cc/sh/v3/syntax"
)

// Check returns the problems of a workflow or a local action, each as "NAME:LINE: message".
func (k *Known) Check(name string, text []byte) []string {
	c := &check{Known: k, name: name}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return []string{fmt.Sprintf("%s: %v", name, err)}
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return []string{name + ": isn't a workflow: expected a YAML mapping"}
	}
	root := document.Content[0]
	if runs := get(root, "runs"); runs != nil {
		c.steps(get(runs, "steps"))
	} else {
		c.workflow(root)
	}
	for i, line := range strings.Split(string(text), "\n") {
		for _, m := range setting.FindAllStringSubmatch(line, -1) {
			if known := k.settings(); !slices.Contains(known, m[1]) {
				c.report(i+1, "vars.%s isn't an output of infra/main.go; the outputs are %s", m[1], strings.Join(known, ", "))
			}
		}
	}
	return c.problems
}

// Settings returns the names of the GitHub variables and secrets that a workflow reads, except GITHUB_TOKEN,
// which always exists.
func Settings(text []byte) []string {
	names := map[string]bool{}
	for _, m := range regexp.MustCompile(`\b(?:vars|secrets)\.([A-Za-z_]+)`).FindAllSubmatch(text, -1) {
		names[string(m[1])] = true
	}
	delete(names, "GITHUB_TOKEN")
	return slices.Sorted(maps.Keys(names))
}

var (
	setting = regexp.MustCompile(`\bvars\.([A-Za-z_]+)`)
	pinned  = regexp.MustCompile(`^[\w.-]+/[\w./-]+@[0-9a-f]{40}$`)
	release = regexp.MustCompile(`^# v[0-9]+\.[0-9]+\.[0-9]+$`)
)

type check struct {
	*Known
	name     string
	problems []string
}

func (c *check) report(line int, format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf("%s:%d: %s", c.name, line, fmt.Sprintf(format, args...)))
}

func (c *check) workflow(root *yaml.Node) {
	if get(root, "permissions") == nil {
		c.report(root.Line, "has no permissions: the token then gets the repository's default permissions")
	}
	jobs := get(root, "jobs")
	if jobs == nil {
		c.report(root.Line, "has no jobs")
		return
	}
	ordered := get(root, "concurrency") != nil
	privileged := mentions(get(root, "on"), "pull_request_target")
	for i := 1; i < len(jobs.Content); i += 2 {
		job := jobs.Content[i]
		if !ordered && get(job, "concurrency") == nil {
			c.report(job.Line, "neither the workflow nor the job %s sets concurrency: two runs may interfere", jobs.Content[i-1].Value)
		}
		if get(job, "timeout-minutes") == nil && get(job, "uses") == nil {
			c.report(job.Line, "the job %s has no timeout-minutes: the default is six hours", jobs.Content[i-1].Value)
		}
		if uses := get(job, "uses"); uses != nil {
			c.uses(uses)
		}
		steps := get(job, "steps")
		c.steps(steps)
		c.login(jobs.Content[i-1].Value, job, steps)
		if steps == nil || !privileged {
			continue
		}
		for _, step := range steps.Content {
			if uses := get(step, "uses"); uses != nil && strings.HasPrefix(uses.Value, "actions/checkout@") {
				c.report(uses.Line, "a checkout on pull_request_target runs foreign code with this repository's permissions: use pull_request")
			}
		}
	}
}

// login reports a job that logs in to Google Cloud without an environment. Protected stacks accept only jobs
// in an environment, whose reviewers approve each run.
func (c *check) login(name string, job, steps *yaml.Node) {
	if steps == nil || get(job, "environment") != nil {
		return
	}
	for _, step := range steps.Content {
		if uses := get(step, "uses"); uses != nil && strings.HasPrefix(uses.Value, "google-github-actions/auth@") {
			c.report(uses.Line, "the job %s logs in to Google Cloud without an environment: add environment: with the stack's name", name)
		}
	}
}

func (c *check) steps(steps *yaml.Node) {
	if steps == nil {
		return
	}
	for _, step := range steps.Content {
		if uses := get(step, "uses"); uses != nil {
			c.uses(uses)
			c.with(uses, get(step, "with"))
		}
		if run := get(step, "run"); run != nil {
			c.script(run)
		}
	}
}

// uses reports an action that isn't pinned to a commit with its version as a comment. Renovate updates both.
func (c *check) uses(uses *yaml.Node) {
	switch {
	case strings.HasPrefix(uses.Value, "./"):
	case !pinned.MatchString(uses.Value):
		c.report(uses.Line, "%s isn't pinned: use the full commit hash, with the version as a comment", uses.Value)
	case !release.MatchString(uses.LineComment):
		c.report(uses.Line, "%s has the comment %q: expected its version, such as # v1.2.3", uses.Value, uses.LineComment)
	}
}

// with checks the inputs of some actions.
func (c *check) with(uses, with *yaml.Node) {
	action, _, _ := strings.Cut(uses.Value, "@")
	value := func(key string) *yaml.Node {
		if node := get(with, key); node != nil {
			return node
		}
		return &yaml.Node{}
	}
	switch action {
	case "actions/checkout":
		if value("persist-credentials").Value != "false" {
			c.report(uses.Line, "the checkout stores its token in the working tree: set persist-credentials: false")
		}
	case "dagger/dagger-for-github":
		if version := value("version"); version.Value != c.Engine {
			c.report(uses.Line, "Dagger version %q: dagger.json requires %s", version.Value, c.Engine)
		}
		for _, key := range []string{"args", "call", "verb", "shell"} {
			if node := value(key); node.Value != "" {
				c.report(node.Line, "%s: only install Dagger here, and write dagger call in a separate step, where it's checked", key)
			}
		}
	}
}

// script checks each command of a shell script.
func (c *check) script(run *yaml.Node) {
	if strings.Contains(run.Value, "${{") {
		c.report(run.Line, "an expression is expanded into the script, which allows injection: pass it in env")
		return
	}
	file, err := syntax.NewParser().Parse(strings.NewReader(run.Value), "")
	if err != nil {
		c.report(run.Line, "invalid bash: %v", err)
		return
	}
	syntax.Walk(file, func(n syntax.Node) bool {
		call, ok := n.(*syntax.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		words := make([]string, len(call.Args))
		for i, word := range call.Args {
			words[i] = text(word)
		}
		at := run.Line + int(call.Pos().Line())
		if run.Style&(yaml.LiteralStyle|yaml.FoldedStyle) == 0 {
			at--
		}
		switch words[0] {
		case "make":
			c.make(at, words[1:])
		case "dagger":
			if i := slices.Index(words, "call"); i > 0 {
				c.dagger(at, words[i+1:])
			} else {
				c.report(at, "dagger without call can't be checked: use dagger call")
			}
		}
		return true
	})
}

// text returns the literal text of a word, with $ for each variable or substitution.
func text(word *syntax.Word) string {
	var b strings.Builder
	var parts func(parts []syntax.WordPart)
	parts = func(list []syntax.WordPart) {
		for _, part := range list {
			switch part := part.(type) {
			case *syntax.Lit:
				b.WriteString(part.Value)
			case *syntax.SglQuoted:
				b.WriteString(part.Value)
			case *syntax.DblQuoted:
				parts(part.Parts)
			default:
				b.WriteByte('$')
			}
		}
	}
	parts(word.Parts)
	return b.String()
}

func (c *check) make(line int, words []string) {
	for _, word := range words {
		name, _, assigned := strings.Cut(word, "=")
		switch {
		case strings.HasPrefix(word, "-"):
		case assigned:
			if !c.Variables[name] {
				c.report(line, "make: the Makefile has no variable %s", name)
			}
		case !c.Targets[word]:
			c.report(line, "make: the Makefile has no phony target %s", word)
		}
	}
}

// exports are the flags of export, the only function that may be called on a result.
var exports = map[string]bool{"path": true, "wipe": true}

func (c *check) dagger(line int, words []string) {
	function, flags := "", c.Constructor
	what := "the constructor"
	for _, word := range words {
		flag, isFlag := strings.CutPrefix(word, "--")
		switch {
		case isFlag:
			// --flag value isn't supported: the value would look like a function.
			name, _, _ := strings.Cut(flag, "=")
			if !flags[name] {
				c.report(line, "dagger call: %s has no flag --%s; its flags are %s", what, name, list(flags))
			}
		case function == "":
			function = word
			what = "the function " + function
			if flags = c.Functions[function]; flags == nil {
				c.report(line, "dagger call: unknown function %s; the functions are %s", function, list(c.Functions))
				return
			}
		case word == "export":
			what, flags = "export", exports
		default:
			c.report(line, "dagger call: %s after %s: expected export or --flag=value", word, what)
			return
		}
	}
	if function == "" {
		c.report(line, "dagger call without a function")
	}
}

func list[V any](names map[string]V) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), ", ")
}

// get returns the value of a key in a mapping, or nil.
func get(mapping *yaml.Node, key string) *yaml.Node {
	if mapping == nil || mapping.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// mentions reports whether name is the scalar, an item of the list or a key of the mapping.
func mentions(node *yaml.Node, name string) bool {
	if node == nil {
		return false
	}
	return node.Value == name || get(node, name) != nil ||
		slices.ContainsFunc(node.Content, func(n *yaml.Node) bool { return node.Kind == yaml.SequenceNode && n.Value == name })
}
