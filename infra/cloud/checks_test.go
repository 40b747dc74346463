package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Each check that fails prints what is wrong and the command that solves it, and nothing
// is changed.
func TestChecks(t *testing.T) {
	budget := devFile + "  fakeart:billingAccount: 012345-6789AB-CDEF01\n"
	for name, c := range map[string]struct {
		set  func(l *lab)
		want []string
	}{
		"no file of the stack": {
			func(l *lab) { l.name = "staging" },
			[]string{"failed  stack        there is no Pulumi.staging.yaml", "hint: cp Pulumi.dev.yaml Pulumi.staging.yaml"},
		},
		"no project": {
			func(l *lab) { l.file("config:\n  gcp:region: europe-west4\n") },
			[]string{`gcp:project is ""`, "hint: set gcp:project in Pulumi.dev.yaml"},
		},
		"no region": {func(l *lab) { l.file("config:\n  gcp:project: my-project-1\n") }, []string{`gcp:region is ""`, "hint: set gcp:region"}},
		"missing tools": {
			func(l *lab) { l.missing = []string{"npm", "clang", "gcc"} },
			[]string{"failed  tools        missing: npm, ", "hint: sudo apt-get install nodejs npm", "sudo apt-get install gcc libc6-dev"},
		},
		"no passphrase": {
			func(l *lab) { delete(l.vars, "PULUMI_CONFIG_PASSPHRASE") },
			[]string{
				"failed  passphrase   no passphrase", "hint: mkdir -p ~/.config/fakeart", "openssl rand -base64 24 > ~/.config/fakeart/dev.passphrase",
				"export PULUMI_CONFIG_PASSPHRASE_FILE=~/.config/fakeart/dev.passphrase",
			},
		},
		"no passphrase of a stack that has one": {
			func(l *lab) { delete(l.vars, "PULUMI_CONFIG_PASSPHRASE"); l.file(devFile + "encryptionsalt: v1:x\n") },
			[]string{"a passphrase that isn't set", "hint: export PULUMI_CONFIG_PASSPHRASE_FILE=FILE"},
		},
		"a passphrase's file that isn't there": {
			func(l *lab) { l.vars["PULUMI_CONFIG_PASSPHRASE_FILE"] = "/nowhere/x" },
			[]string{"names /nowhere/x, which can't be read"},
		},
		"no login": {
			func(l *lab) {
				l.t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
				l.t.Setenv("HOME", l.t.TempDir())
			},
			[]string{"failed  login        no application default credentials", "hint: gcloud auth application-default login"},
		},
		"an expired login": {
			func(l *lab) { l.cloud.login = "invalid_grant"; l.missing = []string{"gcloud"} },
			[]string{"failed  login        the login has expired or was revoked (invalid_grant)", "hint: gcloud auth application-default login", "https://cloud.google.com/sdk/docs/install"},
		},
		"credentials that only Pulumi would use": {
			func(l *lab) { l.vars["GOOGLE_CREDENTIALS"] = "{}" },
			[]string{"failed  login        GOOGLE_CREDENTIALS is set", "hint: unset GOOGLE_CREDENTIALS"},
		},
		"a project that isn't there": {
			func(l *lab) { l.cloud.project = "" },
			[]string{
				"failed  project      my-project-1 doesn't exist, or you@example.com may not use it", "gcloud projects create my-project-1",
				"gcloud projects add-iam-policy-binding my-project-1 --member user:you@example.com --role roles/owner",
			},
		},
		"a project that is being deleted": {func(l *lab) { l.cloud.project = "DELETE_REQUESTED" }, []string{"hint: gcloud projects undelete my-project-1"}},
		"no Service Usage API": {
			func(l *lab) { l.cloud.enabled = nil },
			[]string{"hint: gcloud services enable serviceusage.googleapis.com --project my-project-1"},
		},
		"no billing account": {
			func(l *lab) { l.cloud.billing = "" },
			[]string{"failed  billing      my-project-1 isn't linked to a billing account", "gcloud billing projects link my-project-1 --billing-account ACCOUNT"},
		},
		"a closed billing account": {func(l *lab) { l.cloud.closed = true }, []string{"billing account 012345-6789AB-CDEF01 of my-project-1 is closed"}},
		"another billing account": {
			func(l *lab) { l.file(budget); l.cloud.billing = "AAAAAA-AAAAAA-AAAAAA" },
			[]string{"is paid for by AAAAAA-AAAAAA-AAAAAA", "hint: gcloud billing projects link my-project-1 --billing-account 012345-6789AB-CDEF01"},
		},
		"missing permissions": {
			func(l *lab) { l.cloud.lacks = []string{"run.services.create", "pubsub.topics.create"} },
			[]string{
				"failed  permissions  you@example.com lacks pubsub.topics.create, run.services.create",
				"--member user:you@example.com --role roles/run.admin", "--member user:you@example.com --role roles/pubsub.admin",
			},
		},
		"no role for a budget": {
			func(l *lab) { l.file(budget); l.cloud.lacks = []string{"billing.budgets.create"} },
			[]string{"failed  budget       you@example.com lacks billing.budgets.create", "--role roles/billing.costsManager"},
		},
		"a budget without a project for its requests": {
			func(l *lab) { l.file(budget) },
			[]string{"failed  budget ", `gcp:userProjectOverride: "true"`, "gcp:billingProject: my-project-1"},
		},
		"a state's bucket that isn't there": {
			func(l *lab) { l.vars["PULUMI_BACKEND_URL"] = "gs://states/fakeart" },
			[]string{"failed  state        there is no bucket gs://states", "gcloud storage buckets create gs://states --project my-project-1 --location europe-west4"},
		},
		"several at once": {
			func(l *lab) {
				delete(l.vars, "PULUMI_CONFIG_PASSPHRASE")
				l.cloud.billing = ""
				l.cloud.lacks = []string{"storage.buckets.create"}
			},
			[]string{"failed  passphrase ", "failed  billing ", "failed  permissions ", "3 checks failed; nothing was changed"},
		},
		"several, and APIs that would have to be enabled": {
			func(l *lab) {
				delete(l.vars, "PULUMI_CONFIG_PASSPHRASE")
				l.cloud.enabled = []string{"serviceusage.googleapis.com"}
			},
			[]string{"failed  passphrase ", "hint: gcloud services enable cloudresourcemanager.googleapis.com cloudbilling.googleapis.com", "later   billing "},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			c.set(l)
			out, err := l.do(l.up)
			if err == nil || !strings.Contains(err.Error(), "nothing was changed") {
				t.Fatalf("error %v\n%s", err, out)
			}
			out += err.Error()
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("%q is missing in\n%s", want, out)
				}
			}
			if len(l.cloud.calls)+len(l.programs.ran) > 0 || l.programs.stack {
				t.Errorf("changed: %q, %q", l.cloud.calls, l.programs.ran)
			}
		})
	}
}

