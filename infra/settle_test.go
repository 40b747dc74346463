package main

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// emptyBlocks returns the paths of blocks in which every value is zero. Google's APIs don't return
// zero values, so each preview would add such a block again.
func emptyBlocks(path string, v any) (found []string) {
	zero := func(v any) bool {
		list, isList := v.([]any)
		return v == nil || v == false || v == 0.0 || v == "" || isList && len(list) == 0
	}
	switch v := v.(type) {
	case map[string]any:
		if !slices.ContainsFunc(slices.Collect(maps.Values(v)), func(v any) bool { return !zero(v) }) {
			found = append(found, path)
		}
		for key, value := range v {
			found = append(found, emptyBlocks(strings.TrimPrefix(path+"."+key, "."), value)...)
		}
	case []any:
		for i, value := range v {
			found = append(found, emptyBlocks(fmt.Sprintf("%s.%d", path, i), value)...)
		}
	}
	return found
}

// Covers each key that can be zero or empty, and each key that can be set and unset again.
func TestPreview_NoBlocksWithOnlyZeroValues(t *testing.T) {
	for name, change := range map[string]map[string]string{
		"as_configured":   nil,
		"immutable_tags":  {"fakeart:immutableTags": "true"},
		"canary_paused":   {"fakeart:canary": `{"image":"europe-west4-docker.pkg.dev/my-project-1/x/server` + someDigest + `","percent":0}`},
		"balancer":        {"fakeart:loadBalancer": "{}", "fakeart:domain": "fakeart.example.net", "fakeart:ingress": "internal-and-cloud-load-balancing"},
		"vpc":             {"fakeart:vpc": `{"network":"default","subnetwork":"default"}`},
		"existing_bucket": {"fakeart:bucket": "shared"},
		"no_retries":      {"fakeart:training": `{"retries":0}`},
		"zero_everywhere": {"fakeart:minInstances": "0", "fakeart:logDays": "0", "fakeart:immutableTags": "false", "fakeart:public": "false", "fakeart:objectives": "false"},
	} {
		for _, stack := range []string{"dev", "prod"} {
			for _, r := range mustUp(t, stack, change) {
				for _, path := range emptyBlocks("", r.inputs) {
					// "" means never. The provider handles the missing value of the API.
					if r.kind == subscriptionKind && path == "expirationPolicy" {
						continue
					}
					t.Errorf("%s/%s: %s %s: block %q has only zero values", name, stack, r.kind, r.name, path)
				}
			}
		}
	}
	if got := emptyBlocks("", map[string]any{"a": map[string]any{"b": false, "c": []any{map[string]any{}}}}); len(got) != 1 || got[0] != "a.c.0" {
		t.Errorf("emptyBlocks = %v", got)
	}
	if got := emptyBlocks("", map[string]any{"dockerConfig": map[string]any{"immutableTags": false}, "x": 1.0}); !slices.Equal(got, []string{"dockerConfig"}) {
		t.Errorf("emptyBlocks = %v", got)
	}
}

func TestRegistry_ImmutableTagsUnset(t *testing.T) {
	const kind = "gcp:artifactregistry/repository:Repository"
	expect(t, find(t, mustUp(t, "dev", map[string]string{"fakeart:immutableTags": "true"}), kind, "registry"), map[string]any{"dockerConfig.immutableTags": true})
	expect(t, find(t, mustUp(t, "dev", nil), kind, "registry"), map[string]any{"dockerConfig": nil})
}

func TestService_IgnoresScaling(t *testing.T) {
	service := find(t, mustUp(t, "dev", nil), serviceKind, "service")
	if !slices.Equal(service.ignored, []string{"scaling"}) || service.value("scaling") != nil {
		t.Errorf("ignored = %v, scaling = %v", service.ignored, service.value("scaling"))
	}
}

// An import file identifies a parent only by its name, so components need unique names.
func TestComponents_UniqueNames(t *testing.T) {
	e := &engine{}
	if err := e.run("prod", stackConfig("prod", nil)); err != nil {
		t.Fatal(err)
	}
	taken := map[string]string{}
	for _, r := range e.resources {
		taken[r.name] = r.kind
	}
	var before []string
	for _, c := range e.components {
		if c.kind == "pulumi:pulumi:Stack" {
			continue
		}
		if kind := taken[c.name]; kind != "" {
			t.Errorf("%s %s: a %s has the same name", c.kind, c.name, kind)
		}
		taken[c.name] = c.kind
		if len(c.aliases) != 1 || c.name != c.aliases[0]+"-component" {
			t.Errorf("%s %s: aliases = %v", c.kind, c.name, c.aliases)
		}
		before = append(before, c.aliases...)
	}
	slices.Sort(before)
	// Names in the state of stacks that the first version created.
	want := []string{"budget", "identity", "monitoring", "prediction-log", "registry", "secrets", "service", "services", "storage", "training", "triggers"}
	for _, name := range want {
		if !slices.Contains(before, name) {
			t.Errorf("no component has the alias %s: existing stacks would lose it", name)
		}
	}
}

