package page_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	neturl "net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"fakeart/internal/model"
	"fakeart/internal/onnx"
)

// done is the condition that n images are in the list and none is waiting.
func done(n int) string {
	return fmt.Sprintf(`document.querySelectorAll('.card').length === %d && !document.querySelector('.card[data-state=waiting]') &&
		[...document.querySelectorAll('.card:not([data-state=failed]) .feedback')].every((e) => !e.hidden)`, n)
}

// sample returns the path of one of the page's sample images.
func sample(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("samples", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func writeFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// drawn returns a noise image, different for each number.
func drawn(t *testing.T, number, width, height int) []byte {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, width, height))
	for i := range width * height {
		img.Set(i%width, i/width, color.NRGBA{uint8(i * number), uint8(i * i), uint8(number), 0xff})
	}
	var data bytes.Buffer
	if err := png.Encode(&data, img); err != nil {
		t.Fatal(err)
	}
	return data.Bytes()
}

// logged waits until the prediction log has n records, and returns them, newest first.
func logged(t *testing.T, url string, n int) []map[string]any {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		records := readLog(t, url)
		if len(records) == n {
			return records
		}
		if len(records) > n || time.Now().After(end) {
			t.Fatalf("%d records in the log, want %d", len(records), n)
		}
	}
}

func readLog(t *testing.T, url string) []map[string]any {
	t.Helper()
	response, err := http.Get(url + "/log?limit=1000")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if response.StatusCode == http.StatusTooManyRequests {
		time.Sleep(time.Second) // the test sets a rate limit
		return nil
	}
	if err != nil || response.StatusCode != 200 {
		t.Fatalf("GET /log: %s, %v: %s", response.Status, err, body)
	}
	var page struct{ Records []map[string]any }
	if err := json.Unmarshal(body, &page); err != nil {
		t.Fatal(err)
	}
	return page.Records
}

func TestClassify_ExplanationAndFeedback(t *testing.T) {
	b, url := start(t, desktop)
	b.drop(sample(t, "fake-1.png"))
	b.wait(done(1))
	if state := value[string](b, `document.querySelector('.card').dataset.state`); state != "done" {
		t.Errorf("state = %s, want done", state)
	}
	if text := b.text(".label"); strings.TrimSpace(text) != "FAKE" {
		t.Errorf("label = %q, want FAKE", text)
	}
	if text := b.text(".facts"); !strings.Contains(text, "ms by model-1 ") {
		t.Errorf("facts = %q, want the time and model-1", text)
	}
	if percent := value[float64](b, `Number(document.querySelector('.bar').ariaValueNow)`); percent <= 50 || percent > 100 {
		t.Errorf("bar = %g%%, want more than 50%%", percent)
	}
	if text := b.text(".percent"); !strings.HasSuffix(text, "% FAKE") {
		t.Errorf("text next to the bar = %q, want a percentage of FAKE", text)
	}
	if text := b.text(".size"); !strings.HasPrefix(text, "32×32, ") || !strings.HasSuffix(text, "\u00a0kB") {
		t.Errorf("size = %q, want 32×32 and kB", text)
	}
	if b.wait(`document.querySelector('.input').complete`); value[int](b, `document.querySelector('.input').naturalWidth`) != 32 {
		t.Error("the model input is not 32 pixels wide")
	}
	// The heat map has hot pixels, and its slider hides them.
	if n := value[int](b, `(() => { const c = document.querySelector('.heat'); const d = c.getContext('2d').getImageData(0, 0, 32, 32).data;
		let n = 0; for (let i = 3; i < d.length; i += 4) if (d[i] > 200) n++; return c.hidden ? -1 : n })()`); n < 1 || n > 900 {
		t.Errorf("%d of 1024 pixels of the heat map are hot, want 1 to 900", n)
	}
	b.shot("prediction")
	value[bool](b, `(() => { const r = document.querySelector('.opacity input'); r.value = 0; r.dispatchEvent(new Event('input')); return true })()`)
	if opacity := value[string](b, `getComputedStyle(document.querySelector('.heat')).opacity`); opacity != "0" {
		t.Errorf("opacity of the heat map with the slider at 0 = %s", opacity)
	}
	if text := b.text("#disclaimer"); !strings.Contains(text, "meaningless") {
		t.Errorf("disclaimer for a model trained on synthetic data = %q", text)
	}

	if r := logged(t, url, 1)[0]; r["label"] != "FAKE" || r["feedback_label"] != nil {
		t.Fatalf("log record = %v, want FAKE without feedback", r)
	}
	b.click(".incorrect")
	b.wait(`document.querySelector('.feedback-status').textContent.startsWith('Feedback saved: REAL')`)
	if r := logged(t, url, 1)[0]; r["feedback_label"] != "REAL" {
		t.Errorf("feedback in the log = %v, want REAL", r["feedback_label"])
	}
	b.click(".feedback summary")
	b.do(chromedp.SendKeys(chromedp.CSS(".feedback textarea"), "a cat, <b>my</b> cat"))
	b.click(".correct")
	b.wait(`document.querySelector('.feedback-status').textContent.startsWith('Feedback saved: FAKE')`)
	if r := logged(t, url, 1)[0]; r["feedback_label"] != "FAKE" || r["feedback_comment"] != "a cat, <b>my</b> cat" {
		t.Errorf("feedback in the log = %v, %v, want FAKE and the comment", r["feedback_label"], r["feedback_comment"])
	}
	if pressed := value[[]string](b, `[...document.querySelectorAll('.feedback button')].map((e) => e.ariaPressed)`); fmt.Sprint(pressed) != "[true false]" {
		t.Errorf("aria-pressed = %v, want [true false]", pressed)
	}
	b.shot("corrected")
	b.accessible()

	value[bool](b, `(() => { const s = document.querySelector('#method'); s.value = 'occlusion'; return true })()`)
	b.choose(sample(t, "real-1.png"))
	b.wait(done(2))
	if hidden := value[bool](b, `document.querySelector('.heat').hidden`); hidden {
		t.Error("no heat map with occlusion")
	}
	b.click(".remove")
	b.wait(done(1))
	b.click("#clear")
	b.wait(`document.querySelector('#results').hidden`)
}

