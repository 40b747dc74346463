package train

import (
	"math"

	"fakeart/internal/config"
)

// learningRate returns the learning rate of a training step, counted from 0 over the whole run. It
// increases linearly during the warm-up epochs, and is then constant or decreases to zero along
// half a cosine (Loshchilov & Hutter, SGDR, 2017, without restarts).
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
