package predlog

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/google/uuid"
)

// recentPredictions is how many predictions a write-only store remembers for feedback: about five
// megabytes.
const recentPredictions = 65_536

// recent remembers the models and labels of the latest predictions and their latest feedback. It is
// filled when records are written, not in the request path. The zero value is empty.
type recent struct {
	mu   sync.Mutex
	byID map[uuid.UUID]remembered
	ring []uuid.UUID // in order of arrival, the oldest at next
	next int
}

type remembered struct {
	model, name, label string
	last               *givenFeedback // nil without feedback
}

// givenFeedback identifies feedback by a hash, so that its size doesn't depend on the comment.
type givenFeedback struct {
	sum  [sha256.Size]byte
	time time.Time
}

func (f *Feedback) sum() [sha256.Size]byte { return sha256.Sum256([]byte(f.Label + "\n" + f.Comment)) }

func (r *recent) add(records []Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byID == nil {
		r.byID = make(map[uuid.UUID]remembered)
	}
	for i := range records {
		id := uuid.UUID(records[i].ID)
		if _, ok := r.byID[id]; ok {
			continue
		}
		r.byID[id] = remembered{model: records[i].Model, name: records[i].ModelName, label: records[i].Label}
		if len(r.ring) < recentPredictions {
			r.ring = append(r.ring, id)
			continue
		}
		delete(r.byID, r.ring[r.next])
		r.ring[r.next] = id
		r.next = (r.next + 1) % recentPredictions
	}
}

func (r *recent) prediction(id string) (p remembered, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, known = r.byID[uuid.MustParse(id)] // Log.Feedback has validated it
	return p, known
}

// duplicate reports whether the latest feedback on the prediction is the same, and returns its
// time.
func (r *recent) duplicate(f Feedback) (at time.Time, same bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.byID[uuid.MustParse(f.ID)].last
	if last == nil || last.sum != f.sum() {
		return at, false
	}
	return last.time, true
}

// setFeedback remembers the latest feedback on a prediction, if the prediction is remembered.
func (r *recent) setFeedback(f Feedback) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := uuid.MustParse(f.ID)
	if p, known := r.byID[id]; known {
		p.last = &givenFeedback{f.sum(), f.Time}
		r.byID[id] = p
	}
}
