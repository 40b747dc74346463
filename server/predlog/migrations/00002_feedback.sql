-- +goose Up
-- What users said of predictions. The last row of an id counts, those before it are its history.
CREATE TABLE feedback (
  seq     INTEGER PRIMARY KEY, -- the order in which it was said
  id      TEXT NOT NULL,       -- of the prediction
  time    TEXT NOT NULL,       -- UTC, 2026-11-26T10:11:12.123456Z
  label   TEXT NOT NULL,       -- what the picture is
  comment TEXT NOT NULL
);

CREATE INDEX feedback_id ON feedback (id);

-- Feedback goes with its prediction, whoever deletes that.
-- +goose StatementBegin
CREATE TRIGGER predictions_delete_feedback AFTER DELETE ON predictions
BEGIN
  DELETE FROM feedback WHERE id = old.id;
END;
-- +goose StatementEnd

-- Of an outbox: feedback that could not be sent, as it is to be. Its prediction may have been.
CREATE TABLE unsent_feedback (
  seq     INTEGER PRIMARY KEY,
  message BLOB NOT NULL
);
