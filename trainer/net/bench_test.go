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

// What Grad-CAM in a model file costs a verdict, and what an explanation costs: the
// sessions take turns, so that the machine's moods are the same for all, and what is
// reported are medians, in parts of that of a file without Grad-CAM.
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
		data, err := model.Marshal(m, model.Metadata{
			Classes: []string{model.Real, model.Fake}, Threshold: 0.5, InputSize: imaging.Size, Preprocessing: imaging.PreprocessingID,
		})
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
	rng := rand.New(rand.NewPCG(1, 2))
	pictures := make([]float32, most*pixels)
	for i := range pictures {
		pictures[i] = rng.Float32()
	}
	ready := func(open func(int, ort.Options) (*model.Session, error)) *model.Session {
		s, err := open(most, ort.Options{Threads: 1, DenormalsAsZero: true})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = s.Close() })
		copy(s.Input(), pictures)
		return s
	}
	old, serving, explaining := ready(parsed(without).NewSession), ready(parsed(whole).NewSession), ready(parsed(whole).NewExplainer)
	values := make([]float32, imaging.Size*imaging.Size)
	mapped := func(method explain.Method) func() error {
		return func() error { return explain.Map(values, method, explaining, pictures[:pixels], true) }
	}
	for _, batch := range []int{1, most} {
		type way struct {
			name string
			run  func() error
		}
		ways := []way{
			{"old-file", func() error { return old.Run(batch) }},
			{"served", func() error { return serving.Run(batch) }},
			{"whole-graph", func() error { return explaining.Run(batch) }},
		}
		if batch == 1 {
			ways = append(ways, way{"gradcam", mapped(explain.GradCAM)}, way{"occlusion", mapped(explain.Occlusion)})
		}
		b.Run(fmt.Sprint(batch), func(b *testing.B) {
			took := make([][]time.Duration, len(ways))
			for b.Loop() {
				for _, i := range rng.Perm(len(ways)) { // what ran before has left its weights in the cache
					began := time.Now()
					if err := ways[i].run(); err != nil {
						b.Fatal(err)
					}
					took[i] = append(took[i], time.Since(began))
				}
			}
			median := func(i int) float64 { return float64(slices.Sorted(slices.Values(took[i]))[len(took[i])/2]) }
			for i, way := range ways {
				b.ReportMetric(median(i)/1e3, way.name+"-µs")
				if i > 0 {
					b.ReportMetric(median(i)/median(0), way.name+"-ratio")
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
