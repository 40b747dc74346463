// Package source finds and reads model files: a local file or folder, or an object or folder in
// Google Cloud Storage or any S3-compatible store.
//
// [Open] a source with a reference. [Source.Current] and [Source.List] return what is there,
// [Source.Read] reads exactly the version that was listed, and [Source.Watch] reports new versions.
//
// A reference is a path, absolute or relative to the working directory, or a URL:
//
//	models/new.onnx              a file
//	models                       a folder
//	file:///models/new.onnx      the same file, file:///models/ for the folder
//	gs://bucket/models/new.onnx  an object, gs://bucket/models/ for a folder
//	s3://bucket/models/new.onnx?region=eu-central-1
//
// URLs are percent-encoded, paths are not. A folder in a bucket ends with a slash. The models of a
// folder are the files *.onnx directly in it whose names don't begin with a dot. The query
// parameters are those of gocloud.dev's gcsblob and s3blob. Credentials come from the clouds' usual
// environment variables and files.
//
// Buckets are accessed with gocloud.dev/blob, which has one API for both stores. Its fileblob isn't
// used for local files: it lists a symbolic link with the link's own time, so it would miss a
// swapped link (which is how Kubernetes updates a mounted ConfigMap), it blocks on FIFOs, and it
// changes some file names.
package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// DefaultLimit is the default maximum size of a model, in bytes.
	DefaultLimit = 512 << 20
	// DefaultTimeout is how long a store may take to respond by default.
	DefaultTimeout = 15 * time.Second

	// maxListed is the maximum number of objects that List returns.
	maxListed = 100
	// maxEntries is the maximum number of entries in a folder. Finding the newest model requires
	// looking at all of them.
	maxEntries = 10_000
)

// Object is a model in a source at the time it was listed.
type Object struct {
	// Ref is the object's path or URL, in the same form as the reference of the source. It has no
	// query and thus no secrets.
	Ref string
	// Version changes whenever the content is replaced. It is the generation in GCS, the ETag in
	// S3, and the modification time and size otherwise. Use it for comparisons only.
	Version string
	// Size is in bytes.
	Size int64
	// ModTime is the time of the last modification.
	ModTime time.Time

	name string // relative to the folder, or the base name of a file
}

// same reports whether a and b are the same version of the same object.
func (o Object) same(b Object) bool { return o.Ref == b.Ref && o.Version == b.Version }

// Options configures how a source is read. The zero value uses the defaults.
type Options struct {
	// Limit is the maximum size of a model, in bytes; 0 means DefaultLimit.
	Limit int64
	// Timeout is how long a cloud store may take to respond, including retries of its library; 0
	// means DefaultTimeout. Reading an object may take one more second per MiB.
	Timeout time.Duration
}

// Source is a location of models. It is safe for concurrent use.
type Source struct {
	at    location
	store store
}

// store is the implementation of a source.
type store interface {
	// all returns the models in any order.
	all(ctx context.Context) ([]Object, error)
	// read returns the content of an object that all returned.
	read(ctx context.Context, o Object) ([]byte, error)
	close() error
}

