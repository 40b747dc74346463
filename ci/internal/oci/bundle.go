package oci

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Bundle is a multi-platform image with its attachments.
type Bundle struct {
	Index v1.ImageIndex
	// Referrers are artifacts whose subject is the index or one of its images.
	Referrers []v1.Image
	// Signature is cosign's signature of the index, or nil. Registries store it under its own tag.
	Signature v1.Image
}

// signatureTag returns the tag of cosign's signature of an image, see
// https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md#tag-based-discovery.
func signatureTag(repo name.Repository, digest v1.Hash) name.Tag {
	return repo.Tag(digest.Algorithm + "-" + digest.Hex + ".sig")
}

// Digest returns the digest of the index.
func (b *Bundle) Digest() (v1.Hash, error) { return b.Index.Digest() }

// Save writes the bundle to dir as an OCI layout. The index gets the name ref; the signature isn't
// saved. It returns an error if dir exists. If writing fails, dir doesn't exist afterwards.
func (b *Bundle) Save(dir, ref string) (err error) {
	if _, err := os.Lstat(dir); err == nil {
		return fmt.Errorf("write %s: it already exists\nhint: remove it first", dir)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", dir, err)
	}
	unfinished, err := os.MkdirTemp(filepath.Dir(dir), ".unfinished-")
	if err != nil {
		return fmt.Errorf("write %s: %w", dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(unfinished))
		}
	}()
	if err := b.save(unfinished, ref); err != nil {
		return fmt.Errorf("write %s: %w", dir, err)
	}
	if err := os.Chmod(unfinished, 0o755); err != nil {
		return fmt.Errorf("write %s: %w", dir, err)
	}
	return os.Rename(unfinished, dir)
}

// save writes the layout into a directory that exists.
func (b *Bundle) save(dir, ref string) error {
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	if err := path.AppendIndex(b.Index, layout.WithAnnotations(map[string]string{refName: ref})); err != nil {
		return err
	}
	for _, r := range b.Referrers {
		d, err := partial.Descriptor(r)
		if err != nil {
			return err
		}
		// AppendImage would read a platform from the artifact's configuration, which has none.
		if err := path.WriteImage(r); err != nil {
			return err
		}
		if err := path.AppendDescriptor(*d); err != nil {
			return err
		}
	}
	return nil
}

// Load reads a bundle that [Bundle.Save] wrote.
func Load(dir string) (*Bundle, error) {
	all, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	manifest, err := all.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	var b Bundle
	for _, d := range manifest.Manifests {
		switch {
		case d.MediaType.IsIndex() && b.Index == nil:
			b.Index, err = all.ImageIndex(d.Digest)
		case d.MediaType.IsImage():
			var img v1.Image
			img, err = all.Image(d.Digest)
			b.Referrers = append(b.Referrers, img)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", dir, err)
		}
	}
	if b.Index == nil {
		return nil, fmt.Errorf("read %s: contains no image index", dir)
	}
	return &b, nil
}

// Archive writes an image named ref to a tar archive. The archive is an OCI layout and also contains a
// manifest.json for `docker load`. Its files have the modification time modified.
func Archive(img v1.Image, ref, file string, modified time.Time) (err error) {
	dir, err := os.MkdirTemp("", "oci-archive-")
	if err != nil {
		return fmt.Errorf("archive %s: %w", ref, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := archiveLayout(img, ref, dir); err != nil {
		return fmt.Errorf("archive %s: %w", ref, err)
	}
	if err := archiveFiles(dir, file, modified); err != nil {
		return fmt.Errorf("archive %s: %w", ref, errors.Join(err, os.Remove(file)))
	}
	return nil
}

// archiveLayout writes an OCI layout with a manifest.json to dir.
func archiveLayout(img v1.Image, ref, dir string) error {
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	if err := path.AppendImage(img, layout.WithAnnotations(map[string]string{refName: ref}), layout.WithPlatform(*config.Platform())); err != nil {
		return err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return err
	}
	blob := func(d v1.Descriptor) string { return "blobs/" + d.Digest.Algorithm + "/" + d.Digest.Hex }
	docker := tarball.Descriptor{Config: blob(manifest.Config), RepoTags: []string{ref}}
	for _, l := range manifest.Layers {
		docker.Layers = append(docker.Layers, blob(l))
	}
	text, err := json.Marshal(tarball.Manifest{docker})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "manifest.json"), text, 0o644)
}

