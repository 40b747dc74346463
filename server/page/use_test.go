package page_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// done is that nothing waits, of so many pictures.
func done(n int) string {
	return fmt.Sprintf(`document.querySelectorAll('.card').length === %d && !document.querySelector('.card[data-state=waiting]') &&
		[...document.querySelectorAll('.card:not([data-state=failed]) .feedback')].every((e) => !e.hidden)`, n)
}

// sample is the path of a picture that is part of the page.
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

// drawn is a picture of noise, another for each number.
func drawn(t *testing.T, number, width, height int) []byte {
	t.Helper()
	picture := image.NewNRGBA(image.Rect(0, 0, width, height))
	for i := range width * height {
		picture.Set(i%width, i/width, color.NRGBA{uint8(i * number), uint8(i * i), uint8(number), 0xff})
	}
	var data bytes.Buffer
	if err := png.Encode(&data, picture); err != nil {
		t.Fatal(err)
	}
	return data.Bytes()
}

// logged waits until the prediction log has so many records, and returns them, newest
// first.
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
		time.Sleep(time.Second) // as a test has asked for
		return nil
	}
	if err != nil || response.StatusCode != 200 {
		t.Fatalf("the log: %s, %v: %s", response.Status, err, body)
	}
	var answer struct{ Records []map[string]any }
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Records
}

func TestADroppedPictureIsJudgedExplainedAndCorrected(t *testing.T) {
	b, url := start(t, desktop)
	b.drop(sample(t, "fake-1.png"))
	b.wait(done(1))
	if state := value[string](b, `document.querySelector('.card').dataset.state`); state != "fake" {
		t.Errorf("the verdict is %s", state)
	}
	if text := b.text(".label"); !strings.HasPrefix(text, "FAKE") || !strings.Contains(text, "AI-generated") {
		t.Errorf("verdict %q", text)
	}
	if text := b.text(".facts"); !strings.Contains(text, "ms by model-1 ") {
		t.Errorf("facts %q", text)
	}
	if percent := value[float64](b, `Number(document.querySelector('.bar').ariaValueNow)`); percent <= 50 || percent > 100 {
		t.Errorf("the bar says %g %%", percent)
	}
	if b.wait(`document.querySelector('.seen').complete`); value[int](b, `document.querySelector('.seen').naturalWidth`) != 32 {
		t.Error("what the model saw is not 32 pixels wide")
	}
	// The heat map has something to say, and its slider takes it back.
	if n := value[int](b, `(() => { const c = document.querySelector('.heat'); const d = c.getContext('2d').getImageData(0, 0, 32, 32).data;
		let n = 0; for (let i = 3; i < d.length; i += 4) if (d[i] > 200) n++; return c.hidden ? -1 : n })()`); n < 1 || n > 900 {
		t.Errorf("%d of 1024 pixels of the heat map are hot", n)
	}
	b.shot("verdict")
	value[bool](b, `(() => { const r = document.querySelector('.strength input'); r.value = 0; r.dispatchEvent(new Event('input')); return true })()`)
	if opacity := value[string](b, `getComputedStyle(document.querySelector('.heat')).opacity`); opacity != "0" {
		t.Errorf("with the slider at its beginning the map has the opacity %s", opacity)
	}
	if text := b.text("#honesty"); !strings.Contains(text, "means nothing") {
		t.Errorf("of a model that was trained on drawn shapes the page says %q", text)
	}

	if r := logged(t, url, 1)[0]; r["label"] != "FAKE" || r["feedback_label"] != nil {
		t.Fatalf("the log: %v", r)
	}
	b.click(".wrong")
	b.wait(`document.querySelector('.noted').textContent.startsWith('Noted: it is REAL')`)
	if r := logged(t, url, 1)[0]; r["feedback_label"] != "REAL" {
		t.Errorf("the log has the feedback %v", r["feedback_label"])
	}
	b.click(".feedback summary")
	b.do(chromedp.SendKeys(chromedp.CSS(".feedback textarea"), "a cat, <b>my</b> cat"))
	b.click(".right")
	b.wait(`document.querySelector('.noted').textContent.startsWith('Noted: it is FAKE')`)
	if r := logged(t, url, 1)[0]; r["feedback_label"] != "FAKE" || r["feedback_comment"] != "a cat, <b>my</b> cat" {
		t.Errorf("the log has the feedback %v, %v", r["feedback_label"], r["feedback_comment"])
	}
	if pressed := value[[]string](b, `[...document.querySelectorAll('.feedback button')].map((e) => e.ariaPressed)`); fmt.Sprint(pressed) != "[true false]" {
		t.Errorf("pressed: %v", pressed)
	}
	b.shot("corrected")
	b.accessible()

	value[bool](b, `(() => { const s = document.querySelector('#method'); s.value = 'occlusion'; return true })()`)
	b.choose(sample(t, "real-1.png"))
	b.wait(done(2))
	if hidden := value[bool](b, `document.querySelector('.heat').hidden`); hidden {
		t.Error("occlusion draws no map")
	}
	b.click(".remove")
	b.wait(done(1))
	b.click("#clear")
	b.wait(`document.querySelector('#results').hidden`)
}

