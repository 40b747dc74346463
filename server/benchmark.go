package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/gofiber/fiber/v2"

	"fakeart/internal/model"
	"fakeart/internal/ort"
	"fakeart/internal/otelenv"
	"fakeart/server/load"
)

// benchmarkCommand is `server benchmark`. It measures the program as it is, started
// anew for each figure, with a load generator on the same cores. A shared machine's
// speed drifts: what is compared is measured in turns, and the medians of the ratios
// are what counts.
type benchmarkCommand struct {
	Connections int           `help:"Connections that send at once." default:"16"`
	Rounds      int           `help:"How often the rates are measured in turns." default:"5"`
	Time        time.Duration `help:"How long each rate is measured." default:"3s"`
	Users       time.Duration `help:"How long 100 users who wait 1 to 4 seconds are simulated; 0 leaves them out." default:"30s"`
	Requests    int           `help:"Requests after which memory is measured the second time; 0 leaves it out." default:"200000"`
	Write       string        `help:"Also write the table into this file, between the lines ${bench_begin} and ${bench_end}." placeholder:"FILE"`
}

// The lines between which a file has the table.
const (
	benchBegin = "<!-- bench-serve begin: written by make bench-serve WRITE=1 -->"
	benchEnd   = "<!-- bench-serve end -->"
)

// warmRequests is the number of requests before memory is measured the first time.
const warmRequests = 10_000

// bench is a benchmark on its way.
type bench struct {
	benchmarkCommand
	config Config
	dir    string // for logs of predictions
	out    io.Writer
	small  []byte // requests
	large  []byte
}

// explaining is the number of connections that ask for explanations beside (k) and (l).
const explaining = 4

// setup is a way of starting the program that is measured.
type setup struct {
	name    string
	args    []string // flags, after a command if there is one
	request []byte   // the small picture's if it is left out
	beside  []byte   // what others ask for meanwhile, and is not counted
}

func (b benchmarkCommand) Run(c *Config, std streams) (err error) {
	if c.Model == "" {
		return usageError{errors.New("--model is missing: name the model file to serve")}
	}
	if b.Connections < 1 || b.Rounds < 1 || b.Time <= 0 {
		return usageError{errors.New("--connections, --rounds and --time: need at least one of each")}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := &bench{benchmarkCommand: b, config: *c, out: std.err}
	if run.dir, err = os.MkdirTemp("", "fakeart-benchmark-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(run.dir)) }()
	run.small, run.large = pictureRequest("/predict", 32, 32), pictureRequest("/predict", 640, 480)
	text, err := run.all(ctx)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(std.out, text); err != nil || b.Write == "" {
		return err
	}
	return replaceBetween(b.Write, benchBegin, benchEnd, text)
}

// pictureRequest is a prediction request with a JPEG picture in a form. Like a
// photograph's, its colours are smooth and not without noise.
func pictureRequest(target string, width, height int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			noise := rng.IntN(56)
			img.SetRGBA(x, y, color.RGBA{uint8(x*160/width + noise), uint8(y*160/height + noise), uint8((x+y)*80/width + noise), 255})
		}
	}
	var picture, form bytes.Buffer
	// Neither can fail on a buffer.
	_ = jpeg.Encode(&picture, img, &jpeg.Options{Quality: 75})
	w := multipart.NewWriter(&form)
	part, _ := w.CreateFormFile(formField, "picture.jpg")
	_, _ = part.Write(picture.Bytes())
	_ = w.Close()
	return load.Request(target, w.FormDataContentType(), form.Bytes())
}

