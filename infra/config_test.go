package main

import (
	"strings"
	"testing"
)

func TestLoadConfig_Invalid(t *testing.T) {
	for _, test := range []struct {
		name, stack string
		change      map[string]string
		words       []string
	}{
		{"project_missing", "dev", map[string]string{"gcp:project": ""}, []string{"gcp:project", "my-project-1"}},
		{"project_invalid", "dev", map[string]string{"gcp:project": "My Project"}, []string{"gcp:project", "My Project"}},
		{"region_missing", "dev", map[string]string{"gcp:region": ""}, []string{"gcp:region", "europe-west4"}},
		{"region_is_a_zone", "dev", map[string]string{"gcp:region": "europe-west4-a"}, []string{"gcp:region"}},
		{"stack_name_too_long", "a-very-long-name-of-a-stack", nil, []string{"stack name", "2 to 13"}},
		{"not_a_number", "dev", map[string]string{"fakeart:maxInstances": "many"}, []string{"fakeart:maxInstances", "many"}},
		{"min_instances_above_max", "dev", map[string]string{"fakeart:minInstances": "9"}, []string{"fakeart:minInstances", "0 to 4"}},
		{"not_a_boolean", "dev", map[string]string{"fakeart:public": "perhaps"}, []string{"fakeart:public", "true or false"}},
		{"cpu_3", "dev", map[string]string{"fakeart:cpu": "3"}, []string{"fakeart:cpu", "1, 2 or 4"}},
		{"memory_too_small_for_cpu", "dev", map[string]string{"fakeart:cpu": "4"}, []string{"fakeart:memory", "2Gi"}},
		{"memory_too_large_for_cpu", "dev", map[string]string{"fakeart:memory": "8Gi"}, []string{"fakeart:memory", "4Gi"}},
		{"kms_key_in_other_region", "dev", map[string]string{"fakeart:kmsKey": "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k"}, []string{"fakeart:kmsKey", "europe-west4"}},
		{"memory_below_minimum", "dev", map[string]string{"fakeart:memory": "256Mi"}, []string{"fakeart:memory", "512Mi"}},
		{"memory_without_unit", "dev", map[string]string{"fakeart:memory": "512"}, []string{"fakeart:memory", "512Mi"}},
		{"ingress_unknown", "dev", map[string]string{"fakeart:ingress": "open"}, []string{"fakeart:ingress", "internal"}},
		{"image_invalid", "dev", map[string]string{"fakeart:image": "my server"}, []string{"fakeart:image"}},
		{"protected_image_by_tag", "prod", map[string]string{"fakeart:image": "europe-west4-docker.pkg.dev/p/r/server:v1"}, []string{"fakeart:image", "digest"}},
		{"protected_trainer_by_tag", "prod", map[string]string{"fakeart:trainerImage": "europe-west4-docker.pkg.dev/p/r/trainer:v1"}, []string{"fakeart:trainerImage", "digest"}},
		{"protected_collector_by_tag", "prod", map[string]string{"fakeart:collectorImage": "a.b/c/d:1.7.0"}, []string{"fakeart:collectorImage", "digest"}},
		{"protected_canary_by_tag", "prod", map[string]string{"fakeart:canary": `{"image":"a.b/c/d:v2","percent":5}`}, []string{"fakeart:canary.image", "digest"}},
		{"canary_percent_above_100", "dev", map[string]string{"fakeart:canary": `{"image":"a.b/c/d:v2","percent":101}`}, []string{"fakeart:canary.percent", "0 to 100"}},
		{"canary_unknown_field", "dev", map[string]string{"fakeart:canary": `{"image":"a.b/c/d:v2","percnt":5}`}, []string{"fakeart:canary", "percnt"}},
		{"canary_without_image", "dev", map[string]string{"fakeart:image": "", "fakeart:canary": `{"image":"a.b/c/d:v2","percent":5}`}, []string{"fakeart:canary", "fakeart:image"}},
		{"parallelism_above_tasks", "dev", map[string]string{"fakeart:training": `{"tasks":2,"parallelism":3}`}, []string{"fakeart:training.parallelism", "1 to 2"}},
		{"protected_email_at_example_domain", "prod", map[string]string{"fakeart:email": "team@example.org"}, []string{"fakeart:email", "team@example.org", "pulumi config set --stack prod fakeart:email"}},
		{"protected_email_at_example_subdomain", "prod", map[string]string{"fakeart:email": "you@mail.Example.com"}, []string{"fakeart:email"}},
		{"protected_email_at_reserved_domain", "prod", map[string]string{"fakeart:email": "you@your-company.example"}, []string{"fakeart:email"}},
		{"slack_without_token", "dev", map[string]string{"fakeart:slackChannel": "#x"}, []string{"slackToken"}},
		{"repository_is_a_url", "dev", map[string]string{"fakeart:repository": "https://github.com/owner/name"}, []string{"fakeart:repository", "owner/name"}},
		{"repository_id_missing", "dev", map[string]string{"fakeart:repositoryId": ""}, []string{"fakeart:repositoryId", "gh api repos/owner/name --jq '.id,.owner.id'"}},
		{"repository_owner_id_missing", "dev", map[string]string{"fakeart:repositoryOwnerId": ""}, []string{"fakeart:repositoryOwnerId", "gh api repos/owner/name --jq '.id,.owner.id'"}},
		{"repository_id_is_a_name", "dev", map[string]string{"fakeart:repositoryId": "owner/name"}, []string{"fakeart:repositoryId", "123456789"}},
		{"deploy_environment_injection", "dev", map[string]string{"fakeart:deployEnvironment": "x' || 'a' == 'a"}, []string{"fakeart:deployEnvironment"}},
		{"deploy_ref_is_a_branch", "dev", map[string]string{"fakeart:deployRef": "main"}, []string{"fakeart:deployRef", "refs/heads/main"}},
		{"kms_key_invalid", "dev", map[string]string{"fakeart:kmsKey": "my-key"}, []string{"fakeart:kmsKey", "cryptoKeys"}},
		{"models_invalid_name", "dev", map[string]string{"fakeart:models": `["my pets"]`}, []string{"fakeart:models", "my pets", "letters"}},
		{"models_reserved_name", "dev", map[string]string{"fakeart:models": `["stats"]`}, []string{"fakeart:models", "reserves"}},
		{"models_file_name", "dev", map[string]string{"fakeart:models": `["pets=models/pets.onnx"]`}, []string{"fakeart:models", "NAME=URL", "pets=gs://"}},
		{"models_comma", "dev", map[string]string{"fakeart:models": `["pets=gs://a/b,c=gs://d/e"]`}, []string{"fakeart:models", "without commas"}},
		{"models_twice", "dev", map[string]string{"fakeart:models": `["pets","pets=gs://a/b"]`}, []string{"fakeart:models", `"pets" is listed twice`}},
		{"models_not_a_list", "dev", map[string]string{"fakeart:models": `{"pets":"gs://a/b"}`}, []string{"fakeart:models", "a list of strings"}},
		{"two_errors", "dev", map[string]string{"fakeart:cpu": "3", "fakeart:timeout": "0"}, []string{"fakeart:cpu", "fakeart:timeout"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			resources, err := up(t, test.stack, test.change)
			if err == nil {
				t.Fatal("no error")
			}
			for _, word := range test.words {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("error %q, want it to contain %q", err, word)
				}
			}
			if len(resources) > 0 {
				t.Errorf("%d resources were registered, want 0", len(resources))
			}
		})
	}
}

func TestLoadConfig_UnknownKey(t *testing.T) {
	t.Setenv("PULUMI_CONFIG", `{"fakeart:maxInstance":"3","other:key":"1"}`)
	if _, err := up(t, "dev", nil); err == nil || !strings.Contains(err.Error(), "fakeart:maxInstance:") || !strings.Contains(err.Error(), "did you mean fakeart:maxInstances") {
		t.Errorf("error %v, want the key fakeart:maxInstance and the nearest one", err)
	}
}
