// Package load puts a server of this machine under load and measures what comes
// back. It spends as little as it can, since it shares the cores with what it
// measures: requests are ready-made bytes, and of answers only what is needed is read.
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

// Run is what one run measured.
type Run struct {
	// Responses is the number of answers with the status 200.
	Responses int
	// Took is how long the run took.
	Took time.Duration
	// latencies, sorted, one for each answer.
	latencies []time.Duration
}

// Rate is in answers a second.
func (r *Run) Rate() float64 { return float64(r.Responses) / r.Took.Seconds() }

// Quantile is the latency that the share q of the answers, 0 to 1, did not exceed.
func (r *Run) Quantile(q float64) time.Duration {
	if len(r.latencies) == 0 {
		return 0
	}
	return r.latencies[min(int(q*float64(len(r.latencies))), len(r.latencies)-1)]
}

// Limit says when a run ends: after a time, or after a number of requests; 0 is no
// limit, but one of the two must be there.
type Limit struct {
	Time     time.Duration
	Requests int
}

// ClosedLoop sends the request on each of several connections, again as soon as it is
// answered. Any answer but 200 ends the run with an error. addr must be on the
// loopback interface.
func ClosedLoop(ctx context.Context, addr string, request []byte, connections int, limit Limit) (*Run, error) {
	return run(addr, limit, func(addr netip.AddrPort) (*Run, error) {
		return closed(ctx, addr, request, connections, limit)
	})
}

// Users sends the request for each of several users, who wait between two requests
// for a random time between least and most, as people do.
func Users(ctx context.Context, addr string, request []byte, users int, least, most time.Duration, limit Limit) (*Run, error) {
	return run(addr, limit, func(addr netip.AddrPort) (*Run, error) {
		return goroutines(ctx, addr, request, users, limit, func() time.Duration { return least + rand.N(most-least) })
	})
}

// run checks that the load is bounded and stays on this machine.
func run(addr string, limit Limit, measure func(netip.AddrPort) (*Run, error)) (*Run, error) {
	if limit.Time <= 0 && limit.Requests <= 0 {
		return nil, errors.New("load: a run without an end")
	}
	a, err := netip.ParseAddrPort(addr)
	if err != nil || !a.Addr().IsLoopback() {
		return nil, fmt.Errorf("load: %q is not an address of the loopback interface", addr)
	}
	r, err := measure(a)
	if err != nil {
		return nil, fmt.Errorf("load on %s: %w", addr, err)
	}
	slices.Sort(r.latencies)
	return r, nil
}

// goroutines sends the request from one goroutine a connection.
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
		requests := 0 // without a limit
		if limit.Requests > 0 {
			if requests = (limit.Requests + i) / connections; requests == 0 {
				continue
			}
		}
		group.Go(func() {
			latencies, err := one(ctx, addr.String(), request, requests, think)
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

// one is one connection's share of a run.
func one(ctx context.Context, addr string, request []byte, requests int, think func() time.Duration) (latencies []time.Duration, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, ended(ctx, err)
	}
	defer func() { _ = conn.Close() }()
	// Nothing else ends a read or write that waits.
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
		if err := answer(r); err != nil {
			return latencies, ended(ctx, err)
		}
		latencies = append(latencies, time.Since(began))
	}
	return latencies, nil
}

// ended is err, unless it only says that the run is over.
func ended(ctx context.Context, err error) error {
	// A connection's deadline, which is the context's, may pass a moment before the context sees it.
	if end, has := ctx.Deadline(); ctx.Err() != nil || has && !time.Now().Before(end) {
		return nil
	}
	return err
}

var (
	ok            = []byte("HTTP/1.1 200 ")
	contentLength = []byte("Content-Length: ")
)

// answer reads one answer and throws it away.
func answer(r *bufio.Reader) error {
	status, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, ok) {
		rest, _ := r.Peek(r.Buffered())
		return fmt.Errorf("answered %s %.300s", bytes.TrimSpace(status), rest)
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
				return fmt.Errorf("answered with the length %q", value)
			}
		}
	}
	if _, err := r.Discard(length); err != nil {
		return err
	}
	return nil
}
