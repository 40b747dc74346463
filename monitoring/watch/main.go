// Command watch starts the server with a model, and Prometheus with the configuration in
// monitoring/prometheus to monitor it, both on free ports of the loopback interface. `make watch` runs
// it. It stops both on Ctrl-C, when one of them exits, or after the time set with --for.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"fakeart/internal/process"
)

func main() {
	var w watch
	flag.StringVar(&w.server, "server", "bin/server", "path of the server")
	flag.StringVar(&w.prometheus, "prometheus", "prometheus", "path of Prometheus")
	flag.StringVar(&w.config, "config", "monitoring/prometheus", "folder with Prometheus's configuration and rules")
	flag.StringVar(&w.model, "model", "runs/demo/run/model.onnx", "model file to serve")
	flag.StringVar(&w.dir, "dir", "runs/watch", "folder for data and logs; replaces those of an earlier run")
	flag.DurationVar(&w.every, "every", 0, "interval of scrapes and rule evaluations; 0 for that of the configuration")
	flag.DurationVar(&w.lasts, "for", 0, "time to run; 0 to run until Ctrl-C")
	flag.Parse()
	w.out = os.Stdout

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := w.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "watch: %v\n", err)
		os.Exit(1)
	}
}

// watch is a run of the command.
type watch struct {
	server, prometheus string // programs
	config, model, dir string
	every, lasts       time.Duration
	env                []string // added to the environment of both programs
	out                io.Writer
	// ready, if not nil, is called with the URLs of both once they run.
	ready func(server, prometheus string)
}

func (w *watch) run(ctx context.Context) (err error) {
	if _, err := exec.LookPath(w.prometheus); err != nil {
		return fmt.Errorf("%w\nhint: on Debian: sudo apt-get install --no-install-recommends prometheus, which also starts a service (sudo systemctl disable --now prometheus stops it). "+
			"Or use Docker: docker compose -f monitoring/compose.yaml up", err)
	}
	for _, name := range []string{"prometheus", "data"} {
		if err := os.RemoveAll(filepath.Join(w.dir, name)); err != nil {
			return err
		}
	}
	config, err := w.configure()
	if err != nil {
		return err
	}
	server, stopServer, err := w.start(ctx, "server", w.server, "--model", w.model, "--addr", "127.0.0.1:0", "--log-path", filepath.Join(w.dir, "predictions.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopServer()) }()

	targets := fmt.Sprintf("- targets: [%q]\n", strings.TrimPrefix(server.URL, "http://"))
	if err := os.WriteFile(filepath.Join(filepath.Dir(config), "targets.yaml"), []byte(targets), 0o644); err != nil {
		return err
	}
	prometheus, stopPrometheus, err := w.start(ctx, "prometheus", w.prometheus, "--config.file="+config,
		"--storage.tsdb.path="+filepath.Join(w.dir, "data"), "--web.listen-address=127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopPrometheus()) }()

	fmt.Fprintf(w.out, "\n  server      %s\n  Prometheus  %s\n  alerts      %s/alerts\n\n", server.URL, prometheus.URL, prometheus.URL)
	if w.ready != nil {
		w.ready(server.URL, prometheus.URL)
	}
	var timeout <-chan time.Time
	if w.lasts > 0 {
		timeout = time.After(w.lasts)
	} else {
		fmt.Fprintln(w.out, "Press Ctrl-C to stop both.")
	}
	select {
	case <-timeout:
	case <-ctx.Done():
	case <-server.Done():
		err = fmt.Errorf("the server exited; see %s", w.log("server"))
	case <-prometheus.Done():
		err = fmt.Errorf("the Prometheus server exited; see %s", w.log("prometheus"))
	}
	return err
}

// configure copies the configuration, in which the path of the targets file is relative, to w.dir. It
// returns the path of the copy.
func (w *watch) configure() (string, error) {
	dir := filepath.Join(w.dir, "prometheus")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	rules, err := filepath.Glob(filepath.Join(w.config, "*.rules.yaml"))
	if err != nil {
		return "", err
	}
	for _, path := range append(rules, filepath.Join(w.config, "prometheus.yaml")) {
		data, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		if w.every > 0 {
			data = intervals.ReplaceAll(data, fmt.Appendf(nil, "${1}%s", w.every))
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), data, 0o644); err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, "prometheus.yaml"), nil
}

var intervals = regexp.MustCompile(`((?:scrape|evaluation)_interval: )\S+`)

func (w *watch) log(name string) string { return filepath.Join(w.dir, name+".log") }

// start starts a program that logs to a file, see log. It returns the process and a function that stops
// it.
func (w *watch) start(ctx context.Context, name string, args ...string) (*process.Server, func() error, error) {
	log, err := os.Create(w.log(name))
	if err != nil {
		return nil, nil, err
	}
	cmd := process.Command(context.WithoutCancel(ctx), w.out, args...) // Stop ends the process, not the context
	cmd.Env = append(cmd.Env, w.env...)
	s, err := process.Start(ctx, cmd, log)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w\nhint: see %s for all messages", name, err, log.Name()), log.Close())
	}
	return s, func() error { return errors.Join(s.Stop(), log.Close()) }, nil
}
