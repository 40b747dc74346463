// Package cli is the part that the command-line programs share: errors with hints, color, and
// values with units.
//
// Programs print the error of a command with [PrintError]. [IsTerminal] and [UseColor] report whether
// a person reads a stream. [ParseDuration] and [ParseSize] parse values of flags.
package cli

import (
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"
)

// HintPrefix begins the line of an error message that advises the user what to do.
const HintPrefix = "hint: "

// PrintError writes err to w for a person:
//
//	error: unknown key experiment.epoch
//	hint: did you mean experiment.epochs?
//
// An error adds a hint as a line of its message that begins with [HintPrefix]. PrintError moves
// hints below the message and prints each only once, so that errors can be wrapped and joined
// freely. The prefixes are colored if [UseColor] reports true for w.
func PrintError(w io.Writer, err error) {
	_, _ = io.WriteString(w, format(err.Error(), UseColor(w)))
}

// format lays out a message of one or more lines.
func format(message string, color bool) string {
	var text, hints []string
	for line := range strings.SplitSeq(strings.TrimRight(message, "\n"), "\n") {
		hint, ok := strings.CutPrefix(line, HintPrefix)
		switch {
		case !ok:
			text = append(text, line)
		case !slices.Contains(hints, hint):
			hints = append(hints, hint)
		}
	}
	var b strings.Builder
	b.WriteString(paint("error:", BoldRed, color) + " " + strings.Join(text, "\n") + "\n")
	for _, hint := range hints {
		b.WriteString(paint("hint:", Cyan, color) + " " + hint + "\n")
	}
	return b.String()
}

// A Style is an ANSI escape sequence that changes how the following text looks.
type Style string

// The styles that the programs use.
const (
	Bold    Style = "\x1b[1m"
	Faint   Style = "\x1b[2m"
	BoldRed Style = "\x1b[1;31m"
	Green   Style = "\x1b[32m"
	Cyan    Style = "\x1b[36m"

	reset Style = "\x1b[0m"
)

// Paint returns text in a style if [UseColor] reports true for w, and unchanged text otherwise.
func Paint(w io.Writer, text string, s Style) string { return paint(text, s, UseColor(w)) }

func paint(text string, s Style, color bool) string {
	if !color {
		return text
	}
	return string(s) + text + string(reset)
}

// IsTerminal reports whether w is a terminal. A writer that isn't a file can report it itself, with
// a method IsTerminal.
func IsTerminal(w io.Writer) bool {
	switch w := w.(type) {
	case interface{ IsTerminal() bool }:
		return w.IsTerminal()
	case interface{ Fd() uintptr }:
		return term.IsTerminal(int(w.Fd()))
	}
	return false
}

// UseColor reports whether w is a terminal that shows colors and the user hasn't disabled them
// with the variable NO_COLOR (https://no-color.org).
func UseColor(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && IsTerminal(w)
}
