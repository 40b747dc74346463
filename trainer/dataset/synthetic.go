package dataset

import (
	"context"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"

	"fakeart/internal/config"
)

// syntheticID is the version of the drawing algorithm below. Change it whenever the images of a
// seed change.
const syntheticID = "dead-leaves-v1"

// maxSynthetic limits the images per class, so that a typo is an error instead of exhausting memory
// (1,000,000 of each class take 6 GB).
const maxSynthetic = 1_000_000

// gatherSynthetic draws cfg.TrainPerClass and cfg.TestPerClass images of each class. An image
// depends only on (seed, split, class, index), so a larger dataset of a seed starts with the same
// images.
func gatherSynthetic(ctx context.Context, cfg config.Dataset, c *collection, out io.Writer) (Source, error) {
	perClass := [...]int{cfg.TrainPerClass, cfg.TestPerClass}
	total := 0
	for i, n := range perClass {
		if n < 0 || n > maxSynthetic {
			return Source{}, fmt.Errorf("dataset.%s_per_class is %d, want 0 to %d", splitNames[i], n, maxSynthetic)
		}
		total += n * len(classNames)
	}
	if total == 0 {
		return Source{}, fmt.Errorf("dataset.train_per_class and dataset.test_per_class are both 0\nhint: set at least one of them")
	}

	c.classes = Classes()
	bar := newProgress(out, "synthetic images", int64(total), unitImages)
	defer bar.stop()
	for split, n := range perClass {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		var next atomic.Int64
		var group sync.WaitGroup
		for range runtime.GOMAXPROCS(0) {
			group.Go(func() {
				var d drawing
				pixels := make([]byte, syntheticBytes)
				for ctx.Err() == nil {
					i := int(next.Add(1)) - 1
					if i >= n*len(classNames) {
						return
					}
					class, index := i/n, i%n
					d.draw(pixels, cfg.Seed, split, uint8(class), index)
					key := fmt.Sprintf("%s/%07d", classNames[class], index)
					if err := c.add(split, sample{key: key, class: uint16(class)}, pixels); err != nil {
						cancel(err)
					}
					bar.add(1)
				}
			})
		}
		group.Wait()
		if ctx.Err() != nil {
			return Source{}, context.Cause(ctx)
		}
	}
	return Source{
		Kind: "synthetic", Generator: syntheticID,
		Seed: &cfg.Seed, TrainPerClass: cfg.TrainPerClass, TestPerClass: cfg.TestPerClass,
	}, nil
}

// All code below uses integer arithmetic: compilers may fuse floating-point operations on one
// processor and not on another, and the same seed must give the same bytes everywhere.
//
// A photograph is modeled as dead leaves (Lee, Mumford, Huang, "Occlusion Models for Natural
// Images", 2001): shapes whose sizes follow a power law occlude each other, which gives the edges
// and the 1/f spectrum of photographs. Each has a texture that is 1/f noise itself. Light is
// uneven, the background is out of focus, and the sensor adds noise.

const (
	fine     = 2 * sidePix // the scene is drawn at twice the size for antialiasing
	finePix  = fine * fine
	sidePix  = 32
	planePix = sidePix * sidePix

	syntheticBytes = planePix * 3 // of an image
	one            = 256          // 1.0 in fixed point; levels are in units of 1/16
)

// drawing draws images. It owns the scratch memory, so it is not safe for concurrent use.
type drawing struct {
	rng     source
	scene   [3][finePix]int32  // 1/16 levels
	texture [finePix]int32     // 1/f noise, about ±one
	scratch [finePix]int32     //
	photo   [3][planePix]int32 // the scene at its final size
	decoded [3][planePix]int32 // the photo as reconstructed by the decoder of a generator
}

// draw writes image number index of a class and split to dst. FAKE images show other scenes than
// REAL ones, and are passed through the decoder of a generator.
func (d *drawing) draw(dst []byte, seed int64, split int, class uint8, index int) {
	d.rng = newSource(uint64(seed), uint64(split)<<56|uint64(class)<<48|uint64(index))
	d.drawScene()
	d.expose()
	out := &d.photo
	noise := 12 + d.rng.n(44) // standard deviation in 1/16 levels
	if class == Fake {
		d.decode()
		out = &d.decoded
		noise = d.rng.n(30)
	}
	// Sensor noise. The component that all channels share is the larger one.
	for i := range planePix {
		gray := d.rng.gauss() * noise / one
		for ch := range 3 {
			v := out[ch][i] + gray + d.rng.gauss()*noise/(2*one)
			dst[3*i+ch] = uint8(min(max((v+8)>>4, 0), 255))
		}
	}
}

