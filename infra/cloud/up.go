package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// up deploys the stack, up to a service that serves predictions. It keeps existing images and
// models.
//
// A new stack takes two updates, because the registry and the bucket must exist before the images
// and the model with which the service starts. A third update adds the SLOs if Cloud Monitoring
// hasn't received the server's metrics before, because it would reject them.
func (s *session) up(ctx context.Context) error {
	if err := s.requireConfirmation(); err != nil {
		return err
	}
	remove, err := s.createTemp()
	if err != nil {
		return err
	}
	defer remove()
	if err := s.check(ctx); err != nil {
		return err
	}
	if err := s.buildPulumi(ctx); err != nil {
		return err
	}
	if _, err := s.showPulumi(ctx, "stack", "select", "--create"); err != nil {
		return err
	}
	if s.stack, err = s.readStack(); err != nil { // Pulumi may have added the passphrase's salt
		return err
	}
	before, err := s.outputs(ctx)
	if err != nil {
		return err
	}

	images, err := s.buildImages(ctx, s.stack.missingImages(before.Registry != ""))
	if err != nil {
		return err
	}
	missing, err := s.cloud.missingMetrics(ctx)
	if err != nil {
		return fmt.Errorf("list the server's metrics in Cloud Monitoring: %w", plain(err))
	}
	target := s.stack.with(images, objectives)
	next := target
	if len(missing) > 0 {
		next = target.with(map[string]string{objectives: "false"})
	}
	changed, err := s.plan(ctx, next, before, images, len(missing) > 0)
	if err != nil {
		return err
	}
	if !changed && len(images) == 0 {
		s.printf("\nNothing to change: the stack is up to date with Pulumi.%s.yaml.\n", s.name)
	} else if err := s.deploy(ctx, next, before, images); err != nil {
		return err
	}
	after, err := s.outputs(ctx)
	if err != nil {
		return err
	}
	if err := s.publishModel(ctx, after.Bucket); err != nil {
		return err
	}
	prediction, err := s.predict(ctx, after.URL)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		err = s.addObjectives(ctx, target)
	} else {
		err = s.enableObjectives(ctx)
	}
	if err != nil {
		return err
	}
	s.summarize(after, prediction)
	return nil
}

// objectives is the key that must be false in the first deployment of a project, because Cloud
// Monitoring rejects SLOs on metrics that it has never received.
const objectives = "fakeart:objectives"

// buildImages builds the container images of programs. It returns the configuration that refers to
// them by their digests in the stack's registry.
func (s *session) buildImages(ctx context.Context, programs []string) (map[string]string, error) {
	if len(programs) == 0 {
		return nil, nil
	}
	if err := s.make(ctx, s.out, "images", "PLATFORMS=linux/amd64"); err != nil {
		return nil, err
	}
	named := map[string]string{}
	for _, program := range programs {
		digest, base, err := readLayout(s.path("build", "images", program))
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(base, localBase) {
			return nil, errors.New("the base image couldn't be pulled, and images on a base of this machine's packages can't be pushed; nothing was changed\n" +
				"hint: make the registry of the base image in ci/images.yaml reachable, or pass a copy of the base image as an OCI layout: make cloud-up STACK=" + s.name + " BASE=FOLDER")
		}
		named[imageKeys[program]] = s.stack.registry() + "/" + program + "@" + digest
	}
	return named, nil
}

// localBase is the prefix of the name of a base image made from a machine's packages.
const localBase = "fakeart.invalid/"

// readLayout returns the digest of the image in an OCI layout, and the name of its base image.
func readLayout(folder string) (digest, base string, err error) {
	var index struct {
		Manifests []struct {
			Digest      string
			Annotations map[string]string
		}
	}
	if err := readJSON(filepath.Join(folder, "index.json"), &index); err != nil {
		return "", "", err
	}
	for _, m := range index.Manifests {
		if m.Annotations["org.opencontainers.image.ref.name"] == "" {
			continue // an attachment, such as an SBOM
		}
		var image struct{ Annotations map[string]string }
		if err := readJSON(filepath.Join(folder, "blobs", filepath.FromSlash(strings.Replace(m.Digest, ":", "/", 1))), &image); err != nil {
			return "", "", err
		}
		return m.Digest, image.Annotations["org.opencontainers.image.base.name"], nil
	}
	return "", "", fmt.Errorf("%s: OCI layout without an image", folder)
}

