// Package tutorials has no program: its test runs the commands of the tutorials.
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
	"fakeart/internal/imaging"
	"fakeart/internal/otelenv"
	"fakeart/trainer/dataset"
)

// block is one fenced block of commands, and what they print as the page shows it.
type block struct {
	line     int
	commands string
	checked  bool     // marked so: they want a cloud, an account, or much time, and are not run
	output   []string // of which "…" stands for anything; other lines may lie between
}

// blocks returns those of a page: each of the language sh, with the text that follows it.
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
		case language == "text" && previous != nil && shows(previous, fence):
			found[len(found)-1].output = strings.Split(strings.TrimSpace(content), "\n")
		}
		return ast.WalkContinue, nil
	})
	return found
}

// shows tells whether a text is the output of the commands before it: nothing but words
// lie between.
func shows(commands, output ast.Node) bool {
	for n := commands.NextSibling(); n != output; n = n.NextSibling() {
		if n == nil || n.Kind() != ast.KindParagraph {
			return false
		}
	}
	return true
}

// missing returns the first line of what a page shows that is not in the output, after
// those before it; empty when all are.
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

// The pages with commands, and what is there before the first one.
var pages = []struct {
	name  string
	begin func(t *testing.T, dir string)
}{
	{"getting-started.md", nil},
	{"tutorials/laptop.md", nil},
	{"tutorials/own-pictures.md", ownPictures},
}

