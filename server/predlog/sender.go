package predlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"gocloud.dev/gcerrors"
	"gocloud.dev/pubsub"
	"gocloud.dev/pubsub/batcher"
)

// The outbox is sent in batches. They grow from outboxProbe to outboxRows while sending works.
const (
	outboxProbe = 10
	outboxRows  = 1000
)

// errEncode is the error of a message that could not be encoded.
var errEncode = errors.New("cannot encode the message")

// message is the message of one record or feedback.
type message struct {
	seq  int64 // position in the outbox
	id   string
	body []byte
	err  error // why the body could not be encoded
}

// sender sends messages to a topic, and retries those in the outbox.
type sender struct {
	topic             *pubsub.Topic
	what, url, outbox string // for log messages
	logger            *slog.Logger
	failing           atomic.Bool
	wake              chan struct{} // holds a token when the outbox isn't empty
	ctx               context.Context

	attempt time.Duration
	// Used by sendOutbox only: resend while sending fails, retry for rejected messages.
	resend, retry *backoff.ExponentialBackOff

	oldest func(ctx context.Context, after int64, limit int) ([]message, error) // oldest messages of the outbox after a position
	remove func(ctx context.Context, seqs []int64) error                        // removes messages from the outbox
	sent   func(n int)                                                          // called with the number of messages sent from the outbox
}

// send sends all messages concurrently, so that the driver can batch them. It returns the error of
// each message that was not sent, or may not have been.
func (s *sender) send(ctx context.Context, messages []message) []error {
	ctx, cancel := context.WithTimeout(ctx, s.attempt)
	defer cancel()
	results := make([]error, len(messages))
	var group sync.WaitGroup
	for i, m := range messages {
		if m.err != nil {
			results[i] = fmt.Errorf("%w: %w", errEncode, m.err)
			continue
		}
		group.Go(func() { results[i] = s.topic.Send(ctx, &pubsub.Message{Body: m.body}) })
	}
	group.Wait()
	return results
}

// isRejected reports whether a message could not be sent because of its content: the topic works,
// but does not accept it.
func isRejected(err error) bool {
	return gcerrors.Code(err) == gcerrors.InvalidArgument || errors.Is(err, batcher.ErrMessageTooLarge) || errors.Is(err, errEncode)
}

// sendValid is like send, but sends all messages that the topic accepts. Pub/Sub rejects a whole batch
// because of one message, so a rejected batch is sent again in halves.
func (s *sender) sendValid(ctx context.Context, messages []message) []error {
	results := s.send(ctx, messages)
	var rejected []int
	for i, err := range results {
		if isRejected(err) {
			rejected = append(rejected, i)
		}
	}
	if len(rejected) < 2 {
		return results
	}
	half := len(rejected) / 2
	for _, part := range [][]int{rejected[:half], rejected[half:]} {
		again := make([]message, len(part))
		for k, i := range part {
			again[k] = messages[i]
		}
		for k, err := range s.sendValid(ctx, again) {
			results[part[k]] = err
		}
	}
	return results
}

// failure returns the first error that is not about a single message, or nil.
func failure(results []error) error {
	for _, err := range results {
		if err != nil && !isRejected(err) {
			return err
		}
	}
	return nil
}

// signal wakes sendOutbox.
func (s *sender) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *sender) fails(err error) {
	if !s.failing.Swap(true) {
		s.logger.Error("cannot send "+s.what+"; storing them in the outbox to send later", "topic", s.url, "outbox", s.outbox, "error", err)
	}
}

func (s *sender) works() {
	s.resend.Reset()
	if s.failing.Swap(false) {
		s.logger.Info("sending "+s.what+" works again", "topic", s.url)
	}
}

// sendOutbox sends the messages of the outbox, oldest first, until the store is closed. Messages that
// the topic rejects because of their content stay there without blocking others. At growing
// intervals they are reported, and some are sent again in case the topic's schema has changed. While
// the topic rejects everything, new messages wait for that as well.
func (s *sender) sendOutbox() {
	var (
		tried, retried int64 // messages up to these positions were sent, or sent again
		rejected       batchResult
		timer          <-chan time.Time // for the next retry of rejected messages; nil without them
		all            bool             // whether the last batch was rejected as a whole
		limit          = outboxProbe
	)
	for s.ctx.Err() == nil {
		if !all {
			batch, err := s.sendSome(tried, limit)
			if err != nil {
				tried, retried, rejected, timer, limit = 0, 0, batchResult{}, nil, outboxProbe
				select {
				case <-time.After(s.resend.NextBackOff()):
				case <-s.ctx.Done():
				}
				continue
			}
			tried = max(tried, batch.last)
			rejected.add(batch)
			if batch.sent > 0 {
				limit = min(10*limit, outboxRows)
				continue
			}
			limit, all = outboxProbe, batch.rejected > 0
		}
		if rejected.rejected > 0 && timer == nil {
			s.logger.Error("the topic rejects "+s.what+"; they stay in the outbox and are retried: check the topic's schema",
				"topic", s.url, "outbox", s.outbox, "records", rejected.rejected, "first", rejected.first, "error", rejected.reason)
			timer = time.After(s.retry.NextBackOff())
		}
		wake := s.wake
		if all {
			wake = nil
		}
		select {
		case <-wake:
		case <-s.ctx.Done():
		case <-timer:
			timer, all = nil, false
			again, err := s.sendSome(retried, outboxProbe)
			if err != nil || again.sent > 0 || again.last == retried {
				// Something has changed: send everything again.
				tried, retried, rejected = 0, 0, batchResult{}
				s.retry.Reset()
			} else {
				retried = again.last // 0 after the last one
				rejected.reason = cmp.Or(again.reason, rejected.reason)
			}
		}
	}
}

// batchResult is the result of sending messages from the outbox.
type batchResult struct {
	last           int64 // position of the last message, or 0 without messages
	sent, rejected int
	first          string // the ID of the first rejected message
	reason         error  // why the latest one was rejected
}

// add counts the rejected messages of another batch.
func (r *batchResult) add(b batchResult) {
	if b.rejected == 0 {
		return
	}
	if r.rejected == 0 {
		r.first = b.first
	}
	r.rejected += b.rejected
	r.reason = b.reason
}

// sendSome sends the oldest messages of the outbox after the given position, and deletes those that
// were sent. It returns an error, which it has logged, if the topic or the outbox fails.
func (s *sender) sendSome(after int64, limit int) (batch batchResult, err error) {
	messages, err := s.oldest(s.ctx, after, limit)
	if err != nil {
		s.outboxFails("cannot read the outbox", err)
		return batch, err
	}
	if len(messages) == 0 {
		return batch, nil
	}
	batch.last = messages[len(messages)-1].seq
	results := s.sendValid(s.ctx, messages)
	var sent []int64
	for i, err := range results {
		switch {
		case err == nil:
			sent = append(sent, messages[i].seq)
		case isRejected(err):
			batch.add(batchResult{rejected: 1, first: messages[i].id, reason: err})
		}
	}
	if err := s.remove(s.ctx, sent); err != nil {
		s.outboxFails("cannot delete sent messages from the outbox; they will be sent again", err)
		return batch, err
	}
	batch.sent = len(sent)
	s.sent(batch.sent)
	if err := failure(results); err != nil {
		if s.ctx.Err() == nil {
			s.fails(err)
		}
		return batch, err
	}
	if batch.sent > 0 {
		s.works()
	}
	return batch, nil
}

func (s *sender) outboxFails(what string, err error) {
	if s.ctx.Err() == nil {
		s.logger.Warn(what, "outbox", s.outbox, "error", err)
	}
}
