// Package ort finds and loads the ONNX Runtime library and opens sessions on it.
// Trainer and server both go through it, so that where the library comes from,
// how old it may be and how a session is set up are each decided in one place.
package ort

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"sync"

	ortgo "github.com/yalue/onnxruntime_go"
)

// minAPIVersion is the ORT_API_VERSION of the C header that the Go binding is
// compiled against; ONNX Runtime 1.N offers the API versions 1 to N.
const minAPIVersion = 24

// The library belongs to the process, whoever asks for it.
var (
	initMu      sync.Mutex
	initialized bool
)

// Init finds and loads the ONNX Runtime library. Calls after a successful one do
// nothing; after a failed one the next call tries again. It is safe for
// concurrent use. The error names the file that was looked for or is unfit, and
// the command that brings the right one.
func Init() error {
	initMu.Lock()
	defer initMu.Unlock()
	if initialized {
		return nil
	}
	path, err := Find()
	if err != nil {
		return err
	}
	// The binding would load an unfit library too, and then fail with a bare
	// number, or on a version string that is no longer there: check first.
	if err := check(path); err != nil {
		return err
	}
	ortgo.SetSharedLibraryPath(path)
	// ONNX Runtime logs a failure that it also returns. The caller reports it, once.
	if err := ortgo.InitializeEnvironment(ortgo.WithLogLevelFatal()); err != nil {
		return fmt.Errorf("load ONNX Runtime library %s: %w", path, err)
	}
	if err := ortgo.DisableTelemetry(); err != nil {
		return fmt.Errorf("load ONNX Runtime library %s: turn telemetry off: %w", path, err)
	}
	initialized = true
	return nil
}

// Version returns the version of the loaded library, such as "1.27.0", and the
// empty string before the first successful Init.
func Version() string {
	initMu.Lock()
	defer initMu.Unlock()
	if !initialized {
		return ""
	}
	return ortgo.GetVersion()
}

// check loads the library at path and reports whether this program can use it.
// A library that it can use stays loaded.
func check(path string) error {
	lib, err := load(path)
	if err != nil {
		return fmt.Errorf("load ONNX Runtime library %s: %w; %s", path, err, replacement())
	}
	// The version first: asked for an API it has not, the library also prints a
	// line of its own. A build with another numbering has to be asked.
	api, known := apiVersion(lib.version)
	if known && api >= minAPIVersion || !known && lib.offersAPI(minAPIVersion) {
		return nil
	}
	version := lib.version
	lib.unload()
	return fmt.Errorf("load ONNX Runtime library %s: version %q is too old, 1.%d or newer is needed; %s",
		path, version, minAPIVersion, replacement())
}

// replacement says how to get another library in place of an unfit one.
func replacement() string {
	if os.Getenv(LibraryPathVariable) != "" {
		return fmt.Sprintf("%s names it: set that to another, or unset it and run `%s` in the checkout of fakeart", LibraryPathVariable, installCommand)
	}
	return fmt.Sprintf("run `%s` in the checkout of fakeart, or set %s to another", installCommand, LibraryPathVariable)
}

var releaseNumber = regexp.MustCompile(`^1\.(\d{1,6})(\.|$)`)

// apiVersion tells the newest API version of ONNX Runtime 1.N.x, which is N.
func apiVersion(version string) (int, bool) {
	m := releaseNumber.FindStringSubmatch(version)
	if m == nil {
		return 0, false
	}
	n, err := strconv.Atoi(m[1])
	return n, err == nil
}

// Options says how a session runs. The zero value is a session on all cores
// whose threads sleep while there is no work.
type Options struct {
	// Threads is the number of threads that share the work of one operator,
	// the calling one included; 0 means as many as Go may use (GOMAXPROCS, which
	// heeds a container's limit).
	Threads int
	// Spin lets threads wait actively for the next operator: faster for a process
	// that has the cores to itself, wasteful for any other.
	Spin bool
	// DenormalsAsZero treats numbers below 1.2e-38 as zero, in the session's
	// threads and in the calling one: arithmetic on them is many times slower.
	DenormalsAsZero bool
	// ProfilePrefix, when not empty, asks for a profile in Chrome's trace format,
	// written to <prefix>_<time>.json by Close.
	ProfilePrefix string
}

// Binding ties a tensor to the graph's input or output of that name. The tensor
// stays the caller's: it must live as long as the session, and is the caller's
// to destroy.
type Binding struct {
	Name  string
	Value ortgo.Value
}

// Session is a graph ready to run on the tensors it was made with. Run and Close
// must not be called at the same time.
type Session struct {
	session *ortgo.AdvancedSession
	// The binding hands ONNX Runtime bare pointers; these keep what they point to.
	in, out []Binding
}

// prepare loads the library if need be and makes the options of a session on the
// model; the caller destroys them.
func prepare(model []byte, o Options) (*ortgo.SessionOptions, error) {
	if err := Init(); err != nil {
		return nil, err
	}
	if len(model) == 0 {
		return nil, errors.New("open ONNX session: the model is empty")
	}
	options, err := o.sessionOptions()
	if err != nil {
		return nil, fmt.Errorf("open ONNX session: %w", err)
	}
	return options, nil
}

