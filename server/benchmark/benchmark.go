// Package benchmark measures the serving speed of the server's executable on this machine against the
// theoretical maximum. [Run] starts the server once per measurement, with a load generator on the same
// cores. The speed of a shared machine drifts, so compared configurations are measured in turns, and the
// result is the median of their ratios.
package benchmark

import (
	"bytes"
	"cmp"
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
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"fakeart/internal/model"
	"fakeart/internal/ort"
	"fakeart/internal/process"
	"fakeart/server/load"
)

// Options are what to measure, as flags of a command.
type Options struct {
	Connections int           `help:"Number of concurrent connections." default:"16"`
	Rounds      int           `help:"Number of measurements of each rate." default:"5"`
	Time        time.Duration `help:"Duration of each measurement." default:"3s"`
	Users       time.Duration `help:"Duration of the simulation of 100 users who wait 1 to 4 seconds between requests; 0 skips it." default:"30s"`
	Requests    int           `help:"Number of requests before the second measurement of memory; 0 skips it." default:"200000"`
	Write       string        `help:"Also write the table to this file, between the lines ${bench_begin} and ${bench_end}." placeholder:"FILE"`
}

// Lines in a file that enclose the table.
const (
	Begin = "<!-- bench-serve begin: written by make bench-serve WRITE=1 -->"
	End   = "<!-- bench-serve end -->"
)

// The largest values of options.
const (
	maxConnections = 1 << 20
	maxTime        = 100 * 365 * 24 * time.Hour
)

// warmRequests is the number of requests before the first measurement of memory.
const warmRequests = 10_000

// Server is the configuration of the server to measure.
type Server struct {
	Model    string // path of the model file
	Workers  int    // number of inference sessions; 0 means one per core
	MaxBatch int
	Queue    int
}

// bench is a running benchmark.
type bench struct {
	Options
	server Server
	dir    string // directory for prediction logs
	out    io.Writer
	small  []byte // requests with a small and a large image
	large  []byte
}

// explainConnections is the number of background connections that request explanations during (k)
// and (l).
const explainConnections = 4

// setup is a configuration of the server to measure.
type setup struct {
	name       string
	args       []string // flags, after a command if any
	request    []byte   // defaults to bench.small
	background []byte   // request of the background connections, which aren't measured
}

// Run returns the measurements as a table in Markdown, and writes it to o.Write if that is set; an error of
// writing comes with the table. It reports its progress to out.
func Run(ctx context.Context, o Options, server Server, out io.Writer) (text string, err error) {
	if o.Write != "" { // find out before measuring for minutes
		if _, _, err := around(o.Write, Begin, End); err != nil {
			return "", err
		}
	}
	run := &bench{Options: o, server: server, out: out}
	if run.dir, err = os.MkdirTemp("", "fakeart-benchmark-"); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(run.dir)) }()
	run.small, run.large = ImageRequest("/predict", 32, 32), ImageRequest("/predict", 640, 480)
	if text, err = run.all(ctx); err != nil || o.Write == "" {
		return text, err
	}
	return text, replaceBetween(o.Write, Begin, End, text)
}

// Validate returns an error if an option is invalid, as the flag of the command. kong calls it after parsing.
func (o Options) Validate() error {
	switch {
	case o.Connections < 1 || o.Connections > maxConnections:
		return fmt.Errorf("--connections=%d: must be from 1 to %d", o.Connections, maxConnections)
	case o.Rounds < 1:
		return fmt.Errorf("--rounds=%d: must be at least 1", o.Rounds)
	case o.Time <= 0 || o.Time > maxTime:
		return fmt.Errorf("--time=%s: must be positive, and at most 36500d", o.Time)
	case o.Users < 0 || o.Users > maxTime:
		return fmt.Errorf("--users=%s: must be from 0 to 36500d", o.Users)
	case o.Requests != 0 && o.Requests <= warmRequests:
		return fmt.Errorf("--requests=%d: must be 0, or more than %d", o.Requests, warmRequests)
	}
	return nil
}

