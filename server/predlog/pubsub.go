package predlog

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"gocloud.dev/pubsub"
	_ "gocloud.dev/pubsub/gcppubsub" // topics gcppubsub://projects/…/topics/…
)

const (
	// attemptTime is how long sending a batch may take before it is spilled.
	attemptTime = 5 * time.Second
	// maxMessage is the maximum size in bytes of a message with an image. Pub/Sub accepts 10 MB,
	// gocloud.dev sends 8 MiB at once.
	maxMessage = 8<<20 - 64<<10

	// outboxBytes is the approximate size of a batch from the outbox.
	outboxBytes = 8 << 20

	// A failing topic is retried after firstResend, then with exponential backoff and jitter up to
	// lastResend.
	firstResend = time.Second
	lastResend  = time.Minute
)

// PubSubOptions configures a PubSub store.
type PubSubOptions struct {
	// Topic is the URL of the topic: gcppubsub://projects/PROJECT/topics/TOPIC, or that of another
	// driver of gocloud.dev/pubsub that the program imports.
	Topic string
	// FeedbackTopic is the URL of the topic for feedback. If it is empty, feedback isn't stored.
	FeedbackTopic string
	// Outbox is the SQLite file for unsent messages; see SQLiteOptions.Path.
	Outbox string
	// Synchronous is the setting of the outbox.
	Synchronous Synchronous
	// Count counts records that were sent (Written) or stored in the outbox (Spilled). Spilled
	// records are counted again when they are sent.
	Count Counter
	// Logger logs events for operators.
	Logger *slog.Logger
}

// PubSub is a store that publishes each record as a message: the JSON of its Row, in the form that
// a BigQuery subscription with the table's schema (bigquery-schema.json) accepts. Feedback goes to
// its own topic, as the JSON of a Feedback (bigquery-feedback-schema.json).
//
// Messages that cannot be sent within five seconds go to a database file, the outbox. They are sent
// later, oldest first, possibly by a later process. While sending fails, new records go to the
// outbox immediately. Delivery is at least once and unordered: a record can arrive twice, with the
// same ID.
type PubSub struct {
	options  PubSubOptions
	outbox   *SQLite
	records  *sender
	feedback *sender // nil without FeedbackTopic
	recent   recent
	cancel   context.CancelFunc
	group    sync.WaitGroup
}

// OpenPubSub opens the topics and the outbox, and starts sending what an earlier process left in
// the outbox. A missing topic is only detected by the first message.
func OpenPubSub(ctx context.Context, options PubSubOptions) (*PubSub, error) {
	var topics []*pubsub.Topic
	fail := func(err error) (*PubSub, error) {
		for _, t := range topics {
			err = errors.Join(err, t.Shutdown(ctx))
		}
		return nil, err
	}
	for i, url := range []string{options.Topic, options.FeedbackTopic} {
		if i > 0 && url == "" {
			topics = append(topics, nil)
			continue
		}
		topic, err := pubsub.OpenTopic(ctx, url)
		if err != nil {
			return fail(fmt.Errorf("open prediction log: topic %s: %w", url, err))
		}
		topics = append(topics, topic)
	}
	p, err := newPubSub(ctx, topics[0], topics[1], options, attemptTime, func() *backoff.ExponentialBackOff { return newBackOff(firstResend, lastResend) })
	if err != nil {
		topics = slices.DeleteFunc(topics, func(t *pubsub.Topic) bool { return t == nil })
		return fail(err)
	}
	return p, nil
}

// newPubSub creates the store. feedback may be nil.
func newPubSub(ctx context.Context, topic, feedback *pubsub.Topic, options PubSubOptions, attempt time.Duration, resend func() *backoff.ExponentialBackOff) (*PubSub, error) {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	outbox, err := OpenSQLite(ctx, SQLiteOptions{Path: options.Outbox, Synchronous: options.Synchronous, Logger: options.Logger})
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	p := &PubSub{options: options, outbox: outbox}
	ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	p.records = &sender{
		topic: topic, what: "predictions", url: options.Topic, outbox: options.Outbox, logger: options.Logger, ctx: ctx, wake: make(chan struct{}, 1),
		attempt: attempt, resend: resend(), retry: resend(), oldest: p.oldestRecords, remove: outbox.remove,
		sent: func(n int) { options.Count.count(Written, n) },
	}
	p.group.Go(p.records.sendOutbox)
	if feedback != nil {
		p.feedback = &sender{
			topic: feedback, what: "feedback", url: options.FeedbackTopic, outbox: options.Outbox, logger: options.Logger, ctx: ctx, wake: make(chan struct{}, 1),
			attempt: attempt, resend: resend(), retry: resend(), oldest: outbox.oldestFeedback, remove: outbox.removeFeedback,
			sent: func(int) {},
		}
		p.group.Go(p.feedback.sendOutbox)
	}
	return p, nil
}

