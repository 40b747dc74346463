// Package pins reads ci/images.yaml, which pins images by digest, with [Parse], and updates its
// digests with [Renew].
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

// Pins is the content of ci/images.yaml. Images have the form NAME:TAG@sha256:DIGEST.
type Pins struct {
	// Repository is the URL of the source repository.
	Repository string `yaml:"repository"`
	// Go is the image that builds the programs.
	Go string `yaml:"go"`
	// Node is the image that Node and npm are copied from.
	Node string `yaml:"node"`
	// Base is the base of the program images.
	Base string `yaml:"base"`
}

var (
	pinned    = regexp.MustCompile(`^([^@\s]+:[^@\s/:]+)@(sha256:[0-9a-f]{64})$`)
	goVersion = regexp.MustCompile(`:(1\.\d+(?:\.\d+)?(?:rc\d+)?)(?:-[^@]*)?@`)
)

// Parse parses the file. It returns an error that names the key if one is unknown or missing, or if an
// image has no tag or no digest.
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
			return p, fmt.Errorf("image pins: %s: %q isn't of the form NAME:TAG@sha256:DIGEST", key, image)
		}
	}
	if !goVersion.MatchString(p.Go) {
		return p, fmt.Errorf("image pins: go: the tag of %q doesn't start with a Go version", p.Go)
	}
	return p, nil
}

// images returns the pinned images by key.
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

// GoVersion returns the Go version in the tag of the Go image, such as 1.26.8.
func (p Pins) GoVersion() string { return goVersion.FindStringSubmatch(p.Go)[1] }

// Renew returns the file with new digests. It calls resolve with NAME:TAG of each image. Everything
// else in the file stays the same, including comments. If one call fails, Renew returns an error
// and no file.
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
		return nil, fmt.Errorf("renewed digests: %w", err)
	}
	return []byte(renewed), nil
}
