package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/parquet-go/parquet-go"
	"gocloud.dev/pubsub"
	_ "gocloud.dev/pubsub/mempubsub"

	"fakeart/internal/model"
	"fakeart/server/api"
	"fakeart/server/predlog"
)

// logPage requests a page of the log.
func logPage(t *testing.T, m *Main, query string) api.LogPage {
	t.Helper()
	response, body := do(t, "GET", m.URL()+"/log"+query, "", nil)
	var page api.LogPage
	if err := json.Unmarshal(body, &page); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %s (%v)", response.StatusCode, body, err)
	}
	return page
}

func waitForRecords(t *testing.T, m *Main, n float64) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%g records", n), func() bool { return metric(t, m, `fakeart_log_records_total{result="written"}`) == n })
}

func TestLog_Record(t *testing.T) {
	m := start(t)
	img := pngOf(t, solid(red, 40, 20))
	request, err := http.NewRequestWithContext(t.Context(), "POST", m.URL()+"/predict", bytes.NewReader(img))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Request-Id", "my-request")
	request.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	before := time.Now()
	response, body := send(t, request)
	checkPrediction(t, m, response, body, model.Fake)
	var p Prediction
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatal(err)
	}
	waitForRecords(t, m, 1)
	page := logPage(t, m, "")
	if page.Total != 1 || len(page.Records) != 1 || page.Next != "" {
		t.Fatalf("page %+v", page)
	}
	r := page.Records[0]
	sum := sha256.Sum256(img)
	for _, v := range []struct{ name, got, want any }{
		{"id", r.ID, p.ID},
		{"request id", r.RequestID, "my-request"},
		{"trace id", r.TraceID, "0af7651916cd43dd8448eb211c80319c"},
		{"model", r.Model, p.Model},
		{"label", r.Label, p.Label},
		{"probability", r.Probability, p.Probability},
		{"digest", r.ImageSHA256, hex.EncodeToString(sum[:])},
		{"format", r.ImageFormat, "png"},
		{"bytes", r.ImageBytes, int64(len(img))},
		{"width", r.Width, int64(40)},
		{"height", r.Height, int64(20)},
		{"image", len(r.Image), 0},
		{"embedding", fmt.Sprint(r.Embedding), "[1 0 0]"},
		{"saturation", r.Saturation, 1.0},
	} {
		if v.got != v.want {
			t.Errorf("%s is %v, want %v", v.name, v.got, v.want)
		}
	}
	if r.Time.Before(before.Add(-time.Second)) || r.Time.After(time.Now()) || !(r.LatencySeconds > 0 && r.LatencySeconds < 30) {
		t.Errorf("time %v, latency %g", r.Time, r.LatencySeconds)
	}
	if math.Abs(r.Mean-1.0/3) > 1e-6 || math.Abs(r.Brightness-0.299) > 0.01 || r.Contrast != 0 || r.Sharpness != 0 {
		t.Errorf("statistics of a red image: %+v", r)
	}
}

func TestLog_Orientation(t *testing.T) {
	var logged bytes.Buffer
	m := startMain(t, NewMain(testConfig(t, writeModel(t, redDetector(t), metadata())), slog.New(slog.NewTextHandler(&logged, nil))))
	upright := pngOf(t, solid(red, 32, 32))
	chunk := []byte("eXIfII*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00")
	chunk = binary.BigEndian.AppendUint32(chunk, crc32.ChecksumIEEE(chunk))
	chunk = append(binary.BigEndian.AppendUint32(nil, uint32(len(chunk)-8)), chunk...)
	turned := slices.Insert(slices.Clone(upright), 33, chunk...)
	for _, img := range [][]byte{upright, turned, turned} {
		if response, body := do(t, "POST", m.URL()+"/predict", "", img); response.StatusCode != 200 {
			t.Fatalf("status %d: %s", response.StatusCode, body)
		}
	}
	waitForRecords(t, m, 3)
	var got []int64
	for _, r := range logPage(t, m, "").Records { // newest first
		got = append(got, r.Orientation)
	}
	if want := []int64{6, 6, 1}; !slices.Equal(got, want) {
		t.Errorf("orientations %v, want %v", got, want)
	}
	if n := strings.Count(logged.String(), "EXIF orientation"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, &logged)
	}
}

func TestLog_Pagination(t *testing.T) {
	m := start(t, func(c *Config) { c.LogImages = true })
	img := pngOf(t, solid(red, 32, 32))
	var ids []string
	for range 25 {
		_, body := do(t, "POST", m.URL()+"/predict", "", img)
		var p Prediction
		if err := json.Unmarshal(body, &p); err != nil {
			t.Fatal(err)
		}
		ids = append([]string{p.ID}, ids...) // newest first
	}
	waitForRecords(t, m, 25)
	var got []string
	for query := "?limit=10"; ; {
		page := logPage(t, m, query)
		for _, r := range page.Records {
			got = append(got, r.ID)
		}
		if page.Next == "" {
			break
		}
		query = "?limit=10&cursor=" + page.Next
	}
	if strings.Join(got, " ") != strings.Join(ids, " ") {
		t.Errorf("pages contain %v, want %v", got, ids)
	}
	// Images are included in exports.
	_, body := do(t, "GET", m.URL()+"/log/export", "", nil)
	var row predlog.Row
	if err := json.Unmarshal(bytes.SplitN(body, []byte("\n"), 2)[0], &row); err != nil || !bytes.Equal(row.Image, img) {
		t.Errorf("logged image has %d bytes, want %d (%v)", len(row.Image), len(img), err)
	}
}

