package main

import (
	"strings"
	"testing"
)

func TestExecute_Environment(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	t.Setenv("PULUMI_BACKEND_URL", "file:///state")
	var out strings.Builder
	if err := execute(t.Context(), ".", command{args: []string{"env"}, env: []string{"EXTRA=1"}, out: &out}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT=", "TRACEPARENT="} {
		if strings.Contains(out.String(), name) {
			t.Errorf("the command's environment contains %s", name)
		}
	}
	for _, variable := range []string{"PULUMI_BACKEND_URL=file:///state\n", "EXTRA=1\n"} {
		if !strings.Contains(out.String(), variable) {
			t.Errorf("the command's environment doesn't contain %s", variable)
		}
	}
}
