package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi/config"
)

// Config is the configuration of a stack, read from Pulumi.STACK.yaml by loadConfig. A field's
// key is in the namespace fakeart; `make reference` writes docs/reference/stacks.md from the tags.
type Config struct {
	// Protect turns on deletion protection, keeps old object versions longer, protects resources
	// in Pulumi and rejects container images that are named by tag.
	Protect bool `key:"protect" default:"false" doc:"Protect the stack against deletion, and reject container images that are named by tag. Set it for production."`

	Image        string `key:"image" doc:"Container image of the server. Without it, there is no service. A protected stack requires a digest."`
	TrainerImage string `key:"trainerImage" doc:"Container image of the trainer. Without it, there are no jobs and no triggers. A protected stack requires a digest."`
	// CollectorImage is release 1.9.2 by default. The digest is the one that the registry's tags
	// 1.9.2 and latest had in September 2026, as recorded by public projects. 1.9.2 was also the
	// version in the repository GoogleCloudPlatform/run-gmp-sidecar. To look the digest up again:
	// crane digest us-docker.pkg.dev/cloud-ops-agents-artifacts/cloud-run-gmp-sidecar/cloud-run-gmp-sidecar:1.9.2
	CollectorImage string `key:"collectorImage" default:"us-docker.pkg.dev/cloud-ops-agents-artifacts/cloud-run-gmp-sidecar/cloud-run-gmp-sidecar@sha256:ff1fc68871118f1032a3ce17e2b0abd703292e883989d220244330ebdf522fd1" doc:"Container image of Google's Managed Prometheus sidecar, release 1.9.2. A protected stack requires a digest."`
	// Models are the models in order, because the first one is the default.
	Models []string `key:"models" doc:"Models to serve, each NAME or NAME=URL. A URL that ends in / is a folder, whose newest model is served; without a URL, it is models/production/NAME/ in the bucket. The first one is the default. Without this key, the only model is the newest one in models/production/."`
	Canary *Canary  `key:"canary" doc:"{image, percent}: another container image of the server and the percentage of requests that it serves."`

	Public    bool              `key:"public" default:"false" doc:"Let anyone call the service. Otherwise callers need the role run.invoker."`
	Members   []string          `key:"members" doc:"IAM principals that may call a private service, such as [user:ann@example.org, group:team@example.org]. Also serviceAccount, domain, principal and principalSet."`
	Audiences []string          `key:"audiences" doc:"Custom audiences: URLs that the ID tokens of callers may be issued for, in addition to the service's own URL."`
	Labels    map[string]string `key:"labels" doc:"Labels to add to every resource that supports labels: {team: vision}."`

	LoadBalancer *Balancer `key:"loadBalancer" doc:"{rateLimit, waf, wafEnforce, iapClientId, iapMembers}: external HTTPS load balancer for the domain, with Cloud Armor and, if iapClientId is set, Identity-Aware Proxy. {} takes the defaults. Requires domain, and ingress internal-and-cloud-load-balancing."`
	VPC          *VPC      `key:"vpc" doc:"{network, subnetwork, tags, egress}: VPC network for outgoing requests of the service and the jobs (Direct VPC egress). egress is private-ranges-only (default) or all-traffic."`

	Ingress      string `key:"ingress" default:"all" doc:"Networks from which the service accepts requests: all, internal, or internal-and-cloud-load-balancing."`
	Domain       string `key:"domain" doc:"Custom domain of the service. Without loadBalancer, it is mapped to the service and must be verified for the account that deploys. With loadBalancer, it is the load balancer's domain."`
	MinInstances int    `key:"minInstances" default:"0" doc:"Minimum number of instances."`
	MaxInstances int    `key:"maxInstances" default:"4" doc:"Maximum number of instances."`
	Concurrency  int    `key:"concurrency" default:"80" doc:"Maximum number of concurrent requests per instance, 1 to 1000."`
	CPU          int    `key:"cpu" default:"1" doc:"CPU cores of the server per instance: 1, 2 or 4."`
	Memory       string `key:"memory" default:"512Mi" doc:"Memory of the server per instance, such as 512Mi or 2Gi. Models may use a quarter of it; while one is replaced, the old and the new one count."`
	Timeout      int    `key:"timeout" default:"30" doc:"Request timeout in seconds, 1 to 3600."`

	KMSKey        string   `key:"kmsKey" doc:"Cloud KMS key that encrypts the bucket, prediction log, service, jobs, registry, secrets and workflow: projects/P/locations/L/keyRings/R/cryptoKeys/K, in the stack's region. Default: Google-managed keys."`
	Bucket        string   `key:"bucket" doc:"Name of an existing bucket to use instead of a new one."`
	Dataset       string   `key:"dataset" doc:"Name of an existing BigQuery dataset to put the tables in, instead of a new one."`
	ImmutableTags bool     `key:"immutableTags" default:"false" doc:"Reject pushes that would move an existing tag in the registry."`
	LogDays       int      `key:"logDays" default:"0" doc:"Days after which logged predictions are deleted. 0 keeps them forever."`
	Training      Training `key:"training" doc:"The training job: {cpu, memory, timeout, retries, tasks, parallelism, args}."`
	DriftSchedule string   `key:"driftSchedule" default:"0 6 * * *" doc:"Cron schedule, in UTC, of the check for drift in yesterday's images."`

	Repository        string `key:"repository" doc:"GitHub repository, owner/name, whose workflows may deploy. Without it, no workflow may deploy. Requires repositoryId and repositoryOwnerId."`
	RepositoryID      string `key:"repositoryId" doc:"GitHub's numeric ID of the repository, which another repository of the same name doesn't have: gh api repos/OWNER/NAME --jq .id"`
	RepositoryOwnerID string `key:"repositoryOwnerId" doc:"GitHub's numeric ID of the repository's owner: gh api repos/OWNER/NAME --jq .owner.id"`
	DeployRef         string `key:"deployRef" default:"refs/heads/main" doc:"Git ref whose workflows may deploy."`
	DeployEnvironment string `key:"deployEnvironment" doc:"GitHub environment that a job must declare to deploy, which makes the environment's reviewers approve it. Default: the stack's name if the stack is protected, otherwise none."`

	Email        string `key:"email" doc:"Email address for alerts and budget notifications. A protected stack rejects addresses at example domains."`
	SlackChannel string `key:"slackChannel" doc:"Slack channel for alerts. Requires the secret slackToken."`
	Objectives   bool   `key:"objectives" default:"true" doc:"Create SLOs and alerts on the server's metrics. Cloud Monitoring rejects them in a project that has never received these metrics: keep it false until the server has run with a model for some minutes."`
	RunbookURL   string `key:"runbookUrl" doc:"URL of the runbook folder. Each alert links to its page NAME.md there. Default: docs/runbooks/ of repository, on its branch main."`

	BillingAccount string `key:"billingAccount" doc:"Billing account for the budget, XXXXXX-XXXXXX-XXXXXX. Without it, there is no budget."`
	Budget         int    `key:"budget" default:"50" doc:"Monthly budget, in units of budgetCurrency."`
	BudgetCurrency string `key:"budgetCurrency" default:"USD" doc:"Currency of the billing account, as a three-letter code."`

	AdminToken   pulumi.StringPtrOutput `key:"adminToken" secret:"true" doc:"Secret: the server's admin token. Default: a random one."`
	SlackToken   pulumi.StringPtrOutput `key:"slackToken" secret:"true" doc:"Secret: token of the Slack app for slackChannel."`
	PagerDutyKey pulumi.StringPtrOutput `key:"pagerDutyKey" secret:"true" doc:"Secret: integration key of the PagerDuty service that critical alerts go to."`

	IAPClientSecret pulumi.StringPtrOutput `key:"iapClientSecret" secret:"true" doc:"Secret: client secret of the OAuth client loadBalancer.iapClientId."`

	// Project, Region and Stack are gcp:project, gcp:region and the stack's name.
	Project, Region, Stack string

	given map[string]bool // keys that the stack sets
}

