package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// refusals runs the program with wrong configuration, which has to be refused, by key,
// before anything is made.
func refusals(t *testing.T, tests map[string]struct {
	change map[string]string
	words  []string
},
) {
	t.Helper()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			resources, err := up(t, "dev", test.change)
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

// invokers lists who has the role run.invoker, by the names of the grants.
func invokers(resources []made) map[string]string {
	members := map[string]string{}
	for _, r := range resources {
		if r.kind == grantKind && r.value("role") == "roles/run.invoker" {
			members[r.name] = fmt.Sprint(r.value("member"))
		}
	}
	return members
}

func TestMembers(t *testing.T) {
	one := invokers(mustUp(t, "dev", map[string]string{"fakeart:members": `["user:ann@example.org"]`}))
	two := invokers(mustUp(t, "dev", map[string]string{"fakeart:members": `["group:team@example.org","user:ann@example.org"]`}))
	if len(one) != 1 || len(two) != 2 {
		t.Fatalf("invokers are %v, then %v", one, two)
	}
	for name, member := range one {
		if member != "user:ann@example.org" || two[name] != member {
			t.Errorf("the grant %s is of %s, then of %s", name, member, two[name])
		}
	}
}

func TestAudiences(t *testing.T) {
	service := find(t, mustUp(t, "dev", map[string]string{"fakeart:audiences": `["https://fakeart.example.org"]`}), serviceKind, "service")
	expect(t, service, map[string]any{"customAudiences.0": "https://fakeart.example.org"})
	plain := find(t, mustUp(t, "dev", nil), serviceKind, "service")
	if plain.value("customAudiences") != nil {
		t.Errorf("without the key, audiences are %v", plain.value("customAudiences"))
	}
	if service.value("template.revision") != plain.value("template.revision") {
		t.Error("audiences make another revision")
	}
}

func TestExtraLabels(t *testing.T) {
	labelledResources := 0
	for _, r := range mustUp(t, "prod", map[string]string{"fakeart:labels": `{"team":"vision","cost-center":"42"}`}) {
		key := labelled[r.kind]
		if key == "" {
			continue
		}
		labelledResources++
		labels, _ := r.value(key).(map[string]any)
		if labels["team"] != "vision" || labels["cost-center"] != "42" || labels["app"] != "fakeart" {
			t.Errorf("%s %s has the labels %v", r.kind, r.name, labels)
		}
	}
	if labelledResources < 20 {
		t.Errorf("%d resources have labels", labelledResources)
	}
}

func TestWrongAccessAndLabels(t *testing.T) {
	many := []string{}
	for i := range mostLabels + 1 {
		many = append(many, fmt.Sprintf(`"k%d":"v"`, i))
	}
	refusals(t, map[string]struct {
		change map[string]string
		words  []string
	}{
		"member_without_kind":   {map[string]string{"fakeart:members": `["ann@example.org"]`}, []string{"fakeart:members", "ann@example.org", "user:"}},
		"member_everybody":      {map[string]string{"fakeart:members": `["allUsers"]`}, []string{"fakeart:members", "fakeart:public"}},
		"member_any_account":    {map[string]string{"fakeart:members": `["allAuthenticatedUsers"]`}, []string{"fakeart:members", "fakeart:public"}},
		"member_twice":          {map[string]string{"fakeart:members": `["user:a@b.org","user:a@b.org"]`}, []string{"fakeart:members", "twice"}},
		"members_no_list":       {map[string]string{"fakeart:members": `user:a@b.org`}, []string{"fakeart:members", "user:a@b.org", "a list of strings"}},
		"members_of_a_public":   {map[string]string{"fakeart:members": `["user:a@b.org"]`, "fakeart:public": "true"}, []string{"fakeart:members", "fakeart:public"}},
		"audience_no_url":       {map[string]string{"fakeart:audiences": `["fakeart"]`}, []string{"fakeart:audiences", `"fakeart"`, "https://"}},
		"audience_twice":        {map[string]string{"fakeart:audiences": `["https://a.org","https://a.org"]`}, []string{"fakeart:audiences", "twice"}},
		"label_of_the_program":  {map[string]string{"fakeart:labels": `{"app":"x"}`}, []string{"fakeart:labels.app", "another key"}},
		"label_of_google":       {map[string]string{"fakeart:labels": `{"goog-x":"x"}`}, []string{"fakeart:labels.goog-x", "Google"}},
		"label_key_upper_case":  {map[string]string{"fakeart:labels": `{"Team":"x"}`}, []string{"fakeart:labels.Team", "lower-case"}},
		"label_value_with_dots": {map[string]string{"fakeart:labels": `{"team":"a.b"}`}, []string{"fakeart:labels.team", "a.b"}},
		"label_value_empty":     {map[string]string{"fakeart:labels": `{"team":""}`}, []string{"fakeart:labels.team", "1 to 63"}},
		"label_value_number":    {map[string]string{"fakeart:labels": `{"cost":42}`}, []string{"fakeart:labels", "quotes"}},
		"labels_too_many":       {map[string]string{"fakeart:labels": "{" + strings.Join(many, ",") + "}"}, []string{"fakeart:labels", "59"}},
		"object_unknown_member": {map[string]string{"fakeart:training": `{"cores":2}`}, []string{"fakeart:training", "cores", "cpu (integer)", "args (a list of strings"}},
		"data_after_an_object":  {map[string]string{"fakeart:training": `{"cpu":2} {}`}, []string{"fakeart:training"}},
	})
}

func TestExistingBucket(t *testing.T) {
	resources := mustUp(t, "dev", map[string]string{"fakeart:bucket": "shared"})
	var on []string
	for _, r := range resources {
		if r.kind == "gcp:storage/bucket:Bucket" {
			t.Errorf("the bucket %s is made", r.value("name"))
		}
		if r.kind == "gcp:storage/bucketIAMMember:BucketIAMMember" {
			on = append(on, fmt.Sprint(r.value("bucket")))
		}
	}
	if len(on) != 4 || strings.Trim(strings.Join(on, ""), "shared") != "" {
		t.Errorf("grants are on %v", on)
	}
	service := fmt.Sprint(find(t, resources, serviceKind, "service").value("template.containers.0.envs"))
	if !strings.Contains(service, "gs://shared/models/production/") {
		t.Errorf("the server's environment is %s", service)
	}
	expect(t, find(t, resources, jobKind, "training-train"), map[string]any{"template.template.volumes.0.gcs.bucket": "shared"})
	expect(t, find(t, resources, "gcp:eventarc/trigger:Trigger", "triggers"), map[string]any{"matchingCriterias.1.value": "shared"})
	expect(t, find(t, resources, workflowKind, "triggers"), map[string]any{"userEnvVars.bucket": "shared"})
}

func TestExistingDataset(t *testing.T) {
	resources := mustUp(t, "dev", map[string]string{"fakeart:dataset": "shared"})
	tables := 0
	for _, r := range resources {
		if r.kind == "gcp:bigquery/dataset:Dataset" {
			t.Errorf("the dataset %s is made", r.value("datasetId"))
		}
		if r.kind == tableKind {
			tables++
			expect(t, r, map[string]any{"datasetId": "shared"})
		}
	}
	if tables != 5 {
		t.Errorf("%d tables and views", tables)
	}
	expect(t, find(t, resources, subscriptionKind, "prediction-log"), map[string]any{"bigqueryConfig.table": "my-project-1.shared.predictions"})
	if view := fmt.Sprint(find(t, resources, workflowKind, "triggers").value("userEnvVars.drift_view")); view != "my-project-1.shared.drift" {
		t.Errorf("the workflow queries %s", view)
	}
}

// GitHub's deployer may not look anything up, and deploys nevertheless.
func TestExistingCantBeSeen(t *testing.T) {
	for _, test := range []struct {
		err  string
		fine bool
	}{
		{"googleapi: Error 403: deployer does not have storage.buckets.get access", true},
		{"googleapi: Error 404: not found", false},
		{"dial tcp: connection refused", false},
	} {
		if fine := hidden(errors.New(test.err)); fine != test.fine {
			t.Errorf("%s: %t", test.err, fine)
		}
	}
}

func TestWrongExisting(t *testing.T) {
	refusals(t, map[string]struct {
		change map[string]string
		words  []string
	}{
		"bucket_by_url":            {map[string]string{"fakeart:bucket": "gs://shared"}, []string{"fakeart:bucket", "gs://shared", "without gs://"}},
		"bucket_of_the_stack":      {map[string]string{"fakeart:bucket": "my-project-1-fakeart-dev"}, []string{"fakeart:bucket", "by itself"}},
		"bucket_missing":           {map[string]string{"fakeart:bucket": "nowhere"}, []string{"fakeart:bucket", "nowhere", "404", "hint:"}},
		"bucket_elsewhere":         {map[string]string{"fakeart:bucket": "far"}, []string{"fakeart:bucket", "US", "europe-west4"}},
		"bucket_of_others":         {map[string]string{"fakeart:bucket": "foreign"}, []string{"fakeart:bucket", "another project"}},
		"bucket_with_access_lists": {map[string]string{"fakeart:bucket": "by-acl"}, []string{"fakeart:bucket", "--uniform-bucket-level-access"}},
		"dataset_with_project":     {map[string]string{"fakeart:dataset": "my-project-1.shared"}, []string{"fakeart:dataset", "without its project"}},
		"dataset_of_the_stack":     {map[string]string{"fakeart:dataset": "fakeart_dev"}, []string{"fakeart:dataset", "by itself"}},
		"dataset_missing":          {map[string]string{"fakeart:dataset": "nowhere"}, []string{"fakeart:dataset", "nowhere", "hint:"}},
		"dataset_elsewhere":        {map[string]string{"fakeart:dataset": "far"}, []string{"fakeart:dataset", "EU", "europe-west4"}},
		"dataset_without_the_key":  {map[string]string{"fakeart:dataset": "shared", "fakeart:kmsKey": someKey}, []string{"fakeart:dataset", "Google's own key", someKey, "hint:"}},
		"dataset_with_a_key":       {map[string]string{"fakeart:dataset": "sealed"}, []string{"fakeart:dataset", "Google's own key", someKey}},
		"dataset_with_expiration":  {map[string]string{"fakeart:dataset": "forgets"}, []string{"fakeart:dataset", "3600000", "hint:"}},
	})
}

const someVPC = `{"network":"main","subnetwork":"apps","tags":["fakeart"],"egress":"all-traffic"}`

func TestVPCEgress(t *testing.T) {
	resources := mustUp(t, "dev", map[string]string{"fakeart:vpc": someVPC})
	service := find(t, resources, serviceKind, "service")
	for _, r := range []struct {
		made
		path string
	}{
		{service, "template."},
		{find(t, resources, jobKind, "training-train"), "template.template."},
		{find(t, resources, jobKind, "training-evaluate"), "template.template."},
	} {
		expect(t, r.made, map[string]any{
			r.path + "vpcAccess.egress":                         "ALL_TRAFFIC",
			r.path + "vpcAccess.networkInterfaces.0.network":    "main",
			r.path + "vpcAccess.networkInterfaces.0.subnetwork": "apps",
			r.path + "vpcAccess.networkInterfaces.0.tags.0":     "fakeart",
		})
	}
	find(t, resources, "gcp:projects/service:Service", "compute.googleapis.com")
	least := find(t, mustUp(t, "dev", map[string]string{"fakeart:vpc": `{"network":"projects/p/global/networks/main","subnetwork":"projects/p/regions/europe-west4/subnetworks/apps"}`}), serviceKind, "service")
	expect(t, least, map[string]any{"template.vpcAccess.egress": "PRIVATE_RANGES_ONLY", "template.vpcAccess.networkInterfaces.0.tags": nil})
	plain := mustUp(t, "dev", nil)
	expect(t, find(t, plain, serviceKind, "service"), map[string]any{"template.vpcAccess": nil})
	expect(t, find(t, plain, jobKind, "training-train"), map[string]any{"template.template.vpcAccess": nil})
	for _, r := range plain {
		if r.name == "compute.googleapis.com" {
			t.Error("Compute Engine is enabled without a need")
		}
	}
	names := map[any]bool{}
	for _, r := range []made{service, least, find(t, plain, serviceKind, "service")} {
		names[r.value("template.revision")] = true
	}
	if len(names) != 3 {
		t.Errorf("three networks, but the revisions are %v", names)
	}
}

func TestWrongVPC(t *testing.T) {
	refusals(t, map[string]struct {
		change map[string]string
		words  []string
	}{
		"no_network":          {map[string]string{"fakeart:vpc": `{"subnetwork":"apps"}`}, []string{"fakeart:vpc.network"}},
		"no_subnetwork":       {map[string]string{"fakeart:vpc": `{"network":"main"}`}, []string{"fakeart:vpc.subnetwork"}},
		"subnetwork_far_away": {map[string]string{"fakeart:vpc": `{"network":"main","subnetwork":"projects/p/regions/us-east1/subnetworks/apps"}`}, []string{"fakeart:vpc.subnetwork", "us-east1", "europe-west4"}},
		"egress":              {map[string]string{"fakeart:vpc": `{"network":"main","subnetwork":"apps","egress":"ALL"}`}, []string{"fakeart:vpc.egress", "all-traffic"}},
		"tag":                 {map[string]string{"fakeart:vpc": `{"network":"main","subnetwork":"apps","tags":["Fakeart"]}`}, []string{"fakeart:vpc.tags", "Fakeart"}},
		"tag_twice":           {map[string]string{"fakeart:vpc": `{"network":"main","subnetwork":"apps","tags":["a","a"]}`}, []string{"fakeart:vpc.tags", "twice"}},
		"no_object":           {map[string]string{"fakeart:vpc": `main`}, []string{"fakeart:vpc", "network (string)", "tags (a list"}},
	})
}

func TestEverythingHasTheKey(t *testing.T) {
	resources := mustUp(t, "prod", nil)
	for _, r := range []struct{ kind, name, path string }{
		{serviceKind, "service", "template.encryptionKey"},
		{jobKind, "training-train", "template.template.encryptionKey"},
		{jobKind, "training-evaluate", "template.template.encryptionKey"},
		{"gcp:artifactregistry/repository:Repository", "registry", "kmsKeyName"},
		{"gcp:secretmanager/secret:Secret", "admin-token", "replication.userManaged.replicas.0.customerManagedEncryption.kmsKeyName"},
		{"gcp:secretmanager/secret:Secret", "collector", "replication.userManaged.replicas.0.customerManagedEncryption.kmsKeyName"},
		{workflowKind, "triggers", "cryptoKeyName"},
	} {
		expect(t, find(t, resources, r.kind, r.name), map[string]any{r.path: someKey})
	}
	users := map[string]bool{}
	for _, r := range resources {
		if r.kind == "gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember" {
			users[fmt.Sprint(r.value("member"))] = true
		}
	}
	for _, account := range []string{
		"service-" + projectNumber + "@serverless-robot-prod", "service-" + projectNumber + "@gcp-sa-artifactregistry", "service-" + projectNumber + "@gcp-sa-secretmanager",
		"service-" + projectNumber + "@gcp-sa-workflows", "service-" + projectNumber + "@gs-project-accounts", "service-" + projectNumber + "@gcp-sa-pubsub", "bq-" + projectNumber + "@bigquery-encryption",
	} {
		if !users["serviceAccount:"+account+".iam.gserviceaccount.com"] {
			t.Errorf("%s may not use the key", account)
		}
	}
	for _, r := range mustUp(t, "prod", map[string]string{"fakeart:kmsKey": ""}) {
		r.strings(func(key, text string) {
			if strings.Contains(text, "cryptoKey") {
				t.Errorf("without a key, %s %s has %s %q", r.kind, r.name, key, text)
			}
		})
	}
}
