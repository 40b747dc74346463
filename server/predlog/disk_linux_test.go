package predlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// smallDisk mounts a file system of the given size in bytes. It skips the test without root.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("fakeart-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("cannot mount a small file system; run as root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill writes a file that takes all remaining space.
func fill(t *testing.T, disk string) (ballast string) {
	t.Helper()
	ballast = filepath.Join(disk, "ballast")
	file, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for block := bytes.Repeat([]byte("x"), 4096); ; {
		if _, err := file.Write(block); errors.Is(err, syscall.ENOSPC) {
			return ballast
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestLog_FullDisk(t *testing.T) {
	for _, durable := range []bool{false, true} {
		t.Run(fmt.Sprintf("durable=%v", durable), func(t *testing.T) {
			disk := smallDisk(t, 4<<20)
			var counts tally
			s := openSQLite(t, SQLiteOptions{Path: filepath.Join(disk, "predictions.db"), Count: counts.count})
			l := New(s, Options{Durable: durable, MaxRecords: 2000, Count: counts.count})
			var (
				mu           sync.Mutex
				acknowledged []string // Append returned nil
				lost         int
				group        sync.WaitGroup
			)
			stop := make(chan struct{})
			for range 8 {
				group.Go(func() {
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
						}
						r := newRecord(i)
						err := l.Append(t.Context(), r)
						mu.Lock()
						if err == nil {
							acknowledged = append(acknowledged, r.row().ID)
						} else if errors.Is(err, ErrLost) {
							lost++
						}
						mu.Unlock()
					}
				})
			}
			eventually(t, "the disk is full", func() bool { return l.Err() != nil })
			if !isFull(l.Err()) {
				t.Errorf("Err = %v, want a full disk", l.Err())
			}
			eventually(t, "records are lost", func() bool { mu.Lock(); defer mu.Unlock(); return lost > 0 })
			if n, err := s.Count(t.Context()); err != nil || n == 0 {
				t.Errorf("Count on a full disk = %d, %v", n, err)
			}
			close(stop)
			group.Wait()
			if err := syscall.Mount("fakeart-test", disk, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the log recovers", func() bool { return l.Err() == nil && l.Waiting() == 0 })
			n, err := s.Count(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			mustClose(t, l)
			inLog := map[string]bool{}
			s = openSQLite(t, SQLiteOptions{Path: s.options.Path})
			for _, r := range allRowsAtOnce(t, s) {
				inLog[r.ID] = true
			}
			for _, id := range acknowledged {
				if !inLog[id] {
					t.Fatalf("%s was acknowledged and is not in the log", id)
				}
			}
			if counts.of(Failed) != lost || int64(counts.of(Written)) != n {
				t.Errorf("counted %v, want %d failed and %d written", counts.n, lost, n)
			}
		})
	}
}

func TestOpenSQLite_FullDisk(t *testing.T) {
	disk := smallDisk(t, 1<<20)
	path := filepath.Join(disk, "log", "predictions.db")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	ballast := fill(t, disk)
	s := openSQLite(t, SQLiteOptions{Path: path})
	l := New(s, Options{})
	eventually(t, "the log notices that it isn't writable", func() bool { return l.Err() != nil })
	mustAppend(t, l, newRecord(0))
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the record is written", func() bool { return l.Err() == nil && l.Waiting() == 0 })
	if n, err := s.Count(t.Context()); n != 1 || err != nil {
		t.Errorf("Count = %d, %v, want 1", n, err)
	}
	mustClose(t, l)
}

func TestOpenSQLite_ExistingLogOnFullDisk(t *testing.T) {
	disk := smallDisk(t, 1<<20)
	path := filepath.Join(disk, "predictions.db")
	s := openSQLite(t, SQLiteOptions{Path: path})
	mustWrite(t, s, newRecords(10)...)
	mustClose(t, s)
	ballast := fill(t, disk)
	s = openSQLite(t, SQLiteOptions{Path: path})
	l := New(s, Options{MaxRecords: 10})
	for i := range 10 {
		if err := l.Append(t.Context(), newRecord(i)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the log fails", func() bool { return l.Err() != nil })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := l.Close(ctx); !errors.Is(err, ErrLost) {
		t.Errorf("Close = %v, want ErrLost", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	s = openSQLite(t, SQLiteOptions{Path: path})
	if n := len(allRowsAtOnce(t, s)); n != 10 {
		t.Errorf("%d records, want 10", n)
	}
}
