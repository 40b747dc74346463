package cli

import (
	"fmt"
	"time"
)

// TimeForms describes the forms that [ParseTime] accepts, for help texts.
const TimeForms = "a date (2026-11-30), today, yesterday, an age (24h, 7d) or RFC 3339 (2026-11-30T08:00:00Z)"

// Time is a point in time on the command line. Its zero value means that none was given.
type Time struct{ time.Time }

// UnmarshalText implements [encoding.TextUnmarshaler] with [ParseTime].
func (t *Time) UnmarshalText(text []byte) (err error) {
	t.Time, err = ParseTime(string(text), time.Now())
	return err
}

// ParseTime parses a time in one of the forms of [TimeForms]. Dates, today and yesterday mean
// midnight in now's time zone. An age is subtracted from now.
func ParseTime(text string, now time.Time) (time.Time, error) {
	year, month, day := now.Date()
	switch text {
	case "today":
		return time.Date(year, month, day, 0, 0, 0, 0, now.Location()), nil
	case "yesterday":
		return time.Date(year, month, day-1, 0, 0, 0, 0, now.Location()), nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, text, now.Location()); err == nil {
		return t, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if age, err := ParseDuration(text); err == nil && age > 0 {
		return now.Add(-age), nil
	}
	return time.Time{}, fmt.Errorf("invalid time %q\n"+HintPrefix+"use %s; dates are in the local time zone", text, TimeForms)
}
