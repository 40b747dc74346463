package main

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// cloud/permissions.yaml must cover every type of resource that the program creates: `make
// cloud-up` checks that the account has the permissions listed there.
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
	// Permissions for KMS are granted on the key, and those for budgets on the billing account.
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
			t.Errorf("cloud/permissions.yaml: no entry for %s", kind)
		}
	}
	known := keys()
	for _, need := range needs {
		for _, module := range need.Modules {
			if !slices.ContainsFunc(slices.Collect(maps.Keys(labelled)), func(kind string) bool { return covers(module, kind) }) {
				t.Errorf("%s: the program creates no resource of module %s", need.Role, module)
			}
		}
		if key, ok := strings.CutPrefix(need.When, "fakeart:"); need.When != "" && (!ok || !slices.Contains(known, key)) {
			t.Errorf("%s: unknown key %s", need.Role, need.When)
		}
		if !strings.HasPrefix(need.Role, "roles/") || len(need.Permissions) == 0 {
			t.Errorf("incomplete entry: %+v", need)
		}
	}
}
