package net

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"

	ortgo "github.com/yalue/onnxruntime_go"

	"fakeart/internal/onnx"
	"fakeart/internal/ort"
)

// Values of [TrainerOptions].Layout.
const (
	LayoutAuto     = "auto"
	LayoutStandard = "standard"
	LayoutBlocked  = "blocked"
)

// newLayout returns the named layout for a batch size.
func (n *Network) newLayout(g *onnx.Graph, name string, batch, block int64) layout {
	size := int64(n.config.Size)
	if name == LayoutBlocked {
		return newBlocked(g, size, batch, block)
	}
	return standard{g, size, batch, map[string]onnx.Value{}}
}

// stepGraph is the graph of a training step. Its inputs and outputs, in this order:
//
//	in   each parameter by its name; params [P], all of them again; state0 [P]
//	     and so on; images (shape defined by the layout); targets [B,O]; weights
//	     [B,1]; dropout [B,D] (if the network has dropout); rate [1]; epsilon
//	     [1]; decay [1] (if the optimizer is decoupled)
//	out  loss [1]; logits [B,O]; mean [ΣC], variance [ΣC] (biased, of the batch);
//	     new_params [P]; new_state0 [P] and so on; gradient [P] if requested
//
// The parameters are passed twice, over the same memory: one by one for the layers, and as one
// vector for the optimizer. So nothing needs to be sliced or copied.
type stepGraph struct {
	graph   *onnx.Graph
	layout  layout
	images  []int64 // shape
	in, out []string
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
	s.layout = n.newLayout(g, layoutName, b, block)
	x := s.layout.input()
	s.in = append(s.in, x.value.Name())
	s.images = x.value.Shape()
	targets, weights := input("targets", b, int64(n.Outputs())), input("weights", b, 1)
	var mask onnx.Value
	if width := n.dropped(); width > 0 {
		mask = input("dropout", b, width)
	}
	rate, epsilon, decay := input("rate", 1), input("epsilon", 1), onnx.Value{}
	if o.decoupled() {
		decay = input("decay", 1)
	}

	blocks := make([]blockTape, len(n.blocks))
	var means, variances []onnx.Value
	for i, layer := range n.blocks {
		var shortcut featureMaps
		if layer.shortcut != none {
			shortcut = blocks[layer.shortcut].h
		}
		g.In(layer.name, func() { blocks[i] = layer.forward(g, s.layout, params, x, shortcut, b) })
		x = blocks[i].h
		means, variances = append(means, blocks[i].mean), append(variances, blocks[i].variance)
	}
	var h onnx.Value
	g.In("features", func() { h = n.flatten(g, s.layout, x, mask) })
	denses := make([]denseTape, len(n.dense))
	for i, layer := range n.dense {
		g.In(layer.name, func() { denses[i] = layer.forward(g, params, h, mask) })
		h = denses[i].result
	}

	var loss, dh onnx.Value
	g.In("loss", func() { loss, dh = lossGraph(g, h, targets, weights) })

	grads := make([]onnx.Value, len(n.params))
	for i := len(n.dense) - 1; i >= 0; i-- {
		layer := n.dense[i]
		g.In(layer.name+"_back", func() { dh = layer.backward(g, params, denses[i], dh, grads) })
	}
	var dx featureMaps
	g.In("features_back", func() { dx = n.unflatten(g, s.layout, dh, x, mask) })
	shortcuts := make([]featureMaps, len(n.blocks)) // gradients with respect to the outputs, through shortcuts
	for i := len(n.blocks) - 1; i >= 0; i-- {
		layer, add := n.blocks[i], featureMaps{}
		if i > 0 {
			add = shortcuts[i-1]
		}
		var dz featureMaps
		g.In(layer.name+"_back", func() { dx, dz = layer.backward(g, s.layout, blocks[i], dx, add, grads) })
		if layer.shortcut != none {
			shortcuts[layer.shortcut] = dz
		}
	}
	for i, p := range n.params {
		grads[i] = g.Reshape(grads[i], int64(p.Size))
	}

	output := func(name string, v onnx.Value) {
		s.out = append(s.out, name)
		g.Output(name, v)
	}
	output("loss", loss)
	output("logits", h)
	output("mean", g.Concat(0, means...))
	output("variance", g.Concat(0, variances...))
	var gradient onnx.Value
	g.In("optimizer", func() {
		gradient = g.Concat(0, grads...)
		vectors = o.update(g, n.params, vectors[0], gradient, vectors[1:], rate, epsilon, decay)
	})
	for k, v := range vectors {
		output("new_"+vectorName(k), v)
	}
	if gradients {
		output("gradient", gradient)
	}
	return s
}

