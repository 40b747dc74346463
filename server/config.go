package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"

	"fakeart/internal/cli"
	"fakeart/internal/drift"
	"fakeart/internal/imaging"
	"fakeart/server/admin"
	"fakeart/server/limit"
	"fakeart/server/models"
	"fakeart/server/predlog"
	"fakeart/server/source"
)

// Config is the configuration of the server. It is set by flags, FAKEART_… variables and a YAML file,
// in this order of precedence. A key of the file is the name of a flag.
type Config struct {
	Model       []string `sep:"none" help:"Model to serve: a file exported by the trainer or made by trainer model import, a folder (its newest *.onnx), or a URL: file:///…, gs://bucket/key, s3://bucket/key?region=…. A URL that ends in / is a folder. Several models need names: repeat the flag with NAME=REF, or separate them by commas. Requests select a model by its name; the first one is the default." placeholder:"[NAME=]REF" group:"Model"`
	ModelSHA256 []string `sep:"none" name:"model-sha256" env:"FAKEART_MODEL_SHA256" help:"Expected digest of the model: sha256:… or hexadecimal. With several models, repeat it with NAME=DIGEST." placeholder:"[NAME=]DIGEST" group:"Model"`
	ModelMemory byteSize `help:"Maximum estimated memory of all models together: for each session, the weights, input and intermediate results of a batch. During a change of a model, the old and the new one count. 0 disables the limit." default:"4GiB" group:"Model"`
	ModelWatch  interval `help:"Interval at which to check for a newly published model and deploy it, at least 1s; 10s if no time is given. The server then also starts without a model and waits for the first one." placeholder:"TIME" group:"Model"`
	ModelSource []string `help:"Folder or URL prefix that PUT /models/current may load models from; repeatable. By default, all files and all buckets that need no parameters are allowed." placeholder:"PREFIX" group:"Model"`

	Addr      string `help:"Address to listen on; port 0 picks a free port. If neither this flag nor its variable is set, the variable PORT sets the address to :PORT." default:"127.0.0.1:8080" group:"Listening"`
	AdminAddr string `help:"Additional address for administration: all routes of --addr, and profiles at /debug/pprof/." placeholder:"ADDR" group:"Listening"`
	GRPCAddr  string `name:"grpc-addr" help:"Additional address for gRPC: the Open Inference Protocol, health checks and reflection. It is without TLS (h2c)." placeholder:"ADDR" group:"Listening"`

	AdminToken     []string `help:"Admin tokens, sent as bearer tokens; several allow rotation. Prefer the variable or a file, because other users can see a command line." placeholder:"TOKEN" group:"Administration"`
	AdminTokenFile string   `help:"File with admin tokens, one per line. It is read at each use, so it can be replaced while the server runs." placeholder:"FILE" group:"Administration"`

	MaxBody         byteSize      `help:"Maximum size of a request body." default:"10MiB" group:"Limits"`
	MaxHeader       byteSize      `help:"Maximum size of a request header." default:"8KiB" group:"Limits"`
	MaxImages       int           `help:"Maximum number of images per request." default:"128" group:"Limits"`
	MaxPixels       int           `help:"Maximum size of an image in pixels, width times height." default:"${max_pixels}" group:"Limits"`
	MaxMemory       byteSize      `help:"Maximum memory for large request bodies in progress, as much again for decoding large images, and as much again for the input of images that wait for a session. Requests that exceed it are rejected." default:"256MiB" group:"Limits"`
	MaxConnections  int           `help:"Maximum number of concurrent connections." default:"4096" group:"Limits"`
	MaxRequests     int           `help:"Maximum number of concurrent requests." default:"2048" group:"Limits"`
	RateLimit       int           `help:"Maximum number of requests per second and client; 0 disables the limit." default:"0" group:"Limits"`
	FeedbackLimit   int           `help:"Maximum number of feedback requests per minute and client; 0 disables the limit." default:"60" group:"Limits"`
	TrustedProxy    []string      `help:"Networks (CIDR) of proxies whose X-Forwarded-For header identifies the client; repeatable." placeholder:"CIDR" group:"Limits"`
	ReadTimeout     time.Duration `help:"Maximum time to receive a request." default:"30s" group:"Limits"`
	WriteTimeout    time.Duration `help:"Maximum time to send a response, or the next part of a streamed one." default:"30s" group:"Limits"`
	IdleTimeout     time.Duration `help:"Maximum time that a connection stays open without a request. It should exceed that of a load balancer in front, which is 600s for Google's." default:"620s" group:"Limits"`
	RequestTimeout  time.Duration `help:"Maximum time to process a request after it was received." default:"10s" group:"Limits"`
	ShutdownTimeout time.Duration `help:"Maximum time to wait, during shutdown, for requests in progress and for writing the prediction log." default:"8s" group:"Limits"`

	Workers  int `help:"Number of inference sessions, each with one thread; 0 means one per core." default:"0" group:"Inference"`
	MaxBatch int `help:"Maximum number of images that a session classifies at once." default:"8" group:"Inference"`
	Queue    int `help:"Maximum number of images that wait for a session. Requests beyond it are rejected with 503." default:"1024" group:"Inference"`

	LogStore       string        `help:"Where to log predictions: ${enum}." enum:"sqlite,pubsub,none" default:"sqlite" group:"Prediction log"`
	LogPath        string        `help:"SQLite file of the prediction log. With pubsub, the file for records that couldn't be sent yet." default:"predictions.db" group:"Prediction log"`
	LogTopic       string        `help:"Topic of the prediction log with pubsub, such as gcppubsub://projects/P/topics/T." placeholder:"URL" group:"Prediction log"`
	FeedbackTopic  string        `help:"Topic of feedback with pubsub. Without it, feedback is disabled." placeholder:"URL" group:"Prediction log"`
	LogDurable     bool          `help:"Respond to a request only after its records are stored, or with 503 if they can't be. Otherwise records are stored within a tenth of a second." default:"false" negatable:"" group:"Prediction log"`
	LogSynchronous string        `help:"Durability of stored records with sqlite: normal survives a killed process, full also a power failure." enum:"normal,full" default:"normal" group:"Prediction log"`
	LogRequired    bool          `help:"Respond to predictions with 503 while the prediction log isn't writable." default:"false" negatable:"" group:"Prediction log"`
	LogImages      bool          `help:"Include the images in the prediction log." default:"false" negatable:"" group:"Prediction log"`
	LogMaxAge      time.Duration `help:"Delete records that are older, such as 30d; 0 keeps all." default:"0" group:"Prediction log"`
	LogMaxRows     int64         `help:"Maximum number of records; the oldest ones beyond it are deleted. 0 keeps all." default:"1000000" group:"Prediction log"`

	DriftReference string        `help:"Enable drift checks of the prediction log against this file: reference.parquet of the model, or the run folder that contains it. It is read at each check, so it can be replaced together with the model." placeholder:"PATH" group:"Drift"`
	DriftEvery     time.Duration `help:"Interval between drift checks; the first one runs at startup." default:"10m" group:"Drift"`
	DriftWindow    time.Duration `help:"Age of the oldest records that a drift check includes." default:"24h" group:"Drift"`

	LogLevel   string   `help:"Minimum level of messages on standard error: ${enum}. At debug every request is logged, at info a sample." enum:"debug,info,warn,error" default:"info" group:"Messages"`
	LogFormat  string   `help:"Format of messages on standard error: ${enum}. JSON uses the field names of Cloud Logging; auto means text on a terminal and JSON elsewhere." enum:"auto,json,text" default:"auto" group:"Messages"`
	UI         bool     `name:"ui" help:"Serve the web page at /." default:"true" negatable:"" group:"Listening"`
	CORSOrigin []string `name:"cors-origin" help:"Origin whose web pages may use the API; repeatable; * allows every origin. It never allows admin routes." placeholder:"ORIGIN" group:"Listening"`
}

