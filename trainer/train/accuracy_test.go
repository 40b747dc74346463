package train

import (
	"os"
	"path/filepath"
	"testing"

	"fakeart/internal/config"
	"fakeart/trainer/dataset"
)

// The network learns: two epochs of the base experiment on real photographs and
// what an autoencoder makes of others.
func TestTheBaseExperimentLearns(t *testing.T) {
	folder := os.Getenv("FAKEART_DATA")
	if folder == "" {
		t.Skip("FAKEART_DATA names no folder with cifake-layout.zip")
	}
	if testing.Short() || raceDetector {
		t.Skip("trains for many seconds, and for minutes under the race detector")
	}
	data := filepath.Join(t.TempDir(), "data")
	_, err := dataset.Prepare(t.Context(), config.Dataset{
		Name: "archive", Path: filepath.Join(folder, "cifake-layout.zip"), Dir: data,
	}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load("", []string{
		"dataset=archive", "dataset.dir=" + data, "experiment=base", "experiment.epochs=2",
		"run.dir=" + filepath.Join(t.TempDir(), "run"),
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Run(t.Context(), cfg, "test", t.Output())
	if err != nil {
		t.Fatal(err)
	}
	if s.Test.Accuracy < 0.9 {
		t.Errorf("the test accuracy is %v, want 0.9 at least", s.Test.Accuracy)
	}
}
