package net

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"

	ortgo "github.com/yalue/onnxruntime_go"

	"fakeart/internal/imaging"
	"fakeart/internal/onnx"
	"fakeart/internal/ort"
)

// pixels is the number of bytes of a picture as it is handed in.
const pixels = imaging.Size * imaging.Size * imaging.Channels

// The layouts, as a user names them.
const (
	LayoutAuto     = "auto"
	LayoutStandard = "standard"
	LayoutBlocked  = "blocked"
)

// newLayout makes the named layout for a batch.
func newLayout(g *onnx.Graph, name string, batch, block int64) layout {
	if name == LayoutBlocked {
		return newBlocked(g, batch, block)
	}
	return standard{g, batch, map[string]onnx.Value{}}
}

// stepGraph is a training step. Its inputs and outputs, in this order:
//
//	in   each parameter by its name; params [P], all of them once more; state0 [P]
//	     and so on; pictures (the layout's); labels [B,1]; dropout [B, first dense]
//	     (with dropout); rate [1]; epsilon [1]
//	out  loss [1]; logit [B,1]; mean [ΣC], variance [ΣC] (biased, of the batch);
//	     new_params [P]; new_state0 [P] and so on; gradient [P] if asked for
//
// The parameters come in twice, over the same memory: one by one for the layers,
// and as one vector for the optimizer. So nothing needs to be cut or copied.
type stepGraph struct {
	graph    *onnx.Graph
	layout   layout
	pictures []int64 // shape
	in, out  []string
}

func (n *Network) stepGraph(batch int, o Optimizer, layoutName string, block int64, gradients bool) stepGraph {
	g := onnx.NewGraph("training_step")
	s := stepGraph{graph: g}
	b := int64(batch)
	input := func(name string, shape ...int64) onnx.Value {
		s.in = append(s.in, name)
		return g.Input(name, onnx.Float32, shape...)
	}
	params := make([]onnx.Value, len(n.params))
	for i, p := range n.params {
		params[i] = input(p.Name, p.Shape...)
	}
	vectors := make([]onnx.Value, 1+o.slots())
	for k := range vectors {
		vectors[k] = input(vectorName(k), int64(n.size))
	}
	s.layout = newLayout(g, layoutName, b, block)
	x := s.layout.input()
	s.in = append(s.in, x.value.Name())
	s.pictures = x.value.Shape()
	labels := input("labels", b, 1)
	var mask onnx.Value
	if n.dense[0].dropout {
		mask = input("dropout", b, n.dense[0].out)
	}
	rate, epsilon := input("rate", 1), input("epsilon", 1)

	blocks := make([]blockTape, len(n.blocks))
	var means, variances []onnx.Value
	for i, layer := range n.blocks {
		g.In(layer.name, func() { blocks[i] = layer.forward(g, s.layout, params, x, b) })
		x = blocks[i].h
		means, variances = append(means, blocks[i].mean), append(variances, blocks[i].variance)
	}
	h := s.layout.flatten(x)
	denses := make([]denseTape, len(n.dense))
	for i, layer := range n.dense {
		g.In(layer.name, func() { denses[i] = layer.forward(g, params, h, mask) })
		h = denses[i].result
	}

	// Binary cross entropy of the logit l and the label t: softplus(l) − t·l; its
	// gradient by l is sigmoid(l) − t.
	loss := g.ReduceMean(g.Sub(g.Softplus(h), g.Mul(labels, h)), 0)
	dh := g.Mul(g.Sub(g.Sigmoid(h), labels), g.Scalar(1/float64(batch)))

	grads := make([]onnx.Value, len(n.params))
	for i := len(n.dense) - 1; i >= 0; i-- {
		layer := n.dense[i]
		g.In(layer.name+"_back", func() { dh = layer.backward(g, params, denses[i], dh, grads) })
	}
	dx := s.layout.unflatten(dh, x)
	for i := len(n.blocks) - 1; i >= 0; i-- {
		layer := n.blocks[i]
		g.In(layer.name+"_back", func() { dx = layer.backward(g, s.layout, blocks[i], dx, grads) })
	}
	for i, p := range n.params {
		grads[i] = g.Reshape(grads[i], int64(p.Size))
	}

	output := func(name string, v onnx.Value) {
		s.out = append(s.out, name)
		g.Output(name, v)
	}
	output("loss", loss)
	output("logit", h)
	output("mean", g.Concat(0, means...))
	output("variance", g.Concat(0, variances...))
	var gradient onnx.Value
	g.In("optimizer", func() {
		gradient = g.Concat(0, grads...)
		vectors = o.update(g, vectors[0], gradient, vectors[1:], rate, epsilon)
	})
	for k, v := range vectors {
		output("new_"+vectorName(k), v)
	}
	if gradients {
		output("gradient", gradient)
	}
	return s
}

