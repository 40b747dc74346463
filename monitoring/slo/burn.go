package slo

import (
	"fmt"
	"time"
)

// BurnRate is how fast the error budget goes, in multiples of the rate at which it
// lasts for the objective's window. Both looks back have to see it: the long one says
// that it matters, the short one that it goes on.
// (Google, The Site Reliability Workbook, chapter 5, table 5-8.)
type BurnRate struct {
	Factor      float64
	Long, Short time.Duration
	// Page is whether it cannot wait until the morning.
	Page bool
}

var burnRates = []BurnRate{
	{14.4, time.Hour, 5 * time.Minute, true},
	{6, 6 * time.Hour, 30 * time.Minute, true},
	{1, 3 * 24 * time.Hour, 6 * time.Hour, false},
}

// BurnAlert is an alert on a budget that goes too fast.
type BurnAlert struct {
	BurnRate
	// Runbook is the name of its page in docs/runbooks, Title what people read, and
	// Meaning says in a sentence or two what has happened.
	Runbook, Title, Meaning string
}

// BurnAlerts are the alerts of the objective, whoever watches it, with the fastest
// rate first; none where a Shortfall is in their place.
func (o Objective) BurnAlerts() []BurnAlert {
	if o.Shortfall != nil {
		return nil
	}
	alerts := make([]BurnAlert, len(burnRates))
	for i, b := range burnRates {
		a := BurnAlert{BurnRate: b, Runbook: o.Name + "-burns-slowly"}
		if b.Page {
			a.Runbook = o.Name + "-burns-fast"
		}
		times := fmt.Sprint(b.Factor, " times ")
		if b.Factor == 1 {
			times = ""
		}
		a.Title = fmt.Sprintf("%s: its error budget burns %stoo fast", o.Name, times)
		a.Meaning = fmt.Sprintf("%s The budget, %.4g %% of the events of %s, has gone at more than %sthe rate at which it lasts, for %s and for the last %s.",
			o.Description, 100*(1-o.Target), Text(o.Window), times, Text(b.Long), Text(b.Short))
		alerts[i] = a
	}
	return alerts
}

// Text is a time in its largest whole unit, such as 3d, for people and names.
func Text(d time.Duration) string {
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}} {
		if d%unit.size == 0 {
			return fmt.Sprint(int(d/unit.size), unit.name)
		}
	}
	return fmt.Sprint(int(d/time.Minute), "min")
}
