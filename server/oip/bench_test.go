package oip

import (
	"math/rand/v2"
	"strconv"
	"testing"
)

// full describes a model of the trainer.
var full = square(32, 128, 8)

// images returns n random images with 8-bit levels.
func images(n int) []float32 {
	rng := rand.New(rand.NewPCG(1, 2))
	values := make([]float32, n*full.imageSize())
	for i := range values {
		values[i] = float32(rng.IntN(256)) / 255
	}
	return values
}

// python formats values like Python's json module: each as a double.
func python(values []float32) string {
	text := []byte("[")
	for i, v := range values {
		if i > 0 {
			text = append(text, ", "...)
		}
		text = strconv.AppendFloat(text, float64(v), 'g', -1, 64)
	}
	return string(append(text, ']'))
}

func benchmarkDecode(b *testing.B, m message, n int) {
	body := []byte(m.json + m.binary)
	header := m.header()
	var r Request
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Decode(full, header, body); err != nil {
			b.Fatal(err)
		}
	}
	if r.Batch != n {
		b.Fatalf("Batch = %d, want %d", r.Batch, n)
	}
}

func benchmarkDecodeJSON(b *testing.B, n int) {
	shape := `[` + strconv.Itoa(n) + `,3,32,32]`
	benchmarkDecode(b, message{`{"inputs":[{"name":"input","shape":` + shape + `,"datatype":"FP32","data":` + python(images(n)) + `}]}`, ""}, n)
}

func benchmarkDecodeBinary(b *testing.B, n int) {
	shape, size := `[`+strconv.Itoa(n)+`,3,32,32]`, strconv.Itoa(n*full.imageSize()*floatSize)
	benchmarkDecode(b, message{`{"inputs":[{"name":"input","shape":` + shape + `,"datatype":"FP32","parameters":{"binary_data_size":` + size + `}}],"parameters":{"binary_data_output":true}}`, raw(images(n))}, n)
}

func BenchmarkDecodeJSON1(b *testing.B)   { benchmarkDecodeJSON(b, 1) }
func BenchmarkDecodeJSON8(b *testing.B)   { benchmarkDecodeJSON(b, 8) }
func BenchmarkDecodeBinary1(b *testing.B) { benchmarkDecodeBinary(b, 1) }
func BenchmarkDecodeBinary8(b *testing.B) { benchmarkDecodeBinary(b, 8) }

func benchmarkResponse(b *testing.B, n int, binary bool) {
	r := Request{ID: "42", Batch: n, Outputs: []Output{{LogitName, false, binary}, {EmbeddingName, true, binary}}}
	a := Result{ModelName: "fakeart", ModelVersion: "1", Scores: images(n)[:n], Embedding: images(n)[:n*128]}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if dst, _, err = r.AppendResponse(dst[:0], a); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkResponseJSON1(b *testing.B)   { benchmarkResponse(b, 1, false) }
func BenchmarkResponseJSON8(b *testing.B)   { benchmarkResponse(b, 8, false) }
func BenchmarkResponseBinary1(b *testing.B) { benchmarkResponse(b, 1, true) }
func BenchmarkResponseBinary8(b *testing.B) { benchmarkResponse(b, 8, true) }
