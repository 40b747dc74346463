package main

import (
	"slices"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/projects"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// apis are the Google APIs that every stack uses.
var apis = []string{
	"artifactregistry.googleapis.com",
	"bigquery.googleapis.com",
	"billingbudgets.googleapis.com",
	"cloudresourcemanager.googleapis.com",
	"cloudscheduler.googleapis.com",
	"containerscanning.googleapis.com",
	"eventarc.googleapis.com",
	"iam.googleapis.com",
	"iamcredentials.googleapis.com",
	"logging.googleapis.com",
	"monitoring.googleapis.com",
	"pubsub.googleapis.com",
	"run.googleapis.com",
	"secretmanager.googleapis.com",
	"storage.googleapis.com",
	"sts.googleapis.com",
	"workflows.googleapis.com",
	"workflowexecutions.googleapis.com",
}

// Services is the component that enables Google APIs.
type Services struct {
	pulumi.ResourceState

	// Enabled holds one resource per API.
	Enabled []pulumi.Resource
}

// ServicesArgs are the arguments of NewServices.
type ServicesArgs struct {
	Stack *Stack
	// More are APIs to enable in addition to those that every stack uses.
	More []string
}

// NewServices enables the APIs. They stay enabled when the stack is destroyed, because others in
// the project may use them.
func NewServices(ctx *pulumi.Context, name string, args *ServicesArgs, opts ...pulumi.ResourceOption) (*Services, error) {
	s := &Services{}
	if err := register(ctx, "Services", name, s, opts...); err != nil {
		return nil, err
	}
	enabled := slices.Concat(apis, args.More)
	for _, api := range enabled {
		service, err := projects.NewService(ctx, api, &projects.ServiceArgs{
			Project: pulumi.String(args.Stack.Project), Service: pulumi.String(api), DisableOnDestroy: pulumi.Bool(false),
		}, pulumi.Parent(s))
		if err != nil {
			return nil, err
		}
		s.Enabled = append(s.Enabled, service)
	}
	return s, ctx.RegisterResourceOutputs(s, pulumi.Map{"apis": pulumi.ToStringArray(enabled)})
}
