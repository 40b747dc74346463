package main

import (
	"cmp"
	"fmt"
	"os"
	"strings"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/bigquery"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/kms"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/projects"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/pubsub"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// The tables' schemas, in the form of BigQuery's API. The server's tests hold them against
// what the server writes.
const (
	predictionSchema = "../server/predlog/bigquery-schema.json"
	feedbackSchema   = "../server/predlog/bigquery-feedback-schema.json"
)

// PredictionLog takes the records that the server publishes into a table, and what users say
// of them into another. No code runs in between: subscriptions of Pub/Sub's write them.
type PredictionLog struct {
	pulumi.ResourceState

	// Topic is what the server publishes predictions to, FeedbackTopic what it publishes
	// feedback to.
	Topic, FeedbackTopic *pubsub.Topic
	// Dataset holds the tables predictions and feedback, and the views daily, drift and
	// judged. It is nil if the stack uses an existing one.
	Dataset *bigquery.Dataset
	// DatasetID is the dataset's name.
	DatasetID pulumi.StringOutput
	// Table has a row for each record; one that was delivered twice has two, with one id.
	Table *bigquery.Table
	// Feedback has a row for each feedback; of one prediction the latest counts.
	Feedback *bigquery.Table
	// Drift is the view that compares each day with the four weeks before it.
	Drift *bigquery.Table
	// DeadLetters and FeedbackDeadLetters keep what the tables did not take.
	DeadLetters, FeedbackDeadLetters *pubsub.Subscription
}

// PredictionLogArgs says who writes, and how long records stay.
type PredictionLogArgs struct {
	Stack *Stack
	// Days is after how many a record is deleted; 0 keeps them.
	Days int
	// KMSKey encrypts topics and tables; empty for Google's own key.
	KMSKey string
	// Existing is the name of a dataset to put the tables in, instead of a new one; may be empty.
	Existing string
	// Writer is the e-mail address of the server's service account.
	Writer pulumi.StringInput
}

// datasetID returns the name of the dataset that the stack makes, which can't have dashes.
func datasetID(stack *Stack) string { return strings.ReplaceAll(stack.Prefix, "-", "_") }

// checkDataset returns an error if the stack's dataset exists in another region or with another
// key. Both are fixed when a table is created: Pulumi would make a second table of the same name
// first, which fails after other resources have changed already. Whoever may not see the dataset
// may not change it either, and isn't checked.
func checkDataset(ctx *pulumi.Context, stack *Stack, key string) error {
	id := datasetID(stack)
	found, err := bigquery.LookupDataset(ctx, &bigquery.LookupDatasetArgs{Project: &stack.Project, DatasetId: id})
	if err != nil {
		return nil // it doesn't exist yet, or can't be seen
	}
	if !strings.EqualFold(found.Location, stack.Region) {
		return fmt.Errorf("gcp:region: %s: the dataset %s exists in %s, and data can't be moved\nhint: set gcp:region back, or create another stack", stack.Region, id, found.Location)
	}
	if has := keyOf(found); has != key {
		return fmt.Errorf("fakeart:kmsKey: the tables of the dataset %s are encrypted with %s; Pulumi can't change that to %s\n"+
			"hint: set fakeart:kmsKey back, or change the key with bq first: docs/how-to/deploy.md#change-the-key-of-an-existing-stack", id, keyText(has), keyText(key))
	}
	return nil
}

// keyOf returns the key that a dataset's new tables are encrypted with, or "" for Google's own.
func keyOf(dataset *bigquery.LookupDatasetResult) string {
	if encryption := dataset.DefaultEncryptionConfigurations; len(encryption) > 0 {
		return encryption[0].KmsKeyName
	}
	return ""
}

// keyText is a key as messages name it.
func keyText(key string) string { return cmp.Or(key, "Google's own key") }

// NewPredictionLog makes the topic, the table, and what leads from one to the other.
func NewPredictionLog(ctx *pulumi.Context, name string, args *PredictionLogArgs, opts ...pulumi.ResourceOption) (*PredictionLog, error) {
	l := &PredictionLog{}
	if err := register(ctx, "PredictionLog", name, l, opts...); err != nil {
		return nil, err
	}
	key, err := l.key(ctx, name, args)
	if err != nil {
		return nil, err
	}
	if err := l.tables(ctx, name, args, key); err != nil {
		return nil, err
	}
	if l.Topic, l.DeadLetters, err = l.stream(ctx, name, "predictions", l.Table, args, key); err != nil {
		return nil, err
	}
	if l.FeedbackTopic, l.FeedbackDeadLetters, err = l.stream(ctx, name+"-feedback", "feedback", l.Feedback, args, key); err != nil {
		return nil, err
	}
	return l, ctx.RegisterResourceOutputs(l, pulumi.Map{
		"topic": l.Topic.ID(), "dataset": l.DatasetID, "table": l.Table.TableId, "deadLetters": l.DeadLetters.Name,
		"feedbackTopic": l.FeedbackTopic.ID(), "feedbackTable": l.Feedback.TableId, "feedbackDeadLetters": l.FeedbackDeadLetters.Name,
	})
}

// key lets Pub/Sub and BigQuery use the key: it is they that encrypt, not who writes.
func (l *PredictionLog) key(ctx *pulumi.Context, name string, args *PredictionLogArgs) (granted []pulumi.Resource, err error) {
	// Pub/Sub's account does not exist in a new project until somebody asks for it.
	agent, err := projects.NewServiceIdentity(ctx, name+"-pubsub", &projects.ServiceIdentityArgs{
		Project: pulumi.String(args.Stack.Project), Service: pulumi.String("pubsub.googleapis.com"),
	}, args.Stack.In(l))
	if err != nil {
		return nil, err
	}
	granted = append(granted, agent)
	if args.KMSKey == "" {
		return granted, nil
	}
	for _, user := range []struct {
		name    string
		account pulumi.StringInput
	}{
		{"pubsub", pulumi.String(pubsubAgent(args.Stack))},
		{"bigquery", args.Stack.bigQueryAgent(ctx)},
	} {
		use, err := kms.NewCryptoKeyIAMMember(ctx, name+"-"+user.name+"-key", &kms.CryptoKeyIAMMemberArgs{
			CryptoKeyId: pulumi.String(args.KMSKey), Role: pulumi.String("roles/cloudkms.cryptoKeyEncrypterDecrypter"), Member: user.account,
		}, args.Stack.In(l, args.Stack.Shared(), pulumi.DependsOn([]pulumi.Resource{agent})))
		if err != nil {
			return nil, err
		}
		granted = append(granted, use)
	}
	return granted, nil
}

// pubsubAgent is Pub/Sub's own account in the project: who moves messages on.
func pubsubAgent(stack *Stack) string {
	return "serviceAccount:service-" + stack.Number + "@gcp-sa-pubsub.iam.gserviceaccount.com"
}

// tables makes the dataset, the tables and the views.
func (l *PredictionLog) tables(ctx *pulumi.Context, name string, args *PredictionLogArgs, after []pulumi.Resource) (err error) {
	stack := args.Stack
	if err := l.dataset(ctx, name, args, after); err != nil {
		return err
	}
	if l.Table, err = l.table(ctx, name, "predictions", predictionSchema, "What was asked and answered; the columns say what they are", []string{"model", "label"}, args, after); err != nil {
		return err
	}
	if l.Feedback, err = l.table(ctx, name+"-feedback", "feedback", feedbackSchema, "What users said of predictions; of one the latest counts", []string{"id"}, args, after); err != nil {
		return err
	}
	of := func(query string, tables ...*bigquery.Table) pulumi.StringOutput {
		var names []any
		for _, table := range tables {
			names = append(names, pulumi.Sprintf("%s.%s.%s", stack.Project, l.DatasetID, table.TableId))
		}
		return pulumi.Sprintf(query, names...)
	}
	for _, view := range []struct {
		at              **bigquery.Table
		name, describes string
		query           pulumi.StringOutput
	}{
		{new(*bigquery.Table), "daily", "Predictions by day, label and model, each counted once", of(dailyQuery, l.Table)},
		{&l.Drift, "drift", "Each day of the last 90, statistic by statistic, beside the four weeks before it", of(driftQuery, l.Table)},
		{new(*bigquery.Table), "judged", "Predictions, each once, with what users last said of them", of(judgedQuery, l.Table, l.Feedback)},
	} {
		if *view.at, err = bigquery.NewTable(ctx, name+"-"+view.name, &bigquery.TableArgs{
			Project: pulumi.String(stack.Project), DatasetId: l.DatasetID, TableId: pulumi.String(view.name),
			Description: pulumi.String(view.describes), Labels: stack.Labels("prediction-log"),
			View:               &bigquery.TableViewArgs{Query: view.query, UseLegacySql: pulumi.Bool(false)},
			DeletionProtection: pulumi.Bool(false), // nothing is in it
		}, stack.In(l)); err != nil {
			return err
		}
	}
	return nil
}

// dataset creates the dataset, or takes the existing one as it is.
func (l *PredictionLog) dataset(ctx *pulumi.Context, name string, args *PredictionLogArgs, after []pulumi.Resource) (err error) {
	stack := args.Stack
	if args.Existing != "" {
		l.DatasetID = pulumi.String(args.Existing).ToStringOutput()
		return nil
	}
	dataset := &bigquery.DatasetArgs{
		Project: pulumi.String(stack.Project), Location: pulumi.String(stack.Region), DatasetId: pulumi.String(datasetID(stack)),
		FriendlyName: pulumi.String(stack.Prefix), Description: pulumi.String("Fakeart's predictions, one row for each picture"),
		Labels:                  stack.Labels("prediction-log"),
		DeleteContentsOnDestroy: pulumi.Bool(!stack.Protect),
	}
	if args.KMSKey != "" {
		dataset.DefaultEncryptionConfiguration = &bigquery.DatasetDefaultEncryptionConfigurationArgs{KmsKeyName: pulumi.String(args.KMSKey)}
	}
	if l.Dataset, err = bigquery.NewDataset(ctx, name, dataset, stack.In(l, stack.Kept(), pulumi.DependsOn(after))); err != nil {
		return err
	}
	l.DatasetID = l.Dataset.DatasetId
	return nil
}

// table makes a table of the schema, with a partition a day.
func (l *PredictionLog) table(ctx *pulumi.Context, name, id, schemaFile, describes string, clusterings []string, args *PredictionLogArgs, after []pulumi.Resource) (*bigquery.Table, error) {
	schema, err := os.ReadFile(schemaFile)
	if err != nil {
		return nil, fmt.Errorf("schema of the prediction log: %w", err)
	}
	stack := args.Stack
	table := &bigquery.TableArgs{
		Project: pulumi.String(stack.Project), DatasetId: l.DatasetID, TableId: pulumi.String(id),
		Description: pulumi.String(describes),
		Schema:      pulumi.String(string(schema)),
		TimePartitioning: &bigquery.TableTimePartitioningArgs{
			Type: pulumi.String("DAY"), Field: pulumi.String("time"),
			// 0 has to be passed as well: without a value the table keeps the expiration it has.
			ExpirationMs: pulumi.Int(args.Days * day * 1000),
		},
		Clusterings: pulumi.ToStringArray(clusterings),
		Labels:      stack.Labels("prediction-log"), DeletionProtection: pulumi.Bool(stack.Protect),
	}
	if args.KMSKey != "" {
		// The table says it itself, too: one that only inherits the dataset's key seems to
		// differ from what the program asks for, and would be replaced.
		table.EncryptionConfiguration = &bigquery.TableEncryptionConfigurationArgs{KmsKeyName: pulumi.String(args.KMSKey)}
	}
	return bigquery.NewTable(ctx, name, table, stack.In(l, stack.Kept(), pulumi.DependsOn(after)))
}

// dailyQuery counts predictions.
const dailyQuery = "SELECT DATE(time) AS day, label, model, COUNT(DISTINCT id) AS predictions\n" +
	"FROM `%s`\n" +
	"GROUP BY day, label, model\n"

// driftQuery holds each day against the 28 before it. shift is by how many standard
// deviations of those weeks the day's average has moved: unlike a test's p-value it does
// not grow with the number of pictures. drifted is true from half a deviation on, which
// shows in a picture of the two distributions, if there are enough records to tell.
const driftQuery = "WITH records AS (\n" +
	"  SELECT DATE(time) AS day, model, probability, mean, std_dev, brightness, contrast, sharpness, saturation\n" +
	"  FROM `%s`\n" +
	"  WHERE time >= TIMESTAMP_SUB(TIMESTAMP_TRUNC(CURRENT_TIMESTAMP(), DAY), INTERVAL 90 DAY)\n" +
	"  QUALIFY ROW_NUMBER() OVER (PARTITION BY id ORDER BY time) = 1\n" +
	"),\n" + `daily AS (
  SELECT
    day, statistic, COUNT(*) AS records, COUNT(DISTINCT model) AS models,
    AVG(value) AS average, STDDEV_SAMP(value) AS deviation, SUM(value) AS total, SUM(value * value) AS squares
  FROM records
  UNPIVOT (value FOR statistic IN (probability, mean, std_dev, brightness, contrast, sharpness, saturation))
  GROUP BY day, statistic
),
sums AS (
  SELECT
    day, statistic, records, models, average, deviation,
    SUM(records) OVER weeks AS baseline_records, SUM(total) OVER weeks AS baseline_total, SUM(squares) OVER weeks AS baseline_squares
  FROM daily
  WINDOW weeks AS (PARTITION BY statistic ORDER BY UNIX_DATE(day) RANGE BETWEEN 28 PRECEDING AND 1 PRECEDING)
),
compared AS (
  SELECT
    day, statistic, records, models, average, deviation, baseline_records,
    SAFE_DIVIDE(baseline_total, baseline_records) AS baseline_average,
    SQRT(GREATEST(SAFE_DIVIDE(baseline_squares, baseline_records) - POW(SAFE_DIVIDE(baseline_total, baseline_records), 2), 0)) AS baseline_deviation
  FROM sums
)
SELECT
  *, SAFE_DIVIDE(average - baseline_average, baseline_deviation) AS shift,
  COALESCE(records >= 100 AND baseline_records >= 1000 AND ABS(SAFE_DIVIDE(average - baseline_average, baseline_deviation)) >= 0.5, FALSE) AS drifted
FROM compared
`

// judgedQuery has each prediction once, with the latest feedback on it, or none, under the
// names that the server's exports have, so that the trainer reads an export of either.
const judgedQuery = "SELECT p.*, f.label AS feedback_label, f.comment AS feedback_comment, f.time AS feedback_time\n" +
	"FROM (SELECT * FROM `%s` WHERE TRUE QUALIFY ROW_NUMBER() OVER (PARTITION BY id, time) = 1) AS p\n" +
	"LEFT JOIN (SELECT * FROM `%s` WHERE TRUE QUALIFY ROW_NUMBER() OVER (PARTITION BY id ORDER BY time DESC) = 1) AS f ON f.id = p.id\n"

// stream makes a topic of that name, the subscription that writes to the table, and the place
// for what the table does not take.
func (l *PredictionLog) stream(
	ctx *pulumi.Context, name, what string, table *bigquery.Table, args *PredictionLogArgs, after []pulumi.Resource,
) (from *pubsub.Topic, deadLetters *pubsub.Subscription, err error) {
	stack := args.Stack
	fail := func(err error) (*pubsub.Topic, *pubsub.Subscription, error) { return nil, nil, err }
	topic := func(suffix, retention string) (*pubsub.Topic, error) {
		t := &pubsub.TopicArgs{
			Project: pulumi.String(stack.Project), Name: pulumi.String(stack.Named(what + suffix)), Labels: stack.Labels("prediction-log"),
			// Records stay in the region that the table is in.
			MessageStoragePolicy: &pubsub.TopicMessageStoragePolicyArgs{AllowedPersistenceRegions: pulumi.ToStringArray([]string{stack.Region})},
		}
		if retention != "" {
			t.MessageRetentionDuration = pulumi.String(retention)
		}
		if args.KMSKey != "" {
			t.KmsKeyName = pulumi.String(args.KMSKey)
		}
		return pubsub.NewTopic(ctx, name+suffix, t, stack.In(l, stack.Kept(), pulumi.DependsOn(after)))
	}
	if from, err = topic("", ""); err != nil {
		return fail(err)
	}
	letters, err := topic("-dead-letters", letterRetention)
	if err != nil {
		return fail(err)
	}
	if deadLetters, err = newLetterbox(ctx, name+"-dead-letters", what+"-dead-letters", "prediction-log", letters, l, stack); err != nil {
		return fail(err)
	}
	writes, err := bigquery.NewIamMember(ctx, name+"-writes", &bigquery.IamMemberArgs{
		Project: pulumi.String(stack.Project), DatasetId: l.DatasetID, TableId: table.TableId,
		Role: pulumi.String("roles/bigquery.dataEditor"), Member: pulumi.String(pubsubAgent(stack)),
	}, stack.In(l, pulumi.DependsOn(after)))
	if err != nil {
		return fail(err)
	}
	gives, err := pubsub.NewTopicIAMMember(ctx, name+"-gives-up", &pubsub.TopicIAMMemberArgs{
		Project: pulumi.String(stack.Project), Topic: letters.Name,
		Role: pulumi.String("roles/pubsub.publisher"), Member: pulumi.String(pubsubAgent(stack)),
	}, stack.In(l, pulumi.DependsOn(after)))
	if err != nil {
		return fail(err)
	}
	subscription, err := pubsub.NewSubscription(ctx, name, &pubsub.SubscriptionArgs{
		Project: pulumi.String(stack.Project), Name: pulumi.String(stack.Named(what + "-bigquery")), Topic: from.ID(),
		Labels: stack.Labels("prediction-log"),
		BigqueryConfig: &pubsub.SubscriptionBigqueryConfigArgs{
			Table:          pulumi.Sprintf("%s.%s.%s", stack.Project, l.DatasetID, table.TableId),
			UseTableSchema: pulumi.Bool(true),
			// A server that is newer than the table goes on being logged.
			DropUnknownFields: pulumi.Bool(true),
		},
		MessageRetentionDuration: pulumi.String(longestBacklog),
		ExpirationPolicy:         &pubsub.SubscriptionExpirationPolicyArgs{Ttl: pulumi.String("")}, // never
		RetryPolicy:              &pubsub.SubscriptionRetryPolicyArgs{MinimumBackoff: pulumi.String("10s"), MaximumBackoff: pulumi.String("600s")},
		// With these pauses some two hours: longer than most disturbances of BigQuery's.
		DeadLetterPolicy: &pubsub.SubscriptionDeadLetterPolicyArgs{DeadLetterTopic: letters.ID(), MaxDeliveryAttempts: pulumi.Int(20)},
	}, stack.In(l, stack.Kept(), pulumi.DependsOn([]pulumi.Resource{writes, gives})))
	if err != nil {
		return fail(err)
	}
	// To hand a message on Pub/Sub has to take it from the subscription.
	if _, err := pubsub.NewSubscriptionIAMMember(ctx, name+"-takes", &pubsub.SubscriptionIAMMemberArgs{
		Project: pulumi.String(stack.Project), Subscription: subscription.Name,
		Role: pulumi.String("roles/pubsub.subscriber"), Member: pulumi.String(pubsubAgent(stack)),
	}, stack.In(l)); err != nil {
		return fail(err)
	}
	if _, err = pubsub.NewTopicIAMMember(ctx, name+"-writer", &pubsub.TopicIAMMemberArgs{
		Project: pulumi.String(stack.Project), Topic: from.Name, Role: pulumi.String("roles/pubsub.publisher"), Member: member(args.Writer),
	}, stack.In(l)); err != nil {
		return fail(err)
	}
	return from, deadLetters, nil
}

const (
	// longestBacklog is the longest that a subscription keeps what nobody took: a week.
	longestBacklog = "604800s"
	// letterRetention is the longest that a topic keeps what was published: 31 days. A
	// subscription can be wound back to then.
	letterRetention = "2678400s"
)

// newLetterbox makes the subscription that keeps a topic's dead letters until somebody
// looks after them. Without one they would be lost.
func newLetterbox(ctx *pulumi.Context, name, what, component string, letters *pubsub.Topic, parent pulumi.Resource, stack *Stack) (*pubsub.Subscription, error) {
	return pubsub.NewSubscription(ctx, name, &pubsub.SubscriptionArgs{
		Project: pulumi.String(stack.Project), Name: pulumi.String(stack.Named(what)), Topic: letters.ID(), Labels: stack.Labels(component),
		MessageRetentionDuration: pulumi.String(longestBacklog), AckDeadlineSeconds: pulumi.Int(60),
		ExpirationPolicy: &pubsub.SubscriptionExpirationPolicyArgs{Ttl: pulumi.String("")},
	}, stack.In(parent, stack.Kept()))
}
