package telemetry

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestNewLogger_JSON(t *testing.T) {
	for _, test := range []struct {
		level    slog.Level
		severity string
	}{{slog.LevelDebug, "DEBUG"}, {slog.LevelInfo, "INFO"}, {slog.LevelWarn, "WARNING"}, {slog.LevelError, "ERROR"}, {slog.LevelError + 4, "ERROR"}} {
		var out bytes.Buffer
		log := NewLogger(&out, slog.LevelDebug, true)
		log.Log(t.Context(), test.level, "hello", slog.Group("httpRequest", slog.Int("status", 200), slog.String("msg", "kept")), slog.String(TraceKey, "projects/p/traces/1"))
		var line struct {
			Time        time.Time `json:"time"`
			Severity    string    `json:"severity"`
			Message     string    `json:"message"`
			Trace       string    `json:"logging.googleapis.com/trace"`
			HTTPRequest struct {
				Status int    `json:"status"`
				Msg    string `json:"msg"`
			} `json:"httpRequest"`
		}
		decoder := json.NewDecoder(&out)
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&line); err != nil {
			t.Fatal(err)
		}
		if line.Severity != test.severity || line.Message != "hello" || line.Trace != "projects/p/traces/1" || line.HTTPRequest.Status != 200 || line.HTTPRequest.Msg != "kept" {
			t.Errorf("line = %+v, want severity %s", line, test.severity)
		}
		if time.Since(line.Time) > time.Minute || line.Time.Location() != time.UTC {
			t.Errorf("time = %v, want now, in UTC", line.Time)
		}
	}
}

func TestNewLogger_Text(t *testing.T) {
	var out bytes.Buffer
	log := NewLogger(&out, slog.LevelInfo, false)
	log.Debug("hidden")
	log.Info("shown", "key", "value")
	if text := out.String(); !strings.Contains(text, "level=INFO msg=shown key=value") || strings.Contains(text, "hidden") {
		t.Errorf("output = %q, want the info line only", text)
	}
}