// all measures everything and returns the table.
func (b *bench) all(ctx context.Context) (string, error) {
	db := func(name string) string { return "--log-path=" + filepath.Join(b.dir, name) }
	occlusion := pictureRequest("/predict?explain=occlusion", 32, 32)
	setups := []setup{
		{name: "h", args: []string{"constant"}},
		{name: "a", args: []string{"--log-store=none"}},
		{name: "b", args: []string{db("b.db")}},
		{name: "c", args: []string{db("c.db"), "--log-durable"}},
		{name: "c full", args: []string{db("cfull.db"), "--log-durable", "--log-synchronous=full"}},
		{name: "d", args: []string{"--log-store=none"}, request: b.large},
		{name: "i", args: []string{"--log-store=none"}, request: pictureRequest("/predict?explain=gradcam", 32, 32)},
		{name: "j", args: []string{"--log-store=none"}, request: occlusion},
		{name: "k", args: []string{"--log-store=none"}, beside: occlusion},
	}
	rates := map[string][]float64{}
	latency := map[string]*load.Run{}
	for round := range b.Rounds {
		r, batch, err := b.runtimeAlone(ctx)
		if err != nil {
			return "", err
		}
		b.say("round %d of %d: r %.0f images/s at batch %d", round+1, b.Rounds, r, batch)
		rates["r"] = append(rates["r"], r)
		for _, s := range setups {
			run, err := b.rate(ctx, s)
			if err != nil {
				return "", fmt.Errorf("(%s): %w", s.name, err)
			}
			b.say("round %d of %d: (%s) %.0f requests/s", round+1, b.Rounds, s.name, run.Rate())
			rates[s.name] = append(rates[s.name], run.Rate())
			latency[s.name] = run
		}
		h := rates["h"][round]
		rates["L"] = append(rates["L"], 1/(1/h+1/r))
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%d cores, %d rounds of %s, %d connections, ONNX Runtime %s; medians, lowest to highest in brackets.\n\n", runtime.NumCPU(), b.Rounds, b.Time, b.Connections, ort.Version())
	t := tabwriter.NewWriter(&text, 0, 0, 1, ' ', 0)
	row := func(cells ...string) { fmt.Fprintf(t, "| %s\t|\n", strings.Join(cells, "\t| ")) }
	row("", "requests/s", "ratio", "p50 / p99 ms")
	row("---", "---", "---", "---")
	rate := func(name, what, over string) {
		ratio, quantiles := "", ""
		if over != "" {
			ratios := make([]float64, b.Rounds)
			for i := range ratios {
				ratios[i] = rates[name][i] / rates[over][i]
			}
			ratio = spread(ratios, "%.2f") + " of " + strings.TrimPrefix(over, "c ")
		}
		if run := latency[name]; run != nil {
			quantiles = fmt.Sprintf("%s / %s", milliseconds(run.Quantile(0.5)), milliseconds(run.Quantile(0.99)))
		}
		row(what, spread(rates[name], "%.0f"), ratio, quantiles)
	}
	rate("r", "(r) ONNX Runtime alone, images/s", "")
	rate("h", "(h) HTTP alone", "")
	rate("L", "L = 1/(1/h + 1/r)", "")
	rate("a", "(a) POST /predict, no log", "L")
	rate("b", "(b) SQLite log", "L")
	rate("c", "(c) durable, synchronous=normal", "b")
	rate("c full", "(c) durable, synchronous=full", "b")
	rate("d", "(d) 640×480 JPEG, no log", "a")
	users := func(what string, beside []byte) error {
		if b.Users <= 0 {
			return nil
		}
		run, err := b.with(ctx, setups[2], func(c *child) (*load.Run, error) {
			defer b.beside(ctx, c, beside)()
			return load.Users(ctx, c.addr, b.small, 100, time.Second, 4*time.Second, load.Limit{Time: b.Users})
		})
		if err != nil {
			return fmt.Errorf("%.3s: %w", what, err)
		}
		row(what, fmt.Sprintf("%.0f", run.Rate()), "",
			fmt.Sprintf("%s / %s (p95 %s)", milliseconds(run.Quantile(0.5)), milliseconds(run.Quantile(0.99)), milliseconds(run.Quantile(0.95))))
		return nil
	}
	if err := users("(e) 100 users who wait 1–4 s, SQLite log", nil); err != nil {
		return "", err
	}
	starts := []float64{}
	for range 2*b.Rounds + 1 {
		took, err := b.coldStart(ctx, setups[2])
		if err != nil {
			return "", fmt.Errorf("(f): %w", err)
		}
		starts = append(starts, float64(took.Microseconds())/1000)
	}
	row("(f) start to first right answer, SQLite log", spread(starts, "%.0f")+" ms", "", "")
	if b.Requests > 0 {
		first, last, err := b.memory(ctx, setups[2])
		if err != nil {
			return "", fmt.Errorf("(g): %w", err)
		}
		row("(g) RSS, SQLite log", fmt.Sprintf("%.0f MB after %d requests, %.0f MB after %d", first, warmRequests, last, b.Requests), fmt.Sprintf("%.2f", last/first), "")
	}
	rate("i", "(i) explained by Grad-CAM, no log", "a")
	rate("j", "(j) explained by occlusion, no log", "a")
	rate("k", fmt.Sprintf("(k) as (a), while %d more connections do (j)", explaining), "a")
	if err := users(fmt.Sprintf("(l) as (e), while %d more connections do (j)", explaining), occlusion); err != nil {
		return "", err
	}
	if err := t.Flush(); err != nil {
		return "", err
	}
	return text.String(), nil
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.out, format+"\n", args...) }

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d.Microseconds())/1000) }

