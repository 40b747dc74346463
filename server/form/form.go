// Package form takes the files out of a multipart/form-data body (RFC 7578) that
// lies in memory, without copying them.
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

// The kinds of failure, for errors.Is. The errors of Parts wrap one of them.
var (
	// ErrContentType means that the content type is not that of a form.
	ErrContentType = errors.New("not a form")
	// ErrMalformed means that the form is not well-formed or breaks off.
	ErrMalformed = errors.New("broken form")
	// ErrMissing means that the form has no such field.
	ErrMissing = errors.New("the form lacks a field")
	// ErrTooMany means that the field is there more often than is allowed.
	ErrTooMany = errors.New("too many fields")
)

// Parts appends to dst the contents of the form's fields of the given name, in
// their order, and returns it. They point into body where they can. More than limit
// of them are an error, and so is none. The whole form is looked at: one that
// breaks off later was not received as it was meant.
func Parts(dst [][]byte, contentType string, body []byte, field string, limit int) ([][]byte, error) {
	boundary, ok := simpleBoundary(contentType)
	if ok {
		if parts, ok := scan(dst, boundary, body, field, limit); ok {
			return parts, nil
		}
	}
	// Whatever is wrong or merely unusual, the standard library says.
	return read(dst, contentType, body, field, limit)
}

// IsMultipart tells whether the content type is multipart of any kind.
func IsMultipart(contentType string) bool {
	return len(contentType) >= 10 && strings.EqualFold(contentType[:10], "multipart/")
}

// simpleBoundary returns the boundary of a content type as browsers, curl and HTTP
// libraries write it.
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

// scan reads a form written in the usual way in one pass over its bytes. It gives up
// on anything else, which then is read anew.
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
			return dst[:begin], false // an empty part, without a line of its own
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
	// What is behind the last boundary is no matter, but one more line break there is usual.
	return dst, len(dst) > begin && (string(rest) == "--" || string(rest) == "--\r\n")
}

// named tells whether the headers of a part, each with its line break, are those of
// the field.
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
		// A file name may hold anything; a second name is for the standard library.
		if tail := value[quote+1:]; len(tail) > 0 && !plainFileName(tail) {
			return false, false
		}
	}
	return ours, found
}

// plainHeader tells whether the line is a name, a colon, and printable characters.
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

// plainFileName tells whether text is one file name without any escape.
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

// hasFoldedPrefix tells whether line begins with prefix, which is in lower case.
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

// read reads any form, as the standard library does.
func read(dst [][]byte, contentType string, body []byte, field string, limit int) ([][]byte, error) {
	mediaType, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return nil, fmt.Errorf("%w: the content type %.80q: %w", ErrMalformed, contentType, err)
	}
	if mediaType != "multipart/form-data" {
		return nil, fmt.Errorf("%w: %.80s is not read; send multipart/form-data", ErrContentType, mediaType)
	}
	boundary := params["boundary"]
	if boundary == "" {
		return nil, fmt.Errorf("%w: the content type names no boundary", ErrMalformed)
	}
	begin := len(dst)
	var others []string
	for form := multipart.NewReader(bytes.NewReader(body), boundary); ; {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			// The reader says the same of a form that breaks off between two parts.
			if !bytes.Contains(body, []byte("--"+boundary+"--")) {
				return nil, fmt.Errorf("%w: it ends without its closing boundary", ErrMalformed)
			}
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if name := part.FormName(); name != field {
			if len(others) < 10 {
				others = append(others, name)
			}
			continue
		}
		if len(dst)-begin == limit {
			return nil, fmt.Errorf("%w: more than %d named %q; send them in several requests", ErrTooMany, limit, field)
		}
		content, err := io.ReadAll(part)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		dst = append(dst, content)
	}
	if len(dst) == begin {
		return nil, fmt.Errorf("%w: there is none named %q (its fields: %.200q)", ErrMissing, field, others)
	}
	return dst, nil
}
