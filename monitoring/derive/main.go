// Command derive generates files from the SLOs in monitoring/slo for tools that don't read OpenSLO:
// Prometheus rules and their tests, and the thresholds of the load test. `make slo` runs it in the root
// of the checkout.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"fakeart/monitoring/slo"
)

// outputs maps each generated file, relative to the root of the checkout, to its generator.
var outputs = map[string]func([]slo.Objective) ([]byte, error){
	"loadtest/slo.json":                    k6,
	"monitoring/prometheus/slo.rules.yaml": prometheusRules,
	"monitoring/prometheus/slo_test.yaml":  prometheusTests,
}

func main() {
	if err := write("."); err != nil {
		fmt.Fprintf(os.Stderr, "derive: %v\n", err)
		os.Exit(1)
	}
}

// write updates the outputs that have changed.
func write(root string) error {
	objectives, err := slo.Load()
	if err != nil {
		return err
	}
	for path, derive := range outputs {
		data, err := derive(objectives)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		path = filepath.Join(root, path)
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
			continue
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
