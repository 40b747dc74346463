package images

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"dagger/fakeart/internal/oci"
	"dagger/fakeart/internal/stage"
)

// maxSize is the maximum compressed size of an image for one platform, in bytes.
const maxSize = 90_000_000

// CheckPlatform returns an error if the base has no image for a platform.
func CheckPlatform(base *oci.Base, platform string) error {
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		return err
	}
	_, err = base.Image(*p)
	return err
}

// Sizes returns the compressed size of an image in bytes, by platform.
func Sizes(b *oci.Bundle) (map[string]int64, error) {
	sizes := map[string]int64{}
	return sizes, each(b, func(platform string, img v1.Image) error {
		manifest, err := img.Manifest()
		if err != nil {
			return err
		}
		sizes[platform] = manifest.Config.Size
		for _, l := range manifest.Layers {
			sizes[platform] += l.Size
		}
		return nil
	})
}

// each calls f with the image of each platform, until f returns an error.
func each(b *oci.Bundle, f func(platform string, img v1.Image) error) error {
	manifest, err := b.Index.IndexManifest()
	if err != nil {
		return err
	}
	for _, d := range manifest.Manifests {
		img, err := b.Index.Image(d.Digest)
		if err != nil {
			return err
		}
		platform := d.Platform.OS + "/" + d.Platform.Architecture
		if err := f(platform, img); err != nil {
			return fmt.Errorf("%s: %w", platform, err)
		}
	}
	return nil
}

// Summary describes an image, as read from its annotations.
type Summary struct {
	Program, Revision, Version, Base string
	Created                          time.Time
	Platforms                        []string
}

// Summarize returns the summary of an image. It returns an error if the image isn't one of Fakeart's.
func Summarize(b *oci.Bundle) (*Summary, error) {
	manifest, err := b.Index.IndexManifest()
	if err != nil {
		return nil, err
	}
	get := func(key string) string { return manifest.Annotations["org.opencontainers.image."+key] }
	s := &Summary{Revision: get("revision"), Version: get("version"), Base: get("base.name")}
	for name, p := range programs {
		if p.title == get("title") {
			s.Program = name
		}
	}
	if s.Program == "" || s.Revision == "" {
		return nil, errors.New("not a Fakeart image: its annotations don't name a Fakeart program and a commit")
	}
	if s.Created, err = time.Parse(time.RFC3339, get("created")); err != nil {
		return nil, fmt.Errorf("annotation org.opencontainers.image.created: %q isn't a time in RFC 3339", get("created"))
	}
	return s, each(b, func(platform string, _ v1.Image) error {
		s.Platforms = append(s.Platforms, platform)
		return nil
	})
}

