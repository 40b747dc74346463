package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"
)

// down deletes the stack. It deletes nothing while part of the stack is protected.
func (s *session) down(ctx context.Context) error {
	if err := s.refuse(); err != nil {
		return err
	}
	end, err := s.begin()
	if err != nil {
		return err
	}
	defer end()
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
	if err := s.refuseProtected(all); err != nil {
		return err
	}
	if _, err := s.shown(ctx, "destroy", "--preview-only", "--non-interactive", "--suppress-progress"); err != nil {
		return err
	}
	s.printf("\nDeleted with it, for good:\n")
	for _, r := range all {
		if text, ok := holds[r.Type]; ok && r.Inputs["view"] == nil {
			s.printf("  - %s %s\n", text, path.Base(r.ID))
		}
	}
	if err := s.confirm("Delete all of this?"); err != nil {
		return err
	}
	if _, err := s.shown(ctx, "destroy", "--yes", "--skip-preview", "--non-interactive", "--suppress-progress"); err != nil {
		return fmt.Errorf("%w\nhint: the messages above say why. Run the command again once that is solved: it continues where it stopped", err)
	}
	s.rest(all)
	return nil
}

// holds says what is lost with a kind of resource.
var holds = map[string]string{
	"gcp:storage/bucket:Bucket":                  "every object (data sets, runs, models) in bucket",
	"gcp:artifactregistry/repository:Repository": "every image in repository",
	"gcp:bigquery/table:Table":                   "every record in table",
}

// stackExists reports whether there is a state of the stack.
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

// refuseProtected returns an error that lists protected resources, if there are any.
func (s *session) refuseProtected(all []resource) error {
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
	return fmt.Errorf("%d resources of stack %s are protected; nothing was deleted\nhint: this takes the protection off; after that their data can be deleted:\n"+
		"      bin/tools/pulumi config set --stack %[2]s fakeart:protect false\n      make infra-up STACK=%[2]s\n      make cloud-down STACK=%[2]s", protected, s.name)
}

// rest prints what stays.
func (s *session) rest(all []resource) {
	s.printf("\nStack %s is deleted. These stay:\n", s.name)
	s.printf("  - the state, now empty, in %s, and Pulumi.%s.yaml (bin/tools/pulumi stack rm %s --preserve-config removes the state)\n", s.backend(), s.name, s.name)
	s.printf("  - the passphrase, with which the stack can be created again\n")
	s.printf("  - the enabled APIs, which other programs in project %s may use\n", s.stack.project())
	for _, r := range all {
		if r.RetainOnDelete {
			s.printf("  - %s %s, which all stacks of the project share\n", strings.TrimPrefix(r.Type, "gcp:"), r.name())
		}
	}
	for _, r := range all {
		if r.Type == "gcp:storage/bucket:Bucket" {
			s.printf("  - the deleted objects of bucket %s for 7 days (soft delete; billed until then)\n", path.Base(r.ID))
		}
	}
}
