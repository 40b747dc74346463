package main

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"

	"fakeart/internal/config"
)

const workflowKind = "gcp:workflows/workflow:Workflow"

func TestTriggers_Eventarc(t *testing.T) {
	resources := runJobs(t, false, defaultTraining)
	trigger := find(t, resources, "gcp:eventarc/trigger:Trigger", "triggers")
	expect(t, trigger, map[string]any{
		"name": "fakeart-dev-objects", "location": "europe-west4", "serviceAccount": "events@example.org",
		"destination.workflow":         "projects/my-project-1/locations/europe-west4/workflows/fakeart-dev-dispatch",
		"matchingCriterias.0.value":    "google.cloud.storage.object.v1.finalized",
		"matchingCriterias.1.value":    "bucket",
		"matchingCriterias.0.operator": nil,
	})
}

func TestTriggers_Schedule(t *testing.T) {
	schedule := find(t, runJobs(t, false, defaultTraining), "gcp:cloudscheduler/job:Job", "triggers")
	expect(t, schedule, map[string]any{
		"name": "fakeart-dev-drift", "schedule": "0 6 * * *", "timeZone": "Etc/UTC", "httpTarget.httpMethod": "POST",
		"httpTarget.uri": "https://workflowexecutions.googleapis.com/v1/projects/my-project-1/locations/europe-west4/workflows/fakeart-dev-dispatch/executions",
		"httpTarget.oauthToken.serviceAccountEmail": "events@example.org", "httpTarget.oidcToken": nil,
	})
	body, err := base64.StdEncoding.DecodeString(schedule.value("httpTarget.body").(string))
	if err != nil {
		t.Fatal(err)
	}
	var execution struct{ Argument string }
	var argument map[string]string
	if err := json.Unmarshal(body, &execution); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(execution.Argument), &argument); err != nil || !maps.Equal(argument, map[string]string{"check": "drift"}) {
		t.Errorf("argument = %s (%v)", execution.Argument, err)
	}
}

func TestTriggers_Grants(t *testing.T) {
	var of []made
	for _, r := range runJobs(t, false, defaultTraining) {
		if regexp.MustCompile(`^triggers`).MatchString(r.name) {
			of = append(of, r)
			if r.kind == "gcp:storage/bucketIAMMember:BucketIAMMember" {
				expect(t, r, map[string]any{"condition.expression": `resource.name.startsWith("projects/_/buckets/bucket/objects/triggers/")`})
			}
		}
	}
	const events = "serviceAccount:events@example.org: "
	expectGrants(t, of,
		events+"roles/eventarc.eventReceiver on project",
		events+"roles/workflows.invoker on project",
		events+"roles/logging.logWriter on project",
		events+"roles/bigquery.jobUser on project",
		events+"roles/bigquery.dataViewer on predictions of fakeart_dev",
		events+"roles/bigquery.dataViewer on drift of fakeart_dev",
		events+"roles/run.jobsExecutorWithOverrides on fakeart-dev-train",
		events+"roles/run.jobsExecutorWithOverrides on fakeart-dev-evaluate",
		events+"roles/storage.objectCreator on bucket",
		events+"roles/storage.objectViewer on bucket",
		events+"roles/pubsub.publisher on fakeart-dev-trigger-dead-letters",
		"serviceAccount:service-"+projectNumber+"@gcp-sa-eventarc.iam.gserviceaccount.com: roles/eventarc.serviceAgent on project",
		"serviceAccount:service-"+projectNumber+"@gcp-sa-workflows.iam.gserviceaccount.com: roles/workflows.serviceAgent on project",
		"serviceAccount:service-"+projectNumber+"@gcp-sa-pubsub.iam.gserviceaccount.com: roles/iam.serviceAccountTokenCreator on projects/my-project-1/serviceAccounts/events@example.org",
		"serviceAccount:service-"+projectNumber+"@gs-project-accounts.iam.gserviceaccount.com: roles/pubsub.publisher on project")
}

func TestTriggers_DeadLetters(t *testing.T) {
	resources := runJobs(t, false, defaultTraining)
	expect(t, find(t, resources, subscriptionKind, "triggers-dead-letters"), map[string]any{
		"name": "fakeart-dev-trigger-dead-letters", "topic": "triggers-dead-letters-id", "expirationPolicy.ttl": "", "messageRetentionDuration": "604800s",
	})
	expect(t, find(t, resources, workflowKind, "triggers"), map[string]any{
		"name": "fakeart-dev-dispatch", "userEnvVars.dead_letters": "projects/my-project-1/topics/fakeart-dev-trigger-dead-letters",
		"serviceAccount": "projects/my-project-1/serviceAccounts/events@example.org",
	})
}