// ImageRequest returns a prediction request with a JPEG in a form. Like those of a photograph,
// its colors are smooth but noisy.
func ImageRequest(target string, width, height int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			noise := rng.IntN(56)
			img.SetRGBA(x, y, color.RGBA{uint8(x*160/width + noise), uint8(y*160/height + noise), uint8((x+y)*80/width + noise), 255})
		}
	}
	var jpegData, form bytes.Buffer
	// Writing to a buffer can't fail.
	_ = jpeg.Encode(&jpegData, img, &jpeg.Options{Quality: 75})
	w := multipart.NewWriter(&form)
	part, _ := w.CreateFormFile("data", "photo.jpg")
	_, _ = part.Write(jpegData.Bytes())
	_ = w.Close()
	return load.Request(target, w.FormDataContentType(), form.Bytes())
}

// all runs all measurements and returns the table.
func (b *bench) all(ctx context.Context) (string, error) {
	db := func(name string) string { return "--log-path=" + filepath.Join(b.dir, name) }
	occlusion := ImageRequest("/predict?explain=occlusion", 32, 32)
	setups := []setup{
		{name: "h", args: []string{"constant"}},
		{name: "a", args: []string{"--log-store=none"}},
		{name: "b", args: []string{db("b.db")}},
		{name: "c", args: []string{db("c.db"), "--log-durable"}},
		{name: "c full", args: []string{db("cfull.db"), "--log-durable", "--log-synchronous=full"}},
		{name: "d", args: []string{"--log-store=none"}, request: b.large},
		{name: "i", args: []string{"--log-store=none"}, request: ImageRequest("/predict?explain=gradcam", 32, 32)},
		{name: "j", args: []string{"--log-store=none"}, request: occlusion},
		{name: "k", args: []string{"--log-store=none"}, background: occlusion},
	}
	file, err := model.Open(b.server.Model)
	if err != nil {
		return "", err
	}
	if !file.HasCAM() {
		b.logf("(i) is skipped: the model file has no class-activation map")
		setups = slices.DeleteFunc(setups, func(s setup) bool { return s.name == "i" })
	}
	rates := map[string][]float64{}
	latency := map[string]*load.Run{}
	for round := range b.Rounds {
		r, batch, err := b.measureRuntime(ctx)
		if err != nil {
			return "", err
		}
		b.logf("round %d of %d: r %.0f images/s at batch %d", round+1, b.Rounds, r, batch)
		rates["r"] = append(rates["r"], r)
		for _, s := range setups {
			run, err := b.rate(ctx, s)
			if err != nil {
				return "", fmt.Errorf("(%s): %w", s.name, err)
			}
			b.logf("round %d of %d: (%s) %.0f requests/s", round+1, b.Rounds, s.name, run.Rate())
			rates[s.name] = append(rates[s.name], run.Rate())
			latency[s.name] = run
		}
		h := rates["h"][round]
		rates["L"] = append(rates["L"], 1/(1/h+1/r))
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%d cores, %d rounds of %s, %d connections, ONNX Runtime %s; medians, with minimum and maximum in brackets.\n\n", runtime.NumCPU(), b.Rounds, b.Time, b.Connections, ort.Version())
	t := tabwriter.NewWriter(&text, 0, 0, 1, ' ', 0)
	row := func(cells ...string) { fmt.Fprintf(t, "| %s\t|\n", strings.Join(cells, "\t| ")) }
	row("", "requests/s", "ratio", "p50 / p99 ms")
	row("---", "---", "---", "---")
	rate := func(name, label, baseline string) {
		ratio, quantiles := "", ""
		if baseline != "" {
			ratios := make([]float64, b.Rounds)
			for i := range ratios {
				ratios[i] = rates[name][i] / rates[baseline][i]
			}
			ratio = spread(ratios, "%.2f") + " of " + strings.TrimPrefix(baseline, "c ")
		}
		if run := latency[name]; run != nil {
			quantiles = fmt.Sprintf("%s / %s", milliseconds(run.Quantile(0.5)), milliseconds(run.Quantile(0.99)))
		}
		row(label, spread(rates[name], "%.0f"), ratio, quantiles)
	}
	rate("r", "(r) ONNX Runtime alone, images/s", "")
	rate("h", "(h) HTTP alone", "")
	rate("L", "L = 1/(1/h + 1/r)", "")
	rate("a", "(a) POST /predict, no log", "L")
	rate("b", "(b) SQLite log", "L")
	rate("c", "(c) durable, synchronous=normal", "b")
	rate("c full", "(c) durable, synchronous=full", "b")
	rate("d", "(d) 640×480 JPEG, no log", "a")
	users := func(label string, background []byte) error {
		if b.Users <= 0 {
			return nil
		}
		run, err := b.withServer(ctx, setups[2], func(c *process.Server) (*load.Run, error) {
			defer b.background(ctx, c, background)()
			return load.Users(ctx, c.Address(), b.small, 100, time.Second, 4*time.Second, load.Limit{Time: b.Users})
		})
		if err != nil {
			return fmt.Errorf("%.3s: %w", label, err)
		}
		row(label, fmt.Sprintf("%.0f", run.Rate()), "",
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
	row("(f) start to first successful response, SQLite log", spread(starts, "%.0f")+" ms", "", "")
	if b.Requests > 0 {
		first, last, err := b.memory(ctx, setups[2])
		if err != nil {
			return "", fmt.Errorf("(g): %w", err)
		}
		row("(g) RSS, SQLite log", fmt.Sprintf("%.0f MB after %d requests, %.0f MB after %d", first, warmRequests, last, b.Requests), fmt.Sprintf("%.2f", last/first), "")
	}
	if file.HasCAM() {
		rate("i", "(i) with Grad-CAM explanations, no log", "a")
	}
	rate("j", "(j) with occlusion explanations, no log", "a")
	rate("k", fmt.Sprintf("(k) as (a), with %d background connections doing (j)", explainConnections), "a")
	if err := users(fmt.Sprintf("(l) as (e), with %d background connections doing (j)", explainConnections), occlusion); err != nil {
		return "", err
	}
	if err := t.Flush(); err != nil {
		return "", err
	}
	return text.String(), nil
}

func (b *bench) logf(format string, args ...any) { fmt.Fprintf(b.out, format+"\n", args...) }

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d.Microseconds())/1000) }

