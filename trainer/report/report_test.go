package report

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"image/png"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/trainer/dataset"
	"fakeart/trainer/evaluate"
	"fakeart/trainer/runlog"
)

const imageBytes = 32 * 32 * imaging.Channels

// example returns the report of a run. The pixels of each image depend on its index.
func example(t *testing.T, logits []float32, labels []uint16) Report {
	t.Helper()
	md := model.Trained(32, model.Real, model.Fake)
	metrics, err := evaluate.Measure(&md, logits, labels)
	if err != nil {
		t.Fatal(err)
	}
	split := &dataset.Split{Images: make([]uint8, len(labels)*imageBytes), Labels: labels, Side: 32, Classes: dataset.Classes()}
	for i := range labels {
		img := split.Image(i)
		for j := range img {
			img[j] = uint8(i*7 + j)
		}
	}
	classes := md.Classes
	md.Name, md.ConfigDigest, md.Seed, md.ValLoss, md.ValAccuracy, md.Revision = "base", "sha256:cc", 420, 0.1234, 0.9876, "v1.2.3"
	return Report{
		Config:  []byte("experiment:\n  name: base\n"),
		Metrics: sampleRows(3, 10),
		Model:   md,
		Manifest: &dataset.Manifest{
			Source: dataset.Source{Kind: "archive", Path: "cifake.zip"}, Preprocessing: "rgb-32x32-bilinear-aa-v3", Classes: classes,
			Splits: map[string]map[string]int{"train": {"REAL": 11, "FAKE": 12}, "test": {"REAL": 13, "FAKE": 14}},
		},
		Result: &evaluate.Result{
			Model: "sha256:aa", Data: "sha256:bb", Source: "archive", Split: "test",
			Count: len(labels), Classes: classes, Metrics: metrics,
		},
		Scores: logits,
		Split:  split,
	}
}

// sampleRows returns the rows of a run whose second epoch is the best.
func sampleRows(epochs, steps int) []runlog.Row {
	var rows []runlog.Row
	for e := 1; e <= epochs; e++ {
		for s := 1; s <= steps; s++ {
			step := (e-1)*steps + s
			rows = append(rows, runlog.Row{
				Kind: runlog.Step, Epoch: e, Step: step, TrainLoss: 1 / float64(step), TrainAccuracy: 1 - 1/float64(step+1),
				ValLoss: math.NaN(), ValAccuracy: math.NaN(), LR: 0.001, ImagesPerSecond: 2500,
			})
		}
		rows = append(rows, runlog.Row{
			Kind: runlog.Epoch, Epoch: e, Step: e * steps, TrainLoss: 1 / float64(e), TrainAccuracy: 0.9,
			ValLoss: 0.1 + math.Abs(float64(e)-2), ValAccuracy: 0.95, LR: 0.001, ImagesPerSecond: 2500,
		})
	}
	return rows
}

// scores returns logits and labels of n images. The larger the distance, the fewer errors they contain.
func scores(n int, distance float64) ([]float32, []uint16) {
	r := rand.New(rand.NewPCG(1, 2))
	logits, labels := make([]float32, n), make([]uint16, n)
	for i := range logits {
		labels[i] = uint16(i % 2)
		logits[i] = float32(2*r.NormFloat64() + distance*(2*float64(labels[i])-1))
	}
	return logits, labels
}

func html(t *testing.T, r Report) string {
	t.Helper()
	page, err := render(r)
	if err != nil {
		t.Fatal(err)
	}
	wellFormed(t, page)
	return string(page)
}

// wellFormed checks that all elements of a page are closed, that it has no scripts, and that no attribute
// refers to anything outside the page.
func wellFormed(t *testing.T, page []byte) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(page))
	d.Strict = false
	d.AutoClose = xml.HTMLAutoClose
	d.Entity = xml.HTMLEntity
	elements := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("invalid HTML: %v", err)
		}
		element, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		elements++
		switch element.Name.Local {
		case "script", "iframe", "object", "embed", "base", "form", "a":
			t.Errorf("the report contains <%s>", element.Name.Local)
		}
		for _, a := range element.Attr {
			switch name := strings.ToLower(a.Name.Local); {
			case strings.HasPrefix(name, "on"):
				t.Errorf("<%s> has an event handler %s=%q", element.Name.Local, name, a.Value)
			case name == "src" || name == "href" || name == "srcset" || name == "data" || name == "action":
				if !strings.HasPrefix(a.Value, "data:") {
					t.Errorf("<%s> refers to %s=%q", element.Name.Local, name, a.Value)
				}
			}
		}
	}
	if elements < 50 {
		t.Errorf("the report has only %d elements", elements)
	}
	page = regexp.MustCompile(`base64,[^"]*`).ReplaceAll(page, nil) // image data may contain any word
	for _, forbidden := range []string{"://", "@import", "url(", "ZgotmplZ", "%!", "NaN", "Inf"} {
		if i := bytes.Index(page, []byte(forbidden)); i >= 0 {
			t.Errorf("the report contains %q: …%s…", forbidden, page[max(0, i-60):min(len(page), i+60)])
		}
	}
}

