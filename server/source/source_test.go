package source

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"
)

// open opens a source and closes it when the test ends.
func open(t *testing.T, ref string, options ...Options) *Source {
	t.Helper()
	s, err := Open(t.Context(), ref, append(options, Options{})[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// write writes a file with the modification time epoch plus n minutes.
func write(t *testing.T, path, content string, n int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	date(t, path, epoch.Add(time.Duration(n)*time.Minute))
}

func date(t *testing.T, path string, at time.Time) {
	t.Helper()
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

// current returns the current model of the source.
func current(t *testing.T, s *Source) Object {
	t.Helper()
	o, err := s.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// content reads the current model of the source.
func content(t *testing.T, s *Source) string {
	t.Helper()
	data, err := s.Read(t.Context(), current(t, s), "")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// refs returns the references of the source's models.
func refs(t *testing.T, s *Source) []string {
	t.Helper()
	objects, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list := []string{}
	for _, o := range objects {
		list = append(list, o.Ref)
	}
	return list
}

// checkError checks that err is of the given kind and no other, contains the words, is one line,
// and contains no secret.
func checkError(t *testing.T, err, kind error, words ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error %v, want one of kind %q", err, kind)
	}
	for _, other := range []error{ErrReference, ErrNotAllowed, ErrNotFound, ErrUnreachable, ErrChanged, ErrDigest, ErrTooLarge} {
		if !errors.Is(kind, other) && errors.Is(err, other) {
			t.Errorf("error %v is also of kind %q", err, other)
		}
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error %q doesn't contain %q", err, word)
		}
	}
	if strings.ContainsAny(err.Error(), "\n\r\x1b") || len(err.Error()) > 600 {
		t.Errorf("error is not one short line: %q", err)
	}
	for _, secret := range []string{"very-secret", "AKIATEST", "use_path_style", "endpoint="} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("error %q contains the secret %s", err, secret)
		}
	}
}

// bothClouds runs a test against the stub with the protocols of GCS and S3.
func bothClouds(t *testing.T, test func(t *testing.T, c *cloud, scheme string)) {
	for _, scheme := range []string{"gs", "s3"} {
		t.Run(scheme, func(t *testing.T) { test(t, newCloud(t), scheme) })
	}
}

func TestSource_File(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for i, name := range []string{"model.onnx", "with space.onnx", "mødel-模型.onnx", "100%.onnx", "%2e%2e.onnx", "a?b#c.onnx", "a\\b.onnx", "weird__0x25__.onnx", "no-suffix", "q=1&x.onnx", ".hidden"} {
		path := filepath.Join(dir, name)
		write(t, path, name, i)
		escaped := (&url.URL{Scheme: "file", Path: path}).String()
		for _, test := range []struct{ ref, want string }{
			{path, path},
			{name, name},
			{"./" + name, "./" + name},
			{escaped, escaped},
			{strings.Replace(escaped, "file://", "FILE://", 1), escaped},
			{strings.Replace(escaped, "file://", "file:", 1), escaped},
		} {
			t.Run(test.ref, func(t *testing.T) {
				s := open(t, test.ref)
				o := current(t, s)
				if o.Ref != test.want || o.Size != int64(len(name)) || !o.ModTime.Equal(epoch.Add(time.Duration(i)*time.Minute)) || o.Version == "" {
					t.Errorf("Current = %+v", o)
				}
				if got := content(t, s); got != name {
					t.Errorf("content = %q", got)
				}
				if got := refs(t, s); !slices.Equal(got, []string{test.want}) {
					t.Errorf("List = %q", got)
				}
				for _, ref := range []string{test.ref, path, name, escaped} {
					if found, err := s.Find(t.Context(), ref); err != nil || found != o {
						t.Errorf("Find(%s) = %+v, %v", ref, found, err)
					}
				}
			})
		}
	}
}

func TestSource_Folder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a folder %")
	write(t, dir+"/old.onnx", "old", 1)
	write(t, dir+"/new.onnx", "new", 3)
	write(t, dir+"/as new.onnx", "as new", 3)
	write(t, dir+"/notes.txt", "no model", 9)
	write(t, dir+"/.upload.onnx", "not ready", 9)
	write(t, dir+"/sub/deeper.onnx", "not right in it", 9)
	if err := os.Mkdir(dir+"/folder.onnx", 0o755); err != nil {
		t.Fatal(err)
	}
	mkfifo(t, dir+"/fifo.onnx")
	if err := os.Symlink("nowhere", dir+"/dangling.onnx"); err != nil {
		t.Fatal(err)
	}
	names := []string{"new.onnx", "as new.onnx", "old.onnx"}
	for _, ref := range []string{dir, dir + "/", "file://" + (&url.URL{Path: dir}).EscapedPath(), "file://" + (&url.URL{Path: dir}).EscapedPath() + "/"} {
		t.Run(ref, func(t *testing.T) {
			s := open(t, ref)
			var want []string
			for _, name := range names {
				if strings.HasPrefix(ref, "file:") {
					want = append(want, (&url.URL{Scheme: "file", Path: dir + "/" + name}).String())
				} else {
					want = append(want, filepath.Join(dir, name))
				}
			}
			if got := refs(t, s); !slices.Equal(got, want) {
				t.Errorf("List = %q, want %q", got, want)
			}
			if o := current(t, s); o.Ref != want[0] {
				t.Errorf("Current = %s, want %s", o.Ref, want[0])
			}
			if got := content(t, s); got != "new" {
				t.Errorf("content = %q", got)
			}
			for i, ref := range want {
				found, err := s.Find(t.Context(), ref)
				if err != nil {
					t.Fatal(err)
				}
				if data, err := s.Read(t.Context(), found, ""); err != nil || string(data)+".onnx" != names[i] {
					t.Errorf("content of %s = %q, %v", ref, data, err)
				}
			}
			for _, ref := range []string{dir, dir + "/sub/deeper.onnx", dir + "/notes.txt", dir + "/.upload.onnx", dir + "/fifo.onnx", dir + "/folder.onnx", "/etc/passwd", "new.onnx", "file:///new.onnx", "gs://bucket/new.onnx", "s3://" + dir[1:] + "/new.onnx"} {
				_, err := s.Find(t.Context(), ref)
				if strings.HasPrefix(ref, "s3://") { // not a valid reference
					checkError(t, err, ErrReference)
					continue
				}
				checkError(t, err, ErrNotFound, "use one of the listed models")
			}
		})
	}
}

func TestSource_EmptyFolder(t *testing.T) {
	s := open(t, t.TempDir())
	if got := refs(t, s); len(got) > 0 {
		t.Errorf("List = %q", got)
	}
	_, err := s.Current(t.Context())
	checkError(t, err, ErrNotFound, s.String(), "no model in the folder; publish one with a name that ends in .onnx")
}

func TestSource_NotFound(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/model.onnx", "model", 1)
	for _, ref := range []string{dir + "/none.onnx", dir + "/none/", dir + "/none/model.onnx", dir + "/model.onnx/", dir + "/model.onnx/x", "file://" + dir + "/none.onnx"} {
		s := open(t, ref)
		_, err := s.Current(t.Context())
		checkError(t, err, ErrNotFound, ref, "no such file or directory; check the name, or publish a model there")
		if _, err = s.List(t.Context()); !errors.Is(err, ErrNotFound) {
			t.Errorf("List = %v, want ErrNotFound", err)
		}
		if _, err = s.Find(t.Context(), ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("Find = %v, want ErrNotFound", err)
		}
	}
}

func TestRead_PermissionDenied(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root can read every file")
	}
	path := filepath.Join(t.TempDir(), "model.onnx")
	write(t, path, "model", 1)
	s := open(t, path)
	o := current(t, s)
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	_, err := s.Read(t.Context(), o, "")
	checkError(t, err, ErrUnreachable, "permission denied")
}

