// Package form extracts fields from multipart/form-data bodies (RFC 7578) that are in memory,
// without copying them where possible. Start with [Parts].
package form

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"strings"
)

// Errors returned by Parts, for errors.Is.
var (
	// ErrContentType is returned if the content type isn't multipart/form-data.
	ErrContentType = errors.New("not a multipart form")
	// ErrMalformed is returned if the form is malformed or truncated.
	ErrMalformed = errors.New("malformed form")
	// ErrMissing is returned if the form doesn't contain the field.
	ErrMissing = errors.New("missing form field")
	// ErrTooMany is returned if the field occurs more often than allowed.
	ErrTooMany = errors.New("too many form fields")
)

// Parts appends the contents of all fields with the given name to dst, in order, and returns the
// result. The contents alias body where possible. It is an error if there are more than limit such
// fields, or none. Parts always parses the whole form: a form that is truncated after the field is
// rejected as well.
func Parts(dst [][]byte, contentType string, body []byte, field string, limit int) ([][]byte, error) {
	boundary, ok := simpleBoundary(contentType)
	if ok {
		if parts, ok := scan(dst, boundary, body, field, limit); ok {
			return parts, nil
		}
	}
	// The standard library handles unusual forms and reports what is wrong with invalid ones.
	return read(dst, contentType, body, field, limit)
}

// IsMultipart reports whether the content type is any multipart type.
func IsMultipart(contentType string) bool {
	return len(contentType) >= 10 && strings.EqualFold(contentType[:10], "multipart/")
}

// CheckType returns an error, ErrContentType or ErrMalformed, if no body with the content type can
// be parsed by Parts.
func CheckType(contentType string) error {
	if _, ok := simpleBoundary(contentType); ok {
		return nil
	}
	_, err := boundaryOf(contentType)
	return err
}

// simpleBoundary returns the boundary if the content type has the form that browsers, curl and HTTP
// libraries write.
func simpleBoundary(contentType string) (string, bool) {
	const prefix = "multipart/form-data; boundary="
	if !strings.HasPrefix(contentType, prefix) {
		return "", false
	}
	b := contentType[len(prefix):]
	if len(b) >= 2 && b[0] == '"' && b[len(b)-1] == '"' {
		b = b[1 : len(b)-1]
	}
	for i := range len(b) {
		switch c := b[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return "", false
		}
	}
	return b, 0 < len(b) && len(b) <= 70
}

var (
	crlf        = []byte("\r\n")
	headersEnd  = []byte("\r\n\r\n")
	disposition = []byte("content-disposition: form-data; name=\"")
	encoding    = []byte("content-transfer-encoding")
)

// scan parses a form written in the usual way in one pass. It returns false for anything else, so
// that the caller falls back to read.
func scan(dst [][]byte, boundary string, body []byte, field string, limit int) ([][]byte, bool) {
	var buffer [80]byte
	mark := append(append(buffer[:0], "\r\n--"...), boundary...)
	begin := len(dst)
	if !bytes.HasPrefix(body, mark[2:]) {
		return dst[:begin], false
	}
	rest := body[len(mark)-2:]
	for bytes.HasPrefix(rest, crlf) {
		rest = rest[2:]
		end := bytes.Index(rest, headersEnd)
		if end < 0 || end > 4096 {
			return dst[:begin], false
		}
		ours, ok := named(rest[:end+2], field)
		if !ok {
			return dst[:begin], false
		}
		rest = rest[end+4:]
		if bytes.HasPrefix(rest, mark[2:]) {
			return dst[:begin], false // an empty part without its own line break
		}
		next := bytes.Index(rest, mark)
		if next < 0 {
			return dst[:begin], false
		}
		if ours {
			if len(dst)-begin == limit {
				return dst[:begin], false
			}
			dst = append(dst, rest[:next:next])
		}
		rest = rest[next+len(mark):]
	}
	// Clients usually end the form with one more line break.
	return dst, len(dst) > begin && (string(rest) == "--" || string(rest) == "--\r\n")
}

