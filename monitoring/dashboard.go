// Package monitoring has what those who watch Fakeart look at. Its objectives are in
// the folder slo.
package monitoring

import (
	_ "embed" // for the dashboard
	"strings"
)

//go:embed dashboard.json
var dashboard string

// Dashboard is the dashboard of a Cloud Run service whose metrics Google's Managed
// Prometheus collects, in the JSON of Cloud Monitoring's API.
func Dashboard(service string) string { return strings.ReplaceAll(dashboard, "SERVICE", service) }
