package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// expectInvalid runs the program with each invalid configuration and checks that the error contains
// the given words and that no resource was registered.
func expectInvalid(t *testing.T, tests map[string]struct {
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
					t.Errorf("error %q, want it to contain %q", err, word)
				}
			}
			if len(resources) > 0 {
				t.Errorf("%d resources were registered, want 0", len(resources))
			}
		})
	}
}

// invokers returns the members with the role run.invoker, by the name of the grant.
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
		t.Fatalf("invokers = %v, then %v, want 1 and 2", one, two)
	}
	for name, member := range one {
		if member != "user:ann@example.org" || two[name] != member {
			t.Errorf("grant %s: member %s, then %s", name, member, two[name])
		}
	}
}

func TestAudiences(t *testing.T) {
	service := find(t, mustUp(t, "dev", map[string]string{"fakeart:audiences": `["https://fakeart.example.org"]`}), serviceKind, "service")
	expect(t, service, map[string]any{"customAudiences.0": "https://fakeart.example.org"})
	plain := find(t, mustUp(t, "dev", nil), serviceKind, "service")
	if plain.value("customAudiences") != nil {
		t.Errorf("without the key, customAudiences = %v", plain.value("customAudiences"))
	}
	if service.value("template.revision") != plain.value("template.revision") {
		t.Error("audiences change the revision name")
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
			t.Errorf("%s %s: labels = %v", r.kind, r.name, labels)
		}
	}
	if labelledResources < 20 {
		t.Errorf("%d resources have labels, want at least 20", labelledResources)
	}
}

func TestLoadConfig_InvalidAccessAndLabels(t *testing.T) {
	many := []string{}
	for i := range maxLabels + 1 {
		many = append(many, fmt.Sprintf(`"k%d":"v"`, i))
	}
	expectInvalid(t, map[string]struct {
		change map[string]string
		words  []string
	}{
		"member_without_type":            {map[string]string{"fakeart:members": `["ann@example.org"]`}, []string{"fakeart:members", "ann@example.org", "user:"}},
		"member_all_users":               {map[string]string{"fakeart:members": `["allUsers"]`}, []string{"fakeart:members", "fakeart:public"}},
		"member_all_authenticated_users": {map[string]string{"fakeart:members": `["allAuthenticatedUsers"]`}, []string{"fakeart:members", "fakeart:public"}},
		"member_twice":                   {map[string]string{"fakeart:members": `["user:a@b.org","user:a@b.org"]`}, []string{"fakeart:members", "twice"}},
		"members_not_a_list":             {map[string]string{"fakeart:members": `user:a@b.org`}, []string{"fakeart:members", "user:a@b.org", "a list of strings"}},
		"members_with_public_service":    {map[string]string{"fakeart:members": `["user:a@b.org"]`, "fakeart:public": "true"}, []string{"fakeart:members", "fakeart:public"}},
		"audience_not_a_url":             {map[string]string{"fakeart:audiences": `["fakeart"]`}, []string{"fakeart:audiences", `"fakeart"`, "https://"}},
		"audience_twice":                 {map[string]string{"fakeart:audiences": `["https://a.org","https://a.org"]`}, []string{"fakeart:audiences", "twice"}},
		"label_reserved_by_program":      {map[string]string{"fakeart:labels": `{"app":"x"}`}, []string{"fakeart:labels.app", "another key"}},
		"label_reserved_by_google":       {map[string]string{"fakeart:labels": `{"goog-x":"x"}`}, []string{"fakeart:labels.goog-x", "Google"}},
		"label_key_upper_case":           {map[string]string{"fakeart:labels": `{"Team":"x"}`}, []string{"fakeart:labels.Team", "lower-case"}},
		"label_value_with_dots":          {map[string]string{"fakeart:labels": `{"team":"a.b"}`}, []string{"fakeart:labels.team", "a.b"}},
		"label_value_empty":              {map[string]string{"fakeart:labels": `{"team":""}`}, []string{"fakeart:labels.team", "1 to 63"}},
		"label_value_number":             {map[string]string{"fakeart:labels": `{"cost":42}`}, []string{"fakeart:labels", "quotes"}},
		"labels_too_many":                {map[string]string{"fakeart:labels": "{" + strings.Join(many, ",") + "}"}, []string{"fakeart:labels", "59"}},
		"object_unknown_field":           {map[string]string{"fakeart:training": `{"cores":2}`}, []string{"fakeart:training", "cores", "cpu (integer)", "args (a list of strings"}},
		"data_after_object":              {map[string]string{"fakeart:training": `{"cpu":2} {}`}, []string{"fakeart:training"}},
	})
}

