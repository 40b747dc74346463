package imaging

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"sync"
)

// ToImage returns pixels, rows of RGB as Decoder yields them, as an image of the given
// width. It panics unless they are whole rows.
func ToImage(pixels []uint8, width int) *image.NRGBA {
	if width < 1 || len(pixels) == 0 || len(pixels)%(width*Channels) != 0 {
		panic(fmt.Sprintf("imaging: %d bytes are no rows of %d pixels", len(pixels), width))
	}
	img := image.NewNRGBA(image.Rect(0, 0, width, len(pixels)/(width*Channels)))
	for i := range len(pixels) / Channels {
		copy(img.Pix[4*i:], pixels[Channels*i:][:Channels])
		img.Pix[4*i+3] = 0xff
	}
	return img
}

// EncodePNG returns the image as a PNG, as small as may be. The same image gives the
// same bytes. It is safe for concurrent use.
func EncodePNG(m image.Image) []byte {
	var data bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression, BufferPool: &encoderBuffers}
	if err := encoder.Encode(&data, m); err != nil {
		panic(err) // an image without pixels, or one that no memory holds
	}
	return data.Bytes()
}

// encoderBuffers keeps what an encoder works in: most of a megabyte, for pictures of 32×32 too.
var encoderBuffers bufferPool

type bufferPool struct{ pool sync.Pool }

// Get implements png.EncoderBufferPool.
func (p *bufferPool) Get() *png.EncoderBuffer {
	b, _ := p.pool.Get().(*png.EncoderBuffer)
	return b
}

// Put implements png.EncoderBufferPool.
func (p *bufferPool) Put(b *png.EncoderBuffer) { p.pool.Put(b) }
