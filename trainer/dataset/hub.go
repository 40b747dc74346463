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

// The client of the Hugging Face hub. github.com/gomlx/go-huggingface was looked at first: its
// downloads cannot be resumed nor cancelled, compare no digest, and refuse redirects, which the hub
// answers with for every data file; its progress goes to stdout.

const defaultEndpoint = "https://huggingface.co"

// hub talks to one hub.
type hub struct {
	endpoint *url.URL
	token    string
	client   *retryablehttp.Client
	tries    int           // requests in a row that may bring nothing before a download fails
	idle     time.Duration // how long a download may bring nothing
}

// newHub returns a client for the hub at endpoint. An empty token asks as anybody.
func newHub(endpoint, token string) (*hub, error) {
	u, err := url.Parse(strings.TrimRight(endpoint, "/"))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("the hub's address %q is not one such as %s; see dataset.endpoint and HF_ENDPOINT", endpoint, defaultEndpoint)
	}
	h := &hub{endpoint: u, token: token, client: retryablehttp.NewClient(), tries: 4, idle: time.Minute}
	h.client.Logger = nil
	h.client.RetryMax = h.tries
	h.client.RetryWaitMin = time.Second
	h.client.RetryWaitMax = 30 * time.Second
	h.client.CheckRetry = h.retry
	h.client.ErrorHandler = retryablehttp.PassthroughErrorHandler // statusError says it better
	if t, ok := h.client.HTTPClient.Transport.(*http.Transport); ok {
		t.ResponseHeaderTimeout = h.idle
	}
	h.client.HTTPClient.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		// The hub sends one to a content network for the data. net/http keeps the token on the way
		// to a subdomain or another port of the same host; it is the hub's alone.
		if !h.own(req.URL) {
			req.Header.Del("Authorization")
		}
		if len(via) >= 10 {
			return errors.New("more than 10 redirects")
		}
		return nil
	}
	return h, nil
}

// own reports whether a URL belongs to the hub itself.
func (h *hub) own(u *url.URL) bool { return u.Scheme == h.endpoint.Scheme && u.Host == h.endpoint.Host }

// longestWait is how long Prepare waits when the hub asks it to come back later.
const longestWait = 2 * time.Minute

// retry is the default policy, but a hub that asks for more patience than longestWait is not waited for.
func (h *hub) retry(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if resp != nil && h.client.Backoff(h.client.RetryWaitMin, h.client.RetryWaitMax, 0, resp) > longestWait {
		return false, nil
	}
	return retryablehttp.DefaultRetryPolicy(ctx, resp, err)
}

// get asks for a URL, again if that may help, and returns an answer of one of the accepted statuses.
func (h *hub) get(ctx context.Context, address string, offset int64, accept ...int) (*http.Response, error) {
	req, err := retryablehttp.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "fakeart")
	req.Header.Set("Accept-Encoding", "identity") // sizes and offsets are those of the file
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
		return nil, fmt.Errorf("%w; is the address right (dataset.endpoint, HF_ENDPOINT) and the network up?", err)
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

// statusError is an answer that is of no use.
type statusError struct {
	address, message, retryAfter string
	status                       int
	token                        bool
}

func (e *statusError) Error() string {
	text := fmt.Sprintf("%s answers %d %s", e.address, e.status, http.StatusText(e.status))
	if e.message != "" {
		text += " (" + e.message + ")"
	}
	switch {
	case e.status == http.StatusUnauthorized && e.token:
		text += "; the hub does not know the token in HF_TOKEN, or dataset.repo is misspelt"
	case e.status == http.StatusUnauthorized:
		text += "; the data set is private or dataset.repo is misspelt: set HF_TOKEN to a token that may read it"
	case e.status == http.StatusForbidden:
		text += "; accept the data set's terms on its page, and set HF_TOKEN to a token that may read it"
	case e.status == http.StatusNotFound:
		text += "; see dataset.repo and dataset.revision"
	case e.retryAfter != "":
		text += "; it asks to come back after " + e.retryAfter + " (seconds, if a number): run it again then"
	default:
		text += "; run it again later"
	}
	return text
}

// remoteFile is a file of a repository.
type remoteFile struct {
	name   string
	size   int64  // -1 if not known
	sha256 string // "" if not known
}

// repository is a data set's repository at one commit.
type repository struct {
	hub    *hub
	name   string
	commit string // what the revision stands for, or the revision itself if the hub does not say
	files  []remoteFile
}

var repoPattern = regexp.MustCompile(`^\w[\w.-]*(/\w[\w.-]*)?$`)

