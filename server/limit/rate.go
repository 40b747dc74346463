package limit

import (
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/limiter"
)

// Limit returns a middleware that rejects, with the given detail, requests of a client that has sent more than n
// of them during the window. Requests for which exempt, which may be nil, returns true aren't counted.
func (s *Clients) Limit(n int, window time.Duration, detail string, exempt func(*fiber.Ctx) bool) fiber.Handler {
	return limiter.New(limiter.Config{
		Max:               n,
		Expiration:        window,
		LimiterMiddleware: limiter.SlidingWindow{},
		KeyGenerator:      s.Key,
		Next:              exempt,
		LimitReached:      func(*fiber.Ctx) error { return fiber.NewError(fiber.StatusTooManyRequests, detail) },
	})
}

// Rate limits the rate of requests per client: it counts those of the current second, and those
// of the previous one by the share of it that is less than a second ago. Its zero value is ready to use.
type Rate struct {
	mu          sync.Mutex
	second      int64
	before, now map[string]int
}

// Allow counts a request of the client at time t, and reports whether it is within the limit.
func (l *Rate) Allow(client string, limit int, t time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := t.Unix(); s != l.second {
		l.before = nil
		if s == l.second+1 {
			l.before = l.now
		}
		l.second, l.now = s, map[string]int{}
	}
	recent := float64(l.before[client]) * (1 - float64(t.Nanosecond())/1e9)
	if recent+float64(l.now[client]) >= float64(limit) {
		return false
	}
	l.now[client]++
	return true
}
