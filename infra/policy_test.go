package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// policies are what holds for every resource of every stack. Each reports what is
// wrong with one.
var policies = map[string]func(r made, protect, public bool) string{
	"no basic role": func(r made, _, _ bool) (wrong string) {
		r.strings(func(key, text string) {
			if key == "role" && slices.Contains([]string{"roles/owner", "roles/editor", "roles/viewer"}, text) {
				wrong = text
			}
		})
		return wrong
	},
	"no key of a service account": func(r made, _, _ bool) string {
		if strings.HasPrefix(r.kind, "gcp:serviceaccount/key:") {
			return r.kind
		}
		return ""
	},
	"grants add, and take nothing away": func(r made, _, _ bool) string {
		if regexp.MustCompile(`(?i)iam(binding|policy):`).MatchString(r.kind) {
			return r.kind
		}
		return ""
	},
	"no public bucket": func(r made, _, _ bool) string {
		if r.kind == "gcp:storage/bucket:Bucket" && (r.value("publicAccessPrevention") != "enforced" || r.value("uniformBucketLevelAccess") != true) {
			return "its access is not closed"
		}
		return ""
	},
	"everybody is only let into the service, and only a public one": func(r made, _, public bool) (wrong string) {
		r.strings(func(_, text string) {
			let := public && text == "allUsers" && r.kind == "gcp:cloudrunv2/serviceIamMember:ServiceIamMember" && r.value("role") == "roles/run.invoker"
			if (text == "allUsers" || text == "allAuthenticatedUsers") && !let {
				wrong = text
			}
		})
		return wrong
	},
	"labels": func(r made, _, _ bool) string {
		key, known := labelled[r.kind]
		if !known {
			return "nobody has said whether a " + r.kind + " has labels: add it to the table of them"
		}
		if key == "" {
			return ""
		}
		labels, _ := r.value(key).(map[string]any)
		for _, name := range []string{"app", "stack", "component"} {
			if labels[name] == nil {
				return "has no label " + name
			}
		}
		return ""
	},
	"what holds data is protected": func(r made, protect, _ bool) string {
		if protect && slices.Contains(stateful, r.kind) && !r.protect {
			return "can be deleted"
		}
		return ""
	},
	"images by digest": func(r made, protect, _ bool) (wrong string) {
		r.strings(func(key, text string) {
			if protect && key == "image" && !digestPattern.MatchString(text) {
				wrong = text
			}
		})
		return wrong
	},
	"no secret in the plain environment": func(r made, _, _ bool) string {
		containers, _ := r.value("template.containers").([]any)
		if inner, ok := r.value("template.template.containers").([]any); ok {
			containers = inner
		}
		for i := range containers {
			container := made{inputs: containers[i].(map[string]any)}
			env, _ := container.value("envs").([]any)
			for _, e := range env {
				name, value := fmt.Sprint(e.(map[string]any)["name"]), fmt.Sprint(e.(map[string]any)["value"])
				if regexp.MustCompile(`(TOKEN|SECRET|PASSWORD|_KEY)$`).MatchString(name) || strings.Contains(value, "admin-token-result") {
					return name
				}
			}
			if r.secrets {
				return "a value is secret"
			}
		}
		return ""
	},
	"alerts have a runbook and go to somebody": func(r made, _, _ bool) string {
		if r.kind != "gcp:monitoring/alertPolicy:AlertPolicy" {
			return ""
		}
		if content, _ := r.value("documentation.content").(string); !regexp.MustCompile(`https://\S+/[a-z-]+\.md`).MatchString(content) {
			return "no runbook"
		}
		if channels, _ := r.value("notificationChannels").([]any); len(channels) == 0 {
			return "no channel"
		}
		return ""
	},
	"what all stacks of a project share stays": func(r made, _, _ bool) string {
		member, _ := r.value("member").(string)
		shared := strings.HasPrefix(r.kind, "gcp:projects/iAM") || strings.HasPrefix(r.kind, "gcp:kms/")
		if shared && regexp.MustCompile(`@(gs-project-accounts|bigquery-encryption|serverless-robot-prod|gcp-sa-\w+)\.`).MatchString(member) && !r.retained {
			return member + " would lose its grant with this stack"
		}
		return ""
	},
	"within a component": func(r made, _, _ bool) string {
		if !strings.Contains(r.parent, "::fakeart:infra:") {
			return "its parent is " + r.parent
		}
		return ""
	},
}

