package activity

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"fakeart/server/predlog"
)

// accuracyAge is how long a computed accuracy is valid without new feedback. It keeps requests to
// /metrics, which is open to everyone, from causing a database query each.
const accuracyAge = time.Minute

// Accuracy caches the share of correct predictions among those with feedback. Its zero value is ready
// to use, and is safe for concurrent use.
type Accuracy struct {
	stale atomic.Bool // set when new feedback arrives

	mu     sync.Mutex
	models map[string]modelAccuracy // by digest
}

// modelAccuracy is the cached share of a model.
type modelAccuracy struct {
	asked time.Time
	share float64
	known bool
}

// Outdated makes the next call of Of read the log. Call it when feedback was stored.
func (a *Accuracy) Outdated() { a.stale.Store(true) }

// Of returns the share of correct predictions of the model with the given digest among the latest ones
// with feedback. known is false if there is no feedback or it can't be read. It reads the log only if
// the cached value is outdated.
func (a *Accuracy) Of(log predlog.Reader, model string) (share float64, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stale.Swap(false) || a.models == nil || len(a.models) > maxModels {
		a.models = map[string]modelAccuracy{}
	}
	last, cached := a.models[model]
	if !cached || time.Since(last.asked) >= accuracyAge {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		right, of, err := log.Accuracy(ctx, model)
		last = modelAccuracy{asked: time.Now(), known: err == nil && of > 0}
		if last.known {
			last.share = float64(right) / float64(of)
		}
		a.models[model] = last
	}
	return last.share, last.known
}

// maxModels is the number of models above which the cache is emptied.
const maxModels = 100
