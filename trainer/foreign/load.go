package foreign

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"fakeart/internal/onnx/onnxpb"
)

// maxSize is the maximum size of a protocol buffer, and therefore of a model in one file.
const maxSize = 1<<31 - 1

// load reads an ONNX file together with the weights that it stores in other files.
func load(path string) (*onnxpb.ModelProto, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	var m onnxpb.ModelProto
	// Fields of newer versions of ONNX only describe: stack traces, the placement on devices.
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, &m); err != nil || m.GetGraph() == nil || len(m.GetOpsetImport()) == 0 {
		return nil, notONNX(path, data)
	}
	if err := fold(&m, path, int64(len(data))); err != nil {
		return nil, err
	}
	return &m, nil
}

// read reads a regular file.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: no such file", path)
		}
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, fmt.Errorf("%s is a folder\nhint: give the path of the .onnx file in it", path)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s isn't a regular file", path)
	case info.Size() > maxSize:
		return nil, tooLarge(path, info.Size())
	case info.Size() == 0:
		return nil, fmt.Errorf("%s is empty\nhint: export or copy it again", path)
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

func tooLarge(path string, size int64) error {
	return fmt.Errorf("%s: %.1f GB with its weights, but a model in one file has at most 2 GiB (2.1 GB)\n"+
		"hint: store the weights as float16 (onnxconverter-common: convert_float_to_float16) or int8, or use a smaller model", path, float64(size)/1e9)
}

// notONNX returns the error for a file that isn't an ONNX model. It recognizes the files that users confuse with one.
func notONNX(path string, data []byte) error {
	const export = "\nhint: export the model to ONNX first: docs/how-to/bring-your-own-model.md"
	for _, known := range []struct {
		prefix, is string
	}{
		{"PK\x03\x04", "a PyTorch checkpoint, a Keras model or another ZIP archive"},
		{"\x89HDF", "an HDF5 file, probably of Keras"},
		{"\x80\x02", "a Python pickle, probably a PyTorch checkpoint"},
		{"version https://git-lfs", "a Git LFS pointer, not the file itself"},
		{"<", "an HTML or XML file"},
		{"{", "a JSON file"},
	} {
		if bytes.HasPrefix(data, []byte(known.prefix)) {
			hint := export
			if strings.Contains(known.is, "LFS") {
				hint = "\nhint: download it with git lfs pull"
			}
			return fmt.Errorf("%s isn't an ONNX model but %s%s", path, known.is, hint)
		}
	}
	if len(data) > 8 && string(data[4:8]) == "TFL3" {
		return fmt.Errorf("%s isn't an ONNX model but a TensorFlow Lite model%s", path, export)
	}
	return fmt.Errorf("%s isn't an ONNX model, or is truncated%s", path, export)
}

// fold moves weights from other files into the model. size is that of the model's file. Locations must be files in the model's folder, as
// the ONNX specification requires.
func fold(m *onnxpb.ModelProto, path string, size int64) error {
	var external []*onnxpb.TensorProto
	tensors(m, func(t *onnxpb.TensorProto) {
		if t.GetDataLocation() == onnxpb.TensorProto_EXTERNAL {
			external = append(external, t)
		}
	})
	if len(external) == 0 {
		return nil
	}
	// Root rejects paths, and links, that lead out of the folder.
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	files := map[string]*os.File{}
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	type piece struct {
		tensor         *onnxpb.TensorProto
		file           *os.File
		offset, length int64
	}
	var pieces []piece
	for _, t := range external {
		location, offset, length, err := place(t)
		if err != nil {
			return fmt.Errorf("%s: weight %q: %w", path, t.GetName(), err)
		}
		f := files[location]
		if f == nil {
			if f, err = openExternal(dir, path, location); err != nil {
				return err
			}
			files[location] = f
		}
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if length < 0 {
			length = info.Size() - offset
		}
		if offset < 0 || length < 0 || offset > info.Size() || length > info.Size()-offset {
			return fmt.Errorf("%s: weight %q is at bytes %d to %d of %s, which only has %d bytes\nhint: copy or export both files again",
				path, t.GetName(), offset, offset+length, location, info.Size())
		}
		if want, ok := byteSize(t); ok && want != length {
			return fmt.Errorf("%s: weight %q has %d bytes in %s, but its shape needs %d\nhint: export the model again", path, t.GetName(), length, location, want)
		}
		size += length
		pieces = append(pieces, piece{t, f, offset, length})
	}
	if size > maxSize {
		return tooLarge(path, size)
	}
	for _, p := range pieces {
		p.tensor.RawData = make([]byte, p.length)
		if _, err := p.file.ReadAt(p.tensor.RawData, p.offset); err != nil {
			return fmt.Errorf("%s: read weight %q: %w", path, p.tensor.GetName(), err)
		}
		p.tensor.DataLocation, p.tensor.ExternalData = nil, nil
	}
	return nil
}

// place returns where a tensor is stored. length is -1 if it extends to the end of the file.
func place(t *onnxpb.TensorProto) (location string, offset, length int64, err error) {
	length = -1
	for _, e := range t.GetExternalData() {
		switch e.GetKey() {
		case "location":
			location = e.GetValue()
		case "offset":
			offset, err = strconv.ParseInt(e.GetValue(), 10, 64)
		case "length":
			length, err = strconv.ParseInt(e.GetValue(), 10, 64)
		}
		if err != nil {
			return "", 0, 0, fmt.Errorf("invalid %s %q of external data", e.GetKey(), e.GetValue())
		}
	}
	if location == "" {
		return "", 0, 0, errors.New("external data without a location")
	}
	return location, offset, length, nil
}

