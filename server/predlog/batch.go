package predlog

import (
	"time"
	"unsafe"
)

// batch holds records until they are written. It is filled again and again: what
// its records point to lies in slabs that are kept, so that taking a record
// allocates nothing once the slabs have grown to what is usual.
type batch struct {
	records []Record
	first   time.Time // when the first record was taken
	commit  *commit   // what durable appends wait for; nil when none does

	text   []byte
	floats []float32
}

// commit is the outcome of writing a batch.
type commit struct {
	done chan struct{} // closed when err is known
	err  error
}

// keptRecords bounds the buffers that are kept from one batch to the next: those of
// a batch with more records, which a large request or a failure has left, are let go.
const keptRecords = defaultMaxRecords

// add copies the record, and keeps the copy of its picture. Pictures are rare and
// large: a slab for them would hold on to too much.
func (b *batch) add(r *Record, image []byte) {
	b.records = append(b.records, *r)
	kept := &b.records[len(b.records)-1]
	kept.RequestID = b.keepText(clip(r.RequestID))
	kept.TraceID = b.keepText(r.TraceID)
	// When a slab grows, the records before go on pointing into the old one.
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
	// The bytes change only after reset, when no record points to them any more.
	return unsafe.String(&b.text[n], len(s))
}

// reset empties the batch for new records.
func (b *batch) reset() {
	if len(b.records) > keptRecords {
		*b = batch{}
		return
	}
	clear(b.records) // lets go of pictures
	b.records, b.text, b.floats = b.records[:0], b.text[:0], b.floats[:0]
	b.commit = nil
}

// settle tells those who wait for the batch what became of it. The log's lock must be held.
func (b *batch) settle(err error) {
	if b.commit != nil {
		b.commit.err = err
		close(b.commit.done)
		b.commit = nil
	}
}
