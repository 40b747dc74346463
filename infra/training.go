package main

import (
	"slices"
	"strconv"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/cloudrunv2"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

const (
	// bucketMount is where a job finds the bucket: the trainer reads and writes files.
	bucketMount = "/mnt/fakeart"
	// dataSet is the folder, in the bucket, of the data set that models are measured on,
	// and that a training started by hand learns from.
	dataSet = "data/cifake"
)

// TrainingJobs are the jobs that run the trainer's image. Nothing starts them here; see
// Triggers.
type TrainingJobs struct {
	pulumi.ResourceState

	// Train learns from a data set, and leaves a run folder under runs/.
	Train *cloudrunv2.Job
	// Evaluate measures a model on the data set; the figures are in its log.
	Evaluate *cloudrunv2.Job
	// Names are the jobs' in Cloud Run.
	Names []string
	// Arguments are those of a training by hand. A trigger adds its data set and run
	// folder: of two settings of the same thing the trainer takes the last.
	Arguments []string
	// Tasks is how many trainings one execution is.
	Tasks int
	// Log has the records that drift is seen from.
	Log *PredictionLog
}

// TrainingArgs says what the jobs run, and how large they are.
type TrainingArgs struct {
	Stack *Stack
	// Image is the trainer's, whose entry point is the trainer itself.
	Image string
	Size  Training
	// Account is the e-mail address of the service account that the jobs run as; it reads
	// and writes the bucket's objects.
	Account pulumi.StringInput
	// Deployer is the e-mail address of the service account that brings new images.
	Deployer pulumi.StringOutput
	// Bucket is the name of the bucket for data, runs and models.
	Bucket pulumi.StringInput
	// Log is handed on to what checks for drift.
	Log *PredictionLog
	// VPC is the network that requests go through; may be nil.
	VPC *VPC
	// KMSKey encrypts the jobs' images and disks; empty for Google's own key.
	KMSKey string
}

// NewTraining makes the jobs. They use processors alone: this version of the provider
// offers jobs no GPU, and the trainer would have no use for one.
func NewTraining(ctx *pulumi.Context, name string, args *TrainingArgs, opts ...pulumi.ResourceOption) (*TrainingJobs, error) {
	t := &TrainingJobs{Tasks: args.Size.Tasks, Log: args.Log}
	if err := register(ctx, "Training", name, t, opts...); err != nil {
		return nil, err
	}
	t.Arguments = slices.Concat([]string{
		"train", "dataset=archive", "dataset.dir=" + bucketMount + "/" + dataSet, "run.root=" + bucketMount + "/runs",
	}, args.Size.Args)
	for _, job := range []struct {
		at    **cloudrunv2.Job
		name  string
		args  []string
		tasks int
		// reads is whether the job has no business to write.
		reads bool
	}{
		{&t.Train, "train", t.Arguments, args.Size.Tasks, false},
		{&t.Evaluate, "evaluate", []string{"evaluate", "--model=" + bucketMount + "/models/staging/model.onnx", "--data=" + bucketMount + "/" + dataSet}, 1, true},
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
				Gcs:  &cloudrunv2.JobTemplateTemplateVolumeGcsArgs{Bucket: args.Bucket, ReadOnly: pulumi.Bool(job.reads)},
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
			// Volumes of buckets were a preview when this version of the provider came out.
			LaunchStage: pulumi.String("BETA"),
			Template: &cloudrunv2.JobTemplateArgs{
				// Cloud Run tells each task its number, CLOUD_RUN_TASK_INDEX from 0 on, of
				// CLOUD_RUN_TASK_COUNT: the trainer adds it to its seed.
				TaskCount: pulumi.Int(job.tasks), Parallelism: pulumi.Int(min(job.tasks, args.Size.Parallelism)),
				Template: task,
			},
			// Cloud Run answers with the stage of what is used, not with what was asked for.
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
