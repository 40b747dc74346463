package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// policies are rules for every resource of every stack. Each returns a violation, or "".
var policies = map[string]func(r made, protect, public bool) string{
	"no_basic_role": func(r made, _, _ bool) (wrong string) {
		r.strings(func(key, text string) {
			if key == "role" && slices.Contains([]string{"roles/owner", "roles/editor", "roles/viewer"}, text) {
				wrong = text
			}
		})
		return wrong
	},
	"no_service_account_key": func(r made, _, _ bool) string {
		if strings.HasPrefix(r.kind, "gcp:serviceaccount/key:") {
			return r.kind
		}
		return ""
	},
	"additive_grants_only": func(r made, _, _ bool) string {
		if regexp.MustCompile(`(?i)iam(binding|policy):`).MatchString(r.kind) {
			return r.kind
		}
		return ""
	},
	"no_public_bucket": func(r made, _, _ bool) string {
		if r.kind == "gcp:storage/bucket:Bucket" && (r.value("publicAccessPrevention") != "enforced" || r.value("uniformBucketLevelAccess") != true) {
			return "public access isn't prevented"
		}
		return ""
	},
	"all_users_only_on_public_service": func(r made, _, public bool) (wrong string) {
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
			return "unknown resource type " + r.kind + ": add it to the map labelled"
		}
		if key == "" {
			return ""
		}
		labels, _ := r.value(key).(map[string]any)
		for _, name := range []string{"app", "stack", "component"} {
			if labels[name] == nil {
				return "label " + name + " is missing"
			}
		}
		return ""
	},
	"stateful_resources_protected": func(r made, protect, _ bool) string {
		if protect && slices.Contains(stateful, r.kind) && !r.protect {
			return "not protected"
		}
		return ""
	},
	"images_by_digest": func(r made, protect, _ bool) (wrong string) {
		r.strings(func(key, text string) {
			if protect && key == "image" && !digestPattern.MatchString(text) {
				wrong = text
			}
		})
		return wrong
	},
	"no_secret_in_environment": func(r made, _, _ bool) string {
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
				return "an input is secret"
			}
		}
		return ""
	},
	"alerts_have_runbook_and_channel": func(r made, _, _ bool) string {
		if r.kind != "gcp:monitoring/alertPolicy:AlertPolicy" {
			return ""
		}
		if content, _ := r.value("documentation.content").(string); !regexp.MustCompile(`https://\S+/[a-z-]+\.md`).MatchString(content) {
			return "no runbook link"
		}
		if channels, _ := r.value("notificationChannels").([]any); len(channels) == 0 {
			return "no channel"
		}
		return ""
	},
	"shared_grants_retained": func(r made, _, _ bool) string {
		member, _ := r.value("member").(string)
		shared := strings.HasPrefix(r.kind, "gcp:projects/iAM") || strings.HasPrefix(r.kind, "gcp:kms/")
		if shared && regexp.MustCompile(`@(gs-project-accounts|bigquery-encryption|serverless-robot-prod|gcp-sa-\w+)\.`).MatchString(member) && !r.retained {
			return "the grant of " + member + " would be removed with this stack"
		}
		return ""
	},
	"inside_a_component": func(r made, _, _ bool) string {
		if !strings.Contains(r.parent, "::fakeart:infra:") {
			return "parent = " + r.parent
		}
		return ""
	},
}

// labelled maps a resource type to the property that holds its labels, or "" if it has none.
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

// stateful are the resource types that hold data or that other systems refer to.
var stateful = []string{
	"gcp:artifactregistry/repository:Repository", "gcp:bigquery/dataset:Dataset", "gcp:cloudrunv2/service:Service",
	"gcp:secretmanager/secret:Secret", "gcp:serviceaccount/account:Account", "gcp:storage/bucket:Bucket",
}

func TestPolicies(t *testing.T) {
	for _, stack := range []string{"dev", "prod"} {
		resources := mustUp(t, stack, nil)
		if len(resources) < 60 {
			t.Errorf("%s: %d resources, want at least 60", stack, len(resources))
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

// Each policy must detect a violation.
func TestPolicies_DetectViolations(t *testing.T) {
	container := func(env ...any) map[string]any {
		return map[string]any{"template": map[string]any{"containers": []any{map[string]any{"image": "x/y:latest", "envs": env}}}}
	}
	for name, r := range map[string]made{
		"no_basic_role":                    {inputs: map[string]any{"role": "roles/editor"}},
		"no_service_account_key":           {kind: "gcp:serviceaccount/key:Key"},
		"additive_grants_only":             {kind: "gcp:projects/iAMBinding:IAMBinding"},
		"no_public_bucket":                 {kind: "gcp:storage/bucket:Bucket", inputs: map[string]any{"uniformBucketLevelAccess": true}},
		"all_users_only_on_public_service": {kind: "gcp:storage/bucketIAMMember:BucketIAMMember", inputs: map[string]any{"member": "allUsers"}},
		"labels":                           {kind: "gcp:storage/bucket:Bucket"},
		"stateful_resources_protected":     {kind: "gcp:storage/bucket:Bucket"},
		"images_by_digest":                 {inputs: container()},
		"no_secret_in_environment":         {inputs: container(map[string]any{"name": "FAKEART_ADMIN_TOKEN", "value": "x"})},
		"alerts_have_runbook_and_channel":  {kind: "gcp:monitoring/alertPolicy:AlertPolicy"},
		"shared_grants_retained":           {kind: "gcp:projects/iAMMember:IAMMember", inputs: map[string]any{"member": "serviceAccount:service-1@gs-project-accounts.iam.gserviceaccount.com"}},
		"inside_a_component":               {parent: "urn:pulumi:dev::fakeart::pulumi:pulumi:Stack::fakeart-dev"},
	} {
		if r.inputs == nil {
			r.inputs = map[string]any{}
		}
		if policies[name] == nil || policies[name](r, true, true) == "" {
			t.Errorf("%s: no violation found in %+v", name, r)
		}
	}
	if len(policies) != 12 {
		t.Errorf("%d policies, but this test covers 12", len(policies))
	}
}

func TestNames_ContainStack(t *testing.T) {
	for _, r := range mustUp(t, "dev", nil) {
		for _, key := range []string{"name", "accountId", "secretId", "repositoryId", "datasetId", "workloadIdentityPoolId"} {
			text, ok := r.inputs[key].(string)
			own := strings.HasPrefix(r.kind, "gcp:") && !regexp.MustCompile(`(?i)(iam|domainMapping|:Table$|IamMember)`).MatchString(r.kind)
			if ok && own && key != "name" && !strings.Contains(text, "fakeart-dev") && !strings.Contains(text, "fakeart_dev") {
				t.Errorf("%s %s: %s = %q", r.kind, r.name, key, text)
			}
		}
	}
}

func TestDeploy_PreviewWithUnknownOutputs(t *testing.T) {
	for _, stack := range []string{"dev", "prod"} {
		if _, err := run(stack, stackConfig(stack, nil), true); err != nil {
			t.Errorf("%s: %v", stack, err)
		}
	}
}
