package infer

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"sync"
	"sync/atomic"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/ort"
)

// Model is a model file made ready to run: a session for each worker. Engine.Use
// hands it over to the engine, which frees it when it is replaced and no call is
// left that uses it.
type Model struct {
	// File is the model file.
	File *model.File
	// Data is the caller's, to be set before Use.
	Data any

	sessions  []*model.Session
	inputSize int // values a picture
	refs      atomic.Int64

	explaining sync.Mutex
	explainers []*model.Session // those that nothing is explained with right now
}

// Load makes a model ready beside the one in use, without touching it: its
// metadata are checked against what this program does to pictures, a session is
// made for each worker, and the embedded probe pictures are judged. Once it
// returns, the first answer is as quick as any later one. The model is either
// given to Use, or discarded.
func (e *Engine) Load(file *model.File) (_ *Model, err error) {
	if err := file.Check(imaging.PreprocessingID, []string{model.Real, model.Fake}); err != nil {
		return nil, err
	}
	if size := file.Metadata.InputSize; size != imaging.Size {
		return nil, fmt.Errorf("model %s: wants pictures of %d×%d pixels, this program makes %d×%d", file.Digest, size, size, imaging.Size, imaging.Size)
	}
	m := &Model{
		File: file, inputSize: imaging.Channels * imaging.Size * imaging.Size,
		sessions: make([]*model.Session, e.options.Workers),
	}
	m.refs.Store(1)
	defer func() {
		if err != nil {
			_ = m.Discard()
		}
	}()
	// A session takes milliseconds to make; a fleet of them would delay the start.
	errs := make([]error, len(m.sessions))
	var made sync.WaitGroup
	for i := range m.sessions {
		made.Go(func() {
			var s *model.Session
			if s, errs[i] = file.NewSession(e.options.MaxBatch, ort.Options{Threads: 1, DenormalsAsZero: true}); errs[i] == nil {
				m.sessions[i] = s
				errs[i] = probe(file, s, e.options.MaxBatch)
			}
		})
	}
	made.Wait()
	if err := errors.Join(errs...); err != nil {
		for _, err := range errs { // they all say the same
			if err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

// Discard frees a model that was not given to Use.
func (m *Model) Discard() error { return m.release() }

// retain adds a reference unless the model has been freed.
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

// release drops a reference, and frees the model with the last one.
func (m *Model) release() error {
	if m.refs.Add(-1) > 0 {
		return nil
	}
	errs := []error{m.closeExplainers()}
	for _, s := range m.sessions {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// probes are pictures of both classes, drawn by `trainer data prepare
// dataset=synthetic`: what a model makes of them does not matter, only that it
// makes something of them.
//
//go:embed probes/*.png
var probes embed.FS

// probeTensors decodes the probe pictures, once.
var probeTensors = sync.OnceValue(func() (tensors [][]float32) {
	var d imaging.Decoder
	err := fs.WalkDir(probes, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := probes.ReadFile(path)
		if err != nil {
			return err
		}
		tensor := make([]float32, imaging.Channels*imaging.Size*imaging.Size)
		tensors = append(tensors, tensor)
		return d.Tensor(tensor, data)
	})
	if err != nil {
		panic(err) // they are part of the program
	}
	return tensors
})

// probeTolerance is how far a picture's logit may depend on the batch it is in,
// absolutely and in parts of the logit: the order of summation differs.
const probeTolerance = 1e-3

// probe runs the session at every batch size, and reports a model that no picture
// should be given to: one whose answers are no numbers, depend on a picture's
// neighbours, or are the same whatever the picture.
func probe(file *model.File, s *model.Session, maxBatch int) error {
	pictures := probeTensors()
	size := len(pictures[0])
	alone := make([]float32, len(pictures))
	for n := 1; n <= maxBatch; n++ {
		for first := range pictures {
			for i := range n {
				copy(s.Input()[i*size:], pictures[(first+i)%len(pictures)])
			}
			if err := s.Run(n); err != nil {
				return fmt.Errorf("model %s: the probe pictures: %w", file.Digest, err)
			}
			for _, v := range s.Embeddings()[:n*file.EmbeddingSize] {
				if !finite(v) {
					return fmt.Errorf("model %s: answers a probe picture with an embedding that holds %g; its weights are damaged, export it again", file.Digest, v)
				}
			}
			for i, got := range s.Logits()[:n] {
				k := (first + i) % len(pictures)
				if n == 1 {
					alone[k] = got
				}
				if !finite(got) || math.Abs(float64(got-alone[k])) > probeTolerance*max(1, math.Abs(float64(alone[k]))) {
					return fmt.Errorf("model %s: answers a probe picture with the logit %g alone and %g in a batch of %d; it cannot be served", file.Digest, alone[k], got, n)
				}
			}
		}
	}
	for _, l := range alone {
		if l != alone[0] {
			return nil
		}
	}
	return fmt.Errorf("model %s: answers every probe picture with the logit %g; it has learned nothing or is damaged, train it again", file.Digest, alone[0])
}

func finite(v float32) bool { return !math.IsNaN(float64(v)) && !math.IsInf(float64(v), 0) }
