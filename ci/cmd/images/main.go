// Command images builds the programs' container images without a container engine, checks that they
// are reproducible, and pushes them. Make targets run it, in the directory ci/: `make images` runs
// `images write`.
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

// commands are the commands and flags, parsed by kong.
type commands struct {
	Stage     stageCommand     `cmd:"" help:"Build the programs for images."`
	Write     writeCommand     `cmd:"" help:"Build the programs' images and write them as OCI layouts."`
	Check     checkCommand     `cmd:"" help:"Build the images twice more from scratch, in other folders, and compare the digests."`
	Reproduce reproduceCommand `cmd:"" help:"Build an image again from its commit and compare the digests."`
	Push      pushCommand      `cmd:"" help:"Push the images that the command write built."`
	Renew     renewCommand     `cmd:"" help:"Update the digests in images.yaml to the tags' current ones."`
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

// run runs the command in args. It prints results to out and everything else to standard error.
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

// buildFlags are the flags of commands that build programs.
type buildFlags struct {
	Root      string   `help:"Folder of the checkout." default:".." type:"path"`
	Platforms []string `help:"Platforms to build for, comma-separated. Default: all that have a C compiler." placeholder:"linux/amd64"`
	Tags      string   `help:"Go build tags, comma-separated."`
	Revision  string   `help:"Commit hash. Default: read from git. If the checkout has a .git, it must match." placeholder:"HASH"`
	Created   string   `help:"Commit time in RFC 3339. Required with --revision." placeholder:"TIME"`
}

// source returns the commit to build. If the flags set it and the checkout has a .git, they must
// match.
func (b buildFlags) source(ctx context.Context) (stage.Source, error) {
	if b.Revision == "" && b.Created == "" {
		return stage.FromGit(ctx, b.Root)
	}
	s, err := stage.ParseSource(b.Revision, b.Created)
	if err != nil {
		return stage.Source{}, err
	}
	return s, s.Verify(ctx, b.Root)
}

// pins reads the checkout's ci/images.yaml.
func (b buildFlags) pins() (pins.Pins, error) {
	text, err := os.ReadFile(filepath.Join(b.Root, "ci/images.yaml"))
	if err != nil {
		return pins.Pins{}, err
	}
	return pins.Parse(text)
}

// options returns the options of the build. If no platforms are set, it selects all that have a C
// compiler and for which supported returns nil, and prints why it skips others.
func (b buildFlags) options(ctx context.Context, supported func(platform string) error) (stage.Options, error) {
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
			err = supported(platform)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "skipping %s: %v\n", platform, err)
			continue
		}
		o.Platforms = append(o.Platforms, platform)
	}
	if len(o.Platforms) == 0 {
		return o, errors.New("no platform to build for: see the skipped ones above")
	}
	return o, nil
}

type stageCommand struct {
	buildFlags
	Out string `help:"Folder to write the programs to." default:"../build/stage" type:"path"`
}

func (c stageCommand) Run(ctx context.Context) error {
	o, err := c.options(ctx, func(string) error { return nil })
	if err != nil {
		return err
	}
	_, err = stage.Write(ctx, c.Out, o)
	return err
}

// imageFlags are the flags of commands that build images.
type imageFlags struct {
	buildFlags
	Base     string `help:"Base image: an OCI layout (a folder, or an archive of one) or NAME@sha256:…. Default: the one in ci/images.yaml." placeholder:"BASE"`
	BaseName string `help:"Name and digest of the image that the OCI layout was made from, for labels and provenance." placeholder:"NAME@sha256:…"`
	Builder  string `help:"URI of the build system, for the provenance." placeholder:"URI"`
	Work     string `help:"Folder to build in. Images are written to its subfolder images." default:"../build" type:"path"`
}

