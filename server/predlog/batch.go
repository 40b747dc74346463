package predlog

import (
	"time"
	"unsafe"
)

// batch holds records until they are written. It is reused: strings and embeddings of its records
// lie in slabs that are kept, so that adding a record does not allocate once the slabs have grown.
type batch struct {
	records []Record
	first   time.Time // when the first record was added
	commit  *commit   // durable appends wait for it; nil without such an append

	text   []byte
	floats []float32
}

// commit is the result of writing a batch.
type commit struct {
	done chan struct{} // closed when err is set
	err  error
}

// keptRecords limits the buffers that are reused: a batch with more records, after a large request
// or a failure, is dropped.
const keptRecords = defaultMaxRecords

// add copies the record and takes ownership of image. Images are rare and large, so they have no
// slab, which would hold on to too much memory.
func (b *batch) add(r *Record, image []byte) {
	b.records = append(b.records, *r)
	kept := &b.records[len(b.records)-1]
	kept.RequestID = b.keepText(clip(r.RequestID))
	kept.TraceID = b.keepText(r.TraceID)
	// When a slab grows, earlier records keep pointing into the old one.
	n := len(b.floats)
	b.floats = append(b.floats, r.Embedding...)
	kept.Embedding = b.floats[n:len(b.floats):len(b.floats)]
	kept.Image = image
}

func (b *batch) keepText(s string) string {
	if s == "" {
		return ""
	}
	n := len(b.text)
	b.text = append(b.text, s...)
	// The bytes change only after reset, when no record points to them.
	return unsafe.String(&b.text[n], len(s))
}

// reset empties the batch for reuse.
func (b *batch) reset() {
	if len(b.records) > keptRecords {
		*b = batch{}
		return
	}
	clear(b.records) // releases images
	b.records, b.text, b.floats = b.records[:0], b.text[:0], b.floats[:0]
	b.commit = nil
}

// settle reports the result of the batch to waiting appends. The log's lock must be held.
func (b *batch) settle(err error) {
	if b.commit != nil {
		b.commit.err = err
		close(b.commit.done)
		b.commit = nil
	}
}