func TestThePageOnEveryScreen(t *testing.T) {
	for _, s := range []screen{desktop, desktop.inDark(), phone, phone.inDark()} {
		t.Run(s.name, func(t *testing.T) {
			b, _ := start(t, s)
			value[bool](b, `window.shifts = 0, new PerformanceObserver((l) => { for (const e of l.getEntries()) if (!e.hadRecentInput) window.shifts += e.value })
				.observe({ type: 'layout-shift', buffered: true }), true`)
			b.wait(`document.querySelector('#honesty').textContent.includes('means nothing')`)
			b.shot("empty")
			b.accessible()
			b.mayRefuse()
			b.choose(sample(t, "fake-1.png"), sample(t, "real-1.png"), writeFile(t, "notes.jpg", []byte("no picture")), writeFile(t, "wide.png", drawn(t, 3, 300, 90)))
			b.wait(done(4))
			b.shot("verdicts")
			b.accessible()
			b.inside()
			if shifts := value[float64](b, `window.shifts`); shifts > 0.05 {
				t.Errorf("the page jumps: %g of layout shift", shifts)
			}
			for _, view := range []string{"models", "state"} {
				b.click("nav a[href='#" + view + "']")
				b.wait(fmt.Sprintf(`!document.querySelector('#%s').hidden && !document.querySelector('#%[1]s .wait')`, view))
				b.shot(view)
				b.accessible()
				b.inside()
			}
		})
	}
}

func TestAModelIsChangedAndRolledBack(t *testing.T) {
	built, err := tools()
	if err != nil {
		t.Fatal(err)
	}
	const token = "correct-horse-battery-staple"
	b, url := start(t, desktop, "--model", built.models, "--admin-token", token)
	b.click("nav a[href='#models']")
	b.wait(`document.querySelectorAll('#available li').length === 2`)
	if text := b.text("#current h2"); text != "In use: model-2" {
		t.Errorf("%q", text) // the newest of the folder
	}
	for _, want := range []string{"synthetic, drawn in process", "Validation accuracy", "gradcam, occlusion"} {
		if text := b.text("#current"); !strings.Contains(text, want) {
			t.Errorf("of the model the page says %q, without %q", text, want)
		}
	}
	b.mayRefuse()
	use := `#available button[aria-label*='first.onnx']`
	b.click(use)
	b.wait(`document.querySelector('#confirm').open`)
	b.shot("confirm")
	b.accessible()
	b.click("#confirm-no")
	b.wait(`!document.querySelector('#confirm').open`)
	b.click(use)
	b.click("#confirm-yes")
	b.wait(`document.querySelector('#models-message').textContent.includes('administrator’s token')`)
	b.wait(`document.activeElement.id === 'token'`)
	b.shot("refused")
	b.do(chromedp.SendKeys(chromedp.CSS("#token"), "wrong"))
	b.click(use)
	b.click("#confirm-yes")
	b.wait(`document.querySelector('#models-message').textContent.includes('not valid')`)
	value[bool](b, `document.querySelector('#token').select(), true`)
	b.do(chromedp.KeyEvent(token))
	b.click(use)
	b.click("#confirm-yes")
	b.wait(`document.querySelector('#models-message').textContent.startsWith('In use now: model-1')`)
	b.wait(`document.querySelector('#current h2').textContent === 'In use: model-1'`)
	b.shot("changed")
	b.click("nav a[href='#judge']")
	b.choose(sample(t, "fake-2.png"))
	b.wait(done(1))
	if text := b.text(".facts"); !strings.Contains(text, "model-1") {
		t.Errorf("judged by another model: %q", text)
	}
	b.click("nav a[href='#models']")
	b.click(`#available button[aria-label^='Roll back']`)
	b.click("#confirm-yes")
	b.wait(`document.querySelector('#current h2').textContent === 'In use: model-2'`)
	if kept := value[int](b, `localStorage.length + sessionStorage.length + document.cookie.length`); kept != 0 {
		t.Error("the page keeps something in the browser")
	}
	if strings.Contains(value[string](b, `location.href`), "token") {
		t.Error("the token is in the address")
	}
	_ = url
}

