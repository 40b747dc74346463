package images

import (
	"bytes"
	"encoding/json"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"dagger/fakeart/internal/stage"
)

const (
	// statementType is the media type of in-toto statements,
	// https://github.com/in-toto/attestation/blob/main/spec/v1/envelope.md.
	statementType = "application/vnd.in-toto+json"
	// provenanceType is the predicate type,
	// https://slsa.dev/spec/v1.1/provenance.
	provenanceType = "https://slsa.dev/provenance/v1"
)

// provenance returns an in-toto statement, in JSON, with a SLSA predicate that describes how the index
// was built. It contains no times, so repeated builds have the same provenance.
func (o Options) provenance(name string, index v1.ImageIndex, build *stage.Build) ([]byte, error) {
	digest, err := index.Digest()
	if err != nil {
		return nil, err
	}
	external, err := structpb.NewStruct(map[string]any{
		"program": name, "platforms": list(build.Platforms), "source": o.Repository, "revision": build.Revision,
	})
	if err != nil {
		return nil, err
	}
	compilers := map[string]any{}
	for platform, version := range build.Compilers {
		compilers[platform] = version
	}
	internal, err := structpb.NewStruct(map[string]any{"go": build.GoVersion, "compilers": compilers})
	if err != nil {
		return nil, err
	}
	integrity, err := sha512(build.Runtime.Integrity)
	if err != nil {
		return nil, err
	}
	predicate := &slsa.Provenance{
		BuildDefinition: &slsa.BuildDefinition{
			BuildType:          o.Repository + "/blob/main/docs/how-to/ci.md#images",
			ExternalParameters: external, InternalParameters: internal,
			ResolvedDependencies: []*intoto.ResourceDescriptor{
				{
					Uri:    "git+" + o.Repository + "@" + build.Revision,
					Digest: map[string]string{"gitCommit": strings.TrimSuffix(build.Revision, "-modified")},
				},
				{Name: "base", Uri: strings.TrimSuffix("oci://"+o.Base.Name, "oci://"), Digest: map[string]string{"sha256": o.Base.Digest.Hex}},
				{Uri: "pkg:npm/" + build.Runtime.Name + "@" + build.Runtime.Version, Digest: map[string]string{"sha512": integrity}},
			},
		},
		RunDetails: &slsa.RunDetails{Builder: &slsa.Builder{Id: o.Builder}},
	}
	if err := predicate.Validate(); err != nil {
		return nil, err
	}
	text, err := protojson.Marshal(predicate)
	if err != nil {
		return nil, err
	}
	var asStruct structpb.Struct
	if err := protojson.Unmarshal(text, &asStruct); err != nil {
		return nil, err
	}
	statement := &intoto.Statement{
		Type:          intoto.StatementTypeUri,
		Subject:       []*intoto.ResourceDescriptor{{Name: name, Digest: map[string]string{"sha256": digest.Hex}}},
		PredicateType: provenanceType, Predicate: &asStruct,
	}
	if err := statement.Validate(); err != nil {
		return nil, err
	}
	if text, err = protojson.Marshal(statement); err != nil {
		return nil, err
	}
	// protojson varies its whitespace at random, but the provenance must be reproducible.
	var compact bytes.Buffer
	err = json.Compact(&compact, text)
	return compact.Bytes(), err
}

// list converts values for structpb, which accepts only []any.
func list(values []string) []any {
	var all []any
	for _, s := range values {
		all = append(all, s)
	}
	return all
}
