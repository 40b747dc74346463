package dataset

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"fakeart/internal/config"
)

// The schema of image datasets on the Hub.
type hubImage struct {
	Bytes []byte  `parquet:"bytes,optional"`
	Path  *string `parquet:"path,optional"`
}

type hubRow struct {
	Image *hubImage `parquet:"image,optional"`
	Label *int64    `parquet:"label,optional"`
}

// hubMetadata returns the metadata that the libraries of the Hub write to a Parquet file with these
// class names.
func hubMetadata(names ...string) string {
	text, _ := json.Marshal(names)
	return `{"info": {"features": {"image": {"_type": "Image"}, "label": {"names": ` + string(text) + `, "_type": "ClassLabel"}}}}`
}

func shardOf[T any](tb testing.TB, rows []T, metadata string) []byte {
	tb.Helper()
	var buf bytes.Buffer
	options := []parquet.WriterOption{parquet.Compression(&parquet.Snappy), parquet.MaxRowsPerRowGroup(3)}
	if metadata != "" {
		options = append(options, parquet.KeyValueMetadata("huggingface", metadata))
	}
	w := parquet.NewGenericWriter[T](&buf, options...)
	if _, err := w.Write(rows); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// hubRows returns n images, alternating REAL and FAKE, starting with image from. A label is the
// index of the class in names.
func hubRows(tb testing.TB, from, n int, names ...string) []hubRow {
	var rows []hubRow
	for i := range n {
		class := uint8(i % 2)
		label := int64(slices.IndexFunc(names, func(s string) bool { return strings.EqualFold(s, classNames[class]) }))
		path := fmt.Sprintf("%d.png", from+i)
		rows = append(rows, hubRow{Image: &hubImage{Bytes: pngOf(tb, class, from+i), Path: &path}, Label: &label})
	}
	return rows
}

// hubFiles returns the files of a repository with two shards for training and one for testing.
func hubFiles(tb testing.TB, metadata string, names ...string) map[string][]byte {
	return map[string][]byte{
		".gitattributes":                         []byte("*.parquet lfs"),
		"data/train-00001-of-00002.parquet":      shardOf(tb, hubRows(tb, 100, 6, names...), metadata),
		"data/train-00000-of-00002.parquet":      shardOf(tb, hubRows(tb, 0, 8, names...), metadata),
		"data/test-00000-of-00001.parquet":       shardOf(tb, hubRows(tb, 200, 4, names...), metadata),
		"data/validation-00000-of-00001.parquet": shardOf(tb, hubRows(tb, 300, 4, names...), metadata),
	}
}

const (
	hubCommit = "0123456789abcdef0123456789abcdef01234567"
	hubRepo   = "somebody/images"
	hubToken  = "hf_secret"
)

// fakeHub implements the part of the protocol of the Hub that the loader needs: the description of
// a revision, and files that are redirected to a CDN, with ranges.
type fakeHub struct {
	files   map[string][]byte
	digests map[string]string // overrides the actual digests
	private bool
	noInfo  bool // supports only the file listing, not the description of revisions
	noRange bool
	// intercept, if set, may respond instead of the CDN.
	intercept func(w http.ResponseWriter, r *http.Request, name string) bool

	hub, network *httptest.Server
	mu           sync.Mutex
	requests     []string // "hub GET /path" or "network bytes=5- /path"
	leaks        []string // tokens received by the CDN
}

func (f *fakeHub) start(t *testing.T) *fakeHub {
	f.hub = httptest.NewServer(http.HandlerFunc(f.serveHub))
	f.network = httptest.NewServer(http.HandlerFunc(f.serveNetwork))
	t.Cleanup(f.hub.Close)
	t.Cleanup(f.network.Close)
	return f
}

func (f *fakeHub) digest(name string) string {
	if d, ok := f.digests[name]; ok {
		return d
	}
	sum := sha256.Sum256(f.files[name])
	return hex.EncodeToString(sum[:])
}

func (f *fakeHub) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, fmt.Sprintf(format, args...))
}

