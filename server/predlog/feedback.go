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
	// ErrUnknownPrediction is returned if the log has no prediction with the ID.
	ErrUnknownPrediction = errors.New("unknown prediction")
	// ErrNoFeedback is returned if the store doesn't keep feedback.
	ErrNoFeedback = errors.New("the prediction log does not store feedback")
)

const (
	// MaxComment is the maximum length of a comment, in characters.
	MaxComment = 1000
	// maxHistory is how much feedback is kept per prediction, so that endless changes don't fill
	// the disk.
	maxHistory = 20
)

// Feedback is a user's correction or confirmation of a prediction. If a store has several for one
// prediction, the latest counts.
type Feedback struct {
	ID      string    `json:"id" doc:"UUIDv7 of the prediction's record."`
	Time    time.Time `json:"time" doc:"When the feedback was received, UTC, with microseconds. The latest feedback on a prediction counts."`
	Label   string    `json:"label" doc:"Correct label according to the user, REAL or FAKE."`
	Comment string    `json:"comment" doc:"Comment of the user; may be empty."`
}

// MarshalJSON formats the time with exactly six decimals.
func (f Feedback) MarshalJSON() ([]byte, error) {
	type plain Feedback
	return json.Marshal(struct {
		ID   string `json:"id"`
		Time string `json:"time"`
		plain
	}{f.ID, f.Time.UTC().Format(timeFormat), plain(f)})
}

// FeedbackResult is the result of storing feedback.
type FeedbackResult struct {
	// Feedback is the stored feedback. A duplicate has the time of the original.
	Feedback
	// PredictedLabel is the label of the prediction, or empty if the store doesn't know it.
	PredictedLabel string
	// Duplicate reports that the latest feedback on the prediction was the same, so nothing was
	// stored.
	Duplicate bool
}

// FeedbackStore is a Store that also stores feedback. The methods below are safe for concurrent
// use, also with those of Store.
type FeedbackStore interface {
	Store
	// HasPrediction reports whether the store knows the prediction. It covers written records only.
	HasPrediction(ctx context.Context, id string) (bool, error)
	// Feedback stores the feedback as durably as Write stores records. It returns
	// ErrUnknownPrediction if the store knows that there is no such prediction.
	Feedback(ctx context.Context, f Feedback) (FeedbackResult, error)
}

// Feedback stores feedback on a prediction. When it returns nil, the feedback is as durable as the
// store guarantees. It first flushes a prediction that is still buffered.
//
// It returns ErrUnknownPrediction if there is no such prediction, ErrNoFeedback if the store
// doesn't keep feedback, ErrInvalid if no store accepts it, and other errors if the store fails.
func (l *Log) Feedback(ctx context.Context, f Feedback) (FeedbackResult, error) {
	id, err := uuid.Parse(f.ID)
	switch {
	case err != nil:
		return FeedbackResult{}, fmt.Errorf("%w: feedback: id %.50q: must be a UUID", ErrInvalid, f.ID)
	case f.Label == "" || !utf8.ValidString(f.Comment) || utf8.RuneCountInString(f.Comment) > MaxComment:
		return FeedbackResult{}, fmt.Errorf("%w: feedback: requires a label and a comment of at most %d characters", ErrInvalid, MaxComment)
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

// Flush writes the buffered records, and returns when they are in the store. It returns
// ErrNotDurable if that fails or ctx is done first.
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
		return fmt.Errorf("%w: the store fails and is retried: %w", ErrNotDurable, err)
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

// Feedback implements FeedbackStore. It keeps the latest twenty per prediction.
func (s *SQLite) Feedback(ctx context.Context, f Feedback) (h FeedbackResult, err error) {
	known := false
	// Don't cancel a transaction: that would close the connection.
	err = s.change(ctx, func(db *database) error {
		h, known, err = db.feedback(context.WithoutCancel(ctx), f)
		return err
	})
	if err == nil && !known {
		err = ErrUnknownPrediction
	}
	return h, err
}

// feedback stores the feedback in one transaction, unless it is a duplicate or the prediction is
// unknown.
func (db *database) feedback(ctx context.Context, f Feedback) (h FeedbackResult, known bool, err error) {
	tx, err := db.insert.conn.BeginTx(ctx, nil)
	if err != nil {
		return h, false, err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
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

// accuracyWindow is how many predictions Accuracy covers, and accuracyRows how many rows of feedback
// it examines to find them.
const (
	accuracyWindow = 1000
	accuracyRows   = 10 * accuracyWindow
)

// Accuracy implements Reader. It examines at most the latest ten thousand rows of feedback, on any
// model, and looks up each prediction from them: CROSS JOIN keeps SQLite from scanning all
// predictions instead.
func (s *SQLite) Accuracy(ctx context.Context, model string) (right, of int64, err error) {
	err = s.read(ctx, func(ctx context.Context, db *sql.DB) error {
		return db.QueryRowContext(ctx, `SELECT count(*) FILTER (WHERE given = predicted), count(*) FROM (
			SELECT last.label AS given, predictions.label AS predicted
			FROM (SELECT seq, id, label FROM feedback ORDER BY seq DESC LIMIT ?) AS last CROSS JOIN predictions
			WHERE predictions.id = last.id AND predictions.model = ? AND last.seq = (SELECT max(seq) FROM feedback WHERE feedback.id = last.id)
			ORDER BY last.seq DESC LIMIT ?)`, accuracyRows, model, accuracyWindow).Scan(&right, &of)
	})
	return right, of, err
}
