// Package load generates HTTP load on a server on the same machine and measures rate and latencies.
//
// Build a request with [Request] and send it with [ClosedLoop] or [Users]. Because the load
// generator shares the cores with the server it measures, it does as little as possible: requests
// are prepared bytes, and only the status and length of a response are parsed.
package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Request returns the bytes of a POST request.
func Request(path, contentType string, body []byte) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", path, contentType, len(body), body)
}

// Run is the result of one load test.
type Run struct {
	// Responses is the number of responses with status 200.
	Responses int
	// Took is the duration of the run.
	Took time.Duration
	// latencies holds one latency per response, sorted.
	latencies []time.Duration
}

// Rate returns the number of responses per second.
func (r *Run) Rate() float64 { return float64(r.Responses) / r.Took.Seconds() }

// Quantile returns the q-quantile of the latencies, with q in [0,1]. It returns 0 if there were no
// responses.
func (r *Run) Quantile(q float64) time.Duration {
	if len(r.latencies) == 0 {
		return 0
	}
	return r.latencies[min(int(q*float64(len(r.latencies))), len(r.latencies)-1)]
}

// Limit ends a run after a time or a number of requests. 0 means no limit, but at least one of the
// two must be set.
type Limit struct {
	Time     time.Duration
	Requests int
}

// ClosedLoop sends the request on each of several connections, again as soon as the response has
// arrived. Any status other than 200 ends the run with an error. addr must be a loopback address.
func ClosedLoop(ctx context.Context, addr string, request []byte, connections int, limit Limit) (*Run, error) {
	return run(addr, limit, func(addr netip.AddrPort) (*Run, error) {
		return closed(ctx, addr, request, connections, limit)
	})
}

// Users simulates users that each send the request repeatedly, and wait for a random time between
// least and most before each request.
func Users(ctx context.Context, addr string, request []byte, users int, least, most time.Duration, limit Limit) (*Run, error) {
	return run(addr, limit, func(addr netip.AddrPort) (*Run, error) {
		return goroutines(ctx, addr, request, users, limit, func() time.Duration { return least + rand.N(most-least) })
	})
}

// run checks the limit and the address before it calls measure.
func run(addr string, limit Limit, measure func(netip.AddrPort) (*Run, error)) (*Run, error) {
	if limit.Time <= 0 && limit.Requests <= 0 {
		return nil, errors.New("load: no limit: set a time or a number of requests")
	}
	a, err := netip.ParseAddrPort(addr)
	if err != nil || !a.Addr().IsLoopback() {
		return nil, fmt.Errorf("load: %q is not a loopback address", addr)
	}
	r, err := measure(a)
	if err != nil {
		return nil, fmt.Errorf("load on %s: %w", addr, err)
	}
	slices.Sort(r.latencies)
	return r, nil
}

// goroutines sends the request from one goroutine per connection.
func goroutines(ctx context.Context, addr netip.AddrPort, request []byte, connections int, limit Limit, think func() time.Duration) (*Run, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if limit.Time > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, limit.Time)
		defer stop()
	}
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		all   Run
		fault error
	)
	began := time.Now()
	for i := range connections {
		requests := 0 // no limit
		if limit.Requests > 0 {
			if requests = (limit.Requests + i) / connections; requests == 0 {
				continue
			}
		}
		group.Go(func() {
			latencies, err := sendRequests(ctx, addr.String(), request, requests, think)
			mu.Lock()
			defer mu.Unlock()
			all.latencies = append(all.latencies, latencies...)
			if err != nil && fault == nil {
				fault = err
				cancel()
			}
		})
	}
	group.Wait()
	all.Took = time.Since(began)
	if fault != nil {
		return nil, fault
	}
	all.Responses = len(all.latencies)
	return &all, nil
}

// sendRequests sends requests, or requests without limit if it is 0, on one connection.
func sendRequests(ctx context.Context, addr string, request []byte, requests int, think func() time.Duration) (latencies []time.Duration, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, ended(ctx, err)
	}
	defer func() { _ = conn.Close() }()
	// Interrupts blocked reads and writes.
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	r := bufio.NewReaderSize(conn, 4096)
	for n := 0; requests == 0 || n < requests; n++ {
		if think != nil {
			select {
			case <-time.After(think()):
			case <-ctx.Done():
				return latencies, nil
			}
		}
		began := time.Now()
		if _, err := conn.Write(request); err != nil {
			return latencies, ended(ctx, err)
		}
		if err := discardResponse(r); err != nil {
			return latencies, ended(ctx, err)
		}
		latencies = append(latencies, time.Since(began))
	}
	return latencies, nil
}

// ended returns err, or nil if err only means that the run is over.
func ended(ctx context.Context, err error) error {
	// The connection's deadline, which is the context's, can pass a moment before the context is done.
	if deadline, ok := ctx.Deadline(); ctx.Err() != nil || ok && !time.Now().Before(deadline) {
		return nil
	}
	return err
}

var (
	ok            = []byte("HTTP/1.1 200 ")
	contentLength = []byte("Content-Length: ")
)

// discardResponse reads and discards one response.
func discardResponse(r *bufio.Reader) error {
	status, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, ok) {
		rest, _ := r.Peek(r.Buffered())
		return fmt.Errorf("unexpected response: %s %.300s", bytes.TrimSpace(status), rest)
	}
	length := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if value, ok := bytes.CutPrefix(line, contentLength); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return fmt.Errorf("invalid Content-Length %q", bytes.TrimSpace(value))
			}
		}
	}
	if _, err := r.Discard(length); err != nil {
		return err
	}
	return nil
}