// spread is the median, and between brackets the lowest and the highest value.
func spread(values []float64, format string) string {
	v := slices.Sorted(slices.Values(values))
	median := v[len(v)/2]
	if len(v)%2 == 0 {
		median = (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	if len(v) == 1 {
		return fmt.Sprintf(format, median)
	}
	return fmt.Sprintf(format+" ("+format+"–"+format+")", median, v[0], v[len(v)-1])
}

// runtimeAlone runs the model on all cores at once, each with a session of one
// thread, and returns the rate at the batch size that gives most.
func (b *bench) runtimeAlone(ctx context.Context) (best float64, at int, err error) {
	file, err := model.Open(b.config.Model)
	if err != nil {
		return 0, 0, err
	}
	const largest = 32
	sessions := make([]*model.Session, b.config.workers())
	for i := range sessions {
		if sessions[i], err = file.NewSession(largest, ort.Options{Threads: 1, DenormalsAsZero: true}); err != nil {
			return 0, 0, err
		}
		defer func() { err = errors.Join(err, sessions[i].Close()) }()
		rng := rand.New(rand.NewPCG(1, uint64(i)))
		for k := range sessions[i].Input() {
			sessions[i].Input()[k] = rng.Float32()
		}
	}
	measure := func(batch int, long time.Duration) (float64, error) {
		var images atomic.Int64
		errs := make([]error, len(sessions))
		begin := time.Now()
		var group sync.WaitGroup
		for i, s := range sessions {
			group.Go(func() {
				for errs[i] == nil && ctx.Err() == nil && time.Since(begin) < long {
					errs[i] = s.Run(batch)
					images.Add(int64(batch))
				}
			})
		}
		group.Wait()
		return float64(images.Load()) / time.Since(begin).Seconds(), errors.Join(append(errs, ctx.Err())...)
	}
	for batch := 1; batch <= largest; batch *= 2 {
		rate, err := measure(batch, b.Time/12)
		if err != nil {
			return 0, 0, err
		}
		if rate > best {
			best, at = rate, batch
		}
	}
	// The best of several short looks is luck in part.
	best, err = measure(at, b.Time)
	return best, at, err
}

// rate measures answers a second.
func (b *bench) rate(ctx context.Context, s setup) (*load.Run, error) {
	return b.with(ctx, s, func(c *child) (*load.Run, error) {
		request := s.request
		if request == nil {
			request = b.small
		}
		defer b.beside(ctx, c, s.beside)()
		if _, err := load.ClosedLoop(ctx, c.addr, request, b.Connections, load.Limit{Time: b.Time / 3}); err != nil {
			return nil, err
		}
		return load.ClosedLoop(ctx, c.addr, request, b.Connections, load.Limit{Time: b.Time})
	})
}

// beside has others ask for something, if there is anything, until it is ended.
func (b *bench) beside(ctx context.Context, c *child, request []byte) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	if request != nil {
		// What they get counts nowhere: under full load many of them are refused.
		group.Go(func() { _, _ = load.ClosedLoop(ctx, c.addr, request, explaining, load.Limit{Time: time.Hour}) })
	}
	return func() {
		cancel()
		group.Wait()
	}
}

// with starts the program, measures, and stops it.
func (b *bench) with(ctx context.Context, s setup, measure func(*child) (*load.Run, error)) (run *load.Run, err error) {
	c, err := b.start(ctx, s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	return measure(c)
}

// coldStart is the time from starting the program to its first right answer.
func (b *bench) coldStart(ctx context.Context, s setup) (took time.Duration, err error) {
	began := time.Now()
	_, err = b.with(ctx, s, func(c *child) (*load.Run, error) {
		run, err := load.ClosedLoop(ctx, c.addr, b.small, 1, load.Limit{Requests: 1})
		took = time.Since(began)
		return run, err
	})
	return took, err
}

// memory is the resident memory in MB (10⁶ bytes) after few and after many requests.
func (b *bench) memory(ctx context.Context, s setup) (first, last float64, err error) {
	_, err = b.with(ctx, s, func(c *child) (*load.Run, error) {
		if _, err := load.ClosedLoop(ctx, c.addr, b.small, b.Connections, load.Limit{Requests: warmRequests}); err != nil {
			return nil, err
		}
		if first, err = c.resident(); err != nil {
			return nil, err
		}
		if _, err := load.ClosedLoop(ctx, c.addr, b.small, b.Connections, load.Limit{Requests: b.Requests - warmRequests}); err != nil {
			return nil, err
		}
		last, err = c.resident()
		return nil, err
	})
	return first, last, err
}

// child is the program under measurement.
type child struct {
	cmd  *exec.Cmd
	addr string
	rest chan string // what it says after its address
}

var listeningLine = regexp.MustCompile(`listening on http://([^ "]+)`)

// start starts this very program as the setup has it and waits until it listens.
func (b *bench) start(ctx context.Context, s setup) (*child, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := append(slices.Clone(s.args),
		"--model="+b.config.Model, "--addr=127.0.0.1:0",
		"--workers="+strconv.Itoa(b.config.Workers), "--max-batch="+strconv.Itoa(b.config.MaxBatch), "--queue="+strconv.Itoa(b.config.Queue))
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Env = otelenv.Without(os.Environ()) // tracing would be measured as well
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 15 * time.Second
	log, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, rest: make(chan string, 1)}
	lines := bufio.NewScanner(log)
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
		if m := listeningLine.FindStringSubmatch(lines.Text()); m != nil {
			c.addr = m[1]
			break
		}
	}
	if c.addr == "" {
		return nil, errors.Join(fmt.Errorf("the server did not start: %s", strings.Join(said, "; ")), cmd.Wait())
	}
	go func() {
		for lines.Scan() { // or it would wait for a reader
			said = append(said, lines.Text())
		}
		c.rest <- strings.Join(said[max(0, len(said)-3):], "; ")
	}()
	return c, nil
}

