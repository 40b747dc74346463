package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/oauth2"
)

// problem is the error of a failed check: a message and the commands that fix the problem.
type problem struct {
	message string
	fix     []string
}

func (p *problem) Error() string { return p.message }

func failed(message string, fix ...string) error { return &problem{message, fix} }

// errLater is the result of a check that depends on another check that failed.
var errLater = errors.New("not checked yet")

// report prints the results of checks and counts the failures.
type report struct {
	s       *session
	failed  int
	enabled bool // APIs were enabled for the remaining checks
}

// add prints the result of a check, found or err with its fix, and reports whether it succeeded.
func (r *report) add(name, found string, err error) bool {
	p := &problem{}
	switch {
	case err == nil:
		r.s.printf("  ok      %-12s %s\n", name, found)
		return true
	case errors.Is(err, errLater):
		r.s.printf("  later   %-12s not checked until the problems above are fixed\n", name)
		return false
	case errors.As(err, &p):
		r.s.printf("  failed  %-12s %s\n", name, p.message)
	default:
		r.s.printf("  failed  %-12s %v\n", name, err)
	}
	r.failed++
	for i, line := range p.fix {
		if i == 0 {
			line = "hint: " + line
		} else {
			line = "      " + line
		}
		r.s.printf("          %s\n", line)
	}
	return false
}

// bootstrap are the APIs that the checks and the first step of the Pulumi program use.
var bootstrap = []string{
	"serviceusage.googleapis.com", "cloudresourcemanager.googleapis.com", "cloudbilling.googleapis.com",
	"iam.googleapis.com", "storage.googleapis.com",
}

// check runs all checks for up and prints the results. It returns an error if a check failed. If
// the checks that don't require APIs succeed, it asks to enable missing APIs of bootstrap. Apart
// from that it changes nothing.
func (s *session) check(ctx context.Context) error {
	r := &report{s: s}
	file, err := s.readStack()
	if file != nil {
		s.stack = file
		s.printf("stack %s in project %s, state in %s\n", s.name, file.project(), s.backend())
	}
	known := r.add("stack", "Pulumi."+s.name+".yaml", err)
	r.add("tools", "go, npm, a C compiler", s.checkTools())
	if known {
		found, err := s.checkPassphrase()
		r.add("passphrase", found, err)
		r.add("images", "can be built here", s.checkImages())
	}
	loggedIn := false
	if known {
		err := s.checkLogin(ctx)
		loggedIn = r.add("login", s.account(), err)
	}
	if !loggedIn {
		return r.end()
	}
	off, err := s.cloud.disabled(ctx, bootstrap)
	if err != nil {
		r.add("project", "", s.projectProblem(err))
		return r.end()
	}
	if len(off) > 0 && r.failed > 0 {
		r.add("APIs", "", failed("not enabled in "+s.cloud.project+": "+strings.Join(off, ", "),
			"gcloud services enable "+strings.Join(off, " ")+" --project "+s.cloud.project))
		for _, name := range []string{"project", "billing", "permissions"} {
			r.add(name, "", errLater)
		}
		return r.end()
	}
	if len(off) > 0 {
		s.printf("\nThe remaining checks require APIs that aren't enabled in project %s: %s.\nEnabling them is free.\n", s.cloud.project, strings.Join(off, ", "))
		if err := s.confirm("Enable them?"); err != nil {
			return err
		}
		if err := s.cloud.enable(ctx, off); err != nil {
			return err
		}
	}
	r.add("APIs", "enabled", nil)
	r.enabled = len(off) > 0
	r.add("project", s.cloud.project, s.checkProject(ctx))
	account, err := s.checkBilling(ctx)
	r.add("billing", account, err)
	found, err := s.checkPermissions(ctx)
	r.add("permissions", found, err)
	if s.stack.get("fakeart:billingAccount") != "" {
		r.add("budget", s.stack.get("fakeart:billingAccount"), s.checkBudget(ctx))
	}
	if strings.HasPrefix(s.backend(), "gs://") {
		r.add("state", s.backend(), s.checkState(ctx))
	}
	return r.end()
}

