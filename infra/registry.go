package main

import (
	"fmt"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/artifactregistry"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// Registry is the repository for images. Its vulnerabilities are looked for as soon
// as containerscanning.googleapis.com is enabled, which Services does.
type Registry struct {
	pulumi.ResourceState

	// Repository is the repository.
	Repository *artifactregistry.Repository
	// Address begins the name of every image in it.
	Address string
}

// RegistryArgs says what is kept, and who may write.
type RegistryArgs struct {
	Stack *Stack
	// ImmutableTags keeps a tag with its image.
	ImmutableTags bool
	// Writer is the e-mail address of the service account that pushes.
	Writer pulumi.StringOutput
	// KMSKey encrypts the images; empty for Google's own key. A repository keeps the key
	// that it was made with.
	KMSKey string
	// Ready must exist before the repository: the grants on the key.
	Ready []pulumi.Resource
}

// NewRegistry makes the repository. Tagged images and the newest ones are kept; what
// has no tag any more is deleted after a month.
func NewRegistry(ctx *pulumi.Context, name string, args *RegistryArgs, opts ...pulumi.ResourceOption) (*Registry, error) {
	r := &Registry{Address: fmt.Sprintf("%s-docker.pkg.dev/%s/%s", args.Stack.Region, args.Stack.Project, args.Stack.Prefix)}
	if err := register(ctx, "Registry", name, r, opts...); err != nil {
		return nil, err
	}
	repository := &artifactregistry.RepositoryArgs{
		Project: pulumi.String(args.Stack.Project), Location: pulumi.String(args.Stack.Region),
		RepositoryId: pulumi.String(args.Stack.Prefix), Description: pulumi.String("Images of Fakeart"),
		Format: pulumi.String("DOCKER"), Labels: args.Stack.Labels("registry"),
		CleanupPolicies: artifactregistry.RepositoryCleanupPolicyArray{
			&artifactregistry.RepositoryCleanupPolicyArgs{
				Id: pulumi.String("keep-tagged"), Action: pulumi.String("KEEP"),
				Condition: &artifactregistry.RepositoryCleanupPolicyConditionArgs{TagState: pulumi.String("TAGGED")},
			},
			&artifactregistry.RepositoryCleanupPolicyArgs{
				Id: pulumi.String("keep-recent"), Action: pulumi.String("KEEP"),
				MostRecentVersions: &artifactregistry.RepositoryCleanupPolicyMostRecentVersionsArgs{KeepCount: pulumi.Int(10)},
			},
			&artifactregistry.RepositoryCleanupPolicyArgs{
				Id: pulumi.String("delete-untagged"), Action: pulumi.String("DELETE"),
				Condition: &artifactregistry.RepositoryCleanupPolicyConditionArgs{TagState: pulumi.String("UNTAGGED"), OlderThan: pulumi.String(fmt.Sprintf("%ds", 30*day))},
			},
		},
	}
	if args.ImmutableTags {
		// The API doesn't return false, so a block that says it would differ in each preview.
		repository.DockerConfig = &artifactregistry.RepositoryDockerConfigArgs{ImmutableTags: pulumi.Bool(true)}
	}
	if args.KMSKey != "" {
		repository.KmsKeyName = pulumi.String(args.KMSKey)
	}
	var err error
	// Another key would need another repository, without the images of this one.
	kept := pulumi.IgnoreChanges([]string{"kmsKeyName"})
	if r.Repository, err = artifactregistry.NewRepository(ctx, name, repository, args.Stack.In(r, args.Stack.Kept(), kept, pulumi.DependsOn(args.Ready))); err != nil {
		return nil, err
	}
	if _, err := artifactregistry.NewRepositoryIamMember(ctx, name+"-writer", &artifactregistry.RepositoryIamMemberArgs{
		Project: r.Repository.Project, Location: r.Repository.Location, Repository: r.Repository.Name,
		Role: pulumi.String("roles/artifactregistry.writer"), Member: member(args.Writer),
	}, args.Stack.In(r)); err != nil {
		return nil, err
	}
	return r, ctx.RegisterResourceOutputs(r, pulumi.Map{"address": pulumi.String(r.Address)})
}
