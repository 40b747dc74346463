//go:build ignore

// Draw makes the sample pictures of the page: the first ones of each class that the
// trainer draws. `go generate` runs it.
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

// each is how many pictures of a class there are.
const each = 3

func main() {
	folder, err := os.MkdirTemp("", "samples")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(folder)
	// Another seed than that of the demo's training pictures.
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
		if err := os.WriteFile(name, imaging.EncodePNG(imaging.ToImage(test.Image(i), imaging.Size)), 0o644); err != nil {
			log.Fatal(err)
		}
	}
}
