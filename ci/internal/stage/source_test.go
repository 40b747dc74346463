package stage_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dagger/fakeart/internal/stage"
	"dagger/fakeart/internal/stage/stagetest"
)

// repository returns a git repository with one commit of one file.
func repository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "run.sh"), []byte("true\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	stagetest.Commit(t, dir)
	return dir
}

func TestFromGit_version(t *testing.T) {
	dir := repository(t)
	s, err := stage.FromGit(t.Context(), dir)
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
	more, err := stage.FromGit(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if more.Clean() || more.Revision != s.Revision+"-modified" || !strings.HasSuffix(more.Version(), "-modified") {
		t.Errorf("FromGit() with an untracked file = %+v", more)
	}
}

func TestFromGit(t *testing.T) {
	git := func(t *testing.T, dir string, args ...string) {
		t.Helper()
		if text, err := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, text)
		}
	}
	for _, c := range []struct {
		name    string
		change  func(t *testing.T, dir string)
		changes string
	}{
		{"changed_file", func(t *testing.T, dir string) { write(t, dir, "run.sh", "false\n") }, " M run.sh"},
		{"deleted_file", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "run.sh")); err != nil {
				t.Fatal(err)
			}
		}, " D run.sh"},
		{"staged_file", func(t *testing.T, dir string) {
			write(t, dir, "run.sh", "false\n")
			git(t, dir, "add", "run.sh")
		}, " M run.sh"},
		{"changed_mode", func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "run.sh"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, " M run.sh"},
		{"untracked_file", func(t *testing.T, dir string) { write(t, dir, "sub/ü", "") }, "?? sub/"},
		{"untracked_file_hidden_by_configuration", func(t *testing.T, dir string) {
			git(t, dir, "config", "status.showUntrackedFiles", "no")
			write(t, dir, "new", "")
		}, "?? new"},
		{"file_marked_as_unchanged", func(t *testing.T, dir string) {
			git(t, dir, "update-index", "--assume-unchanged", "run.sh")
			write(t, dir, "run.sh", "false\n")
		}, " M run.sh"},
		{"file_skipped_by_the_index", func(t *testing.T, dir string) {
			git(t, dir, "update-index", "--skip-worktree", "run.sh")
			write(t, dir, "run.sh", "false\n")
		}, " M run.sh"},
		{"ignored_source_file", func(t *testing.T, dir string) {
			write(t, dir, ".git/info/exclude", "local.*\n")
			write(t, dir, "server/local.go", "package main\n")
			write(t, dir, "server/run.sh", "")
			git(t, dir, "add", "server/run.sh")
			git(t, dir, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "-m", "two")
		}, "!! server/local.go"},
		{"ignored_file_that_isn't_source", func(t *testing.T, dir string) {
			write(t, dir, ".git/info/exclude", "local.*\n")
			write(t, dir, "local.txt", "")
			write(t, dir, "node_modules/a.go", "")
			write(t, dir, "ci/local.go", "")
		}, ""},
		{"another_repository_in_the_environment", func(t *testing.T, _ string) {
			other := repository(t)
			write(t, other, "new", "")
			t.Setenv("GIT_DIR", filepath.Join(other, ".git"))
			t.Setenv("GIT_WORK_TREE", other)
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := repository(t)
			c.change(t, dir)
			s, err := stage.FromGit(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if s.Changes != c.changes || s.Clean() != (c.changes == "") {
				t.Errorf("revision %s, changes %q, want %q", s.Revision, s.Changes, c.changes)
			}
		})
	}
	t.Run("no_checkout", func(t *testing.T) {
		if _, err := stage.FromGit(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "--revision and --created") {
			t.Errorf("error %v", err)
		}
	})
}

// write writes a file and creates its directory.
func write(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestParseTree(t *testing.T) {
	for _, text := range []string{"", "abc", "abc def", strings.Repeat("a", 40), "abc 1795749335"} {
		if s, err := stage.ParseTree(text); err == nil {
			t.Errorf("ParseTree(%q) = %+v, want an error", text, s)
		}
	}
}

func TestVerify(t *testing.T) {
	const created = "2026-11-27T03:15:35Z"
	dir := repository(t)
	tree, err := stage.FromGit(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(t *testing.T, dir, revision, created string) error {
		t.Helper()
		given, err := stage.ParseSource(revision, created)
		if err != nil {
			return err
		}
		return given.Verify(t.Context(), dir)
	}
	checkError := func(t *testing.T, err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	other := strings.Repeat("a", 40)
	t.Run("same_commit", func(t *testing.T) {
		if err := verify(t, dir, tree.Revision, "2026-11-27T04:15:35+01:00"); err != nil {
			t.Error(err)
		}
	})
	t.Run("other_commit", func(t *testing.T) {
		checkError(t, verify(t, dir, other, created), "but the checkout's commit is "+tree.Revision)
	})
	t.Run("other_time", func(t *testing.T) {
		checkError(t, verify(t, dir, tree.Revision, "2026-11-27T03:15:36Z"), "but the commit's time is "+created)
	})
	t.Run("modified_but_clean", func(t *testing.T) {
		checkError(t, verify(t, dir, tree.Revision+"-modified", created), "is that commit without changes")
	})
	t.Run("clean_but_modified", func(t *testing.T) {
		changed := repository(t)
		write(t, changed, "new", "")
		checkError(t, verify(t, changed, tree.Revision, created), "differs from that commit:\n?? new\nhint: ")
		if err := verify(t, changed, tree.Revision+"-modified", created); err != nil {
			t.Error(err)
		}
	})
	t.Run("archive", func(t *testing.T) {
		if err := verify(t, t.TempDir(), other, created); err != nil {
			t.Error(err)
		}
	})
	t.Run("worktree", func(t *testing.T) {
		linked := filepath.Join(t.TempDir(), "linked")
		if text, err := exec.CommandContext(t.Context(), "git", "-C", dir, "worktree", "add", "-q", linked).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		checkError(t, verify(t, linked, other, created), "but the checkout's commit is")
		// In a container, the worktree's repository is missing.
		write(t, linked, ".git", "gitdir: /nowhere\n")
		if err := verify(t, linked, other, created); err != nil {
			t.Error(err)
		}
	})
	t.Run("damaged_repository", func(t *testing.T) {
		damaged := repository(t)
		if err := os.Remove(filepath.Join(damaged, ".git/HEAD")); err != nil {
			t.Fatal(err)
		}
		checkError(t, verify(t, damaged, tree.Revision, created), "compare --revision with the checkout: ")
	})
	for _, c := range []struct{ name, revision, created, want string }{
		{"no_time", other, "", "--revision or --created is missing"},
		{"no_revision", "", created, "--revision or --created is missing"},
		{"invalid_time", other, "yesterday", "--created \"yesterday\""},
		{"invalid_revision", "main", created, "isn't a commit hash"},
		{"time_before_1970", other, "1969-01-01T00:00:00Z", "the commit's time is missing"},
	} {
		t.Run(c.name, func(t *testing.T) { checkError(t, verify(t, t.TempDir(), c.revision, c.created), c.want) })
	}
}

func TestCopyTree(t *testing.T) {
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
		t.Errorf("copied %v", got)
	}
	if info, err := os.Stat(filepath.Join(to, "run.sh")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("run.sh: %v, %v", info, err)
	}
	if err := os.Remove(filepath.Join(dir, "run.sh")); err != nil {
		t.Fatal(err)
	}
	if err := stage.CopyTree(t.Context(), filepath.Join(t.TempDir(), "copy"), dir); err != nil {
		t.Errorf("CopyTree() with a deleted file: %v", err)
	}
}
