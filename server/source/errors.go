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

// The kinds of failure, for errors.Is. The errors of this package wrap one of
// them, but for those of a context that was cancelled. Each is one line that names
// the reference, without its query, and says what to do.
var (
	// ErrReference means that a reference cannot be understood, or names something
	// that no model can be read from, such as a device.
	ErrReference = errors.New("not a usable reference")
	// ErrNotAllowed means that a reference lies outside the places allowed.
	ErrNotAllowed = errors.New("not an allowed place")
	// ErrNotFound means that there is no such object, or no model in the folder.
	ErrNotFound = errors.New("not found")
	// ErrUnreachable means that the store did not answer, or refused us.
	ErrUnreachable = errors.New("store not reachable")
	// ErrChanged means that the object is another by now than the one listed. To
	// ask for what there is, and read that, may help.
	ErrChanged = errors.New("changed while it was read")
	// ErrDigest means that the object is not the one expected; see DigestError.
	ErrDigest = errors.New("another digest")
	// ErrTooLarge means that the object has more bytes than the limit. Nothing of
	// it was read.
	ErrTooLarge = errors.New("too large")
)

// DigestError says that an object is not the one expected. It is an ErrDigest.
type DigestError struct {
	// Ref names the object.
	Ref string
	// Want and Got are the digests, expected and real: "sha256:" and 64
	// hexadecimal digits.
	Want, Got string
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("%s: its content has the digest %s, not %s as expected; publish it again, or correct the digest", e.Ref, e.Got, e.Want)
}

// Is makes the error an ErrDigest.
func (e *DigestError) Is(target error) bool { return target == ErrDigest }

// failure is an error about the reference ref. Its text is ours: the causes that
// the stores' libraries report may hold URLs, and with them what is secret.
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

// fail makes an error of the given kind about ref.
func fail(kind error, ref, format string, args ...any) error {
	return &failure{ref: ref, text: fmt.Sprintf(format, args...), kind: kind}
}

// oneLine replaces what would break or colour a line of a terminal or log.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}

// storeError makes an error of what a store in the cloud answered when it was asked
// for ref.
func storeError(ctx context.Context, at location, ref string, err error) error {
	f := &failure{ref: ref, kind: ErrUnreachable, cause: err}
	status, reason := storeReason(err)
	code := gcerrors.Code(err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		f.kind, f.text = nil, "gave up: "+context.Canceled.Error()
	case ctx.Err() != nil:
		f.text = "the store did not answer in time; check that it can be reached from here"
		if reason != "" {
			f.text += " (" + reason + ")"
		}
	case status == http.StatusForbidden, status == http.StatusUnauthorized, code == gcerrors.PermissionDenied:
		f.text = "the store denies access; give these credentials the right to list and read it (" + reason + ")"
	case code == gcerrors.NotFound:
		f.kind, f.text = ErrNotFound, "there is no such object or bucket; check the name, or publish a model there"
	case code == gcerrors.FailedPrecondition:
		f.kind, f.text = ErrChanged, "it was replaced while it was read; try again"
	default:
		f.text = "the store failed; check that it can be reached from here, and the credentials (" + reason + ")"
	}
	f.text = at.redact(f.text)
	return f
}

// storeReason finds the status and the essence of an error of a store's library.
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
		// What gocloud.dev says itself is known from our own words.
		if _, rest, ok := strings.Cut(reason, "(code="); ok {
			_, reason, _ = strings.Cut(rest, ": ")
		}
	}
	if strings.Contains(reason, "get credentials") { // and half a page of where they are not
		reason = "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
	}
	if reason = strings.TrimSpace(oneLine(reason)); len(reason) > 200 {
		reason = strings.ToValidUTF8(reason[:200], "") + "…"
	}
	return status, reason
}
