package main

import (
	"context"

	"fakeart/internal/model"
	"fakeart/trainer/evaluate"
)

// evaluateCommand measures a model file.
type evaluateCommand struct {
	Model     string `required:"" placeholder:"FILE" help:"The model file to measure."`
	Data      string `required:"" placeholder:"DIR" help:"A data set that data prepare has made."`
	Split     string `default:"test" enum:"train,test" help:"The split to measure on: train or test."`
	BatchSize int    `default:"64" help:"Pictures at a time; changes speed and memory, not the result."`
}

// Validate refuses a batch size that is none.
func (c *evaluateCommand) Validate() error {
	return batchSize(c.BatchSize)
}

// Run prints the measurement: JSON for programs on standard output, a table for
// people on standard error.
func (c *evaluateCommand) Run(ctx context.Context, std streams) error {
	f, err := model.Open(c.Model)
	if err != nil {
		return err
	}
	result, _, err := evaluate.Run(ctx, f, c.Data, c.Split, c.BatchSize)
	if err != nil {
		return err
	}
	text, err := result.JSON()
	if err != nil {
		return err
	}
	result.WriteTable(std.err)
	_, err = std.out.Write(text)
	return err
}