// interval is a duration that may be omitted: --model-watch alone means every 10 seconds.
type interval time.Duration

const (
	defaultInterval = interval(10 * time.Second)
	// minWatch keeps a watched folder or bucket from being listed without pause.
	minWatch = interval(time.Second)
)

// Decode implements kong.MapperValue. It consumes the next argument only if that is a duration.
func (i *interval) Decode(ctx *kong.DecodeContext) error {
	token := ctx.Scan.Peek()
	text := fmt.Sprint(token.Value)
	explicit := token.Type == kong.FlagValueToken // given with =, by a variable or by the file
	d, err := cli.ParseDuration(text)
	switch {
	case err == nil:
		ctx.Scan.Pop()
		*i = interval(d)
	case !explicit || text == "true":
		if explicit {
			ctx.Scan.Pop()
		}
		*i = defaultInterval
	case text == "false":
		ctx.Scan.Pop()
		*i = 0
	default:
		return err
	}
	return nil
}

func (i interval) String() string { return time.Duration(i).String() }

// byteSize is a size in bytes, which can be set with a unit: 10MB or 10MiB.
type byteSize int

// Decode implements kong.MapperValue.
func (s *byteSize) Decode(ctx *kong.DecodeContext) error {
	token, err := ctx.Scan.PopValue("size")
	if err != nil {
		return err
	}
	n, err := cli.ParseSize(fmt.Sprint(token.Value))
	if err == nil && n != int64(int(n)) {
		err = fmt.Errorf("size %v is too large", token.Value)
	}
	*s = byteSize(n)
	return err
}

