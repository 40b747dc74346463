package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const (
	serviceKind = "gcp:cloudrunv2/service:Service"
	grantKind   = "gcp:cloudrunv2/serviceIamMember:ServiceIamMember"
)

func TestService_Template(t *testing.T) {
	service := find(t, mustUp(t, "dev", nil), serviceKind, "service")
	for path, want := range map[string]any{
		"name":                                             "fakeart-dev-server",
		"ingress":                                          "INGRESS_TRAFFIC_ALL",
		"template.executionEnvironment":                    "EXECUTION_ENVIRONMENT_GEN2",
		"template.timeout":                                 "30s",
		"template.maxInstanceRequestConcurrency":           80.0,
		"template.scaling.minInstanceCount":                0.0,
		"template.scaling.maxInstanceCount":                4.0,
		"template.containers.0.name":                       "server",
		"template.containers.0.image":                      "europe-west4-docker.pkg.dev/my-project-1/fakeart-dev/server" + someDigest,
		"template.containers.0.ports.0.containerPort":      8080.0,
		"template.containers.0.resources.startupCpuBoost":  true,
		"template.containers.0.resources.cpuIdle":          false,
		"template.containers.0.resources.limits.cpu":       "1",
		"template.containers.0.resources.limits.memory":    "512Mi",
		"template.containers.0.startupProbe.httpGet.path":  "/healthz", // succeeds without a model
		"template.containers.0.livenessProbe.httpGet.path": "/healthz",
		"template.containers.0.volumeMounts.0.mountPath":   "/etc/fakeart/admin",
		"template.containers.1.name":                       "collector",
		"template.containers.1.dependsOns.0":               "server",
		"template.containers.1.image":                      "us-docker.pkg.dev/cloud-ops-agents-artifacts/cloud-run-gmp-sidecar/cloud-run-gmp-sidecar@sha256:ff1fc68871118f1032a3ce17e2b0abd703292e883989d220244330ebdf522fd1",
		"template.containers.1.livenessProbe.httpGet.path": "/liveness",
		"template.containers.1.livenessProbe.httpGet.port": 13133.0,
		"template.containers.1.volumeMounts.0.mountPath":   "/etc/rungmp",
		"template.volumes.0.secret.secret":                 "fakeart-dev-admin-token",
		"template.volumes.0.secret.items.0.path":           "token",
		"template.volumes.1.secret.secret":                 "fakeart-dev-collector",
		"template.volumes.1.secret.items.0.path":           "config.yaml",
		"traffics.0.type":                                  "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST",
		"traffics.0.percent":                               100.0,
	} {
		if got := service.value(path); got != want {
			t.Errorf("%s = %v, want %v", path, got, want)
		}
	}
	env := map[string]string{}
	for _, e := range service.value("template.containers.0.envs").([]any) {
		env[fmt.Sprint(e.(map[string]any)["name"])] = fmt.Sprint(e.(map[string]any)["value"])
	}
	for name, want := range map[string]string{
		"FAKEART_MODEL":            "gs://my-project-1-fakeart-dev/models/production/",
		"FAKEART_MODEL_WATCH":      "30s",
		"FAKEART_MAX_MEMORY":       "134217728",
		"FAKEART_MODEL_MEMORY":     "134217728",
		"FAKEART_LOG_STORE":        "pubsub",
		"FAKEART_LOG_TOPIC":        "gcppubsub://projects/my-project-1/topics/fakeart-dev-predictions",
		"FAKEART_FEEDBACK_TOPIC":   "gcppubsub://projects/my-project-1/topics/fakeart-dev-feedback",
		"FAKEART_ADMIN_TOKEN_FILE": "/etc/fakeart/admin/token",
	} {
		if env[name] != want {
			t.Errorf("%s=%s, want %s", name, env[name], want)
		}
	}
}

func TestService_Models(t *testing.T) {
	for models, want := range map[string]string{
		"":                                    "gs://my-project-1-fakeart-dev/models/production/",
		`["pets"]`:                            "pets=gs://my-project-1-fakeart-dev/models/production/pets/",
		`["pets","cifake=gs://other/m.onnx"]`: "pets=gs://my-project-1-fakeart-dev/models/production/pets/,cifake=gs://other/m.onnx", // in this order
	} {
		change := map[string]string{}
		names := "[]"
		if models != "" {
			change["fakeart:models"] = models
			names = strings.Replace(models, "=gs://other/m.onnx", "", 1)
		}
		resources := mustUp(t, "dev", change)
		for _, e := range find(t, resources, serviceKind, "service").value("template.containers.0.envs").([]any) {
			if e := e.(map[string]any); e["name"] == "FAKEART_MODEL" && e["value"] != want {
				t.Errorf("models %s: FAKEART_MODEL=%v, want %s", models, e["value"], want)
			}
		}
		expect(t, find(t, resources, workflowKind, "triggers"), map[string]any{"userEnvVars.models": names})
	}
}

