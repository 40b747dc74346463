package pins

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
)

const digest = "@sha256:dc9ad6c05acc7a88e5b71bde60a5fe3bd4b9f0db209011711b464107438a8107"

// file returns an images.yaml with these images.
func file(golang, node, base string) []byte {
	return []byte("# kept\nrepository: https://git.example/a/b # kept as well\ngo: " + golang + "\nnode: " + node + "\nbase: " + base + "\n")
}

func TestParse(t *testing.T) {
	text, err := os.ReadFile("../../images.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if v := p.GoVersion(); !strings.HasPrefix(v, "1.") {
		t.Errorf("GoVersion() = %q", v)
	}
}

func TestParse_errors(t *testing.T) {
	good := "golang:1.26.8-bookworm" + digest
	for want, text := range map[string][]byte{
		"go: \"golang:1.26.8\" isn't":        file("golang:1.26.8", good, good),
		"node: \"node" + digest + "\" isn't": file(good, "node"+digest, good),
		"base: \"base:1@sha256:12\" isn't":   file(good, good, "base:1@sha256:12"),
		"doesn't start with a Go version":    file("golang:bookworm"+digest, good, good),
		"field gopher not found":             append(file(good, good, good), "gopher: x\n"...),
		"repository is missing":              []byte("go: " + good + "\nnode: " + good + "\nbase: " + good + "\n"),
		"image pins: EOF":                    nil,
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestRenew(t *testing.T) {
	next := "sha256:" + strings.Repeat("1", 64)
	resolved := map[string]bool{}
	got, err := Renew(t.Context(), file("golang:1.26.8"+digest, "node:22"+digest, "localhost:5000/base:x"+digest),
		func(_ context.Context, image string) (string, error) {
			resolved[image] = true
			return next, nil
		})
	if err != nil {
		t.Fatal(err)
	}
	if want := string(file("golang:1.26.8@"+next, "node:22@"+next, "localhost:5000/base:x@"+next)); string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if len(resolved) != 3 || !resolved["localhost:5000/base:x"] {
		t.Errorf("resolved %v", resolved)
	}
}

func TestRenew_errors(t *testing.T) {
	good := "golang:1.26.8" + digest
	for want, resolve := range map[string]func(context.Context, string) (string, error){
		"golang:1.26.8: no such host":       func(context.Context, string) (string, error) { return "", errors.New("no such host") },
		"isn't of the form NAME:TAG@sha256": func(context.Context, string) (string, error) { return "md5:1", nil },
	} {
		if got, err := Renew(t.Context(), file(good, good, good), resolve); err == nil || got != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Renew() = %q, error %v, want %q", got, err, want)
		}
	}
}