// end returns an error if a check failed.
func (r *report) end() error {
	changed := "nothing was changed"
	if r.enabled {
		changed = "nothing was changed, except that APIs are enabled"
	}
	switch r.failed {
	case 0:
		return nil
	case 1:
		return errors.New("a check failed; " + changed)
	}
	return fmt.Errorf("%d checks failed; %s", r.failed, changed)
}

// account returns the email address of the current login, if known, for messages.
func (s *session) account() string {
	if s.cloud == nil || s.cloud.account == "" {
		return "application default credentials"
	}
	_, mail, _ := strings.Cut(s.cloud.account, ":")
	return mail
}

// readStack reads the stack's file. If the project or region is invalid, it returns both the file and
// an error.
func (s *session) readStack() (*stackFile, error) {
	name := "Pulumi." + s.name + ".yaml"
	f, err := readStack(s.path(name), s.name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, failed(name+" doesn't exist", "cp Pulumi.dev.yaml "+name+"    # then set gcp:project in it")
	case err != nil:
		return nil, err
	case !projectPattern.MatchString(f.project()):
		return f, failed(fmt.Sprintf("%s: gcp:project is %q, expected a project ID", name, f.project()), "set gcp:project in "+name+"; `gcloud projects list` lists your projects")
	case !regionPattern.MatchString(f.region()):
		return f, failed(fmt.Sprintf("%s: gcp:region is %q, expected a region such as europe-west4", name, f.region()), "set gcp:region in "+name)
	}
	return f, nil
}

// backend returns the URL of Pulumi's state.
func (s *session) backend() string {
	if url, ok := s.env("PULUMI_BACKEND_URL"); ok && url != "" {
		return url
	}
	return "file://" + s.path(".pulumi-state")
}

// checkTools checks that the tools are installed that no make target installs.
func (s *session) checkTools() error {
	var missing, fix []string
	cc, _ := s.env("CC")
	if cc = strings.TrimSpace(cc); cc == "" {
		cc = "gcc"
		if runtime.GOOS == "darwin" {
			cc = "clang"
		}
	}
	for _, tool := range [][2]string{
		{"go", "install Go 1.26 or newer from https://go.dev/dl/"},
		{"npm", "sudo apt-get install nodejs npm    # Debian; elsewhere https://nodejs.org/"},
		{strings.Fields(cc)[0], "sudo apt-get install gcc libc6-dev    # Debian; on macOS: xcode-select --install"},
	} {
		if _, err := s.lookPath(tool[0]); err != nil {
			missing, fix = append(missing, tool[0]), append(fix, tool[1])
		}
	}
	if missing != nil {
		return failed("missing: "+strings.Join(missing, ", "), fix...)
	}
	return nil
}

// checkPassphrase checks that the passphrase or another secrets provider of the stack is configured.
func (s *session) checkPassphrase() (found string, err error) {
	if file, ok := s.env("PULUMI_CONFIG_PASSPHRASE_FILE"); ok {
		if _, err := os.Stat(file); err != nil {
			return "", failed("PULUMI_CONFIG_PASSPHRASE_FILE: can't read "+file, s.newPassphrase()...)
		}
		return file, nil
	}
	if _, ok := s.env("PULUMI_CONFIG_PASSPHRASE"); ok {
		return "PULUMI_CONFIG_PASSPHRASE", nil
	}
	if provider, ok := s.stack.all["secretsprovider"]; ok {
		return fmt.Sprint(provider), nil
	}
	if strings.HasPrefix(s.backend(), "http") {
		return "Pulumi Cloud", nil
	}
	if s.stack.all["encryptionsalt"] != nil {
		return "", failed("the stack's secrets are encrypted with a passphrase that isn't set",
			"export PULUMI_CONFIG_PASSPHRASE_FILE=FILE    # the file with the passphrase of the first deployment")
	}
	return "", failed("no passphrase to encrypt the stack's secrets with", s.newPassphrase()...)
}

// newPassphrase returns the commands that create a passphrase.
func (s *session) newPassphrase() []string {
	file := "~/.config/fakeart/" + s.name + ".passphrase"
	return []string{
		"mkdir -p ~/.config/fakeart",
		"(umask 077 && openssl rand -base64 24 > " + file + ")    # keep this file: the secrets can't be decrypted without it",
		"export PULUMI_CONFIG_PASSPHRASE_FILE=" + file,
	}
}

