package predlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	// A log that isn't durable writes its buffer when the oldest record is flushInterval old, or
	// when it has flushRecords records.
	flushInterval = 100 * time.Millisecond
	flushRecords  = 1000

	// gatherYields is how often the writer of a durable log yields to other goroutines before it
	// takes the buffer. Clients that just got their response send the next request meanwhile, so
	// fewer transactions hold more records: with 16 clients a record costs a sixth less
	// (synchronous NORMAL) or a third less (FULL). Even the shortest timer costs several times as
	// much as it saves.
	gatherYields = 3

	// maxTransaction limits the records per write, so that the first write after a failure is
	// neither slow nor large.
	maxTransaction = 1000

	defaultMaxRecords = 8192
	defaultMaxBytes   = 64 << 20

	// A failing store is retried after firstRetry, then with exponential backoff and jitter up to
	// lastRetry.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second

	// closeGrace is how long Close waits for a canceled write after its context is done.
	closeGrace = time.Second
)

// Options configures a Log. The zero value is a log that isn't durable.
type Options struct {
	// Durable makes Append wait until its records are in the store.
	Durable bool
	// MaxRecords and MaxBytes limit the buffer; 0 means 8192 records and 64 MiB. If the buffer is
	// empty, the records of one Append are accepted whatever their number and size.
	MaxRecords, MaxBytes int
	// Count counts lost records. Stores have their own counter for written records.
	Count Counter
	// Logger logs when the store begins to fail and when it recovers.
	Logger *slog.Logger
}

// Log buffers records and writes them to a store. It is safe for concurrent use.
type Log struct {
	store   Store
	options Options
	retry   *backoff.ExponentialBackOff

	wake    chan struct{} // holds a token when the writer must check the buffer
	closing chan struct{} // closed by Close
	done    chan struct{} // closed when the writer has exited
	ctx     context.Context
	abort   context.CancelFunc // cancels writes when the context of Close is done

	mu      sync.Mutex
	filling *batch        // receives new records
	spare   *batch        // the other batch; nil while it is being written
	writing *batch        // the batch being written, or nil
	held    int           // unwritten records in both batches
	bytes   int           // and their size
	room    chan struct{} // closed when there may be room, or when waiting is pointless; nil if nobody waits
	failure error         // why the store isn't writable, or nil
	closed  bool
}

// New returns a log that writes to the store, which it owns from now on. It immediately checks in
// the background whether the store is writable.
func New(store Store, options Options) *Log {
	if options.MaxRecords <= 0 {
		options.MaxRecords = defaultMaxRecords
	}
	if options.MaxBytes <= 0 {
		options.MaxBytes = defaultMaxBytes
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Log{
		store: store, options: options, retry: newBackOff(firstRetry, lastRetry),
		wake: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}),
		filling: new(batch), spare: new(batch),
	}
	l.ctx, l.abort = context.WithCancel(context.Background())
	go l.run()
	return l
}

func newBackOff(first, last time.Duration) *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = first, last, 2
	b.Reset()
	return b
}

// Append logs the records of one request, all or none. It sets missing IDs. The caller may reuse
// the records when it has returned.
//
// If the buffer is full, Append waits for room until ctx is done. Records without room are lost
// (ErrLost). Without Options.Durable it then returns, and the records are written within about 100
// ms. With it, Append waits until they are in the store. If ctx is done first, it returns
// ErrNotDurable: the records will be written, but may not be yet.
//
// While the store fails, Append does not wait: records are buffered while there is room, for which
// a durable log returns ErrNotDurable, and lost afterwards (ErrLost). Both errors wrap the store's
// own.
func (l *Log) Append(ctx context.Context, records ...*Record) error {
	if len(records) == 0 {
		return nil
	}
	size := 0
	var images [][]byte // copies of the images; most logs store none
	for i, r := range records {
		if err := r.check(); err != nil {
			l.options.Count.count(Failed, len(records))
			return fmt.Errorf("log prediction: %w", err)
		}
		size += r.size()
		if r.Image != nil {
			if images == nil {
				images = make([][]byte, len(records))
			}
			images[i] = bytes.Clone(r.Image) // may take a while, so not under the lock
		}
	}
	l.mu.Lock()
	for !l.closed && !l.fits(len(records), size) {
		if l.failure != nil {
			err := fmt.Errorf("%w: the buffer is full (%d records) and the store fails: %w", ErrLost, l.held, l.failure)
			l.mu.Unlock()
			l.options.Count.count(Failed, len(records))
			return err
		}
		if l.room == nil {
			l.room = make(chan struct{})
		}
		room := l.room
		l.mu.Unlock()
		l.signal()
		select {
		case <-room:
		case <-ctx.Done():
			l.options.Count.count(Failed, len(records))
			return fmt.Errorf("%w: wait for room in the buffer: %w", ErrLost, context.Cause(ctx))
		}
		l.mu.Lock()
	}
	if l.closed {
		l.mu.Unlock()
		l.options.Count.count(Failed, len(records))
		return fmt.Errorf("%w: %w", ErrLost, ErrClosed)
	}
	b := l.filling
	before := len(b.records)
	if before == 0 {
		b.first = time.Now()
	}
	for i, r := range records {
		var image []byte
		if images != nil {
			image = images[i]
		}
		b.add(r, image)
	}
	l.held += len(records)
	l.bytes += size
	failure, now := l.failure, len(b.records)
	var c *commit
	if l.options.Durable && failure == nil {
		if b.commit == nil {
			b.commit = &commit{done: make(chan struct{})}
		}
		c = b.commit
	}
	l.mu.Unlock()

	// Wake the writer for the first record, which starts the flush interval, and for the one that
	// completes a transaction.
	if before == 0 || (before < flushRecords && now >= flushRecords) {
		l.signal()
	}
	switch {
	case !l.options.Durable:
		return nil
	case failure != nil:
		return fmt.Errorf("%w: the store fails and is retried: %w", ErrNotDurable, failure)
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrNotDurable, context.Cause(ctx))
	}
}

