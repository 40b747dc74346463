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

// opener opens the bucket in the host of a URL.
type opener func(ctx context.Context, u *url.URL) (*blob.Bucket, error)

var openers = map[string]opener{
	"gs": openGCS,
	"s3": func(ctx context.Context, u *url.URL) (*blob.Bucket, error) {
		return new(s3blob.URLOpener).OpenBucketURL(ctx, u)
	},
}

// openGCS opens a bucket with the default credentials. gcsblob would do the same, but without
// credentials it prints to standard output and continues.
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
	// By default the library retries until the deadline, and then returns the deadline's error instead of
	// the cause.
	var client *storage.Client
	if b.As(&client) {
		client.SetRetry(storage.WithMaxAttempts(3))
	}
	return b, nil
}

// bucket is an object or a folder of objects in a bucket. The bucket is opened on first use,
// because finding credentials can take seconds.
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

// get returns the opened bucket. If opening fails, the next call retries.
func (b *bucket) get(ctx context.Context) (*blob.Bucket, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.opened == nil {
		// The libraries keep the context to refresh credentials.
		opened, err := b.open(context.WithoutCancel(ctx), &url.URL{Scheme: b.at.scheme, Host: b.at.bucket, RawQuery: b.at.query})
		if err != nil {
			_, reason := storeReason(err)
			return nil, &failure{
				ref: b.at.String(), text: b.at.redact("cannot open the bucket; check the query parameters and credentials (" + reason + ")"),
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
		default: // the listing has no version
			if o, err = b.stat(ctx, opened, b.at.child(name), name); errors.Is(err, ErrNotFound) {
				continue
			} else if err != nil {
				return nil, err
			}
		}
		objects = append(objects, o)
	}
}

// selectFields restricts a GCS listing to the needed fields. In particular, reading ACLs would
// require more permissions than listing objects.
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

// stat returns one object.
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
		// The version may have been replaced by another.
		if errors.Is(failed, ErrNotFound) && errors.Is(unchanged(), ErrChanged) {
			return nil, changed(o.Ref)
		}
		return nil, failed
	}
	defer func() { _ = reader.Close() }()
	if reader.Size() < 0 { // GCS decompresses objects stored with Content-Encoding: gzip
		return nil, fail(ErrReference, o.Ref, "stored compressed: publish it without a Content-Encoding")
	}
	if reader.Size() != o.Size {
		return nil, changed(o.Ref)
	}
	data := make([]byte, o.Size)
	_, err = io.ReadFull(reader, data)
	if err == nil {
		// Read to the end, where the checksum is verified.
		if _, err = reader.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		return nil, storeError(ctx, b.at, o.Ref, err)
	}
	// A store that ignores the condition is detected by the ETag of its response.
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

// canPin reports whether the store can return exactly this version. A weak ETag cannot be a
// condition.
func (b *bucket) canPin(version string) bool {
	switch b.at.scheme {
	case "gs":
		return strings.HasPrefix(version, generationPrefix)
	case "s3":
		return strings.HasPrefix(version, etagPrefix) && !strings.HasPrefix(version, etagPrefix+"W/")
	}
	return false
}

// pin makes a read conditional on the version.
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
		// Not every object has a checksum. Keep the library from logging that to standard error.
		*options = append(*options, func(o *s3.Options) { o.DisableLogOutputChecksumValidationSkipped = true })
	}
	return nil
}