// decodeDuration is a kong.Mapper for durations.
func decodeDuration(ctx *kong.DecodeContext, target reflect.Value) error {
	token, err := ctx.Scan.PopValue("duration")
	if err != nil {
		return err
	}
	d, err := cli.ParseDuration(fmt.Sprint(token.Value))
	target.SetInt(int64(d))
	return err
}

// decodeInteger is a kong.Mapper for integers.
func decodeInteger(ctx *kong.DecodeContext, target reflect.Value) error {
	token, err := ctx.Scan.PopValue("number")
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(fmt.Sprint(token.Value), 10, target.Type().Bits())
	switch {
	case errors.Is(err, strconv.ErrRange):
		return fmt.Errorf("number %v is out of range", token.Value)
	case err != nil:
		return fmt.Errorf("invalid number %q\n"+cli.HintPrefix+"use a whole number, such as 8", fmt.Sprint(token.Value))
	}
	target.SetInt(n)
	return nil
}

// The largest values of flags. Larger ones would overflow, or allocate memory before it is needed.
const (
	maxMaxBatch   = 256
	maxWorkers    = 1024
	maxQueue      = 1 << 20
	maxConcurrent = 1 << 20 // connections and requests
	maxHeader     = 1 << 20 // the server allocates it for each connection
	maxBytes      = 1 << 40
	maxMaxPixels  = 1 << 32
	maxTime       = 100 * 365 * 24 * time.Hour
)

