package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/moby/sys/atomicwriter"
	ortgo "github.com/yalue/onnxruntime_go"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/ort"
	"fakeart/trainer/dataset"
	"fakeart/trainer/evaluate"
	"fakeart/trainer/net"
	"fakeart/trainer/report"
	"fakeart/trainer/runlog"
)

// maxDeviation is how far the exported model's logits may be from those of the
// network as it was trained, both absolutely and in parts of the logit.
const maxDeviation = 1e-4

// file makes the model file of the given weights.
func (r *run) file(b best) (*model.File, []byte, error) {
	graph, err := r.net.Inference(b.Weights)
	if err != nil {
		return nil, nil, err
	}
	proto, err := graph.Model()
	if err != nil {
		return nil, nil, err
	}
	data, err := model.Marshal(proto, model.Metadata{
		Name: r.cfg.Experiment.Name, Classes: dataset.Classes(), Threshold: r.cfg.Model.Threshold,
		InputSize: imaging.Size, Preprocessing: imaging.PreprocessingID,
		DataSource: r.manifest.Source.String(), DataDigest: r.manifest.Digest(), ConfigDigest: r.cfg.Digest(), Seed: r.cfg.Experiment.Seed,
		ValLoss: b.Loss, ValAccuracy: b.Accuracy, Revision: r.revision,
	})
	if err != nil {
		return nil, nil, err
	}
	f, err := model.Parse(data)
	return f, data, err
}

// measure evaluates weights on the validation pictures, by the very file that
// would be exported.
func (r *run) measure(ctx context.Context, w net.Weights) (loss, accuracy float64, err error) {
	f, _, err := r.file(best{Weights: w, Loss: math.NaN(), Accuracy: math.NaN()})
	if err != nil {
		return 0, 0, err
	}
	logits, err := evaluate.Logits(ctx, f, r.validate, r.cfg.Evaluate.BatchSize)
	if ctx.Err() != nil {
		return 0, 0, ctx.Err()
	}
	if err != nil || !finite(logits) {
		// A file of weights out of range looks damaged. The network itself tells.
		if own, err := r.reference(ctx, w, r.validate); err == nil && !finite(own) {
			return 0, 0, r.diverged("on the validation pictures the network's results are no numbers any more")
		}
		if err != nil {
			return 0, 0, fmt.Errorf("measure on the validation pictures: %w", err)
		}
	}
	m, err := evaluate.Measure(logits, r.validate.Labels, r.cfg.Model.Threshold)
	if err != nil {
		return 0, 0, fmt.Errorf("measure on the validation pictures: %w", err)
	}
	return m.LogLoss, m.Accuracy, nil
}

// finish exports the best epoch's weights and measures them on the test split,
// which nothing before has looked at.
func (r *run) finish(ctx context.Context) (*Summary, error) {
	f, data, err := r.file(r.state.Best)
	if err != nil {
		return nil, err
	}
	hasTest := r.manifest.Count(dataset.Test) > 0
	compared := r.validate
	var test *dataset.Split
	if hasTest {
		var now *dataset.Manifest
		if test, now, err = dataset.Load(r.cfg.Dataset.Dir, dataset.Test); err != nil {
			return nil, err
		}
		if now.Digest() != r.manifest.Digest() {
			return nil, fmt.Errorf("evaluate: the data set in %s has been replaced since the training began; put the one of then back (%s) and %s",
				r.cfg.Dataset.Dir, r.manifest.Digest(), r.goOn())
		}
		compared = test
	}
	deviation, err := r.parity(ctx, f, compared)
	if err != nil {
		return nil, err
	}
	// Before the model, so that where there is a model there is its reference.
	if err := r.writeReference(ctx, f); err != nil {
		return nil, err
	}
	path := r.folder.file(modelFile)
	if err := atomicwriter.WriteFile(path, data, 0o644); err != nil {
		return nil, r.unwritten(fmt.Errorf("write %s: %w", path, err))
	}
	s := r.summary(f.Digest)
	r.log.Info("export", "model", path, "digest", f.Digest, "best_epoch", s.BestEpoch, "deviation", fmt.Sprintf("%.1e", deviation))
	if !hasTest {
		return s, nil
	}
	var logits []float32
	if s.Test, logits, err = evaluate.Run(ctx, f, r.cfg.Dataset.Dir, dataset.Test, r.cfg.Evaluate.BatchSize); err != nil {
		return nil, err
	}
	if err := s.Test.WriteFile(r.folder.file(evalFile)); err != nil {
		return nil, r.unwritten(err)
	}
	rows, err := runlog.Read(r.folder.file(metricsFile))
	if err != nil {
		return nil, err
	}
	// That of the folder, not of this process, which may merely have continued the run.
	text, err := os.ReadFile(r.folder.file(configFile))
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	explainer, err := evaluate.NewExplainer(f)
	if err != nil {
		return nil, err
	}
	err = report.Write(r.folder.file(reportFile), report.Report{
		Config: text, Metrics: rows, Model: f.Metadata, Manifest: r.manifest,
		Result: s.Test, Logits: logits, Split: test, Explain: explainer.GradCAM,
	})
	err = errors.Join(err, explainer.Close())
	if err != nil {
		return nil, r.unwritten(err)
	}
	r.log.Info("evaluate", "split", dataset.Test, "accuracy", rounded(s.Test.Accuracy), "report", r.folder.file(reportFile))
	return s, nil
}

