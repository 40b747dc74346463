// Package telemetry provides the server's observability: Prometheus metrics ([NewMetrics]), logs in
// Cloud Logging's format ([NewLogger]) and OpenTelemetry traces ([NewTracing]).
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

// durationBuckets are the histogram bounds in seconds. Between 1 ms and 1 s each is at most 5/3 of
// the one before. Choose SLO thresholds from these bounds: only then is the share of requests
// within the threshold exact.
var durationBuckets = [...]float64{
	0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075,
	0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10,
}

// Names of metrics that Totals also reads.
const (
	requestsName    = "fakeart_requests_total"
	durationsName   = "fakeart_request_duration_seconds"
	predictionsName = "fakeart_predictions_total"
	logRecordsName  = "fakeart_log_records_total"
	feedbackName    = "fakeart_feedback_total"
)

// Metrics holds the server's Prometheus metrics. It is safe for concurrent use. Methods on the path
// of every request do not allocate.
type Metrics struct {
	registry *prometheus.Registry
	totals   *prometheus.Registry // the metrics that Totals reads

	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	receives  *prometheus.HistogramVec
	routes    sync.Map // of *Route, by pattern and method

	inference   *prometheus.HistogramVec
	batch       *prometheus.HistogramVec
	predictions *predictions
	probability *prometheus.HistogramVec
	modelInfo   *prometheus.GaugeVec
	swaps       *prometheus.CounterVec
	logRecords  *prometheus.CounterVec
	feedback    *prometheus.CounterVec
	labels      labels // of feedback
	panics      prometheus.Counter

	explanations         *prometheus.CounterVec
	explanationDurations *prometheus.HistogramVec

	driftScore *prometheus.GaugeVec
	// Vectors without labels, so that they are absent until a drift check has a result.
	driftDetected, driftRows, driftTime *prometheus.GaugeVec
}

// Sources are callbacks that are called when metrics are read.
type Sources struct {
	QueueDepth  func() int // images that wait for a session
	LogWaiting  func() int // records that wait to be stored
	LogOutbox   func() int // records in the outbox, to be sent later
	LogWritable func() bool
	InFlight    func() int // requests in flight
	// Accuracy returns the share of correct predictions among those with feedback, by name of the model. Models without
	// feedback are missing.
	Accuracy func() map[string]float64
}

