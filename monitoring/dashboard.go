// Package monitoring provides the Cloud Monitoring dashboard of a service. Use [Dashboard] to get it
// as JSON. SLOs are defined in the folder slo, Prometheus rules in the folder prometheus.
package monitoring

import (
	_ "embed"
	"strings"
)

//go:embed dashboard.json
var dashboard string

// Dashboard returns the dashboard of a Cloud Run service, in the JSON format of Cloud Monitoring's
// API. The queries use the metrics that Google's Managed Prometheus sidecar collects.
func Dashboard(service string) string { return strings.ReplaceAll(dashboard, "SERVICE", service) }