// summary is what became of the run, but for the test split's measurement.
func (r *run) summary(digest string) *Summary {
	return &Summary{
		Dir: r.folder.path, Model: r.folder.file(modelFile), Digest: digest,
		BestEpoch: r.state.Best.Epoch, ValLoss: r.state.Best.Loss, ValAccuracy: r.state.Best.Accuracy,
	}
}

// finished is the summary of a run all of whose files are there, or nil. Each of
// them is there whole or not at all, and the report comes last.
func (r *run) finished() *Summary {
	f, err := model.Open(r.folder.file(modelFile))
	if err != nil {
		return nil
	}
	s := r.summary(f.Digest)
	if r.manifest.Count(dataset.Test) == 0 {
		return s
	}
	text, err := os.ReadFile(r.folder.file(evalFile))
	if err != nil || json.Unmarshal(text, &s.Test) != nil || s.Test == nil || s.Test.Model != f.Digest {
		return nil
	}
	if _, err := os.Stat(r.folder.file(reportFile)); err != nil {
		return nil
	}
	return s
}

// parity runs the exported model and the network as it was trained over the
// same pictures, and gives the largest difference of a logit. One that is too
// large is an error: the model file would not be what was trained.
func (r *run) parity(ctx context.Context, f *model.File, pictures *dataset.Split) (worst float64, err error) {
	exported, err := evaluate.Logits(ctx, f, pictures, r.cfg.Evaluate.BatchSize)
	if err != nil {
		return 0, err
	}
	trained, err := r.reference(ctx, r.state.Best.Weights, pictures)
	if err != nil {
		return 0, err
	}
	for i, want := range trained {
		d := math.Abs(float64(want) - float64(exported[i]))
		worst = max(worst, d)
		if d > maxDeviation*max(1, math.Abs(float64(want))) || math.IsNaN(d) {
			return 0, fmt.Errorf("export: on picture %d the model file's logit is %g, the trained network's %g; the file was not written",
				i, exported[i], want)
		}
	}
	return worst, nil
}

// reference gives the logits of the network as it was trained, nothing folded.
func (r *run) reference(ctx context.Context, w net.Weights, pictures *dataset.Split) (logits []float32, err error) {
	const batch = 64
	graph, err := r.net.Unfused(w)
	if err != nil {
		return nil, err
	}
	data, err := graph.Marshal()
	if err != nil {
		return nil, err
	}
	in, err := ortgo.NewEmptyTensor[float32](ortgo.NewShape(batch, imaging.Channels, imaging.Size, imaging.Size))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Destroy()) }()
	out, err := ortgo.NewEmptyTensor[float32](ortgo.NewShape(batch, 1))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, out.Destroy()) }()
	s, err := ort.NewSession(data, []ort.Binding{{Name: "input", Value: in}}, []ort.Binding{{Name: "logit", Value: out}},
		ort.Options{Threads: r.cfg.Experiment.Threads})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	const picture = imaging.Channels * imaging.Size * imaging.Size
	for first := 0; first < pictures.Len(); first += batch {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n := min(batch, pictures.Len()-first)
		for i := range n {
			imaging.ToTensor(in.GetData()[i*picture:][:picture], pictures.Image(first+i))
		}
		if err := s.Run(); err != nil {
			return nil, err
		}
		logits = append(logits, out.GetData()[:n]...)
	}
	return logits, nil
}
