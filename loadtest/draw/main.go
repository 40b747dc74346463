// Command draw generates the images that the load tests send, in the folder loadtest/pictures. They
// are committed, so that k6 needs only its scripts. Run `go generate ./loadtest/draw` after a change
// of the synthetic dataset.
package main

//go:generate go run .

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/HugoSmits86/nativewebp"
	"golang.org/x/image/bmp"
	"golang.org/x/image/draw"

	"fakeart/internal/config"
	"fakeart/internal/imaging"
	"fakeart/trainer/dataset"
)

func main() {
	if err := run(context.Background(), filepath.Join("..", "pictures")); err != nil {
		fmt.Fprintf(os.Stderr, "draw: %v\n", err)
		os.Exit(1)
	}
}

// index is the content of index.json, which lists the images for the script.
type index struct {
	Generated string `json:"generated"`
	// Data is the digest of the dataset whose test split contains the images. Only models trained on
	// this dataset are expected to predict the labels.
	Data string `json:"data"`
	// Source describes the source of the dataset.
	Source   dataset.Source `json:"source"`
	Pictures []imageFile    `json:"pictures"`
}

// imageFile is an encoded image.
type imageFile struct {
	File string `json:"file"`
	// Label is the class. It is empty if a model can't be expected to predict it.
	Label string `json:"label,omitempty"`
	// Drawing identifies the pixels: files with the same value have exactly the same pixels.
	Drawing string `json:"drawing"`

	data []byte
}

// perClass is the number of drawings per class. The first drawing of each class is encoded in all
// formats.
const perClass = 5

// run generates the images and replaces the folder dir.
func run(ctx context.Context, dir string) error {
	all, err := generate(ctx) // of the default dataset, which the demo uses
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)); err != nil {
		return err
	}
	errs := []error{os.WriteFile(filepath.Join(dir, "index.json"), append(text, '\n'), 0o644)}
	for _, p := range all.Pictures {
		errs = append(errs, os.WriteFile(filepath.Join(dir, p.File), p.data, 0o644))
	}
	return errors.Join(errs...)
}

// generate creates the images from the synthetic dataset, configured with overrides.
func generate(ctx context.Context, overrides ...string) (*index, error) {
	dir, err := os.MkdirTemp("", "fakeart-draw-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	cfg, err := config.Load("", append([]string{"dataset=synthetic", "dataset.dir=" + filepath.Join(dir, "data")}, overrides...))
	if err != nil {
		return nil, err
	}
	manifest, err := dataset.Prepare(ctx, cfg.Dataset, io.Discard)
	if err != nil {
		return nil, err
	}
	test, _, err := dataset.Load(cfg.Dataset.Dir, dataset.Test)
	if err != nil {
		return nil, err
	}
	all := &index{Generated: "by go generate ./loadtest/draw", Data: manifest.Digest(), Source: manifest.Source}
	var first image.Image
	count := make([]int, len(manifest.Classes))
	for i, label := range test.Labels {
		n := count[label]
		if count[label]++; n >= perClass {
			continue
		}
		img, class := imaging.ToImage(test.Image(i), imaging.Size, imaging.Channels), manifest.Classes[label]
		name := fmt.Sprintf("%s-%d", strings.ToLower(class), n)
		formats := []string{".png", ".jpg"}
		if n == 0 {
			formats = append(formats, ".bmp", ".gif", ".webp")
		}
		for _, format := range formats {
			if err := all.add(name, format, class, img); err != nil {
				return nil, err
			}
		}
		if first == nil {
			first = img
		}
	}
	// Larger images, to measure decoding. They have no label, because scaling removes the texture by
	// which a model classifies.
	for _, size := range []image.Point{{320, 240}, {640, 480}} {
		img := image.NewNRGBA(image.Rectangle{Max: size})
		draw.CatmullRom.Scale(img, img.Rect, first, first.Bounds(), draw.Src, nil)
		if err := all.add(fmt.Sprintf("%dx%d", size.X, size.Y), ".jpg", "", img); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// add encodes an image and adds it to the index.
func (all *index) add(name, format, label string, img image.Image) error {
	p := imageFile{File: name + format, Label: label, Drawing: name}
	var data bytes.Buffer
	var err error
	switch format {
	case ".png":
		err = png.Encode(&data, img)
	case ".bmp":
		err = bmp.Encode(&data, img)
	case ".webp":
		err = nativewebp.Encode(&data, img, nil) // lossless
	case ".gif":
		p.Drawing = p.File
		err = gif.Encode(&data, img, nil)
	default:
		p.Drawing = p.File
		err = jpeg.Encode(&data, img, &jpeg.Options{Quality: 95})
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.File, err)
	}
	p.data = data.Bytes()
	all.Pictures = append(all.Pictures, p)
	return nil
}