func TestScreens(t *testing.T) {
	for _, s := range []screen{desktop, desktop.inDark(), phone, phone.inDark()} {
		t.Run(s.name, func(t *testing.T) {
			b, _ := start(t, s)
			value[bool](b, `window.shifts = 0, new PerformanceObserver((l) => { for (const e of l.getEntries()) if (!e.hadRecentInput) window.shifts += e.value })
				.observe({ type: 'layout-shift', buffered: true }), true`)
			b.wait(`document.querySelector('#disclaimer').textContent.includes('meaningless')`)
			b.shot("empty")
			b.accessible()
			b.allowFailedRequests()
			b.choose(sample(t, "fake-1.png"), sample(t, "real-1.png"), writeFile(t, "notes.jpg", []byte("not an image")), writeFile(t, "wide.png", drawn(t, 3, 300, 90)))
			b.wait(done(4))
			b.shot("predictions")
			b.accessible()
			b.inside()
			if shifts := value[float64](b, `window.shifts`); shifts > 0.05 {
				t.Errorf("layout shift = %g, want at most 0.05", shifts)
			}
			for _, view := range []string{"models", "status"} {
				b.click("nav a[href='#" + view + "']")
				b.wait(fmt.Sprintf(`!document.querySelector('#%s-view').hidden && !document.querySelector('#%[1]s-view .wait')`, view))
				b.shot(view)
				b.accessible()
				b.inside()
			}
		})
	}
}

func TestModels_SwitchAndRollBack(t *testing.T) {
	built, err := tools()
	if err != nil {
		t.Fatal(err)
	}
	const token = "correct-horse-battery-staple"
	b, url := start(t, desktop, "--model", built.models, "--admin-token", token)
	b.click("nav a[href='#models']")
	b.wait(`document.querySelectorAll('#available li').length === 2`)
	if text := b.text("#current h2"); text != "Current model: model-2" {
		t.Errorf("current model = %q, want the newest of the folder", text)
	}
	for _, want := range []string{"synthetic, drawn in process", "Validation accuracy", "gradcam, occlusion"} {
		if text := b.text("#current"); !strings.Contains(text, want) {
			t.Errorf("current model = %q, want it to contain %q", text, want)
		}
	}
	b.allowFailedRequests()
	use := `#available button[aria-label*='first.onnx']`
	b.click(use)
	b.wait(`document.querySelector('#confirm').open`)
	b.shot("confirm")
	b.accessible()
	b.click("#confirm-no")
	b.wait(`!document.querySelector('#confirm').open`)
	b.click(use)
	b.click("#confirm-yes")
	b.wait(`document.querySelector('#models-message').textContent.includes('Admin token required')`)
	b.wait(`document.activeElement.id === 'token'`)
	b.shot("unauthorized")
	b.do(chromedp.SendKeys(chromedp.CSS("#token"), "wrong"))
	b.click(use)
	b.click("#confirm-yes")
	b.wait(`document.querySelector('#models-message').textContent.includes('token is invalid')`)
	value[bool](b, `document.querySelector('#token').select(), true`)
	b.do(chromedp.KeyEvent(token))
	b.click(use)
	b.click("#confirm-yes")
	b.wait(`document.querySelector('#models-message').textContent.startsWith('Switched to model-1')`)
	b.wait(`document.querySelector('#current h2').textContent === 'Current model: model-1'`)
	b.shot("changed")
	b.click("nav a[href='#classify']")
	b.choose(sample(t, "fake-2.png"))
	b.wait(done(1))
	if text := b.text(".facts"); !strings.Contains(text, "model-1") {
		t.Errorf("facts = %q, want model-1", text)
	}
	b.click("nav a[href='#models']")
	b.click(`#available button[aria-label^='Roll back']`)
	b.click("#confirm-yes")
	b.wait(`document.querySelector('#current h2').textContent === 'Current model: model-2'`)
	if kept := value[int](b, `localStorage.length + sessionStorage.length + document.cookie.length`); kept != 0 {
		t.Error("the page stores data in the browser")
	}
	if strings.Contains(value[string](b, `location.href`), "token") {
		t.Error("the token is in the URL")
	}
	_ = url
}

