package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAskChecksTheVerdict(t *testing.T) {
	tests := []struct {
		name, answer string
		status       int
		want         string // part of the error, empty for none
	}{
		{"a right verdict", `{"label":"FAKE","probability":0.9}`, 200, ""},
		{"a wrong verdict", `{"label":"REAL","probability":0.1}`, 200, "is FAKE, but the verdict is REAL"},
		{"an answer without a verdict", `{}`, 200, "is FAKE, but the verdict is"},
		{"an answer that is no JSON", `FAKE`, 200, "read verdict"},
		{"an error", `{"label":"FAKE"}`, 500, "500"},
	}
	path := filepath.Join(t.TempDir(), "FAKE.png")
	if err := os.WriteFile(path, []byte("what an image is, the server says"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if _, _, err := r.FormFile("data"); err != nil || r.URL.Path != "/predict" {
					t.Errorf("%s without an image: %v", r.URL, err)
				}
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.answer)
			}))
			defer server.Close()
			d := demo{out: io.Discard}
			err := d.ask(t.Context(), server.URL, path, "FAKE")
			if test.want == "" && err != nil {
				t.Error(err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestAStepThatFailsEndsTheDemo(t *testing.T) {
	d := demo{trainer: filepath.Join(t.TempDir(), "none"), dir: t.TempDir(), out: io.Discard}
	if err := d.run(t.Context()); err == nil || !strings.Contains(err.Error(), "data prepare") {
		t.Errorf("error %v", err)
	}
}
