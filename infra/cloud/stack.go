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

// stackFile is the content of Pulumi.STACK.yaml.
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

// get returns the value of a key as text, or "" if it isn't set.
func (f *stackFile) get(key string) string {
	value, ok := f.config[key]
	if !ok || value == nil {
		return ""
	}
	return fmt.Sprint(value)
}

// is reports whether a key is true. It returns fallback if the key isn't set or isn't a boolean.
func (f *stackFile) is(key string, fallback bool) bool {
	if value, err := strconv.ParseBool(f.get(key)); err == nil {
		return value
	}
	return fallback
}

func (f *stackFile) project() string { return f.get("gcp:project") }
func (f *stackFile) region() string  { return f.get("gcp:region") }

// prefix returns the prefix of resource names.
func (f *stackFile) prefix() string { return "fakeart-" + f.name }

// with returns a copy with the values of set and without the keys of unset.
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

// sampleImages is the prefix of Google's sample images, which Pulumi.dev.yaml starts with.
const sampleImages = "us-docker.pkg.dev/cloudrun/container/"

// registry returns the name of the stack's repository, the prefix of its image names.
func (f *stackFile) registry() string {
	return fmt.Sprintf("%s-docker.pkg.dev/%s/%s", f.region(), f.project(), f.prefix())
}

// imageKeys maps a program to the key of its image.
var imageKeys = map[string]string{"server": "fakeart:image", "trainer": "fakeart:trainerImage"}

// missingImages returns the programs whose images must be built and pushed: those without an image
// or with a sample image, and, if the repository doesn't exist, those with an image in it.
func (f *stackFile) missingImages(repository bool) (programs []string) {
	for _, program := range []string{"server", "trainer"} {
		image := f.get(imageKeys[program])
		if image == "" || strings.HasPrefix(image, sampleImages) || !repository && strings.HasPrefix(image, f.registry()+"/") {
			programs = append(programs, program)
		}
	}
	return programs
}

var (
	projectPattern = regexp.MustCompile(`^[a-z][a-z0-9-]{4,28}[a-z0-9]$`)
	regionPattern  = regexp.MustCompile(`^[a-z]+-[a-z]+[0-9]+$`)
)
