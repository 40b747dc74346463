package imaging

// plane is one component of a JPEG at its own resolution.
type plane struct {
	pix           []uint8
	stride        int
	width, height int // without the padding to whole blocks
	hr, vr        int // how many of the picture's columns and rows one sample covers
}

// newPlane describes the component, subsampled by hr and vr, of a picture of the given size.
func newPlane(pix []uint8, stride, width, height, hr, vr int) plane {
	return plane{pix, stride, (width + hr - 1) / hr, (height + vr - 1) / vr, hr, vr}
}

func (p *plane) line(y int) []uint8 {
	y = min(max(y, 0), p.height-1) // libjpeg repeats the outermost rows
	return p.pix[y*p.stride:][:p.width]
}

// row returns row y of the picture at full width (or wider), in the buffers' i-th if it has to be
// computed. It chooses the method and rounds as jdsample.c of libjpeg-turbo 2.1 does: a triangle
// filter where the factors are 2×1, 1×2 and 2×2, repetition otherwise and for planes of no more than
// two columns.
func (p *plane) row(y int, buffers *rowBuffers, i int) []uint8 {
	if p.hr == 1 && p.vr == 1 {
		return p.line(y)
	}
	out := buffers.get(i, p.width*p.hr)
	cur := p.line(y / p.vr)
	next := cur // the nearer one of the rows above and below
	if p.vr == 2 {
		next = p.line(y/2 - 1 + y%2*2)
	}
	switch {
	case p.hr == 2 && p.vr == 1 && p.width > 2:
		triangleAcross(out, cur)
	case p.hr == 1 && p.vr == 2:
		bias := 1 + y%2
		for x, s := range cur {
			out[x] = uint8((3*int(s) + int(next[x]) + bias) >> 2)
		}
	case p.hr == 2 && p.vr == 2 && p.width > 2:
		triangleBoth(out, cur, next)
	default:
		for x, s := range cur {
			for j := range p.hr {
				out[x*p.hr+j] = s
			}
		}
	}
	return out
}

// triangleAcross is h2v1_fancy_upsample: three quarters of the nearer sample, one of the farther, with
// roundings that alternate so that none prevails.
func triangleAcross(out, in []uint8) {
	n := len(in)
	out = out[:2*n]
	left, cur := int(in[0]), int(in[0])
	for x := range n - 1 {
		right := int(in[x+1])
		out[2*x] = uint8((3*cur + left + 1) >> 2)
		out[2*x+1] = uint8((3*cur + right + 2) >> 2)
		left, cur = cur, right
	}
	out[2*n-2] = uint8((3*cur + left + 1) >> 2)
	out[2*n-1] = uint8(cur)
}

// triangleBoth is h2v2_fancy_upsample: the same in both directions at once.
func triangleBoth(out, cur, next []uint8) {
	n := len(cur)
	out, next = out[:2*n], next[:n]
	sum := 3*int(cur[0]) + int(next[0])
	left := sum
	for x := range n - 1 {
		right := 3*int(cur[x+1]) + int(next[x+1])
		out[2*x] = uint8((3*sum + left + 8) >> 4)
		out[2*x+1] = uint8((3*sum + right + 7) >> 4)
		left, sum = sum, right
	}
	out[2*n-2] = uint8((3*sum + left + 8) >> 4)
	out[2*n-1] = uint8((4*sum + 7) >> 4)
}

// clamped holds v limited to 0…255 at 256+v, for -256 <= v < 768.
var clamped = func() (t [1024]uint8) {
	for i := range t {
		t[i] = uint8(min(max(i-256, 0), 255))
	}
	return t
}()

// yccRow converts a row of full-resolution YCbCr as libjpeg's ycc_rgb_convert does: with 16 bits of
// fraction, rounded once a channel.
func yccRow(r, g, b, luma, cb, cr []uint8) {
	const (
		offset    = 256<<16 + 1<<15 // into the table, and a half to round
		crToRed   = 91881           // 1.40200
		cbToGreen = 22554           // 0.34414
		crToGreen = 46802           // 0.71414
		cbToBlue  = 116130          // 1.77200
	)
	n := len(luma)
	r, g, b, cb, cr = r[:n], g[:n], b[:n], cb[:n], cr[:n]
	for x, l := range luma {
		y, u, v := int32(l)<<16+offset, int32(cb[x])-128, int32(cr[x])-128
		r[x] = clamped[(y+crToRed*v)>>16&1023]
		g[x] = clamped[(y-cbToGreen*u-crToGreen*v)>>16&1023]
		b[x] = clamped[(y+cbToBlue*u)>>16&1023]
	}
}
