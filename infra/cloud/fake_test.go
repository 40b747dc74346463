package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"fakeart/monitoring/slo"
)

// fakeCloud is a fake of Google's APIs and of the service. The fields are the state of a project.
// Tests change them before a session.
type fakeCloud struct {
	login        string // error code of the token endpoint, or empty
	project      string // state, or empty if the account can't see the project
	enabled      []string
	billing      string   // billing account
	closed       bool     // the billing account is closed
	untestable   bool     // testing permissions fails
	lacks        []string // missing permissions, on the project and the billing account
	buckets      []string
	objects      map[string]string // gs:// URL to content
	missingPolls int               // polls until the metrics exist; -1 for never
	unready      int               // requests until the service is ready; -1 for never
	rejects      bool              // the service rejects the account
	prediction   string

	calls []string // requests that change something, and all requests to the service
}

func newCloud() *fakeCloud {
	return &fakeCloud{
		project: "ACTIVE", enabled: slices.Clone(bootstrap), billing: "012345-6789AB-CDEF01", objects: map[string]string{},
		prediction: `{"label":"FAKE","probability":0.75}`,
	}
}

// idToken is a user's ID token without a valid signature.
var idToken = "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"email":"you@example.com"}`)) + ".c2ln"

func replyError(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"error":{"code":%d,"message":%q,"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":%q}]}}`, code, message, reason)
}

func reply(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}

func (f *fakeCloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Host == "oauth2.googleapis.com" {
		if f.login != "" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error":%q,"error_description":"Token has been expired or revoked."}`, f.login)
			return
		}
		reply(w, map[string]any{"access_token": "access", "expires_in": 3599, "token_type": "Bearer", "id_token": idToken})
		return
	}
	if r.Host == "service.run.app" {
		f.service(w, r)
		return
	}
	if r.Header.Get("Authorization") != "Bearer access" || r.Header.Get("X-Goog-User-Project") != "my-project-1" {
		replyError(w, http.StatusUnauthorized, "CREDENTIALS_MISSING", "invalid credentials or quota project")
		return
	}
	if f.project == "" {
		replyError(w, http.StatusForbidden, "USER_PROJECT_DENIED", "Caller does not have required permission to use project my-project-1")
		return
	}
	if r.Method != http.MethodGet && !strings.HasSuffix(r.URL.Path, ":testIamPermissions") {
		f.calls = append(f.calls, r.Method+" "+r.URL.Path)
	}
	if !slices.Contains(f.enabled, r.Host) {
		replyError(w, http.StatusForbidden, "SERVICE_DISABLED", r.Host+" has not been used in project 1 before or it is disabled.")
		return
	}
	body, _ := io.ReadAll(r.Body)
	var request struct {
		ServiceIDs  []string `json:"serviceIds"`
		Permissions []string `json:"permissions"`
	}
	_ = json.Unmarshal(body, &request)
	switch path := r.URL.Path; {
	case strings.HasSuffix(path, "services:batchGet"):
		var services []any
		for _, name := range r.URL.Query()["names"] {
			state := "DISABLED"
			if slices.Contains(f.enabled, name[strings.LastIndex(name, "/")+1:]) {
				state = "ENABLED"
			}
			services = append(services, map[string]any{"name": strings.Replace(name, "my-project-1", "1", 1), "state": state})
		}
		reply(w, map[string]any{"services": services})
	case strings.HasSuffix(path, "services:batchEnable"):
		f.enabled = append(f.enabled, request.ServiceIDs...)
		reply(w, map[string]any{"name": "operations/acat.1"})
	case path == "/v1/operations/acat.1":
		reply(w, map[string]any{"name": "operations/acat.1", "done": true})
	case path == "/v3/projects/my-project-1":
		reply(w, map[string]any{"name": "projects/1", "projectId": "my-project-1", "state": f.project})
	case strings.HasSuffix(path, ":testIamPermissions") && f.untestable:
		replyError(w, http.StatusBadRequest, "", "Permission x is not valid for this resource.")
	case strings.HasSuffix(path, ":testIamPermissions"):
		got := slices.DeleteFunc(request.Permissions, func(p string) bool { return slices.Contains(f.lacks, p) })
		reply(w, map[string]any{"permissions": got})
	case path == "/v1/projects/my-project-1/billingInfo":
		info := map[string]any{"billingEnabled": f.billing != "" && !f.closed}
		if f.billing != "" {
			info["billingAccountName"] = "billingAccounts/" + f.billing
		}
		reply(w, info)
	case path == "/v3/projects/my-project-1/metricDescriptors":
		if f.missingPolls != 0 {
			f.missingPolls--
			reply(w, map[string]any{})
			return
		}
		var descriptors []any
		objectives, _ := slo.Load()
		for _, name := range metricsOf(objectives) {
			descriptors = append(descriptors, map[string]any{"type": name})
		}
		reply(w, map[string]any{"metricDescriptors": descriptors})
	case path == "/v2/projects/my-project-1/locations/europe-west4/services/fakeart-dev-server":
		reply(w, map[string]any{"uri": "https://service.run.app"})
	case strings.HasPrefix(path, "/storage/v1/b/") && strings.HasSuffix(path, "/o"):
		bucket := strings.Split(path, "/")[4]
		var items []any
		for url := range f.objects {
			if name, ok := strings.CutPrefix(url, "gs://"+bucket+"/"); ok && strings.HasPrefix(name, r.URL.Query().Get("prefix")) {
				items = append(items, map[string]any{"name": name})
			}
		}
		reply(w, map[string]any{"items": items})
	case strings.HasPrefix(path, "/upload/storage/v1/b/"):
		_, rest, _ := strings.Cut(string(body), `"name":"`)
		name, _, _ := strings.Cut(rest, `"`)
		if r.URL.Query().Get("ifGenerationMatch") != "0" {
			replyError(w, http.StatusBadRequest, "", "upload without ifGenerationMatch=0")
			return
		}
		f.objects["gs://"+strings.Split(path, "/")[5]+"/"+name] = string(body)
		reply(w, map[string]any{"name": name})
	case strings.HasPrefix(path, "/storage/v1/b/"):
		if !slices.Contains(f.buckets, strings.Split(path, "/")[4]) {
			replyError(w, http.StatusNotFound, "notFound", "The specified bucket does not exist.")
			return
		}
		reply(w, map[string]any{})
	default:
		replyError(w, http.StatusNotFound, "", "no such method: "+r.Method+" "+r.Host+path)
	}
}

