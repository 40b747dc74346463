package train

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"

	"fakeart/internal/cli"
)

// epochMessage is the message of the log record that ends an epoch.
const epochMessage = "epoch"

// epochColumns are the columns of the table of epochs: their titles, the keys of the attributes of
// the log record, and the formats of numbers.
var epochColumns = [...]struct{ title, key, format string }{
	{"epoch", "epoch", ""},
	{"train loss", "train_loss", "%.4f"},
	{"train acc", "train_accuracy", "%.4f"},
	{"val loss", "val_loss", "%.4f"},
	{"val acc", "val_accuracy", "%.4f"},
	{"images/s", "images_per_second", "%.0f"},
}

// terminalHandler is a [slog.Handler] that writes the log of a run for a person: one table row per
// epoch, and a line for every other record. It uses color if w supports it. It isn't safe for
// concurrent use.
type terminalHandler struct {
	w io.Writer
	// best marks the following epochs as the best so far. It isn't an attribute, so that train.log
	// doesn't have it.
	best   bool
	header bool // whether the last line was a row of the table, below its header
}

// Enabled implements [slog.Handler].
func (h *terminalHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}

// WithAttrs implements [slog.Handler]. The logger of a run has no attributes of its own.
func (h *terminalHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup implements [slog.Handler]. The logger of a run has no groups.
func (h *terminalHandler) WithGroup(string) slog.Handler { return h }

// Handle implements [slog.Handler].
func (h *terminalHandler) Handle(_ context.Context, r slog.Record) error {
	var text string
	if r.Message == epochMessage {
		text = h.row(r)
	} else {
		text = line(r)
	}
	h.header = r.Message == epochMessage // repeated after other lines
	_, err := io.WriteString(h.w, text)
	return err
}

// row formats the record of an epoch, with the header of the table before the first row.
func (h *terminalHandler) row(r slog.Record) string {
	values := map[string]slog.Value{}
	r.Attrs(func(a slog.Attr) bool {
		values[a.Key] = a.Value
		return true
	})
	var titles, cells []string
	for _, c := range epochColumns {
		v := values[c.key]
		cell := v.String()
		if v.Kind() == slog.KindFloat64 {
			cell = fmt.Sprintf(c.format, v.Float64())
			if math.IsNaN(v.Float64()) {
				cell = "-"
			}
		}
		width := max(len(c.title), len("0.0000"), len(cell))
		titles = append(titles, fmt.Sprintf("%*s", width, c.title))
		cell = fmt.Sprintf("%*s", width, cell)
		if h.best && c.key == "val_loss" {
			cell = cli.Paint(h.w, cell, cli.Green)
		}
		cells = append(cells, cell)
	}
	row := strings.Join(cells, "  ")
	if h.best {
		row += cli.Paint(h.w, "  best so far", cli.Green)
	}
	if h.header {
		return row + "\n"
	}
	return cli.Paint(h.w, strings.Join(titles, "  "), cli.Bold) + "\n" + row + "\n"
}

// line formats a record as "message: key value, key value".
func line(r slog.Record) string {
	var attrs []string
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, strings.ReplaceAll(a.Key, "_", " ")+" "+a.Value.String())
		return true
	})
	message := r.Message
	if r.Level >= slog.LevelWarn {
		message = "warning: " + message
	}
	if len(attrs) == 0 {
		return message + "\n"
	}
	return message + ": " + strings.Join(attrs, ", ") + "\n"
}
