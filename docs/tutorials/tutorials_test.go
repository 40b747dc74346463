// Package tutorials contains only tests, which run the commands of the tutorials.
package tutorials

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/text"

	"fakeart/configs"
	"fakeart/internal/otelenv"
	"fakeart/trainer/dataset"
)

// block is a fenced block of commands, and the output that the page shows for them.
type block struct {
	line     int
	commands string
	checked  bool     // marked "sh checked": the commands need a cloud, an account or a long time, and aren't run
	output   []string // lines that must be printed in this order, among others; "…" matches anything
}

// blocks returns the blocks of language sh in a page, each with the text block that follows it.
func blocks(source []byte) []block {
	var found []block
	previous := ast.Node(nil)
	_ = ast.Walk(goldmark.DefaultParser().Parse(text.NewReader(source)), func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		fence, ok := n.(*ast.FencedCodeBlock)
		if !ok || !entering {
			return ast.WalkContinue, nil
		}
		lines := fence.Lines()
		content := string(lines.Value(source))
		switch language := string(fence.Language(source)); {
		case language == "sh":
			_, word, _ := strings.Cut(string(fence.Info.Value(source)), " ")
			found = append(found, block{
				line:     1 + bytes.Count(source[:lines.At(0).Start], []byte("\n")),
				commands: content, checked: word == "checked",
			})
			previous = fence
		case language == "text" && previous != nil && isOutputOf(previous, fence):
			found[len(found)-1].output = strings.Split(strings.TrimSpace(content), "\n")
		}
		return ast.WalkContinue, nil
	})
	return found
}

// isOutputOf reports whether the text block output belongs to commands: only paragraphs may be
// between them.
func isOutputOf(commands, output ast.Node) bool {
	for n := commands.NextSibling(); n != output; n = n.NextSibling() {
		if n == nil || n.Kind() != ast.KindParagraph {
			return false
		}
	}
	return true
}

// missing returns the first line of shown that output doesn't contain after the lines before it,
// or "" if output contains all of them.
func missing(shown []string, output string) string {
	lines := strings.Split(output, "\n")
	for _, want := range shown {
		want = strings.TrimSpace(want)
		if want == "" {
			continue
		}
		parts := strings.Split(want, "…")
		for i, p := range parts {
			parts[i] = regexp.QuoteMeta(p)
		}
		pattern := regexp.MustCompile(`^\s*` + strings.Join(parts, ".*") + `\s*$`)
		for len(lines) > 0 && !pattern.MatchString(lines[0]) {
			lines = lines[1:]
		}
		if len(lines) == 0 {
			return want
		}
		lines = lines[1:]
	}
	return ""
}

// pages are the pages with commands, in the documented order. setUp creates the files that the
// reader brings along.
var pages = []struct {
	name  string
	setUp func(t *testing.T, dir string)
}{
	{"getting-started.md", nil},
	{"tutorials/laptop.md", nil},
	{"tutorials/own-images.md", ownImages},
}

