package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/moby/sys/atomicwriter"

	"fakeart/internal/cli"
	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/trainer/card"
	"fakeart/trainer/foreign"
)

// modelCommand groups the commands that work with model files.
type modelCommand struct {
	Import importCommand `cmd:"" help:"Make a model file from an ONNX image classifier of another framework."`
	Show   showCommand   `cmd:"" help:"Print the model card of a model file."`
}

// importCommand imports a foreign ONNX model.
type importCommand struct {
	Source string `arg:"" name:"src" help:"ONNX file. Settings beside it are used: config.json and preprocessor_config.json of Hugging Face, config.json of timm, labels.txt."`
	Output string `short:"o" required:"" placeholder:"FILE" help:"Model file to write."`
	Force  bool   `help:"Replace the model file if it exists."`

	Labels     string   `group:"Classes" placeholder:"FILE" help:"File with the class names in the order of the outputs: one per line, or JSON."`
	Classes    []string `group:"Classes" placeholder:"NAME,…" help:"Class names in the order of the outputs. Use --labels for names with commas."`
	Positive   string   `group:"Classes" placeholder:"CLASS" help:"Of two classes, the one that the reported probability and the threshold refer to."`
	Threshold  *float64 `group:"Classes" placeholder:"P" help:"Probability above which the positive class is predicted, 0.5 by default."`
	Scores     string   `group:"Classes" placeholder:"NAME" help:"Value or node of the graph that has the scores, if there are several."`
	OutputKind string   `group:"Classes" enum:",logits,probabilities" default:"" help:"Kind of the scores: logits or probabilities. By default, as in the graph."`

	Preset       string  `group:"Preprocessing" placeholder:"NAME" help:"Preprocessing of a library: ${presets}."`
	NoConfig     bool    `group:"Preprocessing" help:"Ignore the files beside the model."`
	Size         string  `group:"Preprocessing" placeholder:"WxH" help:"Size of the input in pixels, such as 224x224, if the graph takes any size."`
	Color        string  `group:"Preprocessing" enum:",rgb,bgr,gray" default:"" help:"Order of the channels: rgb, bgr or gray."`
	Layout       string  `group:"Preprocessing" enum:",nchw,nhwc" default:"" help:"Order of the input's dimensions, if it can't be inferred: nchw or nhwc."`
	Fit          string  `group:"Preprocessing" enum:",stretch,shortest-edge,contain" default:"" help:"How an image fits into the input: stretch, shortest-edge (and center crop) or contain (and padding)."`
	Resize       string  `group:"Preprocessing" placeholder:"N" help:"Length of the shorter side before the center crop, or WxH."`
	CropPct      float64 `group:"Preprocessing" placeholder:"FRACTION" help:"The same as a fraction: the input's size divided by the size before the crop, such as 0.875."`
	CropRounding string  `group:"Preprocessing" enum:",half-even,down" default:"" help:"How the offset of the crop is rounded: half-even (torchvision, timm) or down (transformers)."`
	Padding      string  `group:"Preprocessing" placeholder:"R,G,B" help:"Color of the padding, 0 to 255 each."`
	Filter       string  `group:"Preprocessing" enum:",nearest,bilinear,bicubic,lanczos" default:"" help:"Resampling filter: nearest, bilinear, bicubic or lanczos."`
	Antialias    *bool   `group:"Preprocessing" negatable:"" help:"Widen the filter when reducing, as Pillow does (the default), or not, as OpenCV does."`
	Passes       string  `group:"Preprocessing" enum:",horizontal-first,pillow-13" default:"" help:"Order of resizing width and height, with antialiasing: horizontal-first (Pillow up to 12.1) or pillow-13 (the default)."`
	Orientation  string  `group:"Preprocessing" enum:",ignore,apply" default:"" help:"Handling of the EXIF orientation: ignore or apply."`
	JPEG         string  `group:"Preprocessing" name:"jpeg" enum:",full,dct" default:"" help:"Decode JPEGs at full size, or at a reduced size that covers the input (dct), which is faster."`
	Scale        string  `group:"Preprocessing" placeholder:"X" help:"Factor of the levels 0 to 255, such as 1/255. A level v becomes (v·scale − mean)/std."`
	Mean         string  `group:"Preprocessing" placeholder:"X,…" help:"Mean per channel, in the order of --color, one for all channels, or none."`
	Std          string  `group:"Preprocessing" placeholder:"X,…" help:"Standard deviation per channel, one for all channels, or none."`

	Embedding   string `group:"Other outputs" placeholder:"NAME" help:"Value or node with the features of an image. By default, the input of the last dense layer."`
	NoEmbedding bool   `group:"Other outputs" help:"Don't include an embedding, which drift detection can use."`
	CAM         string `group:"Other outputs" name:"cam" placeholder:"NAME" help:"Feature maps for the class-activation map, or the map itself. By default, the maps before global average pooling."`
	NoCAM       bool   `group:"Other outputs" name:"no-cam" help:"Don't include a class-activation map."`

	Name        string `group:"Description" help:"Name of the model. By default, that of the file."`
	Description string `group:"Description" placeholder:"TEXT" help:"Purpose of the model."`
	License     string `group:"Description" placeholder:"ID" help:"License, as an SPDX identifier such as Apache-2.0."`
	From        string `group:"Description" name:"source" placeholder:"TEXT" help:"Where the model comes from, such as its URL."`

	Verify    string  `group:"Check" placeholder:"FILE" help:"Compare the predictions with those in an NPZ file, and fail if they differ."`
	Tolerance float64 `group:"Check" default:"1e-4" placeholder:"P" help:"Greatest accepted difference of a probability with --verify."`
}

