package infer

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/ort"
)

// Model is a model file with a session for each worker, ready to run. After Slot.Use the engine
// owns it, and frees it when it has been replaced and the last call that uses it is closed.
type Model struct {
	// File is the model file.
	File *model.File
	// Data belongs to the caller. It must be set before Use.
	Data any

	engine   *Engine
	batch    int   // maximum number of images per run
	memory   int64 // estimate in bytes
	sessions []*model.Session
	refs     atomic.Int64
	batches  []batchCounts // by size minus 1
	jobs     sync.Pool

	explaining sync.Mutex
	explainers []*model.Session // idle sessions for explanations
}

// batchTime is the time that a batch takes at most. A model that takes longer for one image gets batches of one:
// larger ones would hardly be faster, and other workers would have nothing to do.
const batchTime = 4 * time.Millisecond

// Load prepares a model without affecting the others. It creates a session for each worker and classifies the
// embedded probe images. Because that also warms the sessions up, the first request is as fast as
// any later one. Load returns ErrMemory if there isn't enough memory. The caller must pass the model to Use or
// call Discard.
func (e *Engine) Load(file *model.File) (_ *Model, err error) {
	m := &Model{File: file, engine: e, batch: 1, sessions: make([]*model.Session, e.options.Workers)}
	m.refs.Store(1)
	defer func() {
		if err != nil {
			_ = m.Discard()
		}
	}()
	if err := m.reserve(); err != nil {
		return nil, err
	}
	if m.sessions[0], err = file.NewSession(1, sessionOptions); err != nil {
		return nil, err
	}
	took, err := timeOf(m.sessions[0])
	if err != nil {
		return nil, fmt.Errorf("model %s: classify a blank image: %w", file.Digest, err)
	}
	m.batch = min(max(int(batchTime/max(took, 1)), 1), e.options.MaxBatch)
	for m.batch > 1 && m.reserve() != nil {
		m.batch-- // the memory for single images is already reserved
	}
	if m.batch > 1 {
		err := m.sessions[0].Close()
		if m.sessions[0] = nil; err != nil {
			return nil, err
		}
	}
	m.batches = make([]batchCounts, m.batch)
	images, err := probeTensors(file.Plan)
	if err != nil {
		return nil, fmt.Errorf("model %s: prepare probe images: %w", file.Digest, err)
	}
	// Creating a session takes milliseconds. In sequence they would delay the start.
	errs := make([]error, len(m.sessions))
	var made sync.WaitGroup
	for i, s := range m.sessions {
		made.Go(func() {
			if s == nil {
				if s, errs[i] = file.NewSession(m.batch, sessionOptions); errs[i] != nil {
					return
				}
				m.sessions[i] = s
			}
			errs[i] = probe(file, s, images, m.batch)
		})
	}
	made.Wait()
	for _, err := range errs { // they are all alike
		if err != nil {
			return nil, err
		}
	}
	return m, nil
}

var sessionOptions = ort.Options{Threads: 1, DenormalsAsZero: true}

// timeOf returns the time that the session takes for one image.
func timeOf(s *model.Session) (shortest time.Duration, err error) {
	shortest = time.Hour
	for range 3 {
		began := time.Now()
		if err := s.Run(1); err != nil {
			return 0, err
		}
		if shortest = min(shortest, time.Since(began)); shortest > batchTime {
			break
		}
	}
	return shortest, nil
}

// MaxBatch returns the maximum number of images that a session runs at once: Options.MaxBatch or fewer, so that
// a batch takes about 4 ms and fits in Options.ModelMemory.
func (m *Model) MaxBatch() int { return m.batch }

// Memory returns the estimated memory of the model in bytes.
func (m *Model) Memory() int64 { return m.memory }

// activations is the estimated memory of a session for the intermediate results of an image, as a multiple of the input as
// float32. It's about 16 for ResNet-18 and less for smaller networks.
const activations = 16

// estimate returns the estimated memory of a model in bytes: the file, and each session's weights, input, output and
// intermediate results. Explanations have up to half as many sessions as there are workers.
func (m *Model) estimate() int64 {
	image := m.imageMemory() + activations*4*int64(m.File.Plan.Len())
	sessions := int64(len(m.sessions) + max(len(m.sessions)/2, 1))
	return int64(m.File.Size()) + sessions*(int64(m.File.Size())+int64(m.batch)*image)
}

// imageMemory returns the memory in bytes for the input and the output of an image.
func (m *Model) imageMemory() int64 {
	size := int64(4)
	if m.File.Plan.Preprocessing().Type == imaging.Uint8 {
		size = 1
	}
	return size*int64(m.File.Plan.Len()) + 4*int64(m.File.Metadata.Columns+m.File.EmbeddingSize)
}