// flatten returns the inputs of the dense layers for the output x of the last block.
func (n *Network) flatten(g *onnx.Graph, l layout, x featureMaps, mask onnx.Value) onnx.Value {
	h := l.flatten(x)
	if n.config.GlobalPool {
		h = g.ReduceMean(g.Reshape(h, h.Dim(0), x.channels, x.side*x.side), 2)
	}
	if n.dropsFeatures() {
		h = g.Mul(h, mask)
	}
	return h
}

// unflatten returns the gradient with respect to x, given the gradient with respect to the result of
// flatten.
func (n *Network) unflatten(g *onnx.Graph, l layout, dh onnx.Value, x featureMaps, mask onnx.Value) featureMaps {
	if n.dropsFeatures() {
		dh = g.Mul(dh, mask)
	}
	if n.config.GlobalPool {
		batch, area := dh.Dim(0), x.side*x.side
		each := make([]float32, area)
		for i := range each {
			each[i] = 1 / float32(area)
		}
		spread := g.MatMul(g.Reshape(dh, batch*x.channels, 1), g.Const(each, 1, area))
		dh = g.Reshape(spread, batch, x.channels*area)
	}
	return l.unflatten(dh, x)
}

// dropsFeatures reports whether dropout applies to the inputs of the first dense layer.
func (n *Network) dropsFeatures() bool { return n.dropped() > 0 && !n.dense[0].dropout }

// vectorName returns the input name of the weights (k = 0) or of an optimizer vector (k > 0).
func vectorName(k int) string {
	if k == 0 {
		return "params"
	}
	return fmt.Sprintf("state%d", k-1)
}

// TrainerOptions configures a [Trainer].
type TrainerOptions struct {
	Optimizer Optimizer
	Loss      Loss
	// Average, if above 0, is the decay of an exponential moving average of the weights and running
	// statistics, less than 1. The average starts at the initial weights. To follow the first steps
	// quickly, the decay of step t is at most (1+t)/(10+t).
	Average float64
	// Layout is LayoutAuto, LayoutStandard or LayoutBlocked. LayoutAuto selects the blocked layout
	// if ONNX Runtime and the network support it.
	Layout string
	// Threads is the number of threads of a step; 0 means all cores.
	Threads int
	// ProfilePrefix, if set, makes ONNX Runtime write a profile of the steps of the batch size that
	// is used first, to a file whose name starts with it.
	ProfilePrefix string
	// gradients adds the gradient to the outputs, for tests.
	gradients bool
}

// Trainer holds weights and optimizer state, and updates them step by step. It is not safe for
// concurrent use, except that one Batch may be filled while Step uses another.
type Trainer struct {
	net     *Network
	options TrainerOptions
	layout  string
	block   int64

	// Two sets of buffers: a step reads sets[current] and writes the other one.
	sets     [2]*set
	current  int
	mean     []float32
	variance []float32
	step     int
	average  Weights // only with TrainerOptions.Average

	programs map[int]*program
}

// set is the weights and the optimizer state, in Go memory, with the tensors over that memory that
// a step reads or writes.
type set struct {
	vectors [][]float32   // weights, then optimizer state
	whole   []ortgo.Value // one tensor per vector
	params  []ortgo.Value // one tensor per parameter, over the weights
}