// colors returns the path of a model with ten classes for images of 48×40 pixels, of which the first three are red, green and blue.
func colors(t *testing.T) string {
	t.Helper()
	classes := []string{"red", "green", "blue"}
	for i := 3; i < 10; i++ {
		classes = append(classes, fmt.Sprintf("class <%d>", i))
	}
	weights, bias := make([]float32, 3*len(classes)), make([]float32, len(classes))
	for i := range classes {
		if bias[i] = -1; i < 3 {
			weights[3*i+i], bias[i] = 4, 0
		}
	}
	g := onnx.NewGraph("colors")
	mean := g.ReduceMean(g.Input("input", onnx.Float32, onnx.Batch, 3, 40, 48), 2, 3)
	g.Output("logits", g.Gemm(mean, g.Param("w", weights, 10, 3), false, true, g.Param("b", bias, 10)))
	graph, err := g.Model()
	if err != nil {
		t.Fatal(err)
	}
	md := model.Trained(48, classes...)
	md.Name, md.Description, md.Embedding, md.Preprocessing.Height = "ten colors", "Names the color of an image.", "", 40
	data, err := model.Marshal(graph, md)
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, "colors.onnx", data)
}

func TestClassify_SeveralModels(t *testing.T) {
	built, err := tools()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []screen{desktop, phone.inDark()} {
		t.Run(s.name, func(t *testing.T) {
			b, url := start(t, s, "--model", "first="+built.first, "--model", "colors="+colors(t))
			b.wait(`!document.querySelector('#model-choice').hidden`)
			if names := value[[]string](b, `[...document.querySelectorAll('#model option')].map((e) => e.value)`); fmt.Sprint(names) != "[first colors]" {
				t.Errorf("models = %v", names)
			}
			value[bool](b, `(() => { const s = document.querySelector('#model'); s.value = 'colors'; s.dispatchEvent(new Event('change')); return true })()`)
			b.wait(`document.querySelector('#about').textContent === 'Names the color of an image.'`)
			if !value[bool](b, `document.querySelector('#sample-choice').hidden && document.querySelector('#disclaimer').textContent.includes('48×40')`) {
				t.Errorf("the samples of another model are offered, or the disclaimer is %q", b.text("#disclaimer"))
			}
			var data bytes.Buffer
			if err := png.Encode(&data, image.NewPaletted(image.Rect(0, 0, 300, 200), color.Palette{color.RGBA{G: 255, A: 255}})); err != nil {
				t.Fatal(err)
			}
			b.choose(writeFile(t, "green.png", data.Bytes()))
			b.wait(done(1))
			if text := b.text(".label"); strings.TrimSpace(text) != "green" {
				t.Errorf("label = %q, want green", text)
			}
			if rows := value[[]string](b, `[...document.querySelectorAll('.others li span:first-child')].map((e) => e.textContent)`); len(rows) != 4 || rows[0] != "red" || rows[2] != "class <3>" {
				t.Errorf("other classes = %q, want red, blue and two others", rows)
			}
			b.wait(`document.querySelector('.input-size').textContent === ': 48×40' && !document.querySelector('.heat').hidden`)
			if size := value[[]int](b, `[document.querySelector('.heat').width, document.querySelector('.heat').height]`); fmt.Sprint(size) != "[48 40]" {
				t.Errorf("size of the heat map = %v", size)
			}
			b.shot("classes")
			b.accessible()
			b.inside()
			b.click(".incorrect")
			b.wait(`document.activeElement.matches('.label-choice input')`)
			b.do(chromedp.KeyEvent("blue" + kb.Enter))
			b.wait(`document.querySelector('.feedback-status').textContent.startsWith('Feedback saved: blue')`)
			if r := logged(t, url, 1)[0]; r["feedback_label"] != "blue" || r["model_name"] != "colors" {
				t.Errorf("log record = %v", r)
			}
			b.accessible()
			if options := value[[]string](b, `[...document.querySelectorAll('#filter option')].map((e) => e.value)`); fmt.Sprint(options) != "[ =green failed]" {
				t.Errorf("filters = %q", options)
			}
			b.click("nav a[href='#models']")
			b.wait(`document.querySelector('#current h2').textContent === 'Current model: ten colors'`)
			if text := b.text("#current"); !strings.Contains(text, "red, green, blue") || !strings.Contains(text, "48×40") || strings.Contains(text, "Threshold") {
				t.Errorf("current model = %q", text)
			}
			b.click("nav a[href='#status']")
			b.wait(`document.querySelectorAll('#chart-predictions rect.series-0').length > 0`)
			if text := b.text("#chart-predictions .legend"); !strings.Contains(text, "green") {
				t.Errorf("legend = %q, want green", text)
			}
			b.accessible()
		})
	}
}

