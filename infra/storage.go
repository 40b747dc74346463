package main

import (
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/kms"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/storage"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

const day = 24 * 3600 // seconds

// Storage is the bucket for datasets, training runs and models.
type Storage struct {
	pulumi.ResourceState

	// Bucket holds datasets under data/, training runs under runs/ and models under
	// models/staging/ and models/production/. It is nil if the stack uses an existing one.
	Bucket *storage.Bucket
	// Name is the bucket's name.
	Name pulumi.StringOutput
	// Grants must exist before a workload starts.
	Grants []pulumi.Resource
}

// StorageArgs are the arguments of NewStorage.
type StorageArgs struct {
	Stack *Stack
	// KMSKey encrypts the objects. If empty, Google manages the key.
	KMSKey string
	// Existing is the name of a bucket to use instead of creating one. It may be empty.
	Existing string
	// Reader and Writer are email addresses of service accounts. Reader may read all objects.
	// Writer may read all objects and write all except production models.
	Reader, Writer pulumi.StringOutput
}

// modelsFolder is the folder of production models. The server serves the newest file.
const modelsFolder = "models/production/"

// NewStorage creates the bucket, or takes an existing one as it is, and grants access to it. A
// new bucket prevents public access, and its deleted objects can be restored for at least a week.
func NewStorage(ctx *pulumi.Context, name string, args *StorageArgs, opts ...pulumi.ResourceOption) (*Storage, error) {
	s := &Storage{}
	if err := register(ctx, "Storage", name, s, opts...); err != nil {
		return nil, err
	}
	if args.Existing != "" {
		s.Name = pulumi.String(args.Existing).ToStringOutput()
	} else if err := s.create(ctx, name, args); err != nil {
		return nil, err
	}
	// Only people publish production models. The writer can still list objects: that is a permission
	// on the bucket itself, whose resource name has no /objects/, so the condition holds.
	unpublished := &storage.BucketIAMMemberConditionArgs{
		Title: pulumi.String("all but production models"), Description: pulumi.String("Models in production are published by people"),
		Expression: pulumi.Sprintf(`!resource.name.startsWith("projects/_/buckets/%s/objects/%s")`, s.Name, modelsFolder),
	}
	for _, grant := range []struct {
		name, role string
		account    pulumi.StringOutput
		condition  storage.BucketIAMMemberConditionPtrInput
	}{
		{"reader", "roles/storage.objectViewer", args.Reader, nil},
		{"writer", "roles/storage.objectUser", args.Writer, unpublished},
		{"writer-reads", "roles/storage.objectViewer", args.Writer, nil},
	} {
		member, err := storage.NewBucketIAMMember(ctx, name+"-"+grant.name, &storage.BucketIAMMemberArgs{
			Bucket: s.Name, Role: pulumi.String(grant.role), Member: member(grant.account), Condition: grant.condition,
		}, args.Stack.In(s))
		if err != nil {
			return nil, err
		}
		s.Grants = append(s.Grants, member)
	}
	return s, ctx.RegisterResourceOutputs(s, pulumi.Map{"bucket": s.Name})
}

// create creates the bucket.
func (s *Storage) create(ctx *pulumi.Context, name string, args *StorageArgs) (err error) {
	kept, versions := 7, 3 // days that deleted objects are kept, newer versions before an old one is deleted
	if args.Stack.Protect {
		kept, versions = 30, 20
	}
	bucket := &storage.BucketArgs{
		Project: pulumi.String(args.Stack.Project), Location: pulumi.String(args.Stack.Region),
		Name:                     pulumi.String(bucketName(args.Stack)),
		Labels:                   args.Stack.Labels("storage"),
		UniformBucketLevelAccess: pulumi.Bool(true),
		PublicAccessPrevention:   pulumi.String("enforced"),
		ForceDestroy:             pulumi.Bool(!args.Stack.Protect),
		Versioning:               &storage.BucketVersioningArgs{Enabled: pulumi.Bool(true)},
		SoftDeletePolicy:         &storage.BucketSoftDeletePolicyArgs{RetentionDurationSeconds: pulumi.Int(kept * day)},
		LifecycleRules: storage.BucketLifecycleRuleArray{
			&storage.BucketLifecycleRuleArgs{
				Action: &storage.BucketLifecycleRuleActionArgs{Type: pulumi.String("Delete")},
				// Both must hold: enough newer versions, and noncurrent for long enough.
				Condition: &storage.BucketLifecycleRuleConditionArgs{NumNewerVersions: pulumi.Int(versions), DaysSinceNoncurrentTime: pulumi.Int(kept), NoAge: pulumi.Bool(true), WithState: pulumi.String("ARCHIVED")},
			},
			&storage.BucketLifecycleRuleArgs{
				Action:    &storage.BucketLifecycleRuleActionArgs{Type: pulumi.String("Delete")},
				Condition: &storage.BucketLifecycleRuleConditionArgs{DaysSinceNoncurrentTime: pulumi.Int(10 * kept), NoAge: pulumi.Bool(true), WithState: pulumi.String("ARCHIVED")},
			},
			&storage.BucketLifecycleRuleArgs{
				Action: &storage.BucketLifecycleRuleActionArgs{Type: pulumi.String("Delete")},
				// Markers of handled events. Eventarc doesn't redeliver events this late.
				Condition: &storage.BucketLifecycleRuleConditionArgs{Age: pulumi.Int(90), MatchesPrefixes: pulumi.ToStringArray([]string{"triggers/"}), WithState: pulumi.String("LIVE")},
			},
			&storage.BucketLifecycleRuleArgs{
				Action:    &storage.BucketLifecycleRuleActionArgs{Type: pulumi.String("AbortIncompleteMultipartUpload")},
				Condition: &storage.BucketLifecycleRuleConditionArgs{Age: pulumi.Int(7), WithState: pulumi.String("ANY")},
			},
		},
	}
	var after []pulumi.Resource
	if args.KMSKey != "" {
		bucket.Encryption = &storage.BucketEncryptionArgs{DefaultKmsKeyName: pulumi.String(args.KMSKey)}
		// Cloud Storage's service agent uses the key.
		use, err := kms.NewCryptoKeyIAMMember(ctx, name+"-key", &kms.CryptoKeyIAMMemberArgs{
			CryptoKeyId: pulumi.String(args.KMSKey), Role: pulumi.String("roles/cloudkms.cryptoKeyEncrypterDecrypter"),
			Member: args.Stack.storageAgent(ctx),
		}, args.Stack.In(s, args.Stack.Shared()))
		if err != nil {
			return err
		}
		after = append(after, use)
	}
	if s.Bucket, err = storage.NewBucket(ctx, name, bucket, args.Stack.In(s, args.Stack.Kept(), pulumi.DependsOn(after))); err != nil {
		return err
	}
	s.Name = s.Bucket.Name
	return nil
}

// bucketName returns the name of the bucket that a stack creates. It includes the project ID
// because bucket names are global.
func bucketName(s *Stack) string { return s.Project + "-" + s.Prefix }

// member returns a service account as an IAM member.
func member(email pulumi.StringInput) pulumi.StringOutput {
	return pulumi.Sprintf("serviceAccount:%s", email)
}
