package foreign

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
)

// Settings are facts about a model that its graph doesn't tell, from one source: the user, a file beside the model, or a preset. Zero values
// mean that the source has no value.
type Settings struct {
	// Classes are the names of the classes in the order of the model's outputs.
	Classes []string
	// OutputKind is what the model's outputs are.
	OutputKind model.OutputKind
	// Width and Height are the size of the input in pixels.
	Width, Height int
	Color         imaging.Color
	Layout        imaging.Layout
	Orientation   imaging.Orientation
	JPEG          imaging.JPEGScale
	Frame         *Frame
	Padding       *[3]uint8
	Filter        imaging.Filter
	Antialias     *bool
	Passes        imaging.Passes
	// Scale, Mean and Std are those of [imaging.Preprocessing]. An empty Mean or Std that isn't nil means no normalization.
	Scale     *float64
	Mean, Std []float64
}

// Frame is how an image is made to fit the input.
type Frame struct {
	Fit imaging.Fit
	// Resize and ResizeHeight are the size before the crop, as in [imaging.Preprocessing]. CropPct is another way to state it: the size of
	// the input divided by this fraction, rounded down.
	Resize, ResizeHeight int
	CropPct              float64
	Crop                 imaging.Rounding
}

// facts collects settings from several sources.
type facts struct {
	Settings
	// origin has the source of each setting.
	origin map[string]string
}

// keys of facts.origin.
const (
	keyClasses = "classes"
	keySize    = "size"
	keyColor   = "color"
	keyFit     = "fit"
	keyFilter  = "filter"
	keyScale   = "normalization"
	keyKind    = "output kind"
	keyTurn    = "orientation"
	keyLayout  = "layout"
)

// add fills in the settings that are still unknown from another source.
func (f *facts) add(s Settings, origin string) {
	if f.origin == nil {
		f.origin = map[string]string{}
	}
	took := func(key string) {
		if f.origin[key] == "" {
			f.origin[key] = origin
		}
	}
	if len(f.Classes) == 0 && len(s.Classes) > 0 {
		f.Classes = s.Classes
		took(keyClasses)
	}
	if f.Width == 0 && s.Width > 0 {
		f.Width, f.Height = s.Width, s.Height
		took(keySize)
	}
	first(&f.OutputKind, s.OutputKind, keyKind, took)
	first(&f.Color, s.Color, keyColor, took)
	first(&f.Layout, s.Layout, keyLayout, took)
	first(&f.Orientation, s.Orientation, keyTurn, took)
	first(&f.JPEG, s.JPEG, "", took)
	first(&f.Padding, s.Padding, "", took)
	first(&f.Filter, s.Filter, keyFilter, took)
	first(&f.Passes, s.Passes, "", took)
	first(&f.Antialias, s.Antialias, "", took)
	first(&f.Scale, s.Scale, keyScale, took)
	switch {
	case s.Frame == nil:
	case f.Frame == nil:
		frame := *s.Frame
		f.Frame = &frame
		took(keyFit)
	case f.Frame.Fit == "" || f.Frame.Fit == s.Frame.Fit: // such as a flag that only sets the size before the crop
		frame := *f.Frame
		frame.Fit = s.Frame.Fit
		if frame.Resize == 0 && frame.CropPct == 0 {
			frame.Resize, frame.ResizeHeight, frame.CropPct = s.Frame.Resize, s.Frame.ResizeHeight, s.Frame.CropPct
		}
		if frame.Crop == "" {
			frame.Crop = s.Frame.Crop
		}
		f.Frame = &frame
	}
	if f.Mean == nil {
		f.Mean = s.Mean
	}
	if f.Std == nil {
		f.Std = s.Std
	}
}

func first[T comparable](dst *T, src T, key string, took func(string)) {
	var unknown T
	if *dst == unknown && src != unknown {
		*dst = src
		if key != "" {
			took(key)
		}
	}
}

