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
	explaining, err := Marshal(explainingGraph(), testMetadata())
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
		if len(md.Classes) != 2 || !(md.Threshold > 0 && md.Threshold < 1) || md.InputSize < 1 || file.EmbeddingSize < 1 || !strings.HasPrefix(file.Digest, "sha256:") {
			t.Errorf("Parse accepted an invalid file: %+v", file)
		}
		if label, fake := md.Label(1); label != md.Classes[1] || !fake {
			t.Errorf("Label(1) = %s", label)
		}
	})
}
