package main

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// `make cloud-up` asks Google whether the account has the permissions of
// cloud/permissions.yaml, which therefore has an entry for every kind of resource that the
// program creates.
func TestPermissions(t *testing.T) {
	text, err := os.ReadFile("cloud/permissions.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var needs []struct {
		Role, When  string
		Modules     []string
		Permissions []string
	}
	if err := yaml.Unmarshal(text, &needs); err != nil {
		t.Fatal(err)
	}
	covers := func(module, kind string) bool {
		return strings.HasPrefix(kind, "gcp:"+module+"/") || strings.HasPrefix(kind, "gcp:"+module+":")
	}
	// Keys are granted on the key itself, budgets on the billing account.
	elsewhere := []string{"kms", "billing"}
	for kind := range labelled {
		if slices.ContainsFunc(elsewhere, func(module string) bool { return covers(module, kind) }) {
			continue
		}
		found := false
		for _, need := range needs {
			found = found || slices.ContainsFunc(need.Modules, func(module string) bool { return covers(module, kind) })
		}
		if !found {
			t.Errorf("cloud/permissions.yaml has no role for %s", kind)
		}
	}
	known := keys()
	for _, need := range needs {
		for _, module := range need.Modules {
			if !slices.ContainsFunc(slices.Collect(maps.Keys(labelled)), func(kind string) bool { return covers(module, kind) }) {
				t.Errorf("%s: the program uses nothing of %s", need.Role, module)
			}
		}
		if key, ok := strings.CutPrefix(need.When, "fakeart:"); need.When != "" && (!ok || !slices.Contains(known, key)) {
			t.Errorf("%s: a stack has no key %s", need.Role, need.When)
		}
		if !strings.HasPrefix(need.Role, "roles/") || len(need.Permissions) == 0 {
			t.Errorf("an entry is incomplete: %+v", need)
		}
	}
}