// NewMetrics returns metrics with all counters at zero.
func NewMetrics(version string, s Sources) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: requestsName,
			Help: "Requests by route pattern, method and status; status 499 means that the client disconnected.",
		}, []string{"route", "method", "code"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    durationsName,
			Help:    "Time in the server, from the last byte of a request until its response is ready, by route pattern, method and, for images, size: small up to 1 megapixel in total, or large, which includes explanations, HEIC and AVIF.",
			Buckets: durationBuckets[:],
		}, []string{"route", "method", "size"}),
		receives: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "fakeart_request_receive_duration_seconds",
			Help:    "Time to receive a request, from its first byte to its last one, by route pattern and method; it depends on the network and the client.",
			Buckets: []float64{0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30},
		}, []string{"route", "method"}),
		inference: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "fakeart_inference_duration_seconds",
			Help:    "Time to run a model on a batch of images, by name of the model.",
			Buckets: append([]float64{0.0001, 0.0002, 0.0003, 0.0005, 0.00075}, durationBuckets[:]...),
		}, []string{"model_name"}),
		batch: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "fakeart_batch_size",
			Help:    "Images per batch, by name of the model.",
			Buckets: []float64{1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 128, 256},
		}, []string{"model_name"}),
		predictions: newPredictions(),
		probability: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "fakeart_probability",
			Help:    "Reported probability of predictions, by name of the model: that of the positive class, if the model has one, or else of the predicted class.",
			Buckets: prometheus.LinearBuckets(0.05, 0.05, 20),
		}, []string{"model_name"}),
		modelInfo: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fakeart_model_info",
			Help: "Always 1; the labels describe the models in use. model_name is the name in requests, name that in the file.",
		}, []string{"model", "model_name", "name", "data_digest", "preprocessing"}),
		swaps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fakeart_model_swaps_total",
			Help: "Model swaps by result and name of the model.",
		}, []string{"result", "model_name"}),
		logRecords: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: logRecordsName,
			Help: "Prediction log records by result: written to the store, spilled to the outbox to be sent later, or failed and lost.",
		}, []string{"result"}),
		feedback: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: feedbackName,
			Help: "User feedback by the correct label, the first 50 of a model and other, by name of the model, and by whether the prediction was correct: true, false, or unknown if this server doesn't know the prediction.",
		}, []string{"label", "correct", "model_name"}),
		driftScore: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fakeart_drift_score",
			Help: "Test statistics of the last drift check, by prediction log column and test.",
		}, []string{"column", "test"}),
		driftDetected: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fakeart_drift_detected",
			Help: "1 if the last drift check detected drift, 0 if not; absent if it had no result.",
		}, nil),
		driftRows: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fakeart_drift_window_rows",
			Help: "Records in the window of the last drift check.",
		}, nil),
		driftTime: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fakeart_drift_timestamp_seconds",
			Help: "Unix time of the last drift check that had a result.",
		}, nil),
		explanations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fakeart_explanations_total",
			Help: "Predictions explained, by method.",
		}, []string{"method"}),
		explanationDurations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "fakeart_explanation_duration_seconds",
			Help:    "Time to explain a prediction, without the time in the queue, by method.",
			Buckets: append([]float64{0.0005, 0.00075}, durationBuckets[:]...),
		}, []string{"method"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fakeart_panics_total",
			Help: "Requests whose handler panicked.",
		}),
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	m.registry.MustRegister(
		m.requests, m.durations, m.receives, m.inference, m.batch, m.predictions, m.probability, m.modelInfo, m.swaps, m.logRecords, m.feedback, m.panics,
		m.driftScore, m.driftDetected, m.driftRows, m.driftTime, m.explanations, m.explanationDurations,
		gauge("fakeart_queue_depth", "Images that wait for a session.", func() float64 { return float64(s.QueueDepth()) }),
		gauge("fakeart_requests_in_flight", "Requests in flight.", func() float64 { return float64(s.InFlight()) }),
		gauge("fakeart_log_waiting_records", "Prediction log records in memory that wait to be stored.", func() float64 { return float64(s.LogWaiting()) }),
		gauge("fakeart_log_outbox_records", "Prediction log records in the outbox that are not sent yet.", func() float64 { return float64(s.LogOutbox()) }),
		gauge("fakeart_log_writable", "1 if the prediction log is writable, 0 if not.", func() float64 {
			if s.LogWritable() {
				return 1
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fakeart_build_info", Help: "Always 1; the label is the version of the server.", ConstLabels: prometheus.Labels{"version": version},
		}, func() float64 { return 1 }),
		accuracy{prometheus.NewDesc("fakeart_feedback_accuracy_ratio",
			"Share of correct predictions among the last 1,000 predictions of a model in use with feedback, by name of the model; absent without feedback.", []string{"model_name"}, nil), s.Accuracy},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m.totals = newTotals(m.requests, m.durations, m.predictions, m.logRecords, m.feedback)
	// Alerts on rates need the series to exist before the first event. Those of a model are made by Serve.
	for _, result := range []string{"written", "spilled", "failed"} {
		m.logRecords.WithLabelValues(result)
	}
	for _, method := range explain.Methods() {
		m.explanations.WithLabelValues(string(method))
		m.explanationDurations.WithLabelValues(string(method))
	}
	return m
}

// Serve adds the series of a model that requests can name.
func (m *Metrics) Serve(name string) {
	for _, result := range []string{"success", "failed"} {
		m.swaps.WithLabelValues(result, name)
	}
	m.inference.WithLabelValues(name)
	m.batch.WithLabelValues(name)
	m.probability.WithLabelValues(name)
}

// accuracy is a gauge that is absent as long as its value is unknown.
type accuracy struct {
	desc  *prometheus.Desc
	value func() map[string]float64
}

// Describe implements prometheus.Collector.
func (a accuracy) Describe(to chan<- *prometheus.Desc) { to <- a.desc }

// Collect implements prometheus.Collector.
func (a accuracy) Collect(to chan<- prometheus.Metric) {
	for name, share := range a.value() {
		to <- prometheus.MustNewConstMetric(a.desc, prometheus.GaugeValue, share, name)
	}
}

// Handler serves the metrics in Prometheus's text format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// Route counts the requests of one route and method.
type Route struct {
	// Pattern and Method are the values of the labels.
	Pattern, Method string

	duration  [len(sizes)]atomic.Pointer[prometheus.Observer]
	receive   prometheus.Observer
	durations *prometheus.HistogramVec
	requests  *prometheus.CounterVec
	codes     [600]atomic.Pointer[prometheus.Counter]
}

// Route returns the counters of a route pattern and method. To bound the number of series, both
// must come from a fixed set and not from a request.
func (m *Metrics) Route(pattern, method string) *Route {
	key := [2]string{pattern, method}
	if r, ok := m.routes.Load(key); ok {
		return r.(*Route)
	}
	r, _ := m.routes.LoadOrStore(key, &Route{
		Pattern: pattern, Method: method,
		durations: m.durations, receive: m.receives.WithLabelValues(pattern, method), requests: m.requests,
	})
	return r.(*Route)
}

// Size is the size class of a request by the work that its images take. The classes have SLOs of
// their own, because large images take longer to decode than users wait for small ones.
type Size int

// The size classes.
const (
	NoImages Size = iota // a route that takes no image files
	Small                // at most SmallPixels, including requests without a readable image
	Large                // more than SmallPixels, explanations, HEIC or AVIF
)

// SmallPixels is the maximum number of pixels of all images of a small request.
const SmallPixels = 1_000_000

// sizes are the values of the label size.
var sizes = [...]string{NoImages: "", Small: "small", Large: "large"}

// Observe counts a request without images by the status and the duration of its response. A status
// out of range counts as 500.
func (r *Route) Observe(status int, took time.Duration) { r.ObserveSize(status, took, NoImages) }

// ObserveSize is like Observe, for a request with images.
func (r *Route) ObserveSize(status int, took time.Duration, size Size) {
	duration := r.duration[size].Load()
	if duration == nil {
		d := r.durations.WithLabelValues(r.Pattern, r.Method, sizes[size])
		duration = &d
		r.duration[size].Store(duration)
	}
	(*duration).Observe(took.Seconds())
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

// ObserveReceive counts a request that was received completely by how long that took.
func (r *Route) ObserveReceive(took time.Duration) { r.receive.Observe(took.Seconds()) }

// Explained counts an explained prediction and its duration.
func (m *Metrics) Explained(method explain.Method, took time.Duration) {
	m.explanations.WithLabelValues(string(method)).Inc()
	m.explanationDurations.WithLabelValues(string(method)).Observe(took.Seconds())
}

// Panic counts a request whose handler panicked.
func (m *Metrics) Panic() { m.panics.Inc() }

// Swap counts a swap of the model with the given name.
func (m *Metrics) Swap(name string, succeeded bool) {
	result := "failed"
	if succeeded {
		result = "success"
	}
	m.swaps.WithLabelValues(result, name).Inc()
}

// LogRecords counts prediction log records by result.
func (m *Metrics) LogRecords(result string, n int) {
	m.logRecords.WithLabelValues(result).Add(float64(n))
}

// Feedback counts feedback on predictions of a model by the correct label and by whether the prediction was correct: "true",
// "false" or "unknown".
func (m *Metrics) Feedback(name, label, correct string) {
	m.feedback.WithLabelValues(m.labels.bounded(name, label), correct, name).Inc()
}

// Drift publishes the result of a drift check over a window of rows records.
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

// DriftUnknown publishes that a drift check had no result, and removes the result of the previous
// one.
func (m *Metrics) DriftUnknown(rows int64) {
	m.driftScore.Reset()
	m.driftDetected.Reset()
	m.driftRows.WithLabelValues().Set(float64(rows))
}

// SetModel publishes the model that is in use under a name.
func (m *Metrics) SetModel(name, digest, fileName, dataDigest, preprocessing string) {
	m.modelInfo.DeletePartialMatch(prometheus.Labels{"model_name": name})
	m.modelInfo.WithLabelValues(digest, name, fileName, dataDigest, preprocessing).Set(1)
}