func TestList_TooManyFiles(t *testing.T) {
	dir := t.TempDir()
	for i := range maxEntries + 1 {
		if err := os.Symlink("nowhere", fmt.Sprintf("%s/%d", dir, i)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := open(t, dir).List(t.Context())
	checkError(t, err, ErrReference, "more than 10000 entries")
	if err := os.Remove(dir + "/0"); err != nil {
		t.Fatal(err)
	}
	if got := refs(t, open(t, dir)); len(got) > 0 {
		t.Errorf("List = %q", got)
	}
}

func TestList_TooManyObjects(t *testing.T) {
	s, b := memory(t, "models/")
	for i := range maxEntries + 1 {
		put(t, b, fmt.Sprintf("models/%d", i), "")
	}
	_, err := s.List(t.Context())
	checkError(t, err, ErrReference, "more than 10000 entries")
	if err := b.Delete(t.Context(), "models/0"); err != nil {
		t.Fatal(err)
	}
	if got := refs(t, s); len(got) > 0 {
		t.Errorf("List = %q", got)
	}
}

func TestList_Limit(t *testing.T) {
	dir := t.TempDir()
	for i := range maxListed + 5 {
		write(t, fmt.Sprintf("%s/%d.onnx", dir, i), "model", i)
	}
	s := open(t, dir)
	list := refs(t, s)
	if len(list) != maxListed || list[0] != fmt.Sprintf("%s/%d.onnx", dir, maxListed+4) {
		t.Errorf("List returned %d models, %s first", len(list), list[0])
	}
	if _, err := s.Find(t.Context(), dir+"/0.onnx"); err != nil {
		t.Error(err)
	}
}

func TestSource_SwappedLink(t *testing.T) {
	// Like a ConfigMap mounted by Kubernetes: model.onnx → ..data/model.onnx, ..data → ..1.
	dir := t.TempDir()
	write(t, dir+"/..1/model.onnx", "first", 1)
	write(t, dir+"/..2/model.onnx", "later", 2)
	point := func(to string) {
		t.Helper()
		if err := os.Symlink(to, dir+"/..tmp"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(dir+"/..tmp", dir+"/..data"); err != nil {
			t.Fatal(err)
		}
	}
	point("..1")
	if err := os.Symlink("..data/model.onnx", dir+"/model.onnx"); err != nil {
		t.Fatal(err)
	}
	folder, file, link := open(t, dir), open(t, dir+"/model.onnx"), open(t, dir+"/..data")
	var before []Object
	for _, s := range []*Source{folder, file, link} {
		o := current(t, s)
		if got := content(t, s); got != "first" || o.Size != 5 {
			t.Errorf("%s: content = %q, object %+v", s, got, o)
		}
		before = append(before, o)
	}
	point("..2")
	for i, s := range []*Source{folder, file, link} {
		if _, err := s.Read(t.Context(), before[i], ""); !errors.Is(err, ErrChanged) {
			t.Errorf("%s: Read of the old version = %v, want ErrChanged", s, err)
		}
		if o := current(t, s); o.same(before[i]) || o.Ref != before[i].Ref {
			t.Errorf("%s: Current = %+v, want a new version", s, o)
		}
		if got := content(t, s); got != "later" {
			t.Errorf("%s: content = %q, want later", s, got)
		}
	}
	// The link to a folder becomes a link to a file.
	point("..2/model.onnx")
	if got := content(t, link); got != "later" {
		t.Errorf("content = %q", got)
	}
}

func TestRead_FileChanged(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(t *testing.T, path string)
		kind   error
	}{
		{"rewritten", func(t *testing.T, path string) { write(t, path, "other", 2) }, ErrChanged},
		{"grown", func(t *testing.T, path string) { write(t, path, "model and more", 1) }, ErrChanged},
		{"truncated", func(t *testing.T, path string) { write(t, path, "mod", 1) }, ErrChanged},
		{"removed", func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}, ErrNotFound},
		{"replaced by folder", func(t *testing.T, path string) {
			if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o755)); err != nil {
				t.Fatal(err)
			}
		}, ErrReference},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "model.onnx")
			for _, ref := range []string{path, filepath.Dir(path)} {
				write(t, path, "model", 1)
				s := open(t, ref)
				o := current(t, s)
				test.change(t, path)
				_, err := s.Read(t.Context(), o, "")
				checkError(t, err, test.kind, path)
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestRead_FreshFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.onnx")
	write(t, path, "half", 1)
	synctest.Test(t, func(t *testing.T) {
		date(t, path, time.Now())
		s := open(t, path)
		half := current(t, s)
		go func() {
			time.Sleep(freshness / 2)
			write(t, path, "half and half", 1)
			date(t, path, time.Now())
		}()
		_, err := s.Read(t.Context(), half, "")
		checkError(t, err, ErrChanged, path, "replaced or still being written; try again")
		start := time.Now()
		if got := content(t, s); got != "half and half" {
			t.Errorf("content = %q", got)
		}
		if waited := time.Since(start); waited <= 0 || waited > freshness {
			t.Errorf("Read waited for %s, want at most %s", waited, freshness)
		}
		// The file is old now, and read immediately.
		start = time.Now()
		content(t, s)
		if time.Since(start) > 0 {
			t.Error("Read waited for an old file")
		}
		date(t, path, time.Now())
		ctx, cancel := context.WithTimeout(t.Context(), freshness/2)
		defer cancel()
		if _, err := s.Read(ctx, current(t, s), ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Read past the deadline = %v", err)
		}
	})
}

