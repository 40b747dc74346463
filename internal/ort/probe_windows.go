package ort

import (
	"errors"
	"syscall"
	"unsafe"
)

// apiBase holds the first fields of ONNX Runtime's C API, which are the same in all releases:
// https://onnxruntime.ai/docs/api/c/struct_ort_api_base.html
type apiBase struct {
	getAPI           uintptr // func(uint32) *OrtApi
	getVersionString uintptr // func() *char
}

// library is a loaded ONNX Runtime library of any version.
type library struct {
	version string
	base    *apiBase
	handle  syscall.Handle
}

// load loads the library at path. Callers that use the library should keep the handle, which makes
// it free for the binding to open the same file again.
func load(path string) (*library, error) {
	handle, err := syscall.LoadLibrary(path)
	if err != nil {
		return nil, err
	}
	notORT := func() (*library, error) {
		_ = syscall.FreeLibrary(handle)
		return nil, errors.New("not an ONNX Runtime library (no usable OrtGetApiBase)")
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

// cString returns a copy of the zero-terminated string at address, which the library owns.
func cString(address uintptr) string {
	p := *(**byte)(unsafe.Pointer(&address))
	var text []byte
	for p != nil && *p != 0 {
		text = append(text, *p)
		p = (*byte)(unsafe.Add(unsafe.Pointer(p), 1))
	}
	return string(text)
}

// offersAPI reports whether the library supports the API version. If not, the library prints a
// message to stderr.
func (l *library) offersAPI(version int) bool {
	api, _, _ := syscall.SyscallN(l.base.getAPI, uintptr(version))
	return api != 0
}

func (l *library) unload() { _ = syscall.FreeLibrary(l.handle) }
