package workflows

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRenovateImages checks that the regular expression in renovate.json matches every image of ci/images.yaml.
func TestRenovateImages(t *testing.T) {
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
		t.Errorf("renovate.json matches %[2]d of %[1]d digests in ci/images.yaml: expected NAME:TAG@sha256:…", want, got)
	}
	const image = "gcr.io/distroless/cc-debian12:nonroot@sha256:9dac0a79194e45a7da0158a9c6da57b217585af0786db3845d1f0ec1a0dd182f"
	m := expression.FindStringSubmatch(`base: "` + image + `" # glibc`)
	if m == nil || m[1] != "gcr.io/distroless/cc-debian12" || m[2] != "nonroot" || !strings.HasPrefix(m[3], "sha256:9dac") {
		t.Errorf("%s matches as %q", image, m)
	}
}
