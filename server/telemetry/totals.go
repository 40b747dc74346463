package telemetry

import (
	"math"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Totals are counts since the start of the process, for use without a Prometheus server.
type Totals struct {
	// Images counts classified images. Predictions counts them by predicted class, of which there are at most MaxLabels per
	// model and Other. A count can be lower than before, or missing, if the class has been counted as Other meanwhile.
	Images      uint64
	Predictions map[string]uint64
	// Requests counts the requests on the given routes, and Errors those with a 5xx status.
	Requests, Errors uint64
	// Latency counts the requests by duration.
	Latency Histogram
	// Log counts prediction log records by result.
	Log map[string]uint64
	// Feedback counts user feedback.
	Feedback uint64
}

// Totals returns the current totals. Requests, Errors and Latency cover POST requests on the given
// route patterns.
func (m *Metrics) Totals(routes ...string) (Totals, error) {
	t := Totals{Images: m.predictions.images(), Predictions: map[string]uint64{}, Log: map[string]uint64{}}
	families, err := m.totals.Gather()
	if err != nil {
		return t, err
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			labels := map[string]string{}
			for _, l := range metric.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			count := uint64(metric.GetCounter().GetValue())
			matches := labels["method"] == "POST" && slices.Contains(routes, labels["route"])
			switch family.GetName() {
			case predictionsName:
				t.Predictions[labels["label"]] += count
			case logRecordsName:
				t.Log[labels["result"]] += count
			case feedbackName:
				t.Feedback += count
			case requestsName:
				if matches {
					t.Requests += count
					if strings.HasPrefix(labels["code"], "5") {
						t.Errors += count
					}
				}
			case durationsName:
				if matches {
					t.Latency.add(metric.GetHistogram())
				}
			}
		}
	}
	return t, nil
}

// newTotals returns a registry of the metrics that Totals reads.
func newTotals(collectors ...prometheus.Collector) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors...)
	return r
}

// Histogram counts durations: element i counts those up to durationBuckets[i] and above the
// previous bound, the last element those above all bounds.
type Histogram [len(durationBuckets) + 1]uint64

func (h *Histogram) add(from *dto.Histogram) {
	var below uint64
	for i, b := range from.GetBucket() {
		if i < len(durationBuckets) { // some encodings end with a bucket for +Inf
			h[i] += b.GetCumulativeCount() - below
			below = b.GetCumulativeCount()
		}
	}
	h[len(durationBuckets)] += from.GetSampleCount() - below
}

// Since returns the counts since before was taken.
func (h Histogram) Since(before Histogram) Histogram {
	for i := range h {
		h[i] -= before[i]
	}
	return h
}

// Quantile estimates the q-quantile of the durations in seconds, with q in [0,1], like Prometheus's
// histogram_quantile: it interpolates linearly within a bucket, and returns the highest bound for
// durations above it. It returns NaN if the histogram is empty.
func (h Histogram) Quantile(q float64) float64 {
	var total uint64
	for _, n := range h {
		total += n
	}
	if total == 0 {
		return math.NaN()
	}
	rank, below := q*float64(total), 0.0
	for i, bound := range durationBuckets {
		n := float64(h[i])
		if n > 0 && below+n >= rank {
			lower := 0.0
			if i > 0 {
				lower = durationBuckets[i-1]
			}
			return lower + (bound-lower)*(rank-below)/n
		}
		below += n
	}
	return durationBuckets[len(durationBuckets)-1]
}
