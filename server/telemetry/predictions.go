package telemetry

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// MaxLabels is the maximum number of classes of a model that have series of their own. The others are counted together, with
// the label [Other]. A class of that name is one of them.
const MaxLabels = 50

// Other is the label of the classes that have no series of their own.
const Other = "other"

// Model counts the predictions of one model. It is safe for concurrent use. Its methods don't allocate.
type Model struct {
	name, digest string
	labels       []string
	counts       []atomic.Uint64 // by class
	probability  prometheus.Observer
	batch        prometheus.Observer
	inference    prometheus.Observer

	mu     sync.Mutex
	last   []uint64       // counts at the last call of series
	shown  map[int]uint64 // counts of the series, by class
	hidden uint64         // count of Other
}

// Model returns the counters of the model with the given name, digest and labels of its classes. Several calls with the same
// digest return the same counters.
func (m *Metrics) Model(name, digest string, labels []string) *Model {
	p := m.predictions
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.models {
		if one.name == name && one.digest == digest {
			return one
		}
	}
	one := &Model{
		name: name, digest: digest, labels: labels, counts: make([]atomic.Uint64, len(labels)),
		probability: m.probability.WithLabelValues(name), batch: m.batch.WithLabelValues(name), inference: m.inference.WithLabelValues(name),
		last: make([]uint64, len(labels)), shown: map[int]uint64{},
	}
	p.models = append(p.models, one)
	if len(labels) <= MaxLabels {
		// Alerts on rates need the series to exist before the first event.
		for _, label := range labels {
			for _, correct := range []string{"true", "false", "unknown"} {
				m.feedback.WithLabelValues(m.labels.bounded(name, label), correct, name)
			}
		}
	}
	return one
}

// Predicted counts a prediction of the class with the given index, and its reported probability.
func (m *Model) Predicted(class int, probability float64) {
	m.counts[class].Add(1)
	m.probability.Observe(probability)
}

// Batch counts a batch of images and its duration.
func (m *Model) Batch(images int, took time.Duration) {
	m.batch.Observe(float64(images))
	m.inference.Observe(took.Seconds())
}

// series calls f with the label and the count of each series: those of the MaxLabels most frequent classes and that of Other or, if the model
// has no more classes, those of all. As Prometheus requires, the count of a series never decreases while it exists: what was counted as
// Other stays there when a class becomes one of the most frequent. When it no longer is, its series ends.
func (m *Model) series(f func(label string, count uint64)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	bounded := len(m.counts) > MaxLabels
	var classes []int
	before := slices.Clone(m.last)
	for i := range m.counts {
		m.last[i] = m.counts[i].Load()
		switch {
		case bounded && m.labels[i] == Other: // a second series of this name would make all metrics unreadable
			m.hidden += m.last[i] - before[i]
		case m.last[i] > 0 || !bounded:
			classes = append(classes, i)
		}
	}
	top := classes
	if len(classes) > MaxLabels {
		slices.SortStableFunc(classes, func(a, b int) int {
			_, shownA := m.shown[a]
			_, shownB := m.shown[b]
			switch {
			case m.last[a] != m.last[b]:
				return cmp.Compare(m.last[b], m.last[a])
			case shownA != shownB && shownA:
				return -1
			case shownA != shownB:
				return 1
			}
			return 0
		})
		top = classes[:MaxLabels]
		for _, i := range classes[MaxLabels:] {
			m.hidden += m.last[i] - before[i]
			delete(m.shown, i)
		}
	}
	for _, i := range top {
		m.shown[i] += m.last[i] - before[i]
		f(m.labels[i], m.shown[i])
	}
	if bounded {
		f(Other, m.hidden)
	}
}

// predictions is the counter of predictions, with the series of all models.
type predictions struct {
	desc *prometheus.Desc

	mu     sync.Mutex
	models []*Model
}

func newPredictions() *predictions {
	return &predictions{desc: prometheus.NewDesc(predictionsName,
		"Images classified, by predicted class (the 50 most frequent of a model, and other), name of the model, and digest.", []string{"label", "model", "model_name"}, nil)}
}

// Describe implements prometheus.Collector.
func (p *predictions) Describe(to chan<- *prometheus.Desc) { to <- p.desc }

// Collect implements prometheus.Collector.
func (p *predictions) Collect(to chan<- prometheus.Metric) {
	p.mu.Lock()
	models := slices.Clone(p.models)
	p.mu.Unlock()
	for _, m := range models {
		m.series(func(label string, count uint64) {
			to <- prometheus.MustNewConstMetric(p.desc, prometheus.CounterValue, float64(count), label, m.digest, m.name)
		})
	}
}

// images returns the number of predictions of all models.
func (p *predictions) images() (n uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.models {
		for i := range m.counts {
			n += m.counts[i].Load()
		}
	}
	return n
}

// labels bounds the number of labels per model to the first MaxLabels.
type labels struct {
	mu   sync.Mutex
	seen map[string]map[string]bool // by name of the model
}

// bounded returns the label, or Other.
func (l *labels) bounded(name, label string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = map[string]map[string]bool{}
	}
	known := l.seen[name]
	if known == nil {
		known = map[string]bool{}
		l.seen[name] = known
	}
	if !known[label] && len(known) >= MaxLabels {
		return Other
	}
	known[label] = true
	return label
}
