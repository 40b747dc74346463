package process

import (
	"context"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shell starts a shell script as a server.
func shell(ctx context.Context, t *testing.T, script string) (*Server, error) {
	t.Helper()
	return Start(ctx, Command(ctx, io.Discard, "sh", "-c", script), io.Discard)
}

// listen is a script that logs the listening message and then waits.
const listen = `; echo begin >&2; echo "msg=\"listening on http://127.0.0.1:4567\" model=x" >&2; while :; do sleep 0.01; done`

func TestStart(t *testing.T) {
	s, err := shell(t.Context(), t, `trap 'exit 0' TERM`+listen)
	if err != nil {
		t.Fatal(err)
	}
	if s.URL != "http://127.0.0.1:4567" {
		t.Errorf("URL %q", s.URL)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

func TestStop_contextCanceled(t *testing.T) {
	for script, want := range map[string]string{`trap 'exit 0' TERM`: "", `trap 'exit 3' TERM`: "exit status 3"} {
		ctx, cancel := context.WithCancel(t.Context())
		s, err := shell(ctx, t, script+listen)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := s.Stop(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", script, err, want)
		}
	}
}

// On Ctrl-C, a terminal signals all of its processes. Stop must not send a second signal.
func TestStop_afterCtrlC(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s, err := shell(ctx, t, `trap 'trap "exit 4" TERM; sleep 0.3; exit 0' TERM`+listen)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

func TestStart_Prometheus(t *testing.T) {
	for _, line := range []string{
		`ts=2026-01-01T00:00:00Z caller=tls_config.go:232 level=info component=web msg="Listening on" address=127.0.0.1:4567`,
		`time=2026-01-01T00:00:00Z level=INFO source=tls_config.go:347 msg="Listening on" component=web address=127.0.0.1:4567`,
	} {
		s, err := shell(t.Context(), t, `echo '`+line+`' >&2; sleep 0.1`)
		if err != nil {
			t.Fatal(err)
		}
		if s.URL != "http://127.0.0.1:4567" {
			t.Errorf("URL %q", s.URL)
		}
		<-s.Done()
		_ = s.Stop()
	}
}

func TestStop_exitStatus(t *testing.T) {
	s, err := shell(t.Context(), t, `trap 'exit 3' TERM`+listen)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("error %v", err)
	}
}

func TestStart_exitsEarly(t *testing.T) {
	var log strings.Builder // complete once the server has exited
	_, err := Start(t.Context(), Command(t.Context(), io.Discard, "sh", "-c", `echo "there is no model" >&2; exit 1`), &log)
	if err == nil || !strings.Contains(err.Error(), "exited before it was listening") || !strings.Contains(log.String(), "there is no model") {
		t.Errorf("Start: error %v, log %q", err, log.String())
	}
	if _, err := Start(t.Context(), Command(t.Context(), io.Discard, t.TempDir()+"/none"), io.Discard); err == nil || !strings.Contains(err.Error(), "start server") {
		t.Errorf("error %v", err)
	}
}

// A server's last error explains why it exited.
func TestStart_exitReason(t *testing.T) {
	for script, want := range map[string]string{
		`echo "msg=starting" >&2; printf 'error: port 1 is in use\nhint: use another\n' >&2; exit 1`: "(exit status 1): port 1 is in use\nhint: use another",
		`echo first >&2; echo last >&2; exit 2`:                                                      "(exit status 2): last",
		`exit 0`:                                                                                     "(exit status 0): ",
	} {
		if _, err := shell(t.Context(), t, script); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: error %v, want one that ends in %q", script, err, want)
		}
	}
}

// Clients decide about parts of what a server logs. It may not block, nor end, because of that.
func TestStart_oddMessages(t *testing.T) {
	for name, script := range map[string]string{
		"listening_logged_again": `; i=0; while [ $i -lt 5 ]; do echo "userAgent=\"listening on http://127.0.0.1:1 \"" >&2; i=$((i+1)); done; trap 'exit 0' TERM; while :; do sleep 0.01; done`,
		"long_line":              `; head -c 300000 /dev/zero | tr '\0' x >&2; echo >&2; trap 'exit 0' TERM; while :; do sleep 0.01; done`,
	} {
		t.Run(name, func(t *testing.T) {
			s, err := shell(t.Context(), t, `trap 'exit 0' TERM; echo 'listening on http://127.0.0.1:4567' >&2`+script)
			if err != nil {
				t.Fatal(err)
			}
			if s.Address() != "127.0.0.1:4567" {
				t.Errorf("address %q", s.Address())
			}
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("long_line_before_listening", func(t *testing.T) {
		s, err := shell(t.Context(), t, `head -c 300000 /dev/zero | tr '\0' x >&2; echo >&2; trap 'exit 0' TERM`+listen)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
}

// A child of the server that keeps standard error open doesn't keep Start waiting.
func TestStart_orphan(t *testing.T) {
	cmd := Command(t.Context(), io.Discard, "sh", "-c", `sleep 300 & echo "error: left $!" >&2; exit 1`)
	cmd.WaitDelay = 10 * time.Millisecond
	_, err := Start(t.Context(), cmd, io.Discard)
	if err == nil {
		t.Fatal("no error")
	}
	_, text, _ := strings.Cut(err.Error(), ": left ")
	pid, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	child, err := os.FindProcess(pid)
	if err == nil {
		err = child.Kill()
	}
	if err != nil {
		t.Errorf("the child has exited: %v", err)
	}
}

func TestCommand_environment(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	t.Setenv("FAKEART_QUEUE", "7")
	env := Command(t.Context(), io.Discard, "server").Env
	for _, variable := range env {
		if strings.HasPrefix(variable, "OTEL_") || strings.HasPrefix(variable, "TRACEPARENT=") {
			t.Errorf("the command gets %s", variable)
		}
	}
	if !slices.Contains(env, "FAKEART_QUEUE=7") {
		t.Errorf("the command doesn't get FAKEART_QUEUE: %q", env)
	}
}