// missing describes the settings that a model with this type of input still needs, with the flags that set them.
func (f *facts) missing(t imaging.Type) error {
	var list []string
	if f.Frame == nil || f.Frame.Fit == "" {
		list = append(list, "how an image is fitted into the input (--fit, and --resize or --crop-pct with a crop)")
	}
	if f.Filter == "" {
		list = append(list, "the resampling filter (--filter)")
	}
	if t == imaging.Float32 && f.Scale == nil {
		list = append(list, "how levels are scaled (--scale, --mean, --std)")
	}
	if len(list) == 0 {
		return nil
	}
	if len(f.Classes) == 0 {
		list = append(list, "the names of the classes (--labels or --classes)")
	}
	return fmt.Errorf("unknown: %s\n"+
		"hint: choose a preset for the preprocessing (--preset=%s), set these flags, or put the model's config.json and preprocessor_config.json beside it",
		strings.Join(list, ", nor "), strings.Join(Presets(), "|"))
}

// preprocessing returns the complete preprocessing. Call missing first.
func (f *facts) preprocessing(t imaging.Type) (imaging.Preprocessing, error) {
	p := imaging.Preprocessing{
		Width: f.Width, Height: f.Height, Color: f.Color, Type: t, Layout: f.Layout,
		Orientation: orDefault(f.Orientation, imaging.IgnoreOrientation), JPEG: orDefault(f.JPEG, imaging.FullJPEG),
		Fit: f.Frame.Fit, Filter: f.Filter, Antialias: f.Antialias == nil || *f.Antialias, Scale: 1,
	}
	if p.Filter == imaging.Nearest {
		p.Antialias = false
	}
	if p.Antialias {
		p.Passes = orDefault(f.Passes, imaging.Pillow13Passes)
	}
	if f.Padding != nil {
		p.Padding = *f.Padding
	}
	if t == imaging.Float32 {
		p.Scale, p.Mean, p.Std = *f.Scale, f.Mean, f.Std
		if len(p.Mean) == 0 {
			p.Mean = nil
		}
		if len(p.Std) == 0 {
			p.Std = nil
		}
		if p.Color == imaging.Gray {
			p.Mean, p.Std = single(p.Mean), single(p.Std)
		} else {
			p.Mean, p.Std = forAll(p.Mean), forAll(p.Std)
		}
	}
	if err := f.frame(&p); err != nil {
		return p, err
	}
	return p, p.Check()
}

// frame sets the size before the crop.
func (f *facts) frame(p *imaging.Preprocessing) error {
	w, h := f.Frame.Resize, f.Frame.ResizeHeight
	if pct := f.Frame.CropPct; w == 0 && pct != 0 {
		if !(pct > 0 && pct <= 1) {
			return fmt.Errorf("crop-pct: %g isn't above 0 and at most 1", pct)
		}
		w, h = int(math.Floor(float64(p.Width)/pct)), int(math.Floor(float64(p.Height)/pct))
	}
	if h == 0 {
		h = w
	}
	switch p.Fit {
	case imaging.ShortestEdge:
		if w == 0 {
			return fmt.Errorf("unknown size to which an image is resized before the crop to %d×%d\n"+
				"hint: set --resize=PIXELS for its shorter side, or --crop-pct=FRACTION", p.Width, p.Height)
		}
	case imaging.Stretch:
		if w == 0 || w == p.Width && h == p.Height {
			return nil
		}
	default:
		return nil
	}
	p.Resize = w
	if h != w {
		p.ResizeHeight = h
	}
	p.Crop = orDefault(f.Frame.Crop, imaging.HalfEven)
	return nil
}

// single returns the values for one channel if all channels have the same value, and unchanged values otherwise.
func single(values []float64) []float64 {
	if len(values) > 1 && !slices.ContainsFunc(values, func(v float64) bool { return v != values[0] }) {
		return values[:1]
	}
	return values
}

// forAll returns a single value for all three channels, and other values unchanged.
func forAll(values []float64) []float64 {
	if len(values) == 1 {
		return slices.Repeat(values, 3)
	}
	return values
}

func orDefault[T comparable](v, otherwise T) T {
	var unset T
	if v == unset {
		return otherwise
	}
	return v
}

func ptr[T any](v T) *T { return &v }

// The means and standard deviations of ImageNet, and those of OpenAI's CLIP.
var (
	imageNetMean = []float64{0.485, 0.456, 0.406}
	imageNetStd  = []float64{0.229, 0.224, 0.225}
	clipMean     = []float64{0.48145466, 0.4578275, 0.40821073}
	clipStd      = []float64{0.26862954, 0.26130258, 0.27577711}
	half         = []float64{0.5, 0.5, 0.5}
	none         = []float64{}
)

