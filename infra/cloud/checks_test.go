package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Each failed check must print the problem and the commands that fix it, and change nothing.
func TestCheck(t *testing.T) {
	budget := devFile + "  fakeart:billingAccount: 012345-6789AB-CDEF01\n"
	for name, c := range map[string]struct {
		set  func(l *lab)
		want []string
	}{
		"stack_file_missing": {
			func(l *lab) { l.name = "staging" },
			[]string{"failed  stack        Pulumi.staging.yaml doesn't exist", "hint: cp Pulumi.dev.yaml Pulumi.staging.yaml"},
		},
		"project_missing": {
			func(l *lab) { l.file("config:\n  gcp:region: europe-west4\n") },
			[]string{`gcp:project is ""`, "hint: set gcp:project in Pulumi.dev.yaml"},
		},
		"region_missing": {func(l *lab) { l.file("config:\n  gcp:project: my-project-1\n") }, []string{`gcp:region is ""`, "hint: set gcp:region"}},
		"tools_missing": {
			func(l *lab) { l.missing = []string{"npm", "clang", "gcc"} },
			[]string{"failed  tools        missing: npm, ", "hint: sudo apt-get install nodejs npm", "sudo apt-get install gcc libc6-dev"},
		},
		"passphrase_missing": {
			func(l *lab) { delete(l.vars, "PULUMI_CONFIG_PASSPHRASE") },
			[]string{
				"failed  passphrase   no passphrase", "hint: mkdir -p ~/.config/fakeart", "openssl rand -base64 24 > ~/.config/fakeart/dev.passphrase",
				"export PULUMI_CONFIG_PASSPHRASE_FILE=~/.config/fakeart/dev.passphrase",
			},
		},
		"passphrase_missing_with_salt": {
			func(l *lab) { delete(l.vars, "PULUMI_CONFIG_PASSPHRASE"); l.file(devFile + "encryptionsalt: v1:x\n") },
			[]string{"a passphrase that isn't set", "hint: export PULUMI_CONFIG_PASSPHRASE_FILE=FILE"},
		},
		"passphrase_file_missing": {
			func(l *lab) { l.vars["PULUMI_CONFIG_PASSPHRASE_FILE"] = "/nowhere/x" },
			[]string{"can't read /nowhere/x"},
		},
		"login_missing": {
			func(l *lab) {
				l.t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
				l.t.Setenv("HOME", l.t.TempDir())
			},
			[]string{"failed  login        no application default credentials", "hint: gcloud auth application-default login"},
		},
		"login_expired": {
			func(l *lab) { l.cloud.login = "invalid_grant"; l.missing = []string{"gcloud"} },
			[]string{"failed  login        the login has expired or was revoked (invalid_grant)", "hint: gcloud auth application-default login", "https://cloud.google.com/sdk/docs/install"},
		},
		"other_credentials_set": {
			func(l *lab) { l.vars["GOOGLE_CREDENTIALS"] = "{}" },
			[]string{"failed  login        GOOGLE_CREDENTIALS is set", "hint: unset GOOGLE_CREDENTIALS"},
		},
		"project_not_found": {
			func(l *lab) { l.cloud.project = "" },
			[]string{
				"failed  project      my-project-1 doesn't exist, or you@example.com may not use it", "gcloud projects create my-project-1",
				"gcloud projects add-iam-policy-binding my-project-1 --member user:you@example.com --role roles/owner",
			},
		},
		"project_being_deleted": {func(l *lab) { l.cloud.project = "DELETE_REQUESTED" }, []string{"hint: gcloud projects undelete my-project-1"}},
		"service_usage_api_disabled": {
			func(l *lab) { l.cloud.enabled = nil },
			[]string{"hint: gcloud services enable serviceusage.googleapis.com --project my-project-1"},
		},
		"billing_account_missing": {
			func(l *lab) { l.cloud.billing = "" },
			[]string{"failed  billing      my-project-1 isn't linked to a billing account", "gcloud billing projects link my-project-1 --billing-account ACCOUNT"},
		},
		"billing_account_closed": {func(l *lab) { l.cloud.closed = true }, []string{"billing account 012345-6789AB-CDEF01 of my-project-1 is closed"}},
		"other_billing_account": {
			func(l *lab) { l.file(budget); l.cloud.billing = "AAAAAA-AAAAAA-AAAAAA" },
			[]string{"is billed to AAAAAA-AAAAAA-AAAAAA", "hint: gcloud billing projects link my-project-1 --billing-account 012345-6789AB-CDEF01"},
		},
		"permissions_missing": {
			func(l *lab) { l.cloud.lacks = []string{"run.services.create", "pubsub.topics.create"} },
			[]string{
				"failed  permissions  you@example.com lacks pubsub.topics.create, run.services.create",
				"--member user:you@example.com --role roles/run.admin", "--member user:you@example.com --role roles/pubsub.admin",
			},
		},
		"budget_permission_missing": {
			func(l *lab) { l.file(budget); l.cloud.lacks = []string{"billing.budgets.create"} },
			[]string{"failed  budget       you@example.com lacks billing.budgets.create", "--role roles/billing.costsManager"},
		},
		"budget_without_billing_project": {
			func(l *lab) { l.file(budget) },
			[]string{"failed  budget ", `gcp:userProjectOverride: "true"`, "gcp:billingProject: my-project-1"},
		},
		"state_bucket_missing": {
			func(l *lab) { l.vars["PULUMI_BACKEND_URL"] = "gs://states/fakeart" },
			[]string{"failed  state        bucket gs://states doesn't exist", "gcloud storage buckets create gs://states --project my-project-1 --location europe-west4"},
		},
		"several_problems": {
			func(l *lab) {
				delete(l.vars, "PULUMI_CONFIG_PASSPHRASE")
				l.cloud.billing = ""
				l.cloud.lacks = []string{"storage.buckets.create"}
			},
			[]string{"failed  passphrase ", "failed  billing ", "failed  permissions ", "3 checks failed; nothing was changed"},
		},
		"several_problems_and_disabled_apis": {
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
					t.Errorf("output doesn't contain %q:\n%s", want, out)
				}
			}
			if len(l.cloud.calls)+len(l.programs.ran) > 0 || l.programs.stack {
				t.Errorf("unexpected changes: %q, %q", l.cloud.calls, l.programs.ran)
			}
		})
	}
}

