package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/bigquery"
	"github.com/pulumi/pulumi-gcp/sdk/v7/go/gcp/storage"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// checkExisting looks up the existing bucket and dataset that the stack is configured to use, and
// reports settings that don't work. It runs before any resource is created. An account without
// permission to see them, such as GitHub's deployer, may not change them either, so that the
// check is skipped.
func checkExisting(ctx *pulumi.Context, c *Config, projectNumber string) error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{key}, args...)...))
	}
	if c.Bucket != "" {
		bucket, err := storage.LookupBucket(ctx, &storage.LookupBucketArgs{Name: c.Bucket})
		switch {
		case hidden(err):
		case err != nil:
			bad("fakeart:bucket", "look up %s: %s\nhint: create the bucket first, in %s, or remove the key", c.Bucket, reason(err), c.Region)
		case strconv.Itoa(bucket.ProjectNumber) != projectNumber:
			bad("fakeart:bucket", "%s belongs to another project (%d): its events can't start the jobs; expected a bucket of %s", c.Bucket, bucket.ProjectNumber, c.Project)
		case !strings.EqualFold(bucket.Location, c.Region):
			bad("fakeart:bucket", "%s is in %s: its events can't start the jobs; expected a bucket in %s", c.Bucket, bucket.Location, c.Region)
		case !bucket.UniformBucketLevelAccess:
			bad("fakeart:bucket", "%s has access lists (ACLs) on objects\nhint: gcloud storage buckets update gs://%s --uniform-bucket-level-access", c.Bucket, c.Bucket)
		}
	}
	if c.Dataset != "" {
		dataset, err := bigquery.LookupDataset(ctx, &bigquery.LookupDatasetArgs{DatasetId: c.Dataset, Project: &c.Project})
		switch {
		case hidden(err):
		case err != nil:
			bad("fakeart:dataset", "look up %s: %s\nhint: create the dataset first, in %s, or remove the key", c.Dataset, reason(err), c.Region)
		case !strings.EqualFold(dataset.Location, c.Region):
			bad("fakeart:dataset", "%s is in %s: expected a dataset in %s, where the queries run", c.Dataset, dataset.Location, c.Region)
		case keyOf(dataset) != c.KMSKey:
			bad("fakeart:dataset", "the tables of %s are encrypted with %s, but fakeart:kmsKey is %s\nhint: bq update --default_kms_key KEY %s:%s, or change fakeart:kmsKey",
				c.Dataset, keyText(keyOf(dataset)), keyText(c.KMSKey), c.Project, c.Dataset)
		case dataset.DefaultTableExpirationMs > 0:
			bad("fakeart:dataset", "%s deletes its tables after %d ms\nhint: bq update --default_table_expiration 0 %s:%s", c.Dataset, dataset.DefaultTableExpirationMs, c.Project, c.Dataset)
		}
	}
	return errors.Join(errs...)
}

// reason returns the provider's message of a failed lookup, without the prefixes that Pulumi
// adds.
func reason(err error) string {
	text := strings.TrimSpace(err.Error())
	if i := strings.LastIndex(text, "* "); i >= 0 {
		text = text[i+len("* "):]
	}
	return text
}

// hidden reports whether a lookup failed for lack of permission.
func hidden(err error) bool { return err != nil && strings.Contains(err.Error(), "Error 403") }