func TestNavigation_StaysVisible(t *testing.T) {
	b, url := start(t, desktop)
	for fragment, view := range map[string]string{"classify": "classify", "models": "models", "status": "status", "state": "status", "judge": "classify"} {
		t.Run(fragment, func(t *testing.T) {
			p := open(t, url+"/#"+fragment, screen{width: 1440, height: 600})
			p.wait(fmt.Sprintf(`!document.querySelector('#%s-view').hidden && !document.querySelector('#%[1]s-view .wait')`, view))
			if y := value[float64](p, `scrollY`); y != 0 {
				t.Errorf("scroll position = %g, want 0", y)
			}
			value[bool](p, `window.scrollTo(0, 10000), true`)
			if top := value[float64](p, `document.querySelector('nav').getBoundingClientRect().top`); top < 0 {
				t.Errorf("the navigation is at %g after scrolling down, want it on the screen", top)
			}
		})
	}
	b.click("nav a[href='#status']")
	b.wait(`!document.querySelector('#status-view').hidden`)
	if y := value[float64](b, `scrollY`); y != 0 {
		t.Errorf("scroll position after clicking Status = %g, want 0", y)
	}
}

// huge returns the beginning of a PNG with the given dimensions.
func huge(width, height uint32) []byte {
	chunk := func(kind string, data []byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(len(data)))
		b = append(append(b, kind...), data...)
		return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[4:]))
	}
	header := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, width), height)
	data := append([]byte("\x89PNG\r\n\x1a\n"), chunk("IHDR", append(header, 8, 2, 0, 0, 0))...)
	return append(append(data, chunk("IDAT", []byte{0x78, 0x9c, 3, 0, 0, 0, 0, 1})...), chunk("IEND", nil)...)
}

func TestClassify_Errors(t *testing.T) {
	b, url := start(t, desktop, "--max-body", "300000")
	b.allowFailedRequests()
	whole := drawn(t, 5, 200, 200)
	cases := []struct{ name, title, detail string }{
		{"text.jpg", "Not a supported image", "unsupported image format"},
		{"empty.png", "Nothing to classify", "no image"},
		{"cut.png", "Damaged image", "truncated"},
		{"sixty-thousand.png", "Image too large", "60000"},
		{"heavy.jpg", "Image too large", "300\u00a0kB"},
		{"<img src=x onerror=alert(1)>.png", "Not a supported image", "unsupported"},
		{"data.json", "Not a supported image", "unsupported"},
	}
	contents := [][]byte{[]byte("hello"), nil, whole[:len(whole)/2], huge(60_000, 60_000), bytes.Repeat([]byte("\xff\xd8\xff"), 200_000), []byte("no"), []byte(`{"instances":[]}`)}
	var paths []string
	for i, c := range cases {
		paths = append(paths, writeFile(t, c.name, contents[i]))
	}
	b.choose(append(paths, sample(t, "real-2.png"))...)
	b.wait(done(len(paths) + 1))
	for i, c := range cases {
		card := fmt.Sprintf(".card:nth-child(%d) ", i+1)
		if got := b.text(card + ".name"); got != c.name {
			t.Errorf("name of card %d = %q, want %q", i, got, c.name)
		}
		if got := b.text(card + ".label strong"); got != c.title {
			t.Errorf("%s: title = %q, want %q", c.name, got, c.title)
		}
		if got := b.text(card + ".detail"); !strings.Contains(got, c.detail) {
			t.Errorf("%s: detail = %q, want it to contain %q", c.name, got, c.detail)
		}
		if b.text(card+".facts") == "" || value[bool](b, fmt.Sprintf(`!document.querySelector(%q).hidden`, card+".retry")) {
			t.Errorf("%s: the advice is missing, or there is a retry button", c.name)
		}
	}
	if height := value[float64](b, `document.querySelector('.card[data-state=failed]').offsetHeight`); height > 150 {
		t.Errorf("the card of a failed image is %g pixels high, want at most 150", height)
	}
	if value[int](b, `document.querySelectorAll('[onerror]').length`) != 0 {
		t.Error("a file name was inserted as HTML")
	}
	if text := b.text(fmt.Sprintf(".card:nth-child(%d) .label", len(cases)+1)); !strings.HasPrefix(text, "REAL") && !strings.HasPrefix(text, "FAKE") {
		t.Errorf("label of the valid image = %q", text)
	}
	b.shot("errors")
	b.accessible()
	logged(t, url, 1)
}

