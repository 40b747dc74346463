package page_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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

// root is the checkout.
const root = "../.."

// patience is how long a test waits for what should be there in an instant: the machine
// may have much else to do.
const patience = 30 * time.Second

// built are the programs that users start, and models that the trainer has made.
type built struct {
	server        string
	models        string // a folder with first.onnx and second.onnx
	first, second string
}

// scratch is the folder of all tests, and tools what was built in it.
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
	// With the tags of `make build`, so that what that has built is not built again.
	run("go", "build", "-tags", "disable_grpc_modules", "-o", scratch+string(filepath.Separator), "./trainer", "./server")
	suffix := ""
	if runtime.GOOS == "windows" {
		suffix = ".exe"
	}
	b.server = filepath.Join(scratch, "server"+suffix)
	trainer, data := filepath.Join(scratch, "trainer"+suffix), "dataset.dir="+filepath.Join(scratch, "data")
	run(trainer, "data", "prepare", "dataset=synthetic", data, "dataset.train_per_class=600", "dataset.test_per_class=50")
	for seed, model := range []string{b.first, b.second} {
		folder := filepath.Join(scratch, fmt.Sprint("run", seed))
		run(trainer, "train", "experiment=smoke", "dataset=synthetic", data, "run.dir="+folder, fmt.Sprint("experiment.seed=", seed+1), fmt.Sprint("experiment.name=model-", seed+1))
		if err == nil {
			err = os.Rename(filepath.Join(folder, "model.onnx"), model)
		}
	}
	return b, err
}

// serve starts the server and stops it when the test ends, unless that has been done.
func serve(t testing.TB, args ...string) (url string, stop func()) {
	t.Helper()
	b, err := tools()
	if err != nil {
		t.Fatal(err)
	}
	all := append([]string{b.server, "--model", b.first, "--addr", "127.0.0.1:0", "--log-path", filepath.Join(t.TempDir(), "predictions.db")}, args...)
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

// browser starts the one browser of all tests.
var (
	browser     = sync.OnceValues(startBrowser)
	stopBrowser = func() {}
)

func startBrowser() (context.Context, error) {
	if err := os.RemoveAll(pictures); err != nil {
		return nil, err
	}
	// Nothing but the server under test is asked for anything.
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.DisableGPU,
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium refuses to run as root with it
	}
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, stop := chromedp.NewContext(allocator)
	stopBrowser = func() {
		stop()
		stopAllocator()
	}
	err := chromedp.Do(ctx)
	if err != nil {
		err = fmt.Errorf("no Chromium could be started: %w; on Debian: sudo apt-get install chromium", err)
	}
	return ctx, err
}

// start starts a server, and opens its page.
func start(t *testing.T, s screen, args ...string) (b *tab, url string) {
	t.Helper()
	b, url, _ = startStopped(t, s, args...)
	return b, url
}

// startStopped is start with a function that ends the server earlier than the test.
func startStopped(t *testing.T, s screen, args ...string) (b *tab, url string, stop func()) {
	t.Helper()
	if testing.Short() {
		t.Skip("in a browser, and trains models; without -short it is run")
	}
	url, stop = serve(t, args...)
	return open(t, url, s), url, stop
}

// tab is a tab of the browser, with what its console has said.
type tab struct {
	t   testing.TB
	ctx context.Context

	mu       sync.Mutex
	problems []string
	// refusals is whether requests of this test may fail: Chromium reports each. expected
	// is in what else may be said; empty for nothing.
	refusals bool
	expected string
}

// screen is a size and a colour scheme.
type screen struct {
	name          string
	width, height int64
	mobile, dark  bool
	refusals      bool // requests may fail from the start, as after mayRefuse
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

// open opens a page in a tab of its own.
func open(t testing.TB, url string, s screen) *tab {
	t.Helper()
	parent, err := browser()
	if err != nil {
		t.Fatal(err)
	}
	b := &tab{t: t, refusals: s.refusals}
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
			t.Errorf("the browser's console: %s", p)
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
	b.wait(`document.documentElement.dataset.ready === 'true'`)
	return b
}

// listen gathers what a user who looks into the console would be alarmed by.
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
		refused := e.Entry.Source == log.EntrySourceNetwork && b.refusals
		if !refused && (e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning) {
			problem = fmt.Sprintf("%s: %s (%s)", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	}
	if problem != "" && (b.expected == "" || !strings.Contains(problem, b.expected)) {
		b.problems = append(b.problems, problem)
	}
}

// slowly has the connection take so many bytes a second, each answer after a while.
func (b *tab) slowly(bytes float64, latency time.Duration) {
	b.t.Helper()
	b.do(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, network.EmulateNetworkConditionsByRule, network.EmulateNetworkConditionsByRuleParams{
			MatchedNetworkConditions: []*network.Conditions{{Latency: latency.Seconds() * 1000, DownloadThroughput: bytes, UploadThroughput: bytes}},
		})
		return err
	}))
}

// mayRefuse says that from now on the server may refuse requests of the page.
func (b *tab) mayRefuse() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refusals = true
}

// mayFail says that the page may fail in this way.
func (b *tab) mayFail(text string) {
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

// wait waits until the expression is true.
func (b *tab) wait(expression string) {
	b.t.Helper()
	_, err := chromedp.Run(b.ctx, chromedp.Poll[bool]("!!("+expression+")", chromedp.WithPollingTimeout(patience), chromedp.WithPollingInterval(20*time.Millisecond)))
	if err != nil {
		b.shot("failed")
		b.t.Fatalf("waiting for %s: %v; the page says:\n%s", expression, err, value[string](b, `document.body.innerText`))
	}
}

// value is that of the expression.
func value[T any](b *tab, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// text is that of the first element of the selector.
func (b *tab) text(selector string) string {
	b.t.Helper()
	return value[string](b, fmt.Sprintf(`(document.querySelector(%q)?.textContent ?? "").trim()`, selector))
}

// click clicks where a user would: in the middle of the first element of the selector.
func (b *tab) click(selector string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	// The click goes to the position that was read before it: wait until the element stays in place, while the page
	// still lays out what the last step changed.
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
		// It was drawn anew in between.
		err = chromedp.Do(ctx, chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
	}
	if err != nil {
		b.shot("failed")
		b.t.Fatalf("click %s: %v", selector, err)
	}
}

// choose chooses files, as in the dialog that the button opens.
func (b *tab) choose(paths ...string) {
	b.t.Helper()
	b.do(chromedp.SetUploadFiles(chromedp.CSS("#files"), paths, chromedp.NodeReady))
}

// drop drags files from elsewhere over the page, and lets them fall.
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

// pictures is the folder that shot writes to.
var pictures = filepath.Join(root, "build", "browser")

// shot keeps a picture of the whole page as TEST-NAME.png.
func (b *tab) shot(name string) {
	b.t.Helper()
	// The page has the time to draw what has just changed.
	value[bool](b, `new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))`)
	data, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.MkdirAll(pictures, 0o755); err != nil {
		b.t.Fatal(err)
	}
	path := filepath.Join(pictures, strings.ReplaceAll(strings.TrimPrefix(b.t.Name(), "Test"), "/", "-")+"-"+name+".png")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		b.t.Fatal(err)
	}
	b.t.Logf("picture: %s", path)
}

// axe reads the checker of accessibility, which npm brings.
var axe = sync.OnceValues(func() (string, error) {
	data, err := os.ReadFile(filepath.Join(root, "node_modules", "axe-core", "axe.min.js"))
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w; run npm ci --ignore-scripts", err)
	}
	return string(data), err
})

// accessible has axe-core look at what is shown now.
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