// open finds out the commit that revision stands for, and the files it has.
func (h *hub) open(ctx context.Context, repo, revision string) (*repository, error) {
	if !repoPattern.MatchString(repo) {
		return nil, fmt.Errorf("dataset.repo is %q, want owner/name", repo)
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
	// Some mirrors know only the listing of a revision's files, or only the default branch.
	if r.tree(ctx, api+"/tree/"+url.PathEscape(revision)+"?recursive=true") == nil {
		return r, nil
	}
	if revision == "main" && r.info(ctx, api+"?blobs=true") == nil {
		return r, nil
	}
	return nil, err
}

// info reads commit and files from the hub's description of a revision.
func (r *repository) info(ctx context.Context, address string) error {
	var answer struct {
		SHA      string `json:"sha"`
		Siblings []struct {
			Name string `json:"rfilename"`
			Size *int64 `json:"size"`
			LFS  struct {
				SHA256 string `json:"sha256"`
			} `json:"lfs"`
		} `json:"siblings"`
	}
	if err := r.hub.getJSON(ctx, address, &answer); err != nil {
		return err
	}
	r.commit = cmp.Or(answer.SHA, r.commit)
	for _, s := range answer.Siblings {
		r.add(s.Name, s.Size, s.LFS.SHA256)
	}
	return nil
}

// tree reads the files from the listing of a revision.
func (r *repository) tree(ctx context.Context, address string) error {
	var answer []struct {
		Type string `json:"type"`
		Path string `json:"path"`
		Size *int64 `json:"size"`
		LFS  struct {
			OID string `json:"oid"`
		} `json:"lfs"`
	}
	if err := r.hub.getJSON(ctx, address, &answer); err != nil {
		return err
	}
	for _, s := range answer {
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

// sha256Hex returns s without quotes if it is a SHA-256 in hex, and "" otherwise. An ETag is one
// for a file in LFS, as are all large files, and a git object's name for others.
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
		return fmt.Errorf("%s answers what is not the hub's JSON (%w); see dataset.endpoint and HF_ENDPOINT", address, err)
	}
	return nil
}

// getBytes reads a small answer.
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
		return nil, fmt.Errorf("%s answers more than %d MiB", address, limit>>20)
	}
	return data, nil
}

// address is where a file of the repository is.
func (r *repository) address(name string) string {
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return r.hub.endpoint.String() + "/datasets/" + r.name + "/resolve/" + url.PathEscape(r.commit) + "/" + strings.Join(parts, "/")
}

// fetch brings files into the cache folder, and returns where each is. What an earlier fetch has
// brought is not asked for again, nor the part of a file that came before an interruption. A file
// whose size or digest is wrong is never left there.
func (r *repository) fetch(ctx context.Context, cache string, files []remoteFile, out io.Writer) ([]string, error) {
	dir := filepath.Join(cache, strings.ReplaceAll(r.name, "/", "--"), url.PathEscape(r.commit))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the cache folder: %w", err)
	}
	// Two that wrote one file's parts would spoil it.
	lock := flock.New(filepath.Join(dir, ".lock"))
	if ok, err := lock.TryLock(); err == nil && !ok {
		fmt.Fprintf(out, "waiting for another process that downloads into %s\n", dir)
	}
	if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return nil, fmt.Errorf("lock the cache folder: %w", err)
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
			return nil, fmt.Errorf("the hub lists a file %q, whose path leads elsewhere", f.name)
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

// download is one file on its way.
type download struct {
	hub     *hub
	address string
	file    remoteFile
	path    string
	bar     *progress
	counted int64 // bytes of this file that the bar has counted
}

// progress tells the bar how much of the file is there.
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
		// The file has been changed since, or the hub's has.
		if err := os.Remove(d.path); err != nil {
			return err
		}
	}
	for {
		resumed, err := d.bring(ctx)
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
			return fmt.Errorf("%w; it is discarded: run it again, and if that does not help, tell the hub's keeper", err)
		}
		// The part that lay here may have been another file's. Once more, from the start.
	}
}

// bring makes the part whole, in as many requests as it takes. It reports whether the part began
// with bytes of an earlier run.
func (d *download) bring(ctx context.Context) (resumed bool, err error) {
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
		// A connection that broke after it brought something new is no failure, but its way of working.
		failures++
		if size, _ := fileSize(d.part()); size > best {
			best, failures = size, 0
		}
		if failures >= d.hub.tries {
			return resumed, fmt.Errorf("%w; %d bytes are kept: run it again to go on from there", err, best)
		}
		wait := d.hub.client.Backoff(d.hub.client.RetryWaitMin, d.hub.client.RetryWaitMax, failures, nil)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return resumed, context.Cause(ctx)
		}
	}
}

// request asks once for what is missing of the part, and appends it.
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
	d.learn(resp)

	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	switch resp.StatusCode {
	case http.StatusRequestedRangeNotSatisfiable:
		if total, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), "bytes */"); ok && total == strconv.FormatInt(have, 10) {
			return nil // nothing was missing
		}
		if err := os.Remove(d.part()); err != nil {
			return err
		}
		return errors.New("the hub has no such part of the file")
	case http.StatusPartialContent:
		if want := fmt.Sprintf("bytes %d-", have); !strings.HasPrefix(resp.Header.Get("Content-Range"), want) {
			return fmt.Errorf("the hub sends %q, asked was for %s", resp.Header.Get("Content-Range"), want)
		}
	default: // the whole file: the server does not do ranges
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
		cancel(fmt.Errorf("nothing came for %s", d.hub.idle))
	})
	defer watchdog.Stop()
	buf := make([]byte, 256<<10)
	for {
		n, err := resp.Body.Read(buf)
		watchdog.Reset(d.hub.idle)
		if n > 0 {
			if _, err := f.Write(buf[:n]); err != nil {
				return fmt.Errorf("write the cache: %w", err)
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
			return fmt.Errorf("the connection broke: %w", err)
		}
	}
	if have < d.file.size {
		return errors.New("the connection ended early")
	}
	return f.Close()
}

// learn takes size and digest from an answer, where the listing did not have them. The hub sends
// them with the redirect; the content network's own headers say something else.
func (d *download) learn(resp *http.Response) {
	for r := resp; r != nil && r.Request != nil; r = r.Request.Response {
		if !d.hub.own(r.Request.URL) {
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

// verify compares a file with what the hub says of it.
func (d *download) verify(path string) error {
	size, err := fileSize(path)
	if err != nil {
		return err
	}
	if d.file.size >= 0 && size != d.file.size {
		return fmt.Errorf("it has %d bytes, the hub says %d", size, d.file.size)
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
		return fmt.Errorf("its SHA-256 is %s, the hub says %s", got, d.file.sha256)
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