func TestRead_Digest(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/model.onnx", "model", 1)
	s := open(t, dir)
	o := current(t, s)
	sum := sha256.Sum256([]byte("model"))
	digest := hex.EncodeToString(sum[:])
	for _, good := range []string{"", digest, "sha256:" + digest, strings.ToUpper("sha256:" + digest)} {
		if data, err := s.Read(t.Context(), o, good); err != nil || string(data) != "model" {
			t.Errorf("Read with digest %q = %q, %v", good, data, err)
		}
	}
	other := strings.Repeat("0", 64)
	data, err := s.Read(t.Context(), o, other)
	checkError(t, err, ErrDigest, o.Ref, "sha256:"+digest, "sha256:"+other)
	if mismatch, ok := errors.AsType[*DigestError](err); !ok || *mismatch != (DigestError{o.Ref, "sha256:" + other, "sha256:" + digest}) {
		t.Errorf("error %#v, want a DigestError", err)
	}
	if data != nil {
		t.Errorf("Read returned %q with an error", data)
	}
	for _, bad := range []string{"sha256:", "sha256", "md5:" + digest[:32], digest[:63], digest + "0", strings.Repeat("x", 64), "sha256:sha256:" + digest} {
		_, err := s.Read(t.Context(), o, bad)
		checkError(t, err, ErrReference, "expected sha256: and 64 hexadecimal digits")
	}
}

