package main

import (
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/bigquery"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/storage"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// Stack holds what every component needs: the project and region, the prefix of resource names
// and the labels.
type Stack struct {
	// Project is the Google Cloud project ID, Region the region of all regional resources.
	Project, Region string
	// Number is the project number, which is part of the names of Google's service agents.
	Number string
	// Prefix starts the name of every resource, so that several stacks can share a project.
	Prefix string
	// Protect reports whether the stack is protected against deletion.
	Protect bool
	// Extra holds the labels of the stack's key labels.
	Extra map[string]string
	// APIs are the enabled Google APIs. Resources must be created after them.
	APIs []pulumi.Resource
}

// storageAgent returns Cloud Storage's service agent as an IAM member, and makes Google create it.
func (s *Stack) storageAgent(ctx *pulumi.Context) pulumi.StringOutput {
	return s.agent("service-"+s.Number+"@gs-project-accounts.iam.gserviceaccount.com", func() error {
		_, err := storage.GetProjectServiceAccount(ctx, &storage.GetProjectServiceAccountArgs{Project: &s.Project})
		return err
	})
}

// bigQueryAgent returns the service agent that encrypts BigQuery tables as an IAM member, and
// makes Google create it.
func (s *Stack) bigQueryAgent(ctx *pulumi.Context) pulumi.StringOutput {
	return s.agent("bq-"+s.Number+"@bigquery-encryption.iam.gserviceaccount.com", func() error {
		_, err := bigquery.GetDefaultServiceAccount(ctx, &bigquery.GetDefaultServiceAccountArgs{Project: &s.Project})
		return err
	})
}

// agent calls request once the APIs are enabled, and returns the IAM member of the service agent
// that Google creates on the first such request. Errors are ignored: the agent already exists in
// all but new projects, and an account that only deploys container images may not request it.
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

// Named returns the name of a resource: the stack's prefix, a dash and suffix.
func (s *Stack) Named(suffix string) string { return s.Prefix + "-" + suffix }

// Labels returns the labels of a component's resources, including the stack's own.
func (s *Stack) Labels(component string) pulumi.StringMap {
	labels := pulumi.ToStringMap(s.Extra)
	for key, value := range map[string]string{"app": "fakeart", "stack": s.Prefix, "component": component, "managed-by": "pulumi"} {
		labels[key] = pulumi.String(value)
	}
	return labels
}

// register registers a component resource of the type fakeart:infra:KIND. The component is named
// NAME-component, so that a child named NAME isn't mistaken for its parent in an import file. An
// alias covers older stacks, in which the component was named NAME.
func register(ctx *pulumi.Context, kind, name string, component pulumi.ComponentResource, opts ...pulumi.ResourceOption) error {
	before := pulumi.Aliases([]pulumi.Alias{{Name: pulumi.String(name)}})
	return ctx.RegisterComponentResource("fakeart:infra:"+kind, name+"-component", component, append(opts, before)...)
}

// In returns the options of a resource in a component: its parent, the enabled APIs as
// dependencies, and more.
func (s *Stack) In(component pulumi.Resource, more ...pulumi.ResourceOption) pulumi.ResourceOption {
	return pulumi.Composite(append(more, pulumi.Parent(component), pulumi.DependsOn(s.APIs))...)
}

// Kept returns the option that protects a resource against deletion and replacement if the stack
// is protected. Use it for resources that hold data or that other systems refer to. Don't use it
// for resources that a configuration key can remove: [Protection] covers them against
// `pulumi destroy`.
func (s *Stack) Kept() pulumi.ResourceOption { return pulumi.Protect(s.Protect) }

// Shared returns the option for grants to Google's service agents. Every stack of a project
// creates the same grants, so destroying one stack must not remove them.
func (s *Stack) Shared() pulumi.ResourceOption { return pulumi.RetainOnDelete(true) }
