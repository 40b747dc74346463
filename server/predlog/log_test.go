package predlog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"
)

// memory is a store in memory that can be made to fail or to block.
type memory struct {
	mu      sync.Mutex
	rows    []Row
	writes  []int         // sizes of transactions
	failure error         // returned by Write while it is set
	gate    chan struct{} // Write waits for it while it is set
	closed  int
}

func (m *memory) Write(ctx context.Context, records []Record) error {
	m.mu.Lock()
	gate := m.gate
	m.mu.Unlock()
	if gate != nil && len(records) > 0 {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failure != nil {
		return m.failure
	}
	if len(records) > 0 {
		m.writes = append(m.writes, len(records))
	}
	for i := range records {
		r := records[i].row()
		r.Embedding = slices.Clone(r.Embedding)
		r.RequestID, r.TraceID = strings.Clone(r.RequestID), strings.Clone(r.TraceID)
		r.Image = slices.Clone(r.Image)
		m.rows = append(m.rows, r)
	}
	return nil
}

func (m *memory) Close(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed++
	return nil
}

func (m *memory) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failure = err
}

func (m *memory) read() []Row {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.rows)
}

// hold blocks Write until release is called.
func (m *memory) hold() (release func()) {
	gate := make(chan struct{})
	m.mu.Lock()
	m.gate = gate
	m.mu.Unlock()
	return func() {
		m.mu.Lock()
		m.gate = nil
		m.mu.Unlock()
		close(gate)
	}
}

var errDown = errors.New("the store is down")

func TestAppend_OrderAndContents(t *testing.T) {
	for _, durable := range []bool{false, true} {
		t.Run(fmt.Sprintf("durable=%v", durable), func(t *testing.T) {
			store := &memory{}
			l := New(store, Options{Durable: durable})
			var want []Row
			// The caller reuses its record and the buffers that it points to, like an HTTP server.
			shared, id, image := newRecord(0), []byte("request-0000"), []byte("image 0000")
			for i := range 300 {
				r := newRecord(i)
				embedding := shared.Embedding
				copy(embedding, r.Embedding)
				copy(id, fmt.Sprintf("request-%04d", i))
				copy(image, fmt.Sprintf("image %04d", i))
				r.RequestID, r.Image = string(id), slices.Clone(image)
				want = append(want, r.row())
				*shared = *r
				shared.RequestID, shared.Embedding, shared.Image = unsafe.String(&id[0], len(id)), embedding, image
				mustAppend(t, l, shared)
			}
			mustClose(t, l)
			equalRows(t, store.read(), want)
			if store.closed != 1 {
				t.Errorf("the store was closed %d times, want once", store.closed)
			}
		})
	}
}

func equalRows(t *testing.T, got, want []Row) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d rows, want %d", len(got), len(want))
	}
	for i := range got {
		if a, b := mustJSON(t, got[i]), mustJSON(t, want[i]); a != b {
			t.Fatalf("row %d: got\n%s\nwant\n%s", i, a, b)
		}
	}
}

func TestAppend_GeneratesIDs(t *testing.T) {
	store := &memory{}
	l := New(store, Options{Durable: true})
	defer mustClose(t, l)
	a, b := newRecord(0), newRecord(1)
	a.ID, b.ID = [16]byte{}, [16]byte{}
	mustAppend(t, l, a, b)
	rows := store.read()
	if a.ID == ([16]byte{}) || a.ID == b.ID || a.ID[6]>>4 != 7 || rows[0].ID != a.row().ID || rows[0].ID >= rows[1].ID {
		t.Errorf("IDs %x and %x, rows %s and %s, want ascending UUIDv7", a.ID, b.ID, rows[0].ID, rows[1].ID)
	}
}

func TestAppend_OneTransactionPerRequest(t *testing.T) {
	store := &memory{}
	l := New(store, Options{Durable: true})
	defer mustClose(t, l)
	mustAppend(t, l)
	mustAppend(t, l, newRecord(0), newRecord(1), newRecord(2))
	if got := store.writes; !slices.Equal(got, []int{3}) {
		t.Errorf("transactions of %v records, want [3]", got)
	}
}

func TestAppend_DurableSharesTransactions(t *testing.T) {
	store := &memory{}
	l := New(store, Options{Durable: true})
	defer mustClose(t, l)
	release := store.hold()
	var group sync.WaitGroup
	group.Go(func() { mustAppend(t, l, newRecord(0)) })
	eventually(t, "the first is being written", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.spare == nil })
	for i := range 20 {
		group.Go(func() { mustAppend(t, l, newRecord(i+1)) })
	}
	eventually(t, "all wait", func() bool { return l.Waiting() == 21 })
	if len(store.read()) != 0 {
		t.Error("records were written while the store was blocked")
	}
	release()
	group.Wait()
	if got := store.writes; !slices.Equal(got, []int{1, 20}) {
		t.Errorf("transactions of %v records, want 1 and 20", got)
	}
}

