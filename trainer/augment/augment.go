// Package augment changes training images at random, so that a network sees other variants of them in each epoch. Create an
// [Augmenter] with [New] and call [Augmenter.Apply] for each image.
//
// Each image has its own random numbers, derived from the seed, the epoch and the index of the image. So the result doesn't
// depend on the number of threads or on where a run was interrupted.
package augment

import (
	"math"
	"math/rand/v2"

	"fakeart/internal/config"
)

// colors is the number of color channels of an image.
const colors = 3

// gray is the level of pixels without content.
const gray = 128

// Augmenter changes images of one size. It owns scratch memory, so it isn't safe for concurrent use.
type Augmenter struct {
	c       config.Augment
	side    int
	scratch []uint8
}

// New returns an Augmenter for images of side×side pixels.
func New(c config.Augment, side int) *Augmenter {
	return &Augmenter{c: c, side: side, scratch: make([]uint8, side*side*colors)}
}

// Enabled reports whether c changes images at all.
func Enabled(c config.Augment) bool {
	c.Padding = ""
	if c.RandomOps == 0 {
		c.Magnitude = 0
	}
	return c != config.Augment{}
}

// random returns the random numbers for an image. The seeds of a PCG must differ in many bits.
func random(seed int64, epoch, image int) *rand.Rand {
	mix := func(x uint64) uint64 { // the finalizer of SplitMix64
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		return x ^ x>>31
	}
	a := mix(uint64(seed) + 0x9e3779b97f4a7c15)
	b := mix(a ^ mix(uint64(epoch)<<40^uint64(image)+0x61756725))
	return rand.New(rand.NewPCG(a, b))
}

// Apply writes a variant of an image to dst: side×side pixels of three bytes, row by row. src isn't changed.
func (a *Augmenter) Apply(dst, src []uint8, seed int64, epoch, image int) {
	rng := random(seed, epoch, image)
	flip := a.c.Flip && rng.Uint32()&1 == 1
	dx, dy := 0, 0
	if margin := int(a.c.Crop*float64(a.side) + 0.5); margin > 0 {
		dx, dy = rng.IntN(2*margin+1)-margin, rng.IntN(2*margin+1)-margin
	}
	a.place(dst, src, flip, dx, dy)
	for range a.c.RandomOps {
		op := ops[rng.IntN(len(ops))]
		op(a, dst, a.c.Magnitude, rng)
	}
	factor := func(x float64) float64 { return 1 + x*(2*rng.Float64()-1) }
	if x := a.c.Brightness; x > 0 {
		blend(dst, factor(x), func([]uint8) float64 { return 0 })
	}
	if x := a.c.Contrast; x > 0 {
		a.contrast(dst, factor(x))
	}
	if x := a.c.Saturation; x > 0 {
		blend(dst, factor(x), luma)
	}
	if x := a.c.Cutout; x > 0 {
		a.cutout(dst, x, rng)
	}
}

// place copies an image, mirrored and moved by dx to the left and dy up.
func (a *Augmenter) place(dst, src []uint8, flip bool, dx, dy int) {
	n := a.side
	if !flip && dx == 0 && dy == 0 {
		copy(dst, src)
		return
	}
	for y := range n {
		fromY, insideY := a.source(y + dy)
		row := dst[y*n*colors : (y+1)*n*colors]
		for x := range n {
			fromX, insideX := a.source(x + dx)
			p := row[x*colors : (x+1)*colors : (x+1)*colors]
			if !insideX || !insideY {
				p[0], p[1], p[2] = 0, 0, 0
				continue
			}
			if flip {
				fromX = n - 1 - fromX
			}
			q := src[(fromY*n+fromX)*colors:]
			p[0], p[1], p[2] = q[0], q[1], q[2]
		}
	}
}

// source returns the row or column from which a row or column i of a moved image comes, or false if it comes from a black margin.
func (a *Augmenter) source(i int) (int, bool) {
	n := a.side
	if i >= 0 && i < n {
		return i, true
	}
	if a.c.Padding != "reflect" || n == 1 {
		return 0, false
	}
	// Without repeating the border, as in NumPy's mode "reflect". The margin is smaller than the image.
	if i < 0 {
		return -i, true
	}
	return 2*(n-1) - i, true
}

// cutout covers a square with gray. Its center is anywhere in the image, so that it may be cut off.
func (a *Augmenter) cutout(p []uint8, share float64, rng *rand.Rand) {
	n := a.side
	size := max(int(share*float64(n)+0.5), 1)
	x, y := rng.IntN(n)-size/2, rng.IntN(n)-size/2
	for row := max(y, 0); row < min(y+size, n); row++ {
		for i := max(x, 0); i < min(x+size, n); i++ {
			q := p[(row*n+i)*colors:]
			q[0], q[1], q[2] = gray, gray, gray
		}
	}
}

func level(v float64) uint8 { return uint8(math.Round(min(max(v, 0), 255))) }

// luma returns the brightness of a pixel as ITU-R BT.601 defines it.
func luma(p []uint8) float64 {
	return 0.299*float64(p[0]) + 0.587*float64(p[1]) + 0.114*float64(p[2])
}

// blend moves each pixel away from a base level (factor above 1) or toward it.
func blend(p []uint8, factor float64, base func(pixel []uint8) float64) {
	for i := 0; i < len(p); i += colors {
		q := p[i : i+colors : i+colors]
		b := base(q)
		for c, v := range q {
			q[c] = level(b + factor*(float64(v)-b))
		}
	}
}

// contrast changes the distance of each pixel to the mean brightness of the image.
func (a *Augmenter) contrast(p []uint8, factor float64) {
	mean := 0.0
	for i := 0; i < len(p); i += colors {
		mean += luma(p[i:])
	}
	mean /= float64(len(p) / colors)
	blend(p, factor, func([]uint8) float64 { return mean })
}
