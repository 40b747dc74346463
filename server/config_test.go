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

func TestConfig_Precedence(t *testing.T) {
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
		t.Errorf("--no-log-durable doesn't override the file: %+v, %v", c, err)
	}
}

func TestConfig_PORT(t *testing.T) {
	file := writeFile(t, "server.yaml", []byte("addr: 127.0.0.1:7000\n"))
	for _, test := range []struct {
		name, port, variable string
		args                 []string
		want                 string
	}{
		{"default", "", "", nil, "127.0.0.1:8080"},
		{"PORT", "9000", "", nil, ":9000"},
		{"PORT_overrides_file", "9000", "", []string{"--config", file}, ":9000"},
		{"flag_overrides_PORT", "9000", "", []string{"--addr=:1"}, ":1"},
		{"FAKEART_ADDR_overrides_PORT", "9000", "127.0.0.1:2", nil, "127.0.0.1:2"},
		{"file", "", "", []string{"--config", file}, "127.0.0.1:7000"},
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
		t.Errorf("PORT=http: %v", err)
	}
}

func TestConfig_ModelWatch(t *testing.T) {
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

func TestConfig_Invalid(t *testing.T) {
	yaml := func(text string) []string { return []string{"--config", writeFile(t, "c.yaml", []byte(text))} }
	for _, test := range []struct {
		name  string
		args  []string
		words []string
	}{
		{"missing_file", []string{"--config=absent.yaml"}, []string{"absent.yaml", "no such file"}},
		{"invalid_YAML", yaml("a: [b"), []string{"c.yaml"}},
		{"file_with_list", yaml("- a\n- b\n"), []string{"c.yaml", "addr:"}},
		{"unknown_key", yaml("log-durabel: true"), []string{"log-durabel", "did you mean log-durable?"}},
		{"config_in_file", yaml("config: x"), []string{`"config"`}},
		{"map_value", yaml("addr: {host: x}"), []string{"addr", "not a map"}},
		{"number_in_file", yaml("queue: many"), []string{"queue", "many"}},
		{"zero_queue", []string{"--queue=0"}, []string{"--queue=0", "at least 1"}},
		{"max_batch", []string{"--max-batch=1000"}, []string{"--max-batch=1000", "256"}},
		{"max_images_above_queue", []string{"--max-images=10", "--queue=5"}, []string{"--max-images=10", "--queue=5"}},
		{"watch_with_digest", []string{"--model-watch", "--model-sha256=x"}, []string{"--model-watch", "--model-sha256"}},
		{"duration", []string{"--model-watch=soon"}, []string{"soon", "30s"}},
		{"negative_duration", []string{"--read-timeout=-1s"}, []string{"--read-timeout=-1s"}},
		{"proxy_not_CIDR", []string{"--trusted-proxy=10.0.0.1"}, []string{"10.0.0.1", "10.0.0.0/8"}},
		{"origin_without_scheme", []string{"--cors-origin=example.org"}, []string{"example.org", "https://"}},
		{"token_not_ASCII", []string{"--admin-token=gehört mir"}, []string{"--admin-token"}},
		{"unknown_log_store", []string{"--log-store=csv"}, []string{"--log-store", "sqlite"}},
		{"log_topic_without_pubsub", []string{"--log-topic=mem://x"}, []string{"--log-topic", "pubsub"}},
		{"pubsub_without_log_topic", []string{"--log-store=pubsub"}, []string{"--log-topic"}},
		{"feedback_topic_without_pubsub", []string{"--feedback-topic=mem://x"}, []string{"--feedback-topic", "pubsub"}},
		{"negative_limit", []string{"--feedback-limit=-1"}, []string{"--feedback-limit=-1"}},
		{"durable_without_log", []string{"--log-store=none", "--log-durable"}, []string{"--log-store=none", "--log-durable"}},
		{"two_errors", []string{"--queue=0", "--max-body=0"}, []string{"--queue=0", "--max-body=0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stderr bytes.Buffer
			if code := run(test.args, streams{io.Discard, &stderr}); code != exitUsage {
				t.Errorf("exit code %d", code)
			}
			text := strings.TrimSuffix(stderr.String(), "\n")
			if !strings.HasPrefix(text, "error: ") {
				t.Errorf("printed %q, want an error", text)
			}
			for _, w := range test.words {
				if !strings.Contains(text, w) {
					t.Errorf("%q doesn't contain %q", text, w)
				}
			}
		})
	}
}

func TestConfigCommand(t *testing.T) {
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
			t.Errorf("the output contains the secret %q", secret)
		}
	}
	for _, line := range []string{"queue: 1024\n", "log-max-age: 1h0m0s\n", "model-watch: 10s\n", "addr: 127.0.0.1:8080\n", "max-batch: 8\n"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("lacks %q:\n%s", line, &out)
		}
	}
	// The output is a file with the same configuration.
	file := filepath.Join(t.TempDir(), "printed.yaml")
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	if code := run([]string{"config", "--config", file}, streams{&again, &stderr}); code != 0 || again.String() != out.String() {
		t.Errorf("exit code %d: %s\n%s\nis not\n%s", code, &stderr, &again, &out)
	}
}

