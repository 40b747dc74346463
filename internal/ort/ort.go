// Package ort finds and loads the ONNX Runtime library and creates sessions. Trainer and server
// both use it, so that they agree on the library's location, its minimum version and the session
// options.
//
// Use [NewSession] to run a graph on a fixed set of tensors, [NewMultiSession] for several sets
// of tensors that share the weights, and [NewProgram] for other tensors on each run. All of them
// call [Init].
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

// minAPIVersion is the ORT_API_VERSION in the C header that the Go binding is compiled against.
// ONNX Runtime 1.N supports the API versions 1 to N.
const minAPIVersion = 24

// The library is loaded once per process.
var (
	initMu      sync.Mutex
	initialized bool
)

// Init finds and loads the ONNX Runtime library. It does nothing if the library is already
// loaded. After an error, it can be called again. The error contains the path of the missing or
// incompatible file and the command that installs the right one. Init is safe for concurrent
// use.
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
	// Check first: the binding also loads an incompatible library, and then returns an error
	// code without explanation, or reads a version string that no longer exists.
	if err := check(path); err != nil {
		return err
	}
	ortgo.SetSharedLibraryPath(path)
	// ONNX Runtime logs the errors that it returns. The log level prevents duplicate reports.
	if err := ortgo.InitializeEnvironment(ortgo.WithLogLevelFatal()); err != nil {
		return fmt.Errorf("load ONNX Runtime library %s: %w", path, err)
	}
	if err := ortgo.DisableTelemetry(); err != nil {
		return fmt.Errorf("load ONNX Runtime library %s: disable telemetry: %w", path, err)
	}
	initialized = true
	return nil
}

// Version returns the version of the loaded library, such as "1.27.0", or "" before the first
// successful Init.
func Version() string {
	initMu.Lock()
	defer initMu.Unlock()
	if !initialized {
		return ""
	}
	return ortgo.GetVersion()
}

// check loads the library at path and returns an error if it's incompatible. A compatible
// library stays loaded.
func check(path string) error {
	lib, err := load(path)
	if err != nil {
		return fmt.Errorf("load ONNX Runtime library %s: %w; %s", path, err, replacement())
	}
	// Check the version string first, because the library prints a message if it's called with an
	// unsupported API version. Only a build with another version scheme must be called.
	api, known := apiVersion(lib.version)
	if known && api >= minAPIVersion || !known && lib.offersAPI(minAPIVersion) {
		return nil
	}
	version := lib.version
	lib.unload()
	return fmt.Errorf("load ONNX Runtime library %s: version %q is too old, 1.%d or newer is required; %s",
		path, version, minAPIVersion, replacement())
}

// replacement returns advice on how to replace an incompatible library.
func replacement() string {
	if os.Getenv(LibraryPathVariable) != "" {
		return fmt.Sprintf("set %s to another library, or unset it and run `%s` in the checkout of fakeart", LibraryPathVariable, installCommand)
	}
	return fmt.Sprintf("run `%s` in the checkout of fakeart, or set %s to another library", installCommand, LibraryPathVariable)
}

var releaseNumber = regexp.MustCompile(`^1\.(\d{1,6})(\.|$)`)

// apiVersion returns the newest API version that a release supports, which is N for version
// 1.N.x. It returns false for other version schemes.
func apiVersion(version string) (int, bool) {
	m := releaseNumber.FindStringSubmatch(version)
	if m == nil {
		return 0, false
	}
	n, err := strconv.Atoi(m[1])
	return n, err == nil
}

// Options configures a session. With the zero value, a session uses all cores, and its threads
// sleep while idle.
type Options struct {
	// Threads is the number of threads per operator, including the calling thread. 0 means
	// GOMAXPROCS, which respects the CPU limit of a container.
	Threads int
	// Spin makes idle threads busy-wait for the next operator. This is faster if the process has
	// the cores to itself, and wastes CPU time otherwise.
	Spin bool
	// DenormalsAsZero treats numbers below 1.2e-38 as zero, in the session's threads and in the
	// calling thread. Arithmetic with such numbers is many times slower.
	DenormalsAsZero bool
	// ProfilePrefix, if not empty, enables profiling. Close writes the profile to
	// <prefix>_<time>.json in Chrome's trace format.
	ProfilePrefix string
}

// Binding binds a tensor to the graph input or output with the given name. The caller owns the
// tensor: it must outlive the session, and the caller destroys it.
type Binding struct {
	Name  string
	Value ortgo.Value
}

// Session runs a graph on a fixed set of tensors. Run and Close must not be called concurrently.
type Session struct {
	session *ortgo.AdvancedSession
	// Keeps the tensors alive, to which the library has only raw pointers.
	in, out []Binding
}

// prepare loads the library if necessary and returns options for a session on the model. The
// caller destroys them.
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

// NewSession creates a session for repeated runs of an ONNX model on the given tensors. It loads
// the library if necessary, and doesn't keep model. The caller must close the session.
func NewSession(model []byte, in, out []Binding, o Options) (*Session, error) {
	if len(in) == 0 || len(out) == 0 {
		return nil, fmt.Errorf("open ONNX session: %d inputs and %d outputs bound, want at least one each", len(in), len(out))
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

// Run computes the output tensors from the current content of the input tensors.
func (s *Session) Run() error {
	if s.session == nil {
		return errors.New("run ONNX session: the session is closed")
	}
	if err := s.session.Run(); err != nil {
		return fmt.Errorf("run ONNX session: %w", err)
	}
	return nil
}

// Close frees the session and writes the profile if requested. It doesn't destroy the tensors.
// Further calls do nothing.
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

// MultiSession runs a graph on several sets of tensors, such as batches of different sizes, with
// a single copy of the weights. It isn't safe for concurrent use.
type MultiSession struct {
	session *ortgo.DynamicAdvancedSession
	bounds  []*Bound
}

// NewMultiSession creates a session for an ONNX model. Use Bind to run it. NewMultiSession loads
// the library if necessary, and doesn't keep model. The caller must close the session.
func NewMultiSession(model []byte, o Options) (*MultiSession, error) {
	options, err := prepare(model, o)
	if err != nil {
		return nil, err
	}
	defer func() { _ = options.Destroy() }()
	// Bind sets the names of inputs and outputs.
	s, err := ortgo.NewDynamicAdvancedSessionWithONNXData(model, nil, nil, options)
	if err != nil {
		return nil, fmt.Errorf("open ONNX session: %w", err)
	}
	return &MultiSession{session: s}, nil
}

// Bound is a MultiSession bound to one set of tensors.
type Bound struct {
	session *MultiSession
	binding *ortgo.IoBinding
	in, out []Binding // keeps the tensors alive, to which binding has only raw pointers
}

// Bind binds the session to tensors for some of the graph's inputs and outputs. The result can be
// run repeatedly. The caller owns the tensors, which must outlive the session.
func (s *MultiSession) Bind(in, out []Binding) (*Bound, error) {
	if s.session == nil {
		return nil, errors.New("bind ONNX session: the session is closed")
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

// Run computes the output tensors from the current content of the input tensors.
func (b *Bound) Run() error {
	if b.session.session == nil {
		return errors.New("run ONNX session: the session is closed")
	}
	if err := b.session.session.RunWithBinding(b.binding); err != nil {
		return fmt.Errorf("run ONNX session: %w", err)
	}
	return nil
}

// Close frees the session and its bindings, and writes the profile if requested. It doesn't
// destroy the tensors. Further calls do nothing.
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

// sessionOptions converts o to the library's options. The caller destroys the result.
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
		// Our graphs are chains, so that running operators in parallel has no benefit.
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
