package main

import (
	"context"
	"fmt"
	"path/filepath"

	"fakeart/trainer/train"
)

// trainCommand trains a model.
type trainCommand struct {
	composition
	Task int64 `env:"CLOUD_RUN_TASK_INDEX" placeholder:"N" help:"Add N to experiment.seed, so that the tasks of a sweep use different seeds. Cloud Run sets the variable."`
}

// Run logs progress to standard error and prints the result on standard output.
func (c *trainCommand) Run(ctx context.Context, std streams) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	if c.Task != 0 {
		// Compose again, because names can contain ${experiment.seed}.
		seed := cfg.Experiment.Seed + c.Task
		if (seed > cfg.Experiment.Seed) != (c.Task > 0) {
			return usageError{fmt.Errorf("experiment.seed is %d, which is too large to add --task=%d\nhint: set a smaller experiment.seed", cfg.Experiment.Seed, c.Task)}
		}
		c.Overrides = append(c.Overrides, fmt.Sprintf("experiment.seed=%d", seed))
		if cfg, err = c.load(); err != nil {
			return err
		}
	}
	s, err := train.Run(ctx, cfg, revision(), std.err)
	if err != nil {
		return err
	}
	fmt.Fprintf(std.out, "%s: %s\n", s.Model, s.Digest)
	fmt.Fprintf(std.out, "  best epoch %d: validation loss %.4f, accuracy %.4f\n", s.BestEpoch, s.ValLoss, s.ValAccuracy)
	if s.Test != nil {
		fmt.Fprintf(std.out, "  test accuracy %.4f on %d images; see %s\n", s.Test.Accuracy, s.Test.Count, filepath.Join(s.Dir, "report.html"))
	}
	return nil
}
