package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"google.golang.org/api/cloudbilling/v1"
	"google.golang.org/api/cloudresourcemanager/v3"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/idtoken"
	"google.golang.org/api/monitoring/v3"
	"google.golang.org/api/option"
	cloudrun "google.golang.org/api/run/v2"
	"google.golang.org/api/serviceusage/v1"
	"google.golang.org/api/storage/v1"

	"fakeart/monitoring/slo"
)

// cloud calls the APIs of a Google Cloud project with the current login.
type cloud struct {
	project string
	// account is the current login as an IAM member, user:… or serviceAccount:…. It is empty if
	// unknown.
	account string

	credentials *google.Credentials
	base        http.RoundTripper
	client      *http.Client
	wait        func(context.Context, time.Duration) error
	// retries is how often a request is retried that fails because its API isn't enabled. After an
	// API is enabled, it takes minutes until all of Google's servers know it.
	retries int
}

const scope = "https://www.googleapis.com/auth/cloud-platform"

// login finds the application default credentials and gets a first token, which checks them.
func login(ctx context.Context, project string, base http.RoundTripper, wait func(context.Context, time.Duration) error) (*cloud, error) {
	ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: base})
	credentials, err := google.FindDefaultCredentials(ctx, scope)
	if err != nil {
		return nil, err
	}
	token, err := credentials.TokenSource.Token()
	if err != nil {
		return nil, err
	}
	return &cloud{
		project: project, account: accountOf(credentials.JSON, token), credentials: credentials, base: base, wait: wait,
		client: &http.Client{Transport: quotaProject{project, &oauth2.Transport{Source: credentials.TokenSource, Base: base}}},
	}, nil
}

// quotaProject sets the quota project of requests to the stack's project. Otherwise it would be
// gcloud's own project, in which not every API is enabled.
type quotaProject struct {
	project string
	next    http.RoundTripper
}

func (q quotaProject) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Goog-User-Project", q.project)
	return q.next.RoundTrip(r)
}

// accountOf returns the account of credentials and a token as an IAM member, or "" if unknown.
func accountOf(credentials []byte, token *oauth2.Token) string {
	var file struct {
		Mail string `json:"client_email"`
	}
	if json.Unmarshal(credentials, &file) == nil && file.Mail != "" {
		return "serviceAccount:" + file.Mail
	}
	id, _ := token.Extra("id_token").(string)
	if parts := strings.Split(id, "."); len(parts) == 3 {
		var claims struct{ Email string }
		text, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err == nil && json.Unmarshal(text, &claims) == nil && claims.Email != "" {
			return "user:" + claims.Email
		}
	}
	return ""
}

// member returns the account, or a placeholder if it is unknown, for commands that grant it a role.
func (c *cloud) member() string {
	if c.account == "" {
		return "user:YOU@example.com"
	}
	return c.account
}

func (c *cloud) option() option.ClientOption { return option.WithHTTPClient(c.client) }

// reason returns the reason in an error of Google's APIs, such as SERVICE_DISABLED, or "".
func reason(err error) string {
	var e *googleapi.Error
	if !errors.As(err, &e) {
		return ""
	}
	for _, detail := range e.Details {
		if d, ok := detail.(map[string]any); ok && d["reason"] != nil {
			return fmt.Sprint(d["reason"])
		}
	}
	if len(e.Errors) > 0 && e.Errors[0].Reason == "accessNotConfigured" {
		return "SERVICE_DISABLED"
	}
	return ""
}

