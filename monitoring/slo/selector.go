package slo

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Selector names series as PromQL does: name{label="value",...}.
type Selector struct {
	Metric   string
	Matchers []Matcher
}

// Matcher is a condition on a label. A regular expression, RE2's, has to fit all of
// the label's value.
type Matcher struct {
	Label string
	// Op is =, !=, =~ or !~.
	Op    string
	Value string
}

// String is the selector as PromQL.
func (s Selector) String() string {
	texts := make([]string, len(s.Matchers))
	for i, m := range s.Matchers {
		texts[i] = m.Label + m.Op + strconv.Quote(m.Value)
	}
	return s.Metric + "{" + strings.Join(texts, ",") + "}"
}

// Fits is whether the label may have the value. That of a label that is not there is
// empty.
func (m Matcher) Fits(value string) bool {
	switch m.Op {
	case "=":
		return value == m.Value
	case "!=":
		return value != m.Value
	}
	fits := regexp.MustCompile("^(?s:" + m.Value + ")$").MatchString(value)
	return fits == (m.Op == "=~")
}

// without returns the selector without the matchers of a label, and those.
func (s Selector) without(label string) (rest Selector, matchers []Matcher) {
	rest.Metric = s.Metric
	for _, m := range s.Matchers {
		if m.Label == label {
			matchers = append(matchers, m)
		} else {
			rest.Matchers = append(rest.Matchers, m)
		}
	}
	return rest, matchers
}

var (
	namePattern    = regexp.MustCompile(`^\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*`)
	matcherPattern = regexp.MustCompile(`^\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*("(?:[^"\\\n]|\\.)*")\s*`)
)

// parseSelector reads a selector. Functions, ranges and sums are no selectors: each
// consumer adds its own.
func parseSelector(query string) (Selector, error) {
	bad := func(format string, args ...any) (Selector, error) {
		return Selector{}, fmt.Errorf("selector %s: %s", query, fmt.Sprintf(format, args...))
	}
	name := namePattern.FindStringSubmatch(query)
	if name == nil {
		return bad(`wants a metric's name first, as in name{label="value"}`)
	}
	s := Selector{Metric: name[1]}
	rest := query[len(name[0]):]
	if strings.TrimSpace(rest) == "" {
		return s, nil
	}
	rest, ok := strings.CutPrefix(rest, "{")
	if !ok {
		return bad("%q after the metric's name: want {, and neither function nor range", rest)
	}
	for {
		if end, ok := strings.CutPrefix(strings.TrimSpace(rest), "}"); ok {
			if end != "" {
				return bad("%q after the braces: want nothing, neither range nor operator", end)
			}
			return s, nil
		}
		m := matcherPattern.FindStringSubmatch(rest)
		if m == nil {
			return bad(`%q: want label="value", or !=, =~, !~`, rest)
		}
		value, err := strconv.Unquote(m[3])
		if err != nil {
			return bad("the value %s is not a string", m[3])
		}
		if strings.HasSuffix(m[2], "~") {
			if _, err := regexp.Compile(value); err != nil {
				return bad("%v", err)
			}
		}
		s.Matchers = append(s.Matchers, Matcher{Label: m[1], Op: m[2], Value: value})
		rest = rest[len(m[0]):]
		if after, ok := strings.CutPrefix(rest, ","); ok {
			rest = after
		} else if !strings.HasPrefix(rest, "}") {
			return bad("%q: want , or }", rest)
		}
	}
}
