package oci

import (
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Added is a layer on top of the base. Note is its line in the image's history.
type Added struct {
	Layer v1.Layer
	Note  string
}

// Image returns an image with the base's layers for a platform and the added ones. It takes only the
// layers' content from the base, not the configuration. Every time in the image is created, in whole
// seconds.
func Image(base *Base, platform v1.Platform, config v1.Config, created time.Time, added ...Added) (v1.Image, error) {
	layers, err := base.Layers(platform)
	if err != nil {
		return nil, err
	}
	at := v1.Time{Time: created.UTC().Truncate(time.Second)}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		OS: platform.OS, Architecture: platform.Architecture, Config: config, Created: at,
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, err
	}
	for _, l := range layers {
		if img, err = appendLayer(img, l, at, "base "+base.Name+"@"+base.Digest.String()); err != nil {
			return nil, err
		}
	}
	for _, a := range added {
		if img, err = appendLayer(img, a.Layer, at, a.Note); err != nil {
			return nil, err
		}
	}
	return img, nil
}

// appendLayer adds a layer to an image, with a line in the history.
func appendLayer(img v1.Image, layer v1.Layer, at v1.Time, note string) (v1.Image, error) {
	return mutate.Append(img, mutate.Addendum{
		Layer: layer, MediaType: types.OCILayer, History: v1.History{Created: at, CreatedBy: note},
	})
}

// Index returns a multi-platform image with these images, in this order. The annotations are set on
// the index only.
func Index(images []v1.Image, annotations map[string]string) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, img := range images {
		config, err := img.ConfigFile()
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: config.Platform()},
		})
	}
	return mutate.Annotations(index, annotations).(v1.ImageIndex), nil
}