func TestExistingBucket(t *testing.T) {
	resources := mustUp(t, "dev", map[string]string{"fakeart:bucket": "shared"})
	var on []string
	for _, r := range resources {
		if r.kind == "gcp:storage/bucket:Bucket" {
			t.Errorf("bucket %s was registered", r.value("name"))
		}
		if r.kind == "gcp:storage/bucketIAMMember:BucketIAMMember" {
			on = append(on, fmt.Sprint(r.value("bucket")))
		}
	}
	if len(on) != 5 || strings.Trim(strings.Join(on, ""), "shared") != "" {
		t.Errorf("grants are on %v, want 5 on shared", on)
	}
	service := fmt.Sprint(find(t, resources, serviceKind, "service").value("template.containers.0.envs"))
	if !strings.Contains(service, "gs://shared/models/production/") {
		t.Errorf("the server's environment = %s", service)
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
			t.Errorf("dataset %s was registered", r.value("datasetId"))
		}
		if r.kind == tableKind {
			tables++
			expect(t, r, map[string]any{"datasetId": "shared"})
		}
	}
	if tables != 7 {
		t.Errorf("%d tables and views, want 7", tables)
	}
	expect(t, find(t, resources, subscriptionKind, "prediction-log"), map[string]any{"bigqueryConfig.table": "my-project-1.shared.predictions"})
	if view := fmt.Sprint(find(t, resources, workflowKind, "triggers").value("userEnvVars.drift_view")); view != "my-project-1.shared.drift" {
		t.Errorf("drift_view = %s", view)
	}
}

func TestReason(t *testing.T) {
	text := "rpc error: code = Unknown desc = invocation of gcp:bigquery/getDataset:getDataset returned an error: 1 error occurred:\n\t* projects/p/datasets/shared not found\n\n" // as returned by the provider
	err := errors.New(text)
	if got := reason(err); got != "projects/p/datasets/shared not found" {
		t.Errorf("reason = %q", got)
	}
	if got := reason(errors.New("not found")); got != "not found" {
		t.Errorf("reason = %q", got)
	}
}

// GitHub's deployer may not look resources up. It must still be able to deploy.
func TestHidden(t *testing.T) {
	for _, test := range []struct {
		err  string
		want bool
	}{
		{"googleapi: Error 403: deployer does not have storage.buckets.get access", true},
		{"googleapi: Error 404: not found", false},
		{"dial tcp: connection refused", false},
	} {
		if got := hidden(errors.New(test.err)); got != test.want {
			t.Errorf("hidden(%q) = %t, want %t", test.err, got, test.want)
		}
	}
}