// Canary is another container image of the server and the percentage of requests it serves.
type Canary struct {
	Image   string `json:"image"`
	Percent int    `json:"percent"`
}

// VPC is the network that outgoing requests of the service and the jobs go through.
type VPC struct {
	Network    string   `json:"network"`
	Subnetwork string   `json:"subnetwork"`
	Tags       []string `json:"tags"`
	Egress     string   `json:"egress"`
}

// Balancer configures the load balancer in front of the service.
type Balancer struct {
	RateLimit   int      `json:"rateLimit"`   // requests per minute and client address; 0 for no limit
	WAF         []string `json:"waf"`         // keys of wafRules
	WAFEnforce  bool     `json:"wafEnforce"`  // if false, the rules only log what they would reject
	IAPClientID string   `json:"iapClientId"` // of an OAuth client
	IAPMembers  []string `json:"iapMembers"`  // principals that Identity-Aware Proxy lets through
}

// Training is the size of the training job, and its arguments.
type Training struct {
	CPU         int      `json:"cpu"`
	Memory      string   `json:"memory"`
	Timeout     int      `json:"timeout"` // seconds
	Retries     int      `json:"retries"`
	Tasks       int      `json:"tasks"`
	Parallelism int      `json:"parallelism"`
	Args        []string `json:"args"`
}

