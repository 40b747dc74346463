package predlog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"gocloud.dev/gcerrors"
	"gocloud.dev/pubsub"
	"gocloud.dev/pubsub/batcher"
	"gocloud.dev/pubsub/driver"
	"gocloud.dev/pubsub/mempubsub"
)

// fakeTopic is a topic driver that can be made to fail, hang or reject messages.
type fakeTopic struct {
	mu      sync.Mutex
	bodies  [][]byte
	failure error
	hang    bool
	reject  string // messages containing this text make the whole call fail
	calls   int
	empty   int           // calls without a message
	release chan struct{} // ends calls that hang
}

var errRejected = errors.New("invalid message")

func (f *fakeTopic) SendBatch(ctx context.Context, ms []*driver.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if len(ms) == 0 {
		f.empty++
	}
	if f.hang {
		f.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-f.release:
		}
		f.mu.Lock()
		return errDown
	}
	if f.failure != nil {
		return f.failure
	}
	for _, m := range ms {
		if f.reject != "" && bytes.Contains(m.Body, []byte(f.reject)) {
			return errRejected
		}
	}
	for _, m := range ms {
		f.bodies = append(f.bodies, m.Body)
	}
	return nil
}

func (*fakeTopic) IsRetryable(error) bool  { return false }
func (*fakeTopic) As(any) bool             { return false }
func (*fakeTopic) ErrorAs(error, any) bool { return false }
func (*fakeTopic) Close() error            { return nil }
func (*fakeTopic) ErrorCode(err error) gcerrors.ErrorCode {
	if errors.Is(err, errRejected) {
		return gcerrors.InvalidArgument
	}
	return gcerrors.Unknown
}

func (f *fakeTopic) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// ids returns the request IDs of the records that were sent, in order.
func (f *fakeTopic) ids(t *testing.T) (ids []string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, body := range f.bodies {
		var r Row
		if err := json.Unmarshal(body, &r); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.RequestID)
	}
	return ids
}

func quickly() *backoff.ExponentialBackOff { return newBackOff(time.Millisecond, 20*time.Millisecond) }

func hourly() *backoff.ExponentialBackOff { return newBackOff(time.Hour, time.Hour) }

func openPubSub(t *testing.T, topic *fakeTopic, options PubSubOptions) *PubSub {
	t.Helper()
	if options.Outbox == "" {
		options.Outbox = filepath.Join(t.TempDir(), "outbox.db")
	}
	p, err := newPubSub(t.Context(), pubsub.NewTopic(topic, nil), nil, options, 50*time.Millisecond, quickly)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		_ = p.Close(ctx)
	})
	return p
}

func spilled(t *testing.T, p *PubSub) int64 {
	t.Helper()
	n, err := p.Spilled(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func wantSent(t *testing.T, topic *fakeTopic, records []Record) {
	t.Helper()
	got := map[string]bool{}
	for _, id := range topic.ids(t) {
		got[id] = true
	}
	for i := range records {
		if !got[records[i].RequestID] {
			t.Errorf("%s was not sent", records[i].RequestID)
		}
	}
}

func TestPubSubWrite(t *testing.T) {
	ctx := t.Context()
	topic := mempubsub.NewTopic()
	subscription := mempubsub.NewSubscription(topic, time.Minute)
	defer func() { _ = subscription.Shutdown(ctx) }()
	var counts tally
	p, err := newPubSub(ctx, topic, nil, PubSubOptions{Outbox: filepath.Join(t.TempDir(), "outbox.db"), Count: counts.count}, time.Minute, hourly)
	if err != nil {
		t.Fatal(err)
	}
	records := newRecords(20)
	records[7].Image = []byte("an image")
	mustWrite(t, p)
	mustWrite(t, p, records...)
	want := map[string]string{}
	for _, r := range rowsOf(records) {
		want[r.ID] = mustJSON(t, r)
	}
	for range records {
		m, err := subscription.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		m.Ack()
		var r Row
		if err := json.Unmarshal(m.Body, &r); err != nil {
			t.Fatal(err)
		}
		if want[r.ID] != string(m.Body) {
			t.Errorf("got  %s\nwant %s", m.Body, want[r.ID])
		}
		delete(want, r.ID)
	}
	if len(want) != 0 || counts.of(Written) != 20 || counts.of(Spilled) != 0 || spilled(t, p) != 0 {
		t.Errorf("%d messages are missing, counted %v", len(want), counts.n)
	}
	mustClose(t, p)
}

func TestOpenPubSub(t *testing.T) {
	for _, test := range []struct{ name, topic, want string }{
		{"unknown driver", "carrier-pigeon://loft", "carrier-pigeon"},
		{"no URL", "", "topic"},
		{"unknown parameter", "mem://topic?x=1", "x"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := OpenPubSub(t.Context(), PubSubOptions{Topic: test.topic, Outbox: filepath.Join(t.TempDir(), "x.db")})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("OpenPubSub(%q) = %v, want an error containing %q", test.topic, err, test.want)
			}
		})
	}
	if _, err := OpenPubSub(t.Context(), PubSubOptions{Topic: "mem://" + uuid.NewString(), Outbox: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "outbox") {
		t.Errorf("OpenPubSub with a directory as outbox = %v, want an error", err)
	}
	if !pubsub.DefaultURLMux().ValidTopicScheme("gcppubsub") {
		t.Error("the driver gcppubsub is missing")
	}
	p, err := OpenPubSub(t.Context(), PubSubOptions{Topic: "mem://" + uuid.NewString(), Outbox: filepath.Join(t.TempDir(), "x.db")})
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, p, newRecords(1)...)
	mustClose(t, p)
}

