// Package images makes Fakeart's images from staged programs: one for each program,
// for all platforms under one digest, with a list of what is in it and where it comes
// from. `make images` and the Dagger module both call it.
package images

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"

	"dagger/fakeart/internal/oci"
	"dagger/fakeart/internal/stage"
)

// user is distroless's nonroot.
const user = 65532

// program is what there is to say of one beside its files.
type program struct {
	title, description string
	env                []string
	ports              map[string]struct{}
}

var programs = map[string]program{
	"server": {
		title: "Fakeart server", description: "Tells photographs from AI-generated pictures over HTTP. Wants a model: FAKEART_MODEL, or --model.",
		env: []string{"PORT=8080"}, ports: map[string]struct{}{"8080/tcp": {}},
	},
	"trainer": {
		title: "Fakeart trainer", description: "Prepares data, trains and measures the model that tells photographs from AI-generated pictures.",
	},
}

// data is the folder where programs start, and the only one of theirs: a volume, so
// that the rest can be read-only.
const data = "/data"

// Options say what images are made of.
type Options struct {
	// Stage is a folder that stage.Write has filled.
	Stage string
	// Base is what they stand on.
	Base *oci.Base
	// Repository is where the source lives, a URL.
	Repository string
	// Builder is who builds, for the provenance: a URI. Images do not depend on it.
	Builder string
}

// Make returns the images by program, held in memory. The digest of each depends on the
// staged programs, the base's content and name, and the repository's name.
func Make(o Options) (map[string]*oci.Bundle, error) {
	build, err := stage.Read(o.Stage)
	if err != nil {
		return nil, err
	}
	// The library is large and seldom changes: a layer of its own, the same for both programs.
	libraries := map[string]v1.Layer{}
	for _, platform := range build.Platforms {
		libraries[platform], err = oci.Layer([]oci.Entry{
			{Path: "/app/" + stage.Library, Source: filepath.Join(o.Stage, stage.Dir(platform), stage.Library), Mode: 0o755},
			{Path: data, Mode: 0o755, Owner: user},
		}, build.Created)
		if err != nil {
			return nil, fmt.Errorf("images for %s: %w", platform, err)
		}
	}
	made := map[string]*oci.Bundle{}
	for _, name := range stage.Programs {
		if made[name], err = o.bundle(name, build, libraries); err != nil {
			return nil, fmt.Errorf("image of %s: %w", name, err)
		}
	}
	return made, nil
}

func (o Options) bundle(name string, build *stage.Build, libraries map[string]v1.Layer) (*oci.Bundle, error) {
	var (
		list      []v1.Image
		referrers []v1.Image
		labels    = o.labels(name, build)
	)
	for _, platform := range build.Platforms {
		img, err := o.image(name, platform, labels, build, libraries[platform])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", platform, err)
		}
		content, err := o.contents(name, platform, img, build)
		if err != nil {
			return nil, fmt.Errorf("%s: list of contents: %w", platform, err)
		}
		d, err := partial.Descriptor(img)
		if err != nil {
			return nil, err
		}
		about, err := oci.Referrer(*d, sbomType, content, map[string]string{"org.opencontainers.image.created": labels["org.opencontainers.image.created"]})
		if err != nil {
			return nil, err
		}
		list, referrers = append(list, img), append(referrers, about)
	}
	index, err := oci.Index(list, labels)
	if err != nil {
		return nil, err
	}
	statement, err := o.provenance(name, index, build)
	if err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	d, err := partial.Descriptor(index)
	if err != nil {
		return nil, err
	}
	about, err := oci.Referrer(*d, statementType, statement, map[string]string{"in-toto.io/predicate-type": provenanceType})
	if err != nil {
		return nil, err
	}
	return &oci.Bundle{Index: index, Referrers: append(referrers, about)}, nil
}

func (o Options) image(name, platform string, labels map[string]string, build *stage.Build, library v1.Layer) (v1.Image, error) {
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(o.Stage, stage.Dir(platform))
	entries, err := licenses(filepath.Join(dir, "licenses", name))
	if err != nil {
		return nil, err
	}
	own, err := oci.Layer(append(entries, oci.Entry{Path: "/app/" + name, Source: filepath.Join(dir, name), Mode: 0o755}), build.Created)
	if err != nil {
		return nil, err
	}
	about := programs[name]
	return oci.Image(o.Base, *p, v1.Config{
		Entrypoint: []string{"/app/" + name},
		Env: append([]string{
			"PATH=/app:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
			// Found beside the program as well, but only where /proc is mounted.
			"ONNXRUNTIME_SHARED_LIBRARY_PATH=/app/" + stage.Library,
		}, about.env...),
		ExposedPorts: about.ports, User: fmt.Sprint(user), WorkingDir: data, Volumes: map[string]struct{}{data: {}}, Labels: labels,
	}, build.Created,
		oci.Added{Layer: library, Note: build.Runtime.Name + " " + build.Runtime.Version},
		oci.Added{Layer: own, Note: name + " " + build.Version()})
}

// licenses are the files about licences, where Debian's packages have theirs.
func licenses(dir string) ([]oci.Entry, error) {
	var entries []oci.Entry
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		entries = append(entries, oci.Entry{Path: "/usr/share/doc/fakeart/licenses/" + filepath.ToSlash(rel), Source: path, Mode: 0o644})
		return err
	})
	return entries, err
}

// labels are of the keys that
// https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md defines.
func (o Options) labels(name string, build *stage.Build) map[string]string {
	about := programs[name]
	labels := map[string]string{
		"title": about.title, "description": about.description, "licenses": "Apache-2.0",
		"source": o.Repository, "url": o.Repository, "documentation": o.Repository + "/tree/main/docs",
		"created": build.Created.Format("2006-01-02T15:04:05Z"), "revision": build.Revision, "version": build.Version(),
		"base.digest": o.Base.Digest.String(),
	}
	if o.Base.Name != "" {
		labels["base.name"] = o.Base.Name
	}
	full := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		full["org.opencontainers.image."+key] = labels[key]
	}
	return full
}

// List says the digests of images, a line each.
func List(made map[string]*oci.Bundle) (string, error) {
	var lines []string
	for _, program := range slices.Sorted(maps.Keys(made)) {
		digest, err := made[program].Digest()
		if err != nil {
			return "", err
		}
		lines = append(lines, program+" "+digest.String())
	}
	return strings.Join(lines, "\n"), nil
}

// sha512 returns the hexadecimal digest in an npm package's integrity.
func sha512(integrity string) (string, error) {
	text, ok := strings.CutPrefix(integrity, "sha512-")
	if !ok {
		return "", fmt.Errorf("integrity %q is no sha512", integrity)
	}
	sum, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return "", fmt.Errorf("integrity %q: %w", integrity, err)
	}
	return hex.EncodeToString(sum), nil
}