// TestService_Memory checks that the server's limits follow the container's memory. Their defaults exceed that of a small container.
func TestService_Memory(t *testing.T) {
	service := find(t, mustUp(t, "dev", map[string]string{"fakeart:memory": "2Gi"}), serviceKind, "service")
	env := map[string]any{}
	for _, e := range service.value("template.containers.0.envs").([]any) {
		env[fmt.Sprint(e.(map[string]any)["name"])] = e.(map[string]any)["value"]
	}
	for _, name := range []string{"FAKEART_MAX_MEMORY", "FAKEART_MODEL_MEMORY"} {
		if env[name] != "536870912" {
			t.Errorf("%s=%v, want 536870912", name, env[name])
		}
	}
}

// https://cloud.google.com/stackdriver/docs/managed-prometheus/cloudrun-sidecar documents the format.
func TestCollectorConfig(t *testing.T) {
	resources := mustUp(t, "dev", nil)
	text := find(t, resources, "gcp:secretmanager/secretVersion:SecretVersion", "collector").value("secretData").(string)
	var document struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Spec       struct {
			Endpoints []struct {
				Port           int
				Path, Interval string
			}
			TargetLabels struct{ Metadata []string } `yaml:"targetLabels"`
		}
	}
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		t.Fatal(err)
	}
	if document.APIVersion != "monitoring.googleapis.com/v1beta" || document.Kind != "RunMonitoring" || len(document.Spec.Endpoints) != 1 ||
		document.Spec.Endpoints[0].Port != serverPort || document.Spec.Endpoints[0].Path != "/metrics" || document.Spec.Endpoints[0].Interval == "" || len(document.Spec.TargetLabels.Metadata) == 0 {
		t.Errorf("collector configuration = %+v", document)
	}
}

func TestService_Canary(t *testing.T) {
	before := find(t, mustUp(t, "dev", nil), serviceKind, "service")
	other := "europe-west4-docker.pkg.dev/my-project-1/fakeart-dev/server@sha256:" + strings.Repeat("f", 64)
	canary := map[string]string{"fakeart:canary": `{"image":"` + other + `","percent":5}`}
	during := find(t, mustUp(t, "dev", canary), serviceKind, "service")
	for path, want := range map[string]any{
		"template.containers.0.image": other,
		"traffics.1.type":             "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION",
		"traffics.1.revision":         before.value("template.revision"),
		"traffics.1.percent":          95.0,
		"traffics.0.type":             "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST",
		"traffics.0.percent":          5.0,
		"traffics.0.tag":              "canary",
	} {
		if got := during.value(path); got != want {
			t.Errorf("%s = %v, want %v", path, got, want)
		}
	}
	if url := canaryURL("https://fakeart-dev-server-abc.a.run.app"); url != "https://canary---fakeart-dev-server-abc.a.run.app" {
		t.Errorf("canaryURL = %s", url)
	}
	all := find(t, mustUp(t, "dev", map[string]string{"fakeart:canary": `{"image":"` + other + `","percent":100}`}), serviceKind, "service")
	if traffics := all.value("traffics").([]any); len(traffics) != 1 {
		t.Errorf("with 100 percent for the canary: traffics = %v, want 1", traffics)
	}
	// A promoted canary keeps its revision.
	after := find(t, mustUp(t, "dev", map[string]string{"fakeart:image": other}), serviceKind, "service")
	if after.value("template.revision") != during.value("template.revision") || after.value("template.revision") == before.value("template.revision") {
		t.Errorf("revisions before, during and after the canary: %v, %v, %v", before.value("template.revision"), during.value("template.revision"), after.value("template.revision"))
	}
	if name := fmt.Sprint(after.value("template.revision")); len(name) > 63 || !strings.HasPrefix(name, "fakeart-dev-server-") {
		t.Errorf("invalid revision name %s", name)
	}
}

func TestService_RevisionNameDependsOnTemplate(t *testing.T) {
	names := map[any]string{}
	for _, change := range []string{"", "memory=1Gi", "cpu=2", "concurrency=10", "timeout=20", "minInstances=1", "maxInstances=9", "collectorImage=a.b/c/d:1"} {
		key, value, _ := strings.Cut(change, "=")
		name := find(t, mustUp(t, "dev", map[string]string{"fakeart:" + key: value}), serviceKind, "service").value("template.revision")
		if twin, ok := names[name]; ok {
			t.Errorf("changes %q and %q: both have the revision name %v", change, twin, name)
		}
		names[name] = change
	}
}

