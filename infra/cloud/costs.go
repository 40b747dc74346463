package main

import (
	"fmt"
	"strconv"
	"strings"
)

// List prices of europe-west4 in US dollars, as of November 2026, without free tiers, taxes and
// network traffic. TestReferenceCosts generates the tables of docs/explanation/costs.md from them.
const (
	perVCPUSecond     = 0.000018 // Cloud Run, instance-based billing
	perGiBSecond      = 0.000002
	perMillionSamples = 0.06 // Managed Service for Prometheus
	perPublishedTiB   = 40.0 // Pub/Sub
	perWrittenTiB     = 50.0 // Pub/Sub, BigQuery subscriptions
	perTableGiB       = 0.02 // BigQuery, active storage, per month
	perObjectGiB      = 0.02 // Cloud Storage, standard, per month
	perImageGiB       = 0.10 // Artifact Registry, per month
	perScan           = 0.26 // vulnerability scan of a pushed image
	perSecret         = 0.06 // Secret Manager, per version and month
	perSchedule       = 0.10 // Cloud Scheduler, per job and month

	perForwardingHour = 0.025 // up to five forwarding rules, per hour
	perArmorPolicy    = 5.0   // Cloud Armor, per month
	perArmorRule      = 1.0   // per month
)

// Quantities assumed in the estimates.
const (
	month         = 30 * 24 * 3600 // seconds
	collectorCPU  = 1.0            // cores of the sidecar
	collectorGiB  = 0.5
	samplesMonth  = 600 * month / 30 // per instance: 600 series, one sample every 30 s
	storedGiB     = 2.5              // in the bucket, and the same in the registry
	secrets       = 2
	schedules     = 1
	perSecond     = 50  // predictions per instance
	recordKB      = 1.5 // per logged prediction
	predictionsIn = 1e6
)

// item is a line of an estimate.
type item struct {
	what    string
	dollars float64
}

// instances returns the number of instances of an idle stack.
func (f *stackFile) instances() float64 {
	n, _ := strconv.ParseFloat(f.get("fakeart:minInstances"), 64)
	if n == 0 && f.is("fakeart:public", false) {
		n = 1 // the uptime check keeps one instance running
	}
	return n
}

// secondOfInstance returns the price of an instance per second, with its sidecar.
func (f *stackFile) secondOfInstance() float64 {
	cpu, err := strconv.ParseFloat(f.get("fakeart:cpu"), 64)
	if err != nil {
		cpu = 1
	}
	return (cpu+collectorCPU)*perVCPUSecond + (gibibytes(f.get("fakeart:memory"))+collectorGiB)*perGiBSecond
}

// gibibytes returns the number of GiB in a quantity such as 512Mi, or 0.5 if it is empty or invalid.
func gibibytes(text string) float64 {
	for suffix, unit := range map[string]float64{"Mi": 1.0 / 1024, "Gi": 1} {
		if number, ok := strings.CutSuffix(text, suffix); ok {
			if n, err := strconv.ParseFloat(number, 64); err == nil {
				return n * unit
			}
		}
	}
	return 0.5
}

// idle estimates the monthly costs of a stack without requests.
func (f *stackFile) idle() []item {
	n := f.instances()
	items := []item{
		{"Cloud Run", n * month * f.secondOfInstance()},
		{"metrics: 600 series, a sample every 30 s, per instance", n * samplesMonth / 1e6 * perMillionSamples},
		{"bucket and registry, 5 GiB together", storedGiB * (perObjectGiB + perImageGiB)},
		{"two secrets, one scheduled job", secrets*perSecret + schedules*perSchedule},
		{"training job, while it isn't running", 0},
	}
	if f.get("fakeart:loadBalancer") != "" {
		items = append(items, item{"load balancer with Cloud Armor", sum(balancer())})
	}
	return items
}

// balancer estimates the monthly costs of a load balancer with the default rules, without traffic.
func balancer() []item {
	const preconfigured, others = 4, 2 // others: the rate limit and the default rule
	return []item{
		{"two forwarding rules (up to five cost the same)", perForwardingHour * month / 3600},
		{"Cloud Armor: a policy with four preconfigured rules, the rate limit and the default rule", perArmorPolicy + (preconfigured+others)*perArmorRule},
		{"managed certificate, address in use, Identity-Aware Proxy", 0},
	}
}

// perMillion estimates the costs of a million predictions.
func (f *stackFile) perMillion() []item {
	seconds := predictionsIn / perSecond
	const gibi, tebi = 1 << 30, 1 << 40
	bytes := predictionsIn * recordKB * 1000
	return []item{
		{"Cloud Run, 20,000 s of an instance (no extra cost if one always runs)", seconds * f.secondOfInstance()},
		{"Pub/Sub in and out to BigQuery, 1.5 kB per record", bytes / tebi * (perPublishedTiB + perWrittenTiB)},
		{"BigQuery storage, 1.5 GB for a month (`logDays` limits it)", bytes / gibi * perTableGiB},
		{"metrics of 5.6 hours", seconds / month * samplesMonth / 1e6 * perMillionSamples},
	}
}

func sum(items []item) (dollars float64) {
	for _, i := range items {
		dollars += i.dollars
	}
	return dollars
}

// cost returns the estimate as text.
func (f *stackFile) cost() string {
	return fmt.Sprintf("about $%.2f per month while idle, $%.2f per million predictions (list prices; docs/explanation/costs.md)", sum(f.idle()), sum(f.perMillion()))
}
