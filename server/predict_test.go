package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"fakeart/internal/model"
	"fakeart/server/infer"
	"fakeart/server/models"
	"fakeart/server/request"
)

// UnmarshalJSON reads an object and keeps the order of its members.
func (p *Probabilities) UnmarshalJSON(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if _, err := d.Token(); err != nil {
		return err
	}
	for d.More() {
		label, err := d.Token()
		if err != nil {
			return err
		}
		one := ClassProbability{Label: label.(string)}
		if err := d.Decode(&one.Probability); err != nil {
			return err
		}
		*p = append(*p, one)
	}
	return nil
}

// predictions decodes a response for several images.
func predictions(t *testing.T, response *http.Response, body []byte) []Item {
	t.Helper()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %s", response.StatusCode, body)
	}
	var p Predictions
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return p.Predictions
}

// labelsOrStatuses returns the labels of the items, or the statuses of their errors.
func labelsOrStatuses(items []Item) (results []string) {
	for _, item := range items {
		switch {
		case item.Error != nil && item.Prediction == nil:
			results = append(results, fmt.Sprint(item.Error.Status))
		case item.Error == nil && item.Prediction != nil:
			results = append(results, item.Label)
		default:
			results = append(results, "both or neither")
		}
	}
	return results
}

func TestPredict_Batch(t *testing.T) {
	m := start(t)
	real, fake := pngOf(t, solid(blue, 32, 32)), pngOf(t, solid(red, 32, 32))
	bomb := withPNGSize(fake, 60000, 60000)
	images := [][]byte{real, []byte("hello"), fake, fake[:len(fake)-20], nil, bomb, real}
	want := []string{model.Real, "415", model.Fake, "422", "400", "413", model.Real}

	var fields []field
	var instances Instances
	for i, p := range images {
		fields = append(fields, field{"data", fmt.Sprintf("%d.png", i), p})
		instances.Instances = append(instances.Instances, Instance{B64: base64.StdEncoding.EncodeToString(p)})
	}
	formType, form := newForm(t, fields...)
	instances.Instances = append(instances.Instances, Instance{B64: "not base64!"})
	object, err := json.Marshal(instances)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, contentType string
		body              []byte
		want              []string
	}{
		{"form", formType, form, want},
		{"JSON", "application/json; charset=utf-8", object, append(slices.Clone(want), "400")},
		{"JSON_one_instance", "application/json", fmt.Appendf(nil, `{"signature_name":"x","instances":[{"b64":%q}]}`, base64.StdEncoding.EncodeToString(fake)), []string{model.Fake}},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, body := do(t, "POST", m.URL()+"/predict", test.contentType, test.body)
			items := predictions(t, response, body)
			if diff := cmp.Diff(test.want, labelsOrStatuses(items)); diff != "" {
				t.Fatal(diff)
			}
			ids := map[string]bool{}
			for _, item := range items {
				if item.Prediction == nil {
					continue
				}
				if ids[item.ID] || item.Model != inUse(m) {
					t.Errorf("id %s, model %s: want unique IDs and model %s", item.ID, item.Model, inUse(m))
				}
				ids[item.ID] = true
			}
		})
	}
}

func TestPredict_Embedding(t *testing.T) {
	m := start(t)
	for query, want := range map[string][]float32{"": nil, "?embedding=false": nil, "?embedding=true": {1, 0, 0}} {
		response, body := do(t, "POST", m.URL()+"/predict"+query, "", pngOf(t, solid(red, 32, 32)))
		checkPrediction(t, m, response, body, model.Fake)
		var p Prediction
		if err := json.Unmarshal(body, &p); err != nil || !slices.Equal(p.Embedding, want) {
			t.Errorf("%q: embedding %v, want %v (%v)", query, p.Embedding, want, err)
		}
	}
}

func TestPredict_ModelRoute(t *testing.T) {
	m := start(t)
	contentType, body := newForm(t, field{"data", "a.png", pngOf(t, solid(red, 32, 32))})
	for _, path := range []string{"/model/", "/model"} {
		response, respBody := do(t, "POST", m.URL()+path, contentType, body)
		checkPrediction(t, m, response, respBody, model.Fake)
	}
}