func TestWorkflow_EnvironmentVariables(t *testing.T) {
	workflow := find(t, runJobs(t, false, defaultTraining), workflowKind, "triggers")
	used := map[string]bool{}
	for _, match := range regexp.MustCompile(`sys\.get_env\("([^"]*)"\)`).FindAllStringSubmatch(workflow.value("sourceContents").(string), -1) {
		if !regexp.MustCompile(`^GOOGLE_CLOUD_(PROJECT_ID|LOCATION|WORKFLOW_EXECUTION_ID)$`).MatchString(match[1]) { // built in
			used[match[1]] = true
		}
	}
	given := slices.Sorted(maps.Keys(workflow.value("userEnvVars").(map[string]any)))
	if want := slices.Sorted(maps.Keys(used)); !slices.Equal(given, want) {
		t.Errorf("userEnvVars = %v, but the workflow uses %v", given, want)
	}
}

// step holds the parts of a workflow step that the tests check.
type step struct {
	Next   string
	Switch []struct{ Condition, Next string }
	Try    *step
	Except *struct{ Steps []map[string]step }
	Steps  []map[string]step
}

func loadWorkflow(t *testing.T) map[string]struct{ Steps []map[string]step } {
	t.Helper()
	text, err := os.ReadFile(workflowFile)
	if err != nil {
		t.Fatal(err)
	}
	var w map[string]struct{ Steps []map[string]step }
	if err := yaml.Unmarshal(text, &w); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestWorkflow_StepsExist(t *testing.T) {
	for name, sub := range loadWorkflow(t) {
		defined, targets := map[string]bool{"end": true}, []string{}
		var walk func(steps []map[string]step)
		walk = func(steps []map[string]step) {
			for _, one := range steps {
				for step, s := range one {
					if defined[step] {
						t.Errorf("%s: two steps are named %s", name, step)
					}
					defined[step] = true
					for _, choice := range s.Switch {
						targets = append(targets, choice.Next)
					}
					targets = append(targets, s.Next)
					walk(s.Steps)
					if s.Try != nil {
						walk(s.Try.Steps)
					}
					if s.Except != nil {
						walk(s.Except.Steps)
					}
				}
			}
		}
		walk(sub.Steps)
		for _, step := range targets {
			if step != "" && !defined[step] {
				t.Errorf("%s: next step %s doesn't exist", name, step)
			}
		}
	}
}

func TestWorkflow_Routes(t *testing.T) {
	decide := func(object string) string {
		for _, one := range loadWorkflow(t)["dispatch"].Steps {
			for _, choice := range one["route"].Switch {
				pattern := regexp.MustCompile(`^\$\{text\.match_regex\(name, "(.*)"\)\}$`).FindStringSubmatch(choice.Condition)
				if pattern == nil {
					t.Fatalf("unsupported condition %s", choice.Condition)
				}
				if regexp.MustCompile(pattern[1]).MatchString(object) {
					return choice.Next
				}
			}
		}
		return ""
	}
	for object, want := range map[string]string{
		"data/cifake/manifest.json":              "data_changed",
		"data/cifake-2.1_b/manifest.json":        "data_changed",
		"data/cifake/train-images.npy":           "",
		"data/.cifake.fakeart-new/manifest.json": "",
		"data/../manifest.json":                  "",
		"data/a b/manifest.json":                 "",
		"data/manifest.json":                     "",
		"models/staging/model.onnx":              "model_staged",
		"models/staging/2026/11/model-3.onnx":    "model_staged",
		"models/staging/":                        "",
		"models/staging/../../runs/x/model.onnx": "",
		"models/staging/--help.onnx":             "",
		"models/production/model.onnx":           "",
		"runs/cifake-17/model.onnx":              "",
		"runs/data/cifake/manifest.json":         "",
		"triggers/data/cifake/manifest.json/17":  "",
		"triggers/models/staging/model.onnx/17":  "",
	} {
		if got := decide(object); got != want {
			t.Errorf("%s: next step %q, want %q", object, got, want)
		}
	}
}

// triggered returns the trainer's configuration for a training that the workflow starts.
func triggered(t *testing.T, size Training) *config.Config {
	t.Helper()
	workflow := find(t, runJobs(t, false, size), workflowKind, "triggers")
	var args []string
	if err := json.Unmarshal([]byte(workflow.value("userEnvVars.train_arguments").(string)), &args); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load("", append(args[1:], "dataset.dir=/mnt/fakeart/data/other", workflow.value("userEnvVars.train_folder").(string)+"/other-17"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWorkflow_RunFolder(t *testing.T) {
	c := triggered(t, defaultTraining)
	if c.Dataset.Dir != "/mnt/fakeart/data/other" || c.Run.Dir != "/mnt/fakeart/runs/other-17" || !c.Run.Resume {
		t.Errorf("dataset.dir = %s, run.dir = %s, run.resume = %v", c.Dataset.Dir, c.Run.Dir, c.Run.Resume)
	}
	// Several tasks must not share a run folder.
	size := defaultTraining
	size.Tasks = 4
	c = triggered(t, size)
	if c.Run.Dir != "" || c.Run.Root != "/mnt/fakeart/runs/other-17" || c.Run.Resume {
		t.Errorf("several tasks: run.root = %s, run.dir = %s, run.resume = %v", c.Run.Root, c.Run.Dir, c.Run.Resume)
	}
}
