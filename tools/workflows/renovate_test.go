package workflows

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Renovate reads ci/images.yaml by an expression, which would pass over what it does not fit.
func TestRenovateFindsEveryImage(t *testing.T) {
	var config struct {
		CustomManagers []struct{ MatchStrings []string }
	}
	if err := json.Unmarshal(read(t, filepath.Join(root, "renovate.json")), &config); err != nil {
		t.Fatal(err)
	}
	expression := regexp.MustCompile(config.CustomManagers[0].MatchStrings[0])
	images := string(read(t, filepath.Join(root, "ci/images.yaml")))
	want := strings.Count(images, "sha256:")
	if got := len(expression.FindAllString(images, -1)); got != want || want == 0 {
		t.Errorf("of %d digests in ci/images.yaml renovate.json finds %d: it wants NAME:TAG@sha256:…", want, got)
	}
	const image = "gcr.io/distroless/cc-debian12:nonroot@sha256:9dac0a79194e45a7da0158a9c6da57b217585af0786db3845d1f0ec1a0dd182f"
	m := expression.FindStringSubmatch(`base: "` + image + `" # glibc`)
	if m == nil || m[1] != "gcr.io/distroless/cc-debian12" || m[2] != "nonroot" || !strings.HasPrefix(m[3], "sha256:9dac") {
		t.Errorf("%s is read as %q", image, m)
	}
}
