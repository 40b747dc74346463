package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"fakeart/monitoring/slo"
)

// Metrics of the server on requests, which a client can also measure.
const (
	requests = "fakeart_requests_total"
	duration = "fakeart_request_duration_seconds"
)

// requestLabels are the labels of these metrics whose values a client knows.
var requestLabels = []string{"route", "method", "code", "size"}

// k6Objectives is the content of loadtest/slo.json, with which loadtest/predict.js evaluates a run.
type k6Objectives struct {
	Generated  string        `json:"generated"`
	Objectives []k6Objective `json:"objectives"`
}

// k6Objective is an SLO on the requests that match Total. A request is good if it takes no longer than
// WithinSeconds, if it matches Good, or if it doesn't match Bad. One of the three is set.
type k6Objective struct {
	Name          string      `json:"name"`
	DisplayName   string      `json:"display_name"`
	Target        float64     `json:"target"`
	Total         []k6Matcher `json:"total"`
	WithinSeconds float64     `json:"within_seconds,omitempty"`
	Good          []k6Matcher `json:"good,omitempty"`
	Bad           []k6Matcher `json:"bad,omitempty"`
}

// k6Matcher is a PromQL matcher on a label of a request.
type k6Matcher struct {
	Label string `json:"label"`
	Op    string `json:"op"`
	Value string `json:"value"`
}

// k6 generates loadtest/slo.json from the objectives on requests. A load test can't measure the
// others, such as feedback.
func k6(objectives []slo.Objective) ([]byte, error) {
	all := k6Objectives{Generated: "by make slo from monitoring/slo/*.yaml. Do not edit."}
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
		return nil, fmt.Errorf("no SLO on %s or %s, so a load test would have no thresholds", requests, duration)
	}
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(all)
	return text.Bytes(), err
}

// k6Matchers returns the matchers of a selector, or nil for nil.
func k6Matchers(s *slo.Selector) (matchers []k6Matcher, err error) {
	if s == nil {
		return nil, nil
	}
	for _, m := range s.Matchers {
		if !slices.Contains(requestLabels, m.Label) {
			return nil, fmt.Errorf("%s: a client doesn't know the label %s, only %v", s, m.Label, requestLabels)
		}
		matchers = append(matchers, k6Matcher(m))
	}
	return matchers, nil
}
