package main

import (
	"crypto/rand"
	"encoding/hex"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/secretmanager"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/serviceaccount"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// collectorConfig configures Google's Managed Prometheus sidecar to scrape the server
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

// Secrets are the secrets that the service mounts as files.
type Secrets struct {
	pulumi.ResourceState

	// AdminToken holds the server's admin token, Collector the sidecar's configuration.
	AdminToken, Collector *secretmanager.Secret
	// Ready holds the versions and grants that must exist before the service starts.
	Ready []pulumi.Resource
}

// SecretsArgs are the arguments of NewSecrets.
type SecretsArgs struct {
	Stack *Stack
	// Token is the admin token if Given is true. Otherwise a random one is generated.
	Token pulumi.StringPtrOutput
	Given bool
	// Reader is the service account of the service.
	Reader *serviceaccount.Account
	// KMSKey encrypts versions added from now on. If empty, Google manages the key.
	KMSKey string
	// Granted holds the grants on the key, which must exist before the secrets.
	Granted []pulumi.Resource
}

// NewSecrets creates the secrets and lets the service's account read them.
func NewSecrets(ctx *pulumi.Context, name string, args *SecretsArgs, opts ...pulumi.ResourceOption) (*Secrets, error) {
	s := &Secrets{}
	if err := register(ctx, "Secrets", name, s, opts...); err != nil {
		return nil, err
	}
	// A configured token and a random one are different resources. The random one ignores changes,
	// so with a single resource a configured token, which may have leaked, would stay after its key
	// is removed. The alias covers older stacks, in which both had the name of the random one.
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

// randomText returns n random bytes in hexadecimal, different in each run of the program.
// Resources that use it must ignore changes of the property, so that the state keeps the first
// value. Pulumi's random provider would do the same, but is one more plug-in to install.
func randomText(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never returns an error
	return hex.EncodeToString(b)
}