func newSet(n *Network, o Optimizer) (*set, error) {
	s := &set{}
	view := func(list *[]ortgo.Value, data []float32, shape ...int64) error {
		v, err := ortgo.NewTensor(ortgo.NewShape(shape...), data)
		if err != nil {
			return errors.Join(fmt.Errorf("create tensor %v: %w", shape, err), s.close())
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

// program is the compiled step for one batch size.
type program struct {
	run   *ort.Program
	graph stepGraph

	loss, logits, mean, variance []float32
	results                      []ortgo.Value
	rate, epsilon, decay         []float32
	scalars                      []ortgo.Value
	gradient                     []float32
	gradients                    []ortgo.Value // empty or one element
}

// NewTrainer returns a trainer that starts from a copy of the weights w. The caller must close it.
func NewTrainer(n *Network, w Weights, o TrainerOptions) (*Trainer, error) {
	if err := errors.Join(n.check(w), o.Optimizer.check(), o.Loss.check(n.config.Classes)); err != nil {
		return nil, err
	}
	if !(o.Average >= 0 && o.Average < 1) {
		return nil, fmt.Errorf("training: the decay of the average is %v, want at least 0 and less than 1", o.Average)
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
	t.mean, t.variance = make([]float32, n.stats), make([]float32, n.stats)
	return t, t.Restore(State{Weights: w})
}

// Layout returns the layout in use, LayoutStandard or LayoutBlocked.
func (t *Trainer) Layout() string { return t.layout }

// State is everything that a step changes.
type State struct {
	Weights Weights
	// Optimizer holds the vectors of the optimizer, each as long as Weights.Params.
	Optimizer [][]float32
	// Step is the number of steps completed.
	Step int
	// Average is the moving average of the weights. It has no elements without TrainerOptions.Average.
	Average Weights
}

// State returns a copy of the state.
func (t *Trainer) State() State {
	now := t.sets[t.current]
	s := State{Weights: Weights{now.vectors[0], t.mean, t.variance}.Clone(), Step: t.step, Average: t.average.Clone()}
	for _, v := range now.vectors[1:] {
		s.Optimizer = append(s.Optimizer, append([]float32(nil), v...))
	}
	return s
}

// Averaged returns a copy of the weights to validate and export: the moving average with
// TrainerOptions.Average, otherwise the current weights.
func (t *Trainer) Averaged() Weights {
	if t.options.Average > 0 {
		return t.average.Clone()
	}
	return t.State().Weights
}

// updateAverage includes the current weights in the average.
func (t *Trainer) updateAverage() {
	if t.options.Average == 0 {
		return
	}
	steps := float64(t.step)
	part := float32(1 - min(t.options.Average, (1+steps)/(10+steps)))
	for _, v := range [][2][]float32{
		{t.average.Params, t.sets[t.current].vectors[0]}, {t.average.Mean, t.mean}, {t.average.Var, t.variance},
	} {
		now := v[1][:len(v[0])]
		for i, x := range v[0] {
			v[0][i] = x + part*(now[i]-x)
		}
	}
}

// Restore sets the state to a copy of s. If s.Optimizer is nil, the optimizer vectors are set to
// zero. If s.Average has no elements, the average starts at s.Weights. An error leaves the state unchanged.
func (t *Trainer) Restore(s State) error {
	if err := t.net.check(s.Weights); err != nil {
		return err
	}
	average := s.Average
	if average.Params == nil {
		average = s.Weights
	}
	if err := t.net.check(average); err != nil {
		return err
	}
	now := t.sets[t.current]
	if s.Optimizer != nil && len(s.Optimizer) != len(now.vectors)-1 {
		return fmt.Errorf("restore training: %d optimizer vectors, want %[3]d for %[2]s", len(s.Optimizer), t.options.Optimizer.Name, len(now.vectors)-1)
	}
	for _, v := range s.Optimizer {
		if len(v) != t.net.size {
			return fmt.Errorf("restore training: optimizer vector has %d elements, want %d", len(v), t.net.size)
		}
	}
	copy(now.vectors[0], s.Weights.Params)
	copy(t.mean, s.Weights.Mean)
	copy(t.variance, s.Weights.Var)
	for i, v := range now.vectors[1:] {
		clear(v)
		if s.Optimizer != nil {
			copy(v, s.Optimizer[i])
		}
	}
	t.step = s.Step
	if t.options.Average > 0 {
		t.average = average.Clone()
	}
	return nil
}

// Batch is the input of a step. It belongs to the trainer that created it and has a fixed size.
type Batch struct {
	net     *Network
	loss    Loss
	size    int
	classes []int // of the images
	images  []float32
	targets []float32
	weights []float32
	dropout []float32
	values  []ortgo.Value
	layout  layout
}

// NewBatch allocates a batch of size images. The caller must close it.
func (t *Trainer) NewBatch(size int) (*Batch, error) {
	p, err := t.program(size)
	if err != nil {
		return nil, err
	}
	b := &Batch{net: t.net, loss: t.options.Loss, size: size, classes: make([]int, size), layout: p.graph.layout}
	add := func(data *[]float32, shape ...int64) {
		if err != nil {
			return
		}
		var v ortgo.Value
		if *data, v, err = newTensor(shape...); err == nil {
			b.values = append(b.values, v)
		}
	}
	add(&b.images, p.graph.images...)
	add(&b.targets, int64(size), int64(t.net.Outputs()))
	add(&b.weights, int64(size), 1)
	if width := t.net.dropped(); width > 0 {
		add(&b.dropout, int64(size), width)
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Close frees the tensors of the batch.
func (b *Batch) Close() error {
	var err error
	for _, v := range b.values {
		err = errors.Join(err, v.Destroy())
	}
	b.values = nil
	return err
}

// Result is the outcome of a step.
type Result struct {
	// Loss is the loss of the batch before the update, as [Loss] defines it.
	Loss float64
	// Correct is the number of images for which the most probable class is the target's.
	Correct int
}

// Step trains on a batch with learning rate lr. After an error, or if the loss is NaN or infinite,
// the weights are unchanged.
func (t *Trainer) Step(b *Batch, lr float64) (Result, error) {
	p, err := t.program(b.size)
	if err != nil {
		return Result{}, err
	}
	scalars := t.options.Optimizer.scalars(t.step+1, lr)
	p.rate[0], p.epsilon[0] = scalars.rate, scalars.epsilon
	if p.decay != nil {
		p.decay[0] = scalars.decay
	}
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
	r.Correct = b.correct(p.logits)
	t.current = 1 - t.current
	t.step++
	for _, layer := range t.net.blocks {
		m := float64(b.size) * float64(layer.side*layer.side)
		for c := layer.stats; c < layer.stats+int(layer.out); c++ {
			t.mean[c] += BatchNormMomentum * (p.mean[c] - t.mean[c])
			unbiased := float32(float64(p.variance[c]) * m / max(m-1, 1))
			t.variance[c] += BatchNormMomentum * (unbiased - t.variance[c])
		}
	}
	t.updateAverage()
	return r, nil
}

// program returns the step for a batch size, which it compiles on first use.
func (t *Trainer) program(batch int) (*program, error) {
	if p := t.programs[batch]; p != nil {
		return p, nil
	}
	if batch < 1 {
		return nil, fmt.Errorf("training step: batch size is %d, want at least 1", batch)
	}
	p := &program{graph: t.net.stepGraph(batch, t.options.Optimizer, t.layout, t.block, t.options.gradients)}
	data, err := p.graph.graph.Marshal()
	if err != nil {
		return nil, err
	}
	options := ort.Options{Threads: t.options.Threads, DenormalsAsZero: true}
	if len(t.programs) == 0 {
		// Only one program may spin its threads: several would take the cores from each other.
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
	tensor(&p.logits, &p.results, int64(batch), int64(t.net.Outputs()))
	tensor(&p.mean, &p.results, stats)
	tensor(&p.variance, &p.results, stats)
	if t.options.gradients {
		tensor(&p.gradient, &p.gradients, int64(t.net.size))
	}
	tensor(&p.rate, &p.scalars, 1)
	tensor(&p.epsilon, &p.scalars, 1)
	if t.options.Optimizer.decoupled() {
		tensor(&p.decay, &p.scalars, 1)
	}
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

// Close frees the resources of the trainer. Batches must be closed separately.
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

// newTensor returns a zeroed tensor and the Go memory that backs it.
func newTensor(shape ...int64) ([]float32, ortgo.Value, error) {
	if err := ort.Init(); err != nil {
		return nil, nil, err
	}
	v, err := ortgo.NewEmptyTensor[float32](ortgo.NewShape(shape...))
	if err != nil {
		return nil, nil, fmt.Errorf("create tensor %v: %w", shape, err)
	}
	return v.GetData(), v, nil
}
