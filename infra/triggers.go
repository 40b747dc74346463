package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/bigquery"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/cloudrunv2"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/cloudscheduler"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/eventarc"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/projects"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/pubsub"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/serviceaccount"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/storage"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/workflows"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// workflowFile is the source of the workflow that handles events.
const workflowFile = "workflow.yaml"

// Triggers starts the jobs: a new dataset starts a training, and a staged model starts an
// evaluation. It also runs the scheduled drift check.
type Triggers struct {
	pulumi.ResourceState

	// Workflow handles the events.
	Workflow *workflows.Workflow
	// DeadLetters keeps events that couldn't be handled.
	DeadLetters *pubsub.Subscription
	// Schedule starts the drift check.
	Schedule *cloudscheduler.Job
}

// TriggersArgs are the arguments of NewTriggers.
type TriggersArgs struct {
	Stack *Stack
	// Bucket is the name of the bucket whose events are handled. It must have uniform bucket-level
	// access.
	Bucket pulumi.StringInput
	// Account is the email address of the service account of the trigger, workflow and schedule.
	Account  pulumi.StringInput
	Training *TrainingJobs
	// Schedule is the cron schedule of the drift check, in UTC.
	Schedule string
	// Models are the names of the models, each with a dataset of its own. It may be nil.
	Models []string
	// KMSKey encrypts the workflow. If empty, Google manages the key.
	KMSKey string
}

// NewTriggers creates one trigger for all objects written to the bucket and one workflow that
// selects by object name, because Eventarc can't filter Cloud Storage events by name.
func NewTriggers(ctx *pulumi.Context, name string, args *TriggersArgs, opts ...pulumi.ResourceOption) (*Triggers, error) {
	t := &Triggers{}
	if err := register(ctx, "Triggers", name, t, opts...); err != nil {
		return nil, err
	}
	stack := args.Stack
	letters, err := pubsub.NewTopic(ctx, name+"-dead-letters", &pubsub.TopicArgs{
		Project: pulumi.String(stack.Project), Name: pulumi.String(stack.Named("trigger-dead-letters")),
		Labels: stack.Labels("triggers"), MessageRetentionDuration: pulumi.String(maxRetention),
	}, stack.In(t, stack.Kept()))
	if err != nil {
		return nil, err
	}
	if t.DeadLetters, err = newDeadLetterSubscription(ctx, name+"-dead-letters", "trigger-dead-letters", "triggers", letters, t, stack); err != nil {
		return nil, err
	}
	granted, err := t.grants(ctx, name, args, letters)
	if err != nil {
		return nil, err
	}
	if err := t.workflow(ctx, name, args, letters, granted); err != nil {
		return nil, err
	}
	if err := t.sources(ctx, name, args, granted); err != nil {
		return nil, err
	}
	return t, ctx.RegisterResourceOutputs(t, pulumi.Map{
		"workflow": t.Workflow.Name, "deadLetters": t.DeadLetters.Name, "schedule": t.Schedule.Name,
	})
}

