package main

import (
	"testing"

	"github.com/google/uuid"

	"fakeart/server/benchmark"
	"fakeart/server/infer"
	"fakeart/server/load"
)

// BenchmarkPredict measures prediction requests with a model that takes next to no time. The
// allocations are those of the server and of the load generator together.
func BenchmarkPredict(b *testing.B) {
	for _, store := range []string{"none", "sqlite"} {
		b.Run(store, func(b *testing.B) {
			m := start(b, func(c *Config) { c.LogStore = store })
			addr, request := m.endpoints[0].listener.Addr().String(), benchmark.ImageRequest("/predict", 32, 32)
			b.ReportAllocs()
			b.ResetTimer()
			if _, err := load.ClosedLoop(b.Context(), addr, request, 16, load.Limit{Requests: b.N}); err != nil {
				b.Fatal(err)
			}
			b.StopTimer() // exclude closing
		})
	}
}

func BenchmarkAppendPrediction(b *testing.B) {
	m := start(b)
	x := &exchange{served: m.models.Default().Current()}
	p := &inputImage{id: uuid.Must(uuid.NewV7()), class: 1, probability: 0.9632632158245119, probabilities: []float64{0.0367367841754881, 0.9632632158245119}, job: &infer.Job{Embedding: make([]float32, 128)}}
	for i := range p.job.Embedding {
		p.job.Embedding[i] = 1 / float32(i+1)
	}
	for _, test := range []struct {
		name      string
		embedding bool
	}{{"plain", false}, {"embedding", true}} {
		b.Run(test.name, func(b *testing.B) {
			b.ReportAllocs()
			x.embedding = test.embedding
			for b.Loop() {
				x.response = x.appendPrediction(x.response[:0], p)
			}
		})
	}
}
