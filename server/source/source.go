// Package source says where models come from: a local file or folder, or an
// object or folder in a bucket of Google Cloud Storage or of anything that speaks
// S3. It lists what there is, reads exactly what it listed, and watches for news.
//
// A reference is a path, absolute or relative to the working directory, or a URL:
//
//	models/new.onnx              a file
//	models                       a folder
//	file:///models/new.onnx      the same file, file:///models/ for the folder
//	gs://bucket/models/new.onnx  an object, gs://bucket/models/ for a folder
//	s3://bucket/models/new.onnx?region=eu-central-1
//
// A URL is percent-encoded, a path is not. A folder in a bucket has a slash at its
// end. Of a folder count the files *.onnx right in it whose names do not begin with
// a dot. The query parameters are those of gocloud.dev's gcsblob and s3blob;
// credentials come from the clouds' usual environment variables and files.
//
// Buckets go through gocloud.dev/blob, which makes two stores one. Its fileblob is
// not used: it lists a link by the link's own time, so that a swapped one (as
// Kubernetes swaps a mounted ConfigMap) would go unnoticed, waits at a FIFO for
// ever, and shows some file names changed.
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
	// DefaultLimit is the size in bytes of the largest model that is read unless
	// Options say otherwise.
	DefaultLimit = 512 << 20
	// DefaultTimeout is how long a store may take to answer unless Options say
	// otherwise.
	DefaultTimeout = 15 * time.Second

	// maxListed is how many objects List returns.
	maxListed = 100
	// maxEntries is how many entries of a folder are looked at. The newest among
	// more could not be known without looking at all.
	maxEntries = 10_000
)

// Object is a model in a source, as it was when it was listed.
type Object struct {
	// Ref is the path or URL that a user can name it by, in the form in which the
	// source was named. It has no query, and so nothing secret.
	Ref string
	// Version changes whenever the content is replaced: the generation in GCS, the
	// ETag in S3, otherwise time of modification and size. It is for comparing only.
	Version string
	// Size is in bytes.
	Size int64
	// ModTime is when it was modified last.
	ModTime time.Time

	name string // in the source's folder; of a file, that of the file
}

// same tells whether a is what b is.
func (o Object) same(b Object) bool { return o.Ref == b.Ref && o.Version == b.Version }

// Options are how a source is read. The zero value has the defaults.
type Options struct {
	// Limit is the size in bytes of the largest model that is read; 0 means
	// DefaultLimit.
	Limit int64
	// Timeout is how long a store in the cloud may take to answer, its library's
	// own retries included; 0 means DefaultTimeout. To read an object it gets
	// another second for each MiB.
	Timeout time.Duration
}

// Source is a place that models come from. It is safe for concurrent use.
type Source struct {
	at    location
	store store
}

// store is a kind of place.
type store interface {
	// all returns the models, in no order.
	all(ctx context.Context) ([]Object, error)
	// read returns the content of an object that all returned.
	read(ctx context.Context, o Object) ([]byte, error)
	close() error
}

// Open returns the source that a reference names. It looks at the text alone:
// whether something is there shows when it is asked for. Every error is an
// ErrReference. The caller closes the source.
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

// Close frees what was opened. Nothing may be asked of the source afterwards.
func (s *Source) Close() error { return s.store.close() }

// String is the reference of the source, without its query.
func (s *Source) String() string { return s.at.String() }

// sorted returns all models, the newest first; of those modified at the same time
// the one whose name is last in the alphabet.
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

// List returns the models that the source offers, the newest first, up to 100. An
// empty folder is no error. A folder of more than 10,000 entries is: use one of
// the models' own.
func (s *Source) List(ctx context.Context) ([]Object, error) {
	objects, err := s.sorted(ctx)
	return objects[:min(len(objects), maxListed)], err
}

// Current returns the model that the source stands for: the file, or the newest
// model of the folder; of several modified at the same time, the one whose name is
// last in the alphabet. An ErrNotFound says that there is none.
func (s *Source) Current(ctx context.Context) (Object, error) {
	objects, err := s.sorted(ctx)
	if err != nil {
		return Object{}, err
	}
	if len(objects) == 0 {
		return Object{}, fail(ErrNotFound, s.String(), "the folder holds no model: publish one there, with a name that ends in .onnx")
	}
	return objects[0], nil
}

// Find returns the model that a request names, if the source offers it. The
// request's text is compared with the references of the models, as they are listed
// or in another form that means the same, and becomes no path itself. A query must
// be the source's, or be missing. An ErrNotFound says that it is none of them.
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
		offered, err := s.place(o).absolute()
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
	return Object{}, fail(ErrNotFound, shown(ref), "%s does not offer it: name one of the models that are listed", s)
}

// place is the location of an object.
func (s *Source) place(o Object) location {
	at := s.at
	if o.Ref != at.String() { // the source is a folder
		at = at.child(o.name)
	}
	return at
}

// Read returns the content of an object that Current, List or Find returned. It is
// the version listed, in whole; an ErrChanged says that there is another by now, or
// that it is still being written: ask for the current one and read that. For a
// local file this is known as well as size and time of modification tell; one that
// was written in the last 100 ms is waited for.
//
// digest is what the SHA-256 of the content has to be, as 64 hexadecimal digits
// with or without "sha256:" before them; empty when any will do. A *DigestError
// tells of another.
func (s *Source) Read(ctx context.Context, o Object, digest string) ([]byte, error) {
	want, err := parseDigest(digest)
	if err != nil {
		return nil, err
	}
	if o.name == "" {
		return nil, fail(ErrReference, o.Ref, "is no object of %s: read one that it listed", s)
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

// parseDigest returns the hexadecimal digits of a digest, in small letters.
func parseDigest(text string) (string, error) {
	digits := strings.ToLower(text)
	digits = strings.TrimPrefix(digits, digestPrefix)
	if raw, err := hex.DecodeString(digits); text != "" && (err != nil || len(raw) != sha256.Size) {
		return "", fail(ErrReference, "the digest "+shown(text), "want sha256: and 64 hexadecimal digits")
	}
	return digits, nil
}

// model tells whether a file of this name counts as a model.
func model(name string) bool {
	return strings.HasSuffix(name, ".onnx") && !strings.HasPrefix(name, ".")
}

// version is that of an object of which no more is known.
func version(modTime time.Time, size int64) string {
	return modTime.UTC().Format("mtime:2006-01-02T15:04:05.000000000Z") + ",size:" + strconv.FormatInt(size, 10)
}
