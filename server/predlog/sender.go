package predlog

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"gocloud.dev/gcerrors"
	"gocloud.dev/pubsub"
)

// Batch sizes of the outbox. outboxProbe is used while sending fails.
const (
	outboxProbe = 10
	outboxRows  = 1000
)

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
	resend  *backoff.ExponentialBackOff // used by sendOutbox only

	oldest func(ctx context.Context, after int64, limit int) ([]message, error) // oldest messages of the outbox after a position
	remove func(ctx context.Context, seqs []int64) error                        // removes messages from the outbox
	sent   func(n int)                                                          // called with the number of messages sent from the outbox
}

// send sends all messages concurrently, so that the driver can batch them. It returns the indices
// of the messages that were not sent, or may not have been, and the last error.
func (s *sender) send(ctx context.Context, messages []message) (unsent []int, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.attempt)
	defer cancel()
	results := make([]error, len(messages))
	var group sync.WaitGroup
	for i, m := range messages {
		if m.err != nil {
			results[i] = m.err
			continue
		}
		group.Go(func() { results[i] = s.topic.Send(ctx, &pubsub.Message{Body: m.body}) })
	}
	group.Wait()
	for i, e := range results {
		if e != nil {
			unsent, err = append(unsent, i), e
		}
	}
	return unsent, err
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

// sendOutbox sends the messages of the outbox whenever there are any. It returns when the store is
// closed.
func (s *sender) sendOutbox() {
	after := int64(0) // rows up to this one were rejected
	for s.ctx.Err() == nil {
		limit := outboxRows
		if s.failing.Load() {
			limit = outboxProbe
		}
		n, rejected, err := s.sendSome(after, limit)
		switch {
		case err != nil, n == 0 && after != 0:
			// If n is 0, all remaining messages were rejected. Retry them in case the topic's schema changes.
			s.pause()
			after = 0
		case rejected != 0:
			after = rejected
		case n == 0:
			select {
			case <-s.wake:
			case <-s.ctx.Done():
			}
		}
	}
}

func (s *sender) pause() {
	select {
	case <-time.After(s.resend.NextBackOff()):
	case <-s.ctx.Done():
	}
}

// sendSome sends the oldest messages of the outbox after the given position, and deletes those that
// were sent. It returns the number of messages, and the position of the last one that the topic
// rejected because of its content, or 0.
func (s *sender) sendSome(after int64, limit int) (n int, rejected int64, err error) {
	messages, err := s.oldest(s.ctx, after, limit)
	if err != nil || len(messages) == 0 {
		if err != nil && s.ctx.Err() == nil {
			s.logger.Warn("cannot read the outbox", "outbox", s.outbox, "error", err)
		}
		return 0, 0, err
	}
	if s.failing.Load() && len(messages) > outboxProbe {
		// Sending started to fail after the limit was chosen.
		messages = messages[:outboxProbe]
	}
	unsent, err := s.send(s.ctx, messages)
	if gcerrors.Code(err) == gcerrors.InvalidArgument {
		// Pub/Sub rejects a whole batch because of one invalid message.
		err = nil
		var left []int
		for _, i := range unsent {
			_, e := s.send(s.ctx, messages[i:i+1])
			if e != nil {
				left = append(left, i)
			}
			if e != nil && gcerrors.Code(e) != gcerrors.InvalidArgument {
				err = e
			}
		}
		if unsent = left; err == nil && len(left) > 0 {
			rejected = messages[left[len(left)-1]].seq
			s.logger.Error("the topic rejects "+s.what+"; they stay in the outbox: check the topic's schema",
				"topic", s.url, "outbox", s.outbox, "records", len(left), "first", messages[left[0]].id)
		}
	}
	left := map[int]bool{}
	for _, i := range unsent {
		left[i] = true
	}
	var sent []int64
	for i, m := range messages {
		if !left[i] {
			sent = append(sent, m.seq)
		}
	}
	if e := s.remove(s.ctx, sent); e != nil {
		return 0, 0, e // they will be sent again
	}
	s.sent(len(sent))
	if err != nil {
		if s.ctx.Err() == nil {
			s.fails(err)
		}
		return 0, 0, err
	}
	if len(sent) > 0 {
		s.works()
	}
	return len(messages), rejected, nil
}
