// Package telemetry is what the server tells about itself: metrics for Prometheus,
// log lines in Cloud Logging's shape, and OpenTelemetry traces.
package telemetry

import (
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"fakeart/internal/drift"
	"fakeart/internal/explain"
)

// durationBuckets, in seconds, resolve 1 ms to 1 s in steps of a half or less. An
// objective's threshold should be one of them: then the share of requests within
// it is exact.
var durationBuckets = [...]float64{
	0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075,
	0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10,
}

// The names of metrics that Totals reads as well.
const (
	requestsName    = "fakeart_requests_total"
	durationsName   = "fakeart_request_duration_seconds"
	predictionsName = "fakeart_predictions_total"
	logRecordsName  = "fakeart_log_records_total"
	feedbackName    = "fakeart_feedback_total"
)

// Metrics are the server's, by Prometheus's conventions for names and units. All of
// it is safe for concurrent use; what is on the way of every request allocates nothing.
type Metrics struct {
	registry *prometheus.Registry
	totals   *prometheus.Registry // of what Totals reads

	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	routes    sync.Map // of *Route, by its name

	inference   prometheus.Histogram
	batch       prometheus.Histogram
	predictions *prometheus.CounterVec
	probability prometheus.Histogram
	modelInfo   *prometheus.GaugeVec
	swaps       *prometheus.CounterVec
	logRecords  *prometheus.CounterVec
	feedback    *prometheus.CounterVec
	panics      prometheus.Counter

	explanations         *prometheus.CounterVec
	explanationDurations *prometheus.HistogramVec

	driftScore *prometheus.GaugeVec
	// Without labels, but not there as long as nothing is known.
	driftDetected, driftRows, driftTime *prometheus.GaugeVec
}

// Sources are values that are asked for when metrics are read.
type Sources struct {
	QueueDepth  func() int // pictures that wait for a session
	LogWaiting  func() int // records that wait to be stored
	LogOutbox   func() int // records that could not be sent to it yet
	LogWritable func() bool
	InFlight    func() int // requests
	// Accuracy is the share of right verdicts among those that users spoke of, if any.
	Accuracy func() (share float64, known bool)
}

