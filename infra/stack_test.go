package main

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// made is a resource that the program registered.
type made struct {
	kind, name string // type token, and name in the program
	inputs     map[string]any
	secrets    bool // whether any input is secret
	parent     string
	protect    bool
	retained   bool // RetainOnDelete
	// createsFirst is true if the resource sets DeleteBeforeReplace to false.
	createsFirst bool
	ignored      []string
	aliases      []string // names in older versions of the program
	// dependencies are the URNs of other resources.
	dependencies []string
}

// engine is a fake of Pulumi's engine and of the provider. It records the resources.
type engine struct {
	preview bool // outputs of resources are unknown

	dataset *dataset // the stack's BigQuery dataset before the run; may be nil

	mu         sync.Mutex
	resources  []made
	components []made
	calls      []string // tokens of the provider functions called
}

// dataset is the existing dataset that the fake provider returns.
type dataset struct{ location, key string }

// projectNumber is the number of the project that the fake provider returns.
const projectNumber = "123456789012"

func (e *engine) Call(args pulumi.MockCallArgs) (resource.PropertyMap, error) {
	e.mu.Lock()
	e.calls = append(e.calls, args.Token)
	e.mu.Unlock()
	result := args.Args.Copy()
	for key, value := range existing[args.Token+" "+lookedUp(args.Args)] {
		result[resource.PropertyKey(key)] = resource.NewPropertyValue(value)
	}
	if args.Token == "gcp:storage/getBucket:getBucket" && !result.HasValue("location") {
		return nil, errors.New("googleapi: Error 404: not found")
	}
	if args.Token == "gcp:bigquery/getDataset:getDataset" && !result.HasValue("location") {
		if e.dataset == nil {
			return nil, errors.New("not found")
		}
		result["location"] = resource.NewStringProperty(e.dataset.location)
		if e.dataset.key != "" {
			result["defaultEncryptionConfigurations"] = resource.NewArrayProperty([]resource.PropertyValue{
				resource.NewObjectProperty(resource.PropertyMap{"kmsKeyName": resource.NewStringProperty(e.dataset.key)}),
			})
		}
	}
	if args.Token == "gcp:organizations/getProject:getProject" {
		result["number"] = resource.NewStringProperty(projectNumber)
	}
	return result, nil
}

