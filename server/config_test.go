package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"

	"fakeart/internal/cli"
	"fakeart/server/infer"
	"fakeart/server/telemetry"
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
	if c.model() != "from-flag" || c.Queue != 600 || c.MaxImages != 3 || !c.LogDurable || c.LogMaxAge != 24*time.Hour || c.ModelWatch != interval(5*time.Second) || len(c.tokens()) != 2 || c.MaxBatch != 8 {
		t.Errorf("%+v", c)
	}
	t.Setenv("FAKEART_CONFIG", file)
	if c, err = parsed(t); err != nil || c.model() != "from-variable" || c.MaxImages != 3 {
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
		{"IPv4_mapped_proxy", []string{"--trusted-proxy=::ffff:10.0.0.0/104"}, []string{"::ffff:10.0.0.0/104", "10.0.0.0/8"}},
		{"origin_without_scheme", []string{"--cors-origin=example.org"}, []string{"example.org", "https://"}},
		{"origins_with_star", []string{"--cors-origin=*,https://a.example"}, []string{"--cors-origin=*", "remove"}},
		{"origin_star_host", []string{"--cors-origin=https://*"}, []string{"--cors-origin=https://*", "https://"}},
		{"origin_two_stars", []string{"--cors-origin=https://*.*.example"}, []string{"--cors-origin=https://*.*.example", "https://"}},
		{"origin_in_file", yaml("cors-origin: ['https://a.example,https://*']"), []string{"https://a.example,https://*"}},
		{"watch_without_pause", []string{"--model-watch=1ns"}, []string{"--model-watch=1ns", "at least 1s"}},
		{"duration_too_long", []string{"--read-timeout=2562047h"}, []string{"--read-timeout=2562047h", "36500d"}},
		{"queue_too_long", []string{"--queue=9223372036854775807"}, []string{"--queue=9223372036854775807", "at most"}},
		{"header_too_large", []string{"--max-header=1TiB"}, []string{"--max-header", "at most 1048576"}},
		{"model_reference", []string{"--model=ftp://x/y"}, []string{"--model: ftp://x/y", "gs://"}},
		{"model_credentials", []string{"--model=s3://user:pass@bucket/m"}, []string{"--model: s3://…@bucket/m", "credentials"}},
		{"digest", []string{"--model-sha256=abc"}, []string{"--model-sha256", "abc", "64 hexadecimal digits"}},
		{"model_source", []string{"--model-source=ftp://x/"}, []string{"--model-source", "ftp://x/"}},
		{"topic_scheme", []string{"--log-store=pubsub", "--log-topic=kafka://x"}, []string{"--log-topic", "kafka://x", "gcppubsub://"}},
		{"topic_without_name", []string{"--model=m", "--log-store=pubsub", "--log-topic=gcppubsub://projects/p"}, []string{"--log-topic", "gcppubsub://projects/PROJECT/topics/TOPIC"}},
		{"topic_parameter", []string{"--log-store=pubsub", "--log-topic=gcppubsub://projects/p/topics/t?x=y"}, []string{"--log-topic", "parameters"}},
		{"feedback_topic", []string{"--log-store=pubsub", "--log-topic=gcppubsub://projects/p/topics/t", "--feedback-topic=t"}, []string{"--feedback-topic", `"t"`}},
		{"key_twice", yaml("queue: 500\nqueue: 600\n"), []string{"c.yaml", `"queue" is set in line 1 and again in line 2`}},
		{"two_documents", yaml("queue: 500\n---\nqueue: 600\n"), []string{"c.yaml", "several YAML documents"}},
		{"list_for_one_value", yaml("queue: [500]"), []string{"queue", "not a map or a list"}},
		{"list_in_list", yaml("cors-origin: [[a, b]]"), []string{"cors-origin", "line 1"}},
		{"null_in_list", yaml("cors-origin: [~]"), []string{"cors-origin", "line 1"}},
		{"benchmark_requests", []string{"benchmark", "--requests=5"}, []string{"--requests=5", "10000"}},
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
		"config", "--model=s3://bucket/m?secret=hush&region=eu", "--admin-token=very-secret-token", "--log-max-age=1h", "--model-watch",
		"--trusted-proxy=10.0.0.0/8", "--trusted-proxy=192.168.0.0/16",
	}
	if code := run(args, streams{&out, &stderr}); code != 0 {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	for _, secret := range []string{"very-secret", "hush"} {
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
		{"missing_value", []string{"--addr"}, "error: --addr: missing value\nhint: write the value after the flag, as in --queue=1024\n"},
		{"flag_as_value", []string{"--addr", "--ui"}, "error: --addr: missing value\nhint: write the value after the flag, as in --queue=1024\n"},
		{"missing_list", []string{"--cors-origin"}, "error: --cors-origin: missing value\nhint: write the value after the flag, as in --queue=1024\n"},
		{"missing_duration", []string{"--read-timeout"}, "error: --read-timeout: missing value\nhint: write the value after the flag, as in --queue=1024\n"},
		{"switch", []string{"--ui=maybe"}, "error: --ui: invalid value \"maybe\"\nhint: use true or false\n"},
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

func TestConfig_InvalidVariableOfSwitch(t *testing.T) {
	t.Setenv("FAKEART_UI", "maybe")
	var stderr bytes.Buffer
	const want = "error: FAKEART_UI: invalid value \"maybe\"\nhint: use true or false\n"
	if code := run(nil, streams{io.Discard, &stderr}); code != exitUsage || stderr.String() != want {
		t.Errorf("run() = %d, printed %q, want %q", code, &stderr, want)
	}
}

// Values from a file reach the flags unchanged, whatever they contain.
func TestConfig_FileValues(t *testing.T) {
	file := writeFile(t, "c.yaml", []byte("log-path: &path 'a\\,b\\'\nadmin-token: ['one\\', *path]\nmodel: *path\n"))
	c, err := parsed(t, "--config", file)
	if err != nil || c.LogPath != `a\,b\` || c.model() != `a\,b\` || !slices.Equal(c.AdminToken, []string{`one\`, `a\,b\`}) {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := parsed(t, "--config", writeFile(t, "empty.yaml", nil)); err != nil || c.Queue != 1024 {
		t.Errorf("empty file: %+v, %v", c, err)
	}
}

// The commands config and serve report the same errors about addresses and files, before anything
// is started.
func TestConfig_Check(t *testing.T) {
	good := writeFile(t, "tokens", []byte("a-token\n"))
	for _, test := range []struct {
		name, arg string
		words     []string
	}{
		{"missing_port", "--addr=127.0.0.1", []string{"127.0.0.1", "missing port", "--addr"}},
		{"missing_admin_port", "--admin-addr=localhost", []string{"localhost", "missing port", "--admin-addr"}},
		{"missing_grpc_port", "--grpc-addr=localhost", []string{"localhost", "missing port", "--grpc-addr"}},
		{"empty_admin_port", "--admin-addr=localhost:", []string{"localhost:", "missing port", "--admin-addr"}},
		{"port_out_of_range", "--addr=:99999", []string{"99999", "--addr"}},
		{"unknown_port", "--addr=:nonsense", []string{"nonsense", "--addr"}},
		{"colons", "--addr=::1:80:90", []string{"::1:80:90", "--addr"}},
		{"missing_token_file", "--admin-token-file=absent", []string{"absent"}},
		{"token_file_is_a_directory", "--admin-token-file=" + filepath.Dir(good), []string{"regular file"}},
		{"endless_token_file", "--admin-token-file=/dev/zero", []string{"regular file"}},
		{"empty_token_file", "--admin-token-file=" + writeFile(t, "empty", nil), []string{"empty", "one token per line"}},
		{"token_in_file_not_ASCII", "--admin-token-file=" + writeFile(t, "tokens", []byte("gehört\n")), []string{"tokens", "visible ASCII"}},
		{"missing_drift_reference", "--drift-reference=absent", []string{"--drift-reference", "absent"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var config, serve, out bytes.Buffer
			args := []string{"--model=absent.onnx", test.arg}
			if code := run(append([]string{"config"}, args...), streams{&out, &config}); code != exitFailure || out.Len() > 0 {
				t.Errorf("config: exit code %d, printed %q", code, &out)
			}
			if code := run(args, streams{&out, &serve}); code != exitFailure {
				t.Errorf("serve: exit code %d", code)
			}
			if config.String() != serve.String() {
				t.Errorf("config printed %q, serve %q", &config, &serve)
			}
			for _, w := range test.words {
				if !strings.Contains(serve.String(), w) {
					t.Errorf("%q doesn't contain %q", &serve, w)
				}
			}
		})
	}
	var out bytes.Buffer
	if code := run([]string{"config", "--addr=:http", "--admin-addr=[::1]:0", "--admin-token-file=" + good}, streams{&out, &out}); code != 0 {
		t.Errorf("valid addresses and files: exit code %d: %s", code, &out)
	}
}

// goNames matches names of Go's types and packages, and results of formatting them.
var goNames = regexp.MustCompile(`\b(u?int(8|16|32|64)?|float(32|64)?|bool|strconv|reflect|netip|time\.\w+|yaml)\b|interface ?\{|\*[a-z]+\.[A-Z]|%!|<EOL>|0x[0-9a-f]{6}|goroutine`)

// oddNumbers are values for every flag, and oddTexts further ones for flags that aren't numbers.
var oddNumbers = []string{
	"", " ", ",", ",,", "-", "-1", "0", "1", "1.5", "1e3", "1e400", "0x10", "NaN", "Inf", "9223372036854775807", "-9223372036854775808", "99999999999999999999",
	"1ns", "-1s", "1e9d", "2562047h", "106751d", "36500d", "1TB", "1EB", "8388607TB", "10M", "true", "false", "maybe", "null", "none", "\x00", "%zz",
}

var oddTexts = []string{
	"pubsub", "full", "debug",
	"*", "**", "*,*", "*,https://a.example", "https://*", "https://*.", "https://*.*.example", "https://a.*.example", "https://*.example:443", "https://*a.example",
	"https://a.example/", "https://a.example:99999", "https://a.example:", "https://user@a.example", "https://a.example?x", "https://a.example#", "https://[::1", "https://[::1]:80",
	"https://", "://", ":", ":0", ":80:90", "[::1]", "[::1]:0", "127.0.0.1", "127.0.0.1:-1", "localhost:http", "nonsense", "10.0.0.0/8", "10.0.0.0/33", "::/0", "fe80::%eth0/64",
	"gs://", "gs://b", "gs://b/k", "s3://b/k?region=eu&x=%zz", "s3://u:p@b/k", "file:", "file:///", "file://h/x", "http://x", "\x1b[31m", "é", "\xff", "..", "/", "/dev/zero",
	"gcppubsub://", "gcppubsub://p", "gcppubsub://p/t", "gcppubsub://projects/p/topics/t?max_send_batch_size=-1", "sha256:", strings.Repeat("9", 5000), strings.Repeat("ab", 32), "${x}", "a=b;c",
}

// TestConfig_OddValues gives each flag odd values. The command config accepts one only if everything
// that the flags configure can be constructed, and neither panics.
func TestConfig_OddValues(t *testing.T) {
	for _, flag := range newParser(&commands{}, streams{io.Discard, io.Discard}).Model.Flags {
		if flag.Name == "help" || flag.Name == "version" || flag.Name == "config" {
			continue
		}
		t.Run(flag.Name, func(t *testing.T) {
			values := oddNumbers
			if kind := flag.Target.Kind(); kind == reflect.String || kind == reflect.Slice {
				values = append(slices.Clip(values), oddTexts...)
			}
			for _, value := range values {
				args := []string{"--workers=1", "--" + flag.Name + "=" + value}
				switch flag.Name {
				case "feedback-topic":
					args = append(args, "--log-store=pubsub", "--log-topic=gcppubsub://projects/p/topics/t")
				case "log-topic":
					args = append(args, "--log-store=pubsub")
				}
				var out, stderr bytes.Buffer
				config, command, err := parse(append([]string{"config"}, args...), streams{&out, &stderr})
				if err == nil {
					err = command.Run()
				}
				if err != nil {
					cli.PrintError(&stderr, withHint(err))
					text := stderr.String()
					if len(value) > 3 {
						text = strings.ReplaceAll(text, value, "")
					}
					if found := goNames.FindString(text); found != "" || out.Len() > 0 {
						t.Errorf("config --%s=%q printed %q and %q, which contains %q", flag.Name, value, &out, &stderr, found)
					}
					continue
				}
				if err := construct(t, config, flag.Group.Title); err != nil {
					t.Errorf("--%s=%q: config accepts it, but it can't be used: %v", flag.Name, value, err)
				}
			}
		})
	}
}

// construct creates what the flags of a group configure.
func construct(t *testing.T, config *Config, group string) error {
	t.Helper()
	if group == "Inference" {
		engine, err := infer.New(infer.Options{Workers: config.workers(), MaxBatch: config.MaxBatch, Queue: config.Queue})
		if err != nil {
			return err
		}
		return engine.Close()
	}
	m := NewMain(*config, newLogger(config, io.Discard))
	m.tracing = telemetry.NewTracing(t.Context(), "test", m.log)
	if err := m.prepare(); err != nil || group != "Limits" && group != "Listening" {
		return err
	}
	for _, app := range []*fiber.App{m.newApp(), m.newAdminApp()} {
		request := httptest.NewRequest(http.MethodGet, "/healthz", nil)
		request.Header.Set("Origin", "https://a.example")
		response, err := app.Test(request, -1)
		if err != nil {
			return err
		}
		_ = response.Body.Close()
	}
	return nil
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
				"--model=[NAME=]REF", "$FAKEART_MODEL", "$FAKEART_MODEL_SHA256", "Prediction log", "--[no-]log-durable", "benchmark", "SIGTERM",
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
