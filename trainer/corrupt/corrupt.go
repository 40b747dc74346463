// Package corrupt applies common corruptions to images, at five severities: distortions by cameras,
// by image editors and by processing on the web. They are used to evaluate the robustness of a
// model and to test drift checks. [Corruptions] lists them.
//
// The constants of noise, blur, JPEG, brightness, contrast and pixelate are those of CIFAR-10-C
// (Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
// Perturbations", 2019), which are for images of 32×32 pixels.
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

// Severities is the number of severities. They count from 1.
const Severities = 5

// Corruption is a corruption and its severities. Amounts[s-1] is the amount for severity s; its
// meaning depends on the corruption. Apply changes the 32×32×3 levels of an image in place. rng is
// its only source of randomness.
type Corruption struct {
	Name    string
	Amounts [Severities]float64
	Apply   func(pixels []uint8, amount float64, rng *rand.Rand) error
}

// Corruptions lists all corruptions.
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
	size   = 32 // pixels per side of the images of CIFAKE
	colors = imaging.Channels
)

func level(v float64) uint8 { return uint8(math.Round(min(max(v, 0), 255))) }

// Noise adds Gaussian noise with a standard deviation of amount, where 1 is the range from black to
// white.
func Noise(pixels []uint8, amount float64, rng *rand.Rand) error {
	for i, v := range pixels {
		pixels[i] = level(float64(v) + 255*amount*rng.NormFloat64())
	}
	return nil
}

// Blur applies a Gaussian blur with a standard deviation of amount pixels. Pixels at the border are
// repeated beyond it.
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

// JPEG compresses the image with a JPEG quality of amount, 1 to 100, and decodes it.
func JPEG(pixels []uint8, amount float64, _ *rand.Rand) error {
	var file bytes.Buffer
	if err := jpeg.Encode(&file, asImage(pixels), &jpeg.Options{Quality: int(amount)}); err != nil {
		return fmt.Errorf("encode JPEG: %w", err)
	}
	var d imaging.Decoder
	if _, err := d.Decode(pixels, file.Bytes()); err != nil {
		return fmt.Errorf("decode JPEG: %w", err)
	}
	return nil
}

// Brightness adds amount to the value in the HSV color model, where 1 is the range from black to
// white.
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

// Contrast multiplies the distance of each level to the mean of its channel by amount.
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

// Pixelate reduces the image to amount times its width and height by averaging, and enlarges it by
// repetition.
func Pixelate(pixels []uint8, amount float64, _ *rand.Rand) error {
	n := int(size * amount)
	small := make([]float64, n*n*colors)
	// share returns the fraction of part k of n that lies in pixel i.
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

// Resize reduces the image to amount times its width and height, and enlarges it again, both
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
