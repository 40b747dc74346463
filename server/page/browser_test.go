package page_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	js "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"fakeart/internal/process"
)

// root is the root of the repository.
const root = "../.."

// patience is how long a test waits for something that should happen immediately, in case the
// machine is busy.
const patience = 30 * time.Second

// built contains the path of the server and of two trained models.
type built struct {
	server        string
	models        string // a folder with first.onnx and second.onnx
	first, second string
}

// scratch is the temporary folder of all tests. tools returns what was built in it.
var (
	scratch string
	tools   = sync.OnceValues(build)
)

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "page"); err != nil {
		panic(err)
	}
	code := m.Run()
	stopBrowser()
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

// build builds the programs and trains two small models.
func build() (b built, err error) {
	folder, err := filepath.Abs(root)
	if err != nil {
		return b, err
	}
	run := func(name string, args ...string) {
		if err != nil {
			return
		}
		cmd := exec.Command(name, args...)
		cmd.Dir = folder
		if out, e := cmd.CombinedOutput(); e != nil {
			err = fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), e, out)
		}
	}
	b.models = filepath.Join(scratch, "models")
	b.first, b.second = filepath.Join(b.models, "first.onnx"), filepath.Join(b.models, "second.onnx")
	if err = os.Mkdir(b.models, 0o755); err != nil {
		return b, err
	}
	// Use the tags of `make build` to share its build cache.
	run("go", "build", "-tags", "disable_grpc_modules", "-o", scratch+string(filepath.Separator), "./trainer", "./server")
	suffix := ""
	if runtime.GOOS == "windows" {
		suffix = ".exe"
	}
	b.server = filepath.Join(scratch, "server"+suffix)
	trainer := filepath.Join(scratch, "trainer"+suffix)
	data := []string{"dataset=synthetic", "dataset.dir=" + filepath.Join(scratch, "data"), "dataset.train_per_class=600", "dataset.test_per_class=50"}
	run(trainer, append([]string{"data", "prepare"}, data...)...)
	for seed, model := range []string{b.first, b.second} {
		folder := filepath.Join(scratch, fmt.Sprint("run", seed))
		run(trainer, append([]string{"train", "experiment=smoke", "run.dir=" + folder, fmt.Sprint("experiment.seed=", seed+1), fmt.Sprint("experiment.name=model-", seed+1)}, data...)...)
		if err == nil {
			err = os.Rename(filepath.Join(folder, "model.onnx"), model)
		}
	}
	return b, err
}

// serve starts the server. It is stopped when the test ends, or earlier with stop.
func serve(t testing.TB, args ...string) (url string, stop func()) {
	t.Helper()
	b, err := tools()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(args, "--model") {
		args = append(args, "--model", b.first)
	}
	all := append([]string{b.server, "--addr", "127.0.0.1:0", "--log-path", filepath.Join(t.TempDir(), "predictions.db")}, args...)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	cmd := process.Command(ctx, t.Output(), all...)
	cmd.Dir = root
	server, err := process.Start(ctx, cmd, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return server.URL, stop
}

// browser starts the browser that all tests share.
var (
	browser     = sync.OnceValues(startBrowser)
	stopBrowser = func() {}
)

func startBrowser() (context.Context, error) {
	if err := os.RemoveAll(screenshots); err != nil {
		return nil, err
	}
	// Allow requests to the server under test only.
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.DisableGPU,
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium doesn't run as root with its sandbox
	}
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, stop := chromedp.NewContext(allocator)
	stopBrowser = func() {
		stop()
		stopAllocator()
	}
	err := chromedp.Do(ctx)
	if err != nil {
		err = fmt.Errorf("cannot start Chromium: %w\nhint: on Debian, run: sudo apt-get install chromium", err)
	}
	return ctx, err
}

// start starts a server and opens its page.
func start(t *testing.T, s screen, args ...string) (b *tab, url string) {
	t.Helper()
	b, url, _ = startStoppable(t, s, args...)
	return b, url
}

// startStoppable is like start, and also returns a function that stops the server.
func startStoppable(t *testing.T, s screen, args ...string) (b *tab, url string, stop func()) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a browser and trains models; run without -short")
	}
	url, stop = serve(t, args...)
	return open(t, url, s), url, stop
}