// base returns the base image and the pins. If the registry of the default base can't be reached,
// base builds one from Debian packages and prints a warning.
func (c imageFlags) base(ctx context.Context) (*oci.Base, pins.Pins, error) {
	p, err := c.pins()
	if err != nil {
		return nil, p, err
	}
	if c.Base != "" {
		base, err := c.selectedBase(ctx, p)
		return base, p, err
	}
	base, err := oci.PullBase(ctx, p.Base, registryOptions()...)
	var response *transport.Error
	if err == nil || errors.As(err, &response) || ctx.Err() != nil {
		return base, p, err
	}
	fmt.Fprintf(os.Stderr, "%v\n"+
		"warning: building a base from Debian packages instead; digests will differ from published images\n"+
		"hint: to use the real base, set BASE to an OCI layout of it\n", err)
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

// selectedBase returns the base that --base names.
func (c imageFlags) selectedBase(ctx context.Context, p pins.Pins) (*oci.Base, error) {
	where := strings.TrimPrefix(c.Base, "layout:")
	if _, err := os.Stat(where); err != nil {
		if strings.HasPrefix(c.Base, "layout:") || !strings.Contains(c.Base, "@") {
			return nil, fmt.Errorf("base: %w\nhint: pass an OCI layout, or NAME@sha256:… in a registry", err)
		}
		return oci.PullBase(ctx, c.Base, registryOptions()...)
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

// registryOptions returns options to access registries with the credentials of `docker login`.
func registryOptions() []remote.Option {
	return []remote.Option{remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithTransport(http.DefaultTransport)}
}

// buildImages builds the programs in the folder work and returns their images.
func (c imageFlags) buildImages(ctx context.Context, work string, base *oci.Base, p pins.Pins, o stage.Options) (map[string]*oci.Bundle, error) {
	staged := filepath.Join(work, "stage")
	if _, err := stage.Write(ctx, staged, o); err != nil {
		return nil, err
	}
	return c.makeImages(staged, base, p)
}

// makeImages returns the images of the programs in the folder staged.
func (c imageFlags) makeImages(staged string, base *oci.Base, p pins.Pins) (map[string]*oci.Bundle, error) {
	builder := c.Builder
	if builder == "" {
		builder = p.Repository + "/blob/main/docs/how-to/ci.md#on-a-laptop"
	}
	return images.Make(images.Options{Stage: staged, Base: base, Repository: p.Repository, Builder: builder})
}

// prepare returns the base, the pins and the options of the build.
func (c imageFlags) prepare(ctx context.Context) (*oci.Base, pins.Pins, stage.Options, error) {
	base, p, err := c.base(ctx)
	if err != nil {
		return nil, p, stage.Options{}, err
	}
	o, err := c.options(ctx, func(platform string) error { return images.CheckPlatform(base, platform) })
	return base, p, o, err
}

type writeCommand struct {
	imageFlags
	Staged bool `help:"Use the programs that the command stage built from the same commit."`
}

func (c writeCommand) Run(ctx context.Context, out io.Writer) error {
	base, p, o, err := c.prepare(ctx)
	if err != nil {
		return err
	}
	bundles, err := c.images(ctx, base, p, o)
	if err != nil {
		return err
	}
	folder := filepath.Join(c.Work, "images")
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	for _, program := range slices.Sorted(maps.Keys(bundles)) {
		if err := images.Check(program, bundles[program]); err != nil {
			return fmt.Errorf("image of %s: %w", program, err)
		}
		dir := filepath.Join(folder, program)
		if err := bundles[program].Save(dir, program+":"+o.Source.Revision); err != nil {
			return err
		}
	}
	digests, err := images.DigestList(bundles)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "digests.txt"), []byte(digests+"\n"), 0o644); err != nil {
		return err
	}
	return report(out, folder, bundles)
}

// images returns the images of programs that it builds or, with --staged, of staged ones. Those
// must be of the same commit and platforms.
func (c writeCommand) images(ctx context.Context, base *oci.Base, p pins.Pins, o stage.Options) (map[string]*oci.Bundle, error) {
	if !c.Staged {
		return c.buildImages(ctx, c.Work, base, p, o)
	}
	folder := filepath.Join(c.Work, "stage")
	build, err := stage.Read(folder)
	if err != nil {
		return nil, fmt.Errorf("%w\nhint: run make stage first", err)
	}
	if build.Revision != o.Source.Revision || !build.Created.Equal(o.Source.Created) || !slices.Equal(build.Platforms, o.Platforms) {
		return nil, fmt.Errorf("staged programs in %s are of commit %s for %s, but this build is of commit %s for %s\nhint: run make stage with the same arguments",
			relative(folder), build.Revision, strings.Join(build.Platforms, ","), o.Source.Revision, strings.Join(o.Platforms, ","))
	}
	return c.makeImages(folder, base, p)
}

// report prints one line per image: its program, digest, folder, and compressed size per platform.
func report(out io.Writer, folder string, bundles map[string]*oci.Bundle) error {
	for _, program := range slices.Sorted(maps.Keys(bundles)) {
		digest, err := bundles[program].Digest()
		if err != nil {
			return err
		}
		sizes, err := images.Sizes(bundles[program])
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

// relative returns a path relative to the checkout, where make runs.
func relative(path string) string {
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(filepath.Dir(wd), path); err == nil {
			return rel
		}
	}
	return path
}

type checkCommand struct{ imageFlags }

func (c checkCommand) Run(ctx context.Context, out io.Writer) (err error) {
	base, p, o, err := c.prepare(ctx)
	if err != nil {
		return err
	}
	digests := map[string]map[string]string{} // by program and build
	record := func(where string, bundles map[string]*oci.Bundle) error {
		for program, b := range bundles {
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
			return fmt.Errorf("%w\nhint: run `make images` first", err)
		}
		if err := record(relative(dir), map[string]*oci.Bundle{program: b}); err != nil {
			return err
		}
	}
	for _, folder := range []string{"one", "a-folder-of-another-length/two"} {
		bundles, err := c.buildCopy(ctx, folder, base, p, o)
		if err != nil {
			return err
		}
		if err := record("build in "+folder, bundles); err != nil {
			return err
		}
	}
	return compare(out, digests)
}

// compare prints digests, by program and build, and returns an error if a program's builds differ.
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
		return fmt.Errorf("builds of %s have different digests", strings.Join(differ, " and "))
	}
	fmt.Fprintln(out, "all builds have the same digests")
	return nil
}