// labelled tells under which key a kind of resource has its labels; "" for none.
var labelled = map[string]string{
	"gcp:artifactregistry/repository:Repository":                        "labels",
	"gcp:artifactregistry/repositoryIamMember:RepositoryIamMember":      "",
	"gcp:bigquery/dataset:Dataset":                                      "labels",
	"gcp:bigquery/datasetIamMember:DatasetIamMember":                    "",
	"gcp:bigquery/iamMember:IamMember":                                  "",
	"gcp:bigquery/table:Table":                                          "labels",
	"gcp:billing/budget:Budget":                                         "",
	"gcp:cloudrun/domainMapping:DomainMapping":                          "metadata.labels",
	"gcp:cloudrunv2/job:Job":                                            "labels",
	"gcp:cloudrunv2/jobIamMember:JobIamMember":                          "",
	"gcp:cloudrunv2/service:Service":                                    "labels",
	"gcp:cloudrunv2/serviceIamMember:ServiceIamMember":                  "",
	"gcp:cloudscheduler/job:Job":                                        "",
	"gcp:compute/backendService:BackendService":                         "",
	"gcp:compute/globalAddress:GlobalAddress":                           "labels",
	"gcp:compute/globalForwardingRule:GlobalForwardingRule":             "labels",
	"gcp:compute/managedSslCertificate:ManagedSslCertificate":           "",
	"gcp:compute/regionNetworkEndpointGroup:RegionNetworkEndpointGroup": "",
	"gcp:compute/sSLPolicy:SSLPolicy":                                   "",
	"gcp:compute/securityPolicy:SecurityPolicy":                         "",
	"gcp:compute/targetHttpProxy:TargetHttpProxy":                       "",
	"gcp:compute/targetHttpsProxy:TargetHttpsProxy":                     "",
	"gcp:compute/uRLMap:URLMap":                                         "",
	"gcp:eventarc/trigger:Trigger":                                      "labels",
	"gcp:iam/workloadIdentityPool:WorkloadIdentityPool":                 "",
	"gcp:iam/workloadIdentityPoolProvider:WorkloadIdentityPoolProvider": "",
	"gcp:iap/webBackendServiceIamMember:WebBackendServiceIamMember":     "",
	"gcp:kms/cryptoKeyIAMMember:CryptoKeyIAMMember":                     "",
	"gcp:logging/metric:Metric":                                         "",
	"gcp:monitoring/alertPolicy:AlertPolicy":                            "userLabels",
	"gcp:monitoring/customService:CustomService":                        "userLabels",
	"gcp:monitoring/dashboard:Dashboard":                                "",
	"gcp:monitoring/notificationChannel:NotificationChannel":            "userLabels",
	"gcp:monitoring/slo:Slo":                                            "userLabels",
	"gcp:monitoring/uptimeCheckConfig:UptimeCheckConfig":                "userLabels",
	"gcp:projects/iAMMember:IAMMember":                                  "",
	"gcp:projects/service:Service":                                      "",
	"gcp:projects/serviceIdentity:ServiceIdentity":                      "",
	"gcp:pubsub/subscription:Subscription":                              "labels",
	"gcp:pubsub/subscriptionIAMMember:SubscriptionIAMMember":            "",
	"gcp:pubsub/topic:Topic":                                            "labels",
	"gcp:pubsub/topicIAMMember:TopicIAMMember":                          "",
	"gcp:secretmanager/secret:Secret":                                   "labels",
	"gcp:secretmanager/secretIamMember:SecretIamMember":                 "",
	"gcp:secretmanager/secretVersion:SecretVersion":                     "",
	"gcp:serviceaccount/account:Account":                                "",
	"gcp:serviceaccount/iAMMember:IAMMember":                            "",
	"gcp:storage/bucket:Bucket":                                         "labels",
	"gcp:storage/bucketIAMMember:BucketIAMMember":                       "",
	"gcp:workflows/workflow:Workflow":                                   "labels",
}

