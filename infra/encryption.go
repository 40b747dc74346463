package main

import (
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/kms"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/projects"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// Encryption grants Cloud Run, Artifact Registry, Secret Manager and Workflows the use of the
// stack's key. Storage and PredictionLog do the same for the services that they use.
type Encryption struct {
	pulumi.ResourceState

	// Granted must exist before a resource that is encrypted with the key.
	Granted []pulumi.Resource
}

// EncryptionArgs are the arguments of NewEncryption.
type EncryptionArgs struct {
	Stack *Stack
	// KMSKey is the full resource name of the key.
	KMSKey string
}

// encrypters are the services that encrypt their data with the stack's key, each through a service
// agent in the project. Google grants role to agents that it creates automatically, but not to
// those that are requested. Secret Manager's agent has no role, and Triggers grants the role of
// Workflows' agent.
var encrypters = []struct{ name, api, account, role string }{
	{"run", "run.googleapis.com", "@serverless-robot-prod.iam.gserviceaccount.com", "roles/run.serviceAgent"},
	{"registry", "artifactregistry.googleapis.com", "@gcp-sa-artifactregistry.iam.gserviceaccount.com", "roles/artifactregistry.serviceAgent"},
	{"secrets", "secretmanager.googleapis.com", "@gcp-sa-secretmanager.iam.gserviceaccount.com", ""},
	{"workflows", "workflows.googleapis.com", "@gcp-sa-workflows.iam.gserviceaccount.com", ""},
}

// NewEncryption requests the service agents, which a new project doesn't have, and grants them
// the use of the key.
func NewEncryption(ctx *pulumi.Context, name string, args *EncryptionArgs, opts ...pulumi.ResourceOption) (*Encryption, error) {
	e := &Encryption{}
	if err := register(ctx, "Encryption", name, e, opts...); err != nil {
		return nil, err
	}
	for _, service := range encrypters {
		agent, err := projects.NewServiceIdentity(ctx, name+"-"+service.name, &projects.ServiceIdentityArgs{
			Project: pulumi.String(args.Stack.Project), Service: pulumi.String(service.api),
		}, args.Stack.In(e))
		if err != nil {
			return nil, err
		}
		account := pulumi.String("serviceAccount:service-" + args.Stack.Number + service.account)
		shared := args.Stack.In(e, args.Stack.Shared(), pulumi.DependsOn([]pulumi.Resource{agent}))
		if service.role != "" {
			role, err := projects.NewIAMMember(ctx, name+"-"+service.name+"-agent", &projects.IAMMemberArgs{
				Project: pulumi.String(args.Stack.Project), Role: pulumi.String(service.role), Member: account,
			}, shared)
			if err != nil {
				return nil, err
			}
			e.Granted = append(e.Granted, role)
		}
		use, err := kms.NewCryptoKeyIAMMember(ctx, name+"-"+service.name, &kms.CryptoKeyIAMMemberArgs{
			CryptoKeyId: pulumi.String(args.KMSKey), Role: pulumi.String("roles/cloudkms.cryptoKeyEncrypterDecrypter"),
			Member: account,
		}, shared)
		if err != nil {
			return nil, err
		}
		e.Granted = append(e.Granted, use)
	}
	return e, ctx.RegisterResourceOutputs(e, pulumi.Map{"key": pulumi.String(args.KMSKey)})
}