// fits reports whether the buffer has room for n records of the given total size. An empty buffer
// accepts any number and size.
func (l *Log) fits(n, size int) bool {
	return l.held == 0 || (l.held+n <= l.options.MaxRecords && l.bytes+size <= l.options.MaxBytes)
}

func (l *Log) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Err returns the error of the last write, or nil if the store is writable as far as known.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}

// Waiting returns the number of buffered records that are not yet in the store.
func (l *Log) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}

// Close writes the buffer and closes the store, retrying a failing store until ctx is done. Records
// that are still unwritten then are lost: they are counted as failed, and the error contains their
// number. Append fails from now on. Calling Close again does nothing.
func (l *Log) Close(ctx context.Context) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.makeRoom()
	l.mu.Unlock()
	close(l.closing)

	select {
	case <-l.done:
	case <-ctx.Done():
		l.abort()
		select {
		case <-l.done:
		case <-time.After(closeGrace):
			// The store hangs. Its resources are freed when the process exits.
			return fmt.Errorf("close prediction log: the store does not respond: %w", l.giveUp())
		}
	}
	l.abort()
	err := l.giveUp()
	if e := l.store.Close(ctx); e != nil {
		err = errors.Join(err, e)
	}
	if err != nil {
		return fmt.Errorf("close prediction log: %w", err)
	}
	return nil
}

// giveUp counts the buffered records as lost.
func (l *Log) giveUp() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == 0 {
		return nil
	}
	l.options.Count.count(Failed, l.held)
	err := fmt.Errorf("%w: %d records were not written in time", ErrLost, l.held)
	if l.failure != nil {
		err = fmt.Errorf("%w: %w", err, l.failure)
	}
	l.filling.settle(err)
	l.held, l.bytes = 0, 0
	return err
}

// makeRoom wakes the goroutines that wait for room. l.mu must be held.
func (l *Log) makeRoom() {
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
}

// run is the writer. It returns when the log is closed and everything is written, or when writes
// are canceled.
func (l *Log) run() {
	defer close(l.done)
	// Find out whether the store is writable before the first record arrives.
	if !l.write(nil) {
		return
	}
	for {
		b := l.next()
		if b == nil || !l.writeBatch(b) {
			return
		}
	}
}

// next waits for a batch that is due, and starts filling the other one. It returns nil when the log
// is closed and empty.
func (l *Log) next() *batch {
	for {
		if l.options.Durable {
			for range gatherYields {
				runtime.Gosched()
			}
		}
		l.mu.Lock()
		b, n, wait := l.filling, len(l.filling.records), time.Duration(0)
		switch {
		case n == 0 && l.closed:
			l.mu.Unlock()
			return nil
		case n > 0 && !l.options.Durable && n < flushRecords && !l.closed && l.room == nil && b.commit == nil:
			wait = flushInterval - time.Since(b.first)
		}
		if n > 0 && wait <= 0 {
			l.filling, l.writing, l.spare = l.spare, b, nil
			l.mu.Unlock()
			return b
		}
		l.mu.Unlock()
		if n == 0 {
			select {
			case <-l.wake:
			case <-l.closing:
			}
			continue
		}
		// At most a few times per second, so creating a timer each time is fine.
		select {
		case <-l.wake:
		case <-l.closing:
		case <-time.After(wait):
		}
	}
}

// writeBatch writes the batch and makes it the spare one. It returns false if writes were canceled.
func (l *Log) writeBatch(b *batch) bool {
	for rest := b.records; len(rest) > 0; {
		n := min(len(rest), maxTransaction)
		if !l.write(b, rest[:n]...) {
			return false
		}
		size := 0
		for i := range rest[:n] {
			size += rest[i].size()
		}
		rest = rest[n:]
		l.mu.Lock()
		l.held -= n
		l.bytes -= size
		if len(rest) == 0 {
			b.settle(nil)
			b.reset()
			l.spare, l.writing = b, nil
		}
		l.makeRoom()
		l.mu.Unlock()
	}
	return true
}

// write retries until the records are written. It returns false if writes were canceled.
func (l *Log) write(b *batch, records ...Record) bool {
	closing := l.closing
	for {
		err := l.store.Write(l.ctx, records)
		if err == nil {
			l.recovered()
			return true
		}
		l.failed(b, err)
		select {
		case <-time.After(l.retry.NextBackOff()):
		case <-closing:
			closing = nil // retry once immediately, then with the usual backoff
		case <-l.ctx.Done():
			return false
		}
	}
}

// failed records that the store isn't writable, and wakes waiting goroutines: neither durability
// nor room can be expected soon.
func (l *Log) failed(b *batch, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure == nil {
		l.options.Logger.Error("cannot write the prediction log; buffering records in memory and retrying", "error", err, "waiting", l.held)
	}
	l.failure = err
	notYet := fmt.Errorf("%w: the store fails and is retried: %w", ErrNotDurable, err)
	if b != nil {
		b.settle(notYet)
	}
	l.filling.settle(notYet)
	l.makeRoom()
}

func (l *Log) recovered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure == nil {
		return
	}
	l.failure = nil
	l.retry.Reset()
	l.makeRoom()
	l.options.Logger.Info("prediction log is writable again", "waiting", l.held)
}
