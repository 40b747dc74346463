//go:build unix

package imaging

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// BenchmarkTensorFiles measures the images in the folder FAKEART_IMAGES, resized to FAKEART_SIZE pixels per side or 32. It reports the processor time of the fastest
// operation, which tools/interop/speed.py compares with Pillow's: on a busy machine, elapsed times don't compare.
func BenchmarkTensorFiles(b *testing.B) { benchmarkFiles(b, FullJPEG) }

// BenchmarkReducedFiles is like BenchmarkTensorFiles for reduced-size JPEG decoding.
func BenchmarkReducedFiles(b *testing.B) { benchmarkFiles(b, DCTScaledJPEG) }

func benchmarkFiles(b *testing.B, scale JPEGScale) {
	b.Helper()
	p := Default()
	p.JPEG = scale
	if side := os.Getenv("FAKEART_SIZE"); side != "" {
		if _, err := fmt.Sscan(side, &p.Width); err != nil {
			b.Fatal(err)
		}
		p.Height = p.Width
	}
	plan, err := p.Compile()
	if err != nil {
		b.Fatal(err)
	}
	root := os.Getenv("FAKEART_IMAGES")
	if root == "" {
		b.Skip("FAKEART_IMAGES is not set")
	}
	names, err := filepath.Glob(filepath.Join(root, "*"))
	if err != nil || len(names) == 0 {
		b.Fatalf("%d images, %v", len(names), err)
	}
	processor := func() time.Duration {
		var usage syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
			b.Fatal(err)
		}
		return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	for _, name := range names {
		data := readFile(b, name)
		b.Run(filepath.Base(name), func(b *testing.B) {
			d, dst := plan.NewDecoder(0), plan.NewTensor(1)
			decode := func() {
				if err := d.Tensor(dst, data); err != nil {
					b.Fatal(err)
				}
			}
			start := time.Now()
			decode()
			repeat := 1 + int(10*time.Millisecond/time.Since(start)) // the clock is coarse
			fastest := time.Hour
			for b.Loop() {
				before := processor()
				for range repeat {
					decode()
				}
				fastest = min(fastest, (processor()-before)/time.Duration(repeat))
			}
			b.ReportMetric(float64(fastest.Nanoseconds()), "fastest-ns")
		})
	}
}