func TestTheCommandsOfTheTutorialsRun(t *testing.T) {
	if testing.Short() {
		t.Skip("trains five times, which takes a minute")
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
	// A pass that go remembers holds while the files are the same that the test has looked
	// at; what the compiler reads it does not see.
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
	build := exec.Command("go", "build", "-buildvcs=false", "-tags", "disable_grpc_modules", "-o", programs+"/", "./trainer", "./server", "./internal/demo")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, page := range pages {
		t.Run(page.name, func(t *testing.T) {
			source, err := os.ReadFile("../" + page.name)
			if err != nil {
				t.Fatal(err)
			}
			// The folder looks like a checkout, but what is made in it is its own.
			dir := t.TempDir()
			for _, name := range []string{"README.md", "loadtest", "node_modules"} {
				if err := os.Symlink(filepath.Join(root, name), filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink(programs, filepath.Join(dir, "bin")); err != nil {
				t.Fatal(err)
			}
			if page.begin != nil {
				page.begin(t, dir)
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
					t.Errorf("docs/%s:%d: what is printed has no line\n  %s\nIt is\n%s", page.name, b.line, line, outputs[i])
				}
			}
			// Nothing of a page goes by unseen.
			if n := strings.Count(string(source), "```sh\n"); n == 0 || n != count(blocks(source)) {
				t.Errorf("docs/%s has %d blocks of commands to run, %d were found", page.name, n, count(blocks(source)))
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

// patience is how long what a page has stopped may take to end.
var patience = 15 * time.Second

// run carries out the blocks in one shell, as a reader would, and returns what each has
// printed. Three things are other than on the page: the programs are built already, which
// is what make does there, the port is a free one, and training is smaller, by smaller.
func run(t *testing.T, dir string, blocks []block) (outputs []string, err error) {
	t.Helper()
	address := freeAddress(t)
	var script strings.Builder
	script.WriteString(`set -e
make() {
	case "$*" in
	build) ;;
	demo) bin/demo --dir runs/demo ;;
	*) echo "make $*: the test of the tutorials does not know it" >&2; return 1 ;;
	esac
}
`)
	const mark = "\x01"
	for _, b := range blocks {
		if !b.checked {
			script.WriteString(strings.ReplaceAll(b.commands, "127.0.0.1:8080", address))
			script.WriteString("sleep 0.3\n") // a reader is no faster: the log is written by then
		}
		script.WriteString("printf '\\n\\001'\n")
	}
	fmt.Fprintf(&script, `for ((i = 0; i < %d; i++)); do
	jobs -rp | grep -q . || exit 0
	sleep 0.1
done
echo "the page leaves a program running: stop it with kill \$!" >&2
exit 1
`, patience.Milliseconds()/100)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// What curl prints of its progress would lie between the lines.
	if err := os.WriteFile(filepath.Join(dir, ".curlrc"), []byte("silent\nshow-error\nmax-time = 30\n"), 0o666); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "bash", "-c", script.String())
	cmd.Dir = dir
	for _, variable := range otelenv.Without(os.Environ()) {
		// The machine's proxy and settings aren't part of the page.
		if name, _, _ := strings.Cut(variable, "="); !strings.HasPrefix(name, "FAKEART_") && !strings.HasSuffix(strings.ToLower(name), "_proxy") && name != "PORT" {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, "CURL_HOME="+dir, "FAKEART_ADDR="+address, "FAKEART_CONFIG_DIR="+smaller(t))
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	// A server that a page has left behind ends with the shell's group.
	alone(cmd)
	cmd.Cancel = func() error { end(cmd); return nil }
	err = cmd.Run()
	end(cmd)
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

// smaller is a folder of the configuration for a machine that other tests keep busy: a
// training thread that waits for another one waits actively, and unless a page says how
// many pictures it wants, there are fewer.
func smaller(t *testing.T) string {
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
			t.Fatalf("configs/%s has no %q any more", change[0], change[1])
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

// ownPictures makes the folder that the reader has: small pictures of both kinds.
func ownPictures(t *testing.T, dir string) {
	t.Helper()
	prepare := exec.CommandContext(t.Context(), "bin/trainer", "data", "prepare", "dataset=synthetic", "dataset.seed=7",
		"dataset.dir=drawn", "dataset.train_per_class=200", "dataset.test_per_class=50")
	prepare.Dir = dir
	if out, err := prepare.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, split := range []string{"train", "test"} {
		set, manifest, err := dataset.Load(filepath.Join(dir, "drawn"), split)
		if err != nil {
			t.Fatal(err)
		}
		for i, label := range set.Labels {
			folder := filepath.Join(dir, "pictures", split, manifest.Classes[label])
			if err := os.MkdirAll(folder, 0o777); err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			if err := png.Encode(&b, picture(set.Image(i))); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%d.png", i)), b.Bytes(), 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// picture shows pixels as the standard library has pictures.
func picture(rgb []byte) image.Image {
	side := imaging.Size
	out := image.NewNRGBA(image.Rect(0, 0, side, side))
	for i := range side * side {
		copy(out.Pix[4*i:], rgb[3*i:3*i+3])
		out.Pix[4*i+3] = 0xff
	}
	return out
}

func TestBlocksAreFoundWithWhatTheyPrint(t *testing.T) {
	page := "# A\n\n```sh\necho a\n```\nprints\n\n```text\na\n```\n\n```sh checked\nmake x\n```\n\n## B\n```text\nnot that of x\n```\n```yaml\na: 1\n```\n"
	got := blocks([]byte(page))
	if len(got) != 2 || got[0].commands != "echo a\n" || got[0].line != 4 || strings.Join(got[0].output, "|") != "a" || got[0].checked ||
		got[1].commands != "make x\n" || !got[1].checked || got[1].output != nil {
		t.Errorf("%+v", got)
	}
}

func TestWhatAPageShowsHasToBePrinted(t *testing.T) {
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

func TestACommandThatFailsFailsThePage(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the tutorials are written for a POSIX shell")
	}
	defer func(usual time.Duration) { patience = usual }(patience)
	patience = time.Second
	for commands, want := range map[string]string{
		"true\n":                 "",
		"false\ntrue\n":          "line 5: exit status 1",
		"make images\n":          "does not know it",
		"bin/server --no-such\n": "line 5: exit status 127",
		"sleep 60 &\n":           "leaves a program running",
	} {
		_, err := run(t, t.TempDir(), []block{{line: 3, commands: "true\n"}, {line: 5, commands: commands}})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", commands, err, want)
		}
	}
}
