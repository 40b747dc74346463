package imaging

import "slices"

// A progressive JPEG may lack bits of some coefficients, or may have only DC coefficients. Like libjpeg-turbo, this
// package then estimates the first nine AC coefficients of a block from the DC coefficients around it
// (decompress_smooth_data in jdcoefct.c), which avoids visible blocks.

// kernel holds the weights of the DC coefficients of 5×5 blocks, times 256.
type kernel [5][5]int32

// transposed returns the kernel for the coefficient with exchanged frequencies.
func (k kernel) transposed() (t kernel) {
	for y := range k {
		for x := range k[y] {
			t[x][y] = k[y][x]
		}
	}
	return t
}

// Kernels if some AC coefficients are known. Coefficients are numbered in zigzag order.
var (
	known1 = kernel{2: {-7, 50, 0, -50, 7}}
	known4 = kernel{{0, -1, 0, 1, 0}, {-1, 10, 0, -10, 1}, {}, {1, -10, 0, 10, -1}, {0, 1, 0, -1, 0}}
	known5 = kernel{2: {-1, 13, -24, 13, -1}}

	knownKernels = [10]kernel{1: known1, 2: known1.transposed(), 3: known5.transposed(), 4: known4, 5: known5}
)

// Kernels if only DC coefficients are known. The DC coefficient is smoothed as well.
var (
	only0 = kernel{{-2, -6, -8, -6, -2}, {-6, 6, 42, 6, -6}, {-8, 42, 152, 42, -8}, {-6, 6, 42, 6, -6}, {-2, -6, -8, -6, -2}}
	only1 = kernel{{-1, -1, 0, 1, 1}, {-3, 13, 0, -13, 3}, {-3, 38, 0, -38, 3}, {-3, 13, 0, -13, 3}, {-1, -1, 0, 1, 1}}
	only4 = kernel{{-1, 0, 0, 0, 1}, {0, 9, 0, -9, 0}, {}, {0, -9, 0, 9, 0}, {1, 0, 0, 0, -1}}
	only5 = kernel{1: {0, 2, -5, 2, 0}, 2: {1, 7, -14, 7, 1}, 3: {0, 2, -5, 2, 0}}
	only6 = kernel{1: {0, 1, 0, -1, 0}, 2: {0, 2, 0, -2, 0}, 3: {0, 1, 0, -1, 0}}
	only7 = kernel{1: {0, 1, -3, 1, 0}, 3: {0, -1, 3, -1, 0}}

	onlyKernels = [10]kernel{
		only0, only1, only1.transposed(), only5.transposed(), only4, only5, only6, only7, only7.transposed(), only6.transposed(),
	}
)

// smoothable reports whether coefficients must be estimated, by the rules of smoothing_ok in libjpeg-turbo.
func (d *jpegDecoder) smoothable(hdr *jpegHeader) bool {
	incomplete := false
	for i := range hdr.components {
		c := &d.components[i]
		if c.progress.bits[0] < 0 {
			return false
		}
		for k := range 10 {
			if c.quant[k] == 0 {
				return false
			}
			incomplete = incomplete || k > 0 && c.progress.bits[k] != 0
		}
	}
	return incomplete
}

// smooth estimates the coefficients of b that are missing. b is the block in column x and row y of an image of the
// given number of units down. It returns the index, in zigzag order, of the last coefficient that it set.
func (c *jpegComponent) smooth(b *block, units, x, y int) (last int) {
	wide, high := c.blocks()
	// libjpeg-turbo counts rows as if all units had as many as the last one, so that it treats some rows as the
	// image's first or last. Padding below the image counts as well.
	unit, inUnit := y/c.v, c.v
	if unit == units-1 {
		inUnit = high - unit*c.v
	}
	row := unit*inUnit + y%c.v
	above, below := min(row, 2), min(inUnit*units-1-row, 2)
	var dc kernel
	for j := range dc {
		for i := range dc[j] {
			index := (y+min(max(j-2, -above), below))*c.wide + min(max(x+i-2, 0), wide-1)
			if c.progress.masks[index]&1 != 0 {
				dc[j][i] = int32(c.progress.coefficients[64*index])
			}
		}
	}

	kernels := &onlyKernels
	if slices.Max(c.progress.bits[1:10]) >= 0 {
		kernels = &knownKernels
	}
	mask := c.progress.masks[y*c.wide+x]
	for k := range kernels {
		missing := c.progress.bits[k]
		if kernels[k] == (kernel{}) || k > 0 && (missing == 0 || mask>>k&1 != 0) {
			continue
		}
		sum := int64(0)
		for j := range dc {
			for i := range dc[j] {
				sum += int64(kernels[k][j][i]) * int64(dc[j][i])
			}
		}
		sum *= int64(c.quant[0])
		quant := int64(c.quant[k])
		size := (quant<<7 + max(sum, -sum)) / (quant << 8)
		if k > 0 && missing > 0 {
			size = min(size, 1<<missing-1)
		}
		if sum < 0 {
			size = -size
		}
		b[zigzag[k]] = int32(int16(int32(int16(size)) * c.quant[k]))
		last = k
	}
	return last
}