// checkImages checks that missing container images can be built on this system.
func (s *session) checkImages() error {
	if runtime.GOOS == "linux" || len(s.stack.missingImages(true)) == 0 {
		return nil
	}
	registry := s.stack.registry()
	return failed("the stack has no container images, and they can only be built on Linux",
		"make infra-up STACK="+s.name,
		"dagger call publish --registry "+registry+" --registry-username=oauth2accesstoken --registry-password=cmd:'gcloud auth print-access-token'",
		"make deploy STACK="+s.name+" IMAGE=… TRAINER_IMAGE=…    # the images printed by the previous command; then run this command again")
}

// otherCredentials are environment variables that Pulumi's provider prefers to the application
// default credentials, which the checks use.
var otherCredentials = []string{"GOOGLE_CREDENTIALS", "GOOGLE_CLOUD_KEYFILE_JSON", "GCLOUD_KEYFILE_JSON", "GOOGLE_OAUTH_ACCESS_TOKEN"}

// checkLogin checks the application default credentials and sets s.cloud.
func (s *session) checkLogin(ctx context.Context) error {
	fix := []string{"gcloud auth application-default login"}
	if _, err := s.lookPath("gcloud"); err != nil {
		fix = append(fix, "gcloud is missing: https://cloud.google.com/sdk/docs/install")
	}
	for _, name := range otherCredentials {
		if value, ok := s.env(name); ok && value != "" {
			return failed(name+" is set: Pulumi would use it instead of the login that is checked here",
				"unset "+name+"    # use GOOGLE_APPLICATION_CREDENTIALS for a credentials file, which works for both")
		}
	}
	c, err := login(ctx, s.stack.project(), s.base, s.wait)
	var tokenErr *oauth2.RetrieveError
	switch {
	case errors.As(err, &tokenErr):
		message := "the login has expired or was revoked"
		if tokenErr.ErrorCode != "" {
			message += " (" + tokenErr.ErrorCode + ")"
		}
		return failed(message, fix...)
	case err != nil && strings.Contains(err.Error(), "could not find default credentials"):
		return failed("no application default credentials, which Pulumi and this command require", fix...)
	case err != nil:
		return failed("the login failed: "+err.Error(), fix...)
	}
	s.cloud = c
	return nil
}

// projectProblem turns the error of a request about the project into a problem with a fix.
func (s *session) projectProblem(err error) error {
	project := s.cloud.project
	switch code := status(err); {
	case reason(err) == "SERVICE_DISABLED":
		return failed("the Service Usage API isn't enabled in "+project, "gcloud services enable serviceusage.googleapis.com --project "+project)
	case code == http.StatusForbidden || code == http.StatusNotFound || code == http.StatusBadRequest:
		return failed(project+" doesn't exist, or "+s.account()+" may not use it",
			"set gcp:project in Pulumi."+s.name+".yaml    # `gcloud projects list` lists your projects",
			"gcloud projects create "+project+"    # if it doesn't exist",
			"gcloud projects add-iam-policy-binding "+project+" --member "+s.cloud.member()+" --role roles/owner    # if it does; run by an owner")
	}
	return fmt.Errorf("look up project %s: %w", project, plain(err))
}

func (s *session) checkProject(ctx context.Context) error {
	state, err := s.cloud.state(ctx)
	if err != nil {
		return s.projectProblem(err)
	}
	if state != "ACTIVE" {
		return failed(s.cloud.project+" is "+state, "gcloud projects undelete "+s.cloud.project)
	}
	return nil
}

func (s *session) checkBilling(ctx context.Context) (string, error) {
	project := s.cloud.project
	account, enabled, err := s.cloud.billing(ctx)
	want := s.stack.get("fakeart:billingAccount")
	link := func(account string) []string {
		if account != "" {
			return []string{"gcloud billing projects link " + project + " --billing-account " + account}
		}
		return []string{"gcloud billing accounts list", "gcloud billing projects link " + project + " --billing-account ACCOUNT"}
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("look up the billing account of %s: %w", project, plain(err))
	case account == "":
		return "", failed(project+" isn't linked to a billing account", link(want)...)
	case !enabled:
		return "", failed("billing account "+account+" of "+project+" is closed", append([]string{"reopen it at https://console.cloud.google.com/billing/" + account + ", or link another:"}, link("")...)...)
	case want != "" && want != account:
		return "", failed(fmt.Sprintf("%s is billed to %s, but fakeart:billingAccount is %s", project, account, want), link(want)...)
	}
	return account, nil
}

