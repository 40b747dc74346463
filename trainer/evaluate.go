package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"fakeart/internal/model"
	"fakeart/trainer/dataset"
	"fakeart/trainer/evaluate"
	"fakeart/trainer/report"
	"fakeart/trainer/runlog"
)

// evaluateCommand measures a model file.
type evaluateCommand struct {
	Model     string `placeholder:"FILE" help:"The model file to measure; with --log, leave out what other models said."`
	Data      string `placeholder:"DIR" help:"A data set that data prepare has made."`
	Log       string `placeholder:"LOG" help:"Measure the verdicts in a prediction log on what users said of them, instead: the server's database, or an export (ndjson, csv, parquet)."`
	Split     string `default:"test" enum:"train,test" help:"The split to measure on: train or test."`
	BatchSize int    `default:"64" help:"Pictures at a time; changes speed and memory, not the result."`

	Corruptions bool   `help:"Measure the accuracy on corrupted pictures, too: seven corruptions at five severities, which takes 35 times as long."`
	Seed        int64  `default:"1" help:"What the corruptions' noise is drawn from."`
	Report      string `placeholder:"FILE" help:"Write the page that training writes, also over the one in the model's run folder."`
}

// Validate refuses a batch size that is none, and flags that do not go together.
func (c *evaluateCommand) Validate() error {
	switch {
	case c.Log == "" && (c.Model == "" || c.Data == ""):
		return errors.New("name what to measure: --model=FILE and --data=DIR, or --log=LOG")
	case c.Log != "" && (c.Data != "" || c.Corruptions || c.Report != ""):
		return errors.New("--log=LOG measures what was said to users; --data, --corruptions and --report go with a data set")
	}
	return batchSize(c.BatchSize)
}

// Run prints the measurement: JSON for programs on standard output, a table for
// people on standard error.
func (c *evaluateCommand) Run(ctx context.Context, std streams) error {
	if c.Log != "" {
		return c.measureLog(ctx, std)
	}
	f, err := model.Open(c.Model)
	if err != nil {
		return err
	}
	result, logits, err := evaluate.Run(ctx, f, c.Data, c.Split, c.BatchSize)
	if err != nil {
		return err
	}
	if c.Corruptions {
		result.Corruptions, err = evaluate.RunCorruptions(ctx, f, c.Data, c.Split, c.BatchSize, c.Seed, func(corruption string, severity int) {
			fmt.Fprintf(std.err, "measured %s, severity %d\n", corruption, severity)
		})
		if err != nil {
			return err
		}
	}
	if c.Report != "" {
		if err := c.writeReport(f, result, logits); err != nil {
			return err
		}
	}
	return std.show(result)
}

// show prints a result: for a program to read on out, for a person on err.
func (s streams) show(result interface {
	JSON() ([]byte, error)
	WriteTable(io.Writer)
},
) error {
	text, err := result.JSON()
	if err != nil {
		return err
	}
	result.WriteTable(s.err)
	_, err = s.out.Write(text)
	return err
}

// measureLog prints how right the verdicts in the log were, as users say.
func (c *evaluateCommand) measureLog(ctx context.Context, std streams) (err error) {
	var f *model.File
	if c.Model != "" {
		if f, err = model.Open(c.Model); err != nil {
			return err
		}
	}
	result, err := evaluate.MeasureFeedback(ctx, c.Log, f)
	if err != nil {
		return err
	}
	return std.show(result)
}

// writeReport writes the page, with what the model's run folder tells of the training.
func (c *evaluateCommand) writeReport(f *model.File, result *evaluate.Result, logits []float32) error {
	pictures, manifest, err := dataset.Load(c.Data, c.Split)
	if err != nil {
		return err
	}
	r := report.Report{Model: f.Metadata, Manifest: manifest, Result: result, Logits: logits, Split: pictures}
	run := filepath.Dir(c.Model)
	if r.Config, err = os.ReadFile(filepath.Join(run, "config.yaml")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("report: %w", err)
	}
	if r.Metrics, err = runlog.Read(filepath.Join(run, "metrics.csv")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("report: %w", err)
	}
	if f.HasGradCAM() {
		explainer, err := evaluate.NewExplainer(f)
		if err != nil {
			return fmt.Errorf("report: %w", err)
		}
		defer func() { _ = explainer.Close() }()
		r.Explain = explainer.GradCAM
	}
	return report.Write(c.Report, r)
}
