package stage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Source is the commit that programs are built from.
type Source struct {
	// Revision is the commit's hash, followed by "-modified" if the tree differed from the commit.
	Revision string `json:"revision"`
	// Created is the commit's time, in UTC and whole seconds. It's the only time in programs and
	// images, like SOURCE_DATE_EPOCH in other builds.
	Created time.Time `json:"created"`
	// Changes lists the differences between the tree and the commit, in the format of
	// `git status --porcelain`.
	Changes string `json:"-"`
}

// modified is the suffix of a revision whose tree differed from the commit.
const modified = "-modified"

var commit = regexp.MustCompile(`^[0-9a-f]{40}(` + modified + `)?$`)

// Check returns an error if the revision isn't a commit's hash or the time is missing.
func (s Source) Check() error {
	if !commit.MatchString(s.Revision) {
		return fmt.Errorf("revision %q isn't a commit hash: want 40 hexadecimal digits, optionally followed by %q", s.Revision, modified)
	}
	if s.Created.IsZero() || s.Created.Before(time.Unix(0, 0)) {
		return fmt.Errorf("revision %s: the commit's time is missing or before 1970", s.Revision)
	}
	return nil
}

// Clean reports whether the tree was identical to the commit.
func (s Source) Clean() bool { return !strings.HasSuffix(s.Revision, modified) }

// Version returns the pseudo-version of the commit, such as v0.0.0-20261127031535-ae846c1fe1bd. It
// doesn't depend on tags, so an image stays the same if its commit is tagged later. See
// https://go.dev/ref/mod#pseudo-versions.
func (s Source) Version() string {
	version := "v0.0.0-" + s.Created.UTC().Format("20060102150405") + "-" + s.Revision[:12]
	if !s.Clean() {
		version += modified
	}
	return version
}

// Script is a POSIX shell script that prints a checkout's commit and the files that differ from it,
// for [ParseTree]. Run it in the checkout. It compares the files with a new index, because the
// checkout's index can mark changed files as unchanged. It also lists ignored source files outside
// ci/, because Go would compile them.
const Script = `git() { command git -c safe.directory="*" -c core.quotePath=false "$@"; }
git log -1 --format="%H %ct"
index=$(mktemp -d)
trap "rm -rf $index" EXIT
export GIT_INDEX_FILE="$index/index"
git read-tree HEAD
git status --porcelain --untracked-files=normal
git ls-files --others --ignored --exclude-standard --directory -- ":(exclude)ci" | sed -n -E "/\.(go|s|S|c|h|syso)$/ s/^/!! /p"
`

// FromGit returns the source of the checkout in root, as reported by git.
func FromGit(ctx context.Context, root string) (Source, error) {
	cmd := exec.CommandContext(ctx, "sh", "-euc", Script)
	cmd.Dir, cmd.Env = root, gitEnvironment()
	text, err := output(cmd)
	if err != nil {
		return Source{}, fmt.Errorf("find the commit of %s: %w\nhint: outside a git checkout, pass --revision and --created", root, err)
	}
	return ParseTree(text)
}

// ParseTree parses the output of [Script].
func ParseTree(text string) (Source, error) {
	head, changes, _ := strings.Cut(strings.TrimRight(text, "\n"), "\n")
	hash, seconds, _ := strings.Cut(head, " ")
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return Source{}, fmt.Errorf("find the commit: unexpected output of git: %q", head)
	}
	if changes != "" {
		hash += modified
	}
	s := Source{Revision: hash, Created: time.Unix(unix, 0).UTC(), Changes: changes}
	return s, s.Check()
}

// ParseSource returns the source with this revision and commit time, in RFC 3339.
func ParseSource(revision, created string) (Source, error) {
	if revision == "" || created == "" {
		return Source{}, errors.New("--revision or --created is missing\nhint: pass both or neither")
	}
	at, err := time.Parse(time.RFC3339, created)
	if err != nil {
		return Source{}, fmt.Errorf("--created %q isn't a time in RFC 3339, such as 2026-11-27T03:15:35Z", created)
	}
	s := Source{Revision: revision, Created: at.UTC()}
	return s, s.Check()
}

// Agrees returns an error if the source, from a caller's arguments, differs from tree, the
// checkout's source as reported by git.
func (s Source) Agrees(tree Source) error {
	const hint = "\nhint: omit --revision and --created"
	hash, own := strings.TrimSuffix(s.Revision, modified), strings.TrimSuffix(tree.Revision, modified)
	switch {
	case hash != own:
		return fmt.Errorf("--revision is %s, but the checkout's commit is %s%s, or check that commit out", s.Revision, own, hint)
	case s.Clean() && !tree.Clean():
		return fmt.Errorf("--revision is %s, but the checkout differs from that commit:\n%s%s, or undo the changes", s.Revision, tree.Changes, hint)
	case !s.Clean() && tree.Clean():
		return fmt.Errorf("--revision is %s, but the checkout is that commit without changes%s", s.Revision, hint)
	case !s.Created.Equal(tree.Created):
		return fmt.Errorf("--created is %s, but the commit's time is %s%s", s.Created.Format(time.RFC3339), tree.Created.Format(time.RFC3339), hint)
	}
	return nil
}

// Verify returns an error if the source, from a caller's arguments, differs from the checkout in
// root. It returns nil if there is nothing to compare: no .git, or the .git of a worktree without
// its repository.
func (s Source) Verify(ctx context.Context, root string) error {
	info, err := os.Lstat(filepath.Join(root, ".git"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	tree, err := FromGit(ctx, root)
	if err != nil {
		if !info.IsDir() {
			return nil
		}
		return fmt.Errorf("compare --revision with the checkout: %w", err)
	}
	return s.Agrees(tree)
}

// CopyTree copies a checkout's tracked files, and its untracked files that aren't ignored, to a new
// directory.
func CopyTree(ctx context.Context, to, from string) error {
	names, err := git(ctx, from, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	for _, name := range strings.Split(strings.TrimRight(names, "\x00"), "\x00") {
		info, err := os.Lstat(filepath.Join(from, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted, but still in the index
		}
		if err == nil {
			err = copyFile(filepath.Join(to, name), filepath.Join(from, name))
		}
		if err == nil {
			err = os.Chmod(filepath.Join(to, name), info.Mode().Perm())
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", from, err)
		}
	}
	return nil
}

// git runs git in a directory and returns its output.
func git(ctx context.Context, root string, args ...string) (string, error) {
	// In a container, the mounted checkout belongs to another user, so git would reject it.
	args = append([]string{"-c", "safe.directory=*", "-C", root}, args...)
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Env = gitEnvironment()
	return output(cmd)
}

// gitEnvironment returns the process's environment without the variables that select another
// repository than the directory's. Git sets such variables for hooks.
func gitEnvironment() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains([]string{
			"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY",
			"GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_CEILING_DIRECTORIES", "GIT_PREFIX",
		}, name)
	})
}

// output runs a command and returns its standard output without surrounding white space. If the
// command fails, the error includes its standard error.
func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		stderr := strings.TrimSpace(string(exit.Stderr))
		if last := strings.LastIndexByte(stderr, '\n'); last >= 0 && len(stderr) > 2000 {
			stderr = stderr[max(last-2000, 0):]
		}
		return "", fmt.Errorf("%s: %w: %s", cmd.Args[0], err, stderr)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", cmd.Args[0], err)
	}
	return strings.TrimSpace(string(out)), nil
}
