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
	"fakeart/internal/reference"
)

func TestReferenceTrainer(t *testing.T) {
	var b strings.Builder
	b.WriteString("Commands that work on a configuration take settings of it, without dashes: `group=choice` takes another file of a group, `group.key=value` sets one value. " +
		"How they compose: [configuration](configuration.md); what they are good for: [training](../how-to/training.md), [data](../how-to/data.md), [drift](../how-to/drift.md).\n\n" +
		"The exit code is 0 on success, 1 on failure, 2 when the command line or the configuration is wrong and nothing was started, 3 when `drift --fail-on-drift` has found drift, " +
		"and 130 when an interrupt ended the command early.\n\n")
	app := newParser(t.Context(), streams{io.Discard, io.Discard}).Model
	b.WriteString(reference.Commands(app))
	reference.Page(t, "trainer", "Trainer: commands", "trainer/main.go", b.String())
}

func TestReferenceKeys(t *testing.T) {
	var b strings.Builder
	b.WriteString("Keys of the configuration that `trainer` works on, as the files in `configs/` explain them; `trainer config` prints the composed result. " +
		"Of a group one file counts: `optimizer=sgd` on the command line takes another. [How they compose](configuration.md).\n\n")
	said := map[string]bool{}
	main, err := fs.ReadFile(configs.Files, "config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	chosen := map[string]string{} // of each group
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
					chosen[d.Content[0].Value] = d.Content[1].Value
				}
			}
		default:
			b.WriteString("## " + line.key + "\nIn `config.yaml` itself.\n\n" + keys(line.key, pairs(line.value), said))
		}
	}
	for _, group := range groups {
		b.WriteString("## " + group + "\n")
		files, err := fs.Glob(configs.Files, group+"/*.yaml")
		if err != nil {
			t.Fatal(err)
		}
		// The file that counts without a choice comes first: others may start from it.
		usual := group + "/" + chosen[group] + ".yaml"
		files = append([]string{usual}, slices.DeleteFunc(files, func(f string) bool { return f == usual })...)
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
					about += l.comment + " It starts from `" + l.value.Content[0].Value + "`, and changes:"
				}
				if l.key == "name" {
					said[group+".name"] = true
					about += l.comment
				}
				return l.key == "defaults" || l.key == "name"
			})
			if file == usual {
				about += " Taken unless another is chosen."
			}
			b.WriteString(reference.Text(about) + "\n\n")
			if len(lines) > 0 {
				b.WriteString(keys(group, lines, said))
			}
		}
	}
	for _, key := range config.Keys() {
		if !said[key] {
			t.Errorf("no file of configs/ has %s", key)
		}
	}
	reference.Page(t, "keys", "Trainer: configuration keys", "configs/", b.String())
}

// keys is a table of settings.
func keys(group string, settings []setting, said map[string]bool) string {
	var rows [][]string
	for _, s := range settings {
		key := group + "." + s.key
		said[key] = true
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

// setting is a line of a configuration file, with the comment over it; the first one also
// with what is said of the file.
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

// comment is its text on one line.
func comment(text string) string {
	var words []string
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimSpace(strings.TrimPrefix(line, "#")); line != "" {
			words = append(words, line)
		}
	}
	return strings.Join(words, " ")
}