func (f *fakeCloud) service(w http.ResponseWriter, r *http.Request) {
	f.calls = append(f.calls, r.Method+" "+r.URL.Path)
	switch {
	case f.rejects || r.Header.Get("X-Serverless-Authorization") != "Bearer "+idToken:
		w.WriteHeader(http.StatusForbidden)
	case f.unready != 0:
		f.unready--
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "no model")
	case r.URL.Path == "/predict":
		if file, _, err := r.FormFile("data"); err != nil || file == nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(w, f.prediction)
	}
}

// redirect sends all requests to the server at this address. It keeps the Host header.
type redirect string

func (t redirect) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Host, r.URL.Scheme, r.URL.Host = r.URL.Host, "http", string(t)
	return http.DefaultTransport.RoundTrip(r)
}

// fakePrograms is a fake of make and pulumi. The state of pulumi is the configuration that was
// deployed last.
type fakePrograms struct {
	t        *testing.T
	cloud    *fakeCloud
	root     string
	stack    bool           // the stack exists
	deployed map[string]any // configuration; nil for an empty state
	images   []string       // in the registry
	base     string         // base image of the images that make builds
	protect  bool
	fail     []string // output of the next updates, which fail
	ran      []string // commands that change something
	updates  []map[string]any
}

const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func (p *fakePrograms) run(_ context.Context, root string, c command) error {
	if root != p.root {
		p.t.Errorf("%q ran in %s", c.args, root)
	}
	args := slices.Clone(c.args[1:])
	line := strings.Join(args, " ")
	has := func(word string) bool { return slices.Contains(args, word) }
	file := filepath.Join(p.root, "Pulumi.dev.yaml")
	config := func() map[string]any {
		name := file
		if i := slices.Index(args, "--config-file"); i >= 0 {
			name = args[i+1]
		}
		f, err := readStack(name, "dev")
		if err != nil {
			p.t.Fatal(err)
		}
		return f.config
	}
	edit := func(change func(config map[string]any)) {
		f, err := readStack(file, "dev")
		if err != nil {
			p.t.Fatal(err)
		}
		f.all["encryptionsalt"] = "v1:salt"
		change(f.config)
		if err := f.write(file); err != nil {
			p.t.Fatal(err)
		}
	}
	if filepath.Base(c.args[0]) == "make" {
		return p.make(line, c)
	}
	if c.args[0] != filepath.Join(p.root, "bin", "tools", "pulumi") {
		p.t.Fatalf("unexpected command %q", c.args)
	}
	if args[1] != "ls" && !strings.HasSuffix(line, " --stack dev") {
		p.t.Errorf("%s: no --stack dev", line)
	}
	if !p.stack && args[1] != "ls" && !has("--create") {
		return errors.New("no stack named 'dev' found")
	}
	switch {
	case strings.HasPrefix(line, "stack select --create"):
		p.stack = true
		edit(func(map[string]any) {})
	case strings.HasPrefix(line, "stack ls --json"):
		if !p.stack {
			_, _ = io.WriteString(c.out, "[]")
			return nil
		}
		_, _ = io.WriteString(c.out, `[{"name":"dev","current":true}]`)
	case strings.HasPrefix(line, "stack output --json"):
		if p.deployed == nil {
			_, _ = io.WriteString(c.out, "{}")
			return nil
		}
		out := map[string]any{"bucket": "my-bucket", "registry": "europe-west4-docker.pkg.dev/my-project-1/fakeart-dev", "console": map[string]string{"run": "https://console/run"}}
		if p.deployed["fakeart:image"] != nil {
			out["url"], out["dashboard"] = "https://service.run.app", "https://console/dashboard"
			if domain, ok := p.deployed["fakeart:domain"]; ok {
				out["url"] = "https://" + domain.(string)
			}
		}
		return json.NewEncoder(c.out).Encode(out)
	case strings.HasPrefix(line, "stack export"):
		var all []any
		if p.deployed != nil {
			for kind, id := range map[string]string{
				"gcp:storage/bucket:Bucket": "my-bucket", "gcp:projects/iAMMember:IAMMember": "x", "pulumi:pulumi:Stack": "",
				"gcp:bigquery/table:Table": "a-view",
			} {
				var inputs map[string]any
				if id == "a-view" {
					inputs = map[string]any{"view": map[string]any{"query": "SELECT 1"}}
				}
				all = append(all, resource{
					URN: "urn:pulumi:dev::fakeart::" + kind + "::name-of-" + id, Type: kind, ID: id,
					Protect: p.protect && id == "my-bucket", RetainOnDelete: id == "x",
					Inputs: inputs,
				})
			}
		}
		return json.NewEncoder(c.out).Encode(map[string]any{"deployment": map[string]any{"resources": all}})
	case args[0] == "preview":
		text := "Resources:\n    98 unchanged\n"
		if !reflect.DeepEqual(config(), p.deployed) {
			text = "Resources:\n    + 98 to create\n"
		}
		_, _ = io.WriteString(c.out, text)
	case args[0] == "up":
		p.ran = append(p.ran, "up")
		p.cloud.enabled = append(p.cloud.enabled, "monitoring.googleapis.com", "run.googleapis.com")
		if len(p.fail) > 0 {
			_, _ = io.WriteString(c.out, p.fail[0])
			p.fail = p.fail[1:]
			return errors.New("exit status 1")
		}
		for _, key := range imageKeys {
			if image, _ := config()[key].(string); image != "" && !slices.Contains(p.images, image) {
				return fmt.Errorf("image %s not found", image)
			}
		}
		p.deployed = config()
		p.updates = append(p.updates, p.deployed)
	case args[0] == "config":
		p.ran = append(p.ran, strings.Join(args[:3], " "))
		edit(func(config map[string]any) {
			delete(config, args[2])
			if args[1] == "set" {
				config[args[2]] = args[3]
			}
		})
	case args[0] == "destroy" && has("--preview-only"):
	case args[0] == "destroy":
		p.ran = append(p.ran, "destroy")
		if len(p.fail) > 0 {
			return errors.New(p.fail[0])
		}
		p.deployed, p.images = nil, nil
	default:
		p.t.Fatalf("pulumi %s", line)
	}
	return nil
}

