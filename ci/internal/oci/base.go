package oci

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// refName is the annotation with an image's name in a layout.
const refName = "org.opencontainers.image.ref.name"

// Base is a base image, for one or more platforms.
type Base struct {
	// Name is the name without tag and digest, or empty if unknown.
	Name string
	// Digest is the digest of the index, or of the image if there is only one.
	Digest v1.Hash

	platforms map[string]v1.Image
	layers    map[string][]v1.Layer // recompressed, by platform; Layers fills it
}

// Image returns the base for a platform. If it's missing, Image returns an error that lists
// the base's platforms.
func (b *Base) Image(p v1.Platform) (v1.Image, error) {
	if img, ok := b.platforms[platformName(p)]; ok {
		return img, nil
	}
	var have []string
	for p := range b.platforms {
		have = append(have, p)
	}
	return nil, fmt.Errorf("base %s@%s has no image for %s, only for %s", b.Name, b.Digest, platformName(p), strings.Join(have, ", "))
}

// Layers returns the base's layers for a platform, recompressed so that their digests depend only on
// their content. It isn't safe for concurrent use.
func (b *Base) Layers(p v1.Platform) ([]v1.Layer, error) {
	if layers, ok := b.layers[platformName(p)]; ok {
		return layers, nil
	}
	img, err := b.Image(p)
	if err != nil {
		return nil, err
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, fmt.Errorf("base %s: %w", b.Digest, err)
	}
	for i, l := range layers {
		if layers[i], err = recompressed(l); err != nil {
			return nil, fmt.Errorf("base %s: %w", b.Digest, err)
		}
	}
	if b.layers == nil {
		b.layers = map[string][]v1.Layer{}
	}
	b.layers[platformName(p)] = layers
	return layers, nil
}

// Named returns the base with the reference's name if the reference has the base's digest, and the
// unchanged base otherwise. A copy of a base, such as a local layout, gets the original's name this
// way.
func (b *Base) Named(reference string) *Base {
	ref, err := name.NewDigest(reference)
	if err != nil || ref.DigestStr() != b.Digest.String() {
		return b
	}
	named := *b
	named.Name = ref.Context().Name()
	return &named
}

// platformName returns OS/ARCHITECTURE. It leaves out the variant, because amd64 and arm64 have
// only one each.
func platformName(p v1.Platform) string { return p.OS + "/" + p.Architecture }

// PullBase gets a base from its registry. The reference must have a digest, because a tag can be
// moved.
func PullBase(ctx context.Context, reference string, options ...remote.Option) (*Base, error) {
	ref, err := name.NewDigest(reference)
	if err != nil {
		return nil, fmt.Errorf("base %q has no digest\nhint: use NAME@sha256:…", reference)
	}
	desc, err := remote.Get(ref, append(options, remote.WithContext(ctx))...)
	if err != nil {
		return nil, fmt.Errorf("base %s: %w", reference, err)
	}
	base := &Base{Name: ref.Context().Name(), Digest: desc.Digest, platforms: map[string]v1.Image{}}
	if !desc.MediaType.IsIndex() {
		img, err := desc.Image()
		if err != nil {
			return nil, fmt.Errorf("base %s: %w", reference, err)
		}
		return base, base.add(img)
	}
	index, err := desc.ImageIndex()
	if err != nil {
		return nil, fmt.Errorf("base %s: %w", reference, err)
	}
	if err := base.addAll(index); err != nil {
		return nil, fmt.Errorf("base %s: %w", reference, err)
	}
	return base, nil
}

// ReadBase reads a base from an OCI layout, which is a directory or a tar archive. The layout must
// contain one image, one index, or one image per platform. The base has the name in the layout's
// annotations, if there is one. The layers of a directory are read on first use, so it must not be
// deleted before.
func ReadBase(where string) (*Base, error) {
	info, err := os.Stat(where)
	if err != nil {
		return nil, fmt.Errorf("base: %w", err)
	}
	if !info.IsDir() {
		dir, err := unpack(where)
		if err != nil {
			return nil, fmt.Errorf("base %s: %w", where, err)
		}
		// readLayout recompresses all layers in memory, so the base doesn't need this directory.
		defer os.RemoveAll(dir)
		return readLayout(where, dir, true)
	}
	return readLayout(where, where, false)
}

