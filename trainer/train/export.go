package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"

	"github.com/moby/sys/atomicwriter"
	ortgo "github.com/yalue/onnxruntime_go"

	"fakeart/internal/config"
	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/ort"
	"fakeart/trainer/dataset"
	"fakeart/trainer/evaluate"
	"fakeart/trainer/net"
	"fakeart/trainer/report"
	"fakeart/trainer/runlog"
)

// maxDeviation is the largest allowed difference between the logits of the exported model and of
// the unfused network, both absolute and relative to the logit.
const maxDeviation = 1e-4

// export returns the model file for the given weights, parsed and as bytes.
func (r *run) export(b best) (*model.File, []byte, error) {
	graph, err := r.net.Inference(b.Weights)
	if err != nil {
		return nil, nil, err
	}
	proto, err := graph.Model()
	if err != nil {
		return nil, nil, err
	}
	md := model.Trained(r.manifest.Size, r.manifest.Classes...)
	md.Preprocessing = *r.manifest.Input
	md.Name, md.CAM, md.CAMKind = r.cfg.Experiment.Name, "gradcam", model.CAMOfPredicted
	if len(md.Classes) == 2 {
		md.CAMKind = model.CAMOfSecond
	}
	md.Positive, md.Threshold = positive(r.cfg.Model.Positive, md.Classes), 0
	if md.Positive != "" {
		md.Threshold = r.cfg.Model.Threshold
	}
	md.DataSource, md.DataDigest, md.ConfigDigest = r.manifest.Source.String(), r.manifest.Digest(), r.cfg.Digest()
	md.Seed, md.ValLoss, md.ValAccuracy, md.Revision = r.cfg.Experiment.Seed, b.Loss, b.Accuracy, r.revision
	data, err := model.Marshal(proto, md)
	if err != nil {
		return nil, nil, err
	}
	f, err := model.Parse(data)
	return f, data, err
}

// positive returns the positive class that model.positive selects, or "".
func positive(key string, classes []string) string {
	if key != config.PositiveAuto {
		return key
	}
	if cifake := dataset.Classes(); len(classes) == 2 && slices.Contains(classes, cifake[dataset.Real]) && slices.Contains(classes, cifake[dataset.Fake]) {
		return cifake[dataset.Fake]
	}
	return ""
}

// measure evaluates weights on the validation images, with the model file that would be exported. The loss is the mean cross entropy
// in nats, without the options of the training loss.
func (r *run) measure(ctx context.Context, w net.Weights) (loss, accuracy float64, err error) {
	f, _, err := r.export(best{Weights: w, Loss: math.NaN(), Accuracy: math.NaN()})
	if err != nil {
		return 0, 0, err
	}
	correct, invalid := 0, false
	err = evaluate.Each(ctx, f, r.validation, r.cfg.Evaluate.BatchSize, func(i int, p evaluate.Prediction) {
		label := r.validation.Labels[i]
		loss += evaluate.Loss(&f.Metadata, p.Scores, label)
		invalid = invalid || !finite(p.Scores)
		if p.Class == int(label) {
			correct++
		}
	})
	if ctx.Err() != nil {
		return 0, 0, ctx.Err()
	}
	if err != nil || invalid {
		// A model file with NaN or infinite weights looks damaged. The unfused network shows the
		// actual reason.
		unfused, err2 := r.unfusedLogits(ctx, w, r.validation)
		if err2 == nil && !finite(unfused) || err == nil {
			return 0, 0, r.diverged("logits of validation images are NaN or infinite")
		}
		return 0, 0, fmt.Errorf("evaluate on the validation images: %w", err)
	}
	n := float64(r.validation.Len())
	return loss / n, float64(correct) / n, nil
}