func TestPubSub_Outbox(t *testing.T) {
	for _, test := range []struct {
		name     string
		down, up func(*fakeTopic)
	}{
		{"topic fails", func(f *fakeTopic) { f.failure = errDown }, func(f *fakeTopic) { f.failure = nil }},
		{"topic hangs", func(f *fakeTopic) { f.hang = true }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			topic, counts, lines := &fakeTopic{}, tally{}, logLines{}
			test.down(topic)
			outbox := filepath.Join(t.TempDir(), "outbox.db")
			p := openPubSub(t, topic, PubSubOptions{Outbox: outbox, Count: counts.count, Logger: lines.logger()})
			records := newRecords(50)
			for i := range 5 {
				mustWrite(t, p, records[10*i:10*i+10]...)
			}
			if n := spilled(t, p); n != 50 || counts.of(Spilled) != 50 || counts.of(Written) != 0 {
				t.Errorf("%d records in the outbox, counted %v, want 50 spilled", n, counts.n)
			}
			if test.up != nil {
				topic.set(func() { test.up(topic) })
			} else {
				// The connection keeps hanging. Simulate a new process with another connection.
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				_ = p.Close(ctx)
				topic = &fakeTopic{}
				p = openPubSub(t, topic, PubSubOptions{Outbox: outbox, Count: counts.count, Logger: lines.logger()})
			}
			eventually(t, "the outbox is sent", func() bool { return spilled(t, p) == 0 && counts.of(Written) >= 50 })
			wantSent(t, topic, records)
			// A failing topic is retried with the ten oldest records.
			if first := topic.ids(t)[0]; test.up != nil && first >= "request-10" && len(first) > len("request-0") {
				t.Errorf("%s was sent first", first)
			}
			if !strings.Contains(lines.String(), "storing them in the outbox") {
				t.Errorf("log: %s", lines.String())
			}
			more := newRecord(100)
			mustWrite(t, p, *more)
			eventually(t, "a new record is sent", func() bool { return counts.of(Written) >= 51 })
			wantSent(t, topic, []Record{*more})
		})
	}
}

func TestOpenPubSub_SendsOutbox(t *testing.T) {
	topic := &fakeTopic{failure: errDown}
	outbox := filepath.Join(t.TempDir(), "outbox.db")
	p := openPubSub(t, topic, PubSubOptions{Outbox: outbox})
	records := newRecords(30)
	records[3].Image = []byte("an image")
	mustWrite(t, p, records...)
	mustClose(t, p)

	topic = &fakeTopic{}
	p = openPubSub(t, topic, PubSubOptions{Outbox: outbox})
	eventually(t, "the outbox is sent", func() bool { return spilled(t, p) == 0 })
	wantSent(t, topic, records)
	for _, body := range topic.bodies {
		var r Row
		if err := json.Unmarshal(body, &r); err != nil {
			t.Fatal(err)
		}
		if r.RequestID == "request-3" && string(r.Image) != "an image" {
			t.Errorf("image = %q", r.Image)
		}
		if want := newRecord(0).Embedding[5]; r.RequestID == "request-0" && r.Embedding[5] != want {
			t.Errorf("embedding = %v", r.Embedding)
		}
	}
}