func TestLoadConfig_InvalidExisting(t *testing.T) {
	expectInvalid(t, map[string]struct {
		change map[string]string
		words  []string
	}{
		"bucket_by_url":            {map[string]string{"fakeart:bucket": "gs://shared"}, []string{"fakeart:bucket", "gs://shared", "without gs://"}},
		"bucket_created_by_stack":  {map[string]string{"fakeart:bucket": "my-project-1-fakeart-dev"}, []string{"fakeart:bucket", "that the stack creates"}},
		"bucket_missing":           {map[string]string{"fakeart:bucket": "nowhere"}, []string{"fakeart:bucket", "nowhere", "404", "hint:"}},
		"bucket_in_other_region":   {map[string]string{"fakeart:bucket": "far"}, []string{"fakeart:bucket", "US", "europe-west4"}},
		"bucket_of_other_project":  {map[string]string{"fakeart:bucket": "foreign"}, []string{"fakeart:bucket", "another project"}},
		"bucket_with_acls":         {map[string]string{"fakeart:bucket": "by-acl"}, []string{"fakeart:bucket", "--uniform-bucket-level-access"}},
		"dataset_with_project":     {map[string]string{"fakeart:dataset": "my-project-1.shared"}, []string{"fakeart:dataset", "without its project"}},
		"dataset_created_by_stack": {map[string]string{"fakeart:dataset": "fakeart_dev"}, []string{"fakeart:dataset", "that the stack creates"}},
		"dataset_missing":          {map[string]string{"fakeart:dataset": "nowhere"}, []string{"fakeart:dataset", "nowhere", "hint:"}},
		"dataset_in_other_region":  {map[string]string{"fakeart:dataset": "far"}, []string{"fakeart:dataset", "EU", "europe-west4"}},
		"dataset_without_kms_key":  {map[string]string{"fakeart:dataset": "shared", "fakeart:kmsKey": someKey}, []string{"fakeart:dataset", "Google's own key", someKey, "hint:"}},
		"dataset_with_kms_key":     {map[string]string{"fakeart:dataset": "sealed"}, []string{"fakeart:dataset", "Google's own key", someKey}},
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
			t.Error("compute.googleapis.com is enabled without a VPC or load balancer")
		}
	}
	names := map[any]bool{}
	for _, r := range []made{service, least, find(t, plain, serviceKind, "service")} {
		names[r.value("template.revision")] = true
	}
	if len(names) != 3 {
		t.Errorf("revision names %v, want 3", names)
	}
}

func TestLoadConfig_InvalidVPC(t *testing.T) {
	expectInvalid(t, map[string]struct {
		change map[string]string
		words  []string
	}{
		"network_missing":            {map[string]string{"fakeart:vpc": `{"subnetwork":"apps"}`}, []string{"fakeart:vpc.network"}},
		"subnetwork_missing":         {map[string]string{"fakeart:vpc": `{"network":"main"}`}, []string{"fakeart:vpc.subnetwork"}},
		"subnetwork_in_other_region": {map[string]string{"fakeart:vpc": `{"network":"main","subnetwork":"projects/p/regions/us-east1/subnetworks/apps"}`}, []string{"fakeart:vpc.subnetwork", "us-east1", "europe-west4"}},
		"egress_unknown":             {map[string]string{"fakeart:vpc": `{"network":"main","subnetwork":"apps","egress":"ALL"}`}, []string{"fakeart:vpc.egress", "all-traffic"}},
		"tag_invalid":                {map[string]string{"fakeart:vpc": `{"network":"main","subnetwork":"apps","tags":["Fakeart"]}`}, []string{"fakeart:vpc.tags", "Fakeart"}},
		"tag_twice":                  {map[string]string{"fakeart:vpc": `{"network":"main","subnetwork":"apps","tags":["a","a"]}`}, []string{"fakeart:vpc.tags", "twice"}},
		"not_an_object":              {map[string]string{"fakeart:vpc": `main`}, []string{"fakeart:vpc", "network (string)", "tags (a list"}},
	})
}

func TestKMSKey(t *testing.T) {
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
			t.Errorf("%s has no grant on the key", account)
		}
	}
	for _, r := range mustUp(t, "prod", map[string]string{"fakeart:kmsKey": ""}) {
		r.strings(func(key, text string) {
			if strings.Contains(text, "cryptoKey") {
				t.Errorf("without a key, %s %s: %s = %q", r.kind, r.name, key, text)
			}
		})
	}
}

// balanced returns the configuration of a public service behind a load balancer.
func balanced(change map[string]string) map[string]string {
	c := map[string]string{
		"fakeart:public": "true", "fakeart:domain": "fakeart.example.org", "fakeart:ingress": "internal-and-cloud-load-balancing", "fakeart:loadBalancer": "{}",
	}
	maps.Copy(c, change)
	return c
}

const someClient = "123456789012-abc.apps.googleusercontent.com"

// proxied returns the configuration of a service behind Identity-Aware Proxy.
func proxied() map[string]string {
	return balanced(map[string]string{
		"fakeart:public": "false", "fakeart:iapClientSecret": "hush",
		"fakeart:loadBalancer": `{"iapClientId":"` + someClient + `","iapMembers":["domain:example.org"]}`,
	})
}