// huge is the beginning of a PNG that says it has so many pixels.
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

func TestWhatCannotBeJudgedIsRefusedInWords(t *testing.T) {
	b, url := start(t, desktop, "--max-body", "300000")
	b.mayRefuse()
	whole := drawn(t, 5, 200, 200)
	cases := []struct{ name, title, detail string }{
		{"text.jpg", "This is not a picture", "unsupported image format"},
		{"empty.png", "There is nothing to judge", "no image"},
		{"cut.png", "The picture is damaged", "png"},
		{"sixty-thousand.png", "The picture is too large", "60000"},
		{"heavy.jpg", "The picture is too large", "300000 bytes"},
		{"<img src=x onerror=alert(1)>.png", "This is not a picture", "unsupported"},
		{"data.json", "This is not a picture", "unsupported"},
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
			t.Errorf("file %d is called %q, want %q", i, got, c.name)
		}
		if got := b.text(card + ".label strong"); got != c.title {
			t.Errorf("%s: %q, want %q", c.name, got, c.title)
		}
		if got := b.text(card + ".detail"); !strings.Contains(got, c.detail) {
			t.Errorf("%s: %q does not have %q", c.name, got, c.detail)
		}
		if b.text(card+".facts") == "" || value[bool](b, fmt.Sprintf(`!document.querySelector(%q).hidden`, card+".retry")) {
			t.Errorf("%s: there is no advice, or to try again", c.name)
		}
	}
	if value[int](b, `document.querySelectorAll('[onerror]').length`) != 0 {
		t.Error("a file's name has become markup")
	}
	if text := b.text(fmt.Sprintf(".card:nth-child(%d) .label", len(cases)+1)); !strings.HasPrefix(text, "REAL") && !strings.HasPrefix(text, "FAKE") {
		t.Errorf("the good picture among them: %q", text)
	}
	b.shot("errors")
	b.accessible()
	logged(t, url, 1)
}

func TestTheServerGoesAndComesBack(t *testing.T) {
	b, url, stop := startStopped(t, desktop)
	b.mayRefuse()
	b.choose(sample(t, "fake-1.png"))
	b.wait(done(1))
	stop()
	b.choose(sample(t, "real-1.png"), sample(t, "real-2.png"))
	b.wait(`document.querySelectorAll('.card[data-state=failed]').length === 2`)
	if text := b.text(".card .label strong"); text != "The server cannot be reached" {
		t.Errorf("%q", text)
	}
	b.click("nav a[href='#state']")
	b.wait(`document.querySelector('#state-note').textContent.includes('cannot be reached')`)
	b.shot("gone-state")
	b.click("nav a[href='#models']")
	b.wait(`document.querySelector('#current').textContent.includes('cannot be reached')`)
	b.click("nav a[href='#judge']")
	b.shot("gone")
	b.accessible()
	b.click(".card:last-child .right") // feedback on the picture from before
	b.wait(`document.querySelector('.card:last-child .noted').textContent.startsWith('Not noted: The server cannot be reached')`)

	serve(t, "--addr", strings.TrimPrefix(url, "http://"))
	b.click(".card .retry")
	b.wait(`document.querySelectorAll('.card[data-state=failed]').length === 1`)
	b.click("#again")
	b.wait(done(3))
	if text := b.text("#summary"); strings.Contains(text, "not judged") {
		t.Errorf("%q", text)
	}
	b.click(".card:last-child .right") // this server's log is another, which does not know it
	b.wait(`document.querySelector('.card:last-child .noted').textContent.includes('there is no prediction')`)
}

func TestABusyServerIsAskedAgain(t *testing.T) {
	t.Run("until it has answered", func(t *testing.T) {
		b, url := start(t, desktop, "--rate-limit", "2")
		b.mayRefuse()
		b.choose(sample(t, "fake-1.png"), sample(t, "fake-2.png"), sample(t, "fake-3.png"))
		b.wait(done(3))
		b.wait(`document.querySelectorAll('.card[data-state=failed]').length === 0`)
		logged(t, url, 3)
	})
	t.Run("until that is of no use", func(t *testing.T) {
		b, _ := start(t, desktop, "--request-timeout", "1ms")
		b.mayRefuse()
		b.choose(writeFile(t, "large.png", drawn(t, 7, 1500, 1500))) // takes longer than that to decode
		b.wait(`document.querySelector('.label').textContent.includes('asking again in')`)
		b.shot("waiting")
		b.wait(`document.querySelector('.card[data-state=failed]')`)
		if text := b.text(".label strong"); text != "The server is busy" {
			t.Errorf("%q", text)
		}
		if value[bool](b, `document.querySelector('.retry').hidden`) {
			t.Error("there is no way to try again")
		}
		b.shot("busy")
	})
}