// Differences compares two images and returns one line per difference, such as a layer with
// another digest. It returns no lines if the images have the same digest.
func Differences(want, got *oci.Bundle) ([]string, error) {
	w, err := want.Digest()
	if err != nil {
		return nil, err
	}
	g, err := got.Digest()
	if err != nil || g == w {
		return nil, err
	}
	differences := []string{fmt.Sprintf("index: expected %s, got %s", w, g)}
	parts := [2]map[string]string{}
	for i, b := range []*oci.Bundle{want, got} {
		parts[i] = map[string]string{}
		err := each(b, func(platform string, img v1.Image) error {
			manifest, err := img.Manifest()
			if err != nil {
				return err
			}
			config, err := img.ConfigFile()
			if err != nil {
				return err
			}
			for l, layer := range manifest.Layers {
				parts[i][fmt.Sprintf("%s layer %d (%s)", platform, l, config.History[l].CreatedBy)] = layer.Digest.String()
			}
			parts[i][platform+" configuration"] = manifest.Config.Digest.String()
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	var lines []string
	for part, want := range parts[0] {
		if got := parts[1][part]; got != want {
			lines = append(lines, fmt.Sprintf("%s: expected %s, got %s", part, want, orNone(got)))
		}
	}
	for part, got := range parts[1] {
		if _, ok := parts[0][part]; !ok {
			lines = append(lines, fmt.Sprintf("%s: expected none, got %s", part, got))
		}
	}
	slices.Sort(lines)
	return append(differences, lines...), nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// Check returns an error if an image can't run or breaks a rule. It checks for each platform that
//   - the image contains every library that the program needs, with every symbol version
//   - the user isn't root
//   - there is no shell
//   - the compressed size is at most 90 MB
func Check(program string, b *oci.Bundle) error { return check(program, b, maxSize) }

func check(program string, b *oci.Bundle, maxSize int64) error {
	sizes, err := Sizes(b)
	if err != nil {
		return err
	}
	return each(b, func(platform string, img v1.Image) error {
		if sizes[platform] > maxSize {
			return fmt.Errorf("compressed size is %.1f MB, more than the maximum of %.0f MB", float64(sizes[platform])/1e6, float64(maxSize)/1e6)
		}
		config, err := img.ConfigFile()
		if err != nil {
			return err
		}
		if u := config.Config.User; u == "" || u == "0" || u == "root" {
			return fmt.Errorf("user is %q, which is root", u)
		}
		return checkFiles(program, img)
	})
}

// shells lists shells, which an attacker could use to run commands.
var shells = []string{"sh", "bash", "dash", "busybox", "ash", "zsh"}

// checkFiles checks the image's files: there is no shell, the program and ONNX Runtime are in /app,
// and the libraries that they link to define the symbol versions that they need.
func checkFiles(program string, img v1.Image) (err error) {
	files := mutate.Extract(img)
	defer func() { err = errors.Join(err, files.Close()) }()
	libraries := map[string]*elf.File{}
	var programFiles []*elf.File
	names := map[*elf.File]string{}
	for r := tar.NewReader(files); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		file := path.Clean("/" + header.Name)
		dir, base := path.Split(file)
		if slices.Contains(shells, base) && strings.HasSuffix(dir, "bin/") {
			return fmt.Errorf("contains a shell: %s", file)
		}
		if header.Typeflag != tar.TypeReg || !strings.Contains(base, ".so") && dir != "/app/" {
			continue
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		f, err := elf.NewFile(bytes.NewReader(content))
		if err != nil {
			if dir == "/app/" {
				return fmt.Errorf("%s isn't an ELF file: %w", file, err)
			}
			continue // such as a linker script
		}
		names[f] = file
		libraries[base] = f
		if soname, err := f.DynString(elf.DT_SONAME); err == nil && len(soname) == 1 {
			libraries[soname[0]] = f
		}
		if dir == "/app/" {
			programFiles = append(programFiles, f)
		}
	}
	for _, required := range []string{program, stage.Library} {
		if libraries[required] == nil {
			return fmt.Errorf("/app/%s is missing", required)
		}
	}
	for _, f := range programFiles {
		needed, err := f.DynamicVersionNeeds()
		if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
			return fmt.Errorf("%s: %w", names[f], err)
		}
		imported, err := f.ImportedLibraries()
		if err != nil {
			return fmt.Errorf("%s: %w", names[f], err)
		}
		for _, library := range imported {
			if libraries[library] == nil {
				return fmt.Errorf("%s needs the library %s, which isn't in the base", names[f], library)
			}
		}
		for _, need := range needed {
			defined, err := libraries[need.Name].DynamicVersions()
			if err != nil {
				return fmt.Errorf("%s: %w", need.Name, err)
			}
			for _, version := range need.Needs {
				if !slices.ContainsFunc(defined, func(d elf.DynamicVersion) bool { return d.Name == version.Dep }) {
					return fmt.Errorf("%s needs %s of %s, but the base has an older version: it was linked on a newer system", names[f], version.Dep, need.Name)
				}
			}
		}
	}
	return nil
}