func (p *fakePrograms) make(line string, c command) error {
	if strings.Contains(line, "bin/tools/pulumi") {
		return nil
	}
	p.ran = append(p.ran, strings.TrimPrefix(line, "--no-print-directory "))
	switch {
	case strings.Contains(line, " images "):
		for _, program := range []string{"server", "trainer"} {
			folder := filepath.Join(p.root, "build/images", program)
			if err := os.MkdirAll(filepath.Join(folder, "blobs/sha256"), 0o755); err != nil {
				return err
			}
			for name, text := range map[string]string{
				"index.json": `{"manifests":[{"digest":"sha256:ff"},{"digest":"` + digest + `","annotations":{"org.opencontainers.image.ref.name":"x"}}]}`,
				"blobs/" + strings.Replace(digest, ":", "/", 1): `{"annotations":{"org.opencontainers.image.base.name":"` + p.base + `"}}`,
			} {
				if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
					return err
				}
			}
		}
	case strings.Contains(line, " publish "):
		_, registry, _ := strings.Cut(line, "REGISTRY=")
		folder, ok := strings.CutPrefix(c.env[0], "DOCKER_CONFIG=")
		if !ok {
			return errors.New("no credentials")
		}
		text, err := os.ReadFile(filepath.Join(folder, "config.json"))
		if err != nil {
			return err
		}
		if want := base64.StdEncoding.EncodeToString([]byte("oauth2accesstoken:access")); !strings.Contains(string(text), `"europe-west4-docker.pkg.dev":{"auth":"`+want) {
			return fmt.Errorf("credentials %s", text)
		}
		for _, program := range []string{"server", "trainer"} {
			image := registry + "/" + program + "@" + digest
			p.images = append(p.images, image)
			fmt.Fprintln(c.out, program, image)
		}
	case strings.HasSuffix(line, " demo"):
		model := filepath.Join(p.root, filepath.FromSlash(demoModel))
		if err := os.MkdirAll(filepath.Dir(model), 0o755); err != nil {
			return err
		}
		return os.WriteFile(model, []byte("a model"), 0o644)
	default:
		p.t.Fatalf("make %s", line)
	}
	return nil
}

