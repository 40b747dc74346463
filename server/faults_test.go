package main

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fakeart/internal/model"
)

// longVariable makes the tests of faults go on for longer: `make test-long`.
const longVariable = "FAKEART_TEST_LONG"

// times is how often something is tried.
func times(t *testing.T, usually, long int) int {
	t.Helper()
	if os.Getenv(longVariable) != "" {
		return long
	}
	return usually
}

// process is the program as a process of its own, under load.
type process struct {
	cmd    *exec.Cmd
	addr   string
	client *http.Client
	said   bytes.Buffer

	mu       sync.Mutex
	answered []string // ids of predictions
	faults   []string // answers but 200
	broken   []string // requests without a whole answer
}

// startProcess starts the program with some flags and, until stop, sends it pictures
// from several clients at once.
func startProcess(t *testing.T, clients int, args ...string) (p *process, stop func()) {
	t.Helper()
	cmd, _ := program(t, nil, append([]string{"--addr=127.0.0.1:0"}, args...)...)
	p = &process{cmd: cmd, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}}
	addr, rest := listening(t, cmd)
	p.addr = addr
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(&p.said, rest)
	}()
	picture := pngOf(t, plain(red, 32, 32))
	var group sync.WaitGroup
	var ended atomic.Bool
	for range clients {
		group.Go(func() {
			for !ended.Load() {
				p.ask(picture)
			}
		})
	}
	return p, func() {
		ended.Store(true)
		group.Wait()
		<-copied
	}
}

// ask sends a picture and notes what comes of it.
func (p *process) ask(picture []byte) {
	response, err := p.client.Post("http://"+p.addr+"/predict", "image/png", bytes.NewReader(picture))
	if err != nil {
		p.mu.Lock()
		// Without a connection nothing was accepted.
		if e, ok := errors.AsType[*net.OpError](err); !ok || e.Op != "dial" {
			p.broken = append(p.broken, err.Error())
		}
		p.mu.Unlock()
		time.Sleep(time.Millisecond)
		return
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	p.mu.Lock()
	defer p.mu.Unlock()
	var prediction Prediction
	switch {
	case err != nil: // half an answer is none
		p.broken = append(p.broken, err.Error())
	case response.StatusCode != 200 || json.Unmarshal(body, &prediction) != nil:
		p.faults = append(p.faults, fmt.Sprintf("%s: %s", response.Status, body))
	default:
		p.answered = append(p.answered, prediction.ID)
	}
}

func (p *process) answers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.answered)
}

// logged are the ids in a log's database, which must be whole.
func logged(t *testing.T, path string) map[string]bool {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var verdict string
	if err := db.QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		t.Errorf("%s: %s, %v", path, verdict, err)
	}
	rows, err := db.QueryContext(t.Context(), "SELECT id FROM predictions")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	ids := map[string]bool{}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		ids[id] = true
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestADurableLogHasEveryAnsweredPredictionAfterAKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	modelPath := writeModel(t, redDetector(t), metadata())
	var answered []string
	for i := range times(t, 4, 40) {
		synchronous := []string{"normal", "full"}[i%2]
		p, stop := startProcess(t, 8, "--model", modelPath, "--log-path", path, "--log-durable", "--log-synchronous", synchronous)
		until(t, "answers", func() bool { return p.answers() >= 20 })
		time.Sleep(rand.N(100 * time.Millisecond))
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		stop()
		_ = p.cmd.Wait()
		if len(p.faults) > 0 {
			t.Errorf("before the kill: %v", p.faults)
		}
		answered = append(answered, p.answered...)
		ids := logged(t, path)
		lost := 0
		for _, id := range answered {
			if !ids[id] {
				lost++
			}
		}
		if lost > 0 {
			t.Errorf("kill %d: %d of %d answered predictions are not in the log", i, lost, len(answered))
		}
	}
	t.Logf("%d predictions answered", len(answered))
}

func TestSIGTERMUnderLoadAnswersWhatWasAcceptedAndFlushesTheLog(t *testing.T) {
	modelPath := writeModel(t, redDetector(t), metadata())
	for range times(t, 3, 20) {
		path := filepath.Join(t.TempDir(), "log.db")
		p, stop := startProcess(t, 16, "--model", modelPath, "--log-path", path)
		until(t, "answers", func() bool { return p.answers() >= 50 })
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		// Clients go on meanwhile; once nobody listens they cannot connect, and only that.
		untilClosed(t, p.addr)
		stop()
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, &p.said)
		}
		if len(p.faults) > 0 {
			t.Errorf("%d requests were refused, as with %s", len(p.faults), p.faults[0])
		}
		if len(p.broken) > 0 {
			t.Errorf("%d requests had no answer, as with %s", len(p.broken), p.broken[0])
		}
		ids := logged(t, path)
		for _, id := range p.answered {
			if !ids[id] {
				t.Errorf("%s was answered and is not in the log", id)
			}
		}
	}
}