// stop ends the program as an operator would.
func (c *child) stop() error {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	said := <-c.rest
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("the server ended with %w: %s", err, said)
	}
	return nil
}

// resident is the memory of the program in MB.
func (c *child) resident() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("resident memory: %w (it is known on Linux alone; leave it out with --requests=0)", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")))
			return float64(kib) * 1024 / 1e6, err
		}
	}
	return 0, errors.New("resident memory: the system does not tell")
}

// constantCommand serves the yardstick (h): the same HTTP server, with a handler that
// reads the body and answers a constant.
type constantCommand struct{}

func (constantCommand) Run(c *Config, std streams) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	scheduleAsBatch()
	m := NewMain(*c, newLogger(c, std.err))
	m.bodies = newBodies(c.MaxBody, c.MaxMemory)
	err := m.listen(ctx, c.Addr, "--addr", func() *fiber.App {
		app := m.newFiber()
		app.Post("/predict", func(c *fiber.Ctx) error {
			x := m.newExchange(c)
			defer x.free()
			if err := m.bodies.read(c, &x.body); err != nil {
				return err
			}
			c.Response().Header.SetContentType(fiber.MIMEApplicationJSON)
			return c.SendString(`{"id":"01932d5e-8c6b-7f3a-9b1e-0c2d4e6f8a1b","label":"REAL","isAI":false,"probability":0.0313582349850234,"model":"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}`)
		})
		m.serveWith(app)
		return app
	})
	if err != nil {
		return err
	}
	m.fronts[0].serve()
	m.log.Info("listening on " + m.URL())
	<-ctx.Done()
	return m.Close()
}

// replaceBetween writes text into the file between two lines that it has.
func replaceBetween(path, begin, end, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, rest, found := strings.Cut(string(old), begin+"\n")
	_, tail, closed := strings.Cut(rest, end)
	if !found || !closed {
		return fmt.Errorf("write %s: it lacks the lines %q and %q", path, begin, end)
	}
	return os.WriteFile(path, []byte(head+begin+"\n\n"+text+"\n"+end+tail), 0o644)
}