func TestLoadBalancer(t *testing.T) {
	resources := mustUp(t, "dev", balanced(nil))
	expect(t, find(t, resources, serviceKind, "service"), map[string]any{
		"ingress": "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER", "customAudiences.0": "https://fakeart.example.org",
	})
	expect(t, find(t, resources, "gcp:compute/regionNetworkEndpointGroup:RegionNetworkEndpointGroup", "load-balancer"), map[string]any{
		"networkEndpointType": "SERVERLESS", "region": "europe-west4", "cloudRun.service": "fakeart-dev-server",
	})
	backend := find(t, resources, "gcp:compute/backendService:BackendService", "load-balancer")
	expect(t, backend, map[string]any{
		"loadBalancingScheme": "EXTERNAL_MANAGED", "protocol": "HTTPS", "backends.0.group": "load-balancer-selfLink", "securityPolicy": "load-balancer-selfLink",
		"timeoutSec": nil, "healthChecks": nil, "iap": nil, "logConfig.enable": true,
	})
	expect(t, find(t, resources, "gcp:compute/managedSslCertificate:ManagedSslCertificate", "load-balancer"), map[string]any{"managed.domains.0": "fakeart.example.org"})
	expect(t, find(t, resources, "gcp:compute/sSLPolicy:SSLPolicy", "load-balancer"), map[string]any{"minTlsVersion": "TLS_1_2", "profile": "MODERN"})
	expect(t, find(t, resources, "gcp:compute/targetHttpsProxy:TargetHttpsProxy", "load-balancer"), map[string]any{
		"sslCertificates.0": "load-balancer-selfLink", "sslPolicy": "load-balancer-selfLink", "urlMap": "load-balancer-selfLink",
	})
	expect(t, find(t, resources, "gcp:compute/uRLMap:URLMap", "load-balancer-redirect"), map[string]any{"defaultUrlRedirect.httpsRedirect": true, "defaultService": nil})
	for name, port := range map[string]string{"https": "443", "http": "80"} {
		expect(t, find(t, resources, "gcp:compute/globalForwardingRule:GlobalForwardingRule", "load-balancer-"+name), map[string]any{
			"portRange": port, "loadBalancingScheme": "EXTERNAL_MANAGED", "labels.component": "load-balancer",
		})
	}
	expect(t, find(t, resources, "gcp:monitoring/uptimeCheckConfig:UptimeCheckConfig", "ready"), map[string]any{"monitoredResource.labels.host": "fakeart.example.org"})
	for _, r := range resources {
		if r.kind == "gcp:cloudrun/domainMapping:DomainMapping" || r.name == "iap.googleapis.com" || strings.HasPrefix(r.kind, "gcp:iap/") {
			t.Errorf("unexpected resource %s %s", r.kind, r.name)
		}
	}
	for _, r := range mustUp(t, "prod", nil) {
		if strings.HasPrefix(r.kind, "gcp:compute/") {
			t.Errorf("without loadBalancer: unexpected resource %s %s", r.kind, r.name)
		}
	}
}

// A mapped domain also works for a service that only accepts internal requests.
func TestDomain_InternalIngress(t *testing.T) {
	find(t, mustUp(t, "dev", map[string]string{"fakeart:domain": "fakeart.example.org", "fakeart:ingress": "internal"}), "gcp:cloudrun/domainMapping:DomainMapping", "service")
}

// A certificate can't be changed, so another domain needs a certificate with another name.
func TestLoadBalancer_CertificateNamePerDomain(t *testing.T) {
	names := map[any]bool{}
	for _, domain := range []string{"a.example.org", "b.example.org"} {
		resources := mustUp(t, "dev", balanced(map[string]string{"fakeart:domain": domain}))
		certificate := find(t, resources, "gcp:compute/managedSslCertificate:ManagedSslCertificate", "load-balancer")
		if names[certificate.value("name")] = true; !certificate.createsFirst {
			t.Error("DeleteBeforeReplace isn't false: the certificate would be deleted while the proxy uses it")
		}
	}
	if len(names) != 2 {
		t.Errorf("certificate names %v, want 2", names)
	}
}

