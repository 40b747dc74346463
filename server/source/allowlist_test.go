package source

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// allowlist returns the allowlist of the tests. It contains a path relative to the working
// directory.
func allowlist(t testing.TB) Allowlist {
	t.Helper()
	p, err := ParseAllowlist([]string{
		"/models", "relative/folder/", "file:///srv/one%20file.onnx", "gs://bucket/models/", "gs://all/",
		"s3://bucket/models?region=eu-central-1&endpoint=http://127.0.0.1:9", "s3://bucket/%25/",
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	// The directory may have another canonical name.
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	const query = "?region=eu-central-1&endpoint=http://127.0.0.1:9"
	for _, test := range []struct{ ref, want string }{
		{"/models/new.onnx", "/models/new.onnx"},
		{"/models/team/new.onnx", "/models/team/new.onnx"},
		{"/models/..data/new.onnx", "/models/..data/new.onnx"},
		{"/models/100%.onnx", "/models/100%.onnx"},
		{"/models/a?b#c.onnx", "/models/a?b#c.onnx"},
		{"/models/%2e%2e/x.onnx", "/models/%2e%2e/x.onnx"}, // a path is not decoded: the folder has this name
		{"/models", "/models"},
		{"/models/", "/models/"},
		{"file:///models/new.onnx", "/models/new.onnx"},
		{"FILE:///models/new.onnx", "/models/new.onnx"},
		{"file:/models/new.onnx", "/models/new.onnx"},
		{"file:///models/m%C3%B8%20del.onnx", "/models/mø del.onnx"},
		{"file:///mod%65ls/new.onnx", "/models/new.onnx"},
		{dir + "/relative/folder/x.onnx", dir + "/relative/folder/x.onnx"},
		{"/srv/one file.onnx", "/srv/one file.onnx"},
		{"gs://bucket/models/new.onnx", "gs://bucket/models/new.onnx"},
		{"gs://bucket/models/", "gs://bucket/models/"},
		{"gs://bucket/models/a b%25.onnx", "gs://bucket/models/a%20b%25.onnx"},
		{"gs://all/of/it.onnx", "gs://all/of/it.onnx"},
		{"gs://all/", "gs://all/"},
		{"s3://bucket/models/new.onnx", "s3://bucket/models/new.onnx" + query},
		{"s3://bucket/models/new.onnx" + query, "s3://bucket/models/new.onnx" + query},
		{"s3://bucket/%25/new.onnx", "s3://bucket/%25/new.onnx"},
		{"s3://bucket/%25/%252e%252e/new.onnx", "s3://bucket/%25/%252e%252e/new.onnx"}, // decoded once, like a key
	} {
		t.Run(test.ref, func(t *testing.T) {
			got, err := allowlist(t).Resolve(test.ref)
			if err != nil {
				t.Fatal(err)
			}
			if got != test.want {
				t.Errorf("Resolve(%q) = %s, want %s", test.ref, got, test.want)
			}
			if _, err := Open(t.Context(), got, Options{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestResolve_NotAllowed(t *testing.T) {
	for _, ref := range []string{
		"/etc/passwd", "/", "/model", "/models-evil/x.onnx", "/modelsx", "/Models/x.onnx", "//models/x.onnx", "/models//x.onnx", "/models/../etc/passwd",
		"/models/..", "/models/./x.onnx", "/models/sub/../x.onnx", "/models/..\\..\\x.onnx", "/models/x\n.onnx", "/models/\x1b[31m.onnx",
		"models/x.onnx", "../models/x.onnx", "relative/folder/x.onnx", "x.onnx", ".", "..", "~/x.onnx", "C:\\models\\x.onnx",
		"file:///etc/passwd", "file:///models/../etc/passwd", "file:///models/%2e%2e/etc/passwd", "file:///models/%2E%2E/etc/passwd", "file:///models/.%2e/x",
		"file:///models%2F..%2Fetc%2Fpasswd", "file:///models/%2Fetc/passwd", "file:////models/x.onnx", "file:///models//x.onnx", "file:///models/..%5c..%5cx", "file:///models/%0a.onnx",
		"/srv/one file.onnx.evil", "/srv/one", "/srv/",
		"gs://bucket/x.onnx", "gs://bucket/modelsx/x.onnx", "gs://bucket/models/../x.onnx", "gs://bucket/models/%2e%2e/x.onnx", "gs://bucket/models/%2e%2e%2fx.onnx",
		"gs://bucket//models/x.onnx", "gs://bucket/models//x.onnx", "gs://Bucket/models/x.onnx", "gs://bucket/Models/x.onnx", "gs://bucket.evil/models/x.onnx", "gs://evil/models/x.onnx",
		"gs://bucket/models/x.onnx?anonymous=true", "gs://all//", "gs://all/../bucket/x.onnx", "gs://bucket/", "s3://all/x.onnx",
		"s3://bucket/models/x.onnx?endpoint=http://very-secret", "s3://bucket/models/x.onnx?region=eu-central-1", "s3://bucket/%25/x.onnx?region=eu-central-1", "s3://bucket/%2525/x.onnx",
	} {
		t.Run(ref, func(t *testing.T) {
			got, err := allowlist(t).Resolve(ref)
			if err == nil {
				t.Fatalf("Resolve(%q) = %s, want ErrNotAllowed", ref, got)
			}
			checkError(t, err, ErrNotAllowed)
			if got != "" {
				t.Errorf("Resolve(%q) = %s with an error, want an empty string", ref, got)
			}
		})
	}
}

func TestResolve_EmptyAllowlist(t *testing.T) {
	for _, ref := range []string{"/models/x.onnx", "file:///x.onnx", "gs://bucket/x.onnx"} {
		_, err := Allowlist{}.Resolve(ref)
		checkError(t, err, ErrNotAllowed, ref, "allow this one with --model-source")
	}
	p, err := ParseAllowlist([]string{"/"})
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"/x.onnx", "/etc/x.onnx", "/"} {
		if _, err := p.Resolve(ref); err != nil {
			t.Error(err)
		}
	}
}

// FuzzResolve checks that every resolved reference lies in an allowed source, however it is parsed.
func FuzzResolve(f *testing.F) {
	for _, ref := range []string{"/models/new.onnx", "file:///models/%2e%2e/x", "gs://bucket/models/x.onnx?a=b", "s3://bucket/%25/../x", "gs://all/x", "file:/models/x"} {
		f.Add(ref)
	}
	p := allowlist(f)
	f.Fuzz(func(t *testing.T, ref string) {
		got, err := p.Resolve(ref)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("error is not one line: %q", err)
			}
			return
		}
		l, err := parse(got)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Clean("/" + l.path)
		if path != "/"+strings.Trim(l.path, "/") {
			t.Errorf("Resolve(%q) = %q, which can also be parsed as %q", ref, got, path)
		}
		for _, source := range p.allowed {
			if l.local() == source.local() && (l.local() || l.scheme == source.scheme) && l.bucket == source.bucket && l.query == source.query {
				root := filepath.Clean("/" + source.path)
				if path == root || strings.HasPrefix(path, strings.TrimSuffix(root, "/")+"/") {
					return
				}
			}
		}
		t.Errorf("Resolve(%q) = %q, which is not allowed", ref, got)
	})
}
