package main

import (
	"fmt"

	"golang.org/x/sync/semaphore"

	"fakeart/internal/imaging"
	"fakeart/server/infer"
)

// smallImage is the memory in bytes up to which decoding an image isn't counted against the
// memory limit. All decoders together can use that much without harm.
const smallImage = 2 << 20

// decoders decode images into model input, a bounded number at a time. The memory of large images
// is bounded as well. It is estimated from the image's header before anything is allocated.
type decoders struct {
	free   chan *decoder
	memory *semaphore.Weighted
	room   int64 // size of memory in bytes
	limit  int   // maximum number of pixels per image
}

// decoder decodes one image at a time.
type decoder struct {
	imaging.Decoder
	// pixels holds the pixels of the last image.
	pixels [imaging.Size * imaging.Size * imaging.Channels]uint8
}

func newDecoders(n, maxPixels, memory int) *decoders {
	d := &decoders{free: make(chan *decoder, n), memory: semaphore.NewWeighted(int64(memory)), room: int64(memory), limit: maxPixels}
	for range n {
		d.free <- &decoder{Decoder: imaging.Decoder{MaxPixels: maxPixels}}
	}
	return d
}

// admit reserves the memory for decoding the image. It waits for memory until the request's
// deadline. The caller must call release after decoding. An error caused by the image itself
// wraps an error of package imaging.
func (d *decoders) admit(x *exchange, data []byte) (release func(), err error) {
	header, err := imaging.Inspect(data, d.limit)
	if err != nil {
		return nil, err
	}
	x.state.pixels += header.Width * header.Height
	x.state.slow = x.state.slow || header.Format == "heic" || header.Format == "avif"
	if header.Memory <= smallImage {
		return func() {}, nil
	}
	if header.Memory > d.room {
		return nil, fmt.Errorf("%w: decoding the %s image of %d×%d pixels takes up to %d bytes of memory, more than the limit of %d; scale it down or save it in another format",
			imaging.ErrTooLarge, header.Format, header.Width, header.Height, header.Memory, d.room)
	}
	if err := d.memory.Acquire(x, header.Memory); err != nil {
		return nil, busy("too many large images are being decoded")
	}
	return func() { d.memory.Release(header.Memory) }, nil
}

// take returns a decoder. If all are in use, it waits for one until the request's deadline or
// until the server rejects waiting requests during shutdown. Only HEIC and AVIF can be interrupted,
// so decoding must not start late.
func (d *decoders) take(x *exchange) (*decoder, error) {
	select {
	case one := <-d.free:
		return one, nil
	default:
	}
	select {
	case one := <-d.free:
		return one, nil
	case <-x.Done():
		return nil, x.Err()
	case <-x.m.rejectWaiting:
		return nil, infer.ErrClosed
	}
}

// put returns a decoder obtained from take.
func (d *decoders) put(one *decoder) { d.free <- one }
