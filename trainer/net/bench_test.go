package net

import (
	"fmt"
	"testing"
)

// A training step of the CIFAKE network, without the filling of batches, which
// happens beside it.
func BenchmarkStep(b *testing.B) {
	n := newNetwork(b, cifake)
	for _, layout := range []string{LayoutStandard, LayoutBlocked} {
		for _, size := range []int{32, 128} {
			b.Run(fmt.Sprintf("%s/%d", layout, size), func(b *testing.B) {
				if layout == LayoutBlocked {
					needBlocked(b)
				}
				tr, err := NewTrainer(n, n.Init(1), TrainerOptions{Optimizer: adam, Layout: layout})
				if err != nil {
					b.Fatal(err)
				}
				defer func() { _ = tr.Close() }()
				batch, err := tr.NewBatch(size)
				if err != nil {
					b.Fatal(err)
				}
				defer func() { _ = batch.Close() }()
				drawExample(n, 1, 0, size, 0).fill(b, batch)
				for b.Loop() {
					if _, err := tr.Step(batch, 1e-3); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(size)*float64(b.N)/b.Elapsed().Seconds(), "images/s")
			})
		}
	}
}

// Filling a batch is what a step's next batch costs one core beside it.
func BenchmarkFill(b *testing.B) {
	n := newNetwork(b, cifake)
	for _, layout := range []string{LayoutStandard, LayoutBlocked} {
		b.Run(layout, func(b *testing.B) {
			if layout == LayoutBlocked {
				needBlocked(b)
			}
			const size = 128
			tr := newTrainer(b, n, n.Init(1), layout, adam)
			batch, err := tr.NewBatch(size)
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = batch.Close() }()
			pictures, labels := drawPictures(1, 0, size)
			flip := make([]bool, size)
			for i := range flip {
				flip[i] = i%2 == 0
			}
			for b.Loop() {
				if err := batch.Fill(pictures, labels, flip, keep, func() bool { return false }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(size*float64(b.N)/b.Elapsed().Seconds(), "images/s")
		})
	}
}