// archiveFiles writes the files in dir to a tar archive, sorted by path.
func archiveFiles(dir, file string, modified time.Time) error {
	var entries []Entry
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		entries = append(entries, Entry{Path: "/" + filepath.ToSlash(rel), Source: path, Mode: 0o644})
		return err
	})
	if err != nil {
		return err
	}
	all, err := withParents(entries)
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	for _, e := range all {
		if err = write(w, e, modified); err != nil {
			break
		}
	}
	return errors.Join(err, w.Close(), f.Close())
}

// Push pushes the index to a repository by its digest, then its referrers and its signature, and
// returns the index's reference. It sets no tag of the image, so a failed push changes nothing that
// users pull. A repeated push uploads only what is missing.
func (b *Bundle) Push(ctx context.Context, repo name.Repository, options ...remote.Option) (name.Digest, error) {
	options = append(options, remote.WithContext(ctx))
	digest, err := b.Digest()
	if err != nil {
		return name.Digest{}, err
	}
	ref := repo.Digest(digest.String())
	if err := remote.WriteIndex(ref, b.Index, options...); err != nil {
		return name.Digest{}, fmt.Errorf("push %s: %w", ref, err)
	}
	for _, r := range b.Referrers {
		d, err := r.Digest()
		if err != nil {
			return name.Digest{}, err
		}
		if err := remote.Write(repo.Digest(d.String()), r, options...); err != nil {
			return name.Digest{}, fmt.Errorf("push %s, attached to %s: %w", repo.Digest(d.String()), ref, err)
		}
	}
	if b.Signature != nil {
		if err := remote.Write(signatureTag(repo, digest), b.Signature, options...); err != nil {
			return name.Digest{}, fmt.Errorf("push the signature of %s: %w", ref, err)
		}
	}
	return ref, nil
}

// Tag sets a tag on an image in a registry.
func Tag(ctx context.Context, ref name.Digest, tag string, options ...remote.Option) error {
	options = append(options, remote.WithContext(ctx))
	desc, err := remote.Get(ref, options...)
	if err != nil {
		return fmt.Errorf("tag %s: %w", ref, err)
	}
	if err := remote.Tag(ref.Context().Tag(tag), desc, options...); err != nil {
		return fmt.Errorf("tag %s as %s: %w", ref, tag, err)
	}
	return nil
}

// Fetch reads an index from a registry, with its signature and the referrers of the index and of its
// images.
func Fetch(ctx context.Context, ref name.Digest, options ...remote.Option) (*Bundle, error) {
	options = append(options, remote.WithContext(ctx))
	index, err := remote.Index(ref, options...)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", ref, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", ref, err)
	}
	b := &Bundle{Index: index}
	digest, err := b.Digest()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", ref, err)
	}
	var missing *transport.Error
	b.Signature, err = remote.Image(signatureTag(ref.Context(), digest), options...)
	if errors.As(err, &missing) && missing.StatusCode == http.StatusNotFound {
		b.Signature, err = nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the signature of %s: %w", ref, err)
	}
	subjects := []name.Digest{ref}
	for _, d := range manifest.Manifests {
		subjects = append(subjects, ref.Context().Digest(d.Digest.String()))
	}
	for _, s := range subjects {
		found, err := remote.Referrers(s, options...)
		if err != nil {
			return nil, fmt.Errorf("read referrers of %s: %w", s, err)
		}
		list, err := found.IndexManifest()
		if err != nil {
			return nil, fmt.Errorf("read referrers of %s: %w", s, err)
		}
		for _, d := range list.Manifests {
			img, err := remote.Image(ref.Context().Digest(d.Digest.String()), options...)
			if err != nil {
				return nil, fmt.Errorf("read referrers of %s: %w", s, err)
			}
			b.Referrers = append(b.Referrers, img)
		}
	}
	return b, nil
}
