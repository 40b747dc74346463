package main

import (
	"strings"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

const protectionKind = "fakeart:infra:Protection"

// `pulumi destroy` deletes a resource only after its dependents. If the protection depends on every
// resource and can't be deleted, nothing is deleted.
func TestProtection_DependsOnEveryResource(t *testing.T) {
	for _, stack := range []string{"dev", "prod"} {
		e := &engine{}
		if err := e.run(stack, stackConfig(stack, nil)); err != nil {
			t.Fatal(err)
		}
		protection := find(t, e.components, protectionKind, "protection-component")
		if protection.protect != (stack == "prod") {
			t.Errorf("%s: protect = %v", stack, protection.protect)
		}
		left := map[string]made{} // by TYPE::NAME, the end of the URN
		for _, r := range e.resources {
			left[r.kind+"::"+r.name] = r
		}
		if len(left) < 60 {
			t.Errorf("%s: %d resources, want at least 60", stack, len(left))
		}
		for urns := protection.dependencies; len(urns) > 0; urns = urns[1:] {
			id := urns[0][strings.LastIndexAny(urns[0], "$")+1:]
			urns = append(urns, left[id].dependencies...)
			delete(left, id)
		}
		for id := range left {
			t.Errorf("%s: the protection doesn't depend on %s", stack, id)
		}
	}
}

// When protect is set to false, the protection must stay and become deletable: Pulumi doesn't
// delete a protected resource.
func TestProtection_ProtectFalse(t *testing.T) {
	e := &engine{}
	if err := e.run("prod", stackConfig("prod", map[string]string{"fakeart:protect": "false"})); err != nil {
		t.Fatal(err)
	}
	if find(t, e.components, protectionKind, "protection-component").protect {
		t.Error("the protection is still protected")
	}
	for _, r := range e.resources {
		if r.protect {
			t.Errorf("%s %s is still protected", r.kind, r.name)
		}
	}
}

func TestConfigWarning_NoAlertRecipient(t *testing.T) {
	noRecipient := map[string]string{"fakeart:email": "", "fakeart:slackChannel": "", "fakeart:pagerDutyKey": ""}
	for _, test := range []struct {
		name, stack string
		change      map[string]string
		warns       bool
	}{
		{"protected_without_recipient", "prod", noRecipient, true},
		{"protected_with_email", "prod", map[string]string{"fakeart:slackChannel": "", "fakeart:pagerDutyKey": ""}, false},
		{"protected_with_pagerduty", "prod", map[string]string{"fakeart:email": "", "fakeart:slackChannel": ""}, false},
		{"unprotected_without_recipient", "dev", noRecipient, false},
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
				t.Errorf("warning = %q, want one: %t", warning, test.warns)
			}
		})
	}
}
