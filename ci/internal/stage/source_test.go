package stage_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dagger/fakeart/internal/stage"
	"dagger/fakeart/internal/stage/stagetest"
)

// repository is a git repository with one commit, of one file.
func repository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "run.sh"), []byte("true\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	stagetest.Commit(t, dir)
	return dir
}

func TestACheckoutKnowsItsCommit(t *testing.T) {
	dir := repository(t)
	s, err := stage.Of(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Date(2026, 11, 27, 3, 15, 35, 0, time.UTC); !s.Created.Equal(want) || s.Created.Location() != time.UTC {
		t.Errorf("created %s, want %s", s.Created, want)
	}
	if len(s.Revision) != 40 || !s.Clean() {
		t.Errorf("revision %q", s.Revision)
	}
	if got, want := s.Version(), "v0.0.0-20261127031535-"+s.Revision[:12]; got != want {
		t.Errorf("version %q, want %q", got, want)
	}
	if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	more, err := stage.Of(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if more.Clean() || more.Revision != s.Revision+"-modified" || !strings.HasSuffix(more.Version(), "-modified") {
		t.Errorf("with a file more it is %+v", more)
	}
}

func TestAFolderThatIsNoCheckoutSaysWhatToDo(t *testing.T) {
	if _, err := stage.Of(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "--revision and --created") {
		t.Errorf("error %v", err)
	}
	for _, head := range []string{"", "abc", "abc def", strings.Repeat("a", 40), "abc 1795749335"} {
		if s, err := stage.ParseHead(head, ""); err == nil {
			t.Errorf("%q was read as %+v", head, s)
		}
	}
}

func TestACopyHasWhatGitKnowsAndWouldTakeIn(t *testing.T) {
	dir := repository(t)
	for name, content := range map[string]string{".gitignore": "ignored\n", "ignored": "x", "sub/new": "y"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	to := filepath.Join(t.TempDir(), "copy")
	if err := stage.CopyTree(t.Context(), to, dir); err != nil {
		t.Fatal(err)
	}
	got := files(t, to)
	if len(got) != 3 || string(got["sub/new"]) != "y" || string(got["run.sh"]) != "true\n" {
		t.Errorf("the copy has %v", got)
	}
	if info, err := os.Stat(filepath.Join(to, "run.sh")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("run.sh: %v, %v", info, err)
	}
	if err := os.Remove(filepath.Join(dir, "run.sh")); err != nil {
		t.Fatal(err)
	}
	if err := stage.CopyTree(t.Context(), filepath.Join(t.TempDir(), "copy"), dir); err != nil {
		t.Errorf("with a file deleted: %v", err)
	}
}
