package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// buildPulumi builds the pinned Pulumi CLI, unless it is built.
func (s *session) buildPulumi(ctx context.Context) error {
	exe := ""
	if runtime.GOOS == "windows" {
		exe = ".exe"
	}
	if err := s.prepareState(); err != nil {
		return fmt.Errorf("create the folder of the state: %w", err)
	}
	return s.make(ctx, s.out, "bin/tools/pulumi"+exe, "bin/tools/pulumi-language-go"+exe)
}

// make runs make targets.
func (s *session) make(ctx context.Context, out io.Writer, args ...string) error {
	s.printf("\n$ make %s\n", strings.Join(args, " "))
	return s.run(ctx, s.root, command{args: append([]string{"make", "--no-print-directory"}, args...), out: out})
}

// pulumi runs a command of Pulumi's on the stack.
func (s *session) pulumi(ctx context.Context, out io.Writer, args ...string) error {
	args = append([]string{filepath.Join(s.root, "bin", "tools", "pulumi")}, append(args, "--stack", s.name)...)
	return s.run(ctx, s.root, command{args: args, out: out})
}

// shown is like pulumi, and shows the command and what it prints. It returns what was printed.
func (s *session) shown(ctx context.Context, args ...string) ([]byte, error) {
	s.printf("\n$ pulumi %s --stack %s\n", strings.Join(args, " "), s.name)
	var out bytes.Buffer
	args = append([]string{filepath.Join(s.root, "bin", "tools", "pulumi")}, append(args, "--stack", s.name)...)
	err := s.run(ctx, s.root, command{args: args, out: io.MultiWriter(s.out, &out), both: true})
	return out.Bytes(), err
}

// answer runs a command of Pulumi's that prints JSON.
func (s *session) answer(ctx context.Context, into any, args ...string) error {
	var out bytes.Buffer
	if err := s.pulumi(ctx, &out, args...); err != nil {
		return err
	}
	if err := json.Unmarshal(out.Bytes(), into); err != nil {
		return fmt.Errorf("pulumi %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// outputs are the stack's outputs.
type outputs struct {
	Bucket, Registry, URL, Dashboard string
	Console                          map[string]string
}

func (s *session) outputs(ctx context.Context) (outputs, error) {
	var o outputs
	return o, s.answer(ctx, &o, "stack", "output", "--json")
}

// resource is what the state holds of a resource.
type resource struct {
	URN            string `json:"urn"`
	Type           string `json:"type"`
	ID             string `json:"id"`
	Protect        bool   `json:"protect"`
	RetainOnDelete bool   `json:"retainOnDelete"`

	Inputs map[string]any `json:"inputs"`
}

// name is the resource's name in the program.
func (r resource) name() string { return r.URN[strings.LastIndex(r.URN, "::")+2:] }

// resources returns the resources of the state that exist at Google Cloud.
func (s *session) resources(ctx context.Context) ([]resource, error) {
	var state struct {
		Deployment struct{ Resources []resource }
	}
	if err := s.answer(ctx, &state, "stack", "export"); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(state.Deployment.Resources, func(r resource) bool {
		return !strings.HasPrefix(r.Type, "gcp:")
	}), nil
}

// changes are the lines of a preview's summary that count changes: "    + 98 to create".
var changes = regexp.MustCompile(`(?m)^ {4}\S+ ?\d+ to [a-z-]+`)

// preview shows what a configuration would change, and reports whether that is anything.
func (s *session) preview(ctx context.Context, config *stackFile) (bool, error) {
	file, err := s.configFile(config)
	if err != nil {
		return false, err
	}
	out, err := s.shown(ctx, "preview", "--non-interactive", "--suppress-progress", "--config-file", file)
	return changes.Match(out), err
}

// early are the errors of a project whose APIs were enabled, or whose accounts or metrics
// were created, minutes ago: the same update goes through later.
var early = regexp.MustCompile(`has not been used in project|it is disabled|[Ss]ervice account \S+ does not exist|` +
	`does not have permission to write to table|Permission denied while using the Eventarc Service Agent|` +
	`[Mm]etric referenced by the provided filter is unknown|Cannot find metric\(s\) that match`)

const (
	attempts = 6           // at an update that fails early
	pause    = time.Minute // between them
)

// apply makes the stack what a configuration says. Failures that pass by themselves in a
// new project are tried again.
func (s *session) apply(ctx context.Context, config *stackFile) error {
	file, err := s.configFile(config)
	if err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		out, err := s.shown(ctx, "up", "--yes", "--skip-preview", "--non-interactive", "--suppress-progress", "--config-file", file)
		if err == nil {
			s.cloud.patience = 30
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		if !early.Match(out) || attempt == attempts {
			return fmt.Errorf("%w\nhint: the messages above say why. Run the command again once that is solved: it continues where it stopped", err)
		}
		s.printf("\nA new project needs some minutes until everything is usable. Trying again in a minute (%d of %d).\n", attempt, attempts-1)
		if err := s.wait(ctx, pause); err != nil {
			return err
		}
	}
}

// configFile writes a configuration to a file of its own, so that the stack's own changes
// only with what was done.
func (s *session) configFile(config *stackFile) (string, error) {
	file := filepath.Join(s.temp, "Pulumi."+s.name+".yaml")
	return file, config.write(file)
}

// set sets a key of the stack's file, with Pulumi, which keeps its comments.
func (s *session) set(ctx context.Context, key, value string) error {
	_, err := s.shown(ctx, "config", "set", key, value)
	return err
}