// need is an entry of permissions.yaml: a role and the permissions that the stack needs from it.
type need struct {
	Role        string
	Modules     []string
	When        string
	Permissions []string
}

//go:embed permissions.yaml
var permissionsFile []byte

// needs returns the roles that deploying the stack requires on the project.
func (f *stackFile) needs() ([]need, error) {
	var all []need
	if err := yaml.Unmarshal(permissionsFile, &all); err != nil {
		return nil, fmt.Errorf("permissions.yaml: %w", err)
	}
	return slices.DeleteFunc(all, func(n need) bool { return n.When != "" && f.get(n.When) == "" }), nil
}

func (s *session) checkPermissions(ctx context.Context) (found string, err error) {
	needs, err := s.stack.needs()
	if err != nil {
		return "", err
	}
	var all []string
	for _, n := range needs {
		all = append(all, n.Permissions...)
	}
	missing, err := s.cloud.missingPermissions(ctx, all)
	if status(err) == http.StatusBadRequest {
		// Google renamed a permission or doesn't test it on projects. Continue without this check.
		return "not checked: " + plain(err).Error(), nil
	}
	if err != nil {
		return "", fmt.Errorf("test the permissions of %s: %w", s.account(), plain(err))
	}
	var fix []string
	for _, n := range needs {
		if slices.ContainsFunc(n.Permissions, func(p string) bool { return slices.Contains(missing, p) }) {
			fix = append(fix, "gcloud projects add-iam-policy-binding "+s.cloud.project+" --member "+s.cloud.member()+" --role "+n.Role)
		}
	}
	if fix == nil {
		return "all required permissions", nil
	}
	return "", failed(s.account()+" lacks "+strings.Join(missing, ", "), fix...)
}

// checkBudget checks the permissions on the billing account and the settings that a budget requires.
func (s *session) checkBudget(ctx context.Context) error {
	account := s.stack.get("fakeart:billingAccount")
	missing, err := s.cloud.missingBillingPermissions(ctx, account, []string{"billing.budgets.create", "billing.budgets.delete", "billing.budgets.get", "billing.budgets.update"})
	if err != nil {
		return failed("billing account "+account+" doesn't exist, or "+s.account()+" may not see it: "+plain(err).Error(), "gcloud billing accounts list")
	}
	if len(missing) > 0 {
		return failed(s.account()+" lacks "+strings.Join(missing, ", ")+" on "+account,
			"gcloud billing accounts add-iam-policy-binding "+account+" --member "+s.cloud.member()+" --role roles/billing.costsManager")
	}
	if strings.HasPrefix(s.cloud.account, "serviceAccount:") || s.stack.is("gcp:userProjectOverride", false) && s.stack.get("gcp:billingProject") != "" {
		return nil
	}
	return failed("the Budgets API rejects requests of a user's login without a billing project",
		"set in Pulumi."+s.name+".yaml:",
		`gcp:userProjectOverride: "true"`,
		"gcp:billingProject: "+s.cloud.project)
}

// checkState checks that the bucket of the state exists.
func (s *session) checkState(ctx context.Context) error {
	bucket, _, _ := strings.Cut(strings.TrimPrefix(s.backend(), "gs://"), "/")
	bucket, _, _ = strings.Cut(bucket, "?")
	exists, err := s.cloud.bucketExists(ctx, bucket)
	if err != nil {
		return fmt.Errorf("look up gs://%s: %w", bucket, plain(err))
	}
	if !exists {
		return failed("bucket gs://"+bucket+" doesn't exist",
			"gcloud storage buckets create gs://"+bucket+" --project "+s.cloud.project+" --location "+s.stack.region()+" --uniform-bucket-level-access --public-access-prevention",
			"gcloud storage buckets update gs://"+bucket+" --versioning")
	}
	return nil
}

// prepareState creates the folder of a state in the checkout.
func (s *session) prepareState() error {
	folder, ok := strings.CutPrefix(s.backend(), "file://")
	if !ok || filepath.Base(folder) != ".pulumi-state" {
		return nil
	}
	return os.MkdirAll(folder, 0o755)
}
