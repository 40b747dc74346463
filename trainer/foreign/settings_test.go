package foreign_test

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fakeart/internal/imaging"
	"fakeart/trainer/foreign"
)

func TestReadLabels(t *testing.T) {
	for name, test := range map[string]struct {
		file, text string
		want       []string
		err        string
	}{
		"lines":             {text: "cat\ndog\n", want: []string{"cat", "dog"}},
		"no_final_newline":  {text: "cat\ndog", want: []string{"cat", "dog"}},
		"windows":           {text: "\ufeffcat\r\ndog\r\n\r\n", want: []string{"cat", "dog"}},
		"special":           {text: "tench, Tinca\n\"a\" 'b'\nC#\n# 1\nKöln\n鶴\n", want: []string{"tench, Tinca", `"a" 'b'`, "C#", "# 1", "Köln", "鶴"}},
		"duplicates":        {text: "crane\nmaillot\ncrane\n", want: []string{"crane", "maillot", "crane"}},
		"numbered":          {text: "0 tench\n1 goldfish\n", want: []string{"tench", "goldfish"}},
		"numbered_from_one": {text: "1: a\n2: b\n", want: []string{"a", "b"}},
		"digits":            {text: "0\n1\n2\n", want: []string{"0", "1", "2"}},
		"degrees":           {text: "0 degrees\n180 degrees\n", want: []string{"0 degrees", "180 degrees"}},
		"empty":             {text: "\n\n", err: "no names"},
		"empty_line":        {text: "cat\n\ndog\n", err: "line 2 is empty"},
		"latin1":            {text: "K\xf6ln\n", err: "not UTF-8"},
		"json_list":         {file: "l.json", text: `["cat","dog"]`, want: []string{"cat", "dog"}},
		"json_object":       {file: "l.json", text: `{"0":"a","1":"b","2":"c","3":"d","4":"e","5":"f","6":"g","7":"h","8":"i","9":"j","10":"k"}`, want: strings.Split("abcdefghijk", "")},
		"json_keras":        {file: "l.json", text: `{"1":["n02","dog"],"0":["n01","cat"]}`, want: []string{"cat", "dog"}},
		"json_gap":          {file: "l.json", text: `{"0":"a","2":"b"}`, err: `"2" isn't one of the indices 0 to 1`},
		"json_other":        {file: "l.json", text: `7`, err: "not a JSON list"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), max(test.file, "labels.txt"))
			if test.file != "" {
				path = filepath.Join(filepath.Dir(path), test.file)
			}
			if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := foreign.ReadLabels(path)
			if test.err != "" {
				wantError(t, err, path, test.err)
				return
			}
			if err != nil || !slices.Equal(got, test.want) {
				t.Errorf("ReadLabels(%q) = %q, %v, want %q", test.text, got, err, test.want)
			}
		})
	}
	_, err := foreign.ReadLabels("missing.txt")
	wantError(t, err, "missing.txt", "no such file")
}

// beside imports the dynamic test network with the given settings files beside it.
func beside(t *testing.T, files map[string]string) (*foreign.Imported, error) {
	t.Helper()
	dir := t.TempDir()
	data, err := os.ReadFile("testdata/dynamic.onnx")
	if err != nil {
		t.Fatal(err)
	}
	files["model.onnx"] = string(data)
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return foreign.Import(filepath.Join(dir, "model.onnx"), foreign.Options{})
}

const id2label = `{"id2label":{"2":"c","0":"a","1":"b"}}`