func (f *fakeHub) serveHub(w http.ResponseWriter, r *http.Request) {
	f.note("hub %s", r.URL.Path)
	if f.private && r.Header.Get("Authorization") != "Bearer "+hubToken {
		w.Header().Set("X-Error-Message", "Invalid username or password.")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	path := r.URL.EscapedPath()
	if name, ok := strings.CutPrefix(path, "/datasets/"+hubRepo+"/resolve/"+hubCommit+"/"); ok {
		f.resolve(w, r, name)
		return
	}
	if name, ok := strings.CutPrefix(path, "/datasets/"+hubRepo+"/resolve/main/"); ok && f.noInfo {
		f.resolve(w, r, name)
		return
	}
	type lfs struct {
		SHA256 string `json:"sha256,omitempty"`
		OID    string `json:"oid,omitempty"`
	}
	switch path {
	case "/api/datasets/" + hubRepo + "/revision/main", "/api/datasets/" + hubRepo + "/revision/refs%2Fconvert%2Fparquet":
		if f.noInfo {
			break
		}
		type sibling struct {
			Name string `json:"rfilename"`
			Size int    `json:"size"`
			LFS  *lfs   `json:"lfs"`
		}
		info := struct {
			SHA      string    `json:"sha"`
			Siblings []sibling `json:"siblings"`
		}{SHA: hubCommit}
		for name, data := range f.files {
			s := sibling{Name: name, Size: len(data)}
			if strings.HasSuffix(name, ".parquet") {
				s.LFS = &lfs{SHA256: f.digest(name)}
			}
			info.Siblings = append(info.Siblings, s)
		}
		_ = json.NewEncoder(w).Encode(info)
		return
	case "/api/datasets/" + hubRepo + "/tree/main":
		type entry struct {
			Type string `json:"type"`
			Path string `json:"path"`
		}
		tree := []entry{{"directory", "data"}}
		for name := range f.files {
			tree = append(tree, entry{"file", name})
		}
		_ = json.NewEncoder(w).Encode(tree)
		return
	}
	w.WriteHeader(http.StatusNotFound)
}

func (f *fakeHub) resolve(w http.ResponseWriter, r *http.Request, name string) {
	data, ok := f.files[name]
	switch {
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	case strings.HasSuffix(name, ".parquet"):
		w.Header().Set("X-Linked-Etag", `"`+f.digest(name)+`"`)
		w.Header().Set("X-Linked-Size", fmt.Sprint(len(data)))
		http.Redirect(w, r, f.network.URL+"/"+name, http.StatusFound)
	default:
		_, _ = w.Write(data)
	}
}

func (f *fakeHub) serveNetwork(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	f.note("network %s /%s", r.Header.Get("Range"), name)
	if a := r.Header.Get("Authorization"); a != "" {
		f.mu.Lock()
		f.leaks = append(f.leaks, a)
		f.mu.Unlock()
	}
	f.mu.Lock()
	intercept := f.intercept
	f.mu.Unlock()
	if intercept != nil && intercept(w, r, name) {
		return
	}
	w.Header().Set("ETag", `"`+strings.Repeat("ab", 32)+`"`) // an ETag that is not the digest of the content
	if f.noRange {
		r.Header.Del("Range")
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.files[name]))
}

