package predlog

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
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

// LabelError is returned for feedback with a label that isn't one of the model that made the prediction.
type LabelError struct {
	// Label is the label of the feedback.
	Label string
	// Valid are the labels of the model in the order of its classes.
	Valid []string
}

// Error lists up to ten labels.
func (e *LabelError) Error() string {
	const most = 10
	var list []string
	for _, label := range e.Valid[:min(most, len(e.Valid))] {
		list = append(list, strconv.Quote(label))
	}
	if more := len(e.Valid) - most; more > 0 {
		list = append(list, fmt.Sprintf("%d more", more))
	}
	return fmt.Sprintf("unknown label %.80q; the labels of the model that made the prediction are %s", e.Label, strings.Join(list, ", "))
}

// Feedback is a user's correction or confirmation of a prediction. If a store has several for one
// prediction, the latest counts.
type Feedback struct {
	ID      string    `json:"id" doc:"UUIDv7 of the prediction's record."`
	Time    time.Time `json:"time" doc:"When the feedback was received, UTC, with microseconds. The latest feedback on a prediction counts."`
	Label   string    `json:"label" doc:"Correct label according to the user."`
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
	// ModelName is the name of the model that made the prediction, or empty if the store doesn't know it.
	ModelName string
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
	// SetLabels stores the labels of the model with the given digest, which feedback on its predictions can have.
	SetLabels(ctx context.Context, model string, labels []string) error
}

// SetLabels stores the labels of the model with the given digest. Feedback accepts them for predictions of the model, also in later
// processes. It does nothing if the store doesn't keep feedback.
func (l *Log) SetLabels(ctx context.Context, model string, labels []string) error {
	if store, ok := l.store.(FeedbackStore); ok {
		return store.SetLabels(ctx, model, labels)
	}
	return nil
}

// Feedback stores feedback on a prediction. When it returns nil, the feedback is as durable as the
// store guarantees. It first flushes a prediction that is still buffered.
//
// It returns ErrUnknownPrediction if there is no such prediction, *LabelError if the model has no such label, ErrNoFeedback if the store
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
	var rejected error // why there is nothing to store
	// Don't cancel a transaction: that would close the connection.
	err = s.change(ctx, func(db *database) error {
		h, rejected, err = s.store(context.WithoutCancel(ctx), db, f)
		return err
	})
	if err == nil {
		err = rejected
	}
	return h, err
}

// SetLabels implements FeedbackStore.
func (s *SQLite) SetLabels(ctx context.Context, model string, labels []string) error {
	s.labelsMu.Lock()
	_, known := s.labels[model]
	if !known {
		s.labels[model] = slices.Clone(labels)
	}
	s.labelsMu.Unlock()
	if known {
		return nil
	}
	return s.change(ctx, func(db *database) error { return s.insertLabels(context.WithoutCancel(ctx), db) })
}

// insertLabels stores the labels of all models of this process.
func (s *SQLite) insertLabels(ctx context.Context, db *database) error {
	s.labelsMu.Lock()
	all := maps.Clone(s.labels)
	s.labelsMu.Unlock()
	for model, labels := range all {
		text, err := json.Marshal(labels)
		if err != nil {
			return err
		}
		if _, err := db.insert.conn.ExecContext(ctx, "INSERT INTO models (digest, labels) VALUES (?, ?) ON CONFLICT DO NOTHING", model, string(text)); err != nil {
			return err
		}
	}
	return nil
}

// checkLabel returns a *LabelError as rejected unless the model has the label. If the labels of the model are unknown, it accepts those of
// all known models and the predicted label. It accepts any label if no model is known.
func (s *SQLite) checkLabel(ctx context.Context, db queryer, model, predicted, label string) (rejected, err error) {
	if label == predicted {
		return nil, nil
	}
	s.labelsMu.Lock()
	valid, known := s.labels[model]
	s.labelsMu.Unlock()
	if !known {
		if valid, err = labelsOf(ctx, db, model); err != nil {
			return nil, err
		}
	}
	if len(valid) == 0 || slices.Contains(valid, label) {
		return nil, nil
	}
	return &LabelError{label, valid}, nil
}

// labelsOf returns the labels of the model in the database or, if it doesn't know the model, those of all models.
func labelsOf(ctx context.Context, db queryer, model string) (all []string, err error) {
	rows, err := db.QueryContext(ctx, "SELECT digest, labels FROM models ORDER BY rowid DESC")
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var digest, text string
		if err := rows.Scan(&digest, &text); err != nil {
			return nil, err
		}
		var labels []string
		if err := json.Unmarshal([]byte(text), &labels); err != nil {
			return nil, fmt.Errorf("labels of model %s: %w", digest, err)
		}
		if digest == model {
			return labels, nil
		}
		all = append(all, labels...)
	}
	return all, rows.Err()
}

// store stores the feedback in one transaction, unless it is a duplicate or rejected.
func (s *SQLite) store(ctx context.Context, db *database, f Feedback) (h FeedbackResult, rejected, err error) {
	tx, err := db.insert.conn.BeginTx(ctx, nil)
	if err != nil {
		return h, nil, err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	h.Feedback = f
	var model string
	var label, comment, stamp sql.NullString
	err = tx.QueryRowContext(ctx, "SELECT predictions.model, predictions.model_name, predictions.label, feedback.label, feedback.comment, feedback.time FROM predictions "+
		"LEFT JOIN feedback ON feedback.id = predictions.id WHERE predictions.id = ? ORDER BY feedback.seq DESC LIMIT 1", f.ID).
		Scan(&model, &h.ModelName, &h.PredictedLabel, &label, &comment, &stamp)
	if errors.Is(err, sql.ErrNoRows) {
		return h, ErrUnknownPrediction, nil
	}
	if err != nil {
		return h, nil, err
	}
	if rejected, err = s.checkLabel(ctx, tx, model, h.PredictedLabel, f.Label); rejected != nil || err != nil {
		return h, rejected, err
	}
	if label.Valid && label.String == f.Label && comment.String == f.Comment {
		h.Duplicate = true
		h.Time, err = time.Parse(time.RFC3339, stamp.String)
		return h, nil, err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO feedback (id, time, label, comment) VALUES (?, ?, ?, ?)", f.ID, f.Time.Format(timeFormat), f.Label, f.Comment); err != nil {
		return h, nil, err
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM feedback WHERE id = ? AND seq <= (SELECT seq FROM feedback WHERE id = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)",
		f.ID, f.ID, maxHistory); err != nil {
		return h, nil, err
	}
	return h, nil, tx.Commit()
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
