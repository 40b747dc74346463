package dataset

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"

	"fakeart/internal/imaging"
)

// maxFile bounds the bytes that are read for one picture. CIFAKE's have about 1,000; a photograph
// straight from a camera has 10 to 30 million.
const maxFile = 32 << 20

var errFileTooLarge = fmt.Errorf("larger than %d MiB", maxFile>>20)

// job is a picture to decode.
type job struct {
	split int
	class uint8
	key   string        // see picture.key
	path  string        // how the user knows it
	data  *bytes.Buffer // from pool.get; decodeAll puts it back
}

// decodeAll runs produce, which hands out pictures through submit, and decodes them on all cores
// into c. At most a few files per core are in memory. It returns the first error of either side;
// submit fails once there is one.
func decodeAll(ctx context.Context, c *collection, produce func(submit func(job) error) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	workers := runtime.GOMAXPROCS(0)
	jobs := make(chan job, 4*workers)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			var decoder imaging.Decoder
			var slab []byte
			for j := range jobs {
				if ctx.Err() != nil {
					continue // drain, so that the producer is never stuck
				}
				if len(slab) == 0 {
					slab = make([]byte, 128*imageBytes)
				}
				pixels := slab[:imageBytes:imageBytes]
				err := decoder.Pixels(pixels, j.data.Bytes())
				pool.put(j.data)
				if err != nil {
					if err := c.unreadable(j.path, err); err != nil {
						cancel(err)
					}
					continue
				}
				slab = slab[imageBytes:]
				c.add(j.split, picture{key: j.key, class: j.class, pixels: pixels})
			}
		})
	}
	err := produce(func(j job) error {
		select {
		case jobs <- j:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	close(jobs)
	group.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause // the decoders' error, of which the producer's is the echo; or a cancel
	}
	return err
}

// buffers keeps the memory that files are read into.
type buffers struct{ sync.Pool }

var pool = buffers{sync.Pool{New: func() any { return new(bytes.Buffer) }}}

func (b *buffers) get() *bytes.Buffer {
	buf := b.Get().(*bytes.Buffer)
	buf.Reset()
	return buf
}

func (b *buffers) put(buf *bytes.Buffer) {
	if buf.Cap() <= 1<<20 { // one huge picture must not stay in memory
		b.Put(buf)
	}
}

// readFile reads one picture's file into memory, bounded by maxFile.
func readFile(r io.Reader) (*bytes.Buffer, error) {
	buf := pool.get()
	n, err := buf.ReadFrom(io.LimitReader(r, maxFile+1))
	if err == nil && n > maxFile {
		err = errFileTooLarge
	}
	if err != nil {
		pool.put(buf)
		return nil, err
	}
	return buf, nil
}
