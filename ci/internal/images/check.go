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

// largest is how many bytes an image may have, compressed, for a platform.
const largest = 90_000_000

// Has returns an error unless the base has an image for a platform.
func Has(base *oci.Base, platform string) error {
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		return err
	}
	_, err = base.Image(*p)
	return err
}

// Sizes returns the compressed bytes of an image, by platform.
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

// each calls f for the image of each platform.
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

// Summary is what an image says of itself.
type Summary struct {
	Program, Revision, Version, Base string
	Created                          time.Time
	Platforms                        []string
}

// About reads it. An index that is none of ours is an error.
func About(b *oci.Bundle) (*Summary, error) {
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
		return nil, errors.New("it does not say that it is an image of Fakeart's, and of which commit")
	}
	if s.Created, err = time.Parse(time.RFC3339, get("created")); err != nil {
		return nil, fmt.Errorf("when it was made: %w", err)
	}
	return s, each(b, func(platform string, _ v1.Image) error {
		s.Platforms = append(s.Platforms, platform)
		return nil
	})
}

// Differences says in what one image is not another: a line a difference, none when
// their digests are the same.
func Differences(want, got *oci.Bundle) ([]string, error) {
	w, err := want.Digest()
	if err != nil {
		return nil, err
	}
	g, err := got.Digest()
	if err != nil || g == w {
		return nil, err
	}
	differences := []string{fmt.Sprintf("index: %s there, %s here", w, g)}
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
	for part, there := range parts[0] {
		if here := parts[1][part]; here != there {
			lines = append(lines, fmt.Sprintf("%s: %s there, %s here", part, there, orNone(here)))
		}
	}
	for part, here := range parts[1] {
		if _, ok := parts[0][part]; !ok {
			lines = append(lines, fmt.Sprintf("%s: none there, %s here", part, here))
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

// Check looks at an image as a container runtime and the dynamic linker will: each
// library that a program wants, and each version of its symbols, is there; nobody is root;
// there is no shell; it has at most 90 MB, compressed, for a platform.
func Check(program string, b *oci.Bundle) error { return check(program, b, largest) }

func check(program string, b *oci.Bundle, largest int64) error {
	sizes, err := Sizes(b)
	if err != nil {
		return err
	}
	return each(b, func(platform string, img v1.Image) error {
		if sizes[platform] > largest {
			return fmt.Errorf("it has %.1f MB, more than %.0f", float64(sizes[platform])/1e6, float64(largest)/1e6)
		}
		config, err := img.ConfigFile()
		if err != nil {
			return err
		}
		if u := config.Config.User; u == "" || u == "0" || u == "root" {
			return fmt.Errorf("its user is %q", u)
		}
		return checkFiles(program, img)
	})
}

// shells are programs that would run what somebody has smuggled in.
var shells = []string{"sh", "bash", "dash", "busybox", "ash", "zsh"}

// checkFiles reads the image's files once: executables are kept, and the versions of
// symbols that libraries define.
func checkFiles(program string, img v1.Image) (err error) {
	files := mutate.Extract(img)
	defer func() { err = errors.Join(err, files.Close()) }()
	libraries := map[string]*elf.File{}
	var wants []*elf.File
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
			return fmt.Errorf("there is a shell in it: %s", file)
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
				return fmt.Errorf("%s is no program: %w", file, err)
			}
			continue // such as a linker script
		}
		names[f] = file
		libraries[base] = f
		if soname, err := f.DynString(elf.DT_SONAME); err == nil && len(soname) == 1 {
			libraries[soname[0]] = f
		}
		if dir == "/app/" {
			wants = append(wants, f)
		}
	}
	for _, must := range []string{program, stage.Library} {
		if libraries[must] == nil {
			return fmt.Errorf("/app/%s is missing", must)
		}
	}
	for _, f := range wants {
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
				return fmt.Errorf("%s wants the library %s, which the base does not have", names[f], library)
			}
		}
		for _, need := range needed {
			defined, err := libraries[need.Name].DynamicVersions()
			if err != nil {
				return fmt.Errorf("%s: %w", need.Name, err)
			}
			for _, version := range need.Needs {
				if !slices.ContainsFunc(defined, func(d elf.DynamicVersion) bool { return d.Name == version.Dep }) {
					return fmt.Errorf("%s wants %s of %s, which is older in the base: it was linked on a newer system", names[f], version.Dep, need.Name)
				}
			}
		}
	}
	return nil
}
