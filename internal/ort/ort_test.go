package ort

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	ortgo "github.com/yalue/onnxruntime_go"
	"google.golang.org/protobuf/proto"

	"fakeart/internal/onnx/onnxpb"
)

// initVariable makes the test binary call Init and print the error instead of running tests. Testing Init
// with other libraries requires a process that hasn't loaded one.
const initVariable = "FAKEART_TEST_INIT"

func TestMain(m *testing.M) {
	if os.Getenv(initVariable) != "" {
		if err := Init(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("version", Version())
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// initElsewhere runs Init in another process with the given library and returns its output.
func initElsewhere(t *testing.T, library string) (output string, ok bool) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), initVariable+"=1", LibraryPathVariable+"="+library)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err == nil
}

func TestInit(t *testing.T) {
	for range 2 {
		if err := Init(); err != nil {
			t.Fatal(err)
		}
	}
	if api, known := apiVersion(Version()); !known || api < minAPIVersion {
		t.Errorf("version %q of the loaded library, want 1.%d or newer", Version(), minAPIVersion)
	}
}

func TestInit_incompatibleLibrary(t *testing.T) {
	garbage := filepath.Join(t.TempDir(), "garbage.so")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("not a library\n", 100)), 0o644); err != nil {
		t.Fatal(err)
	}
	empty := touch(t, t.TempDir(), "empty.so")
	for _, test := range []struct{ name, library, want string }{
		{"old version", compile(t, fakeORT("1.23.2", 23)), `version "1.23.2" is too old, 1.24 or newer is required`},
		{"old version with unknown scheme", compile(t, fakeORT("trunk", 23)), `version "trunk" is too old`},
		{"empty version", compile(t, fakeORT("", 3)), `version "" is too old`},
		{"other library", compile(t, "int answer(void) { return 42; }"), "not an ONNX Runtime library"},
		{"API base is NULL", compile(t, "void *OrtGetApiBase(void) { return 0; }"), "not an ONNX Runtime library"},
		{"unresolved symbol", compile(t, "int absent(void); int present(void) { return absent(); }"), "absent"},
		{"garbage", garbage, garbage},
		{"empty file", empty, empty},
	} {
		t.Run(test.name, func(t *testing.T) {
			output, ok := initElsewhere(t, test.library)
			if ok {
				t.Fatalf("Init succeeded: %s", output)
			}
			for _, want := range []string{test.want, test.library, LibraryPathVariable, installCommand} {
				if !strings.Contains(output, want) {
					t.Errorf("output %q, want %q", output, want)
				}
			}
			if strings.Contains(output, "\n") {
				t.Errorf("output has more than one line: %q", output)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	for _, test := range []struct{ name, source string }{
		{"minimum version", fakeORT("1.24.0", 24)},
		{"newer version", fakeORT("1.105.3", 105)},
		{"unknown version scheme", fakeORT("main-7f3c", 30)},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := check(compile(t, test.source)); err != nil {
				t.Error(err)
			}
		})
	}
}

// fakeORT returns the C source of a library that pretends to be ONNX Runtime of the given version. Like the
// real one, it prints a message for an API version above newest.
func fakeORT(version string, newest int) string {
	return fmt.Sprintf(`
#include <stdint.h>
#include <stdio.h>
static const void *get_api(uint32_t v) {
	static int api;
	if (v <= %d) return &api;
	if (%q[0] == '1') fprintf(stderr, "The requested API version [%%u] is not available\n", v);
	return 0;
}
static const char *get_version(void) { return %q; }
static const struct { const void *(*a)(uint32_t); const char *(*b)(void); } base = { get_api, get_version };
const void *OrtGetApiBase(void) { return &base; }
`, newest, version, version)
}

// compile builds a shared library from C source and returns its path.
func compile(t *testing.T, source string) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("requires a Unix C compiler")
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	if _, err := exec.LookPath(cc); err != nil {
		t.Skipf("no C compiler: %s", err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "fake.c")
	if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	library := filepath.Join(dir, "libonnxruntime.so.1")
	args := []string{"-shared", "-fPIC", "-o", library, file}
	if runtime.GOOS == "darwin" {
		args = append(args, "-undefined", "dynamic_lookup")
	}
	if out, err := exec.Command(cc, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cc, err, out)
	}
	return library
}

func TestMinAPIVersion(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/yalue/onnxruntime_go").Output()
	if err != nil {
		t.Skipf("go list: %s", err)
	}
	header, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "onnxruntime_c_api.h"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^#define ORT_API_VERSION (\d+)`).FindSubmatch(header)
	if m == nil || string(m[1]) != strconv.Itoa(minAPIVersion) {
		t.Errorf("minAPIVersion doesn't match the binding's header: %q, %d", m, minAPIVersion)
	}
}