// devFile is a configuration like that of Pulumi.dev.yaml.
const devFile = `config:
  gcp:project: my-project-1
  gcp:region: europe-west4
  fakeart:image: us-docker.pkg.dev/cloudrun/container/hello:latest
  fakeart:trainerImage: us-docker.pkg.dev/cloudrun/container/job:latest
  fakeart:objectives: "false"
  fakeart:training:
    cpu: 2
`

// lab is a session with a temporary checkout, fake APIs and fake programs.
type lab struct {
	*session
	t        *testing.T
	cloud    *fakeCloud
	programs *fakePrograms
	vars     map[string]string
	missing  []string // programs that aren't installed
	out      strings.Builder
}

// newLab returns a lab in which all tools are installed and the stack was never deployed.
func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, cloud: newCloud(), programs: &fakePrograms{t: t, root: t.TempDir()}, vars: map[string]string{"PULUMI_CONFIG_PASSPHRASE": "x"}}
	l.programs.cloud = l.cloud
	server := httptest.NewServer(l.cloud)
	t.Cleanup(server.Close)
	l.file(devFile)
	credentials := filepath.Join(t.TempDir(), "adc.json")
	if err := os.WriteFile(credentials, []byte(`{"type":"authorized_user","client_id":"c","client_secret":"s","refresh_token":"r"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", credentials)
	l.session = &session{
		root: l.programs.root, name: "dev", yes: true, in: strings.NewReader(""), out: &l.out, run: l.programs.run,
		env: func(name string) (string, bool) { value, ok := l.vars[name]; return value, ok },
		lookPath: func(program string) (string, error) {
			if slices.Contains(l.missing, program) {
				return "", errors.New("not found")
			}
			return "/usr/bin/" + program, nil
		},
		base: redirect(strings.TrimPrefix(server.URL, "http://")),
		wait: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	}
	return l
}

func (l *lab) file(content string) {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.programs.root, "Pulumi.dev.yaml"), []byte(content), 0o644); err != nil {
		l.t.Fatal(err)
	}
}

// do runs a command of a fresh session and returns its output.
func (l *lab) do(command func(context.Context) error) (string, error) {
	l.out.Reset()
	l.stack, l.session.cloud = nil, nil
	l.cloud.calls, l.programs.ran, l.programs.updates = nil, nil, nil
	err := command(l.t.Context())
	return l.out.String(), err
}