func openExternal(dir *os.Root, path, location string) (*os.File, error) {
	if !filepath.IsLocal(filepath.FromSlash(location)) {
		return nil, fmt.Errorf("%s: weights are stored in %q, which is outside of the model's folder\n"+
			"hint: don't trust this file, or save it again with onnx.save(…, save_as_external_data=True, location=\"model.onnx.data\")", path, location)
	}
	f, err := dir.Open(filepath.FromSlash(location))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		hint := "copy it into the same folder"
		if others := similar(path, location); others != "" {
			hint += ", or rename " + others + " back: the model refers to the original name"
		}
		return nil, fmt.Errorf("%s: the file with its weights, %s, is missing\nhint: %s", path, location, hint)
	case err != nil:
		return nil, fmt.Errorf("%s: weights in %s can't be read: %w\nhint: if it's a link out of the folder, copy the files themselves: cp -rL FOLDER COPY", path, location, cause(err))
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		_ = f.Close()
		return nil, fmt.Errorf("%s: weights in %s can't be read: not a regular file", path, location)
	}
	return f, nil
}

// cause returns the reason of a failed file operation without the path.
func cause(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// similar lists files beside the model that may hold its weights under another name.
func similar(path, location string) string {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return ""
	}
	var names []string
	for _, e := range entries {
		if n := e.Name(); n != location && e.Type().IsRegular() && (strings.HasSuffix(n, ".data") || strings.HasSuffix(n, "_data") || strings.HasSuffix(n, ".bin")) {
			names = append(names, n)
		}
	}
	return strings.Join(names, " or ")
}

// byteSize returns the size of a tensor's values. ok is false for types whose size isn't a number of whole bytes.
func byteSize(t *onnxpb.TensorProto) (n int64, ok bool) {
	switch onnxpb.TensorProto_DataType(t.GetDataType()) {
	case onnxpb.TensorProto_FLOAT, onnxpb.TensorProto_INT32, onnxpb.TensorProto_UINT32:
		n = 4
	case onnxpb.TensorProto_DOUBLE, onnxpb.TensorProto_INT64, onnxpb.TensorProto_UINT64:
		n = 8
	case onnxpb.TensorProto_FLOAT16, onnxpb.TensorProto_BFLOAT16, onnxpb.TensorProto_INT16, onnxpb.TensorProto_UINT16:
		n = 2
	case onnxpb.TensorProto_INT8, onnxpb.TensorProto_UINT8, onnxpb.TensorProto_BOOL:
		n = 1
	default:
		return 0, false
	}
	for _, d := range t.GetDims() {
		if d < 0 || d > maxSize || n > maxSize {
			return 0, false
		}
		n *= d
	}
	return n, true
}

// tensors calls f for every constant tensor of the model, those of subgraphs and functions included.
func tensors(m *onnxpb.ModelProto, f func(*onnxpb.TensorProto)) {
	nodes(m, func(g *onnxpb.GraphProto) {
		for _, t := range g.GetInitializer() {
			f(t)
		}
		for _, t := range g.GetSparseInitializer() {
			f(t.GetValues())
			f(t.GetIndices())
		}
	}, func(n *onnxpb.NodeProto) {
		for _, a := range n.GetAttribute() {
			if a.GetT() != nil {
				f(a.GetT())
			}
			for _, t := range a.GetTensors() {
				f(t)
			}
			for _, s := range a.GetSparseTensors() {
				f(s.GetValues())
				f(s.GetIndices())
			}
			if s := a.GetSparseTensor(); s != nil {
				f(s.GetValues())
				f(s.GetIndices())
			}
		}
	})
}

// nodes calls the functions for every graph and node of the model, those of subgraphs and functions included.
func nodes(m *onnxpb.ModelProto, graph func(*onnxpb.GraphProto), node func(*onnxpb.NodeProto)) {
	var walk func([]*onnxpb.NodeProto)
	visit := func(g *onnxpb.GraphProto) {
		graph(g)
		walk(g.GetNode())
	}
	walk = func(list []*onnxpb.NodeProto) {
		for _, n := range list {
			node(n)
			for _, a := range n.GetAttribute() {
				if a.GetG() != nil {
					visit(a.GetG())
				}
				for _, g := range a.GetGraphs() {
					visit(g)
				}
			}
		}
	}
	visit(m.GetGraph())
	for _, f := range m.GetFunctions() {
		walk(f.GetNode())
	}
}

// strip removes what isn't needed to run the model: doc strings, exporters' own metadata, and the shapes of intermediate values, which may
// contradict the shape of the input. load has already removed the metadata of nodes, in which PyTorch stores stack traces with the paths
// of its user's files.
func strip(m *onnxpb.ModelProto) {
	m.DocString = nil
	m.TrainingInfo = nil
	m.MetadataProps = slices.DeleteFunc(m.MetadataProps, func(e *onnxpb.StringStringEntryProto) bool { return strings.HasPrefix(e.GetKey(), "pkg.") })
	nodes(m, func(g *onnxpb.GraphProto) {
		g.DocString, g.ValueInfo = nil, nil
		for _, v := range slices.Concat(g.GetInput(), g.GetOutput()) {
			v.DocString = nil
		}
	}, func(n *onnxpb.NodeProto) {
		n.DocString = nil
		for _, a := range n.GetAttribute() {
			a.DocString = nil
		}
	})
	tensors(m, func(t *onnxpb.TensorProto) { t.DocString = nil })
	for _, f := range m.GetFunctions() {
		f.DocString = nil
	}
}