func TestPage_without_model(t *testing.T) {
	folder := t.TempDir()
	screen := desktop
	screen.refusals = true
	b, url := start(t, screen, "--model", folder, "--model-watch=50ms")
	b.choose(sample(t, "fake-1.png"))
	b.wait(`document.querySelector('.card[data-state=failed]')`) // at once: the model may take hours
	if text := b.text(".label strong"); text != "There is no model yet" {
		t.Errorf("the card says %q", text)
	}
	if text := b.text(".card .detail"); !strings.Contains(text, "no model in the folder") {
		t.Errorf("the card's detail is %q", text)
	}
	b.click("nav a[href='#models']")
	b.wait(`document.querySelector('#current').textContent.includes('There is no model yet')`)
	b.click("nav a[href='#state']")
	b.wait(`document.querySelector('#state-note').textContent.startsWith('Not ready: no model is loaded yet')`)
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
	b.wait(`document.querySelector('#state-note').textContent.startsWith('Ready')`)
	b.click("nav a[href='#judge']")
	b.click(".card .retry")
	b.wait(done(1))
	if text := b.text(".label strong"); text != "FAKE" && text != "REAL" {
		t.Errorf("the card says %q", text)
	}
	if text := b.text("#honesty"); !strings.HasPrefix(text, "The model in use") {
		t.Errorf("the note on the model says %q", text)
	}
	logged(t, url, 1)
}

func TestTwoHundredPicturesAtOnce(t *testing.T) {
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
	if text := b.text("#announce"); !strings.HasPrefix(text, "200 pictures: ") || !strings.HasSuffix(text, " 0 not judged") {
		t.Errorf("a screen reader hears %q", text)
	}
	logged(t, url, 200)
	b.click("nav a[href='#state']")
	b.wait(`document.querySelectorAll('#chart-predictions rect').length > 0`)
	b.wait(`document.querySelector('.tile strong').textContent === '200'`)
	b.shot("state")
}

func TestAFaultOfThePageStopsNothing(t *testing.T) {
	b, _ := start(t, desktop)
	b.mayFail("no such drawing")
	samples := []string{sample(t, "fake-1.png"), sample(t, "fake-2.png"), sample(t, "fake-3.png"), sample(t, "real-1.png"), sample(t, "real-2.png")}
	value[bool](b, `window.createImageBitmap = async () => { throw new Error('no such drawing') }, true`)
	b.choose(samples...)
	b.wait(done(5))
	if text := b.text("#summary"); strings.Contains(text, "not judged") {
		t.Errorf("without its maps: %q", text)
	}
	value[bool](b, `Element.prototype.replaceChildren = () => { throw new Error('no such drawing') }, true`)
	b.choose(samples...)
	b.wait(`document.querySelectorAll('.card[data-state=failed]').length === 5`)
	if text := b.text(".card .label strong"); text != "This page failed" {
		t.Errorf("%q", text)
	}
}

func TestASlowConnectionIsSeenToBeWaitedFor(t *testing.T) {
	b, _ := start(t, phone)
	value[bool](b, `window.shifts = 0, new PerformanceObserver((l) => { for (const e of l.getEntries()) if (!e.hadRecentInput) window.shifts += e.value })
		.observe({ type: 'layout-shift' }), true`)
	b.slowly(20_000, 1500*time.Millisecond)
	b.choose(writeFile(t, "photo.png", drawn(t, 11, 300, 200)))
	// The picture is there at once, and says that it waits.
	b.wait(`document.querySelector('.card[data-state=waiting] .label').textContent.includes('Judging')`)
	b.wait(`document.querySelector('.card .original').complete`)
	if name := b.text(".card .name"); name != "photo.png" {
		t.Errorf("called %q", name)
	}
	height := value[float64](b, `document.querySelector('.card').offsetHeight`)
	b.shot("waiting")
	b.accessible()
	b.wait(done(1))
	if now := value[float64](b, `document.querySelector('.card').offsetHeight`); now > height+10 {
		t.Errorf("the card has grown from %g to %g pixels", height, now)
	}
	if shifts := value[float64](b, `window.shifts`); shifts > 0.05 {
		t.Errorf("the page jumps: %g of layout shift", shifts)
	}
}