// palettes are sets of colors (0xRRGGBB) that occur together in photographs.
var palettes = [...][]uint32{
	{0x87a9c9, 0xb9cbd8, 0x5b7a4a, 0x3f5a35, 0x8a8156, 0x6f7f8c}, // landscape
	{0x2f4a28, 0x4d6b35, 0x6f8a45, 0x243520, 0x8d9a5c, 0x59482f}, // foliage
	{0x6d8fa6, 0x3f637c, 0x9db8c4, 0x27485c, 0xc7d3d4, 0x7d7c6a}, // water
	{0x8c8780, 0x5e5a55, 0xb7b0a5, 0x3b3a3a, 0xa48f78, 0x6f7680}, // town
	{0x8a5f3f, 0xb98c60, 0x5c3c28, 0xd3b48d, 0x7a6a58, 0x40302a}, // wood and skin
	{0xc9b68e, 0xa58f63, 0xdccfae, 0x7d6c4c, 0x9fb0b8, 0x6a5f50}, // sand
	{0xb5b8bd, 0xd9dadb, 0x8f959e, 0xe9e7e3, 0x6c727c, 0x4a4f57}, // snow and fog
	{0x23262c, 0x3a3f49, 0x151719, 0x5a5348, 0x2c3a4c, 0x7a6a4a}, // dusk
}

// accents are colors of artificial objects and flowers.
var accents = [...]uint32{0xb03028, 0xd8a020, 0x2858a0, 0xd06028, 0x7a3078, 0xe0d8d0, 0x188068, 0xc05878, 0x181818}

type rgb [3]int32

func (d *drawing) color(hex uint32, jitter int32) rgb {
	light := d.rng.span(jitter)
	var c rgb
	for ch := range 3 {
		v := int32(hex>>(16-8*ch)&255) + light + d.rng.span(jitter/3)
		c[ch] = min(max(v, 4), 250) << 4
	}
	return c
}

func (d *drawing) drawScene() {
	r := &d.rng
	d.drawTexture()
	palette := palettes[r.n(int32(len(palettes)))]
	pick := func() rgb {
		if r.n(9) == 0 {
			return d.color(accents[r.n(int32(len(accents)))], 24)
		}
		return d.color(palette[r.n(int32(len(palette)))], 30)
	}

	// The background is a gradient between two colors in a random direction.
	from, to := pick(), pick()
	ux, uy := r.direction()
	contrast := r.n(900)
	for y := range int32(fine) {
		for x := range int32(fine) {
			i := y*fine + x
			t := min(max(one/2+((2*x-fine)*ux+(2*y-fine)*uy)/(2*fine), 0), one)
			for ch := range 3 {
				d.scene[ch][i] = (from[ch]*(one-t)+to[ch]*t)/one + d.texture[i]*contrast/one
			}
		}
	}

	leaves := 3 + r.n(36)
	behind := r.n(leaves)
	blur := r.n(5)
	for i := range leaves {
		if i == behind {
			for range blur {
				for ch := range 3 {
					d.soften(&d.scene[ch])
				}
			}
		}
		d.drawLeaf(pick())
	}
}

// drawTexture fills d.texture with noise whose amplitude is the same in each octave of frequency or
// decreases slightly: a spectrum of 1/f or steeper.
func (d *drawing) drawTexture() {
	clear(d.texture[:])
	amplitude := int32(one / 2)
	falloff := 150 + d.rng.n(100)
	var above, below, row [fine/2 + 1]int32 // the noise at the corners of the cells
	var weight [fine / 2]int32
	for cell := int32(fine / 2); cell >= 2; cell /= 2 {
		n := fine / cell
		corners := func(dst *[fine/2 + 1]int32) {
			for i := range n + 1 {
				dst[i] = d.rng.span(one)
			}
		}
		for i := range cell {
			weight[i] = ease(i, cell)
		}
		corners(&below)
		for y := range int32(fine) {
			if y%cell == 0 {
				above = below
				corners(&below)
			}
			t := weight[y%cell]
			for i := range n + 1 {
				row[i] = (above[i]*(one-t) + below[i]*t) / one * amplitude / one
			}
			out := d.texture[y*fine : (y+1)*fine]
			for i := range n {
				from, step := row[i], row[i+1]-row[i]
				for j := range cell {
					out[i*cell+j] += from + step*weight[j]/one
				}
			}
		}
		amplitude = amplitude * falloff / one
	}
}