// defaultTraining is the default of the key training.
var defaultTraining = Training{CPU: 4, Memory: "4Gi", Timeout: 3600, Retries: 1, Tasks: 1, Parallelism: 1, Args: []string{"experiment=base"}}

// loadConfig reads and validates the stack's configuration. The error lists every invalid value
// with its key and the values allowed.
func loadConfig(ctx *pulumi.Context) (*Config, error) {
	c := &Config{
		Stack: ctx.Stack(), Training: defaultTraining, given: map[string]bool{},
		LoadBalancer: &Balancer{RateLimit: 600, WAF: []string{"sqli", "xss", "lfi", "rce"}},
	}
	errs := unknownKeys(os.Getenv("PULUMI_CONFIG"))
	gcp := config.New(ctx, "gcp")
	c.Project, c.Region = gcp.Get("project"), gcp.Get("region")
	own := config.New(ctx, "fakeart")
	value := reflect.ValueOf(c).Elem()
	for i := range value.NumField() {
		field := value.Type().Field(i)
		key := field.Tag.Get("key")
		if key == "" {
			continue
		}
		text, err := own.Try(key)
		c.given[key] = err == nil
		if field.Tag.Get("secret") != "" {
			secret := pulumi.StringPtr("").ToStringPtrOutput()
			if err == nil {
				secret = own.RequireSecret(key).ToStringPtrOutput()
			}
			value.Field(i).Set(reflect.ValueOf(secret))
			continue
		}
		if err != nil {
			text = field.Tag.Get("default")
		}
		if err := set(value.Field(i), text); err != nil {
			errs = append(errs, fmt.Errorf("fakeart:%s: %w", key, err))
		}
	}
	if !c.given["loadBalancer"] {
		c.LoadBalancer = nil
	}
	if c.DeployEnvironment == "" && c.Protect {
		c.DeployEnvironment = c.Stack
	}
	if c.RunbookURL == "" && c.Repository != "" {
		c.RunbookURL = "https://github.com/" + c.Repository + "/blob/main/docs/runbooks/"
	}
	return c, errors.Join(append(errs, c.validate()...)...)
}

// reachable reports whether anyone on the internet can call the service, directly or through its
// load balancer.
func (c *Config) reachable() bool {
	return c.Public && (c.Ingress == "all" || c.LoadBalancer != nil)
}

// warning returns a warning about a protected stack without alert recipients, or "". Unlike an
// error, it doesn't stop a deployment.
func (c *Config) warning() string {
	if c.Protect && c.Email == "" && c.SlackChannel == "" && !c.given["pagerDutyKey"] {
		return "the stack is protected, but its alerts have no recipient: pulumi config set --stack " + c.Stack + " fakeart:email YOUR-ADDRESS"
	}
	return ""
}

// set parses text into a field according to the field's type. Empty text leaves the field as it is.
func set(field reflect.Value, text string) error {
	if text == "" {
		return nil
	}
	switch field.Kind() {
	case reflect.String:
		field.SetString(text)
	case reflect.Bool:
		v, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q: expected true or false", text)
		}
		field.SetBool(v)
	case reflect.Int:
		v, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q: expected a whole number", text)
		}
		field.SetInt(int64(v))
	default:
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(field.Addr().Interface()); err != nil || d.More() {
			return fmt.Errorf("%s: expected %s", text, shape(field.Type()))
		}
	}
	return nil
}

