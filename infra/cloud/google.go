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

// cloud is a Google Cloud project, as its APIs show it to the account that is logged in.
type cloud struct {
	project string
	// account is who is logged in, as policies name accounts: user:…, serviceAccount:…;
	// empty if unknown.
	account string

	credentials *google.Credentials
	base        http.RoundTripper
	client      *http.Client
	wait        func(context.Context, time.Duration) error
	// patience is how often a request is repeated that an API refuses because it isn't
	// enabled: enabling one takes minutes to reach all of Google's servers.
	patience int
}

const scope = "https://www.googleapis.com/auth/cloud-platform"

// login finds the application default credentials and gets a first token with them.
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
		client: &http.Client{Transport: billed{project, &oauth2.Transport{Source: credentials.TokenSource, Base: base}}},
	}, nil
}

// billed has requests counted, and refused, in the stack's project. Without it they would
// be those of gcloud's own project, in which not every API is enabled.
type billed struct {
	project string
	next    http.RoundTripper
}

func (b billed) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Goog-User-Project", b.project)
	return b.next.RoundTrip(r)
}

// accountOf returns whose credentials and token these are, or "".
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

// member is the account for commands that grant it something.
func (c *cloud) member() string {
	if c.account == "" {
		return "user:YOU@example.com"
	}
	return c.account
}

func (c *cloud) option() option.ClientOption { return option.WithHTTPClient(c.client) }

// reason returns the reason that Google's error gives, such as SERVICE_DISABLED, or "".
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

// status returns the HTTP status of Google's error, or 0.
func status(err error) int {
	var e *googleapi.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// plain is an error of Google's without its envelope.
func plain(err error) error {
	var e *googleapi.Error
	if errors.As(err, &e) && e.Message != "" {
		return fmt.Errorf("%s (HTTP %d)", e.Message, e.Code)
	}
	return err
}

// try makes a request, again while the API isn't enabled everywhere.
func (c *cloud) try(ctx context.Context, request func() error) error {
	for i := 0; ; i++ {
		err := request()
		if reason(err) != "SERVICE_DISABLED" || i >= c.patience {
			return err
		}
		if err := c.wait(ctx, 10*time.Second); err != nil {
			return err
		}
	}
}

// disabled returns which of these APIs the project hasn't enabled.
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

// enable enables APIs, and waits until that is done.
func (c *cloud) enable(ctx context.Context, apis []string) error {
	service, err := serviceusage.NewService(ctx, c.option())
	if err != nil {
		return err
	}
	op, err := service.Services.BatchEnable("projects/"+c.project, &serviceusage.BatchEnableServicesRequest{ServiceIds: apis}).Context(ctx).Do()
	for tries := 0; err == nil && !op.Done; tries++ {
		if tries > 150 {
			return fmt.Errorf("enable %s: not done after five minutes; run the command again", strings.Join(apis, ", "))
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
	c.patience = 30
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

// lacking returns which of these permissions the account doesn't have on the project.
func (c *cloud) lacking(ctx context.Context, permissions []string) ([]string, error) {
	service, err := cloudresourcemanager.NewService(ctx, c.option())
	if err != nil {
		return nil, err
	}
	lacking := slices.Clone(permissions)
	for part := range slices.Chunk(permissions, 100) { // the API's limit
		err := c.try(ctx, func() error {
			got, err := service.Projects.TestIamPermissions("projects/"+c.project, &cloudresourcemanager.TestIamPermissionsRequest{Permissions: part}).Context(ctx).Do()
			if err == nil {
				lacking = slices.DeleteFunc(lacking, func(p string) bool { return slices.Contains(got.Permissions, p) })
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return lacking, nil
}

// billing returns the billing account that pays for the project, XXXXXX-XXXXXX-XXXXXX, and
// whether it can: an account may be closed.
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

// lackingOnBilling is like lacking, for a billing account.
func (c *cloud) lackingOnBilling(ctx context.Context, account string, permissions []string) ([]string, error) {
	service, err := cloudbilling.NewService(ctx, c.option())
	if err != nil {
		return nil, err
	}
	lacking := slices.Clone(permissions)
	return lacking, c.try(ctx, func() error {
		got, err := service.BillingAccounts.TestIamPermissions("billingAccounts/"+account, &cloudbilling.TestIamPermissionsRequest{Permissions: permissions}).Context(ctx).Do()
		if err == nil {
			lacking = slices.DeleteFunc(lacking, func(p string) bool { return slices.Contains(got.Permissions, p) })
		}
		return err
	})
}

// bucketExists reports whether the account sees a bucket.
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

// upload writes a file to an object that must not exist yet.
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

// serviceURL returns Cloud Run's own address of a service.
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

// unseen returns the metrics of the objectives that Cloud Monitoring has never received
// from the project.
func (c *cloud) unseen(ctx context.Context) ([]string, error) {
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
		return missing, nil // a project that has no monitoring has no metrics
	}
	return missing, err
}

const prometheus = "prometheus.googleapis.com/"

// metricsOf returns the types of the metrics that objectives are about.
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

// accessToken returns a token for Google's registries, whose user name for it is
// oauth2accesstoken.
func (c *cloud) accessToken() (string, error) {
	token, err := c.credentials.TokenSource.Token()
	if err != nil {
		return "", err
	}
	return token.AccessToken, nil
}

// identityToken returns a token by which Cloud Run knows the account at a service.
func (c *cloud) identityToken(ctx context.Context, audience string) (string, error) {
	var file struct{ Type string }
	_ = json.Unmarshal(c.credentials.JSON, &file)
	if file.Type == "authorized_user" {
		// Cloud Run accepts the token of a user's login, as `gcloud run services proxy` sends it.
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
