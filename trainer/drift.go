package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/moby/sys/atomicwriter"

	"fakeart/internal/cli"
	"fakeart/internal/drift"
	"fakeart/trainer/predictions"
	"fakeart/trainer/report"
)

// driftCommand checks a prediction log for drift from a reference.
type driftCommand struct {
	Reference   string   `required:"" placeholder:"RUN" help:"Drift reference: a run folder, its reference.parquet, or an older prediction log."`
	Current     string   `required:"" placeholder:"LOG" help:"Prediction log: the server's database, which may be in use, or an export (ndjson, csv, parquet)."`
	Since       cli.Time `placeholder:"TIME" help:"Ignore records before this time. If the reference is a log, use only its records before this time. TIME is ${time_forms}; dates are in the local time zone."`
	Until       cli.Time `placeholder:"TIME" help:"Ignore records at or after this time."`
	Strict      bool     `help:"Fail if a record can't be read, instead of skipping it."`
	Report      string   `placeholder:"FILE" help:"Write an HTML report with the distributions."`
	JSON        string   `placeholder:"FILE" help:"Write the result as JSON."`
	FailOnDrift bool     `help:"Exit with code 3 if there is drift."`
}

// Validate returns an error for an empty time range.
func (c *driftCommand) Validate() error {
	if !c.Since.IsZero() && !c.Until.IsZero() && !c.Since.Before(c.Until.Time) {
		return fmt.Errorf("--since=%s isn't before --until=%s", c.Since.Format(time.RFC3339), c.Until.Format(time.RFC3339))
	}
	return nil
}

// errDrift is the error of --fail-on-drift.
var errDrift = errors.New("drift detected")

// driftResult is the result in the format of --json.
type driftResult struct {
	*drift.Result
	From        time.Time      `json:"from"`
	To          time.Time      `json:"to"`
	Records     int            `json:"records"`
	OtherModels map[string]int `json:"records_of_other_models"`
	Broken      int            `json:"broken_rows"`
	Duplicates  int            `json:"duplicate_records"`
	Unreadable  int            `json:"unreadable_records"`
}

// Run prints the result as a table on standard output.
func (c *driftCommand) Run(ctx context.Context, std streams) error {
	reference, current, messages, err := c.read(ctx)
	if err != nil {
		return err
	}
	for _, line := range messages {
		fmt.Fprintln(std.err, "reference: "+line)
	}
	for _, line := range ignored(current) {
		fmt.Fprintln(std.err, line)
	}
	result, err := drift.Compare(reference.Rows, current.Rows)
	if err != nil {
		return fmt.Errorf("compare %s with %s: %w", c.Current, c.Reference, err)
	}
	if c.JSON != "" {
		text, err := json.MarshalIndent(driftResult{result, current.From, current.To, current.Matched, current.OtherModels, current.NonFinite, current.Duplicates, current.Unreadable}, "", "  ")
		if err != nil {
			return fmt.Errorf("encode result as JSON: %w", err)
		}
		if err := atomicwriter.WriteFile(c.JSON, append(text, '\n'), 0o644); err != nil {
			return fmt.Errorf("write result %s: %w", c.JSON, err)
		}
	}
	if c.Report != "" {
		if err := report.WriteDrift(c.Report, report.Drift{Result: result, Reference: reference.Rows, Log: current}); err != nil {
			return err
		}
	}
	if err := writeDrift(std.out, result, current); err != nil {
		return err
	}
	if result.Drift && c.FailOnDrift {
		return fmt.Errorf("%w in %s", errDrift, strings.Join(result.Drifted(), ", "))
	}
	return nil
}

