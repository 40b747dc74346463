package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// importModel runs `trainer model import` for a test network and returns the path of the model file and the standard output.
func importModel(t *testing.T, args ...string) (path, stdout string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "models", "net.onnx")
	code, stdout, stderr := trainer(t, append([]string{"model", "import", "-o", path}, args...)...)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	return path, stdout
}

func TestModelImport(t *testing.T) {
	labels := filepath.Join(t.TempDir(), "labels.txt")
	if err := os.WriteFile(labels, []byte("\ufefftench, Tinca\r\n\"quoted\"\r\nC#\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path, stdout := importModel(t, "foreign/testdata/dynamo/model.onnx", "--labels", labels, "--preset=torchvision", "--resize=36", "--verify=foreign/testdata/sample.npz", "--license=MIT")
	for _, part := range []string{"shorter side to 36, then the center 32×32", "(preset torchvision)", "verified 4 images", "agrees for 4", "wrote " + path, "sha256:"} {
		if !strings.Contains(stdout, part) {
			t.Errorf("stdout = %q, want it to contain %q", stdout, part)
		}
	}
	code, _, stderr := trainer(t, "model", "import", "foreign/testdata/dynamic.onnx", "-o", path)
	if code != exitUsage || !strings.Contains(stderr, "already exists") || !strings.Contains(stderr, "--force") {
		t.Errorf("existing file: exit code %d, %s", code, stderr)
	}

	code, stdout, stderr = trainer(t, "model", "show", path)
	if code != 0 {
		t.Fatalf("show: exit code %d: %s", code, stderr)
	}
	for _, part := range []string{`"tench, Tinca", "\"quoted\"", "C#"`, "MIT", "[batch,3,32,32]", "evidence for each class", "opset 20"} {
		if !strings.Contains(stdout, part) {
			t.Errorf("card = %s, want it to contain %q", stdout, part)
		}
	}
	html := filepath.Join(t.TempDir(), "card.html")
	code, stdout, stderr = trainer(t, "model", "show", path, "--json", "--html", html)
	if code != 0 {
		t.Fatalf("show: exit code %d: %s", code, stderr)
	}
	var card struct {
		Classes       []string
		Preprocessing struct{ Resize int }
		Graph         struct{ Parameters int }
	}
	if err := json.Unmarshal([]byte(stdout), &card); err != nil || len(card.Classes) != 3 || card.Preprocessing.Resize != 36 || card.Graph.Parameters < 1000 {
		t.Errorf("card = %+v, %v", card, err)
	}
	page, err := os.ReadFile(html)
	if err != nil || !strings.Contains(string(page), "&#34;quoted&#34;") || strings.Contains(string(page), "<script") {
		t.Errorf("page = %.200s, %v", page, err)
	}
}

// TestModelImport_verify checks that a wrong preprocessing is found, and that the message has the flag that corrects it.
func TestModelImport_verify(t *testing.T) {
	for name, flags := range map[string][]string{
		"--color=bgr":                        {"--color=bgr"},
		"--filter=bicubic":                   {"--filter=bicubic"},
		"--fit=stretch":                      {"--fit=stretch"},
		"--scale=1":                          {"--scale=1"},
		"--filter=bilinear --no-antialias":   {"--no-antialias"},
		"with two mistakes, nothing matches": {"--color=bgr", "--filter=nearest"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "net.onnx")
			args := []string{"model", "import", "foreign/testdata/dynamic.onnx", "-o", path, "--classes=a,b,c", "--preset=torchvision", "--verify=foreign/testdata/sample.npz"}
			if flags[0] != "--fit=stretch" {
				args = append(args, "--resize=36")
			}
			code, stdout, stderr := trainer(t, append(args, flags...)...)
			if code != exitFailure || !strings.Contains(stderr, "predictions differ") || !strings.Contains(stdout, "verified 4 images") {
				t.Fatalf("exit code %d, %s", code, stderr)
			}
			want := map[string]string{"--color=bgr": "with --color=rgb, the difference is", "--filter=bicubic": "with --filter=bilinear, the difference"}[name]
			if !strings.Contains(stderr, want) {
				t.Errorf("stderr = %s, want it to contain %q", stderr, want)
			}
			if _, err := os.Stat(path); err == nil {
				t.Error("a file was written")
			}
		})
	}
}

func TestModelImport_invalidFlags(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"labels_and_classes": {[]string{"--labels=x", "--classes=a,b"}, "can't be combined"},
		"size":               {[]string{"--size=big"}, `"big" isn't a size`},
		"resize":             {[]string{"--resize=0"}, `"0" isn't a size`},
		"mean":               {[]string{"--mean=a"}, `--mean: "a" isn't a number`},
		"scale":              {[]string{"--scale=0"}, "--scale"},
		"padding":            {[]string{"--padding=1,2"}, "isn't a color"},
		"threshold":          {[]string{"--threshold=1.5", "--positive=a"}, "between 0 and 1"},
		"threshold_alone":    {[]string{"--threshold=0.5"}, "requires --positive"},
		"fit":                {[]string{"--fit=squash"}, "--fit"},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, stderr := trainer(t, append([]string{"model", "import", "foreign/testdata/dynamic.onnx", "-o", filepath.Join(t.TempDir(), "x.onnx")}, test.args...)...)
			if code != exitUsage || !strings.Contains(stderr, test.want) {
				t.Errorf("exit code %d, %s, want %q", code, stderr, test.want)
			}
		})
	}
	code, _, stderr := trainer(t, "model", "import", "foreign/testdata/dynamic.onnx", "-o", filepath.Join(t.TempDir(), "x.onnx"), "--preset=tf")
	if code == 0 || !strings.Contains(stderr, `unknown preset "tf"`) || !strings.Contains(stderr, "keras-tf") {
		t.Errorf("preset: exit code %d, %s", code, stderr)
	}
}