// Open returns the source for a reference. It only parses the reference and doesn't check whether
// anything exists there. Every error is an ErrReference. The caller must close the source.
func Open(_ context.Context, ref string, o Options) (*Source, error) {
	at, err := parse(ref)
	if err != nil {
		return nil, err
	}
	if o.Limit <= 0 {
		o.Limit = DefaultLimit
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if at.local() {
		return &Source{at, &files{at: at, limit: o.Limit}}, nil
	}
	return &Source{at, &bucket{at: at, options: o, open: openers[at.scheme]}}, nil
}

// Close releases all resources. The source must not be used afterwards.
func (s *Source) Close() error { return s.store.close() }

// String returns the reference of the source, without its query.
func (s *Source) String() string { return s.at.String() }

// sorted returns all models, newest first. Models with the same time are in reverse alphabetical
// order.
func (s *Source) sorted(ctx context.Context) ([]Object, error) {
	objects, err := s.store.all(ctx)
	slices.SortFunc(objects, func(a, b Object) int {
		if c := b.ModTime.Compare(a.ModTime); c != 0 {
			return c
		}
		return strings.Compare(b.name, a.name)
	})
	return objects, err
}

// List returns the models of the source, newest first, at most 100. An empty folder is not an
// error. A folder with more than 10,000 entries is: it returns ErrReference.
func (s *Source) List(ctx context.Context) ([]Object, error) {
	objects, err := s.sorted(ctx)
	return objects[:min(len(objects), maxListed)], err
}

// Current returns the current model of the source: the file, or the newest model of the folder. Of
// models with the same time it returns the last one in alphabetical order. It returns ErrNotFound
// if there is no model.
func (s *Source) Current(ctx context.Context) (Object, error) {
	objects, err := s.sorted(ctx)
	if err != nil {
		return Object{}, err
	}
	if len(objects) == 0 {
		return Object{}, fail(ErrNotFound, s.String(), "no model in the folder; publish one with a name that ends in .onnx")
	}
	return objects[0], nil
}

// Find returns the model with the given reference. ref, which may come from a request, is only
// compared with the references of the source's models, in any equivalent form, and never used as a
// path. If it has a query, that must be the source's. Find returns ErrNotFound if ref isn't one of
// the source's models.
func (s *Source) Find(ctx context.Context, ref string) (Object, error) {
	wanted, err := parse(ref)
	if err != nil {
		return Object{}, err
	}
	if wanted, err = wanted.absolute(); err != nil {
		return Object{}, err
	}
	objects, err := s.store.all(ctx)
	if err != nil {
		return Object{}, err
	}
	for _, o := range objects {
		offered, err := s.location(o).absolute()
		if err != nil {
			return Object{}, err
		}
		if wanted.query == "" {
			offered.query = ""
		}
		if wanted == offered {
			return o, nil
		}
	}
	return Object{}, fail(ErrNotFound, shown(ref), "not in %s; use one of the listed models", s)
}

// location returns the location of an object.
func (s *Source) location(o Object) location {
	at := s.at
	if o.Ref != at.String() { // the source is a folder
		at = at.child(o.name)
	}
	return at
}

// Read returns the content of an object that Current, List or Find returned: exactly the listed
// version, or ErrChanged if it was replaced or is still being written. In that case list again and
// retry. For local files this relies on size and modification time. Read waits until a local file
// is at least 100 ms old.
//
// digest is the expected SHA-256 of the content, 64 hexadecimal digits with an optional "sha256:"
// prefix, or empty. Read returns a *DigestError if the digest differs.
func (s *Source) Read(ctx context.Context, o Object, digest string) ([]byte, error) {
	want, err := parseDigest(digest)
	if err != nil {
		return nil, err
	}
	if o.name == "" {
		return nil, fail(ErrReference, o.Ref, "not an object of %s: use one that it listed", s)
	}
	data, err := s.store.read(ctx, o)
	if err != nil {
		return nil, err
	}
	if want != "" {
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != want {
			return nil, &DigestError{Ref: o.Ref, Want: digestPrefix + want, Got: digestPrefix + hex.EncodeToString(sum[:])}
		}
	}
	return data, nil
}

const digestPrefix = "sha256:"

// CheckDigest returns an ErrReference if digest can't be passed to Read.
func CheckDigest(digest string) error {
	_, err := parseDigest(digest)
	return err
}

// parseDigest returns the hexadecimal digits of a digest in lower case.
func parseDigest(text string) (string, error) {
	digits := strings.ToLower(text)
	digits = strings.TrimPrefix(digits, digestPrefix)
	if raw, err := hex.DecodeString(digits); text != "" && (err != nil || len(raw) != sha256.Size) {
		return "", fail(ErrReference, "the digest "+shown(text), "expected sha256: and 64 hexadecimal digits")
	}
	return digits, nil
}

// model reports whether the file name is that of a model.
func model(name string) bool {
	return strings.HasSuffix(name, ".onnx") && !strings.HasPrefix(name, ".")
}

// version returns the version of an object for which the store provides none.
func version(modTime time.Time, size int64) string {
	return modTime.UTC().Format("mtime:2006-01-02T15:04:05.000000000Z") + ",size:" + strconv.FormatInt(size, 10)
}