// read reads the reference and the log. If the reference is a log, it returns messages about the
// records of it that weren't used.
func (c *driftCommand) read(ctx context.Context) (*drift.Reference, *predictions.Log, []string, error) {
	fail := func(err error) (*drift.Reference, *predictions.Log, []string, error) { return nil, nil, nil, err }
	query := predictions.Query{Since: c.Since.Time, Until: c.Until.Time, Strict: c.Strict}
	reference, err := drift.ReadReference(c.Reference)
	if err == nil {
		query.Model = reference.Model
		current, err := predictions.Read(ctx, c.Current, query)
		return reference, current, nil, err
	}
	if !errors.Is(err, drift.ErrNoReference) {
		return fail(err)
	}
	current, err2 := predictions.Read(ctx, c.Current, query)
	if err2 != nil {
		return fail(err2)
	}
	older, err2 := predictions.Read(ctx, c.Reference, predictions.Query{Model: current.Model, Until: c.Since.Time, Strict: c.Strict})
	if errors.Is(err2, predictions.ErrFormat) {
		return fail(fmt.Errorf("%w, and not a prediction log either: %w", err, err2))
	}
	if err2 != nil {
		return fail(fmt.Errorf("reference: %w", err2))
	}
	if c.Since.IsZero() {
		if !c.Until.IsZero() {
			return fail(errors.New("--until without --since: the reference is a log, and would include the records after that time\n" + splitHint))
		}
		if n := shared(older.Rows, current.Rows); n > 0 {
			return fail(fmt.Errorf("the reference %s and the log %s have the same records (%d of %d compared): a log can't drift from itself\n%s",
				c.Reference, c.Current, n, len(current.Rows), splitHint))
		}
	}
	return &drift.Reference{Model: older.Model, Rows: older.Rows}, current, older.Messages(), nil
}

const splitHint = "hint: add --since=TIME: the records before it are the reference"

// shared returns the number of rows that are in both samples. Logs can lack IDs, but two predictions
// in the same microsecond with the same statistics are one.
func shared(a, b []drift.Row) (n int) {
	type key struct {
		time                          int64
		probability, mean, brightness float64
	}
	of := func(r *drift.Row) key { return key{r.Time.UnixMicro(), r.Probability, r.Mean, r.Brightness} }
	in := map[key]bool{}
	for i := range a {
		in[of(&a[i])] = true
	}
	for i := range b {
		if in[of(&b[i])] {
			n++
		}
	}
	return n
}

// ignored returns messages about records that weren't compared.
func ignored(l *predictions.Log) (lines []string) {
	for _, model := range slices.Sorted(maps.Keys(l.OtherModels)) {
		lines = append(lines, fmt.Sprintf("ignored %d records of another model, %s", l.OtherModels[model], model))
	}
	if l.NonFinite > 0 {
		lines = append(lines, fmt.Sprintf("ignored %d records with NaN or infinite values", l.NonFinite))
	}
	return append(lines, l.Messages()...)
}

// writeDrift prints the result as a table.
func writeDrift(out io.Writer, r *drift.Result, l *predictions.Log) error {
	var b strings.Builder
	sample := ""
	if l.Matched > len(l.Rows) {
		sample = fmt.Sprintf(" (a sample of %d)", len(l.Rows))
	}
	fmt.Fprintf(&b, "%d records%s from %s to %s, compared with %d of the reference\nmodel %s\n\n",
		l.Matched, sample, l.From.Format(time.RFC3339), l.To.Format(time.RFC3339), r.Reference, r.Model)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	tests := []string{drift.TestKS, drift.TestChiSquare, drift.TestPSI, drift.TestWasserstein, drift.TestJensenShannon, drift.TestMMD, drift.TestAUC}
	fmt.Fprintf(t, "column\tadjusted p\t%s\t\t\n", strings.Join(tests, "\t"))
	for _, c := range r.Columns {
		result, p := "-", fmt.Sprintf("%.2g", c.Adjusted)
		switch {
		case c.Unknown != "":
			result, p = "unknown", ""
		case c.Drift:
			result = "DRIFT"
		}
		fmt.Fprintf(t, "%s\t%s\t", c.Name, p)
		for _, test := range tests {
			if score, ok := c.Scores[test]; ok {
				fmt.Fprintf(t, "%.3g", score)
			}
			fmt.Fprint(t, "\t")
		}
		fmt.Fprintf(t, "%s\t\n", result)
	}
	_ = t.Flush()
	for _, u := range r.Unknown() {
		fmt.Fprintf(&b, "\nunknown: %s\n", u)
	}
	switch {
	case r.Drift:
		fmt.Fprintf(&b, "\ndrift in %s\n", strings.Join(r.Drifted(), ", "))
	case len(r.Unknown()) > 0:
		b.WriteString("\nno drift in the other columns\n")
	default:
		b.WriteString("\nno drift\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}
