package docs

import (
	"os"
	"strings"
	"testing"
)

func TestLogo_SameAsServerPage(t *testing.T) {
	site, err := os.ReadFile("site/public/logo.svg")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../server/page/icon.svg")
	if err != nil {
		t.Fatal(err)
	}
	if string(site) != string(page) {
		t.Error("docs/site/public/logo.svg and server/page/icon.svg differ")
	}
}

// TestLockfile checks that the lockfile was written with the settings of docs/site/.npmrc: without registry URLs, for all platforms.
func TestLockfile(t *testing.T) {
	lock, err := os.ReadFile("site/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(lock), `"resolved"`) {
		t.Error("docs/site/package-lock.json contains registry URLs; run npm install in docs/site, whose .npmrc omits them")
	}
	// Platform-specific packages of VitePress's compilers.
	for _, name := range []string{
		"@esbuild/linux-x64", "@esbuild/linux-arm64", "@esbuild/darwin-x64", "@esbuild/darwin-arm64", "@esbuild/win32-x64",
		"@rollup/rollup-linux-x64-gnu", "@rollup/rollup-linux-arm64-gnu", "@rollup/rollup-darwin-x64", "@rollup/rollup-darwin-arm64", "@rollup/rollup-win32-x64-msvc",
	} {
		if !strings.Contains(string(lock), `"node_modules/`+name+`"`) {
			t.Errorf("docs/site/package-lock.json has no %s; recreate it: rm -r node_modules package-lock.json; npm install", name)
		}
	}
}
