package train

import (
	"log/slog"
	"math"
	"strings"
	"testing"
)

// screen is a terminal in memory.
type screen struct{ strings.Builder }

func (*screen) IsTerminal() bool { return true }

// logSample logs the records of a short run.
func logSample(h *terminalHandler) {
	log := slog.New(h)
	log.Info("start training", "run", "runs/a", "steps_per_epoch", 50)
	for i, loss := range []float64{0.31, 0.295, 0.3} {
		h.best = i < 2
		log.Info(epochMessage, "epoch", []string{"1/3", "2/3", "3/3"}[i], "train_loss", 0.4123, "train_accuracy", 0.75,
			"val_loss", loss, "val_accuracy", 0.875, "images_per_second", 12345.0)
	}
	log.Info("stop early", "best_epoch", 2)
	log.Info("done")
}

func TestTerminalHandler(t *testing.T) {
	var b strings.Builder
	logSample(&terminalHandler{w: &b})
	want := `start training: run runs/a, steps per epoch 50
 epoch  train loss  train acc  val loss  val acc  images/s
   1/3      0.4123     0.7500    0.3100   0.8750     12345  best so far
   2/3      0.4123     0.7500    0.2950   0.8750     12345  best so far
   3/3      0.4123     0.7500    0.3000   0.8750     12345
stop early: best epoch 2
done
`
	if b.String() != want {
		t.Errorf("output:\n%s\nwant:\n%s", b.String(), want)
	}
}

func TestTerminalHandler_Color(t *testing.T) {
	t.Setenv("TERM", "xterm")
	for name, test := range map[string]struct {
		noColor string
		colored bool
	}{"color": {"", true}, "NO_COLOR": {"1", false}} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("NO_COLOR", test.noColor)
			var s screen
			logSample(&terminalHandler{w: &s})
			if got := strings.Contains(s.String(), "\x1b["); got != test.colored {
				t.Errorf("colored = %v, want %v:\n%s", got, test.colored, s.String())
			}
			if test.colored && !strings.Contains(s.String(), "\x1b[32m  0.3100\x1b[0m") {
				t.Errorf("the best validation loss isn't green:\n%q", s.String())
			}
		})
	}
}

func TestTerminalHandler_NoValidation(t *testing.T) {
	var b strings.Builder
	slog.New(&terminalHandler{w: &b}).Info(epochMessage, "epoch", "1/1", "train_loss", 0.5, "train_accuracy", 0.5,
		"val_loss", math.NaN(), "val_accuracy", math.NaN(), "images_per_second", 1.0)
	if rows := strings.Split(b.String(), "\n"); rows[1] != "   1/1      0.5000     0.5000         -        -         1" {
		t.Errorf("row %q", rows[1])
	}
}
