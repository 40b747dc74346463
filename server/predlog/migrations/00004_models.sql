-- +goose Up
ALTER TABLE predictions ADD COLUMN model_name TEXT NOT NULL DEFAULT ''; -- name of the model in requests; empty in older records

-- Labels of the classes of each model that was in use, for feedback.
CREATE TABLE models (
  digest TEXT PRIMARY KEY,
  labels TEXT NOT NULL -- a JSON list of text
);