// setIntercept changes intercept and clears the recorded requests.
func (f *fakeHub) setIntercept(intercept func(w http.ResponseWriter, r *http.Request, name string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.intercept, f.requests = intercept, nil
}

// rangesFor returns the Range headers of the requests to the CDN for a file.
func (f *fakeHub) rangesFor(name string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ranges []string
	for _, r := range f.requests {
		if rest, ok := strings.CutPrefix(r, "network "); ok && strings.HasSuffix(rest, "/"+name) {
			ranges = append(ranges, strings.TrimSuffix(rest, " /"+name))
		}
	}
	return ranges
}

// prepare runs prepare against the hub, without long waits between retries.
func (f *fakeHub) prepare(t *testing.T, cfg config.Dataset, token string) (*Manifest, error) {
	t.Helper()
	h, err := newHub(f.hub.URL+"/", token)
	if err != nil {
		t.Fatal(err)
	}
	h.client.RetryWaitMin, h.client.RetryWaitMax = time.Millisecond, 2*time.Millisecond
	h.tries, h.client.RetryMax = 3, 3
	return prepare(context.Background(), cfg, io.Discard, h.gather)
}

func hubConfig(t *testing.T) config.Dataset {
	dir := t.TempDir()
	return config.Dataset{
		Name: "huggingface", Repo: hubRepo, Revision: "main",
		Path: filepath.Join(dir, "cache"), Dir: filepath.Join(dir, "data"),
	}
}

// checkHubData compares the prepared dataset with the images of hubFiles.
func checkHubData(t *testing.T, dir string) {
	t.Helper()
	for split, numbers := range map[string][]int{
		Train: {0, 1, 2, 3, 4, 5, 6, 7, 100, 101, 102, 103, 104, 105},
		Test:  {200, 201, 202, 203},
	} {
		s, _, err := Load(dir, split)
		if err != nil {
			t.Fatal(err)
		}
		if s.Len() != len(numbers) {
			t.Fatalf("%s has %d images, want %d", split, s.Len(), len(numbers))
		}
		var d drawing
		want := make([]byte, syntheticBytes)
		for i, number := range numbers {
			class := uint8(i % 2)
			d.draw(want, 7, 0, class, number)
			if s.Labels[i] != uint16(class) || !bytes.Equal(s.Image(i), want) {
				t.Errorf("%s: image %d is not image %d of class %d (label %d)", split, i, number, class, s.Labels[i])
			}
		}
	}
}

const card = `---
license: mit
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': %s
          '1': %s
  splits:
  - name: train
    num_examples: 14
---
# Images
`

func TestHub_ClassNames(t *testing.T) {
	list := strings.Replace(strings.Replace(card, "'0': %s", "- %s", 1), "'1': %s", "- %s", 1)
	configs := strings.ReplaceAll(strings.Replace(card, "  features:", "- config_name: default\n  features:", 1), "\n", "\r\n")
	for _, test := range []struct {
		name   string
		labels []string
		inFile bool
		card   string
	}{
		{"parquet_FAKE_REAL", []string{"FAKE", "REAL"}, true, ""},
		{"parquet_REAL_FAKE", []string{"REAL", "FAKE"}, true, ""},
		{"lower_case", []string{"fake", "real"}, true, ""},
		{"readme_FAKE_REAL", []string{"FAKE", "REAL"}, false, card},
		{"readme_REAL_FAKE", []string{"REAL", "FAKE"}, false, card},
		{"readme_list_of_names", []string{"FAKE", "REAL"}, false, list},
		{"readme_list_of_configs", []string{"FAKE", "REAL"}, false, configs},
		{"readme_other_label_column", []string{"FAKE", "REAL"}, true, strings.NewReplacer("name: label", "name: subject", "'0': %s", "'0': cat", "'1': %s", "'1': dog").Replace(card)},
		{"parquet_and_readme", []string{"FAKE", "REAL"}, true, card},
		{"readme_without_header", []string{"FAKE", "REAL"}, true, "# Images"},
	} {
		t.Run(test.name, func(t *testing.T) {
			metadata := ""
			if test.inFile {
				metadata = hubMetadata(test.labels...)
			}
			f := (&fakeHub{files: hubFiles(t, metadata, test.labels...)}).start(t)
			switch {
			case strings.Contains(test.card, "%s"):
				f.files["README.md"] = fmt.Appendf(nil, test.card, test.labels[0], test.labels[1])
			case test.card != "":
				f.files["README.md"] = []byte(test.card)
			}
			cfg := hubConfig(t)
			cfg.Strict = true
			m, err := f.prepare(t, cfg, "")
			if err != nil {
				t.Fatal(err)
			}
			checkHubData(t, cfg.Dir)
			if m.Source.Revision != hubCommit || m.Source.Requested != "main" || !slices.Equal(m.Source.Labels, test.labels) {
				t.Errorf("source %+v, want commit %s and labels %q", m.Source, hubCommit, test.labels)
			}
			if m.Splits[Train]["REAL"] != 7 || m.Splits[Test]["FAKE"] != 2 {
				t.Errorf("counts = %v, want 7 REAL in train and 2 FAKE in test", m.Splits)
			}
		})
	}
}

func TestHub_AnyClasses(t *testing.T) {
	rows := func(from, n int) []hubRow {
		rows := hubRows(t, from, n, "REAL", "FAKE")
		for i := range rows {
			label := int64(i % 3)
			rows[i].Label = &label
		}
		return rows
	}
	metadata := hubMetadata("dog", "cat", " bird ")
	f := (&fakeHub{files: map[string][]byte{
		"data/train-0.parquet": shardOf(t, rows(0, 12), metadata), "data/validation-0.parquet": shardOf(t, rows(100, 6), metadata),
	}}).start(t)
	cfg := hubConfig(t)
	cfg.Size, cfg.Strict = 16, true
	m, err := f.prepare(t, cfg, "")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(m.Classes, []string{"dog", "cat", "bird"}) || m.Size != 16 || m.Count(Train) != 12 || m.Count(Val) != 6 || m.Count(Test) != 0 || m.Splits[Val]["bird"] != 2 {
		t.Errorf("manifest %+v", m)
	}
	s, _, err := Load(cfg.Dir, Val)
	if err != nil || !slices.Equal(s.Labels, []uint16{0, 1, 2, 0, 1, 2}) {
		t.Errorf("Load = %v, %v", s.Labels, err)
	}
}

func TestHub_LabelOrderDoesNotChangeDigest(t *testing.T) {
	var digests []string
	for _, labels := range [][]string{{"FAKE", "REAL"}, {"REAL", "FAKE"}} {
		f := (&fakeHub{files: hubFiles(t, hubMetadata(labels...), labels...)}).start(t)
		m, err := f.prepare(t, hubConfig(t), "")
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, m.Digest())
	}
	if digests[0] != digests[1] {
		t.Errorf("digests differ: %s and %s", digests[0], digests[1])
	}
}

