// Package slo has Fakeart's objectives: the OpenSLO files of this folder, read into
// types that whoever acts on them uses, so that a figure is written down once.
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

// Objective is a share of events that has to be good.
type Objective struct {
	// Name is a DNS label, and the objective's alone. DisplayName is for people.
	Name, DisplayName string
	// Description says in a sentence what is counted.
	Description string
	// Target is the share of good events that is wanted, above 0 and below 1, over
	// the rolling Window.
	Target float64
	Window time.Duration

	// Total counts all events, and one of Good and Bad those of its kind; the other
	// is nil. All are counters of the same metric, or of the same histogram.
	Total     Selector
	Good, Bad *Selector
	// Shortfall is set when the events are too few for burn rates.
	Shortfall *Shortfall
	// Latency is set when the good events are those that took no longer than a
	// threshold.
	Latency *Latency
}

// Latency is an indicator of time, by a histogram.
type Latency struct {
	// Histogram has neither the suffix of a series, _bucket or _count, nor the label le.
	Histogram Selector
	// Threshold is in seconds, and good. It is one of the histogram's buckets.
	Threshold float64
}

// Shortfall is an alert on a share of good events that is below the target: for events that
// may not come for days, or a target that leaves no room for burn rates.
type Shortfall struct {
	// LookBack is over how long the share is looked at, and Least how many events there
	// have to be in it before it says anything.
	LookBack time.Duration
	Least    int
	// Runbook is the name of its page in docs/runbooks, Title what people read, and
	// Meaning says in a sentence or two what has happened.
	Runbook, Title, Meaning string
}

// The annotations that ask for such an alert, instead of those on burn rates. They go together.
const (
	lookBack    = "fakeart/look-back"    // such as 7d
	leastEvents = "fakeart/least-events" // such as "50"
)

// Load reads the objectives of the project, in the order of their files' names.
func Load() ([]Objective, error) { return Read(files) }

// Read reads the *.yaml files of a folder. Whatever it cannot use for sure is an error
// that names the file.
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
				return nil, fmt.Errorf("%s: there is another SLO %s", name, o.Name)
			}
			objectives = append(objectives, o)
		}
	}
	return objectives, nil
}

// parse reads the documents of a file.
func parse(data []byte) ([]Objective, error) {
	objects, err := openslosdk.Decode(bytes.NewReader(data), openslosdk.FormatYAML)
	if err != nil {
		return nil, fmt.Errorf("read as OpenSLO: %w", err)
	}
	if len(objects) == 0 {
		return nil, errors.New("has no OpenSLO document")
	}
	if err := openslosdk.Validate(objects...); err != nil {
		return nil, fmt.Errorf("check as OpenSLO: %w", err)
	}
	var objectives []Objective
	for _, object := range objects {
		document, ok := object.(v1.SLO)
		if !ok {
			return nil, fmt.Errorf("has a %s of %s: want SLOs of %s alone", object.GetKind(), object.GetVersion(), openslo.VersionV1)
		}
		o, err := objectiveOf(document)
		if err != nil {
			return nil, fmt.Errorf("SLO %s: %w", document.GetName(), err)
		}
		objectives = append(objectives, o)
	}
	return objectives, nil
}

// objectiveOf takes from a valid document what the consumers can act on, and refuses
// the rest of OpenSLO.
func objectiveOf(document v1.SLO) (Objective, error) {
	spec := document.Spec
	o := Objective{Name: document.GetName(), DisplayName: document.Metadata.DisplayName, Description: spec.Description}
	switch {
	case o.DisplayName == "" || o.Description == "":
		return o, errors.New("metadata.displayName and spec.description are for those who get its alerts: want both")
	case spec.BudgetingMethod != v1.SLOBudgetingMethodOccurrences:
		return o, fmt.Errorf("budgetingMethod %s: want %s", spec.BudgetingMethod, v1.SLOBudgetingMethodOccurrences)
	case len(spec.TimeWindow) != 1 || !spec.TimeWindow[0].IsRolling || spec.TimeWindow[0].Duration.GetValue() <= 0:
		return o, errors.New("timeWindow: want one that is rolling, such as 30d")
	case len(spec.Objectives) != 1:
		return o, fmt.Errorf("%d objectives: want one, with a target", len(spec.Objectives))
	case spec.Indicator == nil || spec.Indicator.Spec.RatioMetric == nil:
		return o, errors.New("indicator: want a ratioMetric, in place")
	case len(spec.AlertPolicies) > 0:
		return o, errors.New("alertPolicies: want none: alerts follow from the target")
	}
	o.Window = spec.TimeWindow[0].Duration.Duration()
	if percent := spec.Objectives[0].TargetPercent; percent != nil {
		o.Target = math.Round(*percent*1e6) / 1e8 // not the 0.9990000000000001 of a division
	} else {
		o.Target = *spec.Objectives[0].Target
	}
	if o.Target <= 0 || o.Target >= 1 {
		return o, fmt.Errorf("target %v: want a share between 0 and 1, such as 0.999", o.Target)
	}
	if err := o.annotate(document.Metadata.Annotations); err != nil {
		return o, err
	}
	return o, o.indicate(spec.Indicator.Spec.RatioMetric)
}

