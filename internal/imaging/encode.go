package imaging

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"sync"
)

// ToImage converts pixels, as Decoder.Decode returns them, to an image of the given width. channels is 3 for RGB or 1 for
// gray. It panics if pixels aren't complete rows.
func ToImage(pixels []uint8, width, channels int) *image.NRGBA {
	if width < 1 || channels != 1 && channels != 3 || len(pixels) == 0 || len(pixels)%(width*channels) != 0 {
		panic(fmt.Sprintf("imaging: %d bytes aren't complete rows of %d pixels with %d channels", len(pixels), width, channels))
	}
	img := image.NewNRGBA(image.Rect(0, 0, width, len(pixels)/(width*channels)))
	for i := range len(pixels) / channels {
		p := pixels[channels*i:][:channels]
		copy(img.Pix[4*i:], []uint8{p[0], p[channels/2], p[channels-1], 0xff})
	}
	return img
}

// EncodePNG encodes the image as PNG with the best compression. The output is deterministic. EncodePNG is
// safe for concurrent use.
func EncodePNG(m image.Image) []byte {
	var data bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression, BufferPool: &encoderBuffers}
	if err := encoder.Encode(&data, m); err != nil {
		panic(err) // the image is empty or too large for PNG
	}
	return data.Bytes()
}

// encoderBuffers reuses the working memory of PNG encoders, which is almost 1 MB even for a 32×32 image.
var encoderBuffers bufferPool

type bufferPool struct{ pool sync.Pool }

// Get implements png.EncoderBufferPool.
func (p *bufferPool) Get() *png.EncoderBuffer {
	b, _ := p.pool.Get().(*png.EncoderBuffer)
	return b
}

// Put implements png.EncoderBufferPool.
func (p *bufferPool) Put(b *png.EncoderBuffer) { p.pool.Put(b) }
