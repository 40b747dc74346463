package main

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"fakeart/tools/reference"
)

// readRepoStack reads Pulumi.NAME.yaml of the repository.
func readRepoStack(t *testing.T, name string) *stackFile {
	t.Helper()
	f, err := readStack(filepath.Join("..", "..", "Pulumi."+name+".yaml"), name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// The tables in docs/explanation/costs.md are generated from the prices in costs.go.
func TestReferenceCosts(t *testing.T) {
	const page = "docs/explanation/costs.md"
	reference.Block(t, page, "prices", reference.Table([]string{"price (assumed)", ""}, [][]string{
		{"Cloud Run, instance-based billing", fmt.Sprintf("%.6f per vCPU-second, %.6f per GiB-second; no charge for requests", perVCPUSecond, perGiBSecond)},
		{"Managed Service for Prometheus", fmt.Sprintf("%.2f per million samples", perMillionSamples)},
		{"Pub/Sub, publishing / BigQuery subscription", fmt.Sprintf("%.0f / %.0f per TiB", perPublishedTiB, perWrittenTiB)},
		{"BigQuery storage, active", fmt.Sprintf("%.2f per GiB-month", perTableGiB)},
		{"Cloud Storage, standard", fmt.Sprintf("%.2f per GiB-month", perObjectGiB)},
		{"Artifact Registry / vulnerability scanning", fmt.Sprintf("%.2f per GiB-month / %.2f per image pushed", perImageGiB, perScan)},
		{"Secret Manager", fmt.Sprintf("%.2f per version-month", perSecret)},
		{"Cloud Scheduler", fmt.Sprintf("%.2f per job-month", perSchedule)},
		{"Load balancer: forwarding rules / Cloud Armor", fmt.Sprintf("%.3f per hour / %.2f per policy-month, %.2f per rule-month", perForwardingHour, perArmorPolicy, perArmorRule)},
	}))
	dev, prod := readRepoStack(t, "dev"), readRepoStack(t, "prod")
	var rows [][]string
	d, p := dev.idle(), prod.idle()
	for i := range d {
		rows = append(rows, []string{d[i].what, dollars(d[i].dollars), dollars(p[i].dollars)})
	}
	rows = append(rows, []string{"**total**", "**" + dollars(sum(d)) + "**", "**" + dollars(sum(p)) + "**"})
	reference.Block(t, page, "idle", reference.Table([]string{"per month", "`Pulumi.dev.yaml`", "`Pulumi.prod.yaml`"}, rows))
	rows = nil
	for _, i := range balancer() {
		rows = append(rows, []string{i.what, dollars(i.dollars)})
	}
	rows = append(rows, []string{"**total**", "**" + dollars(sum(balancer())) + "**"})
	reference.Block(t, page, "balancer", reference.Table([]string{"per month", ""}, rows))
	rows = nil
	for _, i := range dev.perMillion() {
		rows = append(rows, []string{i.what, dollars(i.dollars)})
	}
	rows = append(rows, []string{"**total**", "**" + dollars(sum(dev.perMillion())) + "**"})
	reference.Block(t, page, "predictions", reference.Table([]string{"", ""}, rows))
}

func TestIdle_LoadBalancer(t *testing.T) {
	f := &stackFile{config: map[string]any{}}
	without := sum(f.idle())
	f.config["fakeart:loadBalancer"] = map[string]any{}
	if more := sum(f.idle()) - without; math.Abs(more-sum(balancer())) > 1e-6 || more < 20 {
		t.Errorf("load balancer: %.2f, want the sum of balancer()", more)
	}
}

func dollars(amount float64) string {
	if amount == 0 {
		return "0"
	}
	return fmt.Sprintf("%.2f", amount)
}

func TestIdle_CloudRun(t *testing.T) {
	config := func(pairs ...string) *stackFile {
		f := &stackFile{config: map[string]any{}}
		for _, pair := range pairs {
			key, value, _ := strings.Cut(pair, "=")
			f.config["fakeart:"+key] = value
		}
		return f
	}
	instance := 30 * 24 * 3600 * 0.000038
	for name, c := range map[string]struct {
		stack *stackFile
		want  float64 // costs of Cloud Run
	}{
		"no_instances":                     {config(), 0},
		"one_instance":                     {config("minInstances=1"), instance},
		"two_instances":                    {config("minInstances=2"), 2 * instance},
		"public_service_with_uptime_check": {config("public=true"), instance},
		"memory_and_cpu":                   {config("minInstances=1", "memory=2Gi", "cpu=2"), 30 * 24 * 3600 * (3*0.000018 + 2.5*0.000002)},
		"invalid_values":                   {config("minInstances=1", "memory=x", "cpu=x"), instance},
	} {
		if got := c.stack.idle()[0].dollars; math.Abs(got-c.want) > 1e-6 {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
