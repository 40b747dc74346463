package source

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"hash/crc32"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// cloud is a stub of Google Cloud Storage and S3 that can list, stat and read the objects of one
// bucket, "models".
type cloud struct {
	t   *testing.T
	url string // http://127.0.0.1:…

	mu      sync.Mutex
	objects map[string]stored
	puts    int64 // number of puts so far; also the generation of the latest object

	fail      func(r *http.Request) int // returns the status to respond with, or 0 for a normal response
	sending   func(key string)          // called when half of an object was sent
	careless  bool                      // ignores conditions and sends no ETag with content, like some S3-compatible stores
	cutOff    bool                      // sends half of the content and closes the connection
	requests  []string                  // method and URL of every request
	intercept func(w http.ResponseWriter, r *http.Request) bool
}

// stored is an object of the stub.
type stored struct {
	data       string
	generation int64
	modTime    time.Time
}

func (o stored) etag() string { return fmt.Sprintf(`"%x"`, o.generation*7919) }

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// newCloud starts a stub and configures the libraries to use it.
func newCloud(t *testing.T) *cloud {
	c := &cloud{t: t, objects: map[string]stored{}}
	server := httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(server.Close)
	c.url = server.URL
	t.Setenv("STORAGE_EMULATOR_HOST", strings.TrimPrefix(c.url, "http://"))
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CONFIG_FILE", path.Join(t.TempDir(), "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", path.Join(t.TempDir(), "none"))
	return c
}

// ref returns the reference of a key in the stub's bucket.
func (c *cloud) ref(scheme, key string) string {
	ref := scheme + "://models/" + key
	if scheme == "s3" {
		ref += "?region=eu-central-1&use_path_style=true&endpoint=" + c.url
	}
	return ref
}

// put stores an object. Each is one minute newer than the previous one.
func (c *cloud) put(key, data string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.puts++
	c.objects[key] = stored{data, c.puts, epoch.Add(time.Duration(c.puts) * time.Minute)}
}

func (c *cloud) remove(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.objects, key)
}

func (c *cloud) get(key string) (stored, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o, ok := c.objects[key]
	return o, ok
}

// list returns the keys with the prefix, and the folders below it.
func (c *cloud) list(prefix string) (keys, folders []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(c.objects)) {
		rest, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		if folder, _, ok := strings.Cut(rest, "/"); ok {
			if folder = prefix + folder + "/"; !slices.Contains(folders, folder) {
				folders = append(folders, folder)
			}
			continue
		}
		keys = append(keys, key)
	}
	return keys, folders
}

func (c *cloud) serve(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.requests = append(c.requests, r.Method+" "+r.URL.RequestURI())
	c.mu.Unlock()
	if c.intercept != nil && c.intercept(w, r) {
		return
	}
	status := 0
	if c.fail != nil {
		status = c.fail(r)
	}
	if google, ok := strings.CutPrefix(r.URL.Path, "/storage/v1/b/"); ok {
		c.serveGoogle(w, r, google, status)
		return
	}
	name, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case status == 0 && name != "models":
		sendXMLError(w, http.StatusNotFound, "NoSuchBucket")
	case status != 0:
		sendXMLError(w, status, map[int]string{403: "AccessDenied", 404: "NoSuchKey"}[status])
	case key == "":
		c.listAmazon(w, r)
	default:
		c.send(w, r, key)
	}
}

func sendXMLError(w http.ResponseWriter, status int, code string) {
	if code == "" {
		code = "InternalError"
	}
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>the stub says no</Message></Error>`, code)
}

// serveGoogle serves the JSON API below /storage/v1/b/.
func (c *cloud) serveGoogle(w http.ResponseWriter, r *http.Request, rest string, status int) {
	w.Header().Set("Content-Type", "application/json")
	name, key, one := strings.Cut(rest, "/o/")
	o, ok := c.get(key)
	if status == 0 && (strings.TrimSuffix(name, "/o") != "models" || one && !ok) {
		status = http.StatusNotFound
	}
	if status != 0 {
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"error":{"code":%d,"message":"the stub says no"}}`, status)
		return
	}
	item := func(key string, o stored) map[string]any {
		return map[string]any{
			"name": key, "bucket": "models", "size": strconv.Itoa(len(o.data)), "etag": "weak",
			"updated": o.modTime.Format(time.RFC3339Nano), "generation": strconv.FormatInt(o.generation, 10),
		}
	}
	if one {
		_ = json.NewEncoder(w).Encode(item(key, o))
		return
	}
	keys, folders := c.list(r.URL.Query().Get("prefix"))
	var items []any
	for _, key := range keys {
		o, _ := c.get(key)
		items = append(items, item(key, o))
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"items": items, "prefixes": folders})
}

func (c *cloud) listAmazon(w http.ResponseWriter, r *http.Request) {
	type content struct {
		Key, LastModified, ETag string
		Size                    int
	}
	type prefix struct{ Prefix string }
	result := struct {
		XMLName        xml.Name `xml:"ListBucketResult"`
		Contents       []content
		CommonPrefixes []prefix
	}{}
	keys, folders := c.list(r.URL.Query().Get("prefix"))
	for _, key := range keys {
		o, _ := c.get(key)
		result.Contents = append(result.Contents, content{key, o.modTime.Format(time.RFC3339), o.etag(), len(o.data)})
	}
	for _, folder := range folders {
		result.CommonPrefixes = append(result.CommonPrefixes, prefix{folder})
	}
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(result)
}

// send serves the content of an object, for Google's XML API and for S3.
func (c *cloud) send(w http.ResponseWriter, r *http.Request, key string) {
	o, ok := c.get(key)
	generation := r.URL.Query().Get("generation")
	switch condition := r.Header.Get("If-Match"); {
	case !ok, generation != "" && generation != strconv.FormatInt(o.generation, 10):
		sendXMLError(w, http.StatusNotFound, "NoSuchKey")
		return
	case condition != "" && condition != o.etag() && !c.careless:
		sendXMLError(w, http.StatusPreconditionFailed, "PreconditionFailed")
		return
	}
	h := w.Header()
	h.Set("Content-Length", strconv.Itoa(len(o.data)))
	h.Set("Last-Modified", o.modTime.Format(http.TimeFormat))
	h.Set("X-Goog-Generation", strconv.FormatInt(o.generation, 10))
	sum := crc32.Checksum([]byte(o.data), crc32.MakeTable(crc32.Castagnoli))
	h.Set("X-Goog-Hash", "crc32c="+base64CRC(sum))
	if !c.careless || r.Method == http.MethodHead {
		h.Set("ETag", o.etag())
	}
	if r.Method == http.MethodHead {
		return
	}
	half := len(o.data) / 2
	_, _ = w.Write([]byte(o.data[:half]))
	if c.sending != nil {
		c.sending(key)
	}
	if c.cutOff {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write([]byte(o.data[half:]))
}

func base64CRC(sum uint32) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum))
}
