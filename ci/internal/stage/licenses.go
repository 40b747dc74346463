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

// licenseFile matches the names of files with license terms or notices.
var licenseFile = regexp.MustCompile(`(?i)^(licen[cs]es?|copying|copyright|notice|patents|third[-_]?party.*)([-._].*)?$`)

// onnxRuntime is the text of ONNX Runtime's license. Its npm package doesn't include it.
//
//go:embed onnxruntime-LICENSE.txt
var onnxRuntime []byte

// copyLicenses copies the license files of modules, a map from module paths to directories, to one
// directory per module in to. It also writes ONNX Runtime's license. It returns an error if a
// module has no license file, because such a module must not be distributed.
func copyLicenses(to string, modules map[string]string) error {
	for _, module := range slices.Sorted(maps.Keys(modules)) {
		entries, err := os.ReadDir(modules[module])
		if err != nil {
			return fmt.Errorf("license of %s: %w", module, err)
		}
		found := 0
		for _, e := range entries {
			if e.IsDir() || !licenseFile.MatchString(e.Name()) {
				continue
			}
			if err := copyFile(filepath.Join(to, module, e.Name()), filepath.Join(modules[module], e.Name())); err != nil {
				return fmt.Errorf("license of %s: %w", module, err)
			}
			found++
		}
		if found == 0 {
			return fmt.Errorf("license of %s: no LICENSE, COPYING or NOTICE in %s", module, modules[module])
		}
	}
	dir := filepath.Join(to, runtimePackage)
	err := os.MkdirAll(dir, 0o755)
	return errors.Join(err, os.WriteFile(filepath.Join(dir, "LICENSE"), onnxRuntime, fs.FileMode(0o644)))
}
