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
	// flushInterval and flushRecords: a log that is not durable writes what it has
	// when the oldest record has waited so long, or when there are so many.
	flushInterval = 100 * time.Millisecond
	flushRecords  = 1000

	// gatherYields is how often the writer of a durable log lets other goroutines run
	// before it takes what has gathered. Those that have just been answered come back
	// with more, so that fewer transactions do: with 16 clients a record costs a
	// sixth less (synchronous NORMAL), or a third (FULL). Any timer, however short,
	// costs several times as much as it saves.
	gatherYields = 3

	// maxTransaction bounds the records that are written at once, so that one
	// write after a failure does not take long, and needs no more room than usual.
	maxTransaction = 1000

	defaultMaxRecords = 8192
	defaultMaxBytes   = 64 << 20

	// A failing store is tried again after a tenth of a second, then after twice as
	// long each time, up to five seconds, with some randomness.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second

	// closeGrace is how long Close waits, when its time is up, for a write that has
	// been told to end.
	closeGrace = time.Second
)

// Options are those of a Log. The zero value is a log that is not durable.
type Options struct {
	// Durable makes Append return only once its records are in the store.
	Durable bool
	// MaxRecords and MaxBytes bound what waits in memory (the records of one Append
	// are taken together even if they are more, when nothing else waits); 0 means
	// 8192 records and 64 MiB.
	MaxRecords, MaxBytes int
	// Count is told of the records that were lost. Stores have a counter of their
	// own for those that were not.
	Count Counter
	// Logger gets a line when the store begins to fail and when it works again.
	Logger *slog.Logger
}

// Log takes records and writes them to a store. It is safe for concurrent use.
type Log struct {
	store   Store
	options Options
	retry   *backoff.ExponentialBackOff

	wake    chan struct{} // holds one token when the writer has to look
	closing chan struct{} // closed by Close
	done    chan struct{} // closed when the writer has ended
	ctx     context.Context
	abort   context.CancelFunc // ends writes, when Close may take no longer

	mu      sync.Mutex
	filling *batch        // takes new records
	spare   *batch        // the other one; nil while it is being written
	writing *batch        // the one that is being written, or nil
	held    int           // records that are not written, in both
	bytes   int           // and what they take
	room    chan struct{} // closed when there may be room, or no hope of it; nil when nobody waits
	failure error         // why the store cannot be written; nil when it can
	closed  bool
}

// New returns a log that writes to the store, which it owns from now on, and finds
// out at once, in the background, whether the store can be written.
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

// Append takes the records of one request, all or none, and gives those without an
// ID one. The records may be used again once it has returned.
//
// When the buffer is full it waits for room until ctx is done; records that found
// none by then are lost (ErrLost). A log that is not durable then returns; its
// records are written within about 100 ms. A durable one waits until they are in
// the store; when ctx is done before, they are written all the same, but whether
// they were is not known (ErrNotDurable).
//
// While the store fails, Append does not wait: records are kept as long as there
// is room, which a durable log reports as ErrNotDurable, and are lost after that
// (ErrLost). Both errors wrap the store's own.
func (l *Log) Append(ctx context.Context, records ...*Record) error {
	if len(records) == 0 {
		return nil
	}
	size := 0
	var images [][]byte // copies of the pictures; most logs keep none
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
			images[i] = bytes.Clone(r.Image) // may take a while: not under the lock
		}
	}
	l.mu.Lock()
	for !l.closed && !l.fits(len(records), size) {
		if l.failure != nil {
			err := fmt.Errorf("%w: the buffer is full (%d records) while the store fails: %w", ErrLost, l.held, l.failure)
			l.mu.Unlock()
			l.options.Count.count(Failed, len(records))
			return err
		}
		if l.room == nil {
			l.room = make(chan struct{})
		}
		room := l.room
		l.mu.Unlock()
		l.signal() // there is something to write
		select {
		case <-room:
		case <-ctx.Done():
			l.options.Count.count(Failed, len(records))
			return fmt.Errorf("%w: waiting for room in the buffer: %w", ErrLost, context.Cause(ctx))
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

	// The writer has to know of the first record, whose time counts, and of the one
	// that makes a full transaction.
	if before == 0 || (before < flushRecords && now >= flushRecords) {
		l.signal()
	}
	switch {
	case !l.options.Durable:
		return nil
	case failure != nil:
		return fmt.Errorf("%w: the store fails, it is tried again: %w", ErrNotDurable, failure)
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrNotDurable, context.Cause(ctx))
	}
}

// fits tells whether the buffer has room. What is larger than the buffer itself
// goes in when nothing else is there.
func (l *Log) fits(n, size int) bool {
	return l.held == 0 || (l.held+n <= l.options.MaxRecords && l.bytes+size <= l.options.MaxBytes)
}

func (l *Log) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Err says why the store cannot be written now; nil when it can, as far as is known.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}

// Waiting is the number of records in memory that are not yet in the store.
func (l *Log) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}

// Close writes what waits and closes the store. What cannot be written until ctx
// is done is lost: counted as failed, and reported with its number. A failing
// store is tried again until then. Append fails from now on. A second Close does nothing.
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
			// The store hangs; what it holds is freed when the process ends.
			return fmt.Errorf("close prediction log: the store does not answer; %w", l.giveUp())
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

// giveUp counts what is left in memory as lost.
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

// makeRoom wakes those who wait for room. The lock must be held.
func (l *Log) makeRoom() {
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
}

// run is the writer: it ends when the log is closed and everything is written, or
// when it may take no longer.
func (l *Log) run() {
	defer close(l.done)
	// A store that cannot be written should be known before the first record comes.
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

// next returns a batch that is to be written now, and lets another one be filled.
// It returns nil when the log is closed and nothing is left.
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
		// Only a few a second, so that a new timer each time costs nothing.
		select {
		case <-l.wake:
		case <-l.closing:
		case <-time.After(wait):
		}
	}
}

// writeBatch writes the batch and makes it the spare one. It returns false when it had to give up.
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

// write writes the records until that succeeds. It returns false when it had to give up.
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
			closing = nil // once more at once, then at the usual pace
		case <-l.ctx.Done():
			return false
		}
	}
}

// failed notes that the store cannot be written. Whoever waits for it is told: a
// promise that cannot be kept now, and room that will not come.
func (l *Log) failed(b *batch, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure == nil {
		l.options.Logger.Error("the prediction log cannot be written; records are kept in memory as far as there is room, and tried again", "error", err, "waiting", l.held)
	}
	l.failure = err
	notYet := fmt.Errorf("%w: the store fails, it is tried again: %w", ErrNotDurable, err)
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
	l.options.Logger.Info("the prediction log can be written again", "waiting", l.held)
}