func TestWrite_Content(t *testing.T) {
	// Errors: no. 1 (FAKE, logit -2), no. 4 (REAL, 1), no. 6 (REAL, 3).
	r := example(t, []float32{-4, -2, -5, 4, 1, 5, 3, 6}, []uint16{0, 1, 0, 1, 0, 1, 0, 1})
	page := html(t, r)
	for _, want := range []string{
		"<h1>base</h1>", "8 images of the test split", "probability of 0.5",
		"62.50 %", // accuracy, 5 of 8
		"60.00 %", // precision, 3 of 5
		"75.00 %", // recall, 3 of 4
		"66.67 %", // f1
		"AUC 0.8750", fmt.Sprintf("<dd>%.4f</dd>", *r.Result.LogLoss), fmt.Sprintf("<dd>%.4f</dd>", r.Result.ECE),
		"<b>2</b><span>50.00 %</span>", "<b>3</b><span>75.00 %</span>", // the confusion matrix
		"REAL classified as FAKE", "FAKE classified as REAL", "no. 6", "no. 4", "no. 1", "0.9526", "0.7311", "0.1192",
		"best epoch 2", "2 of 3",
		"archive cifake.zip", "11 REAL, 12 FAKE", "13 REAL, 14 FAKE", "0.1234", "0.9876", "420", "v1.2.3",
		"rgb-32x32-bilinear-aa-v3", "sha256:aa", "sha256:bb", "sha256:cc",
		"experiment:\n  name: base",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	if got := strings.Count(page, `<svg class="chart"`); got != 7 {
		t.Errorf("%d charts, want 7", got)
	}
	if strings.Contains(page, "Synthetic") {
		t.Error("the report calls the dataset synthetic")
	}
	if strings.Index(page, "no. 6") > strings.Index(page, "no. 4") {
		t.Error("the more confident error comes second")
	}
}

func TestWrite_ErrorImages(t *testing.T) {
	r := example(t, []float32{-4, -2, -5, 4, 1, 5, 3, 6}, []uint16{0, 1, 0, 1, 0, 1, 0, 1})
	found := regexp.MustCompile(`data:image/png;base64,([^"]+)" [^>]*alt="Image (\d+),`).FindAllStringSubmatch(html(t, r), -1)
	if len(found) != 3 {
		t.Fatalf("%d images, want 3", len(found))
	}
	for _, f := range found {
		var index int
		if _, err := fmt.Sscan(f[2], &index); err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(f[1], "&#43;", "+") // escaped in the attribute
		img, err := png.Decode(base64.NewDecoder(base64.StdEncoding, strings.NewReader(text)))
		if err != nil {
			t.Fatal(err)
		}
		if b := img.Bounds(); b.Dx() != 32 || b.Dy() != 32 {
			t.Fatalf("image %d has bounds %v", index, b)
		}
		for i := range 32 * 32 {
			red, green, blue, _ := img.At(i%32, i/32).RGBA()
			want := r.Split.Image(index)[3*i : 3*i+3]
			if got := [3]uint8{uint8(red >> 8), uint8(green >> 8), uint8(blue >> 8)}; !bytes.Equal(got[:], want) {
				t.Fatalf("image %d, pixel %d is %v, want %v", index, i, got, want)
			}
		}
	}
}

func TestWrite_SyntheticNote(t *testing.T) {
	logits, labels := scores(40, 3)
	r := example(t, logits, labels)
	seed := int64(7)
	r.Manifest.Source = dataset.Source{Kind: "synthetic", Seed: &seed}
	r.Result.Notes = append(r.Result.Notes, evaluate.SyntheticNote)
	page := html(t, r)
	for _, want := range []string{"Synthetic data.", "predict the accuracy on real", "from seed 7"} {
		if !strings.Contains(page, want) {
			t.Errorf("the report lacks %q", want)
		}
	}
}

func TestWrite_UnusualRuns(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	good, labels := scores(60, 3)
	var most, inverted []float32
	for i, z := range good {
		most = append(most, math.MaxFloat32*float32(2*float64(labels[i])-1))
		inverted = append(inverted, -z)
	}
	noValidation := sampleRows(2, 4)
	for i := range noValidation {
		noValidation[i].ValLoss, noValidation[i].ValAccuracy = nan, nan
	}
	diverged := append(sampleRows(1, 4),
		runlog.Row{Kind: runlog.Step, Epoch: 2, Step: 5, TrainLoss: nan, TrainAccuracy: nan, LR: 0.001, ImagesPerSecond: inf},
		runlog.Row{Kind: runlog.Step, Epoch: 2, Step: 6, TrainLoss: inf, TrainAccuracy: 0, LR: 0.001})
	only := func(kind runlog.Kind) (rows []runlog.Row) {
		for _, r := range sampleRows(3, 4) {
			if r.Kind == kind {
				rows = append(rows, r)
			}
		}
		return rows
	}
	for _, tc := range []struct {
		name    string
		logits  []float32
		labels  []uint16
		metrics []runlog.Row
		want    string
	}{
		{"no_metrics", good, labels, nil, "No metrics were recorded"},
		{"single_step", good, labels, sampleRows(1, 1)[:1], ">step</text>"},
		{"single_epoch", good, labels, sampleRows(1, 3), ">epoch</text>"},
		{"no_epochs", good, labels, only(runlog.Step), "train by step"},
		{"no_steps", good, labels, only(runlog.Epoch), "train by epoch"},
		{"no_validation", good, labels, noValidation, "train by epoch"},
		{"diverged", good, labels, diverged, "train by step"},
		{"all_zeros", good, labels, []runlog.Row{{Kind: runlog.Step}, {Kind: runlog.Epoch}}, "Loss"},
		{"single_image", good[:1], labels[:1], sampleRows(1, 3), "undefined"},
		{"only_REAL", []float32{-1, 1, -3}, []uint16{0, 0, 0}, sampleRows(1, 3), "Undefined: the split has only one class"},
		{"equal_logits", []float32{2, 2, 2}, []uint16{0, 1, 0}, sampleRows(1, 3), "AUC 0.5000"},
		{"extreme_logits", most, labels, sampleRows(1, 3), "AUC 1.0000"},
		{"no_errors", []float32{-1, 1}, []uint16{0, 1}, sampleRows(1, 3), "None."},
		{"only_errors", inverted, labels, sampleRows(1, 3), "The 12 most confident of 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := example(t, tc.logits, tc.labels)
			r.Metrics = tc.metrics
			r.Config = nil
			if page := html(t, r); !strings.Contains(page, tc.want) {
				t.Errorf("the report lacks %q", tc.want)
			}
		})
	}
}