func TestHub_Errors(t *testing.T) {
	names := []string{"FAKE", "REAL"}
	metadata := hubMetadata(names...)
	const train, test = "data/train-00000-of-00002.parquet", "data/test-00000-of-00001.parquet"
	good, testRows := hubFiles(t, metadata, names...), hubRows(t, 200, 4, names...)
	// described returns valid rows with other metadata.
	described := func(metadata string) map[string][]byte {
		return map[string][]byte{
			train: shardOf(t, testRows, metadata),
			test:  shardOf(t, testRows, metadata),
		}
	}
	type other struct {
		ID    int64  `parquet:"id"`
		Photo string `parquet:"photo"`
	}
	type textLabel struct {
		Image hubImage `parquet:"image"`
		Label string   `parquet:"label"`
	}
	for _, tc := range []struct {
		name   string
		change func(f *fakeHub, cfg *config.Dataset)
		want   []string
	}{
		{"no_class_names", func(f *fakeHub, _ *config.Dataset) { f.files = described("") }, []string{"names the classes", "README.md"}},
		{"classes_differ_in_case", func(f *fakeHub, _ *config.Dataset) {
			f.files = described(hubMetadata("cat", "CAT", "dog"))
		}, []string{`"cat" and "CAT" differ only in case`}},
		{"one_class", func(f *fakeHub, _ *config.Dataset) { f.files = described(hubMetadata("cat")) }, []string{"1 classes, want 2 to 10000"}},
		{"readme_contradicts_parquet", func(f *fakeHub, _ *config.Dataset) {
			f.files["README.md"] = fmt.Appendf(nil, card, "REAL", "FAKE")
		}, []string{"README.md", "conflicting"}},
		{"shards_contradict", func(f *fakeHub, _ *config.Dataset) {
			f.files[test] = shardOf(t, testRows, hubMetadata("REAL", "FAKE"))
		}, []string{test, "conflicting"}},
		{"invalid_metadata", func(f *fakeHub, _ *config.Dataset) { f.files = described("{") }, []string{"invalid Hugging Face metadata"}},
		{"no_image_column", func(f *fakeHub, _ *config.Dataset) {
			f.files[train] = shardOf(t, []other{{1, "x"}}, metadata)
		}, []string{train, "no column image.bytes", "id, photo"}},
		{"text_labels", func(f *fakeHub, _ *config.Dataset) {
			f.files[train] = shardOf(t, []textLabel{{Label: "FAKE"}}, metadata)
		}, []string{train, "no column label of type integer"}},
		{"invalid_parquet", func(f *fakeHub, _ *config.Dataset) { f.files[train] = []byte("PAR1 nothing else PAR1") }, []string{train, "not a readable Parquet file"}},
		{"no_parquet_files", func(f *fakeHub, _ *config.Dataset) { f.files = map[string][]byte{"train.zip": nil} }, []string{"refs/convert/parquet"}},
		{"class_without_training_images", func(f *fakeHub, _ *config.Dataset) {
			f.files = described(metadata)
			f.files[train] = shardOf(t, []hubRow{testRows[0], testRows[2]}, metadata)
		}, []string{"no images in train/FAKE"}},
		{"several_datasets", func(f *fakeHub, _ *config.Dataset) {
			f.files["other/train/0.parquet"] = f.files[train]
		}, []string{"several datasets"}},
		{"unknown_repository", func(_ *fakeHub, cfg *config.Dataset) { cfg.Repo = "nobody/nothing" }, []string{"404", "dataset.repo"}},
		{"unknown_revision", func(_ *fakeHub, cfg *config.Dataset) { cfg.Revision = "v9" }, []string{"404", "dataset.revision"}},
		{"invalid_repository_name", func(_ *fakeHub, cfg *config.Dataset) { cfg.Repo = "../secrets" }, []string{"invalid dataset.repo"}},
		{"private_repository", func(f *fakeHub, _ *config.Dataset) { f.private = true }, []string{"401", "HF_TOKEN"}},
		{"wrong_digest", func(f *fakeHub, _ *config.Dataset) {
			f.digests = map[string]string{train: strings.Repeat("00", 32)}
		}, []string{train, "SHA-256", "run the command again"}},
		{"path_outside_cache", func(f *fakeHub, _ *config.Dataset) {
			f.files["../train.parquet"] = f.files[train]
			delete(f.files, train)
			delete(f.files, "data/train-00001-of-00002.parquet")
			delete(f.files, "data/validation-00000-of-00001.parquet")
			delete(f.files, test)
			f.files["../test.parquet"] = f.files[train]
		}, []string{"invalid path"}},
		{"cdn_down", func(f *fakeHub, _ *config.Dataset) {
			f.intercept = func(w http.ResponseWriter, _ *http.Request, _ string) bool {
				w.WriteHeader(http.StatusBadGateway)
				return true
			}
		}, []string{"502", "run the command again"}},
		{"cdn_retry_after_1h", func(f *fakeHub, _ *config.Dataset) {
			f.intercept = func(w http.ResponseWriter, _ *http.Request, _ string) bool {
				w.Header().Set("Retry-After", "3600")
				w.WriteHeader(http.StatusTooManyRequests)
				return true
			}
		}, []string{"429", "3600"}},
		{"connection_always_breaks", func(f *fakeHub, _ *config.Dataset) {
			f.intercept = func(w http.ResponseWriter, _ *http.Request, _ string) bool {
				w.Header().Set("Content-Length", "1000000")
				w.WriteHeader(http.StatusOK)
				return true
			}
		}, []string{"run the command again"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := hubConfig(t)
			f := &fakeHub{files: maps.Clone(good)}
			tc.change(f, &cfg)
			_, err := f.start(t).prepare(t, cfg, "")
			if err == nil {
				t.Fatal("error = nil")
			}
			t.Log(err)
			checkLines(t, err)
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error = %q, want %q in it", err, want)
				}
			}
			if _, err := os.Stat(cfg.Dir); !errors.Is(err, os.ErrNotExist) {
				t.Error("the dataset was created")
			}
		})
	}
}