// TestTutorials runs all pages in one folder, as a reader does who follows them in order: a page
// that overwrites or counts what an earlier one left fails.
func TestTutorials(t *testing.T) {
	if testing.Short() {
		t.Skip("trains five models, which takes a minute")
	}
	if runtime.GOOS == "windows" {
		t.Skip("the tutorials are written for a POSIX shell")
	}
	for _, tool := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v: the tutorials use it; on Debian: apt-get install %s", err, tool)
		}
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	// Go caches a passed test until a file that the test has opened changes. It doesn't see the
	// files that the compiler reads, so open them here.
	for _, folder := range []string{"server", "trainer", "internal", "configs", "loadtest/pictures"} {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, _ os.DirEntry, err error) error {
			if err == nil {
				_, err = os.Stat(path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	programs := t.TempDir()
	build := exec.Command("go", "build", "-buildvcs=false", "-tags", "disable_grpc_modules,nodynamic", "-o", programs+"/", "./trainer", "./server", "./tools/demo")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// The folder looks like a checkout.
	dir := t.TempDir()
	for _, name := range []string{"loadtest", "node_modules"} {
		if err := os.Symlink(filepath.Join(root, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(programs, filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	// A tutorial sends the README as a file that isn't an image. A copy of the real one would make the
	// pipeline repeat all tests after each change of the README.
	if err := os.WriteFile(filepath.Join(dir, "README.md"), []byte("# Fakeart\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		t.Run(page.name, func(t *testing.T) {
			source, err := os.ReadFile("../" + page.name)
			if err != nil {
				t.Fatal(err)
			}
			if page.setUp != nil {
				page.setUp(t, dir)
			}
			outputs, err := run(t, dir, blocks(source))
			if err != nil {
				t.Error(err)
			}
			for i, b := range blocks(source) {
				if b.checked || i >= len(outputs) {
					continue
				}
				if line := missing(b.output, outputs[i]); line != "" {
					t.Errorf("docs/%s:%d: the output has no line\n  %s\nin\n%s", page.name, b.line, line, outputs[i])
				}
			}
			// blocks must find every block.
			if n := strings.Count(string(source), "```sh\n"); n == 0 || n != count(blocks(source)) {
				t.Errorf("docs/%s: %d blocks to run, blocks found %d", page.name, n, count(blocks(source)))
			}
		})
	}
}

func count(blocks []block) (n int) {
	for _, b := range blocks {
		if !b.checked {
			n++
		}
	}
	return n
}

// stopTimeout is how long programs that a page has stopped may take to exit.
var stopTimeout = 15 * time.Second

// run runs the blocks in one shell in dir and returns the output of each. It differs from the page in
// three ways: make doesn't build, because the programs are there; the port is a free one; and
// training is smaller (see smallConfig).
func run(t *testing.T, dir string, blocks []block) (outputs []string, err error) {
	t.Helper()
	address := freeAddress(t)
	var script strings.Builder
	script.WriteString(`set -e
make() {
	case "$*" in
	build) ;;
	demo) bin/demo --dir runs/demo ;;
	*) echo "make $*: the tutorials test has no stand-in for it" >&2; return 1 ;;
	esac
}
`)
	const mark = "\x01"
	for _, b := range blocks {
		if !b.checked {
			script.WriteString(strings.ReplaceAll(b.commands, "127.0.0.1:8080", address))
			script.WriteString("sleep 0.3\n") // readers are slower; by then the log is written
		}
		script.WriteString("printf '\\n\\001'\n")
	}
	fmt.Fprintf(&script, `for ((i = 0; i < %d; i++)); do
	jobs -rp | grep -q . || exit 0
	sleep 0.1
done
echo "the page leaves a program running: stop it with kill \$!" >&2
exit 1
`, stopTimeout.Milliseconds()/100)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// Keep curl's progress out of the output.
	if err := os.WriteFile(filepath.Join(dir, ".curlrc"), []byte("silent\nshow-error\nmax-time = 30\n"), 0o666); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "bash", "-c", script.String())
	cmd.Dir = dir
	for _, variable := range otelenv.Without(os.Environ()) {
		// The page doesn't depend on the machine's proxy and settings.
		if name, _, _ := strings.Cut(variable, "="); !strings.HasPrefix(name, "FAKEART_") && !strings.HasSuffix(strings.ToLower(name), "_proxy") && name != "PORT" {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, "CURL_HOME="+dir, "FAKEART_ADDR="+address, "FAKEART_CONFIG_DIR="+smallConfig(t))
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	// Killing the shell's process group also stops a server that the page left running.
	setGroup(cmd)
	cmd.Cancel = func() error { killGroup(cmd); return nil }
	err = cmd.Run()
	killGroup(cmd)
	if _, seek := out.Seek(0, io.SeekStart); seek != nil {
		return nil, seek
	}
	text, read := io.ReadAll(out)
	outputs = strings.Split(string(text), mark)
	if err != nil {
		at := blocks[min(len(outputs), len(blocks))-1]
		err = fmt.Errorf("the commands at line %d: %w\n%s", at.line, err, text)
	}
	return outputs, errors.Join(err, read)
}

// smallConfig returns a configuration folder for a machine that runs other tests at the same time: one
// training thread, because several would wait for each other actively, and by default fewer images.
func smallConfig(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, configs.Files); err != nil {
		t.Fatal(err)
	}
	for _, change := range [][3]string{
		{"experiment/base.yaml", "threads: 0", "threads: 1"},
		{"dataset/synthetic.yaml", "train_per_class: 2000", "train_per_class: 1000"},
	} {
		file := filepath.Join(dir, change[0])
		usual, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(usual), change[1], change[2], 1)
		if changed == string(usual) {
			t.Fatalf("configs/%s doesn't contain %q", change[0], change[1])
		}
		if err := os.WriteFile(file, []byte(changed), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// ownImages creates the reader's own images in the folder images: 1,000 for training and 100 for
// testing, the fewest that the drift check needs.
func ownImages(t *testing.T, dir string) {
	t.Helper()
	prepare := exec.CommandContext(t.Context(), "bin/trainer", "data", "prepare", "dataset=synthetic", "dataset.seed=7",
		"dataset.dir=own", "dataset.train_per_class=500", "dataset.test_per_class=50")
	prepare.Dir = dir
	if out, err := prepare.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, split := range []string{"train", "test"} {
		set, _, err := dataset.Load(filepath.Join(dir, "own"), split)
		if err != nil {
			t.Fatal(err)
		}
		for i, label := range set.Labels {
			folder := filepath.Join(dir, "images", split, []string{"cat", "dog"}[label])
			if err := os.MkdirAll(folder, 0o777); err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			if err := png.Encode(&b, toImage(set.Image(i))); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%d.png", i)), b.Bytes(), 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// toImage converts the 32×32 RGB pixels of a sample.
func toImage(rgb []byte) image.Image {
	side := 32
	out := image.NewNRGBA(image.Rect(0, 0, side, side))
	for i := range side * side {
		copy(out.Pix[4*i:], rgb[3*i:3*i+3])
		out.Pix[4*i+3] = 0xff
	}
	return out
}

func TestBlocks(t *testing.T) {
	page := "# A\n\n```sh\necho a\n```\nprints\n\n```text\na\n```\n\n```sh checked\nmake x\n```\n\n## B\n```text\nnot that of x\n```\n```yaml\na: 1\n```\n"
	got := blocks([]byte(page))
	if len(got) != 2 || got[0].commands != "echo a\n" || got[0].line != 4 || strings.Join(got[0].output, "|") != "a" || got[0].checked ||
		got[1].commands != "make x\n" || !got[1].checked || got[1].output != nil {
		t.Errorf("%+v", got)
	}
}

func TestMissing(t *testing.T) {
	output := "noise\n{\"id\":\"7\",\"label\":\"FAKE\"}\n  done: 3\n"
	for shown, want := range map[string]string{
		`{"id":"…","label":"FAKE"}`: "",
		"{\"id\":\"…\",…}\ndone: 3": "",
		`{"id":"…","label":"REAL"}`: `{"id":"…","label":"REAL"}`,
		"done: 3\n{\"id\":\"…\",…}": `{"id":"…",…}`,
		"done":                      "done",
		"done: …":                   "",
	} {
		if got := missing(strings.Split(shown, "\n"), output); got != want {
			t.Errorf("%q: %q, want %q", shown, got, want)
		}
	}
}

func TestRun(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the tutorials are written for a POSIX shell")
	}
	defer func(usual time.Duration) { stopTimeout = usual }(stopTimeout)
	stopTimeout = time.Second
	for commands, want := range map[string]string{
		"true\n":                 "",
		"false\ntrue\n":          "line 5: exit status 1",
		"make images\n":          "has no stand-in for it",
		"bin/server --no-such\n": "line 5: exit status 127",
		"sleep 60 &\n":           "leaves a program running",
	} {
		_, err := run(t, t.TempDir(), []block{{line: 3, commands: "true\n"}, {line: 5, commands: commands}})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", commands, err, want)
		}
	}
}
