package main

import (
	"strings"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

const protectionKind = "fakeart:infra:Protection"

// `pulumi destroy` deletes a resource only after those that depend on it. So if the protection
// depends on everything and can't be deleted, nothing is.
func TestProtectionDependsOnEveryResource(t *testing.T) {
	for _, stack := range []string{"dev", "prod"} {
		e := &engine{}
		if err := e.run(stack, stackConfig(stack, nil)); err != nil {
			t.Fatal(err)
		}
		protection := find(t, e.components, protectionKind, "protection-component")
		if protection.protect != (stack == "prod") {
			t.Errorf("%s: protected is %v", stack, protection.protect)
		}
		left := map[string]made{} // by the end of their URNs
		for _, r := range e.resources {
			left[r.kind+"::"+r.name] = r
		}
		if len(left) < 60 {
			t.Errorf("%s: only %d resources", stack, len(left))
		}
		for urns := protection.dependencies; len(urns) > 0; urns = urns[1:] {
			id := urns[0][strings.LastIndexAny(urns[0], "$")+1:]
			urns = append(urns, left[id].dependencies...)
			delete(left, id)
		}
		for id := range left {
			t.Errorf("%s: %s could be destroyed before the protection", stack, id)
		}
	}
}

// The protection of a stack that was protected has to be lifted, not removed: Pulumi refuses to
// delete it.
func TestProtectionStaysWithoutProtect(t *testing.T) {
	e := &engine{}
	if err := e.run("prod", stackConfig("prod", map[string]string{"fakeart:protect": "false"})); err != nil {
		t.Fatal(err)
	}
	if find(t, e.components, protectionKind, "protection-component").protect {
		t.Error("it is still protected")
	}
	for _, r := range e.resources {
		if r.protect {
			t.Errorf("%s %s is still protected", r.kind, r.name)
		}
	}
}

func TestAProtectedStackWithoutAnybodyToTellGetsAWarning(t *testing.T) {
	silent := map[string]string{"fakeart:email": "", "fakeart:slackChannel": "", "fakeart:pagerDutyKey": ""}
	for _, test := range []struct {
		name, stack string
		change      map[string]string
		warns       bool
	}{
		{"nobody", "prod", silent, true},
		{"mail", "prod", map[string]string{"fakeart:slackChannel": "", "fakeart:pagerDutyKey": ""}, false},
		{"the pager alone", "prod", map[string]string{"fakeart:email": "", "fakeart:slackChannel": ""}, false},
		{"nobody of a stack to try things in", "dev", silent, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var warning string
			err := pulumi.RunErr(func(ctx *pulumi.Context) error {
				c, err := loadConfig(ctx)
				warning = c.warning()
				return err
			}, pulumi.WithMocks("fakeart", test.stack, &engine{}), func(i *pulumi.RunInfo) { i.Config = stackConfig(test.stack, test.change) })
			if err != nil {
				t.Fatal(err)
			}
			if warns := strings.Contains(warning, "pulumi config set --stack prod fakeart:email"); warns != test.warns || (warning == "") == test.warns {
				t.Errorf("the warning is %q", warning)
			}
		})
	}
}
