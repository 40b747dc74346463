package load

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// serve starts a server and returns its address.
func serve(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// senders are the implementations that send requests without a pause.
var senders = map[string]func(ctx context.Context, addr string, request []byte, connections int, limit Limit) (*Run, error){
	"closed": ClosedLoop,
	"goroutines": func(ctx context.Context, addr string, request []byte, connections int, limit Limit) (*Run, error) {
		return run(addr, limit, func(a netip.AddrPort) (*Run, error) {
			return goroutines(ctx, a, request, connections, limit, nil)
		})
	},
}

func TestClosedLoop_CompleteRequestsAndResponses(t *testing.T) {
	for name, send := range senders {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{1, 3 << 20} { // the second is larger than the socket buffers
				want := strings.Repeat("x", size)
				var got, wrong atomic.Int64
				addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
					body, err := io.ReadAll(r.Body)
					if err != nil || string(body) != want || r.Method != http.MethodPost || r.URL.Path != "/x" || r.Header.Get("Content-Type") != "text/plain" {
						wrong.Add(1)
					}
					got.Add(1)
					w.Header().Set("Content-Length", "9000")
					_, _ = io.WriteString(w, strings.Repeat("y", 9000))
				})
				const requests = 23
				r, err := send(t.Context(), addr, Request("/x", "text/plain", []byte(want)), 4, Limit{Requests: requests})
				if err != nil || r.Responses != requests || got.Load() != requests || wrong.Load() != 0 {
					t.Fatalf("run = %+v, %v; the server received %d requests, %d of them wrong; want %d", r, err, got.Load(), wrong.Load(), requests)
				}
				if r.Rate() <= 0 || r.Quantile(0) <= 0 || r.Quantile(0) > r.Quantile(0.5) || r.Quantile(0.5) > r.Quantile(1) || r.Quantile(1) > r.Took {
					t.Errorf("rate %g, quantiles %v, %v and %v of a run of %v, want them positive and in order", r.Rate(), r.Quantile(0), r.Quantile(0.5), r.Quantile(1), r.Took)
				}
			}
		})
	}
}

func TestClosedLoop_Status503(t *testing.T) {
	for name, send := range senders {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			addr := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if n.Add(1) > 5 {
					http.Error(w, "too much", http.StatusServiceUnavailable)
				}
			})
			r, err := send(t.Context(), addr, Request("/", "text/plain", nil), 2, Limit{Requests: 1000})
			if err == nil || !strings.Contains(err.Error(), "503") {
				t.Errorf("run = %+v, %v, want an error containing 503", r, err)
			}
		})
	}
}

func TestClosedLoop_ConnectionClosed(t *testing.T) {
	for name, send := range senders {
		t.Run(name, func(t *testing.T) {
			addr := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
			if r, err := send(t.Context(), addr, Request("/", "text/plain", nil), 2, Limit{Requests: 10}); err == nil {
				t.Errorf("run = %+v, want an error", r)
			}
		})
	}
}

func TestClosedLoop_Limits(t *testing.T) {
	addr := serve(t, func(http.ResponseWriter, *http.Request) {})
	request := Request("/", "text/plain", nil)
	for name, send := range senders {
		t.Run(name, func(t *testing.T) {
			if r, err := send(t.Context(), addr, request, 3, Limit{Time: 500 * time.Millisecond}); err != nil || r.Took < 500*time.Millisecond || r.Responses == 0 {
				t.Errorf("run = %+v, %v, want responses for at least 500 ms", r, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			if _, err := send(ctx, addr, request, 3, Limit{Time: time.Hour}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestUsers(t *testing.T) {
	addr := serve(t, func(http.ResponseWriter, *http.Request) {})
	r, err := Users(t.Context(), addr, Request("/", "text/plain", nil), 5, 10*time.Millisecond, 20*time.Millisecond, Limit{Requests: 20})
	if err != nil || r.Responses != 20 || r.Took < 4*10*time.Millisecond {
		t.Errorf("Users = %+v, %v, want 20 responses after four pauses of at least 10 ms", r, err)
	}
	// The run doesn't wait for users who pause for longer.
	if r, err = Users(t.Context(), addr, Request("/", "text/plain", nil), 5, time.Hour, 2*time.Hour, Limit{Time: 10 * time.Millisecond}); err != nil || r.Responses != 0 || r.Quantile(0.5) != 0 {
		t.Errorf("Users = %+v, %v, want no responses", r, err)
	}
}

func TestClosedLoop_InvalidArguments(t *testing.T) {
	for _, test := range []struct {
		name, addr string
		limit      Limit
		word       string
	}{
		{"no limit", "127.0.0.1:1", Limit{}, "no limit"},
		{"remote address", "192.0.2.1:80", Limit{Requests: 1}, "loopback"},
		{"host name", "example.org:80", Limit{Requests: 1}, "loopback"},
		{"connection refused", "127.0.0.1:1", Limit{Requests: 1}, "refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := ClosedLoop(t.Context(), test.addr, nil, 1, test.limit); err == nil || !strings.Contains(err.Error(), test.word) {
				t.Errorf("ClosedLoop(%q) = %v, want an error containing %q", test.addr, err, test.word)
			}
		})
	}
}