// named reports whether the headers of a part, each terminated by a line break, are those of the
// field. ok is false if the headers need the standard library.
func named(headers []byte, field string) (ours, ok bool) {
	found := false
	for len(headers) > 0 {
		end := bytes.Index(headers, crlf)
		line := headers[:end]
		headers = headers[end+2:]
		if !plainHeader(line) {
			return false, false
		}
		if hasFoldedPrefix(line, encoding) {
			return false, false
		}
		if !hasFoldedPrefix(line, disposition) {
			if hasFoldedPrefix(line, disposition[:len("content-disposition")]) {
				return false, false
			}
			continue
		}
		if found {
			return false, false
		}
		found = true
		value := line[len(disposition):]
		quote := bytes.IndexByte(value, '"')
		if quote < 0 || bytes.IndexByte(value[:quote], '\\') >= 0 || bytes.IndexByte(value[:quote], '%') >= 0 {
			return false, false
		}
		ours = string(value[:quote]) == field
		// The value of a plain file name doesn't matter. Leave other parameters to the standard library.
		if tail := value[quote+1:]; len(tail) > 0 && !plainFileName(tail) {
			return false, false
		}
	}
	return ours, found
}

// plainHeader reports whether the line is a name, a colon, and printable characters.
func plainHeader(line []byte) bool {
	name := bytes.IndexByte(line, ':')
	for i, c := range line {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '-'
		if i < name && !letter || c < ' ' || c == 0x7f {
			return false
		}
	}
	return name > 0
}

var fileName = []byte(`; filename="`)

// plainFileName reports whether text is exactly one file name parameter without escapes.
func plainFileName(text []byte) bool {
	if !bytes.HasPrefix(text, fileName) {
		return false
	}
	for i, c := range text[len(fileName):] {
		if c == '"' {
			return i == len(text)-len(fileName)-1
		}
		if c < ' ' || c > '~' || c == '\\' {
			return false
		}
	}
	return false
}

// hasFoldedPrefix reports whether line begins with prefix, ignoring case. prefix must be lower
// case.
func hasFoldedPrefix(line, prefix []byte) bool {
	if len(line) < len(prefix) {
		return false
	}
	for i, p := range prefix {
		c := line[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != p {
			return false
		}
	}
	return true
}

// read parses any form with the standard library.
func read(dst [][]byte, contentType string, body []byte, field string, limit int) ([][]byte, error) {
	boundary, err := boundaryOf(contentType)
	if err != nil {
		return nil, err
	}
	begin := len(dst)
	var others []string // names of other fields, for the error
	length := 0
	for form := multipart.NewReader(bytes.NewReader(body), boundary); ; {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			// The reader also returns io.EOF for a form that is truncated between two parts.
			if !bytes.Contains(body, []byte("--"+boundary+"--")) {
				return nil, fmt.Errorf("%w: the closing boundary is missing", ErrMalformed)
			}
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: a part has an invalid header or isn't terminated by the boundary", ErrMalformed)
		}
		if name := part.FormName(); name != field {
			if length += len(name); length <= maxNames {
				others = append(others, name)
			}
			continue
		}
		if len(dst)-begin == limit {
			return nil, fmt.Errorf("%w: more than %d fields named %q, split them into several requests", ErrTooMany, limit, field)
		}
		content, err := io.ReadAll(part)
		if err != nil {
			return nil, fmt.Errorf("%w: a part is truncated or has an invalid encoding", ErrMalformed)
		}
		dst = append(dst, content)
	}
	if len(dst) == begin {
		return nil, fmt.Errorf("%w: %q (found: %q)", ErrMissing, field, others)
	}
	return dst, nil
}

// maxNames is the maximum length of all field names in an error.
const maxNames = 80

// boundaryOf returns the boundary that the content type of a form specifies.
func boundaryOf(contentType string) (string, error) {
	mediaType, params, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: invalid content type", ErrMalformed)
	case mediaType != "multipart/form-data":
		return "", fmt.Errorf("%w: unsupported content type, send multipart/form-data", ErrContentType)
	case params["boundary"] == "":
		return "", fmt.Errorf("%w: the content type has no boundary", ErrMalformed)
	}
	return params["boundary"], nil
}