// TestImport_processors checks the preprocessing of transformers' classes and their defaults, for an input of 32×32.
func TestImport_processors(t *testing.T) {
	const third = 1.0 / 3
	shortest := func(resize int, filter imaging.Filter) imaging.Preprocessing {
		return imaging.Preprocessing{Fit: imaging.ShortestEdge, Resize: resize, Crop: imaging.Down, Filter: filter, Color: imaging.RGB, Scale: 1.0 / 255}
	}
	stretch := func(filter imaging.Filter) imaging.Preprocessing {
		return imaging.Preprocessing{Fit: imaging.Stretch, Filter: filter, Color: imaging.RGB, Scale: 1.0 / 255}
	}
	with := func(p imaging.Preprocessing, change func(p *imaging.Preprocessing)) imaging.Preprocessing {
		change(&p)
		return p
	}
	for name, test := range map[string]struct {
		config string
		want   imaging.Preprocessing
		mean   float64 // of the first channel
		std    float64
	}{
		"ViT":        {`{"image_processor_type":"ViTImageProcessor","size":{"height":32,"width":32}}`, stretch(imaging.Bilinear), 0.5, 0.5},
		"ViT_fast":   {`{"image_processor_type":"ViTImageProcessorFast","size":{"height":32,"width":32},"resample":3}`, stretch(imaging.Bicubic), 0.5, 0.5},
		"ViT_old":    {`{"feature_extractor_type":"ViTFeatureExtractor","size":32,"resample":1,"image_mean":[0.1,0.2,0.3]}`, stretch(imaging.Lanczos), 0.1, 0.5},
		"no_rescale": {`{"image_processor_type":"ViTImageProcessor","size":32,"do_rescale":false,"do_normalize":false}`, with(stretch(imaging.Bilinear), func(p *imaging.Preprocessing) { p.Scale = 1 }), 0, 1},
		"factor":     {`{"image_processor_type":"ViTImageProcessor","size":32,"rescale_factor":0.00784313725490196,"do_normalize":false}`, with(stretch(imaging.Bilinear), func(p *imaging.Preprocessing) { p.Scale = 0.00784313725490196 }), 0, 1},
		"CLIP":       {`{"image_processor_type":"CLIPImageProcessor","size":{"shortest_edge":40},"crop_size":{"height":32,"width":32}}`, shortest(40, imaging.Bicubic), 0.48145466, 0.26862954},
		"CLIP_old":   {`{"feature_extractor_type":"CLIPFeatureExtractor","size":40,"crop_size":32}`, shortest(40, imaging.Bicubic), 0.48145466, 0.26862954},
		"ConvNext":   {`{"image_processor_type":"ConvNextImageProcessor","size":{"shortest_edge":32}}`, shortest(36, imaging.Bicubic), 0.5, 0.5},
		"ConvNext_crop_pct": {
			`{"image_processor_type":"ConvNextImageProcessor","size":{"shortest_edge":32},"crop_pct":0.95,"resample":2}`,
			shortest(33, imaging.Bilinear), 0.5, 0.5,
		},
		"Levit":     {`{"image_processor_type":"LevitImageProcessor","size":{"shortest_edge":32},"crop_size":32}`, shortest(36, imaging.Bicubic), 0.485, 0.229},
		"MobileViT": {`{"image_processor_type":"MobileViTImageProcessor","size":{"shortest_edge":36},"crop_size":{"height":32,"width":32}}`, with(shortest(36, imaging.Bicubic), func(p *imaging.Preprocessing) { p.Color = imaging.BGR }), 0, 1},
		"DeiT":      {`{"image_processor_type":"DeiTImageProcessor","size":{"height":36,"width":36},"crop_size":32}`, imaging.Preprocessing{Fit: imaging.Stretch, Resize: 36, Crop: imaging.Down, Filter: imaging.Bicubic, Color: imaging.RGB, Scale: 1.0 / 255}, 0.5, 0.5},
		"EfficientNet": {
			`{"image_processor_type":"EfficientNetImageProcessor","size":{"height":32,"width":32},"resample":0,"image_std":[0.5,0.5,0.5]}`,
			stretch(imaging.Nearest), 0.5, 0.25,
		},
		"EfficientNet_offset": {
			`{"image_processor_type":"EfficientNetImageProcessor","size":{"height":32,"width":32},"rescale_factor":0.00784313725490196,"rescale_offset":true,"do_normalize":false,"include_top":false}`,
			with(stretch(imaging.Bicubic), func(p *imaging.Preprocessing) { p.Scale = 0.00784313725490196 }), 1, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			imported, err := beside(t, map[string]string{"config.json": id2label, "preprocessor_config.json": test.config})
			if err != nil {
				t.Fatal(err)
			}
			p := imported.File.Metadata.Preprocessing
			w := test.want
			if p.Fit != w.Fit || p.Resize != w.Resize || p.Crop != w.Crop || p.Filter != w.Filter || p.Color != w.Color || math.Abs(p.Scale-w.Scale) > 1e-12 || p.Orientation != imaging.ApplyOrientation {
				t.Errorf("preprocessing = %+v, want %+v", p, w)
			}
			mean, std := 0.0, 1.0
			if len(p.Mean) > 0 {
				mean = p.Mean[0]
			}
			if len(p.Std) > 0 {
				std = p.Std[0]
			}
			if math.Abs(mean-test.mean) > third*1e-9 || math.Abs(std-test.std) > 1e-9 {
				t.Errorf("mean %g, std %g, want %g and %g", mean, std, test.mean, test.std)
			}
			if got := imported.File.Metadata.Classes; !slices.Equal(got, []string{"a", "b", "c"}) {
				t.Errorf("classes = %q", got)
			}
		})
	}
}