// presets are the preprocessing of libraries, as far as it doesn't differ between their models.
var presets = map[string]Settings{
	"torchvision": {
		Color: imaging.RGB, Frame: &Frame{Fit: imaging.ShortestEdge, CropPct: 0.875, Crop: imaging.HalfEven}, Filter: imaging.Bilinear, Antialias: ptr(true),
		Orientation: imaging.IgnoreOrientation, Scale: ptr(1.0 / 255), Mean: imageNetMean, Std: imageNetStd,
	},
	"timm": {
		Color: imaging.RGB, Frame: &Frame{Fit: imaging.ShortestEdge, CropPct: 0.875, Crop: imaging.HalfEven}, Filter: imaging.Bicubic, Antialias: ptr(true),
		Orientation: imaging.IgnoreOrientation, Scale: ptr(1.0 / 255), Mean: imageNetMean, Std: imageNetStd,
	},
	"vit": {
		Color: imaging.RGB, Frame: &Frame{Fit: imaging.Stretch}, Filter: imaging.Bilinear, Antialias: ptr(true),
		Orientation: imaging.ApplyOrientation, Scale: ptr(1.0 / 255), Mean: half, Std: half,
	},
	// The modes of keras.applications.imagenet_utils.preprocess_input, after keras.utils.load_img. "keras" is for models that include the scaling.
	"keras":       keras(1, none, none, imaging.RGB),
	"keras-tf":    keras(1/127.5, []float64{1, 1, 1}, none, imaging.RGB),
	"keras-torch": keras(1.0/255, imageNetMean, imageNetStd, imaging.RGB),
	"keras-caffe": keras(1, []float64{103.939, 116.779, 123.68}, none, imaging.BGR),
	"caffe": {
		Color: imaging.BGR, Frame: &Frame{Fit: imaging.Stretch}, Filter: imaging.Bilinear, Antialias: ptr(false),
		Orientation: imaging.IgnoreOrientation, Scale: ptr(1.0), Mean: []float64{103.939, 116.779, 123.68}, Std: none,
	},
	"paddleclas": {
		Color: imaging.RGB, Frame: &Frame{Fit: imaging.ShortestEdge, CropPct: 0.875, Crop: imaging.Down}, Filter: imaging.Bilinear, Antialias: ptr(false),
		Orientation: imaging.IgnoreOrientation, Scale: ptr(1.0 / 255), Mean: imageNetMean, Std: imageNetStd,
	},
	"paddleocr": {
		Color: imaging.BGR, Frame: &Frame{Fit: imaging.Stretch}, Filter: imaging.Bilinear, Antialias: ptr(false),
		Orientation: imaging.IgnoreOrientation, Scale: ptr(1.0 / 255), Mean: half, Std: half,
	},
	"unit": { // pixels in [0,1], as our own networks have them
		Color: imaging.RGB, Frame: &Frame{Fit: imaging.Stretch}, Filter: imaging.Bilinear, Antialias: ptr(true),
		Orientation: imaging.IgnoreOrientation, Scale: ptr(1.0 / 255), Mean: none, Std: none,
	},
}

func keras(scale float64, mean, std []float64, color imaging.Color) Settings {
	return Settings{
		Color: color, Frame: &Frame{Fit: imaging.Stretch}, Filter: imaging.Nearest, Antialias: ptr(false),
		Orientation: imaging.IgnoreOrientation, Scale: ptr(scale), Mean: mean, Std: std,
	}
}

// Presets returns the names that Preset accepts.
func Presets() []string { return slices.Sorted(maps.Keys(presets)) }

// Preset returns the preprocessing that a library uses for most of its models.
func Preset(name string) (Settings, error) {
	s, ok := presets[name]
	if !ok {
		return Settings{}, fmt.Errorf("unknown preset %q\nhint: use one of %s", name, strings.Join(Presets(), ", "))
	}
	return s, nil
}

// ParseNumbers parses numbers or fractions that are separated by commas. It returns nil for an empty text, and an empty list for "none".
func ParseNumbers(text string) ([]float64, error) {
	switch text {
	case "":
		return nil, nil
	case "none":
		return none, nil
	}
	var values []float64
	for part := range strings.SplitSeq(text, ",") {
		v, err := parseNumber(part)
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return values, nil
}
