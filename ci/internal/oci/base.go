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

// refName is the annotation by which a layout says what an image is called.
const refName = "org.opencontainers.image.ref.name"

// Base is what an image stands on.
type Base struct {
	// Name is what it is called, without tag and digest; empty when unknown.
	Name string
	// Digest is what it is named by: an index, or an image.
	Digest v1.Hash

	platforms map[string]v1.Image
	layers    map[string][]v1.Layer // compressed anew, by platform, once they are asked for
}

// Image returns the base for a platform. An image that the base does not have for
// this platform is an error that says for which ones it has one.
func (b *Base) Image(p v1.Platform) (v1.Image, error) {
	if img, ok := b.platforms[short(p)]; ok {
		return img, nil
	}
	var have []string
	for p := range b.platforms {
		have = append(have, p)
	}
	return nil, fmt.Errorf("the base %s@%s has no image for %s, only for %s", b.Name, b.Digest, short(p), strings.Join(have, ", "))
}

// Layers returns the base's layers for a platform, compressed by our own compressor. It
// is not for use by several goroutines at once.
func (b *Base) Layers(p v1.Platform) ([]v1.Layer, error) {
	if layers, ok := b.layers[short(p)]; ok {
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
	b.layers[short(p)] = layers
	return layers, nil
}

// Named returns the base under the reference's name if that names the same digest: a
// copy of a base is that base, wherever it was copied to.
func (b *Base) Named(reference string) *Base {
	ref, err := name.NewDigest(reference)
	if err != nil || ref.DigestStr() != b.Digest.String() {
		return b
	}
	named := *b
	named.Name = ref.Context().Name()
	return &named
}

// Has says whether the base has an image for a platform.
func (b *Base) Has(p v1.Platform) bool {
	_, ok := b.platforms[short(p)]
	return ok
}

// short names a platform without its variant, for amd64 and arm64 have one each.
func short(p v1.Platform) string { return p.OS + "/" + p.Architecture }

// PullBase gets a base from its registry. The reference has to have a digest: what a
// tag means changes.
func PullBase(ctx context.Context, reference string, options ...remote.Option) (*Base, error) {
	ref, err := name.NewDigest(reference)
	if err != nil {
		return nil, fmt.Errorf("base %q: it is not pinned: name it NAME@sha256:…", reference)
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

// ReadBase gets a base from an OCI layout: a folder, or the tar archive of one. It has
// to hold one image or index, or several images, for a platform each. Its name is
// the one that the layout gives, if any.
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
		// Every layer is compressed anew before the base is handed out, so that
		// nothing is read from this folder afterwards.
		defer os.RemoveAll(dir)
		return readLayout(where, dir, true)
	}
	return readLayout(where, where, false)
}

func readLayout(where, dir string, held bool) (*Base, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("base %s: no OCI layout: %w", where, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("base %s: no OCI layout: %w", where, err)
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
	if !held {
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

// JoinBases puts together what was got for one platform each, of a base that has this
// name and digest.
func JoinBases(reference string, parts ...*Base) (*Base, error) {
	ref, err := name.NewDigest(reference)
	if err != nil {
		return nil, fmt.Errorf("base %q: it is not pinned: name it NAME@sha256:…", reference)
	}
	digest, err := v1.NewHash(ref.DigestStr())
	if err != nil {
		return nil, fmt.Errorf("base %q: %w", reference, err)
	}
	joined := &Base{Name: ref.Context().Name(), Digest: digest, platforms: map[string]v1.Image{}, layers: map[string][]v1.Layer{}}
	for _, part := range parts {
		for platform, img := range part.platforms {
			if _, twice := joined.platforms[platform]; twice {
				return nil, fmt.Errorf("base %s: there are two images for %s", reference, platform)
			}
			joined.platforms[platform] = img
			if layers, ok := part.layers[platform]; ok {
				joined.layers[platform] = layers
			}
		}
	}
	return joined, nil
}

// addAll takes the images of an index, and of the indexes in it.
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
		return errors.New("there is no image in it")
	}
	return nil
}

// add takes an image for the platform that it says it is for. What says none, such
// as an attestation, is left out; a second one for the same platform is an error.
func (b *Base) add(img v1.Image) error {
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	if config.OS == "" || config.Architecture == "" || config.Architecture == "unknown" {
		return nil
	}
	p := config.OS + "/" + config.Architecture
	if _, twice := b.platforms[p]; twice {
		return fmt.Errorf("there are two images for %s", p)
	}
	b.platforms[p] = img
	return nil
}

// unpack writes a tar archive into a new temporary folder. Only what a layout is made
// of is taken: plain files, none outside.
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
			return "", fmt.Errorf("no tar archive: %w", err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if !filepath.IsLocal(header.Name) {
			return "", fmt.Errorf("entry %q leads out of the archive", header.Name)
		}
		if err := copyTo(filepath.Join(dir, header.Name), r); err != nil {
			return "", err
		}
	}
}

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
