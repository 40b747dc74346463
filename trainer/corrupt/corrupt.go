// Package corrupt changes pictures as cameras, editors and the way through the web do,
// at five severities: what a model has to bear, and what drift is tried on. The
// constants of noise, blur, JPEG, brightness, contrast and pixelate are those of
// CIFAR-10-C (Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to
// Common Corruptions and Perturbations", 2019), which are made for 32×32 pictures.
package corrupt

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"math"
	"math/rand/v2"

	"golang.org/x/image/draw"

	"fakeart/internal/imaging"
)

// Severities is the number of severities, which count from 1.
const Severities = 5

// A Corruption changes a picture's 32×32×3 levels in place, with an amount whose meaning
// is its own. What it draws at random it draws from rng.
type Corruption struct {
	Name    string
	Amounts [Severities]float64
	Apply   func(pixels []uint8, amount float64, rng *rand.Rand) error
}

// Corruptions are all there are.
var Corruptions = []Corruption{
	{"noise", [...]float64{0.04, 0.06, 0.08, 0.09, 0.10}, Noise},
	{"blur", [...]float64{0.4, 0.6, 0.7, 0.8, 1}, Blur},
	{"jpeg", [...]float64{80, 65, 58, 50, 40}, JPEG},
	{"brightness", [...]float64{0.05, 0.1, 0.15, 0.2, 0.3}, Brightness},
	{"contrast", [...]float64{0.75, 0.5, 0.4, 0.3, 0.15}, Contrast},
	{"pixelate", [...]float64{0.95, 0.9, 0.85, 0.75, 0.65}, Pixelate},
	{"resize", [...]float64{0.9, 0.8, 0.7, 0.6, 0.5}, Resize},
}

const (
	size   = imaging.Size
	colors = imaging.Channels
)

func level(v float64) uint8 { return uint8(math.Round(min(max(v, 0), 255))) }

// Noise adds Gaussian noise with a standard deviation of amount, 1 being white.
func Noise(pixels []uint8, amount float64, rng *rand.Rand) error {
	for i, v := range pixels {
		pixels[i] = level(float64(v) + 255*amount*rng.NormFloat64())
	}
	return nil
}

// Blur is a Gaussian one with a standard deviation of amount pixels; the edge's pixels
// go on beyond it.
func Blur(pixels []uint8, amount float64, _ *rand.Rand) error {
	radius := int(math.Ceil(4 * amount))
	kernel := make([]float64, 2*radius+1)
	sum := 0.0
	for i := range kernel {
		d := float64(i-radius) / amount
		kernel[i] = math.Exp(-d * d / 2)
		sum += kernel[i]
	}
	from := make([]float64, len(pixels))
	for i, v := range pixels {
		from[i] = float64(v)
	}
	to := make([]float64, len(pixels))
	for _, step := range []struct{ along, across int }{{colors, size * colors}, {size * colors, colors}} {
		for line := range size {
			for at := range size {
				for c := range colors {
					v := 0.0
					for k, w := range kernel {
						near := min(max(at+k-radius, 0), size-1)
						v += w * from[near*step.along+line*step.across+c]
					}
					to[at*step.along+line*step.across+c] = v / sum
				}
			}
		}
		from, to = to, from
	}
	for i, v := range from {
		pixels[i] = level(v)
	}
	return nil
}

// JPEG writes the picture as one of a quality of amount, 1 to 100, and reads it again.
func JPEG(pixels []uint8, amount float64, _ *rand.Rand) error {
	var file bytes.Buffer
	if err := jpeg.Encode(&file, asImage(pixels), &jpeg.Options{Quality: int(amount)}); err != nil {
		return fmt.Errorf("write as JPEG: %w", err)
	}
	var d imaging.Decoder
	if _, err := d.Decode(pixels, file.Bytes()); err != nil {
		return fmt.Errorf("read JPEG again: %w", err)
	}
	return nil
}

// Brightness adds amount to the value of the color model HSV, 1 being white.
func Brightness(pixels []uint8, amount float64, _ *rand.Rand) error {
	for i := 0; i < len(pixels); i += colors {
		p := pixels[i:][:colors]
		value := float64(max(p[0], p[1], p[2]))
		brighter := min(value+255*amount, 255)
		for c := range p {
			if value == 0 {
				p[c] = level(brighter) // black has no hue
			} else {
				p[c] = level(float64(p[c]) * brighter / value)
			}
		}
	}
	return nil
}

// Contrast brings each channel nearer to its mean, to amount times the distance.
func Contrast(pixels []uint8, amount float64, _ *rand.Rand) error {
	for c := range colors {
		mean := 0.0
		for i := c; i < len(pixels); i += colors {
			mean += float64(pixels[i]) / (size * size)
		}
		for i := c; i < len(pixels); i += colors {
			pixels[i] = level(mean + amount*(float64(pixels[i])-mean))
		}
	}
	return nil
}

// Pixelate makes squares of one color each, of 1/amount pixels.
func Pixelate(pixels []uint8, amount float64, _ *rand.Rand) error {
	n := int(size * amount)
	small := make([]float64, n*n*colors)
	// How much of pixel i lies in part k of n.
	share := func(i, k int) float64 {
		width := float64(size) / float64(n)
		return max(0, min(float64(i+1), float64(k+1)*width)-max(float64(i), float64(k)*width)) / width
	}
	for y := range n {
		for x := range n {
			for i := y * size / n; i < min((y+1)*size/n+1, size); i++ {
				for j := x * size / n; j < min((x+1)*size/n+1, size); j++ {
					w := share(i, y) * share(j, x)
					for c := range colors {
						small[(y*n+x)*colors+c] += w * float64(pixels[(i*size+j)*colors+c])
					}
				}
			}
		}
	}
	for y := range size {
		for x := range size {
			at := ((2*y+1)*n/(2*size)*n + (2*x+1)*n/(2*size)) * colors
			for c := range colors {
				pixels[(y*size+x)*colors+c] = level(small[at+c])
			}
		}
	}
	return nil
}

// Resize makes the picture amount times as wide and high, and enlarges it again, both
// bilinearly.
func Resize(pixels []uint8, amount float64, _ *rand.Rand) error {
	n := int(math.Round(size * amount))
	whole := asImage(pixels)
	small := image.NewRGBA(image.Rect(0, 0, n, n))
	draw.BiLinear.Scale(small, small.Bounds(), whole, whole.Bounds(), draw.Src, nil)
	draw.BiLinear.Scale(whole, whole.Bounds(), small, small.Bounds(), draw.Src, nil)
	for i := range size * size {
		copy(pixels[i*colors:][:colors], whole.Pix[4*i:])
	}
	return nil
}

func asImage(pixels []uint8) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, size, size))
	for i := range size * size {
		p := pixels[i*colors:]
		img.SetRGBA(i%size, i/size, color.RGBA{R: p[0], G: p[1], B: p[2], A: 255})
	}
	return img
}
