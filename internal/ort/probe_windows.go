package ort

import (
	"errors"
	"syscall"
	"unsafe"
)

// apiBase is the head of ONNX Runtime's C interface, which is the same in every
// release: https://onnxruntime.ai/docs/api/c/struct_ort_api_base.html
type apiBase struct {
	getAPI           uintptr // func(uint32) *OrtApi
	getVersionString uintptr // func() *char
}

// library is a loaded ONNX Runtime, seen through what never changes in it.
type library struct {
	version string
	base    *apiBase
	handle  syscall.Handle
}

// load loads the library at path. The handle is kept by a successful caller: the
// binding opens the same file again, and a second load of it is then free.
func load(path string) (*library, error) {
	handle, err := syscall.LoadLibrary(path)
	if err != nil {
		return nil, err
	}
	notORT := func() (*library, error) {
		_ = syscall.FreeLibrary(handle)
		return nil, errors.New("it is not ONNX Runtime (no usable OrtGetApiBase)")
	}
	get, err := syscall.GetProcAddress(handle, "OrtGetApiBase")
	if err != nil {
		return notORT()
	}
	address, _, _ := syscall.SyscallN(get)
	base := *(**apiBase)(unsafe.Pointer(&address))
	if base == nil || base.getVersionString == 0 {
		return notORT()
	}
	address, _, _ = syscall.SyscallN(base.getVersionString)
	return &library{version: cString(address), base: base, handle: handle}, nil
}

// cString reads the zero-terminated text at address, which belongs to the library.
func cString(address uintptr) string {
	p := *(**byte)(unsafe.Pointer(&address))
	var text []byte
	for p != nil && *p != 0 {
		text = append(text, *p)
		p = (*byte)(unsafe.Add(unsafe.Pointer(p), 1))
	}
	return string(text)
}

// offersAPI asks the library itself. One that is too old also prints a line of
// its own to stderr.
func (l *library) offersAPI(version int) bool {
	api, _, _ := syscall.SyscallN(l.base.getAPI, uintptr(version))
	return api != 0
}

func (l *library) unload() { _ = syscall.FreeLibrary(l.handle) }
