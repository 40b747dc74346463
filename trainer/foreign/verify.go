package foreign

import (
	"errors"
	"fmt"
	"image"
	"image/color"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sbinet/npyio/npz"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/ort"
)

// Sample is images with the outputs that another framework has computed for them.
type Sample struct {
	// Images are image files, and Names what to call them.
	Images [][]byte
	Names  []string
	// Outputs has a row per image.
	Outputs [][]float64
	// Kind is what the outputs are, or empty if the file doesn't say.
	Kind model.OutputKind
}

// Verification is the result of [Verify].
type Verification struct {
	// Images is the number of images.
	Images int
	// Difference is the greatest difference of a probability, for Image and Class.
	Difference   float64
	Image, Class string
	// Ours and Theirs are the two probabilities.
	Ours, Theirs float64
	// Agree is the number of images with the same most probable class.
	Agree int
}

// maxSample is the maximum size of the arrays in an NPZ file, in bytes.
const maxSample = 4 << 30

// ReadSample reads an NPZ file of NumPy with the outputs of another framework: the array "outputs", "logits" or "probabilities" with a row
// per image, and the images in one of these forms:
//
//   - "images": uint8 [N,H,W,3], or [N,H,W] for gray images
//   - "names": the names of image files, relative to the folder of the NPZ file
//   - "image0", "image1", …: uint8 arrays, each with the bytes of an image file or with pixels [H,W,3]
func ReadSample(path string) (*Sample, error) {
	s, err := readSample(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func readSample(path string) (*Sample, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("no such file")
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	r, err := npz.NewReader(f, info.Size())
	if err != nil {
		return nil, errors.New("not an NPZ file\nhint: write it with numpy.savez")
	}
	arrays := map[string]string{} // by name without .npy
	for _, key := range r.Keys() {
		name := strings.TrimSuffix(key, ".npy")
		h := r.Header(key)
		size := 1
		for _, d := range h.Descr.Shape {
			if size *= d; d < 0 || size > maxSample {
				return nil, fmt.Errorf("array %q is too large", name)
			}
		}
		if h.Descr.Fortran && len(h.Descr.Shape) > 1 {
			return nil, fmt.Errorf("array %q is in Fortran order\nhint: save numpy.ascontiguousarray of it", name)
		}
		arrays[name] = key
	}
	s := &Sample{}
	if err := s.readOutputs(r, arrays); err != nil {
		return nil, err
	}
	if err := s.readImages(r, arrays, filepath.Dir(path)); err != nil {
		return nil, err
	}
	switch {
	case len(s.Images) == 0:
		return nil, errors.New("no images\nhint: " + sampleHint)
	case len(s.Images) != len(s.Outputs):
		return nil, fmt.Errorf("%d images, but outputs for %d", len(s.Images), len(s.Outputs))
	}
	return s, nil
}

const sampleHint = "numpy.savez(\"sample.npz\", outputs=…, image0=numpy.fromfile(\"a.png\", \"uint8\"), image1=…): docs/how-to/bring-your-own-model.md"

// readOutputs reads the outputs, of float32 or float64.
func (s *Sample) readOutputs(r *npz.Reader, arrays map[string]string) error {
	name := ""
	for n, kind := range map[string]model.OutputKind{"outputs": "", "logits": model.Logits, "probabilities": model.Probabilities} {
		if arrays[n] == "" {
			continue
		}
		if name != "" {
			return fmt.Errorf("has both %s and %s, only one is expected", min(n, name), max(n, name))
		}
		name, s.Kind = n, kind
	}
	if name == "" {
		return errors.New("no array \"outputs\", \"logits\" or \"probabilities\"\nhint: " + sampleHint)
	}
	h := r.Header(arrays[name])
	shape := h.Descr.Shape
	for len(shape) > 2 && shape[len(shape)-1] == 1 {
		shape = shape[:len(shape)-1]
	}
	if len(shape) == 1 {
		shape = append(shape, 1)
	}
	if len(shape) != 2 || shape[0] < 1 || shape[1] < 1 {
		return fmt.Errorf("array %q has shape %v, expected [images,classes]", name, h.Descr.Shape)
	}
	var values []float64
	switch h.Descr.Type {
	case "<f8":
		if err := r.Read(arrays[name], &values); err != nil {
			return fmt.Errorf("array %q: %w", name, err)
		}
	case "<f4":
		var single []float32
		if err := r.Read(arrays[name], &single); err != nil {
			return fmt.Errorf("array %q: %w", name, err)
		}
		for _, v := range single {
			values = append(values, float64(v))
		}
	default:
		return fmt.Errorf("array %q has the type %s, expected float32 or float64", name, h.Descr.Type)
	}
	for row := range slices.Chunk(values, shape[1]) {
		s.Outputs = append(s.Outputs, row)
	}
	return nil
}

// readImages reads the images in any of the forms.
func (s *Sample) readImages(r *npz.Reader, arrays map[string]string, dir string) error {
	bytesOf := func(name string) ([]uint8, []int, error) {
		h := r.Header(arrays[name])
		if h.Descr.Type != "|u1" && h.Descr.Type != "<u1" {
			return nil, nil, fmt.Errorf("array %q has the type %s, expected uint8", name, h.Descr.Type)
		}
		var data []uint8
		if err := r.Read(arrays[name], &data); err != nil {
			return nil, nil, fmt.Errorf("array %q: %w", name, err)
		}
		return data, h.Descr.Shape, nil
	}
	switch {
	case arrays["images"] != "":
		data, shape, err := bytesOf("images")
		if err != nil {
			return err
		}
		if len(shape) < 3 || shape[0] < 1 {
			return fmt.Errorf("array \"images\" has shape %v, expected [N,height,width,3]", shape)
		}
		for i, pixels := range slices.Collect(slices.Chunk(data, len(data)/shape[0])) {
			png, err := encode(pixels, shape[1:])
			if err != nil {
				return fmt.Errorf("array \"images\": %w", err)
			}
			s.Images, s.Names = append(s.Images, png), append(s.Names, fmt.Sprintf("image %d", i))
		}
	case arrays["names"] != "":
		if err := r.Read(arrays["names"], &s.Names); err != nil {
			return fmt.Errorf("array \"names\": %w", err)
		}
		for _, name := range s.Names {
			file := name
			if !filepath.IsAbs(name) {
				file = filepath.Join(dir, name)
			}
			data, err := read(file)
			if err != nil {
				return err
			}
			s.Images = append(s.Images, data)
		}
	default:
		for i := 0; ; i++ {
			name := fmt.Sprintf("image%d", i)
			if arrays[name] == "" {
				return nil
			}
			data, shape, err := bytesOf(name)
			if err != nil {
				return err
			}
			if len(shape) != 1 {
				if data, err = encode(data, shape); err != nil {
					return fmt.Errorf("array %q: %w", name, err)
				}
			}
			s.Images, s.Names = append(s.Images, data), append(s.Names, name)
		}
	}
	return nil
}

// encode returns pixels as a PNG file.
func encode(pixels []uint8, shape []int) ([]byte, error) {
	if len(shape) == 3 && shape[2] == 1 {
		shape = shape[:2]
	}
	channels := 1
	if len(shape) == 3 {
		channels = shape[2]
	}
	if len(shape) < 2 || len(shape) > 3 || channels != 1 && channels != 3 || shape[0] < 1 || shape[1] < 1 || len(pixels) != shape[0]*shape[1]*channels {
		return nil, fmt.Errorf("shape %v, expected [height,width,3] or [height,width]", shape)
	}
	m := image.NewNRGBA(image.Rect(0, 0, shape[1], shape[0]))
	for i := range shape[0] * shape[1] {
		p := pixels[i*channels:]
		m.SetNRGBA(i%shape[1], i/shape[1], color.NRGBA{p[0], p[channels/2], p[channels-1], 255})
	}
	return imaging.EncodePNG(m), nil
}

// Verify compares the model's probabilities with those of the sample.
func Verify(f *model.File, s *Sample) (*Verification, error) {
	theirs, err := s.probabilities(&f.Metadata)
	if err != nil {
		return nil, err
	}
	session, err := f.NewSession(1, ort.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { _ = session.Close() }()
	return compare(f, session, f.Plan, s, theirs)
}

// compare runs the session on the images of the sample as the plan prepares them.
func compare(f *model.File, session *model.Session, plan *imaging.Plan, s *Sample, theirs [][]float64) (*Verification, error) {
	v := &Verification{Images: len(s.Images)}
	labels := f.Metadata.Labels()
	decoder, pixels := plan.NewDecoder(0), make([]uint8, plan.Len())
	ours := make([]float64, len(labels))
	for i, data := range s.Images {
		if err := decoder.Pixels(pixels, data); err != nil {
			return nil, fmt.Errorf("%s: %w", s.Names[i], err)
		}
		plan.Fill(session.Input(), pixels)
		if err := session.Run(1); err != nil {
			return nil, err
		}
		if err := f.Metadata.Probabilities(ours, session.Scores()); err != nil {
			return nil, fmt.Errorf("%s: %w", s.Names[i], err)
		}
		for c := range ours {
			if d := math.Abs(ours[c] - theirs[i][c]); d >= v.Difference {
				v.Difference, v.Image, v.Class, v.Ours, v.Theirs = d, s.Names[i], labels[c], ours[c], theirs[i][c]
			}
		}
		if best(ours) == best(theirs[i]) {
			v.Agree++
		}
	}
	return v, nil
}

func best(p []float64) int { return model.Top(p, 1)[0] }

// probabilities converts the outputs of the sample to probabilities of all classes.
func (s *Sample) probabilities(md *model.Metadata) ([][]float64, error) {
	kind := s.Kind
	if kind == "" {
		kind = md.OutputKind
		if len(s.Outputs[0]) > 1 { // the framework may have applied softmax to logits, or not
			kind = model.Probabilities
			for _, row := range s.Outputs {
				sum := 0.0
				for _, v := range row {
					sum += v
					if v < 0 {
						kind = model.Logits
					}
				}
				if math.Abs(sum-1) > 1e-3 {
					kind = model.Logits
				}
			}
		}
	}
	like := model.Metadata{Classes: md.Classes, OutputKind: kind, Columns: len(s.Outputs[0])}
	if n := len(md.Classes); like.Columns != n && (like.Columns != 1 || n != 2) {
		return nil, fmt.Errorf("the sample has %d outputs per image, but the model has %d classes", like.Columns, n)
	}
	rows := make([][]float64, len(s.Outputs))
	for i, row := range s.Outputs {
		scores := make([]float32, len(row))
		for c, v := range row {
			scores[c] = float32(v)
		}
		rows[i] = make([]float64, len(md.Classes))
		if err := like.Probabilities(rows[i], scores); err != nil {
			return nil, fmt.Errorf("the sample's outputs for %s: %w", s.Names[i], err)
		}
	}
	return rows, nil
}

// variant is another preprocessing, and the flags that set it.
type variant struct {
	flags  string
	change func(p *imaging.Preprocessing)
}

// variants are typical mistakes.
var variants = []variant{
	{"--color=bgr", func(p *imaging.Preprocessing) { p.Color = imaging.BGR }},
	{"--color=rgb", func(p *imaging.Preprocessing) { p.Color = imaging.RGB }},
	{"--filter=bilinear", func(p *imaging.Preprocessing) { p.Filter, p.Antialias = imaging.Bilinear, true }},
	{"--filter=bicubic", func(p *imaging.Preprocessing) { p.Filter, p.Antialias = imaging.Bicubic, true }},
	{"--filter=lanczos", func(p *imaging.Preprocessing) { p.Filter, p.Antialias = imaging.Lanczos, true }},
	{"--filter=nearest", func(p *imaging.Preprocessing) { p.Filter, p.Antialias = imaging.Nearest, false }},
	{"--filter=bilinear --no-antialias", func(p *imaging.Preprocessing) { p.Filter, p.Antialias = imaging.Bilinear, false }},
	{"--filter=bicubic --no-antialias", func(p *imaging.Preprocessing) { p.Filter, p.Antialias = imaging.Bicubic, false }},
	{"--passes=horizontal-first", func(p *imaging.Preprocessing) { p.Passes = imaging.HorizontalFirst }},
	{"--passes=pillow-13", func(p *imaging.Preprocessing) { p.Passes = imaging.Pillow13Passes }},
	{"--fit=stretch", func(p *imaging.Preprocessing) { *p = fitted(*p, imaging.Stretch, 0, "") }},
	{"--fit=shortest-edge --crop-pct=1", func(p *imaging.Preprocessing) {
		*p = fitted(*p, imaging.ShortestEdge, min(p.Width, p.Height), imaging.HalfEven)
	}},
	{"--fit=shortest-edge --crop-pct=0.875", func(p *imaging.Preprocessing) {
		*p = fitted(*p, imaging.ShortestEdge, int(float64(min(p.Width, p.Height))/0.875), imaging.HalfEven)
	}},
	{"--fit=contain", func(p *imaging.Preprocessing) { *p = fitted(*p, imaging.Contain, 0, "") }},
	{"--crop-rounding=down", func(p *imaging.Preprocessing) {
		if p.Crop != "" {
			p.Crop = imaging.Down
		}
	}},
	{"--crop-rounding=half-even", func(p *imaging.Preprocessing) {
		if p.Crop != "" {
			p.Crop = imaging.HalfEven
		}
	}},
	{"--orientation=apply", func(p *imaging.Preprocessing) { p.Orientation = imaging.ApplyOrientation }},
	{"--orientation=ignore", func(p *imaging.Preprocessing) { p.Orientation = imaging.IgnoreOrientation }},
	{"--scale=1/255 --mean=none --std=none", func(p *imaging.Preprocessing) { p.Scale, p.Mean, p.Std = 1.0/255, nil, nil }},
	{"--scale=1 --mean=none --std=none", func(p *imaging.Preprocessing) { p.Scale, p.Mean, p.Std = 1, nil, nil }},
	{"--scale=1/255 --mean=0.5 --std=0.5", func(p *imaging.Preprocessing) { p.Scale, p.Mean, p.Std = 1.0/255, half, half }},
	{"--scale=1/255 --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225", func(p *imaging.Preprocessing) { p.Scale, p.Mean, p.Std = 1.0/255, imageNetMean, imageNetStd }},
}

func fitted(p imaging.Preprocessing, fit imaging.Fit, resize int, crop imaging.Rounding) imaging.Preprocessing {
	p.Fit, p.Resize, p.ResizeHeight, p.Crop = fit, resize, 0, crop
	return p
}

// Suggest looks for flags with which the model agrees better with the sample than v, by trying typical mistakes one at a time. It returns the
// best ones and their result, or an empty text if none is at least ten times as close.
func Suggest(f *model.File, s *Sample, v *Verification) (flags string, better *Verification, err error) {
	theirs, err := s.probabilities(&f.Metadata)
	if err != nil {
		return "", nil, err
	}
	session, err := f.NewSession(1, ort.Options{})
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = session.Close() }()
	limited := *s
	const enough = 16 // images
	n := min(len(s.Images), enough)
	limited.Images, limited.Names, limited.Outputs = s.Images[:n], s.Names[:n], s.Outputs[:n]
	for _, candidate := range variants {
		p := f.Metadata.Preprocessing
		candidate.change(&p)
		plan, err := p.Compile()
		if err != nil || plan.Len() != f.Plan.Len() {
			continue // not possible for this input
		}
		r, err := compare(f, session, plan, &limited, theirs)
		if err != nil {
			return "", nil, err
		}
		if r.Difference < v.Difference/10 && (better == nil || r.Difference < better.Difference) {
			flags, better = candidate.flags, r
		}
	}
	return flags, better, nil
}