func TestRead_UnlistedObject(t *testing.T) {
	s := open(t, t.TempDir())
	_, err := s.Read(t.Context(), Object{Ref: "/etc/passwd", Size: 1}, "")
	checkError(t, err, ErrReference, "use one that it listed")
}

func TestRead_TooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.onnx")
	write(t, path, "", 0)
	if err := os.Truncate(path, DefaultLimit+1); err != nil { // takes no space
		t.Fatal(err)
	}
	s := open(t, path)
	_, err := s.Read(t.Context(), current(t, s), "")
	checkError(t, err, ErrTooLarge, path, "536870913 bytes, but the limit is 536870912")

	write(t, path, "12345", 0)
	s = open(t, path, Options{Limit: 5})
	if got := content(t, s); got != "12345" {
		t.Errorf("content = %q", got)
	}
	s = open(t, path, Options{Limit: 4})
	_, err = s.Read(t.Context(), current(t, s), "")
	checkError(t, err, ErrTooLarge)

	bothClouds(t, func(t *testing.T, c *cloud, scheme string) {
		c.put("model.onnx", "12345")
		s := open(t, c.ref(scheme, "model.onnx"), Options{Limit: 4})
		o := current(t, s)
		before := len(c.requests)
		_, err := s.Read(t.Context(), o, "")
		checkError(t, err, ErrTooLarge, scheme+"://models/model.onnx", "5 bytes, but the limit is 4")
		if len(c.requests) > before {
			t.Errorf("requests %s, want none", c.requests[before:])
		}
	})
}

func TestRead_EmptyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.onnx")
	write(t, path, "", 0)
	if got := content(t, open(t, path)); got != "" {
		t.Errorf("content = %q", got)
	}
}