func readJSON(file string, into any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// plan shows what will change and asks for confirmation. It reports false without asking if nothing
// will change. later is true if SLOs are added in a later update.
func (s *session) plan(ctx context.Context, next *stackFile, before outputs, images map[string]string, later bool) (changed bool, err error) {
	changed, err = s.preview(ctx, next)
	if err != nil {
		return false, err
	}
	if !changed && len(images) == 0 {
		return false, nil
	}
	s.printf("\nThis will, in project %s:\n", s.cloud.project)
	if before.Registry == "" {
		s.printf("  - create everything except the service and the jobs: registry, bucket, accounts, prediction log\n")
	}
	for _, key := range slices.Sorted(maps.Keys(images)) {
		s.printf("  - push %s\n", images[key])
	}
	s.printf("  - upload a model to the bucket, if it has none\n  - apply the changes shown above\n  - send the service a test image\n")
	if later {
		s.printf("  - add SLOs and alerts on the server's metrics, once Cloud Monitoring has received the metrics\n")
	}
	s.printf("Estimated cost: %s\n", s.stack.cost())
	return true, s.confirm("Continue?")
}

// deploy pushes the images, uploads a model if the bucket has no model, and applies the configuration next.
func (s *session) deploy(ctx context.Context, next *stackFile, before outputs, images map[string]string) error {
	if before.Registry == "" {
		s.printf("\nCreating the registry, the bucket and everything else except the service and the jobs\n")
		if err := s.apply(ctx, next.with(nil, "fakeart:image", "fakeart:trainerImage", "fakeart:canary")); err != nil {
			return err
		}
		var err error
		if before, err = s.outputs(ctx); err != nil {
			return err
		}
	}
	if len(images) > 0 {
		if err := s.push(ctx, images); err != nil {
			return err
		}
		for _, key := range slices.Sorted(maps.Keys(images)) {
			if err := s.set(ctx, key, images[key]); err != nil {
				return err
			}
		}
	}
	if err := s.publishModel(ctx, before.Bucket); err != nil {
		return err
	}
	s.printf("\nApplying the changes\n")
	return s.apply(ctx, next)
}

// push pushes the images in build/images, with an access token of the current login.
func (s *session) push(ctx context.Context, images map[string]string) error {
	token, err := s.cloud.accessToken()
	if err != nil {
		return fmt.Errorf("get an access token for the registry: %w", err)
	}
	registry := s.stack.registry()
	host, _, _ := strings.Cut(registry, "/")
	// The registry client reads credentials from Docker's configuration.
	config, err := json.Marshal(map[string]any{"auths": map[string]any{
		host: map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte("oauth2accesstoken:" + token))},
	}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.temp, "config.json"), config, 0o600); err != nil {
		return err
	}
	s.printf("\nPushing the images to %s\n", registry)
	var out bytes.Buffer
	err = s.run(ctx, s.root, command{
		args: []string{"make", "--no-print-directory", "publish", "REGISTRY=" + registry},
		env:  []string{"DOCKER_CONFIG=" + s.temp}, out: io.MultiWriter(s.out, &out),
	})
	if err != nil {
		return err
	}
	for _, image := range images {
		if !strings.Contains(out.String(), image) {
			return fmt.Errorf("`make publish` didn't push %s, which `make images` built\nhint: run the command again", image)
		}
	}
	return nil
}

// modelsFolder is the folder of production models. The server serves the newest file.
const modelsFolder = "models/production/"

// demoModel is the model that `make demo` trains.
const demoModel = "runs/demo/run/model.onnx"

// publishModel uploads the demo's model to the bucket if it has no model. A stack with names of models
// doesn't serve the demo's.
func (s *session) publishModel(ctx context.Context, bucket string) error {
	if s.stack.get("fakeart:models") != "" {
		return nil
	}
	models, err := s.cloud.models(ctx, bucket, modelsFolder)
	if err != nil {
		return fmt.Errorf("list the models in gs://%s/%s: %w", bucket, modelsFolder, plain(err))
	}
	if len(models) > 0 {
		return nil
	}
	file := s.path(filepath.FromSlash(demoModel))
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		s.printf("\nTraining a first model: %s doesn't exist\n", demoModel)
		if err := s.make(ctx, s.out, "demo"); err != nil {
			return err
		}
	}
	object := modelsFolder + "first.onnx"
	s.printf("\nUploading %s to gs://%s/%s\n", demoModel, bucket, object)
	return s.cloud.upload(ctx, file, bucket, object)
}

// addObjectives waits until Cloud Monitoring has received the server's metrics, and adds the SLOs. If
// that takes too long, it returns without an error: the next run adds them.
func (s *session) addObjectives(ctx context.Context, target *stackFile) error {
	s.printf("\nWaiting until Cloud Monitoring has received the server's metrics, which takes some minutes\n")
	for tries := 0; ; tries++ {
		missing, err := s.cloud.missingMetrics(ctx)
		if err != nil {
			return fmt.Errorf("list the server's metrics in Cloud Monitoring: %w", plain(err))
		}
		if len(missing) == 0 {
			break
		}
		if tries == 40 {
			s.printf("Not received yet: %s. There are no SLOs so far. Run the same command later to add them.\n", strings.Join(missing, ", "))
			return nil
		}
		if err := s.wait(ctx, 15*time.Second); err != nil {
			return err
		}
	}
	s.printf("\nAdding SLOs and alerts on the server's metrics\n")
	if err := s.apply(ctx, target); err != nil {
		return err
	}
	return s.enableObjectives(ctx)
}

// enableObjectives removes objectives: false from the stack's file.
func (s *session) enableObjectives(ctx context.Context) error {
	if s.stack.is(objectives, true) {
		return nil
	}
	_, err := s.showPulumi(ctx, "config", "rm", objectives)
	return err
}

// summarize prints the URLs of the deployment, the prediction and the costs.
func (s *session) summarize(o outputs, prediction string) {
	s.printf("\n  service      %s\n", o.URL)
	if s.stack.is("fakeart:public", false) {
		s.printf("  page         %s/\n", strings.TrimSuffix(o.URL, "/"))
	} else {
		s.printf("  page         http://127.0.0.1:8080/ while this proxy runs, because the service is private:\n"+
			"               gcloud run services proxy %s-server --region %s --project %s\n", s.stack.prefix(), s.stack.region(), s.stack.project())
	}
	s.printf("  prediction   %s\n", prediction)
	if o.Dashboard != "" {
		s.printf("  dashboard    %s\n", o.Dashboard)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Console)) {
		s.printf("  %-12s %s\n", name, o.Console[name])
	}
	s.printf("  cost         %s\n", s.stack.cost())
	s.printf("  delete       make cloud-down STACK=%s\n", s.name)
}
