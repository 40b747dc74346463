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

// longVariable enables the long form of the fault tests: `make test-long`.
const longVariable = "FAKEART_TEST_LONG"

// times returns the number of repetitions.
func times(t *testing.T, usually, long int) int {
	t.Helper()
	if os.Getenv(longVariable) != "" {
		return long
	}
	return usually
}

// process is a server as a separate process under load.
type process struct {
	cmd    *exec.Cmd
	addr   string
	client *http.Client
	logs   bytes.Buffer

	mu        sync.Mutex
	predicted []string // IDs of predictions
	faults    []string // responses other than 200
	broken    []string // requests without a complete response
}

// startProcess starts the server with the given flags. Several clients send it images until stop is
// called.
func startProcess(t *testing.T, clients int, args ...string) (p *process, stop func()) {
	t.Helper()
	cmd, _ := program(t, nil, append([]string{"--addr=127.0.0.1:0"}, args...)...)
	p = &process{cmd: cmd, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}}
	addr, rest := listening(t, cmd)
	p.addr = addr
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(&p.logs, rest)
	}()
	img := pngOf(t, solid(red, 32, 32))
	var group sync.WaitGroup
	var ended atomic.Bool
	for range clients {
		group.Go(func() {
			for !ended.Load() {
				p.ask(img)
			}
		})
	}
	return p, func() {
		ended.Store(true)
		group.Wait()
		<-copied
	}
}

// ask sends an image and records the outcome.
func (p *process) ask(img []byte) {
	response, err := p.client.Post("http://"+p.addr+"/predict", "image/png", bytes.NewReader(img))
	if err != nil {
		p.mu.Lock()
		// Without a connection, no request was accepted.
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
	case err != nil: // incomplete response
		p.broken = append(p.broken, err.Error())
	case response.StatusCode != 200 || json.Unmarshal(body, &prediction) != nil:
		p.faults = append(p.faults, fmt.Sprintf("%s: %s", response.Status, body))
	default:
		p.predicted = append(p.predicted, prediction.ID)
	}
}

func (p *process) answers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.predicted)
}

// logged returns the IDs in a log database, after checking its integrity.
func logged(t *testing.T, path string) map[string]bool {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var result string
	if err := db.QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&result); err != nil || result != "ok" {
		t.Errorf("%s: %s, %v", path, result, err)
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

func TestKill_DurableLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	modelPath := writeModel(t, redDetector(t), metadata())
	var predicted []string
	for i := range times(t, 4, 40) {
		synchronous := []string{"normal", "full"}[i%2]
		p, stop := startProcess(t, 8, "--model", modelPath, "--log-path", path, "--log-durable", "--log-synchronous", synchronous)
		waitFor(t, "answers", func() bool { return p.answers() >= 20 })
		time.Sleep(rand.N(100 * time.Millisecond))
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		stop()
		_ = p.cmd.Wait()
		if len(p.faults) > 0 {
			t.Errorf("before the kill: %v", p.faults)
		}
		predicted = append(predicted, p.predicted...)
		ids := logged(t, path)
		lost := 0
		for _, id := range predicted {
			if !ids[id] {
				lost++
			}
		}
		if lost > 0 {
			t.Errorf("kill %d: %d of %d predictions aren't in the log", i, lost, len(predicted))
		}
	}
	t.Logf("%d predictions", len(predicted))
}

func TestSIGTERM_UnderLoad(t *testing.T) {
	modelPath := writeModel(t, redDetector(t), metadata())
	for range times(t, 3, 20) {
		path := filepath.Join(t.TempDir(), "log.db")
		p, stop := startProcess(t, 16, "--model", modelPath, "--log-path", path)
		waitFor(t, "answers", func() bool { return p.answers() >= 50 })
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		// The clients continue meanwhile. The only error that they may see is a refused connection.
		waitUntilClosed(t, p.addr)
		stop()
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, &p.logs)
		}
		if len(p.faults) > 0 {
			t.Errorf("%d requests were rejected, for example: %s", len(p.faults), p.faults[0])
		}
		if len(p.broken) > 0 {
			t.Errorf("%d requests got no response, for example: %s", len(p.broken), p.broken[0])
		}
		ids := logged(t, path)
		for _, id := range p.predicted {
			if !ids[id] {
				t.Errorf("prediction %s isn't in the log", id)
			}
		}
	}
}

