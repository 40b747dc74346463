package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"gocloud.dev/pubsub"

	"fakeart/internal/model"
	"fakeart/server/predlog"
)

// predict sends a red image, which is classified as FAKE, and returns the prediction's ID.
func predict(t *testing.T, m *Main) string {
	t.Helper()
	response, body := do(t, "POST", m.URL()+"/predict", "", pngOf(t, solid(red, 32, 32)))
	checkPrediction(t, m, response, body, model.Fake)
	var p Prediction
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatal(err)
	}
	return p.ID
}

// sendFeedback sends feedback.
func sendFeedback(t *testing.T, m *Main, id, label, comment string) (*http.Response, []byte) {
	t.Helper()
	body, err := json.Marshal(FeedbackRequest{id, label, comment})
	if err != nil {
		t.Fatal(err)
	}
	return do(t, "POST", m.URL()+"/feedback", "application/json", body)
}

// mustSendFeedback sends feedback and checks that it is accepted.
func mustSendFeedback(t *testing.T, m *Main, id, label, comment string) Feedback {
	t.Helper()
	response, body := sendFeedback(t, m, id, label, comment)
	var f Feedback
	if err := json.Unmarshal(body, &f); err != nil || response.StatusCode != 200 || f.ID != id || f.Label != label || f.Comment != comment {
		t.Fatalf("status %d: %s (%v)", response.StatusCode, body, err)
	}
	return f
}

func TestFeedback(t *testing.T) {
	m := start(t)
	id := predict(t, m)
	if _, body := do(t, "GET", m.URL()+"/metrics", "", nil); bytes.Contains(body, []byte("fakeart_feedback_accuracy_ratio")) {
		t.Error("the accuracy is defined without feedback")
	}
	// The record is still in memory.
	f := mustSendFeedback(t, m, id, "REAL", "my own photograph: „gestern“ <b>")
	if f.Verdict != "FAKE" || f.Correct == nil || *f.Correct || time.Since(f.Time) > time.Minute {
		t.Errorf("response %+v", f)
	}
	// Repeating the feedback changes nothing.
	if again := mustSendFeedback(t, m, id, "REAL", "my own photograph: „gestern“ <b>"); !again.Time.Equal(f.Time) || *again.Correct {
		t.Errorf("repeated: %+v, first: %+v", again, f)
	}
	if f := mustSendFeedback(t, m, predict(t, m), "FAKE", ""); f.Correct == nil || !*f.Correct {
		t.Errorf("response %+v", f)
	}
	for series, want := range map[string]float64{
		`fakeart_feedback_total{correct="false",label="REAL",model_name="fakeart"}`: 1, `fakeart_feedback_total{correct="true",label="FAKE",model_name="fakeart"}`: 1,
		`fakeart_feedback_total{correct="unknown",label="FAKE",model_name="fakeart"}`: 0, `fakeart_feedback_accuracy_ratio{model_name="fakeart"}`: 0.5,
	} {
		if got := metric(t, m, series); got != want {
			t.Errorf("%s is %g, want %g", series, got, want)
		}
	}
	page := logPage(t, m, "")
	if len(page.Records) != 2 || page.Records[1].FeedbackLabel != "REAL" || page.Records[1].FeedbackComment != "my own photograph: „gestern“ <b>" || !page.Records[1].FeedbackTime.Equal(f.Time) {
		t.Errorf("the log's page has %+v", page.Records)
	}
	// The last feedback counts.
	if f := mustSendFeedback(t, m, id, "FAKE", "I was wrong"); !*f.Correct {
		t.Errorf("response %+v", f)
	}
	if page := logPage(t, m, ""); page.Records[1].FeedbackLabel != "FAKE" || page.Records[1].FeedbackComment != "I was wrong" {
		t.Errorf("the log's page has %+v", page.Records[1])
	}
	if got := metric(t, m, `fakeart_feedback_accuracy_ratio{model_name="fakeart"}`); got != 1 {
		t.Errorf("accuracy %g after the change, want 1", got)
	}
}