// Whatever is done to a picture, it is the picture that is at fault.
func TestDamagedPicturesNeverCauseAFailureOfTheServers(t *testing.T) {
	m := start(t)
	fixtures, err := filepath.Glob("../internal/imaging/testdata/images/*")
	if err != nil || len(fixtures) < 100 {
		t.Fatalf("%d pictures, %v", len(fixtures), err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	statuses := map[int]int{}
	for _, name := range fixtures {
		whole, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for range times(t, 3, 60) {
			data := bytes.Clone(whole)
			switch rng.IntN(3) {
			case 0:
				data = data[:rng.IntN(len(data)+1)]
			case 1:
				for range 1 + rng.IntN(8) {
					data[rng.IntN(len(data))] ^= 1 << rng.IntN(8)
				}
			case 2: // in the header, where it hurts
				data[rng.IntN(min(len(data), 64))] = byte(rng.IntN(256))
			}
			contentType, body := formOf(t, field{"data", "a", data})
			response, answer := do(t, "POST", m.URL()+"/predict", contentType, body)
			statuses[response.StatusCode]++
			switch response.StatusCode {
			case 200, 400, 413, 415, 422:
			default:
				t.Errorf("%s: status %d: %s (%x)", filepath.Base(name), response.StatusCode, answer, data[:min(len(data), 64)])
			}
		}
	}
	t.Logf("answers by status: %v", statuses)
	response, answer := do(t, "POST", m.URL()+"/predict", "", pngOf(t, plain(red, 32, 32)))
	checkPrediction(t, m, response, answer, model.Fake)
}

func TestHostileRequestsAreTheClientsFault(t *testing.T) {
	m := start(t)
	post := func(path, header, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: test\r\n%sContent-Length: %d\r\n\r\n%s", path, header, len(body), body)
	}
	for name, request := range map[string]string{
		"a giant header":                 "GET /healthz HTTP/1.1\r\nHost: test\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n",
		"many headers":                   "GET /healthz HTTP/1.1\r\nHost: test\r\n" + strings.Repeat("X: y\r\n", 100_000) + "\r\n",
		"a giant address":                "GET /" + strings.Repeat("a/../", 100_000) + " HTTP/1.1\r\nHost: test\r\n\r\n",
		"a giant query":                  "GET /log?cursor=" + strings.Repeat("x", 7000) + " HTTP/1.1\r\nHost: test\r\n\r\n",
		"a length below zero":            "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: -5\r\n\r\n",
		"a length that is none":          "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: ten\r\n\r\n",
		"two lengths":                    "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
		"a length without end":           "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: 99999999999999999999\r\n\r\n",
		"a chunk that lies":              "POST /predict HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\nx\r\n0\r\n\r\n",
		"a chunk that is none":           "POST /predict HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
		"a boundary without end":         post("/predict", "Content-Type: multipart/form-data; boundary="+strings.Repeat("b", 5000)+"\r\n", "--b"),
		"nested JSON":                    post("/predict", "Content-Type: application/json\r\n", strings.Repeat("[", 100_000)),
		"nested JSON to the protocol":    post("/v2/models/fakeart/infer", "", strings.Repeat(`{"inputs":[`, 50_000)),
		"a giant shape":                  post("/v2/models/fakeart/infer", "", `{"inputs":[{"name":"input","shape":[9223372036854775807,3,32,32],"datatype":"FP32","data":[]}]}`),
		"a length of the JSON that lies": post("/v2/models/fakeart/infer", "Inference-Header-Content-Length: 99999\r\n", "{}"),
		"a path on the disk":             "GET /docs/..%2f..%2f..%2fetc/passwd HTTP/1.1\r\nHost: test\r\n\r\n",
		"zero bytes":                     "GET /\x00\x00 HTTP/1.1\r\nHost: test\r\n\r\n",
		"no HTTP":                        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
		"nothing but line ends":          strings.Repeat("\r\n", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, m)
			go func() { _, _ = io.WriteString(conn, request) }() // it may be cut off
			_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
			answer := make([]byte, len("HTTP/1.1 4"))
			if n, _ := io.ReadFull(conn, answer); n > 0 && string(answer[:n]) != "HTTP/1.1 4"[:n] {
				t.Errorf("answered %q", answer[:n])
			}
			response, body := do(t, "POST", m.URL()+"/predict", "", pngOf(t, plain(red, 32, 32)))
			checkPrediction(t, m, response, body, model.Fake)
		})
	}
	if got := metric(t, m, "fakeart_panics_total"); got != 0 {
		t.Errorf("%g panics", got)
	}
}

func TestManyChangesUnderLoadFailNoRequest(t *testing.T) {
	if os.Getenv(longVariable) == "" {
		t.Skip("the long form of another test: set " + longVariable)
	}
	swapUnderLoad(t, 500, 16)
}
