// Command images makes the programs' container images without a container engine, and
// checks that they are what the commit says. The make targets call it; it is run in ci/.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"dagger/fakeart/internal/debian"
	"dagger/fakeart/internal/images"
	"dagger/fakeart/internal/oci"
	"dagger/fakeart/internal/pins"
	"dagger/fakeart/internal/publish"
	"dagger/fakeart/internal/stage"
)

// commands is the command line.
type commands struct {
	Stage     stageCommand     `cmd:"" help:"Build the programs for images."`
	Write     writeCommand     `cmd:"" help:"Build the programs, and write an OCI layout for each."`
	Check     checkCommand     `cmd:"" help:"Build twice more, from nothing and in two other folders, and compare the digests."`
	Reproduce reproduceCommand `cmd:"" help:"Build the commit that an image says it is of, and compare the digests."`
	Push      pushCommand      `cmd:"" help:"Push the images that write has left."`
	Renew     renewCommand     `cmd:"" help:"Look up the digests of the images that images are made of."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

// run is the program: results go to out, everything else to standard error.
func run(ctx context.Context, args []string, out io.Writer) error {
	var c commands
	parser, err := kong.New(&c, kong.Name("images"), kong.BindTo(ctx, (*context.Context)(nil)), kong.BindTo(out, (*io.Writer)(nil)))
	if err != nil {
		return err
	}
	command, err := parser.Parse(args)
	if err != nil {
		return err
	}
	return command.Run()
}

// build is what building needs to know.
type build struct {
	Root      string   `help:"The checkout." default:".." type:"path"`
	Platforms []string `help:"Platforms, comma-separated; without it, each that there is a compiler for." placeholder:"linux/amd64"`
	Tags      string   `help:"Build tags."`
	Revision  string   `help:"The commit; read from git if missing, and compared with git if not." placeholder:"HASH"`
	Created   string   `help:"The commit's time in RFC 3339." placeholder:"TIME"`
}

func (b build) source(ctx context.Context) (stage.Source, error) {
	if b.Revision == "" && b.Created == "" {
		return stage.Of(ctx, b.Root)
	}
	s, err := stage.Given(b.Revision, b.Created)
	if err != nil {
		return stage.Source{}, err
	}
	return s, s.Verify(ctx, b.Root)
}

func (b build) pins() (pins.Pins, error) {
	text, err := os.ReadFile(filepath.Join(b.Root, "ci/images.yaml"))
	if err != nil {
		return pins.Pins{}, err
	}
	return pins.Parse(text)
}

// options are those of staging, for the platforms that were asked for, or for each
// that a base has, and a compiler.
func (b build) options(ctx context.Context, has func(platform string) error) (stage.Options, error) {
	source, err := b.source(ctx)
	if err != nil {
		return stage.Options{}, err
	}
	p, err := b.pins()
	if err != nil {
		return stage.Options{}, err
	}
	o := stage.Options{Root: b.Root, Source: source, Platforms: b.Platforms, GoVersion: p.GoVersion(), Tags: b.Tags, Log: os.Stderr}
	if len(b.Platforms) > 0 {
		return o, nil
	}
	for _, platform := range stage.Platforms {
		_, err := stage.Compiler(platform)
		if err == nil {
			err = has(platform)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s is left out: %v\n", platform, err)
			continue
		}
		o.Platforms = append(o.Platforms, platform)
	}
	if len(o.Platforms) == 0 {
		return o, errors.New("there is no platform left to build for")
	}
	return o, nil
}

type stageCommand struct {
	build
	Out string `help:"Folder for the programs." default:"../build/stage" type:"path"`
}

func (c stageCommand) Run(ctx context.Context) error {
	o, err := c.options(ctx, func(string) error { return nil })
	if err != nil {
		return err
	}
	_, err = stage.Write(ctx, c.Out, o)
	return err
}

// onBase is what making images needs to know.
type onBase struct {
	build
	Base     string `help:"Base image: an OCI layout (a folder, or an archive of one) or NAME@sha256:…. Default: the one in ci/images.yaml." placeholder:"BASE"`
	BaseName string `help:"Name and digest of the image that the OCI layout was made from, for labels and provenance." placeholder:"NAME@sha256:…"`
	Builder  string `help:"URI of the build system, for the provenance." placeholder:"URI"`
	Work     string `help:"Folder for what is made." default:"../build" type:"path"`
}

// base gets the base. Where the default one's registry cannot be reached, it makes
// another of Debian's packages, and says so.
func (c onBase) base(ctx context.Context) (*oci.Base, pins.Pins, error) {
	p, err := c.pins()
	if err != nil {
		return nil, p, err
	}
	if c.Base != "" {
		base, err := c.given(ctx, p)
		return base, p, err
	}
	base, err := oci.PullBase(ctx, p.Base, credentials()...)
	var answered *transport.Error
	if err == nil || errors.As(err, &answered) || ctx.Err() != nil {
		return base, p, err
	}
	fmt.Fprintf(os.Stderr, "%v\n"+
		"The base is made of Debian's packages instead, so that the digests are not those of a published image.\n"+
		"A copy of the real one, an OCI layout, can be given: BASE=FOLDER.\n", err)
	dir := filepath.Join(c.Work, "debian-base")
	if err := os.RemoveAll(dir); err != nil {
		return nil, p, err
	}
	platforms := c.Platforms
	if len(platforms) == 0 {
		for _, platform := range stage.Platforms {
			if _, err := stage.Compiler(platform); err == nil {
				platforms = append(platforms, platform)
			}
		}
	}
	if err := debian.Write(ctx, dir, platforms); err != nil {
		return nil, p, err
	}
	base, err = oci.ReadBase(dir)
	return base, p, err
}

func (c onBase) given(ctx context.Context, p pins.Pins) (*oci.Base, error) {
	where := strings.TrimPrefix(c.Base, "layout:")
	if _, err := os.Stat(where); err != nil {
		if strings.HasPrefix(c.Base, "layout:") || !strings.Contains(c.Base, "@") {
			return nil, fmt.Errorf("base: %w: it is an OCI layout, or NAME@sha256:… in a registry", err)
		}
		return oci.PullBase(ctx, c.Base, credentials()...)
	}
	base, err := oci.ReadBase(where)
	if err != nil {
		return nil, err
	}
	if c.BaseName != "" {
		return oci.JoinBases(c.BaseName, base)
	}
	return base.Named(p.Base), nil
}

func credentials() []remote.Option {
	return []remote.Option{remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithTransport(http.DefaultTransport)}
}

// made builds in a folder, and returns the images.
func (c onBase) made(ctx context.Context, work string, base *oci.Base, p pins.Pins, o stage.Options) (map[string]*oci.Bundle, error) {
	staged := filepath.Join(work, "stage")
	if _, err := stage.Write(ctx, staged, o); err != nil {
		return nil, err
	}
	return c.make(staged, base, p)
}

// make returns the images of the programs in a folder.
func (c onBase) make(staged string, base *oci.Base, p pins.Pins) (map[string]*oci.Bundle, error) {
	builder := c.Builder
	if builder == "" {
		builder = p.Repository + "/blob/main/docs/how-to/ci.md#on-a-laptop"
	}
	return images.Make(images.Options{Stage: staged, Base: base, Repository: p.Repository, Builder: builder})
}

// prepared is the base, and what is built on it.
func (c onBase) prepared(ctx context.Context) (*oci.Base, pins.Pins, stage.Options, error) {
	base, p, err := c.base(ctx)
	if err != nil {
		return nil, p, stage.Options{}, err
	}
	o, err := c.options(ctx, func(platform string) error { return images.Has(base, platform) })
	return base, p, o, err
}

type writeCommand struct {
	onBase
	Staged bool `help:"Use the programs that the command stage built from the same commit, instead of building them."`
}

func (c writeCommand) Run(ctx context.Context, out io.Writer) error {
	base, p, o, err := c.prepared(ctx)
	if err != nil {
		return err
	}
	made, err := c.images(ctx, base, p, o)
	if err != nil {
		return err
	}
	folder := filepath.Join(c.Work, "images")
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	for _, program := range slices.Sorted(maps.Keys(made)) {
		if err := images.Check(program, made[program]); err != nil {
			return fmt.Errorf("image of %s: %w", program, err)
		}
		dir := filepath.Join(folder, program)
		if err := made[program].Save(dir, program+":"+o.Source.Revision); err != nil {
			return err
		}
	}
	digests, err := images.List(made)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "digests.txt"), []byte(digests+"\n"), 0o644); err != nil {
		return err
	}
	return report(out, folder, made)
}

// images returns the images, of programs that are built now or were staged before.
func (c writeCommand) images(ctx context.Context, base *oci.Base, p pins.Pins, o stage.Options) (map[string]*oci.Bundle, error) {
	if !c.Staged {
		return c.made(ctx, c.Work, base, p, o)
	}
	folder := filepath.Join(c.Work, "stage")
	build, err := stage.Read(folder)
	if err != nil {
		return nil, fmt.Errorf("staged programs: %w (hint: run make stage first)", err)
	}
	if build.Revision != o.Source.Revision || !build.Created.Equal(o.Source.Created) || !slices.Equal(build.Platforms, o.Platforms) {
		return nil, fmt.Errorf("staged programs in %s are of commit %s for %s, not of %s for %s (hint: run make stage with the same arguments)",
			relative(folder), build.Revision, strings.Join(build.Platforms, ","), o.Source.Revision, strings.Join(o.Platforms, ","))
	}
	return c.make(folder, base, p)
}

// report prints a line an image: its program, its digest, where it is, and how large.
func report(out io.Writer, folder string, made map[string]*oci.Bundle) error {
	for _, program := range slices.Sorted(maps.Keys(made)) {
		digest, err := made[program].Digest()
		if err != nil {
			return err
		}
		sizes, err := images.Sizes(made[program])
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%-7s %s  %s", program, digest, relative(filepath.Join(folder, program)))
		for _, platform := range slices.Sorted(maps.Keys(sizes)) {
			fmt.Fprintf(out, "  %s %.1f MB", platform, float64(sizes[platform])/1e6)
		}
		fmt.Fprintln(out)
	}
	return nil
}

// relative is a path as seen from the checkout, where make is run.
func relative(path string) string {
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(filepath.Dir(wd), path); err == nil {
			return rel
		}
	}
	return path
}

type checkCommand struct{ onBase }

func (c checkCommand) Run(ctx context.Context, out io.Writer) (err error) {
	base, p, o, err := c.prepared(ctx)
	if err != nil {
		return err
	}
	digests := map[string]map[string]string{} // by program and folder
	note := func(where string, made map[string]*oci.Bundle) error {
		for program, b := range made {
			d, err := b.Digest()
			if err != nil {
				return err
			}
			if digests[program] == nil {
				digests[program] = map[string]string{}
			}
			digests[program][where] = d.String()
		}
		return nil
	}
	for _, program := range stage.Programs {
		dir := filepath.Join(c.Work, "images", program)
		b, err := oci.Load(dir)
		if err != nil {
			return fmt.Errorf("%w; `make images` makes it", err)
		}
		if err := note(relative(dir), map[string]*oci.Bundle{program: b}); err != nil {
			return err
		}
	}
	for _, folder := range []string{"one", "a-folder-of-another-length/two"} {
		made, err := c.elsewhere(ctx, folder, base, p, o)
		if err != nil {
			return err
		}
		if err := note("a clean build in "+folder, made); err != nil {
			return err
		}
	}
	return compare(out, digests)
}

// compare prints digests, by program and where the image was made, and returns an error
// when a program has several.
func compare(out io.Writer, digests map[string]map[string]string) error {
	var differ []string
	for _, program := range slices.Sorted(maps.Keys(digests)) {
		all := map[string]bool{}
		for _, where := range slices.Sorted(maps.Keys(digests[program])) {
			fmt.Fprintf(out, "%-7s %s  %s\n", program, digests[program][where], where)
			all[digests[program][where]] = true
		}
		if len(all) > 1 {
			differ = append(differ, program)
		}
	}
	if len(differ) > 0 {
		return fmt.Errorf("the digests of %s differ", strings.Join(differ, " and "))
	}
	fmt.Fprintln(out, "the same digests each time")
	return nil
}

// elsewhere copies what git knows of the checkout to another folder and builds there, with
// an empty build cache.
func (c checkCommand) elsewhere(ctx context.Context, folder string, base *oci.Base, p pins.Pins, o stage.Options) (_ map[string]*oci.Bundle, err error) {
	temp, err := os.MkdirTemp("", "images-check-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	root := filepath.Join(temp, filepath.FromSlash(folder))
	if err := stage.CopyTree(ctx, root, c.Root); err != nil {
		return nil, err
	}
	// npm has checked it against the lockfile, and nothing is built of it.
	if err := os.Symlink(filepath.Join(c.Root, "node_modules"), filepath.Join(root, "node_modules")); err != nil {
		return nil, err
	}
	o.Root, o.BuildCache = root, filepath.Join(temp, "cache")
	fmt.Fprintf(os.Stderr, "a clean build in %s: some minutes\n", folder)
	return c.made(ctx, filepath.Join(root, "build"), base, p, o)
}

type reproduceCommand struct {
	Digest string `arg:"" help:"The image: HOST/PATH@sha256:…, or a digest among build/images."`
	Root   string `help:"The checkout." default:".." type:"path"`
	Work   string `help:"Folder with what was made." default:"../build" type:"path"`
	Base   string `help:"What images stand on, as for write." placeholder:"BASE"`
}

func (c reproduceCommand) Run(ctx context.Context, out io.Writer) (err error) {
	want, err := c.find(ctx)
	if err != nil {
		return err
	}
	about, err := images.About(want)
	if err != nil {
		return err
	}
	source := stage.Source{Revision: about.Revision, Created: about.Created}
	if !source.Clean() {
		return fmt.Errorf("%s was built from %s and more: a tree that nobody has", c.Digest, strings.TrimSuffix(about.Revision, "-modified"))
	}
	temp, err := os.MkdirTemp("", "images-reproduce-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	root := filepath.Join(temp, "source")
	fmt.Fprintf(os.Stderr, "%s says it is %s of commit %s, for %s: building that\n", c.Digest, about.Program, about.Revision, strings.Join(about.Platforms, " and "))
	// The commit's own make knows how its images are made.
	args := []string{"PLATFORMS=" + strings.Join(about.Platforms, ","), "images"}
	if c.Base != "" {
		base := c.Base
		if _, err := os.Stat(base); err == nil {
			if base, err = filepath.Abs(base); err != nil {
				return err
			}
		}
		args = append(args, "BASE="+base)
	}
	for _, command := range []*exec.Cmd{
		exec.CommandContext(ctx, "git", "clone", "-q", "--no-checkout", c.Root, root),
		exec.CommandContext(ctx, "git", "-C", root, "checkout", "-q", "--detach", about.Revision),
		exec.CommandContext(ctx, "make", append([]string{"-C", root, "--no-print-directory"}, args...)...),
	} {
		command.Stdout, command.Stderr = os.Stderr, os.Stderr
		if err := command.Run(); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(command.Args, " "), err)
		}
	}
	got, err := oci.Load(filepath.Join(root, "build/images", about.Program))
	if err != nil {
		return err
	}
	differences, err := images.Differences(want, got)
	if err != nil {
		return err
	}
	if len(differences) > 0 {
		return fmt.Errorf("%s is not what commit %s gives here:\n  %s", c.Digest, about.Revision, strings.Join(differences, "\n  "))
	}
	fmt.Fprintf(out, "%s is what commit %s gives\n", c.Digest, about.Revision)
	return nil
}

// find looks for the image in the registry that its name says, or among those made here.
func (c reproduceCommand) find(ctx context.Context) (*oci.Bundle, error) {
	if strings.Contains(c.Digest, "@") {
		return publish.Target{}.Fetch(ctx, c.Digest)
	}
	for _, program := range stage.Programs {
		b, err := oci.Load(filepath.Join(c.Work, "images", program))
		if err != nil {
			continue
		}
		if d, err := b.Digest(); err == nil && d.String() == c.Digest {
			return b, nil
		}
	}
	return nil, fmt.Errorf("%q is neither HOST/PATH@sha256:… nor the digest of an image in %s", c.Digest, relative(filepath.Join(c.Work, "images")))
}

type pushCommand struct {
	Work     string   `help:"Folder with the images." default:"../build" type:"path"`
	Registry string   `help:"What the repositories' names begin with: HOST/PATH." required:""`
	Tags     []string `help:"Tags for all images, comma-separated, besides the commit's." placeholder:"TAG"`
	SignKey  string   `help:"Sign with this key of cosign's, a file or a URI of a KMS; the environment has COSIGN_PASSWORD." placeholder:"KEY"`
	Keyless  bool     `help:"Sign with an identity that cosign asks for, without a key."`
	Cosign   string   `help:"The cosign that signs." default:"../bin/tools/cosign" type:"path"`
}

func (c pushCommand) Run(ctx context.Context, out io.Writer) error {
	made := map[string]*oci.Bundle{}
	t := publish.Target{Registry: c.Registry, Tags: c.Tags}
	if err := t.Check(); err != nil {
		return err
	}
	for _, program := range stage.Programs {
		b, err := oci.Load(filepath.Join(c.Work, "images", program))
		if err != nil {
			return fmt.Errorf("%w; `make images` makes it", err)
		}
		about, err := images.About(b)
		if err != nil {
			return err
		}
		if about.Base == debian.Name {
			return fmt.Errorf("image of %s: its base is made of this machine's packages, for trying alone; give the real one: BASE=FOLDER, an OCI layout", program)
		}
		t.Tags = slices.Compact(append([]string{publish.CommitTag(about.Revision)}, c.Tags...))
		made[program] = b
	}
	if c.SignKey != "" || c.Keyless {
		t.Sign = func(ctx context.Context, ref name.Digest) error {
			return c.cosign(ctx, os.Stderr, publish.Cosign(ref, c.SignKey, "")...)
		}
	}
	if err := t.CheckPush(ctx, stage.Programs); err != nil {
		return err
	}
	if err := c.checkKey(ctx); err != nil {
		return err
	}
	pushed, err := publish.All(ctx, made, t)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, publish.Lines(pushed))
	return nil
}

// checkKey returns an error unless cosign can read the key, if there is one, before images are pushed that it
// couldn't sign.
func (c pushCommand) checkKey(ctx context.Context) error {
	if c.SignKey == "" {
		return nil
	}
	if err := c.cosign(ctx, io.Discard, "public-key", "--key", c.SignKey); err != nil {
		return fmt.Errorf("read the signing key %s: %w\nhint: check SIGN=, and the key's password in COSIGN_PASSWORD", c.SignKey, err)
	}
	return nil
}

func (c pushCommand) cosign(ctx context.Context, out io.Writer, args ...string) error {
	cosign := exec.CommandContext(ctx, c.Cosign, args...)
	cosign.Stdin, cosign.Stdout, cosign.Stderr = os.Stdin, out, os.Stderr
	return cosign.Run()
}

type renewCommand struct {
	File string `arg:"" help:"The file." default:"images.yaml" type:"existingfile"`
}

func (c renewCommand) Run(ctx context.Context) error {
	text, err := os.ReadFile(c.File)
	if err != nil {
		return err
	}
	renewed, err := pins.Renew(ctx, text, func(ctx context.Context, image string) (string, error) {
		ref, err := name.ParseReference(image)
		if err != nil {
			return "", err
		}
		d, err := remote.Head(ref, append(credentials(), remote.WithContext(ctx))...)
		if err != nil {
			return "", err
		}
		return d.Digest.String(), nil
	})
	if err != nil {
		return err
	}
	return os.WriteFile(c.File, renewed, 0o644)
}
