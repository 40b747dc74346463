package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"
)

// down deletes the stack. It deletes nothing if any resource is protected.
func (s *session) down(ctx context.Context) error {
	if err := s.requireConfirmation(); err != nil {
		return err
	}
	remove, err := s.createTemp()
	if err != nil {
		return err
	}
	defer remove()
	r := &report{s: s}
	file, err := s.readStack()
	if err != nil {
		r.add("stack", "", err)
		return r.end()
	}
	s.stack = file
	s.printf("stack %s in project %s, state in %s\n", s.name, file.project(), s.backend())
	r.add("tools", "go, npm, a C compiler", s.checkTools())
	found, err := s.checkPassphrase()
	r.add("passphrase", found, err)
	err = s.checkLogin(ctx)
	if r.add("login", s.account(), err) && strings.HasPrefix(s.backend(), "gs://") {
		r.add("state", s.backend(), s.checkState(ctx))
	}
	if err := r.end(); err != nil {
		return err
	}
	if err := s.buildPulumi(ctx); err != nil {
		return err
	}
	exists, err := s.stackExists(ctx)
	if err != nil {
		return err
	}
	var all []resource
	if exists {
		if all, err = s.resources(ctx); err != nil {
			return err
		}
	}
	if len(all) == 0 {
		s.printf("\nNothing to delete: the state has no resources of stack %s.\n", s.name)
		return nil
	}
	if err := s.checkUnprotected(all); err != nil {
		return err
	}
	if _, err := s.showPulumi(ctx, "destroy", "--preview-only", "--non-interactive", "--suppress-progress"); err != nil {
		return err
	}
	s.printf("\nThis data will be deleted permanently:\n")
	for _, r := range all {
		if text, ok := dataOf[r.Type]; ok && r.Inputs["view"] == nil {
			s.printf("  - %s %s\n", text, path.Base(r.ID))
		}
	}
	if err := s.confirm("Delete all of this?"); err != nil {
		return err
	}
	if _, err := s.showPulumi(ctx, "destroy", "--yes", "--skip-preview", "--non-interactive", "--suppress-progress"); err != nil {
		return fmt.Errorf("%w\nhint: the messages above say why. Fix the cause and run the command again: it continues where it stopped", err)
	}
	s.printRemaining(all)
	return nil
}

// dataOf describes the data that is lost with a type of resource.
var dataOf = map[string]string{
	"gcp:storage/bucket:Bucket":                  "every object (datasets, runs, models) in bucket",
	"gcp:artifactregistry/repository:Repository": "every container image in repository",
	"gcp:bigquery/table:Table":                   "every record in table",
}

// stackExists reports whether the backend has a state for the stack.
func (s *session) stackExists(ctx context.Context) (bool, error) {
	var out bytes.Buffer
	args := []string{s.path("bin", "tools", "pulumi"), "stack", "ls", "--json"}
	if err := s.run(ctx, s.root, command{args: args, out: &out}); err != nil {
		return false, err
	}
	var stacks []struct{ Name string }
	if err := json.Unmarshal(out.Bytes(), &stacks); err != nil {
		return false, fmt.Errorf("pulumi stack ls: %w", err)
	}
	for _, stack := range stacks {
		if path.Base(stack.Name) == s.name {
			return true, nil
		}
	}
	return false, nil
}

// checkUnprotected prints the protected resources and returns an error if there are any.
func (s *session) checkUnprotected(all []resource) error {
	protected := 0
	for _, r := range all {
		if !r.Protect {
			continue
		}
		if protected++; protected == 1 {
			s.printf("\nProtected against deletion:\n")
		}
		s.printf("  - %s %s\n", strings.TrimPrefix(r.Type, "gcp:"), r.name())
	}
	if protected == 0 {
		return nil
	}
	return fmt.Errorf("%d resources of stack %s are protected; nothing was deleted\nhint: remove the protection, after which their data can be deleted:\n"+
		"      bin/tools/pulumi config set --stack %[2]s fakeart:protect false\n      make infra-up STACK=%[2]s\n      make cloud-down STACK=%[2]s", protected, s.name)
}

// printRemaining prints what isn't deleted with the stack.
func (s *session) printRemaining(all []resource) {
	s.printf("\nStack %s is deleted. These remain:\n", s.name)
	s.printf("  - the empty state in %s, and Pulumi.%s.yaml (remove the state with: bin/tools/pulumi stack rm %s --preserve-config)\n", s.backend(), s.name, s.name)
	s.printf("  - the passphrase, which you need to create the stack again\n")
	s.printf("  - the enabled APIs, which others in project %s may use\n", s.stack.project())
	for _, r := range all {
		if r.RetainOnDelete {
			s.printf("  - %s %s, which all stacks of the project share\n", strings.TrimPrefix(r.Type, "gcp:"), r.name())
		}
	}
	for _, r := range all {
		if r.Type == "gcp:storage/bucket:Bucket" {
			s.printf("  - the soft-deleted objects of bucket %s, which are kept and billed for 7 days\n", path.Base(r.ID))
		}
	}
}
