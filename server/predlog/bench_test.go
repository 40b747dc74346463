package predlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"
)

// BenchmarkAppend measures the cost of Append in the request's goroutine.
func BenchmarkAppend(b *testing.B) {
	for _, test := range []struct {
		name     string
		parallel bool
	}{{"one", false}, {"parallel", true}} {
		b.Run(test.name, func(b *testing.B) {
			l := New(discard{}, Options{})
			defer func() { _ = l.Close(context.Background()) }()
			b.ReportAllocs()
			if !test.parallel {
				r := newRecord(0)
				for b.Loop() {
					if err := l.Append(b.Context(), r); err != nil {
						b.Fatal(err)
					}
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				r := newRecord(0)
				for pb.Next() {
					if err := l.Append(context.Background(), r); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// BenchmarkSQLiteWrite measures the cost of a row, by rows per transaction.
func BenchmarkSQLiteWrite(b *testing.B) {
	for _, synchronous := range []Synchronous{Normal, Full} {
		for _, n := range []int{1, 16, 100, 1000} {
			b.Run(fmt.Sprintf("%s/rows=%d", synchronous, n), func(b *testing.B) {
				s, err := OpenSQLite(b.Context(), SQLiteOptions{Path: filepath.Join(b.TempDir(), "x.db"), Synchronous: synchronous})
				if err != nil {
					b.Fatal(err)
				}
				defer func() { _ = s.Close(context.Background()) }()
				records := newRecords(n)
				i := uint64(0)
				b.ReportAllocs()
				for b.Loop() {
					for k := range records {
						// Increasing IDs, like UUIDv7, but cheap to generate.
						i++
						records[k].ID = [16]byte{1}
						binary.BigEndian.PutUint64(records[k].ID[8:], i)
					}
					if err := s.Write(b.Context(), records); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/1e3/float64(i), "µs/row")
			})
		}
	}
}

// BenchmarkDurable measures durable appends end to end, by number of concurrent clients.
func BenchmarkDurable(b *testing.B) {
	for _, synchronous := range []Synchronous{Normal, Full} {
		for _, clients := range []int{1, 16, 100} {
			b.Run(fmt.Sprintf("%s/clients=%d", synchronous, clients), func(b *testing.B) {
				s, err := OpenSQLite(b.Context(), SQLiteOptions{Path: filepath.Join(b.TempDir(), "x.db"), Synchronous: synchronous})
				if err != nil {
					b.Fatal(err)
				}
				l := New(s, Options{Durable: true})
				defer func() { _ = l.Close(context.Background()) }()
				b.SetParallelism(max(1, clients/2))
				b.RunParallel(func(pb *testing.PB) {
					for r := newRecord(0); pb.Next(); {
						r.ID = [16]byte{}
						if err := l.Append(context.Background(), r); err != nil {
							b.Error(err)
						}
					}
				})
			})
		}
	}
}

// BenchmarkOpen measures how much the log adds to the start of the program.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("rows=%d", n), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "x.db")
			for i := 0; b.Loop(); i++ {
				if n == 0 {
					path = filepath.Join(b.TempDir(), fmt.Sprint(i), "x.db")
				}
				s, err := OpenSQLite(b.Context(), SQLiteOptions{Path: path})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if i == 0 && n > 0 {
					if err := s.Write(b.Context(), newRecords(n)); err != nil {
						b.Fatal(err)
					}
				}
				if err := s.Close(context.Background()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkExport measures the cost of a row, by format.
func BenchmarkExport(b *testing.B) {
	s, err := OpenSQLite(b.Context(), SQLiteOptions{Path: filepath.Join(b.TempDir(), "x.db")})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close(context.Background()) }()
	const rows = 5000
	if err := s.Write(b.Context(), newRecords(rows)); err != nil {
		b.Fatal(err)
	}
	for _, format := range formats {
		b.Run(string(format), func(b *testing.B) {
			for b.Loop() {
				var w bytes.Buffer
				if err := s.Export(b.Context(), &w, format); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(w.Len())/rows, "bytes/row")
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/1e3/float64(b.N)/rows, "µs/row")
		})
	}
}
