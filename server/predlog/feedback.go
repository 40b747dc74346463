package predlog

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

var (
	// ErrUnknownPrediction means that the log has no prediction of that id.
	ErrUnknownPrediction = errors.New("no such prediction in the log")
	// ErrNoFeedback means that the store does not keep feedback.
	ErrNoFeedback = errors.New("feedback is not kept")
)

const (
	// MaxComment is how many characters a comment may have.
	MaxComment = 1000
	// maxHistory is how many times feedback on one prediction is kept: whoever changes
	// their mind without end must not fill the disk.
	maxHistory = 20
)

// Feedback is what a user said of a prediction. In a store of several rows for one
// prediction the last one counts.
type Feedback struct {
	ID      string    `json:"id" doc:"UUIDv7 of the prediction's record."`
	Time    time.Time `json:"time" doc:"When it was said, UTC, with microseconds. Of one prediction the latest counts."`
	Label   string    `json:"label" doc:"What the picture is, as the user says: REAL or FAKE."`
	Comment string    `json:"comment" doc:"The user's own words; may be empty."`
}

// MarshalJSON writes the time with exactly six decimals.
func (f Feedback) MarshalJSON() ([]byte, error) {
	type plain Feedback
	return json.Marshal(struct {
		ID   string `json:"id"`
		Time string `json:"time"`
		plain
	}{f.ID, f.Time.UTC().Format(timeFormat), plain(f)})
}

// FeedbackResult is what became of feedback.
type FeedbackResult struct {
	// Feedback is what is stored: with an earlier time where the same was said before.
	Feedback
	// Verdict is the prediction's label; empty when the store cannot know.
	PredictedLabel string
	// Again means that the last feedback on this prediction says the same: nothing was stored.
	Duplicate bool
}

// FeedbackStore is a Store that keeps feedback, too. These methods may be called by
// several goroutines at once, and beside the others.
type FeedbackStore interface {
	Store
	// HasPrediction tells whether the store knows the verdict of the prediction, of those that
	// have been written.
	HasPrediction(ctx context.Context, id string) (bool, error)
	// Feedback stores the feedback, as safe as Write does. ErrUnknownPrediction means that there
	// is no such prediction.
	Feedback(ctx context.Context, f Feedback) (FeedbackResult, error)
}

// Feedback stores what a user said of a prediction; when it returns without an error it
// is as safe as the store promises. A prediction that is still in memory is written first.
//
// ErrUnknownPrediction means that there is no such prediction, ErrNoFeedback that the store keeps
// none, ErrInvalid that no store could keep it, and any other error that it could not be
// stored now.
func (l *Log) Feedback(ctx context.Context, f Feedback) (FeedbackResult, error) {
	id, err := uuid.Parse(f.ID)
	switch {
	case err != nil:
		return FeedbackResult{}, fmt.Errorf("%w: feedback: id %.50q: %w", ErrInvalid, f.ID, err)
	case f.Label == "" || !utf8.ValidString(f.Comment) || utf8.RuneCountInString(f.Comment) > MaxComment:
		return FeedbackResult{}, fmt.Errorf("%w: feedback: it needs a label, and a comment of at most %d characters", ErrInvalid, MaxComment)
	}
	f.ID, f.Time = id.String(), f.Time.UTC().Truncate(time.Microsecond)
	store, ok := l.store.(FeedbackStore)
	if !ok {
		return FeedbackResult{}, ErrNoFeedback
	}
	if l.Waiting() > 0 {
		known, err := store.HasPrediction(ctx, f.ID)
		if err == nil && !known {
			err = l.Flush(ctx)
		}
		if err != nil {
			return FeedbackResult{}, err
		}
	}
	return store.Feedback(ctx, f)
}

