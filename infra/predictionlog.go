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

// Schema files of the tables, in the format of BigQuery's API. The server's tests compare them
// with the records that the server writes.
const (
	predictionSchema = "../server/predlog/bigquery-schema.json"
	feedbackSchema   = "../server/predlog/bigquery-feedback-schema.json"
)

// PredictionLog writes the prediction records and the feedback that the server publishes to two
// BigQuery tables. No code runs in between: Pub/Sub's BigQuery subscriptions write the rows.
type PredictionLog struct {
	pulumi.ResourceState

	// Topic and FeedbackTopic are the topics to which the server publishes predictions and feedback.
	Topic, FeedbackTopic *pubsub.Topic
	// Dataset holds the tables predictions and feedback, and the views `daily`, `drift`, `judged`,
	// `confusion` and `class_metrics`. It is nil if the stack uses an existing one.
	Dataset *bigquery.Dataset
	// DatasetID is the dataset's name.
	DatasetID pulumi.StringOutput
	// Table has a row per prediction record. A record that was delivered twice has two rows with the
	// same id.
	Table *bigquery.Table
	// Feedback has a row per feedback. The latest feedback on a prediction counts.
	Feedback *bigquery.Table
	// Drift is the view that compares each day with the four weeks before it.
	Drift *bigquery.Table
	// DeadLetters and FeedbackDeadLetters keep messages that couldn't be written to the tables.
	DeadLetters, FeedbackDeadLetters *pubsub.Subscription
}

// PredictionLogArgs are the arguments of NewPredictionLog.
type PredictionLogArgs struct {
	Stack *Stack
	// Days is the number of days after which records are deleted. 0 keeps them forever.
	Days int
	// KMSKey encrypts topics and tables. If empty, Google manages the key.
	KMSKey string
	// Existing is the name of a dataset to use instead of creating one. It may be empty.
	Existing string
	// Writer is the email address of the server's service account.
	Writer pulumi.StringInput
}

// datasetID returns the name of the dataset that the stack creates. BigQuery doesn't allow dashes.
func datasetID(stack *Stack) string { return strings.ReplaceAll(stack.Prefix, "-", "_") }

