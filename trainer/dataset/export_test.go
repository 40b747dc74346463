package dataset

import "fakeart/internal/imaging"

// ImageBytes is the size of a picture.
const ImageBytes = imageBytes

// DrawMarked draws a scene as a photograph of which one quarter went through a
// generator's decoder: 0 is the upper left, 1 the upper right, 2 and 3 are below.
func DrawMarked(dst []byte, seed int64, index, quarter int) {
	var d drawing
	d.rng = newSource(uint64(seed), 0xff<<56|uint64(index))
	d.drawScene()
	d.expose()
	d.decode()
	noise, fakeNoise := 12+d.rng.n(44), d.rng.n(30)
	for i := range planePix {
		x, y := i%imaging.Size, i/imaging.Size
		out, n := &d.photo, noise
		if x/(imaging.Size/2)+2*(y/(imaging.Size/2)) == quarter {
			out, n = &d.decoded, fakeNoise
		}
		grey := d.rng.gauss() * n / one
		for ch := range 3 {
			v := out[ch][i] + grey + d.rng.gauss()*n/(2*one)
			dst[3*i+ch] = uint8(min(max((v+8)>>4, 0), 255))
		}
	}
}
