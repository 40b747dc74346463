package source

import (
	"context"
	"errors"
	"io"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/storage"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"gocloud.dev/blob"
	"gocloud.dev/blob/gcsblob"
	"gocloud.dev/blob/s3blob"
	"gocloud.dev/gcp"
)

// opener opens the bucket that a URL names by its host.
type opener func(ctx context.Context, u *url.URL) (*blob.Bucket, error)

var openers = map[string]opener{
	"gs": openGCS,
	"s3": func(ctx context.Context, u *url.URL) (*blob.Bucket, error) {
		return new(s3blob.URLOpener).OpenBucketURL(ctx, u)
	},
}

// openGCS opens a bucket with the default credentials. gcsblob would do so itself,
// but when there are none it says so on standard output, and goes on.
func openGCS(ctx context.Context, u *url.URL) (*blob.Bucket, error) {
	o := gcsblob.URLOpener{Client: gcp.NewAnonymousHTTPClient(gcp.DefaultTransport())}
	if anonymous, _ := strconv.ParseBool(u.Query().Get("anonymous")); !anonymous && os.Getenv("STORAGE_EMULATOR_HOST") == "" {
		credentials, err := gcp.DefaultCredentials(ctx)
		if err != nil {
			return nil, errors.New("no credentials: set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`")
		}
		o.TokenSource = gcp.CredentialsTokenSource(credentials)
		if o.Client, err = gcp.NewHTTPClient(gcp.DefaultTransport(), o.TokenSource); err != nil {
			return nil, err
		}
	}
	b, err := o.OpenBucketURL(ctx, u)
	if err != nil {
		return nil, err
	}
	// By default it goes on trying for as long as it may, and tells us then of our
	// own deadline instead of what went wrong.
	var client *storage.Client
	if b.As(&client) {
		client.SetRetry(storage.WithMaxAttempts(3))
	}
	return b, nil
}

// bucket is an object, or a folder of them, in a bucket. It is opened when it is
// first needed: to find credentials can take seconds.
type bucket struct {
	at      location
	options Options
	open    opener

	mu     sync.Mutex
	opened *blob.Bucket
}

func (b *bucket) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.opened == nil {
		return nil
	}
	err := b.opened.Close()
	b.opened = nil
	return err
}

// get returns the bucket. One that could not be opened is tried again next time.
func (b *bucket) get(ctx context.Context) (*blob.Bucket, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.opened == nil {
		// The libraries keep the context for renewing credentials.
		opened, err := b.open(context.WithoutCancel(ctx), &url.URL{Scheme: b.at.scheme, Host: b.at.bucket, RawQuery: b.at.query})
		if err != nil {
			_, reason := storeReason(err)
			return nil, &failure{
				ref: b.at.String(), text: b.at.redact("the bucket cannot be opened; check the query parameters and credentials (" + reason + ")"),
				kind: ErrUnreachable, cause: err,
			}
		}
		b.opened = opened
	}
	return b.opened, nil
}

func (b *bucket) all(ctx context.Context) ([]Object, error) {
	ctx, cancel := context.WithTimeout(ctx, b.options.Timeout)
	defer cancel()
	opened, err := b.get(ctx)
	if err != nil {
		return nil, err
	}
	if !b.at.folder() {
		o, err := b.stat(ctx, opened, b.at, path.Base(b.at.path))
		if err != nil {
			return nil, err
		}
		return []Object{o}, nil
	}
	var objects []Object
	entries := 0
	for list := opened.List(&blob.ListOptions{Prefix: b.at.path, Delimiter: "/", BeforeList: selectFields}); ; entries++ {
		entry, err := list.Next(ctx)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, storeError(ctx, b.at, b.at.String(), err)
		}
		if entries == maxEntries {
			return nil, tooMany(b.at.String())
		}
		name := strings.TrimPrefix(entry.Key, b.at.path)
		if entry.IsDir || !model(name) {
			continue
		}
		o := Object{Ref: b.at.child(name).String(), Size: entry.Size, ModTime: entry.ModTime, name: name}
		var google storage.ObjectAttrs
		var amazon s3types.Object
		switch {
		case entry.As(&google):
			o.Version = generation(google.Generation)
		case entry.As(&amazon) && amazon.ETag != nil:
			o.Version = etag(*amazon.ETag)
		default: // the listing does not say
			if o, err = b.stat(ctx, opened, b.at.child(name), name); errors.Is(err, ErrNotFound) {
				continue
			} else if err != nil {
				return nil, err
			}
		}
		objects = append(objects, o)
	}
}

