//go:build !windows

package ort

/*
#cgo LDFLAGS: -ldl

#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// The first fields of ONNX Runtime's C API, which are the same in all releases:
// https://onnxruntime.ai/docs/api/c/struct_ort_api_base.html
typedef struct {
	const void *(*GetApi)(uint32_t version);
	const char *(*GetVersionString)(void);
} apiBase;

// probeLibrary loads the library and returns its handle, API base and version. If it fails, it
// returns NULL and sets reason, which the caller frees. dlopen and dlerror must be called in the
// same call from Go, because dlerror is per thread.
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
		*reason = strdup("not an ONNX Runtime library (no usable OrtGetApiBase)");
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

// library is a loaded ONNX Runtime library of any version.
type library struct {
	version string
	base    *C.apiBase
	handle  unsafe.Pointer
}

// load loads the library at path. Callers that use the library should keep the handle, which makes
// it free for the binding to open the same file again.
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

// offersAPI reports whether the library supports the API version. If not, the library prints a
// message to stderr.
func (l *library) offersAPI(version int) bool {
	return C.offersAPI(l.base, C.uint32_t(version)) != 0
}

func (l *library) unload() { C.dlclose(l.handle) }