func TestAppend_NotDurableFlushes(t *testing.T) {
	store := &memory{}
	l := New(store, Options{})
	defer mustClose(t, l)
	mustAppend(t, l, newRecord(0))
	eventually(t, "a single record is written", func() bool { return len(store.read()) == 1 && l.Waiting() == 0 })
}

func TestAppend_FullBuffer(t *testing.T) {
	image := make([]byte, 5000)
	for _, test := range []struct {
		name    string
		options Options
		image   []byte
	}{
		{"records", Options{MaxRecords: 3}, nil},
		{"bytes", Options{MaxBytes: 3 * (recordSize + 512 + len(image))}, image},
	} {
		t.Run(test.name, func(t *testing.T) {
			store, counts := &memory{}, tally{}
			test.options.Count = counts.count
			l := New(store, test.options)
			release := store.hold()
			record := func(i int) *Record { r := newRecord(i); r.Image = test.image; return r }
			for i := range 3 {
				mustAppend(t, l, record(i))
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			got := make(chan error)
			go func() { got <- l.Append(ctx, record(3)) }()
			cause := errors.New("client disconnected")
			select {
			case err := <-got:
				t.Fatalf("Append did not wait: %v", err)
			case <-time.After(20 * time.Millisecond):
				cancel(cause)
			}
			if err := <-got; !errors.Is(err, ErrLost) || !errors.Is(err, cause) {
				t.Errorf("Append = %v, want ErrLost", err)
			}
			if counts.of(Failed) != 1 {
				t.Errorf("counted %v, want 1 failed", counts.n)
			}
			go func() { got <- l.Append(t.Context(), record(4)) }()
			release()
			if err := <-got; err != nil {
				t.Error(err)
			}
			mustClose(t, l)
			if n := len(store.read()); n != 4 {
				t.Errorf("%d rows written, want 4", n)
			}
		})
	}
}

func TestAppend_LargerThanBuffer(t *testing.T) {
	store := &memory{}
	l := New(store, Options{MaxRecords: 2})
	mustAppend(t, l, newRecord(0))
	mustAppend(t, l, newRecord(1), newRecord(2), newRecord(3))
	mustClose(t, l)
	if n := len(store.read()); n != 4 {
		t.Errorf("%d rows written, want 4", n)
	}
}

func TestLog_StoreRecovers(t *testing.T) {
	for _, durable := range []bool{false, true} {
		t.Run(fmt.Sprintf("durable=%v", durable), func(t *testing.T) {
			store, counts, lines := &memory{}, tally{}, logLines{}
			l := New(store, Options{Durable: durable, MaxRecords: 1 << 20, Count: counts.count, Logger: lines.logger()})
			const writers, each = 20, 200
			var group sync.WaitGroup
			for w := range writers {
				group.Go(func() {
					for i := range each {
						r := newRecord(i)
						r.RequestID = fmt.Sprintf("%d/%d", w, i)
						if err := l.Append(t.Context(), r); err != nil && !errors.Is(err, ErrNotDurable) {
							t.Error(err)
						} else if err != nil && !durable {
							t.Errorf("Append of a log that isn't durable = %v", err)
						}
						if i%50 == 0 {
							time.Sleep(time.Millisecond)
						}
					}
				})
			}
			eventually(t, "something is written", func() bool { return len(store.read()) > 0 })
			store.fail(errDown)
			eventually(t, "the log notices", func() bool {
				_ = l.Append(t.Context(), newRecord(-1))
				return errors.Is(l.Err(), errDown)
			})
			if durable {
				if err := l.Append(t.Context(), newRecord(-1)); !errors.Is(err, ErrNotDurable) || !errors.Is(err, errDown) {
					t.Errorf("Append = %v, want ErrNotDurable", err)
				}
			}
			group.Wait()
			store.fail(nil)
			// The log recovers without another request.
			eventually(t, "the log recovers and writes", func() bool { return l.Err() == nil && l.Waiting() == 0 })
			mustAppend(t, l, newRecord(-1))
			mustClose(t, l)

			next := [writers]int{}
			for _, r := range store.read() {
				var w, i int
				if _, err := fmt.Sscanf(r.RequestID, "%d/%d", &w, &i); err != nil {
					continue
				}
				if i != next[w] {
					t.Fatalf("writer %d: read record %d, want %d", w, i, next[w])
				}
				next[w]++
			}
			for w, n := range next {
				if n != each {
					t.Errorf("writer %d: %d records written, want %d", w, n, each)
				}
			}
			if n := counts.of(Failed); n != 0 {
				t.Errorf("%d records counted as failed, want 0", n)
			}
			for _, want := range []string{"cannot write the prediction log", "writable again"} {
				if strings.Count(lines.String(), want) != 1 {
					t.Errorf("log:\n%s\nwant %q once", lines.String(), want)
				}
			}
		})
	}
}

func TestAppend_FullBufferWhileStoreFails(t *testing.T) {
	for _, durable := range []bool{false, true} {
		t.Run(fmt.Sprintf("durable=%v", durable), func(t *testing.T) {
			store, counts := &memory{failure: errDown}, tally{}
			l := New(store, Options{Durable: durable, MaxRecords: 5, Count: counts.count})
			eventually(t, "the log notices before any record arrives", func() bool { return errors.Is(l.Err(), errDown) })
			for i := range 5 {
				if err := l.Append(t.Context(), newRecord(i)); durable != errors.Is(err, ErrNotDurable) || (!durable && err != nil) {
					t.Fatal(err)
				}
			}
			for i := range 7 {
				if err := l.Append(t.Context(), newRecord(5+i)); !errors.Is(err, ErrLost) || !errors.Is(err, errDown) {
					t.Fatal(err)
				}
			}
			if n := counts.of(Failed); n != 7 {
				t.Errorf("%d counted as failed, want 7", n)
			}
			store.fail(nil)
			eventually(t, "the log recovers", func() bool { return l.Err() == nil && l.Waiting() == 0 })
			mustClose(t, l)
			if n := len(store.read()); n != 5 {
				t.Errorf("%d rows written, want the 5 buffered ones", n)
			}
		})
	}
}

func TestAppend_StoreFailsWhileWaitingForRoom(t *testing.T) {
	store := &memory{}
	l := New(store, Options{MaxRecords: 1})
	release := store.hold()
	mustAppend(t, l, newRecord(0))
	got := make(chan error)
	go func() { got <- l.Append(context.WithoutCancel(t.Context()), newRecord(1)) }()
	eventually(t, "one waits", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.room != nil })
	store.fail(errDown)
	release()
	if err := <-got; !errors.Is(err, ErrLost) {
		t.Errorf("Append = %v, want ErrLost", err)
	}
	store.fail(nil)
	mustClose(t, l)
}