func TestCheck_EnablesAPIsAfterConfirmation(t *testing.T) {
	for _, yes := range []bool{false, true} {
		l := newLab(t)
		l.yes, l.terminal = yes, true
		l.cloud.enabled = []string{"serviceusage.googleapis.com", "iam.googleapis.com"}
		out, err := l.do(l.up)
		if !strings.Contains(out, "cloudresourcemanager.googleapis.com, cloudbilling.googleapis.com, storage.googleapis.com") {
			t.Errorf("output doesn't list the APIs\n%s", out)
		}
		if enabled := slices.Contains(l.cloud.enabled, "cloudbilling.googleapis.com"); enabled != yes || (err == nil) != yes {
			t.Errorf("--yes=%v: enabled = %v, error %v", yes, enabled, err)
		}
	}
}

func TestCheck_FailureAfterEnablingAPIs(t *testing.T) {
	l := newLab(t)
	l.cloud.enabled, l.cloud.billing = []string{"serviceusage.googleapis.com"}, ""
	if _, err := l.do(l.up); err == nil || err.Error() != "a check failed; nothing was changed, except that APIs are enabled" {
		t.Errorf("error %v, want one that mentions the enabled APIs", err)
	}
}

func TestCheck_BudgetAndStateBucket(t *testing.T) {
	l := newLab(t)
	l.file(devFile + "  fakeart:billingAccount: 012345-6789AB-CDEF01\n  gcp:userProjectOverride: \"true\"\n  gcp:billingProject: my-project-1\n")
	l.vars["PULUMI_BACKEND_URL"] = "gs://states?project=x"
	l.cloud.buckets = []string{"states"}
	if out, err := l.do(l.up); err != nil || !strings.Contains(out, "ok      budget ") || !strings.Contains(out, "ok      state ") {
		t.Errorf("error %v\n%s", err, out)
	}
}

func TestCheck_UntestablePermission(t *testing.T) {
	l := newLab(t)
	l.cloud.untestable = true
	if out, err := l.do(l.up); err != nil || !strings.Contains(out, "not checked: Permission x is not valid for this resource") {
		t.Errorf("error %v\n%s", err, out)
	}
}

func TestNeeds_LoadBalancer(t *testing.T) {
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
			t.Errorf("roles = %s, want %s", got, want)
		}
	}
}
