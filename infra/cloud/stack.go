package main

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// stackFile is what Pulumi.STACK.yaml says.
type stackFile struct {
	name   string // of the stack
	all    map[string]any
	config map[string]any
}

// readStack reads the file of a stack.
func readStack(path, name string) (*stackFile, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f := &stackFile{name: name}
	if err := yaml.Unmarshal(text, &f.all); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	f.config, _ = f.all["config"].(map[string]any)
	return f, nil
}

// get returns the text of a key, or "" without one.
func (f *stackFile) get(key string) string {
	value, ok := f.config[key]
	if !ok || value == nil {
		return ""
	}
	return fmt.Sprint(value)
}

// is tells whether a key is true; fallback counts where it isn't set.
func (f *stackFile) is(key string, fallback bool) bool {
	if value, err := strconv.ParseBool(f.get(key)); err == nil {
		return value
	}
	return fallback
}

func (f *stackFile) project() string { return f.get("gcp:project") }
func (f *stackFile) region() string  { return f.get("gcp:region") }

// prefix is what the names of the stack's resources begin with.
func (f *stackFile) prefix() string { return "fakeart-" + f.name }

// with is the file with other values: those of set, without the keys of unset.
func (f *stackFile) with(set map[string]string, unset ...string) *stackFile {
	changed := &stackFile{name: f.name, all: maps.Clone(f.all), config: maps.Clone(f.config)}
	for key, value := range set {
		changed.config[key] = value
	}
	for _, key := range unset {
		delete(changed.config, key)
	}
	changed.all["config"] = changed.config
	return changed
}

// write writes the file to a path.
func (f *stackFile) write(path string) error {
	text, err := yaml.Marshal(f.all)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.WriteFile(path, text, 0o600)
}

// The repositories of Google's sample images, with which Pulumi.dev.yaml starts.
const samples = "us-docker.pkg.dev/cloudrun/container/"

// registry is the name of the stack's repository, with which its images' names begin.
func (f *stackFile) registry() string {
	return fmt.Sprintf("%s-docker.pkg.dev/%s/%s", f.region(), f.project(), f.prefix())
}

// imageKeys are the keys of the images, by program.
var imageKeys = map[string]string{"server": "fakeart:image", "trainer": "fakeart:trainerImage"}

// wanted returns the programs whose images have yet to be built and pushed: those for
// which the file names none or a sample, and, if the repository doesn't exist, those that
// would have to be in it.
func (f *stackFile) wanted(repository bool) (programs []string) {
	for _, program := range []string{"server", "trainer"} {
		image := f.get(imageKeys[program])
		if image == "" || strings.HasPrefix(image, samples) || !repository && strings.HasPrefix(image, f.registry()+"/") {
			programs = append(programs, program)
		}
	}
	return programs
}

var (
	projectPattern = regexp.MustCompile(`^[a-z][a-z0-9-]{4,28}[a-z0-9]$`)
	regionPattern  = regexp.MustCompile(`^[a-z]+-[a-z]+[0-9]+$`)
)