func TestHub_UnreadableRows(t *testing.T) {
	names := []string{"FAKE", "REAL"}
	const train = "data/train-00000-of-00002.parquet"
	rows := hubRows(t, 0, 8, names...)
	nine, minus := int64(9), int64(-1)
	rows[1].Image.Bytes = []byte("not an image")
	rows[2].Label = &nine
	rows[3].Label = &minus
	rows[4].Label = nil
	rows[5].Image = nil
	f := (&fakeHub{files: hubFiles(t, hubMetadata(names...), names...)}).start(t)
	f.files[train] = shardOf(t, rows, hubMetadata(names...))
	cfg := hubConfig(t)
	m, err := f.prepare(t, cfg, "")
	if err != nil {
		t.Fatal(err)
	}
	var rejected []string
	for _, r := range m.Rejected {
		rejected = append(rejected, r.Path)
	}
	var want []string
	for i := 1; i <= 5; i++ {
		want = append(want, fmt.Sprintf("%s row %d", train, i))
	}
	if !slices.Equal(rejected, want) {
		t.Errorf("rejected %q, want %q", rejected, want)
	}
	cfg.Strict = true
	if _, err := f.prepare(t, cfg, ""); err == nil || !strings.Contains(err.Error(), train+" row ") {
		t.Errorf("strict: error = %v, want the row", err)
	}
}

