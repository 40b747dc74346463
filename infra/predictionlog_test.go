package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// runPart runs part of the program in the stack dev or prod and returns the registered resources.
func runPart(t *testing.T, stack string, preview bool, part func(ctx *pulumi.Context, stack *Stack) error) []made {
	t.Helper()
	e := &engine{preview: preview}
	err := pulumi.RunErr(func(ctx *pulumi.Context) error {
		return part(ctx, &Stack{
			Project: "my-project-1", Region: "europe-west4", Number: projectNumber, Prefix: "fakeart-" + stack, Protect: stack == "prod",
		})
	}, pulumi.WithMocks("fakeart", stack, e), func(i *pulumi.RunInfo) { i.DryRun = preview })
	if err != nil {
		t.Fatal(err)
	}
	return e.resources
}

// runPredictionLog returns the resources of NewPredictionLog in a stack.
func runPredictionLog(t *testing.T, stack string, args PredictionLogArgs) []made {
	t.Helper()
	return runPart(t, stack, false, func(ctx *pulumi.Context, s *Stack) error {
		args.Stack, args.Writer = s, pulumi.String("server@example.org")
		_, err := NewPredictionLog(ctx, "log", &args)
		return err
	})
}

// expect compares the inputs of a resource at the given paths.
func expect(t *testing.T, r made, want map[string]any) {
	t.Helper()
	for _, path := range slices.Sorted(maps.Keys(want)) {
		if got := r.value(path); got != want[path] {
			t.Errorf("%s %s: %s = %v, want %v", r.kind, r.name, path, got, want[path])
		}
	}
}

// grants lists the IAM grants among the resources, as "MEMBER: ROLE on RESOURCE".
func grants(resources []made) []string {
	var list []string
	for _, r := range resources {
		if r.value("role") == nil {
			continue
		}
		on := []string{}
		for _, key := range []string{"topic", "subscription", "tableId", "datasetId", "bucket", "name", "cryptoKeyId", "serviceAccountId"} {
			if text, ok := r.value(key).(string); ok {
				on = append(on, text)
			}
		}
		if len(on) == 0 {
			on = append(on, "project")
		}
		list = append(list, fmt.Sprintf("%s: %s on %s", r.value("member"), r.value("role"), strings.Join(on, " of ")))
	}
	slices.Sort(list)
	return list
}