// Validate returns an error for flags that can't be combined.
func (c *importCommand) Validate() error {
	switch {
	case c.Labels != "" && len(c.Classes) > 0:
		return errors.New("--labels and --classes can't be combined")
	case c.Resize != "" && c.CropPct != 0:
		return errors.New("--resize and --crop-pct can't be combined")
	case c.CAM != "" && c.NoCAM, c.Embedding != "" && c.NoEmbedding:
		return errors.New("an output can't be both included and left out")
	case c.Threshold != nil && !(*c.Threshold > 0 && *c.Threshold < 1):
		return errors.New("--threshold must be between 0 and 1")
	case c.Threshold != nil && c.Positive == "":
		return errors.New("--threshold requires --positive, the class that it refers to")
	case !(c.Tolerance >= 0):
		return errors.New("--tolerance must not be negative")
	}
	if c.Preset != "" {
		if _, err := foreign.Preset(c.Preset); err != nil {
			return err
		}
	}
	_, err := c.settings()
	return err
}

// settings returns the settings of the flags except --labels.
func (c *importCommand) settings() (s foreign.Settings, err error) {
	s = foreign.Settings{
		Classes: c.Classes, OutputKind: model.OutputKind(c.OutputKind), Color: imaging.Color(c.Color), Layout: imaging.Layout(c.Layout),
		Orientation: imaging.Orientation(c.Orientation), JPEG: imaging.JPEGScale(c.JPEG), Filter: imaging.Filter(c.Filter), Antialias: c.Antialias, Passes: imaging.Passes(c.Passes),
	}
	if c.Size != "" {
		if s.Width, s.Height, err = parseSize(c.Size); err != nil {
			return s, fmt.Errorf("--size: %w", err)
		}
	}
	if c.Fit != "" || c.Resize != "" || c.CropPct != 0 || c.CropRounding != "" {
		frame := &foreign.Frame{Fit: imaging.Fit(c.Fit), CropPct: c.CropPct, Crop: imaging.Rounding(c.CropRounding)}
		if c.Resize != "" {
			if frame.Resize, frame.ResizeHeight, err = parseSize(c.Resize); err != nil {
				return s, fmt.Errorf("--resize: %w", err)
			}
		}
		s.Frame = frame
	}
	if c.Padding != "" {
		values, err := foreign.ParseNumbers(c.Padding)
		if err != nil {
			return s, fmt.Errorf("--padding: %w", err)
		}
		s.Padding = new([3]uint8)
		for i := range s.Padding {
			if len(values) != 3 || values[i] != math.Trunc(values[i]) || values[i] < 0 || values[i] > 255 {
				return s, fmt.Errorf("--padding: %q isn't a color, such as 124,116,104", c.Padding)
			}
			s.Padding[i] = uint8(values[i])
		}
	}
	if c.Scale != "" {
		values, err := foreign.ParseNumbers(c.Scale)
		if err != nil || len(values) != 1 || values[0] <= 0 {
			return s, fmt.Errorf("--scale: %q isn't a positive number or a fraction, such as 1/255", c.Scale)
		}
		s.Scale = &values[0]
	}
	if s.Mean, err = foreign.ParseNumbers(c.Mean); err != nil {
		return s, fmt.Errorf("--mean: %w", err)
	}
	if s.Std, err = foreign.ParseNumbers(c.Std); err != nil {
		return s, fmt.Errorf("--std: %w", err)
	}
	return s, nil
}