// NewSession loads the library if need be and prepares the ONNX model for
// repeated runs on the given tensors. model may be changed afterwards. The caller
// closes the session.
func NewSession(model []byte, in, out []Binding, o Options) (*Session, error) {
	if len(in) == 0 || len(out) == 0 {
		return nil, fmt.Errorf("open ONNX session: %d inputs and %d outputs bound, need at least one each", len(in), len(out))
	}
	options, err := prepare(model, o)
	if err != nil {
		return nil, err
	}
	defer func() { _ = options.Destroy() }()
	inNames, inValues := split(in)
	outNames, outValues := split(out)
	s, err := ortgo.NewAdvancedSessionWithONNXData(model, inNames, outNames, inValues, outValues, options)
	if err != nil {
		return nil, fmt.Errorf("open ONNX session: %w", err)
	}
	return &Session{session: s, in: in, out: out}, nil
}

// Run computes the outputs from what the input tensors hold now.
func (s *Session) Run() error {
	if s.session == nil {
		return errors.New("run ONNX session: it is closed")
	}
	if err := s.session.Run(); err != nil {
		return fmt.Errorf("run ONNX session: %w", err)
	}
	return nil
}

// Close frees the session and writes the profile if one was asked for. The bound
// tensors are left alone. A second Close does nothing.
func (s *Session) Close() error {
	if s.session == nil {
		return nil
	}
	err := s.session.Destroy()
	s.session, s.in, s.out = nil, nil, nil
	if err != nil {
		return fmt.Errorf("close ONNX session: %w", err)
	}
	return nil
}

// MultiSession is a graph ready to run on any of several sets of tensors: batches
// of several sizes with one copy of the weights. It is not safe for concurrent use.
type MultiSession struct {
	session *ortgo.DynamicAdvancedSession
	bounds  []*Bound
}

// NewMultiSession loads the library if need be and prepares the ONNX model, to be
// run on the tensors of Bind. model may be changed afterwards. The caller closes
// the session.
func NewMultiSession(model []byte, o Options) (*MultiSession, error) {
	options, err := prepare(model, o)
	if err != nil {
		return nil, err
	}
	defer func() { _ = options.Destroy() }()
	// The names of inputs and outputs come with each Bind.
	s, err := ortgo.NewDynamicAdvancedSessionWithONNXData(model, nil, nil, options)
	if err != nil {
		return nil, fmt.Errorf("open ONNX session: %w", err)
	}
	return &MultiSession{session: s}, nil
}

// Bound is a session tied to one set of tensors.
type Bound struct {
	session *MultiSession
	binding *ortgo.IoBinding
	in, out []Binding // what the binding's bare pointers point to
}

// Bind ties the session to the tensors of some graph inputs and outputs, for any
// number of runs. The tensors stay the caller's, and must live as long as the session.
func (s *MultiSession) Bind(in, out []Binding) (*Bound, error) {
	if s.session == nil {
		return nil, errors.New("bind ONNX session: it is closed")
	}
	binding, err := s.session.CreateIoBinding()
	if err != nil {
		return nil, fmt.Errorf("bind ONNX session: %w", err)
	}
	for i, b := range slices.Concat(in, out) {
		bind := binding.BindInput
		if i >= len(in) {
			bind = binding.BindOutput
		}
		if err := bind(b.Name, b.Value); err != nil {
			_ = binding.Destroy()
			return nil, fmt.Errorf("bind ONNX session: %q: %w", b.Name, err)
		}
	}
	bound := &Bound{session: s, binding: binding, in: in, out: out}
	s.bounds = append(s.bounds, bound)
	return bound, nil
}

// Run computes the outputs from what the input tensors hold now.
func (b *Bound) Run() error {
	if b.session.session == nil {
		return errors.New("run ONNX session: it is closed")
	}
	if err := b.session.session.RunWithBinding(b.binding); err != nil {
		return fmt.Errorf("run ONNX session: %w", err)
	}
	return nil
}

// Close frees the session and what it was bound to, and writes the profile if one
// was asked for. The tensors are left alone. A second Close does nothing.
func (s *MultiSession) Close() error {
	if s.session == nil {
		return nil
	}
	var errs []error
	for _, b := range s.bounds {
		errs = append(errs, b.binding.Destroy())
	}
	errs = append(errs, s.session.Destroy())
	s.session, s.bounds = nil, nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close ONNX session: %w", err)
	}
	return nil
}

func split(bindings []Binding) (names []string, values []ortgo.Value) {
	for _, b := range bindings {
		names = append(names, b.Name)
		values = append(values, b.Value)
	}
	return names, values
}

// sessionOptions translates o; the caller destroys the result.
func (o Options) sessionOptions() (*ortgo.SessionOptions, error) {
	if o.Threads < 0 {
		return nil, fmt.Errorf("threads: %d is negative", o.Threads)
	}
	threads := o.Threads
	if threads == 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	options, err := ortgo.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	flag := func(on bool) string {
		if on {
			return "1"
		}
		return "0"
	}
	err = errors.Join(
		options.SetIntraOpNumThreads(threads),
		// Our graphs are chains: operators side by side would only share the cores.
		options.SetExecutionMode(ortgo.ExecutionModeSequential),
		options.SetInterOpNumThreads(1),
		options.SetGraphOptimizationLevel(ortgo.GraphOptimizationLevelEnableAll),
		options.AddSessionConfigEntry("session.intra_op.allow_spinning", flag(o.Spin)),
		options.AddSessionConfigEntry("session.set_denormal_as_zero", flag(o.DenormalsAsZero)),
	)
	if err == nil && o.ProfilePrefix != "" {
		err = options.EnableProfiling(o.ProfilePrefix)
	}
	if err != nil {
		_ = options.Destroy()
		return nil, fmt.Errorf("session options: %w", err)
	}
	return options, nil
}