// tab is a browser tab. It collects problems that are reported to the console.
type tab struct {
	t   testing.TB
	ctx context.Context

	mu       sync.Mutex
	problems []string
	// failedRequests is whether requests of this test may fail: Chromium reports each. Problems that
	// contain expected are ignored, unless it is empty.
	failedRequests bool
	expected       string
}

// screen is a screen size and a color scheme.
type screen struct {
	name           string
	width, height  int64
	mobile, dark   bool
	failedRequests bool   // requests may fail from the start, as after allowFailedRequests
	ready          string // the condition that the page is loaded; default: that of the web page
}

var (
	desktop = screen{name: "desktop", width: 1440, height: 900}
	phone   = screen{name: "phone", width: 360, height: 740, mobile: true}
)

func (s screen) inDark() screen {
	s.name += "-dark"
	s.dark = true
	return s
}

// open opens a page in a new tab.
func open(t testing.TB, url string, s screen) *tab {
	t.Helper()
	parent, err := browser()
	if err != nil {
		t.Fatal(err)
	}
	b := &tab{t: t, failedRequests: s.failedRequests}
	var cancel context.CancelFunc
	b.ctx, cancel = chromedp.NewContext(parent, chromedp.WithNewBrowserContext(), chromedp.WithListener(b.listen))
	t.Cleanup(cancel)
	var stop context.CancelFunc
	b.ctx, stop = context.WithTimeout(b.ctx, 3*time.Minute)
	t.Cleanup(stop)
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, p := range b.problems {
			t.Errorf("browser console: %s", p)
		}
	})
	scheme := "light"
	if s.dark {
		scheme = "dark"
	}
	viewport := []chromedp.EmulateViewportOption{}
	if s.mobile {
		viewport = append(viewport, chromedp.EmulateMobile, chromedp.EmulateTouch)
	}
	b.do(
		chromedp.EmulateViewport(s.width, s.height, viewport...),
		chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
			_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}},
			})
			return err
		}),
		chromedp.Navigate(url),
	)
	b.wait(cmp.Or(s.ready, `document.documentElement.dataset.ready === 'true'`))
	return b
}

// listen collects errors and warnings of the console.
func (b *tab) listen(event any) {
	problem := ""
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *js.EventExceptionThrown:
		problem = e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			problem += " " + e.ExceptionDetails.Exception.Description
		}
	case *js.EventConsoleAPICalled:
		if e.Type == js.ConsoleAPICalledTypeError || e.Type == js.ConsoleAPICalledTypeWarning || e.Type == js.ConsoleAPICalledTypeAssert {
			args, _ := json.Marshal(e.Args)
			problem = fmt.Sprintf("%s: %s", e.Type, args)
		}
	case *log.EventEntryAdded:
		allowed := e.Entry.Source == log.EntrySourceNetwork && b.failedRequests
		if !allowed && (e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning) {
			problem = fmt.Sprintf("%s: %s (%s)", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	}
	if problem != "" && (b.expected == "" || !strings.Contains(problem, b.expected)) {
		b.problems = append(b.problems, problem)
	}
}

// throttle limits the connection to the given bytes per second, and adds latency.
func (b *tab) throttle(bytes float64, latency time.Duration) {
	b.t.Helper()
	b.do(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, network.EmulateNetworkConditionsByRule, network.EmulateNetworkConditionsByRuleParams{
			MatchedNetworkConditions: []*network.Conditions{{Latency: latency.Seconds() * 1000, DownloadThroughput: bytes, UploadThroughput: bytes}},
		})
		return err
	}))
}

// allowFailedRequests allows requests of the page to fail from now on.
func (b *tab) allowFailedRequests() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failedRequests = true
}

// allowProblem allows problems that contain the text.
func (b *tab) allowProblem(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expected = text
}

func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

// wait waits until the JavaScript expression is true.
func (b *tab) wait(expression string) {
	b.t.Helper()
	_, err := chromedp.Run(b.ctx, chromedp.Poll[bool]("!!("+expression+")", chromedp.WithPollingTimeout(patience), chromedp.WithPollingInterval(20*time.Millisecond)))
	if err != nil {
		b.shot("failed")
		b.t.Fatalf("waiting for %s: %v; text of the page:\n%s", expression, err, value[string](b, `document.body.innerText`))
	}
}