// spread formats the median of the values, followed by their minimum and maximum in brackets.
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

// measureRuntime runs the model without HTTP on all cores, in one single-threaded session per
// core. It returns the rate in images per second at the fastest batch size, and that size.
func (b *bench) measureRuntime(ctx context.Context) (best float64, at int, err error) {
	file, err := model.Open(b.server.Model)
	if err != nil {
		return 0, 0, err
	}
	const largest = 32
	sessions := make([]*model.Session, cmp.Or(b.server.Workers, runtime.GOMAXPROCS(0)))
	for i := range sessions {
		if sessions[i], err = file.NewSession(largest, ort.Options{Threads: 1, DenormalsAsZero: true}); err != nil {
			return 0, 0, err
		}
		defer func() { err = errors.Join(err, sessions[i].Close()) }()
		rng := rand.New(rand.NewPCG(1, uint64(i)))
		for k := range sessions[i].Input().Float32 {
			sessions[i].Input().Float32[k] = rng.Float32()
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
	// The best of several short measurements is partly luck.
	best, err = measure(at, b.Time)
	return best, at, err
}

// rate measures the requests per second.
func (b *bench) rate(ctx context.Context, s setup) (*load.Run, error) {
	return b.withServer(ctx, s, func(c *process.Server) (*load.Run, error) {
		request := s.request
		if request == nil {
			request = b.small
		}
		defer b.background(ctx, c, s.background)()
		if _, err := load.ClosedLoop(ctx, c.Address(), request, b.Connections, load.Limit{Time: b.Time / 3}); err != nil {
			return nil, err
		}
		return load.ClosedLoop(ctx, c.Address(), request, b.Connections, load.Limit{Time: b.Time})
	})
}

// background sends a request repeatedly on other connections until end is called. It does nothing
// if request is nil.
func (b *bench) background(ctx context.Context, c *process.Server, request []byte) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	if request != nil {
		// The results don't count: under full load many of these requests are rejected.
		group.Go(func() {
			_, _ = load.ClosedLoop(ctx, c.Address(), request, explainConnections, load.Limit{Time: time.Hour})
		})
	}
	return func() {
		cancel()
		group.Wait()
	}
}

// withServer starts the server, measures and stops the server.
func (b *bench) withServer(ctx context.Context, s setup, measure func(*process.Server) (*load.Run, error)) (run *load.Run, err error) {
	c, err := b.start(ctx, s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	return measure(c)
}

// coldStart returns the time from starting the server to its first successful response.
func (b *bench) coldStart(ctx context.Context, s setup) (took time.Duration, err error) {
	began := time.Now()
	_, err = b.withServer(ctx, s, func(c *process.Server) (*load.Run, error) {
		run, err := load.ClosedLoop(ctx, c.Address(), b.small, 1, load.Limit{Requests: 1})
		took = time.Since(began)
		return run, err
	})
	return took, err
}

// memory returns the resident memory in MB (10⁶ bytes) after few and after many requests.
func (b *bench) memory(ctx context.Context, s setup) (first, last float64, err error) {
	_, err = b.withServer(ctx, s, func(c *process.Server) (*load.Run, error) {
		if _, err := load.ClosedLoop(ctx, c.Address(), b.small, b.Connections, load.Limit{Requests: warmRequests}); err != nil {
			return nil, err
		}
		if first, err = resident(c); err != nil {
			return nil, err
		}
		if _, err := load.ClosedLoop(ctx, c.Address(), b.small, b.Connections, load.Limit{Requests: b.Requests - warmRequests}); err != nil {
			return nil, err
		}
		last, err = resident(c)
		return nil, err
	})
	return first, last, err
}

// start starts this program's executable as the setup specifies and waits until it listens.
func (b *bench) start(ctx context.Context, s setup) (*process.Server, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := append([]string{exe}, s.args...)
	args = append(args,
		"--model="+b.server.Model, "--addr=127.0.0.1:0",
		"--workers="+strconv.Itoa(b.server.Workers), "--max-batch="+strconv.Itoa(b.server.MaxBatch), "--queue="+strconv.Itoa(b.server.Queue))
	return process.Start(ctx, process.Command(ctx, io.Discard, args...), io.Discard)
}

// resident returns the resident memory of the server in MB.
func resident(s *process.Server) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Pid()))
	if err != nil {
		return 0, fmt.Errorf("read resident memory: %w\nhint: this works only on Linux; skip it with --requests=0", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")))
			return float64(kib) * 1024 / 1e6, err
		}
	}
	return 0, errors.New("read resident memory: no VmRSS in /proc")
}

// around returns the text of a file before and after what is between two of its lines.
func around(path, begin, end string) (before, after string, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", "", err
	}
	before, rest, found := strings.Cut(string(text), begin+"\n")
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		return "", "", fmt.Errorf("write %s: the file doesn't contain the lines %q and %q", path, begin, end)
	}
	return before, after, nil
}

// replaceBetween replaces the text between two lines of a file.
func replaceBetween(path, begin, end, text string) error {
	before, after, err := around(path, begin, end)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(before+begin+"\n\n"+text+"\n"+end+after), 0o644)
}
