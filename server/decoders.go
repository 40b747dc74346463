package main

import (
	"fmt"

	"golang.org/x/sync/semaphore"

	"fakeart/internal/imaging"
	"fakeart/server/infer"
)

// smallPicture is the memory in bytes up to which decoding a picture is not counted:
// as much as the decoders that may be at work together can take without harm.
const smallPicture = 2 << 20

// decoders turn pictures into the model's input, a bounded number at once. The
// memory of large ones is bounded besides: what a picture's header announces decides
// before anything is allocated.
type decoders struct {
	free   chan *decoder
	memory *semaphore.Weighted
	room   int64 // of memory, in bytes
	limit  int   // pixels
}

// decoder turns one picture at a time into pixels.
type decoder struct {
	imaging.Decoder
	// pixels is for those of the last picture.
	pixels [imaging.Size * imaging.Size * imaging.Channels]uint8
}

func newDecoders(n, maxPixels, memory int) *decoders {
	d := &decoders{free: make(chan *decoder, n), memory: semaphore.NewWeighted(int64(memory)), room: int64(memory), limit: maxPixels}
	for range n {
		d.free <- &decoder{Decoder: imaging.Decoder{MaxPixels: maxPixels}}
	}
	return d
}

// admit waits until there is memory for decoding the picture, or the request's time
// is up. The caller gives it back with release. An error about the picture wraps one
// of the package imaging's.
func (d *decoders) admit(x *exchange, data []byte) (release func(), err error) {
	header, err := imaging.Inspect(data, d.limit)
	if err != nil {
		return nil, err
	}
	if header.Memory <= smallPicture {
		return func() {}, nil
	}
	if header.Memory > d.room {
		return nil, fmt.Errorf("%w: decoding the %s picture of %d×%d pixels takes up to %d bytes of memory, at most %d are given; scale it down or save it in another format",
			imaging.ErrTooLarge, header.Format, header.Width, header.Height, header.Memory, d.room)
	}
	if err := d.memory.Acquire(x, header.Memory); err != nil {
		return nil, busy("too many large pictures are being decoded")
	}
	return func() { d.memory.Release(header.Memory) }, nil
}

// take returns a decoder, or waits for one until the request's time is up, or the server
// is about to end. Decoding itself does not end early, so it does not begin late.
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
	case <-x.m.hurry:
		return nil, infer.ErrClosed
	}
}

func (d *decoders) give(one *decoder) { d.free <- one }
