package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// parsed is the configuration of a command line.
func parsed(t *testing.T, args ...string) (*Config, error) {
	t.Helper()
	c, _, err := parse(args, streams{io.Discard, io.Discard})
	return c, err
}

func TestFlagsGoBeforeVariablesAndBothBeforeTheFile(t *testing.T) {
	file := writeFile(t, "server.yaml", []byte("model: from-file\nqueue: 500\nmax-images: 3\nlog-durable: true\nlog-max-age: 24h\nmodel-watch: 5s\nadmin-token: [one, two]\n"))
	t.Setenv("FAKEART_MODEL", "from-variable")
	t.Setenv("FAKEART_QUEUE", "600")
	c, err := parsed(t, "--config", file, "--model=from-flag")
	if err != nil {
		t.Fatal(err)
	}
	if c.Model != "from-flag" || c.Queue != 600 || c.MaxImages != 3 || !c.LogDurable || c.LogMaxAge != 24*time.Hour || c.ModelWatch != interval(5*time.Second) || len(c.tokens()) != 2 || c.MaxBatch != 8 {
		t.Errorf("%+v", c)
	}
	t.Setenv("FAKEART_CONFIG", file)
	if c, err = parsed(t); err != nil || c.Model != "from-variable" || c.MaxImages != 3 {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err = parsed(t, "--no-log-durable"); err != nil || c.LogDurable {
		t.Errorf("a flag does not turn off what the file turns on: %+v, %v", c, err)
	}
}

func TestPORTSaysWhereToListen(t *testing.T) {
	file := writeFile(t, "server.yaml", []byte("addr: 127.0.0.1:7000\n"))
	for _, test := range []struct {
		name, port, variable string
		args                 []string
		want                 string
	}{
		{"without anything", "", "", nil, "127.0.0.1:8080"},
		{"as Cloud Run sets it", "9000", "", nil, ":9000"},
		{"before a file", "9000", "", []string{"--config", file}, ":9000"},
		{"after a flag", "9000", "", []string{"--addr=:1"}, ":1"},
		{"after a variable of our own", "9000", "127.0.0.1:2", nil, "127.0.0.1:2"},
		{"with a file alone", "", "", []string{"--config", file}, "127.0.0.1:7000"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("PORT", test.port)
			t.Setenv("FAKEART_ADDR", test.variable)
			if test.variable == "" {
				_ = os.Unsetenv("FAKEART_ADDR") // t.Setenv puts back what was there
			}
			if c, err := parsed(t, test.args...); err != nil || c.Addr != test.want {
				t.Errorf("%q, %v, want %q", c.Addr, err, test.want)
			}
		})
	}
	t.Setenv("PORT", "http")
	if _, err := parsed(t); err == nil || !strings.Contains(err.Error(), "PORT") {
		t.Errorf("a port that is none: %v", err)
	}
}

func TestModelWatchMayStandAlone(t *testing.T) {
	for _, test := range []struct {
		args []string
		want time.Duration
	}{
		{nil, 0},
		{[]string{"--model-watch"}, 10 * time.Second},
		{[]string{"--model-watch", "--queue=500"}, 10 * time.Second},
		{[]string{"--model-watch=3s"}, 3 * time.Second},
		{[]string{"--model-watch", "3s"}, 3 * time.Second},
		{[]string{"--model-watch=0"}, 0},
		{[]string{"--model-watch=true"}, 10 * time.Second},
		{[]string{"--model-watch=false"}, 0},
	} {
		if c, err := parsed(t, test.args...); err != nil || time.Duration(c.ModelWatch) != test.want {
			t.Errorf("%v: %s, %v, want %s", test.args, c.ModelWatch, err, test.want)
		}
	}
}