// A damaged image must never cause a server error.
func TestPredict_DamagedImages(t *testing.T) {
	m := start(t)
	fixtures, err := filepath.Glob("../internal/imaging/testdata/images/*")
	if err != nil || len(fixtures) < 100 {
		t.Fatalf("%d images, %v", len(fixtures), err)
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
			case 2: // corrupt the header
				data[rng.IntN(min(len(data), 64))] = byte(rng.IntN(256))
			}
			contentType, body := newForm(t, field{"data", "a", data})
			response, respBody := do(t, "POST", m.URL()+"/predict", contentType, body)
			statuses[response.StatusCode]++
			switch response.StatusCode {
			case 200, 400, 413, 415, 422:
			default:
				t.Errorf("%s: status %d: %s (%x)", filepath.Base(name), response.StatusCode, respBody, data[:min(len(data), 64)])
			}
		}
	}
	t.Logf("responses by status: %v", statuses)
	response, respBody := do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 32, 32)))
	checkPrediction(t, m, response, respBody, model.Fake)
}

func TestHostileRequests(t *testing.T) {
	m := start(t)
	post := func(path, header, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: test\r\n%sContent-Length: %d\r\n\r\n%s", path, header, len(body), body)
	}
	for name, request := range map[string]string{
		"huge_header":                "GET /healthz HTTP/1.1\r\nHost: test\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n",
		"many_headers":               "GET /healthz HTTP/1.1\r\nHost: test\r\n" + strings.Repeat("X: y\r\n", 100_000) + "\r\n",
		"huge_path":                  "GET /" + strings.Repeat("a/../", 100_000) + " HTTP/1.1\r\nHost: test\r\n\r\n",
		"huge_query":                 "GET /log?cursor=" + strings.Repeat("x", 7000) + " HTTP/1.1\r\nHost: test\r\n\r\n",
		"negative_content_length":    "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: -5\r\n\r\n",
		"invalid_content_length":     "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: ten\r\n\r\n",
		"two_content_lengths":        "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
		"overflowing_content_length": "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: 99999999999999999999\r\n\r\n",
		"chunk_too_short":            "POST /predict HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\nx\r\n0\r\n\r\n",
		"invalid_chunk":              "POST /predict HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
		"huge_boundary":              post("/predict", "Content-Type: multipart/form-data; boundary="+strings.Repeat("b", 5000)+"\r\n", "--b"),
		"nested_JSON":                post("/predict", "Content-Type: application/json\r\n", strings.Repeat("[", 100_000)),
		"nested_JSON_v2":             post("/v2/models/fakeart/infer", "", strings.Repeat(`{"inputs":[`, 50_000)),
		"huge_shape":                 post("/v2/models/fakeart/infer", "", `{"inputs":[{"name":"input","shape":[9223372036854775807,3,32,32],"datatype":"FP32","data":[]}]}`),
		"JSON_length_too_large":      post("/v2/models/fakeart/infer", "Inference-Header-Content-Length: 99999\r\n", "{}"),
		"path_traversal":             "GET /docs/..%2f..%2f..%2fetc/passwd HTTP/1.1\r\nHost: test\r\n\r\n",
		"NUL_bytes":                  "GET /\x00\x00 HTTP/1.1\r\nHost: test\r\n\r\n",
		"TLS_handshake":              "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
		"only_line_ends":             strings.Repeat("\r\n", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, m)
			go func() { _, _ = io.WriteString(conn, request) }() // the server may close the connection
			_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
			respBody := make([]byte, len("HTTP/1.1 4"))
			if n, _ := io.ReadFull(conn, respBody); n > 0 && string(respBody[:n]) != "HTTP/1.1 4"[:n] {
				t.Errorf("received %q", respBody[:n])
			}
			response, body := do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 32, 32)))
			checkPrediction(t, m, response, body, model.Fake)
		})
	}
	if got := metric(t, m, "fakeart_panics_total"); got != 0 {
		t.Errorf("%g panics", got)
	}
}

func TestModelChange_UnderLoadLong(t *testing.T) {
	if os.Getenv(longVariable) == "" {
		t.Skip("long form of TestModelChange_UnderLoad: set " + longVariable)
	}
	swapUnderLoad(t, 500, 16)
}