// ease returns the smooth step 3t²-2t³ at t = i/n, in units of 1/one.
func ease(i, n int32) int32 {
	t := i * one / n
	return t * t * (3*one - 2*t) / (one * one)
}

// drawLeaf draws an opaque shape.
func (d *drawing) drawLeaf(base rgb) {
	r := &d.rng
	const smallest, largest = 6, 48
	// P(size > s) is proportional to 1/s², the law that makes dead leaves scale-invariant.
	size := isqrt(smallest * smallest * 65536 / (65536*smallest*smallest/(largest*largest) + r.n(65536-65536*smallest*smallest/(largest*largest))))
	a := size
	b := max(size*(64+r.n(192))/one, 2)
	cx, cy := r.n(fine), r.n(fine)
	ux, uy := r.direction()
	shape := r.n(4)
	contrast := 100 + r.n(1500)
	stripes := int32(0)
	if r.n(5) == 0 {
		stripes = 4 + r.n(10)
	}
	stripe := 40 + r.n(400)
	shiftX, shiftY := r.n(fine), r.n(fine)
	shade := r.span(900)

	reach := isqrt(a*a+b*b) + 1
	for y := max(cy-reach, 0); y < min(cy+reach+1, fine); y++ {
		for x := max(cx-reach, 0); x < min(cx+reach+1, fine); x++ {
			dx, dy := x-cx, y-cy
			u, v := (dx*ux+dy*uy)/one, (dy*ux-dx*uy)/one
			var inside bool
			switch shape {
			case 0, 1: // ellipse
				inside = u*u*b*b+v*v*a*a <= a*a*b*b
			case 2: // rectangle
				inside = u >= -a && u <= a && v >= -b && v <= b
			default: // triangle
				inside = v >= -b && v*a <= b*(a-2*u) && v*a <= b*(a+2*u)
			}
			if !inside {
				continue
			}
			i := y*fine + x
			t := d.texture[((y+shiftY)%fine)*fine+(x+shiftX)%fine]*contrast/one + shade*v/b
			if stripes > 0 && (u+fine)%stripes < stripes/2 {
				t += stripe
			}
			for ch := range 3 {
				// Shading is proportional to the color of the surface, like light.
				d.scene[ch][i] = base[ch] + t*(base[ch]+800)/4096
			}
		}
	}
}

// soften applies the binomial blur [1 2 1] in both directions.
func (d *drawing) soften(plane *[finePix]int32) {
	for y := range fine {
		row := plane[y*fine : (y+1)*fine]
		for x := range row {
			d.scratch[y*fine+x] = row[max(x-1, 0)] + 2*row[x] + row[min(x+1, fine-1)]
		}
	}
	for y := range fine {
		up, down := max(y-1, 0)*fine, min(y+1, fine-1)*fine
		for x := range fine {
			plane[y*fine+x] = (d.scratch[up+x] + 2*d.scratch[y*fine+x] + d.scratch[down+x]) / 16
		}
	}
}

// expose reduces the scene to the size of the image under uneven light.
func (d *drawing) expose() {
	r := &d.rng
	gain := 180 + r.n(110)
	gx, gy := r.span(90), r.span(90)
	for y := range int32(sidePix) {
		for x := range int32(sidePix) {
			light := max(gain+((2*x-sidePix)*gx+(2*y-sidePix)*gy)/(2*sidePix), 0)
			i := 2*y*fine + 2*x
			for ch := range 3 {
				s := &d.scene[ch]
				v := (s[i] + s[i+1] + s[i+fine] + s[i+fine+1]) / 4 * light / one
				d.photo[ch][y*sidePix+x] = min(max(v, 0), 4095)
			}
		}
	}
}