func TestWrongConfigurationIsRefusedWithWhatToDo(t *testing.T) {
	yaml := func(text string) []string { return []string{"--config", writeFile(t, "c.yaml", []byte(text))} }
	for _, test := range []struct {
		name  string
		args  []string
		words []string
	}{
		{"a file that is missing", []string{"--config=absent.yaml"}, []string{"absent.yaml", "no such file"}},
		{"a file that is no YAML", yaml("a: [b"), []string{"c.yaml"}},
		{"a file that is a list", yaml("- a\n- b\n"), []string{"c.yaml", "addr:"}},
		{"a key that is no flag", yaml("log-durabel: true"), []string{"log-durabel", "did you mean log-durable?"}},
		{"a key that is none of the server's", yaml("config: x"), []string{`"config"`}},
		{"a map where a value belongs", yaml("addr: {host: x}"), []string{"addr", "not a map"}},
		{"a value of another kind", yaml("queue: many"), []string{"queue", "many"}},
		{"nothing at all", []string{"--queue=0"}, []string{"--queue=0", "at least 1"}},
		{"a batch that is too large", []string{"--max-batch=1000"}, []string{"--max-batch=1000", "256"}},
		{"more pictures than places", []string{"--max-images=10", "--queue=5"}, []string{"--max-images=10", "--queue=5"}},
		{"to watch for a digest", []string{"--model-watch", "--model-sha256=x"}, []string{"--model-watch", "--model-sha256"}},
		{"a time that is none", []string{"--model-watch=soon"}, []string{"soon", "10s"}},
		{"a negative time", []string{"--read-timeout=-1s"}, []string{"--read-timeout=-1s"}},
		{"a proxy that is none", []string{"--trusted-proxy=10.0.0.1"}, []string{"10.0.0.1", "10.0.0.0/8"}},
		{"an origin that is none", []string{"--cors-origin=example.org"}, []string{"example.org", "https://"}},
		{"a token that no header carries", []string{"--admin-token=gehört mir"}, []string{"--admin-token"}},
		{"a log of another kind", []string{"--log-store=csv"}, []string{"--log-store", "sqlite"}},
		{"a topic without its store", []string{"--log-topic=mem://x"}, []string{"--log-topic", "pubsub"}},
		{"a store without its topic", []string{"--log-store=pubsub"}, []string{"--log-topic"}},
		{"a topic for feedback without its store", []string{"--feedback-topic=mem://x"}, []string{"--feedback-topic", "pubsub"}},
		{"a negative limit", []string{"--feedback-limit=-1"}, []string{"--feedback-limit=-1"}},
		{"no log that has to be durable", []string{"--log-store=none", "--log-durable"}, []string{"--log-store=none", "--log-durable"}},
		{"two mistakes", []string{"--queue=0", "--max-body=0"}, []string{"--queue=0", "--max-body=0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stderr bytes.Buffer
			if code := run(test.args, streams{io.Discard, &stderr}); code != exitUsage {
				t.Errorf("exit code %d", code)
			}
			text := strings.TrimSuffix(stderr.String(), "\n")
			if strings.Contains(text, "\n") || !strings.HasPrefix(text, "server: ") {
				t.Errorf("want one line, got %q", text)
			}
			for _, w := range test.words {
				if !strings.Contains(text, w) {
					t.Errorf("%q does not say %q", text, w)
				}
			}
		})
	}
}

func TestConfigPrintsWhatIsInForceSecretsMasked(t *testing.T) {
	var out, stderr bytes.Buffer
	args := []string{
		"config", "--model=s3://user:pass@bucket/m?secret=hush&region=eu", "--admin-token=very-secret-token", "--log-max-age=1h", "--model-watch",
		"--trusted-proxy=10.0.0.0/8", "--trusted-proxy=192.168.0.0/16",
	}
	if code := run(args, streams{&out, &stderr}); code != 0 {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	for _, secret := range []string{"very-secret", "hush", "pass"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("it tells %q", secret)
		}
	}
	for _, line := range []string{"queue: 1024\n", "log-max-age: 1h0m0s\n", "model-watch: 10s\n", "addr: 127.0.0.1:8080\n", "max-batch: 8\n"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("lacks %q:\n%s", line, &out)
		}
	}
	// What is printed is a file that means the same.
	file := filepath.Join(t.TempDir(), "printed.yaml")
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	if code := run([]string{"config", "--config", file}, streams{&again, &stderr}); code != 0 || again.String() != out.String() {
		t.Errorf("exit code %d: %s\n%s\nis not\n%s", code, &stderr, &again, &out)
	}
}

func TestHelpTellsEveryFlagAndItsVariable(t *testing.T) {
	var out bytes.Buffer
	if code := run([]string{"--help"}, streams{&out, io.Discard}); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	for _, word := range []string{"--model=REF", "$FAKEART_MODEL", "$FAKEART_MODEL_SHA256", "Prediction log", "--[no-]log-durable", "benchmark", "SIGTERM"} {
		if !strings.Contains(out.String(), word) {
			t.Errorf("lacks %q", word)
		}
	}
	if strings.Contains(out.String(), "constant") {
		t.Error("shows what is for measuring alone")
	}
}
