package oci

import (
	"bytes"
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// emptyConfig is the configuration of artifacts, which have no configuration of their own.
// https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md#guidance-for-an-empty-descriptor
const (
	emptyConfig     = "{}"
	emptyConfigType = types.MediaType("application/vnd.oci.empty.v1+json")
)

// Referrer returns an artifact that is attached to subject, such as an SBOM. It has one blob, and
// mediaType is the type of both the blob and the artifact.
func Referrer(subject v1.Descriptor, mediaType string, blob []byte, annotations map[string]string) (v1.Image, error) {
	layer := static.NewLayer(blob, types.MediaType(mediaType))
	digest, err := layer.Digest()
	if err != nil {
		return nil, err
	}
	config, size, err := v1.SHA256(bytes.NewReader([]byte(emptyConfig)))
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: mediaType,
		Config: v1.Descriptor{MediaType: emptyConfigType, Digest: config, Size: size},
		Layers: []v1.Descriptor{{MediaType: types.MediaType(mediaType), Digest: digest, Size: int64(len(blob))}},
		Subject: &v1.Descriptor{
			MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size,
		},
		Annotations: annotations,
	})
	if err != nil {
		return nil, fmt.Errorf("artifact %s: %w", mediaType, err)
	}
	return partial.CompressedToImage(artifact{manifest: manifest, layer: layer, digest: digest})
}

// artifact implements [partial.CompressedImageCore].
type artifact struct {
	manifest []byte
	layer    v1.Layer
	digest   v1.Hash
}

func (a artifact) RawManifest() ([]byte, error)        { return a.manifest, nil }
func (a artifact) RawConfigFile() ([]byte, error)      { return []byte(emptyConfig), nil }
func (a artifact) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

func (a artifact) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	if h != a.digest {
		return nil, fmt.Errorf("artifact has no blob %s", h)
	}
	return a.layer, nil
}