// grants grants the account its roles, on single resources where possible. It returns the grants,
// which must exist before the first event.
func (t *Triggers) grants(ctx *pulumi.Context, name string, args *TriggersArgs, letters *pubsub.Topic) (granted []pulumi.Resource, err error) {
	stack, account := args.Stack, member(args.Account)
	// The service agents of Eventarc and Workflows don't exist in a new project until they are
	// requested, and then don't have the role that Google gives to those it creates
	// (https://cloud.google.com/iam/docs/create-service-agents).
	for _, service := range []string{"eventarc", "workflows"} {
		agent, err := projects.NewServiceIdentity(ctx, name+"-"+service, &projects.ServiceIdentityArgs{
			Project: pulumi.String(stack.Project), Service: pulumi.String(service + ".googleapis.com"),
		}, stack.In(t))
		if err != nil {
			return nil, err
		}
		uses, err := projects.NewIAMMember(ctx, name+"-"+service+"-agent", &projects.IAMMemberArgs{
			Project: pulumi.String(stack.Project), Role: pulumi.String("roles/" + service + ".serviceAgent"),
			Member: pulumi.String("serviceAccount:service-" + stack.Number + "@gcp-sa-" + service + ".iam.gserviceaccount.com"),
		}, stack.In(t, stack.Shared(), pulumi.DependsOn([]pulumi.Resource{agent})))
		if err != nil {
			return nil, err
		}
		granted = append(granted, agent, uses)
	}
	// Pub/Sub delivers events to the workflow as this account.
	signs, err := serviceaccount.NewIAMMember(ctx, name+"-pubsub-as-events", &serviceaccount.IAMMemberArgs{
		ServiceAccountId: pulumi.Sprintf("projects/%s/serviceAccounts/%s", stack.Project, args.Account),
		Role:             pulumi.String("roles/iam.serviceAccountTokenCreator"), Member: pulumi.String(pubsubAgent(stack)),
	}, stack.In(t, pulumi.DependsOn([]pulumi.Resource{args.Training.Log})))
	if err != nil {
		return nil, err
	}
	granted = append(granted, signs)
	for _, grant := range []struct {
		name, role string
		member     pulumi.StringInput
		option     pulumi.ResourceOption
	}{
		{"receives", "roles/eventarc.eventReceiver", account, pulumi.RetainOnDelete(false)},
		{"invokes", "roles/workflows.invoker", account, pulumi.RetainOnDelete(false)}, // can't be granted on a single workflow
		{"logs", "roles/logging.logWriter", account, pulumi.RetainOnDelete(false)},
		{"queries", "roles/bigquery.jobUser", account, pulumi.RetainOnDelete(false)}, // queries run in a project
		// Cloud Storage's service agent publishes events to a topic that Eventarc creates later.
		{"storage-publishes", "roles/pubsub.publisher", stack.storageAgent(ctx), stack.Shared()},
	} {
		made, err := projects.NewIAMMember(ctx, name+"-"+grant.name, &projects.IAMMemberArgs{
			Project: pulumi.String(stack.Project), Role: pulumi.String(grant.role), Member: grant.member,
		}, stack.In(t, grant.option))
		if err != nil {
			return nil, err
		}
		granted = append(granted, made)
	}
	// With overrides, because each execution gets its dataset, model and folder as arguments. The
	// account can therefore run the trainer's jobs with any arguments.
	for _, job := range []struct {
		name string
		job  *cloudrunv2.Job
	}{{"train", args.Training.Train}, {"evaluate", args.Training.Evaluate}} {
		made, err := cloudrunv2.NewJobIamMember(ctx, name+"-runs-"+job.name, &cloudrunv2.JobIamMemberArgs{
			Project: pulumi.String(stack.Project), Location: pulumi.String(stack.Region), Name: job.job.Name,
			Role: pulumi.String("roles/run.jobsExecutorWithOverrides"), Member: account,
		}, stack.In(t))
		if err != nil {
			return nil, err
		}
		granted = append(granted, made)
	}
	// Markers are created and read, but never changed.
	for _, grant := range [][2]string{{"marks", "roles/storage.objectCreator"}, {"reads-marks", "roles/storage.objectViewer"}} {
		made, err := storage.NewBucketIAMMember(ctx, name+"-"+grant[0], &storage.BucketIAMMemberArgs{
			Bucket: args.Bucket, Role: pulumi.String(grant[1]), Member: account,
			Condition: &storage.BucketIAMMemberConditionArgs{
				Title:       pulumi.String("markers"),
				Description: pulumi.String("Only the markers of events that were handled"),
				Expression:  pulumi.Sprintf(`resource.name.startsWith("projects/_/buckets/%s/objects/triggers/")`, args.Bucket),
			},
		}, stack.In(t))
		if err != nil {
			return nil, err
		}
		granted = append(granted, made)
	}
	publishes, err := pubsub.NewTopicIAMMember(ctx, name+"-gives-up", &pubsub.TopicIAMMemberArgs{
		Project: pulumi.String(stack.Project), Topic: letters.Name, Role: pulumi.String("roles/pubsub.publisher"), Member: account,
	}, stack.In(t))
	if err != nil {
		return nil, err
	}
	granted = append(granted, publishes)
	// Querying a view requires access to the view and to its table. The roles aren't granted on the
	// dataset, because each change of a dataset restores its initial access list.
	log := args.Training.Log
	for _, table := range []struct {
		name string
		id   pulumi.StringInput
	}{{"predictions", log.Table.TableId}, {"drift", log.Drift.TableId}} {
		made, err := bigquery.NewIamMember(ctx, name+"-reads-"+table.name, &bigquery.IamMemberArgs{
			Project: pulumi.String(stack.Project), DatasetId: log.DatasetID, TableId: table.id,
			Role: pulumi.String("roles/bigquery.dataViewer"), Member: account,
		}, stack.In(t))
		if err != nil {
			return nil, err
		}
		granted = append(granted, made)
	}
	return granted, nil
}

