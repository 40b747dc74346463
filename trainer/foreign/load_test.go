package foreign_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"fakeart/internal/onnx/onnxpb"
	"fakeart/trainer/foreign"
)

// external copies the test network with external data, after changing the places of its weights.
func external(t *testing.T, change func(dir string, key string, entry *onnxpb.StringStringEntryProto)) string {
	t.Helper()
	dir := t.TempDir()
	data, err := os.ReadFile("testdata/dynamo/model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	var m onnxpb.ModelProto
	if err := proto.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, w := range m.Graph.Initializer {
		for _, e := range w.ExternalData {
			change(dir, e.GetKey(), e)
			found = true
		}
	}
	if !found {
		t.Fatal("the test network has no external data")
	}
	if data, err = proto.Marshal(&m); err != nil {
		t.Fatal(err)
	}
	weights, err := os.ReadFile("testdata/dynamo/model.onnx.data")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"model.onnx": data, "model.onnx.data": weights} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "model.onnx")
}

func TestImport_externalData(t *testing.T) {
	set := func(key, value string) func(string, string, *onnxpb.StringStringEntryProto) {
		return func(_ string, k string, e *onnxpb.StringStringEntryProto) {
			if k == key {
				e.Value = proto.String(value)
			}
		}
	}
	for name, test := range map[string]struct {
		change func(dir, key string, e *onnxpb.StringStringEntryProto)
		want   []string
	}{
		"missing":      {set("location", "resnet.onnx.data"), []string{"resnet.onnx.data, is missing", "rename model.onnx.data back"}},
		"outside":      {set("location", "../model.onnx.data"), []string{`"../model.onnx.data"`, "outside of the model's folder"}},
		"absolute":     {set("location", "/etc/passwd"), []string{`"/etc/passwd"`, "outside of the model's folder"}},
		"truncated":    {set("offset", "999999"), []string{"only has", "copy or export both files again"}},
		"negative":     {set("offset", "-8"), []string{"hint: "}},
		"not_a_number": {set("length", "all"), []string{`invalid length "all"`}},
		"wrong_length": {set("length", "8"), []string{"its shape needs"}},
		"link": {func(dir, key string, e *onnxpb.StringStringEntryProto) {
			if key == "location" {
				_ = os.Symlink("/etc/hostname", filepath.Join(dir, "link"))
				e.Value = proto.String("link")
			}
		}, []string{"link", "can't be read", "cp -rL"}},
		"folder": {func(dir, key string, e *onnxpb.StringStringEntryProto) {
			if key == "location" {
				_ = os.Mkdir(filepath.Join(dir, "sub"), 0o700)
				e.Value = proto.String("sub")
			}
		}, []string{"not a regular file"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := foreign.Import(external(t, test.change), foreign.Options{Settings: abc, Preset: "unit"})
			wantError(t, err, test.want...)
		})
	}
}

func TestImport_tooLarge(t *testing.T) {
	path := external(t, func(dir, key string, e *onnxpb.StringStringEntryProto) {
		if key != "location" {
			return
		}
		e.Value = proto.String("huge")
		f, err := os.Create(filepath.Join(dir, "huge"))
		if err == nil {
			err = f.Truncate(3 << 30) // sparse
			_ = f.Close()
		}
		if err != nil {
			t.Skipf("a sparse file of 3 GiB: %v", err)
		}
	})
	if err := os.Rename(filepath.Join(filepath.Dir(path), "huge"), path+"3"); err != nil {
		t.Fatal(err)
	}
	_, err := foreign.Import(path+"3", foreign.Options{Settings: abc})
	wantError(t, err, "3.2 GB", "at most 2 GiB", "float16")
}

func TestImport_notONNX(t *testing.T) {
	for name, test := range map[string]struct{ content, want string }{
		"zip":        {"PK\x03\x04rest", "PyTorch checkpoint"},
		"hdf5":       {"\x89HDF\r\n", "Keras"},
		"lfs":        {"version https://git-lfs.github.com/spec/v1", "git lfs pull"},
		"html":       {"<!doctype html>", "HTML"},
		"tflite":     {"\x1c\x00\x00\x00TFL3....", "TensorFlow Lite"},
		"random":     {"\x01\x02\x03\x04\x05", "isn't an ONNX model"},
		"empty":      {"", "is empty"},
		"only_field": {"\x08\x08", "isn't an ONNX model"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "model.onnx")
			if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := foreign.Import(path, foreign.Options{})
			wantError(t, err, test.want, "\nhint: ")
		})
	}
	_, err := foreign.Import("missing.onnx", foreign.Options{})
	wantError(t, err, "import missing.onnx: ", "no such file")
	if strings.Count(err.Error(), "missing.onnx") != 1 {
		t.Errorf("error = %q", err)
	}
	_, err = foreign.Import(t.TempDir(), foreign.Options{})
	wantError(t, err, "is a folder")
}