func TestOpen_InvalidReference(t *testing.T) {
	for _, test := range []struct{ ref, want string }{
		{"", "is empty: expected a path, file:///path, gs://bucket/key or s3://bucket/key, with a trailing / for a folder"},
		{"a\x00b", "contains a zero byte"},
		{"http://host/model.onnx", "http://host/model.onnx: unsupported scheme"},
		{"https://host/model.onnx?token=very-secret", "https://host/model.onnx: unsupported scheme"},
		{"azblob://container/model.onnx", "unsupported scheme"},
		{"mem://x", "unsupported scheme"},
		{"://x", "unsupported scheme"},
		{"file://models/new.onnx", `unexpected host "models": expected file:///path for a local file`},
		{"file://localhost/new.onnx", `unexpected host "localhost"`},
		{"file://", "missing path"},
		{"file:new.onnx", "invalid URL"},
		{"file:///a?b", "contains a question mark: write %3F if it is part of the name"},
		{"file:///a?", "contains a question mark"},
		{"file:///a#b", "contains a #: write %23 if it is part of the name"},
		{"file:///100%", "invalid URL: write %25 for a percent sign"},
		{"file:///a%00b", "contains a zero byte"},
		{"gs://", "missing bucket"},
		{"gs:///key", "missing bucket"},
		{"gs://bucket", "gs://bucket: missing key: add the key of an object, or a / for the whole bucket"},
		{"gs://bucket:80/key", "missing bucket"},
		{"gs://bucket/key#1", "contains a #"},
		{"gs://bucket/key#", "contains a #"},
		{"s3://AKIATEST:very-secret@bucket/key", "s3://…@bucket/key: credentials are not allowed in a reference: set them in the environment"},
		{"s3://AKIATEST:very/secret@bucket/key", "s3://…@bucket/key: invalid URL"},
		{"s3://bucket/%zz?x=very-secret", "s3://bucket/%zz: invalid URL"},
		{"s3://buc ket/key", "invalid URL"},
	} {
		t.Run(test.ref, func(t *testing.T) {
			_, err := Open(t.Context(), test.ref, Options{})
			checkError(t, err, ErrReference, test.want)
			_, err = ParseAllowlist([]string{test.ref})
			checkError(t, err, ErrReference, test.want)
			_, err = Allowlist{}.Resolve(test.ref)
			checkError(t, err, ErrReference, test.want)
			_, err = open(t, t.TempDir()).Find(t.Context(), test.ref)
			checkError(t, err, ErrReference, test.want)
		})
	}
}

func TestSource_Bucket(t *testing.T) {
	bothClouds(t, func(t *testing.T, c *cloud, scheme string) {
		c.put("models/old.onnx", "old")
		c.put("models/a b%mø.onnx", "odd")
		c.put("models/new.onnx", "the newest")
		c.put("models/notes.txt", "no model")
		c.put("models/.hidden.onnx", "not ready")
		c.put("models/", "")
		c.put("models/sub/deeper.onnx", "not right in it")
		c.put("other/other.onnx", "elsewhere")
		s := open(t, c.ref(scheme, "models/"))
		want := []string{scheme + "://models/models/new.onnx", scheme + "://models/models/a%20b%25m%C3%B8.onnx", scheme + "://models/models/old.onnx"}
		if got := refs(t, s); !slices.Equal(got, want) {
			t.Errorf("List = %q, want %q", got, want)
		}
		if s.String() != scheme+"://models/models/" {
			t.Errorf("String = %s", s)
		}
		o := current(t, s)
		if o.Ref != want[0] || o.Size != 10 || !o.ModTime.Equal(epoch.Add(3*time.Minute)) {
			t.Errorf("Current = %+v", o)
		}
		if got := content(t, s); got != "the newest" {
			t.Errorf("content = %q", got)
		}
		odd, err := s.Find(t.Context(), want[1])
		if err != nil {
			t.Fatal(err)
		}
		if data, err := s.Read(t.Context(), odd, ""); err != nil || string(data) != "odd" {
			t.Errorf("Read = %q, %v", data, err)
		}
		for _, ref := range []string{c.ref(scheme, "models/old.onnx"), scheme + "://models/models/%6fld.onnx"} {
			if _, err := s.Find(t.Context(), ref); err != nil {
				t.Error(err)
			}
		}
		for _, ref := range []string{scheme + "://models/models/old.onnx?endpoint=http://elsewhere", scheme + "://others/models/old.onnx", scheme + "://models/models/../models/old.onnx", scheme + "://models/models/OLD.onnx", scheme + "://models/other/other.onnx", "models/old.onnx"} {
			_, err := s.Find(t.Context(), ref)
			checkError(t, err, ErrNotFound)
		}
		// A single object, and the whole bucket.
		one := open(t, c.ref(scheme, "models/a b%25mø.onnx"))
		if got := current(t, one); got != odd {
			t.Errorf("single object = %+v, want %+v as in the folder", got, odd)
		}
		if got := content(t, one); got != "odd" {
			t.Errorf("content = %q", got)
		}
		c.put("root.onnx", "root")
		root := open(t, c.ref(scheme, ""))
		if got := refs(t, root); !slices.Equal(got, []string{scheme + "://models/root.onnx"}) {
			t.Errorf("List = %q", got)
		}
		if got := content(t, root); got != "root" {
			t.Errorf("content = %q", got)
		}
	})
}

