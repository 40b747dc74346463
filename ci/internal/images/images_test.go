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

// staged builds small test programs and returns the directory with them.
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

// testBase returns a base with the libraries that programs need and these files.
func testBase(t *testing.T, files map[string][]byte) *oci.Base {
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

// packages has the package lists of a distroless base.
var packages = map[string][]byte{
	"/var/lib/dpkg/status.d/libc6":         []byte("Package: libc6\nVersion: 2.36-9+deb12u14\nArchitecture: amd64\n"),
	"/var/lib/dpkg/status.d/libc6.md5sums": []byte("not a package\n"),
}

// makeImages calls [Make] with the programs in stage and a base with these files.
func makeImages(t *testing.T, stage string, files map[string][]byte, repository, builder string) map[string]*oci.Bundle {
	t.Helper()
	made, err := Make(Options{Stage: stage, Base: testBase(t, files), Repository: repository, Builder: builder})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestMake(t *testing.T) {
	const repository = "https://git.example/a/b"
	dir := staged(t)
	made := makeImages(t, dir, packages, repository, "https://builder.example/laptop")
	server := made["server"]

	t.Run("valid", func(t *testing.T) {
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
				t.Errorf("config %+v", c)
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
	t.Run("summary", func(t *testing.T) {
		about, err := Summarize(server)
		if err != nil {
			t.Fatal(err)
		}
		if about.Program != "server" || about.Revision != source.Revision || !about.Created.Equal(source.Created) || len(about.Platforms) != 1 || about.Platforms[0] != stagetest.Platform {
			t.Errorf("Summarize() = %+v", about)
		}
	})
	t.Run("same_digest_with_other_builder", func(t *testing.T) {
		other := makeImages(t, dir, packages, repository, "https://builder.example/other")
		differences, err := Differences(server, other["server"])
		if err != nil || len(differences) > 0 {
			t.Errorf("%v, %v", differences, err)
		}
	})
	t.Run("differences", func(t *testing.T) {
		other := makeImages(t, dir, packages, "https://git.example/a/fork", "https://builder.example/laptop")
		differences, err := Differences(server, other["server"])
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(differences, "\n")
		if !strings.Contains(text, "configuration") || strings.Contains(text, "layer") {
			t.Errorf("differences:\n%s", text)
		}
		if differences, err = Differences(server, makeImages(t, dir, map[string][]byte{"/etc/more": []byte("more")}, repository, "https://builder.example/laptop")["server"]); err != nil || !strings.Contains(strings.Join(differences, "\n"), "layer 0 (base ") {
			t.Errorf("Differences() with another base = %v, %v", differences, err)
		}
	})
	t.Run("sbom", func(t *testing.T) {
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
				t.Errorf("the SBOM has %v, want %s", purls, want)
			}
		}
		if len(purls) != 3 {
			t.Errorf("the SBOM has %v, want 3 components", purls)
		}
	})
	t.Run("provenance", func(t *testing.T) {
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
			t.Errorf("statement %+v", statement)
		}
		if p.RunDetails.Builder.ID != "https://builder.example/laptop" || p.BuildDefinition.ExternalParameters["revision"] != source.Revision {
			t.Errorf("predicate %+v", p)
		}
		if d := p.BuildDefinition.ResolvedDependencies; len(d) != 3 || d[0].Digest["gitCommit"] != source.Revision || d[1].Digest["sha256"] != strings.Repeat("12", 32) || d[2].Digest["sha512"] != strings.Repeat("0", 128) {
			t.Errorf("resolved dependencies %+v", d)
		}
	})
}

// layerOf returns the content of an image's first layer.
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

func TestCheck_errors(t *testing.T) {
	dir := staged(t)
	for _, c := range []struct {
		name  string
		files map[string][]byte
		want  string
	}{
		{"missing_library", map[string][]byte{"/lib/libc.so.6": nil}, "needs the library libc.so.6, which isn't in the base"},
		{"shell", map[string][]byte{"/bin/sh": []byte("#!")}, "contains a shell: /bin/sh"},
		// The loader defines fewer versions of symbols than libc.
		{"older_library", map[string][]byte{"/lib/libc.so.6": stagetest.SystemLibrary(t, stagetest.Loader)}, "the base has an older version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := makeImages(t, dir, c.files, "https://git.example/a/b", "https://builder.example/laptop")["server"]
			if err := Check("server", b); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestCheck_size(t *testing.T) {
	b := makeImages(t, staged(t), packages, "https://git.example/a/b", "https://builder.example/laptop")["server"]
	if err := check("server", b, 1000); err == nil || !strings.Contains(err.Error(), "compressed size is ") {
		t.Errorf("error %v", err)
	}
}

func TestErrors(t *testing.T) {
	index, err := oci.Index([]v1.Image{empty.Image}, map[string]string{"org.opencontainers.image.title": "other"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Summarize(&oci.Bundle{Index: index}); err == nil || !strings.Contains(err.Error(), "not a Fakeart image") {
		t.Errorf("Summarize(): error %v", err)
	}
	if _, err := Make(Options{Stage: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "build.json") {
		t.Errorf("Make() from an empty directory: error %v", err)
	}
	if err := CheckPlatform(testBase(t, nil), "linux/s390x"); err == nil || !strings.Contains(err.Error(), "has no image for linux/s390x") {
		t.Errorf("CheckPlatform(): error %v", err)
	}
}