func TestAppendPrediction(t *testing.T) {
	id := uuid.MustParse("01932d5e-8c6b-7f3a-9b1e-0c2d4e6f8a1b")
	graph := redDetector(t)
	md := metadata()
	md.Positive, md.Threshold, md.Classes = "", 0, []string{`<"tabby">`, "Füchse & Co"}
	data, err := marshal(graph, md)
	if err != nil {
		t.Fatal(err)
	}
	file, err := model.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	x := &exchange{served: models.NewModel("pets", file, 1)}
	for _, probability := range []float64{0, 1, 0.5, 1e-6, 9.99e-7, 3.1611362768116953e-9, 1e-21, 1e-300, 0.1 + 0.2, math.Nextafter(1, 0)} {
		for _, embedding := range [][]float32{nil, {0, -1.5, 1e-7, 3e20, 1e21, math.SmallestNonzeroFloat32, math.MaxFloat32}} {
			p := &inputImage{id: id, class: 1, probability: probability, probabilities: []float64{1 - probability, probability}, job: &infer.Job{Embedding: embedding}}
			all := Probabilities{{md.Classes[0], 1 - probability}, {md.Classes[1], probability}}
			if probability > 0.5 {
				slices.Reverse(all)
			}
			want, err := json.Marshal(Prediction{
				ID: id.String(), Label: md.Classes[1], Probability: probability, Probabilities: all, Model: file.Digest, ModelName: "pets", Embedding: embedding,
			})
			if err != nil {
				t.Fatal(err)
			}
			x.embedding = embedding != nil
			if got := x.appendPrediction(nil, p); !bytes.Equal(got, want) {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		}
	}
}

func TestPredict_TooManyImages(t *testing.T) {
	m := start(t)
	fields := make([]field, 10_000)
	for i := range fields {
		fields[i] = field{"data", "a.png", []byte("x")}
	}
	contentType, form := newForm(t, fields...)
	response, respBody := do(t, "POST", m.URL()+"/predict", contentType, form)
	checkProblem(t, response, respBody, 413)
	c := m.config
	m2 := start(t, func(c *Config) { c.MaxBody = 8 << 20 })
	response, respBody = do(t, "POST", m2.URL()+"/predict", contentType, form)
	checkProblem(t, response, respBody, 413, fmt.Sprint(c.MaxImages))
	object := `{"instances":[` + strings.Repeat(`{"b64":""},`, c.MaxImages) + `{"b64":""}]}`
	response, respBody = do(t, "POST", m.URL()+"/predict", "application/json", []byte(object))
	checkProblem(t, response, respBody, 413, fmt.Sprint(c.MaxImages))
}

func TestPredict_QueueFull(t *testing.T) {
	m, release := startBlocked(t, func(c *Config) { c.Queue, c.MaxImages = 2, 2 })
	img := pngOf(t, solid(red, 32, 32))
	var waiting sync.WaitGroup
	for range 2 {
		waiting.Go(func() {
			response, respBody := do(t, "POST", m.URL()+"/predict", "", img)
			checkPrediction(t, m, response, respBody, model.Fake)
		})
	}
	waitFor(t, "two waiting images", func() bool { return m.engine.Waiting() == 2 })
	response, respBody := do(t, "POST", m.URL()+"/predict", "", img)
	checkProblem(t, response, respBody, 503, "queued")
	if response.Header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After: %q", response.Header.Get("Retry-After"))
	}
	release()
	waiting.Wait()
	response, respBody = do(t, "POST", m.URL()+"/predict", "", img)
	checkPrediction(t, m, response, respBody, model.Fake)
}

func TestPredict_Timeout(t *testing.T) {
	m, release := startBlocked(t, func(c *Config) { c.RequestTimeout = 60 * time.Millisecond })
	response, respBody := do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 32, 32)))
	checkProblem(t, response, respBody, 503, "timed out")
	release()
	// The image of the timed-out request is dropped from the queue.
	response, respBody = do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 32, 32)))
	checkPrediction(t, m, response, respBody, model.Fake)
}

// TestPredict_deadlineWhileDecoding checks that the deadline interrupts decoding, not only the waits around it.
func TestPredict_deadlineWhileDecoding(t *testing.T) {
	m := start(t)
	for _, name := range []string{"444.heic", "444.avif"} {
		data, err := os.ReadFile("../internal/imaging/testdata/heif/" + name)
		if err != nil {
			t.Fatal(err)
		}
		x := m.beginExchange(new(request.State), time.Now().Add(-time.Hour))
		x.done = make(chan struct{}) // open, so that decoding starts although the deadline has passed
		call, err := m.models.Default().Admit(1, x.deadline, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := x.decode(&inputImage{data: data}, call); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: error %v, want %v", name, err, context.DeadlineExceeded)
		}
		if idle, all := m.decoders.Idle(), 2*m.config.workers(); idle != all {
			t.Errorf("%s: %d of %d decoders were returned", name, idle, all)
		}
		call.Close()
		x.free()
	}
}

