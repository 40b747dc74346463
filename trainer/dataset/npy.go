package dataset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The .npy format, version 1.0, for arrays of unsigned integers:
// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
//
// github.com/sbinet/npyio is not used: it derives the shape from the Go type, so [N,32,32,3] would
// have to be a slice of nested arrays, which it walks by reflection. It also does not pad the
// header to a multiple of 16, which NumPy accepts but never writes.

var (
	npyMagic   = []byte("\x93NUMPY\x01\x00")
	npyAlign   = 64 // since 1.14 NumPy aligns data to 64 bytes, so that files can be memory-mapped
	npyPattern = regexp.MustCompile(`^\{'descr': '([^']*)', 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), \} *\n$`)
)

// Element types of arrays.
const (
	npyUint8  = "|u1"
	npyUint16 = "<u2"
)

// npySize returns the bytes per element of a type.
func npySize(descr string) int {
	if descr == npyUint16 {
		return 2
	}
	return 1
}

// npyHeader returns the header of an array of this type and shape in C order.
func npyHeader(descr string, shape []int) []byte {
	dims := make([]string, len(shape))
	for i, d := range shape {
		dims[i] = strconv.Itoa(d)
	}
	list := strings.Join(dims, ", ")
	if len(shape) == 1 {
		list += ","
	}
	dict := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", descr, list)
	size := len(npyMagic) + 2 + len(dict) + 1
	dict += strings.Repeat(" ", (npyAlign-size%npyAlign)%npyAlign) + "\n"
	header := binary.LittleEndian.AppendUint16(slices.Clone(npyMagic), uint16(len(dict)))
	return append(header, dict...)
}

// parseNPY returns the data of an .npy file, which shares memory with content. It returns an error unless the file is
// an array of this type and shape in C order.
func parseNPY(content []byte, descr string, shape []int) ([]byte, error) {
	rest, ok := bytes.CutPrefix(content, npyMagic)
	if !ok || len(rest) < 2 {
		return nil, errors.New("not an .npy file of version 1.0")
	}
	n := int(binary.LittleEndian.Uint16(rest))
	if rest = rest[2:]; len(rest) < n {
		return nil, errors.New("the .npy header is truncated")
	}
	header, data := rest[:n], rest[n:]
	match := npyPattern.FindSubmatch(header)
	if match == nil {
		return nil, fmt.Errorf("invalid .npy header %q", bytes.TrimSpace(header))
	}
	if string(match[1]) != descr || string(match[2]) != "False" {
		return nil, fmt.Errorf("array type is %q (fortran_order %s), want %s in C order", match[1], match[2], descr)
	}
	var got []int
	size := npySize(descr)
	for dim := range strings.SplitSeq(string(match[3]), ",") {
		if dim = strings.TrimSpace(dim); dim == "" {
			continue
		}
		d, err := strconv.Atoi(dim)
		if err != nil {
			return nil, fmt.Errorf("invalid shape (%s)", match[3])
		}
		got = append(got, d)
		size *= d
	}
	if !slices.Equal(got, shape) {
		return nil, fmt.Errorf("array shape is %v, want %v", got, shape)
	}
	if len(data) != size {
		return nil, fmt.Errorf("%d bytes of data, want %d for shape %v", len(data), size, shape)
	}
	return data, nil
}