// checkDataset returns an error if the stack's dataset exists in another region or with another
// key. Neither can change after a table is created: Pulumi would first create a second table of
// the same name, which fails after other resources have already changed. An account without
// permission to see the dataset may not change it either, so that the check is skipped.
func checkDataset(ctx *pulumi.Context, stack *Stack, key string) error {
	id := datasetID(stack)
	found, err := bigquery.LookupDataset(ctx, &bigquery.LookupDatasetArgs{Project: &stack.Project, DatasetId: id})
	if err != nil {
		return nil // it doesn't exist yet, or isn't visible
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

// keyOf returns the default key for new tables of a dataset, or "" if Google manages it.
func keyOf(dataset *bigquery.LookupDatasetResult) string {
	if encryption := dataset.DefaultEncryptionConfigurations; len(encryption) > 0 {
		return encryption[0].KmsKeyName
	}
	return ""
}

// keyText returns the text for a key in messages.
func keyText(key string) string { return cmp.Or(key, "Google's own key") }

// NewPredictionLog creates the topics, tables, views and the subscriptions that write to the tables.
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

// key grants the use of the key to the service agents of Pub/Sub and BigQuery, which encrypt the
// data.
func (l *PredictionLog) key(ctx *pulumi.Context, name string, args *PredictionLogArgs) (granted []pulumi.Resource, err error) {
	// Pub/Sub's service agent doesn't exist in a new project until it is requested.
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

// pubsubAgent returns the IAM member of Pub/Sub's service agent, which delivers the messages.
func pubsubAgent(stack *Stack) string {
	return "serviceAccount:service-" + stack.Number + "@gcp-sa-pubsub.iam.gserviceaccount.com"
}

// tables creates the dataset, the tables and the views.
func (l *PredictionLog) tables(ctx *pulumi.Context, name string, args *PredictionLogArgs, after []pulumi.Resource) (err error) {
	stack := args.Stack
	if err := l.dataset(ctx, name, args, after); err != nil {
		return err
	}
	if l.Table, err = l.table(ctx, name, "predictions", predictionSchema, "One row per prediction; a record that was delivered twice has two rows with the same id", []string{"model", "label"}, args, after); err != nil {
		return err
	}
	if l.Feedback, err = l.table(ctx, name+"-feedback", "feedback", feedbackSchema, "Feedback on predictions; the latest feedback on a prediction counts", []string{"id"}, args, after); err != nil {
		return err
	}
	made := map[string]*bigquery.Table{"predictions": l.Table, "feedback": l.Feedback}
	for _, view := range []struct {
		name, describes, query string
		from                   []string // the names of the tables and views in the query, in order
	}{
		{"daily", "Number of predictions by day, label and model, without duplicates", dailyQuery, []string{"predictions"}},
		{"drift", "Image statistics and predicted classes of each of the last 90 days, compared with the four weeks before it", driftQuery, []string{"predictions"}},
		{"judged", "Predictions without duplicates, with the latest feedback on each", judgedQuery, []string{"predictions", "feedback"}},
		{"confusion", "Number of predictions with feedback by day, model, predicted label and correct label", confusionQuery, []string{"judged"}},
		{"class_metrics", "Precision and recall of each model and class by the feedback of the last four weeks", classMetricsQuery, []string{"confusion"}},
	} {
		var names []any
		for _, from := range view.from {
			names = append(names, pulumi.Sprintf("%s.%s.%s", stack.Project, l.DatasetID, made[from].TableId))
		}
		if made[view.name], err = bigquery.NewTable(ctx, name+"-"+view.name, &bigquery.TableArgs{
			Project: pulumi.String(stack.Project), DatasetId: l.DatasetID, TableId: pulumi.String(view.name),
			Description: pulumi.String(view.describes), Labels: stack.Labels("prediction-log"),
			View:               &bigquery.TableViewArgs{Query: pulumi.Sprintf(view.query, names...), UseLegacySql: pulumi.Bool(false)},
			DeletionProtection: pulumi.Bool(false), // a view holds no data
		}, stack.In(l)); err != nil {
			return err
		}
	}
	l.Drift = made["drift"]
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
		FriendlyName: pulumi.String(stack.Prefix), Description: pulumi.String("Prediction log of Fakeart"),
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

// table creates a table with the schema of a file, partitioned by day.
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
			// Set even if 0: without a value, the table keeps its current expiration.
			ExpirationMs: pulumi.Int(args.Days * day * 1000),
		},
		Clusterings: pulumi.ToStringArray(clusterings),
		Labels:      stack.Labels("prediction-log"), DeletionProtection: pulumi.Bool(stack.Protect),
	}
	if args.KMSKey != "" {
		// Set on the table as well: if it only inherited the dataset's key, Pulumi would see a
		// difference and replace it.
		table.EncryptionConfiguration = &bigquery.TableEncryptionConfigurationArgs{KmsKeyName: pulumi.String(args.KMSKey)}
	}
	return bigquery.NewTable(ctx, name, table, stack.In(l, stack.Kept(), pulumi.DependsOn(after)))
}

// dailyQuery counts predictions by day, label and model.
const dailyQuery = "SELECT DATE(time) AS day, label, model, COUNT(DISTINCT id) AS predictions, IFNULL(model_name, '') AS model_name\n" +
	"FROM `%s`\n" +
	"GROUP BY 1, 2, 3, 5\n" // not by name: model_name is also a column

// driftQuery compares each day with the 28 days before it, for each name of a model. The column shift is the difference
// between the averages in standard deviations of those 28 days. Unlike the p-value of a test, it
// doesn't depend on the number of images. drifted is true from half a standard deviation on, which
// is visible in a plot of both distributions, and NULL without 100 records of the day and 1,000 before
// it. A difference below 1e-9 is a rounding error.
//
// The statistic label is the distribution of the predicted classes, however many there are. Its shift
// is the total variation distance, half the sum of the differences of all shares, which drifts above
// 0.15 as in the alert on the server's metrics. It also requires 50 records per class.
const driftQuery = "WITH records AS (\n" +
	"  SELECT DATE(time) AS day, IFNULL(model_name, '') AS model_name, model, label, probability, mean, std_dev, brightness, contrast, sharpness, saturation\n" +
	"  FROM `%s`\n" +
	"  WHERE time >= TIMESTAMP_SUB(TIMESTAMP_TRUNC(CURRENT_TIMESTAMP(), DAY), INTERVAL 90 DAY)\n" +
	"  QUALIFY ROW_NUMBER() OVER (PARTITION BY id ORDER BY time) = 1\n" +
	"),\n" + `daily AS (
  SELECT
    day, model_name, statistic, COUNT(*) AS records, COUNT(DISTINCT model) AS models,
    AVG(value) AS average, STDDEV_SAMP(value) AS deviation, SUM(value) AS total, SUM(value * value) AS squares
  FROM records
  UNPIVOT (value FOR statistic IN (probability, mean, std_dev, brightness, contrast, sharpness, saturation))
  GROUP BY day, model_name, statistic
),
sums AS (
  SELECT
    day, model_name, statistic, records, models, average, deviation,
    SUM(records) OVER weeks AS baseline_records, SUM(total) OVER weeks AS baseline_total, SUM(squares) OVER weeks AS baseline_squares
  FROM daily
  WINDOW weeks AS (PARTITION BY model_name, statistic ORDER BY UNIX_DATE(day) RANGE BETWEEN 28 PRECEDING AND 1 PRECEDING)
),
compared AS (
  SELECT
    day, model_name, statistic, records, models, average, deviation, baseline_records,
    SAFE_DIVIDE(baseline_total, baseline_records) AS baseline_average,
    SQRT(GREATEST(SAFE_DIVIDE(baseline_squares, baseline_records) - POW(SAFE_DIVIDE(baseline_total, baseline_records), 2), 0)) AS baseline_deviation
  FROM sums
),
labels AS (
  SELECT day, model_name, label, COUNT(*) AS records FROM records GROUP BY day, model_name, label
),
label_days AS (
  SELECT
    day, model_name, label, IFNULL(records, 0) AS records,
    IFNULL(SUM(records) OVER (PARTITION BY model_name, label ORDER BY UNIX_DATE(day) RANGE BETWEEN 28 PRECEDING AND 1 PRECEDING), 0) AS baseline
  FROM (SELECT DISTINCT day, model_name FROM labels) JOIN (SELECT DISTINCT model_name, label FROM labels) USING (model_name) LEFT JOIN labels USING (day, model_name, label)
),
shares AS (
  SELECT
    day, model_name, records, baseline,
    SAFE_DIVIDE(records, SUM(records) OVER (PARTITION BY day, model_name)) - SAFE_DIVIDE(baseline, SUM(baseline) OVER (PARTITION BY day, model_name)) AS change
  FROM label_days
),
distances AS (
  SELECT day, model_name, SUM(records) AS records, SUM(baseline) AS baseline_records, COUNTIF(records + baseline > 0) AS classes, SUM(ABS(change)) / 2 AS distance
  FROM shares
  GROUP BY day, model_name
)
SELECT
  day, statistic, records, models, average, deviation, baseline_records, baseline_average, baseline_deviation,
  SAFE_DIVIDE(average - baseline_average, baseline_deviation) AS shift,
  IF(
    records >= 100 AND baseline_records >= 1000,
    ABS(average - baseline_average) > 1e-9 AND COALESCE(ABS(SAFE_DIVIDE(average - baseline_average, baseline_deviation)) >= 0.5, FALSE),
    NULL
  ) AS drifted, model_name
FROM compared
UNION ALL
SELECT
  day, 'label', records, models, NULL, NULL, baseline_records, NULL, NULL, distance,
  IF(records >= GREATEST(100, 50 * classes) AND baseline_records >= GREATEST(1000, 50 * classes), distance > 0.15, NULL), model_name
FROM distances JOIN (SELECT day, model_name, COUNT(DISTINCT model) AS models FROM records GROUP BY day, model_name) USING (day, model_name)
`

// judgedQuery returns each prediction once, with the latest feedback on it, if any. The columns have
// the names of the server's exports, so that the trainer can read an export of the view as well.
// Deliveries of a record are identical, so the id determines the time. With the time in PARTITION BY,
// BigQuery reads only the days that a query selects.
const judgedQuery = "SELECT p.*, f.label AS feedback_label, f.comment AS feedback_comment, f.time AS feedback_time\n" +
	"FROM (SELECT * FROM `%s` WHERE TRUE QUALIFY ROW_NUMBER() OVER (PARTITION BY id, time) = 1) AS p\n" +
	"LEFT JOIN (SELECT * FROM `%s` WHERE TRUE QUALIFY ROW_NUMBER() OVER (PARTITION BY id ORDER BY time DESC) = 1) AS f ON f.id = p.id\n"

// confusionQuery counts predictions with feedback by predicted and correct label, as they are in the
// log: the classes of a model needn't be known.
const confusionQuery = "SELECT DATE(time) AS day, model, label, feedback_label, COUNT(*) AS predictions, IFNULL(model_name, '') AS model_name\n" +
	"FROM `%s`\n" +
	"WHERE feedback_label IS NOT NULL\n" +
	"GROUP BY 1, 2, 3, 4, 6\n"

// classMetricsQuery computes the metrics of each class that was predicted or reported by users in the
// last 28 days. A metric is NULL if it is undefined: the precision of a class that was never predicted,
// and the recall of one that was never reported.
const classMetricsQuery = "WITH counts AS (\n" +
	"  SELECT model, model_name, label, feedback_label, predictions FROM `%s` WHERE day > DATE_SUB(CURRENT_DATE(), INTERVAL 28 DAY)\n" +
	"),\n" + `sides AS (
  SELECT model, model_name, label AS class, predictions AS predicted, 0 AS reported, IF(label = feedback_label, predictions, 0) AS correct FROM counts
  UNION ALL
  SELECT model, model_name, feedback_label, 0, predictions, 0 FROM counts
),
classes AS (
  SELECT model, model_name, class, SUM(predicted) AS predicted, SUM(reported) AS reported, SUM(correct) AS correct FROM sides GROUP BY model, model_name, class
)
SELECT
  *, SAFE_DIVIDE(correct, predicted) AS precision, SAFE_DIVIDE(correct, reported) AS recall, SAFE_DIVIDE(2 * correct, predicted + reported) AS f1
FROM classes
`

// stream creates a topic, the subscription that writes its messages to the table, and the
// dead-letter topic and subscription for messages that can't be written.
func (l *PredictionLog) stream(
	ctx *pulumi.Context, name, topicName string, table *bigquery.Table, args *PredictionLogArgs, after []pulumi.Resource,
) (from *pubsub.Topic, deadLetters *pubsub.Subscription, err error) {
	stack := args.Stack
	fail := func(err error) (*pubsub.Topic, *pubsub.Subscription, error) { return nil, nil, err }
	topic := func(suffix, retention string) (*pubsub.Topic, error) {
		t := &pubsub.TopicArgs{
			Project: pulumi.String(stack.Project), Name: pulumi.String(stack.Named(topicName + suffix)), Labels: stack.Labels("prediction-log"),
			// Keep records in the region of the table.
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
	letters, err := topic("-dead-letters", maxRetention)
	if err != nil {
		return fail(err)
	}
	if deadLetters, err = newDeadLetterSubscription(ctx, name+"-dead-letters", topicName+"-dead-letters", "prediction-log", letters, l, stack); err != nil {
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
		Project: pulumi.String(stack.Project), Name: pulumi.String(stack.Named(topicName + "-bigquery")), Topic: from.ID(),
		Labels: stack.Labels("prediction-log"),
		BigqueryConfig: &pubsub.SubscriptionBigqueryConfigArgs{
			Table:          pulumi.Sprintf("%s.%s.%s", stack.Project, l.DatasetID, table.TableId),
			UseTableSchema: pulumi.Bool(true),
			// Accept records of a server that is newer than the table.
			DropUnknownFields: pulumi.Bool(true),
		},
		MessageRetentionDuration: pulumi.String(maxBacklog),
		ExpirationPolicy:         &pubsub.SubscriptionExpirationPolicyArgs{Ttl: pulumi.String("")}, // never
		RetryPolicy:              &pubsub.SubscriptionRetryPolicyArgs{MinimumBackoff: pulumi.String("10s"), MaximumBackoff: pulumi.String("600s")},
		// With this retry policy, about two hours: longer than most BigQuery outages.
		DeadLetterPolicy: &pubsub.SubscriptionDeadLetterPolicyArgs{DeadLetterTopic: letters.ID(), MaxDeliveryAttempts: pulumi.Int(20)},
	}, stack.In(l, stack.Kept(), pulumi.DependsOn([]pulumi.Resource{writes, gives})))
	if err != nil {
		return fail(err)
	}
	// Pub/Sub acknowledges a message on the subscription when it forwards it to the dead-letter topic.
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
	// maxBacklog is the maximum time a subscription keeps undelivered messages: 7 days.
	maxBacklog = "604800s"
	// maxRetention is the maximum time a topic keeps messages: 31 days. A subscription can seek
	// back that far.
	maxRetention = "2678400s"
)

// newDeadLetterSubscription creates a subscription that keeps the messages of a dead-letter topic
// until someone pulls them. Without a subscription they would be lost.
func newDeadLetterSubscription(ctx *pulumi.Context, name, suffix, component string, letters *pubsub.Topic, parent pulumi.Resource, stack *Stack) (*pubsub.Subscription, error) {
	return pubsub.NewSubscription(ctx, name, &pubsub.SubscriptionArgs{
		Project: pulumi.String(stack.Project), Name: pulumi.String(stack.Named(suffix)), Topic: letters.ID(), Labels: stack.Labels(component),
		MessageRetentionDuration: pulumi.String(maxBacklog), AckDeadlineSeconds: pulumi.Int(60),
		ExpirationPolicy: &pubsub.SubscriptionExpirationPolicyArgs{Ttl: pulumi.String("")},
	}, stack.In(parent, stack.Kept()))
}