func TestService_PublicGrant(t *testing.T) {
	allUsers := func(resources []made) (n int) {
		for _, r := range resources {
			if r.kind == grantKind && r.value("member") == "allUsers" {
				n++
			}
		}
		return n
	}
	if n := allUsers(mustUp(t, "dev", nil)); n != 0 {
		t.Errorf("private service: %d grants to allUsers, want 0", n)
	}
	if n := allUsers(mustUp(t, "dev", map[string]string{"fakeart:public": "true"})); n != 1 {
		t.Errorf("public service: %d grants to allUsers, want 1", n)
	}
}

func TestDeploy_WithoutImages(t *testing.T) {
	all, rest := mustUp(t, "dev", nil), mustUp(t, "dev", map[string]string{"fakeart:image": "", "fakeart:trainerImage": ""})
	for _, r := range rest {
		if strings.HasPrefix(r.kind, "gcp:cloudrunv2/") {
			t.Errorf("unexpected resource %s %s", r.kind, r.name)
		}
	}
	if len(rest) < len(all)/2 {
		t.Errorf("%d resources, want at least half of %d", len(rest), len(all))
	}
}

func TestIdentity_GitHubCondition(t *testing.T) {
	repository := "assertion.repository == 'owner/name' && assertion.repository_id == '123456789' && assertion.repository_owner_id == '4711'"
	for _, test := range []struct {
		name, stack string
		change      map[string]string
		want        string
	}{
		{"default", "dev", nil, " && assertion.ref == 'refs/heads/main'"},
		{"deploy_ref", "dev", map[string]string{"fakeart:deployRef": "refs/heads/release"}, " && assertion.ref == 'refs/heads/release'"},
		{"deploy_environment", "dev", map[string]string{"fakeart:deployEnvironment": "dev"}, " && assertion.ref == 'refs/heads/main' && assertion.environment == 'dev'"},
		{"protected_default_environment", "prod", nil, " && assertion.ref == 'refs/heads/main' && assertion.environment == 'prod'"},
		{"protected_deploy_environment", "prod", map[string]string{"fakeart:deployEnvironment": "production"}, " && assertion.ref == 'refs/heads/main' && assertion.environment == 'production'"},
	} {
		t.Run(test.name, func(t *testing.T) {
			resources := mustUp(t, test.stack, test.change)
			provider := find(t, resources, "gcp:iam/workloadIdentityPoolProvider:WorkloadIdentityPoolProvider", "github")
			if got := provider.value("attributeCondition"); got != repository+test.want {
				t.Errorf("attributeCondition =\n%v, want\n%s", got, repository+test.want)
			}
			grant := find(t, resources, "gcp:serviceaccount/iAMMember:IAMMember", "github-as-deployer")
			if got := fmt.Sprint(grant.value("member")); !strings.HasPrefix(got, "principalSet://") || !strings.HasSuffix(got, "/attribute.repository/owner/name") || grant.value("role") != "roles/iam.workloadIdentityUser" {
				t.Errorf("member %v, role %v", got, grant.value("role"))
			}
		})
	}
	for _, r := range mustUp(t, "dev", map[string]string{"fakeart:repository": ""}) {
		if strings.Contains(r.kind, "workloadIdentity") {
			t.Errorf("without a repository: unexpected resource %s", r.kind)
		}
	}
}

// Only people publish production models. No workload may write them.
func TestStorage_ProductionModelsReadOnly(t *testing.T) {
	const production = `startsWith("projects/_/buckets/my-project-1-fakeart-prod/objects/models/production/")`
	reads := map[any]bool{}
	for _, r := range mustUp(t, "prod", nil) {
		if !strings.HasPrefix(r.kind, "gcp:storage/") || r.value("member") == nil {
			continue
		}
		if r.value("role") == "roles/storage.objectViewer" && r.value("condition") == nil {
			reads[r.value("member")] = true
			continue
		}
		condition, _ := r.value("condition.expression").(string)
		if condition != "!resource.name."+production && !strings.HasPrefix(condition, `resource.name.startsWith("projects/_/buckets/my-project-1-fakeart-prod/objects/triggers/`) {
			t.Errorf("%v has %v with the condition %q", r.value("member"), r.value("role"), condition)
		}
		if r.value("member") == "serviceAccount:server-email" {
			t.Errorf("unexpected role of the server: %v", r.value("role"))
		}
	}
	for _, account := range []string{"server", "trainer"} {
		if !reads["serviceAccount:"+account+"-email"] {
			t.Errorf("%s can't read all objects", account)
		}
	}
}