// shape describes the values of type t for an error message.
func shape(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return shape(t.Elem())
	case reflect.Slice:
		return `a list of strings, such as ["a", "b"]`
	case reflect.Map:
		return `an object of strings, such as {"a": "b"}; numbers need quotes`
	case reflect.Struct:
		var members []string
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			members = append(members, name+" ("+shape(t.Field(i).Type)+")")
		}
		return "an object with any of " + strings.Join(members, ", ")
	case reflect.Int:
		return "integer"
	case reflect.Bool:
		return "true or false"
	}
	return t.Kind().String()
}

// mebibytes returns the number of MiB in a quantity such as 512Mi or 2Gi.
func mebibytes(text string) int {
	n, _ := strconv.Atoi(text[:len(text)-2])
	if strings.HasSuffix(text, "Gi") {
		n *= 1024
	}
	return n
}

// keys returns the keys that a stack may set, without the namespace.
func keys() []string {
	var names []string
	for i, kind := 0, reflect.TypeFor[Config](); i < kind.NumField(); i++ {
		if key := kind.Field(i).Tag.Get("key"); key != "" {
			names = append(names, key)
		}
	}
	return names
}

// unknownKeys returns an error for each unknown key of the namespace fakeart. text is the whole
// configuration as a JSON object, which Pulumi's engine passes in PULUMI_CONFIG.
func unknownKeys(text string) (errs []error) {
	var all map[string]string
	if json.Unmarshal([]byte(text), &all) != nil {
		return nil // not started by an engine
	}
	known := keys()
	for _, full := range slices.Sorted(maps.Keys(all)) {
		key, ours := strings.CutPrefix(full, "fakeart:")
		if !ours || slices.Contains(known, key) {
			continue
		}
		nearest := slices.MinFunc(known, func(a, b string) int {
			return levenshtein.ComputeDistance(key, a) - levenshtein.ComputeDistance(key, b)
		})
		errs = append(errs, fmt.Errorf("fakeart:%s: unknown key; did you mean fakeart:%s?", key, nearest))
	}
	return errs
}

