package slo

import (
	"fmt"
	"time"
)

// BurnRate is the condition of a burn-rate alert: the error budget is consumed faster than Factor
// times the rate at which it would last for the SLO's window, over both lookback windows. The long
// one shows that the errors are significant, the short one that they continue
// (Google, The Site Reliability Workbook, chapter 5, table 5-8).
type BurnRate struct {
	Factor      float64
	Long, Short time.Duration
	// Page marks critical alerts, which can't wait until the morning.
	Page bool
}

var burnRates = []BurnRate{
	{14.4, time.Hour, 5 * time.Minute, true},
	{6, 6 * time.Hour, 30 * time.Minute, true},
	{1, 3 * 24 * time.Hour, 6 * time.Hour, false},
}

// MinBadEvents is the number of bad events in the long window below which a burn-rate alert doesn't
// fire. With little traffic, a few bad events are a high burn rate, but aren't worth a page at night.
// A complete outage still alerts: at ten requests per hour, the window of six hours after two hours.
const MinBadEvents = 20

// BurnAlert is an alert on an error budget that burns too fast.
type BurnAlert struct {
	BurnRate
	// Runbook is the name of the page in docs/runbooks, without .md. Title and Meaning describe the
	// alert in a few words and in a few sentences.
	Runbook, Title, Meaning string
}

// BurnAlerts returns the burn-rate alerts of the objective, with the highest rate first. It returns
// nil if the objective has a Shortfall instead.
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
		a.Title = fmt.Sprintf("%s: error budget burns %stoo fast", o.Name, times)
		a.Meaning = fmt.Sprintf("%s The error budget, %.4g %% of the events in %s, was consumed at more than %sthe sustainable rate over the last %s and the last %s.",
			o.Description, 100*o.ErrorBudget(), FormatDuration(o.Window), times, FormatDuration(b.Long), FormatDuration(b.Short))
		alerts[i] = a
	}
	return alerts
}

// FormatDuration formats a duration in its largest whole unit of days, hours or minutes: 3d, 6h, 5min.
func FormatDuration(d time.Duration) string {
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
