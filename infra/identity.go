package main

import (
	"fmt"
	"strings"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/iam"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/projects"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/serviceaccount"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// Identity holds the service accounts of the workloads, and the workload identity federation that
// lets GitHub's workflows act as one of them. There are no service account keys.
type Identity struct {
	pulumi.ResourceState

	// Server, Trainer, Deployer and Events are the service accounts of the service, the jobs,
	// GitHub's workflows that deploy, and the triggers that start the jobs.
	Server, Trainer, Deployer, Events *serviceaccount.Account
	// Provider is the full name of the workload identity provider that exchanges GitHub's tokens.
	// It is empty without a repository.
	Provider pulumi.StringOutput
	// Grants must exist before a workload starts.
	Grants []pulumi.Resource
}

// IdentityArgs are the arguments of NewIdentity: they restrict which GitHub jobs may deploy.
type IdentityArgs struct {
	Stack *Stack
	// Repository is owner/name on GitHub. If empty, no workflow may deploy.
	Repository string
	// RepositoryID and OwnerID are GitHub's numeric IDs of the repository and its owner. Unlike
	// names, IDs are never reused.
	RepositoryID, OwnerID string
	// Ref is the git ref that the workflow must run for.
	Ref string
	// Environment is the GitHub environment that the job must declare. If empty, any job may deploy.
	Environment string
}

// NewIdentity creates the service accounts and grants their roles on the project. Roles on single
// resources are granted by the components that create the resources.
func NewIdentity(ctx *pulumi.Context, name string, args *IdentityArgs, opts ...pulumi.ResourceOption) (*Identity, error) {
	i := &Identity{Provider: pulumi.String("").ToStringOutput()}
	if err := register(ctx, "Identity", name, i, opts...); err != nil {
		return nil, err
	}
	for _, account := range []struct {
		at            **serviceaccount.Account
		name, purpose string
	}{
		{&i.Server, "server", "Fakeart's service"},
		{&i.Trainer, "trainer", "Fakeart's training and evaluation"},
		{&i.Deployer, "deployer", "Fakeart's deployment from GitHub"},
		{&i.Events, "events", "Triggers that start Fakeart's jobs"},
	} {
		made, err := serviceaccount.NewAccount(ctx, account.name, &serviceaccount.AccountArgs{
			Project: pulumi.String(args.Stack.Project), AccountId: pulumi.String(args.Stack.Named(account.name)),
			DisplayName: pulumi.String(args.Stack.Named(account.name)), Description: pulumi.String(account.purpose),
		}, args.Stack.In(i, args.Stack.Kept()))
		if err != nil {
			return nil, err
		}
		*account.at = made
	}
	// The collector sidecar needs these roles, which can only be granted on a project.
	for _, role := range []string{"roles/monitoring.metricWriter", "roles/logging.logWriter"} {
		made, err := projects.NewIAMMember(ctx, "server-"+role[len("roles/"):], &projects.IAMMemberArgs{
			Project: pulumi.String(args.Stack.Project), Role: pulumi.String(role), Member: member(i.Server.Email),
		}, args.Stack.In(i))
		if err != nil {
			return nil, err
		}
		i.Grants = append(i.Grants, made)
	}
	// Deploying a revision or a job requires permission to act as its service account.
	for name, account := range map[string]*serviceaccount.Account{"server": i.Server, "trainer": i.Trainer} {
		if _, err := serviceaccount.NewIAMMember(ctx, "deployer-as-"+name, &serviceaccount.IAMMemberArgs{
			ServiceAccountId: account.Name, Role: pulumi.String("roles/iam.serviceAccountUser"), Member: member(i.Deployer.Email),
		}, args.Stack.In(i)); err != nil {
			return nil, err
		}
	}
	// The deployer looks up the project, as this program does first, and waits for Cloud Run's
	// operations. Neither permission can be granted on a single resource.
	if _, err := projects.NewIAMMember(ctx, "deployer-looks", &projects.IAMMemberArgs{
		Project: pulumi.String(args.Stack.Project), Role: pulumi.String("roles/run.viewer"), Member: member(i.Deployer.Email),
	}, args.Stack.In(i)); err != nil {
		return nil, err
	}
	if args.Repository != "" {
		if err := i.federate(ctx, args); err != nil {
			return nil, err
		}
	}
	return i, ctx.RegisterResourceOutputs(i, pulumi.Map{
		"server": i.Server.Email, "trainer": i.Trainer.Email, "deployer": i.Deployer.Email, "events": i.Events.Email, "provider": i.Provider,
	})
}

// federate lets jobs of one repository exchange GitHub's token for the deployer's
// (https://cloud.google.com/iam/docs/workload-identity-federation-with-deployment-pipelines).
func (i *Identity) federate(ctx *pulumi.Context, args *IdentityArgs) error {
	// The ID of a deleted pool is reserved for 30 days, so a recreated stack needs another one.
	pool, err := iam.NewWorkloadIdentityPool(ctx, "github", &iam.WorkloadIdentityPoolArgs{
		Project: pulumi.String(args.Stack.Project), WorkloadIdentityPoolId: pulumi.String(args.Stack.Named("gh-" + randomText(2))),
		DisplayName: pulumi.String("GitHub Actions"), Description: pulumi.String("Workflows of " + args.Repository),
	}, args.Stack.In(i, pulumi.IgnoreChanges([]string{"workloadIdentityPoolId"})))
	if err != nil {
		return err
	}
	provider := "github"
	_, err = iam.NewWorkloadIdentityPoolProvider(ctx, "github", &iam.WorkloadIdentityPoolProviderArgs{
		Project: pulumi.String(args.Stack.Project), WorkloadIdentityPoolId: pool.WorkloadIdentityPoolId,
		WorkloadIdentityPoolProviderId: pulumi.String(provider), DisplayName: pulumi.String("GitHub Actions"),
		AttributeMapping: pulumi.StringMap{
			"google.subject":       pulumi.String("assertion.sub"),
			"attribute.repository": pulumi.String("assertion.repository"),
			"attribute.ref":        pulumi.String("assertion.ref"),
		},
		AttributeCondition: pulumi.String(args.condition()),
		Oidc:               &iam.WorkloadIdentityPoolProviderOidcArgs{IssuerUri: pulumi.String("https://token.actions.githubusercontent.com")},
	}, args.Stack.In(i))
	if err != nil {
		return err
	}
	if _, err := serviceaccount.NewIAMMember(ctx, "github-as-deployer", &serviceaccount.IAMMemberArgs{
		ServiceAccountId: i.Deployer.Name, Role: pulumi.String("roles/iam.workloadIdentityUser"),
		Member: pulumi.Sprintf("principalSet://iam.googleapis.com/%s/attribute.repository/%s", pool.Name, args.Repository),
	}, args.Stack.In(i)); err != nil {
		return err
	}
	i.Provider = pulumi.Sprintf("%s/providers/%s", pool.Name, provider)
	return nil
}

// condition returns the CEL expression that a GitHub token must satisfy. A job's token has the
// claim environment only if the job declares one, and only after the environment's reviewers have
// approved it
// (https://docs.github.com/actions/reference/security/oidc).
func (a *IdentityArgs) condition() string {
	var terms []string
	for _, claim := range [][2]string{
		{"repository", a.Repository},
		{"repository_id", a.RepositoryID},
		{"repository_owner_id", a.OwnerID},
		{"ref", a.Ref},
		{"environment", a.Environment},
	} {
		if claim[1] != "" {
			terms = append(terms, fmt.Sprintf("assertion.%s == '%s'", claim[0], claim[1]))
		}
	}
	return strings.Join(terms, " && ")
}
