package foreign

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"fakeart/internal/imaging"
)

// source is the settings of one file.
type source struct {
	Settings
	name string // of the file
}

// byHand is the hint for settings that can't be expressed.
const byHand = "\nhint: add --no-config, and describe the preprocessing with --fit, --resize, --filter, --scale, --mean and --std"

// beside returns the settings in files of Hugging Face transformers, timm, or with labels, that are in a model's folder. Exports of Optimum
// have the model in a subfolder onnx.
func beside(path string) (list []source, err error) {
	dirs := []string{filepath.Dir(path)}
	if abs, err := filepath.Abs(dirs[0]); err == nil && filepath.Base(abs) == "onnx" {
		dirs = append(dirs, filepath.Dir(abs))
	}
	for _, dir := range dirs {
		if list, err = inFolder(dir); err != nil || len(list) > 0 {
			return list, err
		}
	}
	return nil, nil
}

func inFolder(dir string) ([]source, error) {
	var list []source
	var last source // names that transformers has invented
	for _, f := range []struct {
		name  string
		parse func([]byte) (Settings, error)
	}{
		{"config.json", parseConfig},
		{"preprocessor_config.json", parsePreprocessor},
	} {
		path := filepath.Join(dir, f.name)
		data, err := readSmall(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		s, err := f.parse(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if placeholders(s.Classes) {
			last = source{Settings{Classes: s.Classes}, f.name}
			s.Classes = nil
		}
		list = append(list, source{s, f.name})
	}
	path := filepath.Join(dir, "labels.txt")
	if _, err := os.Stat(path); err == nil {
		names, err := ReadLabels(path)
		if err != nil {
			return nil, err
		}
		list = append(list, source{Settings{Classes: names}, "labels.txt"})
	}
	if len(last.Classes) > 0 {
		list = append(list, last)
	}
	return list, nil
}

func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxSettings {
		return nil, fmt.Errorf("%s: not a regular file of at most 16 MiB", path)
	}
	return os.ReadFile(path)
}

// size is a size in a configuration file: a number, or an object with height and width or with shortest_edge.
type size struct {
	height, width, edge int
	// number reports whether it's a number, which some processors take for a square and others for the shorter side.
	number bool
	// other reports whether it has other keys, such as longest_edge.
	other bool
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *size) UnmarshalJSON(data []byte) error {
	if json.Unmarshal(data, &s.edge) == nil {
		s.number = true
		return nil
	}
	var pair []int
	if json.Unmarshal(data, &pair) == nil && len(pair) == 2 { // timm, and old feature extractors: [height, width]
		s.height, s.width = pair[0], pair[1]
		return nil
	}
	var keys map[string]*int
	if err := json.Unmarshal(data, &keys); err != nil {
		return errors.New("invalid size")
	}
	for key, v := range keys {
		switch {
		case v == nil:
		case key == "height":
			s.height = *v
		case key == "width":
			s.width = *v
		case key == "shortest_edge":
			s.edge = *v
		default:
			s.other = true
		}
	}
	return nil
}

// config is config.json of transformers or timm.
type config struct {
	Architecture  any               `json:"architecture"`
	Architectures []string          `json:"architectures"`
	ID2Label      map[string]string `json:"id2label"`
	ProblemType   string            `json:"problem_type"`
	NumClasses    int               `json:"num_classes"`
	LabelNames    json.RawMessage   `json:"label_names"`
	PretrainedCfg json.RawMessage   `json:"pretrained_cfg"`
}

// timmConfig is pretrained_cfg of timm.
type timmConfig struct {
	InputSize     []int           `json:"input_size"`
	CropPct       float64         `json:"crop_pct"`
	CropMode      string          `json:"crop_mode"`
	CropBorder    int             `json:"crop_border_pixels"`
	Interpolation string          `json:"interpolation"`
	Mean          []float64       `json:"mean"`
	Std           []float64       `json:"std"`
	LabelNames    json.RawMessage `json:"label_names"`
}

// parseConfig parses config.json.
func parseConfig(data []byte) (s Settings, err error) {
	var c config
	if err := json.Unmarshal(data, &c); err != nil {
		return s, fmt.Errorf("invalid JSON: %w", err)
	}
	if c.ProblemType == "multi_label_classification" {
		return s, errors.New("the model's labels don't exclude one another (problem_type multi_label_classification), but Fakeart predicts one class per image\n" +
			"hint: use a model trained for single-label classification")
	}
	for _, a := range c.Architectures {
		for _, task := range []string{"ForObjectDetection", "ForSemanticSegmentation", "ForInstanceSegmentation", "ForUniversalSegmentation", "ForMaskedImageModeling", "ForDepthEstimation", "ForImageTextToText"} {
			if strings.HasSuffix(a, task) {
				return s, fmt.Errorf("%s isn't an image classifier\nhint: export a model whose architecture ends in ForImageClassification", a)
			}
		}
	}
	if len(c.ID2Label) > 0 {
		if s.Classes, err = inOrder(c.ID2Label); err != nil {
			return s, fmt.Errorf("id2label: %w", err)
		}
	}
	if len(c.PretrainedCfg) == 0 {
		// Old versions of timm have its keys at the top level.
		if c.Architecture != nil && strings.Contains(string(data), `"input_size"`) {
			c.PretrainedCfg = data
		} else {
			return s, nil
		}
	}
	var t timmConfig
	if err := json.Unmarshal(c.PretrainedCfg, &t); err != nil {
		return s, fmt.Errorf("pretrained_cfg: invalid JSON: %w", err)
	}
	for _, names := range []json.RawMessage{c.LabelNames, t.LabelNames} {
		if len(s.Classes) == 0 && len(names) > 0 && string(names) != "null" {
			if s.Classes, err = parseJSONLabels(names); err != nil {
				return s, fmt.Errorf("label_names: %w", err)
			}
		}
	}
	return s, t.settings(&s)
}

// settings adds the preprocessing to s.
func (t *timmConfig) settings(s *Settings) error {
	if len(t.InputSize) != 3 || t.InputSize[0] != 1 && t.InputSize[0] != 3 {
		return fmt.Errorf("input_size: %v, expected [3,height,width] or [1,height,width]", t.InputSize)
	}
	s.Height, s.Width = t.InputSize[1], t.InputSize[2]
	s.Color = imaging.RGB
	if t.InputSize[0] == 1 {
		s.Color = imaging.Gray
	}
	s.Orientation = imaging.IgnoreOrientation
	s.Antialias, s.Scale = ptr(true), ptr(1.0/255)
	s.Mean, s.Std = orNone(t.Mean), orNone(t.Std)
	if t.CropBorder != 0 {
		return errors.New("crop_border_pixels isn't supported" + byHand)
	}
	filters := map[string]imaging.Filter{
		"": imaging.Bicubic, "bicubic": imaging.Bicubic, "bilinear": imaging.Bilinear, "lanczos": imaging.Lanczos, "nearest": imaging.Nearest,
	}
	var ok bool
	if s.Filter, ok = filters[t.Interpolation]; !ok {
		return fmt.Errorf("interpolation: %q isn't supported"+byHand, t.Interpolation)
	}
	pct := orDefault(t.CropPct, 0.875)
	s.Frame = &Frame{Fit: imaging.ShortestEdge, CropPct: pct, Crop: imaging.HalfEven}
	switch t.CropMode {
	case "", "center":
	case "squash":
		s.Frame.Fit = imaging.Stretch
	case "border":
		if pct != 1 {
			return fmt.Errorf("crop_mode border with crop_pct %g isn't supported, only with 1"+byHand, pct)
		}
		s.Frame = &Frame{Fit: imaging.Contain}
		s.Padding = &[3]uint8{}
		for i := range s.Padding {
			if len(s.Mean) > 0 {
				s.Padding[i] = uint8(math.RoundToEven(255 * min(max(s.Mean[i%len(s.Mean)], 0), 1)))
			}
		}
	default:
		return fmt.Errorf("crop_mode: %q isn't supported"+byHand, t.CropMode)
	}
	return nil
}

func orNone(values []float64) []float64 {
	if values == nil {
		return none
	}
	return values
}

// preprocessor is preprocessor_config.json of transformers. Pointers are nil for absent keys.
type preprocessor struct {
	ImageProcessorType   string          `json:"image_processor_type"`
	FeatureExtractorType string          `json:"feature_extractor_type"`
	DoResize             *bool           `json:"do_resize"`
	Size                 *size           `json:"size"`
	Resample             *int            `json:"resample"`
	DoCenterCrop         *bool           `json:"do_center_crop"`
	CropSize             *size           `json:"crop_size"`
	CropPct              *float64        `json:"crop_pct"`
	DoRescale            *bool           `json:"do_rescale"`
	RescaleFactor        *float64        `json:"rescale_factor"`
	RescaleOffset        *bool           `json:"rescale_offset"`
	DoNormalize          *bool           `json:"do_normalize"`
	ImageMean            []float64       `json:"image_mean"`
	ImageStd             []float64       `json:"image_std"`
	IncludeTop           *bool           `json:"include_top"`
	DoFlipChannelOrder   *bool           `json:"do_flip_channel_order"`
	DoPad                *bool           `json:"do_pad"`
	PretrainedCfg        json.RawMessage `json:"pretrained_cfg"`
}

// processor has the defaults of a class of transformers' image processors.
type processor struct {
	square    bool // a size that is a number is the size of a square, not of the shorter side
	size      size
	crop      bool
	cropSize  int
	resample  int
	normalize bool
	mean, std []float64
	cropPct   float64
	flip      bool // BGR
}

// Pillow's numbers of filters, which "resample" has.
const (
	pillowBilinear = 2
	pillowBicubic  = 3
)

// processors are the defaults of transformers 5, by class without "ImageProcessor" or "FeatureExtractor".
var processors = map[string]processor{
	"Beit":     {square: true, size: size{height: 224, width: 224}, cropSize: 224, resample: pillowBicubic, normalize: true, mean: half, std: half},
	"Bit":      {size: size{edge: 224}, crop: true, cropSize: 224, resample: pillowBicubic, normalize: true, mean: clipMean, std: clipStd},
	"CLIP":     {size: size{edge: 224}, crop: true, cropSize: 224, resample: pillowBicubic, normalize: true, mean: clipMean, std: clipStd},
	"ConvNext": {size: size{edge: 384}, resample: pillowBicubic, normalize: true, mean: half, std: half, cropPct: 0.875},
	"DeiT":     {square: true, size: size{height: 256, width: 256}, crop: true, cropSize: 224, resample: pillowBicubic, normalize: true, mean: half, std: half},
	"EfficientNet": {
		square: true, size: size{height: 346, width: 346}, cropSize: 289, resample: pillowBicubic, normalize: true, mean: half, std: half,
	},
	"Levit":       {size: size{edge: 224}, crop: true, cropSize: 224, resample: pillowBicubic, normalize: true, mean: imageNetMean, std: imageNetStd},
	"MobileNetV1": {size: size{edge: 256}, crop: true, cropSize: 224, resample: pillowBilinear, normalize: true, mean: half, std: half},
	"MobileNetV2": {size: size{edge: 256}, crop: true, cropSize: 224, resample: pillowBilinear, normalize: true, mean: half, std: half},
	"MobileViT":   {size: size{edge: 224}, crop: true, cropSize: 256, resample: pillowBicubic, mean: half, std: half, flip: true},
	"PoolFormer":  {size: size{edge: 224}, crop: true, cropSize: 224, resample: pillowBicubic, normalize: true, mean: imageNetMean, std: imageNetStd, cropPct: 0.9},
	"Pvt":         {square: true, size: size{height: 224, width: 224}, resample: pillowBicubic, normalize: true, mean: imageNetMean, std: imageNetStd},
	"Segformer":   {square: true, size: size{height: 512, width: 512}, resample: pillowBilinear, normalize: true, mean: imageNetMean, std: imageNetStd},
	"Siglip":      {size: size{height: 224, width: 224}, resample: pillowBicubic, normalize: true, mean: half, std: half},
	"ViT":         {square: true, size: size{height: 224, width: 224}, resample: pillowBilinear, normalize: true, mean: half, std: half},
}

// parsePreprocessor parses preprocessor_config.json.
func parsePreprocessor(data []byte) (s Settings, err error) {
	var c preprocessor
	if err := json.Unmarshal(data, &c); err != nil {
		return s, fmt.Errorf("invalid JSON: %w", err)
	}
	if len(c.PretrainedCfg) > 0 { // TimmWrapperImageProcessor
		var t timmConfig
		if err := json.Unmarshal(c.PretrainedCfg, &t); err != nil {
			return s, fmt.Errorf("pretrained_cfg: invalid JSON: %w", err)
		}
		return s, t.settings(&s)
	}
	class := orDefault(c.ImageProcessorType, c.FeatureExtractorType)
	name := class
	for _, suffix := range []string{"Pil", "Fast", "ImageProcessor", "FeatureExtractor"} {
		name = strings.TrimSuffix(name, suffix)
	}
	if class == "" { // only very old files
		name = "ViT"
	}
	d, ok := processors[name]
	if !ok {
		return s, fmt.Errorf("image_processor_type: %q isn't supported"+byHand, class)
	}
	set := func(v *bool, otherwise bool) bool {
		if v == nil {
			return otherwise
		}
		return *v
	}
	if set(c.DoPad, false) {
		return s, errors.New("do_pad isn't supported" + byHand)
	}
	s.Color, s.Orientation = imaging.RGB, imaging.ApplyOrientation
	if set(c.DoFlipChannelOrder, d.flip) {
		s.Color = imaging.BGR
	}
	resample := d.resample
	if c.Resample != nil {
		resample = *c.Resample
	}
	filters := map[int]imaging.Filter{0: imaging.Nearest, 1: imaging.Lanczos, pillowBilinear: imaging.Bilinear, pillowBicubic: imaging.Bicubic}
	if s.Filter, ok = filters[resample]; !ok {
		return s, fmt.Errorf("resample: %d isn't supported, only 0 (nearest), 1 (lanczos), 2 (bilinear) and 3 (bicubic)"+byHand, resample)
	}
	s.Antialias = ptr(true)
	c.normalization(&s, &d, name)
	if !set(c.DoResize, true) {
		return s, errors.New("do_resize is false, so that every image needs the size of the model's input" + byHand)
	}
	return s, c.frame(&s, &d, name, set(c.DoCenterCrop, d.crop))
}

// frame adds the resizing and the crop to s.
func (c *preprocessor) frame(s *Settings, d *processor, name string, crop bool) error {
	sz := d.size
	if c.Size != nil {
		sz = *c.Size
	}
	if sz.number && d.square {
		sz = size{height: sz.edge, width: sz.edge}
	}
	if sz.other || sz.edge == 0 && (sz.height == 0 || sz.width == 0) {
		return errors.New("size: expected height and width, or shortest_edge" + byHand)
	}
	pct := d.cropPct
	if c.CropPct != nil {
		pct = *c.CropPct
	}
	if pct < 0 || pct > 1 {
		return fmt.Errorf("crop_pct: %g isn't above 0 and at most 1", pct)
	}
	switch {
	case name == "ConvNext" && sz.edge == 0:
		return errors.New("size: ConvNextImageProcessor needs shortest_edge")
	case name == "ConvNext" && sz.edge >= 384: // the size from which the class stretches
		s.Width, s.Height, s.Frame = sz.edge, sz.edge, &Frame{Fit: imaging.Stretch}
		return nil
	case name == "ConvNext":
		s.Width, s.Height = sz.edge, sz.edge
		s.Frame = &Frame{Fit: imaging.ShortestEdge, Resize: int(float64(sz.edge) / orDefault(pct, 0.875)), Crop: imaging.Down}
		return nil
	case name == "PoolFormer" && pct != 0 && sz.edge == 0:
		sz = size{edge: int(float64(min(sz.height, sz.width)) / pct)}
	case name == "PoolFormer" && pct != 0:
		sz.edge = int(float64(sz.edge) / pct)
	case name == "Levit" && sz.edge != 0:
		sz.edge = int(256.0 / 224 * float64(sz.edge))
	}
	if !crop {
		if sz.edge != 0 {
			return errors.New("size: shortest_edge without do_center_crop gives images of different sizes" + byHand)
		}
		s.Width, s.Height, s.Frame = sz.width, sz.height, &Frame{Fit: imaging.Stretch}
		return nil
	}
	s.Width, s.Height = d.cropSize, d.cropSize
	if c.CropSize != nil {
		cs := *c.CropSize
		if cs.edge != 0 {
			cs.height, cs.width = cs.edge, cs.edge
		}
		if cs.height == 0 || cs.width == 0 {
			return errors.New("crop_size: expected height and width")
		}
		s.Width, s.Height = cs.width, cs.height
	}
	s.Frame = &Frame{Fit: imaging.ShortestEdge, Resize: sz.edge, Crop: imaging.Down}
	if sz.edge == 0 {
		s.Frame = &Frame{Fit: imaging.Stretch, Resize: sz.width, ResizeHeight: sz.height, Crop: imaging.Down}
	}
	return nil
}

// normalization adds scale, mean and standard deviation to s.
func (c *preprocessor) normalization(s *Settings, d *processor, name string) {
	is := func(v *bool, otherwise bool) bool { return v == nil && otherwise || v != nil && *v }
	scale := 1.0
	if is(c.DoRescale, true) {
		scale = 1.0 / 255
		if c.RescaleFactor != nil && math.Abs(*c.RescaleFactor-scale) > 1e-9 {
			scale = *c.RescaleFactor
		}
	}
	s.Scale, s.Mean, s.Std = &scale, none, none
	mean, std := d.mean, d.std
	if c.ImageMean != nil {
		mean = c.ImageMean
	}
	if c.ImageStd != nil {
		std = c.ImageStd
	}
	if is(c.DoNormalize, d.normalize) {
		s.Mean, s.Std = mean, std
	}
	if name != "EfficientNet" {
		return
	}
	// (v·scale − 1 − mean)/std, and then /std again.
	if is(c.DoRescale, true) && is(c.RescaleOffset, false) {
		s.Mean = add(s.Mean, 1, len(std))
	}
	if is(c.IncludeTop, true) {
		squared := make([]float64, len(std))
		for i, v := range std {
			squared[i] = v
			if len(s.Std) > 0 {
				squared[i] *= v
			}
		}
		s.Std = squared
	}
}

// add returns values plus v, or n times v if values is empty.
func add(values []float64, v float64, n int) []float64 {
	sum := make([]float64, n)
	for i := range sum {
		sum[i] = v
		if len(values) > 0 {
			sum[i] += values[i%len(values)]
		}
	}
	return sum
}

// parseNumber parses a number or a fraction, as in 1/255.
func parseNumber(text string) (float64, error) {
	over, under, fraction := strings.Cut(text, "/")
	v, err := strconv.ParseFloat(strings.TrimSpace(over), 64)
	if err == nil && fraction {
		var d float64
		d, err = strconv.ParseFloat(strings.TrimSpace(under), 64)
		v /= d
	}
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("%q isn't a number or a fraction, such as 0.5 or 1/255", text)
	}
	return v, nil
}
