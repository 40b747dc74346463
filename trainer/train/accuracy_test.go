package train

import (
	"os"
	"path/filepath"
	"testing"

	"fakeart/internal/config"
	"fakeart/trainer/dataset"
)

// TestRun_BaseExperimentAccuracy trains two epochs of the base experiment on real photographs and
// on photographs reconstructed by an autoencoder.
func TestRun_BaseExperimentAccuracy(t *testing.T) {
	folder := os.Getenv("FAKEART_DATA")
	if folder == "" {
		t.Skip("FAKEART_DATA is not set; set it to the directory that contains cifake-layout.zip")
	}
	if testing.Short() || raceDetector {
		t.Skip("trains for many seconds, or minutes with the race detector")
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
		t.Errorf("test accuracy = %v, want at least 0.9", s.Test.Accuracy)
	}
}
