package publish

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"dagger/fakeart/internal/oci"
	"dagger/fakeart/internal/publish/registrytest"
)

// testBundles returns two images with one file each.
func testBundles(t *testing.T) map[string]*oci.Bundle {
	t.Helper()
	all := map[string]*oci.Bundle{}
	for _, program := range []string{"server", "trainer"} {
		file := filepath.Join(t.TempDir(), program)
		if err := os.WriteFile(file, []byte(program), 0o644); err != nil {
			t.Fatal(err)
		}
		layer, err := oci.Layer([]oci.Entry{{Path: "/" + program, Source: file, Mode: 0o755}}, time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}})
		if err == nil {
			img, err = mutate.AppendLayers(img, layer)
		}
		if err != nil {
			t.Fatal(err)
		}
		index, err := oci.Index([]v1.Image{img}, nil)
		if err != nil {
			t.Fatal(err)
		}
		all[program] = &oci.Bundle{Index: index}
	}
	return all
}

func TestAll(t *testing.T) {
	host, tags := registrytest.Serve(t, nil)
	var signed []string
	pushed, err := All(t.Context(), testBundles(t), Target{
		Registry: host + "/fakeart/", Tags: []string{"v1", "latest"},
		Sign: func(_ context.Context, ref name.Digest) error {
			signed = append(signed, ref.String())
			if tags := tags(); len(tags) > 0 {
				t.Errorf("tags %v were set before signing", tags)
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Lines(pushed)
	if lines := strings.Split(want, "\n"); len(lines) != 2 || !strings.HasPrefix(lines[0], "server "+host+"/fakeart/server@sha256:") || !strings.HasPrefix(lines[1], "trainer ") {
		t.Errorf("pushed\n%s", want)
	}
	if len(signed) != 2 {
		t.Errorf("signed %v", signed)
	}
	if tags := tags(); len(tags) != 4 || tags[0] != "/v2/fakeart/server/manifests/v1" || tags[3] != "/v2/fakeart/trainer/manifests/latest" {
		t.Errorf("tags %v", tags)
	}
	again, err := All(t.Context(), testBundles(t), Target{Registry: host + "/fakeart"})
	if err != nil || Lines(again) != want {
		t.Errorf("second All() =\n%s (%v), want\n%s", Lines(again), err, want)
	}
}

func TestAll_failure(t *testing.T) {
	rejectPut := func(part string, status int) func(*http.Request) int {
		return func(r *http.Request) int {
			if r.Method == http.MethodPut && strings.Contains(r.URL.Path, part) {
				return status
			}
			return 0
		}
	}
	errSign := errors.New("no key")
	for _, c := range []struct {
		name   string
		reject func(*http.Request) int
		sign   func(context.Context, name.Digest) error
		want   string
	}{
		{"second_image", rejectPut("/trainer/manifests/sha256", http.StatusForbidden), nil, "/fakeart/trainer, on Google Cloud with roles/artifactregistry.writer"},
		{"layer", rejectPut("/trainer/blobs/", http.StatusInsufficientStorage), nil, "507"},
		{"signature", nil, func(context.Context, name.Digest) error { return errSign }, "no key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			host, tags := registrytest.Serve(t, c.reject)
			_, err := All(t.Context(), testBundles(t), Target{Registry: host + "/fakeart", Tags: []string{"latest"}, Sign: c.sign})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if tags := tags(); len(tags) > 0 {
				t.Errorf("tags %v", tags)
			}
		})
	}
}

func TestAll_credentials(t *testing.T) {
	host, _ := registrytest.Serve(t, func(r *http.Request) int {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
			return http.StatusUnauthorized
		}
		return 0
	})
	if _, err := All(t.Context(), testBundles(t), Target{Registry: host + "/fakeart", Username: "me", Password: "secret"}); err != nil {
		t.Error(err)
	}
	_, err := All(t.Context(), testBundles(t), Target{Registry: host + "/fakeart", Username: "me", Password: "wrong"})
	if err == nil || !strings.Contains(err.Error(), "--registry-password, or without Dagger run `docker login "+host+"`") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("All() with a wrong password: error %v", err)
	}
}

func TestAll_dial(t *testing.T) {
	host, _ := registrytest.Serve(t, nil)
	// Nothing listens on port 1.
	pushed, err := All(t.Context(), testBundles(t), Target{Registry: "127.0.0.1:1/fakeart", Dial: host})
	if err != nil {
		t.Fatal(err)
	}
	if got := pushed["server"].Context().Name(); got != "127.0.0.1:1/fakeart/server" {
		t.Errorf("pushed to %s", got)
	}
	_, err = All(t.Context(), testBundles(t), Target{Registry: "127.0.0.1:1/fakeart"})
	if err == nil || !strings.Contains(err.Error(), "check the registry's name, and that 127.0.0.1:1 is running; for a registry on the machine's loopback interface, Dagger also needs --registry-service=tcp://127.0.0.1:1") {
		t.Errorf("All() without Dial: error %v", err)
	}
}

func TestWithRootCAs(t *testing.T) {
	server := httptest.NewTLSServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	// The client uses HTTPS because the name isn't a loopback address.
	target := Target{Registry: "example.com/fakeart", Dial: strings.TrimPrefix(server.URL, "https://")}
	if _, err := All(t.Context(), testBundles(t), target); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("All() with an untrusted certificate: error %v", err)
	}
	target.Transport = WithRootCAs(http.DefaultTransport.(*http.Transport), pool)
	if _, err := All(t.Context(), testBundles(t), target); err != nil {
		t.Error(err)
	}
}

