package main

import (
	"slices"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"fakeart/internal/config"
)

const jobKind = "gcp:cloudrunv2/job:Job"

// runJobs returns the resources of the prediction log, the jobs and the triggers.
func runJobs(t *testing.T, preview bool, size Training) []made {
	t.Helper()
	return runPart(t, "dev", preview, func(ctx *pulumi.Context, stack *Stack) error {
		log, err := NewPredictionLog(ctx, "log", &PredictionLogArgs{Stack: stack, Writer: pulumi.String("server@example.org")})
		if err != nil {
			return err
		}
		training, err := NewTraining(ctx, "training", &TrainingArgs{
			Stack: stack, Image: "registry.example.org/trainer" + someDigest, Size: size,
			Account: pulumi.String("trainer@example.org"), Deployer: pulumi.String("deployer@example.org").ToStringOutput(), Bucket: pulumi.String("bucket"), Log: log,
		})
		if err != nil {
			return err
		}
		if want := []string{"fakeart-dev-train", "fakeart-dev-evaluate"}; !slices.Equal(training.Names, want) {
			t.Errorf("job names = %v, want %v", training.Names, want)
		}
		_, err = NewTriggers(ctx, "triggers", &TriggersArgs{
			Stack: stack, Bucket: pulumi.String("bucket"), Account: pulumi.String("events@example.org"), Training: training, Schedule: "0 6 * * *",
		})
		return err
	})
}

// texts returns the list of strings at a path of the inputs.
func texts(t *testing.T, r made, path string) []string {
	t.Helper()
	list, ok := r.value(path).([]any)
	if !ok {
		t.Fatalf("%s %s has no list %s", r.kind, r.name, path)
	}
	var all []string
	for _, v := range list {
		all = append(all, v.(string))
	}
	return all
}

func TestTraining_Jobs(t *testing.T) {
	size := Training{CPU: 8, Memory: "16Gi", Timeout: 7200, Retries: 2, Tasks: 6, Parallelism: 3, Args: []string{"experiment=cloud"}}
	resources := runJobs(t, false, size)
	expect(t, find(t, resources, jobKind, "training-train"), map[string]any{
		"name": "fakeart-dev-train", "location": "europe-west4", "labels.component": "training", "launchStage": "BETA",
		"template.taskCount": 6.0, "template.parallelism": 3.0,
		"template.template.maxRetries": 2.0, "template.template.timeout": "7200s", "template.template.serviceAccount": "trainer@example.org",
		"template.template.executionEnvironment":                  "EXECUTION_ENVIRONMENT_GEN2",
		"template.template.containers.0.image":                    "registry.example.org/trainer" + someDigest,
		"template.template.containers.0.resources.limits.cpu":     "8",
		"template.template.containers.0.resources.limits.memory":  "16Gi",
		"template.template.containers.0.volumeMounts.0.mountPath": "/mnt/fakeart",
		"template.template.containers.0.volumeMounts.0.name":      "bucket",
		"template.template.volumes.0.name":                        "bucket",
		"template.template.volumes.0.gcs.bucket":                  "bucket",
		"template.template.volumes.0.gcs.readOnly":                false,
	})
	expect(t, find(t, resources, jobKind, "training-evaluate"), map[string]any{
		"name": "fakeart-dev-evaluate", "template.taskCount": 1.0, "template.parallelism": 1.0, "template.template.volumes.0.gcs.readOnly": true,
	})
}

// The trainer must accept the arguments of the job.
func TestTraining_Arguments(t *testing.T) {
	args := texts(t, find(t, runJobs(t, false, defaultTraining), jobKind, "training-train"), "template.template.containers.0.args")
	if args[0] != "train" {
		t.Fatalf("command = %s, want train", args[0])
	}
	c, err := config.Load("", args[1:])
	if err != nil {
		t.Fatal(err)
	}
	if c.Dataset.Dir != "/mnt/fakeart/data/cifake" || c.Run.Root != "/mnt/fakeart/runs" || c.Run.Dir != "" || c.Experiment.Name != "base" {
		t.Errorf("dataset.dir = %s, run.root = %s, run.dir = %s, experiment.name = %s", c.Dataset.Dir, c.Run.Root, c.Run.Dir, c.Experiment.Name)
	}
}

func TestTraining_PreviewWithUnknownOutputs(t *testing.T) {
	if n := len(runJobs(t, true, defaultTraining)); n < 30 {
		t.Errorf("%d resources, want at least 30", n)
	}
}