// buildCopy copies the checkout to another folder, without ignored files, and builds there with an
// empty build cache.
func (c checkCommand) buildCopy(ctx context.Context, folder string, base *oci.Base, p pins.Pins, o stage.Options) (_ map[string]*oci.Bundle, err error) {
	temp, err := os.MkdirTemp("", "images-check-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	root := filepath.Join(temp, filepath.FromSlash(folder))
	if err := stage.CopyTree(ctx, root, c.Root); err != nil {
		return nil, err
	}
	// npm has verified these packages against the lock file, and they aren't compiled.
	if err := os.Symlink(filepath.Join(c.Root, "node_modules"), filepath.Join(root, "node_modules")); err != nil {
		return nil, err
	}
	o.Root, o.BuildCache = root, filepath.Join(temp, "cache")
	fmt.Fprintf(os.Stderr, "building from scratch in %s; this takes minutes\n", folder)
	return c.buildImages(ctx, filepath.Join(root, "build"), base, p, o)
}

type reproduceCommand struct {
	Digest string `arg:"" help:"Image to reproduce: HOST/PATH@sha256:…, or the digest of an image in build/images."`
	Root   string `help:"Folder of the checkout." default:".." type:"path"`
	Work   string `help:"Folder with built images." default:"../build" type:"path"`
	Base   string `help:"Base image, as for write." placeholder:"BASE"`
}

func (c reproduceCommand) Run(ctx context.Context, out io.Writer) (err error) {
	want, err := c.find(ctx)
	if err != nil {
		return err
	}
	about, err := images.Summarize(want)
	if err != nil {
		return err
	}
	source := stage.Source{Revision: about.Revision, Created: about.Created}
	if !source.Clean() {
		return fmt.Errorf("%s can't be reproduced: it was built from a modified tree of commit %s", c.Digest, strings.TrimSuffix(about.Revision, "-modified"))
	}
	temp, err := os.MkdirTemp("", "images-reproduce-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	root := filepath.Join(temp, "source")
	fmt.Fprintf(os.Stderr, "building commit %s for %s to compare it with %s, an image of %s\n", about.Revision, strings.Join(about.Platforms, " and "), c.Digest, about.Program)
	// Run the Makefile of that commit, because the way to build images may have changed since.
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
		return fmt.Errorf("%s differs from a build of commit %s on this machine:\n  %s", c.Digest, about.Revision, strings.Join(differences, "\n  "))
	}
	fmt.Fprintf(out, "%s is identical to a build of commit %s\n", c.Digest, about.Revision)
	return nil
}

// find returns the image from its registry or, if only the digest is given, from the built ones.
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
	Registry string   `help:"Registry to push to: HOST/PATH. Repositories are named HOST/PATH/PROGRAM." required:""`
	Tags     []string `help:"Tags to set in addition to the commit's, comma-separated." placeholder:"TAG"`
	SignKey  string   `help:"Sign with this cosign key, a file or the URI of a KMS. Set COSIGN_PASSWORD to its password." placeholder:"KEY"`
	Keyless  bool     `help:"Sign without a key, with your identity. Cosign opens a browser."`
	Cosign   string   `help:"Path of the program cosign." default:"../bin/tools/cosign" type:"path"`
}

