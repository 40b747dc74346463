// Command loadtest starts the server on a free port, runs predict.js against it with k6, and stops
// it. `make loadtest` runs it. The environment variables SCENARIO, DURATION and RATE configure the
// script; README.md describes them.
//
// If k6 fails, the exit code is k6's: 99 if the server missed its SLOs or a response was wrong.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/term"
	"google.golang.org/protobuf/proto"

	"fakeart/internal/model"
	"fakeart/internal/onnx/onnxpb"
	"fakeart/internal/process"
)

func main() {
	var l loadtest
	flag.StringVar(&l.server, "server", "bin/server", "path of the server")
	flag.StringVar(&l.k6, "k6", "bin/tools/k6", "path of k6")
	flag.StringVar(&l.script, "script", "loadtest/predict.js", "script for k6 to run")
	flag.StringVar(&l.model, "model", "runs/demo/run/model.onnx", "model file to serve")
	flag.StringVar(&l.dir, "dir", "runs/loadtest", "folder for the report and the server's log and data; replaces those of an earlier run")
	flag.Parse()
	l.out = os.Stdout
	l.progress = term.IsTerminal(int(os.Stdout.Fd()))
	l.scenario = os.Getenv("SCENARIO")
	l.duration = os.Getenv("DURATION")

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := l.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "loadtest: %v\n", err)
		os.Exit(exitCode(err))
	}
}

// exitCode returns the exit code of k6 if k6 failed, otherwise 1.
func exitCode(err error) int {
	if k6 := (*k6Error)(nil); errors.As(err, &k6) && k6.ExitCode() > 0 {
		return k6.ExitCode()
	}
	return 1
}

// defaultDuration is the duration of a run if DURATION isn't set.
const defaultDuration = "30s"

// loadtest is a run of the command.
type loadtest struct {
	server, k6         string // programs
	script, model      string
	dir                string
	scenario, duration string   // empty for the defaults
	env                []string // added to the environment of the server and of k6
	out                io.Writer
	progress           bool // out is a terminal, on which k6 can show its progress
}

// k6Error is returned if k6 exits with a code other than 0.
type k6Error struct{ *exec.ExitError }

func (e *k6Error) Error() string {
	if e.ExitCode() == 99 {
		return "the server missed its SLOs or a response was wrong; see the lines with ✗ above"
	}
	return fmt.Sprintf("k6 failed: %v", e.ExitError)
}

func (l *loadtest) run(ctx context.Context) (err error) {
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"report.html", "summary.json", "curves.html", "models"} { // no files of an earlier run may remain
		if err := os.RemoveAll(filepath.Join(l.dir, name)); err != nil {
			return err
		}
	}
	served := l.model
	if l.scenario == "swap" {
		if served, err = l.twoModels(); err != nil {
			return err
		}
	}
	log, err := os.Create(filepath.Join(l.dir, "server.log"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()

	env := append(slices.Clip(l.env), "FAKEART_ADMIN_TOKEN="+rand.Text()) // known only to the server and k6
	cmd := process.Command(ctx, l.out, l.server, "--model", served, "--addr", "127.0.0.1:0", "--log-path", filepath.Join(l.dir, "predictions.db"))
	cmd.Env = append(cmd.Env, env...)
	server, err := process.Start(ctx, cmd, log)
	if err != nil {
		return fmt.Errorf("%w\nhint: see %s for all messages", err, log.Name())
	}
	defer func() { err = errors.Join(err, server.Stop()) }()

	k6 := process.Command(ctx, l.out, l.k6, "run", "--address=", "--no-usage-report", "-e", "TARGET="+server.URL, "-e", "REPORT="+l.dir,
		"-e", "DURATION="+cmp.Or(l.duration, defaultDuration), fmt.Sprintf("--quiet=%t", !l.progress), l.script)
	k6.Env = append(k6.Env, env...)
	if l.scenario != "smoke" { // too short for a chart
		// k6's dashboard shows metrics over time, which the report of predict.js lacks. With port -1, k6
		// only exports it and doesn't serve it.
		k6.Env = append(k6.Env, "K6_WEB_DASHBOARD=true", "K6_WEB_DASHBOARD_PORT=-1", "K6_WEB_DASHBOARD_PERIOD=1s",
			"K6_WEB_DASHBOARD_EXPORT="+filepath.Join(l.dir, "curves.html"))
	}
	k6.Stdout, k6.Stderr = l.out, l.out
	err = k6.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = &k6Error{exit}
	}
	if err == nil || exitCode(err) == 99 {
		fmt.Fprintf(l.out, "report: %s\n", filepath.Join(l.dir, "report.html"))
	}
	return err
}

// twoModels creates a folder with the model and a copy that differs only in the model's name, and
// therefore in its digest.
func (l *loadtest) twoModels() (string, error) {
	data, err := os.ReadFile(l.model)
	if err != nil {
		return "", err
	}
	file, err := model.Parse(data)
	if err != nil {
		return "", fmt.Errorf("%s: %w", l.model, err)
	}
	var graph onnxpb.ModelProto
	if err := proto.Unmarshal(data, &graph); err != nil {
		return "", fmt.Errorf("%s: %w", l.model, err)
	}
	metadata := file.Metadata
	metadata.FormatVersion = 0 // the current one
	metadata.Name += " (copy)"
	other, err := model.Marshal(&graph, metadata)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(l.dir, "models")
	return dir, errors.Join(os.Mkdir(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "one.onnx"), data, 0o644), os.WriteFile(filepath.Join(dir, "other.onnx"), other, 0o644))
}