func TestWrite_EscapesHTML(t *testing.T) {
	logits, labels := scores(20, 3)
	r := example(t, logits, labels)
	const evil = `</pre></style><script>alert(1)</script><img src=x onerror="alert(2)">&`
	r.Model.Name = evil
	r.Config = []byte(evil)
	r.Model.Revision = evil
	r.Manifest.Source.Path = evil
	r.Result.Notes = []string{evil}
	html(t, r) // fails if the report contains a script or a reference
}

func TestWrite_SizeBelow1MB(t *testing.T) {
	logits, labels := scores(20000, 0)
	r := example(t, logits, labels)
	r.Metrics = sampleRows(400, 200)
	noise := rand.New(rand.NewPCG(3, 4))
	for i := range r.Metrics {
		r.Metrics[i].TrainLoss = noise.Float64()
	}
	for i := range r.Split.Images { // incompressible images
		r.Split.Images[i] = uint8(noise.Uint32())
	}
	r.Explain = func(pixels []uint8, _ int) ([]float32, error) {
		values := make([]float32, len(pixels)/imaging.Channels)
		for i := range values {
			values[i] = noise.Float32()
		}
		return values, nil
	}
	if page := html(t, r); len(page) > 1<<20 {
		t.Errorf("the report has %d bytes", len(page))
	}
}