func TestFeedback_Invalid(t *testing.T) {
	m := start(t, func(c *Config) { c.FeedbackLimit = 0 })
	id := predict(t, m)
	for _, test := range []struct {
		name, body string
		status     int
		words      string
	}{
		{"unknown_id", `{"id":"` + uuid.NewString() + `","label":"REAL"}`, 404, "isn't in the prediction log"},
		{"short_id", `{"id":"42","label":"REAL"}`, 422, "body.id"},
		{"invalid_id", `{"id":"zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz","label":"REAL"}`, 422, "body.id"},
		{"missing_id", `{"label":"REAL"}`, 422, "id"},
		{"unknown_label", `{"id":"` + id + `","label":"MAYBE"}`, 422, `labels of the model that made the prediction are "REAL", "FAKE"`},
		{"missing_label", `{"id":"` + id + `"}`, 422, "label"},
		{"long_comment", `{"id":"` + id + `","label":"REAL","comment":"` + strings.Repeat("ä", 1001) + `"}`, 422, "body.comment"},
		{"numeric_comment", `{"id":"` + id + `","label":"REAL","comment":7}`, 422, "body.comment"},
		{"unknown_field", `{"id":"` + id + `","label":"REAL","score":1}`, 422, "score"},
		{"not_JSON", `hello`, 400, ""},
		{"empty_body", ``, 400, ""},
		{"large_body", `{"id":"` + strings.Repeat("x", int(m.config.MaxBody)) + `"}`, 413, "larger"},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, body := do(t, "POST", m.URL()+"/feedback", "application/json", []byte(test.body))
			checkProblem(t, response, body, test.status, test.words)
		})
	}
	mustSendFeedback(t, m, id, "REAL", strings.Repeat("ä", 1000))
	if got := logPage(t, m, "").Records[0].FeedbackComment; got != strings.Repeat("ä", predlog.MaxComment) {
		t.Errorf("the comment became %q", got)
	}
	// IDs aren't case-sensitive.
	upper := strings.ToUpper(id)
	response, body := sendFeedback(t, m, upper, "FAKE", "")
	if response.StatusCode != 200 || !bytes.Contains(body, []byte(id)) {
		t.Errorf("status %d: %s", response.StatusCode, body)
	}
}

func TestFeedback_RateLimit(t *testing.T) {
	m := start(t, func(c *Config) { c.FeedbackLimit, c.TrustedProxy = 3, []string{"127.0.0.0/8"} })
	id := predict(t, m)
	ask := func(client string, i int) *http.Response {
		request, err := http.NewRequestWithContext(t.Context(), "POST", m.URL()+"/feedback", strings.NewReader(fmt.Sprintf(`{"id":%q,"label":"REAL","comment":"%d"}`, id, i)))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("X-Forwarded-For", client)
		response, body := send(t, request)
		if response.StatusCode == 429 {
			checkProblem(t, response, body, 429, "3 feedback requests per minute")
			if response.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		}
		return response
	}
	var statuses []int
	for i := range 10 {
		statuses = append(statuses, ask("192.0.2.1", i).StatusCode)
	}
	if fmt.Sprint(statuses) != "[200 200 200 429 429 429 429 429 429 429]" {
		t.Errorf("statuses %v", statuses)
	}
	if status := ask("192.0.2.2", 10).StatusCode; status != 200 {
		t.Errorf("other client: status %d", status)
	}
	if got := metric(t, m, `fakeart_requests_total{code="429",method="POST",route="/feedback"}`); got != 7 {
		t.Errorf("%g rejected requests counted", got)
	}
	predict(t, m) // not limited
}

func TestFeedback_LogNotWritable(t *testing.T) {
	m := start(t, func(c *Config) { c.LogStore = "none" })
	response, body := sendFeedback(t, m, uuid.NewString(), "REAL", "")
	checkProblem(t, response, body, 404, "aren't logged", "--log-store=none")

	failing := startWithFeedback(t)
	id := predict(t, failing.Main)
	failing.store.fails.Store(true)
	response, body = sendFeedback(t, failing.Main, id, "REAL", "")
	checkProblem(t, response, body, 503, "log")
	if response.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if strings.Contains(string(body), "no space") {
		t.Errorf("the response reveals internal details: %s", body)
	}
	failing.store.fails.Store(false)
	mustSendFeedback(t, failing.Main, id, "REAL", "")
}

func TestFeedback_Concurrent(t *testing.T) {
	m := start(t, func(c *Config) { c.FeedbackLimit = 0 })
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 10 {
				id := predict(t, m)
				mustSendFeedback(t, m, id, "REAL", "first")
				mustSendFeedback(t, m, id, "FAKE", "then "+id)
			}
		})
	}
	group.Wait()
	page := logPage(t, m, "?limit=1000")
	if len(page.Records) != 80 {
		t.Errorf("%d records", len(page.Records))
	}
	for _, r := range page.Records {
		if r.FeedbackLabel != "FAKE" || r.FeedbackComment != "then "+r.ID {
			t.Errorf("%s has %q, %q", r.ID, r.FeedbackLabel, r.FeedbackComment)
		}
	}
}

