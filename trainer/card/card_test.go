package card

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fakeart/internal/model"
	"fakeart/internal/onnx"
)

// write writes a model file of a trained network for the given classes, and returns its path and digest.
func write(t *testing.T, classes ...string) (path, digest string) {
	t.Helper()
	md := model.Trained(32, classes...)
	md.Embedding, md.Name, md.DataDigest, md.Seed, md.ValAccuracy = "", "pets <1>", "sha256:da7a", 7, 0.75
	g := onnx.NewGraph("test")
	x := g.Reshape(g.ReduceMean(g.Input(md.Input, onnx.Float32, onnx.Batch, 3, 32, 32), 2, 3), onnx.Batch, 3)
	g.Output(md.Output, g.Gemm(x, g.Param("w", make([]float32, 3*md.Columns), 3, int64(md.Columns)), false, false))
	m, err := g.Model()
	if err != nil {
		t.Fatal(err)
	}
	data, err := model.Marshal(m, md)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := model.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return path, f.Digest
}

func table(t *testing.T, c *Card) string {
	t.Helper()
	var b strings.Builder
	if err := c.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestRead(t *testing.T) {
	path, digest := write(t, "cat", "dog", "crane", "crane")
	c, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	text := table(t, c)
	for _, part := range []string{
		"pets <1>", digest, `"cat", "dog", "crane#2", "crane#3"`, "input, float32 [batch,3,32,32]", "stretched to 32×32", "v/255", "logits, one per class",
		"Parameters  12", "1 Gemm", "sha256:da7a", "75.00 %",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("card lacks %q:\n%s", part, text)
		}
	}
	for _, absent := range []string{"Positive class", "Evaluation", "Validation loss", "Embedding"} {
		if strings.Contains(text, absent) {
			t.Errorf("card has %q:\n%s", absent, text)
		}
	}
	data, err := c.JSON()
	var parsed Card
	if err != nil || json.Unmarshal(data, &parsed) != nil || parsed.Preprocessing.Width != 32 || parsed.Training == nil || parsed.Training.ValLoss != nil {
		t.Errorf("JSON = %s, %v", data, err)
	}
	page, err := c.HTML()
	if err != nil || !strings.Contains(string(page), "pets &lt;1&gt;") || strings.Contains(string(page), "pets <1>") {
		t.Errorf("HTML = %s, %v", page, err)
	}
	if _, err := Read(filepath.Join(t.TempDir(), "missing.onnx")); err == nil {
		t.Error("no error for a missing file")
	}
}

// TestRead_evaluation checks that the metrics beside a file are shown only if they are those of this model.
func TestRead_evaluation(t *testing.T) {
	path, digest := write(t, "no", "yes")
	for name, test := range map[string]struct {
		model string
		want  bool
	}{"same": {digest, true}, "other": {"sha256:0", false}} {
		text := `{"model":"` + test.model + `","split":"test","count":10,"accuracy":0.9,"f1":0.5,"notes":["few images"]}`
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), "eval.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Read(path)
		if err != nil {
			t.Fatal(err)
		}
		card := table(t, c)
		if !strings.Contains(card, "yes, predicted above a probability of 0.5") || !strings.Contains(card, "one, for yes") {
			t.Errorf("card = %s", card)
		}
		for _, part := range []string{"10 of the test split", "90.00 %", "0.5000", "few images"} {
			if strings.Contains(card, part) != test.want {
				t.Errorf("%s model: card has %q = %v, want %v:\n%s", name, part, !test.want, test.want, card)
			}
		}
		if page, err := c.HTML(); err != nil || strings.Contains(string(page), "Accuracy (test)") != test.want {
			t.Errorf("%s model: HTML has the accuracy = %v", name, !test.want)
		}
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 11684712: "11,684,712", math.MaxInt32: "2,147,483,647"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) = %q, want %q", n, got, want)
		}
	}
}
