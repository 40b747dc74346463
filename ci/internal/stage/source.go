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
	// Revision is the commit's hash, with "-modified" after it if the tree differed from
	// the commit.
	Revision string `json:"revision"`
	// Created is the commit's time, in UTC and whole seconds. It is the only time in
	// what is made, as SOURCE_DATE_EPOCH means it.
	Created time.Time `json:"created"`
	// Changes lists what the tree has besides the commit, as `git status --porcelain` does.
	Changes string `json:"-"`
}

// modified marks a revision whose tree held more than the commit.
const modified = "-modified"

var commit = regexp.MustCompile(`^[0-9a-f]{40}(` + modified + `)?$`)

// Check returns an error unless the source is complete.
func (s Source) Check() error {
	if !commit.MatchString(s.Revision) {
		return fmt.Errorf("revision %q is no commit's hash of 40 digits, with or without %q after it", s.Revision, modified)
	}
	if s.Created.IsZero() || s.Created.Before(time.Unix(0, 0)) {
		return fmt.Errorf("revision %s: the time of the commit is missing", s.Revision)
	}
	return nil
}

// Clean reports whether the tree was the commit.
func (s Source) Clean() bool { return !strings.HasSuffix(s.Revision, modified) }

// Version names the source as Go names a module's commit that has no tag,
// v0.0.0-20261127031535-ae846c1fe1bd: a tag that is set later changes no image.
// https://go.dev/ref/mod#pseudo-versions
func (s Source) Version() string {
	version := "v0.0.0-" + s.Created.UTC().Format("20060102150405") + "-" + s.Revision[:12]
	if !s.Clean() {
		version += modified
	}
	return version
}

// Script prints, run by a POSIX shell in a checkout, what [ParseTree] reads: the commit, and the files that
// differ from it. It compares with an index of its own, so that files that the checkout's index marks as unchanged
// are compared as well. Ignored source files count, because Go would compile them; ci/ isn't compiled.
const Script = `git() { command git -c safe.directory="*" -c core.quotePath=false "$@"; }
git log -1 --format="%H %ct"
index=$(mktemp -d)
trap "rm -rf $index" EXIT
export GIT_INDEX_FILE="$index/index"
git read-tree HEAD
git status --porcelain --untracked-files=normal
git ls-files --others --ignored --exclude-standard --directory -- ":(exclude)ci" | sed -n -E "/\.(go|s|S|c|h|syso)$/ s/^/!! /p"
`

// Of returns the source of the checkout in a folder, as git reports it.
func Of(ctx context.Context, root string) (Source, error) {
	cmd := exec.CommandContext(ctx, "sh", "-euc", Script)
	cmd.Dir, cmd.Env = root, gitEnvironment()
	text, err := output(cmd)
	if err != nil {
		return Source{}, fmt.Errorf("find the commit of %s: %w\nhint: outside a git checkout, give the commit with --revision and --created", root, err)
	}
	return ParseTree(text)
}

// ParseTree returns the source that [Script] printed.
func ParseTree(text string) (Source, error) {
	head, changes, _ := strings.Cut(strings.TrimRight(text, "\n"), "\n")
	hash, seconds, _ := strings.Cut(head, " ")
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return Source{}, fmt.Errorf("find the commit: git printed %q", head)
	}
	if changes != "" {
		hash += modified
	}
	s := Source{Revision: hash, Created: time.Unix(unix, 0).UTC(), Changes: changes}
	return s, s.Check()
}

// Given returns the source that a caller names by a commit's hash and its time in RFC 3339.
func Given(revision, created string) (Source, error) {
	if revision == "" || created == "" {
		return Source{}, errors.New("--revision and --created belong together: one is missing")
	}
	at, err := time.Parse(time.RFC3339, created)
	if err != nil {
		return Source{}, fmt.Errorf("--created %q is no time in RFC 3339, such as 2026-11-27T03:15:35Z", created)
	}
	s := Source{Revision: revision, Created: at.UTC()}
	return s, s.Check()
}

// Agrees returns an error unless tree, as git reports it, is this source, which a caller has given.
func (s Source) Agrees(tree Source) error {
	const hint = "\nhint: leave out --revision and --created"
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

// Verify compares this source, which a caller has given, with the checkout in a folder. Without a
// .git there, or with that of a worktree whose repository is elsewhere, there is nothing to compare with.
func (s Source) Verify(ctx context.Context, root string) error {
	info, err := os.Lstat(filepath.Join(root, ".git"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	tree, err := Of(ctx, root)
	if err != nil {
		if !info.IsDir() {
			return nil
		}
		return fmt.Errorf("compare --revision with the checkout: %w", err)
	}
	return s.Agrees(tree)
}

// CopyTree copies what git knows of a checkout, and what it would take in, to a new folder.
func CopyTree(ctx context.Context, to, from string) error {
	names, err := git(ctx, from, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	for _, name := range strings.Split(strings.TrimRight(names, "\x00"), "\x00") {
		info, err := os.Lstat(filepath.Join(from, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted, and not yet told git
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

func git(ctx context.Context, root string, args ...string) (string, error) {
	// The folder of a container's mount belongs to somebody else; git would not read it.
	args = append([]string{"-c", "safe.directory=*", "-C", root}, args...)
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Env = gitEnvironment()
	return output(cmd)
}

// gitEnvironment is the process's environment without the variables that point git to another
// repository than the folder's, such as those that hooks get.
func gitEnvironment() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains([]string{
			"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY",
			"GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_CEILING_DIRECTORIES", "GIT_PREFIX",
		}, name)
	})
}

// output runs a command and returns what it printed; its error ends with what it said
// on standard error.
func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		said := strings.TrimSpace(string(exit.Stderr))
		if last := strings.LastIndexByte(said, '\n'); last >= 0 && len(said) > 2000 {
			said = said[max(last-2000, 0):]
		}
		return "", fmt.Errorf("%s: %w: %s", cmd.Args[0], err, said)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", cmd.Args[0], err)
	}
	return strings.TrimSpace(string(out)), nil
}