// selectFields asks GCS for what is used alone. Who may list objects need not be
// allowed to see who else may.
func selectFields(as func(any) bool) error {
	var query *storage.Query
	if !as(&query) {
		return nil
	}
	query.Projection = storage.ProjectionNoACL
	return query.SetAttrSelection([]string{"Name", "Size", "Updated", "Generation"})
}

const (
	generationPrefix = "generation:"
	etagPrefix       = "etag:"
)

func generation(n int64) string { return generationPrefix + strconv.FormatInt(n, 10) }
func etag(text string) string   { return etagPrefix + text }

// stat asks for one object.
func (b *bucket) stat(ctx context.Context, opened *blob.Bucket, at location, name string) (Object, error) {
	attributes, err := opened.Attributes(ctx, at.path)
	if err != nil {
		return Object{}, storeError(ctx, b.at, at.String(), err)
	}
	o := Object{Ref: at.String(), Size: attributes.Size, ModTime: attributes.ModTime, name: name}
	var google storage.ObjectAttrs
	switch {
	case attributes.As(&google):
		o.Version = generation(google.Generation)
	case attributes.ETag != "":
		o.Version = etag(attributes.ETag)
	default:
		o.Version = version(o.ModTime, o.Size)
	}
	return o, nil
}

func (b *bucket) read(ctx context.Context, o Object) ([]byte, error) {
	if o.Size > b.options.Limit {
		return nil, tooLarge(o.Ref, o.Size, b.options.Limit)
	}
	ctx, cancel := context.WithTimeout(ctx, b.options.Timeout+time.Duration(o.Size>>20)*time.Second)
	defer cancel()
	opened, err := b.get(ctx)
	if err != nil {
		return nil, err
	}
	at := b.at
	if at.folder() {
		at = at.child(o.name)
	}
	unchanged := func() error {
		now, err := b.stat(ctx, opened, at, o.name)
		if err == nil && now.Version != o.Version {
			err = changed(o.Ref)
		}
		return err
	}
	exact := b.canPin(o.Version)
	if !exact {
		if err := unchanged(); err != nil {
			return nil, err
		}
	}
	reader, err := opened.NewReader(ctx, at.path, &blob.ReaderOptions{BeforeRead: func(as func(any) bool) error { return pin(as, o.Version) }})
	if err != nil {
		failed := storeError(ctx, b.at, o.Ref, err)
		// The version may be gone, and another there.
		if errors.Is(failed, ErrNotFound) && errors.Is(unchanged(), ErrChanged) {
			return nil, changed(o.Ref)
		}
		return nil, failed
	}
	defer func() { _ = reader.Close() }()
	if reader.Size() < 0 { // GCS unpacks what was stored with Content-Encoding: gzip
		return nil, fail(ErrReference, o.Ref, "is stored compressed: publish it as it is, without a Content-Encoding")
	}
	if reader.Size() != o.Size {
		return nil, changed(o.Ref)
	}
	data := make([]byte, o.Size)
	_, err = io.ReadFull(reader, data)
	if err == nil {
		// Checksums are compared at the end.
		if _, err = reader.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		return nil, storeError(ctx, b.at, o.Ref, err)
	}
	// A store that ignores the condition shows by its answer what it has sent.
	var amazon s3.GetObjectOutput
	if reader.As(&amazon) {
		exact = exact && amazon.ETag != nil && etag(*amazon.ETag) == o.Version
	}
	if !exact {
		if err := unchanged(); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// canPin tells whether the store can be asked for the version alone. A weak ETag
// cannot be a condition.
func (b *bucket) canPin(version string) bool {
	switch b.at.scheme {
	case "gs":
		return strings.HasPrefix(version, generationPrefix)
	case "s3":
		return strings.HasPrefix(version, etagPrefix) && !strings.HasPrefix(version, etagPrefix+"W/")
	}
	return false
}

// pin makes the read one of the version.
func pin(as func(any) bool, version string) error {
	var object **storage.ObjectHandle
	if text, ok := strings.CutPrefix(version, generationPrefix); ok && as(&object) {
		n, err := strconv.ParseInt(text, 10, 64)
		*object = (*object).Generation(n)
		return err
	}
	var get *s3.GetObjectInput
	if text, ok := strings.CutPrefix(version, etagPrefix); ok && as(&get) {
		get.IfMatch = &text
	}
	var options *[]func(*s3.Options)
	if as(&options) {
		// Not every object has a checksum. The library would say so on standard error.
		*options = append(*options, func(o *s3.Options) { o.DisableLogOutputChecksumValidationSkipped = true })
	}
	return nil
}