func TestTarget_Check(t *testing.T) {
	for want, target := range map[string]Target{
		`registry ""`:                         {},
		`registry "HOST/PATH"`:                {Registry: "HOST/PATH"},
		`tag "a b"`:                           {Registry: "127.0.0.1:5000/fakeart", Tags: []string{"v1", "a b"}},
		"both --registry-username":            {Registry: "127.0.0.1:5000/fakeart", Username: "me"},
		"password is missing\nhint: set both": {Registry: "127.0.0.1:5000/fakeart", Password: "secret"},
	} {
		if err := target.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v.Check(): error %v, want %q", target, err, want)
		}
	}
}

func TestTarget_Fetch(t *testing.T) {
	host, _ := registrytest.Serve(t, nil)
	pushed, err := All(t.Context(), testBundles(t), Target{Registry: host + "/fakeart", Tags: []string{"v1"}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Target{Registry: host + "/fakeart"}.Fetch(t.Context(), pushed["server"].String())
	if err != nil {
		t.Fatal(err)
	}
	if d, err := b.Digest(); err != nil || d.String() != pushed["server"].DigestStr() {
		t.Errorf("digest %s, %v", d, err)
	}
	if _, err := (Target{}).Fetch(t.Context(), host+"/fakeart/server:v1"); err == nil || !strings.Contains(err.Error(), "has no digest") {
		t.Errorf("Fetch() by tag: error %v", err)
	}
}

func TestNames(t *testing.T) {
	for revision, want := range map[string]string{
		strings.Repeat("a", 40):               "aaaaaaaaaaaa",
		strings.Repeat("a", 40) + "-modified": "aaaaaaaaaaaa-modified",
	} {
		if got := CommitTag(revision); got != want {
			t.Errorf("CommitTag(%q) = %q, want %q", revision, got, want)
		}
	}
	ref, err := name.NewDigest("127.0.0.1:5000/a@sha256:" + strings.Repeat("0", 64))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(CosignArgs(ref, "", ""), " "); got != "sign --yes "+ref.String() {
		t.Errorf("CosignArgs() without a key = %s", got)
	}
	if got := strings.Join(CosignArgs(ref, "k", ""), " "); got != "sign --yes --key k --tlog-upload=false "+ref.String() {
		t.Errorf("CosignArgs() with a key = %s", got)
	}
	want := "sign --yes --key k --tlog-upload=false --allow-http-registry --sign-container-identity=127.0.0.1:5000/a tunnel:5000/a@" + ref.DigestStr()
	if got := strings.Join(CosignArgs(ref, "k", "tunnel:5000"), " "); got != want {
		t.Errorf("CosignArgs() through a tunnel = %s, want %s", got, want)
	}
}
