-- +goose Up
CREATE TABLE predictions (
  seq             INTEGER PRIMARY KEY, -- the order in which records were written
  id              TEXT    NOT NULL UNIQUE,
  time            TEXT    NOT NULL,    -- UTC, 2026-11-26T10:11:12.123456Z
  request_id      TEXT    NOT NULL,
  trace_id        TEXT    NOT NULL,
  model           TEXT    NOT NULL,
  label           TEXT    NOT NULL,
  probability     REAL    NOT NULL,
  latency_seconds REAL    NOT NULL,
  image_sha256    TEXT    NOT NULL,
  image_format    TEXT    NOT NULL,
  image_bytes     INTEGER NOT NULL,
  width           INTEGER NOT NULL,
  height          INTEGER NOT NULL,
  mean            REAL    NOT NULL,
  std_dev         REAL    NOT NULL,
  brightness      REAL    NOT NULL,
  contrast        REAL    NOT NULL,
  sharpness       REAL    NOT NULL,
  saturation      REAL    NOT NULL,
  image_logged    INTEGER NOT NULL,    -- 1: the image is in table images
  embedding       BLOB    NOT NULL     -- float32, little-endian
);

-- Deduplicated image files.
CREATE TABLE images (
  sha256 TEXT PRIMARY KEY,
  data   BLOB NOT NULL
);

-- Empty while images are not logged.
CREATE INDEX predictions_image ON predictions (image_sha256) WHERE image_logged;

-- Deletes an image with the last record that refers to it.
-- +goose StatementBegin
CREATE TRIGGER predictions_delete_image AFTER DELETE ON predictions WHEN old.image_logged
BEGIN
  DELETE FROM images WHERE sha256 = old.image_sha256
    AND NOT EXISTS (SELECT 1 FROM predictions WHERE image_logged AND image_sha256 = old.image_sha256);
END;
-- +goose StatementEnd