func TestCloudArmorRules(t *testing.T) {
	policy := func(balancer string) (rules []map[string]any) {
		r := find(t, mustUp(t, "dev", balanced(map[string]string{"fakeart:loadBalancer": balancer})), "gcp:compute/securityPolicy:SecurityPolicy", "load-balancer")
		for _, rule := range r.value("rules").([]any) {
			rules = append(rules, rule.(map[string]any))
		}
		return rules
	}
	rules := policy("{}")
	last := -1.0
	for i, rule := range rules {
		priority := rule["priority"].(float64)
		if priority <= last {
			t.Errorf("rule %d: priority %v after %v", i, priority, last)
		}
		last = priority
		switch action := rule["action"]; {
		case i == len(rules)-1:
			if priority != defaultPriority || action != "allow" {
				t.Errorf("last rule = %v", rule)
			}
		case i == len(rules)-2: // requests within the limit are allowed, so no rule may follow
			limit := made{inputs: rule}
			if action != "throttle" || rule["preview"] != false || limit.value("rateLimitOptions.enforceOnKey") != "IP" || limit.value("rateLimitOptions.rateLimitThreshold.count") != 600.0 {
				t.Errorf("rate limit = %v", rule)
			}
		default:
			if action != "deny(403)" || rule["preview"] != true {
				t.Errorf("the preconfigured rule %v isn't in preview", rule)
			}
		}
	}
	if len(rules) != 6 {
		t.Errorf("%d rules, want 6", len(rules))
	}
	rules = policy(`{"rateLimit":0,"waf":["xss"],"wafEnforce":true}`)
	if len(rules) != 2 || rules[0]["preview"] != false || rules[0]["priority"] != 1010.0 {
		t.Errorf("rules = %v", rules)
	}
	if rules = policy(`{"rateLimit":0,"waf":[]}`); len(rules) != 1 {
		t.Errorf("with an empty waf and no limit: rules = %v, want 1", rules)
	}
}

// Resources that are registered by type token must have the provider version of the SDK.
func TestProviderVersion(t *testing.T) {
	modules, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := "github.com/pulumi/pulumi-gcp/sdk/v7 v" + providerVersion + "\n"; !strings.Contains(string(modules), want) {
		t.Errorf("go.mod doesn't contain %s", want)
	}
}

// Only the paths that accept image files are exempt from the preconfigured rules.
func TestImagePaths(t *testing.T) {
	pattern := regexp.MustCompile(imagePaths)
	for path, want := range map[string]bool{
		"/predict": true, "/model/": true, "/model": true, "/v2/models/fakeart/infer": true, "/v2/models/fakeart/versions/1/infer": true,
		"/feedback": false, "/models/current": false, "/": false, "/predict/../log": false, "/predictions": false,
	} {
		if pattern.MatchString(path) != want {
			t.Errorf("match of %s = %t, want %t", path, !want, want)
		}
	}
}

func TestIdentityAwareProxy(t *testing.T) {
	resources := mustUp(t, "dev", proxied())
	backend := find(t, resources, "gcp:compute/backendService:BackendService", "load-balancer")
	expect(t, backend, map[string]any{"iap.oauth2ClientId": someClient, "iap.oauth2ClientSecret": "hush"})
	if !backend.secrets {
		t.Error("the client secret isn't marked as secret")
	}
	agent := "serviceAccount:service-" + projectNumber + "@gcp-sa-iap.iam.gserviceaccount.com"
	if members := slices.Collect(maps.Values(invokers(resources))); !slices.Equal(members, []string{agent}) {
		t.Errorf("invokers = %v, want %s", members, agent)
	}
	accessors := 0
	for _, r := range resources {
		if r.kind == "gcp:iap/webBackendServiceIamMember:WebBackendServiceIamMember" {
			accessors++
			expect(t, r, map[string]any{"member": "domain:example.org", "role": "roles/iap.httpsResourceAccessor", "webBackendService": "fakeart-dev-lb"})
		}
		if r.kind == "gcp:monitoring/uptimeCheckConfig:UptimeCheckConfig" {
			t.Error("unexpected uptime check, which the proxy would reject")
		}
	}
	if accessors != 1 {
		t.Errorf("%d grants of roles/iap.httpsResourceAccessor, want 1", accessors)
	}
	find(t, resources, "gcp:projects/service:Service", "iap.googleapis.com")
}

