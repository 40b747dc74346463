// Package page contains the server's web page: plain HTML, CSS and JavaScript modules, embedded in
// the program. [Files] returns them ready to serve. The page makes requests to its own server only.
package page

//go:generate go run draw.go

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"path"
	"sync"
)

//go:embed index.html icon.svg style.css *.js samples/*.png
var files embed.FS

// Policy is the page's Content-Security-Policy: nothing from other origins, nothing inline. Images
// that the user chose are blob: URLs.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Index is the name of the HTML file.
const Index = "index.html"

// File is one file of the page.
type File struct {
	// Type is the media type.
	Type string
	// ETag identifies the content. It includes the quotes.
	ETag string
	// Plain is the content. Gzip is the same compressed, or nil if that isn't smaller. Neither may
	// be modified.
	Plain, Gzip []byte
}

// types maps file extensions to media types. Those that the operating system knows may differ.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
	".png":  "image/png",
}

// Files returns the page's files by slash-separated name. It is safe for concurrent use. The map
// must not be modified.
var Files = sync.OnceValue(func() map[string]*File {
	all := map[string]*File{}
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		f, err := newFile(name, data)
		if err != nil {
			return err
		}
		all[name] = f
		return nil
	})
	if err != nil {
		panic(err) // the files are embedded in the program
	}
	return all
})

// newFile returns a file with the given name and content.
func newFile(name string, data []byte) (*File, error) {
	sum := sha256.Sum256(data)
	f := &File{Type: types[path.Ext(name)], ETag: `"` + hex.EncodeToString(sum[:16]) + `"`, Plain: data}
	if f.Type == "image/png" {
		return f, nil
	}
	var compressed bytes.Buffer
	w, err := gzip.NewWriterLevel(&compressed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if compressed.Len() < len(data) {
		f.Gzip = compressed.Bytes()
	}
	return f, nil
}
