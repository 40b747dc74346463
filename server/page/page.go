// Package page is the server's web page: plain HTML, CSS and JavaScript modules that are
// part of the program, and ask nobody but the server that they came from.
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
	"strings"
	"sync"
)

//go:embed index.html icon.svg *.css *.js samples/*.png
var files embed.FS

// Policy is the Content-Security-Policy that the page works under: nothing from
// elsewhere, nothing inline. Pictures that a user has chosen are blob: URLs.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Index is the name of the page itself.
const Index = "index.html"

// File is one of the page's files, ready to be sent.
type File struct {
	// Type is its media type.
	Type string
	// ETag names its content, in quotes.
	ETag string
	// Plain is its content, and Gzip the same compressed; nil when that would be no
	// smaller. Neither may be changed.
	Plain, Gzip []byte
}

// types are the media types of what the page is made of, by the end of the name: those
// that the system knows may be others.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
	".png":  "image/png",
}

// Files returns the page's files by their names, with slashes. It is safe for
// concurrent use; the map must not be changed.
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
		sum := sha256.Sum256(data)
		f := &File{Type: types[path.Ext(name)], ETag: `"` + hex.EncodeToString(sum[:16]) + `"`, Plain: data}
		var packed bytes.Buffer
		w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		if packed.Len() < len(data) && !strings.HasPrefix(f.Type, "image/png") {
			f.Gzip = packed.Bytes()
		}
		all[name] = f
		return nil
	})
	if err != nil {
		panic(err) // they are part of the program
	}
	return all
})
