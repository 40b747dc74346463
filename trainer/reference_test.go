package main

import (
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"fakeart/configs"
	"fakeart/internal/config"
	"fakeart/internal/model"
	"fakeart/tools/reference"
)

func TestReferenceTrainer(t *testing.T) {
	var b strings.Builder
	b.WriteString("Settings are written without dashes: `GROUP=CHOICE` selects a configuration file, `GROUP.KEY=VALUE` sets a value. [Configuration](configuration.md) explains how they are composed. " +
		"How-to guides: [training](../how-to/training.md), [data](../how-to/data.md), [drift](../how-to/drift.md).\n\n" +
		"`trainer` without arguments prints help, `trainer help COMMAND` prints help for a command. Errors go to standard error as `error: …`, and advice as `hint: …` on a line of its own. " +
		"On a terminal they are colored unless `NO_COLOR` is set.\n\n" +
		"The exit code is 0 on success, 1 after a failure, 2 if the command line or the configuration is invalid and nothing was started, 3 if `drift --fail-on-drift` found drift, " +
		"and 130 after an interrupt.\n\n")
	app := newParser(t.Context(), streams{io.Discard, io.Discard}).Model
	b.WriteString(reference.Commands(app))
	reference.Page(t, "trainer", "Trainer: commands", "trainer/main.go", b.String())
}

func TestReferenceKeys(t *testing.T) {
	var b strings.Builder
	b.WriteString("Keys of the trainer's configuration, with the comments of the files in `configs/`. `trainer config` prints the composed configuration. " +
		"A run uses one file of each group; `optimizer=sgd` on the command line selects another. [Configuration](configuration.md) explains how files are composed.\n\n")
	documented := map[string]bool{}
	main, err := fs.ReadFile(configs.Files, "config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defaultChoice := map[string]string{} // by group
	var groups []string
	for _, line := range mapping(t, main) {
		switch line.key {
		case "defaults":
			var defaults []yaml.Node
			if err := line.value.Decode(&defaults); err != nil {
				t.Fatal(err)
			}
			for _, d := range defaults {
				if d.Kind == yaml.MappingNode {
					groups = append(groups, d.Content[0].Value)
					defaultChoice[d.Content[0].Value] = d.Content[1].Value
				}
			}
		default:
			b.WriteString("## " + line.key + "\nThese keys are in `config.yaml` itself.\n\n" + keys(line.key, pairs(line.value), documented))
		}
	}
	for _, group := range groups {
		b.WriteString("## " + group + "\n")
		files, err := fs.Glob(configs.Files, group+"/*.yaml")
		if err != nil {
			t.Fatal(err)
		}
		// The default file comes first, since others can be based on it.
		defaultFile := group + "/" + defaultChoice[group] + ".yaml"
		files = append([]string{defaultFile}, slices.DeleteFunc(files, func(f string) bool { return f == defaultFile })...)
		for _, file := range files {
			text, err := fs.ReadFile(configs.Files, file)
			if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimSuffix(path.Base(file), ".yaml")
			b.WriteString("### " + group + "=" + name + "\n")
			lines := mapping(t, text)
			about := lines[0].about
			lines = slices.DeleteFunc(lines, func(l setting) bool {
				if l.key == "defaults" {
					about += l.comment + " It is based on `" + l.value.Content[0].Value + "` and changes:"
				}
				if l.key == "name" {
					documented[group+".name"] = true
					about += l.comment
				}
				return l.key == "defaults" || l.key == "name"
			})
			if file == defaultFile {
				about += " This is the default."
			}
			b.WriteString(reference.Text(about) + "\n\n")
			if len(lines) > 0 {
				b.WriteString(keys(group, lines, documented))
			}
		}
	}
	for _, key := range config.Keys() {
		if !documented[key] {
			t.Errorf("no file in configs/ has the key %s", key)
		}
	}
	reference.Page(t, "keys", "Trainer: configuration keys", "configs/", b.String())
}

// keys returns a table of settings.
func keys(group string, settings []setting, documented map[string]bool) string {
	var rows [][]string
	for _, s := range settings {
		key := group + "." + s.key
		documented[key] = true
		value := s.value.Value
		if s.value.Kind == yaml.SequenceNode {
			var items []string
			for _, item := range s.value.Content {
				items = append(items, item.Value)
			}
			value = "[" + strings.Join(items, ",") + "]"
		}
		rows = append(rows, []string{reference.Code(key), reference.Code(value), reference.Text(s.comment)})
	}
	return reference.Table([]string{"key", "value", ""}, rows)
}

// setting is a key of a configuration file with its comment. The first one also has the comment on the
// file.
type setting struct {
	key, comment, about string
	value               *yaml.Node
}

func mapping(t *testing.T, text []byte) []setting {
	t.Helper()
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	lines := pairs(document.Content[0])
	lines[0].about = comment(document.HeadComment)
	return lines
}

func pairs(node *yaml.Node) []setting {
	var lines []setting
	for i := 0; i+1 < len(node.Content); i += 2 {
		lines = append(lines, setting{key: node.Content[i].Value, comment: comment(node.Content[i].HeadComment), value: node.Content[i+1]})
	}
	return lines
}

// comment returns the text of a comment on one line.
func comment(text string) string {
	var words []string
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimSpace(strings.TrimPrefix(line, "#")); line != "" {
			words = append(words, line)
		}
	}
	return strings.Join(words, " ")
}

func TestReferenceModelFile(t *testing.T) {
	var rows [][]string
	for _, f := range model.Fields() {
		required := "required"
		if f.Optional {
			required = ""
		}
		rows = append(rows, []string{reference.Code(f.Key), required, f.Doc})
	}
	reference.Block(t, "docs/reference/model-file.md", "metadata", reference.Table([]string{"key", "", ""}, rows))
}
