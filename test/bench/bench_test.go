// Package bench measures what Larkside costs, in ratios to the least that could
// do the same, in one run:
//
//	go test -run '^$' -bench . -benchmem -count 6 ./test/bench | benchstat -
//
// PostgreSQL takes part when LARKSIDE_TEST_POSTGRES is set.
package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"larkside/proxy"
	"larkside/refresh"
	"larkside/session"
	"larkside/session/lark"
	"larkside/session/store"
	"larkside/test/dbtest"
	"larkside/test/larktest"
)

const path = "/open-apis/apaas/v1/workspaces/workspace_x/tables"

var answer = []byte(`{"code":0,"msg":"success","data":{"items":"` + strings.Repeat("x", 1000) + `"}}`)

// upstream answers 1 KiB of JSON on loopback.
func upstream(b *testing.B) *url.URL {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Write(answer)
	}))
	b.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		b.Fatal(err)
	}
	return u
}

// grant is a consent's outcome with tokens of Lark's size.
func grant(i int, life time.Duration) session.Session {
	now := time.Now()
	return session.Session{
		Key:         session.Key{AppID: larktest.AppID, OpenID: fmt.Sprintf("ou_user%d", i)},
		AccessToken: session.NewSecret(fmt.Sprintf("%08d", i) + strings.Repeat("t", 1492)), RefreshToken: session.NewSecret(fmt.Sprintf("%08d", i) + strings.Repeat("r", 1492)),
		TokenType: "Bearer", TokenURL: "https://accounts.example/oauth/v3/token",
		IssuedAt: now, ExpiresAt: now.Add(life), RefreshExpiresAt: now.Add(7 * 24 * time.Hour), GrantedAt: now, SyncedAt: now,
	}
}

// stored puts n users into a new store.
func stored(b *testing.B, db *dbtest.DB, n int) *store.DB {
	s := db.Open(b, nil)
	for i := range n {
		if _, err := s.Sessions.Put(b.Context(), grant(i, 2*time.Hour)); err != nil {
			b.Fatal(err)
		}
	}
	return s
}

// idleLark is never asked.
type idleLark struct{ refresh.Lark }

func source(b *testing.B, db *store.DB, client refresh.Lark) *refresh.Source {
	s, err := refresh.New(refresh.Config{
		Sessions: db.Sessions, Leases: db.Leases, Profiles: db.Profiles, Rates: db.Rates, Elections: db.Elections, Changes: db.Changes,
		Apps:   map[string]refresh.Lark{larktest.AppID: client},
		Limits: []session.Limit{{N: 1_000_000, Period: time.Second}},
	})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func larkside(b *testing.B, to *url.URL, tokens proxy.TokenSource, transport http.RoundTripper) http.Handler {
	h, err := proxy.New(proxy.Config{
		UserTokenRefusal: lark.UserTokenRefusal, TenantTokenRefusal: lark.TenantTokenRefusal,
		Upstream: to, Transport: transport, Apps: []string{larktest.AppID},
		InjectPaths: []string{"/open-apis/apaas/"}, Tokens: tokens, ReplayBuffer: 64 << 10,
	})
	if err != nil {
		b.Fatal(err)
	}
	return h
}

// bare is a ReverseProxy with Rewrite, a buffer pool and a sized transport, and
// nothing else.
func bare(to *url.URL, transport http.RoundTripper) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host
			r.Out.Header.Set("Authorization", "Bearer token")
		},
		Transport: transport, BufferPool: &pool{},
	}
}

type pool struct{ p sync.Pool }

func (p *pool) Get() []byte {
	if b, ok := p.p.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}

func (p *pool) Put(b []byte) { p.p.Put(&b) }

// drive sends requests through a listener, as an app would.
func drive(b *testing.B, h http.Handler, user func() string) {
	front := httptest.NewServer(h)
	b.Cleanup(front.Close)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}}
	b.ReportAllocs()
	b.SetParallelism(16)
	b.ResetTimer()
	before := processorTime(b)
	// Less moved by what else the machine does than the time on the clock. The
	// client and upstream are in it.
	defer func() { b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op") }()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, _ := http.NewRequest("GET", front.URL+path, nil)
			req.Header.Set("X-Lark-User-Id", user())
			resp, err := client.Do(req)
			if err != nil {
				b.Error(err)
				return
			}
			n, _ := io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 || n != int64(len(answer)) {
				b.Errorf("status %d, %d bytes", resp.StatusCode, n)
				return
			}
		}
	})
}

// processorTime is what this process has used, in it and in the kernel.
func processorTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func alwaysUserZero() string { return "ou_user0" }

// BenchmarkHit is the hot path through sockets: the session is in the cache.
// What proxy=bare costs is the measure.
func BenchmarkHit(b *testing.B) {
	to := upstream(b)
	rt := proxy.NewTransport(proxy.TransportConfig{})
	b.Run("proxy=bare", func(b *testing.B) { drive(b, bare(to, rt), alwaysUserZero) })
	b.Run("proxy=larkside", func(b *testing.B) {
		src := source(b, stored(b, dbtest.SQLite(b), 1), idleLark{})
		drive(b, larkside(b, to, src, rt), alwaysUserZero)
	})
}

// slowLark holds every refresh until the benchmark is over.
type slowLark struct {
	refresh.Lark
	release chan struct{}
	asked   atomic.Int32
}

func (l *slowLark) Refresh(ctx context.Context, _ string, _ session.Secret) (lark.Token, error) {
	l.asked.Add(1)
	<-l.release
	return lark.Token{}, &lark.Error{Class: lark.Retry, Outcome: lark.NotSent}
}