var (
	projectPattern  = regexp.MustCompile(`^[a-z][a-z0-9-]{4,28}[a-z0-9]$`)
	regionPattern   = regexp.MustCompile(`^[a-z]+-[a-z]+[0-9]+$`)
	stackPattern    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,11}[a-z0-9]$`)
	digestPattern   = regexp.MustCompile(`^[^\s@]+@sha256:[0-9a-f]{64}$`)
	imagePattern    = regexp.MustCompile(`^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+(:[\w.-]+|@sha256:[0-9a-f]{64})?$`)
	memoryPattern   = regexp.MustCompile(`^[1-9][0-9]*(Mi|Gi)$`)
	kmsPattern      = regexp.MustCompile(`^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$`)
	repoPattern     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]*/[\w.-]+$`)
	idPattern       = regexp.MustCompile(`^[1-9][0-9]*$`)
	environPattern  = regexp.MustCompile(`^[\w][\w.-]*$`)
	refPattern      = regexp.MustCompile(`^refs/(heads|tags)/[\w./-]+$`)
	billingPattern  = regexp.MustCompile(`^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$`)
	currencyPattern = regexp.MustCompile(`^[A-Z]{3}$`)
	// examplePattern matches domains reserved for examples and tests (RFC 2606, RFC 6761).
	examplePattern = regexp.MustCompile(`(?i)[@.](example(\.(com|net|org))?|invalid|localhost|test)$`)
	emailPattern   = regexp.MustCompile(`^[^\s@]+@[^\s@]+\.[^\s@]+$`)
	domainPattern  = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}$`)
	cronPattern    = regexp.MustCompile(`^\S+( \S+){4}$`)
)

// ingresses maps the values of Config.Ingress to Cloud Run's.
var ingresses = map[string]string{
	"all":                               "INGRESS_TRAFFIC_ALL",
	"internal":                          "INGRESS_TRAFFIC_INTERNAL_ONLY",
	"internal-and-cloud-load-balancing": "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER",
}

// validate returns an error for each invalid value.
func (c *Config) validate() (errs []error) {
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{key}, args...)...))
	}
	if !stackPattern.MatchString(c.Stack) {
		bad("stack name", "%q: expected 2 to 13 lower-case letters, digits and dashes, such as dev, because it becomes part of resource names", c.Stack)
	}
	must := func(key, value, example string, pattern *regexp.Regexp) {
		if !pattern.MatchString(value) {
			bad(key, "%q: expected a value such as %s", value, example)
		}
	}
	must("gcp:project", c.Project, "my-project-1", projectPattern)
	must("gcp:region", c.Region, "europe-west4", regionPattern)
	may := func(key, value, example string, pattern *regexp.Regexp) {
		if value != "" {
			must("fakeart:"+key, value, example, pattern)
		}
	}
	images := [][2]string{{"image", c.Image}, {"trainerImage", c.TrainerImage}, {"collectorImage", c.CollectorImage}}
	if c.Canary != nil {
		images = append(images, [2]string{"canary.image", c.Canary.Image})
		if c.Canary.Image == "" {
			bad("fakeart:canary", "image is missing: expected {image: …, percent: 5}")
		}
		if c.Image == "" {
			bad("fakeart:canary", "requires fakeart:image, which serves the other requests")
		}
		if c.Canary.Percent < 0 || c.Canary.Percent > 100 {
			bad("fakeart:canary.percent", "%d: expected 0 to 100", c.Canary.Percent)
		}
	}
	for _, image := range images {
		may(image[0], image[1], "europe-west4-docker.pkg.dev/my-project-1/fakeart-dev/server@sha256:…", imagePattern)
		if c.Protect && image[1] != "" && !digestPattern.MatchString(image[1]) {
			bad("fakeart:"+image[0], "%q: a protected stack requires a digest, NAME@sha256:…, because a tag can be moved", image[1])
		}
	}
	if ingresses[c.Ingress] == "" {
		bad("fakeart:ingress", "%q: expected one of %s", c.Ingress, strings.Join(slices.Sorted(maps.Keys(ingresses)), ", "))
	}
	for _, n := range []struct {
		key                string
		value, least, most int
	}{
		{"minInstances", c.MinInstances, 0, c.MaxInstances},
		{"maxInstances", c.MaxInstances, 1, 100},
		{"concurrency", c.Concurrency, 1, 1000},
		{"timeout", c.Timeout, 1, 3600},
		{"logDays", c.LogDays, 0, 36500},
		{"budget", c.Budget, 1, 1_000_000_000},
		{"training.timeout", c.Training.Timeout, 60, 7 * 24 * 3600},
		{"training.retries", c.Training.Retries, 0, 10},
		{"training.tasks", c.Training.Tasks, 1, 10000},
		{"training.parallelism", c.Training.Parallelism, 1, c.Training.Tasks},
	} {
		if n.value < n.least || n.value > n.most {
			bad("fakeart:"+n.key, "%d: expected %d to %d", n.value, n.least, n.most)
		}
	}
	// An instance has at most eight cores, and one of them is the collector's.
	if !slices.Contains([]int{1, 2, 4}, c.CPU) {
		bad("fakeart:cpu", "%d: expected 1, 2 or 4", c.CPU)
	}
	if !slices.Contains([]int{1, 2, 4, 8}, c.Training.CPU) {
		bad("fakeart:training.cpu", "%d: expected 1, 2, 4 or 8", c.Training.CPU)
	}
	for _, n := range []struct {
		key, value string
		cpu        int
	}{{"memory", c.Memory, c.CPU}, {"training.memory", c.Training.Memory, c.Training.CPU}} {
		// The minimum of the second-generation environment, and Cloud Run's minimum for more cores, in MiB.
		least := map[int]int{1: 512, 2: 512, 4: 2048, 8: 4096}[n.cpu]
		if !memoryPattern.MatchString(n.value) {
			bad("fakeart:"+n.key, "%q: expected a value such as 512Mi or 2Gi", n.value)
		} else if most := 4 * n.cpu; mebibytes(n.value) < least || mebibytes(n.value) > 1024*most {
			bad("fakeart:"+n.key, "%s: with %d cores, Cloud Run accepts %s to %dGi", n.value, n.cpu, map[int]string{512: "512Mi", 2048: "2Gi", 4096: "4Gi"}[least], most)
		}
	}
	must("fakeart:driftSchedule", c.DriftSchedule, "0 6 * * *", cronPattern)
	may("domain", c.Domain, "fakeart.example.org", domainPattern)
	may("kmsKey", c.KMSKey, "projects/P/locations/L/keyRings/R/cryptoKeys/K", kmsPattern)
	if c.KMSKey != "" && !strings.Contains(c.KMSKey, "/locations/"+c.Region+"/") {
		bad("fakeart:kmsKey", "%s: expected a key in the stack's region, %s", c.KMSKey, c.Region)
	}
	may("repository", c.Repository, "owner/name", repoPattern)
	for _, id := range [][2]string{{"repositoryId", c.RepositoryID}, {"repositoryOwnerId", c.RepositoryOwnerID}} {
		may(id[0], id[1], "123456789", idPattern)
		if c.Repository != "" && id[1] == "" {
			bad("fakeart:"+id[0], "is missing, and fakeart:repository requires it\nhint: look both IDs up: gh api repos/%s --jq '.id,.owner.id'", c.Repository)
		}
	}
	must("fakeart:deployRef", c.DeployRef, "refs/heads/main", refPattern)
	may("deployEnvironment", c.DeployEnvironment, "prod", environPattern)
	may("email", c.Email, "team@your-company.com", emailPattern)
	if c.Protect && examplePattern.MatchString(c.Email) {
		bad("fakeart:email", "%q: nobody reads mail at an example domain\nhint: pulumi config set --stack %s fakeart:email YOUR-ADDRESS", c.Email, c.Stack)
	}
	may("billingAccount", c.BillingAccount, "012345-6789AB-CDEF01", billingPattern)
	must("fakeart:budgetCurrency", c.BudgetCurrency, "USD", currencyPattern)
	if c.SlackChannel != "" && !c.given["slackToken"] {
		bad("fakeart:slackChannel", "requires the token of a Slack app\nhint: pulumi config set --secret fakeart:slackToken …")
	}
	c.validateModels(bad)
	c.validateAccess(bad)
	c.validateLabels(bad)
	c.validateExisting(bad)
	c.validateVPC(bad)
	c.validateBalancer(bad)
	return errs
}

var (
	memberPattern   = regexp.MustCompile(`^((user|group|serviceAccount):[^\s@:]+@[^\s@:]+\.[^\s@:]+|domain:([a-z0-9-]+\.)+[a-z]{2,}|principal(Set)?://iam\.googleapis\.com/[^\s]+)$`)
	audiencePattern = regexp.MustCompile(`^https://[^\s/]+\S*$`)
	labelKey        = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	labelValue      = regexp.MustCompile(`^[a-z0-9_-]{1,63}$`)
)

