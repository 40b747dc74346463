package stage_test

import (
	"bytes"
	"debug/buildinfo"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"dagger/fakeart/internal/stage"
	"dagger/fakeart/internal/stage/stagetest"
)

var source = stage.Source{Revision: strings.Repeat("ab", 20), Created: time.Date(2026, 11, 27, 3, 15, 35, 0, time.UTC)}

func options(root string) stage.Options {
	return stage.Options{
		Root: root, Source: source, Platforms: []string{stagetest.Platform}, GoVersion: strings.TrimPrefix(runtime.Version(), "go"), Log: io.Discard,
	}
}

// files are all in a folder, by path.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		all[filepath.ToSlash(rel)], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestTwoFoldersAndTwoSettingsGiveTheSamePrograms(t *testing.T) {
	first := filepath.Join(t.TempDir(), "a")
	stagetest.Checkout(t, first)
	out := filepath.Join(t.TempDir(), "out")
	if _, err := stage.Write(t.Context(), out, options(first)); err != nil {
		t.Fatal(err)
	}
	want := files(t, out)

	second := filepath.Join(t.TempDir(), "another", "and a longer", "one")
	stagetest.Checkout(t, second)
	// What a developer may have set for everyday work.
	for name, value := range map[string]string{
		"GOFLAGS": "-tags=debug -ldflags=-X=main.version=mine", "GOAMD64": "v3", "CGO_CFLAGS": "-O0 -g", "CGO_LDFLAGS": "-Wl,--build-id=sha1",
		"GOEXPERIMENT": "nogreenteagc", "CC": "false", "GOOS": "windows", "SOURCE_DATE_EPOCH": "1", "LANG": "de_DE.UTF-8",
	} {
		t.Setenv(name, value)
	}
	again := filepath.Join(t.TempDir(), "elsewhere", "out")
	o := options(second)
	o.BuildCache = t.TempDir()
	if _, err := stage.Write(t.Context(), again, o); err != nil {
		t.Fatal(err)
	}
	got := files(t, again)
	if len(got) != len(want) {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
	for name := range want {
		if !bytes.Equal(got[name], want[name]) {
			t.Errorf("%s is another", name)
		}
	}
}

func TestWhatIsStagedIsAllThatAnImageNeeds(t *testing.T) {
	root := t.TempDir()
	stagetest.Checkout(t, root)
	out := filepath.Join(t.TempDir(), "out")
	if err := os.MkdirAll(filepath.Join(out, "old"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := stage.Write(t.Context(), out, options(root)); err != nil {
		t.Fatal(err)
	}
	dir := stage.Dir(stagetest.Platform) + "/"
	got := files(t, out)
	for _, name := range []string{
		"build.json", dir + "server", dir + "trainer", dir + stage.Library,
		dir + "licenses/server/fakeart/LICENSE", dir + "licenses/server/go/LICENSE", dir + "licenses/trainer/onnxruntime-node/LICENSE",
	} {
		if len(got[name]) == 0 {
			t.Errorf("%s is missing", name)
		}
	}
	if _, err := os.Stat(filepath.Join(out, "old")); err == nil {
		t.Error("what was in the folder before is still there")
	}
	printed, err := exec.CommandContext(t.Context(), filepath.Join(out, dir, "server")).Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := source.Version() + " " + source.Revision; !strings.HasPrefix(string(printed), want) {
		t.Errorf("the program knows %q, want %q", printed, want)
	}
	if strings.Contains(string(printed), root) {
		t.Errorf("the program knows the folder it was built in: %q", printed)
	}
	if info, err := buildinfo.ReadFile(filepath.Join(out, dir, "server")); err != nil || info.Path != "fakeart/server" {
		t.Errorf("build information %v, %v", info, err)
	}
	build, err := stage.Read(out)
	if err != nil {
		t.Fatal(err)
	}
	if build.Revision != source.Revision || !build.Created.Equal(source.Created) || build.Runtime.Version != "1.27.0" || build.Compilers[stagetest.Platform] == "" {
		t.Errorf("build.json says %+v", build)
	}
}

func TestWhatCannotBeBuiltSaysWhy(t *testing.T) {
	change := func(name, content string) func(*testing.T, *stage.Options) {
		return func(t *testing.T, o *stage.Options) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(o.Root, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) func(*testing.T, *stage.Options) {
		return func(t *testing.T, o *stage.Options) {
			t.Helper()
			if err := os.RemoveAll(filepath.Join(o.Root, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for want, spoil := range map[string]func(*testing.T, *stage.Options){
		"server/main.go:1:":                                  change("server/main.go", "not Go"),
		"there can be images for linux/amd64":                func(_ *testing.T, o *stage.Options) { o.Platforms = []string{"plan9/mips"} },
		"platform " + stagetest.Platform + " is given twice": func(_ *testing.T, o *stage.Options) { o.Platforms = []string{stagetest.Platform, stagetest.Platform} },
		"platforms: none is given":                           func(_ *testing.T, o *stage.Options) { o.Platforms = nil },
		"is no commit's hash":                                func(_ *testing.T, o *stage.Options) { o.Source.Revision = "main" },
		"the time of the commit is missing":                  func(_ *testing.T, o *stage.Options) { o.Source.Created = time.Time{} },
		"run `npm ci":                                        remove("node_modules/.package-lock.json"),
		"the lockfile wants 1.28.0; run `npm ci":             change("package-lock.json", `{"packages":{"node_modules/onnxruntime-node":{"version":"1.28.0","integrity":"sha512-B"}}}`),
		"has no onnxruntime-node with its integrity":         change("package-lock.json", `{}`),
		"licence of fakeart: there is no LICENSE":            remove("LICENSE"),
		"libonnxruntime.so.1: no such file":                  remove("node_modules/onnxruntime-node"),
	} {
		t.Run(want, func(t *testing.T) {
			root := t.TempDir()
			stagetest.Checkout(t, root)
			o := options(root)
			spoil(t, &o)
			if _, err := stage.Write(t.Context(), filepath.Join(t.TempDir(), "out"), o); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q", err, want)
			}
		})
	}
}

func TestAMissingCompilerSaysWhatToInstall(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := stage.Compiler("linux/arm64"); err == nil || !strings.Contains(err.Error(), "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross") {
		t.Errorf("error %v", err)
	}
}

func TestStagedProgramsAreRead(t *testing.T) {
	if _, err := stage.Read(t.TempDir()); err == nil || !strings.Contains(err.Error(), "build.json") {
		t.Errorf("of an empty folder: error %v", err)
	}
	for text, want := range map[string]string{"{": "build.json", `{"revision":"x"}`: "is no commit's hash"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "build.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := stage.Read(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
}
