package main

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const ownImage = "europe-west4-docker.pkg.dev/my-project-1/fakeart-dev/server@" + digest

func TestUp(t *testing.T) {
	l := newLab(t)
	l.cloud.missingPolls = 3
	l.cloud.unready = 2
	out, err := l.do(l.up)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := []string{
		"images PLATFORMS=linux/amd64", "up", "publish REGISTRY=europe-west4-docker.pkg.dev/my-project-1/fakeart-dev",
		"config set fakeart:image", "config set fakeart:trainerImage", "demo", "up", "up", "config rm fakeart:objectives",
	}
	if !reflect.DeepEqual(l.programs.ran, want) {
		t.Errorf("commands %q, want %q", l.programs.ran, want)
	}
	first, second, third := l.programs.updates[0], l.programs.updates[1], l.programs.updates[2]
	if first["fakeart:image"] != nil || first["fakeart:trainerImage"] != nil {
		t.Errorf("the first update has images that aren't in the registry yet: %v", first)
	}
	if second["fakeart:image"] != ownImage || second["fakeart:objectives"] != "false" {
		t.Errorf("second update = %v", second)
	}
	if third["fakeart:objectives"] != nil || third["fakeart:training"] == nil {
		t.Errorf("third update = %v", third)
	}
	if got := l.cloud.objects["gs://my-bucket/models/production/first.onnx"]; !strings.Contains(got, "a model") {
		t.Errorf("model in the bucket = %q", got)
	}
	for _, line := range []string{
		"ok      login        you@example.com", "service      https://service.run.app", "prediction   FAKE (probability 0.750)",
		"dashboard    https://console/dashboard", "cost         about $0.52 per month while idle", "gcloud run services proxy fakeart-dev-server --region europe-west4 --project my-project-1",
	} {
		if !strings.Contains(out, line) {
			t.Errorf("output doesn't contain %q:\n%s", line, out)
		}
	}

	t.Run("second_run", func(t *testing.T) {
		before, err := os.ReadFile(filepath.Join(l.root, "Pulumi.dev.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		out, err := l.do(l.up)
		if err != nil {
			t.Fatal(err)
		}
		if len(l.programs.ran) > 0 || !strings.Contains(out, "Nothing to change") || !strings.Contains(out, "prediction   FAKE") {
			t.Errorf("commands %q, output\n%s", l.programs.ran, out)
		}
		if after, err := os.ReadFile(filepath.Join(l.root, "Pulumi.dev.yaml")); err != nil || string(after) != string(before) {
			t.Errorf("Pulumi.dev.yaml has changed: %v\n%s", err, after)
		}
		if want := []string{"GET /v2/health/ready", "POST /predict"}; !reflect.DeepEqual(l.cloud.calls, want) {
			t.Errorf("requests %q, want %q", l.cloud.calls, want)
		}
	})
	t.Run("after_down", func(t *testing.T) {
		if _, err := l.do(l.down); err != nil {
			t.Fatal(err)
		}
		clear(l.cloud.objects)
		if out, err := l.do(l.up); err != nil || len(l.programs.updates) != 2 || l.programs.deployed["fakeart:image"] != ownImage {
			t.Errorf("%v, %d updates\n%s", err, len(l.programs.updates), out)
		}
	})
}

func TestUp_ContinuesAfterFailure(t *testing.T) {
	l := newLab(t)
	l.programs.fail = []string{"error: quota exceeded"}
	if _, err := l.do(l.up); err == nil || !strings.Contains(err.Error(), "hint: ") {
		t.Fatalf("error %v", err)
	}
	l.cloud.unready = -1
	if _, err := l.do(l.up); err == nil || !strings.Contains(err.Error(), `/v2/health/ready: 503 Service Unavailable: no model
hint: gcloud run services logs read fakeart-dev-server --region europe-west4 --project my-project-1`) {
		t.Fatalf("error %v", err)
	}
	l.cloud.unready = 0
	out, err := l.do(l.up)
	if err != nil || !strings.Contains(out, "Nothing to change") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestUp_RetriesTransientErrors(t *testing.T) {
	for message, want := range map[string]int{
		"googleapi: Error 403: Cloud Run Admin API has not been used in project 1 before or it is disabled.":                                   5,
		"Error 400: Service account service-1@gcp-sa-eventarc.iam.gserviceaccount.com does not exist.":                                         5,
		"Error 400: Cloud Pub/Sub service account does not have permission to write to table x":                                                5,
		"Error creating Trigger: Error 400: Invalid resource state: Permission denied while using the Eventarc Service Agent.":                 5,
		"Error creating Slo: googleapi: Error 404: The metric referenced by the provided filter is unknown. Check the metric name and labels.": 5,
		"Error 404: Cannot find metric(s) that match type = \"prometheus.googleapis.com/fakeart_requests_total/counter\".":                     5,
		"Error 429: Quota exceeded": 1,
	} {
		l := newLab(t)
		l.programs.fail = []string{message, message}
		_, err := l.do(l.up)
		ups := strings.Count(strings.Join(l.programs.ran, "\n"), "up")
		if ups != want || (err == nil) != (want > 1) {
			t.Errorf("%s: %d updates, error %v", message, ups, err)
		}
	}
	l := newLab(t)
	for range attempts {
		l.programs.fail = append(l.programs.fail, "it is disabled")
	}
	if _, err := l.do(l.up); err == nil {
		t.Error("no error after the last attempt")
	}
}

func TestUp_Objectives(t *testing.T) {
	t.Run("metrics_received_before", func(t *testing.T) {
		l := newLab(t)
		l.cloud.enabled = append(l.cloud.enabled, "monitoring.googleapis.com")
		if out, err := l.do(l.up); err != nil || len(l.programs.updates) != 2 || l.programs.deployed[objectives] != nil {
			t.Errorf("%v, deployed %v\n%s", err, l.programs.deployed, out)
		}
		if f, _ := readStack(filepath.Join(l.root, "Pulumi.dev.yaml"), "dev"); f.get(objectives) != "" {
			t.Errorf("Pulumi.dev.yaml still sets %s", objectives)
		}
	})
	t.Run("metrics_timeout", func(t *testing.T) {
		l := newLab(t)
		l.cloud.missingPolls = -1
		out, err := l.do(l.up)
		if err != nil || !strings.Contains(out, "Not received yet: prometheus.googleapis.com/fakeart_") || l.programs.deployed[objectives] != "false" {
			t.Errorf("%v, deployed %v\n%s", err, l.programs.deployed, out)
		}
		l.cloud.missingPolls = 0
		if out, err = l.do(l.up); err != nil || l.programs.deployed[objectives] != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("false_in_first_deployment", func(t *testing.T) {
		l := newLab(t)
		l.file(strings.Replace(devFile, `  fakeart:objectives: "false"`+"\n", "", 1))
		l.cloud.missingPolls = 2
		if out, err := l.do(l.up); err != nil || l.programs.updates[1][objectives] != "false" || l.programs.deployed[objectives] != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func TestUp_Confirmation(t *testing.T) {
	l := newLab(t)
	l.yes = false
	if _, err := l.do(l.up); err == nil || !strings.Contains(err.Error(), "hint: add ARGS=--yes") || l.programs.stack {
		t.Errorf("without a terminal: error %v", err)
	}
	l.terminal = true
	for answer, proceeds := range map[string]bool{"n\n": false, "\n": false, "": false, "y\n": true, "YES\n": true} {
		l.in = strings.NewReader(answer)
		out, err := l.do(l.up)
		if proceeds != (err == nil) || proceeds != (len(l.programs.updates) > 0) {
			t.Errorf("answer %q: error %v", answer, err)
		}
		if !strings.Contains(out, "98 to create") || !strings.Contains(out, "push "+ownImage) || !strings.Contains(out, "Estimated cost: about $0.52") {
			t.Errorf("the changes aren't listed before the question\n%s", out)
		}
		l.programs.deployed, l.programs.images = nil, nil
		l.file(devFile)
	}
}

func TestUp_KeepsExistingImages(t *testing.T) {
	l := newLab(t)
	other := "europe-west4-docker.pkg.dev/other/fakeart-dev/server@" + digest
	l.file(strings.Replace(devFile, "us-docker.pkg.dev/cloudrun/container/hello:latest", other, 1))
	l.programs.images = []string{other}
	if out, err := l.do(l.up); err != nil || l.programs.deployed["fakeart:image"] != other || l.programs.deployed["fakeart:trainerImage"] == nil {
		t.Errorf("%v, deployed %v\n%s", err, l.programs.deployed, out)
	}
}

func TestUp_LocalBaseImage(t *testing.T) {
	l := newLab(t)
	l.programs.base = "fakeart.invalid/debian-packages"
	if _, err := l.do(l.up); err == nil || !strings.Contains(err.Error(), "hint: make the registry of the base image in ci/images.yaml reachable") || l.programs.deployed != nil {
		t.Errorf("error %v", err)
	}
	for index, want := range map[string]string{`{"manifests":[{"digest":"sha256:00"}]}`: "OCI layout without an image", "x": "index.json: invalid character"} {
		folder := t.TempDir()
		if err := os.WriteFile(filepath.Join(folder, "index.json"), []byte(index), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, _, err := readLayout(folder); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", index, err)
		}
	}
	if _, _, err := readLayout(t.TempDir()); err == nil {
		t.Error("readLayout of an empty folder: no error")
	}
}

func TestUp_KeepsExistingModel(t *testing.T) {
	l := newLab(t)
	l.cloud.objects["gs://my-bucket/models/production/mine.onnx"] = "mine"
	if out, err := l.do(l.up); err != nil || len(l.cloud.objects) != 1 || strings.Contains(out, "Uploading") {
		t.Errorf("error %v, objects %v", err, l.cloud.objects)
	}
}

func TestUp_Prediction(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(l *lab)
		want string // in the error, or else in the output
		bad  bool
	}{
		"forbidden":              {func(l *lab) { l.cloud.rejects = true }, "--member user:you@example.com --role roles/run.invoker", true},
		"response_without_label": {func(l *lab) { l.cloud.prediction = "{}" }, `returned "{}", which isn't a prediction`, true},
		"response_not_json":      {func(l *lab) { l.cloud.prediction = "<html>" }, "isn't a prediction", true},
		"custom_domain":          {func(l *lab) { l.file(devFile + "  fakeart:domain: images.example.com\n") }, "service      https://images.example.com\n", false},
		"internal_ingress":       {func(l *lab) { l.file(devFile + "  fakeart:ingress: internal\n") }, "prediction   not tested", false},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			c.set(l)
			out, err := l.do(l.up)
			if (err != nil) != c.bad {
				t.Fatal(err)
			}
			if err != nil {
				out = err.Error()
			}
			if !strings.Contains(out, c.want) {
				t.Errorf("output doesn't contain %q:\n%s", c.want, out)
			}
		})
	}
}

func TestUp_ContextCanceled(t *testing.T) {
	l := newLab(t)
	l.cloud.unready = -1
	ctx, cancel := context.WithCancel(t.Context())
	waits := 0
	l.wait = func(ctx context.Context, _ time.Duration) error {
		if waits++; waits == 2 {
			cancel()
		}
		return ctx.Err()
	}
	if _, err := l.do(func(context.Context) error { return l.up(ctx) }); err == nil || waits != 2 {
		t.Errorf("error %v after %d waits", err, waits)
	}
}
