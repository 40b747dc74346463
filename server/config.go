package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"

	"fakeart/internal/imaging"
)

// Config is what a user decides, with flags, FAKEART_… variables or a YAML file, in
// that order of precedence. A key of the file is the name of a flag.
type Config struct {
	Model       string   `help:"Model to serve: a file that the trainer exported, a folder (its newest *.onnx), or a URL: file:///…, gs://bucket/key, s3://bucket/key?region=…; one that ends in / is a folder." placeholder:"REF" group:"Model"`
	ModelSHA256 string   `name:"model-sha256" env:"FAKEART_MODEL_SHA256" help:"Digest that the model must have, sha256:… or hexadecimal." placeholder:"DIGEST" group:"Model"`
	ModelWatch  interval `help:"Interval at which to check for a newly published model and deploy it; 10s if no time is given. The server then also starts without a model and waits for the first." placeholder:"TIME" group:"Model"`
	ModelSource []string `help:"Folder or URL prefix from which PUT /models/current may load; repeatable. Without any, from every file, and every bucket that needs no parameters." placeholder:"PREFIX" group:"Model"`

	Addr      string `help:"Address to listen on; port 0 takes a free one. Unless it is given, the variable PORT means :PORT." default:"127.0.0.1:8080" group:"Listening"`
	AdminAddr string `help:"Second address, for the administrator: all routes that are, /metrics, and profiles at /debug/pprof/." placeholder:"ADDR" group:"Listening"`

	AdminToken     []string `help:"Bearer tokens of administrators, for rotation several. Better as a variable or a file: a command line is seen by others." placeholder:"TOKEN" group:"Administration"`
	AdminTokenFile string   `help:"File with such tokens, one a line; it is read at each use, so that it can be replaced." placeholder:"FILE" group:"Administration"`

	MaxBody         int           `help:"Largest request body in bytes." default:"10485760" group:"Limits"`
	MaxHeader       int           `help:"Largest request header in bytes." default:"8192" group:"Limits"`
	MaxImages       int           `help:"Most pictures in a request." default:"128" group:"Limits"`
	MaxPixels       int           `help:"Largest picture in pixels, width times height." default:"${max_pixels}" group:"Limits"`
	MaxMemory       int           `help:"Most bytes that large bodies, and as many again that large pictures, may take at once; what does not fit is refused." default:"268435456" group:"Limits"`
	MaxConnections  int           `help:"Most connections at once." default:"4096" group:"Limits"`
	MaxRequests     int           `help:"Most requests worked on at once." default:"2048" group:"Limits"`
	RateLimit       int           `help:"Requests a second that one client may make; 0 does not limit." default:"0" group:"Limits"`
	FeedbackLimit   int           `help:"Feedbacks a minute that one client may give; 0 does not limit." default:"60" group:"Limits"`
	TrustedProxy    []string      `help:"Networks (CIDR) of proxies whose X-Forwarded-For says who the client is; repeatable." placeholder:"CIDR" group:"Limits"`
	ReadTimeout     time.Duration `help:"How long a client may take to send a request." default:"30s" group:"Limits"`
	WriteTimeout    time.Duration `help:"How long a client may take to receive an answer, or the next part of a long one." default:"30s" group:"Limits"`
	IdleTimeout     time.Duration `help:"How long a connection may stay without a request." default:"2m" group:"Limits"`
	RequestTimeout  time.Duration `help:"How long a request may take once it has been received." default:"10s" group:"Limits"`
	ShutdownTimeout time.Duration `help:"How long to wait, when told to stop, for requests that have begun and for the log." default:"8s" group:"Limits"`

	Workers  int `help:"Inference sessions, each on one thread; 0 takes one a core." default:"0" group:"Inference"`
	MaxBatch int `help:"Most pictures that a session judges at once." default:"8" group:"Inference"`
	Queue    int `help:"Most pictures that may wait for a session; beyond it requests get 503." default:"1024" group:"Inference"`

	LogStore       string        `help:"Where predictions are logged: ${enum}." enum:"sqlite,pubsub,none" default:"sqlite" group:"Prediction log"`
	LogPath        string        `help:"SQLite file of the log; with pubsub, where records wait that could not be sent." default:"predictions.db" group:"Prediction log"`
	LogTopic       string        `help:"Topic of the log with pubsub, such as gcppubsub://projects/P/topics/T." placeholder:"URL" group:"Prediction log"`
	FeedbackTopic  string        `help:"Topic of feedback with pubsub; without one none is kept." placeholder:"URL" group:"Prediction log"`
	LogDurable     bool          `help:"Answer a request only once its records are stored, and with 503 when they cannot be. Otherwise they are stored within a tenth of a second." default:"false" negatable:"" group:"Prediction log"`
	LogSynchronous string        `help:"What stored means with sqlite: normal survives a killed process, full a power cut as well." enum:"normal,full" default:"normal" group:"Prediction log"`
	LogRequired    bool          `help:"Answer predictions with 503 while the log cannot be written." default:"false" negatable:"" group:"Prediction log"`
	LogImages      bool          `help:"Log the pictures themselves, too." default:"false" negatable:"" group:"Prediction log"`
	LogMaxAge      time.Duration `help:"Delete records that are older; 0 keeps them." default:"0" group:"Prediction log"`
	LogMaxRows     int64         `help:"Delete the oldest records beyond so many; 0 keeps them." default:"1000000" group:"Prediction log"`

	DriftReference string        `help:"reference.parquet of the model, or the run folder with it: look for drift of the log from it. It is read anew each time, so that it can be replaced with the model." placeholder:"PATH" group:"Drift"`
	DriftEvery     time.Duration `help:"How often to look for drift." default:"10m" group:"Drift"`
	DriftWindow    time.Duration `help:"How far back to look." default:"24h" group:"Drift"`

	LogLevel   string   `help:"What the program says on standard error: ${enum}. At debug each request has a line, at info a sample." enum:"debug,info,warn,error" default:"info" group:"Messages"`
	LogFormat  string   `help:"How it says it: ${enum}. JSON is in Cloud Logging's shape; auto is text on a terminal, JSON elsewhere." enum:"auto,json,text" default:"auto" group:"Messages"`
	UI         bool     `name:"ui" help:"Answer at / with a web page." default:"true" negatable:"" group:"Listening"`
	CORSOrigin []string `name:"cors-origin" help:"Origin whose web pages may use the API; repeatable; * is every one. Administration stays closed to them." placeholder:"ORIGIN" group:"Listening"`
}