func TestHub_TokenNotSentToCDN(t *testing.T) {
	names := []string{"FAKE", "REAL"}
	f := (&fakeHub{files: hubFiles(t, hubMetadata(names...), names...), private: true}).start(t)
	cfg := hubConfig(t)
	if _, err := f.prepare(t, cfg, hubToken); err != nil {
		t.Fatal(err)
	}
	checkHubData(t, cfg.Dir)
	if len(f.leaks) > 0 {
		t.Errorf("the CDN received tokens %q", f.leaks)
	}
	if len(f.rangesFor("data/test-00000-of-00001.parquet")) == 0 {
		t.Error("no file was redirected to the CDN")
	}
}

func TestHub_EnvironmentVariables(t *testing.T) {
	names := []string{"FAKE", "REAL"}
	f := (&fakeHub{files: hubFiles(t, hubMetadata(names...), names...), private: true}).start(t)
	t.Setenv("HF_ENDPOINT", f.hub.URL)
	t.Setenv("HF_TOKEN", hubToken)
	for _, endpoint := range []string{"", defaultEndpoint} {
		cfg := hubConfig(t)
		cfg.Endpoint = endpoint
		if _, err := Prepare(context.Background(), cfg, io.Discard); err != nil {
			t.Errorf("endpoint %q: %v", endpoint, err)
		}
	}
	cfg := hubConfig(t)
	cfg.Endpoint = "huggingface.co"
	if _, err := Prepare(context.Background(), cfg, io.Discard); err == nil || !strings.Contains(err.Error(), "dataset.endpoint") {
		t.Errorf("error %v, want dataset.endpoint in it", err)
	}
}

