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

// emptyConfig is the descriptor of `{}`, which artifacts have for a configuration.
// https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md#guidance-for-an-empty-descriptor
const (
	emptyConfig     = "{}"
	emptyConfigType = types.MediaType("application/vnd.oci.empty.v1+json")
)

// Referrer returns an artifact that is about subject, such as a list of what is in
// it. Its one blob has the media type that is the artifact's type, too.
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

// artifact is what partial.CompressedToImage needs of one.
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
		return nil, fmt.Errorf("artifact: no blob %s", h)
	}
	return a.layer, nil
}