func TestServerRestarts(t *testing.T) {
	b, url, stop := startStoppable(t, desktop)
	b.allowFailedRequests()
	b.choose(sample(t, "fake-1.png"))
	b.wait(done(1))
	stop()
	b.choose(sample(t, "real-1.png"), sample(t, "real-2.png"))
	b.wait(`document.querySelectorAll('.card[data-state=failed]').length === 2`)
	if text := b.text(".card .label strong"); text != "Cannot reach the server" {
		t.Errorf("%q", text)
	}
	b.click("nav a[href='#status']")
	b.wait(`document.querySelector('#status-note').textContent.includes('Cannot reach the server')`)
	b.shot("unreachable-status")
	b.click("nav a[href='#models']")
	b.wait(`document.querySelector('#current').textContent.includes('Cannot reach the server')`)
	b.click("nav a[href='#classify']")
	b.shot("unreachable")
	b.accessible()
	b.click(".card:last-child .correct") // feedback on the image classified before
	b.wait(`document.querySelector('.card:last-child .feedback-status').textContent.startsWith('Feedback not saved: Cannot reach the server')`)

	serve(t, "--addr", strings.TrimPrefix(url, "http://"))
	b.click(".card .retry")
	b.wait(`document.querySelectorAll('.card[data-state=failed]').length === 1`)
	b.click("#retry-failed")
	b.wait(done(3))
	if text := b.text("#summary"); strings.Contains(text, "failed") {
		t.Errorf("%q", text)
	}
	b.click(".card:last-child .correct") // the new server has another log, without this prediction
	b.wait(`document.querySelector('.card:last-child .feedback-status').textContent.startsWith('Feedback not saved: ') && document.querySelector('.card:last-child .feedback-status').textContent.includes('prediction')`)
}

func TestClassify_BusyServer(t *testing.T) {
	t.Run("retry succeeds", func(t *testing.T) {
		b, url := start(t, desktop, "--rate-limit", "2")
		b.allowFailedRequests()
		b.choose(sample(t, "fake-1.png"), sample(t, "fake-2.png"), sample(t, "fake-3.png"))
		b.wait(done(3))
		b.wait(`document.querySelectorAll('.card[data-state=failed]').length === 0`)
		logged(t, url, 3)
	})
	t.Run("gives up", func(t *testing.T) {
		b, _ := start(t, desktop, "--request-timeout", "1ms")
		b.allowFailedRequests()
		b.choose(writeFile(t, "large.png", drawn(t, 7, 1500, 1500))) // takes longer than that to decode
		b.wait(`document.querySelector('.label').textContent.includes('retrying in')`)
		b.shot("waiting")
		b.wait(`document.querySelector('.card[data-state=failed]')`)
		if text := b.text(".label strong"); text != "Server busy" {
			t.Errorf("%q", text)
		}
		if value[bool](b, `document.querySelector('.retry').hidden`) {
			t.Error("there is no retry button")
		}
		b.shot("busy")
	})
}

func TestNoModel(t *testing.T) {
	folder := t.TempDir()
	screen := desktop
	screen.failedRequests = true
	b, url := start(t, screen, "--model", folder, "--model-watch=1s")
	b.choose(sample(t, "fake-1.png"))
	b.wait(`document.querySelector('.card[data-state=failed]')`) // immediately: publishing a model may take hours
	if text := b.text(".label strong"); text != "No model yet" {
		t.Errorf("label = %q", text)
	}
	if text := b.text(".card .detail"); !strings.Contains(text, "no model in the folder") {
		t.Errorf("detail = %q", text)
	}
	b.click("nav a[href='#models']")
	b.wait(`document.querySelector('#current').textContent.includes('No model yet')`)
	b.click("nav a[href='#status']")
	b.wait(`document.querySelector('#status-note').textContent.startsWith('Not ready: no model is loaded yet')`)
	b.accessible()

	built, err := tools()
	if err != nil {
		t.Fatal(err)
	}
	model, err := os.ReadFile(built.first)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "first.onnx"), model, 0o600); err != nil {
		t.Fatal(err)
	}
	b.wait(`document.querySelector('#status-note').textContent.startsWith('Ready')`)
	b.click("nav a[href='#classify']")
	b.click(".card .retry")
	b.wait(done(1))
	if text := b.text(".label strong"); text != "FAKE" && text != "REAL" {
		t.Errorf("label = %q", text)
	}
	if text := b.text("#disclaimer"); !strings.HasPrefix(text, "The current model") {
		t.Errorf("disclaimer = %q", text)
	}
	logged(t, url, 1)
}

