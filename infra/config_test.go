package main

import (
	"strings"
	"testing"
)

func TestWrongConfigurationIsRefusedByItsKeyBeforeAnythingIsMade(t *testing.T) {
	for _, test := range []struct {
		name, stack string
		change      map[string]string
		words       []string
	}{
		{"no project", "dev", map[string]string{"gcp:project": ""}, []string{"gcp:project", "my-project-1"}},
		{"a project that is none", "dev", map[string]string{"gcp:project": "My Project"}, []string{"gcp:project", "My Project"}},
		{"no region", "dev", map[string]string{"gcp:region": ""}, []string{"gcp:region", "europe-west4"}},
		{"a zone for a region", "dev", map[string]string{"gcp:region": "europe-west4-a"}, []string{"gcp:region"}},
		{"a stack whose name is too long", "a-very-long-name-of-a-stack", nil, []string{"the stack", "2 to 13"}},
		{"no number", "dev", map[string]string{"fakeart:maxInstances": "many"}, []string{"fakeart:maxInstances", "many"}},
		{"more instances always than ever", "dev", map[string]string{"fakeart:minInstances": "9"}, []string{"fakeart:minInstances", "0 to 4"}},
		{"neither true nor false", "dev", map[string]string{"fakeart:public": "perhaps"}, []string{"fakeart:public", "true nor false"}},
		{"three cores", "dev", map[string]string{"fakeart:cpu": "3"}, []string{"fakeart:cpu", "1, 2 or 4"}},
		{"too little memory for the cores", "dev", map[string]string{"fakeart:cpu": "4"}, []string{"fakeart:memory", "2Gi"}},
		{"more memory than goes with the cores", "dev", map[string]string{"fakeart:memory": "8Gi"}, []string{"fakeart:memory", "4Gi"}},
		{"a key of another region", "dev", map[string]string{"fakeart:kmsKey": "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k"}, []string{"fakeart:kmsKey", "europe-west4"}},
		{"too little memory for the environment", "dev", map[string]string{"fakeart:memory": "256Mi"}, []string{"fakeart:memory", "512Mi"}},
		{"memory without a unit", "dev", map[string]string{"fakeart:memory": "512"}, []string{"fakeart:memory", "512Mi"}},
		{"an ingress that is none", "dev", map[string]string{"fakeart:ingress": "open"}, []string{"fakeart:ingress", "internal"}},
		{"an image that is none", "dev", map[string]string{"fakeart:image": "my server"}, []string{"fakeart:image"}},
		{"an image by tag in production", "prod", map[string]string{"fakeart:image": "europe-west4-docker.pkg.dev/p/r/server:v1"}, []string{"fakeart:image", "digest"}},
		{"a trainer by tag in production", "prod", map[string]string{"fakeart:trainerImage": "europe-west4-docker.pkg.dev/p/r/trainer:v1"}, []string{"fakeart:trainerImage", "digest"}},
		{"a collector by tag in production", "prod", map[string]string{"fakeart:collectorImage": "a.b/c/d:1.7.0"}, []string{"fakeart:collectorImage", "digest"}},
		{"a canary by tag in production", "prod", map[string]string{"fakeart:canary": `{"image":"a.b/c/d:v2","percent":5}`}, []string{"fakeart:canary.image", "digest"}},
		{"a canary with all and more", "dev", map[string]string{"fakeart:canary": `{"image":"a.b/c/d:v2","percent":101}`}, []string{"fakeart:canary.percent", "0 to 100"}},
		{"a canary that is misspelt", "dev", map[string]string{"fakeart:canary": `{"image":"a.b/c/d:v2","percnt":5}`}, []string{"fakeart:canary", "percnt"}},
		{"a canary of nothing", "dev", map[string]string{"fakeart:image": "", "fakeart:canary": `{"image":"a.b/c/d:v2","percent":5}`}, []string{"fakeart:canary", "fakeart:image"}},
		{"more tasks at once than there are", "dev", map[string]string{"fakeart:training": `{"tasks":2,"parallelism":3}`}, []string{"fakeart:training.parallelism", "1 to 2"}},
		{"a placeholder address in production", "prod", map[string]string{"fakeart:email": "team@example.org"}, []string{"fakeart:email", "team@example.org", "pulumi config set --stack prod fakeart:email"}},
		{"a placeholder address of a subdomain in production", "prod", map[string]string{"fakeart:email": "you@mail.Example.com"}, []string{"fakeart:email"}},
		{"a reserved domain in production", "prod", map[string]string{"fakeart:email": "you@your-company.example"}, []string{"fakeart:email"}},
		{"Slack without its token", "dev", map[string]string{"fakeart:slackChannel": "#x"}, []string{"slackToken"}},
		{"a repository by its address", "dev", map[string]string{"fakeart:repository": "https://github.com/owner/name"}, []string{"fakeart:repository", "owner/name"}},
		{"a repository without its number", "dev", map[string]string{"fakeart:repositoryId": ""}, []string{"fakeart:repositoryId", "gh api repos/owner/name --jq '.id,.owner.id'"}},
		{"a repository without its owner's number", "dev", map[string]string{"fakeart:repositoryOwnerId": ""}, []string{"fakeart:repositoryOwnerId", "gh api repos/owner/name --jq '.id,.owner.id'"}},
		{"a name for a number", "dev", map[string]string{"fakeart:repositoryId": "owner/name"}, []string{"fakeart:repositoryId", "123456789"}},
		{"an environment that leaves the condition", "dev", map[string]string{"fakeart:deployEnvironment": "x' || 'a' == 'a"}, []string{"fakeart:deployEnvironment"}},
		{"a branch for a ref", "dev", map[string]string{"fakeart:deployRef": "main"}, []string{"fakeart:deployRef", "refs/heads/main"}},
		{"a key that is none", "dev", map[string]string{"fakeart:kmsKey": "my-key"}, []string{"fakeart:kmsKey", "cryptoKeys"}},
		{"two at once", "dev", map[string]string{"fakeart:cpu": "3", "fakeart:timeout": "0"}, []string{"fakeart:cpu", "fakeart:timeout"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			resources, err := up(t, test.stack, test.change)
			if err == nil {
				t.Fatal("no error")
			}
			for _, word := range test.words {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q does not say %q", err, word)
				}
			}
			if len(resources) > 0 {
				t.Errorf("%d resources were made", len(resources))
			}
		})
	}
}

func TestAKeyThatIsUnknownIsRefusedWithTheNearest(t *testing.T) {
	t.Setenv("PULUMI_CONFIG", `{"fakeart:maxInstance":"3","other:key":"1"}`)
	if _, err := up(t, "dev", nil); err == nil || !strings.Contains(err.Error(), "fakeart:maxInstance:") || !strings.Contains(err.Error(), "did you mean fakeart:maxInstances") {
		t.Errorf("error %v", err)
	}
}
