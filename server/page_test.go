package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"image"
	"image/png"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"fakeart/internal/imaging"
	"fakeart/server/page"
)

func TestPage(t *testing.T) {
	m := start(t)
	index := page.Files()[page.Index]
	plain := map[string]string{"Accept-Encoding": "identity"}
	response, body := requestWithHeader(t, "GET", m.URL()+"/", "", plain)
	if response.StatusCode != 200 || !bytes.Equal(body, index.Plain) {
		t.Fatalf("status %d, %.100s", response.StatusCode, body)
	}
	for header, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": page.Policy, "Cache-Control": "no-cache", "Etag": index.ETag,
		"X-Content-Type-Options": "nosniff", "Content-Encoding": "", "Referrer-Policy": "no-referrer", "Vary": "Accept-Encoding",
	} {
		if got := response.Header.Get(header); got != want {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}
	if strings.Contains(page.Policy, "unsafe") {
		t.Errorf("the policy allows unsafe content: %s", page.Policy)
	}
	response, body = requestWithHeader(t, "GET", m.URL()+"/", "", map[string]string{"If-None-Match": response.Header.Get("Etag")})
	if response.StatusCode != 304 || len(body) > 0 {
		t.Errorf("If-None-Match: status %d, %d bytes", response.StatusCode, len(body))
	}
	response, body = requestWithHeader(t, "GET", m.URL()+"/ui/app.js", "", map[string]string{"Accept-Encoding": "br, gzip"})
	if response.Header.Get("Content-Encoding") != "gzip" {
		t.Fatalf("encoding %q", response.Header.Get("Content-Encoding"))
	}
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if script, err := io.ReadAll(r); err != nil || !bytes.Equal(script, page.Files()["app.js"].Plain) {
		t.Errorf("app.js differs: %v", err)
	}
	for _, path := range []string{"/ui/", "/ui/nowhere", "/ui/../serve.go", "/ui/draw.go", "/ui/page.go"} {
		response, body := requestWithHeader(t, "GET", m.URL()+path, "", nil)
		checkProblem(t, response, body, 404)
	}
	if response, body := requestWithHeader(t, "HEAD", m.URL()+"/", "", nil); response.StatusCode != 200 || len(body) > 0 {
		t.Errorf("HEAD: status %d, %d bytes", response.StatusCode, len(body))
	}
}

func TestPage_Disabled(t *testing.T) {
	m := start(t, func(c *Config) { c.UI = false })
	for _, path := range []string{"/", "/ui/app.js"} {
		response, body := requestWithHeader(t, "GET", m.URL()+path, "", nil)
		checkProblem(t, response, body, 404)
	}
}

func TestPage_RateLimit(t *testing.T) {
	m := start(t, func(c *Config) { c.RateLimit = 1 })
	for name := range page.Files() {
		if response, _ := requestWithHeader(t, "GET", m.URL()+"/ui/"+name, "", nil); response.StatusCode != 200 {
			t.Errorf("%s: status %d", name, response.StatusCode)
		}
	}
	if response, _ := requestWithHeader(t, "GET", m.URL()+"/healthz", "", nil); response.StatusCode != 200 {
		t.Error("/healthz is limited")
	}
}

func TestPredict_Input(t *testing.T) {
	m := start(t)
	for name, data := range map[string][]byte{
		"32×32":  page.Files()["samples/fake-1.png"].Plain,
		"larger": noise(t, 75, 40),
	} {
		response, body := do(t, "POST", m.URL()+"/predict?input=png", "", data)
		if response.StatusCode != 200 {
			t.Fatalf("%s: %s", name, body)
		}
		var respBody Prediction
		if err := json.Unmarshal(body, &respBody); err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(bytes.NewReader(respBody.Input))
		if err != nil {
			t.Fatal(err)
		}
		var got []uint8
		for y := range imaging.Size {
			for x := range imaging.Size {
				r, g, b, _ := img.At(x, y).RGBA()
				got = append(got, uint8(r>>8), uint8(g>>8), uint8(b>>8))
			}
		}
		want := make([]uint8, len(got))
		if err := new(imaging.Decoder).Pixels(want, data); err != nil {
			t.Fatal(err)
		}
		if img.Bounds() != image.Rect(0, 0, imaging.Size, imaging.Size) || !slices.Equal(got, want) {
			t.Errorf("%s: the pixels differ from the decoder's", name)
		}
	}
	response, body := do(t, "POST", m.URL()+"/predict?input=jpeg", "", page.Files()["samples/fake-1.png"].Plain)
	checkProblem(t, response, body, http.StatusBadRequest, "jpeg", "png")
	response, body = do(t, "POST", m.URL()+"/predict", "", page.Files()["samples/fake-1.png"].Plain)
	if response.StatusCode != 200 || bytes.Contains(body, []byte("input")) {
		t.Errorf("input without ?input=png: %s", body)
	}
}

func noise(t *testing.T, width, height int) []byte {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, width, height))
	for i := range img.Pix {
		img.Pix[i] = uint8(i * i / 7)
		if i%4 == 3 {
			img.Pix[i] = 0xff
		}
	}
	return pngOf(t, img)
}