func TestAppend_DurableCanceled(t *testing.T) {
	store := &memory{}
	l := New(store, Options{Durable: true})
	release := store.hold()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Append(ctx, newRecord(0)); !errors.Is(err, ErrNotDurable) || !errors.Is(err, context.Canceled) {
		t.Errorf("Append = %v, want ErrNotDurable", err)
	}
	release()
	mustClose(t, l)
	if n := len(store.read()); n != 1 {
		t.Errorf("%d rows written, want 1", n)
	}
}

func TestLogClose_UnwrittenRecords(t *testing.T) {
	for _, test := range []struct {
		name  string
		store func() *memory
	}{
		{"store fails", func() *memory { return &memory{failure: errDown} }},
		{"store hangs", func() *memory { return &memory{gate: make(chan struct{})} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			store, counts := test.store(), tally{}
			l := New(store, Options{Count: counts.count})
			for i := range 12 {
				mustAppend(t, l, newRecord(i))
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			err := l.Close(ctx)
			if !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "12 records") {
				t.Errorf("Close = %v, want ErrLost with 12 records", err)
			}
			if n := counts.of(Failed); n != 12 {
				t.Errorf("%d counted as failed, want 12", n)
			}
			if store.closed != 1 {
				t.Errorf("the store was closed %d times, want once", store.closed)
			}
			if err := l.Append(t.Context(), newRecord(0)); !errors.Is(err, ErrClosed) {
				t.Errorf("Append after Close: %v", err)
			}
			if err := l.Close(t.Context()); err != nil {
				t.Errorf("second Close: %v", err)
			}
		})
	}
}

func TestLogClose_ConcurrentAppends(t *testing.T) {
	before := runtime.NumGoroutine()
	store := &memory{}
	l := New(store, Options{Durable: true, MaxRecords: 10})
	var (
		group sync.WaitGroup
		taken sync.Map
	)
	for range 50 {
		group.Go(func() {
			for i := 0; ; i++ {
				r := newRecord(i)
				err := l.Append(t.Context(), r)
				if errors.Is(err, ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
				}
				taken.Store(r.row().ID, true)
			}
		})
	}
	time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
	mustClose(t, l)
	group.Wait()
	for _, r := range store.read() {
		taken.Delete(r.ID)
	}
	taken.Range(func(id, _ any) bool { t.Errorf("%v was acknowledged and is not in the store", id); return true })
	eventually(t, "all goroutines have exited", func() bool { return runtime.NumGoroutine() <= before })
}

func TestAppend_NoAllocations(t *testing.T) {
	l := New(discard{}, Options{})
	defer mustClose(t, l)
	r := newRecord(0)
	for range 20_000 {
		mustAppend(t, l, r)
	}
	if n := testing.AllocsPerRun(10_000, func() { _ = l.Append(context.Background(), r) }); n > 0 {
		t.Errorf("%g allocations per Append, want 0", n)
	}
}
