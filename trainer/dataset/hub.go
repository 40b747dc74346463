package dataset

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/hashicorp/go-retryablehttp"
)

// A client for the Hugging Face Hub. It does not use github.com/gomlx/go-huggingface: downloads of
// that library can neither be resumed nor canceled, verify no digests, and fail on redirects,
// which the Hub uses for every data file; it also prints progress to stdout.

const defaultEndpoint = "https://huggingface.co"

// hub is a client of one hub.
type hub struct {
	endpoint *url.URL
	token    string
	client   *retryablehttp.Client
	tries    int           // consecutive requests without new data before a download fails
	idle     time.Duration // maximum time without new data before a request fails
}

// newHub returns a client for the hub at endpoint. With an empty token, requests are anonymous.
func newHub(endpoint, token string) (*hub, error) {
	u, err := url.Parse(strings.TrimRight(endpoint, "/"))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("invalid hub address %q, expected an address like %s\nhint: check dataset.endpoint and HF_ENDPOINT", endpoint, defaultEndpoint)
	}
	h := &hub{endpoint: u, token: token, client: retryablehttp.NewClient(), tries: 4, idle: time.Minute}
	h.client.Logger = nil
	h.client.RetryMax = h.tries
	h.client.RetryWaitMin = time.Second
	h.client.RetryWaitMax = 30 * time.Second
	h.client.CheckRetry = h.retry
	h.client.ErrorHandler = retryablehttp.PassthroughErrorHandler // statusError is more specific
	if t, ok := h.client.HTTPClient.Transport.(*http.Transport); ok {
		t.ResponseHeaderTimeout = h.idle
	}
	h.client.HTTPClient.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		// The Hub redirects data files to a CDN. net/http keeps the token on redirects to a
		// subdomain or another port of the same host, but only the Hub itself must receive it.
		if !h.sameOrigin(req.URL) {
			req.Header.Del("Authorization")
		}
		if len(via) >= 10 {
			return errors.New("more than 10 redirects")
		}
		return nil
	}
	return h, nil
}

// sameOrigin reports whether a URL has the scheme, host and port of the hub.
func (h *hub) sameOrigin(u *url.URL) bool {
	return u.Scheme == h.endpoint.Scheme && u.Host == h.endpoint.Host
}

// longestWait is the longest Retry-After of the Hub that a request waits for.
const longestWait = 2 * time.Minute

// retry is the default retry policy, except that it does not retry if the Hub asks to wait longer
// than longestWait.
func (h *hub) retry(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if resp != nil && h.client.Backoff(h.client.RetryWaitMin, h.client.RetryWaitMax, 0, resp) > longestWait {
		return false, nil
	}
	return retryablehttp.DefaultRetryPolicy(ctx, resp, err)
}

// get requests a URL, with retries, and returns a response with one of the accepted statuses.
func (h *hub) get(ctx context.Context, address string, offset int64, accept ...int) (*http.Response, error) {
	req, err := retryablehttp.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "fakeart")
	req.Header.Set("Accept-Encoding", "identity") // so that sizes and offsets refer to the file
	if h.token != "" {
		req.Header.Set("Authorization", "Bearer "+h.token)
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := h.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w\nhint: check the network and the address of the hub (dataset.endpoint, HF_ENDPOINT)", err)
	}
	for _, status := range accept {
		if resp.StatusCode == status {
			return resp, nil
		}
	}
	_ = resp.Body.Close()
	return nil, &statusError{
		address: address, status: resp.StatusCode, token: h.token != "",
		message: resp.Header.Get("X-Error-Message"), retryAfter: resp.Header.Get("Retry-After"),
	}
}

// statusError is a response with an unexpected status.
type statusError struct {
	address, message, retryAfter string
	status                       int
	token                        bool
}