func TestHub_ResumesDownload(t *testing.T) {
	names := []string{"FAKE", "REAL"}
	const train = "data/train-00000-of-00002.parquet"
	files := hubFiles(t, hubMetadata(names...), names...)
	half := len(files[train]) / 2
	// breakOff sends the first half of the file and aborts the connection.
	breakOff := func(w http.ResponseWriter) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(files[train])))
		_, _ = w.Write(files[train][:half])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	atFirst := func(w http.ResponseWriter, r *http.Request, name string) bool {
		return name == train && r.Header.Get("Range") == "" && breakOff(w)
	}

	t.Run("same_run", func(t *testing.T) {
		f, cfg := (&fakeHub{files: files, intercept: atFirst}).start(t), hubConfig(t)
		if _, err := f.prepare(t, cfg, ""); err != nil {
			t.Fatal(err)
		}
		checkHubData(t, cfg.Dir)
		if got, want := f.rangesFor(train), []string{"", fmt.Sprintf("bytes=%d-", half)}; !slices.Equal(got, want) {
			t.Errorf("requested ranges = %q, want %q", got, want)
		}
	})
	t.Run("next_run", func(t *testing.T) {
		f, cfg := (&fakeHub{files: files}).start(t), hubConfig(t)
		f.setIntercept(func(w http.ResponseWriter, r *http.Request, name string) bool {
			if name == train && r.Header.Get("Range") != "" {
				panic(http.ErrAbortHandler) // the CDN stays down
			}
			return atFirst(w, r, name)
		})
		if _, err := f.prepare(t, cfg, ""); err == nil || !strings.Contains(err.Error(), "run the command again") {
			t.Fatalf("error %v, want a hint to run the command again", err)
		}
		f.setIntercept(nil)
		if _, err := f.prepare(t, cfg, ""); err != nil {
			t.Fatal(err)
		}
		checkHubData(t, cfg.Dir)
		if got, want := f.rangesFor(train), []string{fmt.Sprintf("bytes=%d-", half)}; !slices.Equal(got, want) {
			t.Errorf("requested ranges = %q, want %q", got, want)
		}
	})
	t.Run("server_without_ranges", func(t *testing.T) {
		f, cfg := (&fakeHub{files: files, noRange: true, intercept: atFirst}).start(t), hubConfig(t)
		if _, err := f.prepare(t, cfg, ""); err != nil {
			t.Fatal(err)
		}
		checkHubData(t, cfg.Dir)
	})
	t.Run("part_of_other_file", func(t *testing.T) {
		f, cfg := (&fakeHub{files: files}).start(t), hubConfig(t)
		part := filepath.Join(cfg.Path, strings.ReplaceAll(hubRepo, "/", "--"), hubCommit, filepath.FromSlash(train)+".part")
		if err := os.MkdirAll(filepath.Dir(part), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(part, []byte("something else"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := f.prepare(t, cfg, ""); err != nil {
			t.Fatal(err)
		}
		checkHubData(t, cfg.Dir)
		if got, want := f.rangesFor(train), []string{"bytes=14-", ""}; !slices.Equal(got, want) {
			t.Errorf("requested ranges = %q, want %q", got, want)
		}
	})
}

func TestHub_CachesDownloads(t *testing.T) {
	names := []string{"FAKE", "REAL"}
	const train = "data/train-00000-of-00002.parquet"
	f := (&fakeHub{files: hubFiles(t, hubMetadata(names...), names...)}).start(t)
	cfg := hubConfig(t)
	for range 2 {
		if _, err := f.prepare(t, cfg, ""); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.rangesFor(train); len(got) != 1 {
		t.Errorf("%d requests, want 1", len(got))
	}
	// A file that was modified in the cache is downloaded again.
	file := filepath.Join(cfg.Path, strings.ReplaceAll(hubRepo, "/", "--"), hubCommit, filepath.FromSlash(train))
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := f.prepare(t, cfg, ""); err != nil {
		t.Fatal(err)
	}
	checkHubData(t, cfg.Dir)
	if got := f.rangesFor(train); len(got) != 2 {
		t.Errorf("%d requests, want 2", len(got))
	}
}

func TestHub_RetriesErrors(t *testing.T) {
	names := []string{"FAKE", "REAL"}
	statuses := []int{http.StatusTooManyRequests, http.StatusServiceUnavailable}
	f := &fakeHub{files: hubFiles(t, hubMetadata(names...), names...)}
	f.intercept = func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(statuses) == 0 {
			return false
		}
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(statuses[0])
		statuses = statuses[1:]
		return true
	}
	cfg := hubConfig(t)
	if _, err := f.start(t).prepare(t, cfg, ""); err != nil {
		t.Fatal(err)
	}
	checkHubData(t, cfg.Dir)
}

func TestHub_RetriesStalledDownload(t *testing.T) {
	names := []string{"FAKE", "REAL"}
	f := &fakeHub{files: hubFiles(t, hubMetadata(names...), names...)}
	var once sync.Once
	f.intercept = func(w http.ResponseWriter, r *http.Request, name string) bool {
		first := false
		once.Do(func() { first = true })
		if !first {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(f.files[name])))
		_, _ = w.Write(f.files[name][:10])
		w.(http.Flusher).Flush()
		<-r.Context().Done() // until the client times out
		return true
	}
	f.start(t)
	h, err := newHub(f.hub.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	h.client.RetryWaitMin, h.idle = time.Millisecond, 50*time.Millisecond
	cfg := hubConfig(t)
	if _, err := prepare(context.Background(), cfg, io.Discard, h.gather); err != nil {
		t.Fatal(err)
	}
	checkHubData(t, cfg.Dir)
}

func TestHub_Canceled(t *testing.T) {
	names := []string{"FAKE", "REAL"}
	ctx, cancel := context.WithCancel(context.Background())
	f := &fakeHub{files: hubFiles(t, hubMetadata(names...), names...)}
	f.intercept = func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		cancel()
		<-r.Context().Done()
		return true
	}
	f.start(t)
	h, err := newHub(f.hub.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := prepare(ctx, hubConfig(t), io.Discard, h.gather); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want context.Canceled", err)
	}
}

func TestHub_MirrorWithListingOnly(t *testing.T) {
	names := []string{"FAKE", "REAL"}
	f := (&fakeHub{files: hubFiles(t, hubMetadata(names...), names...), noInfo: true}).start(t)
	cfg := hubConfig(t)
	if _, err := f.prepare(t, cfg, ""); err != nil {
		t.Fatal(err)
	}
	checkHubData(t, cfg.Dir)
}

func TestHub_RevisionWithSlashes(t *testing.T) {
	names := []string{"FAKE", "REAL"}
	f := (&fakeHub{files: hubFiles(t, hubMetadata(names...), names...)}).start(t)
	cfg := hubConfig(t)
	cfg.Revision = "refs/convert/parquet"
	if _, err := f.prepare(t, cfg, ""); err != nil {
		t.Fatal(err)
	}
}

func TestFindShards(t *testing.T) {
	for name, want := range map[string]string{
		"data/train-00000-of-00001.parquet":   Train,
		"data/test-00000-of-00001.parquet":    Test,
		"default/train/0000.parquet":          Train,
		"default/partial-test/0000.parquet":   Test,
		"test.parquet":                        Test,
		"train/CIFAKE_Test.PARQUET":           Test,
		"data/validation-0.parquet":           Val,
		"data/train/validation-0.parquet":     Val,
		"data/trainer-00000-of-00001.parquet": "",
		"data/train.csv":                      "",
	} {
		shards, err := findShards([]remoteFile{{name: name}})
		got := ""
		if err == nil && len(shards) == 1 {
			got = splitNames[shards[0].split]
		}
		if got != want {
			t.Errorf("findShards(%s): split = %q, want %q", name, got, want)
		}
	}
}

func TestHub_SameOrigin(t *testing.T) {
	h, err := newHub("https://huggingface.co/", "")
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]bool{
		"https://huggingface.co/x":         true,
		"https://cdn-lfs.huggingface.co/x": false,
		"https://huggingface.co:8443/x":    false,
		"http://huggingface.co/x":          false,
		"https://cas-bridge.xethub.hf.co/": false,
	} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if got := h.sameOrigin(u); got != want {
			t.Errorf("sameOrigin(%s) = %v, want %v", address, got, want)
		}
	}
}

func TestPrepare_HubWithoutHome(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the cache directory isn't below HOME on Windows")
	}
	t.Setenv("HOME", "")
	t.Setenv("XDG_CACHE_HOME", "")
	_, err := Prepare(t.Context(), config.Dataset{Name: "huggingface", Repo: "a/b", Revision: "main", Dir: filepath.Join(t.TempDir(), "d")}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "XDG_CACHE_HOME to a directory") || strings.Contains(err.Error(), "dataset.path") {
		t.Errorf("error = %v, want the environment variable, and not dataset.path, which doesn't apply", err)
	}
}
