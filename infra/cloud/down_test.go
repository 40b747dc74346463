package main

import (
	"strings"
	"testing"
)

func TestDown(t *testing.T) {
	deployed := func(t *testing.T) *lab {
		l := newLab(t)
		if out, err := l.do(l.up); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return l
	}
	t.Run("never_deployed", func(t *testing.T) {
		l := newLab(t)
		if out, err := l.do(l.down); err != nil || !strings.Contains(out, "Nothing to delete") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("deleted", func(t *testing.T) {
		l := deployed(t)
		out, err := l.do(l.down)
		if err != nil || l.programs.deployed != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			"ok      login        you@example.com", "every object (datasets, runs, models) in bucket my-bucket", "the empty state", "the passphrase", "the enabled APIs",
			"projects/iAMMember:IAMMember name-of-x, which all stacks of the project share", "the soft-deleted objects of bucket my-bucket, which are kept and billed for 7 days",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("output doesn't contain %q:\n%s", want, out)
			}
		}
		if strings.Contains(out, "a-view") {
			t.Errorf("a view is listed as data\n%s", out)
		}
		if out, err = l.do(l.down); err != nil || !strings.Contains(out, "Nothing to delete") || len(l.programs.ran) > 0 {
			t.Errorf("second run: error %v\n%s", err, out)
		}
	})
	t.Run("confirmation", func(t *testing.T) {
		l := deployed(t)
		l.yes = false
		if _, err := l.do(l.down); err == nil || !strings.Contains(err.Error(), "ARGS=--yes") {
			t.Errorf("without a terminal: error %v", err)
		}
		l.terminal, l.in = true, strings.NewReader("no\n")
		if _, err := l.do(l.down); err == nil || l.programs.deployed == nil {
			t.Errorf("answer no: error %v", err)
		}
	})
	t.Run("protected", func(t *testing.T) {
		l := deployed(t)
		l.programs.protect = true
		out, err := l.do(l.down)
		if err == nil || len(l.programs.ran) > 0 || !strings.Contains(out, "storage/bucket:Bucket name-of-my-bucket") ||
			!strings.Contains(err.Error(), "config set --stack dev fakeart:protect false") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("failed_destroy", func(t *testing.T) {
		l := deployed(t)
		l.programs.fail = []string{"exit status 1"}
		if _, err := l.do(l.down); err == nil || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("error %v, want a hint", err)
		}
	})
	t.Run("failed_checks", func(t *testing.T) {
		l := deployed(t)
		l.cloud.login = "invalid_grant"
		delete(l.vars, "PULUMI_CONFIG_PASSPHRASE")
		out, err := l.do(l.down)
		if err == nil || !strings.Contains(out, "failed  passphrase") || !strings.Contains(out, "failed  login") {
			t.Errorf("%v\n%s", err, out)
		}
		l.name = "staging"
		if out, err = l.do(l.down); err == nil || !strings.Contains(out, "Pulumi.staging.yaml doesn't exist") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}