func (e *statusError) Error() string {
	text := fmt.Sprintf("%s returned %d %s", e.address, e.status, http.StatusText(e.status))
	if e.message != "" {
		text += " (" + e.message + ")"
	}
	switch {
	case e.status == http.StatusUnauthorized && e.token:
		text += "\nhint: check the token in HF_TOKEN and the spelling of dataset.repo"
	case e.status == http.StatusUnauthorized:
		text += "\nhint: check the spelling of dataset.repo; if the dataset is private, set HF_TOKEN to a token with read access"
	case e.status == http.StatusForbidden:
		text += "\nhint: accept the terms on the page of the dataset, and set HF_TOKEN to a token with read access"
	case e.status == http.StatusNotFound:
		text += "\nhint: check dataset.repo and dataset.revision"
	case e.retryAfter != "":
		text += "\nhint: run the command again after " + e.retryAfter + " (Retry-After; a number means seconds)"
	default:
		text += "\nhint: run the command again later"
	}
	return text
}

// remoteFile is a file of a repository.
type remoteFile struct {
	name   string
	size   int64  // -1 if unknown
	sha256 string // "" if unknown
}

// repository is a dataset repository at one commit.
type repository struct {
	hub    *hub
	name   string
	commit string // commit of the revision, or the revision itself if the hub does not report it
	files  []remoteFile
}

var repoPattern = regexp.MustCompile(`^\w[\w.-]*(/\w[\w.-]*)?$`)

// open resolves revision to a commit and lists its files.
func (h *hub) open(ctx context.Context, repo, revision string) (*repository, error) {
	if !repoPattern.MatchString(repo) {
		return nil, fmt.Errorf("invalid dataset.repo %q, want owner/name", repo)
	}
	if revision == "" {
		revision = "main"
	}
	r := &repository{hub: h, name: repo, commit: revision}
	api := h.endpoint.String() + "/api/datasets/" + repo
	err := r.info(ctx, api+"/revision/"+url.PathEscape(revision)+"?blobs=true")
	if err == nil || !isNotFound(err) {
		return r, err
	}
	// Some mirrors support only the file listing of a revision, or only the default branch.
	if r.tree(ctx, api+"/tree/"+url.PathEscape(revision)+"?recursive=true") == nil {
		return r, nil
	}
	if revision == "main" && r.info(ctx, api+"?blobs=true") == nil {
		return r, nil
	}
	return nil, err
}

// info reads the commit and the files from the description of a revision.
func (r *repository) info(ctx context.Context, address string) error {
	var response struct {
		SHA      string `json:"sha"`
		Siblings []struct {
			Name string `json:"rfilename"`
			Size *int64 `json:"size"`
			LFS  struct {
				SHA256 string `json:"sha256"`
			} `json:"lfs"`
		} `json:"siblings"`
	}
	if err := r.hub.getJSON(ctx, address, &response); err != nil {
		return err
	}
	r.commit = cmp.Or(response.SHA, r.commit)
	for _, s := range response.Siblings {
		r.add(s.Name, s.Size, s.LFS.SHA256)
	}
	return nil
}

// tree reads the files from the listing of a revision.
func (r *repository) tree(ctx context.Context, address string) error {
	var response []struct {
		Type string `json:"type"`
		Path string `json:"path"`
		Size *int64 `json:"size"`
		LFS  struct {
			OID string `json:"oid"`
		} `json:"lfs"`
	}
	if err := r.hub.getJSON(ctx, address, &response); err != nil {
		return err
	}
	for _, s := range response {
		if s.Type != "directory" {
			r.add(s.Path, s.Size, s.LFS.OID)
		}
	}
	return nil
}

func (r *repository) add(name string, size *int64, digest string) {
	f := remoteFile{name: name, size: -1, sha256: sha256Hex(digest)}
	if size != nil {
		f.size = *size
	}
	r.files = append(r.files, f)
}

func isNotFound(err error) bool {
	var status *statusError
	return errors.As(err, &status) && status.status == http.StatusNotFound
}

// sha256Hex returns s without quotes if it is a SHA-256 in hex, and "" otherwise. The ETag of a
// file in LFS, which all large files are, is its SHA-256; for other files it is a git object ID.
func sha256Hex(s string) string {
	s = strings.ToLower(strings.Trim(strings.TrimPrefix(s, "W/"), `"`))
	if b, err := hex.DecodeString(s); err != nil || len(b) != sha256.Size {
		return ""
	}
	return s
}

