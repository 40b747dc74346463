// Package images makes Fakeart's container images from the programs that package stage built. Each
// program gets one multi-platform image with an SBOM per platform and a provenance statement
// attached. Call [Make] to build the images and [Check] to validate them.
//
// Images are reproducible: the same inputs give the same digests. `make images` and the Dagger
// module both use this package.
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

// user is the id of distroless's user nonroot.
const user = 65532

// program is the metadata of a program's image.
type program struct {
	title, description string
	env                []string
	ports              map[string]struct{}
}

var programs = map[string]program{
	"server": {
		title: "Fakeart server", description: "Serves image classifiers over HTTP and gRPC. Requires a model: FAKEART_MODEL or --model.",
		env: []string{"PORT=8080"}, ports: map[string]struct{}{"8080/tcp": {}},
	},
	"trainer": {
		title: "Fakeart trainer", description: "Prepares data, trains and evaluates image classifiers.",
	},
}

// data is the working directory and the only one that the program owns. It's a volume, so the root
// file system can be read-only.
const data = "/data"

// Options are the inputs of images.
type Options struct {
	// Stage is a directory that [stage.Write] filled.
	Stage string
	// Base is the base image.
	Base *oci.Base
	// Repository is the URL of the source repository.
	Repository string
	// Builder is the URI of the build system, for the provenance. Image digests don't depend on it.
	Builder string
}

// Make returns the images by program. They are held in memory. An image's digest depends only on
// the staged programs, the base's content and name, and the repository's URL.
func Make(o Options) (map[string]*oci.Bundle, error) {
	build, err := stage.Read(o.Stage)
	if err != nil {
		return nil, err
	}
	// The library is large and seldom changes, so it gets a layer that both programs share.
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

// bundle returns a program's image for all platforms, with its attachments.
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
		content, err := o.sbom(name, platform, img, build)
		if err != nil {
			return nil, fmt.Errorf("%s: SBOM: %w", platform, err)
		}
		d, err := partial.Descriptor(img)
		if err != nil {
			return nil, err
		}
		sbom, err := oci.Referrer(*d, sbomType, content, map[string]string{"org.opencontainers.image.created": labels["org.opencontainers.image.created"]})
		if err != nil {
			return nil, err
		}
		list, referrers = append(list, img), append(referrers, sbom)
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
	provenance, err := oci.Referrer(*d, statementType, statement, map[string]string{"in-toto.io/predicate-type": provenanceType})
	if err != nil {
		return nil, err
	}
	return &oci.Bundle{Index: index, Referrers: append(referrers, provenance)}, nil
}

// image returns a program's image for one platform.
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
			// The program also finds the library in its own directory, but only if /proc is mounted.
			"ONNXRUNTIME_SHARED_LIBRARY_PATH=/app/" + stage.Library,
		}, about.env...),
		ExposedPorts: about.ports, User: fmt.Sprint(user), WorkingDir: data, Volumes: map[string]struct{}{data: {}}, Labels: labels,
	}, build.Created,
		oci.Added{Layer: library, Note: build.Runtime.Name + " " + build.Runtime.Version},
		oci.Added{Layer: own, Note: name + " " + build.Version()})
}

// licenses returns entries for the license files in dir. In the image they are in /usr/share/doc,
// like those of Debian packages.
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

// labels returns a program's labels. The keys are defined in
// https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md.
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

// DigestList returns one line per image, sorted: the program and its digest.
func DigestList(bundles map[string]*oci.Bundle) (string, error) {
	var lines []string
	for _, program := range slices.Sorted(maps.Keys(bundles)) {
		digest, err := bundles[program].Digest()
		if err != nil {
			return "", err
		}
		lines = append(lines, program+" "+digest.String())
	}
	return strings.Join(lines, "\n"), nil
}

// sha512 returns the digest in an npm package's integrity, in hexadecimal.
func sha512(integrity string) (string, error) {
	text, ok := strings.CutPrefix(integrity, "sha512-")
	if !ok {
		return "", fmt.Errorf("integrity %q doesn't start with sha512-", integrity)
	}
	sum, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return "", fmt.Errorf("integrity %q: invalid base64: %w", integrity, err)
	}
	return hex.EncodeToString(sum), nil
}