var (
	modelName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`) // also the name of a folder
	modelURL  = regexp.MustCompile(`^(gs|s3|file)://[^\s,]+$`)          // the server separates models by commas
)

// validateModels checks the key models, as the server checks --model.
func (c *Config) validateModels(bad func(key, format string, args ...any)) {
	var names []string
	for _, text := range c.Models {
		name, url, given := strings.Cut(text, "=")
		switch {
		case !modelName.MatchString(name) || name == "stats":
			bad("fakeart:models", "%q: invalid name: expected up to 63 letters, digits, dots, underscores and dashes, except stats, which the server reserves", text)
		case given && !modelURL.MatchString(url):
			bad("fakeart:models", "%q: expected NAME or NAME=URL, such as pets=gs://my-bucket/pets/, without commas", text)
		case slices.Contains(names, name):
			bad("fakeart:models", "the name %q is listed twice", name)
		}
		names = append(names, name)
	}
}

// modelNames returns the names in the key models.
func (c *Config) modelNames() []string {
	names := []string{}
	for _, text := range c.Models {
		name, _, _ := strings.Cut(text, "=")
		names = append(names, name)
	}
	return names
}

// maxLabels is how many labels a stack may add: a resource has up to 64, of which the
// program sets four and the provider one.
const maxLabels = 59

// validateAccess checks the keys members and audiences.
func (c *Config) validateAccess(bad func(key, format string, args ...any)) {
	checkMembers(bad, "fakeart:members", c.Members)
	if c.Public && len(c.Members) > 0 {
		bad("fakeart:members", "has no effect on a public service; remove it, or set fakeart:public to false")
	}
	for i, audience := range c.Audiences {
		if !audiencePattern.MatchString(audience) {
			bad("fakeart:audiences", "%q: expected a URL, such as https://fakeart.example.org", audience)
		}
		if slices.Contains(c.Audiences[:i], audience) {
			bad("fakeart:audiences", "%q is listed twice", audience)
		}
	}
}

