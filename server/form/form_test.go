package form

import (
	"bytes"
	"errors"
	"fmt"
	"mime/multipart"
	"net/textproto"
	"slices"
	"strings"
	"testing"
)

// part is one field of a form.
type part struct {
	header  textproto.MIMEHeader
	content string
}

func file(name, fileName, content string) part {
	return part{textproto.MIMEHeader{
		"Content-Disposition": {fmt.Sprintf(`form-data; name=%q; filename=%q`, name, fileName)},
		"Content-Type":        {"image/jpeg"},
	}, content}
}

// write returns the content type and body of a form.
func write(tb testing.TB, parts ...part) (string, []byte) {
	tb.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, p := range parts {
		pw, err := w.CreatePart(p.header)
		if err == nil {
			_, err = pw.Write([]byte(p.content))
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return w.FormDataContentType(), b.Bytes()
}

func texts(parts [][]byte) (texts []string) {
	for _, p := range parts {
		texts = append(texts, string(p))
	}
	return texts
}

func TestParts(t *testing.T) {
	binary := "\x00\r\n--\r\n\r\n\xff-"
	usualType, usual := write(t, file("data", "a.jpg", "one"), file("other", "b", "no"), file("data", "c.png", binary), file("data", "", ""))
	quotedType := strings.Replace(usualType, "boundary=", `boundary="`, 1) + `"`
	for _, test := range []struct {
		name, contentType string
		body              []byte
	}{
		{"usual form", usualType, usual},
		{"quoted boundary", quotedType, usual},
		{"upper-case media type", strings.Replace(usualType, "multipart/form-data", "Multipart/Form-Data", 1), usual},
		{"extra content type parameter", usualType + "; charset=utf-8", usual},
		{"upper-case headers", usualType, bytes.ReplaceAll(usual, []byte("Content-Disposition"), []byte("CONTENT-DISPOSITION"))},
		{"preamble and epilogue", usualType, slices.Concat([]byte("hello\r\n"), usual, []byte("bye"))},
		{"non-ASCII file name", usualType, bytes.ReplaceAll(usual, []byte("a.jpg"), []byte("ä.jpg"))},
		{"unquoted names", usualType, bytes.ReplaceAll(usual, []byte(`name="data"`), []byte(`name=data`))},
	} {
		t.Run(test.name, func(t *testing.T) {
			parts, err := Parts(nil, test.contentType, test.body, "data", 3)
			if err != nil {
				t.Fatal(err)
			}
			if want := []string{"one", binary, ""}; !slices.Equal(texts(parts), want) {
				t.Errorf("Parts = %q, want %q", parts, want)
			}
		})
	}
}

func TestParts_QuotedPrintable(t *testing.T) {
	p := file("data", "a.jpg", "a=3Db")
	p.header["Content-Transfer-Encoding"] = []string{"quoted-printable"}
	contentType, body := write(t, p)
	parts, err := Parts(nil, contentType, body, "data", 1)
	if err != nil || !slices.Equal(texts(parts), []string{"a=b"}) {
		t.Errorf("Parts = %q, %v, want a=b", parts, err)
	}
}

func TestParts_AppendsToDst(t *testing.T) {
	contentType, body := write(t, file("data", "a", "two"))
	parts, err := Parts([][]byte{[]byte("one")}, contentType, body, "data", 1)
	if err != nil || !slices.Equal(texts(parts), []string{"one", "two"}) {
		t.Errorf("Parts = %q, %v, want [one two]", parts, err)
	}
}

func TestParts_Errors(t *testing.T) {
	goodType, good := write(t, file("data", "a", "one"), file("data", "b", "two"))
	otherType, other := write(t, file("file", "a", "one"))
	boundary := strings.TrimPrefix(goodType, "multipart/form-data; boundary=")
	for _, test := range []struct {
		name, contentType string
		body              []byte
		limit             int
		kind              error
		word              string
	}{
		{"too many", goodType, good, 1, ErrTooMany, "more than 1"},
		{"missing field", otherType, other, 9, ErrMissing, `"file"`},
		{"empty body", goodType, nil, 9, ErrMalformed, ""},
		{"wrong boundary", "multipart/form-data; boundary=x", good, 9, ErrMalformed, ""},
		{"no boundary", "multipart/form-data", good, 9, ErrMalformed, "boundary"},
		{"empty boundary", "multipart/form-data; boundary=", good, 9, ErrMalformed, "content type"},
		{"invalid boundary", "multipart/form-data; boundary=\"", good, 9, ErrMalformed, ""},
		{"multipart/mixed", "multipart/mixed; boundary=" + boundary, good, 9, ErrContentType, "multipart/form-data"},
		{"truncated in last boundary", goodType, good[:len(good)-4], 9, ErrMalformed, ""},
		{"truncated between parts", goodType, good[:bytes.LastIndex(good, []byte("\r\nContent-Disposition"))+2], 9, ErrMalformed, ""},
		{"truncated in part", goodType, good[:bytes.Index(good, []byte("two"))+1], 9, ErrMalformed, ""},
		{"truncated in header", goodType, good[:80], 9, ErrMalformed, ""},
		{"endless header", goodType, slices.Concat([]byte("--"+boundary+"\r\nA: "), bytes.Repeat([]byte("x"), 1<<20)), 9, ErrMalformed, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			parts, err := Parts(nil, test.contentType, test.body, "data", test.limit)
			if !errors.Is(err, test.kind) || !strings.Contains(fmt.Sprint(err), test.word) {
				t.Errorf("Parts = %q, %v, want %v containing %q", parts, err, test.kind, test.word)
			}
		})
	}
}

func TestParts_NoAllocations(t *testing.T) {
	contentType, body := write(t, file("data", "a.jpg", "one"))
	room := make([][]byte, 0, 1)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := Parts(room, contentType, body, "data", 1); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%g allocations, want 0", n)
	}
}

// FuzzParts checks that the fast path finds the same parts as the standard library.
func FuzzParts(f *testing.F) {
	for _, parts := range [][]part{
		{file("data", "a.jpg", "one")},
		{file("data", "a.jpg", "one"), file("x", "y", "z"), file("data", "", "\r\n--")},
	} {
		contentType, body := write(f, parts...)
		f.Add(contentType, body)
		f.Add(contentType+"; x=y", body)
		f.Add(contentType, body[:len(body)-3])
		f.Add(contentType, bytes.ReplaceAll(body, []byte("\r\n"), []byte("\n")))
	}
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		const limit = 4
		parts, err := Parts(nil, contentType, body, "data", limit)
		if err == nil && (len(parts) == 0 || len(parts) > limit) {
			t.Fatalf("Parts returned %d parts without an error, want 1 to %d", len(parts), limit)
		}
		boundary, ok := simpleBoundary(contentType)
		if !ok {
			return
		}
		fast, ok := scan(nil, boundary, body, "data", limit)
		if !ok {
			return
		}
		slow, err := read(nil, contentType, body, "data", limit)
		if err != nil || !slices.Equal(texts(fast), texts(slow)) {
			t.Errorf("scan = %q, the standard library returns %q, %v", fast, slow, err)
		}
	})
}

func BenchmarkParts(b *testing.B) {
	contentType, body := write(b, file("data", "a.jpg", strings.Repeat("x", 1200)))
	room := make([][]byte, 0, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parts(room, contentType, body, "data", 1); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStandardLibrary(b *testing.B) {
	contentType, body := write(b, file("data", "a.jpg", strings.Repeat("x", 1200)))
	room := make([][]byte, 0, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := read(room, contentType, body, "data", 1); err != nil {
			b.Fatal(err)
		}
	}
}
