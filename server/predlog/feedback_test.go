package predlog

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/parquet-go/parquet-go"
	"gocloud.dev/pubsub"
)

// feedbackAt is the time of the first feedback of a test.
var feedbackAt = time.Date(2026, 11, 27, 10, 0, 0, 123456000, time.UTC)

// on returns feedback on the record.
func on(r *Record, label, comment string, after time.Duration) Feedback {
	return Feedback{ID: r.row().ID, Time: feedbackAt.Add(after), Label: label, Comment: comment}
}

func mustGive(t *testing.T, s FeedbackStore, f Feedback) FeedbackResult {
	t.Helper()
	h, err := s.Feedback(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func entries(t *testing.T, s Reader) []Entry {
	t.Helper()
	page, _, err := s.Page(t.Context(), "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

func TestSQLiteFeedback_LatestAndHistory(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	records := newRecords(3)
	mustWrite(t, s, records...)
	first := mustGive(t, s, on(&records[1], "REAL", "mine", 0))
	if first.PredictedLabel != records[1].Label || first.Duplicate || !first.Time.Equal(feedbackAt) {
		t.Errorf("first feedback: %+v", first)
	}
	again := mustGive(t, s, on(&records[1], "REAL", "mine", time.Hour))
	if !again.Duplicate || !again.Time.Equal(feedbackAt) || again.PredictedLabel != first.PredictedLabel {
		t.Errorf("duplicate feedback: %+v", again)
	}
	mustGive(t, s, on(&records[1], "REAL", "mine, really", time.Minute))
	mustGive(t, s, on(&records[1], "FAKE", "", 2*time.Minute))
	mustGive(t, s, on(&records[1], "REAL", "mine", 3*time.Minute)) // not a duplicate: it isn't the latest any more
	if got := query(t, s.options.Path, "SELECT group_concat(label || ' ' || comment || ' ' || substr(time, 15, 2), ', ') FROM (SELECT * FROM feedback ORDER BY seq)"); got != "REAL mine 00, REAL mine, really 01, FAKE  02, REAL mine 03" {
		t.Errorf("history = %s", got)
	}
	got := entries(t, s)
	if e := got[1]; e.FeedbackLabel != "REAL" || e.FeedbackComment != "mine" || !e.FeedbackTime.Equal(feedbackAt.Add(3*time.Minute)) {
		t.Errorf("entry = %+v, want REAL, mine", e)
	}
	for _, e := range []Entry{got[0], got[2]} {
		if e.FeedbackLabel != "" || e.FeedbackTime != nil {
			t.Errorf("entry = %+v, want no feedback", e)
		}
	}
	// The history is limited.
	for i := range 3 * maxHistory {
		mustGive(t, s, on(&records[0], "REAL", fmt.Sprint(i), time.Hour))
	}
	if got := query(t, s.options.Path, "SELECT count(*) || ' ' || max(CAST(comment AS INTEGER)) || ' ' || min(CAST(comment AS INTEGER)) FROM feedback WHERE comment NOT LIKE '%mine%' AND comment <> ''"); got != "20 59 40" {
		t.Errorf("count, last and first of the kept feedback = %s, want 20 59 40", got)
	}
	if _, err := s.Feedback(t.Context(), Feedback{ID: uuid.NewString(), Time: feedbackAt, Label: "REAL"}); !errors.Is(err, ErrUnknownPrediction) {
		t.Errorf("unknown ID: error %v, want ErrUnknownPrediction", err)
	}
	// Comments are stored literally.
	odd := "'; DROP TABLE feedback; -- \x00 \u202e 🙂"
	mustGive(t, s, on(&records[2], "FAKE", odd, 0))
	if got := entries(t, s)[0].FeedbackComment; got != odd {
		t.Errorf("comment = %q, want %q", got, odd)
	}
}

func TestLogFeedback_BufferedPrediction(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	l := New(s, Options{})
	defer mustClose(t, l)
	for i := range 20 {
		r := newRecord(i)
		mustAppend(t, l, r)
		h, err := l.Feedback(t.Context(), on(r, "REAL", "", 0))
		if err != nil || h.PredictedLabel != r.Label {
			t.Fatalf("Feedback on record %d = %+v, %v", i, h, err)
		}
	}
	if _, err := l.Feedback(t.Context(), Feedback{ID: uuid.NewString(), Time: feedbackAt, Label: "REAL"}); !errors.Is(err, ErrUnknownPrediction) {
		t.Errorf("unknown ID: error %v, want ErrUnknownPrediction", err)
	}
	for _, f := range []Feedback{
		{ID: "x", Time: feedbackAt, Label: "REAL"},
		{ID: uuid.NewString(), Time: feedbackAt},
		{ID: uuid.NewString(), Time: feedbackAt, Label: "REAL", Comment: strings.Repeat("ä", 1001)},
		{ID: uuid.NewString(), Time: feedbackAt, Label: "REAL", Comment: "\xff"},
	} {
		if _, err := l.Feedback(t.Context(), f); !errors.Is(err, ErrInvalid) {
			t.Errorf("Feedback(%+v) = %v, want ErrInvalid", f, err)
		}
	}
}

func TestFlush(t *testing.T) {
	store := &memory{}
	l := New(store, Options{})
	defer mustClose(t, l)
	eventually(t, "the log is idle", func() bool { return l.Waiting() == 0 })
	if err := l.Flush(t.Context()); err != nil {
		t.Errorf("Flush of an empty log = %v", err)
	}
	release := store.hold()
	mustAppend(t, l, newRecord(0))
	flushed := make(chan error, 2)
	go func() { flushed <- l.Flush(t.Context()) }()
	mustAppend(t, l, newRecord(1))
	go func() { flushed <- l.Flush(t.Context()) }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := l.Flush(ctx); !errors.Is(err, ErrNotDurable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Flush while the store is blocked = %v, want ErrNotDurable", err)
	}
	release()
	for range 2 {
		if err := <-flushed; err != nil {
			t.Error(err)
		}
	}
	if n := len(store.read()); n != 2 {
		t.Errorf("%d records written, want 2", n)
	}
	store.fail(errDown)
	mustAppend(t, l, newRecord(2))
	if err := l.Flush(t.Context()); !errors.Is(err, ErrNotDurable) || !errors.Is(err, errDown) {
		t.Errorf("Flush while the store fails = %v, want ErrNotDurable", err)
	}
	eventually(t, "the failure is known", func() bool { return l.Err() != nil })
	if err := l.Flush(t.Context()); !errors.Is(err, ErrNotDurable) {
		t.Errorf("Flush after the store failed = %v, want ErrNotDurable", err)
	}
	store.fail(nil)
	if _, err := l.Feedback(t.Context(), on(newRecord(0), "REAL", "", 0)); !errors.Is(err, ErrNoFeedback) {
		t.Errorf("Feedback to a store without feedback = %v, want ErrNoFeedback", err)
	}
}

func TestSQLiteFeedback_DeletedWithPrediction(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{MaxRows: 5})
	records := newRecords(10)
	mustWrite(t, s, records...)
	for i := range records {
		// The first records may already be deleted.
		if _, err := s.Feedback(t.Context(), on(&records[i], "REAL", "", 0)); err != nil && !errors.Is(err, ErrUnknownPrediction) {
			t.Fatal(err)
		}
	}
	if err := s.retain(time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := query(t, s.options.Path, "SELECT count(*) || ' ' || (SELECT count(*) FROM predictions JOIN feedback USING (id)) FROM feedback"); got != "5 5" {
		t.Errorf("feedback rows, and those with a prediction = %s, want 5 5", got)
	}
}

func TestOpenSQLite_MigratesFeedback(t *testing.T) {
	path := filepath.Join(t.TempDir(), "old.db")
	s := openSQLite(t, SQLiteOptions{Path: path})
	records := newRecords(3)
	for i := range records {
		records[i].Orientation, records[i].ModelName = 0, "" // unknown: the first version didn't log them
	}
	mustWrite(t, s, records...)
	// Restore the schema of the first version.
	for _, text := range []string{
		"ALTER TABLE predictions DROP COLUMN orientation", "ALTER TABLE predictions DROP COLUMN model_name", "DROP TABLE models",
		"DROP TRIGGER predictions_delete_feedback", "DROP TABLE feedback", "DROP TABLE unsent_feedback", "DELETE FROM goose_db_version WHERE version_id >= 2",
	} {
		if _, err := s.db.insert.conn.ExecContext(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, s)
	s = openSQLite(t, SQLiteOptions{Path: path})
	equalRows(t, allRows(t, s), rowsOf(records))
	mustGive(t, s, on(&records[0], "FAKE", "", 0))
	if got := entries(t, s)[2].FeedbackLabel; got != "FAKE" {
		t.Errorf("feedback label = %q, want FAKE", got)
	}
}

func TestExport_Feedback(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	records := newRecords(3)
	mustWrite(t, s, records...)
	mustGive(t, s, on(&records[0], "REAL", "first", 0))
	mustGive(t, s, on(&records[0], "FAKE", "=1+1", time.Second))
	mustGive(t, s, on(&records[2], "REAL", "", 2*time.Second))
	check := func(t *testing.T, got []Entry, formula string) {
		t.Helper()
		for i, want := range []struct {
			label, comment string
			at             time.Duration
		}{{"FAKE", formula, time.Second}, {}, {"REAL", "", 2 * time.Second}} {
			e := got[i]
			if e.ID != records[i].row().ID || e.FeedbackLabel != want.label || e.FeedbackComment != want.comment {
				t.Errorf("row %d = %+v", i, e)
			}
			if has := e.FeedbackTime != nil; has != (want.label != "") || has && !e.FeedbackTime.Equal(feedbackAt.Add(want.at)) {
				t.Errorf("row %d: feedback time %v", i, e.FeedbackTime)
			}
		}
	}
	export := func(t *testing.T, format Format) []byte {
		t.Helper()
		var b bytes.Buffer
		if err := s.Export(t.Context(), &b, format); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	t.Run("ndjson", func(t *testing.T) {
		var got []Entry
		for line := range bytes.Lines(export(t, NDJSON)) {
			var e Entry
			if err := json.Unmarshal(line, &e); err != nil {
				t.Fatal(err)
			}
			got = append(got, e)
			if bytes.Contains(line, []byte("feedback")) != (e.FeedbackLabel != "") {
				t.Errorf("%s", line)
			}
		}
		check(t, got, "=1+1")
	})
	t.Run("csv", func(t *testing.T) {
		lines, err := csv.NewReader(bytes.NewReader(export(t, CSV))).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		var got []Entry
		for _, line := range lines[1:] {
			field := func(name string) string { return line[slices.Index(lines[0], name)] }
			e := Entry{Row: Row{ID: field("id")}, FeedbackLabel: field("feedback_label"), FeedbackComment: field("feedback_comment")}
			if text := field("feedback_time"); text != "" {
				at, err := time.Parse(timeFormat, text)
				if err != nil {
					t.Error(err)
				}
				e.FeedbackTime = &at
			}
			got = append(got, e)
		}
		check(t, got, "'=1+1") // not a formula in a spreadsheet
	})
	t.Run("parquet", func(t *testing.T) {
		data := export(t, Parquet)
		got, err := parquet.Read[Entry](bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		check(t, got, "=1+1")
	})
	t.Run("sqlite", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "copy.db")
		if err := os.WriteFile(path, export(t, Database), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := query(t, path, "SELECT count(*) FROM feedback"); got != "3" {
			t.Errorf("%s rows of feedback, want the whole history of 3", got)
		}
		got := entries(t, openSQLite(t, SQLiteOptions{Path: path}))
		slices.Reverse(got)
		check(t, got, "=1+1")
	})
}

func TestSQLiteFeedback_VanishedOrDamagedDatabase(t *testing.T) {
	for _, test := range []struct {
		name string
		harm func(t *testing.T, path string)
	}{
		{"vanished", func(t *testing.T, path string) {
			t.Helper()
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}},
		{"damaged", func(t *testing.T, path string) {
			t.Helper()
			change(t, path, func(data []byte) []byte { copy(data[100:], garbage(len(data)-100)); return data })
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filled(t)
			lines := logLines{}
			s := openSQLite(t, SQLiteOptions{Path: path, Logger: lines.logger()})
			known := entries(t, s)[0]
			test.harm(t, path)
			// The prediction is lost with the database. New predictions go to a new one.
			eventually(t, "there is a new database", func() bool {
				_, err := s.Feedback(t.Context(), Feedback{ID: known.ID, Time: feedbackAt, Label: "REAL"})
				return errors.Is(err, ErrUnknownPrediction)
			})
			r := newRecord(1000)
			mustWrite(t, s, *r)
			mustGive(t, s, on(r, "REAL", "", 0))
		})
	}
}

func TestSQLiteFeedback_FullDatabase(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	records := newRecords(50)
	mustWrite(t, s, records...)
	limit := func(pages string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, err := s.db.insert.conn.ExecContext(t.Context(), "PRAGMA max_page_count = "+pages); err != nil {
			t.Fatal(err)
		}
	}
	limit("1") // no more than there already are
	full := 0
	for i := range records {
		_, err := s.Feedback(t.Context(), on(&records[i], "REAL", strings.Repeat("ä", MaxComment), 0))
		if err != nil && !isFull(err) {
			t.Fatal(err)
		}
		if err != nil {
			full++
		}
	}
	if full == 0 {
		t.Error("the database never became full")
	}
	limit("1000000")
	for i := range records {
		mustGive(t, s, on(&records[i], "REAL", strings.Repeat("ä", MaxComment), 0))
	}
	mustWrite(t, s, *newRecord(1000)) // no transaction was left open
	if got := query(t, s.options.Path, "SELECT count(*) || ' ' || count(DISTINCT id) FROM feedback"); got != "50 50" {
		t.Errorf("rows and distinct predictions = %s, want 50 50", got)
	}
}

func TestAccuracy(t *testing.T) {
	s := openSQLite(t, SQLiteOptions{})
	records := newRecords(1500)
	for i := range records {
		records[i].Label, records[i].Model = "FAKE", "sha256:a"
		if i >= 1400 {
			records[i].Model = "sha256:b"
		}
	}
	mustWrite(t, s, records...)
	want := func(model string, right, of int64) {
		t.Helper()
		if r, n, err := s.Accuracy(t.Context(), model); err != nil || r != right || n != of {
			t.Errorf("Accuracy(%s) = %d of %d (%v), want %d of %d", model, r, n, err, right, of)
		}
	}
	want("sha256:a", 0, 0)
	mustGive(t, s, on(&records[0], "REAL", "", 0))
	mustGive(t, s, on(&records[1], "FAKE", "", 0))
	mustGive(t, s, on(&records[1400], "FAKE", "", 0))
	want("sha256:a", 1, 2)
	want("sha256:b", 1, 1)
	mustGive(t, s, on(&records[0], "FAKE", "", 0)) // changed feedback counts once
	want("sha256:a", 2, 2)
	for i := range 1200 { // only the latest thousand count
		label := "REAL"
		if i >= 1100 {
			label = "FAKE"
		}
		mustGive(t, s, on(&records[i], label, "again", 0))
	}
	want("sha256:a", 100, 1000)
	want("sha256:b", 1, 1)
}

func openWithFeedback(t *testing.T, topic, feedback *fakeTopic, outbox string) *PubSub {
	t.Helper()
	p, err := newPubSub(t.Context(), pubsub.NewTopic(topic, nil), pubsub.NewTopic(feedback, nil), PubSubOptions{Outbox: outbox}, 50*time.Millisecond, quickly)
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

// comments returns the comments of the feedback that was sent.
func (f *fakeTopic) comments(t *testing.T) (comments []string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, body := range f.bodies {
		var feedback Feedback
		if err := json.Unmarshal(body, &feedback); err != nil {
			t.Fatal(err)
		}
		comments = append(comments, feedback.Comment)
	}
	return comments
}

func TestPubSubFeedback_Outbox(t *testing.T) {
	topic, feedback := &fakeTopic{failure: errDown}, &fakeTopic{failure: errDown, reject: `"c3"`}
	outbox := filepath.Join(t.TempDir(), "outbox.db")
	p := openWithFeedback(t, topic, feedback, outbox)
	records := newRecords(5)
	mustWrite(t, p, records...)
	for i := range records {
		if h := mustGive(t, p, on(&records[i], "REAL", fmt.Sprint("c", i), 0)); h.PredictedLabel != records[i].Label {
			t.Errorf("Feedback = %+v", h)
		}
	}
	if n := spilled(t, p); n != 10 {
		t.Errorf("%d messages in the outbox, want 10", n)
	}
	topic.set(func() { topic.failure = nil })
	eventually(t, "the predictions are sent", func() bool { return len(topic.ids(t)) == 5 && spilled(t, p) == 5 })
	mustClose(t, p)

	// Another process sends the feedback. A rejected message doesn't hold up the others.
	p = openWithFeedback(t, topic, feedback, outbox)
	feedback.set(func() { feedback.failure = nil })
	eventually(t, "all but one are sent", func() bool { return len(feedback.comments(t)) == 4 && spilled(t, p) == 1 })
	feedback.set(func() { feedback.reject = "" })
	eventually(t, "the last one is sent", func() bool { return spilled(t, p) == 0 })
	got := feedback.comments(t)
	slices.Sort(got)
	if strings.Join(got, " ") != "c0 c1 c2 c3 c4" {
		t.Errorf("sent %v", got)
	}
	// A prediction that this process has not written.
	if h := mustGive(t, p, on(newRecord(99), "REAL", "", 0)); h.PredictedLabel != "" {
		t.Errorf("Feedback = %+v", h)
	}
}

func TestPubSubFeedback_TopicAndOutboxFail(t *testing.T) {
	feedback := &fakeTopic{failure: errDown}
	p := openWithFeedback(t, &fakeTopic{}, feedback, filepath.Join(t.TempDir(), "outbox.db"))
	p.outbox.mu.Lock()
	_, err := p.outbox.db.insert.conn.ExecContext(t.Context(), "PRAGMA max_page_count = 1")
	p.outbox.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	f := on(newRecord(0), "REAL", strings.Repeat("long ", 200), 0)
	eventually(t, "the outbox is full", func() bool {
		_, err = p.Feedback(t.Context(), f)
		return err != nil
	})
	if !isFull(err) || !strings.Contains(err.Error(), "cannot send feedback") {
		t.Error(err)
	}
	feedback.set(func() { feedback.failure = nil })
	// An attempt to send the outbox may have started before, and fail afterwards.
	eventually(t, "the feedback is accepted", func() bool {
		_, err = p.Feedback(t.Context(), f)
		return err == nil
	})
}

func TestPubSubFeedback_Duplicate(t *testing.T) {
	feedback := &fakeTopic{}
	p := openWithFeedback(t, &fakeTopic{}, feedback, filepath.Join(t.TempDir(), "outbox.db"))
	r := newRecord(0)
	mustWrite(t, p, *r)
	mustGive(t, p, on(r, "REAL", "a", 0))
	if h := mustGive(t, p, on(r, "REAL", "a", time.Hour)); !h.Duplicate || !h.Time.Equal(feedbackAt) || h.PredictedLabel != r.Label {
		t.Errorf("Feedback = %+v", h)
	}
	mustGive(t, p, on(r, "FAKE", "a", time.Hour))
	mustGive(t, p, on(r, "REAL", "a", 2*time.Hour))
	if n := len(feedback.comments(t)); n != 3 {
		t.Errorf("%d messages sent, want 3", n)
	}
}

// TestFeedback_Labels checks that feedback on a prediction can only have the labels of the model that made it.
func TestFeedback_Labels(t *testing.T) {
	path := filepath.Join(t.TempDir(), "labels.db")
	cats, dogs, unknown := "sha256:"+strings.Repeat("c", 64), "sha256:"+strings.Repeat("d", 64), "sha256:"+strings.Repeat("e", 64)
	many := []string{"other"}
	for i := range 20 {
		many = append(many, fmt.Sprintf("breed %d", i))
	}
	records := newRecords(3)
	for i, model := range []string{cats, dogs, unknown} {
		records[i].Model, records[i].Label = model, []string{"tabby", "breed 3", "lost"}[i]
	}
	check := func(t *testing.T, s FeedbackStore) {
		t.Helper()
		for _, test := range []struct {
			record int
			label  string
			valid  int // number of valid labels if it's rejected
		}{
			{0, "tabby", 0},
			{0, "siamese", 0},
			{0, "breed 3", 2},
			{0, "TABBY", 2},
			{1, "breed 19", 0},
			{1, "tabby", 21},
			{2, "lost", 0},
			{2, "tabby", 0},
			{2, "breed 0", 0},
			{2, "found", 23}, // the labels of its model are unknown
		} {
			_, err := s.Feedback(t.Context(), on(&records[test.record], test.label, "", 0))
			e, rejected := errors.AsType[*LabelError](err)
			if rejected != (test.valid > 0) || rejected && len(e.Valid) != test.valid || !rejected && err != nil {
				t.Errorf("%q on a prediction of %s: error %v, want %d valid labels", test.label, records[test.record].Model, err, test.valid)
			}
		}
	}
	s := openSQLite(t, SQLiteOptions{Path: path})
	mustWrite(t, s, records...)
	if _, err := s.Feedback(t.Context(), on(&records[0], "anything", "", 0)); err != nil {
		t.Errorf("without known models: %v", err)
	}
	for model, labels := range map[string][]string{cats: {"tabby", "siamese"}, dogs: many} {
		for range 2 {
			if err := s.SetLabels(t.Context(), model, labels); err != nil {
				t.Fatal(err)
			}
		}
	}
	check(t, s)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, s, records...) // into a new database
	check(t, s)
	mustClose(t, s)
	s = openSQLite(t, SQLiteOptions{Path: path}) // another process
	check(t, s)
	_, err := s.Feedback(t.Context(), on(&records[1], "tabby", "", 0))
	if text := fmt.Sprint(err); !strings.Contains(text, `"tabby"`) || !strings.Contains(text, `"breed 8", 11 more`) || strings.Contains(text, "breed 9") {
		t.Errorf("error %q, want one with the first ten of 21 labels", text)
	}
}

func TestRecent(t *testing.T) {
	var r recent
	records := make([]Record, recentPredictions+10)
	for i := range records {
		records[i] = Record{ID: [16]byte(uuid.Must(uuid.NewV7())), Label: []string{"REAL", "FAKE"}[i%2]}
	}
	var group sync.WaitGroup
	group.Go(func() { // concurrently
		for range 1000 {
			r.prediction(uuid.UUID(records[len(records)-1].ID).String())
		}
	})
	r.add(records[:10])
	r.add(records[:10]) // a batch that is retried
	r.add(records[10:])
	group.Wait()
	if len(r.byID) != recentPredictions || len(r.ring) != recentPredictions {
		t.Errorf("%d predictions remembered, in a ring of %d", len(r.byID), len(r.ring))
	}
	for i, known := range map[int]bool{0: false, 9: false, 10: true, len(records) - 1: true} {
		if p, ok := r.prediction(uuid.UUID(records[i].ID).String()); ok != known || ok && p.label != records[i].Label {
			t.Errorf("label of record %d = %q, %v, want known %v", i, p.label, ok, known)
		}
	}
}

// BenchmarkRecent measures the cost of remembering a record in a write-only store.
func BenchmarkRecent(b *testing.B) {
	var r recent
	records := newRecords(100)
	for b.Loop() {
		for i := range records {
			records[i].ID = [16]byte(uuid.Must(uuid.NewV7()))
		}
		r.add(records)
	}
}

// BenchmarkFeedback measures the cost of storing feedback.
func BenchmarkFeedback(b *testing.B) {
	s, err := OpenSQLite(b.Context(), SQLiteOptions{Path: filepath.Join(b.TempDir(), "x.db")})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close(context.Background()) }()
	records := newRecords(1000)
	if err := s.Write(b.Context(), records); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		if _, err := s.Feedback(b.Context(), on(&records[i%1000], "REAL", fmt.Sprint(i), 0)); err != nil {
			b.Fatal(err)
		}
	}
}
