package predlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"gocloud.dev/gcerrors"
	"gocloud.dev/pubsub"
	_ "gocloud.dev/pubsub/gcppubsub" // topics gcppubsub://projects/…/topics/…
)

const (
	// attemptTime bounds how long a batch may take to be sent before it is spilled.
	attemptTime = 5 * time.Second
	// maxMessage is the size in bytes up to which a message takes a picture along.
	// Pub/Sub takes 10 MB, gocloud.dev sends 8 MiB at a time.
	maxMessage = 8<<20 - 64<<10

	// The outbox is sent in parts: small ones as long as it is not known whether
	// anything can be sent.
	outboxProbe = 10
	outboxRows  = 1000
	outboxBytes = 8 << 20

	// firstResend and lastResend: a topic that fails is tried again after a second,
	// then after twice as long each time, up to a minute, with some randomness.
	firstResend = time.Second
	lastResend  = time.Minute
)

// PubSubOptions are those of a PubSub store.
type PubSubOptions struct {
	// Topic is the topic's URL, gcppubsub://projects/PROJECT/topics/TOPIC, or of
	// another driver of gocloud.dev/pubsub that the program imports.
	Topic string
	// Outbox is a SQLite file for what cannot be sent; see SQLiteOptions.Path.
	Outbox string
	// Synchronous is that of the outbox.
	Synchronous Synchronous
	// Count is told of the records that were sent (Written), and of those that went
	// to the outbox (Spilled), which are counted again when they are sent.
	Count Counter
	// Logger gets what an operator should know.
	Logger *slog.Logger
}

// PubSub is the store that publishes each record as a message: the JSON of its
// Row, in the form that a BigQuery subscription with the table's schema
// (bigquery-schema.json) takes.
//
// What cannot be sent within five seconds goes to a database file, the outbox, and
// is sent later, oldest first, also by a later process. As long as sending fails
// new records go there at once. Delivery is at least once: a record may come
// twice, with the same id, and not in order.
type PubSub struct {
	options PubSubOptions
	topic   *pubsub.Topic
	outbox  *SQLite
	failing atomic.Bool
	wake    chan struct{} // holds one token when the outbox has something
	ctx     context.Context
	cancel  context.CancelFunc
	group   sync.WaitGroup

	attempt time.Duration
	resend  *backoff.ExponentialBackOff // the sender's own
}

// OpenPubSub opens the topic and the outbox, and goes on sending what an earlier
// process has left there. Whether the topic exists is found out by the first message.
func OpenPubSub(ctx context.Context, options PubSubOptions) (*PubSub, error) {
	topic, err := pubsub.OpenTopic(ctx, options.Topic)
	if err != nil {
		return nil, fmt.Errorf("open prediction log: topic %s: %w", options.Topic, err)
	}
	p, err := newPubSub(ctx, topic, options, attemptTime, newBackOff(firstResend, lastResend))
	if err != nil {
		return nil, errors.Join(err, topic.Shutdown(ctx))
	}
	return p, nil
}

func newPubSub(ctx context.Context, topic *pubsub.Topic, options PubSubOptions, attempt time.Duration, resend *backoff.ExponentialBackOff) (*PubSub, error) {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	outbox, err := OpenSQLite(ctx, SQLiteOptions{Path: options.Outbox, Synchronous: options.Synchronous, Logger: options.Logger})
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	p := &PubSub{options: options, topic: topic, outbox: outbox, wake: make(chan struct{}, 1), attempt: attempt, resend: resend}
	p.ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	p.group.Go(p.sendOutbox)
	return p, nil
}

// Write sends the records, or puts into the outbox what cannot be sent.
func (p *PubSub) Write(ctx context.Context, records []Record) error {
	if len(records) == 0 {
		return p.outbox.Write(ctx, nil)
	}
	spill := records
	if !p.failing.Load() {
		rows := make([]Row, len(records))
		for i := range records {
			rows[i] = records[i].row()
		}
		unsent, err := p.send(ctx, rows)
		if err == nil {
			p.options.Count.count(Written, len(records))
			return nil
		}
		p.fails(err)
		spill = make([]Record, len(unsent))
		for i, k := range unsent {
			spill[i] = records[k]
		}
	}
	// Even when there is no more time to send: the disk is near.
	if err := p.outbox.Write(context.WithoutCancel(ctx), spill); err != nil {
		p.failing.Store(false) // whoever tries again tries to send again
		return fmt.Errorf("neither sent nor put into the outbox: %w", err)
	}
	p.options.Count.count(Written, len(records)-len(spill))
	p.options.Count.count(Spilled, len(spill))
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return nil
}

// send sends the rows all at once, for the driver to batch, and returns the
// indices of those that were not sent, or not as far as is known, and why.
func (p *PubSub) send(ctx context.Context, rows []Row) (unsent []int, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.attempt)
	defer cancel()
	results := make([]error, len(rows))
	var group sync.WaitGroup
	for i := range rows {
		body, err := p.message(&rows[i])
		if err != nil {
			results[i] = err
			continue
		}
		group.Go(func() { results[i] = p.topic.Send(ctx, &pubsub.Message{Body: body}) })
	}
	group.Wait()
	for i, e := range results {
		if e != nil {
			unsent, err = append(unsent, i), e
		}
	}
	return unsent, err
}

