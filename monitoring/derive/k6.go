package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"fakeart/monitoring/slo"
)

// The server's metrics of its requests: what a client can count as well.
const (
	requests = "fakeart_requests_total"
	duration = "fakeart_request_duration_seconds"
)

// requestLabels are the labels of theirs that a client knows the values of.
var requestLabels = []string{"route", "method", "code"}

// k6Objectives is what loadtest/predict.js judges a run by.
type k6Objectives struct {
	Generated  string        `json:"generated"`
	Objectives []k6Objective `json:"objectives"`
}

// k6Objective counts those requests that fit Total. Good are those of them that took no
// longer than WithinSeconds, or that fit Good, or that do not fit Bad: one of the three is set.
type k6Objective struct {
	Name          string      `json:"name"`
	DisplayName   string      `json:"display_name"`
	Target        float64     `json:"target"`
	Total         []k6Matcher `json:"total"`
	WithinSeconds float64     `json:"within_seconds,omitempty"`
	Good          []k6Matcher `json:"good,omitempty"`
	Bad           []k6Matcher `json:"bad,omitempty"`
}

// k6Matcher is a condition on a request's label, as PromQL has it.
type k6Matcher struct {
	Label string `json:"label"`
	Op    string `json:"op"`
	Value string `json:"value"`
}

// k6 gives the objectives that are about requests. Whoever sends some knows nothing of
// the others: what users think of the verdicts, for one, is nothing that a load test could tell.
func k6(objectives []slo.Objective) ([]byte, error) {
	all := k6Objectives{Generated: "by make slo, from monitoring/slo/*.yaml: change those"}
	for _, o := range objectives {
		if o.Latency != nil && o.Latency.Histogram.Metric != duration || o.Latency == nil && o.Total.Metric != requests {
			continue
		}
		out := k6Objective{Name: o.Name, DisplayName: o.DisplayName, Target: o.Target}
		var errs [3]error
		out.Total, errs[0] = k6Matchers(&o.Total)
		if o.Latency != nil {
			out.WithinSeconds = o.Latency.Threshold
		} else {
			out.Good, errs[1] = k6Matchers(o.Good)
			out.Bad, errs[2] = k6Matchers(o.Bad)
		}
		if err := errors.Join(errs[:]...); err != nil {
			return nil, fmt.Errorf("SLO %s: %w", o.Name, err)
		}
		all.Objectives = append(all.Objectives, out)
	}
	if len(all.Objectives) == 0 {
		return nil, fmt.Errorf("no SLO is about %s or %s: a load test would have nothing to judge by", requests, duration)
	}
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(all)
	return text.Bytes(), err
}

// k6Matchers are those of a selector, or none of nil.
func k6Matchers(s *slo.Selector) (matchers []k6Matcher, err error) {
	if s == nil {
		return nil, nil
	}
	for _, m := range s.Matchers {
		if !slices.Contains(requestLabels, m.Label) {
			return nil, fmt.Errorf("%s: a client does not know the label %s; it knows %v", s, m.Label, requestLabels)
		}
		matchers = append(matchers, k6Matcher(m))
	}
	return matchers, nil
}
