// Package debian builds a base image from Debian packages, for machines that can't reach the
// registry of the real base. Like distroless's cc-debian12, it has the C and C++ libraries,
// certificates and time zones, but no shell. Call [Write] to build it.
//
// Debian's packages change over time, so images on this base can't be reproduced and must not be
// published.
package debian

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"dagger/fakeart/internal/oci"
)

// packages lists the packages of gcr.io/distroless/cc-debian12.
var packages = []string{"base-files", "ca-certificates", "libc6", "libgcc-s1", "libgomp1", "libssl3", "libstdc++6", "netbase", "tzdata", "gcc-12-base"}

// Name is the name of the base, which no registry can have.
const Name = "fakeart.invalid/debian-packages"

// files has the content, by path, of the files that no package contains.
var files = map[string]string{
	"etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n",
	"etc/group":  "root:x:0:\nnobody:x:65534:\nnonroot:x:65532:\n",
	"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nnetworks: files\n" +
		"services: files\nprotocols: files\n",
}

// Write writes the base for these platforms to dir, as an OCI layout. It downloads packages with
// this machine's apt-get, from the sources configured there, and installs nothing. It returns an
// error if apt-get or dpkg-deb is missing.
func Write(ctx context.Context, dir string, platforms []string) error {
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("build a base from Debian packages: %s isn't installed\nhint: run this on Debian or Ubuntu, or set BASE to an OCI layout of the base", tool)
		}
	}
	out, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("build a base from Debian packages: %w", err)
	}
	index := v1.ImageIndex(empty.Index)
	for _, platform := range platforms {
		img, err := image(ctx, platform)
		if err != nil {
			return fmt.Errorf("build a base from Debian packages for %s: %w", platform, err)
		}
		config, err := img.ConfigFile()
		if err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: config.Platform()}})
	}
	return out.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": Name + ":latest"}))
}

// image builds the base's image for a platform.
func image(ctx context.Context, platform string) (_ v1.Image, err error) {
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp("", "debian-base-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	archives, err := download(ctx, filepath.Join(work, "apt"), p.Architecture)
	if err != nil {
		return nil, err
	}
	return assemble(ctx, filepath.Join(work, "root"), *p, archives)
}

// assemble unpacks packages into root and returns an image with the resulting files.
func assemble(ctx context.Context, root string, p v1.Platform, archives []string) (v1.Image, error) {
	for _, archive := range archives {
		if err := unpack(ctx, root, archive); err != nil {
			return nil, err
		}
	}
	if err := certificates(root); err != nil {
		return nil, err
	}
	for name, content := range files {
		if err := put(root, name, strings.NewReader(content)); err != nil {
			return nil, err
		}
	}
	var entries []oci.Entry
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		entries = append(entries, oci.Entry{Path: "/" + filepath.ToSlash(rel), Source: path, Mode: 0o755})
		return err
	})
	if err != nil {
		return nil, err
	}
	entries = append(entries, oci.Entry{Path: "/tmp", Mode: 0o777}, oci.Entry{Path: "/home/nonroot", Mode: 0o755, Owner: 65532})
	for _, mountPoint := range []string{"/dev", "/proc", "/run", "/sys"} {
		entries = append(entries, oci.Entry{Path: mountPoint, Mode: 0o755})
	}
	layer, err := oci.Layer(entries, time.Unix(0, 0))
	if err != nil {
		return nil, err
	}
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: p.OS, Architecture: p.Architecture, RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(img, layer)
}

// download downloads the packages for an architecture with apt-get and returns the paths of the
// archives. All of apt's state is kept in dir.
func download(ctx context.Context, dir, arch string) ([]string, error) {
	for _, d := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "status"), nil, 0o644); err != nil {
		return nil, err
	}
	options := []string{
		"-q", "-o", "APT::Architecture=" + arch, "-o", "APT::Architectures=" + arch,
		"-o", "Dir::State::lists=" + filepath.Join(dir, "lists"), "-o", "Dir::State::status=" + filepath.Join(dir, "status"),
		"-o", "Dir::Cache=" + dir, "-o", "Dir::Cache::archives=" + filepath.Join(dir, "archives"), "-o", "APT::Sandbox::User=",
		"-o", "Acquire::Languages=none",
	}
	for _, args := range [][]string{{"update"}, append([]string{"download"}, packages...)} {
		apt := exec.CommandContext(ctx, "apt-get", append(options, args...)...)
		apt.Dir = dir
		if text, err := apt.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("apt-get %s: %w: %s", args[0], err, lastLines(text))
		}
	}
	archives, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err == nil && len(archives) != len(packages) {
		err = fmt.Errorf("apt-get download: got %d of %d packages", len(archives), len(packages))
	}
	return archives, err
}

// lastLines returns the last five lines of text.
func lastLines(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// runtimeDirs lists the directories in packages that programs need at run time.
var runtimeDirs = []string{"etc/", "lib/", "lib64/", "usr/lib/", "usr/share/ca-certificates/", "usr/share/zoneinfo/", "usr/share/doc/"}

// unpack copies the files that programs need from a package into root and replaces links with
// copies of their targets. It records the package in var/lib/dpkg/status.d, like distroless.
func unpack(ctx context.Context, root, archive string) error {
	content, err := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", archive).Output()
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(archive), err)
	}
	links := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(content)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(archive), err)
		}
		name := strings.TrimPrefix(filepath.Clean("/"+header.Name), "/")
		if !slices.ContainsFunc(runtimeDirs, func(dir string) bool { return strings.HasPrefix(name, dir) }) ||
			strings.HasPrefix(name, "usr/share/doc/") && filepath.Base(name) != "copyright" {
			continue
		}
		switch header.Typeflag {
		case tar.TypeReg:
			err = put(root, name, r)
		case tar.TypeSymlink:
			target := header.Linkname
			if !filepath.IsAbs(target) {
				target = filepath.Join("/", filepath.Dir(name), target)
			}
			links[name] = strings.TrimPrefix(filepath.Clean(target), "/")
		case tar.TypeLink:
			links[name] = strings.TrimPrefix(filepath.Clean("/"+header.Linkname), "/")
		}
		if err != nil {
			return err
		}
	}
	// The target may be another link, which is resolved in a later pass, or in a package that isn't
	// unpacked yet.
	for range 3 {
		for name, target := range links {
			text, err := os.ReadFile(filepath.Join(root, target))
			if err != nil {
				continue
			}
			if err := put(root, name, bytes.NewReader(text)); err != nil {
				return err
			}
			delete(links, name)
		}
	}
	fields, err := exec.CommandContext(ctx, "dpkg-deb", "--field", archive, "Package", "Version", "Architecture").Output()
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(archive), err)
	}
	pkg, _, _ := strings.Cut(filepath.Base(archive), "_")
	return put(root, "var/lib/dpkg/status.d/"+pkg, bytes.NewReader(fields))
}

// certificates writes the bundle of CA certificates, which Debian's package creates when it is
// installed.
func certificates(root string) error {
	all, err := filepath.Glob(filepath.Join(root, "usr/share/ca-certificates/mozilla/*.crt"))
	if err != nil {
		return err
	}
	var bundle bytes.Buffer
	for _, file := range all {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		bundle.Write(text)
	}
	if bundle.Len() == 0 {
		return errors.New("package ca-certificates contains no certificates")
	}
	return put(root, "etc/ssl/certs/ca-certificates.crt", &bundle)
}

// put writes a file of root and creates its directory.
func put(root, name string, content io.Reader) error {
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	_, err = io.Copy(w, content)
	return errors.Join(err, w.Flush(), f.Close())
}
