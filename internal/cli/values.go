package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ParseDuration parses a duration as [time.ParseDuration] does, or a number of days such as 7d.
func ParseDuration(text string) (time.Duration, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return d, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		if ns := n * float64(24*time.Hour); err == nil && math.Abs(ns) < math.MaxInt64 {
			return time.Duration(ns), nil
		}
	}
	return 0, fmt.Errorf("invalid duration %q\n"+HintPrefix+"use a number with a unit, such as 500ms, 30s, 10m, 24h or 7d", text)
}

// sizeUnits are the units of ParseSize in bytes, by their names in upper case.
var sizeUnits = map[string]float64{
	"": 1, "B": 1,
	"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40,
}

// ParseSize parses a size in bytes, such as 1048576, 10MB (10⁷ bytes) or 10MiB (10·2²⁰ bytes). Units
// may be written in upper or lower case and separated from the number by spaces.
func ParseSize(text string) (int64, error) {
	number := strings.TrimRightFunc(text, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	unit, known := sizeUnits[strings.ToUpper(strings.TrimSpace(text[len(number):]))]
	n, err := strconv.ParseFloat(number, 64)
	if bytes := n * unit; known && err == nil && math.Abs(bytes) < math.MaxInt64 && bytes == math.Trunc(bytes) {
		return int64(bytes), nil
	}
	return 0, fmt.Errorf("invalid size %q\n"+HintPrefix+"use a number of bytes, optionally with a unit, such as 10485760, 10MB or 10MiB", text)
}