func TestObjectVersion_Bucket(t *testing.T) {
	bothClouds(t, func(t *testing.T, c *cloud, scheme string) {
		c.put("model.onnx", "same")
		s := open(t, c.ref(scheme, "model.onnx"))
		first := current(t, s)
		if again := current(t, s); again != first {
			t.Errorf("Current = %+v, want %+v again", again, first)
		}
		c.put("model.onnx", "same")
		if second := current(t, s); second.same(first) {
			t.Errorf("Current = %+v, want a new version", second)
		}
	})
}

func TestRead_ObjectChanged(t *testing.T) {
	bothClouds(t, func(t *testing.T, c *cloud, scheme string) {
		for _, ref := range []string{c.ref(scheme, "model.onnx"), c.ref(scheme, "")} {
			c.put("model.onnx", "one")
			s := open(t, ref)
			o := current(t, s)
			c.put("model.onnx", "two")
			_, err := s.Read(t.Context(), o, "")
			checkError(t, err, ErrChanged, scheme+"://models/model.onnx", "try again")
			if got := content(t, s); got != "two" {
				t.Errorf("content = %q", got)
			}
			o = current(t, s)
			c.remove("model.onnx")
			_, err = s.Read(t.Context(), o, "")
			checkError(t, err, ErrNotFound, "no such object or bucket")
		}
	})
}

func TestRead_ObjectReplacedMeanwhile(t *testing.T) {
	bothClouds(t, func(t *testing.T, c *cloud, scheme string) {
		c.put("model.onnx", strings.Repeat("one", 1<<20))
		s := open(t, c.ref(scheme, "model.onnx"))
		o := current(t, s)
		c.sending = func(key string) { c.put(key, "two") }
		data, err := s.Read(t.Context(), o, "")
		if err != nil || string(data) != strings.Repeat("one", 1<<20) {
			t.Errorf("Read returned %d bytes, %v, want the old version", len(data), err)
		}
	})
}

func TestRead_StoreIgnoresConditions(t *testing.T) {
	c := newCloud(t)
	c.careless = true
	c.put("model.onnx", "one")
	s := open(t, c.ref("s3", "model.onnx"))
	if got := content(t, s); got != "one" {
		t.Errorf("content = %q", got)
	}
	o := current(t, s)
	c.put("model.onnx", "two")
	_, err := s.Read(t.Context(), o, "")
	checkError(t, err, ErrChanged)
	o = current(t, s)
	c.sending = func(key string) { c.put(key, "six") }
	_, err = s.Read(t.Context(), o, "")
	checkError(t, err, ErrChanged)
}

func TestRead_CompressedObject(t *testing.T) {
	c := newCloud(t)
	c.put("model.onnx", "model")
	s := open(t, c.ref("gs", "model.onnx"))
	o := current(t, s)
	c.intercept = func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Encoding", "gzip")
		compressed := gzip.NewWriter(w)
		_, _ = compressed.Write([]byte("model"))
		_ = compressed.Close()
		return true
	}
	_, err := s.Read(t.Context(), o, "")
	checkError(t, err, ErrReference, "gs://models/model.onnx", "stored compressed: publish it without a Content-Encoding")
}

func TestRead_TruncatedResponse(t *testing.T) {
	bothClouds(t, func(t *testing.T, c *cloud, scheme string) {
		c.put("model.onnx", strings.Repeat("x", 1<<20))
		s := open(t, c.ref(scheme, "model.onnx"))
		o := current(t, s)
		c.cutOff = true
		_, err := s.Read(t.Context(), o, "")
		checkError(t, err, ErrUnreachable, scheme+"://models/model.onnx")
		if strings.Contains(err.Error(), "code=") {
			t.Error(err)
		}
	})
}

