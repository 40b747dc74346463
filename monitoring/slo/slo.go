// Package slo defines Fakeart's service level objectives. They are OpenSLO documents, the *.yaml files
// of this folder, and the only place for their targets. Use [Load] to read them. Cloud Monitoring's
// SLOs, the Prometheus rules and the load test's thresholds are generated from the result.
package slo

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/OpenSLO/go-sdk/pkg/openslo"
	v1 "github.com/OpenSLO/go-sdk/pkg/openslo/v1"
	"github.com/OpenSLO/go-sdk/pkg/openslosdk"
)

//go:embed *.yaml
var files embed.FS

// Objective is an SLO: a share of events that must be good.
type Objective struct {
	// Name is a unique DNS label. DisplayName is for people.
	Name, DisplayName string
	// Description is a sentence about what is counted.
	Description string
	// Target is the required share of good events, above 0 and below 1, over the rolling Window.
	Target float64
	Window time.Duration

	// Total selects all events. Either Good or Bad selects the good or bad ones, and the other is
	// nil. All are counters of the same metric or the same histogram.
	Total     Selector
	Good, Bad *Selector
	// Shortfall is set if there are too few events for burn-rate alerts.
	Shortfall *Shortfall
	// Latency is set if events are good that took no longer than a threshold.
	Latency *Latency
}

// Latency is a latency indicator on a histogram.
type Latency struct {
	// Histogram selects the histogram, without the suffixes _bucket and _count and the label le.
	Histogram Selector
	// Threshold is the longest good duration in seconds. It is the bound of a bucket.
	Threshold float64
}

// Shortfall is an alert on a share of good events below the target. It replaces burn-rate alerts if
// events may be missing for days, or if the target is too low for them.
type Shortfall struct {
	// Lookback is the window over which the share is computed. The alert requires at least MinEvents
	// events in it.
	Lookback  time.Duration
	MinEvents int
	// Runbook is the name of the page in docs/runbooks, without .md. Title and Meaning describe the
	// alert in a few words and in a few sentences.
	Runbook, Title, Meaning string
}

// Annotations that define a Shortfall. Both must be set.
const (
	lookback  = "fakeart/look-back"    // such as 7d
	minEvents = "fakeart/least-events" // such as "50"
)

// Load returns the objectives of the project, ordered by file name.
func Load() ([]Objective, error) { return Read(files) }

