package main

import (
	"errors"
	"fmt"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/ort"
)

// Prediction is the answer for one picture.
type Prediction struct {
	// Label is the name of the class, "REAL" or "FAKE".
	Label string `json:"label"`
	// IsAI tells whether the picture is judged to be AI-generated.
	IsAI bool `json:"isAI"`
	// Probability of being AI-generated, in [0,1].
	Probability float64 `json:"probability"`
	// Model is the digest of the model file that judged.
	Model string `json:"model"`
}

// worker judges one picture at a time: a decoder with its buffers and a session
// on a batch of one.
type worker struct {
	decoder imaging.Decoder
	session *model.Session
}

// pool holds the workers that are free. It bounds how many pictures are in
// memory decoded; whoever finds it empty waits.
type pool struct {
	file *model.File
	free chan *worker
	size int // workers in all
}

func newPool(file *model.File, size, maxPixels int, o ort.Options) (*pool, error) {
	p := &pool{file: file, free: make(chan *worker, size)}
	for range size {
		session, err := file.NewSession(1, o)
		if err != nil {
			return nil, errors.Join(err, p.close())
		}
		p.free <- &worker{decoder: imaging.Decoder{MaxPixels: maxPixels}, session: session}
		p.size++
	}
	return p, nil
}

// close waits for each worker to become free and frees its memory. Who still
// waits for a worker gets errClosed.
func (p *pool) close() error {
	var errs []error
	for ; p.size > 0; p.size-- {
		w := <-p.free
		errs = append(errs, w.session.Close())
	}
	close(p.free)
	return errors.Join(errs...)
}

// errClosed means that the program is about to end.
var errClosed = errors.New("the server is stopping")

// predict judges the picture in data, which is not kept. Errors about the picture
// wrap one of the package imaging's.
func (p *pool) predict(data []byte) (Prediction, error) {
	w, ok := <-p.free
	if !ok {
		return Prediction{}, errClosed
	}
	// Even should a decoder panic, the worker must not be lost.
	defer func() { p.free <- w }()
	if err := w.decoder.Tensor(w.session.Input(), data); err != nil {
		return Prediction{}, err
	}
	if err := w.session.Run(1); err != nil {
		return Prediction{}, fmt.Errorf("judge picture: %w", err)
	}
	probability := model.Probability(w.session.Logits()[0])
	label, fake := p.file.Metadata.Label(probability)
	return Prediction{Label: label, IsAI: fake, Probability: probability, Model: p.file.Digest}, nil
}