func TestSource_StoreErrors(t *testing.T) {
	bothClouds(t, func(t *testing.T, c *cloud, scheme string) {
		for _, test := range []struct {
			status int
			kind   error
			words  string
		}{
			{http.StatusForbidden, ErrUnreachable, "access denied by the store; grant these credentials permission to list and read it"},
			{http.StatusUnauthorized, ErrUnreachable, "access denied by the store"},
			{http.StatusNotFound, ErrNotFound, "no such object or bucket; check the name, or publish a model there"},
			{http.StatusBadRequest, ErrUnreachable, "the store failed; check the credentials, and that the store is reachable from here"},
		} {
			t.Run(http.StatusText(test.status), func(t *testing.T) {
				c.put("models/model.onnx", "model")
				for _, ref := range []string{c.ref(scheme, "models/model.onnx"), c.ref(scheme, "models/")} {
					c.fail = nil
					s := open(t, ref)
					o := current(t, s)
					c.fail = func(*http.Request) int { return test.status }
					_, err := s.Current(t.Context())
					checkError(t, err, test.kind, scheme+"://models/models/", test.words)
					_, err = s.Read(t.Context(), o, "")
					checkError(t, err, test.kind, scheme+"://models/models/model.onnx", test.words)
				}
			})
		}
		c.fail = nil
		_, err := open(t, strings.Replace(c.ref(scheme, "models/"), "//models", "//none", 1)).Current(t.Context())
		checkError(t, err, ErrNotFound, scheme+"://none/models/")
	})
}

func TestSource_Retries(t *testing.T) {
	bothClouds(t, func(t *testing.T, c *cloud, scheme string) {
		c.put("model.onnx", "model")
		failures := 1
		c.fail = func(*http.Request) int {
			if failures--; failures >= 0 {
				return http.StatusInternalServerError
			}
			return 0
		}
		s := open(t, c.ref(scheme, "model.onnx"))
		if got := content(t, s); got != "model" {
			t.Errorf("content = %q", got)
		}
		failures, c.requests = 1000, nil
		_, err := s.Current(t.Context())
		checkError(t, err, ErrUnreachable, scheme+"://models/model.onnx", "the store failed")
		if len(c.requests) != 3 {
			t.Errorf("%d requests, want 3", len(c.requests))
		}
	})
}

func TestSource_Timeout(t *testing.T) {
	bothClouds(t, func(t *testing.T, c *cloud, scheme string) {
		c.intercept = func(_ http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done() // until the client gives up
			return true
		}
		s := open(t, c.ref(scheme, "model.onnx"), Options{Timeout: 50 * time.Millisecond})
		_, err := s.Current(t.Context())
		checkError(t, err, ErrUnreachable, "the store did not respond in time; check that it is reachable from here")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want context.DeadlineExceeded", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Current(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnreachable) {
			t.Errorf("Current with a canceled context = %v", err)
		}
	})
}

func TestSource_ConnectionRefused(t *testing.T) {
	bothClouds(t, func(t *testing.T, c *cloud, scheme string) {
		ref := strings.ReplaceAll(c.ref(scheme, "model.onnx"), c.url, "http://127.0.0.1:1")
		t.Setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:1")
		_, err := open(t, ref).Current(t.Context())
		checkError(t, err, ErrUnreachable, scheme+"://models/model.onnx", "connection refused")
	})
}