// interval is a time that may be left out: --model-watch alone means every 10 seconds.
type interval time.Duration

const defaultInterval = interval(10 * time.Second)

// Decode reads the flag's value, if the next argument is one.
func (i *interval) Decode(ctx *kong.DecodeContext) error {
	token := ctx.Scan.Peek()
	text := fmt.Sprint(token.Value)
	own := token.Type == kong.FlagValueToken // given with =, by a variable, or by the file
	d, err := time.ParseDuration(text)
	switch {
	case err == nil:
		ctx.Scan.Pop()
		*i = interval(d)
	case !own || text == "true":
		if own {
			ctx.Scan.Pop()
		}
		*i = defaultInterval
	case text == "false":
		ctx.Scan.Pop()
		*i = 0
	default:
		return fmt.Errorf("%q is no time such as 10s", text)
	}
	return nil
}

func (i interval) String() string { return time.Duration(i).String() }

// Validate reports everything that is wrong with the values, and how to mend it.
// kong calls it once they are read.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, n := range []struct {
		flag  string
		value int64
		least int64
	}{
		{"max-body", int64(c.MaxBody), 1},
		{"max-header", int64(c.MaxHeader), 1024},
		{"max-images", int64(c.MaxImages), 1},
		{"max-pixels", int64(c.MaxPixels), 1},
		{"max-memory", int64(c.MaxMemory), 1},
		{"max-connections", int64(c.MaxConnections), 1},
		{"max-requests", int64(c.MaxRequests), 1},
		{"rate-limit", int64(c.RateLimit), 0},
		{"feedback-limit", int64(c.FeedbackLimit), 0},
		{"workers", int64(c.Workers), 0},
		{"max-batch", int64(c.MaxBatch), 1},
		{"queue", int64(c.Queue), 1},
		{"log-max-rows", c.LogMaxRows, 0},
	} {
		if n.value < n.least {
			bad("--%s=%d: need at least %d", n.flag, n.value, n.least)
		}
	}
	if c.MaxBatch > maxMaxBatch {
		bad("--max-batch=%d: at most %d; more than 8 only makes answers later", c.MaxBatch, maxMaxBatch)
	}
	if c.Workers > maxWorkers {
		bad("--workers=%d: at most %d", c.Workers, maxWorkers)
	}
	for _, d := range []struct {
		flag  string
		value time.Duration
		least time.Duration
	}{
		{"model-watch", time.Duration(c.ModelWatch), 0},
		{"read-timeout", c.ReadTimeout, time.Millisecond},
		{"write-timeout", c.WriteTimeout, time.Millisecond},
		{"idle-timeout", c.IdleTimeout, time.Millisecond},
		{"request-timeout", c.RequestTimeout, time.Millisecond},
		{"shutdown-timeout", c.ShutdownTimeout, 0},
		{"log-max-age", c.LogMaxAge, 0},
		{"drift-every", c.DriftEvery, time.Second},
		{"drift-window", c.DriftWindow, time.Second},
	} {
		if d.value < d.least {
			bad("--%s=%s: need at least %s", d.flag, d.value, d.least)
		}
	}
	if c.MaxImages > c.Queue {
		bad("--max-images=%d: is more than fit into the queue (--queue=%d)", c.MaxImages, c.Queue)
	}
	if c.ModelWatch > 0 && c.ModelSHA256 != "" {
		bad("--model-watch with --model-sha256: no newer model can have that digest; leave one of them out")
	}
	for _, cidr := range c.TrustedProxy {
		if _, err := netip.ParsePrefix(cidr); err != nil {
			bad("--trusted-proxy=%s: is no network such as 10.0.0.0/8", cidr)
		}
	}
	for _, origin := range c.CORSOrigin {
		if u, err := url.Parse(origin); origin != "*" && (err != nil || u.Scheme == "" || u.Host == "" || u.Path != "") {
			bad("--cors-origin=%s: is no origin such as https://example.org", origin)
		}
	}
	for _, token := range c.tokens() {
		if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			bad("--admin-token: a token has characters that no HTTP header can carry")
		}
	}
	if c.LogStore == "pubsub" && c.LogTopic == "" {
		bad("--log-store=pubsub: needs the topic's URL in --log-topic")
	}
	if c.LogStore != "pubsub" && c.LogTopic != "" {
		bad("--log-topic: goes with --log-store=pubsub, not %s", c.LogStore)
	}
	if c.LogStore != "pubsub" && c.FeedbackTopic != "" {
		bad("--feedback-topic: goes with --log-store=pubsub, not %s", c.LogStore)
	}
	if c.LogStore != "none" && c.LogPath == "" {
		bad("--log-path: is empty; name a file, or turn the log off with --log-store=none")
	}
	if c.LogStore != "sqlite" && c.DriftReference != "" {
		bad("--drift-reference: the log is looked at, which can only be read with --log-store=sqlite, not %s", c.LogStore)
	}
	if c.LogStore == "none" && (c.LogDurable || c.LogRequired) {
		bad("--log-store=none: stores nothing, which --log-durable and --log-required ask for")
	}
	return errors.Join(errs...)
}