// stateful are the kinds that hold data, or that other systems refer to.
var stateful = []string{
	"gcp:artifactregistry/repository:Repository", "gcp:bigquery/dataset:Dataset", "gcp:cloudrunv2/service:Service",
	"gcp:secretmanager/secret:Secret", "gcp:serviceaccount/account:Account", "gcp:storage/bucket:Bucket",
}

func TestEveryResourceKeepsToThePolicies(t *testing.T) {
	for _, stack := range []string{"dev", "prod"} {
		resources := mustUp(t, stack, nil)
		if len(resources) < 60 {
			t.Errorf("%s is %d resources, too few for the whole system", stack, len(resources))
		}
		for _, r := range resources {
			for name, policy := range policies {
				if wrong := policy(r, stack == "prod", stack == "prod"); wrong != "" {
					t.Errorf("%s: %s %s: %s: %s", stack, r.kind, r.name, name, wrong)
				}
			}
		}
	}
}

// A policy that finds nothing wrong with anything would hold nothing.
func TestThePoliciesFindWhatTheyLookFor(t *testing.T) {
	container := func(env ...any) map[string]any {
		return map[string]any{"template": map[string]any{"containers": []any{map[string]any{"image": "x/y:latest", "envs": env}}}}
	}
	for name, r := range map[string]made{
		"no basic role":                     {inputs: map[string]any{"role": "roles/editor"}},
		"no key of a service account":       {kind: "gcp:serviceaccount/key:Key"},
		"grants add, and take nothing away": {kind: "gcp:projects/iAMBinding:IAMBinding"},
		"no public bucket":                  {kind: "gcp:storage/bucket:Bucket", inputs: map[string]any{"uniformBucketLevelAccess": true}},
		"everybody is only let into the service, and only a public one": {kind: "gcp:storage/bucketIAMMember:BucketIAMMember", inputs: map[string]any{"member": "allUsers"}},
		"labels":                                   {kind: "gcp:storage/bucket:Bucket"},
		"what holds data is protected":             {kind: "gcp:storage/bucket:Bucket"},
		"images by digest":                         {inputs: container()},
		"no secret in the plain environment":       {inputs: container(map[string]any{"name": "FAKEART_ADMIN_TOKEN", "value": "x"})},
		"alerts have a runbook and go to somebody": {kind: "gcp:monitoring/alertPolicy:AlertPolicy"},
		"what all stacks of a project share stays": {kind: "gcp:projects/iAMMember:IAMMember", inputs: map[string]any{"member": "serviceAccount:service-1@gs-project-accounts.iam.gserviceaccount.com"}},
		"within a component":                       {parent: "urn:pulumi:dev::fakeart::pulumi:pulumi:Stack::fakeart-dev"},
	} {
		if r.inputs == nil {
			r.inputs = map[string]any{}
		}
		if policies[name] == nil || policies[name](r, true, true) == "" {
			t.Errorf("%s: finds nothing wrong with %+v", name, r)
		}
	}
	if len(policies) != 12 {
		t.Errorf("%d policies, but 12 are tried here", len(policies))
	}
}

func TestNamesCarryTheStack(t *testing.T) {
	for _, r := range mustUp(t, "dev", nil) {
		for _, key := range []string{"name", "accountId", "secretId", "repositoryId", "datasetId", "workloadIdentityPoolId"} {
			text, ok := r.inputs[key].(string)
			own := strings.HasPrefix(r.kind, "gcp:") && !regexp.MustCompile(`(?i)(iam|domainMapping|:Table$|IamMember)`).MatchString(r.kind)
			if ok && own && key != "name" && !strings.Contains(text, "fakeart-dev") && !strings.Contains(text, "fakeart_dev") {
				t.Errorf("%s %s: its %s is %q", r.kind, r.name, key, text)
			}
		}
	}
}

func TestAPreviewWithNothingKnownYetGoesThrough(t *testing.T) {
	for _, stack := range []string{"dev", "prod"} {
		if _, err := run(stack, stackConfig(stack, nil), true); err != nil {
			t.Errorf("%s: %v", stack, err)
		}
	}
}