// Validate returns an error that lists all invalid values. It constructs what they configure where
// that takes neither files nor the network; see check for the others. kong calls it after parsing.
func (c *Config) Validate() error {
	var errs []error
	invalid := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, n := range []struct {
		flag             string
		value            int64
		minimum, maximum int64
		hint             string
	}{
		{"max-body", int64(c.MaxBody), 1, maxBytes, ""},
		{"max-header", int64(c.MaxHeader), 1024, maxHeader, ""},
		{"max-images", int64(c.MaxImages), 1, maxQueue, ""},
		{"max-pixels", int64(c.MaxPixels), 1, maxMaxPixels, ""},
		{"max-memory", int64(c.MaxMemory), 1, maxBytes, ""},
		{"model-memory", int64(c.ModelMemory), 0, maxBytes, ""},
		{"max-connections", int64(c.MaxConnections), 1, maxConcurrent, ""},
		{"max-requests", int64(c.MaxRequests), 1, maxConcurrent, ""},
		{"rate-limit", int64(c.RateLimit), 0, math.MaxInt32, ""},
		{"feedback-limit", int64(c.FeedbackLimit), 0, math.MaxInt32, ""},
		{"workers", int64(c.Workers), 0, maxWorkers, ""},
		{"max-batch", int64(c.MaxBatch), 1, maxMaxBatch, "\n" + cli.HintPrefix + "values above 8 only increase latency"},
		{"queue", int64(c.Queue), 1, maxQueue, ""},
		{"log-max-rows", c.LogMaxRows, 0, math.MaxInt64, ""},
	} {
		if n.value < n.minimum {
			invalid("--%s=%d: must be at least %d", n.flag, n.value, n.minimum)
		}
		if n.value > n.maximum {
			invalid("--%s=%d: must be at most %d%s", n.flag, n.value, n.maximum, n.hint)
		}
	}
	for _, d := range []struct {
		flag    string
		value   time.Duration
		minimum time.Duration
	}{
		{"read-timeout", c.ReadTimeout, time.Millisecond},
		{"write-timeout", c.WriteTimeout, time.Millisecond},
		{"idle-timeout", c.IdleTimeout, time.Millisecond},
		{"request-timeout", c.RequestTimeout, time.Millisecond},
		{"shutdown-timeout", c.ShutdownTimeout, 0},
		{"log-max-age", c.LogMaxAge, 0},
		{"drift-every", c.DriftEvery, time.Second},
		{"drift-window", c.DriftWindow, time.Second},
		{"model-watch", time.Duration(c.ModelWatch), 0},
	} {
		if d.value < d.minimum {
			invalid("--%s=%s: must be at least %s", d.flag, d.value, d.minimum)
		}
		if d.value > maxTime {
			invalid("--%s=%s: must be at most %s", d.flag, d.value, "36500d")
		}
	}
	if c.ModelWatch > 0 && c.ModelWatch < minWatch {
		invalid("--model-watch=%s: must be at least %s, or 0 to watch nothing", c.ModelWatch, minWatch)
	}
	if c.MaxImages > c.Queue {
		invalid("--max-images=%d: must not exceed the size of the queue (--queue=%d)", c.MaxImages, c.Queue)
	}
	if c.ModelWatch > 0 && len(c.ModelSHA256) > 0 {
		invalid("--model-watch can't be used with --model-sha256, because a newer model has another digest\n" + cli.HintPrefix + "remove one of the two flags")
	}
	refs, err := models.ParseRefs(c.Model, c.ModelSHA256)
	errs = append(errs, err)
	for _, r := range refs {
		if r.URL != "" {
			if from, err := source.Open(context.Background(), r.URL, source.Options{}); err != nil {
				invalid("--model: %w", err)
			} else {
				errs = append(errs, from.Close())
			}
		}
		if err := source.CheckDigest(r.Digest); err != nil {
			invalid("--model-sha256: %w", err)
		}
	}
	if _, err := source.ParseAllowlist(c.ModelSource); err != nil {
		invalid("--model-source: %w", err)
	}
	for _, flag := range []struct{ name, topic string }{{"log-topic", c.LogTopic}, {"feedback-topic", c.FeedbackTopic}} {
		if err := predlog.CheckTopic(flag.topic); flag.topic != "" && err != nil {
			invalid("--%s: %w", flag.name, err)
		}
	}
	_, err = limit.NewClients(c.TrustedProxy)
	errs = append(errs, err)
	_, err = newCORS(c.CORSOrigin)
	errs = append(errs, err)
	if err := admin.CheckSyntax(c.tokens()); err != nil {
		invalid("--admin-token: %w", err)
	}
	if c.LogStore == "pubsub" && c.LogTopic == "" {
		invalid("--log-store=pubsub requires --log-topic\n" + cli.HintPrefix + "set it to the URL of the topic, such as gcppubsub://projects/P/topics/T")
	}
	if c.LogStore != "pubsub" && c.LogTopic != "" {
		invalid("--log-topic requires --log-store=pubsub, not %s", c.LogStore)
	}
	if c.LogStore != "pubsub" && c.FeedbackTopic != "" {
		invalid("--feedback-topic requires --log-store=pubsub, not %s", c.LogStore)
	}
	if c.LogStore != "none" && c.LogPath == "" {
		invalid("--log-path is empty\n" + cli.HintPrefix + "set it to a file, or disable the prediction log with --log-store=none")
	}
	if c.LogStore != "sqlite" && c.DriftReference != "" {
		invalid("--drift-reference requires --log-store=sqlite, not %s, because drift checks read the prediction log", c.LogStore)
	}
	if c.LogStore == "none" && (c.LogDurable || c.LogRequired) {
		invalid("--log-store=none can't be used with --log-durable or --log-required")
	}
	return errors.Join(errs...)
}

