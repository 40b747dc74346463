package telemetry

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"fakeart/internal/reference"
)

// placeholder stands for a label's value, so that every vector has a series.
const placeholder = "\x00"

func TestReferenceMetrics(t *testing.T) {
	// Every source has something to say, so that all metrics are there.
	var sources Sources
	for _, source := range reflect.ValueOf(&sources).Elem().Fields() {
		source.Set(reflect.MakeFunc(source.Type(), func([]reflect.Value) (results []reflect.Value) {
			for result := range source.Type().Outs() {
				value := reflect.New(result).Elem()
				if result.Kind() == reflect.Bool {
					value.SetBool(true)
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
			// Values that are there from the start.
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
	reference.Page(t, "metrics", "Metrics", "server/telemetry/metrics.go", "`GET /metrics` has them in Prometheus's text format, beside those of the Go client library (`go_…`, `process_…`). "+
		"What they are for: [operations](../how-to/operate.md#metrics); what alerts on them: [monitoring](../how-to/monitoring.md).\n\n"+
		reference.Table([]string{"metric", "type", "labels", ""}, rows)+
		"## Buckets of the histograms\n"+reference.Table([]string{"metric", "upper bounds, besides +Inf"}, buckets))
}

// fill makes a series of a vector, however many labels it has.
func fill[M any](series func(values ...string) (M, error)) {
	for n := 0; ; n++ {
		if _, err := series(slices.Repeat([]string{placeholder}, n)...); err == nil {
			return
		}
	}
}
