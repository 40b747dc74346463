package slo

import (
	"fmt"
	"math"
	"time"

	"github.com/prometheus/common/model"
)

// Series adapts the queries of an objective to the labels of a monitoring system. Select adds matchers
// to a selector. By is the grouping of sums, such as " by (job) ", or empty.
type Series struct {
	Select func(Selector) Selector
	By     string
}

// ErrorBudget returns the share of events that may be bad, 1 - Target, rounded to 9 digits.
func (o Objective) ErrorBudget() float64 { return math.Round((1-o.Target)*1e9) / 1e9 }

// ErrorRatio returns a PromQL query for the share of bad events in a lookback window. A series that
// doesn't exist yet, because there was no such event, counts as 0.
func (o Objective) ErrorRatio(of Series, lookback time.Duration) string {
	sum := func(s Selector) string { return of.sum("rate", s, lookback) }
	total := sum(o.Total)
	part := func(s *Selector) string { return "(" + sum(*s) + " or 0 * " + total + ") / " + total }
	if o.Good != nil {
		return "1 - " + part(o.Good)
	}
	return part(o.Bad)
}

// BadEvents returns a PromQL query for the number of bad events in a lookback window.
func (o Objective) BadEvents(of Series, lookback time.Duration) string {
	if o.Bad != nil {
		return of.sum("increase", *o.Bad, lookback)
	}
	total := of.sum("increase", o.Total, lookback)
	return total + " - (" + of.sum("increase", *o.Good, lookback) + " or 0 * " + total + ")"
}

// BelowTarget returns the PromQL condition of the objective's Shortfall, which must not be nil: the
// share of bad events exceeds the error budget, and there are enough events. The result is the share.
func (o Objective) BelowTarget(of Series) string {
	lookback := o.Shortfall.Lookback
	return fmt.Sprintf("%s > %v and %s >= %d", o.ErrorRatio(of, lookback), o.ErrorBudget(), of.sum("increase", o.Total, lookback), o.Shortfall.MinEvents)
}

func (s Series) sum(function string, of Selector, lookback time.Duration) string {
	return "sum" + s.By + "(" + function + "(" + s.Select(of).String() + "[" + model.Duration(lookback).String() + "]))"
}
