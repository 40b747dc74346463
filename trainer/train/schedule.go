package train

import (
	"math"

	"fakeart/internal/config"
)

// learningRate returns the learning rate of a training step, counted from 0 over the whole run. It
// increases linearly during the warm-up epochs, and is then constant or decreases to zero along
// half a cosine (Loshchilov & Hutter, SGDR, 2017, without restarts). See oneCycle for the schedule onecycle.
func learningRate(cfg *config.Config, step, stepsPerEpoch int) float64 {
	e := cfg.Experiment
	warm := e.WarmupEpochs * float64(stepsPerEpoch)
	at, total := float64(step), float64(e.Epochs*stepsPerEpoch)
	switch {
	case e.Schedule == "onecycle":
		return oneCycle(cfg.Optimizer.LR, at, warm, total)
	case at < warm:
		return cfg.Optimizer.LR * (at + 1) / (math.Floor(warm) + 1)
	case e.Schedule != "cosine":
		return cfg.Optimizer.LR
	}
	return cfg.Optimizer.LR * 0.5 * (1 + math.Cos(math.Pi*(at-warm)/(total-warm)))
}

// oneCycle returns the learning rate of PyTorch's OneCycleLR with its default options, where warm is pct_start·total: along half a
// cosine from peak/25 to the peak and then to peak/250,000 (Smith & Topin, "Super-Convergence", 2018).
func oneCycle(peak, at, warm, total float64) float64 {
	const first, last = 25, 25 * 1e4
	between := func(from, to, share float64) float64 {
		return to + (from-to)/2*(1+math.Cos(math.Pi*share))
	}
	top, end := warm-1, total-1
	switch {
	case top > 0 && at <= top:
		return between(peak/first, peak, at/top)
	case at >= end:
		return peak / last
	}
	top = max(top, 0)
	return between(peak, peak/last, (at-top)/(end-top))
}