// workflow creates the workflow.
func (t *Triggers) workflow(ctx *pulumi.Context, name string, args *TriggersArgs, letters *pubsub.Topic, granted []pulumi.Resource) error {
	source, err := os.ReadFile(workflowFile)
	if err != nil {
		return fmt.Errorf("workflow of the triggers: %w", err)
	}
	stack, training := args.Stack, args.Training
	// A single task has a fixed run folder, so that a retry resumes the run. With several tasks, each
	// creates its own run folder in a common root.
	arguments, folder := slices.Concat(training.Arguments, []string{"run.resume=true"}), "run.dir="
	if training.Tasks > 1 {
		arguments, folder = training.Arguments, "run.root="
	}
	encoded, err := json.Marshal(arguments)
	if err != nil {
		return err
	}
	models, err := json.Marshal(append([]string{}, args.Models...)) // [] without models
	if err != nil {
		return err
	}
	job := func(j *cloudrunv2.Job) pulumi.StringOutput {
		return pulumi.Sprintf("projects/%s/locations/%s/jobs/%s", stack.Project, stack.Region, j.Name)
	}
	log := training.Log
	workflow := &workflows.WorkflowArgs{
		Project: pulumi.String(stack.Project), Region: pulumi.String(stack.Region), Name: pulumi.String(stack.Named("dispatch")),
		Description: pulumi.String("Starts jobs on events and checks for drift"), Labels: stack.Labels("triggers"),
		ServiceAccount: pulumi.Sprintf("projects/%s/serviceAccounts/%s", stack.Project, args.Account),
		CallLogLevel:   pulumi.String("LOG_ERRORS_ONLY"),
		SourceContents: pulumi.String(string(source)),
		UserEnvVars: pulumi.StringMap{
			"bucket": args.Bucket, "mount": pulumi.String(bucketMount), "data_set": pulumi.String(datasetFolder), "models": pulumi.String(string(models)),
			"train_job": job(training.Train), "train_arguments": pulumi.String(string(encoded)), "train_folder": pulumi.String(folder + bucketMount + "/runs"),
			"evaluate_job": job(training.Evaluate),
			"drift_view":   pulumi.Sprintf("%s.%s.%s", stack.Project, log.DatasetID, log.Drift.TableId),
			"dead_letters": pulumi.Sprintf("projects/%s/topics/%s", stack.Project, letters.Name),
		},
	}
	if args.KMSKey != "" {
		workflow.CryptoKeyName = pulumi.String(args.KMSKey)
	}
	t.Workflow, err = workflows.NewWorkflow(ctx, name, workflow, stack.In(t, pulumi.DependsOn(granted)))
	return err
}

// sources creates the Eventarc trigger and the schedule, which start the workflow.
func (t *Triggers) sources(ctx *pulumi.Context, name string, args *TriggersArgs, granted []pulumi.Resource) error {
	stack := args.Stack
	at := pulumi.Sprintf("projects/%s/locations/%s/workflows/%s", stack.Project, stack.Region, t.Workflow.Name)
	if _, err := eventarc.NewTrigger(ctx, name, &eventarc.TriggerArgs{
		Project: pulumi.String(stack.Project), Location: pulumi.String(stack.Region), Name: pulumi.String(stack.Named("objects")),
		Labels: stack.Labels("triggers"), ServiceAccount: args.Account,
		MatchingCriterias: eventarc.TriggerMatchingCriteriaArray{
			&eventarc.TriggerMatchingCriteriaArgs{Attribute: pulumi.String("type"), Value: pulumi.String("google.cloud.storage.object.v1.finalized")},
			&eventarc.TriggerMatchingCriteriaArgs{Attribute: pulumi.String("bucket"), Value: args.Bucket},
		},
		Destination: &eventarc.TriggerDestinationArgs{Workflow: at},
	}, stack.In(t, pulumi.DependsOn(granted))); err != nil {
		return err
	}
	execution, err := json.Marshal(map[string]string{"argument": `{"check":"drift"}`})
	if err != nil {
		return err
	}
	t.Schedule, err = cloudscheduler.NewJob(ctx, name, &cloudscheduler.JobArgs{
		Project: pulumi.String(stack.Project), Region: pulumi.String(stack.Region), Name: pulumi.String(stack.Named("drift")),
		Description: pulumi.String("Checks for drift in yesterday's images"),
		Schedule:    pulumi.String(args.Schedule), TimeZone: pulumi.String("Etc/UTC"), AttemptDeadline: pulumi.String("60s"),
		RetryConfig: &cloudscheduler.JobRetryConfigArgs{RetryCount: pulumi.Int(3), MinBackoffDuration: pulumi.String("30s")},
		HttpTarget: &cloudscheduler.JobHttpTargetArgs{
			Uri:        pulumi.Sprintf("https://workflowexecutions.googleapis.com/v1/%s/executions", at),
			HttpMethod: pulumi.String("POST"), Headers: pulumi.StringMap{"Content-Type": pulumi.String("application/json")},
			Body: pulumi.String(base64.StdEncoding.EncodeToString(execution)),
			OauthToken: &cloudscheduler.JobHttpTargetOauthTokenArgs{
				ServiceAccountEmail: args.Account, Scope: pulumi.String("https://www.googleapis.com/auth/cloud-platform"),
			},
		},
	}, stack.In(t, pulumi.DependsOn(granted)))
	return err
}
