package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"net/url"
	"path/filepath"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"dagger/fakeart/internal/stage"
)

// sbomType is the media type of CycloneDX in JSON, https://cyclonedx.org/specification/overview/.
const sbomType = "application/vnd.cyclonedx+json"

// sbom returns the SBOM of an image, in CycloneDX's JSON format. It lists the Go modules in the
// program's build information, ONNX Runtime, and the base's Debian packages.
func (o Options) sbom(name, platform string, img v1.Image, build *stage.Build) ([]byte, error) {
	info, err := buildinfo.ReadFile(filepath.Join(o.Stage, stage.Dir(platform), name))
	if err != nil {
		return nil, err
	}
	components := []cdx.Component{{
		Type: cdx.ComponentTypeLibrary, Name: build.Runtime.Name, Version: build.Runtime.Version,
		BOMRef:     "pkg:npm/" + build.Runtime.Name + "@" + build.Runtime.Version,
		PackageURL: "pkg:npm/" + build.Runtime.Name + "@" + build.Runtime.Version,
		Licenses:   &cdx.Licenses{{License: &cdx.License{ID: "MIT"}}},
	}, goModule("stdlib", strings.TrimPrefix(info.GoVersion, "go"))}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		components = append(components, goModule(m.Path, m.Version))
	}
	debian, err := debianPackages(img)
	if err != nil {
		return nil, err
	}
	components = append(components, debian...)
	digest, err := img.Digest()
	if err != nil {
		return nil, err
	}
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{
		Timestamp: build.Created.Format("2006-01-02T15:04:05Z"),
		Component: &cdx.Component{
			Type: cdx.ComponentTypeContainer, Name: "fakeart/" + name, Version: build.Version(), BOMRef: digest.String(),
			PackageURL: fmt.Sprintf("pkg:oci/%s@%s?arch=%s", name, url.QueryEscape(digest.String()), strings.TrimPrefix(platform, "linux/")),
		},
	}
	bom.Components = &components
	var text bytes.Buffer
	err = cdx.NewBOMEncoder(&text, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
	return text.Bytes(), err
}

// goModule returns the component of a Go module. The path of the standard library is stdlib.
func goModule(path, version string) cdx.Component {
	purl := "pkg:golang/" + path + "@" + version
	return cdx.Component{Type: cdx.ComponentTypeLibrary, Name: path, Version: version, BOMRef: purl, PackageURL: purl}
}

// debianPackages returns the Debian packages in an image. Distroless images list them in
// var/lib/dpkg/status.d, and images with dpkg in var/lib/dpkg/status.
func debianPackages(img v1.Image) (_ []cdx.Component, err error) {
	files := mutate.Extract(img)
	defer func() { err = errors.Join(err, files.Close()) }()
	var found []cdx.Component
	for r := tar.NewReader(files); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(filepath.ToSlash(filepath.Clean(header.Name)), "/")
		inStatusDir := strings.HasPrefix(name, "var/lib/dpkg/status.d/") && !strings.HasSuffix(name, ".md5sums")
		if header.Typeflag != tar.TypeReg || !inStatusDir && name != "var/lib/dpkg/status" {
			continue
		}
		for p := textproto.NewReader(bufio.NewReader(r)); ; {
			fields, err := p.ReadMIMEHeader()
			if pkg, version := fields.Get("Package"), fields.Get("Version"); pkg != "" && version != "" {
				purl := fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s", pkg, url.PathEscape(version), fields.Get("Architecture"))
				found = append(found, cdx.Component{Type: cdx.ComponentTypeLibrary, Name: pkg, Version: version, BOMRef: purl, PackageURL: purl})
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", name, err)
			}
		}
	}
}