func TestPubSubWrite_WhileSendingFails(t *testing.T) {
	topic := &fakeTopic{failure: errDown}
	p, err := newPubSub(t.Context(), pubsub.NewTopic(topic, nil), nil, PubSubOptions{Outbox: filepath.Join(t.TempDir(), "outbox.db")}, time.Minute, hourly)
	if err != nil {
		t.Fatal(err)
	}
	records := newRecords(100)
	mustWrite(t, p, records[0])
	eventually(t, "the sender waits", func() bool { topic.mu.Lock(); defer topic.mu.Unlock(); return topic.calls >= 2 })
	calls := topic.calls
	for i := range records[1:] {
		mustWrite(t, p, records[1+i])
	}
	if topic.calls != calls {
		t.Errorf("%d more attempts, want none", topic.calls-calls)
	}
	if n := spilled(t, p); n != 100 {
		t.Errorf("%d records in the outbox", n)
	}
	mustClose(t, p)
}

func TestPubSub_RejectedRecord(t *testing.T) {
	topic, lines := &fakeTopic{failure: errDown, reject: "request-3\""}, logLines{}
	p := openPubSub(t, topic, PubSubOptions{Logger: lines.logger()})
	records := newRecords(20)
	mustWrite(t, p, records...)
	topic.set(func() { topic.failure = nil })
	eventually(t, "all but one are sent", func() bool { return spilled(t, p) == 1 })
	mustWrite(t, p, *newRecord(50))
	eventually(t, "later records are sent", func() bool { return len(topic.ids(t)) >= 20 && spilled(t, p) == 1 })
	if !strings.Contains(lines.String(), "rejects") {
		t.Errorf("log: %s", lines.String())
	}
	topic.set(func() { topic.reject = "" })
	eventually(t, "the last record is sent", func() bool { return spilled(t, p) == 0 })
	wantSent(t, topic, records)
}

func TestPubSub_OutboxFails(t *testing.T) {
	topic, counts := &fakeTopic{failure: errDown}, tally{}
	p := openPubSub(t, topic, PubSubOptions{Count: counts.count})
	p.outbox.mu.Lock()
	_, err := p.outbox.db.insert.conn.ExecContext(t.Context(), "PRAGMA max_page_count = 1")
	p.outbox.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	l := New(p, Options{Count: counts.count})
	records := newRecords(100)
	for i := range records {
		mustAppend(t, l, &records[i])
	}
	eventually(t, "the log fails", func() bool { return isFull(l.Err()) })
	// It is enough that the topic recovers; the outbox doesn't.
	topic.set(func() { topic.failure = nil })
	eventually(t, "the log works", func() bool { return l.Err() == nil && l.Waiting() == 0 && spilled(t, p) == 0 })
	wantSent(t, topic, records)
	if counts.of(Failed) != 0 || counts.of(Written) < 100 {
		t.Errorf("counted %v", counts.n)
	}
	mustClose(t, l)
}

func TestPubSubWrite_LargeImage(t *testing.T) {
	topic, lines := &fakeTopic{}, logLines{}
	p := openPubSub(t, topic, PubSubOptions{Logger: lines.logger()})
	p.records.attempt = time.Minute
	records := newRecords(2)
	records[0].Image = make([]byte, 5<<20)
	records[1].Image = make([]byte, 6<<20)
	mustWrite(t, p, records...)
	for _, body := range topic.bodies {
		var r Row
		if err := json.Unmarshal(body, &r); err != nil {
			t.Fatal(err)
		}
		if has := len(r.Image) > 0; has != (r.RequestID == "request-0") || len(body) > 8<<20 {
			t.Errorf("%s has an image: %v, message size %d bytes", r.RequestID, has, len(body))
		}
	}
	if got := strings.Count(lines.String(), "without it"); got != 1 {
		t.Errorf("log: %s", lines.String())
	}
}

func TestLogClose_SpillsUnsentRecords(t *testing.T) {
	topic, counts := &fakeTopic{hang: true}, tally{}
	outbox := filepath.Join(t.TempDir(), "outbox.db")
	p, err := newPubSub(t.Context(), pubsub.NewTopic(topic, nil), nil, PubSubOptions{Outbox: outbox, Count: counts.count}, time.Hour, hourly)
	if err != nil {
		t.Fatal(err)
	}
	l := New(p, Options{Count: counts.count})
	mustAppend(t, l, newRecord(0))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_ = l.Close(ctx)
	if counts.of(Spilled) != 1 || counts.of(Failed) != 0 {
		t.Errorf("counted %v", counts.n)
	}
	s := openSQLite(t, SQLiteOptions{Path: outbox})
	if n := len(allRowsAtOnce(t, s)); n != 1 {
		t.Errorf("%d records in the outbox", n)
	}
}

// gcpBatches are the batches of the driver for Pub/Sub.
var gcpBatches = &batcher.Options{MaxBatchSize: 1000, MaxHandlers: 2, MaxBatchByteSize: 8 << 20}

