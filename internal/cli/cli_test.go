package cli_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fakeart/internal/cli"
)

// screen is a terminal in memory.
type screen struct{ strings.Builder }

func (*screen) IsTerminal() bool { return true }

func TestPrintError(t *testing.T) {
	hinted := errors.New("model.onnx: file is empty\nhint: download it again")
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"message":            {errors.New("port 8080 is in use"), "error: port 8080 is in use\n"},
		"hint":               {hinted, "error: model.onnx: file is empty\nhint: download it again\n"},
		"wrapped_hint":       {fmt.Errorf("load %w", hinted), "error: load model.onnx: file is empty\nhint: download it again\n"},
		"joined":             {errors.Join(hinted, errors.New("log is closed")), "error: model.onnx: file is empty\nlog is closed\nhint: download it again\n"},
		"repeated_hint":      {errors.Join(hinted, hinted), "error: model.onnx: file is empty\nmodel.onnx: file is empty\nhint: download it again\n"},
		"several_lines":      {errors.New("2 problems:\n  epochs is 0\n  lr is -1"), "error: 2 problems:\n  epochs is 0\n  lr is -1\n"},
		"hint_inside_a_line": {errors.New("unknown key hint: x"), "error: unknown key hint: x\n"},
		"trailing_newline":   {fmt.Errorf("exit status 1%s", "\n"), "error: exit status 1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			cli.PrintError(&b, test.err)
			if b.String() != test.want {
				t.Errorf("PrintError(%q) printed %q, want %q", test.err, b.String(), test.want)
			}
		})
	}
}

func TestPrintError_Color(t *testing.T) {
	const colored = "\x1b[1;31merror:\x1b[0m empty file\n\x1b[36mhint:\x1b[0m download it again\n"
	const plain = "error: empty file\nhint: download it again\n"
	for name, test := range map[string]struct{ noColor, term, want string }{
		"terminal":      {"", "xterm-256color", colored},
		"NO_COLOR":      {"1", "xterm-256color", plain},
		"dumb_terminal": {"", "dumb", plain},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("NO_COLOR", test.noColor)
			t.Setenv("TERM", test.term)
			var s screen
			cli.PrintError(&s, errors.New("empty file\nhint: download it again"))
			if s.String() != test.want {
				t.Errorf("printed %q, want %q", s.String(), test.want)
			}
		})
	}
}

func TestIsTerminal(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if cli.IsTerminal(file) {
		t.Error("IsTerminal(file) = true")
	}
	if cli.IsTerminal(&strings.Builder{}) {
		t.Error("IsTerminal(strings.Builder) = true")
	}
	if !cli.IsTerminal(&screen{}) {
		t.Error("IsTerminal(screen) = false")
	}
	if terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0); err == nil {
		defer terminal.Close()
		if !cli.IsTerminal(terminal) {
			t.Error("IsTerminal(/dev/ptmx) = false")
		}
	}
}

func TestPaint(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	if got, want := cli.Paint(&screen{}, "12", cli.Green), "\x1b[32m12\x1b[0m"; got != want {
		t.Errorf("Paint(terminal) = %q, want %q", got, want)
	}
	if got := cli.Paint(&strings.Builder{}, "12", cli.Green); got != "12" {
		t.Errorf("Paint(file) = %q, want 12", got)
	}
}
