package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fakeart/server/telemetry"
)

// Environment variables that make the test binary act as the server or as Prometheus.
const (
	serverVariable     = "FAKEART_TEST_SERVER"
	prometheusVariable = "FAKEART_TEST_PROMETHEUS"
)

func TestMain(m *testing.M) {
	kind := os.Getenv(serverVariable)
	if slices.ContainsFunc(os.Args, func(arg string) bool { return strings.HasPrefix(arg, "--config.file=") }) {
		kind = os.Getenv(prometheusVariable)
	}
	if kind == "" {
		// Variables that a CI system sets to trace its own steps. Neither program may inherit them.
		os.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/v1/traces")
		os.Setenv("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		os.Exit(m.Run())
	}
	if os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")+os.Getenv("TRACEPARENT") != "" {
		fmt.Fprintln(os.Stderr, "unexpected OpenTelemetry variables in the environment")
		os.Exit(1)
	}
	if err := serve(kind); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve is a fake of the server, whose predictions take 1 s or 1 ms, or of Prometheus.
func serve(kind string) error {
	zero := func() int { return 0 }
	metrics := telemetry.NewMetrics("test", telemetry.Sources{
		QueueDepth: zero, LogWaiting: zero, LogOutbox: zero, InFlight: zero, LogWritable: func() bool { return true },
		Accuracy: func() map[string]float64 { return nil },
	})
	took := time.Millisecond
	switch kind {
	case "fails to start":
		return errors.New("the port is taken")
	case "exits":
		fmt.Fprintln(os.Stderr, "listening on http://127.0.0.1:1")
		return errors.New("out of memory")
	case "slow":
		took = time.Second
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server := httptest.NewServer(metrics.Handler())
	defer server.CloseClientConnections()
	fmt.Fprintf(os.Stderr, "listening on %s\n", server.URL)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(10 * time.Millisecond):
			metrics.Route("/predict", "POST").ObserveSize(200, took, telemetry.Small)
		}
	}
}

func newWatch(t *testing.T, server, prometheus string) (*watch, *bytes.Buffer) {
	t.Helper()
	out := new(bytes.Buffer)
	return &watch{
		server: os.Args[0], prometheus: os.Args[0], config: "../prometheus", model: "model.onnx", dir: filepath.Join(t.TempDir(), "watch"),
		env: []string{serverVariable + "=" + server, prometheusVariable + "=" + prometheus}, out: out,
	}, out
}

func TestWatch(t *testing.T) {
	w, out := newWatch(t, "quick", "quick")
	w.lasts, w.every = 100*time.Millisecond, 3*time.Second
	var urls []string
	w.ready = func(server, prometheus string) { urls = []string{server, prometheus} }
	if err := w.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, url := range urls {
		if !strings.Contains(out.String(), url+"\n") {
			t.Errorf("output doesn't contain %s:\n%s", url, out)
		}
		if response, err := http.Get(url); err == nil {
			t.Errorf("%s still responds with %s", url, response.Status)
		}
	}
	for file, want := range map[string]string{
		"targets.yaml": "- targets: [\"" + strings.TrimPrefix(urls[0], "http://") + "\"]\n", "prometheus.yaml": "scrape_interval: 3s\n  evaluation_interval: 3s\n",
		"slo.rules.yaml": "LatencyBurnsFast", "server.rules.yaml": "NoInstanceReady",
	} {
		if got, err := os.ReadFile(filepath.Join(w.dir, "prometheus", file)); err != nil || !strings.Contains(string(got), want) {
			t.Errorf("%s = %s, %v, want %s", file, got, err, want)
		}
	}
}

func TestWatch_Interrupted(t *testing.T) {
	w, _ := newWatch(t, "quick", "quick")
	ctx, cancel := context.WithCancel(t.Context())
	w.ready = func(string, string) { cancel() }
	if err := w.run(ctx); err != nil {
		t.Error(err)
	}
}

func TestWatch_Failures(t *testing.T) {
	for name, c := range map[string]struct{ server, prometheus, want, log, logged string }{
		"server_fails_to_start":     {"fails to start", "quick", "server: the server exited before it was listening (exit status 1): the port is taken\n", "server", "the port is taken"},
		"prometheus_fails_to_start": {"quick", "fails to start", "prometheus: the server exited before it was listening (exit status 1): the port is taken\n", "prometheus", "the port is taken"},
		"server_exits":              {"exits", "quick", "the server exited", "server", "out of memory"},
		"prometheus_exits":          {"quick", "exits", "the Prometheus server exited", "prometheus", "out of memory"},
		"prometheus_not_installed":  {"quick", "none", "docker compose -f monitoring/compose.yaml up", "", ""},
		"configuration_missing":     {"quick", "quick", "prometheus.yaml", "", ""},
		"dir_not_writable":          {"quick", "quick", "not a directory", "", ""},
	} {
		w, _ := newWatch(t, c.server, c.prometheus)
		switch {
		case c.prometheus == "none":
			w.prometheus = filepath.Join(t.TempDir(), "prometheus")
		case c.want == "prometheus.yaml":
			w.config = t.TempDir()
		case c.want == "not a directory":
			w.dir = filepath.Join("main.go", "dir")
		}
		err := w.run(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
			continue
		}
		if c.log == "" {
			continue
		}
		log := w.log(c.log)
		if logged, readErr := os.ReadFile(log); readErr != nil || !strings.Contains(string(logged), c.logged) || !strings.Contains(err.Error(), log) {
			t.Errorf("%s: error %v; log %q, %v", name, err, logged, readErr)
		}
	}
}

// Runs the real Prometheus with the real rules. It takes some seconds, because it scrapes every second.
func TestWatch_PrometheusAlertsOnSlowServer(t *testing.T) {
	if _, err := exec.LookPath("prometheus"); err != nil {
		t.Skipf("%v; on Debian: apt-get install prometheus", err)
	}
	for kind, want := range map[string]bool{"slow": true, "quick": false} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w, out := newWatch(t, kind, "")
			w.prometheus, w.every = "prometheus", time.Second
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var alerts, ratios string
			w.ready = func(_, prometheus string) {
				defer cancel()
				for ctx.Err() == nil {
					alerts = get(t, prometheus+"/api/v1/alerts")
					ratios = get(t, prometheus+"/api/v1/query?query=job:slo_errors:ratio_rate1h")
					if strings.Contains(alerts, "firing") || !want && strings.Contains(ratios, `"slo":"latency"},"value"`) {
						return
					}
					time.Sleep(200 * time.Millisecond)
				}
			}
			if err := w.run(ctx); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			var got struct {
				Data struct {
					Alerts []struct {
						Labels map[string]string
						State  string
					}
				}
			}
			if err := json.Unmarshal([]byte(alerts), &got); err != nil {
				t.Fatalf("%v: %s", err, alerts)
			}
			fires := false
			for _, a := range got.Data.Alerts {
				fires = fires || a.Labels["alertname"] == "LatencyBurnsFast" && a.State == "firing" && a.Labels["job"] == "fakeart"
			}
			if fires != want {
				t.Errorf("alert fires: %t; alerts %s, ratios %s", fires, alerts, ratios)
			}
		})
	}
}

func get(t *testing.T, url string) string {
	response, err := http.Get(url)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}