// Write sends the records, and stores those that cannot be sent in the outbox.
func (p *PubSub) Write(ctx context.Context, records []Record) error {
	if len(records) == 0 {
		return p.outbox.Write(ctx, nil)
	}
	spill := records
	if !p.records.failing.Load() {
		messages := make([]message, len(records))
		for i := range records {
			row := records[i].row()
			messages[i] = p.message(0, &row)
		}
		results := p.records.send(ctx, messages)
		if err := failure(results); err != nil {
			p.records.fails(err)
		}
		spill = nil
		for i, err := range results {
			if err != nil {
				spill = append(spill, records[i])
			}
		}
	}
	if len(spill) > 0 {
		// Write to the outbox even if ctx is done: the disk is fast.
		if err := p.outbox.Write(context.WithoutCancel(ctx), spill); err != nil {
			p.records.failing.Store(false) // let the next attempt try to send again
			return fmt.Errorf("cannot send, and cannot write to the outbox: %w", err)
		}
		p.records.signal()
	}
	p.options.Count.count(Written, len(records)-len(spill))
	p.options.Count.count(Spilled, len(spill))
	if p.feedback != nil {
		p.recent.add(records)
	}
	return nil
}

// message encodes the row. It drops an image that is too large for a message.
func (p *PubSub) message(seq int64, r *Row) message {
	if r.Image != nil && len(r.Image)/3*4 > maxMessage-(16<<10)-16*len(r.Embedding) {
		p.options.Logger.Warn("image is too large for a message; logging the record without it", "id", r.ID, "bytes", len(r.Image))
		r.Image = nil
	}
	body, err := json.Marshal(r)
	return message{seq, r.ID, body, err}
}

// HasPrediction implements FeedbackStore for predictions that this process wrote recently.
func (p *PubSub) HasPrediction(_ context.Context, id string) (bool, error) {
	_, known := p.recent.prediction(id)
	return known, nil
}

// Feedback implements FeedbackStore. It accepts feedback on any prediction, because it cannot know
// which exist. The predicted label, the model and duplicates are only known for predictions that this process
// wrote recently; for others, it accepts the labels of all models that it knows.
func (p *PubSub) Feedback(ctx context.Context, f Feedback) (FeedbackResult, error) {
	if p.feedback == nil {
		return FeedbackResult{}, ErrNoFeedback
	}
	h := FeedbackResult{Feedback: f}
	prediction, _ := p.recent.prediction(f.ID)
	h.PredictedLabel, h.ModelName = prediction.label, prediction.name
	if rejected := p.checkLabel(ctx, prediction.model, h.PredictedLabel, f.Label); rejected != nil {
		return FeedbackResult{}, rejected
	}
	if h.Time, h.Duplicate = p.recent.duplicate(f); h.Duplicate {
		return h, nil
	}
	h.Time = f.Time
	body, err := json.Marshal(f)
	if err != nil {
		return FeedbackResult{}, fmt.Errorf("feedback: %w", err)
	}
	unsent := p.feedback.failing.Load()
	if !unsent {
		results := p.feedback.send(ctx, []message{{0, f.ID, body, nil}})
		if err := failure(results); err != nil {
			p.feedback.fails(err)
		}
		unsent = results[0] != nil
	}
	if unsent {
		if err := p.outbox.addFeedback(context.WithoutCancel(ctx), body); err != nil {
			p.feedback.failing.Store(false)
			return FeedbackResult{}, fmt.Errorf("cannot send feedback, and cannot write it to the outbox: %w", err)
		}
		p.feedback.signal()
	}
	p.recent.setFeedback(f)
	return h, nil
}

