package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"gocloud.dev/gcerrors"
	"google.golang.org/api/googleapi"
)

// Errors for errors.Is. All errors of this package wrap one of them, except those of a canceled
// context. Each message is one line with the reference, without its query, and advice.
var (
	// ErrReference is returned for an invalid reference, and for one to something that isn't a
	// model file, such as a device.
	ErrReference = errors.New("invalid reference")
	// ErrNotAllowed is returned for a reference outside the allowlist.
	ErrNotAllowed = errors.New("model source not allowed")
	// ErrNotFound is returned if the object doesn't exist, or the folder contains no model.
	ErrNotFound = errors.New("not found")
	// ErrUnreachable is returned if the store doesn't respond, fails, or denies access.
	ErrUnreachable = errors.New("store not reachable")
	// ErrChanged is returned if the object was replaced after it was listed. List again and retry.
	ErrChanged = errors.New("changed while being read")
	// ErrDigest is returned if the object doesn't have the expected digest; see DigestError.
	ErrDigest = errors.New("digest mismatch")
	// ErrTooLarge is returned if the object exceeds the size limit. None of it was read.
	ErrTooLarge = errors.New("too large")
)

// DigestError reports that an object doesn't have the expected digest. errors.Is matches it with
// ErrDigest.
type DigestError struct {
	// Ref is the reference of the object.
	Ref string
	// Want is the expected digest and Got the actual one: "sha256:" and 64 hexadecimal digits.
	Want, Got string
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("%s: the digest is %s, expected %s; publish the model again, or correct the expected digest", e.Ref, e.Got, e.Want)
}

// Is reports whether target is ErrDigest.
func (e *DigestError) Is(target error) bool { return target == ErrDigest }

// failure is an error about the reference ref. Its text never contains messages of the stores'
// libraries verbatim: they can contain URLs with secrets.
type failure struct {
	ref, text   string
	kind, cause error // either may be nil
}

func (e *failure) Error() string { return oneLine(e.ref + ": " + e.text) }

func (e *failure) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.kind, e.cause} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// fail returns an error of the given kind about ref.
func fail(kind error, ref, format string, args ...any) error {
	return &failure{ref: ref, text: fmt.Sprintf(format, args...), kind: kind}
}

// oneLine replaces control characters, which could break lines or color a terminal, with spaces.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}

// storeError converts an error that a cloud store returned for ref.
func storeError(ctx context.Context, at location, ref string, err error) error {
	f := &failure{ref: ref, kind: ErrUnreachable, cause: err}
	status, reason := storeReason(err)
	code := gcerrors.Code(err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		f.kind, f.text = nil, "canceled: "+context.Canceled.Error()
	case ctx.Err() != nil:
		f.text = "the store did not respond in time; check that it is reachable from here"
		if reason != "" {
			f.text += " (" + reason + ")"
		}
	case status == http.StatusForbidden, status == http.StatusUnauthorized, code == gcerrors.PermissionDenied:
		f.text = "access denied by the store; grant these credentials permission to list and read it (" + reason + ")"
	case code == gcerrors.NotFound:
		f.kind, f.text = ErrNotFound, "no such object or bucket; check the name, or publish a model there"
	case code == gcerrors.FailedPrecondition:
		f.kind, f.text = ErrChanged, "replaced while being read; try again"
	default:
		f.text = "the store failed; check the credentials, and that the store is reachable from here (" + reason + ")"
	}
	f.text = at.redact(f.text)
	return f
}

// storeReason returns the HTTP status of an error of a store's library, and its essential message.
func storeReason(err error) (status int, reason string) {
	var (
		google *googleapi.Error
		amazon interface {
			ErrorCode() string
			ErrorMessage() string
		}
		response interface{ HTTPStatusCode() int }
		request  *url.Error
	)
	if errors.As(err, &response) {
		status = response.HTTPStatusCode()
	}
	switch {
	case errors.As(err, &google):
		status, reason = google.Code, fmt.Sprintf("%d %s", google.Code, google.Message)
	case errors.As(err, &amazon):
		reason = amazon.ErrorCode() + " " + amazon.ErrorMessage()
	case errors.As(err, &request):
		reason = request.Err.Error() // without the URL
	default:
		for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
			err = inner
		}
		reason = err.Error()
		// Drop gocloud.dev's own prefix, which our message replaces.
		if _, rest, ok := strings.Cut(reason, "(code="); ok {
			_, reason, _ = strings.Cut(rest, ": ")
		}
	}
	if strings.Contains(reason, "get credentials") { // followed by half a page of places that were searched
		reason = "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
	}
	if reason = strings.TrimSpace(oneLine(reason)); len(reason) > 200 {
		reason = strings.ToValidUTF8(reason[:200], "") + "…"
	}
	return status, reason
}