// Read returns the objectives in the *.yaml files of a folder. Anything unsupported is an error, which
// starts with the file name.
func Read(fsys fs.FS) ([]Objective, error) {
	names, err := fs.Glob(fsys, "*.yaml")
	if err != nil {
		return nil, err
	}
	var objectives []Objective
	for _, name := range names {
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		found, err := parse(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, o := range found {
			if slices.ContainsFunc(objectives, func(other Objective) bool { return other.Name == o.Name }) {
				return nil, fmt.Errorf("%s: duplicate SLO %s", name, o.Name)
			}
			objectives = append(objectives, o)
		}
	}
	return objectives, nil
}

// parse parses the documents of a file.
func parse(data []byte) ([]Objective, error) {
	objects, err := openslosdk.Decode(bytes.NewReader(data), openslosdk.FormatYAML)
	if err != nil {
		return nil, fmt.Errorf("parse OpenSLO: %w", err)
	}
	if len(objects) == 0 {
		return nil, errors.New("no OpenSLO document found")
	}
	if err := openslosdk.Validate(objects...); err != nil {
		return nil, fmt.Errorf("validate OpenSLO: %w", err)
	}
	var objectives []Objective
	for _, object := range objects {
		document, ok := object.(v1.SLO)
		if !ok {
			return nil, fmt.Errorf("unexpected %s of version %s: expected only SLOs of version %s", object.GetKind(), object.GetVersion(), openslo.VersionV1)
		}
		o, err := objectiveOf(document)
		if err != nil {
			return nil, fmt.Errorf("SLO %s: %w", document.GetName(), err)
		}
		objectives = append(objectives, o)
	}
	return objectives, nil
}

// objectiveOf converts a valid document. It returns an error for features of OpenSLO that the
// consumers don't support.
func objectiveOf(document v1.SLO) (Objective, error) {
	spec := document.Spec
	o := Objective{Name: document.GetName(), DisplayName: document.Metadata.DisplayName, Description: spec.Description}
	switch {
	case o.DisplayName == "" || o.Description == "":
		return o, errors.New("metadata.displayName and spec.description are required, because the alerts show them")
	case spec.BudgetingMethod != v1.SLOBudgetingMethodOccurrences:
		return o, fmt.Errorf("budgetingMethod %s: expected %s", spec.BudgetingMethod, v1.SLOBudgetingMethodOccurrences)
	case len(spec.TimeWindow) != 1 || !spec.TimeWindow[0].IsRolling || spec.TimeWindow[0].Duration.GetValue() <= 0:
		return o, errors.New("timeWindow: expected one rolling window, such as 30d")
	case len(spec.Objectives) != 1:
		return o, fmt.Errorf("%d objectives: expected one, with a target", len(spec.Objectives))
	case spec.Indicator == nil || spec.Indicator.Spec.RatioMetric == nil:
		return o, errors.New("indicator: expected an inline ratioMetric")
	case len(spec.AlertPolicies) > 0:
		return o, errors.New("alertPolicies: not supported; alerts are derived from the target")
	}
	o.Window = spec.TimeWindow[0].Duration.Duration()
	if percent := spec.Objectives[0].TargetPercent; percent != nil {
		o.Target = math.Round(*percent*1e6) / 1e8 // avoid 0.9990000000000001
	} else {
		o.Target = *spec.Objectives[0].Target
	}
	if o.Target <= 0 || o.Target >= 1 {
		return o, fmt.Errorf("target %v: expected a share between 0 and 1, such as 0.999", o.Target)
	}
	if err := o.annotate(document.Metadata.Annotations); err != nil {
		return o, err
	}
	return o, o.indicate(spec.Indicator.Spec.RatioMetric)
}

// annotate reads the annotations of a Shortfall, for which OpenSLO has no fields.
func (o *Objective) annotate(annotations v1.Annotations) error {
	for key := range annotations {
		if strings.HasPrefix(key, "fakeart/") && key != lookback && key != minEvents {
			return fmt.Errorf("unknown annotation %s: expected %s or %s", key, lookback, minEvents)
		}
	}
	window, hasWindow := annotations[lookback]
	events, hasEvents := annotations[minEvents]
	if !hasWindow && !hasEvents {
		return nil
	}
	s := &Shortfall{Runbook: o.Name + "-below-objective", Title: o.Name + " is below its objective"}
	duration, err := v1.ParseDurationShorthand(window)
	if err != nil || duration.GetValue() <= 0 || duration.Duration() > o.Window {
		return fmt.Errorf("annotation %s: %q: expected a duration up to the window of %s, such as 7d", lookback, window, FormatDuration(o.Window))
	}
	s.Lookback = duration.Duration()
	if s.MinEvents, err = strconv.Atoi(events); err != nil || s.MinEvents < 1 {
		return fmt.Errorf("annotation %s: %q: expected a number of events, such as \"50\"", minEvents, events)
	}
	s.Meaning = fmt.Sprintf("%s In the last %s, it was below the objective of %.4g %%, with at least %d events.", o.Description, FormatDuration(s.Lookback), 100*o.Target, s.MinEvents)
	o.Shortfall = s
	return nil
}

// indicate reads the indicator: Total, Good, Bad and Latency.
func (o *Objective) indicate(ratio *v1.SLIRatioMetric) error {
	if !ratio.Counter {
		return errors.New("ratioMetric.counter: expected true, because the metrics are counters")
	}
	if ratio.Total == nil || (ratio.Good == nil) == (ratio.Bad == nil) {
		return errors.New("ratioMetric: expected total and either good or bad")
	}
	total, err := selectorOf("total", ratio.Total)
	if err != nil {
		return err
	}
	name, metric := "good", ratio.Good
	if ratio.Bad != nil {
		name, metric = "bad", ratio.Bad
	}
	part, err := selectorOf(name, metric)
	if err != nil {
		return err
	}
	o.Total = total
	if ratio.Bad != nil {
		o.Bad = &part
	} else {
		o.Good = &part
	}
	base, bucket := strings.CutSuffix(part.Metric, "_bucket")
	if !bucket {
		if part.Metric != total.Metric {
			return fmt.Errorf("%s counts %s, but total counts %s: expected the same metric", name, part.Metric, total.Metric)
		}
		return nil
	}
	rest, le := part.without("le")
	rest.Metric = base
	switch want := (Selector{Metric: base + "_count", Matchers: rest.Matchers}).String(); {
	case o.Good == nil:
		return fmt.Errorf("%s: a bucket counts fast events: expected it as good", part)
	case len(le) != 1 || le[0].Op != "=":
		return fmt.Errorf(`%s: expected one matcher le="SECONDS", the threshold`, part)
	case total.String() != want:
		return fmt.Errorf("total is %s: expected %s, because good is %s", total, want, part)
	}
	threshold, err := strconv.ParseFloat(le[0].Value, 64)
	if err != nil || threshold <= 0 || math.IsInf(threshold, 0) || math.IsNaN(threshold) {
		return fmt.Errorf("%s: le isn't a number of seconds", part)
	}
	o.Latency = &Latency{Histogram: rest, Threshold: threshold}
	return nil
}

// selectorOf parses the selector of a Prometheus metric source.
func selectorOf(name string, metric *v1.SLIMetricSpec) (Selector, error) {
	source := metric.MetricSource
	query, ok := source.Spec["query"].(string)
	if source.Type != "Prometheus" || !ok || len(source.Spec) != 1 {
		return Selector{}, fmt.Errorf("%s: expected a metricSource of type Prometheus that contains only a query", name)
	}
	s, err := parseSelector(query)
	if err != nil {
		return s, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}
