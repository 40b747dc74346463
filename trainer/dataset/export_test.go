package dataset

// ImageBytes is the size of an image.
const ImageBytes = syntheticBytes

// DrawPartlyFake draws a photograph in which one quarter was passed through the decoder of a generator:
// quarter is 0 for the upper left, 1 for the upper right, 2 and 3 for the lower ones.
func DrawPartlyFake(dst []byte, seed int64, index, quarter int) {
	var d drawing
	d.rng = newSource(uint64(seed), 0xff<<56|uint64(index))
	d.drawScene()
	d.expose()
	d.decode()
	noise, fakeNoise := 12+d.rng.n(44), d.rng.n(30)
	for i := range planePix {
		x, y := i%32, i/32
		out, n := &d.photo, noise
		if x/(32/2)+2*(y/(32/2)) == quarter {
			out, n = &d.decoded, fakeNoise
		}
		gray := d.rng.gauss() * n / one
		for ch := range 3 {
			v := out[ch][i] + gray + d.rng.gauss()*n/(2*one)
			dst[3*i+ch] = uint8(min(max((v+8)>>4, 0), 255))
		}
	}
}
