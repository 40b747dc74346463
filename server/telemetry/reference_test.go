package telemetry

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"fakeart/tools/reference"
)

// placeholder is the label value of the series that fill creates.
const placeholder = "\x00"

func TestReferenceMetrics(t *testing.T) {
	// Every source returns a value, so that all metrics exist.
	var sources Sources
	for _, source := range reflect.ValueOf(&sources).Elem().Fields() {
		source.Set(reflect.MakeFunc(source.Type(), func([]reflect.Value) (results []reflect.Value) {
			for result := range source.Type().Outs() {
				value := reflect.New(result).Elem()
				switch result.Kind() {
				case reflect.Bool:
					value.SetBool(true)
				case reflect.Map: // by name of the model
					value.Set(reflect.ValueOf(map[string]float64{placeholder: 1}))
				}
				results = append(results, value)
			}
			return results
		}))
	}
	m := NewMetrics("", sources)
	for field := range reflect.TypeFor[Metrics]().Fields() {
		value := reflect.ValueOf(m).Elem().FieldByIndex(field.Index)
		switch field.Type {
		case reflect.TypeFor[*prometheus.CounterVec]():
			fill((*prometheus.CounterVec)(value.UnsafePointer()).GetMetricWithLabelValues)
		case reflect.TypeFor[*prometheus.GaugeVec]():
			fill((*prometheus.GaugeVec)(value.UnsafePointer()).GetMetricWithLabelValues)
		case reflect.TypeFor[*prometheus.HistogramVec]():
			fill((*prometheus.HistogramVec)(value.UnsafePointer()).GetMetricWithLabelValues)
		}
	}
	m.Model(placeholder, placeholder, []string{placeholder})
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var rows, buckets [][]string
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "fakeart_") {
			continue
		}
		labels := map[string][]string{}
		for _, metric := range f.Metric {
			for _, pair := range metric.Label {
				labels[pair.GetName()] = append(labels[pair.GetName()], pair.GetValue())
			}
		}
		var texts []string
		for _, name := range slices.Sorted(maps.Keys(labels)) {
			text := reference.Code(name)
			// List the values that exist from the start.
			if values := slices.Compact(slices.Sorted(slices.Values(labels[name]))); len(values) > 1 {
				text += " (" + strings.Join(slices.DeleteFunc(values, func(v string) bool { return v == placeholder }), ", ") + ")"
			}
			texts = append(texts, text)
		}
		rows = append(rows, []string{reference.Code(f.GetName()), strings.ToLower(f.GetType().String()), strings.Join(texts, ", "), reference.Text(f.GetHelp())})
		if h := f.Metric[0].Histogram; h != nil {
			var bounds []string
			for _, b := range h.Bucket {
				bounds = append(bounds, fmt.Sprintf("%.4g", b.GetUpperBound()))
			}
			buckets = append(buckets, []string{reference.Code(f.GetName()), strings.Join(bounds, ", ")})
		}
	}
	reference.Page(t, "metrics", "Metrics", "server/telemetry/metrics.go", "`GET /metrics` serves these metrics in Prometheus's text format, together with those of the Go client library (`go_…`, `process_…`). "+
		"See [operations](../how-to/operate.md#metrics) for their use and [monitoring](../how-to/monitoring.md) for the alerts on them.\n\n"+
		reference.Table([]string{"metric", "type", "labels", ""}, rows)+
		"## Histogram buckets\n"+reference.Table([]string{"metric", "upper bounds, without +Inf"}, buckets))
}

// fill creates a series of a vector, whatever its number of labels.
func fill[M any](series func(values ...string) (M, error)) {
	for n := 0; ; n++ {
		if _, err := series(slices.Repeat([]string{placeholder}, n)...); err == nil {
			return
		}
	}
}
