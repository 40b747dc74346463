package slo

import (
	"fmt"
	"math"
	"time"

	"github.com/prometheus/common/model"
)

// Series is how whoever watches the service finds its series: Select makes an objective's
// selector one of them, and By is what sums leave of their labels, as in " by (job) ".
type Series struct {
	Select func(Selector) Selector
	By     string
}

// Budget is the share of events that need not be good, without the error of a
// subtraction.
func (o Objective) Budget() float64 { return math.Round((1-o.Target)*1e9) / 1e9 }

// Errors is the share of a look back's events that were not good, as PromQL. A series
// that there is not yet, for no such event has been, counts as 0.
func (o Objective) Errors(of Series, lookBack time.Duration) string {
	sum := func(s Selector) string { return of.sum("rate", s, lookBack) }
	total := sum(o.Total)
	part := func(s *Selector) string { return "(" + sum(*s) + " or 0 * " + total + ") / " + total }
	if o.Good != nil {
		return "1 - " + part(o.Good)
	}
	return part(o.Bad)
}

// Below is the condition of the objective's Shortfall, as PromQL: the share of events that
// were not good, where it is more than the budget, of events enough.
func (o Objective) Below(of Series) string {
	back := o.Shortfall.LookBack
	return fmt.Sprintf("%s > %v and %s >= %d", o.Errors(of, back), o.Budget(), of.sum("increase", o.Total, back), o.Shortfall.Least)
}

func (s Series) sum(function string, of Selector, lookBack time.Duration) string {
	return "sum" + s.By + "(" + function + "(" + s.Select(of).String() + "[" + model.Duration(lookBack).String() + "]))"
}