// value evaluates a JavaScript expression.
func value[T any](b *tab, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// text returns the text of the first element that matches the selector.
func (b *tab) text(selector string) string {
	b.t.Helper()
	return value[string](b, fmt.Sprintf(`(document.querySelector(%q)?.textContent ?? "").trim()`, selector))
}

// click clicks in the middle of the first element that matches the selector.
func (b *tab) click(selector string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	// The click goes to the position that was read before it. Wait until the element stays in place, because the page
	// may still be laying out the last change.
	value[bool](b, fmt.Sprintf(`new Promise((done) => {
		let before
		const look = () => {
			const element = document.querySelector(%q)
			if (!element) return done(false)
			element.scrollIntoViewIfNeeded()
			const now = JSON.stringify(element.getBoundingClientRect())
			if (now === before) return done(true)
			before = now
			setTimeout(look, 50)
		}
		look()
	})`, selector))
	err := chromedp.Do(ctx, chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
	for err != nil && ctx.Err() == nil && strings.Contains(err.Error(), "Could not find node") {
		// The element was replaced meanwhile.
		err = chromedp.Do(ctx, chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
	}
	if err != nil {
		b.shot("failed")
		b.t.Fatalf("click %s: %v", selector, err)
	}
}

// choose selects files, as in the dialog of the file input.
func (b *tab) choose(paths ...string) {
	b.t.Helper()
	b.do(chromedp.SetUploadFiles(chromedp.CSS("#files"), paths, chromedp.NodeReady))
}

// drop drags files onto the page and drops them.
func (b *tab) drop(paths ...string) {
	b.t.Helper()
	data := &input.DragData{Items: []*input.DragDataItem{}, Files: paths, DragOperationsMask: 1}
	for _, kind := range []input.DispatchDragEventType{input.DispatchDragEventTypeDragEnter, input.DispatchDragEventTypeDragOver, input.DispatchDragEventTypeDrop} {
		b.do(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
			_, err := cdp.Call(ctx, target, input.DispatchDragEvent, input.DispatchDragEventParams{Type: kind, X: 200, Y: 250, Data: data})
			return err
		}))
	}
}

// screenshots is the folder that shot writes to.
var screenshots = filepath.Join(root, "build", "browser")

// shot saves a screenshot of the whole page as TEST-NAME.png.
func (b *tab) shot(name string) {
	b.t.Helper()
	// Scroll to the top, where the sticky header belongs, and let the page draw the last change.
	value[bool](b, `scrollTo(0, 0), new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))`)
	data, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.MkdirAll(screenshots, 0o755); err != nil {
		b.t.Fatal(err)
	}
	path := filepath.Join(screenshots, strings.ReplaceAll(strings.TrimPrefix(b.t.Name(), "Test"), "/", "-")+"-"+name+".png")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		b.t.Fatal(err)
	}
	b.t.Logf("screenshot: %s", path)
}

// axe returns the source of the accessibility checker axe-core, an npm package.
var axe = sync.OnceValues(func() (string, error) {
	data, err := os.ReadFile(filepath.Join(root, "node_modules", "axe-core", "axe.min.js"))
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w\nhint: run npm ci --ignore-scripts", err)
	}
	return string(data), err
})

// accessible checks the current view with axe-core.
func (b *tab) accessible() {
	b.t.Helper()
	source, err := axe()
	if err != nil {
		b.t.Fatal(err)
	}
	value[bool](b, source+"; true")
	found := value[[]struct {
		ID, Impact, Help string
		Nodes            []struct {
			HTML           string
			FailureSummary string
		}
	}](b, `axe.run({ resultTypes: ['violations'] }).then((r) => r.violations.map((v) => ({ id: v.id, impact: v.impact, help: v.help,
		nodes: v.nodes.map((n) => ({ html: n.html, failureSummary: n.failureSummary })) })))`)
	for _, v := range found {
		for _, n := range v.Nodes {
			b.t.Errorf("accessibility, %s: %s (%s): %.300s\n%s", v.Impact, v.Help, v.ID, n.HTML, n.FailureSummary)
		}
	}
}

// inside checks that nothing is wider than the screen.
func (b *tab) inside() {
	b.t.Helper()
	if wide := value[[]string](b, `[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && e.checkVisibility() &&
		!e.closest('.hidden, .skip')).map((e) => e.outerHTML.slice(0, 120))`); len(wide) > 0 {
		b.t.Errorf("wider than the screen: %s", strings.Join(wide, "\n"))
	}
}
