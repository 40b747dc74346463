//go:build ignore

// Draw writes the page's sample images: the first images of each class of the trainer's synthetic
// dataset. Run it with `go generate`.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"fakeart/internal/config"
	"fakeart/internal/imaging"
	"fakeart/trainer/dataset"
)

// each is the number of images per class.
const each = 3

func main() {
	folder, err := os.MkdirTemp("", "samples")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(folder)
	// Not the seed of the demo's training images.
	_, err = dataset.Prepare(context.Background(), config.Dataset{Name: "synthetic", Dir: filepath.Join(folder, "data"), Seed: 7, TestPerClass: each}, os.Stderr)
	if err != nil {
		log.Fatal(err)
	}
	test, manifest, err := dataset.Load(filepath.Join(folder, "data"), dataset.Test)
	if err != nil {
		log.Fatal(err)
	}
	for i := range test.Labels {
		name := fmt.Sprintf("samples/%s-%d.png", strings.ToLower(manifest.Classes[test.Labels[i]]), i%each+1)
		if err := os.WriteFile(name, imaging.EncodePNG(imaging.ToImage(test.Image(i), test.Side, imaging.Channels)), 0o644); err != nil {
			log.Fatal(err)
		}
	}
}
