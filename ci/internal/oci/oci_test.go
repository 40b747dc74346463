package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
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
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

var at = time.Date(2026, 11, 27, 3, 15, 35, 0, time.UTC)

// quiet disables a registry's log.
var quiet = registry.Logger(log.New(io.Discard, "", 0))

// file writes a file and returns its path.
func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// digest returns the digest of a layer, an image or an index.
func digest(t *testing.T, of interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	h, err := of.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

func TestLayer_digest(t *testing.T) {
	a, b := file(t, "a", "one"), file(t, "b", "two")
	first, err := Layer([]Entry{{Path: "/app/a", Source: a, Mode: 0o755}, {Path: "/etc/b", Source: b, Mode: 0o644}}, at)
	if err != nil {
		t.Fatal(err)
	}
	want := digest(t, first)
	t.Run("independent_of_source_file_and_order", func(t *testing.T) {
		other := file(t, "c", "two")
		if err := errors.Join(os.Chmod(other, 0o777), os.Chtimes(other, at, at.AddDate(-20, 0, 0))); err != nil {
			t.Fatal(err)
		}
		again, err := Layer([]Entry{{Path: "/etc/b", Source: other, Mode: 0o644}, {Path: "/app/a", Source: a, Mode: 0o755}}, at.In(time.FixedZone("", 3600)))
		if err != nil {
			t.Fatal(err)
		}
		if got := digest(t, again); got != want {
			t.Errorf("digest %s, want %s", got, want)
		}
	})
	for name, entries := range map[string][]Entry{
		"content": {{Path: "/app/a", Source: b, Mode: 0o755}, {Path: "/etc/b", Source: b, Mode: 0o644}},
		"mode":    {{Path: "/app/a", Source: a, Mode: 0o644}, {Path: "/etc/b", Source: b, Mode: 0o644}},
		"owner":   {{Path: "/app/a", Source: a, Mode: 0o755, Owner: 1}, {Path: "/etc/b", Source: b, Mode: 0o644}},
		"path":    {{Path: "/app/c", Source: a, Mode: 0o755}, {Path: "/etc/b", Source: b, Mode: 0o644}},
	} {
		t.Run(name, func(t *testing.T) {
			other, err := Layer(entries, at)
			if err != nil {
				t.Fatal(err)
			}
			if digest(t, other) == want {
				t.Error("the digest is the same")
			}
		})
	}
}

// TestLayer_golden fails if Go's tar writer, the compressor or the order of files changes. Such a
// change gives every image a new digest, so mention it in the commit message.
func TestLayer_golden(t *testing.T) {
	layer, err := Layer([]Entry{
		{Path: "/app/" + strings.Repeat("long/", 30) + "a", Source: file(t, "a", strings.Repeat("content ", 10_000)), Mode: 0o755},
		{Path: "/data", Mode: 0o755, Owner: 65532},
	}, at)
	if err != nil {
		t.Fatal(err)
	}
	const want = "sha256:bdade8254b34973d7e2f4f282c0ac5db172625a64b748139b968e87a9fc8f334"
	if got := digest(t, layer); got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
}

func TestLayer_parents(t *testing.T) {
	layer, err := Layer([]Entry{{Path: "/a/b/c", Source: file(t, "c", "x"), Mode: 0o644}, {Path: "/a/d", Mode: 0o755, Owner: 7}}, at)
	if err != nil {
		t.Fatal(err)
	}
	content, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(at) {
			t.Errorf("%s has the time %s", h.Name, h.ModTime)
		}
		got = append(got, h.Name)
	}
	if want := "a/ a/b/ a/b/c a/d/"; strings.Join(got, " ") != want {
		t.Errorf("entries %v, want %s", got, want)
	}
}

func TestLayer_errors(t *testing.T) {
	a := file(t, "a", "x")
	for want, entries := range map[string][]Entry{
		`"app/a" isn't clean`:    {{Path: "app/a", Source: a}},
		`"/app/../a" isn't`:      {{Path: "/app/../a", Source: a}},
		"duplicate path /a":      {{Path: "/a", Source: a}, {Path: "/a", Source: a}},
		"/a is a file, but also": {{Path: "/a", Source: a}, {Path: "/a/b", Source: a}},
		"no such file":           {{Path: "/a", Source: a + ".missing"}},
		"isn't a regular file":   {{Path: "/a", Source: filepath.Dir(a)}},
	} {
		if _, err := Layer(entries, at); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Layer(%v): error %v, want %q", entries, err, want)
		}
	}
}