// NewMetrics returns metrics that are all at zero.
func NewMetrics(version string, s Sources) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: requestsName,
			Help: "Requests answered, by the route's pattern, the method and the status; 499 is a client that did not wait.",
		}, []string{"route", "method", "code"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    durationsName,
			Help:    "Time from a request's header to its answer, by the route's pattern and the method.",
			Buckets: durationBuckets[:],
		}, []string{"route", "method"}),
		inference: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "fakeart_inference_duration_seconds",
			Help:    "Time that the model took for a batch of pictures.",
			Buckets: append([]float64{0.0001, 0.0002, 0.0003, 0.0005, 0.00075}, durationBuckets[:]...),
		}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "fakeart_batch_size",
			Help:    "Pictures that the model judged at once.",
			Buckets: []float64{1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 128, 256},
		}),
		predictions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: predictionsName,
			Help: "Pictures judged, by the verdict and the digest of the model.",
		}, []string{"label", "model"}),
		probability: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "fakeart_probability",
			Help:    "Probability of being AI-generated that pictures were given.",
			Buckets: prometheus.LinearBuckets(0.05, 0.05, 20),
		}),
		modelInfo: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fakeart_model_info",
			Help: "1 for the model in use.",
		}, []string{"model", "name", "data_digest", "preprocessing"}),
		swaps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fakeart_model_swaps_total",
			Help: "Changes of the model in use, by their result.",
		}, []string{"result"}),
		logRecords: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: logRecordsName,
			Help: "Records of the prediction log: written to its store, spilled to wait for it, or failed, which are lost.",
		}, []string{"result"}),
		feedback: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: feedbackName,
			Help: "Feedbacks of users on predictions, by the label that they gave and whether the verdict was the same: true, false, or unknown to this server.",
		}, []string{"label", "correct"}),
		driftScore: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fakeart_drift_score",
			Help: "Statistics of the last look for drift, by the column of the prediction log and the test.",
		}, []string{"column", "test"}),
		driftDetected: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fakeart_drift_detected",
			Help: "1 when the last look found drift, 0 when it found none; absent when it could not tell.",
		}, nil),
		driftRows: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fakeart_drift_window_rows",
			Help: "Records in the window of the last look for drift.",
		}, nil),
		driftTime: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fakeart_drift_timestamp_seconds",
			Help: "When the last look for drift that could tell was taken, as Unix time.",
		}, nil),
		explanations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fakeart_explanations_total",
			Help: "Verdicts that were explained by a map, by the method.",
		}, []string{"method"}),
		explanationDurations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "fakeart_explanation_duration_seconds",
			Help:    "Time that explaining a verdict took once its turn had come, by the method.",
			Buckets: append([]float64{0.0005, 0.00075}, durationBuckets[:]...),
		}, []string{"method"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fakeart_panics_total",
			Help: "Requests whose handler failed in a way that is a fault of the program.",
		}),
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	m.registry.MustRegister(
		m.requests, m.durations, m.inference, m.batch, m.predictions, m.probability, m.modelInfo, m.swaps, m.logRecords, m.feedback, m.panics,
		m.driftScore, m.driftDetected, m.driftRows, m.driftTime, m.explanations, m.explanationDurations,
		gauge("fakeart_queue_depth", "Pictures that wait for a session.", func() float64 { return float64(s.QueueDepth()) }),
		gauge("fakeart_requests_in_flight", "Requests that are worked on.", func() float64 { return float64(s.InFlight()) }),
		gauge("fakeart_log_waiting_records", "Records of the prediction log that wait to be stored.", func() float64 { return float64(s.LogWaiting()) }),
		gauge("fakeart_log_outbox_records", "Records of the prediction log that were spilled and are not sent yet.", func() float64 { return float64(s.LogOutbox()) }),
		gauge("fakeart_log_writable", "1 while the prediction log can be written.", func() float64 {
			if s.LogWritable() {
				return 1
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fakeart_build_info", Help: "1, with the version of the program.", ConstLabels: prometheus.Labels{"version": version},
		}, func() float64 { return 1 }),
		accuracy{prometheus.NewDesc("fakeart_feedback_accuracy_ratio",
			"Share of right verdicts among the last thousand predictions of the model in use that users spoke of; absent without any.", nil, nil), s.Accuracy},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m.totals = newTotals(m.requests, m.durations, m.predictions, m.logRecords, m.feedback)
	// An alert on a rate needs the series before the first event.
	for _, result := range []string{"success", "failed"} {
		m.swaps.WithLabelValues(result)
	}
	for _, result := range []string{"written", "spilled", "failed"} {
		m.logRecords.WithLabelValues(result)
	}
	for _, method := range explain.Methods() {
		m.explanations.WithLabelValues(string(method))
		m.explanationDurations.WithLabelValues(string(method))
	}
	for _, label := range []string{"REAL", "FAKE"} {
		for _, correct := range []string{"true", "false", "unknown"} {
			m.feedback.WithLabelValues(label, correct)
		}
	}
	return m
}

// accuracy is a gauge that is not there as long as nothing is known.
type accuracy struct {
	desc  *prometheus.Desc
	value func() (float64, bool)
}

// Describe implements prometheus.Collector.
func (a accuracy) Describe(to chan<- *prometheus.Desc) { to <- a.desc }

// Collect implements prometheus.Collector.
func (a accuracy) Collect(to chan<- prometheus.Metric) {
	if share, known := a.value(); known {
		to <- prometheus.MustNewConstMetric(a.desc, prometheus.GaugeValue, share)
	}
}

// Handler serves the metrics in the text format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// Route counts the requests of one route and method.
type Route struct {
	// Pattern and Method are the labels.
	Pattern, Method string

	duration prometheus.Observer
	requests *prometheus.CounterVec
	codes    [600]atomic.Pointer[prometheus.Counter]
}

// Route returns the counters of a route's pattern and a method. The labels must come
// from a fixed set, not from a request.
func (m *Metrics) Route(pattern, method string) *Route {
	key := [2]string{pattern, method}
	if r, ok := m.routes.Load(key); ok {
		return r.(*Route)
	}
	r, _ := m.routes.LoadOrStore(key, &Route{
		Pattern: pattern, Method: method,
		duration: m.durations.WithLabelValues(pattern, method), requests: m.requests,
	})
	return r.(*Route)
}

// Observe counts a request that was answered with the status after so long.
func (r *Route) Observe(status int, took time.Duration) {
	r.duration.Observe(took.Seconds())
	if status < 0 || status >= len(r.codes) {
		status = http.StatusInternalServerError
	}
	counter := r.codes[status].Load()
	if counter == nil {
		c := r.requests.WithLabelValues(r.Pattern, r.Method, strconv.Itoa(status))
		counter = &c
		r.codes[status].Store(counter)
	}
	(*counter).Inc()
}

// Batch counts a batch that a session judged in so long.
func (m *Metrics) Batch(pictures int, took time.Duration) {
	m.batch.Observe(float64(pictures))
	m.inference.Observe(took.Seconds())
}

// Explained counts a verdict that was explained in so long.
func (m *Metrics) Explained(method explain.Method, took time.Duration) {
	m.explanations.WithLabelValues(string(method)).Inc()
	m.explanationDurations.WithLabelValues(string(method)).Observe(took.Seconds())
}

// Panic counts a request that hit a fault of the program.
func (m *Metrics) Panic() { m.panics.Inc() }

// Swap counts a change of the model that succeeded or failed.
func (m *Metrics) Swap(succeeded bool) {
	result := "failed"
	if succeeded {
		result = "success"
	}
	m.swaps.WithLabelValues(result).Inc()
}

// LogRecords counts records of the prediction log by what became of them.
func (m *Metrics) LogRecords(result string, n int) {
	m.logRecords.WithLabelValues(result).Add(float64(n))
}

// Feedback counts what a user said: the label, and whether the verdict was the same:
// "true", "false" or "unknown".
func (m *Metrics) Feedback(label, correct string) { m.feedback.WithLabelValues(label, correct).Inc() }

// Model counts the predictions of one model.
type Model struct {
	labels      [2]prometheus.Counter
	probability prometheus.Histogram
}

// Model returns the counters of a model with such a digest and class names, by label.
func (m *Metrics) Model(digest string, classes []string) *Model {
	counters := &Model{probability: m.probability}
	for i := range counters.labels {
		counters.labels[i] = m.predictions.WithLabelValues(classes[i], digest)
	}
	return counters
}

// Predicted counts a picture that was judged.
func (m *Model) Predicted(fake bool, probability float64) {
	i := 0
	if fake {
		i = 1
	}
	m.labels[i].Inc()
	m.probability.Observe(probability)
}

// Drift tells what a look for drift has found in a window of so many records.
func (m *Metrics) Drift(r *drift.Result, rows int64, at time.Time) {
	m.driftScore.Reset()
	for _, c := range r.Columns {
		for test, score := range c.Scores {
			m.driftScore.WithLabelValues(c.Name, test).Set(score)
		}
	}
	detected := 0.0
	if r.Drift {
		detected = 1
	}
	m.driftDetected.WithLabelValues().Set(detected)
	m.driftRows.WithLabelValues().Set(float64(rows))
	m.driftTime.WithLabelValues().Set(float64(at.UnixMicro()) / 1e6)
}

// DriftUnknown tells that a look for drift could not tell, and takes back what the
// one before has found.
func (m *Metrics) DriftUnknown(rows int64) {
	m.driftScore.Reset()
	m.driftDetected.Reset()
	m.driftRows.WithLabelValues().Set(float64(rows))
}

// SetModel says which model is in use from now on.
func (m *Metrics) SetModel(digest, name, dataDigest, preprocessing string) {
	m.modelInfo.Reset()
	m.modelInfo.WithLabelValues(digest, name, dataDigest, preprocessing).Set(1)
}
