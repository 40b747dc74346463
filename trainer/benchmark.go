package main

import (
	"context"
	"fmt"

	"fakeart/internal/config"
	"fakeart/internal/ort"
	"fakeart/trainer/train"
)

// benchmarkCommand measures the training speed.
type benchmarkCommand struct {
	Batches []int `default:"32,128" placeholder:"N,…" help:"Batch sizes to measure."`
	composition
}

// Validate returns an error for an invalid batch size.
func (c *benchmarkCommand) Validate() error {
	for _, n := range c.Batches {
		if err := checkBatchSize(n); err != nil {
			return err
		}
	}
	return nil
}

// checkBatchSize returns an error for an invalid batch size.
func checkBatchSize(n int) error {
	if n < 1 || n > config.MaxBatchSize {
		return fmt.Errorf("invalid batch size %d\nhint: use 1 to %d", n, config.MaxBatchSize)
	}
	return nil
}

// Run prints the speeds on standard output, and each round on standard error.
func (c *benchmarkCommand) Run(ctx context.Context, std streams) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	if err := ort.Init(); err != nil {
		return err
	}
	threads := "all cores"
	if n := cfg.Experiment.Threads; n > 0 {
		threads = fmt.Sprintf("%d threads", n)
	}
	for i, n := range c.Batches {
		s, err := train.Benchmark(ctx, cfg, n, std.err)
		if err != nil {
			return err
		}
		if i == 0 {
			fmt.Fprintf(std.out, "layout %s, %s, ONNX Runtime %s\n", s.Layout, threads, ort.Version())
		}
		fmt.Fprintf(std.out, "batch %d: training %.0f images/s, inference %.0f images/s\n", n, s.Training, s.Inference)
		fmt.Fprintf(std.out, "efficiency %.2f\n", s.Efficiency)
	}
	return nil
}