// Flush has the records written that Append has taken, and returns once they are in the
// store. ErrNotDurable means that they are not, or that ctx was done before.
func (l *Log) Flush(ctx context.Context) error {
	l.mu.Lock()
	b := l.filling
	if len(b.records) == 0 {
		b = l.writing
	}
	if b == nil {
		l.mu.Unlock()
		return nil
	}
	if err := l.failure; err != nil {
		l.mu.Unlock()
		return fmt.Errorf("%w: the store fails, it is tried again: %w", ErrNotDurable, err)
	}
	if b.commit == nil {
		b.commit = &commit{done: make(chan struct{})}
	}
	c := b.commit
	l.mu.Unlock()
	l.signal()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrNotDurable, context.Cause(ctx))
	}
}

// HasPrediction implements FeedbackStore.
func (s *SQLite) HasPrediction(ctx context.Context, id string) (known bool, err error) {
	err = s.read(ctx, func(ctx context.Context, db *sql.DB) error {
		return db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM predictions WHERE id = ?)", id).Scan(&known)
	})
	return known, err
}

// Feedback implements FeedbackStore. Of one prediction the last twenty are kept.
func (s *SQLite) Feedback(ctx context.Context, f Feedback) (h FeedbackResult, err error) {
	known := false
	// Once begun it is done: to break off would cost the connection.
	err = s.change(ctx, func(db *database) error {
		h, known, err = db.feedback(context.WithoutCancel(ctx), f)
		return err
	})
	if err == nil && !known {
		err = ErrUnknownPrediction
	}
	return h, err
}

// feedback stores the feedback in one transaction, unless it is known or its prediction
// is not.
func (db *database) feedback(ctx context.Context, f Feedback) (h FeedbackResult, known bool, err error) {
	tx, err := db.insert.conn.BeginTx(ctx, nil)
	if err != nil {
		return h, false, err
	}
	defer func() { _ = tx.Rollback() }() // which does nothing once it is committed
	h.Feedback = f
	var label, comment, stamp sql.NullString
	err = tx.QueryRowContext(ctx, "SELECT predictions.label, feedback.label, feedback.comment, feedback.time FROM predictions "+
		"LEFT JOIN feedback ON feedback.id = predictions.id WHERE predictions.id = ? ORDER BY feedback.seq DESC LIMIT 1", f.ID).
		Scan(&h.PredictedLabel, &label, &comment, &stamp)
	if errors.Is(err, sql.ErrNoRows) {
		return h, false, nil
	}
	if err != nil {
		return h, false, err
	}
	if label.Valid && label.String == f.Label && comment.String == f.Comment {
		h.Duplicate = true
		h.Time, err = time.Parse(time.RFC3339, stamp.String)
		return h, true, err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO feedback (id, time, label, comment) VALUES (?, ?, ?, ?)", f.ID, f.Time.Format(timeFormat), f.Label, f.Comment); err != nil {
		return h, false, err
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM feedback WHERE id = ? AND seq <= (SELECT seq FROM feedback WHERE id = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)",
		f.ID, f.ID, maxHistory); err != nil {
		return h, false, err
	}
	return h, true, tx.Commit()
}

// accuracyWindow is over how many predictions Accuracy goes, and how many rows of
// feedback it looks at to find them.
const (
	accuracyWindow = 1000
	accuracyRows   = 10 * accuracyWindow
)

// Accuracy implements Reader. It looks no further back than ten thousand feedbacks, on
// whatever model, and by CROSS JOIN up each prediction from them: never at all predictions.
func (s *SQLite) Accuracy(ctx context.Context, model string) (right, of int64, err error) {
	err = s.read(ctx, func(ctx context.Context, db *sql.DB) error {
		return db.QueryRowContext(ctx, `SELECT count(*) FILTER (WHERE said = was), count(*) FROM (
			SELECT last.label AS said, predictions.label AS was
			FROM (SELECT seq, id, label FROM feedback ORDER BY seq DESC LIMIT ?) AS last CROSS JOIN predictions
			WHERE predictions.id = last.id AND predictions.model = ? AND last.seq = (SELECT max(seq) FROM feedback WHERE feedback.id = last.id)
			ORDER BY last.seq DESC LIMIT ?)`, accuracyRows, model, accuracyWindow).Scan(&right, &of)
	})
	return right, of, err
}