func TestImport_timm(t *testing.T) {
	cfg := func(extra string) string {
		return `{"architecture":"resnet","label_names":{"0":"a","1":"b","2":"c"},"pretrained_cfg":{"input_size":[3,32,32],"mean":[0.1,0.2,0.3],"std":[1,1,1]` + extra + `}}`
	}
	for name, test := range map[string]struct {
		extra string
		want  imaging.Preprocessing
	}{
		"defaults": {"", imaging.Preprocessing{Fit: imaging.ShortestEdge, Resize: 36, Crop: imaging.HalfEven, Filter: imaging.Bicubic}},
		"center":   {`,"crop_pct":0.95,"crop_mode":"center","interpolation":"bilinear","test_crop_pct":0.5`, imaging.Preprocessing{Fit: imaging.ShortestEdge, Resize: 33, Crop: imaging.HalfEven, Filter: imaging.Bilinear}},
		"squash":   {`,"crop_pct":1.0,"crop_mode":"squash"`, imaging.Preprocessing{Fit: imaging.Stretch, Filter: imaging.Bicubic}},
		"border":   {`,"crop_pct":1.0,"crop_mode":"border"`, imaging.Preprocessing{Fit: imaging.Contain, Filter: imaging.Bicubic, Padding: [3]uint8{26, 51, 76}}},
	} {
		t.Run(name, func(t *testing.T) {
			imported, err := beside(t, map[string]string{"config.json": cfg(test.extra)})
			if err != nil {
				t.Fatal(err)
			}
			p, w := imported.File.Metadata.Preprocessing, test.want
			if p.Fit != w.Fit || p.Resize != w.Resize || p.Crop != w.Crop || p.Filter != w.Filter || p.Padding != w.Padding || !p.Antialias {
				t.Errorf("preprocessing = %+v, want %+v", p, w)
			}
		})
	}
}

func TestImport_settingsErrors(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"invalid_json":      {map[string]string{"config.json": "{"}, []string{"config.json", "invalid JSON"}},
		"multi_label":       {map[string]string{"config.json": `{"problem_type":"multi_label_classification","id2label":{"0":"a"}}`}, []string{"problem_type", "one class per image"}},
		"detection":         {map[string]string{"config.json": `{"architectures":["DetrForObjectDetection"]}`}, []string{"DetrForObjectDetection", "ForImageClassification"}},
		"label_gap":         {map[string]string{"config.json": `{"id2label":{"0":"a","5":"b"}}`}, []string{"id2label", `"5"`}},
		"other_processor":   {map[string]string{"config.json": id2label, "preprocessor_config.json": `{"image_processor_type":"DonutImageProcessor"}`}, []string{"DonutImageProcessor", "--no-config"}},
		"longest_edge":      {map[string]string{"config.json": id2label, "preprocessor_config.json": `{"image_processor_type":"ViTImageProcessor","size":{"longest_edge":32}}`}, []string{"size", "--no-config"}},
		"no_resize":         {map[string]string{"config.json": id2label, "preprocessor_config.json": `{"image_processor_type":"ViTImageProcessor","do_resize":false}`}, []string{"do_resize", "--no-config"}},
		"other_size":        {map[string]string{"config.json": id2label, "preprocessor_config.json": `{"image_processor_type":"ViTImageProcessor","size":64}`}, []string{"64×64 according to preprocessor_config.json", "32×32"}},
		"no_preprocessing":  {map[string]string{"config.json": id2label}, []string{"--fit", "--filter", "--scale", "--preset="}},
		"wrong_class_count": {map[string]string{"labels.txt": "a\nb\n", "preprocessor_config.json": `{"image_processor_type":"ViTImageProcessor","size":32}`}, []string{"2 classes (labels.txt)", "3 scores"}},
		"timm_crop_mode":    {map[string]string{"config.json": `{"architecture":"x","pretrained_cfg":{"input_size":[3,32,32],"crop_mode":"tiles"}}`}, []string{"crop_mode", "tiles"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := beside(t, test.files)
			wantError(t, err, test.want...)
		})
	}
}

// TestImport_placeholders checks that names in labels.txt are preferred to LABEL_0 and so on, which transformers invents.
func TestImport_placeholders(t *testing.T) {
	files := func() map[string]string {
		return map[string]string{
			"config.json": `{"id2label":{"0":"LABEL_0","1":"LABEL_1","2":"LABEL_2"}}`, "preprocessor_config.json": `{"image_processor_type":"ViTImageProcessor","size":32}`,
		}
	}
	imported, err := beside(t, files())
	if err != nil {
		t.Fatal(err)
	}
	if imported.File.Metadata.Classes[1] != "LABEL_1" || !slices.ContainsFunc(imported.Notes, func(n string) bool { return strings.Contains(n, "--labels") }) {
		t.Errorf("classes %q, notes %q", imported.File.Metadata.Classes, imported.Notes)
	}
	with := files()
	with["labels.txt"] = "x\ny\nz\n"
	if imported, err = beside(t, with); err != nil || imported.File.Metadata.Classes[1] != "y" {
		t.Errorf("with labels.txt: %v, %v", imported, err)
	}
}