// readLayout reads a base from the layout in dir. Errors name it where. If load is set, it loads all
// layers into memory.
func readLayout(where, dir string, load bool) (*Base, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("base %s isn't an OCI layout: %w", where, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("base %s isn't an OCI layout: %w", where, err)
	}
	base := &Base{platforms: map[string]v1.Image{}}
	if len(manifest.Manifests) == 1 {
		only := manifest.Manifests[0]
		base.Digest = only.Digest
		if ref, err := name.ParseReference(only.Annotations[refName]); err == nil {
			base.Name = ref.Context().Name()
		}
	} else if base.Digest, err = index.Digest(); err != nil {
		return nil, fmt.Errorf("base %s: %w", where, err)
	}
	if err := base.addAll(index); err != nil {
		return nil, fmt.Errorf("base %s: %w", where, err)
	}
	if !load {
		return base, nil
	}
	for platform := range base.platforms {
		p, err := v1.ParsePlatform(platform)
		if err == nil {
			_, err = base.Layers(*p)
		}
		if err != nil {
			return nil, fmt.Errorf("base %s: %w", where, err)
		}
	}
	return base, nil
}

// JoinBases joins parts of a base, such as one per platform, to the base with this name and digest.
// It returns an error if two parts have the same platform.
func JoinBases(reference string, parts ...*Base) (*Base, error) {
	ref, err := name.NewDigest(reference)
	if err != nil {
		return nil, fmt.Errorf("base %q has no digest\nhint: use NAME@sha256:…", reference)
	}
	digest, err := v1.NewHash(ref.DigestStr())
	if err != nil {
		return nil, fmt.Errorf("base %q: %w", reference, err)
	}
	joined := &Base{Name: ref.Context().Name(), Digest: digest, platforms: map[string]v1.Image{}, layers: map[string][]v1.Layer{}}
	for _, part := range parts {
		for platform, img := range part.platforms {
			if _, duplicate := joined.platforms[platform]; duplicate {
				return nil, fmt.Errorf("base %s has two images for %s", reference, platform)
			}
			joined.platforms[platform] = img
			if layers, ok := part.layers[platform]; ok {
				joined.layers[platform] = layers
			}
		}
	}
	return joined, nil
}

// addAll adds the images of an index and of the indexes in it.
func (b *Base) addAll(index v1.ImageIndex) error {
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	for _, d := range manifest.Manifests {
		switch {
		case d.MediaType.IsIndex():
			inner, err := index.ImageIndex(d.Digest)
			if err != nil {
				return err
			}
			if err := b.addAll(inner); err != nil {
				return err
			}
		case d.MediaType.IsImage():
			img, err := index.Image(d.Digest)
			if err != nil {
				return err
			}
			if err := b.add(img); err != nil {
				return err
			}
		}
	}
	if len(b.platforms) == 0 {
		return errors.New("contains no image")
	}
	return nil
}

// add adds an image for the platform in its configuration. It skips manifests without a platform, such
// as attestations. It returns an error if there already is an image for the platform.
func (b *Base) add(img v1.Image) error {
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	if config.OS == "" || config.Architecture == "" || config.Architecture == "unknown" {
		return nil
	}
	p := config.OS + "/" + config.Architecture
	if _, duplicate := b.platforms[p]; duplicate {
		return fmt.Errorf("contains two images for %s", p)
	}
	b.platforms[p] = img
	return nil
}

// unpack extracts the regular files of a tar archive into a new temporary directory and returns its
// path. It returns an error if a path leads out of the directory.
func unpack(file string) (_ string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	dir, err := os.MkdirTemp("", "oci-base-")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir, nil
		}
		if err != nil {
			return "", fmt.Errorf("not a tar archive: %w", err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if !filepath.IsLocal(header.Name) {
			return "", fmt.Errorf("entry %q: path outside the archive", header.Name)
		}
		if err := copyTo(filepath.Join(dir, header.Name), r); err != nil {
			return "", err
		}
	}
}

// copyTo writes a file and creates its directory.
func copyTo(path string, r io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
