package telemetry

import (
	"math"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Totals is what has been counted since the start, for those who look at the server
// without a Prometheus.
type Totals struct {
	// Predictions are the pictures judged, by their verdict.
	Predictions map[string]uint64
	// Requests are those on the routes that were asked for, and Errors those of them
	// that were answered 5xx.
	Requests, Errors uint64
	// Latency counts the requests by the time they took.
	Latency Histogram
	// Log are the prediction log's records, by what became of them.
	Log map[string]uint64
	// Feedback is how often users said what a picture really is.
	Feedback uint64
}

// Totals returns what has been counted until now; of requests, those with the method
// POST on one of the routes' patterns.
func (m *Metrics) Totals(routes ...string) (Totals, error) {
	t := Totals{Predictions: map[string]uint64{}, Log: map[string]uint64{}}
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
			judged := labels["method"] == "POST" && slices.Contains(routes, labels["route"])
			switch family.GetName() {
			case predictionsName:
				t.Predictions[labels["label"]] += count
			case logRecordsName:
				t.Log[labels["result"]] += count
			case feedbackName:
				t.Feedback += count
			case requestsName:
				if judged {
					t.Requests += count
					if strings.HasPrefix(labels["code"], "5") {
						t.Errors += count
					}
				}
			case durationsName:
				if judged {
					t.Latency.add(metric.GetHistogram())
				}
			}
		}
	}
	return t, nil
}

// newTotals is the registry of what Totals reads.
func newTotals(collectors ...prometheus.Collector) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors...)
	return r
}

// Histogram counts durations: element i those up to durationBuckets[i] and above the
// one before it, the last one those above all of them.
type Histogram [len(durationBuckets) + 1]uint64

func (h *Histogram) add(from *dto.Histogram) {
	var below uint64
	for i, b := range from.GetBucket() {
		if i < len(durationBuckets) { // what follows is the bucket of all, in some encodings
			h[i] += b.GetCumulativeCount() - below
			below = b.GetCumulativeCount()
		}
	}
	h[len(durationBuckets)] += from.GetSampleCount() - below
}

// Since returns what was counted after before.
func (h Histogram) Since(before Histogram) Histogram {
	for i := range h {
		h[i] -= before[i]
	}
	return h
}

// Quantile estimates the duration in seconds that the share q, 0 to 1, of all does not
// exceed, as Prometheus's histogram_quantile does: evenly spread within a bucket, and
// the highest bound for what is above. It is NaN when nothing was counted.
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
			least := 0.0
			if i > 0 {
				least = durationBuckets[i-1]
			}
			return least + (bound-least)*(rank-below)/n
		}
		below += n
	}
	return durationBuckets[len(durationBuckets)-1]
}