// decode reconstructs photo like a convolutional generator: from half or a quarter of the
// resolution, enlarged by transposed convolutions with uneven overlap (the checkerboard of Odena,
// Dumoulin, Olah, "Deconvolution and Checkerboard Artifacts", 2016), by pixel repetition or
// bilinearly, with part of the fine detail missing and slightly wrong colors. All of these
// parameters vary between images.
func (d *drawing) decode() {
	r := &d.rng
	quarter := r.n(4) == 0
	method := int(r.n(3))
	overlap := 110 + r.n(14) // 128 would be even
	if r.n(2) == 0 {
		overlap = 256 - overlap
	}
	keep := r.n(90) // fraction of the detail lost at half the resolution that is kept
	if quarter {
		keep = 60 + r.n(60)
	}
	grid := 10 + r.n(40)
	if r.n(2) == 0 {
		grid = -grid
	}

	var half, small [planePix]int32
	for ch := range 3 {
		photo, decoded := &d.photo[ch], &d.decoded[ch]
		shrink(half[:], photo[:], sidePix)
		if quarter {
			shrink(small[:], half[:], sidePix/2)
			enlarge(half[:], small[:], sidePix/4, method, overlap)
		}
		enlarge(decoded[:], half[:], sidePix/2, method, overlap)
		for i := range decoded {
			x, y := int32(i%sidePix), int32(i/sidePix)
			v := decoded[i] + (photo[i]-decoded[i])*keep/one
			if (x+y)&1 == 0 {
				v += grid
			} else {
				v -= grid
			}
			decoded[i] = v
		}
	}

	// Change the saturation around the pixel's own gray, so that the mean brightness does not
	// reveal the class.
	saturation := 200 + r.n(130)
	for i := range planePix {
		gray := (77*d.decoded[0][i] + 150*d.decoded[1][i] + 29*d.decoded[2][i]) / one
		for ch := range 3 {
			d.decoded[ch][i] = gray + (d.decoded[ch][i]-gray)*saturation/one
		}
	}
}

// shrink halves a square plane of the given side by averaging.
func shrink(dst, src []int32, side int) {
	for y := range side / 2 {
		for x := range side / 2 {
			i := 2*y*side + 2*x
			dst[y*side/2+x] = (src[i] + src[i+1] + src[i+side] + src[i+side+1]) / 4
		}
	}
}

// enlarge doubles a square plane of the given side: by repetition (method 0), bilinearly (1), or by
// a transposed convolution with kernel [overlap, one, overlap] and stride 2 (2).
func enlarge(dst, src []int32, side, method int, overlap int32) {
	// In each direction, an output is a times one input plus b times its neighbor.
	tap := func(i int) (near, far int, a, b int32) {
		near = i / 2
		switch method {
		case 0:
			return near, near, one, 0
		case 1:
			return near, min(max(near-1+2*(i%2), 0), side-1), 192, 64
		default:
			if i%2 == 0 {
				return near, near, one, 0
			}
			return near, min(near+1, side-1), overlap, overlap
		}
	}
	for y := range 2 * side {
		y0, y1, ya, yb := tap(y)
		for x := range 2 * side {
			x0, x1, xa, xb := tap(x)
			top := src[y0*side+x0]*xa + src[y0*side+x1]*xb
			bottom := src[y1*side+x0]*xa + src[y1*side+x1]*xb
			dst[y*2*side+x] = (top/16*ya + bottom/16*yb) / (one * one / 16)
		}
	}
}

// source is a PCG-DXSM generator (O'Neill), the one of math/rand/v2, with its own small set of
// draws: those of rand.Rand may change between Go releases.
type source struct{ pcg *rand.PCG }

// newSource mixes its seeds, because they differ in only a few bits between images.
func newSource(a, b uint64) source {
	mix := func(x uint64) uint64 { // the finalizer of SplitMix64
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		return x ^ x>>31
	}
	a = mix(a + 0x9e3779b97f4a7c15)
	return source{rand.NewPCG(a, mix(a^mix(b+0x9e3779b97f4a7c15)))}
}

// n returns a random number from 0 to n-1.
func (s *source) n(n int32) int32 {
	hi, _ := bits.Mul64(s.pcg.Uint64(), uint64(n))
	return int32(hi)
}

// span returns a random number from -n to n.
func (s *source) span(n int32) int32 { return s.n(2*n+1) - n }

// gauss returns the sum of eight uniform random numbers: approximately normal, with a standard
// deviation of about one (256).
func (s *source) gauss() int32 {
	v := s.pcg.Uint64()
	sum := int32(0)
	for range 8 {
		sum += int32(v & 255)
		v >>= 8
	}
	return (sum - 1020) * 314 / one // the standard deviation of the sum is 209
}

// direction returns a random unit vector, scaled by one.
func (s *source) direction() (x, y int32) {
	for {
		x, y = s.span(100), s.span(100)
		if sq := x*x + y*y; sq > 100 && sq <= 10000 {
			n := isqrt(sq * 256)
			return x * 16 * one / n, y * 16 * one / n
		}
	}
}

// isqrt returns the integer square root of n.
func isqrt(n int32) int32 {
	if n <= 0 {
		return 0
	}
	x := int32(1) << ((bits.Len32(uint32(n)) + 1) / 2)
	for {
		y := (x + n/x) / 2
		if y >= x {
			return x
		}
		x = y
	}
}