func TestExport_Formats(t *testing.T) {
	m := start(t)
	img := pngOf(t, solid(red, 32, 32))
	const before = 50
	for range before {
		do(t, "POST", m.URL()+"/predict", "", img)
	}
	waitForRecords(t, m, before)
	var stop atomic.Bool
	var group sync.WaitGroup
	group.Go(func() {
		for !stop.Load() {
			do(t, "POST", m.URL()+"/predict", "", img)
		}
	})
	defer group.Wait()
	defer stop.Store(true)
	for _, format := range []string{"", "ndjson", "csv", "parquet", "sqlite"} {
		t.Run(format, func(t *testing.T) {
			query := ""
			if format != "" {
				query = "?format=" + format
			}
			response, body := do(t, "GET", m.URL()+"/log/export"+query, "", nil)
			if response.StatusCode != 200 || !strings.Contains(response.Header.Get("Content-Disposition"), "attachment") {
				t.Fatalf("status %d, %v: %.200s", response.StatusCode, response.Header, body)
			}
			rows := 0
			switch format {
			case "", "ndjson":
				for line := range bytes.Lines(body) {
					var row predlog.Row
					if err := json.Unmarshal(line, &row); err != nil || row.Label != model.Fake {
						t.Fatalf("%s: %v", line, err)
					}
					rows++
				}
			case "csv":
				lines, err := csv.NewReader(bytes.NewReader(body)).ReadAll()
				if err != nil || lines[0][0] != "id" {
					t.Fatalf("%v: %.200s", err, body)
				}
				rows = len(lines) - 1
			case "parquet":
				all, err := parquet.Read[predlog.Row](bytes.NewReader(body), int64(len(body)))
				if err != nil || all[0].Label != model.Fake || len(all[0].Embedding) != 3 {
					t.Fatalf("%v: %+v", err, all)
				}
				rows = len(all)
			case "sqlite":
				db, err := sql.Open("sqlite", writeFile(t, "copy.db", body))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = db.Close() }()
				if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM predictions WHERE label = 'FAKE'").Scan(&rows); err != nil {
					t.Fatal(err)
				}
			}
			if rows < before {
				t.Errorf("%d rows, want at least %d", rows, before)
			}
		})
	}
}

func TestExport_ClientDisconnects(t *testing.T) {
	m := start(t)
	for range 3 {
		do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 32, 32)))
	}
	waitForRecords(t, m, 3)
	conn := dial(t, m)
	if _, err := io.WriteString(conn, "GET /log/export?format=parquet HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	waitFor(t, "the request to finish", func() bool { return m.requests.InProgress() == 0 })
	if page := logPage(t, m, ""); page.Total != 3 {
		t.Errorf("%d records", page.Total)
	}
}

// failingStore is a log store that can be made to fail.
type failingStore struct {
	fails   atomic.Bool
	records atomic.Int64
}

func (s *failingStore) Write(_ context.Context, records []predlog.Record) error {
	if s.fails.Load() {
		return fmt.Errorf("no space left on device")
	}
	s.records.Add(int64(len(records)))
	return nil
}

func (s *failingStore) Close(context.Context) error { return nil }

// startWithStore starts a server that logs predictions to the store.
func startWithStore(t *testing.T, store predlog.Store, options predlog.Options, change ...func(*Config)) *Main {
	t.Helper()
	m := start(t, append(change, func(c *Config) { c.LogStore = "none" })...)
	options.Count = func(result predlog.Result, n int) { m.metrics.LogRecords(string(result), n) }
	m.predictions = predlog.New(store, options)
	return m
}

func TestPredict_LogFails(t *testing.T) {
	store := &failingStore{}
	m := startWithStore(t, store, predlog.Options{MaxRecords: 10})
	img := pngOf(t, solid(red, 32, 32))
	store.fails.Store(true)
	for range 30 {
		response, body := do(t, "POST", m.URL()+"/predict", "", img)
		checkPrediction(t, m, response, body, model.Fake)
	}
	waitFor(t, "the server not to be ready", func() bool {
		response, _ := do(t, "GET", m.URL()+"/readyz", "", nil)
		return response.StatusCode == 503
	})
	response, body := do(t, "GET", m.URL()+"/readyz", "", nil)
	checkProblem(t, response, body, 503, "log", "no space left")
	if metric(t, m, "fakeart_log_writable") != 0 {
		t.Error("fakeart_log_writable is not 0")
	}
	for range 30 { // more than the log buffers
		response, body := do(t, "POST", m.URL()+"/predict", "", img)
		checkPrediction(t, m, response, body, model.Fake)
	}
	lost := metric(t, m, `fakeart_log_records_total{result="failed"}`)
	if lost == 0 {
		t.Error("no record counted as lost")
	}
	store.fails.Store(false)
	waitFor(t, "the server to be ready", func() bool {
		response, _ := do(t, "GET", m.URL()+"/readyz", "", nil)
		return response.StatusCode == 200
	})
	waitFor(t, "the buffered records", func() bool { return float64(store.records.Load()) == 60-lost })
}