func (e *engine) NewResource(args pulumi.MockResourceArgs) (string, resource.PropertyMap, error) {
	r := made{
		kind: args.TypeToken, name: args.Name, inputs: plain(args.Inputs).(map[string]any), secrets: args.Inputs.ContainsSecrets(),
		parent: args.RegisterRPC.GetParent(), protect: args.RegisterRPC.GetProtect(), retained: args.RegisterRPC.GetRetainOnDelete(),
		createsFirst: args.RegisterRPC.GetDeleteBeforeReplaceDefined() && !args.RegisterRPC.GetDeleteBeforeReplace(),
		ignored:      args.RegisterRPC.GetIgnoreChanges(), dependencies: args.RegisterRPC.GetDependencies(),
	}
	for _, alias := range args.RegisterRPC.GetAliases() {
		r.aliases = append(r.aliases, alias.GetSpec().GetName())
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !args.Custom {
		e.components = append(e.components, r)
		return "", args.Inputs, nil
	}
	e.resources = append(e.resources, r)
	state := args.Inputs.Copy()
	for _, output := range []string{"email", "name", "uri", "result", "hex", "secretId", "project", "location", "selfLink"} {
		key := resource.PropertyKey(output)
		if state.HasValue(key) {
			continue
		}
		state[key] = resource.NewStringProperty(args.Name + "-" + output)
		if e.preview && output != "result" { // the mocks can't represent an unknown secret
			state[key] = resource.MakeComputed(resource.NewStringProperty(""))
		}
	}
	return args.Name + "-id", state, nil
}

// existing are the buckets and datasets outside the stack, by function token and name.
var existing = map[string]map[string]any{
	"gcp:storage/getBucket:getBucket shared":     {"location": "EUROPE-WEST4", "uniformBucketLevelAccess": true, "projectNumber": 123456789012},
	"gcp:storage/getBucket:getBucket far":        {"location": "US", "uniformBucketLevelAccess": true, "projectNumber": 123456789012},
	"gcp:storage/getBucket:getBucket foreign":    {"location": "EUROPE-WEST4", "uniformBucketLevelAccess": true, "projectNumber": 42},
	"gcp:storage/getBucket:getBucket by-acl":     {"location": "EUROPE-WEST4", "uniformBucketLevelAccess": false, "projectNumber": 123456789012},
	"gcp:bigquery/getDataset:getDataset shared":  {"location": "europe-west4"},
	"gcp:bigquery/getDataset:getDataset far":     {"location": "EU"},
	"gcp:bigquery/getDataset:getDataset forgets": {"location": "europe-west4", "defaultTableExpirationMs": 3600000},
	"gcp:bigquery/getDataset:getDataset sealed": {"location": "europe-west4", "defaultEncryptionConfigurations": []any{
		map[string]any{"kmsKeyName": someKey},
	}},
}

// lookedUp returns the name in the arguments of a lookup function.
func lookedUp(args resource.PropertyMap) string {
	for _, key := range []resource.PropertyKey{"name", "datasetId"} {
		if args[key].IsString() {
			return args[key].StringValue()
		}
	}
	return ""
}

// plain converts a property value to maps, slices and basic types.
func plain(v any) any {
	switch v := v.(type) {
	case resource.PropertyMap:
		m := map[string]any{}
		for key, value := range v {
			m[string(key)] = plain(value)
		}
		return m
	case resource.PropertyValue:
		switch {
		case v.IsSecret():
			return plain(v.SecretValue().Element)
		case v.IsOutput():
			return plain(v.OutputValue().Element)
		case v.IsObject():
			return plain(v.ObjectValue())
		case v.IsArray():
			list := []any{}
			for _, element := range v.ArrayValue() {
				list = append(list, plain(element))
			}
			return list
		}
		return v.V
	}
	return v
}

const someDigest = "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// stackConfig returns a complete configuration for the stack dev or prod. In change, an empty value
// deletes a key.
func stackConfig(stack string, change map[string]string) map[string]string {
	c := map[string]string{
		"gcp:project": "my-project-1", "gcp:region": "europe-west4",
		"fakeart:image":        "europe-west4-docker.pkg.dev/my-project-1/fakeart-" + stack + "/server" + someDigest,
		"fakeart:trainerImage": "europe-west4-docker.pkg.dev/my-project-1/fakeart-" + stack + "/trainer" + someDigest,
		"fakeart:repository":   "owner/name", "fakeart:repositoryId": "123456789", "fakeart:repositoryOwnerId": "4711",
		"fakeart:email":          "alerts@my-company.com",
		"fakeart:billingAccount": "012345-6789AB-CDEF01",
	}
	if stack == "prod" {
		for key, value := range map[string]string{
			"protect": "true", "public": "true", "minInstances": "1", "domain": "fakeart.example.org", "logDays": "400",
			"kmsKey": "projects/my-project-1/locations/europe-west4/keyRings/fakeart/cryptoKeys/data", "slackChannel": "#alerts", "slackToken": "xoxb", "pagerDutyKey": "k",
		} {
			c["fakeart:"+key] = value
		}
	}
	for key, value := range change {
		if value == "" {
			delete(c, key)
			continue
		}
		c[key] = value
	}
	return c
}

// up runs the program for a stack and returns the registered resources.
func up(t *testing.T, stack string, change map[string]string) ([]made, error) {
	t.Helper()
	return run(stack, stackConfig(stack, change), false)
}

func mustUp(t *testing.T, stack string, change map[string]string) []made {
	t.Helper()
	resources, err := up(t, stack, change)
	if err != nil {
		t.Fatal(err)
	}
	return resources
}

func run(stack string, config map[string]string, preview bool) ([]made, error) {
	e := &engine{preview: preview}
	err := e.run(stack, config)
	return e.resources, err
}

// run runs the program for a stack on the engine.
func (e *engine) run(stack string, config map[string]string) error {
	return pulumi.RunErr(deploy, pulumi.WithMocks("fakeart", stack, e), func(i *pulumi.RunInfo) {
		i.Config, i.DryRun = config, e.preview
	})
}

// find returns the resource with the type and name, and fails the test if it is missing.
func find(t *testing.T, resources []made, kind, name string) made {
	t.Helper()
	for _, r := range resources {
		if r.kind == kind && r.name == name {
			return r
		}
	}
	t.Fatalf("no resource %s %s", kind, name)
	return made{}
}

// value returns the input at a path such as template.containers.0.image, or nil.
func (r made) value(path string) any {
	var v any = r.inputs
	for part := range strings.SplitSeq(path, ".") {
		switch container := v.(type) {
		case map[string]any:
			v = container[part]
		case []any:
			i := int(part[0] - '0')
			if i >= len(container) {
				return nil
			}
			v = container[i]
		default:
			return nil
		}
	}
	return v
}

// strings calls f with every string in the inputs and its key.
func (r made) strings(f func(key, text string)) {
	var walk func(key string, v any)
	walk = func(key string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, element := range v {
				walk(k, element)
			}
		case []any:
			for _, element := range v {
				walk(key, element)
			}
		case string:
			f(key, v)
		}
	}
	walk("", r.inputs)
}
