package main

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"fakeart/internal/model"
	"fakeart/server/limit"
	"fakeart/server/oip"
)

// compressed returns data in a content encoding.
func compressed(t *testing.T, encoding string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	if encoding == "deflate" {
		w = zlib.NewWriter(&b)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// decompressed is the inverse of compressed.
func decompressed(t *testing.T, encoding string, data []byte) []byte {
	t.Helper()
	var r io.Reader
	var err error
	switch encoding {
	case "gzip":
		r, err = gzip.NewReader(bytes.NewReader(data))
	case "deflate":
		r, err = zlib.NewReader(bytes.NewReader(data))
	default:
		return data
	}
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// sendWith sends a POST request with the given header fields: names and values in turn. Go's client
// doesn't decompress the response because Accept-Encoding is always set.
func sendWith(t *testing.T, url string, body []byte, fields ...string) (*http.Response, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), "POST", url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		request.Header.Add(fields[i], fields[i+1])
	}
	if request.Header["Accept-Encoding"] == nil {
		request.Header.Set("Accept-Encoding", "")
	}
	return send(t, request)
}

// tensorRequest returns an inference request for n images, each 1 where red and 0 elsewhere, in JSON.
func tensorRequest(n int) []byte {
	red := strings.Repeat("1,", 32*32) + strings.TrimSuffix(strings.Repeat("0,", 2*32*32), ",")
	return fmt.Appendf(nil, `{"inputs":[{"name":"input","shape":[%d,3,32,32],"datatype":"FP32","data":[%s]}]}`,
		n, strings.TrimSuffix(strings.Repeat(red+",", n), ","))
}

func TestRequest_Compressed(t *testing.T) {
	m := start(t)
	img := pngOf(t, solid(red, 32, 32))
	formType, form := newForm(t, field{"data", "a.png", img})
	for _, encoding := range []string{"gzip", "deflate", "x-gzip", "GZIP"} {
		t.Run(encoding, func(t *testing.T) {
			response, body := sendWith(t, m.URL()+"/predict", compressed(t, encoding, img), "Content-Encoding", encoding)
			checkPrediction(t, m, response, body, model.Fake)
			response, body = sendWith(t, m.URL()+"/predict", compressed(t, encoding, form), "Content-Encoding", encoding, "Content-Type", formType)
			checkPrediction(t, m, response, body, model.Fake)
			response, body = sendWith(t, m.URL()+"/v2/models/fakeart/infer", compressed(t, encoding, tensorRequest(1)), "Content-Encoding", encoding)
			if response.StatusCode != 200 {
				t.Errorf("status %d: %s", response.StatusCode, body)
			}
			feedback := fmt.Appendf(nil, `{"id":%q,"label":"FAKE"}`, predict(t, m))
			response, body = sendWith(t, m.URL()+"/feedback", compressed(t, encoding, feedback), "Content-Encoding", encoding, "Content-Type", "application/json")
			if response.StatusCode != 200 {
				t.Errorf("status %d: %s", response.StatusCode, body)
			}
		})
	}
}

func TestRequest_CompressedInvalid(t *testing.T) {
	m := start(t)
	img := pngOf(t, solid(red, 32, 32))
	limit := int(m.config.MaxBody)
	for _, encoding := range []string{"gzip", "deflate"} {
		good := compressed(t, encoding, img)
		for _, test := range []struct {
			name   string
			body   []byte
			status int
			words  string
		}{
			{"truncated", good[:len(good)-3], 400, "valid " + encoding},
			{"only_header", good[:1], 400, "valid " + encoding},
			{"not_compressed", img, 400, "valid " + encoding},
			{"trailing_data", append(bytes.Clone(good), "tail"...), 400, "valid " + encoding},
			{"checksum", append(bytes.Clone(good[:len(good)-6]), 1, 2, 3, 4, 5, 6), 400, "valid " + encoding},
			{"empty_inside", compressed(t, encoding, nil), 400, "no image"},
			{"largest", compressed(t, encoding, make([]byte, limit)), 415, "image"},
			{"one_too_large", compressed(t, encoding, make([]byte, limit+1)), 413, "1048576 bytes"},
			{"bomb", compressed(t, encoding, make([]byte, 10*limit)), 413, "1048576 bytes"},
		} {
			t.Run(encoding+"/"+test.name, func(t *testing.T) {
				response, body := sendWith(t, m.URL()+"/predict", test.body, "Content-Encoding", encoding)
				checkProblem(t, response, body, test.status, test.words)
			})
		}
	}
	for _, encodings := range [][]string{{"br"}, {"gzip, gzip"}, {"gzip", "deflate"}, {"zstd"}} {
		var fields []string
		for _, e := range encodings {
			fields = append(fields, "Content-Encoding", e)
		}
		response, body := sendWith(t, m.URL()+"/predict", img, fields...)
		checkProblem(t, response, body, 415, "gzip or deflate")
		if got := response.Header.Get("Accept-Encoding"); got != "gzip, deflate" {
			t.Errorf("%q: Accept-Encoding %q", encodings, got)
		}
	}
}

// The memory of decompressed bodies counts against the limit, and is released.
func TestRequest_CompressedMemory(t *testing.T) {
	m := start(t)
	for range 3 {
		response, body := sendWith(t, m.URL()+"/predict", compressed(t, "gzip", make([]byte, 10*int(m.config.MaxBody))), "Content-Encoding", "gzip")
		checkProblem(t, response, body, 413)
	}
	held, err := m.bodies.Reserve(int64(m.config.MaxMemory))
	if err != nil {
		t.Fatalf("memory wasn't released: %v", err)
	}
	defer m.bodies.Release(held)
	response, body := sendWith(t, m.URL()+"/predict", compressed(t, "gzip", make([]byte, 10*limit.SmallBody)), "Content-Encoding", "gzip")
	checkProblem(t, response, body, 503, "too many large requests")
}

func TestResponse_Compressed(t *testing.T) {
	m := start(t)
	img := pngOf(t, solid(red, 32, 32))
	var fields []field
	for range 10 {
		fields = append(fields, field{"data", "a.png", img})
	}
	formType, form := newForm(t, fields...)
	binaryOutput := bytes.Replace(tensorRequest(100), []byte("{"), []byte(`{"parameters":{"binary_data_output":true},`), 1)
	for _, test := range []struct {
		name, path, contentType string
		body                    []byte
		accept, want, vary      string
	}{
		{"gzip", "/predict", formType, form, "gzip", "gzip", "Accept-Encoding"},
		{"deflate", "/predict", formType, form, "deflate", "deflate", "Accept-Encoding"},
		{"browser", "/predict", formType, form, "gzip, deflate, br, zstd", "gzip", "Accept-Encoding"},
		{"weights", "/predict", formType, form, "gzip;q=0.5, deflate;q=0.8", "deflate", "Accept-Encoding"},
		{"any", "/predict", formType, form, "*", "gzip", "Accept-Encoding"},
		{"not_accepted", "/predict", formType, form, "gzip;q=0, br", "", "Accept-Encoding"},
		{"identity", "/predict", formType, form, "identity", "", "Accept-Encoding"},
		{"none", "/predict", formType, form, "", "", "Accept-Encoding"},
		{"small", "/predict", "", img, "gzip", "", ""},
		{"tensor_in_JSON", "/v2/models/fakeart/infer", "", tensorRequest(100), "gzip", "gzip", "Accept-Encoding"},
		{"binary_tensor", "/v2/models/fakeart/infer", "", binaryOutput, "gzip, deflate, br", "", "Accept-Encoding"},
		{"binary_tensor_requested", "/v2/models/fakeart/infer", "", binaryOutput, "gzip", "gzip", "Accept-Encoding"},
		{"problem", "/predict?explain=" + strings.Repeat("x", 3000), "", img, "gzip", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			header := []string{"Accept-Encoding", test.accept, "Content-Type", test.contentType}
			response, body := sendWith(t, m.URL()+test.path, test.body, header...)
			if got := response.Header.Get("Content-Encoding"); got != test.want {
				t.Errorf("Content-Encoding %q, want %q", got, test.want)
			}
			if got := response.Header.Get("Vary"); got != test.vary {
				t.Errorf("Vary %q, want %q", got, test.vary)
			}
			plain := decompressed(t, test.want, body)
			if length := response.Header.Get(oip.LengthHeader); length != "" {
				// The header refers to the uncompressed body.
				var n int
				if _, err := fmt.Sscan(length, &n); err != nil || n >= len(plain) {
					t.Fatalf("%s is %s for %d bytes", oip.LengthHeader, length, len(plain))
				}
				plain = plain[:n]
			}
			if !json.Valid(plain) {
				t.Errorf("not JSON: %.200s", plain)
			}
		})
	}
	if response, _ := sendWith(t, m.URL()+"/predict", form, "Content-Type", formType); response.ContentLength <= 0 {
		t.Errorf("Content-Length %d", response.ContentLength)
	}
}