// checkLabel returns a *LabelError unless the model has the label. It accepts any label while the outbox, which has the labels of
// models of earlier processes, can't be read.
func (p *PubSub) checkLabel(ctx context.Context, model, predicted, label string) (rejected error) {
	if err := p.outbox.read(ctx, func(ctx context.Context, db *sql.DB) (err error) {
		rejected, err = p.outbox.checkLabel(ctx, db, model, predicted, label)
		return err
	}); err != nil {
		p.options.Logger.Warn("can't check the label of feedback", "error", err)
	}
	return rejected
}

// SetLabels implements FeedbackStore.
func (p *PubSub) SetLabels(ctx context.Context, model string, labels []string) error {
	return p.outbox.SetLabels(ctx, model, labels)
}

// Spilled returns the number of messages in the outbox: records and feedback.
func (p *PubSub) Spilled(ctx context.Context) (n int64, err error) {
	err = p.outbox.read(ctx, func(ctx context.Context, db *sql.DB) error {
		return db.QueryRowContext(ctx, "SELECT (SELECT count(*) FROM predictions) + (SELECT count(*) FROM unsent_feedback)").Scan(&n)
	})
	return n, err
}

// Close closes the outbox, whose contents are kept for the next process.
//
// It doesn't shut the topics down. By now nothing is left to send: what Write could not send is in the
// outbox. If a request to Pub/Sub is still in progress, Topic.Shutdown would publish empty batches in
// a loop (gocloud.dev v0.49.0), and then fail.
func (p *PubSub) Close(ctx context.Context) error {
	p.cancel()
	p.group.Wait()
	return p.outbox.Close(ctx)
}

// oldestRecords returns the oldest records of the outbox after the given position, as messages.
func (p *PubSub) oldestRecords(ctx context.Context, after int64, limit int) ([]message, error) {
	seqs, rows, err := p.outbox.oldest(ctx, after, limit, outboxBytes)
	messages := make([]message, len(rows))
	for i := range rows {
		messages[i] = p.message(seqs[i], &rows[i])
	}
	return messages, err
}

// oldest returns the oldest rows after the given position, with images: at most limit rows of about
// size bytes in total, but at least one.
func (s *SQLite) oldest(ctx context.Context, after int64, limit, size int) (seqs []int64, rows []Row, err error) {
	err = s.each(ctx, selectAll+" WHERE seq > ? ORDER BY seq LIMIT ?", []any{after, limit}, func(seq int64, r *Entry) error {
		size -= recordSize + 16*len(r.Embedding) + 2*len(r.Image)
		if size < 0 && len(rows) > 0 {
			return errStop
		}
		seqs, rows = append(seqs, seq), append(rows, r.Row)
		return nil
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return seqs, rows, err
}

var errStop = errors.New("stop")

// remove deletes the records at the given positions.
func (s *SQLite) remove(ctx context.Context, seqs []int64) error {
	return s.removeFrom(ctx, "predictions", seqs)
}

func (s *SQLite) removeFrom(ctx context.Context, table string, seqs []int64) error {
	if len(seqs) == 0 {
		return nil
	}
	list := strings.Trim(strings.ReplaceAll(fmt.Sprint(seqs), " ", ","), "[]")
	// Don't cancel a transaction: that would close the connection.
	ctx = context.WithoutCancel(ctx)
	return s.change(ctx, func(db *database) error {
		_, err := db.insert.conn.ExecContext(ctx, "DELETE FROM "+table+" WHERE seq IN ("+list+")")
		return err
	})
}

// addFeedback stores an encoded feedback message in the outbox.
func (s *SQLite) addFeedback(ctx context.Context, body []byte) error {
	return s.change(ctx, func(db *database) error {
		_, err := db.insert.conn.ExecContext(ctx, "INSERT INTO unsent_feedback (message) VALUES (?)", body)
		return err
	})
}

// oldestFeedback returns the oldest feedback of the outbox after the given position.
func (s *SQLite) oldestFeedback(ctx context.Context, after int64, limit int) (messages []message, err error) {
	err = s.read(ctx, func(ctx context.Context, db *sql.DB) error {
		rows, err := db.QueryContext(ctx, "SELECT seq, message FROM unsent_feedback WHERE seq > ? ORDER BY seq LIMIT ?", after, limit)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var m message
			if err := rows.Scan(&m.seq, &m.body); err != nil {
				return err
			}
			messages = append(messages, m)
		}
		return rows.Err()
	})
	return messages, err
}

func (s *SQLite) removeFeedback(ctx context.Context, seqs []int64) error {
	return s.removeFrom(ctx, "unsent_feedback", seqs)
}
