package source

import (
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// location is a parsed reference.
type location struct {
	scheme string // "file", "gs" or "s3"; empty for a plain path
	bucket string // for gs and s3
	// path is the local path, or the key in the bucket, decoded. A folder ends with a slash, which
	// is optional for a local path.
	path  string
	query string // parameters for the store, verbatim; may contain secrets
}

const forms = "expected a path, file:///path, gs://bucket/key or s3://bucket/key, with a trailing / for a folder"

// parse parses a reference without accessing anything.
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
		return location{}, fail(ErrReference, shown(ref), "contains a zero byte: %s", forms)
	}
	if !isURL {
		return location{path: ref}, nil
	}
	invalid := func(format string, args ...any) (location, error) {
		return location{}, fail(ErrReference, shown(ref), format, args...)
	}
	u, err := url.Parse(ref)
	switch scheme = strings.ToLower(scheme); {
	case !slices.Contains([]string{"file", "gs", "s3"}, scheme):
		return invalid("unsupported scheme: %s", forms)
	case err != nil:
		return invalid("invalid URL: write %%25 for a percent sign, and escape other special characters likewise")
	case u.User != nil:
		return invalid("credentials are not allowed in a reference: set them in the environment")
	case u.Fragment != "" || strings.HasSuffix(ref, "#"):
		return invalid("contains a #: write %%23 if it is part of the name")
	case u.Opaque != "":
		return invalid("invalid URL: %s", forms)
	}
	l := location{scheme: scheme, path: u.Path}
	if scheme == "file" {
		switch {
		case u.Host != "":
			return invalid("unexpected host %q: expected file:///path for a local file", u.Host)
		case u.RawQuery != "" || u.ForceQuery:
			return invalid("contains a question mark: write %%3F if it is part of the name")
		case l.path == "":
			return invalid("missing path: %s", forms)
		}
		return l, nil
	}
	l.bucket, l.path, l.query = u.Host, strings.TrimPrefix(u.Path, "/"), u.RawQuery
	switch {
	case l.bucket == "" || strings.Contains(l.bucket, ":"):
		return invalid("missing bucket: %s", forms)
	case u.Path == "":
		return invalid("missing key: add the key of an object, or a / for the whole bucket")
	}
	return l, nil
}

// shown returns at most 100 bytes of a possibly invalid reference for messages, without parts that
// could be secret.
func shown(ref string) string {
	ref, _, _ = strings.Cut(ref, "?")
	scheme, rest, isURL := strings.Cut(ref, "://")
	if i := strings.LastIndexByte(rest, '@'); isURL && i >= 0 {
		ref = scheme + "://…" + rest[i:]
	}
	if len(ref) > 100 {
		ref = strings.ToValidUTF8(ref[:97], "") + "…"
	}
	return ref
}

// String returns the reference in the form in which the user gave it, without the query.
func (l location) String() string {
	switch l.scheme {
	case "":
		return l.path
	case "file":
		return (&url.URL{Scheme: l.scheme, Path: l.path}).String()
	}
	return (&url.URL{Scheme: l.scheme, Host: l.bucket, Path: "/" + l.path}).String()
}

// local reports whether the reference is to a local file.
func (l location) local() bool { return l.scheme == "" || l.scheme == "file" }

// folder reports whether the reference has the form of a folder.
func (l location) folder() bool { return l.path == "" || strings.HasSuffix(l.path, "/") }

// child returns the location of a file in the folder.
func (l location) child(name string) location {
	if l.local() {
		l.path = filepath.Join(l.path, name)
	} else {
		l.path += name
	}
	return l
}

// absolute returns a canonical form, equal for equivalent locations: local files get the scheme
// "file" and an absolute path. It doesn't follow links.
func (l location) absolute() (location, error) {
	if !l.local() {
		return l, nil
	}
	path, err := filepath.Abs(l.path)
	if err != nil {
		return l, fail(ErrReference, l.String(), "the working directory does not exist: use an absolute path")
	}
	return location{scheme: "file", path: path}, nil
}

// redact replaces the values of the query in text.
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

// Allowlist contains the folders and buckets from which models may be loaded on request. The zero
// value allows nothing. It is immutable and safe for concurrent use.
type Allowlist struct{ allowed []location }

// ParseAllowlist parses references to allowed folders or files: a local path, file:///folder/,
// gs://bucket/folder/ or s3://bucket/folder/?region=…. A trailing slash makes no difference.
// Relative paths are relative to the working directory.
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

// Resolve returns the reference to open for a reference from a request: with the query of the
// allowed source if it has none. It returns ErrNotAllowed for references outside the allowlist. To
// rule out that another parser interprets the reference differently, it also rejects relative
// paths, "." and "..", empty names, backslashes and control characters. Symbolic links are followed
// when the reference is opened: anyone who can create one in an allowed folder can lead out of it.
func (p Allowlist) Resolve(ref string) (string, error) {
	l, err := parse(ref)
	if err != nil {
		return "", err
	}
	path := l.path
	if l.local() {
		if !filepath.IsAbs(path) {
			return "", fail(ErrNotAllowed, shown(ref), "relative path: use an absolute path or a URL, as listed")
		}
		l.scheme, path = "file", strings.TrimPrefix(path, "/")
	}
	for _, name := range strings.Split(strings.TrimSuffix(path, "/"), "/") {
		if name == "." || name == ".." || name == "" && path != "" || strings.ContainsRune(name, '\\') || oneLine(name) != name {
			return "", fail(ErrNotAllowed, shown(ref), `contains an empty name, ".", "..", a backslash or a control character: remove it`)
		}
	}
	for _, source := range p.allowed {
		rest, inside := strings.CutPrefix(l.path, source.path)
		inside = inside && (rest == "" || rest[0] == '/' || source.path == "") && source.scheme == l.scheme && source.bucket == l.bucket
		if !inside || l.query != "" && l.query != source.query {
			continue
		}
		if l.local() {
			return l.path, nil
		}
		if source.query == "" {
			return l.String(), nil
		}
		return l.String() + "?" + source.query, nil
	}
	return "", fail(ErrNotAllowed, shown(ref), "not an allowed model source: use an allowed one, or allow this one with --model-source")
}