// checkMembers reports list entries that aren't IAM principals, are listed twice or mean everyone.
func checkMembers(bad func(key, format string, args ...any), key string, members []string) {
	for i, member := range members {
		switch {
		case member == "allUsers" || member == "allAuthenticatedUsers":
			bad(key, "%q means everyone; to make the service public, set fakeart:public", member)
		case !memberPattern.MatchString(member):
			bad(key, "%q: expected a value such as user:ann@example.org, group:team@example.org, serviceAccount:…@….iam.gserviceaccount.com, domain:example.org, principal://iam.googleapis.com/… or principalSet://iam.googleapis.com/…", member)
		case slices.Contains(members[:i], member):
			bad(key, "%q is listed twice", member)
		}
	}
}

// validateLabels checks the labels by the rules that all Google Cloud services share.
func (c *Config) validateLabels(bad func(key, format string, args ...any)) {
	if len(c.Labels) > maxLabels {
		bad("fakeart:labels", "has %d labels: expected up to %d", len(c.Labels), maxLabels)
	}
	for _, key := range slices.Sorted(maps.Keys(c.Labels)) {
		switch {
		case slices.Contains([]string{"app", "stack", "component", "managed-by"}, key):
			bad("fakeart:labels."+key, "is set by the program itself; choose another key")
		case strings.HasPrefix(key, "goog"):
			bad("fakeart:labels."+key, "keys that begin with goog are reserved by Google; choose another key")
		case !labelKey.MatchString(key):
			bad("fakeart:labels."+key, "expected a key of up to 63 lower-case letters, digits, _ and -, the first a letter")
		case !labelValue.MatchString(c.Labels[key]):
			bad("fakeart:labels."+key, "%q: expected 1 to 63 lower-case letters, digits, _ and -", c.Labels[key])
		}
	}
}

