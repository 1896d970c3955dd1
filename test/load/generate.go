package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
	"github.com/valyala/fasthttp"
	"golang.org/x/sync/errgroup"

	"larkside/test/load/tokens"
)

// closed sends requests to h over conns connections, each when it has the answer
// to the one before, as long as next names a user. next is called concurrently.
func (h *hop) closed(ctx context.Context, conns int, next func() (user int, ok bool)) (sent int64, err error) {
	var count atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range conns {
		g.Go(func() error {
			req, res := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			req.SetRequestURI(h.url + jsonPath)
			for user, ok := next(); ok && ctx.Err() == nil; user, ok = next() {
				name := tokens.User(user)
				req.Header.Set("X-Lark-User-Id", name)
				if err := h.fast.Do(req, res); err != nil {
					return err
				}
				if err := check(name, res.StatusCode(), string(res.Header.Peek(ownerHeader))); err != nil {
					return fmt.Errorf("%w: %.200s", err, res.Body())
				}
				count.Add(1)
			}
			return ctx.Err()
		})
	}
	err = g.Wait()
	return count.Load(), err
}

// during names users at random until length is over.
func during(length time.Duration, users int) func() (int, bool) {
	end := time.Now().Add(length)
	return func() (int, bool) { return rand.IntN(users), time.Now().Before(end) }
}

// once names each of n users once, from first on.
func once(first, n int) func() (int, bool) {
	var next atomic.Int64
	return func() (int, bool) {
		i := int(next.Add(1)) - 1
		return first + i, i < n
	}
}

// measure runs a closed loop, the beginning of which is not counted.
func (h *hop) measure(ctx context.Context, conns, users int, length time.Duration) (sample, error) {
	if _, err := h.closed(ctx, conns, during(min(length/4, 250*time.Millisecond), users)); err != nil {
		return sample{}, err
	}
	before, err := h.process.cpu()
	if err != nil {
		return sample{}, err
	}
	began := time.Now()
	n, after := int64(0), before
	for after == before { // the system counts CPU time in ticks, which a short loop may not reach
		more, err := h.closed(ctx, conns, during(length, users))
		if err != nil {
			return sample{}, err
		}
		if after, err = h.process.cpu(); err != nil {
			return sample{}, err
		}
		n += more
	}
	took := time.Since(began)
	return sample{float64(n) / took.Seconds(), float64((after - before).Microseconds()) / float64(n)}, nil
}

// open sends rate requests a second to the hops in turn, whatever the answers
// do, and returns the latencies of those sent after warm.
func open(ctx context.Context, hops []*hop, rate, users int, warm, length time.Duration) (sample, error) {
	var turn atomic.Int64
	targeter := func(t *vegeta.Target) error {
		h, user := hops[int(turn.Add(1))%len(hops)], tokens.User(rand.IntN(users))
		t.Method, t.URL, t.Header = "GET", h.url+jsonPath, http.Header{"X-Lark-User-Id": {user}}
		if h.process == nil {
			t.Header = http.Header{"Authorization": {"Bearer " + tokens.Of(user)}}
		}
		return nil
	}
	attacker := vegeta.NewAttacker(vegeta.Client(hops[0].client), vegeta.Workers(64))
	defer context.AfterFunc(ctx, func() { attacker.Stop() })()
	var m vegeta.Metrics
	var failed error
	began := time.Now()
	for r := range attacker.Attack(targeter, punctual{vegeta.ConstantPacer{Freq: rate, Per: time.Second}}, warm+length, "") {
		if r.Error != "" && failed == nil {
			failed = errors.New(r.Error)
			attacker.Stop()
		}
		if r.Timestamp.Sub(began) >= warm {
			m.Add(r)
		}
	}
	m.Close()
	if failed == nil && m.Requests == 0 {
		failed = errors.New("nothing was sent")
	}
	return sample{float64(m.Latencies.P50) / 1e3, float64(m.Latencies.P99) / 1e3}, errors.Join(failed, ctx.Err())
}

// punctual waits by itself until the next request is due. vegeta would wait by
// time.Sleep, which overshoots by up to a millisecond, and would then send two
// requests at once: at 1,000 a second one in five.
type punctual struct{ vegeta.ConstantPacer }

func (p punctual) Pace(elapsed time.Duration, sent uint64) (time.Duration, bool) {
	wait, stop := p.ConstantPacer.Pace(elapsed, sent)
	if wait > 0 {
		sleep(wait)
	}
	return 0, stop
}

// stream sends or receives one body of size bytes.
func (h *hop) stream(ctx context.Context, method string, size int64) error {
	var body io.Reader
	if method == "POST" {
		body = io.LimitReader(zeros{}, size)
	}
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("%s%s?bytes=%d", h.url, streamPath, size), body)
	if err != nil {
		return err
	}
	req.Header.Set("X-Lark-User-Id", tokens.User(0))
	want := size
	if body != nil {
		req.ContentLength, want = size, int64(len(answer))
	}
	res, err := h.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if n, err := io.Copy(io.Discard, res.Body); err != nil || n != want {
		return fmt.Errorf("%d of %d bytes: %w", n, want, err)
	}
	return nil
}

// checked makes an answer to another user an error.
type checked struct{ http.RoundTripper }

func (c checked) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := c.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	user := r.Header.Get("X-Lark-User-Id")
	if user == "" {
		user = tokens.Owner(r.Header.Get("Authorization"))
	}
	if err := check(user, res.StatusCode, res.Header.Get(ownerHeader)); err != nil {
		res.Body.Close()
		return nil, err
	}
	return res, nil
}

func check(user string, status int, owner string) error {
	if status != http.StatusOK || owner != user {
		return fmt.Errorf("asked for %s: status %d, and the token of %q", user, status, owner)
	}
	return nil
}
