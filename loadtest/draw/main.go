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
	Width   int    `json:"width"`
	Height  int    `json:"height"`

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
	var drawings []image.Image
	count := make([]int, len(manifest.Classes))
	for i, label := range test.Labels {
		n := count[label]
		if count[label]++; n >= perClass {
			continue
		}
		img, class := imaging.ToImage(test.Image(i), test.Side, imaging.Channels), manifest.Classes[label]
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
		drawings = append(drawings, img)
	}
	// Larger images, to measure decoding. They have no label, because scaling removes the texture by
	// which a model classifies. The largest one is a collage in lower quality: it has as much detail as a
	// file of less than 1 MiB allows.
	for _, larger := range []struct{ width, height, tile, quality int }{{320, 240, 0, 95}, {640, 480, 0, 95}, {4000, 3000, 200, 75}} {
		img := image.NewNRGBA(image.Rect(0, 0, larger.width, larger.height))
		if larger.tile == 0 {
			draw.CatmullRom.Scale(img, img.Rect, drawings[0], drawings[0].Bounds(), draw.Src, nil)
		} else {
			collage(img, drawings, larger.tile)
		}
		if err := all.addJPEG(fmt.Sprintf("%dx%d", larger.width, larger.height), "", img, larger.quality); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// collage fills an image with drawings in tiles of tile×tile pixels.
func collage(dst *image.NRGBA, drawings []image.Image, tile int) {
	n := 0
	for y := 0; y < dst.Rect.Max.Y; y += tile {
		for x := 0; x < dst.Rect.Max.X; x += tile {
			img := drawings[n*7%len(drawings)]
			draw.CatmullRom.Scale(dst, image.Rect(x, y, x+tile, y+tile), img, img.Bounds(), draw.Src, nil)
			n++
		}
	}
}

// addJPEG adds an image as a JPEG.
func (all *index) addJPEG(name, label string, img image.Image, quality int) error {
	var data bytes.Buffer
	if err := jpeg.Encode(&data, img, &jpeg.Options{Quality: quality}); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	all.append(imageFile{File: name + ".jpg", Label: label, Drawing: name + ".jpg", data: data.Bytes()}, img)
	return nil
}

// append adds a file of the image to the index.
func (all *index) append(p imageFile, img image.Image) {
	p.Width, p.Height = img.Bounds().Dx(), img.Bounds().Dy()
	all.Pictures = append(all.Pictures, p)
}

// add encodes an image in a format and adds it to the index.
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
		return all.addJPEG(name, label, img, 95)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.File, err)
	}
	p.data = data.Bytes()
	all.append(p, img)
	return nil
}
