package imaging

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// Color is the order of the color channels of a model's input.
type Color string

// Values of Color. Gray is one channel, luma of ITU-R BT.601, computed before the image is resized.
const (
	RGB  Color = "rgb"
	BGR  Color = "bgr"
	Gray Color = "gray"
)

// Fit is how an image of any shape is made to fit the model's input.
type Fit string

// Values of Fit.
const (
	// Stretch resizes width and height independently and changes the aspect ratio. With Preprocessing.Resize, the
	// center is cropped afterwards.
	Stretch Fit = "stretch"
	// ShortestEdge resizes the shorter side to Preprocessing.Resize and crops the center.
	ShortestEdge Fit = "shortest-edge"
	// Contain resizes the image to fit inside the input and fills the rest with Preprocessing.Padding.
	Contain Fit = "contain"
)

// Filter is the resampling filter, with the names of Pillow.
type Filter string

// Values of Filter.
const (
	Nearest  Filter = "nearest"
	Bilinear Filter = "bilinear"
	Bicubic  Filter = "bicubic"
	Lanczos  Filter = "lanczos"
)

// Passes is the order in which width and height are resized. The filters with antialiasing round to 8 bits in between, so that
// the order matters: a level or two for bilinear, more at sharp edges for others.
type Passes string

// Values of Passes.
const (
	// HorizontalFirst resizes the width first, as Pillow up to version 12.1 does. Empty means the same.
	HorizontalFirst Passes = "horizontal-first"
	// Pillow13Passes resizes the height first if it's reduced by more than twice as many pixels as the width, as Pillow 13 does.
	Pillow13Passes Passes = "pillow-13"
)

// Rounding is how the offset of a center crop is rounded if the margin is odd.
type Rounding string

// Values of Rounding.
const (
	// HalfEven rounds half pixels to even, as torchvision and timm do.
	HalfEven Rounding = "half-even"
	// Down rounds down, as transformers does.
	Down Rounding = "down"
)

// Orientation is what happens to the EXIF orientation of an image.
type Orientation string

// Values of Orientation.
const (
	IgnoreOrientation Orientation = "ignore"
	ApplyOrientation  Orientation = "apply"
)

// JPEGScale is the size at which JPEG images are decoded.
type JPEGScale string

// Values of JPEGScale.
const (
	// FullJPEG decodes all pixels.
	FullJPEG JPEGScale = "full"
	// DCTScaledJPEG decodes at 1/2, 1/4 or 1/8 of the size if that still covers the size to which the image is
	// resized, like Pillow's draft mode.
	DCTScaledJPEG JPEGScale = "dct"
)

// Layout is the order of the dimensions of a tensor.
type Layout string

// Values of Layout.
const (
	NCHW Layout = "nchw"
	NHWC Layout = "nhwc"
)

// Type is the element type of a tensor.
type Type string

// Values of Type.
const (
	Float32 Type = "float32"
	Uint8   Type = "uint8"
)

// Preprocessing describes how an image file becomes the input of a model. Model files contain it as JSON. The steps are,
// in this order: decode (JPEG), turn (Orientation), convert to Color, resize and crop (Fit), scale and normalize, and
// arrange in memory (Layout).
//
// Call [Preprocessing.Compile] to use it. [Default] returns that of the CIFAKE network.
type Preprocessing struct {
	// Width and Height are the size in pixels of the model's input, 1 to 4096.
	Width  int `json:"width"`
	Height int `json:"height"`
	// Color is the order of the channels.
	Color Color `json:"color"`
	// Type and Layout are the element type and the order of the dimensions of the input tensor.
	Type   Type   `json:"type"`
	Layout Layout `json:"layout"`

	Orientation Orientation `json:"orientation"`
	JPEG        JPEGScale   `json:"jpeg"`
	Fit         Fit         `json:"fit"`
	// Resize is the length in pixels of the shorter side before the center crop, at most 8192. It's set for ShortestEdge,
	// and for Stretch if there is a crop: the size is then Resize × ResizeHeight. If Width and Height differ, ResizeHeight
	// can differ too: with ShortestEdge, the image is then resized to the smallest size that covers Resize × ResizeHeight.
	// ResizeHeight 0 means the same as Resize.
	Resize       int `json:"resize,omitempty"`
	ResizeHeight int `json:"resize_height,omitempty"`
	// Crop is how the offset of the center crop is rounded. It's only set with Resize.
	Crop Rounding `json:"crop,omitempty"`
	// Padding is the color around the image: red, green and blue, 0 to 255. It's only used by Contain, and by ShortestEdge
	// if the crop is larger than the resized image.
	Padding [3]uint8 `json:"padding"`
	// Filter is the resampling filter.
	Filter Filter `json:"filter"`
	// Antialias widens the filter when an image is reduced, as Pillow does, unlike OpenCV.
	Antialias bool `json:"antialias"`
	// Passes is the order in which width and height are resized. Empty means HorizontalFirst.
	Passes Passes `json:"passes,omitempty"`

	// Scale, Mean and Std normalize each level v, 0 to 255, of a channel: (v·Scale − Mean)/Std. Mean and Std have one
	// value per channel in the order of Color; empty means 0 and 1. Only for Float32.
	Scale float64   `json:"scale"`
	Mean  []float64 `json:"mean,omitempty"`
	Std   []float64 `json:"std,omitempty"`
}

// decoderVersion increases whenever the decoded pixels of an image file change.
const decoderVersion = 3

// Default returns the preprocessing of the CIFAKE network: stretched to 32×32 with Pillow's bilinear filter, RGB planes in [0,1].
func Default() Preprocessing { return Square(32) }

