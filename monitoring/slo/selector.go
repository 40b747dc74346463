package slo

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Selector is a PromQL instant vector selector: name{label="value",...}.
type Selector struct {
	Metric   string
	Matchers []Matcher
}

// Matcher is a condition on a label. Regular expressions have RE2 syntax and must match the whole
// value.
type Matcher struct {
	Label string
	// Op is =, !=, =~ or !~.
	Op    string
	Value string
}

// String returns the selector in PromQL.
func (s Selector) String() string {
	texts := make([]string, len(s.Matchers))
	for i, m := range s.Matchers {
		texts[i] = m.Label + m.Op + strconv.Quote(m.Value)
	}
	return s.Metric + "{" + strings.Join(texts, ",") + "}"
}

// Matches reports whether the matcher matches a value of the label. Pass "" for a missing label.
func (m Matcher) Matches(value string) bool {
	switch m.Op {
	case "=":
		return value == m.Value
	case "!=":
		return value != m.Value
	}
	matches := regexp.MustCompile("^(?s:" + m.Value + ")$").MatchString(value)
	return matches == (m.Op == "=~")
}

// without returns the selector without the matchers of a label, and the removed matchers.
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

// parseSelector parses a selector. It rejects functions, ranges and operators, which the consumers
// add.
func parseSelector(query string) (Selector, error) {
	bad := func(format string, args ...any) (Selector, error) {
		return Selector{}, fmt.Errorf("selector %s: %s", query, fmt.Sprintf(format, args...))
	}
	name := namePattern.FindStringSubmatch(query)
	if name == nil {
		return bad(`expected a metric name first, as in name{label="value"}`)
	}
	s := Selector{Metric: name[1]}
	rest := query[len(name[0]):]
	if strings.TrimSpace(rest) == "" {
		return s, nil
	}
	rest, ok := strings.CutPrefix(rest, "{")
	if !ok {
		return bad("unexpected %q after the metric name: expected {, without functions and ranges", rest)
	}
	for {
		if end, ok := strings.CutPrefix(strings.TrimSpace(rest), "}"); ok {
			if end != "" {
				return bad("unexpected %q after the braces: expected no range or operator", end)
			}
			return s, nil
		}
		m := matcherPattern.FindStringSubmatch(rest)
		if m == nil {
			return bad(`%q: expected label="value", or !=, =~, !~`, rest)
		}
		value, err := strconv.Unquote(m[3])
		if err != nil {
			return bad("invalid string %s", m[3])
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
			return bad("%q: expected , or }", rest)
		}
	}
}
