package prometheus

// Tests is a test file for `promtool test rules`.
type Tests struct {
	RuleFiles []string `yaml:"rule_files"`
	// EvaluationInterval applies to rule groups without an interval of their own.
	EvaluationInterval string `yaml:"evaluation_interval"`
	Tests              []Test `yaml:"tests"`
}

// Test runs the rules on input series and checks queries.
type Test struct {
	Name string `yaml:"name"`
	// Interval is the time between the samples of the series.
	Interval string   `yaml:"interval"`
	Series   []Series `yaml:"input_series"`
	Queries  []Query  `yaml:"promql_expr_test"`
}

// Series is a series and its values, in promtool's notation.
type Series struct {
	Series string `yaml:"series"`
	Values string `yaml:"values"`
}

// Query is the expected result of a query at a time.
type Query struct {
	Expr    string   `yaml:"expr"`
	At      string   `yaml:"eval_time"`
	Samples []Sample `yaml:"exp_samples,omitempty"`
}

// Sample is a series and its value at a time.
type Sample struct {
	Labels string  `yaml:"labels"`
	Value  float64 `yaml:"value"`
}