func TestKill_Feedback(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	modelPath := writeModel(t, redDetector(t), metadata())
	for range times(t, 2, 20) {
		p, stop := startProcess(t, 1, "--model", modelPath, "--log-path", path)
		waitFor(t, "answers", func() bool { return p.answers() >= 5 })
		p.mu.Lock()
		id := p.predicted[len(p.predicted)-1]
		p.mu.Unlock()
		response, body := do(t, "POST", "http://"+p.addr+"/feedback", "application/json", []byte(`{"id":"`+id+`","label":"REAL","comment":"still here"}`))
		if response.StatusCode != 200 {
			t.Fatalf("status %d: %s", response.StatusCode, body)
		}
		if err := p.cmd.Process.Kill(); err != nil { // at once
			t.Fatal(err)
		}
		stop()
		_ = p.cmd.Wait()
		if !logged(t, path)[id] {
			t.Errorf("the prediction %s is not in the log", id)
		}
		config := testConfig(t, modelPath)
		config.LogPath = path
		m := startMain(t, NewMain(config, newLogger(&config, t.Output())))
		found := false
		for _, r := range logPage(t, m, "?limit=1000").Records {
			found = found || r.ID == id && r.FeedbackLabel == "REAL" && r.FeedbackComment == "still here"
		}
		if !found {
			t.Errorf("the feedback on %s is not in the log", id)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestFeedback_PubSub(t *testing.T) {
	ctx := t.Context()
	names := map[string]string{}
	subscriptions := map[string]*pubsub.Subscription{}
	for _, what := range []string{"predictions", "feedback"} {
		name := "mem://" + uuid.NewString()
		if _, err := pubsub.OpenTopic(ctx, name); err != nil {
			t.Fatal(err)
		}
		subscription, err := pubsub.OpenSubscription(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = subscription.Shutdown(context.WithoutCancel(ctx)) }()
		names[what], subscriptions[what] = name, subscription
	}
	m := start(t, func(c *Config) {
		c.LogStore, c.LogTopic, c.FeedbackTopic = "pubsub", names["predictions"], names["feedback"]
	})
	id := predict(t, m)
	if f := mustSendFeedback(t, m, id, "REAL", "no"); f.Verdict != "FAKE" || *f.Correct {
		t.Errorf("response %+v", f)
	}
	mustSendFeedback(t, m, id, "REAL", "no") // isn't published again
	// The prediction of another instance, or an old one.
	other := uuid.Must(uuid.NewV7()).String()
	if f := mustSendFeedback(t, m, other, "FAKE", ""); f.Verdict != "" || f.Correct != nil {
		t.Errorf("response %+v", f)
	}
	published := map[string]string{}
	for range 2 { // topics don't guarantee an order
		message, err := subscriptions["feedback"].Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		message.Ack()
		var f predlog.Feedback
		if err := json.Unmarshal(message.Body, &f); err != nil {
			t.Fatalf("published %s: %v", message.Body, err)
		}
		published[f.ID] = f.Label
	}
	if want := map[string]string{id: "REAL", other: "FAKE"}; !maps.Equal(published, want) {
		t.Errorf("published %v, want %v", published, want)
	}
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if message, err := subscriptions["feedback"].Receive(short); err == nil {
		t.Errorf("unexpectedly published: %s", message.Body)
	}
	if got := metric(t, m, `fakeart_feedback_total{correct="unknown",label="FAKE",model_name=""}`); got != 1 {
		t.Errorf("%g with unknown correctness counted", got)
	}

	without := start(t, func(c *Config) { c.LogStore, c.LogTopic = "pubsub", "mem://"+uuid.NewString() })
	response, body := sendFeedback(t, without, id, "REAL", "")
	checkProblem(t, response, body, 404, "--feedback-topic")
}

func TestFeedback_CORS(t *testing.T) {
	m := start(t, func(c *Config) { c.CORSOrigin, c.FeedbackLimit = []string{"https://good.example"}, 1 })
	id := predict(t, m)
	for range 3 { // preflight requests don't count as feedback
		request, err := http.NewRequestWithContext(t.Context(), "OPTIONS", m.URL()+"/feedback", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Origin", "https://good.example")
		request.Header.Set("Access-Control-Request-Method", "POST")
		request.Header.Set("Access-Control-Request-Headers", "content-type")
		response, _ := send(t, request)
		if response.Header.Get("Access-Control-Allow-Origin") != "https://good.example" || !strings.Contains(response.Header.Get("Access-Control-Allow-Headers"), "Content-Type") {
			t.Errorf("allowed: %v", response.Header)
		}
	}
	mustSendFeedback(t, m, id, "REAL", "")
}

// withFeedback is a server with a log store that can be made to fail.
type withFeedback struct {
	*Main
	store *failingFeedback
}

type failingFeedback struct{ failingStore }

func (s *failingFeedback) SetLabels(context.Context, string, []string) error { return nil }

func (s *failingFeedback) HasPrediction(context.Context, string) (bool, error) { return true, nil }

func (s *failingFeedback) Feedback(_ context.Context, f predlog.Feedback) (predlog.FeedbackResult, error) {
	return predlog.FeedbackResult{Feedback: f, PredictedLabel: "FAKE"}, s.Write(context.Background(), nil)
}

func startWithFeedback(t *testing.T) withFeedback {
	t.Helper()
	store := &failingFeedback{}
	return withFeedback{startWithStore(t, store, predlog.Options{}), store}
}
