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
	t.Run("of a stack that never was", func(t *testing.T) {
		l := newLab(t)
		if out, err := l.do(l.down); err != nil || !strings.Contains(out, "Nothing to delete") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("deletes, and says what stays", func(t *testing.T) {
		l := deployed(t)
		out, err := l.do(l.down)
		if err != nil || l.programs.deployed != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			"ok      login        you@example.com", "every object (data sets, runs, models) in bucket my-bucket", "the state, now empty", "the passphrase", "the enabled APIs",
			"projects/iAMMember:IAMMember name-of-x, which all stacks of the project share", "the deleted objects of bucket my-bucket for 7 days",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is missing in\n%s", want, out)
			}
		}
		if strings.Contains(out, "a-view") {
			t.Errorf("a view has records of its own\n%s", out)
		}
		if out, err = l.do(l.down); err != nil || !strings.Contains(out, "Nothing to delete") || len(l.programs.ran) > 0 {
			t.Errorf("the second time: %v\n%s", err, out)
		}
	})
	t.Run("asks", func(t *testing.T) {
		l := deployed(t)
		l.yes = false
		if _, err := l.do(l.down); err == nil || !strings.Contains(err.Error(), "ARGS=--yes") {
			t.Errorf("without a terminal: %v", err)
		}
		l.terminal, l.in = true, strings.NewReader("no\n")
		if _, err := l.do(l.down); err == nil || l.programs.deployed == nil {
			t.Errorf("after a no: %v", err)
		}
	})
	t.Run("deletes nothing of a protected stack", func(t *testing.T) {
		l := deployed(t)
		l.programs.protect = true
		out, err := l.do(l.down)
		if err == nil || len(l.programs.ran) > 0 || !strings.Contains(out, "storage/bucket:Bucket name-of-my-bucket") ||
			!strings.Contains(err.Error(), "config set --stack dev fakeart:protect false") {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("that fails can be continued", func(t *testing.T) {
		l := deployed(t)
		l.programs.fail = []string{"exit status 1"}
		if _, err := l.do(l.down); err == nil || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("checks first", func(t *testing.T) {
		l := deployed(t)
		l.cloud.login = "invalid_grant"
		delete(l.vars, "PULUMI_CONFIG_PASSPHRASE")
		out, err := l.do(l.down)
		if err == nil || !strings.Contains(out, "failed  passphrase") || !strings.Contains(out, "failed  login") {
			t.Errorf("%v\n%s", err, out)
		}
		l.name = "staging"
		if out, err = l.do(l.down); err == nil || !strings.Contains(out, "there is no Pulumi.staging.yaml") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}
