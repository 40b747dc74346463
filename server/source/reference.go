package source

import (
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// location is a reference, taken apart.
type location struct {
	scheme string // "file", "gs" or "s3"; empty for a path that was given as one
	bucket string // of gs and s3
	// path is that of a local file or folder, or the key in the bucket, without
	// percent signs for encoding. Where a folder is meant it ends in a slash; a
	// local path need not.
	path  string
	query string // parameters of the store, as they were given; may be secret
}

const forms = "want a path, file:///path, gs://bucket/key or s3://bucket/key, with a / at the end for a folder"

// parse takes a reference apart. It looks at nothing but the text.
func parse(ref string) (location, error) {
	scheme, _, isURL := strings.Cut(ref, "://")
	isURL = isURL && !strings.Contains(scheme, "/")
	if !isURL && len(ref) >= 5 && strings.EqualFold(ref[:5], "file:") {
		scheme, isURL = "file", true
	}
	if ref == "" {
		return location{}, fail(ErrReference, "the reference", "is empty: %s", forms)
	}
	if strings.Contains(ref, "\x00") || isURL && strings.Contains(ref, "%00") {
		return location{}, fail(ErrReference, shown(ref), "has a zero byte in it: %s", forms)
	}
	if !isURL {
		return location{path: ref}, nil
	}
	refuse := func(format string, args ...any) (location, error) {
		return location{}, fail(ErrReference, shown(ref), format, args...)
	}
	u, err := url.Parse(ref)
	switch scheme = strings.ToLower(scheme); {
	case !slices.Contains([]string{"file", "gs", "s3"}, scheme):
		return refuse("models cannot be had from there: %s", forms)
	case err != nil:
		return refuse("is not a well-formed URL: write %%25 for a percent sign, and likewise what else is special")
	case u.User != nil:
		return refuse("credentials do not belong into a reference: give them by the environment")
	case u.Fragment != "" || strings.HasSuffix(ref, "#"):
		return refuse("has a #: write %%23 if it belongs to the name")
	case u.Opaque != "":
		return refuse("is not a well-formed URL: %s", forms)
	}
	l := location{scheme: scheme, path: u.Path}
	if scheme == "file" {
		switch {
		case u.Host != "":
			return refuse("names the host %q: want file:///path for a file of this machine", u.Host)
		case u.RawQuery != "" || u.ForceQuery:
			return refuse("has a question mark: write %%3F if it belongs to the name")
		case l.path == "":
			return refuse("names no file: %s", forms)
		}
		return l, nil
	}
	l.bucket, l.path, l.query = u.Host, strings.TrimPrefix(u.Path, "/"), u.RawQuery
	switch {
	case l.bucket == "" || strings.Contains(l.bucket, ":"):
		return refuse("names no bucket: %s", forms)
	case u.Path == "":
		return refuse("names no object: add its key, or a / for all of the bucket")
	}
	return l, nil
}

// shown is how messages show a reference that may be wrong in any way: without
// what could be a secret in it.
func shown(ref string) string {
	ref, _, _ = strings.Cut(ref, "?")
	scheme, rest, isURL := strings.Cut(ref, "://")
	if i := strings.LastIndexByte(rest, '@'); isURL && i >= 0 {
		ref = scheme + "://…" + rest[i:]
	}
	if len(ref) > 300 {
		ref = strings.ToValidUTF8(ref[:300], "") + "…"
	}
	return ref
}

// String writes the reference so that a user can name it so, without the query.
func (l location) String() string {
	switch l.scheme {
	case "":
		return l.path
	case "file":
		return (&url.URL{Scheme: l.scheme, Path: l.path}).String()
	}
	return (&url.URL{Scheme: l.scheme, Host: l.bucket, Path: "/" + l.path}).String()
}

// local tells whether the reference is to a file of this machine.
func (l location) local() bool { return l.scheme == "" || l.scheme == "file" }

// folder tells whether the reference says that it is to a folder.
func (l location) folder() bool { return l.path == "" || strings.HasSuffix(l.path, "/") }

// child is the reference to a file in the folder.
func (l location) child(name string) location {
	if l.local() {
		l.path = filepath.Join(l.path, name)
	} else {
		l.path += name
	}
	return l
}

// absolute makes locations that mean the same equal: those of local files get the
// scheme "file" and an absolute path. It looks at the text alone, no link is followed.
func (l location) absolute() (location, error) {
	if !l.local() {
		return l, nil
	}
	path, err := filepath.Abs(l.path)
	if err != nil {
		return l, fail(ErrReference, l.String(), "the working directory is gone: give an absolute path")
	}
	return location{scheme: "file", path: path}, nil
}

// redact takes the values of the query out of a text.
func (l location) redact(text string) string {
	values, _ := url.ParseQuery(l.query)
	for _, list := range values {
		for _, value := range list {
			if len(value) > 4 { // not "true"
				text = strings.ReplaceAll(text, value, "…")
			}
		}
	}
	return text
}

// Allowlist are the folders and buckets from which models may be loaded on request.
// The zero value allows none. It does not change, and is safe for concurrent use.
type Allowlist struct{ allowed []location }

// ParseAllowlist reads references to places: a local folder, file:///folder/,
// gs://bucket/folder/ or s3://bucket/folder/?region=…, or one file. A slash at the
// end makes no difference. A relative path is one of the working directory.
func ParseAllowlist(refs []string) (Allowlist, error) {
	var p Allowlist
	for _, ref := range refs {
		l, err := parse(ref)
		if err != nil {
			return Allowlist{}, err
		}
		if l, err = l.absolute(); err != nil {
			return Allowlist{}, err
		}
		l.path = strings.TrimSuffix(l.path, "/")
		p.allowed = append(p.allowed, l)
	}
	return p, nil
}

// Resolve returns the reference to open for one that a request names, when that
// lies in one of the places: with the query of the place, and absolute. An
// ErrNotAllowed says that it does not, an ErrReference that it cannot be understood.
//
// The comparison is one of text, name by name and case by case; what is percent-
// encoded is decoded once, as opening does. Empty names, "." and "..", backslashes
// and control characters are refused, relative paths as well, so that no other
// reader of the reference could take it for another place. Links are followed when
// it is opened: who can make one in an allowed folder may lead out of it.
func (p Allowlist) Resolve(ref string) (string, error) {
	l, err := parse(ref)
	if err != nil {
		return "", err
	}
	path := l.path
	if l.local() {
		if !filepath.IsAbs(path) {
			return "", fail(ErrNotAllowed, shown(ref), "is relative: name it as it is listed, by an absolute path or by a URL")
		}
		l.scheme, path = "file", strings.TrimPrefix(path, "/")
	}
	for _, name := range strings.Split(strings.TrimSuffix(path, "/"), "/") {
		if name == "." || name == ".." || name == "" && path != "" || strings.ContainsRune(name, '\\') || oneLine(name) != name {
			return "", fail(ErrNotAllowed, shown(ref), `has an empty name, ".", "..", a backslash or a control character in it: name it without`)
		}
	}
	for _, place := range p.allowed {
		rest, inside := strings.CutPrefix(l.path, place.path)
		inside = inside && (rest == "" || rest[0] == '/' || place.path == "") && place.scheme == l.scheme && place.bucket == l.bucket
		if !inside || l.query != "" && l.query != place.query {
			continue
		}
		if l.local() {
			return l.path, nil
		}
		if place.query == "" {
			return l.String(), nil
		}
		return l.String() + "?" + place.query, nil
	}
	return "", fail(ErrNotAllowed, shown(ref), "models are not loaded from there: name one from an allowed place, or have the place allowed by --model-source")
}