func TestTheKeyboardIsEnough(t *testing.T) {
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
		t.Errorf("first comes %q", text)
	}
	press(kb.Enter, kb.Tab)
	if id := focused(); id != "files" {
		t.Errorf("behind the navigation comes %q", id)
	}
	for range 10 {
		if press(kb.Tab); strings.HasPrefix(focused(), "Judge sample") {
			break
		}
	}
	press(kb.Enter)
	b.wait(done(1))
	if text := b.text(".card .detail"); !strings.Contains(text, "drawn as REAL") {
		t.Errorf("of the sample the page says %q", text)
	}
	for range 20 {
		if press(kb.Tab); value[bool](b, `document.activeElement.classList.contains('right')`) {
			break
		}
	}
	press(kb.Enter)
	b.wait(`document.querySelector('.noted').textContent.startsWith('Noted')`)
	if outline := value[string](b, `getComputedStyle(document.activeElement).outlineStyle`); outline != "solid" {
		t.Errorf("what has the focus is not to be seen: %s", outline)
	}
	b.shot("focus")
}

// give pastes, into the page, a file or a text.
const give = `((kind) => {
	const data = new DataTransfer()
	if (kind === 'text') data.setData('text/plain', 'hello')
	else data.items.add(new File([Uint8Array.from(atob(kind), (c) => c.charCodeAt(0))], 'image.png', { type: 'image/png' }))
	document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }))
	return true
})`

func TestAPictureIsPasted(t *testing.T) {
	b, _ := start(t, phone)
	value[bool](b, give+`('text')`)
	b.wait(`document.querySelector('#announce').textContent.includes('holds no picture')`)
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
	value[bool](b, give+`(`+string(encoded)+`)`)
	b.wait(done(1))
	b.wait(`!document.querySelector('#judge').hidden`)
}

func TestTheMapLiesOnThePictureAsTheModelSeesIt(t *testing.T) {
	b, _ := start(t, phone)
	var wide bytes.Buffer
	if err := jpeg.Encode(&wide, image.NewGray(image.Rect(0, 0, 40, 20)), nil); err != nil {
		t.Fatal(err)
	}
	// To be turned by a quarter to be seen upright: orientation 6 in EXIF, of which the model knows nothing.
	exif := "\xff\xe1\x00\x22Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
	data := slices.Concat(wide.Bytes()[:2], []byte(exif), wide.Bytes()[2:])
	b.choose(writeFile(t, "turned.jpg", data))
	b.wait(done(1))
	if !value[bool](b, `document.querySelector('.stack').clientWidth > document.querySelector('.stack').clientHeight`) {
		t.Error("the picture is shown turned, and the map is not")
	}
	if !value[bool](b, `document.querySelector('.card').getBoundingClientRect().top < innerHeight`) {
		t.Error("the card is below the screen")
	}
	b.shot("turned")
}

func TestWithoutALogThePageSaysThatFeedbackIsNotKept(t *testing.T) {
	b, _ := start(t, desktop, "--log-store", "none")
	b.mayRefuse()
	b.choose(sample(t, "fake-1.png"))
	b.wait(done(1))
	b.click(".right")
	b.wait(`document.querySelector('.noted').textContent.includes('keeps no log')`)
	b.click("nav a[href='#state']")
	b.wait(`document.querySelector('#log-health').textContent.includes('No log is kept')`)
}

// The time from the beginning of the navigation until the page can be used, with what is
// drawn on it, and how long a verdict takes that a user waits for.
func BenchmarkPage(b *testing.B) {
	url, _ := serve(b)
	p := open(b, url, desktop)
	var usable, verdict float64
	for b.Loop() {
		p.do(chromedp.Navigate(url))
		p.wait(`document.documentElement.dataset.ready === 'true'`)
		usable += value[float64](p, `performance.getEntriesByName('ready')[0].startTime`)
		p.choose(sample(b, "fake-1.png"))
		p.wait(done(1))
		verdict += value[float64](p, `parseFloat(document.querySelector('.facts').textContent.replace('Answered in ', ''))`)
	}
	b.ReportMetric(usable/float64(b.N), "ms-to-usable")
	b.ReportMetric(verdict/float64(b.N), "ms-to-verdict")
}
