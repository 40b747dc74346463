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

// maxFile is the maximum size of an image file in bytes. A file of CIFAKE has about 1,000 bytes; a
// photograph straight from a camera has 10 to 30 million.
const maxFile = 32 << 20

var errFileTooLarge = fmt.Errorf("larger than %d MiB", maxFile>>20)

// job is an image to decode.
type job struct {
	split int
	class uint16
	key   string        // see sample.key
	path  string        // path in errors and in Manifest.Rejected
	data  *bytes.Buffer // from pool.get; decodeAll returns it to the pool
}

// decodeAll runs produce, which submits jobs, and decodes them into c on all cores. At most a few
// files per core are in memory. It returns the first error of produce or of a decoder; after an
// error, submit fails.
func decodeAll(ctx context.Context, c *collection, produce func(submit func(job) error) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	workers := runtime.GOMAXPROCS(0)
	jobs := make(chan job, 4*workers)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			decoder := c.plan.NewDecoder(0)
			pixels := make([]byte, c.plan.Len())
			for j := range jobs {
				if ctx.Err() != nil {
					continue // drain the channel, so that produce never blocks
				}
				info, err := decoder.Decode(pixels, j.data.Bytes())
				pool.put(j.data)
				if err != nil {
					if err := c.unreadable(j.path, err); err != nil {
						cancel(err)
					}
					continue
				}
				turned := info.Orientation != 1 && c.input.Orientation == imaging.IgnoreOrientation
				if err := c.add(j.split, sample{key: j.key, class: j.class, rotated: turned}, pixels); err != nil {
					cancel(err)
				}
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
		return cause // an error of a decoder, which submit returned to produce; or a cancellation
	}
	return err
}

// buffers is a pool of the buffers that files are read into.
type buffers struct{ sync.Pool }

var pool = buffers{sync.Pool{New: func() any { return new(bytes.Buffer) }}}

func (b *buffers) get() *bytes.Buffer {
	buf := b.Get().(*bytes.Buffer)
	buf.Reset()
	return buf
}

func (b *buffers) put(buf *bytes.Buffer) {
	if buf.Cap() <= 1<<20 { // do not keep the memory of a huge image
		b.Put(buf)
	}
}

// readFile reads an image file of at most maxFile bytes into a buffer of the pool.
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
