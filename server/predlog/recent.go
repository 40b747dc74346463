package predlog

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/google/uuid"
)

// recentPredictions is how many predictions a store that cannot be read remembers the
// verdicts of: some five megabytes.
const recentPredictions = 65_536

// recent are the verdicts of the last predictions, and what was last said of them. It is
// filled where records are written, not where requests wait. The zero value is empty.
type recent struct {
	mu   sync.Mutex
	of   map[uuid.UUID]remembered
	ring []uuid.UUID // in the order of their coming, the oldest at next
	next int
}

type remembered struct {
	verdict string
	last    *said // nil as long as nothing was said
}

// said is feedback, but for its length.
type said struct {
	sum  [sha256.Size]byte
	time time.Time
}

func (f *Feedback) sum() [sha256.Size]byte { return sha256.Sum256([]byte(f.Label + "\n" + f.Comment)) }

func (r *recent) add(records []Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = make(map[uuid.UUID]remembered)
	}
	for i := range records {
		id := uuid.UUID(records[i].ID)
		if _, there := r.of[id]; there {
			continue
		}
		r.of[id] = remembered{verdict: records[i].Label}
		if len(r.ring) < recentPredictions {
			r.ring = append(r.ring, id)
			continue
		}
		delete(r.of, r.ring[r.next])
		r.ring[r.next] = id
		r.next = (r.next + 1) % recentPredictions
	}
}

func (r *recent) verdict(id string) (verdict string, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, known := r.of[uuid.MustParse(id)] // Log.Feedback has seen it
	return p.verdict, known
}

// said tells whether the last that was said of the prediction is the same, and when it was.
func (r *recent) said(f Feedback) (at time.Time, same bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.of[uuid.MustParse(f.ID)].last
	if last == nil || last.sum != f.sum() {
		return at, false
	}
	return last.time, true
}

// say remembers what was said of a prediction that is remembered.
func (r *recent) say(f Feedback) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := uuid.MustParse(f.ID)
	if p, known := r.of[id]; known {
		p.last = &said{f.sum(), f.Time}
		r.of[id] = p
	}
}
