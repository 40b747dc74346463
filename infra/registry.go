package main

import (
	"fmt"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/artifactregistry"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// Registry is the Artifact Registry repository for container images. Google scans them for
// vulnerabilities because Services enables containerscanning.googleapis.com.
type Registry struct {
	pulumi.ResourceState

	Repository *artifactregistry.Repository
	// Address is the prefix of every image name, HOST/PROJECT/REPOSITORY.
	Address string
}

// RegistryArgs are the arguments of NewRegistry.
type RegistryArgs struct {
	Stack *Stack
	// ImmutableTags prevents moving a tag to another image.
	ImmutableTags bool
	// Writer is the email address of the service account that pushes images.
	Writer pulumi.StringOutput
	// KMSKey encrypts the images. If empty, Google manages the key. A repository keeps the key
	// with which it was created.
	KMSKey string
	// Ready holds the grants on the key, which must exist before the repository.
	Ready []pulumi.Resource
}

// NewRegistry creates the repository. Tagged images and the ten newest versions are kept. Other
// untagged images are deleted after 30 days.
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
		// The API doesn't return false, so a block with false would show a diff in each preview.
		repository.DockerConfig = &artifactregistry.RepositoryDockerConfigArgs{ImmutableTags: pulumi.Bool(true)}
	}
	if args.KMSKey != "" {
		repository.KmsKeyName = pulumi.String(args.KMSKey)
	}
	var err error
	// Changing the key would replace the repository and lose its images.
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