func TestWrite_Deterministic(t *testing.T) {
	logits, labels := scores(100, 2)
	first, second := html(t, example(t, logits, labels)), html(t, example(t, logits, labels))
	if first != second {
		t.Error("two reports of the same run differ")
	}
}

func TestWrite_Atomic(t *testing.T) {
	logits, labels := scores(20, 2)
	path := filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	broken := example(t, logits, labels)
	broken.Scores = broken.Scores[1:]
	if err := Write(path, broken); err == nil || !strings.Contains(err.Error(), "19 scores") {
		t.Errorf("error = %v", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "old" {
		t.Errorf("the old report changed to %q, %v", text, err)
	}
	if err := Write(path, example(t, logits, labels)); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(text), "<!doctype html>") {
		t.Errorf("the new report is %.20q, %v", text, err)
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 1 {
		t.Errorf("directory contains %v, %v, want only the report", files, err)
	}
	missing := filepath.Join(t.TempDir(), "no", "report.html")
	if err := Write(missing, example(t, logits, labels)); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("error = %v, want an error that names %s", err, missing)
	}
}

func TestWrite_NoResult(t *testing.T) {
	if err := Write(filepath.Join(t.TempDir(), "report.html"), Report{}); err == nil {
		t.Error("Write(empty report) succeeded")
	}
}

func TestNewHistory_BestEpoch(t *testing.T) {
	row := func(epoch int, loss float64) runlog.Row {
		return runlog.Row{Kind: runlog.Epoch, Epoch: epoch, Step: epoch * 5, ValLoss: loss}
	}
	nan := math.NaN()
	for _, tc := range []struct {
		name string
		rows []runlog.Row
		want int
	}{
		{"no_rows", nil, -1},
		{"no_validation", []runlog.Row{row(1, nan), row(2, nan)}, -1},
		{"lowest_loss", []runlog.Row{row(1, 3), row(2, 1), row(3, 2)}, 1},
		{"tie", []runlog.Row{row(1, 3), row(2, 1), row(3, 1)}, 1},
		{"after_epoch_without_validation", []runlog.Row{row(1, nan), row(2, 1)}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := newHistory(tc.rows).best; got != tc.want {
				t.Errorf("best = %d, want %d", got, tc.want)
			}
		})
	}
}

func TestStepCurve_KeepsMean(t *testing.T) {
	h := newHistory(sampleRows(7, 143))
	curve := h.stepCurve(func(r runlog.Row) float64 { return r.TrainLoss })
	if len(curve) > maxPoints || len(curve) < maxPoints/2 {
		t.Errorf("%d points", len(curve))
	}
	if last := curve[len(curve)-1].X; math.Abs(last-7) > 0.05 {
		t.Errorf("the curve ends at epoch %v, want 7", last)
	}
	var sum, want float64
	for i, p := range curve {
		n := min(h.group, len(h.steps)-i*h.group)
		sum += p.Y * float64(n)
	}
	for _, r := range h.steps {
		want += r.TrainLoss
	}
	if math.Abs(sum-want) > 1e-9 {
		t.Errorf("sum of losses = %v, want %v", sum, want)
	}
}

func TestThin(t *testing.T) {
	if got := thin([]float64{0, 0, 0, 0.5, 1}, []float64{0, 0.5, 1, 1, 1}); len(got) != 3 {
		t.Errorf("thin(corner between two straight lines) = %v, want 3 points", got)
	}
	logits, labels := scores(5000, 0)
	fpr, tpr := evaluate.ROC(logits, labels)
	got := thin(fpr, tpr)
	if len(got) > maxPoints+1 {
		t.Errorf("%d points", len(got))
	}
	if first, last := got[0], got[len(got)-1]; first.X != 0 || first.Y != 0 || last.X != 1 || last.Y != 1 {
		t.Errorf("the curve goes from %v to %v, want (0, 0) to (1, 1)", first, last)
	}
}