func TestClassify_200Images(t *testing.T) {
	b, url := start(t, desktop)
	folder := t.TempDir()
	var paths []string
	for i := range 200 {
		path := filepath.Join(folder, fmt.Sprintf("%03d.png", i))
		if err := os.WriteFile(path, drawn(t, i, 40, 30), 0o644); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	b.choose(paths...)
	b.wait(`document.querySelectorAll('.card').length === 200`)
	b.wait(done(200))
	if text := b.text("#announce"); !strings.HasPrefix(text, "200 images: ") || !strings.HasSuffix(text, " 0 failed") {
		t.Errorf("announcement = %q", text)
	}
	logged(t, url, 200)
	if height := value[float64](b, `document.querySelector('.card').offsetHeight`); height > 300 || !value[bool](b, `document.querySelector('#cards').matches('.compact')`) {
		t.Errorf("200 images aren't shown as a compact grid: a card is %g pixels high", height)
	}
	b.shot("grid")
	b.accessible()
	b.inside()
	visible := `[...document.querySelectorAll('.card')].filter((card) => card.checkVisibility()).length`
	total := 0
	for _, state := range []string{"=FAKE", "=REAL", "failed"} {
		value[bool](b, fmt.Sprintf(`(() => { const f = document.querySelector('#filter'); f.value = %q; f.dispatchEvent(new Event('change')); return true })()`, state))
		n := value[int](b, visible)
		if want := value[int](b, fmt.Sprintf(`[...document.querySelectorAll('.card')].filter((card) => (card.dataset.state === 'done' ? '=' + card.querySelector('.label strong').textContent : card.dataset.state) === %q).length`, state)); n != want {
			t.Errorf("the filter %s shows %d images, want %d", state, n, want)
		}
		if none := value[bool](b, `document.querySelector('#filtered').hidden`); none != (n > 0) {
			t.Errorf("the filter %s shows %d images, but its note is hidden: %t", state, n, none)
		}
		total += n
	}
	if total != 200 {
		t.Errorf("the filters show %d images together, want 200", total)
	}
	b.click("#compact")
	if value[bool](b, `document.querySelector('#cards').matches('.compact')`) {
		t.Error("the button doesn't switch to the list")
	}
	b.click("nav a[href='#status']")
	b.wait(`document.querySelectorAll('#chart-predictions rect').length > 0`)
	b.wait(`document.querySelector('.tile strong').textContent === '200'`)
	b.shot("status")
}

func TestClassify_CSV(t *testing.T) {
	b, _ := start(t, desktop)
	b.allowFailedRequests()
	data, err := os.ReadFile(sample(t, "fake-1.png"))
	if err != nil {
		t.Fatal(err)
	}
	b.choose(writeFile(t, `=1+1,"a".png`, data), writeFile(t, "text.jpg", []byte("hello")))
	b.wait(done(2))
	value[bool](b, `window.saved = new Promise((done) => { const create = URL.createObjectURL
		URL.createObjectURL = (blob) => { blob.text().then(done); return create.call(URL, blob) } }), true`)
	b.click("#csv")
	records, err := csv.NewReader(strings.NewReader(value[string](b, `window.saved`))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(records) != 3 {
		t.Fatalf("%d records, want a header and 2: %q", len(records), records)
	}
	rows := map[string]map[string]string{}
	for _, r := range records[1:] {
		row := map[string]string{}
		for i, name := range records[0] {
			row[name] = r[i]
		}
		rows[row["file"]] = row
	}
	row := rows[`'=1+1,"a".png`] // the apostrophe keeps a spreadsheet from running a formula
	confidence, err := strconv.ParseFloat(row["confidence"], 64)
	if err != nil || confidence <= 0.5 || confidence > 1 || row["label"] != "FAKE" || row["id"] == "" || row["model"] == "" || row["bytes"] != fmt.Sprint(len(data)) {
		t.Errorf("row of the image = %q", row)
	}
	if row := rows["text.jpg"]; row["error"] != "Not a supported image" || row["label"] != "" {
		t.Errorf("row of the failed image = %q", row)
	}
}

func TestClassify_ReloadWarns(t *testing.T) {
	b, _ := start(t, desktop)
	dialogs := make(chan cdppage.DialogType, 10)
	if err := chromedp.Listen(b.ctx, func(event any) {
		if e, ok := event.(*cdppage.EventJavascriptDialogOpening); ok {
			dialogs <- e.Type
		}
	}); err != nil {
		t.Fatal(err)
	}
	b.click("#samples button")
	b.wait(done(1))
	value[bool](b, `setTimeout(() => location.reload()), true`)
	select {
	case kind := <-dialogs:
		if kind != cdppage.DialogTypeBeforeunload {
			t.Errorf("dialog %s, want beforeunload", kind)
		}
	case <-time.After(patience):
		t.Fatal("the page reloads without a warning")
	}
	b.do(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, cdppage.HandleJavaScriptDialog, cdppage.HandleJavaScriptDialogParams{Accept: false})
		return err
	}))
	if n := value[int](b, `document.querySelectorAll('.card').length`); n != 1 {
		t.Errorf("%d images after the reload was canceled, want 1", n)
	}
	b.click("#clear")
	b.do(chromedp.Reload()) // without results there is no warning
	b.wait(`document.documentElement.dataset.ready === 'true'`)
	if len(dialogs) > 0 {
		t.Error("the page warns although it has no results")
	}
}