func TestSource_NoCredentials(t *testing.T) {
	bothClouds(t, func(t *testing.T, c *cloud, scheme string) {
		file := filepath.Join(t.TempDir(), "credentials.json")
		t.Setenv("STORAGE_EMULATOR_HOST", "")
		t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
		t.Setenv("AWS_ACCESS_KEY_ID", "")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "")
		s := open(t, c.ref(scheme, "model.onnx"))
		_, err := s.Current(t.Context())
		checkError(t, err, ErrUnreachable, scheme+"://models/model.onnx", "no credentials: set ")
		if len(c.requests) > 0 {
			t.Errorf("requests %s, want none", c.requests)
		}
		// With credentials the bucket is opened, which sends no request.
		write(t, file, `{"type":"authorized_user","client_id":"x","client_secret":"very-secret","refresh_token":"x"}`, 0)
		if _, err := s.store.(*bucket).get(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestSource_UnknownParameters(t *testing.T) {
	bothClouds(t, func(t *testing.T, _ *cloud, scheme string) {
		_, err := open(t, scheme+"://models/model.onnx?key=very-secret").Current(t.Context())
		checkError(t, err, ErrUnreachable, scheme+"://models/model.onnx", "check the query parameters", `"key"`)
	})
	_, err := open(t, "s3://models/model.onnx?role=very-secret").Current(t.Context())
	checkError(t, err, ErrUnreachable, "invalid value for role")
}

// memory returns a source in an in-memory bucket, whose store supports only ETags.
func memory(t *testing.T, key string) (*Source, *blob.Bucket) {
	t.Helper()
	b := memblob.OpenBucket(nil)
	at := location{scheme: "mem", bucket: "bucket", path: key}
	s := &Source{at, &bucket{
		at: at, options: Options{Limit: DefaultLimit, Timeout: DefaultTimeout},
		open: func(context.Context, *url.URL) (*blob.Bucket, error) { return b, nil },
	}}
	t.Cleanup(func() { _ = s.Close() })
	return s, b
}

func put(t *testing.T, b *blob.Bucket, key, content string) {
	t.Helper()
	if err := b.WriteAll(t.Context(), key, []byte(content), nil); err != nil {
		t.Fatal(err)
	}
}

func TestRead_ETagsOnly(t *testing.T) {
	s, b := memory(t, "models/")
	put(t, b, "models/a.onnx", "one")
	put(t, b, "models/sub/b.onnx", "not right in it")
	o := current(t, s)
	if !strings.HasPrefix(o.Version, etagPrefix) || o.Ref != "mem://bucket/models/a.onnx" {
		t.Errorf("Current = %+v", o)
	}
	if got := content(t, s); got != "one" {
		t.Errorf("content = %q", got)
	}
	put(t, b, "models/a.onnx", "two")
	_, err := s.Read(t.Context(), o, "")
	checkError(t, err, ErrChanged, o.Ref)
	o = current(t, s)
	if err := b.Delete(t.Context(), "models/a.onnx"); err != nil {
		t.Fatal(err)
	}
	_, err = s.Read(t.Context(), o, "")
	checkError(t, err, ErrNotFound, o.Ref)
	_, err = s.Current(t.Context())
	checkError(t, err, ErrNotFound, "no model in the folder")
}

func TestSource_OpensBucketLazily(t *testing.T) {
	s, b := memory(t, "a.onnx")
	put(t, b, "a.onnx", "one")
	opened := 0
	store := s.store.(*bucket)
	open := store.open
	store.open = func(ctx context.Context, u *url.URL) (*blob.Bucket, error) {
		if opened++; opened == 1 {
			return nil, errors.New("no credentials\nat all")
		}
		return open(ctx, u)
	}
	_, err := s.Current(t.Context())
	checkError(t, err, ErrUnreachable, "mem://bucket/a.onnx", "no credentials at all")
	content(t, s)
	content(t, s)
	if opened != 2 {
		t.Errorf("opened %d times, want 2", opened)
	}
}

func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "model.onnx")
	if err := os.WriteFile(path, []byte("model"), 0o644); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := Open(b.Context(), path, Options{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Current(b.Context()); err != nil {
			b.Fatal(err)
		}
		_ = s.Close()
	}
}

func BenchmarkRead(b *testing.B) {
	path := filepath.Join(b.TempDir(), "model.onnx")
	if err := os.WriteFile(path, make([]byte, 2<<20), 0o644); err != nil {
		b.Fatal(err)
	}
	if err := os.Chtimes(path, epoch, epoch); err != nil {
		b.Fatal(err)
	}
	s, err := Open(b.Context(), path, Options{})
	if err != nil {
		b.Fatal(err)
	}
	o, err := s.Current(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(o.Size)
	for b.Loop() {
		if _, err := s.Read(b.Context(), o, ""); err != nil {
			b.Fatal(err)
		}
	}
}
