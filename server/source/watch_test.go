package source

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gocloud.dev/blob"
)

// watched collects what Watch reports, each with the time since the start.
type watched struct {
	t     *testing.T
	began time.Time

	mu   sync.Mutex
	news []string
	err  error // returned by changed
}

func (w *watched) add(text string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.news = append(w.news, fmt.Sprintf("%s %s", time.Since(w.began), text))
	return w.err
}

// fail makes changed return err from now on.
func (w *watched) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

// watch runs Watch in a synctest bubble until the test ends.
func watch(t *testing.T, s *Source, every time.Duration, current Object) *watched {
	t.Helper()
	w := &watched{t: t, began: time.Now()}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Watch(ctx, every, current, func(o Object) error {
			return w.add(filepath.Base(o.Ref))
		}, func(err error) {
			kind := "another error"
			for _, k := range []error{ErrNotFound, ErrUnreachable} {
				if errors.Is(err, k) {
					kind = k.Error()
				}
			}
			_ = w.add(kind)
		})
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	return w
}

// after waits until the given time since the start, and compares the reports since the last call.
func (w *watched) after(d time.Duration, want ...string) {
	w.t.Helper()
	time.Sleep(time.Until(w.began.Add(d)))
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.news, want) {
		w.t.Errorf("after %s: %q, want %q", d, w.news, want)
	}
	w.news = nil
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := memory(t, "models/")
		put(t, b, "models/a.onnx", "one")
		time.Sleep(time.Second)
		w := watch(t, s, time.Minute, current(t, s))
		w.after(5*time.Minute + time.Second)
		put(t, b, "models/a.onnx", "two")
		w.after(8*time.Minute+time.Second, "6m0s a.onnx")
		put(t, b, "models/b.onnx", "newer")
		w.after(10*time.Minute+time.Second, "9m0s b.onnx")
		if err := b.Delete(t.Context(), "models/b.onnx"); err != nil {
			t.Fatal(err)
		}
		w.after(12*time.Minute, "11m0s a.onnx")
	})
}

func TestWatch_ZeroObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := memory(t, "a.onnx")
		put(t, b, "a.onnx", "one")
		w := watch(t, s, time.Minute, Object{})
		w.after(59 * time.Second)
		w.after(3*time.Minute, "1m0s a.onnx")
	})
}

func TestWatch_FirstModel(t *testing.T) {
	for _, ref := range []string{"models/", "a.onnx"} {
		t.Run(ref, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, b := memory(t, ref)
				w := watch(t, s, time.Minute, Object{})
				w.after(3*time.Minute+time.Second, "1m0s "+ErrNotFound.Error(), "2m0s "+ErrNotFound.Error(), "3m0s "+ErrNotFound.Error())
				put(t, b, strings.TrimSuffix(ref, "a.onnx")+"a.onnx", "one")
				w.after(6*time.Minute, "4m0s a.onnx")
			})
		})
	}
}

func TestWatch_RetriesTransientErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := memory(t, "a.onnx")
		put(t, b, "a.onnx", "one")
		w := watch(t, s, time.Minute, Object{})
		w.fail(fmt.Errorf("read: %w", ErrChanged))
		w.after(2*time.Minute+time.Second, "1m0s a.onnx", "2m0s a.onnx")
		w.fail(errors.New("it has no metadata"))
		w.after(9*time.Minute, "3m0s a.onnx")
	})
}

func TestWatch_StoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := memory(t, "a.onnx")
		put(t, b, "a.onnx", "one")
		store := s.store.(*bucket)
		works := store.open
		w := watch(t, s, time.Minute, current(t, s))
		opener := func(o opener) {
			store.mu.Lock()
			defer store.mu.Unlock()
			store.open, store.opened = o, nil
		}
		opener(func(context.Context, *url.URL) (*blob.Bucket, error) { return nil, errors.New("down") })
		// The interval grows from one minute to two, four, and at most five.
		w.after(21*time.Minute, "1m0s "+ErrUnreachable.Error(), "3m0s "+ErrUnreachable.Error(), "7m0s "+ErrUnreachable.Error(), "12m0s "+ErrUnreachable.Error(), "17m0s "+ErrUnreachable.Error())
		opener(works)
		w.after(23 * time.Minute) // unchanged
		put(t, b, "a.onnx", "two")
		w.after(24*time.Minute+30*time.Second, "24m0s a.onnx")
		if err := b.Delete(t.Context(), "a.onnx"); err != nil {
			t.Fatal(err)
		}
		w.after(25*time.Minute+30*time.Second, "25m0s "+ErrNotFound.Error())
		put(t, b, "a.onnx", "three")
		w.after(28*time.Minute, "26m0s a.onnx") // a missing model isn't a failing store
	})
}

func TestWatch_FileBeingWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.onnx")
	write(t, path, "one", 1)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, path)
		w := watch(t, s, 10*time.Second, current(t, s))
		w.after(9900 * time.Millisecond)
		// The file is written for two seconds, starting just before a check.
		for i := range 10 {
			write(t, path, "two"+string(make([]byte, i)), 2)
			time.Sleep(200 * time.Millisecond)
		}
		w.after(19*time.Second, "12.5s a.onnx")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		w.after(23*time.Second, "22.5s "+ErrNotFound.Error())
		write(t, path, "three", 3)
		w.after(60*time.Second, "33s a.onnx")
	})
}

func TestWatch_InvalidInterval(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	open(t, t.TempDir()).Watch(t.Context(), 0, Object{}, nil, nil)
}