// baseImage returns an image for an architecture with one layer, compressed at a level.
func baseImage(t *testing.T, arch string, level int) v1.Image {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	content := strings.Repeat("base for "+arch, 1000)
	if err := errors.Join(
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/base", Mode: 0o644, Size: int64(len(content))}),
	); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive.Bytes())), nil
	}, tarball.WithCompressionLevel(level))
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: arch, RootFS: v1.RootFS{Type: "layers"}})
	if err == nil {
		img, err = mutate.AppendLayers(img, layer)
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// baseIndex returns a base for both platforms.
func baseIndex(t *testing.T, level int) v1.ImageIndex {
	t.Helper()
	index, err := Index([]v1.Image{baseImage(t, "amd64", level), baseImage(t, "arm64", level)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// layoutOf writes an index as an OCI layout and returns its directory.
func layoutOf(t *testing.T, index v1.ImageIndex) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	path, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = path.AppendIndex(index)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// testBundle returns a program's image for both platforms, on a base.
func testBundle(t *testing.T, base *Base) *Bundle {
	t.Helper()
	layer, err := Layer([]Entry{{Path: "/app/p", Source: file(t, "p", "program"), Mode: 0o755}}, at)
	if err != nil {
		t.Fatal(err)
	}
	b := &Bundle{}
	var list []v1.Image
	for _, arch := range []string{"amd64", "arm64"} {
		img, err := Image(base, v1.Platform{OS: "linux", Architecture: arch}, v1.Config{Entrypoint: []string{"/app/p"}, User: "7"}, at, Added{layer, "p"})
		if err != nil {
			t.Fatal(err)
		}
		d, err := partial.Descriptor(img)
		if err != nil {
			t.Fatal(err)
		}
		about, err := Referrer(*d, "application/vnd.example+json", []byte(`{"arch":"`+arch+`"}`), nil)
		if err != nil {
			t.Fatal(err)
		}
		list, b.Referrers = append(list, img), append(b.Referrers, about)
	}
	if b.Index, err = Index(list, map[string]string{"org.opencontainers.image.title": "p"}); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestImage_sameBase(t *testing.T) {
	index := baseIndex(t, 1)
	server := httptest.NewServer(registry.New(quiet))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	pinned := host + "/base@" + digest(t, index)
	ref, err := name.NewDigest(pinned)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	pulled, err := PullBase(t.Context(), pinned)
	if err != nil {
		t.Fatal(err)
	}
	want := digest(t, testBundle(t, pulled).Index)

	t.Run("layout", func(t *testing.T) {
		read, err := ReadBase(layoutOf(t, index))
		if err != nil {
			t.Fatal(err)
		}
		if got := digest(t, testBundle(t, read.Named(pinned)).Index); got != want {
			t.Errorf("digest %s, want %s", got, want)
		}
	})
	t.Run("archives_with_other_compression", func(t *testing.T) {
		var parts []*Base
		for _, arch := range []string{"amd64", "arm64"} {
			archive := filepath.Join(t.TempDir(), "base.tar")
			if err := Archive(baseImage(t, arch, 9), "base:latest", archive, time.Now()); err != nil {
				t.Fatal(err)
			}
			part, err := ReadBase(archive)
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, part)
		}
		joined, err := JoinBases(pinned, parts...)
		if err != nil {
			t.Fatal(err)
		}
		if got := digest(t, testBundle(t, joined).Index); got != want {
			t.Errorf("digest %s, want %s", got, want)
		}
	})
	t.Run("other_base", func(t *testing.T) {
		read, err := ReadBase(layoutOf(t, baseIndex(t, 9)))
		if err != nil {
			t.Fatal(err)
		}
		if read.Named(pinned) != read {
			t.Error("Named() accepted another base as the pinned one")
		}
	})
}

func TestBase_errors(t *testing.T) {
	server := httptest.NewServer(registry.New(quiet))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	missing := "@sha256:" + strings.Repeat("0", 64)
	for reference, want := range map[string]string{
		host + "/base:latest":    "has no digest",
		host + "/base" + missing: "NAME_UNKNOWN",
	} {
		if _, err := PullBase(t.Context(), reference); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("PullBase(%s): error %v, want %q", reference, err, want)
		}
	}
	only, err := Index([]v1.Image{baseImage(t, "amd64", 1)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	base, err := ReadBase(layoutOf(t, only))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := base.Image(v1.Platform{OS: "linux", Architecture: "arm64"}); err == nil || !strings.Contains(err.Error(), "only for linux/amd64") {
		t.Errorf("Image() for a missing platform: error %v", err)
	}
	twice, err := Index([]v1.Image{baseImage(t, "amd64", 1), baseImage(t, "amd64", 9)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	emptyLayout := filepath.Join(t.TempDir(), "empty")
	if _, err := layout.Write(emptyLayout, empty.Index); err != nil {
		t.Fatal(err)
	}
	evil := filepath.Join(t.TempDir(), "evil.tar")
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := errors.Join(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "../out", Size: 0}), w.Close(), os.WriteFile(evil, archive.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	for where, want := range map[string]string{
		filepath.Join(t.TempDir(), "none"):         "no such file",
		t.TempDir():                                "isn't an OCI layout",
		file(t, "text", strings.Repeat("no", 999)): "not a tar archive",
		evil:               "path outside the archive",
		layoutOf(t, twice): "two images for linux/amd64",
		emptyLayout:        "contains no image",
	} {
		if _, err := ReadBase(where); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ReadBase(%s): error %v, want %q", where, err, want)
		}
	}
}

// bundle returns a program's image on a new base.
func bundle(t *testing.T) *Bundle {
	t.Helper()
	base, err := ReadBase(layoutOf(t, baseIndex(t, 1)))
	if err != nil {
		t.Fatal(err)
	}
	return testBundle(t, base)
}

func TestSave(t *testing.T) {
	b := bundle(t)
	dir := filepath.Join(t.TempDir(), "new", "p")
	if err := b.Save(dir, "p:1"); err != nil {
		t.Fatal(err)
	}
	again, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := digest(t, again.Index), digest(t, b.Index); got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
	if len(again.Referrers) != 2 || digest(t, again.Referrers[0]) != digest(t, b.Referrers[0]) {
		t.Errorf("referrers %v", again.Referrers)
	}
	if err := b.Save(dir, "p:1"); err == nil || !strings.Contains(err.Error(), "it already exists") {
		t.Errorf("Save() to an existing directory: error %v", err)
	}
	left, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(left) != 1 {
		t.Errorf("Save() left %v (%v)", left, err)
	}
	if _, err := Load(t.TempDir()); err == nil {
		t.Error("Load() of an empty directory: no error")
	}
}

func TestArchive(t *testing.T) {
	img := baseImage(t, "amd64", 1)
	archive := filepath.Join(t.TempDir(), "p.tar")
	if err := Archive(img, "fakeart/p:1", archive, at); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("fakeart/p:1")
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := tarball.ImageFromPath(archive, &tag)
	if err != nil {
		t.Fatal(err)
	}
	want, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := loaded.ConfigName(); err != nil || got != want {
		t.Errorf("config digest %s (%v), want %s", got, err, want)
	}
	if _, err := ReadBase(archive); err != nil {
		t.Errorf("ReadBase(): %v", err)
	}
	if err := Archive(img, "p:1", filepath.Join(t.TempDir(), "none", "p.tar"), at); err == nil {
		t.Error("Archive() to a missing directory: no error")
	}
}

func TestPush(t *testing.T) {
	for title, options := range map[string][]registry.Option{
		"with_referrers_api":    {registry.WithReferrersSupport(true)},
		"without_referrers_api": nil,
	} {
		t.Run(title, func(t *testing.T) {
			server := httptest.NewServer(registry.New(append(options, quiet)...))
			defer server.Close()
			repo, err := name.NewRepository(strings.TrimPrefix(server.URL, "http://") + "/fakeart/p")
			if err != nil {
				t.Fatal(err)
			}
			b := bundle(t)
			ref, err := b.Push(t.Context(), repo)
			if err != nil {
				t.Fatal(err)
			}
			if ref.DigestStr() != digest(t, b.Index) {
				t.Errorf("Push() = %s", ref)
			}
			if again, err := b.Push(t.Context(), repo); err != nil || again != ref {
				t.Errorf("second Push() = %s (%v), want %s", again, err, ref)
			}
			found, err := Fetch(t.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			if len(found.Referrers) != 2 {
				t.Fatalf("%d referrers, want 2", len(found.Referrers))
			}
			manifest, err := found.Referrers[0].Manifest()
			if err != nil {
				t.Fatal(err)
			}
			if manifest.ArtifactType != "application/vnd.example+json" || manifest.Subject == nil || string(manifest.Config.MediaType) != "application/vnd.oci.empty.v1+json" {
				text, _ := json.Marshal(manifest)
				t.Errorf("artifact manifest %s", text)
			}
			if err := Tag(t.Context(), ref, "v1"); err != nil {
				t.Fatal(err)
			}
			if d, err := remote.Head(repo.Tag("v1")); err != nil || d.Digest.String() != ref.DigestStr() {
				t.Errorf("tag v1 is %v (%v)", d, err)
			}
		})
	}
}

func TestFetch_signature(t *testing.T) {
	server := httptest.NewServer(registry.New(quiet))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	from, err := name.NewRepository(host + "/dev/p")
	if err != nil {
		t.Fatal(err)
	}
	to, err := name.NewRepository(host + "/prod/p")
	if err != nil {
		t.Fatal(err)
	}
	ref, err := bundle(t).Push(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	signature := baseImage(t, "amd64", 1)
	tag := "sha256-" + strings.TrimPrefix(ref.DigestStr(), "sha256:") + ".sig"
	if err := remote.Write(from.Tag(tag), signature); err != nil {
		t.Fatal(err)
	}
	found, err := Fetch(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := found.Push(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	d, err := remote.Head(to.Tag(tag))
	if err != nil || d.Digest.String() != digest(t, signature) {
		t.Errorf("signature in the target repository: %v, %v", d, err)
	}
}

func TestPush_forbidden(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer server.Close()
	repo, err := name.NewRepository(strings.TrimPrefix(server.URL, "http://") + "/p")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bundle(t).Push(context.Background(), repo); err == nil || !strings.Contains(err.Error(), "push "+repo.Name()) {
		t.Errorf("error %v", err)
	}
}