// Square returns the preprocessing of networks that the trainer trains, for images of size×size pixels: stretched
// with Pillow's bilinear filter, RGB planes in [0,1].
func Square(size int) Preprocessing {
	return Preprocessing{
		Width: size, Height: size, Color: RGB, Type: Float32, Layout: NCHW,
		Orientation: IgnoreOrientation, JPEG: FullJPEG, Fit: Stretch, Filter: Bilinear, Antialias: true, Scale: 1.0 / 255,
	}
}

// Channels returns the number of color channels: 3, or 1 for Gray.
func (p *Preprocessing) Channels() int {
	if p.Color == Gray {
		return 1
	}
	return 3
}

// ID identifies the steps up to the pixels, before they are normalized and arranged in memory, with the version of the
// decoders. Datasets with the same ID have the same pixels. The ID of [Default] is "rgb-32x32-bilinear-aa-v3".
func (p *Preprocessing) ID() string {
	color := p.Color
	if color == BGR {
		color = RGB // the pixels have the same order
	}
	parts := []string{string(color), fmt.Sprintf("%dx%d", p.Width, p.Height)}
	switch {
	case p.Resize != 0:
		name := "shortest"
		if p.Fit == Stretch {
			name = "stretch"
		}
		parts = append(parts, fmt.Sprintf("%s%d", name, p.Resize))
		if p.ResizeHeight != 0 && p.ResizeHeight != p.Resize {
			parts[2] += fmt.Sprintf("x%d", p.ResizeHeight)
		}
		if p.Crop == Down {
			parts = append(parts, "down")
		}
	case p.Fit == Contain:
		parts = append(parts, "contain")
	}
	if p.Padding != [3]uint8{} {
		parts = append(parts, fmt.Sprintf("pad%02x%02x%02x", p.Padding[0], p.Padding[1], p.Padding[2]))
	}
	parts = append(parts, string(p.Filter))
	if p.Antialias {
		parts = append(parts, "aa")
	}
	if p.Passes == Pillow13Passes && p.Antialias {
		parts = append(parts, "pillow13")
	}
	if p.Orientation == ApplyOrientation {
		parts = append(parts, "exif")
	}
	if p.JPEG == DCTScaledJPEG {
		parts = append(parts, "dct")
	}
	return strings.Join(append(parts, fmt.Sprintf("v%d", decoderVersion)), "-")
}

// The largest sizes that Check accepts, in pixels per side.
const (
	maxInputSide  = 4096
	maxResizeSide = 8192
)

// Check returns an error for the first value that is invalid.
func (p *Preprocessing) Check() error {
	one := func(key, value string, valid ...string) error {
		for _, v := range valid {
			if v == value {
				return nil
			}
		}
		return fmt.Errorf("%s: %q, want %s", key, value, strings.Join(valid, " or "))
	}
	err := errors.Join(
		one("color", string(p.Color), string(RGB), string(BGR), string(Gray)),
		one("type", string(p.Type), string(Float32), string(Uint8)),
		one("layout", string(p.Layout), string(NCHW), string(NHWC)),
		one("orientation", string(p.Orientation), string(IgnoreOrientation), string(ApplyOrientation)),
		one("jpeg", string(p.JPEG), string(FullJPEG), string(DCTScaledJPEG)),
		one("fit", string(p.Fit), string(Stretch), string(ShortestEdge), string(Contain)),
		one("filter", string(p.Filter), string(Nearest), string(Bilinear), string(Bicubic), string(Lanczos)),
	)
	if err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return errors.New(first)
	}
	if p.Width < 1 || p.Height < 1 || p.Width > maxInputSide || p.Height > maxInputSide {
		return fmt.Errorf("size: %d×%d pixels, want 1 to %d per side", p.Width, p.Height, maxInputSide)
	}
	if p.Passes != "" {
		if err := one("passes", string(p.Passes), string(HorizontalFirst), string(Pillow13Passes)); err != nil {
			return err
		}
	}
	switch {
	case (p.Fit == ShortestEdge || p.Fit == Stretch && p.Resize != 0) && (p.Resize < 1 || p.Resize > maxResizeSide || p.ResizeHeight < 0 || p.ResizeHeight > maxResizeSide):
		return fmt.Errorf("resize: %d pixels, want 1 to %d", p.Resize, maxResizeSide)
	case p.Fit == ShortestEdge || p.Fit == Stretch && p.Resize != 0:
		if err := one("crop", string(p.Crop), string(HalfEven), string(Down)); err != nil {
			return err
		}
	case p.Resize != 0 || p.ResizeHeight != 0 || p.Crop != "":
		return fmt.Errorf("resize and crop: only valid with the fits %s and %s", ShortestEdge, Stretch)
	}
	for _, v := range []struct {
		key    string
		values []float64
	}{{"mean", p.Mean}, {"std", p.Std}} {
		if len(v.values) != 0 && len(v.values) != p.Channels() {
			return fmt.Errorf("%s: %d values, expected one per channel (%d)", v.key, len(v.values), p.Channels())
		}
		for _, x := range v.values {
			if math.IsNaN(x) || math.IsInf(x, 0) || v.key == "std" && x <= 0 {
				return fmt.Errorf("%s: invalid value %g", v.key, x)
			}
		}
	}
	if p.Type == Uint8 && (p.Scale != 1 || len(p.Mean) != 0 || len(p.Std) != 0) {
		return errors.New("scale, mean and std: a uint8 input can't be normalized; use scale 1")
	}
	if !(p.Scale > 0) || math.IsInf(p.Scale, 0) {
		return fmt.Errorf("scale: %g, expected a number above 0", p.Scale)
	}
	return nil
}
