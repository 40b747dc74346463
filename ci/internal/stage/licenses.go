package stage

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// legal are the names of files that say under which terms a module may be used.
var legal = regexp.MustCompile(`(?i)^(licen[cs]es?|copying|copyright|notice|patents|third[-_]?party.*)([-._].*)?$`)

// onnxRuntime is the text of ONNX Runtime's licence, which its npm package names but
// does not hold.
//
//go:embed onnxruntime-LICENSE.txt
var onnxRuntime []byte

// copyLicenses copies what each module's folder says about its licence to a folder of
// the module's name. A module that says nothing is an error: it may not be passed on.
func copyLicenses(to string, modules map[string]string) error {
	for _, module := range slices.Sorted(maps.Keys(modules)) {
		entries, err := os.ReadDir(modules[module])
		if err != nil {
			return fmt.Errorf("licence of %s: %w", module, err)
		}
		found := 0
		for _, e := range entries {
			if e.IsDir() || !legal.MatchString(e.Name()) {
				continue
			}
			if err := copyFile(filepath.Join(to, module, e.Name()), filepath.Join(modules[module], e.Name())); err != nil {
				return fmt.Errorf("licence of %s: %w", module, err)
			}
			found++
		}
		if found == 0 {
			return fmt.Errorf("licence of %s: there is no LICENSE, COPYING or NOTICE in %s", module, modules[module])
		}
	}
	dir := filepath.Join(to, runtimePackage)
	err := os.MkdirAll(dir, 0o755)
	return errors.Join(err, os.WriteFile(filepath.Join(dir, "LICENSE"), onnxRuntime, fs.FileMode(0o644)))
}
