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

// Check returns what is wrong with a workflow, or an action of our own: each a line
// with the file's name and the line's number.
func (k *Known) Check(name string, text []byte) []string {
	c := &check{Known: k, name: name}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return []string{fmt.Sprintf("%s: %v", name, err)}
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return []string{name + ": is no workflow: want a YAML mapping"}
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
				c.report(i+1, "vars.%s is no output of infra/main.go: there are %s", m[1], strings.Join(known, ", "))
			}
		}
	}
	return c.problems
}

// Settings returns the variables and secrets of the forge that a workflow reads, without
// the token that it always has.
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
		c.report(root.Line, "has no permissions: without them a token may do all that the repository lets it")
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
			c.report(job.Line, "neither the workflow nor the job %s has a concurrency: two runs would get in each other's way", jobs.Content[i-1].Value)
		}
		if get(job, "timeout-minutes") == nil && get(job, "uses") == nil {
			c.report(job.Line, "the job %s has no timeout-minutes: it may hang for six hours", jobs.Content[i-1].Value)
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
				c.report(uses.Line, "a checkout on pull_request_target runs a stranger's code with this repository's rights: use pull_request")
			}
		}
	}
}

// login requires an environment from a job that logs in to Google Cloud. A protected stack
// accepts no other job, and an environment's reviewers approve what runs in it.
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

// uses wants an action by commit, and its version for people and for what renews it.
func (c *check) uses(uses *yaml.Node) {
	switch {
	case strings.HasPrefix(uses.Value, "./"):
	case !pinned.MatchString(uses.Value):
		c.report(uses.Line, "%s can change: want it by the 40 digits of a commit, with its version as a comment", uses.Value)
	case !release.MatchString(uses.LineComment):
		c.report(uses.Line, "%s has the comment %q: want its version, such as # v1.2.3", uses.Value, uses.LineComment)
	}
}

// with looks at what some actions are told.
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
			c.report(uses.Line, "the checkout leaves its token in the folder: want persist-credentials: false")
		}
	case "dagger/dagger-for-github":
		if version := value("version"); version.Value != c.Engine {
			c.report(uses.Line, "Dagger %q: dagger.json wants %s", version.Value, c.Engine)
		}
		for _, key := range []string{"args", "call", "verb", "shell"} {
			if node := value(key); node.Value != "" {
				c.report(node.Line, "%s: only have it installed, and write dagger call in a step of its own, where it is checked", key)
			}
		}
	}
}

// script looks at every command of a shell's script.
func (c *check) script(run *yaml.Node) {
	if strings.Contains(run.Value, "${{") {
		c.report(run.Line, "an expression becomes part of the script, whatever is in it: hand it over in env")
		return
	}
	file, err := syntax.NewParser().Parse(strings.NewReader(run.Value), "")
	if err != nil {
		c.report(run.Line, "the script is none of bash: %v", err)
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
				c.report(at, "dagger without call: there is nothing that it would be held to")
			}
		}
		return true
	})
}

// text is a word as far as it is written: what a variable holds is not known.
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

// exports are what may be done with a function's result, with its flags.
var exports = map[string]bool{"path": true, "wipe": true}

func (c *check) dagger(line int, words []string) {
	function, flags := "", c.Constructor
	what := "the constructor"
	for _, word := range words {
		flag, isFlag := strings.CutPrefix(word, "--")
		switch {
		case isFlag:
			// Written --flag value, a value could not be told from a function.
			name, _, _ := strings.Cut(flag, "=")
			if !flags[name] {
				c.report(line, "dagger call: %s has no flag --%s: there are %s", what, name, list(flags))
			}
		case function == "":
			function = word
			what = "the function " + function
			if flags = c.Functions[function]; flags == nil {
				c.report(line, "dagger call: there is no function %s: there are %s", function, list(c.Functions))
				return
			}
		case word == "export":
			what, flags = "export", exports
		default:
			c.report(line, "dagger call: %s after %s: want export, or --flag=value", word, what)
			return
		}
	}
	if function == "" {
		c.report(line, "dagger call: names no function")
	}
}

func list[V any](names map[string]V) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), ", ")
}

// get returns a mapping's value, or nil.
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

// mentions tells whether a scalar, a list's item or a mapping's key is the name.
func mentions(node *yaml.Node, name string) bool {
	if node == nil {
		return false
	}
	return node.Value == name || get(node, name) != nil ||
		slices.ContainsFunc(node.Content, func(n *yaml.Node) bool { return node.Kind == yaml.SequenceNode && n.Value == name })
}
