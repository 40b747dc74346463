package main

import (
	"fmt"
	"strconv"
	"strings"
)

// Prices of europe-west4 in US dollars, as known in November 2026, without free
// allowances, taxes and network traffic. docs/explanation/costs.md is made from them.
const (
	perVCPUSecond     = 0.000018 // Cloud Run, instance-based billing
	perGiBSecond      = 0.000002
	perMillionSamples = 0.06 // Managed Service for Prometheus
	perPublishedTiB   = 40.0 // Pub/Sub
	perWrittenTiB     = 50.0 // its subscriptions to BigQuery
	perTableGiB       = 0.02 // BigQuery, active, a month
	perObjectGiB      = 0.02 // Cloud Storage, standard, a month
	perImageGiB       = 0.10 // Artifact Registry, a month
	perScan           = 0.26 // of an image that is pushed
	perSecret         = 0.06 // Secret Manager, a version and month
	perSchedule       = 0.10 // Cloud Scheduler, a job and month

	perForwardingHour = 0.025 // up to five forwarding rules together
	perArmorPolicy    = 5.0   // Cloud Armor, a month
	perArmorRule      = 1.0
)

// Quantities that the estimates are made of.
const (
	month         = 30 * 24 * 3600 // seconds
	collectorCPU  = 1.0            // of the container beside the server
	collectorGiB  = 0.5
	samplesMonth  = 600 * month / 30 // of an instance: 600 series, one sample every 30 s
	storedGiB     = 2.5              // in the bucket, and as much in the registry
	secrets       = 2
	schedules     = 1
	perSecond     = 50  // predictions of one instance
	recordKB      = 1.5 // of a prediction in the log
	predictionsIn = 1e6
)

// item is a line of an estimate.
type item struct {
	what    string
	dollars float64
}

// instances is how many instances a stack has while nobody calls it.
func (f *stackFile) instances() float64 {
	n, _ := strconv.ParseFloat(f.get("fakeart:minInstances"), 64)
	if n == 0 && f.is("fakeart:public", false) {
		n = 1 // the uptime check keeps one awake
	}
	return n
}

// secondOfInstance is what a second of an instance costs.
func (f *stackFile) secondOfInstance() float64 {
	cpu, err := strconv.ParseFloat(f.get("fakeart:cpu"), 64)
	if err != nil {
		cpu = 1
	}
	return (cpu+collectorCPU)*perVCPUSecond + (gibibytes(f.get("fakeart:memory"))+collectorGiB)*perGiBSecond
}

// gibibytes is what a text such as 512Mi means; 0.5 without one.
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

// idle is what the stack costs a month while nobody calls it.
func (f *stackFile) idle() []item {
	n := f.instances()
	items := []item{
		{"Cloud Run", n * month * f.secondOfInstance()},
		{"metrics: 600 series, a sample every 30 s, per instance", n * samplesMonth / 1e6 * perMillionSamples},
		{"bucket and registry, 5 GiB together", storedGiB * (perObjectGiB + perImageGiB)},
		{"two secrets, one scheduled job", secrets*perSecret + schedules*perSchedule},
		{"training job, until it runs", 0},
	}
	if f.get("fakeart:loadBalancer") != "" {
		items = append(items, item{"load balancer with Cloud Armor", sum(balancer())})
	}
	return items
}

// balancer is what a load balancer with the default rules costs a month, without traffic.
func balancer() []item {
	const preconfigured, others = 4, 2 // the limit per client, and the default rule
	return []item{
		{"two forwarding rules (up to five cost the same)", perForwardingHour * month / 3600},
		{"Cloud Armor: a policy, and four preconfigured rules, the limit and the default rule", perArmorPolicy + (preconfigured+others)*perArmorRule},
		{"managed certificate, address in use, Identity-Aware Proxy", 0},
	}
}

// perMillion is what a million predictions cost.
func (f *stackFile) perMillion() []item {
	seconds := predictionsIn / perSecond
	const gibi, tebi = 1 << 30, 1 << 40
	bytes := predictionsIn * recordKB * 1000
	return []item{
		{"Cloud Run, 20,000 s of an instance (nothing more where one is always there)", seconds * f.secondOfInstance()},
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

// cost is the estimate in words.
func (f *stackFile) cost() string {
	return fmt.Sprintf("about $%.2f per month while idle, $%.2f per million predictions (list prices; docs/explanation/costs.md)", sum(f.idle()), sum(f.perMillion()))
}