var (
	bucketPattern  = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$`)
	datasetPattern = regexp.MustCompile(`^[A-Za-z0-9_]+$`)
)

// validateExisting checks the names of the existing bucket and dataset. checkExisting looks up
// whether they exist.
func (c *Config) validateExisting(bad func(key, format string, args ...any)) {
	own := &Stack{Project: c.Project, Prefix: "fakeart-" + c.Stack}
	if c.Bucket != "" && !bucketPattern.MatchString(c.Bucket) {
		bad("fakeart:bucket", "%q: expected the name of a bucket, without gs://", c.Bucket)
	}
	if c.Bucket == bucketName(own) {
		bad("fakeart:bucket", "%s is the bucket that the stack creates; remove the key, or name another bucket", c.Bucket)
	}
	if c.Dataset != "" && !datasetPattern.MatchString(c.Dataset) {
		bad("fakeart:dataset", "%q: expected the name of a dataset (letters, digits and _), without its project", c.Dataset)
	}
	if c.Dataset == datasetID(own) {
		bad("fakeart:dataset", "%s is the dataset that the stack creates; remove the key, or name another dataset", c.Dataset)
	}
}

var (
	networkPattern    = regexp.MustCompile(`^(projects/[^/\s]+/global/networks/)?[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
	subnetworkPattern = regexp.MustCompile(`^(projects/[^/\s]+/regions/([a-z0-9-]+)/subnetworks/)?[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
	tagPattern        = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// egresses maps the values of VPC.Egress to Cloud Run's.
var egresses = map[string]string{
	"":                    "PRIVATE_RANGES_ONLY",
	"private-ranges-only": "PRIVATE_RANGES_ONLY",
	"all-traffic":         "ALL_TRAFFIC",
}

// audiences returns the custom audiences of the service. With a load balancer, callers know only
// the domain, so the list includes its URL.
func (c *Config) audiences() []string {
	if own := "https://" + c.Domain; c.LoadBalancer != nil && !slices.Contains(c.Audiences, own) {
		return slices.Concat(c.Audiences, []string{own})
	}
	return c.Audiences
}

// moreAPIs returns the Google APIs that only some stacks use. Compute Engine is one of them
// because enabling it creates a default network and a service account in the project.
func (c *Config) moreAPIs() (more []string) {
	if c.VPC != nil || c.LoadBalancer != nil {
		more = append(more, "compute.googleapis.com")
	}
	if c.LoadBalancer != nil && c.LoadBalancer.IAPClientID != "" {
		more = append(more, "iap.googleapis.com")
	}
	return more
}

// validateVPC checks the key vpc. Both names are required: Cloud Run would fill in a missing one,
// and the provider would keep sending that one after the other has changed.
func (c *Config) validateVPC(bad func(key, format string, args ...any)) {
	if c.VPC == nil {
		return
	}
	if !networkPattern.MatchString(c.VPC.Network) {
		bad("fakeart:vpc.network", "%q: expected the name of a network, or projects/P/global/networks/NAME", c.VPC.Network)
	}
	match := subnetworkPattern.FindStringSubmatch(c.VPC.Subnetwork)
	if match == nil {
		bad("fakeart:vpc.subnetwork", "%q: expected the name of a subnetwork, or projects/P/regions/%s/subnetworks/NAME", c.VPC.Subnetwork, c.Region)
	} else if match[2] != "" && match[2] != c.Region {
		bad("fakeart:vpc.subnetwork", "%s is in %s: expected a subnetwork in %s", c.VPC.Subnetwork, match[2], c.Region)
	}
	if egresses[c.VPC.Egress] == "" {
		bad("fakeart:vpc.egress", "%q: expected private-ranges-only or all-traffic", c.VPC.Egress)
	}
	for i, tag := range c.VPC.Tags {
		if !tagPattern.MatchString(tag) {
			bad("fakeart:vpc.tags", "%q: expected up to 63 lower-case letters, digits and -, the first a letter", tag)
		}
		if slices.Contains(c.VPC.Tags[:i], tag) {
			bad("fakeart:vpc.tags", "%q is listed twice", tag)
		}
	}
}

const (
	balancerIngress = "internal-and-cloud-load-balancing"
	// maxDomainLength is the maximum length of a domain in a Google-managed certificate.
	maxDomainLength = 64
)

var clientPattern = regexp.MustCompile(`^[0-9]+-[a-z0-9]+\.apps\.googleusercontent\.com$`)

// validateBalancer checks the load balancer and the keys that depend on it.
func (c *Config) validateBalancer(bad func(key, format string, args ...any)) {
	b := c.LoadBalancer
	if b == nil {
		if c.given["iapClientSecret"] {
			bad("fakeart:iapClientSecret", "has no effect without fakeart:loadBalancer.iapClientId")
		}
		return
	}
	if c.Domain == "" {
		bad("fakeart:loadBalancer", "requires fakeart:domain, for which the certificate is issued")
	}
	if len(c.Domain) > maxDomainLength {
		bad("fakeart:domain", "%s: expected up to %d characters, the limit of a Google-managed certificate", c.Domain, maxDomainLength)
	}
	if c.Ingress != balancerIngress {
		bad("fakeart:ingress", "%s: requests could bypass the load balancer; with fakeart:loadBalancer, set it to %s", c.Ingress, balancerIngress)
	}
	if b.RateLimit < 0 || b.RateLimit > 1_000_000 {
		bad("fakeart:loadBalancer.rateLimit", "%d: expected 0 (no limit) to 1000000 requests per minute", b.RateLimit)
	}
	for i, name := range b.WAF {
		if _, ok := wafRules[name]; !ok {
			bad("fakeart:loadBalancer.waf", "%q: expected any of %s", name, strings.Join(slices.Sorted(maps.Keys(wafRules)), ", "))
		}
		if slices.Contains(b.WAF[:i], name) {
			bad("fakeart:loadBalancer.waf", "%q is listed twice", name)
		}
	}
	if b.IAPClientID == "" {
		if c.given["iapClientSecret"] {
			bad("fakeart:iapClientSecret", "has no effect without fakeart:loadBalancer.iapClientId")
		}
		if len(b.IAPMembers) > 0 {
			bad("fakeart:loadBalancer.iapMembers", "requires fakeart:loadBalancer.iapClientId, the OAuth client of Identity-Aware Proxy")
		}
		return
	}
	if !clientPattern.MatchString(b.IAPClientID) {
		bad("fakeart:loadBalancer.iapClientId", "%q: expected a value such as 123456789012-abc123.apps.googleusercontent.com", b.IAPClientID)
	}
	if !c.given["iapClientSecret"] {
		bad("fakeart:loadBalancer.iapClientId", "requires the client's secret\nhint: pulumi config set --secret fakeart:iapClientSecret …")
	}
	if c.Public {
		bad("fakeart:public", "would let callers inside the network bypass Identity-Aware Proxy; set it to false, and list the allowed callers in fakeart:loadBalancer.iapMembers")
	}
	checkMembers(bad, "fakeart:loadBalancer.iapMembers", b.IAPMembers)
}