// parseSize parses WIDTHxHEIGHT, or one number for both.
func parseSize(text string) (width, height int, err error) {
	w, h, both := strings.Cut(strings.NewReplacer("×", "x", "X", "x").Replace(text), "x")
	if !both {
		h = w
	}
	width, err = strconv.Atoi(w)
	if err == nil {
		height, err = strconv.Atoi(h)
	}
	if err != nil || width < 1 || height < 1 {
		return 0, 0, fmt.Errorf("%q isn't a size in pixels, such as 224 or 320x240 (width x height)", text)
	}
	return width, height, nil
}

// Run imports the model, and prints what is known about it and from where.
func (c *importCommand) Run(std streams) error {
	if _, err := os.Stat(c.Output); err == nil && !c.Force {
		return usageError{fmt.Errorf("%s already exists\nhint: choose another name, or replace it with --force", c.Output)}
	}
	s, err := c.settings()
	if err != nil {
		return usageError{err}
	}
	if c.Labels != "" {
		if s.Classes, err = foreign.ReadLabels(c.Labels); err != nil {
			return err
		}
	}
	options := foreign.Options{
		Settings: s, Preset: c.Preset, NoConfig: c.NoConfig, Scores: c.Scores, Embedding: c.Embedding, CAM: c.CAM,
		NoEmbedding: c.NoEmbedding, NoCAM: c.NoCAM, Positive: c.Positive,
		Name: c.Name, Description: c.Description, License: c.License, Source: c.From,
	}
	if c.Threshold != nil {
		options.Threshold = *c.Threshold
	}
	imported, err := foreign.Import(c.Source, options)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	for _, f := range imported.Facts {
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Name, f.Value, cli.Paint(std.out, "("+f.Origin+")", cli.Faint))
	}
	_ = w.Flush()
	for _, note := range imported.Notes {
		fmt.Fprintf(std.err, "note: %s\n", note)
	}
	if c.Verify != "" {
		if err := c.verify(imported.File, std); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(c.Output), 0o755); err != nil {
		return err
	}
	if err := atomicwriter.WriteFile(c.Output, imported.Data, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", c.Output, err)
	}
	_, err = fmt.Fprintf(std.out, "wrote %s, %s, %s\n", c.Output, megabytes(len(imported.Data)), imported.File.Digest)
	return err
}

// verify compares the model with the outputs of the source framework.
func (c *importCommand) verify(f *model.File, std streams) error {
	sample, err := foreign.ReadSample(c.Verify)
	if err != nil {
		return err
	}
	v, err := foreign.Verify(f, sample)
	if err != nil {
		return fmt.Errorf("verify with %s: %w", c.Verify, err)
	}
	fmt.Fprintf(std.out, "verified %d images: the greatest difference of a probability is %.2g (%s, class %q: %.6g instead of %.6g); the predicted class agrees for %d\n",
		v.Images, v.Difference, v.Image, v.Class, v.Ours, v.Theirs, v.Agree)
	if v.Difference <= c.Tolerance {
		return nil
	}
	flags, better, err := foreign.Suggest(f, sample, v)
	if err != nil {
		return err
	}
	hint := "compare the preprocessing above with that of the other framework; docs/how-to/bring-your-own-model.md has the typical differences"
	if flags != "" {
		hint = fmt.Sprintf("with %s, the difference is %.2g", flags, better.Difference)
	}
	return fmt.Errorf("the predictions differ from those in %s by up to %.2g, more than --tolerance=%g; nothing was written\nhint: %s", c.Verify, v.Difference, c.Tolerance, hint)
}

func megabytes(bytes int) string { return fmt.Sprintf("%.1f MB", float64(bytes)/1e6) }

// showCommand prints a model card.
type showCommand struct {
	File string `arg:"" help:"Model file."`
	JSON bool   `help:"Print JSON."`
	HTML string `placeholder:"FILE" help:"Write the card as a self-contained HTML page."`
}

// Run prints the card on standard output, or writes it as HTML.
func (c *showCommand) Run(std streams) error {
	card, err := card.Read(c.File)
	if err != nil {
		return err
	}
	if c.HTML != "" {
		page, err := card.HTML()
		if err != nil {
			return err
		}
		if err := atomicwriter.WriteFile(c.HTML, page, 0o644); err != nil {
			return fmt.Errorf("write %s: %w", c.HTML, err)
		}
		if !c.JSON {
			return nil
		}
	}
	if !c.JSON {
		return card.WriteTable(std.out)
	}
	text, err := card.JSON()
	if err != nil {
		return err
	}
	_, err = std.out.Write(text)
	return err
}