const (
	maxMaxBatch = 256
	maxWorkers  = 1024
)

// workers is the number of inference sessions.
func (c *Config) workers() int { return cmp.Or(c.Workers, runtime.GOMAXPROCS(0)) }

// tokens are the administrators' tokens that were given as such. In a variable
// they are separated by commas or white space.
func (c *Config) tokens() []string {
	var tokens []string
	for _, t := range c.AdminToken {
		tokens = append(tokens, strings.FieldsFunc(t, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' || r == '\r' })...)
	}
	return tokens
}

// applyPort heeds the variable PORT, with which Cloud Run and others say where to
// listen, unless the address was given by flag or variable. A file's address gives
// way: what an environment says goes before what was written down.
func (c *Config) applyPort(given bool) error {
	port := os.Getenv("PORT")
	if given || port == "" {
		return nil
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("the variable PORT=%q is no port", port)
	}
	c.Addr = ":" + port
	return nil
}

// fileResolver takes values from a YAML file whose keys are names of flags.
type fileResolver struct {
	path   string
	values map[string]yaml.Node // as they are written: 1e10 may be a token
}

// newFileResolver reads the file.
func newFileResolver(path string) (*fileResolver, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	r := &fileResolver{path: path}
	if err := yaml.Unmarshal(text, &r.values); err != nil {
		return nil, fmt.Errorf("read configuration %s: %w; write lines such as `addr: 127.0.0.1:8080`", path, err)
	}
	return r, nil
}

// Validate refuses keys that are no flags, with the nearest one that is.
func (r *fileResolver) Validate(app *kong.Application) error {
	known := map[string]bool{}
	for _, group := range app.AllFlags(true) {
		for _, f := range group {
			known[f.Name] = true
		}
	}
	for _, command := range app.Leaves(false) {
		for _, f := range command.Flags {
			known[f.Name] = true
		}
	}
	delete(known, "config")
	delete(known, "help")
	delete(known, "version")
	for _, key := range slices.Sorted(maps.Keys(r.values)) {
		if known[key] {
			continue
		}
		nearest := slices.MinFunc(slices.Sorted(maps.Keys(known)), func(a, b string) int {
			return cmp.Compare(levenshtein.ComputeDistance(key, a), levenshtein.ComputeDistance(key, b))
		})
		return fmt.Errorf("configuration %s: unknown key %q; did you mean %s?", r.path, key, nearest)
	}
	return nil
}

// Resolve gives the file's value of a flag, or nil. A variable goes before it.
func (r *fileResolver) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	node, ok := r.values[flag.Name]
	if !ok || node.Tag == "!!null" {
		return nil, nil
	}
	for _, name := range flag.Envs {
		if _, set := os.LookupEnv(name); set {
			return nil, nil
		}
	}
	switch node.Kind {
	case yaml.ScalarNode:
		return node.Value, nil
	case yaml.SequenceNode:
		texts := make([]string, len(node.Content))
		for i, e := range node.Content {
			texts[i] = strings.ReplaceAll(e.Value, ",", `\,`)
		}
		return strings.Join(texts, ","), nil
	}
	return nil, fmt.Errorf("configuration %s: %s: want a value, not a map", r.path, flag.Name)
}

// print writes the values in force as such a file, secrets masked.
func (c *Config) print() (string, error) {
	masked := *c
	masked.AdminToken = nil
	for range c.tokens() {
		masked.AdminToken = append(masked.AdminToken, "********")
	}
	for _, ref := range []*string{&masked.Model, &masked.LogTopic, &masked.FeedbackTopic} {
		*ref = redacted(*ref)
	}
	node := &yaml.Node{Kind: yaml.MappingNode}
	value, kind := reflect.ValueOf(masked), reflect.TypeFor[Config]()
	for i := range kind.NumField() {
		v := value.Field(i).Interface()
		if s, ok := v.(fmt.Stringer); ok {
			v = s.String()
		}
		var key, content yaml.Node
		key.SetString(flagName(kind.Field(i)))
		if err := content.Encode(v); err != nil {
			return "", err
		}
		node.Content = append(node.Content, &key, &content)
	}
	text, err := yaml.Marshal(node)
	return string(text), err
}

// flagName is the name of the flag of a field of Config, as kong derives it.
func flagName(f reflect.StructField) string {
	if name := f.Tag.Get("name"); name != "" {
		return name
	}
	var name strings.Builder
	for i, r := range f.Name {
		if i > 0 && 'A' <= r && r <= 'Z' {
			name.WriteByte('-')
		}
		name.WriteRune(r)
	}
	return strings.ToLower(name.String())
}

// redacted leaves out what a URL may carry as a secret.
func redacted(ref string) string {
	u, err := url.Parse(ref)
	if err != nil || u.Scheme == "" {
		return ref
	}
	if u.User != nil {
		u.User = url.User("********")
	}
	query := u.Query()
	for key := range query {
		if lower := strings.ToLower(key); strings.Contains(lower, "secret") || strings.Contains(lower, "token") || strings.Contains(lower, "password") {
			query.Set(key, "********")
		}
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// maxPixels is the default of --max-pixels.
const maxPixels = imaging.DefaultMaxPixels