// annotate reads what of the objective's alert OpenSLO has no field for.
func (o *Objective) annotate(annotations v1.Annotations) error {
	for key := range annotations {
		if strings.HasPrefix(key, "fakeart/") && key != lookBack && key != leastEvents {
			return fmt.Errorf("annotation %s: want %s or %s", key, lookBack, leastEvents)
		}
	}
	back, hasBack := annotations[lookBack]
	least, hasLeast := annotations[leastEvents]
	if !hasBack && !hasLeast {
		return nil
	}
	s := &Shortfall{Runbook: o.Name + "-below-objective", Title: o.Name + ": below its objective"}
	window, err := v1.ParseDurationShorthand(back)
	if err != nil || window.GetValue() <= 0 || window.Duration() > o.Window {
		return fmt.Errorf("annotation %s: %q: want a time up to the window's %s, such as 7d", lookBack, back, Text(o.Window))
	}
	s.LookBack = window.Duration()
	if s.Least, err = strconv.Atoi(least); err != nil || s.Least < 1 {
		return fmt.Errorf("annotation %s: %q: want a number of events, such as \"50\"", leastEvents, least)
	}
	s.Meaning = fmt.Sprintf("%s In the last %s it was below the objective of %.4g %%, of at least %d events.", o.Description, Text(s.LookBack), 100*o.Target, s.Least)
	o.Shortfall = s
	return nil
}

// indicate reads the indicator.
func (o *Objective) indicate(ratio *v1.SLIRatioMetric) error {
	if !ratio.Counter {
		return errors.New("ratioMetric.counter: want true: these metrics only grow")
	}
	if ratio.Total == nil || (ratio.Good == nil) == (ratio.Bad == nil) {
		return errors.New("ratioMetric: want total, and one of good and bad")
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
			return fmt.Errorf("%s counts %s, and total %s: want the same metric", name, part.Metric, total.Metric)
		}
		return nil
	}
	rest, le := part.without("le")
	rest.Metric = base
	switch want := (Selector{Metric: base + "_count", Matchers: rest.Matchers}).String(); {
	case o.Good == nil:
		return fmt.Errorf("%s: a bucket counts what was fast enough: want it as good", part)
	case len(le) != 1 || le[0].Op != "=":
		return fmt.Errorf(`%s: want one le="SECONDS", the threshold`, part)
	case total.String() != want:
		return fmt.Errorf("total is %s: want %s, as good is %s", total, want, part)
	}
	threshold, err := strconv.ParseFloat(le[0].Value, 64)
	if err != nil || threshold <= 0 || math.IsInf(threshold, 0) || math.IsNaN(threshold) {
		return fmt.Errorf("%s: le is not a number of seconds", part)
	}
	o.Latency = &Latency{Histogram: rest, Threshold: threshold}
	return nil
}

// selectorOf reads the selector of a Prometheus metric source.
func selectorOf(name string, metric *v1.SLIMetricSpec) (Selector, error) {
	source := metric.MetricSource
	query, ok := source.Spec["query"].(string)
	if source.Type != "Prometheus" || !ok || len(source.Spec) != 1 {
		return Selector{}, fmt.Errorf("%s: want a metricSource of type Prometheus, with a query alone", name)
	}
	s, err := parseSelector(query)
	if err != nil {
		return s, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}