func TestAPIsOfTheChecksAreEnabledWithConsent(t *testing.T) {
	for _, yes := range []bool{false, true} {
		l := newLab(t)
		l.yes, l.terminal = yes, true
		l.cloud.enabled = []string{"serviceusage.googleapis.com", "iam.googleapis.com"}
		out, err := l.do(l.up)
		if !strings.Contains(out, "cloudresourcemanager.googleapis.com, cloudbilling.googleapis.com, storage.googleapis.com") {
			t.Errorf("it doesn't say which\n%s", out)
		}
		if enabled := slices.Contains(l.cloud.enabled, "cloudbilling.googleapis.com"); enabled != yes || (err == nil) != yes {
			t.Errorf("with --yes=%v they are enabled: %v; %v", yes, enabled, err)
		}
	}
}

func TestChecksAfterTheAPIsAreEnabled(t *testing.T) {
	l := newLab(t)
	l.cloud.enabled, l.cloud.billing = []string{"serviceusage.googleapis.com"}, ""
	if _, err := l.do(l.up); err == nil || err.Error() != "a check failed; nothing was changed, except that APIs are enabled" {
		t.Errorf("error %v", err)
	}
}

func TestABudgetIsAllowed(t *testing.T) {
	l := newLab(t)
	l.file(devFile + "  fakeart:billingAccount: 012345-6789AB-CDEF01\n  gcp:userProjectOverride: \"true\"\n  gcp:billingProject: my-project-1\n")
	l.vars["PULUMI_BACKEND_URL"] = "gs://states?project=x"
	l.cloud.buckets = []string{"states"}
	if out, err := l.do(l.up); err != nil || !strings.Contains(out, "ok      budget ") || !strings.Contains(out, "ok      state ") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestPermissionsThatGoogleDoesNotTest(t *testing.T) {
	l := newLab(t)
	l.cloud.untestable = true
	if out, err := l.do(l.up); err != nil || !strings.Contains(out, "not checked: Permission x is not valid for this resource") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestPermissionsOfALoadBalancer(t *testing.T) {
	roles := func(config map[string]any) (roles []string) {
		needs, err := (&stackFile{config: config}).needs()
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range needs {
			if strings.HasPrefix(n.Role, "roles/compute.") || strings.HasPrefix(n.Role, "roles/iap.") {
				roles = append(roles, n.Role)
			}
		}
		return roles
	}
	for want, config := range map[string]map[string]any{
		"[]": {},
		"[roles/compute.loadBalancerAdmin roles/compute.securityAdmin]":                 {"fakeart:loadBalancer": map[string]any{}},
		"[roles/compute.loadBalancerAdmin roles/compute.securityAdmin roles/iap.admin]": {"fakeart:loadBalancer": map[string]any{}, "fakeart:iapClientSecret": map[string]any{"secure": "v1"}},
	} {
		if got := fmt.Sprint(roles(config)); got != want {
			t.Errorf("roles are %s, want %s", got, want)
		}
	}
}
