package reference

import (
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

func TestTable(t *testing.T) {
	got := Table([]string{"a", "", ""}, [][]string{{Code("x|y"), "", Text("*.onnx in\n<DIR>, {{ x }} or gs://b/*.x, (https://a.b).")}, {Code(""), "", Code("`")}})
	want := "| a | |\n|---|---|\n" + "| `x\\|y` | \\*.onnx in \\<DIR>, {\\{ x }} or `gs://b/*.x`, (`https://a.b`). |\n" + "| | `` ` `` |\n\n"
	if got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestDifference(t *testing.T) {
	for _, c := range [][3]string{
		{"a\nb", "a\nc", "line 2 is   b\nshould be c"},
		{"a", "a\nc", "line 2 is missing: c"},
		{"a\nb", "a", "line 2 is extra: b"},
	} {
		if got := difference(c[0], c[1]); got != c[2] {
			t.Errorf("difference(%q, %q) = %q, want %q", c[0], c[1], got, c[2])
		}
	}
}

func TestReplaced(t *testing.T) {
	page := "# A\n<!-- generated: one -->\nold\n<!-- end -->\nkept\n<!-- generated: two -->\n<!-- end -->\n"
	got, err := replaced(page, "two", "new\n")
	if want := strings.Replace(page, "two -->\n", "two -->\n\nnew\n\n", 1); err != nil || got != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	if _, err := replaced(page, "three", ""); err == nil || !strings.Contains(err.Error(), `"<!-- generated: three -->"`) {
		t.Errorf("replaced with an unknown block: error %v", err)
	}
}

func TestCommands(t *testing.T) {
	var c struct {
		Do struct {
			File  string   `required:"" placeholder:"FILE" help:"File to read."`
			Fast  bool     `negatable:"" default:"true" help:"Whether it is quick."`
			Kind  string   `enum:"a,b" default:"a" env:"KIND" help:"Which."`
			Quiet bool     `hidden:""`
			Names []string `arg:"" help:"Who."`
		} `cmd:"" help:"Do it."`
		Test struct{} `cmd:"" hidden:""`
	}
	got := Commands(kong.Must(&c, kong.Name("program")).Model)
	want := strings.ReplaceAll(`## program do
Do it.

| argument | |
|---|---|
| '<names> ...' | Who. |

| flag | variable | default | |
|---|---|---|---|
| '--file=FILE' (required) | | | File to read. |
| '--fast', '--no-fast' | | 'true' | Whether it is quick. |
| '--kind=a\|b' | 'KIND' | 'a' | Which. |

`, "'", "`")
	if got != want {
		t.Errorf("%s", difference(got, want))
	}
}