// To deploy a new container image, a GitHub workflow must pull and push images, update the service
// and the jobs, act as their service accounts, and read their status.
func TestIdentity_DeployerRoles(t *testing.T) {
	resources := mustUp(t, "dev", nil)
	var got []string
	for _, r := range resources {
		if r.value("member") == "serviceAccount:deployer-email" {
			got = append(got, fmt.Sprintf("%s %v", r.name, r.value("role")))
		}
	}
	slices.Sort(got)
	want := []string{
		"deployer-as-server roles/iam.serviceAccountUser",
		"deployer-as-trainer roles/iam.serviceAccountUser",
		"deployer-looks roles/run.viewer",
		"registry-writer roles/artifactregistry.writer",
		"service-deployer roles/run.developer",
		"training-evaluate-deployer roles/run.developer",
		"training-train-deployer roles/run.developer",
	}
	if !slices.Equal(got, want) {
		t.Errorf("roles %q\nwant  %q", got, want)
	}
}

func TestStorage_Retention(t *testing.T) {
	for stack, want := range map[string]map[string]any{
		"dev":  {"softDeletePolicy.retentionDurationSeconds": 7.0 * day, "forceDestroy": true, "encryption": nil},
		"prod": {"softDeletePolicy.retentionDurationSeconds": 30.0 * day, "forceDestroy": false, "encryption.defaultKmsKeyName": "projects/my-project-1/locations/europe-west4/keyRings/fakeart/cryptoKeys/data"},
	} {
		bucket := find(t, mustUp(t, stack, nil), "gcp:storage/bucket:Bucket", "storage")
		want["versioning.enabled"] = true
		want["name"] = "my-project-1-fakeart-" + stack
		want["lifecycleRules.2.condition.matchesPrefixes.0"] = "triggers/"
		want["lifecycleRules.3.action.type"] = "AbortIncompleteMultipartUpload"
		for path, want := range want {
			if got := bucket.value(path); got != want {
				t.Errorf("%s: %s = %v, want %v", stack, path, got, want)
			}
		}
	}
}

func TestBudget(t *testing.T) {
	budget := find(t, mustUp(t, "dev", nil), "gcp:billing/budget:Budget", "budget")
	for i, want := range []string{"0.5 CURRENT_SPEND", "0.9 CURRENT_SPEND", "1 CURRENT_SPEND", "1.2 FORECASTED_SPEND"} {
		rule := fmt.Sprintf("thresholdRules.%d.", i)
		if got := fmt.Sprint(budget.value(rule+"thresholdPercent"), " ", budget.value(rule+"spendBasis")); got != want {
			t.Errorf("rule %d = %s, want %s", i, got, want)
		}
	}
	if got := budget.value("budgetFilter.projects.0"); got != "projects/"+projectNumber {
		t.Errorf("budgetFilter.projects.0 = %v", got)
	}
	// A budget supports only channels that send email.
	budget = find(t, mustUp(t, "prod", nil), budget.kind, "budget")
	if channels := fmt.Sprint(budget.value("allUpdatesRule.monitoringNotificationChannels")); channels != "[email-id]" {
		t.Errorf("channels = %s, want [email-id]", channels)
	}
	for _, r := range mustUp(t, "dev", map[string]string{"fakeart:billingAccount": ""}) {
		if r.kind == budget.kind {
			t.Error("without a billing account: unexpected budget")
		}
	}
}

func TestAdminToken_Secret(t *testing.T) {
	for _, given := range []string{"", "correct-horse-battery-staple"} {
		resources := mustUp(t, "dev", map[string]string{"fakeart:adminToken": given})
		name := "admin-token"
		if given != "" {
			name = "admin-token-given"
		}
		version := find(t, resources, "gcp:secretmanager/secretVersion:SecretVersion", name)
		if !version.secrets {
			t.Errorf("%s: the token isn't marked as secret", name)
		}
		if given != "" && version.value("secretData") != given {
			t.Errorf("secretData = %v, want %v", version.value("secretData"), given)
		}
	}
}

func TestService_ProbeTimeouts(t *testing.T) {
	service := find(t, mustUp(t, "prod", nil), serviceKind, "service")
	for _, probe := range []string{"containers.0.startupProbe", "containers.0.livenessProbe", "containers.1.livenessProbe"} {
		timeout, _ := service.value("template." + probe + ".timeoutSeconds").(float64)
		if period, _ := service.value("template." + probe + ".periodSeconds").(float64); timeout <= 0 || timeout >= period {
			t.Errorf("%s: timeout %v s, want less than the period of %v s", probe, timeout, period)
		}
	}
}