func (h *hub) getJSON(ctx context.Context, address string, v any) error {
	data, err := h.getBytes(ctx, address)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s returned an invalid response\nhint: check that dataset.endpoint or HF_ENDPOINT is the address of a Hugging Face Hub", address)
	}
	return nil
}

// getBytes returns the body of a response of at most 32 MiB.
func (h *hub) getBytes(ctx context.Context, address string) ([]byte, error) {
	const limit = 32 << 20
	resp, err := h.get(ctx, address, 0, http.StatusOK)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", address, err)
	}
	if len(data) > limit {
		return nil, fmt.Errorf("response of %s is larger than %d MiB", address, limit>>20)
	}
	return data, nil
}

// address returns the URL of a file in the repository.
func (r *repository) address(name string) string {
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return r.hub.endpoint.String() + "/datasets/" + r.name + "/resolve/" + url.PathEscape(r.commit) + "/" + strings.Join(parts, "/")
}

// fetch downloads files to the cache directory and returns their paths. Files that were downloaded
// before are not requested again, and interrupted downloads are resumed. A file with a wrong size
// or digest is never left in the cache.
func (r *repository) fetch(ctx context.Context, cache string, files []remoteFile, out io.Writer) ([]string, error) {
	dir := filepath.Join(cache, strings.ReplaceAll(r.name, "/", "--"), url.PathEscape(r.commit))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create the cache directory: %w", err)
	}
	// Two processes that append to the same .part file would corrupt it.
	lock := flock.New(filepath.Join(dir, ".lock"))
	if ok, err := lock.TryLock(); err == nil && !ok {
		fmt.Fprintf(out, "waiting for another process that is downloading to %s\n", dir)
	}
	if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return nil, fmt.Errorf("lock the cache directory: %w", err)
	}
	defer func() { _ = lock.Unlock() }()

	total := int64(0)
	for _, f := range files {
		if f.size < 0 {
			total = -1
			break
		}
		total += f.size
	}
	bar := newProgress(out, "downloaded", total, unitBytes)
	defer bar.stop()
	var paths []string
	for _, f := range files {
		if !filepath.IsLocal(filepath.FromSlash(f.name)) {
			return nil, fmt.Errorf("the hub lists a file with an invalid path %q", f.name)
		}
		path := filepath.Join(dir, filepath.FromSlash(f.name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		d := &download{hub: r.hub, address: r.address(f.name), file: f, path: path, bar: bar}
		if err := d.run(ctx); err != nil {
			return nil, fmt.Errorf("download %s: %w", f.name, err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// download is the download of one file.
type download struct {
	hub     *hub
	address string
	file    remoteFile
	path    string
	bar     *progress
	counted int64 // bytes of this file reported to bar
}

// progress reports to the bar that have bytes of the file are present.
func (d *download) progress(have int64) {
	d.bar.add(have - d.counted)
	d.counted = have
}

func (d *download) part() string { return d.path + ".part" }

func (d *download) run(ctx context.Context) error {
	if size, err := fileSize(d.path); err == nil {
		if err := d.verify(d.path); err == nil {
			d.progress(size)
			return nil
		}
		// The file in the cache or on the Hub has changed.
		if err := os.Remove(d.path); err != nil {
			return err
		}
	}
	for {
		resumed, err := d.downloadPart(ctx)
		if err != nil {
			return err
		}
		err = d.verify(d.part())
		if err == nil {
			return os.Rename(d.part(), d.path)
		}
		if err := os.Remove(d.part()); err != nil {
			return err
		}
		d.progress(0)
		if !resumed {
			return fmt.Errorf("%w\nhint: the file was discarded; run the command again, and report the problem to the owner of the repository if it persists", err)
		}
		// The part from an earlier run may be of another version of the file. Start again from the
		// beginning.
	}
}

// downloadPart completes the .part file, in as many requests as needed. It reports whether the file
// already contained bytes from an earlier run.
func (d *download) downloadPart(ctx context.Context) (resumed bool, err error) {
	best, _ := fileSize(d.part())
	if d.file.size >= 0 && best > d.file.size {
		best = 0
		if err := os.Remove(d.part()); err != nil {
			return false, err
		}
	}
	resumed = best > 0
	failures := 0
	for {
		err := d.request(ctx)
		if err == nil {
			return resumed, nil
		}
		var status *statusError
		if ctx.Err() != nil {
			return resumed, context.Cause(ctx)
		}
		if errors.As(err, &status) || errors.As(err, new(*fs.PathError)) {
			return resumed, err
		}
		// A broken connection counts as a failure only if it delivered no new data.
		failures++
		if size, _ := fileSize(d.part()); size > best {
			best, failures = size, 0
		}
		if failures >= d.hub.tries {
			return resumed, fmt.Errorf("%w\nhint: run the command again to resume the download; %d bytes are kept", err, best)
		}
		wait := d.hub.client.Backoff(d.hub.client.RetryWaitMin, d.hub.client.RetryWaitMax, failures, nil)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return resumed, context.Cause(ctx)
		}
	}
}

// request makes one request for the missing bytes of the .part file and appends them.
func (d *download) request(ctx context.Context) error {
	have, _ := fileSize(d.part())
	d.progress(have)
	if have > 0 && have == d.file.size {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, err := d.hub.get(ctx, d.address, have,
		http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	d.readHeaders(resp)

	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	switch resp.StatusCode {
	case http.StatusRequestedRangeNotSatisfiable:
		if total, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), "bytes */"); ok && total == strconv.FormatInt(have, 10) {
			return nil // nothing was missing
		}
		if err := os.Remove(d.part()); err != nil {
			return err
		}
		return errors.New("the hub rejected the requested range")
	case http.StatusPartialContent:
		if want := fmt.Sprintf("bytes %d-", have); !strings.HasPrefix(resp.Header.Get("Content-Range"), want) {
			return fmt.Errorf("the hub returned range %q, want %s", resp.Header.Get("Content-Range"), want)
		}
	default: // the whole file: the server does not support ranges
		flags |= os.O_TRUNC
		have = 0
	}
	if resp.ContentLength >= 0 && d.file.size < 0 {
		d.file.size = have + resp.ContentLength
	}
	f, err := os.OpenFile(d.part(), flags, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	watchdog := time.AfterFunc(d.hub.idle, func() {
		cancel(fmt.Errorf("no data received for %s", d.hub.idle))
	})
	defer watchdog.Stop()
	buf := make([]byte, 256<<10)
	for {
		n, err := resp.Body.Read(buf)
		watchdog.Reset(d.hub.idle)
		if n > 0 {
			if _, err := f.Write(buf[:n]); err != nil {
				return fmt.Errorf("write to the cache: %w", err)
			}
			have += int64(n)
			d.progress(have)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("connection lost: %w", err)
		}
	}
	if have < d.file.size {
		return errors.New("connection closed before the end of the file")
	}
	return f.Close()
}

// readHeaders takes the size and digest from the headers of a response, if the file listing did not
// include them. The Hub sends them with the redirect; the headers of the CDN have another meaning.
func (d *download) readHeaders(resp *http.Response) {
	for r := resp; r != nil && r.Request != nil; r = r.Request.Response {
		if !d.hub.sameOrigin(r.Request.URL) {
			continue
		}
		if d.file.sha256 == "" {
			d.file.sha256 = sha256Hex(r.Header.Get("X-Linked-Etag"))
		}
		if n, err := strconv.ParseInt(r.Header.Get("X-Linked-Size"), 10, 64); err == nil && d.file.size < 0 {
			d.file.size = n
		}
	}
}

// verify checks a file against the size and digest that the Hub reports.
func (d *download) verify(path string) error {
	size, err := fileSize(path)
	if err != nil {
		return err
	}
	if d.file.size >= 0 && size != d.file.size {
		return fmt.Errorf("size is %d bytes, want %d", size, d.file.size)
	}
	if d.file.sha256 == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != d.file.sha256 {
		return fmt.Errorf("SHA-256 is %s, want %s", got, d.file.sha256)
	}
	return nil
}

func fileSize(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