// docs/how-to/deploy.md contains URNs of parents for `pulumi import`.
func TestDocs_ComponentURNs(t *testing.T) {
	e := &engine{}
	if err := e.run("prod", stackConfig("prod", nil)); err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, c := range e.components {
		known[c.kind+"::"+c.name] = true
	}
	page, err := os.ReadFile("../docs/how-to/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	urns := regexp.MustCompile(`urn:pulumi:dev::fakeart::(fakeart:infra:[\w:-]+)`).FindAllStringSubmatch(string(page), -1)
	if len(urns) == 0 {
		t.Error("docs/how-to/deploy.md: no URN found")
	}
	for _, urn := range urns {
		if !known[urn[1]] {
			t.Errorf("docs/how-to/deploy.md: unknown component %s", urn[1])
		}
	}
}

func TestServiceAgents(t *testing.T) {
	const (
		ofStorage  = "gcp:storage/getProjectServiceAccount:getProjectServiceAccount"
		ofBigQuery = "gcp:bigquery/getDefaultServiceAccount:getDefaultServiceAccount"
	)
	for _, stack := range []string{"dev", "prod"} {
		e := &engine{}
		if err := e.run(stack, stackConfig(stack, nil)); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(e.calls, ofStorage) {
			t.Errorf("%s: Cloud Storage's service agent wasn't requested", stack)
		}
		if slices.Contains(e.calls, ofBigQuery) != (stack == "prod") {
			t.Errorf("%s: BigQuery's service agent must be requested only with fakeart:kmsKey; calls = %v", stack, e.calls)
		}
		for _, service := range []string{"eventarc", "workflows"} {
			expect(t, find(t, e.resources, "gcp:projects/serviceIdentity:ServiceIdentity", "triggers-"+service), map[string]any{"service": service + ".googleapis.com"})
		}
	}
	// Without triggers, Cloud Storage's service agent isn't needed.
	e := &engine{}
	if err := e.run("dev", stackConfig("dev", map[string]string{"fakeart:trainerImage": ""})); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(e.calls, ofStorage) {
		t.Error("Cloud Storage's service agent was requested without triggers")
	}
}

func TestCheckDataset(t *testing.T) {
	other := strings.Replace(someKey, "data", "other", 1)
	for name, c := range map[string]struct {
		exists *dataset
		key    string
		want   string // part of the error; empty for none
	}{
		"new_stack":               {nil, someKey, ""},
		"unchanged":               {&dataset{"europe-west4", ""}, "", ""},
		"unchanged_key":           {&dataset{"EUROPE-WEST4", someKey}, someKey, ""},
		"key_added":               {&dataset{"europe-west4", ""}, someKey, "encrypted with Google's own key; Pulumi can't change that to " + someKey},
		"key_changed":             {&dataset{"europe-west4", other}, someKey, "encrypted with " + other},
		"key_removed":             {&dataset{"europe-west4", someKey}, "", "can't change that to Google's own key"},
		"region_changed":          {&dataset{"europe-west1", ""}, "", "gcp:region: europe-west4: the dataset fakeart_dev exists in europe-west1"},
		"region_changed_same_key": {&dataset{"EU", someKey}, someKey, "exists in EU"},
	} {
		e := &engine{dataset: c.exists}
		err := e.run("dev", stackConfig("dev", map[string]string{"fakeart:kmsKey": c.key}))
		if c.want == "" {
			if err != nil || len(e.resources) == 0 {
				t.Errorf("%s: error %v, %d resources", name, err, len(e.resources))
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "\nhint: ") {
			t.Errorf("%s: error %v, want %q and a hint", name, err, c.want)
		}
		if len(e.resources) > 0 {
			t.Errorf("%s: %d resources were registered, want 0", name, len(e.resources))
		}
	}
}

// By default, the provider lists the regions of Compute Engine, an API that the program doesn't need.
func TestMakefile_SkipsRegionValidation(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(makefile), "\n$(infra): export PULUMI_GCP_SKIP_REGION_VALIDATION := true\n") {
		t.Error("the targets in $(infra) don't export PULUMI_GCP_SKIP_REGION_VALIDATION")
	}
}

func TestAdminToken_ConfiguredTokenRemoved(t *testing.T) {
	const kind = "gcp:secretmanager/secretVersion:SecretVersion"
	given := find(t, mustUp(t, "dev", map[string]string{"fakeart:adminToken": "correct-horse"}), kind, "admin-token-given")
	if len(given.ignored) != 0 || !slices.Equal(given.aliases, []string{"admin-token"}) {
		t.Errorf("configured: ignored = %v, aliases = %v", given.ignored, given.aliases)
	}
	random := find(t, mustUp(t, "dev", nil), kind, "admin-token")
	if !slices.Equal(random.ignored, []string{"secretData"}) || len(random.aliases) != 0 {
		t.Errorf("random: ignored = %v, aliases = %v", random.ignored, random.aliases)
	}
}