// check returns an error if an address or a file that the configuration names can't be used. Unlike
// the result of Validate, that of check depends on the machine.
func (c *Config) check() error {
	_, err := admin.New(c.tokens(), c.AdminTokenFile)
	errs := []error{err, checkAddr("--addr", c.Addr)}
	if c.AdminAddr != "" {
		errs = append(errs, checkAddr("--admin-addr", c.AdminAddr))
	}
	if c.GRPCAddr != "" {
		errs = append(errs, checkAddr("--grpc-addr", c.GRPCAddr))
	}
	if c.DriftReference != "" && c.ModelWatch == 0 { // a watched reference is published with the model
		if _, err := drift.ReadReference(c.DriftReference); err != nil {
			errs = append(errs, fmt.Errorf("--drift-reference: %w", err))
		}
	}
	return errors.Join(errs...)
}

// checkAddr returns an error if addr isn't an address to listen on. It doesn't resolve the host.
func checkAddr(flag, addr string) error {
	_, port, err := net.SplitHostPort(addr)
	reason := ""
	switch {
	case err != nil:
		reason = "missing port"
		if e, ok := errors.AsType[*net.AddrError](err); ok && e.Err != "missing port in address" {
			reason = e.Err
		}
	case port == "":
		reason = "missing port"
	default:
		if _, err := net.DefaultResolver.LookupPort(context.Background(), "tcp", port); err != nil {
			reason = fmt.Sprintf("invalid port %q", port)
		}
	}
	if reason == "" {
		return nil
	}
	return fmt.Errorf("listen on %s: %s\n"+cli.HintPrefix+"set %s to HOST:PORT, such as 127.0.0.1:8080", addr, reason, flag)
}

// model returns the source of the default model, or an empty string if none is set.
func (c *Config) model() string {
	if refs, _ := models.ParseRefs(c.Model, nil); len(refs) > 0 { // Validate has checked them
		return refs[0].URL
	}
	return ""
}

// workers returns the number of inference sessions.
func (c *Config) workers() int { return cmp.Or(c.Workers, runtime.GOMAXPROCS(0)) }