func (c pushCommand) Run(ctx context.Context, out io.Writer) error {
	bundles := map[string]*oci.Bundle{}
	t := publish.Target{Registry: c.Registry, Tags: c.Tags}
	if err := t.Check(); err != nil {
		return err
	}
	for _, program := range stage.Programs {
		b, err := oci.Load(filepath.Join(c.Work, "images", program))
		if err != nil {
			return fmt.Errorf("%w\nhint: run `make images` first", err)
		}
		about, err := images.Summarize(b)
		if err != nil {
			return err
		}
		if about.Base == debian.Name {
			return fmt.Errorf("image of %s: its base was built from Debian packages and must not be published\nhint: run `make images` with BASE set to an OCI layout of the real base", program)
		}
		t.Tags = slices.Compact(append([]string{publish.CommitTag(about.Revision)}, c.Tags...))
		bundles[program] = b
	}
	if c.SignKey != "" || c.Keyless {
		t.Sign = func(ctx context.Context, ref name.Digest) error {
			return c.cosign(ctx, os.Stderr, publish.CosignArgs(ref, c.SignKey, "")...)
		}
	}
	if err := t.CheckPush(ctx, stage.Programs); err != nil {
		return err
	}
	if err := c.checkKey(ctx); err != nil {
		return err
	}
	pushed, err := publish.All(ctx, bundles, t)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, publish.Lines(pushed))
	return nil
}

// checkKey returns an error if cosign can't read the signing key. Run calls it before it pushes
// images, so that none stays unsigned. It returns nil if there is no key.
func (c pushCommand) checkKey(ctx context.Context) error {
	if c.SignKey == "" {
		return nil
	}
	if err := c.cosign(ctx, io.Discard, "public-key", "--key", c.SignKey); err != nil {
		return fmt.Errorf("read the signing key %s: %w\nhint: check SIGN and COSIGN_PASSWORD, the key's password", c.SignKey, err)
	}
	return nil
}

// cosign runs cosign. It inherits standard input and standard error, for passwords and prompts.
func (c pushCommand) cosign(ctx context.Context, out io.Writer, args ...string) error {
	cosign := exec.CommandContext(ctx, c.Cosign, args...)
	cosign.Stdin, cosign.Stdout, cosign.Stderr = os.Stdin, out, os.Stderr
	return cosign.Run()
}

type renewCommand struct {
	File string `arg:"" help:"File to update." default:"images.yaml"` // kong ignores the default of an existingfile argument
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
		d, err := remote.Head(ref, append(registryOptions(), remote.WithContext(ctx))...)
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
