package model

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// FuzzParse checks that Parse doesn't panic on arbitrary data, and that accepted files are valid.
func FuzzParse(f *testing.F) {
	good := testFile(f)
	f.Add(good)
	f.Add(good[:len(good)/2])
	explaining, err := Marshal(explainingGraph(), explainingMetadata())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(explaining)
	f.Add(bytes.Replace(good, []byte("fakeart.classes"), []byte("fakeart.klasses"), 1))
	f.Add(protowire.AppendTag(nil, 7, protowire.BytesType)) // a truncated graph
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse(data)
		if err != nil {
			if file != nil || strings.Contains(err.Error(), "\n") {
				t.Errorf("Parse returned both a file and the error %q", err)
			}
			return
		}
		md := file.Metadata
		if err := md.check(); err != nil || file.Plan == nil || !strings.HasPrefix(file.Digest, "sha256:") {
			t.Errorf("Parse accepted an invalid file: %v, %+v", err, file)
		}
		probabilities := make([]float64, len(md.Classes))
		if err := md.Probabilities(probabilities, make([]float32, md.Columns)); err != nil {
			t.Error(err)
		}
		if class := md.Decide(probabilities); class < 0 || class >= len(md.Labels()) {
			t.Errorf("Decide returned class %d of %d", class, len(md.Classes))
		}
	})
}
