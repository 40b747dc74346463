package main

import (
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/bigquery"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/storage"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// Stack is what every component needs to know: where it belongs, and how its
// resources are called.
type Stack struct {
	// Project and Region are Google Cloud's.
	Project, Region string
	// Number is the project's number, which the accounts of Google's own services carry.
	Number string
	// Prefix begins the name of every resource, so that several stacks live in one project.
	Prefix string
	// Protect reports whether the stack is protected against deletion.
	Protect bool
	// Extra are the stack's own labels.
	Extra map[string]string
	// APIs are the services of Google's that have to be enabled before anything is made.
	APIs []pulumi.Resource
}

// storageAgent returns Cloud Storage's service agent as IAM names it, and makes Google create it.
func (s *Stack) storageAgent(ctx *pulumi.Context) pulumi.StringOutput {
	return s.agent("service-"+s.Number+"@gs-project-accounts.iam.gserviceaccount.com", func() error {
		_, err := storage.GetProjectServiceAccount(ctx, &storage.GetProjectServiceAccountArgs{Project: &s.Project})
		return err
	})
}

// bigQueryAgent returns the service agent that encrypts BigQuery's tables as IAM names it, and
// makes Google create it.
func (s *Stack) bigQueryAgent(ctx *pulumi.Context) pulumi.StringOutput {
	return s.agent("bq-"+s.Number+"@bigquery-encryption.iam.gserviceaccount.com", func() error {
		_, err := bigquery.GetDefaultServiceAccount(ctx, &bigquery.GetDefaultServiceAccountArgs{Project: &s.Project})
		return err
	})
}

// agent calls request once the APIs are enabled, and returns the service agent that Google creates
// on the first such request. An error is ignored: the agent already exists in all but new
// projects, and whoever only deploys images isn't allowed to request it.
func (s *Stack) agent(account string, request func() error) pulumi.StringOutput {
	ids := make([]any, len(s.APIs))
	for i, api := range s.APIs {
		ids[i] = api.(pulumi.CustomResource).ID()
	}
	return pulumi.All(ids...).ApplyT(func([]any) string {
		_ = request()
		return "serviceAccount:" + account
	}).(pulumi.StringOutput)
}

// Named is the name of a resource.
func (s *Stack) Named(what string) string { return s.Prefix + "-" + what }

// Labels are those of every resource that can have some.
func (s *Stack) Labels(component string) pulumi.StringMap {
	labels := pulumi.ToStringMap(s.Extra)
	for key, value := range map[string]string{"app": "fakeart", "stack": s.Prefix, "component": component, "managed-by": "pulumi"} {
		labels[key] = pulumi.String(value)
	}
	return labels
}

// register registers a component of the program. name begins the names of its children. The
// component itself is called NAME-component, so that a child of the same name isn't mistaken for
// its parent in an import file. Stacks made before this know the component by name alone.
func register(ctx *pulumi.Context, kind, name string, component pulumi.ComponentResource, opts ...pulumi.ResourceOption) error {
	before := pulumi.Aliases([]pulumi.Alias{{Name: pulumi.String(name)}})
	return ctx.RegisterComponentResource("fakeart:infra:"+kind, name+"-component", component, append(opts, before)...)
}

// In places a resource into its component, once the APIs are there.
func (s *Stack) In(component pulumi.Resource, more ...pulumi.ResourceOption) pulumi.ResourceOption {
	return pulumi.Composite(append(more, pulumi.Parent(component), pulumi.DependsOn(s.APIs))...)
}

// Kept protects a resource of a protected stack against deletion and replacement: one that
// holds data, or that other resources and systems refer to. Resources that a configuration key
// can remove again are left out; [Protection] covers them against `pulumi destroy`.
func (s *Stack) Kept() pulumi.ResourceOption { return pulumi.Protect(s.Protect) }

// Shared is the option for grants to Google's own accounts in the project: every stack
// there makes the same ones, and one that is destroyed must not take them from the others.
func (s *Stack) Shared() pulumi.ResourceOption { return pulumi.RetainOnDelete(true) }