func TestPredict_ClientDisconnects(t *testing.T) {
	m, release := startBlocked(t)
	conn := dial(t, m)
	img := pngOf(t, solid(red, 32, 32))
	if _, err := fmt.Fprintf(conn, "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%s", len(img), img); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the image", func() bool { return m.engine.Waiting() == 1 })
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the request to finish", func() bool { return m.requests.InProgress() == 0 })
	if got := metric(t, m, `fakeart_requests_total{code="499",method="POST",route="/predict"}`); got != 1 {
		t.Errorf("%g requests with status 499, want 1", got)
	}
	release()
	response, respBody := do(t, "POST", m.URL()+"/predict", "", img)
	checkPrediction(t, m, response, respBody, model.Fake)
	// The first image and this one. The abandoned one isn't counted.
	if got := metric(t, m, `fakeart_predictions_total{label="FAKE",model="`+inUse(m)+`",model_name="fakeart"}`); got != 2 {
		t.Errorf("%g predictions, want 2", got)
	}
}

func TestMaxRequests(t *testing.T) {
	m, release := startBlocked(t, func(c *Config) { c.MaxRequests = 1 })
	var waiting sync.WaitGroup
	waiting.Go(func() {
		response, respBody := do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 32, 32)))
		checkPrediction(t, m, response, respBody, model.Fake)
	})
	waitFor(t, "a waiting image", func() bool { return m.engine.Waiting() == 1 })
	response, respBody := do(t, "GET", m.URL()+"/models/current", "", nil)
	checkProblem(t, response, respBody, 503, "1 concurrent requests")
	if got := metric(t, m, `fakeart_requests_total{code="503",method="GET",route="/models/current"}`); got != 1 {
		t.Errorf("%g rejected requests counted, want 1", got)
	}
	if response.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	release()
	waiting.Wait()
}

func TestRateLimit(t *testing.T) {
	m := start(t, func(c *Config) {
		c.RateLimit, c.TrustedProxy = 2, []string{"127.0.0.0/8"}
	})
	ask := func(path, client string) *http.Response {
		request, err := http.NewRequestWithContext(t.Context(), "GET", m.URL()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Forwarded-For", "10.9.9.9, "+client)
		response, body := send(t, request)
		if response.StatusCode == 429 {
			checkProblem(t, response, body, 429, "2 requests per second")
			if response.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		}
		return response
	}
	limited := 0
	for range 10 {
		if ask("/models/current", "192.0.2.1").StatusCode == 429 {
			limited++
		}
	}
	if limited < 4 {
		t.Errorf("%d of 10 requests were limited, want at least 4", limited)
	}
	if got := metric(t, m, `fakeart_requests_total{code="429",method="GET",route="/models/current"}`); got != float64(limited) {
		t.Errorf("%g rejected requests counted, want %d", got, limited)
	}
	if status := ask("/models/current", "192.0.2.2").StatusCode; status != 200 {
		t.Errorf("other client: status %d", status)
	}
	for range 5 {
		if status := ask("/readyz", "192.0.2.1").StatusCode; status != 200 {
			t.Errorf("readyz: status %d", status)
		}
	}
}

// Each connection announces a body that would be allowed on its own.
func TestMaxMemory_Bodies(t *testing.T) {
	m := start(t, func(c *Config) { c.MaxBody, c.MaxMemory = 8<<20, 16<<20 })
	refused := 0
	for range 6 {
		conn := dial(t, m)
		if _, err := io.WriteString(conn, "POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: 8000000\r\n\r\nbegin"+strings.Repeat("x", 9000)); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		b := make([]byte, 12)
		if n, _ := io.ReadFull(conn, b); n == 12 && string(b[9:]) == "503" {
			refused++
		}
	}
	if refused != 4 {
		t.Errorf("%d of 6 bodies were rejected, want 4, because there is memory for two", refused)
	}
	response, respBody := do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 32, 32)))
	checkPrediction(t, m, response, respBody, model.Fake)
}

func TestMaxMemory_Images(t *testing.T) {
	m := start(t, func(c *Config) { c.MaxMemory = 3 << 20; c.MaxBody = 1 << 20 })
	response, respBody := do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 1000, 1000)))
	checkPrediction(t, m, response, respBody, model.Fake)
	avif, err := os.ReadFile("../internal/imaging/testdata/heif/plain.avif") // the decoder alone needs 6 MiB
	if err != nil {
		t.Fatal(err)
	}
	response, respBody = do(t, "POST", m.URL()+"/predict", "", avif)
	checkProblem(t, response, respBody, 413, "memory")
}