// reserve reserves the estimated memory of the model.
func (m *Model) reserve() error {
	more := m.estimate() - m.memory
	limit := m.engine.options.ModelMemory
	if all := m.engine.loaded.Add(more); limit > 0 && all > limit {
		m.engine.loaded.Add(-more)
		return fmt.Errorf("%w %s: it needs about %s for %d sessions, and the other models about %s, but together they may use %s; raise --model-memory, lower --workers or --max-batch, or use a smaller model",
			ErrMemory, m.File.Digest, megabytes(m.memory+more), len(m.sessions), megabytes(all-more-m.memory), megabytes(limit))
	}
	m.memory += more
	return nil
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// batchCounts are the totals of the batches of one size, with times in nanoseconds.
type batchCounts struct{ count, input, inference, output atomic.Int64 }

// Batches are the successful batches of one size that a model has classified.
type Batches struct {
	// Size is the number of images per batch.
	Size int
	// Count is the number of batches, at least 1.
	Count int64
	// Input, Inference and Output are the total times to copy images to the session, to run it, and to
	// copy its results.
	Input, Inference, Output time.Duration
}

// Batches returns the totals since Load by batch size, in ascending order. It is safe for concurrent
// use.
func (m *Model) Batches() []Batches {
	var list []Batches
	for i := range m.batches {
		b := &m.batches[i]
		if n := b.count.Load(); n > 0 {
			list = append(list, Batches{i + 1, n, time.Duration(b.input.Load()), time.Duration(b.inference.Load()), time.Duration(b.output.Load())})
		}
	}
	return list
}

// Discard frees a model that was not passed to Use.
func (m *Model) Discard() error { return m.release() }

// retain adds a reference. It returns false if the model has been freed.
func (m *Model) retain() bool {
	for {
		n := m.refs.Load()
		if n == 0 {
			return false
		}
		if m.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release drops a reference. Dropping the last one frees the model.
func (m *Model) release() error {
	if m.refs.Add(-1) > 0 {
		return nil
	}
	defer m.engine.loaded.Add(-m.memory)
	errs := []error{m.closeExplainers()}
	for _, s := range m.sessions {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// probes are images of several kinds, drawn by `trainer data prepare dataset=synthetic`. How a model
// classifies them doesn't matter, only that it can.
//
//go:embed probes/*.png
var probes embed.FS

// probeTensors converts the probe images to input tensors of the plan.
func probeTensors(plan *imaging.Plan) (tensors []imaging.Tensor, err error) {
	d := plan.NewDecoder(0)
	err = fs.WalkDir(probes, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := probes.ReadFile(path)
		if err != nil {
			return err
		}
		tensor := plan.NewTensor(1)
		tensors = append(tensors, tensor)
		return d.Tensor(tensor, data)
	})
	return tensors, err
}

// probeTolerance is how much a score of an image may depend on the rest of its batch, both
// absolute and relative to the score, because the order of summation differs.
const probeTolerance = 1e-3

// probe runs the session at every batch size. It returns an error if the model is unusable: its
// outputs are NaN or infinite, depend on the other images of a batch, or are the same for every
// image.
func probe(file *model.File, s *model.Session, images []imaging.Tensor, maxBatch int) error {
	size, columns := file.Plan.Len(), file.Metadata.Columns
	single := make([][]float32, len(images))
	for n := 1; n <= maxBatch; n++ {
		for first := range images {
			for i := range n {
				s.Input().Slice(i*size, (i+1)*size).Copy(images[(first+i)%len(images)])
			}
			if err := s.Run(n); err != nil {
				return fmt.Errorf("model %s: classify probe images: %w", file.Digest, err)
			}
			for _, v := range s.Embeddings()[:n*file.EmbeddingSize] {
				if !finite(v) {
					return fmt.Errorf("model %s: the embedding of a probe image contains %g: the weights are damaged; export the model again", file.Digest, v)
				}
			}
			for i := range n {
				k, scores := (first+i)%len(images), s.Scores()[i*columns:][:columns]
				if n == 1 {
					single[k] = slices.Clone(scores)
				}
				for c, got := range scores {
					if want := single[k][c]; !finite(got) || math.Abs(float64(got-want)) > probeTolerance*max(1, math.Abs(float64(want))) {
						return fmt.Errorf("model %s: a score of a probe image is %g alone, but %g in a batch of %d: the model cannot be served", file.Digest, want, got, n)
					}
				}
			}
		}
	}
	for _, scores := range single {
		if !slices.Equal(scores, single[0]) {
			return nil
		}
	}
	return fmt.Errorf("model %s: the scores are %g for every probe image: the model is untrained or damaged; train it again", file.Digest, single[0][:min(columns, 5)])
}

func finite(v float32) bool { return !math.IsNaN(float64(v)) && !math.IsInf(float64(v), 0) }