func TestClassify_Transparency(t *testing.T) {
	b, _ := start(t, desktop)
	var data bytes.Buffer
	if err := png.Encode(&data, image.NewNRGBA(image.Rect(0, 0, 80, 80))); err != nil { // fully transparent
		t.Fatal(err)
	}
	b.choose(writeFile(t, "transparent.png", data.Bytes()))
	b.wait(done(1))
	if background := value[string](b, `getComputedStyle(document.querySelector('.stack')).backgroundImage`); !strings.Contains(background, "gradient") {
		t.Errorf("background of a transparent image = %s, want a checkerboard", background)
	}
	b.shot("transparent")
}

func TestDocs(t *testing.T) {
	for _, s := range []screen{desktop, phone, phone.inDark()} {
		t.Run(s.name, func(t *testing.T) {
			if testing.Short() {
				t.Skip("needs a browser and trains models; run without -short")
			}
			url, _ := serve(t)
			// A proxy that serves the server below a path prefix.
			target, err := neturl.Parse(url)
			if err != nil {
				t.Fatal(err)
			}
			proxy := httptest.NewServer(http.StripPrefix("/prefix", httputil.NewSingleHostReverseProxy(target)))
			t.Cleanup(proxy.Close)
			s.ready = `document.querySelectorAll('details').length > 20`
			b := open(t, proxy.URL+"/prefix/docs#predict", s)
			b.wait(`document.querySelector('#predict').checkVisibility()`) // a link to an operation opens it
			b.shot("docs")
			value[bool](b, `document.querySelectorAll('details').forEach((e) => { e.open = true }), true`)
			b.accessible()
			b.inside()
			response, err := http.Get(value[string](b, `document.querySelector('a[href="openapi.json"]').href`))
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if response.StatusCode != 200 {
				t.Errorf("the link to the document has status %d behind a path prefix", response.StatusCode)
			}
		})
	}
}

func TestClassify_ScriptErrors(t *testing.T) {
	b, _ := start(t, desktop)
	b.allowProblem("no such drawing")
	samples := []string{sample(t, "fake-1.png"), sample(t, "fake-2.png"), sample(t, "fake-3.png"), sample(t, "real-1.png"), sample(t, "real-2.png")}
	value[bool](b, `window.createImageBitmap = async () => { throw new Error('no such drawing') }, true`)
	b.choose(samples...)
	b.wait(done(5))
	if text := b.text("#summary"); strings.Contains(text, "failed") {
		t.Errorf("summary without heat maps = %q", text)
	}
	value[bool](b, `Element.prototype.replaceChildren = () => { throw new Error('no such drawing') }, true`)
	b.choose(samples...)
	b.wait(`document.querySelectorAll('.card[data-state=failed]').length === 5`)
	if text := b.text(".card .label strong"); text != "Page error" {
		t.Errorf("%q", text)
	}
}

func TestClassify_SlowConnection(t *testing.T) {
	b, _ := start(t, phone)
	value[bool](b, `window.shifts = 0, new PerformanceObserver((l) => { for (const e of l.getEntries()) if (!e.hadRecentInput) window.shifts += e.value })
		.observe({ type: 'layout-shift' }), true`)
	b.throttle(20_000, 1500*time.Millisecond)
	b.choose(writeFile(t, "photo.png", drawn(t, 11, 300, 200)))
	// The image is shown immediately, with its state.
	b.wait(`document.querySelector('.card[data-state=waiting] .label').textContent.includes('Classifying')`)
	b.wait(`document.querySelector('.card .original').complete`)
	if name := b.text(".card .name"); name != "photo.png" {
		t.Errorf("name = %q", name)
	}
	height := value[float64](b, `document.querySelector('.card').offsetHeight`)
	b.shot("waiting")
	b.accessible()
	b.wait(done(1))
	if now := value[float64](b, `document.querySelector('.card').offsetHeight`); now > height+10 {
		t.Errorf("the height of the card changed from %g to %g pixels", height, now)
	}
	if shifts := value[float64](b, `window.shifts`); shifts > 0.05 {
		t.Errorf("layout shift = %g, want at most 0.05", shifts)
	}
}

