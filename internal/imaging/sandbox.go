package imaging

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	_ "unsafe" // for go:linkname

	_ "github.com/gen2brain/avif" // contains libavif
	_ "github.com/gen2brain/heic" // contains libheif
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
)

// HEIC and AVIF are decoded by libheif and libavif, compiled to WebAssembly. github.com/gen2brain/heic and
// github.com/gen2brain/avif contain the programs. Their own Decode isn't used: it doesn't limit memory, prefers
// a library of the system if there is one, assumes wrong strides for narrow images, and returns premultiplied
// alpha. Here, each image is decoded in a fresh instance, so that images can't affect each other, and an
// instance can't allocate more than a limit. WebAssembly can't access anything else.
//
// Go can't preempt compiled WebAssembly: a garbage collection would stop all goroutines until the image is
// decoded. Therefore the program calls back, at least every 0.2 seconds for an image of 12 megapixels, which is
// also when it is interrupted. WithCloseOnContextDone of wazero makes decoding four times as slow, because it calls back in each iteration of each loop.

//go:linkname heifProgram github.com/gen2brain/heic.heifWasm
var heifProgram []byte

//go:linkname avifProgram github.com/gen2brain/avif.decodeWasm
var avifProgram []byte

var (
	libheif = program{compressed: &heifProgram, small: []uint32{692, 694, 697, 1282, 1284}}
	libavif = program{compressed: &avifProgram, small: []uint32{764, 768, 774, 795, 797, 900, 901, 902, 904, 905, 906, 907, 910, 911, 912, 913, 914, 1032, 1034}}
)

// program is a WebAssembly program. The first image compiles it, which takes about a second of CPU time.
type program struct {
	compressed *[]byte // gzip
	// small has the indexes of functions that don't call back: those that are called most often, to read a symbol
	// or copy a few pixels. With wrong indexes, decoding takes up to twice as long.
	small   []uint32
	compile sync.Once
	runtime wazero.Runtime
	module  wazero.CompiledModule
	err     error
}

func (p *program) compileOnce() error {
	p.compile.Do(func() {
		ctx := context.Background()
		unzip, err := gzip.NewReader(bytes.NewReader(*p.compressed))
		if err != nil {
			p.err = err
			return
		}
		code, err := io.ReadAll(unzip)
		if err != nil {
			p.err = err
			return
		}
		p.runtime = wazero.NewRuntime(ctx)
		if _, p.err = wasi_snapshot_preview1.Instantiate(ctx, p.runtime); p.err == nil {
			p.module, p.err = p.runtime.CompileModule(experimental.WithFunctionListenerFactory(ctx, p), code)
		}
	})
	return p.err
}

// NewFunctionListener implements experimental.FunctionListenerFactory.
func (p *program) NewFunctionListener(function api.FunctionDefinition) experimental.FunctionListener {
	if slices.Contains(p.small, function.Index()) {
		return nil
	}
	return experimental.FunctionListenerFunc(checkContext)
}

// checkContext ends the program if the context of the call is done.
func checkContext(ctx context.Context, _ api.Module, _ api.FunctionDefinition, _ []uint64, _ experimental.StackIterator) {
	if err := ctx.Err(); err != nil {
		panic(err) // wazero recovers it and makes it the error of the call
	}
}

// instance is a running program.
type instance struct {
	ctx    context.Context
	module api.Module
}

// start returns a new instance with the given amount of memory in bytes, which runs until ctx is done. Concurrent
// calls are safe. The caller must call close.
func (p *program) start(ctx context.Context, memory int64) (*instance, error) {
	if err := p.compileOnce(); err != nil {
		return nil, fmt.Errorf("compile the decoder: %w", err)
	}
	ctx = experimental.WithMemoryAllocator(ctx,
		experimental.MemoryAllocatorFunc(func(_, _ uint64) experimental.LinearMemory { return newFixedMemory(memory) }))
	module, err := p.runtime.InstantiateModule(ctx, p.module, wazero.NewModuleConfig().WithName(""))
	if err != nil {
		return nil, fmt.Errorf("start the decoder: %w", err)
	}
	return &instance{ctx, module}, nil
}

func (i *instance) close() { i.module.Close(context.Background()) }

// fixedMemory is the memory of an instance. It's allocated at once, because growing would copy it and for a
// moment need it twice.
type fixedMemory []byte

func newFixedMemory(size int64) fixedMemory { return make([]byte, size) }

// Reallocate implements experimental.LinearMemory.
func (m fixedMemory) Reallocate(size uint64) []byte {
	if size > uint64(len(m)) {
		return nil
	}
	return m[:size]
}

// Free implements experimental.LinearMemory.
func (m fixedMemory) Free() {}

// Errors of an instance: the program rejected the data, or its memory is too small for it.
var (
	errInvalid  = errors.New("invalid image data")
	errNoMemory = errors.New("the image data needs more memory than an image of its size")
)

// call calls a function of the program and returns its result, which must not be 0.
func (i *instance) call(function string, args ...uint32) (uint32, error) {
	words := make([]uint64, len(args))
	for k, arg := range args {
		words[k] = uint64(arg)
	}
	result, err := i.module.ExportedFunction(function).Call(i.ctx, words...)
	if err != nil || len(result) != 1 || result[0] == 0 {
		return 0, errInvalid // err is a stack trace
	}
	return uint32(result[0]), nil
}

// allocate returns the address of n bytes, and the bytes.
func (i *instance) allocate(n int) (address uint32, data []byte, err error) {
	if address, err = i.call("malloc", uint32(n)); err != nil {
		return 0, nil, errNoMemory
	}
	data, ok := i.module.Memory().Read(address, uint32(n))
	if !ok {
		return 0, nil, errNoMemory
	}
	return address, data, nil
}