func TestPubSubClose_WhileSending(t *testing.T) {
	topic := &fakeTopic{hang: true, release: make(chan struct{})}
	outbox := filepath.Join(t.TempDir(), "outbox.db")
	p, err := newPubSub(t.Context(), pubsub.NewTopic(topic, gcpBatches), pubsub.NewTopic(topic, gcpBatches), PubSubOptions{Outbox: outbox}, 10*time.Millisecond, hourly)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, p, newRecords(1)...)
	if _, err := p.Feedback(t.Context(), Feedback{ID: uuid.NewString(), Time: time.Now(), Label: "REAL"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Errorf("Close = %v, want nil: the records are in the outbox", err)
	}
	close(topic.release)
	s := openSQLite(t, SQLiteOptions{Path: outbox})
	if n := len(allRowsAtOnce(t, s)); n != 1 {
		t.Errorf("%d records in the outbox, want 1", n)
	}
	topic.mu.Lock()
	defer topic.mu.Unlock()
	if topic.empty > 0 {
		t.Errorf("%d empty batches were published", topic.empty)
	}
}

func TestPubSub_TopicRejectsEverything(t *testing.T) {
	topic, lines := &fakeTopic{reject: "{"}, logLines{}
	p, err := newPubSub(t.Context(), pubsub.NewTopic(topic, gcpBatches), pubsub.NewTopic(topic, gcpBatches),
		PubSubOptions{Outbox: filepath.Join(t.TempDir(), "outbox.db"), Logger: lines.logger()}, time.Minute, hourly)
	if err != nil {
		t.Fatal(err)
	}
	records := newRecords(300)
	for i := range 30 {
		mustWrite(t, p, records[10*i:10*i+10]...)
	}
	if _, err := p.Feedback(t.Context(), Feedback{ID: uuid.NewString(), Time: time.Now(), Label: "REAL"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are reported", func() bool { return strings.Count(lines.String(), "rejects") == 2 })
	topic.mu.Lock()
	calls := topic.calls
	topic.mu.Unlock()
	mustWrite(t, p, newRecords(1)...)
	if n := spilled(t, p); n != 302 {
		t.Errorf("%d messages in the outbox, want 302", n)
	}
	mustClose(t, p)
	if topic.calls != calls+1 {
		t.Errorf("%d calls after the report, want 1 for the new record", topic.calls-calls)
	}
	logged := lines.String()
	if strings.Count(logged, "\n") != 2 || strings.Count(logged, errRejected.Error()) != 2 {
		t.Errorf("want a line for predictions and one for feedback, with the reason, got\n%s", logged)
	}
}

func TestPubSub_RejectedRecords(t *testing.T) {
	for _, test := range []struct {
		name    string
		reject  string
		batches *batcher.Options
		reason  string
	}{
		{"invalid", `"request-7`, gcpBatches, errRejected.Error()}, // 111 of 800 records
		{"too large", "", &batcher.Options{MaxBatchByteSize: 8000}, "too large"},
	} {
		t.Run(test.name, func(t *testing.T) {
			topic, lines := &fakeTopic{failure: errDown, reject: test.reject}, logLines{}
			intervals := []func() *backoff.ExponentialBackOff{quickly, hourly} // while sending fails, and for rejected records
			p, err := newPubSub(t.Context(), pubsub.NewTopic(topic, test.batches), nil,
				PubSubOptions{Outbox: filepath.Join(t.TempDir(), "outbox.db"), Logger: lines.logger()}, time.Minute, func() *backoff.ExponentialBackOff {
					next := intervals[0]
					intervals = intervals[1:]
					return next()
				})
			if err != nil {
				t.Fatal(err)
			}
			records := newRecords(800)
			var valid []Record
			for i := range records {
				bad := test.reject != "" && strings.Contains(mustJSON(t, records[i].row()), test.reject)
				if test.reject == "" && i%100 == 7 {
					bad, records[i].Image = true, make([]byte, 8000)
				}
				if !bad {
					valid = append(valid, records[i])
				}
			}
			mustWrite(t, p, records...)
			topic.set(func() { topic.failure = nil })
			left := int64(len(records) - len(valid))
			eventually(t, "all valid records are sent", func() bool { return spilled(t, p) == left })
			eventually(t, "the others are reported", func() bool { return strings.Contains(lines.String(), "rejects") })
			wantSent(t, topic, valid)
			mustClose(t, p)
			logged := lines.String()
			if want := fmt.Sprintf("records=%d", left); strings.Count(logged, "rejects") != 1 || !strings.Contains(logged, want) || !strings.Contains(logged, test.reason) {
				t.Errorf("want one line with %s and %q, got\n%s", want, test.reason, logged)
			}
		})
	}
}
