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

// buildPulumi builds the pinned Pulumi CLI if necessary, and creates the folder of the state.
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

// pulumi runs a Pulumi command on the stack.
func (s *session) pulumi(ctx context.Context, out io.Writer, args ...string) error {
	args = append([]string{filepath.Join(s.root, "bin", "tools", "pulumi")}, append(args, "--stack", s.name)...)
	return s.run(ctx, s.root, command{args: args, out: out})
}

// showPulumi is like pulumi, but prints the command and its output. It also returns the output.
func (s *session) showPulumi(ctx context.Context, args ...string) ([]byte, error) {
	s.printf("\n$ pulumi %s --stack %s\n", strings.Join(args, " "), s.name)
	var out bytes.Buffer
	args = append([]string{filepath.Join(s.root, "bin", "tools", "pulumi")}, append(args, "--stack", s.name)...)
	err := s.run(ctx, s.root, command{args: args, out: io.MultiWriter(s.out, &out), both: true})
	return out.Bytes(), err
}

// pulumiJSON runs a Pulumi command that prints JSON, and decodes the output.
func (s *session) pulumiJSON(ctx context.Context, into any, args ...string) error {
	var out bytes.Buffer
	if err := s.pulumi(ctx, &out, args...); err != nil {
		return err
	}
	if err := json.Unmarshal(out.Bytes(), into); err != nil {
		return fmt.Errorf("pulumi %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// outputs are the stack outputs that the session uses.
type outputs struct {
	Bucket, Registry, URL, Dashboard string
	Console                          map[string]string
}

func (s *session) outputs(ctx context.Context) (outputs, error) {
	var o outputs
	return o, s.pulumiJSON(ctx, &o, "stack", "output", "--json")
}

// resource is a resource in the state.
type resource struct {
	URN            string `json:"urn"`
	Type           string `json:"type"`
	ID             string `json:"id"`
	Protect        bool   `json:"protect"`
	RetainOnDelete bool   `json:"retainOnDelete"`

	Inputs map[string]any `json:"inputs"`
}

// name returns the name of the resource in the program.
func (r resource) name() string { return r.URN[strings.LastIndex(r.URN, "::")+2:] }

// resources returns the Google Cloud resources in the state.
func (s *session) resources(ctx context.Context) ([]resource, error) {
	var state struct {
		Deployment struct{ Resources []resource }
	}
	if err := s.pulumiJSON(ctx, &state, "stack", "export"); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(state.Deployment.Resources, func(r resource) bool {
		return !strings.HasPrefix(r.Type, "gcp:")
	}), nil
}

// changes matches a line in the summary of a preview that counts changes: "    + 98 to create".
var changes = regexp.MustCompile(`(?m)^ {4}\S+ ?\d+ to [a-z-]+`)

// preview shows the changes that a configuration would make, and reports whether there are any.
func (s *session) preview(ctx context.Context, config *stackFile) (bool, error) {
	file, err := s.configFile(config)
	if err != nil {
		return false, err
	}
	out, err := s.showPulumi(ctx, "preview", "--non-interactive", "--suppress-progress", "--config-file", file)
	return changes.Match(out), err
}

// transient matches errors in a project whose APIs were enabled, or whose accounts or metrics were
// created, only minutes ago. The same update succeeds later.
var transient = regexp.MustCompile(`has not been used in project|it is disabled|[Ss]ervice account \S+ does not exist|` +
	`does not have permission to write to table|Permission denied while using the Eventarc Service Agent|` +
	`[Mm]etric referenced by the provided filter is unknown|Cannot find metric\(s\) that match`)

const (
	attempts = 6           // of an update that fails with a transient error
	pause    = time.Minute // between attempts
)

// apply updates the stack to a configuration. It retries transient errors of a new project.
func (s *session) apply(ctx context.Context, config *stackFile) error {
	file, err := s.configFile(config)
	if err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		out, err := s.showPulumi(ctx, "up", "--yes", "--skip-preview", "--non-interactive", "--suppress-progress", "--config-file", file)
		if err == nil {
			s.cloud.retries = 30
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		if !transient.Match(out) || attempt == attempts {
			return fmt.Errorf("%w\nhint: the messages above say why. Fix the cause and run the command again: it continues where it stopped", err)
		}
		s.printf("\nIn a new project, it takes some minutes until everything is usable. Retrying in a minute (%d of %d).\n", attempt, attempts-1)
		if err := s.wait(ctx, pause); err != nil {
			return err
		}
	}
}

// configFile writes a configuration to a temporary file and returns its path. The stack's own file
// changes only after the corresponding step has succeeded.
func (s *session) configFile(config *stackFile) (string, error) {
	file := filepath.Join(s.temp, "Pulumi."+s.name+".yaml")
	return file, config.write(file)
}

// set sets a key in the stack's file. It uses Pulumi, which keeps the comments.
func (s *session) set(ctx context.Context, key, value string) error {
	_, err := s.showPulumi(ctx, "config", "set", key, value)
	return err
}