// BenchmarkToken is finding the token alone, of one user and of many, and of one
// whose refresh is in flight behind the requests: that must cost what a hit does.
func BenchmarkToken(b *testing.B) {
	run := func(b *testing.B, src *refresh.Source, users int) {
		b.ReportAllocs()
		var next atomic.Int64
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			i := int(next.Add(1)) * 7919
			for pb.Next() {
				i++
				key := session.Key{AppID: larktest.AppID, OpenID: names[i%users]}
				if _, _, err := src.Token(context.Background(), key); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	b.Run("one", func(b *testing.B) { run(b, source(b, stored(b, dbtest.SQLite(b), 1), idleLark{}), 1) })
	b.Run("thousand", func(b *testing.B) { run(b, source(b, stored(b, dbtest.SQLite(b), 1000), idleLark{}), 1000) })
	b.Run("refreshing", func(b *testing.B) {
		db := dbtest.SQLite(b).Open(b, nil)
		g := grant(0, 2*time.Hour)
		g.IssuedAt, g.ExpiresAt = time.Now().Add(-115*time.Minute), time.Now().Add(5*time.Minute)
		if _, err := db.Sessions.Put(b.Context(), g); err != nil {
			b.Fatal(err)
		}
		l := &slowLark{release: make(chan struct{})}
		src := source(b, db, l)
		b.Cleanup(func() { close(l.release); src.Shutdown(context.Background()) })
		run(b, src, 1)
		if l.asked.Load() > 1 {
			b.Errorf("%d refreshes", l.asked.Load())
		}
	})
}

var names = func() []string {
	all := make([]string, 100_000)
	for i := range all {
		all[i] = fmt.Sprintf("ou_user%d", i)
	}
	return all
}()

// BenchmarkMiss is a look-up that the database has to answer, against a bare
// SELECT by primary key in the same run.
func BenchmarkMiss(b *testing.B) {
	each := func(b *testing.B, db *dbtest.DB) {
		const users = 1000
		s := stored(b, db, users)
		b.Run("select", func(b *testing.B) {
			raw := db.SQL(b)
			if db.Postgres {
				raw = db.SQLBinary(b)
			}
			raw.SetMaxIdleConns(16)
			for i := 0; b.Loop(); i++ {
				var access []byte
				err := raw.QueryRow(`SELECT access_token FROM sessions WHERE app_id = $1 AND open_id = $2`, larktest.AppID, names[i%users]).Scan(&access)
				if err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("larkside", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := s.Sessions.Access(context.Background(), session.Key{AppID: larktest.AppID, OpenID: names[i%users]}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("db=sqlite", func(b *testing.B) { each(b, dbtest.SQLite(b)) })
	b.Run("db=postgres", func(b *testing.B) { each(b, dbtest.Postgres(b)) })
}

// BenchmarkMemory reports what 100,000 cached users with tokens of 1.5 KB hold,
// as a multiple of the bytes of the access tokens.
func BenchmarkMemory(b *testing.B) {
	const users = 100_000
	for b.Loop() {
		db := dbtest.SQLite(b).Open(b, func(c *store.Config) { c.CacheSize = users })
		heap := func() float64 {
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return float64(m.HeapAlloc)
		}
		before := heap()
		for i := range users {
			if _, err := db.Sessions.Put(b.Context(), grant(i, 2*time.Hour)); err != nil {
				b.Fatal(err)
			}
		}
		used := heap() - before
		b.ReportMetric(used/(1<<20), "MiB")
		b.ReportMetric(used/(users*1500), "x-tokens")
		runtime.KeepAlive(db)
	}
}

// BenchmarkRefresh is how fast expired sessions are renewed against an emulator
// without limits: by one replica, and by three on one PostgreSQL.
func BenchmarkRefresh(b *testing.B) {
	for _, replicas := range []int{1, 3} {
		b.Run(fmt.Sprintf("replicas=%d", replicas), func(b *testing.B) {
			platform := larktest.Start(b, &larktest.Config{TokenPerSecond: -1, TokenPerMinute: -1, AdHocUsers: true})
			client, err := lark.New(lark.Config{
				AppID: larktest.AppID, Secret: func() session.Secret { return session.NewSecret(larktest.AppSecret) },
				OpenURL: platform.URL, AccountsURL: platform.URL, TokenURL: platform.URL + "/open-apis/authen/v2/oauth/token",
			})
			if err != nil {
				b.Fatal(err)
			}
			empty := dbtest.Postgres(b)
			sources := make([]*refresh.Source, replicas)
			var db *store.DB
			for i := range sources {
				db = empty.Open(b, nil)
				sources[i] = source(b, db, client)
			}
			keys := make([]session.Key, b.N)
			for i := range keys {
				keys[i] = expired(b, platform, db, i)
			}
			b.ResetTimer()
			work := make(chan int, 64)
			var wg sync.WaitGroup
			for range 48 {
				wg.Go(func() {
					for i := range work {
						if _, _, err := sources[i%replicas].Token(context.Background(), keys[i]); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for i := range keys {
				work <- i
			}
			close(work)
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "refreshes/s")
		})
	}
}

func expired(b *testing.B, platform *larktest.Platform, db *store.DB, i int) session.Key {
	openID := fmt.Sprintf("ou_bench%d", i)
	g := dbtest.Session(b, platform, dbtest.Key(openID), time.Now().Add(-3*time.Hour))
	if _, err := db.Sessions.Put(b.Context(), g); err != nil {
		b.Fatal(err)
	}
	return g.Key
}