// message is the row as it is sent.
func (p *PubSub) message(r *Row) ([]byte, error) {
	if r.Image != nil && len(r.Image)/3*4 > maxMessage-(16<<10)-16*len(r.Embedding) {
		p.options.Logger.Warn("the picture is too large for a message and was left out", "id", r.ID, "bytes", len(r.Image))
		r.Image = nil
	}
	return json.Marshal(r)
}

func (p *PubSub) fails(err error) {
	if !p.failing.Swap(true) {
		p.options.Logger.Error("predictions cannot be sent; they go to the outbox and are sent later",
			"topic", p.options.Topic, "outbox", p.options.Outbox, "error", err)
	}
}

func (p *PubSub) works() {
	p.resend.Reset()
	if p.failing.Swap(false) {
		p.options.Logger.Info("predictions can be sent again", "topic", p.options.Topic)
	}
}

// Spilled returns the number of records in the outbox.
func (p *PubSub) Spilled(ctx context.Context) (int64, error) { return p.outbox.Count(ctx) }

// sendOutbox sends what is in the outbox, whenever something is.
func (p *PubSub) sendOutbox() {
	after := int64(0) // rows up to this one have been refused
	for p.ctx.Err() == nil {
		limit := outboxRows
		if p.failing.Load() {
			limit = outboxProbe
		}
		n, refused, err := p.sendSome(after, limit)
		switch {
		case err != nil, n == 0 && after != 0:
			// Or all that is left was refused; what the topic takes may change.
			p.pause()
			after = 0
		case refused != 0:
			after = refused
		case n == 0:
			select {
			case <-p.wake:
			case <-p.ctx.Done():
			}
		}
	}
}

func (p *PubSub) pause() {
	select {
	case <-time.After(p.resend.NextBackOff()):
	case <-p.ctx.Done():
	}
}

// sendSome sends the oldest rows of the outbox that come after the given one, and
// deletes those that were sent. It returns how many there were, and the last that
// the topic refused for what is in it, or 0.
func (p *PubSub) sendSome(after int64, limit int) (n int, refused int64, err error) {
	seqs, rows, err := p.outbox.oldest(p.ctx, after, limit, outboxBytes)
	if err != nil || len(rows) == 0 {
		if err != nil && p.ctx.Err() == nil {
			p.options.Logger.Warn("the outbox cannot be read", "outbox", p.options.Outbox, "error", err)
		}
		return 0, 0, err
	}
	if p.failing.Load() && len(rows) > outboxProbe {
		// Sending has begun to fail since the limit was chosen.
		seqs, rows = seqs[:outboxProbe], rows[:outboxProbe]
	}
	unsent, err := p.send(p.ctx, rows)
	if gcerrors.Code(err) == gcerrors.InvalidArgument {
		// Pub/Sub refuses all messages of a call for one that is wrong.
		err = nil
		var left []int
		for _, i := range unsent {
			_, e := p.send(p.ctx, rows[i:i+1])
			if e != nil {
				left = append(left, i)
			}
			if e != nil && gcerrors.Code(e) != gcerrors.InvalidArgument {
				err = e
			}
		}
		if unsent = left; err == nil && len(left) > 0 {
			refused = seqs[left[len(left)-1]]
			p.options.Logger.Error("the topic refuses predictions; they stay in the outbox. Does its schema fit?",
				"topic", p.options.Topic, "outbox", p.options.Outbox, "records", len(left), "first", rows[left[0]].ID)
		}
	}
	left := map[int]bool{}
	for _, i := range unsent {
		left[i] = true
	}
	var sent []int64
	for i, seq := range seqs {
		if !left[i] {
			sent = append(sent, seq)
		}
	}
	if e := p.outbox.remove(p.ctx, sent); e != nil {
		return 0, 0, e // they will be sent once more
	}
	p.options.Count.count(Written, len(sent))
	if err != nil {
		if p.ctx.Err() == nil {
			p.fails(err)
		}
		return 0, 0, err
	}
	if len(sent) > 0 {
		p.works()
	}
	return len(rows), refused, nil
}

// Close sends what is being sent, until ctx is done, and closes topic and outbox.
// What is in the outbox stays there for the next time.
func (p *PubSub) Close(ctx context.Context) error {
	p.cancel()
	p.group.Wait()
	err := p.topic.Shutdown(ctx)
	return errors.Join(err, p.outbox.Close(ctx))
}

// oldest returns the oldest rows after the given one, with pictures: at most limit,
// and no more than fit in about size bytes, but one at least.
func (s *SQLite) oldest(ctx context.Context, after int64, limit, size int) (seqs []int64, rows []Row, err error) {
	err = s.each(ctx, selectAll+" WHERE seq > ? ORDER BY seq LIMIT ?", []any{after, limit}, func(seq int64, r *Row) error {
		size -= recordSize + 16*len(r.Embedding) + 2*len(r.Image)
		if size < 0 && len(rows) > 0 {
			return errEnough
		}
		seqs, rows = append(seqs, seq), append(rows, *r)
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return seqs, rows, err
}

var errEnough = errors.New("enough")

// remove deletes the rows.
func (s *SQLite) remove(ctx context.Context, seqs []int64) error {
	if len(seqs) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return fmt.Errorf("delete from %s: the database cannot be opened now", s.options.Path)
	}
	list := strings.Trim(strings.ReplaceAll(fmt.Sprint(seqs), " ", ","), "[]")
	if _, err := s.db.insert.conn.ExecContext(context.WithoutCancel(ctx), "DELETE FROM predictions WHERE seq IN ("+list+")"); err != nil {
		return fmt.Errorf("delete from %s: %w", s.options.Path, err)
	}
	return nil
}