// vectorName names the weights (k = 0) or one of the optimizer's vectors.
func vectorName(k int) string {
	if k == 0 {
		return "params"
	}
	return fmt.Sprintf("state%d", k-1)
}

// TrainerOptions says how a Trainer computes.
type TrainerOptions struct {
	Optimizer Optimizer
	// Layout is auto, standard or blocked; auto takes blocked where the library
	// and the network allow it.
	Layout string
	// Threads share the work; 0 means all cores.
	Threads int
	// ProfilePrefix asks ONNX Runtime for a profile of the steps of the batch size
	// that is used first.
	ProfilePrefix string
	// gradients makes the gradient an output, for tests.
	gradients bool
}

// Trainer holds weights and optimizer state and makes them learn. Not safe for
// concurrent use, except that a Batch may be filled while another one is
// learnt from.
type Trainer struct {
	net     *Network
	options TrainerOptions
	layout  string
	block   int64

	// Two sets of buffers: a step reads the current one and writes the other.
	sets    [2]*set
	current int
	mean    []float32
	varia   []float32
	step    int

	programs map[int]*program
}

// set is the weights and the optimizer's numbers, in Go memory, and the tensors
// over it that a step reads or writes.
type set struct {
	vectors [][]float32   // weights, then the optimizer's
	whole   []ortgo.Value // over each of the vectors
	params  []ortgo.Value // over the stretches of the first that are one parameter each
}