// status returns the HTTP status of an error of Google's APIs, or 0.
func status(err error) int {
	var e *googleapi.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// plain returns an error with only the message and status of an error of Google's APIs. It returns
// other errors unchanged.
func plain(err error) error {
	var e *googleapi.Error
	if errors.As(err, &e) && e.Message != "" {
		return fmt.Errorf("%s (HTTP %d)", e.Message, e.Code)
	}
	return err
}

// try calls request, and retries it up to c.retries times while its API isn't enabled everywhere.
func (c *cloud) try(ctx context.Context, request func() error) error {
	for i := 0; ; i++ {
		err := request()
		if reason(err) != "SERVICE_DISABLED" || i >= c.retries {
			return err
		}
		if err := c.wait(ctx, 10*time.Second); err != nil {
			return err
		}
	}
}

// disabled returns those of the APIs that aren't enabled in the project.
func (c *cloud) disabled(ctx context.Context, apis []string) ([]string, error) {
	service, err := serviceusage.NewService(ctx, c.option())
	if err != nil {
		return nil, err
	}
	var names []string
	for _, api := range apis {
		names = append(names, "projects/"+c.project+"/services/"+api)
	}
	got, err := service.Services.BatchGet("projects/" + c.project).Names(names...).Context(ctx).Do()
	if err != nil {
		return nil, err
	}
	off := slices.Clone(apis)
	for _, s := range got.Services {
		if s.State == "ENABLED" {
			off = slices.DeleteFunc(off, func(api string) bool { return api == path.Base(s.Name) })
		}
	}
	return off, nil
}

// enable enables APIs and waits for the operation, up to five minutes.
func (c *cloud) enable(ctx context.Context, apis []string) error {
	service, err := serviceusage.NewService(ctx, c.option())
	if err != nil {
		return err
	}
	op, err := service.Services.BatchEnable("projects/"+c.project, &serviceusage.BatchEnableServicesRequest{ServiceIds: apis}).Context(ctx).Do()
	for tries := 0; err == nil && !op.Done; tries++ {
		if tries > 150 {
			return fmt.Errorf("enable %s: not done after five minutes\nhint: run the command again", strings.Join(apis, ", "))
		}
		if err := c.wait(ctx, 2*time.Second); err != nil {
			return err
		}
		op, err = service.Operations.Get(op.Name).Context(ctx).Do()
	}
	if err == nil && op.Error != nil {
		err = errors.New(op.Error.Message)
	}
	if err != nil {
		return fmt.Errorf("enable %s: %w", strings.Join(apis, ", "), plain(err))
	}
	c.retries = 30
	return nil
}

// state returns the project's state, ACTIVE or DELETE_REQUESTED.
func (c *cloud) state(ctx context.Context) (state string, err error) {
	service, err := cloudresourcemanager.NewService(ctx, c.option())
	if err != nil {
		return "", err
	}
	return state, c.try(ctx, func() error {
		project, err := service.Projects.Get("projects/" + c.project).Context(ctx).Do()
		if err == nil {
			state = project.State
		}
		return err
	})
}

// missingPermissions returns those of the permissions that the account lacks on the project.
func (c *cloud) missingPermissions(ctx context.Context, permissions []string) ([]string, error) {
	service, err := cloudresourcemanager.NewService(ctx, c.option())
	if err != nil {
		return nil, err
	}
	missing := slices.Clone(permissions)
	for part := range slices.Chunk(permissions, 100) { // the API's limit
		err := c.try(ctx, func() error {
			got, err := service.Projects.TestIamPermissions("projects/"+c.project, &cloudresourcemanager.TestIamPermissionsRequest{Permissions: part}).Context(ctx).Do()
			if err == nil {
				missing = slices.DeleteFunc(missing, func(p string) bool { return slices.Contains(got.Permissions, p) })
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return missing, nil
}

// billing returns the billing account of the project, XXXXXX-XXXXXX-XXXXXX, and whether billing is
// enabled: an account may be closed.
func (c *cloud) billing(ctx context.Context) (account string, enabled bool, err error) {
	service, err := cloudbilling.NewService(ctx, c.option())
	if err != nil {
		return "", false, err
	}
	return account, enabled, c.try(ctx, func() error {
		info, err := service.Projects.GetBillingInfo("projects/" + c.project).Context(ctx).Do()
		if err == nil {
			account, enabled = strings.TrimPrefix(info.BillingAccountName, "billingAccounts/"), info.BillingEnabled
		}
		return err
	})
}

// missingBillingPermissions is like missingPermissions, for a billing account.
func (c *cloud) missingBillingPermissions(ctx context.Context, account string, permissions []string) ([]string, error) {
	service, err := cloudbilling.NewService(ctx, c.option())
	if err != nil {
		return nil, err
	}
	missing := slices.Clone(permissions)
	return missing, c.try(ctx, func() error {
		got, err := service.BillingAccounts.TestIamPermissions("billingAccounts/"+account, &cloudbilling.TestIamPermissionsRequest{Permissions: permissions}).Context(ctx).Do()
		if err == nil {
			missing = slices.DeleteFunc(missing, func(p string) bool { return slices.Contains(got.Permissions, p) })
		}
		return err
	})
}

// bucketExists reports whether a bucket exists.
func (c *cloud) bucketExists(ctx context.Context, bucket string) (bool, error) {
	service, err := storage.NewService(ctx, c.option())
	if err != nil {
		return false, err
	}
	err = c.try(ctx, func() error {
		_, err := service.Buckets.Get(bucket).Context(ctx).Do()
		return err
	})
	if status(err) == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}

// models returns the names of the model files in a folder of a bucket.
func (c *cloud) models(ctx context.Context, bucket, folder string) (names []string, err error) {
	service, err := storage.NewService(ctx, c.option())
	if err != nil {
		return nil, err
	}
	return names, c.try(ctx, func() error {
		names = nil
		return service.Objects.List(bucket).Prefix(folder).Fields("items/name", "nextPageToken").Pages(ctx, func(page *storage.Objects) error {
			for _, o := range page.Items {
				if strings.HasSuffix(o.Name, ".onnx") {
					names = append(names, o.Name)
				}
			}
			return nil
		})
	})
}

// upload uploads a file to an object. It returns an error if the object exists.
func (c *cloud) upload(ctx context.Context, file, bucket, object string) error {
	service, err := storage.NewService(ctx, c.option())
	if err != nil {
		return err
	}
	content, err := os.Open(file)
	if err != nil {
		return err
	}
	defer content.Close()
	_, err = service.Objects.Insert(bucket, &storage.Object{Name: object}).IfGenerationMatch(0).Media(content).Context(ctx).Do()
	if err != nil {
		return fmt.Errorf("upload %s to gs://%s/%s: %w", file, bucket, object, plain(err))
	}
	return nil
}

// serviceURL returns the run.app URL of a Cloud Run service.
func (c *cloud) serviceURL(ctx context.Context, region, name string) (string, error) {
	service, err := cloudrun.NewService(ctx, c.option())
	if err != nil {
		return "", err
	}
	got, err := service.Projects.Locations.Services.Get("projects/" + c.project + "/locations/" + region + "/services/" + name).Context(ctx).Do()
	if err != nil {
		return "", fmt.Errorf("look up service %s: %w", name, plain(err))
	}
	return got.Uri, nil
}

// missingMetrics returns the types of the metrics used by SLOs that Cloud Monitoring has never
// received from the project.
func (c *cloud) missingMetrics(ctx context.Context) ([]string, error) {
	objectives, err := slo.Load()
	if err != nil {
		return nil, err
	}
	missing := metricsOf(objectives)
	service, err := monitoring.NewService(ctx, c.option())
	if err != nil {
		return nil, err
	}
	err = service.Projects.MetricDescriptors.List("projects/"+c.project).Filter(`metric.type = starts_with("`+prometheus+`fakeart_")`).
		Pages(ctx, func(page *monitoring.ListMetricDescriptorsResponse) error {
			for _, d := range page.MetricDescriptors {
				missing = slices.DeleteFunc(missing, func(m string) bool { return m == d.Type })
			}
			return nil
		})
	if reason(err) == "SERVICE_DISABLED" {
		return missing, nil // without the Monitoring API, the project has no metrics
	}
	return missing, err
}

const prometheus = "prometheus.googleapis.com/"

// metricsOf returns the Cloud Monitoring types of the metrics that objectives use.
func metricsOf(objectives []slo.Objective) (types []string) {
	add := func(metric, kind string) {
		if name := prometheus + metric + "/" + kind; !slices.Contains(types, name) {
			types = append(types, name)
		}
	}
	for _, o := range objectives {
		if o.Latency != nil {
			add(o.Latency.Histogram.Metric, "histogram")
			continue
		}
		for _, s := range []*slo.Selector{&o.Total, o.Good, o.Bad} {
			if s != nil {
				add(s.Metric, "counter")
			}
		}
	}
	return types
}

// accessToken returns a token for Google's container registries. The user name is
// oauth2accesstoken.
func (c *cloud) accessToken() (string, error) {
	token, err := c.credentials.TokenSource.Token()
	if err != nil {
		return "", err
	}
	return token.AccessToken, nil
}

// identityToken returns a token that authenticates the account at a Cloud Run service. audience is
// the service's URL.
func (c *cloud) identityToken(ctx context.Context, audience string) (string, error) {
	var file struct{ Type string }
	_ = json.Unmarshal(c.credentials.JSON, &file)
	if file.Type == "authorized_user" {
		// Cloud Run accepts the ID token of a user's login. `gcloud run services proxy` also sends it.
		token, err := c.credentials.TokenSource.Token()
		if err != nil {
			return "", err
		}
		if id, ok := token.Extra("id_token").(string); ok && id != "" {
			return id, nil
		}
		return "", errors.New("the login has no identity token\nhint: gcloud auth application-default login")
	}
	source, err := idtoken.NewTokenSource(context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: c.base}), audience)
	if err != nil {
		return "", err
	}
	token, err := source.Token()
	if err != nil {
		return "", err
	}
	return token.AccessToken, nil
}
