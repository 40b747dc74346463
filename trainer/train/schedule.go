package train

import (
	"math"

	"fakeart/internal/config"
)

// learningRate is that of a step, counted from 0 over the whole run: it rises
// in equal steps over the warm-up epochs, and then stays (constant) or falls
// to zero along half a cosine (Loshchilov & Hutter, SGDR, 2017, without
// restarts).
func learningRate(cfg *config.Config, step, stepsPerEpoch int) float64 {
	e := cfg.Experiment
	warm := e.WarmupEpochs * float64(stepsPerEpoch)
	at := float64(step)
	if at < warm {
		return cfg.Optimizer.LR * (at + 1) / (math.Floor(warm) + 1)
	}
	if e.Schedule != "cosine" {
		return cfg.Optimizer.LR
	}
	total := float64(e.Epochs * stepsPerEpoch)
	return cfg.Optimizer.LR * 0.5 * (1 + math.Cos(math.Pi*(at-warm)/(total-warm)))
}
