package augment

import (
	"math"
	"math/rand/v2"
)

// ops are the operations of RandAugment (Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search
// Space", 2019), with the ranges of torchvision: magnitude 1 is its strongest one.
var ops = []func(a *Augmenter, p []uint8, magnitude float64, rng *rand.Rand){
	func(*Augmenter, []uint8, float64, *rand.Rand) {}, // identity
	func(a *Augmenter, p []uint8, m float64, rng *rand.Rand) { a.affine(p, 1, sign(rng)*0.3*m, 0, 1, 0, 0) },
	func(a *Augmenter, p []uint8, m float64, rng *rand.Rand) { a.affine(p, 1, 0, sign(rng)*0.3*m, 1, 0, 0) },
	func(a *Augmenter, p []uint8, m float64, rng *rand.Rand) {
		a.affine(p, 1, 0, 0, 1, sign(rng)*0.45*m*float64(a.side), 0)
	},
	func(a *Augmenter, p []uint8, m float64, rng *rand.Rand) {
		a.affine(p, 1, 0, 0, 1, 0, sign(rng)*0.45*m*float64(a.side))
	},
	func(a *Augmenter, p []uint8, m float64, rng *rand.Rand) {
		sin, cos := math.Sincos(sign(rng) * m * math.Pi / 6)
		a.affine(p, cos, -sin, sin, cos, 0, 0)
	},
	func(_ *Augmenter, p []uint8, m float64, rng *rand.Rand) {
		blend(p, 1+sign(rng)*0.9*m, func([]uint8) float64 { return 0 })
	},
	func(_ *Augmenter, p []uint8, m float64, rng *rand.Rand) { blend(p, 1+sign(rng)*0.9*m, luma) },
	func(a *Augmenter, p []uint8, m float64, rng *rand.Rand) { a.contrast(p, 1+sign(rng)*0.9*m) },
	func(a *Augmenter, p []uint8, m float64, rng *rand.Rand) { a.sharpness(p, 1+sign(rng)*0.9*m) },
	func(_ *Augmenter, p []uint8, m float64, _ *rand.Rand) { posterize(p, 8-int(math.Round(4*m))) },
	func(_ *Augmenter, p []uint8, m float64, _ *rand.Rand) { solarize(p, 255*(1-m)) },
	func(_ *Augmenter, p []uint8, _ float64, _ *rand.Rand) { autocontrast(p) },
	func(_ *Augmenter, p []uint8, _ float64, _ *rand.Rand) { equalize(p) },
}

// sign returns 1 or -1.
func sign(rng *rand.Rand) float64 { return float64(2*int(rng.Uint32()&1) - 1) }

// affine replaces the pixel at (x, y) by the one at (xx·x + xy·y + dx, yx·x + yy·y + dy), relative to the center: the nearest one, or
// gray outside of the image.
func (a *Augmenter) affine(p []uint8, xx, xy, yx, yy, dx, dy float64) {
	copy(a.scratch, p)
	n, center := a.side, float64(a.side-1)/2
	for y := range n {
		v := float64(y) - center
		for x := range n {
			u := float64(x) - center
			fromX := int(math.Floor(xx*u + xy*v + dx + center + 0.5))
			fromY := int(math.Floor(yx*u + yy*v + dy + center + 0.5))
			q := p[(y*n+x)*colors:]
			if fromX < 0 || fromY < 0 || fromX >= n || fromY >= n {
				q[0], q[1], q[2] = gray, gray, gray
				continue
			}
			copy(q[:colors], a.scratch[(fromY*n+fromX)*colors:])
		}
	}
}

// sharpness moves each pixel away from a blurred image (factor above 1) or toward it. The border stays as it is.
func (a *Augmenter) sharpness(p []uint8, factor float64) {
	copy(a.scratch, p)
	n := a.side
	at := func(x, y, c int) float64 { return float64(a.scratch[(y*n+x)*colors+c]) }
	for y := 1; y < n-1; y++ {
		for x := 1; x < n-1; x++ {
			for c := range colors {
				sum := 4 * at(x, y, c) // the kernel has 5 in the middle and 1 around it
				for j := -1; j <= 1; j++ {
					for i := -1; i <= 1; i++ {
						sum += at(x+i, y+j, c)
					}
				}
				blurred := sum / 13
				p[(y*n+x)*colors+c] = level(blurred + factor*(at(x, y, c)-blurred))
			}
		}
	}
}

// posterize keeps the given number of high bits of each level.
func posterize(p []uint8, bits int) {
	mask := uint8(0xff << (8 - bits))
	for i, v := range p {
		p[i] = v & mask
	}
}

// solarize inverts levels of at least threshold.
func solarize(p []uint8, threshold float64) {
	for i, v := range p {
		if float64(v) >= threshold {
			p[i] = 255 - v
		}
	}
}

// autocontrast stretches the levels of each channel to the whole range.
func autocontrast(p []uint8) {
	for c := range colors {
		low, high := uint8(255), uint8(0)
		for i := c; i < len(p); i += colors {
			low, high = min(low, p[i]), max(high, p[i])
		}
		if low >= high {
			continue
		}
		scale := 255 / float64(high-low)
		for i := c; i < len(p); i += colors {
			p[i] = level(float64(p[i]-low) * scale)
		}
	}
}

// equalize makes the levels of each channel about equally frequent, as Pillow's ImageOps.equalize does.
func equalize(p []uint8) {
	for c := range colors {
		var histogram [256]int
		last := 0
		for i := c; i < len(p); i += colors {
			histogram[p[i]]++
			last = max(last, int(p[i]))
		}
		step := (len(p)/colors - histogram[last]) / 255
		if step == 0 {
			continue
		}
		var table [256]uint8
		n := step / 2
		for v, count := range histogram {
			table[v] = uint8(min(n/step, 255))
			n += count
		}
		for i := c; i < len(p); i += colors {
			p[i] = table[p[i]]
		}
	}
}
