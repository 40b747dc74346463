-- +goose Up
-- User feedback. The latest row of an id counts, earlier ones are its history.
CREATE TABLE feedback (
  seq     INTEGER PRIMARY KEY, -- the order in which feedback was received
  id      TEXT NOT NULL,       -- of the prediction
  time    TEXT NOT NULL,       -- UTC, 2026-11-26T10:11:12.123456Z
  label   TEXT NOT NULL,       -- correct label according to the user
  comment TEXT NOT NULL
);

CREATE INDEX feedback_id ON feedback (id);

-- Deletes feedback with its prediction.
-- +goose StatementBegin
CREATE TRIGGER predictions_delete_feedback AFTER DELETE ON predictions
BEGIN
  DELETE FROM feedback WHERE id = old.id;
END;
-- +goose StatementEnd

-- Used in an outbox only: encoded feedback messages that could not be sent. The prediction may already have been sent.
CREATE TABLE unsent_feedback (
  seq     INTEGER PRIMARY KEY,
  message BLOB NOT NULL
);
