//go:build !windows

package ort

/*
#cgo LDFLAGS: -ldl

#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// The head of ONNX Runtime's C interface, which is the same in every release:
// https://onnxruntime.ai/docs/api/c/struct_ort_api_base.html
typedef struct {
	const void *(*GetApi)(uint32_t version);
	const char *(*GetVersionString)(void);
} apiBase;

// probeLibrary loads the library and hands out its handle, its API base and its
// version. dlerror is per thread, so loading and asking for the reason have to
// be one call from Go. The reason, when there is one, is the caller's to free.
static void *probeLibrary(const char *path, apiBase **base, const char **version, char **reason) {
	void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!handle) {
		const char *why = dlerror();
		*reason = strdup(why ? why : "unknown reason");
		return NULL;
	}
	apiBase *(*get)(void) = (apiBase *(*)(void))dlsym(handle, "OrtGetApiBase");
	*base = get ? get() : NULL;
	if (!*base || !(*base)->GetVersionString) {
		*reason = strdup("it is not ONNX Runtime (no usable OrtGetApiBase)");
		dlclose(handle);
		return NULL;
	}
	*version = (*base)->GetVersionString();
	return handle;
}

static int offersAPI(apiBase *base, uint32_t version) { return base->GetApi(version) != NULL; }
*/
import "C"

import (
	"errors"
	"unsafe"
)

// library is a loaded ONNX Runtime, seen through what never changes in it.
type library struct {
	version string
	base    *C.apiBase
	handle  unsafe.Pointer
}

// load loads the library at path. The handle is kept by a successful caller: the
// binding opens the same file again, and a second load of it is then free.
func load(path string) (*library, error) {
	cPath := C.CString(path)
	defer C.free(unsafe.Pointer(cPath))
	var (
		base    *C.apiBase
		version *C.char
		reason  *C.char
	)
	handle := C.probeLibrary(cPath, &base, &version, &reason)
	if handle == nil {
		defer C.free(unsafe.Pointer(reason))
		return nil, errors.New(C.GoString(reason))
	}
	lib := &library{base: base, handle: handle}
	if version != nil {
		lib.version = C.GoString(version)
	}
	return lib, nil
}

// offersAPI asks the library itself. One that is too old also prints a line of
// its own to stderr.
func (l *library) offersAPI(version int) bool {
	return C.offersAPI(l.base, C.uint32_t(version)) != 0
}

func (l *library) unload() { C.dlclose(l.handle) }
