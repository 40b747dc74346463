package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"fakeart/internal/cli"
	"fakeart/internal/config"
	"fakeart/internal/model"
	"fakeart/trainer/dataset"
	"fakeart/trainer/evaluate"
	"fakeart/trainer/report"
	"fakeart/trainer/runlog"
)

// evaluateCommand evaluates a model file, or the predictions in a prediction log.
type evaluateCommand struct {
	Model     string `placeholder:"FILE" help:"Model file. With --log, ignore the predictions of other models."`
	Data      string `placeholder:"DIR" help:"Dataset from trainer data prepare."`
	Log       string `placeholder:"LOG" help:"Evaluate the predictions in a prediction log against users' feedback instead. The log is the server's database or an export (ndjson, csv, parquet)."`
	Strict    bool   `help:"With --log, fail if a record can't be read, instead of skipping it."`
	Split     string `default:"test" enum:"train,val,test" help:"Split to evaluate on: train, val or test."`
	BatchSize int    `default:"64" help:"Images per batch. Affects speed and memory use, not the result."`

	Corruptions bool   `help:"Also measure the accuracy on corrupted images: seven corruptions at five severities, which takes 35 times as long."`
	Seed        int64  `default:"1" help:"Seed of the corruptions' noise."`
	Report      string `placeholder:"FILE" help:"Write an HTML report, as training does. The file may be the report in the model's run folder."`
	JSON        bool   `help:"Print JSON instead of a table. This is the default unless standard output is a terminal."`
}

// Validate returns an error for an invalid batch size, and for flags that can't be combined.
func (c *evaluateCommand) Validate() error {
	switch {
	case c.Log == "" && (c.Model == "" || c.Data == ""):
		return errors.New("nothing to evaluate\nhint: set --model=FILE and --data=DIR, or --log=LOG")
	case c.Log != "" && (c.Data != "" || c.Corruptions || c.Report != ""):
		return errors.New("--log can't be combined with --data, --corruptions or --report\nhint: --log evaluates logged predictions, the others a model on a dataset")
	case c.Log == "" && c.Strict:
		return errors.New("--strict requires --log")
	}
	return checkBatchSize(c.BatchSize)
}

// Run prints the metrics on standard output: a table on a terminal, JSON otherwise or with --json.
func (c *evaluateCommand) Run(ctx context.Context, std streams) error {
	if c.Log != "" {
		return c.evaluateLog(ctx, std)
	}
	f, err := model.Open(c.Model)
	if err != nil {
		return err
	}
	result, scores, err := evaluate.Run(ctx, f, c.Data, c.Split, c.BatchSize)
	if err != nil {
		return err
	}
	if c.Corruptions {
		result.Corruptions, err = evaluate.RunCorruptions(ctx, f, c.Data, c.Split, c.BatchSize, c.Seed, func(corruption string, severity int) {
			fmt.Fprintf(std.err, "evaluated %s, severity %d\n", corruption, severity)
		})
		if err != nil {
			return err
		}
	}
	if c.Report != "" {
		if err := c.writeReport(f, result, scores, std); err != nil {
			return err
		}
	}
	return c.print(std.out, result)
}

// print prints a result as a table or as JSON.
func (c *evaluateCommand) print(out io.Writer, result interface {
	JSON() ([]byte, error)
	WriteTable(io.Writer)
},
) error {
	if !c.JSON && cli.IsTerminal(out) {
		result.WriteTable(out)
		return nil
	}
	text, err := result.JSON()
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	return err
}

// evaluateLog evaluates the predictions in the log against users' feedback.
func (c *evaluateCommand) evaluateLog(ctx context.Context, std streams) (err error) {
	var f *model.File
	if c.Model != "" {
		if f, err = model.Open(c.Model); err != nil {
			return err
		}
	}
	result, err := evaluate.MeasureFeedback(ctx, c.Log, f, c.Strict)
	if err != nil {
		return err
	}
	for _, line := range result.Messages {
		fmt.Fprintln(std.err, line)
	}
	return c.print(std.out, result)
}

// writeReport writes the HTML report. It includes the configuration and metrics of the training run if
// the model file is in its run folder.
func (c *evaluateCommand) writeReport(f *model.File, result *evaluate.Result, scores []float32, std streams) error {
	images, manifest, err := dataset.Load(c.Data, c.Split)
	if err != nil {
		return err
	}
	r := report.Report{Model: f.Metadata, Manifest: manifest, Result: result, Scores: scores, Split: images}
	file := filepath.Join(filepath.Dir(c.Model), "config.yaml")
	switch cfg, err := config.LoadFile(file); {
	case errors.Is(err, os.ErrNotExist):
	case err == nil && cfg.Digest() == f.Metadata.ConfigDigest:
		if err := readRun(&r, filepath.Dir(c.Model)); err != nil {
			return fmt.Errorf("report: %w", err)
		}
	default:
		fmt.Fprintf(std.err, "the report has no training curves: %s isn't the configuration of %s\n", file, c.Model)
	}
	if f.HasCAM() {
		explainer, err := evaluate.NewExplainer(f)
		if err != nil {
			return fmt.Errorf("report: %w", err)
		}
		defer func() { _ = explainer.Close() }()
		r.Explain = explainer.GradCAM
	}
	return report.Write(c.Report, r)
}

// readRun adds the configuration and the metrics of a run folder to a report.
func readRun(r *report.Report, run string) (err error) {
	if r.Config, err = os.ReadFile(filepath.Join(run, "config.yaml")); err != nil {
		return err
	}
	if r.Metrics, err = runlog.Read(filepath.Join(run, "metrics.csv")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