func expectGrants(t *testing.T, resources []made, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := grants(resources); !slices.Equal(got, want) {
		t.Errorf("grants:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

const (
	tableKind        = "gcp:bigquery/table:Table"
	subscriptionKind = "gcp:pubsub/subscription:Subscription"
	topicKind        = "gcp:pubsub/topic:Topic"

	someKey = "projects/my-project-1/locations/europe-west4/keyRings/fakeart/cryptoKeys/data"
)

func TestPredictionLog_Tables(t *testing.T) {
	resources := runPredictionLog(t, "prod", PredictionLogArgs{Days: 400})
	table := find(t, resources, tableKind, "log")
	expect(t, table, map[string]any{
		"datasetId": "fakeart_prod", "tableId": "predictions", "deletionProtection": true,
		"timePartitioning.type": "DAY", "timePartitioning.field": "time", "timePartitioning.expirationMs": 400 * 24 * 3600 * 1000.0,
		"clusterings.0": "model", "clusterings.1": "label", "labels.stack": "fakeart-prod",
	})
	feedback := find(t, resources, tableKind, "log-feedback")
	expect(t, feedback, map[string]any{
		"datasetId": "fakeart_prod", "tableId": "feedback", "deletionProtection": true,
		"timePartitioning.type": "DAY", "timePartitioning.field": "time", "timePartitioning.expirationMs": 400 * 24 * 3600 * 1000.0,
		"clusterings.0": "id", "labels.stack": "fakeart-prod",
	})
	for file, table := range map[string]made{"bigquery-schema.json": table, "bigquery-feedback-schema.json": feedback} {
		schema, err := os.ReadFile("../server/predlog/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if table.value("schema") != string(schema) {
			t.Errorf("%s: the table has another schema", file)
		}
	}
	dataset := find(t, resources, "gcp:bigquery/dataset:Dataset", "log")
	expect(t, dataset, map[string]any{"datasetId": "fakeart_prod", "location": "europe-west4", "deleteContentsOnDestroy": false})
}

func TestPredictionLog_Protection(t *testing.T) {
	for stack, protect := range map[string]bool{"dev": false, "prod": true} {
		resources := runPredictionLog(t, stack, PredictionLogArgs{})
		for _, r := range resources {
			view := r.value("view") != nil
			holds := slices.Contains([]string{tableKind, subscriptionKind, topicKind, "gcp:bigquery/dataset:Dataset"}, r.kind) && !view
			if r.protect != (protect && holds) {
				t.Errorf("%s: %s %s: protect = %v", stack, r.kind, r.name, r.protect)
			}
			if r.kind == tableKind && r.value("deletionProtection") != (protect && !view) {
				t.Errorf("%s: table %s: deletionProtection = %v", stack, r.name, r.value("deletionProtection"))
			}
		}
		expect(t, find(t, resources, tableKind, "log"), map[string]any{"timePartitioning.expirationMs": 0.0, "encryptionConfiguration": nil})
	}
}

func TestPredictionLog_Subscriptions(t *testing.T) {
	resources := runPredictionLog(t, "dev", PredictionLogArgs{})
	expect(t, find(t, resources, topicKind, "log"), map[string]any{
		"name": "fakeart-dev-predictions", "messageStoragePolicy.allowedPersistenceRegions.0": "europe-west4", "kmsKeyName": nil,
	})
	expect(t, find(t, resources, subscriptionKind, "log"), map[string]any{
		"topic": "log-id", "bigqueryConfig.table": "my-project-1.fakeart_dev.predictions",
		"bigqueryConfig.useTableSchema": true, "bigqueryConfig.dropUnknownFields": true, "bigqueryConfig.writeMetadata": nil,
		"expirationPolicy.ttl": "", "retryPolicy.minimumBackoff": "10s", "retryPolicy.maximumBackoff": "600s",
		"deadLetterPolicy.deadLetterTopic": "log-dead-letters-id", "deadLetterPolicy.maxDeliveryAttempts": 20.0,
	})
	expect(t, find(t, resources, subscriptionKind, "log-dead-letters"), map[string]any{
		"name": "fakeart-dev-predictions-dead-letters", "topic": "log-dead-letters-id", "expirationPolicy.ttl": "", "messageRetentionDuration": "604800s",
	})
	expect(t, find(t, resources, topicKind, "log-feedback"), map[string]any{
		"name": "fakeart-dev-feedback", "messageStoragePolicy.allowedPersistenceRegions.0": "europe-west4", "kmsKeyName": nil,
	})
	expect(t, find(t, resources, subscriptionKind, "log-feedback"), map[string]any{
		"name": "fakeart-dev-feedback-bigquery", "topic": "log-feedback-id", "bigqueryConfig.table": "my-project-1.fakeart_dev.feedback",
		"bigqueryConfig.useTableSchema": true, "bigqueryConfig.dropUnknownFields": true,
		"deadLetterPolicy.deadLetterTopic": "log-feedback-dead-letters-id", "deadLetterPolicy.maxDeliveryAttempts": 20.0,
	})
	expect(t, find(t, resources, subscriptionKind, "log-feedback-dead-letters"), map[string]any{
		"name": "fakeart-dev-feedback-dead-letters", "topic": "log-feedback-dead-letters-id", "expirationPolicy.ttl": "",
	})
}

func TestPredictionLog_Grants(t *testing.T) {
	const agent = "serviceAccount:service-" + projectNumber + "@gcp-sa-pubsub.iam.gserviceaccount.com"
	want := []string{
		agent + ": roles/bigquery.dataEditor on predictions of fakeart_dev",
		agent + ": roles/pubsub.publisher on fakeart-dev-predictions-dead-letters",
		agent + ": roles/pubsub.subscriber on fakeart-dev-predictions-bigquery",
		"serviceAccount:server@example.org: roles/pubsub.publisher on fakeart-dev-predictions",
		agent + ": roles/bigquery.dataEditor on feedback of fakeart_dev",
		agent + ": roles/pubsub.publisher on fakeart-dev-feedback-dead-letters",
		agent + ": roles/pubsub.subscriber on fakeart-dev-feedback-bigquery",
		"serviceAccount:server@example.org: roles/pubsub.publisher on fakeart-dev-feedback",
	}
	expectGrants(t, runPredictionLog(t, "dev", PredictionLogArgs{}), want...)

	resources := runPredictionLog(t, "dev", PredictionLogArgs{KMSKey: someKey})
	expectGrants(t, resources, append(want,
		agent+": roles/cloudkms.cryptoKeyEncrypterDecrypter on "+someKey,
		"serviceAccount:bq-"+projectNumber+"@bigquery-encryption.iam.gserviceaccount.com: roles/cloudkms.cryptoKeyEncrypterDecrypter on "+someKey)...)
	expect(t, find(t, resources, topicKind, "log"), map[string]any{"kmsKeyName": someKey})
	expect(t, find(t, resources, topicKind, "log-dead-letters"), map[string]any{"kmsKeyName": someKey})
	for _, name := range []string{"log-feedback", "log-feedback-dead-letters"} {
		expect(t, find(t, resources, topicKind, name), map[string]any{"kmsKeyName": someKey})
	}
	for _, name := range []string{"log", "log-feedback"} {
		expect(t, find(t, resources, tableKind, name), map[string]any{"encryptionConfiguration.kmsKeyName": someKey})
	}
	expect(t, find(t, resources, "gcp:bigquery/dataset:Dataset", "log"), map[string]any{"defaultEncryptionConfiguration.kmsKeyName": someKey})
}

func TestPredictionLog_Views(t *testing.T) {
	text, err := os.ReadFile(predictionSchema)
	if err != nil {
		t.Fatal(err)
	}
	var schema []struct{ Name, Type string }
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	types := map[string]string{}
	for _, column := range schema {
		types[column.Name] = column.Type
	}
	for _, name := range []string{"id", "time", "model", "label", "model_name"} {
		if types[name] == "" {
			t.Errorf("the table predictions has no column %s", name)
		}
	}
	// All columns of an UNPIVOT must have the same type.
	statistics := regexp.MustCompile(`statistic IN \(([^)]*)\)`).FindStringSubmatch(driftQuery)[1]
	for name := range strings.SplitSeq(statistics, ", ") {
		if types[name] != "FLOAT64" {
			t.Errorf("column %s has type %q, want FLOAT64", name, types[name])
		}
	}
	// The view has the feedback in columns of its own, in addition to those of the prediction.
	text, err = os.ReadFile(feedbackSchema)
	if err != nil {
		t.Fatal(err)
	}
	for _, column := range regexp.MustCompile(`f\.(\w+) AS feedback_(\w+)`).FindAllStringSubmatch(judgedQuery, -1) {
		if !strings.Contains(string(text), `"name": "`+column[1]+`"`) || column[1] != column[2] {
			t.Errorf("judgedQuery selects an unknown column: %s", column[0])
		}
	}
	for _, view := range []string{"confusion", "class_metrics"} { // without duplicates, like the view of feedback
		r := find(t, runPredictionLog(t, "dev", PredictionLogArgs{}), tableKind, "log-"+view)
		expect(t, r, map[string]any{"tableId": view, "view.useLegacySql": false})
		from := map[string]string{"confusion": "judged", "class_metrics": "confusion"}[view]
		if query := r.value("view.query").(string); strings.Count(query, "`my-project-1.fakeart_dev."+from+"`") != 1 || strings.Count(query, "`") != 2 || strings.Contains(query, "%!") {
			t.Errorf("unexpected query of the view %s:\n%s", view, query)
		}
	}
	for _, view := range []string{"daily", "drift", "judged"} {
		r := find(t, runPredictionLog(t, "dev", PredictionLogArgs{}), tableKind, "log-"+view)
		if query := r.value("view.query").(string); view == "judged" && !strings.Contains(query, "`my-project-1.fakeart_dev.feedback`") {
			t.Errorf("unexpected query of the view %s:\n%s", view, query)
		}
		expect(t, r, map[string]any{"tableId": view, "view.useLegacySql": false})
		query := r.value("view.query").(string)
		if !strings.Contains(query, "`my-project-1.fakeart_dev.predictions`") || strings.Contains(query, "%!") {
			t.Errorf("unexpected query of the view %s:\n%s", view, query)
		}
		// Records are delivered at least once.
		if tables, once := strings.Count(query, "`my-project-1"), strings.Count(query, "ROW_NUMBER() OVER (PARTITION BY id")+strings.Count(query, "COUNT(DISTINCT id)"); once != tables {
			t.Errorf("the view %s reads %d tables, but ignores duplicates of %d", view, tables, once)
		}
	}
	// Too few records are not a basis for a result.
	if !regexp.MustCompile(`IF\(\s*records >= 100 AND baseline_records >= 1000,[^;]*NULL\s*\) AS drifted`).MatchString(driftQuery) {
		t.Errorf("drifted isn't NULL for few records:\n%s", driftQuery)
	}
}
