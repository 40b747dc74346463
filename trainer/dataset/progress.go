package dataset

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// unit is the unit of a progress display.
type unit string

const (
	unitImages unit = "images"
	unitFiles  unit = "files"
	unitBytes  unit = "bytes"
)

// progress displays the progress of a long operation: a bar on a terminal, otherwise a line after
// each tenth (at most one per second), at least one line every ten seconds, and one at the end. It
// is safe for concurrent use.
type progress struct {
	out   io.Writer
	label string
	unit  unit
	total int64 // -1 if unknown
	bar   *progressbar.ProgressBar

	mu    sync.Mutex
	done  int64
	tenth int64
	last  time.Time
	start time.Time
}

func newProgress(out io.Writer, label string, total int64, u unit) *progress {
	if out == nil {
		out = io.Discard
	}
	now := time.Now()
	p := &progress{out: out, label: label, unit: u, total: total, start: now, last: now}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(out), progressbar.OptionSetDescription(label),
			progressbar.OptionShowCount(), progressbar.OptionSetItsString(string(u)),
			progressbar.OptionShowBytes(u == unitBytes), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionFullWidth(), progressbar.OptionSetPredictTime(total > 0),
		)
		if u != unitBytes { // bytes always show their rate
			progressbar.OptionShowIts()(p.bar)
		}
	}
	return p
}

func (p *progress) add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	if p.bar != nil {
		_ = p.bar.Add64(n)
		return
	}
	tenth := int64(0)
	if p.total > 0 {
		tenth = p.done * 10 / p.total
	}
	now := time.Now()
	if since := now.Sub(p.last); tenth > p.tenth && since >= time.Second || since >= 10*time.Second {
		p.tenth, p.last = tenth, now
		p.line()
	}
}

// line prints the current state as a plain line.
func (p *progress) line() {
	amount := func(n int64) string {
		if p.unit == unitBytes {
			return fmt.Sprintf("%.1f MB", float64(n)/1e6)
		}
		return fmt.Sprint(n)
	}
	state := amount(p.done)
	if p.total > 0 {
		state += fmt.Sprintf(" of %s (%d %%)", amount(p.total), p.done*100/p.total)
	}
	fmt.Fprintf(p.out, "%s: %s, %s\n", p.label, state, time.Since(p.start).Round(100*time.Millisecond))
}

// stop prints the final state and ends the line.
func (p *progress) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		fmt.Fprintln(p.out)
		return
	}
	p.line()
}