func TestLoadConfig_InvalidLoadBalancer(t *testing.T) {
	expectInvalid(t, map[string]struct {
		change map[string]string
		words  []string
	}{
		"domain_missing":                   {balanced(map[string]string{"fakeart:domain": ""}), []string{"fakeart:loadBalancer", "fakeart:domain"}},
		"domain_too_long":                  {balanced(map[string]string{"fakeart:domain": strings.Repeat("a.", 31) + "org"}), []string{"fakeart:domain", "64"}},
		"open_ingress":                     {balanced(map[string]string{"fakeart:ingress": "all"}), []string{"fakeart:ingress", "internal-and-cloud-load-balancing"}},
		"internal_ingress":                 {balanced(map[string]string{"fakeart:ingress": "internal"}), []string{"fakeart:ingress", "internal-and-cloud-load-balancing"}},
		"rate_limit_negative":              {balanced(map[string]string{"fakeart:loadBalancer": `{"rateLimit":-1}`}), []string{"fakeart:loadBalancer.rateLimit", "1000000"}},
		"rate_limit_too_high":              {balanced(map[string]string{"fakeart:loadBalancer": `{"rateLimit":1000001}`}), []string{"fakeart:loadBalancer.rateLimit"}},
		"waf_rule_unknown":                 {balanced(map[string]string{"fakeart:loadBalancer": `{"waf":["sql"]}`}), []string{"fakeart:loadBalancer.waf", `"sql"`, "sqli"}},
		"waf_rule_twice":                   {balanced(map[string]string{"fakeart:loadBalancer": `{"waf":["xss","xss"]}`}), []string{"fakeart:loadBalancer.waf", "twice"}},
		"field_unknown":                    {balanced(map[string]string{"fakeart:loadBalancer": `{"rate":1}`}), []string{"fakeart:loadBalancer", "rateLimit (integer)"}},
		"iap_without_secret":               {balanced(map[string]string{"fakeart:public": "", "fakeart:loadBalancer": `{"iapClientId":"` + someClient + `"}`}), []string{"fakeart:loadBalancer.iapClientId", "fakeart:iapClientSecret"}},
		"iap_secret_without_client":        {balanced(map[string]string{"fakeart:iapClientSecret": "hush"}), []string{"fakeart:iapClientSecret", "iapClientId"}},
		"iap_secret_without_load_balancer": {map[string]string{"fakeart:iapClientSecret": "hush"}, []string{"fakeart:iapClientSecret", "iapClientId"}},
		"iap_members_without_client":       {balanced(map[string]string{"fakeart:loadBalancer": `{"iapMembers":["user:a@b.org"]}`}), []string{"fakeart:loadBalancer.iapMembers", "iapClientId"}},
		"iap_client_id_invalid":            {balanced(map[string]string{"fakeart:public": "", "fakeart:iapClientSecret": "x", "fakeart:loadBalancer": `{"iapClientId":"fakeart"}`}), []string{"fakeart:loadBalancer.iapClientId", `"fakeart"`}},
		"iap_with_public_service":          {merged(proxied(), map[string]string{"fakeart:public": "true"}), []string{"fakeart:public", "iapMembers"}},
		"iap_member_all_users":             {merged(proxied(), map[string]string{"fakeart:loadBalancer": `{"iapClientId":"` + someClient + `","iapMembers":["allUsers"]}`}), []string{"fakeart:loadBalancer.iapMembers", "everyone"}},
	})
}

func merged(into, change map[string]string) map[string]string {
	maps.Copy(into, change)
	return into
}

// The resources of optional features must also satisfy the policies.
func TestPolicies_OptionalFeatures(t *testing.T) {
	for _, option := range []struct {
		public bool
		change map[string]string
	}{
		{true, balanced(map[string]string{"fakeart:vpc": someVPC, "fakeart:bucket": "shared", "fakeart:dataset": "sealed", "fakeart:labels": `{"team":"vision"}`})},
		{false, merged(proxied(), map[string]string{"fakeart:members": `["group:team@example.org"]`})},
	} {
		for _, r := range mustUp(t, "prod", option.change) {
			for name, policy := range policies {
				if wrong := policy(r, true, option.public); wrong != "" {
					t.Errorf("%s %s: %s: %s", r.kind, r.name, name, wrong)
				}
			}
		}
		if _, err := run("prod", stackConfig("prod", option.change), true); err != nil {
			t.Errorf("preview: %v", err)
		}
	}
}