// finish exports the weights of the best epoch and evaluates them on the test split, which is not
// used before.
func (r *run) finish(ctx context.Context) (*Summary, error) {
	f, data, err := r.export(r.state.Best)
	if err != nil {
		return nil, err
	}
	hasTest := r.manifest.Count(dataset.Test) > 0
	compared := r.validation
	var test *dataset.Split
	if hasTest {
		var now *dataset.Manifest
		if test, now, err = dataset.Load(r.cfg.Dataset.Dir, dataset.Test); err != nil {
			return nil, err
		}
		if now.Digest() != r.manifest.Digest() {
			return nil, fmt.Errorf("evaluate: the dataset in %s has been replaced since the start of the training\nhint: restore dataset %s and %s",
				r.cfg.Dataset.Dir, r.manifest.Digest(), r.resumeHint())
		}
		compared = test
	}
	deviation, err := r.parity(ctx, f, compared)
	if err != nil {
		return nil, err
	}
	// Write it before the model, so that every model has a drift reference.
	if err := r.writeDriftReference(ctx, f); err != nil {
		return nil, err
	}
	path := r.folder.file(modelFile)
	if err := atomicwriter.WriteFile(path, data, 0o644); err != nil {
		return nil, r.writeError(fmt.Errorf("write %s: %w", path, err))
	}
	s := r.summary(f.Digest)
	r.log.Info("export", "model", path, "digest", f.Digest, "best_epoch", s.BestEpoch, "deviation", fmt.Sprintf("%.1e", deviation))
	if !hasTest {
		return s, nil
	}
	var scores []float32
	if s.Test, scores, err = evaluate.Run(ctx, f, r.cfg.Dataset.Dir, dataset.Test, r.cfg.Evaluate.BatchSize); err != nil {
		return nil, err
	}
	if err := s.Test.WriteFile(r.folder.file(evalFile)); err != nil {
		return nil, r.writeError(err)
	}
	rows, err := runlog.Read(r.folder.file(metricsFile))
	if err != nil {
		return nil, err
	}
	// Use the configuration in the folder, not that of this process, which may only have resumed
	// the run.
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
		Result: s.Test, Scores: scores, Split: test, Explain: explainer.GradCAM,
	})
	err = errors.Join(err, explainer.Close())
	if err != nil {
		return nil, r.writeError(err)
	}
	r.log.Info("evaluate", "split", dataset.Test, "accuracy", rounded(s.Test.Accuracy), "report", r.folder.file(reportFile))
	return s, nil
}

// summary returns the summary of the run without the evaluation on the test split.
func (r *run) summary(digest string) *Summary {
	return &Summary{
		Dir: r.folder.path, Model: r.folder.file(modelFile), Digest: digest,
		BestEpoch: r.state.Best.Epoch, ValLoss: r.state.Best.Loss, ValAccuracy: r.state.Best.Accuracy,
	}
}

// finished returns the summary of a completed run, or nil. Each file of a run is written
// atomically, and the report is the last one.
func (r *run) finished() *Summary {
	f, err := model.Open(r.folder.file(modelFile))
	if err != nil || f.Metadata.ConfigDigest != r.cfg.Digest() || f.Metadata.DataDigest != r.manifest.Digest() {
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

// parity compares the exported model with the unfused network on images, and returns the largest
// difference between their logits. It returns an error if the difference is too large, because the
// model file would not be the trained network.
func (r *run) parity(ctx context.Context, f *model.File, images *dataset.Split) (worst float64, err error) {
	exported, err := evaluate.Scores(ctx, f, images, r.cfg.Evaluate.BatchSize)
	if err != nil {
		return 0, err
	}
	trained, err := r.unfusedLogits(ctx, r.state.Best.Weights, images)
	if err != nil {
		return 0, err
	}
	for i, want := range trained {
		d := math.Abs(float64(want) - float64(exported[i]))
		worst = max(worst, d)
		if d > maxDeviation*max(1, math.Abs(float64(want))) || math.IsNaN(d) {
			return 0, fmt.Errorf("export: logit of image %d is %g in the model file and %g in the trained network; the file was not written",
				i/r.net.Outputs(), exported[i], want)
		}
	}
	return worst, nil
}

// unfusedLogits returns the logits of images, computed by the network as it is trained, with
// nothing folded.
func (r *run) unfusedLogits(ctx context.Context, w net.Weights, images *dataset.Split) (logits []float32, err error) {
	const batch = 64
	graph, err := r.net.Unfused(w)
	if err != nil {
		return nil, err
	}
	data, err := graph.Marshal()
	if err != nil {
		return nil, err
	}
	size, outputs := int64(images.Side), r.net.Outputs()
	in, err := ortgo.NewEmptyTensor[float32](ortgo.NewShape(batch, imaging.Channels, size, size))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Destroy()) }()
	out, err := ortgo.NewEmptyTensor[float32](ortgo.NewShape(batch, int64(outputs)))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, out.Destroy()) }()
	s, err := ort.NewSession(data, []ort.Binding{{Name: "input", Value: in}}, []ort.Binding{{Name: r.net.OutputName(), Value: out}},
		ort.Options{Threads: r.cfg.Experiment.Threads})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	plan, err := r.manifest.Input.Compile()
	if err != nil {
		return nil, err
	}
	pixels := imaging.Tensor{Float32: in.GetData()}
	for first := 0; first < images.Len(); first += batch {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n := min(batch, images.Len()-first)
		for i := range n {
			plan.Fill(pixels.Slice(i*plan.Len(), (i+1)*plan.Len()), images.Image(first+i))
		}
		if err := s.Run(); err != nil {
			return nil, err
		}
		logits = append(logits, out.GetData()[:n*outputs]...)
	}
	return logits, nil
}