func TestPredict_LogRequired(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Config)
		log    predlog.Options
	}{
		{"durable", func(c *Config) { c.LogDurable = true }, predlog.Options{Durable: true}},
		{"required", func(c *Config) { c.LogRequired = true }, predlog.Options{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := &failingStore{}
			m := startWithStore(t, store, test.log, test.change)
			img := pngOf(t, solid(red, 32, 32))
			response, body := do(t, "POST", m.URL()+"/predict", "", img)
			checkPrediction(t, m, response, body, model.Fake)
			store.fails.Store(true)
			waitFor(t, "a rejected request", func() bool {
				response, body = do(t, "POST", m.URL()+"/predict", "", img)
				return response.StatusCode != 200
			})
			checkProblem(t, response, body, 503, "logged", "no space left")
			if response.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			store.fails.Store(false)
			waitFor(t, "a response", func() bool {
				response, _ := do(t, "POST", m.URL()+"/predict", "", img)
				return response.StatusCode == 200
			})
		})
	}
}

func TestLog_CorruptDatabase(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log.db")
	if err := os.WriteFile(path, bytes.Repeat([]byte("garbage "), 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	config := testConfig(t, writeModel(t, redDetector(t), metadata()))
	config.LogPath = path
	var logs bytes.Buffer
	m := startMain(t, NewMain(config, slog.New(slog.NewTextHandler(&logs, nil))))
	response, body := do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 32, 32)))
	checkPrediction(t, m, response, body, model.Fake)
	waitForRecords(t, m, 1)
	aside, err := filepath.Glob(path + ".corrupt-*")
	if err != nil || len(aside) != 1 || !strings.Contains(logs.String(), aside[0]) {
		t.Errorf("moved files: %v, %v; logged: %s", aside, err, &logs)
	}
}

// While another program's change makes the log unwritable, predictions continue.
func TestLog_SchemaChangedByAnotherProgram(t *testing.T) {
	m := start(t)
	img := pngOf(t, solid(red, 32, 32))
	predict := func() {
		t.Helper()
		response, body := do(t, "POST", m.URL()+"/predict", "", img)
		checkPrediction(t, m, response, body, model.Fake)
	}
	predict()
	waitForRecords(t, m, 1)
	db, err := sql.Open("sqlite", m.config.LogPath+"?_busy_timeout=5000")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rename := func(from, to string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), "ALTER TABLE predictions RENAME COLUMN "+from+" TO "+to); err != nil {
			t.Fatal(err)
		}
	}
	rename("probability", "p")
	for range 5 {
		predict()
	}
	waitFor(t, "the log isn't writable", func() bool { return metric(t, m, "fakeart_log_writable") == 0 })
	response, body := do(t, "GET", m.URL()+"/readyz", "", nil)
	checkProblem(t, response, body, 503, "isn't writable", "column probability")
	predict()
	rename("p", "probability")
	waitForRecords(t, m, 7)
	waitFor(t, "the log is writable", func() bool { return metric(t, m, "fakeart_log_writable") == 1 })
}

func TestLog_PubSub(t *testing.T) {
	ctx := t.Context()
	name := "mem://" + uuid.NewString() // topics are shared, and this test shuts its topic down
	// An in-memory subscription needs the topic to exist. The server opens it again and closes it.
	topic, err := pubsub.OpenTopic(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	subscription, err := pubsub.OpenSubscription(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = subscription.Shutdown(context.WithoutCancel(ctx)) }()
	m := start(t, func(c *Config) { c.LogStore, c.LogTopic = "pubsub", name })
	response, body := do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 32, 32)))
	checkPrediction(t, m, response, body, model.Fake)
	message, err := subscription.Receive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	message.Ack()
	var row predlog.Row
	var p Prediction
	if err := json.Unmarshal(message.Body, &row); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(body, &p); err != nil || row.ID != p.ID || row.Label != p.Label {
		t.Errorf("published %s for %s", message.Body, body)
	}
	response, body = do(t, "GET", m.URL()+"/log", "", nil)
	checkProblem(t, response, body, 404, "pubsub")

	// Records that can't be published are kept in the outbox.
	if err := topic.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	response, body = do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 32, 32)))
	checkPrediction(t, m, response, body, model.Fake)
	waitFor(t, "a record in the outbox", func() bool { return metric(t, m, "fakeart_log_outbox_records") == 1 })
	if err := m.Close(); err != nil {
		t.Errorf("Close = %v, want nil: the record is in the outbox", err)
	}
}