func TestConfig_Units(t *testing.T) {
	c, err := parsed(t, "--max-body=10MB", "--max-header", "16KiB", "--log-max-age=30d", "--drift-window=36h", "--model-watch=1d")
	if err != nil || c.MaxBody != 10_000_000 || c.MaxHeader != 16<<10 || c.LogMaxAge != 30*24*time.Hour || c.DriftWindow != 36*time.Hour || c.ModelWatch != interval(24*time.Hour) {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err = parsed(t); err != nil || c.MaxBody != 10485760 || c.MaxHeader != 8192 || c.MaxMemory != 268435456 {
		t.Errorf("defaults: %+v, %v", c, err)
	}
}

// TestConfig_InvalidValues checks that errors don't contain the wording of libraries.
func TestConfig_InvalidValues(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"number", []string{"--queue=many"}, "error: --queue: invalid number \"many\"\nhint: use a whole number, such as 8\n"},
		{"number_out_of_range", []string{"--log-max-rows=99999999999999999999"}, "error: --log-max-rows: number 99999999999999999999 is out of range\n"},
		{"size", []string{"--max-body=big"}, "error: --max-body: invalid size \"big\"\nhint: use a number of bytes, optionally with a unit, such as 10485760, 10MB or 10MiB\n"},
		{"duration", []string{"--read-timeout=30"}, "error: --read-timeout: invalid duration \"30\"\nhint: use a number with a unit, such as 500ms, 30s, 10m, 24h or 7d\n"},
		{"unknown_flag", []string{"--moddel=x"}, "error: unknown flag --moddel\nhint: did you mean \"--model\"?\n"},
		{"unknown_command", []string{"serv", "--model=x"}, "error: unexpected argument serv\nhint: did you mean \"serve\"?\n"},
		{"no_suggestion", []string{"--zzzzzzzzzzz"}, "error: unknown flag --zzzzzzzzzzz\nhint: run server --help for all commands and flags\n"},
		{"two_errors", []string{"--max-batch=0", "--trusted-proxy=x"}, "error: --max-batch=0: must be at least 1\n--trusted-proxy=x: invalid network\nhint: use CIDR notation, such as 10.0.0.0/8\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := run(test.args, streams{&stdout, &stderr}); code != exitUsage || stderr.String() != test.want || stdout.Len() > 0 {
				t.Errorf("run(%q) = %d, printed %q and %q, want %q on stderr", test.args, code, &stdout, &stderr, test.want)
			}
		})
	}
}

func TestConfig_InvalidVariable(t *testing.T) {
	t.Setenv("FAKEART_QUEUE", "many")
	var stderr bytes.Buffer
	const want = "error: FAKEART_QUEUE: invalid number \"many\"\nhint: use a whole number, such as 8\n"
	if code := run(nil, streams{io.Discard, &stderr}); code != exitUsage || stderr.String() != want {
		t.Errorf("run() = %d, printed %q, want %q", code, &stderr, want)
	}
}

// unsetConfiguration removes all FAKEART_… variables for the duration of a test.
func unsetConfiguration(t *testing.T) {
	t.Helper()
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, envPrefix+"_") {
			t.Setenv(name, "") // restores the variable after the test
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestHelp(t *testing.T) {
	unsetConfiguration(t)
	for name, args := range map[string][]string{"no_arguments": nil, "help_flag": {"--help"}, "help_command": {"help"}} {
		t.Run(name, func(t *testing.T) {
			var out, stderr bytes.Buffer
			if code := run(args, streams{&out, &stderr}); code != 0 || stderr.Len() > 0 {
				t.Fatalf("run(%q) = %d, stderr %q", args, code, &stderr)
			}
			for _, word := range []string{
				"--model=REF", "$FAKEART_MODEL", "$FAKEART_MODEL_SHA256", "Prediction log", "--[no-]log-durable", "benchmark", "SIGTERM",
				"Examples:", "server --model gs://bucket/models/ --model-watch 30s", "docs/how-to/operate.md",
			} {
				if !strings.Contains(out.String(), word) {
					t.Errorf("run(%q) doesn't print %q", args, word)
				}
			}
			if strings.Contains(out.String(), "constant") {
				t.Error("lists the hidden command constant")
			}
		})
	}
	t.Run("help_benchmark", func(t *testing.T) {
		var out bytes.Buffer
		if code := run([]string{"help", "benchmark"}, streams{&out, io.Discard}); code != 0 || !strings.Contains(out.String(), "--rounds") || strings.Contains(out.String(), "Examples:") {
			t.Errorf("exit code %d, printed %s", code, &out)
		}
	})
}

func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"--version"}, {"-v"}, {"version"}} {
		var out bytes.Buffer
		if code := run(args, streams{&out, io.Discard}); code != 0 || out.String() != versionText()+"\n" {
			t.Errorf("run(%q) = %d, printed %q, want %q", args, code, &out, versionText())
		}
	}
}

func TestServe_WithoutModel(t *testing.T) {
	for _, test := range []struct {
		name, variable string
		args           []string
	}{
		{"other_flag", "", []string{"--queue=500"}},
		{"model_watch", "", []string{"--model-watch"}},
		{"serve_command", "", []string{"serve"}},
		{"variable", "FAKEART_LOG_STORE", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			unsetConfiguration(t)
			if test.variable != "" {
				t.Setenv(test.variable, "none")
			}
			var out, stderr bytes.Buffer
			if code := run(test.args, streams{&out, &stderr}); code != exitUsage || out.Len() > 0 || !strings.HasPrefix(stderr.String(), "error: --model is required\nhint: ") {
				t.Errorf("run(%q) = %d, printed %q and %q", test.args, code, &out, &stderr)
			}
		})
	}
}