func TestKeyboard(t *testing.T) {
	b, _ := start(t, desktop)
	press := func(keys ...string) {
		t.Helper()
		for _, k := range keys {
			b.do(chromedp.KeyEvent(k))
		}
	}
	focused := func() string {
		t.Helper()
		return value[string](b, `document.activeElement.ariaLabel ?? document.activeElement.id ?? ''`)
	}
	press(kb.Tab)
	if text := value[string](b, `document.activeElement.textContent`); text != "Skip to content" {
		t.Errorf("first focus = %q, want the skip link", text)
	}
	press(kb.Enter, kb.Tab)
	if id := focused(); id != "files" {
		t.Errorf("focus after the skip link = %q, want files", id)
	}
	for range 10 {
		if press(kb.Tab); strings.HasPrefix(focused(), "Classify sample") {
			break
		}
	}
	press(kb.Enter)
	b.wait(done(1))
	if text := b.text(".card .detail"); !strings.Contains(text, "drawn as REAL") {
		t.Errorf("detail of the sample = %q", text)
	}
	for range 20 {
		if press(kb.Tab); value[bool](b, `document.activeElement.classList.contains('correct')`) {
			break
		}
	}
	press(kb.Enter)
	b.wait(`document.querySelector('.feedback-status').textContent.startsWith('Feedback saved')`)
	if outline := value[string](b, `getComputedStyle(document.activeElement).outlineStyle`); outline != "solid" {
		t.Errorf("outline of the focused element = %s, want solid", outline)
	}
	b.shot("focus")
}

// paste is a JavaScript function that pastes a file or text into the page.
const paste = `((kind) => {
	const data = new DataTransfer()
	if (kind === 'text') data.setData('text/plain', 'hello')
	else data.items.add(new File([Uint8Array.from(atob(kind), (c) => c.charCodeAt(0))], 'image.png', { type: 'image/png' }))
	document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }))
	return true
})`

func TestClassify_Paste(t *testing.T) {
	b, _ := start(t, phone)
	value[bool](b, paste+`('text')`)
	b.wait(`document.querySelector('#announce').textContent.includes('contains no image')`)
	b.shot("nothing")
	data, err := os.ReadFile(sample(t, "fake-1.png"))
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	value[string](b, `location.hash = 'models'`)
	b.wait(`document.querySelector('nav [aria-current=page]')?.hash === '#models'`)
	value[bool](b, paste+`(`+string(encoded)+`)`)
	b.wait(done(1))
	b.wait(`!document.querySelector('#classify-view').hidden`)
}

func TestClassify_EXIFOrientation(t *testing.T) {
	b, _ := start(t, phone)
	var wide bytes.Buffer
	if err := jpeg.Encode(&wide, image.NewGray(image.Rect(0, 0, 40, 20)), nil); err != nil {
		t.Fatal(err)
	}
	// EXIF orientation 6 (rotated by 90°), which the model ignores.
	exif := "\xff\xe1\x00\x22Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
	data := slices.Concat(wide.Bytes()[:2], []byte(exif), wide.Bytes()[2:])
	b.choose(writeFile(t, "rotated.jpg", data))
	b.wait(done(1))
	if !value[bool](b, `document.querySelector('.stack').clientWidth > document.querySelector('.stack').clientHeight`) {
		t.Error("the image is rotated, but the heat map is not")
	}
	if !value[bool](b, `document.querySelector('.card').getBoundingClientRect().top < innerHeight`) {
		t.Error("the card is below the fold")
	}
	b.shot("rotated")
}

func TestFeedback_NoLog(t *testing.T) {
	b, _ := start(t, desktop, "--log-store", "none")
	b.allowFailedRequests()
	b.choose(sample(t, "fake-1.png"))
	b.wait(done(1))
	b.click(".correct")
	b.wait(`document.querySelector('.feedback-status').textContent.includes('--log-store=none')`)
	b.click("nav a[href='#status']")
	b.wait(`document.querySelector('#log-health').textContent.includes('The prediction log is off')`)
}

// BenchmarkPage measures the time from navigation until the page is usable and drawn, and the time
// from choosing an image to its prediction.
func BenchmarkPage(b *testing.B) {
	url, _ := serve(b)
	p := open(b, url, desktop)
	var usable, prediction float64
	for b.Loop() {
		p.do(chromedp.Navigate(url))
		p.wait(`document.documentElement.dataset.ready === 'true'`)
		usable += value[float64](p, `performance.getEntriesByName('ready')[0].startTime`)
		p.choose(sample(b, "fake-1.png"))
		p.wait(done(1))
		prediction += value[float64](p, `parseFloat(document.querySelector('.facts').textContent.replace('Classified in ', ''))`)
	}
	b.ReportMetric(usable/float64(b.N), "ms-to-usable")
	b.ReportMetric(prediction/float64(b.N), "ms-to-prediction")
}
