package imaging

import (
	"fmt"
	"math"
)

// Plan is a Preprocessing compiled for use. It's immutable and safe for concurrent use.
//
// An image passes through two forms. Its pixels are bytes in rows from the top, each pixel with its channels (RGB
// even if the model expects BGR, or one channel for Gray), already resized and cropped. Its tensor has the type, layout
// and normalization that the model expects.
type Plan struct {
	p Preprocessing
	// table holds the tensor's value of each level, per channel of the pixels.
	table [3][256]float32
	// plane maps a channel of the pixels to that of the tensor.
	plane [3]int
}

// Compile returns the plan for p, or an error if p is invalid.
func (p Preprocessing) Compile() (*Plan, error) {
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("preprocessing: %w", err)
	}
	plan := &Plan{p: p}
	n := p.Channels()
	for c := range n {
		plan.plane[c] = c
		if p.Color == BGR {
			plan.plane[c] = n - 1 - c
		}
		mean, std := 0.0, 1.0
		if len(p.Mean) > 0 {
			mean = p.Mean[plan.plane[c]]
		}
		if len(p.Std) > 0 {
			std = p.Std[plan.plane[c]]
		}
		for level := range plan.table[c] {
			plan.table[c][level] = normalized(level, p.Scale, mean, std)
		}
	}
	return plan, nil
}

// normalized returns (level·scale − mean)/std with the roundings of torchvision: each step in float32, and division by
// 255 instead of multiplication by its inverse.
func normalized(level int, scale, mean, std float64) float32 {
	v := float32(level) * float32(scale)
	if scale == 1.0/255 {
		v = float32(level) / 255
	}
	return float32(v-float32(mean)) / float32(std)
}

// Preprocessing returns what the plan was compiled from.
func (p *Plan) Preprocessing() Preprocessing { return p.p }

// Len returns the number of bytes of an image's pixels, which is also the number of values of its tensor:
// width × height × channels.
func (p *Plan) Len() int { return p.p.Width * p.p.Height * p.p.Channels() }

// Tensor holds values of input tensors. Only the field for the model's type is used; the other one is nil.
type Tensor struct {
	Float32 []float32
	Uint8   []uint8
}

// Range returns the smallest and the largest value that Fill writes to a tensor, over all channels.
func (p *Plan) Range() (lowest, highest float32) {
	if p.p.Type == Uint8 {
		return 0, 255
	}
	lowest, highest = p.table[0][0], p.table[0][255]
	for _, table := range p.table[1:p.p.Channels()] {
		lowest, highest = min(lowest, table[0]), max(highest, table[255])
	}
	return lowest, highest
}

// NewTensor allocates the tensor of a number of images.
func (p *Plan) NewTensor(images int) Tensor {
	if p.p.Type == Uint8 {
		return Tensor{Uint8: make([]uint8, images*p.Len())}
	}
	return Tensor{Float32: make([]float32, images*p.Len())}
}

// Slice returns the values from index i up to j, which share memory with t.
func (t Tensor) Slice(i, j int) Tensor {
	if t.Uint8 != nil {
		return Tensor{Uint8: t.Uint8[i:j]}
	}
	return Tensor{Float32: t.Float32[i:j]}
}

// Len returns the number of values.
func (t Tensor) Len() int { return max(len(t.Float32), len(t.Uint8)) }

// Copy copies the values of src, which must have the same type, to the beginning of t.
func (t Tensor) Copy(src Tensor) {
	copy(t.Float32, src.Float32)
	copy(t.Uint8, src.Uint8)
}

// Fill converts the pixels of an image to its tensor. It panics if dst or pixels have fewer than Len elements.
func (p *Plan) Fill(dst Tensor, pixels []uint8) {
	n, area := p.p.Channels(), p.p.Width*p.p.Height
	pixels = pixels[:n*area]
	if dst.Uint8 != nil {
		out := dst.Uint8[:n*area]
		for i, v := range pixels {
			out[p.at(i, n, area)] = v
		}
		return
	}
	out := dst.Float32[:n*area]
	if p.p.Layout == NCHW && n == 3 {
		r, g, b := out[p.plane[0]*area:][:area], out[p.plane[1]*area:][:area], out[p.plane[2]*area:][:area]
		for i := range area {
			v := pixels[3*i : 3*i+3 : 3*i+3]
			r[i], g[i], b[i] = p.table[0][v[0]], p.table[1][v[1]], p.table[2][v[2]]
		}
		return
	}
	for i, v := range pixels {
		out[p.at(i, n, area)] = p.table[i%n][v]
	}
}

// at returns the index in the tensor of byte i of the pixels.
func (p *Plan) at(i, channels, area int) int {
	c := p.plane[i%channels]
	if p.p.Layout == NHWC {
		return i - i%channels + c
	}
	return c*area + i/channels
}

// Pixels is the inverse of Fill. Values between two levels are rounded to the nearest one, and values outside of the
// range of the levels are clamped. It panics if dst or src have fewer than Len elements.
func (p *Plan) Pixels(dst []uint8, src Tensor) {
	n, area := p.p.Channels(), p.p.Width*p.p.Height
	for i := range dst[:n*area] {
		at := p.at(i, n, area)
		if src.Uint8 != nil {
			dst[i] = src.Uint8[at]
			continue
		}
		table := &p.table[i%n]
		lowest, highest := table[0], table[255]
		dst[i] = uint8(255*min(max((src.Float32[at]-lowest)/(highest-lowest), 0), 1) + 0.5)
	}
}

// Mean returns the mean of each channel of a tensor, rounded to a whole number if its type is Uint8.
func (p *Plan) Mean(t Tensor) [3]float32 {
	n, area := p.p.Channels(), p.p.Width*p.p.Height
	var mean [3]float32
	for c := range n {
		sum := 0.0
		for i := range area {
			at := p.at(i*n+c, n, area)
			if t.Uint8 != nil {
				sum += float64(t.Uint8[at])
			} else {
				sum += float64(t.Float32[at])
			}
		}
		mean[c] = float32(sum / float64(area))
		if t.Uint8 != nil {
			mean[c] = float32(math.RoundToEven(float64(mean[c])))
		}
	}
	return mean
}

// SetPixel sets the channels of a pixel, counted in rows from the top left, to values in the order of Mean.
func (p *Plan) SetPixel(t Tensor, pixel int, values [3]float32) {
	n, area := p.p.Channels(), p.p.Width*p.p.Height
	for c := range n {
		at := p.at(pixel*n+c, n, area)
		if t.Uint8 != nil {
			t.Uint8[at] = uint8(values[c])
		} else {
			t.Float32[at] = values[c]
		}
	}
}
