package images

import (
	"bytes"
	"encoding/json"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"

	"dagger/fakeart/internal/oci"
	"dagger/fakeart/internal/stage"
	"dagger/fakeart/internal/stage/stagetest"
)

var (
	source = stage.Source{Revision: strings.Repeat("ab", 20), Created: time.Date(2026, 11, 27, 3, 15, 35, 0, time.UTC)}
	pinned = "registry.example/base:1@sha256:" + strings.Repeat("12", 32)
)

// staged are programs that are quick to build.
func staged(t *testing.T) string {
	t.Helper()
	root, out := t.TempDir(), filepath.Join(t.TempDir(), "stage")
	stagetest.Checkout(t, root)
	_, err := stage.Write(t.Context(), out, stage.Options{
		Root: root, Source: source, Platforms: []string{stagetest.Platform}, GoVersion: strings.TrimPrefix(runtime.Version(), "go"), Log: io.Discard,
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// onBase is a base with these files besides what programs need.
func onBase(t *testing.T, files map[string][]byte) *oci.Base {
	t.Helper()
	archive := filepath.Join(t.TempDir(), "base.tar")
	if err := oci.Archive(stagetest.Base(t, files), "base:1", archive, source.Created); err != nil {
		t.Fatal(err)
	}
	part, err := oci.ReadBase(archive)
	if err != nil {
		t.Fatal(err)
	}
	base, err := oci.JoinBases(pinned, part)
	if err != nil {
		t.Fatal(err)
	}
	return base
}

// packages are what a base of distroless's says it is made of.
var packages = map[string][]byte{
	"/var/lib/dpkg/status.d/libc6":         []byte("Package: libc6\nVersion: 2.36-9+deb12u14\nArchitecture: amd64\n"),
	"/var/lib/dpkg/status.d/libc6.md5sums": []byte("not a package\n"),
}

func make1(t *testing.T, stage string, files map[string][]byte, repository, builder string) map[string]*oci.Bundle {
	t.Helper()
	made, err := Make(Options{Stage: stage, Base: onBase(t, files), Repository: repository, Builder: builder})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestImages(t *testing.T) {
	const repository = "https://forge.example/a/b"
	dir := staged(t)
	made := make1(t, dir, packages, repository, "https://builder.example/laptop")
	server := made["server"]

	t.Run("hold what the linker wants, and run as nobody in particular", func(t *testing.T) {
		for program, b := range made {
			if err := Check(program, b); err != nil {
				t.Errorf("%s: %v", program, err)
			}
		}
		err := each(server, func(_ string, img v1.Image) error {
			config, err := img.ConfigFile()
			if err != nil {
				return err
			}
			c := config.Config
			if c.User != "65532" || c.WorkingDir != "/data" || c.Entrypoint[0] != "/app/server" || len(c.Volumes) != 1 {
				t.Errorf("configuration %+v", c)
			}
			for _, h := range config.History {
				if !h.Created.Equal(source.Created) {
					t.Errorf("history %+v", h)
				}
			}
			if got := c.Labels["org.opencontainers.image.base.name"]; got != "registry.example/base" {
				t.Errorf("base %q", got)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("say what they are", func(t *testing.T) {
		about, err := About(server)
		if err != nil {
			t.Fatal(err)
		}
		if about.Program != "server" || about.Revision != source.Revision || !about.Created.Equal(source.Created) || len(about.Platforms) != 1 || about.Platforms[0] != stagetest.Platform {
			t.Errorf("it says %+v", about)
		}
	})
	t.Run("do not depend on who builds", func(t *testing.T) {
		other := make1(t, dir, packages, repository, "https://builder.example/forge")
		differences, err := Differences(server, other["server"])
		if err != nil || len(differences) > 0 {
			t.Errorf("%v, %v", differences, err)
		}
	})
	t.Run("of another origin differ, and in what", func(t *testing.T) {
		other := make1(t, dir, packages, "https://forge.example/a/fork", "https://builder.example/laptop")
		differences, err := Differences(server, other["server"])
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(differences, "\n")
		if !strings.Contains(text, "configuration") || strings.Contains(text, "layer") {
			t.Errorf("differences:\n%s", text)
		}
		if differences, err = Differences(server, make1(t, dir, map[string][]byte{"/etc/more": []byte("more")}, repository, "https://builder.example/laptop")["server"]); err != nil || !strings.Contains(strings.Join(differences, "\n"), "layer 0 (base ") {
			t.Errorf("another base: %v, %v", differences, err)
		}
	})
	t.Run("have a list of contents for each platform", func(t *testing.T) {
		blob := layerOf(t, server.Referrers[0])
		var bom cdx.BOM
		if err := cdx.NewBOMDecoder(bytes.NewReader(blob), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
			t.Fatal(err)
		}
		purls := map[string]bool{}
		for _, c := range *bom.Components {
			purls[c.PackageURL] = true
		}
		for _, want := range []string{"pkg:npm/onnxruntime-node@1.27.0", "pkg:golang/stdlib@" + strings.TrimPrefix(runtime.Version(), "go"), "pkg:deb/debian/libc6@2.36-9+deb12u14?arch=amd64"} {
			if !purls[want] {
				t.Errorf("%s is missing in %v", want, purls)
			}
		}
		if len(purls) != 3 {
			t.Errorf("there is also %v", purls)
		}
	})
	t.Run("have their provenance", func(t *testing.T) {
		var statement struct {
			Type          string `json:"_type"`
			PredicateType string
			Subject       []struct {
				Digest map[string]string
			}
			Predicate struct {
				BuildDefinition struct {
					BuildType            string
					ExternalParameters   map[string]any
					ResolvedDependencies []struct {
						URI    string
						Digest map[string]string
					}
				}
				RunDetails struct{ Builder struct{ ID string } }
			}
		}
		if err := json.Unmarshal(layerOf(t, server.Referrers[1]), &statement); err != nil {
			t.Fatal(err)
		}
		digest, err := server.Digest()
		if err != nil {
			t.Fatal(err)
		}
		p := statement.Predicate
		if statement.Type != "https://in-toto.io/Statement/v1" || statement.PredicateType != "https://slsa.dev/provenance/v1" || statement.Subject[0].Digest["sha256"] != digest.Hex {
			t.Errorf("the statement is %+v", statement)
		}
		if p.RunDetails.Builder.ID != "https://builder.example/laptop" || p.BuildDefinition.ExternalParameters["revision"] != source.Revision {
			t.Errorf("the predicate is %+v", p)
		}
		if d := p.BuildDefinition.ResolvedDependencies; len(d) != 3 || d[0].Digest["gitCommit"] != source.Revision || d[1].Digest["sha256"] != strings.Repeat("12", 32) || d[2].Digest["sha512"] != strings.Repeat("0", 128) {
			t.Errorf("made of %+v", d)
		}
	})
}

func layerOf(t *testing.T, img v1.Image) []byte {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	r, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestABaseThatDoesNotFitIsFound(t *testing.T) {
	dir := staged(t)
	for want, files := range map[string]map[string][]byte{
		"wants the library libc.so.6, which the base does not have": {"/lib/libc.so.6": nil},
		"there is a shell in it: /bin/sh":                           {"/bin/sh": []byte("#!")},
		// The loader defines fewer versions of symbols than libc.
		"which is older in the base": {"/lib/libc.so.6": stagetest.System(t, stagetest.Loader)},
	} {
		t.Run(want, func(t *testing.T) {
			b := make1(t, dir, files, "https://forge.example/a/b", "https://builder.example/laptop")["server"]
			if err := Check("server", b); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q", err, want)
			}
		})
	}
}

func TestAnImageThatIsTooLargeIsFound(t *testing.T) {
	b := make1(t, staged(t), packages, "https://forge.example/a/b", "https://builder.example/laptop")["server"]
	if err := check("server", b, 1000); err == nil || !strings.Contains(err.Error(), "it has ") {
		t.Errorf("error %v", err)
	}
}

func TestWhatIsNoneOfOursIsSaid(t *testing.T) {
	index, err := oci.Index([]v1.Image{empty.Image}, map[string]string{"org.opencontainers.image.title": "other"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := About(&oci.Bundle{Index: index}); err == nil || !strings.Contains(err.Error(), "does not say that it is an image of Fakeart's") {
		t.Errorf("error %v", err)
	}
	if _, err := Make(Options{Stage: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "build.json") {
		t.Errorf("of nothing: error %v", err)
	}
	if err := Has(onBase(t, nil), "linux/s390x"); err == nil || !strings.Contains(err.Error(), "has no image for linux/s390x") {
		t.Errorf("for a platform that the base lacks: error %v", err)
	}
}
