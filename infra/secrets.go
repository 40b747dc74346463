package main

import (
	"crypto/rand"
	"encoding/hex"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/secretmanager"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/serviceaccount"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// collectorConfig tells Google's Managed Prometheus sidecar where to look
// (https://cloud.google.com/stackdriver/docs/managed-prometheus/cloudrun-sidecar).
const collectorConfig = `apiVersion: monitoring.googleapis.com/v1beta
kind: RunMonitoring
metadata:
  name: fakeart
spec:
  endpoints:
  - port: 8080
    path: /metrics
    interval: 30s
  targetLabels:
    metadata:
    - service
    - revision
`

// Secrets are what the service reads as files.
type Secrets struct {
	pulumi.ResourceState

	// AdminToken is the administrators' bearer token, Collector the configuration of the sidecar.
	AdminToken, Collector *secretmanager.Secret
	// Ready has to be there before the service starts: versions and grants.
	Ready []pulumi.Resource
}

// SecretsArgs says what they are, and who reads them.
type SecretsArgs struct {
	Stack *Stack
	// Token is the administrators' token; one is made when Given is false.
	Token pulumi.StringPtrOutput
	Given bool
	// Reader is the account of the service.
	Reader *serviceaccount.Account
	// KMSKey encrypts the versions that are added from now on; empty for Google's own key.
	KMSKey string
	// Granted must exist before the secrets: the grants on the key.
	Granted []pulumi.Resource
}

// NewSecrets makes the secrets, each readable by the one account that needs it.
func NewSecrets(ctx *pulumi.Context, name string, args *SecretsArgs, opts ...pulumi.ResourceOption) (*Secrets, error) {
	s := &Secrets{}
	if err := register(ctx, "Secrets", name, s, opts...); err != nil {
		return nil, err
	}
	// A given token and a random one are different resources: otherwise a given token, which has
	// leaked perhaps, would stay after its key is removed, since the random one ignores changes.
	// Stacks made before this know both by the name of the random one.
	token, version, option := args.Token.Elem(), "admin-token-given", pulumi.Aliases([]pulumi.Alias{{Name: pulumi.String("admin-token")}})
	if !args.Given {
		token, version = pulumi.ToSecret(pulumi.String(randomText(24))).(pulumi.StringOutput), "admin-token"
		option = pulumi.IgnoreChanges([]string{"secretData"})
	}
	for _, secret := range []struct {
		at            **secretmanager.Secret
		name, version string
		value         pulumi.StringInput
		option        pulumi.ResourceOption
	}{
		{&s.AdminToken, "admin-token", version, token, option},
		{&s.Collector, "collector", "collector", pulumi.String(collectorConfig), pulumi.IgnoreChanges(nil)},
	} {
		replica := &secretmanager.SecretReplicationUserManagedReplicaArgs{Location: pulumi.String(args.Stack.Region)}
		if args.KMSKey != "" {
			replica.CustomerManagedEncryption = &secretmanager.SecretReplicationUserManagedReplicaCustomerManagedEncryptionArgs{KmsKeyName: pulumi.String(args.KMSKey)}
		}
		made, err := secretmanager.NewSecret(ctx, secret.name, &secretmanager.SecretArgs{
			Project: pulumi.String(args.Stack.Project), SecretId: pulumi.String(args.Stack.Named(secret.name)), Labels: args.Stack.Labels("secrets"),
			Replication: &secretmanager.SecretReplicationArgs{UserManaged: &secretmanager.SecretReplicationUserManagedArgs{
				Replicas: secretmanager.SecretReplicationUserManagedReplicaArray{replica},
			}},
		}, args.Stack.In(s, args.Stack.Kept(), pulumi.DependsOn(args.Granted)))
		if err != nil {
			return nil, err
		}
		*secret.at = made
		version, err := secretmanager.NewSecretVersion(ctx, secret.version, &secretmanager.SecretVersionArgs{Secret: made.ID(), SecretData: secret.value}, args.Stack.In(s, secret.option))
		if err != nil {
			return nil, err
		}
		reader, err := secretmanager.NewSecretIamMember(ctx, secret.name+"-reader", &secretmanager.SecretIamMemberArgs{
			Project: made.Project, SecretId: made.SecretId, Role: pulumi.String("roles/secretmanager.secretAccessor"), Member: member(args.Reader.Email),
		}, args.Stack.In(s))
		if err != nil {
			return nil, err
		}
		s.Ready = append(s.Ready, version, reader)
	}
	return s, ctx.RegisterResourceOutputs(s, pulumi.Map{"adminToken": s.AdminToken.SecretId, "collector": s.Collector.SecretId})
}

// randomText is another one in each run of the program. What is made with it ignores
// that it changes, and so keeps the first, in the state. The random provider would be
// one more plug-in to install for the same.
func randomText(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // which ends the program rather than fail
	return hex.EncodeToString(b)
}