func newSet(n *Network, o Optimizer) (*set, error) {
	s := &set{}
	view := func(list *[]ortgo.Value, data []float32, shape ...int64) error {
		v, err := ortgo.NewTensor(ortgo.NewShape(shape...), data)
		if err != nil {
			return errors.Join(fmt.Errorf("make tensor %v: %w", shape, err), s.close())
		}
		*list = append(*list, v)
		return nil
	}
	for range 1 + o.slots() {
		vector := make([]float32, n.size)
		s.vectors = append(s.vectors, vector)
		if err := view(&s.whole, vector, int64(n.size)); err != nil {
			return nil, err
		}
	}
	for _, p := range n.params {
		if err := view(&s.params, s.vectors[0][p.Offset:][:p.Size], p.Shape...); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *set) close() error {
	if s == nil {
		return nil
	}
	var err error
	for _, v := range slices.Concat(s.params, s.whole) {
		err = errors.Join(err, v.Destroy())
	}
	s.params, s.whole = nil, nil
	return err
}

// program is the step for one batch size.
type program struct {
	run   *ort.Program
	graph stepGraph

	loss, logit, mean, variance []float32
	results                     []ortgo.Value
	rate, epsilon               []float32
	scalars                     []ortgo.Value
	gradient                    []float32
	gradients                   []ortgo.Value // none or one
}

// NewTrainer starts from the given weights, which are copied.
func NewTrainer(n *Network, w Weights, o TrainerOptions) (*Trainer, error) {
	if err := errors.Join(n.check(w), o.Optimizer.check()); err != nil {
		return nil, err
	}
	t := &Trainer{net: n, options: o, programs: map[int]*program{}}
	if err := ort.Init(); err != nil {
		return nil, err
	}
	var err error
	if t.layout, t.block, err = n.chooseLayout(o.Layout); err != nil {
		return nil, err
	}
	for i := range t.sets {
		if t.sets[i], err = newSet(n, o.Optimizer); err != nil {
			return nil, errors.Join(err, t.Close())
		}
	}
	t.mean, t.varia = make([]float32, n.stats), make([]float32, n.stats)
	return t, t.Restore(State{Weights: w})
}

// Layout is the layout in use, standard or blocked.
func (t *Trainer) Layout() string { return t.layout }

// State is all that a step changes.
type State struct {
	Weights Weights
	// Optimizer has the optimizer's vectors, each as long as the weights.
	Optimizer [][]float32
	// Step counts the steps made.
	Step int
}

// State copies the trainer's state.
func (t *Trainer) State() State {
	now := t.sets[t.current]
	s := State{Weights: Weights{now.vectors[0], t.mean, t.varia}.Clone(), Step: t.step}
	for _, v := range now.vectors[1:] {
		s.Optimizer = append(s.Optimizer, append([]float32(nil), v...))
	}
	return s
}

// Restore sets the trainer to a state, which is copied. Without optimizer
// vectors these start at zero.
func (t *Trainer) Restore(s State) error {
	if err := t.net.check(s.Weights); err != nil {
		return err
	}
	now := t.sets[t.current]
	if s.Optimizer != nil && len(s.Optimizer) != len(now.vectors)-1 {
		return fmt.Errorf("restore training: %d optimizer vectors given, %s has %d", len(s.Optimizer), t.options.Optimizer.Name, len(now.vectors)-1)
	}
	for _, v := range s.Optimizer {
		if len(v) != t.net.size {
			return fmt.Errorf("restore training: an optimizer vector has %d numbers, the network %d", len(v), t.net.size)
		}
	}
	copy(now.vectors[0], s.Weights.Params)
	copy(t.mean, s.Weights.Mean)
	copy(t.varia, s.Weights.Var)
	for i, v := range now.vectors[1:] {
		clear(v)
		if s.Optimizer != nil {
			copy(v, s.Optimizer[i])
		}
	}
	t.step = s.Step
	return nil
}

// Batch is the input of a step. It is tied to its trainer and its size.
type Batch struct {
	size     int
	pictures []float32
	labels   []float32
	dropout  []float32
	values   []ortgo.Value
	layout   layout
}

// NewBatch makes room for a batch of the given size. The caller closes it.
func (t *Trainer) NewBatch(size int) (*Batch, error) {
	p, err := t.program(size)
	if err != nil {
		return nil, err
	}
	b := &Batch{size: size, layout: p.graph.layout}
	add := func(data *[]float32, shape ...int64) {
		if err != nil {
			return
		}
		var v ortgo.Value
		if *data, v, err = newTensor(shape...); err == nil {
			b.values = append(b.values, v)
		}
	}
	add(&b.pictures, p.graph.pictures...)
	add(&b.labels, int64(size), 1)
	if d := t.net.dense[0]; d.dropout {
		add(&b.dropout, int64(size), d.out)
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Fill sets the batch: pictures are HWC, RGB, 32·32·3 bytes each, as many as the
// batch's size; labels are 0 or 1; flip says which pictures are mirrored and may
// be nil. drop is asked for each of the numbers that dropout may drop, in order;
// keep is the share that it leaves. A network without dropout needs neither.
func (b *Batch) Fill(pictures [][]uint8, labels []uint8, flip []bool, keep float64, drop func() bool) error {
	if len(pictures) != b.size || len(labels) != b.size {
		return fmt.Errorf("fill batch: %d pictures and %d labels for a batch of %d", len(pictures), len(labels), b.size)
	}
	for i, p := range pictures {
		if len(p) != pixels {
			return fmt.Errorf("fill batch: picture %d has %d bytes, not %d", i, len(p), pixels)
		}
	}
	for i, l := range labels {
		if l > 1 {
			return fmt.Errorf("fill batch: label %d is %d, not 0 or 1", i, l)
		}
	}
	if flip != nil && len(flip) != b.size {
		return fmt.Errorf("fill batch: %d flips for a batch of %d", len(flip), b.size)
	}
	if len(b.dropout) > 0 && !(keep > 0 && keep <= 1) {
		return fmt.Errorf("fill batch: keep %v of the numbers, need a share above 0", keep)
	}
	if len(b.dropout) > 0 && drop == nil {
		return errors.New("fill batch: dropout needs a draw")
	}
	b.layout.fill(b.pictures, pictures, flip)
	for i, l := range labels {
		b.labels[i] = float32(l)
	}
	kept := float32(1 / keep)
	for i := range b.dropout {
		b.dropout[i] = kept
		if drop() {
			b.dropout[i] = 0
		}
	}
	return nil
}

// Close frees the batch's tensors.
func (b *Batch) Close() error {
	var err error
	for _, v := range b.values {
		err = errors.Join(err, v.Destroy())
	}
	b.values = nil
	return err
}

// Result is what a step tells of its batch.
type Result struct {
	// Loss is the mean binary cross entropy before the step.
	Loss float64
	// Correct counts the pictures on the right side of probability 1/2.
	Correct int
}

// Step learns from a batch at the given learning rate. After an error or a loss
// that is not finite the weights are those before the step.
func (t *Trainer) Step(b *Batch, lr float64) (Result, error) {
	p, err := t.program(b.size)
	if err != nil {
		return Result{}, err
	}
	p.rate[0], p.epsilon[0] = t.options.Optimizer.scalars(t.step+1, lr)
	now, next := t.sets[t.current], t.sets[1-t.current]
	in := slices.Concat(now.params, now.whole, b.values, p.scalars)
	out := slices.Concat(p.results, next.whole, p.gradients)
	if err := p.run.Run(in, out); err != nil {
		return Result{}, fmt.Errorf("training step %d: %w", t.step+1, err)
	}
	runtime.KeepAlive(b)
	r := Result{Loss: float64(p.loss[0])}
	if math.IsNaN(r.Loss) || math.IsInf(r.Loss, 0) {
		return r, nil
	}
	for i, logit := range p.logit {
		if (logit > 0) == (b.labels[i] > 0.5) {
			r.Correct++
		}
	}
	t.current = 1 - t.current
	t.step++
	for _, layer := range t.net.blocks {
		m := float64(b.size) * float64(layer.side*layer.side)
		for c := layer.stats; c < layer.stats+int(layer.out); c++ {
			t.mean[c] += BatchNormMomentum * (p.mean[c] - t.mean[c])
			unbiased := float32(float64(p.variance[c]) * m / max(m-1, 1))
			t.varia[c] += BatchNormMomentum * (unbiased - t.varia[c])
		}
	}
	return r, nil
}

// program makes the step for a batch size when it is first wanted.
func (t *Trainer) program(batch int) (*program, error) {
	if p := t.programs[batch]; p != nil {
		return p, nil
	}
	if batch < 1 {
		return nil, fmt.Errorf("training step: a batch of %d pictures", batch)
	}
	p := &program{graph: t.net.stepGraph(batch, t.options.Optimizer, t.layout, t.block, t.options.gradients)}
	data, err := p.graph.graph.Marshal()
	if err != nil {
		return nil, err
	}
	options := ort.Options{Threads: t.options.Threads, DenormalsAsZero: true}
	if len(t.programs) == 0 {
		// Only one program may keep its threads spinning: others would take the
		// cores from it.
		options.Spin = true
		options.ProfilePrefix = t.options.ProfilePrefix
	}
	tensor := func(data *[]float32, values *[]ortgo.Value, shape ...int64) {
		if err != nil {
			return
		}
		var v ortgo.Value
		if *data, v, err = newTensor(shape...); err == nil {
			*values = append(*values, v)
		}
	}
	stats := int64(t.net.stats)
	tensor(&p.loss, &p.results, 1)
	tensor(&p.logit, &p.results, int64(batch), 1)
	tensor(&p.mean, &p.results, stats)
	tensor(&p.variance, &p.results, stats)
	if t.options.gradients {
		tensor(&p.gradient, &p.gradients, int64(t.net.size))
	}
	tensor(&p.rate, &p.scalars, 1)
	tensor(&p.epsilon, &p.scalars, 1)
	if err == nil {
		p.run, err = ort.NewProgram(data, p.graph.in, p.graph.out, options)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("training step for batches of %d: %w", batch, err), p.close())
	}
	t.programs[batch] = p
	return p, nil
}

func (p *program) close() error {
	var err error
	if p.run != nil {
		err = p.run.Close()
	}
	for _, v := range slices.Concat(p.results, p.scalars, p.gradients) {
		err = errors.Join(err, v.Destroy())
	}
	return err
}

// Close frees what the trainer holds; batches are closed on their own.
func (t *Trainer) Close() error {
	var err error
	for _, p := range t.programs {
		err = errors.Join(err, p.close())
	}
	t.programs = nil
	for i := range t.sets {
		err = errors.Join(err, t.sets[i].close())
	}
	return err
}

// newTensor makes a tensor over new Go memory.
func newTensor(shape ...int64) ([]float32, ortgo.Value, error) {
	if err := ort.Init(); err != nil {
		return nil, nil, err
	}
	v, err := ortgo.NewEmptyTensor[float32](ortgo.NewShape(shape...))
	if err != nil {
		return nil, nil, fmt.Errorf("make tensor %v: %w", shape, err)
	}
	return v.GetData(), v, nil
}
