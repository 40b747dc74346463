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
	"strconv"
	"strings"
	"time"
)

// Source is the commit that programs are built from.
type Source struct {
	// Revision is the commit's hash, with "-modified" behind it when the tree held
	// more than the commit.
	Revision string `json:"revision"`
	// Created is the commit's time, in UTC and whole seconds. It is the only time in
	// what is made, as SOURCE_DATE_EPOCH means it.
	Created time.Time `json:"created"`
}

// modified marks a revision whose tree held more than the commit.
const modified = "-modified"

var commit = regexp.MustCompile(`^[0-9a-f]{40}(` + modified + `)?$`)

// Check returns an error unless the source is complete.
func (s Source) Check() error {
	if !commit.MatchString(s.Revision) {
		return fmt.Errorf("revision %q is no commit's hash of 40 digits, with or without %q behind it", s.Revision, modified)
	}
	if s.Created.IsZero() || s.Created.Before(time.Unix(0, 0)) {
		return fmt.Errorf("revision %s: the time of the commit is missing", s.Revision)
	}
	return nil
}

// Clean says whether the tree was the commit and nothing more.
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

// Of asks git for the source in a folder.
func Of(ctx context.Context, root string) (Source, error) {
	head, err := git(ctx, root, "log", "-1", "--format=%H %ct")
	if err != nil {
		return Source{}, fmt.Errorf("which commit %s is: %w; outside a git checkout say it with --revision and --created", root, err)
	}
	changes, err := git(ctx, root, "status", "--porcelain")
	if err != nil {
		return Source{}, fmt.Errorf("whether %s is its commit: %w", root, err)
	}
	return ParseHead(head, changes)
}

// ParseHead makes a Source of what `git log -1 --format="%H %ct"` and
// `git status --porcelain` print.
func ParseHead(head, status string) (Source, error) {
	hash, seconds, _ := strings.Cut(strings.TrimSpace(head), " ")
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return Source{}, fmt.Errorf("which commit it is: git printed %q", head)
	}
	if strings.TrimSpace(status) != "" {
		hash += modified
	}
	s := Source{Revision: hash, Created: time.Unix(unix, 0).UTC()}
	return s, s.Check()
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
	return output(exec.CommandContext(ctx, "git", args...))
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