// tokens returns the tokens of --admin-token. In a variable they are separated by commas or white
// space.
func (c *Config) tokens() []string {
	var tokens []string
	for _, t := range c.AdminToken {
		tokens = append(tokens, strings.FieldsFunc(t, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' || r == '\r' })...)
	}
	return tokens
}

// applyPort sets the address to the variable PORT, with which platforms such as Cloud Run specify the
// port, unless the address was set by flag or variable. PORT takes precedence over the address in a
// file, as all variables do.
func (c *Config) applyPort(addrSet bool) error {
	port := os.Getenv("PORT")
	if addrSet || port == "" {
		return nil
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("invalid port in the variable PORT=%q\n"+cli.HintPrefix+"set it to a number from 0 to 65535, or unset it", port)
	}
	c.Addr = ":" + port
	return nil
}

// fileResolver is a kong.Resolver for a YAML file whose keys are names of flags.
type fileResolver struct {
	path   string
	values map[string]yaml.Node // unparsed, because 1e10 may be a token
}

// newFileResolver reads the file.
func newFileResolver(path string) (*fileResolver, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	r := &fileResolver{path: path}
	documents := yaml.NewDecoder(bytes.NewReader(text))
	if err := documents.Decode(&r.values); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read configuration %s: invalid YAML: %s\n"+cli.HintPrefix+"write one flag per line, as in addr: 127.0.0.1:8080", path, yamlMessage(err))
	}
	if err := documents.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read configuration %s: the file contains several YAML documents\n"+cli.HintPrefix+"remove the lines that consist of ---", path)
	}
	return r, nil
}

// keyTwice matches package yaml's message for a duplicate key.
var keyTwice = regexp.MustCompile(`(line \d+): mapping key (".*") already defined at (line \d+)`)

// yamlMessage returns the message of an error of package yaml in terms of the file.
func yamlMessage(err error) string {
	if match := keyTwice.FindStringSubmatch(err.Error()); match != nil {
		return fmt.Sprintf("%s is set in %s and again in %s", match[2], match[3], match[1])
	}
	if errors.As(err, new(*yaml.TypeError)) {
		return "it isn't a map of flags to values"
	}
	return strings.TrimPrefix(err.Error(), "yaml: ")
}

// Validate returns an error for a key that isn't a flag, with the most similar flag as a hint.
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
		return fmt.Errorf("configuration %s: unknown key %q\n"+cli.HintPrefix+"did you mean %s?", r.path, key, nearest)
	}
	return nil
}

// Resolve returns the file's value of a flag, or nil if the file doesn't set it or a variable
// overrides it.
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
	value := &node
	if node.Kind == yaml.AliasNode {
		value = node.Alias
	}
	if text, ok := scalar(value); ok {
		return text, nil
	}
	if value.Kind == yaml.SequenceNode && flag.IsSlice() {
		texts := make([]any, len(value.Content)) // the type that kong expects
		for i, e := range value.Content {
			text, ok := scalar(e)
			if !ok {
				return nil, fmt.Errorf("configuration %s: %s: line %d must be a value", r.path, flag.Name, e.Line)
			}
			texts[i] = text
		}
		return texts, nil
	}
	if flag.IsSlice() {
		return nil, fmt.Errorf("configuration %s: %s must be a value or a list, not a map", r.path, flag.Name)
	}
	return nil, fmt.Errorf("configuration %s: %s must be a value, not a map or a list", r.path, flag.Name)
}

// scalar returns the text of a node, or false if it has none: a list, a map or null.
func scalar(node *yaml.Node) (text string, ok bool) {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node.Value, node.Kind == yaml.ScalarNode && node.Tag != "!!null"
}

// print returns the configuration as a file for --config, with secrets masked.
func (c *Config) print() (string, error) {
	masked := *c
	masked.AdminToken = nil
	for range c.tokens() {
		masked.AdminToken = append(masked.AdminToken, "********")
	}
	for _, ref := range []*string{&masked.LogTopic, &masked.FeedbackTopic} {
		*ref = redacted(*ref)
	}
	masked.Model = nil
	refs, err := models.ParseRefs(c.Model, nil)
	if err != nil {
		return "", err
	}
	for _, r := range refs {
		if len(refs) == 1 && r.Name == models.DefaultName {
			masked.Model = append(masked.Model, redacted(r.URL))
		} else {
			masked.Model = append(masked.Model, r.Name+"="+redacted(r.URL))
		}
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

// flagName returns the name of the flag for a field of Config, as kong derives it.
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

// redacted masks the user and the secret parameters of a URL. Other text is returned unchanged.
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
