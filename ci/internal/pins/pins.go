// Package pins reads and renews the file that names what images are made of.
package pins

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Pins is the file's content. Images are named NAME:TAG@sha256:DIGEST.
type Pins struct {
	// Repository is where the source lives, a URL.
	Repository string `yaml:"repository"`
	// Go builds the programs.
	Go string `yaml:"go"`
	// Node brings npm.
	Node string `yaml:"node"`
	// Base is what the programs' images stand on.
	Base string `yaml:"base"`
}

var (
	pinned    = regexp.MustCompile(`^([^@\s]+:[^@\s/:]+)@(sha256:[0-9a-f]{64})$`)
	goVersion = regexp.MustCompile(`:(1\.\d+(?:\.\d+)?(?:rc\d+)?)(?:-[^@]*)?@`)
)

// Parse reads the file. An unknown key, a missing one, and an image without a tag or a
// digest are errors that name it.
func Parse(text []byte) (Pins, error) {
	var p Pins
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&p); err != nil {
		return p, fmt.Errorf("image pins: %w", err)
	}
	if p.Repository == "" {
		return p, fmt.Errorf("image pins: repository is missing")
	}
	for key, image := range p.images() {
		if !pinned.MatchString(image) {
			return p, fmt.Errorf("image pins: %s: %q is not NAME:TAG@sha256:DIGEST", key, image)
		}
	}
	if !goVersion.MatchString(p.Go) {
		return p, fmt.Errorf("image pins: go: the tag of %q does not begin with a version of Go", p.Go)
	}
	return p, nil
}

// images are the values that name images, by key.
func (p Pins) images() map[string]string {
	all := map[string]string{}
	v := reflect.ValueOf(p)
	for i := range v.NumField() {
		if key := v.Type().Field(i).Tag.Get("yaml"); key != "repository" {
			all[key] = v.Field(i).String()
		}
	}
	return all
}

// GoVersion is the version of Go in the tag of the image that builds, such as 1.26.8.
func (p Pins) GoVersion() string { return goVersion.FindStringSubmatch(p.Go)[1] }

// Renew returns the file with the digest that resolve has for each image's name and tag
// today. Everything else in it, comments too, stays as it is.
func Renew(ctx context.Context, text []byte, resolve func(ctx context.Context, image string) (digest string, err error)) ([]byte, error) {
	p, err := Parse(text)
	if err != nil {
		return nil, err
	}
	renewed := string(text)
	for key, image := range p.images() {
		parts := pinned.FindStringSubmatch(image)
		digest, err := resolve(ctx, parts[1])
		if err != nil {
			return nil, fmt.Errorf("renew %s: %s: %w", key, parts[1], err)
		}
		renewed = strings.ReplaceAll(renewed, image, parts[1]+"@"+digest)
	}
	if _, err := Parse([]byte(renewed)); err != nil {
		return nil, fmt.Errorf("renew: %w", err)
	}
	return []byte(renewed), nil
}
