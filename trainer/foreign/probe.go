package foreign

import (
	"fmt"
	"image"
	"image/color"
	"math"
	"math/rand/v2"
	"sync"

	"fakeart/internal/imaging"
)

// probeCount is the number of probe images.
const probeCount = 6

// probes returns the tensors of drawn images of various sizes, prepared by the plan. They are always the same.
func probes(plan *imaging.Plan) ([]imaging.Tensor, error) {
	list := make([]imaging.Tensor, probeCount)
	decoder := plan.NewDecoder(1 << 20)
	pixels := make([]uint8, plan.Len())
	for i, file := range drawings() {
		if err := decoder.Pixels(pixels, file); err != nil {
			return nil, fmt.Errorf("probe image %d: %w", i, err)
		}
		list[i] = plan.NewTensor(1)
		plan.Fill(list[i], pixels)
	}
	return list, nil
}

// drawings returns the probe images as PNG files.
var drawings = sync.OnceValue(func() [][]byte {
	files := make([][]byte, probeCount)
	for i := range files {
		files[i] = imaging.EncodePNG(draw(i))
	}
	return files
})

// draw draws probe image i: waves, edges and noise in strong colors.
func draw(i int) image.Image {
	random := rand.New(rand.NewPCG(1, uint64(i)))
	width, height := 160+37*i, 300-29*i
	m := image.NewNRGBA(image.Rect(0, 0, width, height))
	var fx, fy, phase [3]float64
	for c := range 3 {
		fx[c], fy[c], phase[c] = 0.2*random.Float64(), 0.2*random.Float64(), 6*random.Float64()
	}
	noise := float64(40 * (i % 3))
	for y := range height {
		for x := range width {
			var v [3]uint8
			for c := range 3 {
				v[c] = uint8(min(max(128+100*math.Sin(fx[c]*float64(x)+fy[c]*float64(y)+phase[c])+noise*(random.Float64()-0.5), 0), 255))
			}
			m.SetNRGBA(x, y, color.NRGBA{v[0], v[1], v[2], 255})
		}
	}
	for range i {
		c := color.NRGBA{uint8(random.UintN(256)), uint8(random.UintN(256)), uint8(random.UintN(256)), 255}
		x0, y0 := random.IntN(width), random.IntN(height)
		for y := y0; y < min(y0+height/3, height); y++ {
			for x := x0; x < min(x0+width/4, width); x++ {
				m.SetNRGBA(x, y, c)
			}
		}
	}
	return m
}

// join concatenates the tensors of images to a batch.
func join(images ...imaging.Tensor) imaging.Tensor {
	var batch imaging.Tensor
	for _, t := range images {
		batch.Float32 = append(batch.Float32, t.Float32...)
		batch.Uint8 = append(batch.Uint8, t.Uint8...)
	}
	return batch
}