func TestTicks(t *testing.T) {
	for _, tc := range []struct {
		name      string
		ticks     ticks
		low, high float64
		want      string
	}{
		{"fractions", ticks{count: 5}, 0, 1, "0 0.2 0.4 0.6 0.8 1.0"},
		{"percent", ticks{count: 5, percent: true}, 0.6, 1, "60 % 70 % 80 % 90 % 100 %"},
		{"narrow_percent", ticks{count: 5, percent: true}, 0.99, 1, "99.0 % 99.2 % 99.4 % 99.6 % 99.8 % 100.0 %"},
		{"epochs", ticks{count: 8, whole: true}, 0, 6, "0 1 2 3 4 5 6"},
		{"half_epoch", ticks{count: 8, whole: true}, 0, 0.5, "0 "},
		{"many_epochs", ticks{count: 8, whole: true}, 0, 100, "0 20 40 60 80 100"},
		{"small_rates", ticks{count: 5}, 0, 1e-5, "0 2e-06 4e-06 6e-06 8e-06 1e-05"},
		{"rates", ticks{count: 5}, 0, 0.001, "0 0.0002 0.0004 0.0006 0.0008 0.0010"},
		{"both_signs", ticks{count: 4}, -10.3, 9.7, "-10 -5 0 5"},
		{"empty_range", ticks{count: 5}, 3, 3, "3.0 3.2 3.4 3.6 3.8 4.0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var labels []string
			for _, m := range tc.ticks.Ticks(tc.low, tc.high) {
				labels = append(labels, m.Label)
			}
			if got := strings.Join(labels, " "); got != tc.want {
				t.Errorf("ticks %q, want %q", got, tc.want)
			}
		})
	}
}

func BenchmarkWrite(b *testing.B) {
	logits, labels := scores(20000, 2)
	md := model.Trained(32, model.Real, model.Fake)
	metrics, err := evaluate.Measure(&md, logits, labels)
	if err != nil {
		b.Fatal(err)
	}
	r := Report{
		Metrics:  sampleRows(10, 3000),
		Manifest: &dataset.Manifest{Classes: dataset.Classes()},
		Result:   &evaluate.Result{Count: len(labels), Metrics: metrics},
		Model:    md,
		Scores:   logits,
		Split:    &dataset.Split{Images: make([]uint8, len(labels)*imageBytes), Labels: labels, Side: 32, Classes: dataset.Classes()},
	}
	for b.Loop() {
		if _, err := render(r); err != nil {
			b.Fatal(err)
		}
	}
}

// tenClasses returns the report of a model with ten classes and images of 120×120 pixels.
func tenClasses(t *testing.T) Report {
	t.Helper()
	const n, side = 200, 120
	var classes []string
	for c := range 10 {
		classes = append(classes, fmt.Sprintf("kind <%d>", c))
	}
	md := model.Trained(side, classes...)
	md.Name = "ten"
	r := rand.New(rand.NewPCG(1, 2))
	scores, labels := make([]float32, 0, 10*n), make([]uint16, n)
	split := &dataset.Split{Images: make([]uint8, n*side*side*imaging.Channels), Labels: labels, Side: side, Classes: classes}
	counts := map[string]int{}
	for i := range n {
		labels[i] = uint16(i % 10)
		counts[classes[i%10]]++
		for c := range 10 {
			score := float32(r.NormFloat64())
			if c == i%10 {
				score += 2
			}
			scores = append(scores, score)
		}
	}
	metrics, err := evaluate.Measure(&md, scores, labels)
	if err != nil {
		t.Fatal(err)
	}
	return Report{
		Model: md, Scores: scores, Split: split, Metrics: sampleRows(3, 10),
		Manifest: &dataset.Manifest{Source: dataset.Source{Kind: "folder", Path: "pets"}, Classes: classes, Splits: map[string]map[string]int{"test": counts}},
		Result:   &evaluate.Result{Model: "sha256:aa", Data: "sha256:bb", Source: "folder", Split: "test", Count: n, Classes: classes, Metrics: metrics},
		Explain: func(pixels []uint8, _ int) ([]float32, error) {
			return make([]float32, len(pixels)/imaging.Channels), nil
		},
	}
}

func TestWrite_TenClasses(t *testing.T) {
	r := tenClasses(t)
	page := html(t, r)
	for _, want := range []string{
		"The model has 10 classes", "Balanced accuracy", "Top-5 accuracy", "Macro F1", "Largest confusions", "<th scope=\"col\">kind &lt;9&gt;</th>",
		"20 kind &lt;0&gt;", "mean probability of the predicted class", `width="96" height="96"`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	for _, unwanted := range []string{"positive class", "ROC curve", "FAKE"} {
		if strings.Contains(page, unwanted) {
			t.Errorf("the report has %q", unwanted)
		}
	}
	if len(page) > 2<<20 {
		t.Errorf("the report has %d bytes", len(page))
	}
}
