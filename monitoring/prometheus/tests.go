package prometheus

// Tests is a file for `promtool test rules`.
type Tests struct {
	RuleFiles []string `yaml:"rule_files"`
	// EvaluationInterval is that of the groups of rules that have none of their own.
	EvaluationInterval string `yaml:"evaluation_interval"`
	Tests              []Test `yaml:"tests"`
}

// Test is what the rules make of some series.
type Test struct {
	Name string `yaml:"name"`
	// Interval is the time between the series' values.
	Interval string   `yaml:"interval"`
	Series   []Series `yaml:"input_series"`
	Queries  []Query  `yaml:"promql_expr_test"`
}

// Series is a series and its values, in promtool's notation.
type Series struct {
	Series string `yaml:"series"`
	Values string `yaml:"values"`
}

// Query is what a query has to give at a time.
type Query struct {
	Expr    string   `yaml:"expr"`
	At      string   `yaml:"eval_time"`
	Samples []Sample `yaml:"exp_samples,omitempty"`
}

// Sample is a series and its value.
type Sample struct {
	Labels string  `yaml:"labels"`
	Value  float64 `yaml:"value"`
}
