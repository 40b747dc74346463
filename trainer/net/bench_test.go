package net

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"fakeart/internal/explain"
	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/onnx"
	"fakeart/internal/onnx/onnxpb"
	"fakeart/internal/ort"
)

// BenchmarkStep measures a training step, without filling the batch, which happens concurrently in
// training.
func BenchmarkStep(b *testing.B) {
	for _, network := range []struct {
		name string
		Config
	}{{"cifake", cifake}, {"resnet-small", resnetSmall}} {
		n := newNetwork(b, network.Config)
		for _, layout := range []string{LayoutStandard, LayoutBlocked} {
			for _, size := range []int{32, 128} {
				b.Run(fmt.Sprintf("%s/%s/%d", network.name, layout, size), func(b *testing.B) {
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
					drawBatch(n, 1, 0, size, 0).fill(b, batch)
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
}

// BenchmarkFill measures filling a batch, which occupies one core while the previous step runs.
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
			images, labels := drawImages(n, 1, 0, size)
			flip := make([]bool, size)
			for i := range flip {
				flip[i] = i%2 == 0
			}
			for b.Loop() {
				if err := batch.Fill(Samples{Images: images, Labels: labels, Flip: flip, Keep: keep, Drop: func() bool { return false }}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(size*float64(b.N)/b.Elapsed().Seconds(), "images/s")
		})
	}
}

// BenchmarkExplanations measures the cost of Grad-CAM in a model file for a prediction, and the
// cost of an explanation. The sessions take turns, so that changes in the speed of the machine
// affect all of them. It reports medians, and their ratio to that of a file without Grad-CAM.
func BenchmarkExplanations(b *testing.B) {
	n := newNetwork(b, cifake)
	g, err := n.Inference(n.Init(1))
	if err != nil {
		b.Fatal(err)
	}
	whole, err := g.Model()
	if err != nil {
		b.Fatal(err)
	}
	without := proto.CloneOf(whole)
	onnx.Detach(without, gradCAMName)
	parsed := func(m *onnxpb.ModelProto) *model.File {
		data, err := model.Marshal(m, trained())
		if err != nil {
			b.Fatal(err)
		}
		f, err := model.Parse(data)
		if err != nil {
			b.Fatal(err)
		}
		return f
	}
	const most = 8
	pixels := n.pixels()
	rng := rand.New(rand.NewPCG(1, 2))
	images := make([]float32, most*pixels)
	for i := range images {
		images[i] = rng.Float32()
	}
	ready := func(open func(int, ort.Options) (*model.Session, error)) *model.Session {
		s, err := open(most, ort.Options{Threads: 1, DenormalsAsZero: true})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = s.Close() })
		copy(s.Input().Float32, images)
		return s
	}
	file := parsed(whole)
	old, serving, explaining := ready(parsed(without).NewSession), ready(file.NewSession), ready(file.NewExplainer)
	values := make([]float32, 32*32)
	explained := func(method explain.Method) func() error {
		return func() error {
			return explain.Map(values, method, explaining, explain.ModelOf(file), imaging.Tensor{Float32: images[:pixels]}, 1)
		}
	}
	for _, batch := range []int{1, most} {
		type variant struct {
			name string
			run  func() error
		}
		variants := []variant{
			{"old-file", func() error { return old.Run(batch) }},
			{"served", func() error { return serving.Run(batch) }},
			{"whole-graph", func() error { return explaining.Run(batch) }},
		}
		if batch == 1 {
			variants = append(variants, variant{"gradcam", explained(explain.GradCAM)}, variant{"occlusion", explained(explain.Occlusion)})
		}
		b.Run(fmt.Sprint(batch), func(b *testing.B) {
			durations := make([][]time.Duration, len(variants))
			for b.Loop() {
				for _, i := range rng.Perm(len(variants)) { // the previous session leaves its weights in the cache
					start := time.Now()
					if err := variants[i].run(); err != nil {
						b.Fatal(err)
					}
					durations[i] = append(durations[i], time.Since(start))
				}
			}
			median := func(i int) float64 { return float64(slices.Sorted(slices.Values(durations[i]))[len(durations[i])/2]) }
			for i, variant := range variants {
				b.ReportMetric(median(i)/1e3, variant.name+"-µs")
				if i > 0 {
					b.ReportMetric(median(i)/median(0), variant.name+"-ratio")
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
