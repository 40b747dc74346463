package main

import (
	"slices"
	"strconv"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/cloudrunv2"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

const (
	// bucketMount is the path at which the bucket is mounted in a job.
	bucketMount = "/mnt/fakeart"
	// datasetFolder is the folder in the bucket of the dataset that models are evaluated on, and that a
	// manually started training uses.
	datasetFolder = "data/cifake"
)

// TrainingJobs are the Cloud Run jobs that run the trainer. [Triggers] starts them.
type TrainingJobs struct {
	pulumi.ResourceState

	// Train trains on a dataset and writes a run folder under runs/.
	Train *cloudrunv2.Job
	// Evaluate evaluates a model on the dataset and logs the metrics.
	Evaluate *cloudrunv2.Job
	// Names are the names of the jobs in Cloud Run.
	Names []string
	// Arguments are the arguments of a manually started training. A trigger appends its dataset and
	// run folder. If a key occurs twice, the trainer uses the last value.
	Arguments []string
	// Tasks is the number of trainings per execution.
	Tasks int
	// Log holds the records in which drift is detected.
	Log *PredictionLog
}

// TrainingArgs are the arguments of NewTraining.
type TrainingArgs struct {
	Stack *Stack
	// Image is the container image of the trainer, with the trainer as its entry point.
	Image string
	Size  Training
	// Account is the email address of the service account that the jobs run as. It may read and
	// write objects of the bucket.
	Account pulumi.StringInput
	// Deployer is the email address of the service account that may deploy new container images.
	Deployer pulumi.StringOutput
	// Bucket is the name of the bucket for data, runs and models.
	Bucket pulumi.StringInput
	// Log is copied to TrainingJobs.Log, for the drift check.
	Log *PredictionLog
	// VPC is the network that outgoing requests go through. It may be nil.
	VPC *VPC
	// KMSKey encrypts the jobs' container images and disks. If empty, Google manages the key.
	KMSKey string
}

// NewTraining creates the jobs. They have no GPU: the trainer doesn't use one, and this version of
// the provider doesn't support GPUs in jobs.
func NewTraining(ctx *pulumi.Context, name string, args *TrainingArgs, opts ...pulumi.ResourceOption) (*TrainingJobs, error) {
	t := &TrainingJobs{Tasks: args.Size.Tasks, Log: args.Log}
	if err := register(ctx, "Training", name, t, opts...); err != nil {
		return nil, err
	}
	t.Arguments = slices.Concat([]string{
		"train", "dataset=archive", "dataset.dir=" + bucketMount + "/" + datasetFolder, "run.root=" + bucketMount + "/runs",
	}, args.Size.Args)
	for _, job := range []struct {
		at    **cloudrunv2.Job
		name  string
		args  []string
		tasks int
		// readOnly mounts the bucket read-only.
		readOnly bool
	}{
		{&t.Train, "train", t.Arguments, args.Size.Tasks, false},
		{&t.Evaluate, "evaluate", []string{"evaluate", "--model=" + bucketMount + "/models/staging/model.onnx", "--data=" + bucketMount + "/" + datasetFolder}, 1, true},
	} {
		task := &cloudrunv2.JobTemplateTemplateArgs{
			ServiceAccount:       args.Account,
			ExecutionEnvironment: pulumi.String("EXECUTION_ENVIRONMENT_GEN2"),
			Timeout:              pulumi.String(strconv.Itoa(args.Size.Timeout) + "s"),
			MaxRetries:           pulumi.Int(args.Size.Retries),
			Containers: cloudrunv2.JobTemplateTemplateContainerArray{&cloudrunv2.JobTemplateTemplateContainerArgs{
				Image: pulumi.String(args.Image), Args: pulumi.ToStringArray(job.args),
				Resources: &cloudrunv2.JobTemplateTemplateContainerResourcesArgs{Limits: pulumi.StringMap{
					"cpu": pulumi.String(strconv.Itoa(args.Size.CPU)), "memory": pulumi.String(args.Size.Memory),
				}},
				VolumeMounts: cloudrunv2.JobTemplateTemplateContainerVolumeMountArray{&cloudrunv2.JobTemplateTemplateContainerVolumeMountArgs{
					Name: pulumi.String("bucket"), MountPath: pulumi.String(bucketMount),
				}},
			}},
			Volumes: cloudrunv2.JobTemplateTemplateVolumeArray{&cloudrunv2.JobTemplateTemplateVolumeArgs{
				Name: pulumi.String("bucket"),
				Gcs:  &cloudrunv2.JobTemplateTemplateVolumeGcsArgs{Bucket: args.Bucket, ReadOnly: pulumi.Bool(job.readOnly)},
			}},
		}
		if args.KMSKey != "" {
			task.EncryptionKey = pulumi.String(args.KMSKey)
		}
		if v := args.VPC; v != nil {
			direct := &cloudrunv2.JobTemplateTemplateVpcAccessNetworkInterfaceArgs{Network: pulumi.String(v.Network), Subnetwork: pulumi.String(v.Subnetwork)}
			if len(v.Tags) > 0 {
				direct.Tags = pulumi.ToStringArray(v.Tags)
			}
			task.VpcAccess = &cloudrunv2.JobTemplateTemplateVpcAccessArgs{
				Egress: pulumi.String(egresses[v.Egress]), NetworkInterfaces: cloudrunv2.JobTemplateTemplateVpcAccessNetworkInterfaceArray{direct},
			}
		}
		made, err := cloudrunv2.NewJob(ctx, name+"-"+job.name, &cloudrunv2.JobArgs{
			Project: pulumi.String(args.Stack.Project), Location: pulumi.String(args.Stack.Region),
			Name: pulumi.String(args.Stack.Named(job.name)), Labels: args.Stack.Labels("training"),
			// Bucket volumes were in preview when this version of the provider was released.
			LaunchStage: pulumi.String("BETA"),
			Template: &cloudrunv2.JobTemplateArgs{
				// Each task gets its index in CLOUD_RUN_TASK_INDEX, from 0 to CLOUD_RUN_TASK_COUNT-1.
				// The trainer adds it to its seed.
				TaskCount: pulumi.Int(job.tasks), Parallelism: pulumi.Int(min(job.tasks, args.Size.Parallelism)),
				Template: task,
			},
			// Cloud Run returns the launch stage of the features in use, not the requested one.
		}, args.Stack.In(t, pulumi.IgnoreChanges([]string{"launchStage"})))
		if err != nil {
			return nil, err
		}
		if _, err := cloudrunv2.NewJobIamMember(ctx, name+"-"+job.name+"-deployer", &cloudrunv2.JobIamMemberArgs{
			Project: made.Project, Location: made.Location, Name: made.Name,
			Role: pulumi.String("roles/run.developer"), Member: member(args.Deployer),
		}, args.Stack.In(t)); err != nil {
			return nil, err
		}
		*job.at = made
		t.Names = append(t.Names, args.Stack.Named(job.name))
	}
	return t, ctx.RegisterResourceOutputs(t, pulumi.Map{"jobs": pulumi.ToStringArray(t.Names)})
}