// doubling returns a model with the input x and the output y = x + x, both [rows,3].
func doubling(t *testing.T) []byte {
	t.Helper()
	value := func(name string) *onnxpb.ValueInfoProto {
		rows := &onnxpb.TensorShapeProto_Dimension{Value: &onnxpb.TensorShapeProto_Dimension_DimParam{DimParam: "rows"}}
		three := &onnxpb.TensorShapeProto_Dimension{Value: &onnxpb.TensorShapeProto_Dimension_DimValue{DimValue: 3}}
		return &onnxpb.ValueInfoProto{Name: proto.String(name), Type: &onnxpb.TypeProto{Value: &onnxpb.TypeProto_TensorType{
			TensorType: &onnxpb.TypeProto_Tensor{
				ElemType: proto.Int32(int32(onnxpb.TensorProto_FLOAT)),
				Shape:    &onnxpb.TensorShapeProto{Dim: []*onnxpb.TensorShapeProto_Dimension{rows, three}},
			},
		}}}
	}
	data, err := proto.Marshal(&onnxpb.ModelProto{
		IrVersion:   proto.Int64(8),
		OpsetImport: []*onnxpb.OperatorSetIdProto{{Version: proto.Int64(17)}},
		Graph: &onnxpb.GraphProto{
			Name:   proto.String("doubling"),
			Node:   []*onnxpb.NodeProto{{OpType: proto.String("Add"), Input: []string{"x", "x"}, Output: []string{"y"}}},
			Input:  []*onnxpb.ValueInfoProto{value("x")},
			Output: []*onnxpb.ValueInfoProto{value("y")},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// tensors returns an input and an output tensor for doubling.
func tensors(t *testing.T) (x, y *ortgo.Tensor[float32]) {
	t.Helper()
	if err := Init(); err != nil {
		t.Fatal(err)
	}
	x, err := ortgo.NewTensor(ortgo.NewShape(2, 3), []float32{0, 1, 2, 3, 4, 5})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Destroy() })
	y, err = ortgo.NewEmptyTensor[float32](ortgo.NewShape(2, 3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = y.Destroy() })
	return x, y
}

func TestSession_options(t *testing.T) {
	for _, test := range []struct {
		name    string
		options Options
	}{
		{"defaults", Options{}},
		{"one thread", Options{Threads: 1}},
		{"spinning threads", Options{Threads: 2, Spin: true}},
		{"denormals as zero", Options{DenormalsAsZero: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			x, y := tensors(t)
			s, err := NewSession(doubling(t), []Binding{{"x", x}}, []Binding{{"y", y}}, test.options)
			if err != nil {
				t.Fatal(err)
			}
			for _, first := range []float32{0, 7} {
				x.GetData()[0] = first
				if err := s.Run(); err != nil {
					t.Fatal(err)
				}
				if want := []float32{2 * first, 2, 4, 6, 8, 10}; !slices.Equal(y.GetData(), want) {
					t.Errorf("got %v, want %v", y.GetData(), want)
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSession_Run_closed(t *testing.T) {
	x, y := tensors(t)
	s, err := NewSession(doubling(t), []Binding{{"x", x}}, []Binding{{"y", y}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := s.Run(); err == nil {
		t.Error("no error from Run on a closed session")
	}
}

func TestMultiSession(t *testing.T) {
	s, err := NewMultiSession(doubling(t), Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	in, out := []float32{1, 2, 3, 4, 5, 6}, make([]float32, 6)
	bind := func(rows int) *Bound {
		var values [2]ortgo.Value
		for i, data := range [][]float32{in, out} {
			tensor, err := ortgo.NewTensor(ortgo.NewShape(int64(rows), 3), data)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = tensor.Destroy() })
			values[i] = tensor
		}
		b, err := s.Bind([]Binding{{"x", values[0]}}, []Binding{{"y", values[1]}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	one, two := bind(1), bind(2)
	for _, test := range []struct {
		bound *Bound
		want  []float32
	}{
		{one, []float32{2, 4, 6, 0, 0, 0}},
		{two, []float32{2, 4, 6, 8, 10, 12}},
		{one, []float32{2, 4, 6, 0, 0, 0}},
	} {
		clear(out)
		if err := test.bound.Run(); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(out, test.want) {
			t.Errorf("got %v, want %v", out, test.want)
		}
	}
	x, y := tensors(t)
	if _, err := s.Bind([]Binding{{"z", x}}, []Binding{{"y", y}}); err == nil || !strings.Contains(err.Error(), `"z"`) {
		t.Errorf("Bind with an unknown input: error %v", err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := one.Run(); err == nil {
		t.Error("no error from Run on a closed session")
	}
	if _, err := s.Bind(nil, nil); err == nil {
		t.Error("no error from Bind on a closed session")
	}
}

func TestSession_Close_profile(t *testing.T) {
	x, y := tensors(t)
	prefix := filepath.Join(t.TempDir(), "profile")
	s, err := NewSession(doubling(t), []Binding{{"x", x}}, []Binding{{"y", y}}, Options{ProfilePrefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(prefix + "_*.json")
	if err != nil || len(files) != 1 {
		t.Fatalf("profiles %v (%v), want one", files, err)
	}
	profile, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(profile), `"Add"`) {
		t.Errorf("the profile doesn't contain the node: %.300s", profile)
	}
}

func TestNewSession_errors(t *testing.T) {
	x, y := tensors(t)
	in, out := []Binding{{"x", x}}, []Binding{{"y", y}}
	for _, test := range []struct {
		name    string
		model   []byte
		in, out []Binding
		options Options
		want    string
	}{
		{"empty model", nil, in, out, Options{}, "the model is empty"},
		{"not an ONNX model", []byte("once upon a time"), in, out, Options{}, "open ONNX session: "},
		{"no inputs", doubling(t), nil, out, Options{}, "0 inputs"},
		{"no outputs", doubling(t), in, nil, Options{}, "0 outputs"},
		{"negative threads", doubling(t), in, out, Options{Threads: -1}, "threads: -1 is negative"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := NewSession(test.model, test.in, test.out, test.options)
			if err == nil {
				_ = s.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q does not say %q", err, test.want)
			}
			if test.in == nil || test.out == nil {
				return
			}
			if _, err := NewMultiSession(test.model, test.options); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("NewMultiSession: error %v, want %q", err, test.want)
			}
		})
	}
}
