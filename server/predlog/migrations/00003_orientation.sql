-- +goose Up
ALTER TABLE predictions ADD COLUMN orientation INTEGER NOT NULL DEFAULT 0; -- of EXIF, 1 to 8; 0 if unknown
