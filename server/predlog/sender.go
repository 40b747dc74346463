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

// The outbox is sent in parts: small ones as long as it is not known whether
// anything can be sent.
const (
	outboxProbe = 10
	outboxRows  = 1000
)

// message is what is sent of one record or feedback.
type message struct {
	seq  int64 // its place in the outbox
	id   string
	body []byte
	err  error // why it has no body
}

// sender sends messages to a topic, and goes on trying with those of the outbox.
type sender struct {
	topic             *pubsub.Topic
	what, url, outbox string // for what is said to the operator
	logger            *slog.Logger
	failing           atomic.Bool
	wake              chan struct{} // holds one token when the outbox has something
	ctx               context.Context

	attempt time.Duration
	resend  *backoff.ExponentialBackOff // sendOutbox's own

	oldest func(ctx context.Context, after int64, limit int) ([]message, error) // of the outbox
	remove func(ctx context.Context, seqs []int64) error                        // from it
	sent   func(n int)                                                          // is told of what was sent from it
}

// send sends the messages all at once, for the driver to batch, and returns the
// indices of those that were not sent, or not as far as is known, and why.
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

// signal says that the outbox has something.
func (s *sender) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *sender) fails(err error) {
	if !s.failing.Swap(true) {
		s.logger.Error(s.what+" cannot be sent; they go to the outbox and are sent later", "topic", s.url, "outbox", s.outbox, "error", err)
	}
}

func (s *sender) works() {
	s.resend.Reset()
	if s.failing.Swap(false) {
		s.logger.Info(s.what+" can be sent again", "topic", s.url)
	}
}

// sendOutbox sends what is in the outbox, whenever something is.
func (s *sender) sendOutbox() {
	after := int64(0) // rows up to this one have been refused
	for s.ctx.Err() == nil {
		limit := outboxRows
		if s.failing.Load() {
			limit = outboxProbe
		}
		n, refused, err := s.sendSome(after, limit)
		switch {
		case err != nil, n == 0 && after != 0:
			// Or all that is left was refused; what the topic takes may change.
			s.pause()
			after = 0
		case refused != 0:
			after = refused
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

// sendSome sends the oldest of the outbox that come after the given one, and
// deletes those that were sent. It returns how many there were, and the last that
// the topic refused for what is in it, or 0.
func (s *sender) sendSome(after int64, limit int) (n int, refused int64, err error) {
	messages, err := s.oldest(s.ctx, after, limit)
	if err != nil || len(messages) == 0 {
		if err != nil && s.ctx.Err() == nil {
			s.logger.Warn("the outbox cannot be read", "outbox", s.outbox, "error", err)
		}
		return 0, 0, err
	}
	if s.failing.Load() && len(messages) > outboxProbe {
		// Sending has begun to fail since the limit was chosen.
		messages = messages[:outboxProbe]
	}
	unsent, err := s.send(s.ctx, messages)
	if gcerrors.Code(err) == gcerrors.InvalidArgument {
		// Pub/Sub refuses all messages of a call for one that is wrong.
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
			refused = messages[left[len(left)-1]].seq
			s.logger.Error("the topic refuses "+s.what+"; they stay in the outbox. Does its schema fit?",
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
		return 0, 0, e // they will be sent once more
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
	return len(messages), refused, nil
}
