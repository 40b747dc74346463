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

func TestClassify(t *testing.T) {
	tests := []struct {
		name, response string
		status         int
		want           string // part of the error; empty for no error
	}{
		{"correct prediction", `{"label":"FAKE","probability":0.9}`, 200, ""},
		{"wrong prediction", `{"label":"REAL","probability":0.1}`, 200, `is FAKE, but the prediction is "REAL"`},
		{"no prediction", `{}`, 200, `is FAKE, but the prediction is ""`},
		{"not JSON", `FAKE`, 200, "parse prediction"},
		{"server error", `{"label":"FAKE"}`, 500, "500"},
	}
	path := filepath.Join(t.TempDir(), "FAKE.png")
	if err := os.WriteFile(path, []byte("not checked by the demo"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if _, _, err := r.FormFile("data"); err != nil || r.URL.Path != "/predict" {
					t.Errorf("%s without an image: %v", r.URL, err)
				}
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.response)
			}))
			defer server.Close()
			d := demo{out: io.Discard}
			err := d.classify(t.Context(), server.URL, path, "FAKE")
			if test.want == "" && err != nil {
				t.Error(err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestRun_failedStep(t *testing.T) {
	d := demo{trainer: filepath.Join(t.TempDir(), "none"), dir: t.TempDir(), out: io.Discard}
	if err := d.run(t.Context()); err == nil || !strings.Contains(err.Error(), "data prepare") {
		t.Errorf("error %v", err)
	}
}
