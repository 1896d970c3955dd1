package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"golang.org/x/sync/errgroup"

	"larkside/session"
)

// The scenarios that are about what larkside keeps.

// many is how many sessions "many users" are.
const many = 100_000

// manyUsers is a SQLite file with the sessions of many users, made when it is
// first needed.
func (b *bench) manyUsers(ctx context.Context) (*database, error) {
	if b.manyStore != nil {
		return b.manyStore, nil
	}
	s, err := b.sqlite()
	if err != nil {
		return nil, err
	}
	if err := b.seed(ctx, s, 0, many, nil); err != nil {
		return nil, err
	}
	b.manyStore = s
	return s, nil
}

// refreshing is the open loop on a larkside of which one in twenty of the
// sessions is always about to be renewed behind its requests, and on one whose
// sweep renews idle sessions all the time.
func (b *bench) refreshing(ctx context.Context) (err error) {
	const users, due, idle = 1000, 50, 3000
	tuned, err := b.startReference("tuned", false)
	if err != nil {
		return err
	}
	targets := []*target{b.none(false), tuned}
	defer func() {
		for _, t := range targets {
			t.stop()
		}
	}()
	var admins []string
	for _, v := range []struct {
		name string
		n    int
		env  []string
		with func(int, *session.Session)
	}{
		{name: "larkside", n: users},
		{
			name: "larkside, 5 % refreshed", n: users,
			// Renewed once a token is 1.2 s old and used, and good for a minute: so
			// that each request finds one that lives. Everyone else's lives for a day.
			env: []string{"LARKSIDE_REFRESH_THRESHOLD=0.98"},
			with: func(user int, g *session.Session) {
				g.ExpiresAt = g.IssuedAt.Add(24 * time.Hour)
				if user < due {
					g.RefreshToken = session.NewSecret(refreshToken(user, 0, 60))
					g.ExpiresAt = g.IssuedAt.Add(time.Minute)
				}
			},
		},
		{
			name: "larkside, sweep", n: users + idle,
			env: []string{"LARKSIDE_REFRESH_SWEEP=1s", "LARKSIDE_REFRESH_RATE=40/1s"},
			with: func(user int, g *session.Session) {
				if user >= users { // six days old: its refresh token has one to live
					g.IssuedAt = g.IssuedAt.Add(-6 * 24 * time.Hour)
					g.ExpiresAt = g.IssuedAt.Add(2 * time.Hour)
					g.RefreshExpiresAt = g.IssuedAt.Add(7 * 24 * time.Hour)
				}
			},
		},
	} {
		s, err := b.sqlite()
		if err != nil {
			return err
		}
		if err := b.seed(ctx, s, 0, v.n, v.with); err != nil {
			return err
		}
		r, err := b.startLarkside(larksideOptions{name: v.name, store: s, env: v.env})
		if err != nil {
			return err
		}
		targets, admins = append(targets, r.target), append(admins, r.admin)
	}
	for _, t := range targets {
		if _, err := b.drive(ctx, t.to(job{Loop: onceEach, Conns: 4, Users: users})); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	if err := b.openOver(ctx, "refresh", "HTTP/1.1", targets, users); err != nil {
		return err
	}
	for i, url := range admins {
		n, err := counter(url+"/metrics", `larkside_refreshes_total{class="renewed"`)
		if err != nil {
			return err
		}
		fmt.Fprintf(b.out, "%s: %.0f sessions renewed over the whole time\n", targets[i+2].name, n)
		b.note("refresh", "HTTP/1.1", targets[i+2].name, "sessions renewed", []float64{n}, nil)
	}
	return nil
}

// miss compares the look-up of a session that is not cached with a bare SELECT
// by primary key.
func (b *bench) miss(ctx context.Context) error {
	rows := [][]string{{"database", "SELECT p50 µs", "miss p50 µs", "miss vs SELECT"}}
	for _, db := range []struct {
		name string
		make func() (*database, error)
	}{{"SQLite", b.sqlite}, {"PostgreSQL", b.postgres}} {
		s, err := db.make()
		if errors.Is(err, errNoPostgres) {
			fmt.Fprintf(b.out, "miss on PostgreSQL left out: %v\n", err)
			continue
		}
		if err != nil {
			return err
		}
		selects, misses, err := b.missOn(ctx, s, db.name == "PostgreSQL")
		s.drop()
		if err != nil {
			return err
		}
		b.note("miss", db.name, "SELECT", "p50 µs", selects, nil)
		ratio := b.note("miss", db.name, "larkside", "p50 µs", misses, selects)
		rows = append(rows, []string{db.name, middle(over(selects), "%.1f"), middle(over(misses), "%.1f"), cell(ratio, "%.2f")})
	}
	b.table("A session that is not cached: read and unsealed, beside a bare SELECT", rows)
	return nil
}

func (b *bench) missOn(ctx context.Context, s *database, postgres bool) (selects, misses []float64, err error) {
	const users = 1000
	if err := b.seed(ctx, s, 0, users, nil); err != nil {
		return nil, nil, err
	}
	open, err := s.open(ctx, nil)
	if err != nil {
		return nil, nil, err
	}
	defer open.Close()
	driver, dsn := "sqlite", "file:"+strings.TrimPrefix(s.url, "sqlite:")+"?_pragma=busy_timeout(5000)"
	if postgres {
		// One round trip for a statement, as the store has it.
		driver, dsn = "postgres", s.url+"&binary_parameters=yes"
	}
	db, err := sqlx.Open(driver, dsn)
	if err != nil {
		return nil, nil, err
	}
	defer db.Close()
	var row struct {
		Token []byte `db:"access_token"`
	}
	const query = `SELECT access_token FROM sessions WHERE app_id = $1 AND open_id = $2`
	for range max(3, b.rounds) {
		var bare, ours []int64
		for i := range 2 * users {
			user, begin := userName(i*7919%users), time.Now()
			if i%2 == 0 {
				err = db.GetContext(ctx, &row, query, appID, user)
				bare = append(bare, int64(time.Since(begin)))
			} else {
				// Access asks the database, whatever is cached.
				_, err = open.Sessions.Access(ctx, session.Key{AppID: appID, OpenID: user})
				ours = append(ours, int64(time.Since(begin)))
			}
			if err != nil {
				return nil, nil, err
			}
		}
		selects, misses = append(selects, median(bare)/1000), append(misses, median(ours)/1000)
	}
	return selects, misses, nil
}

// ready is the time to a larkside that serves.
func (b *bench) ready(ctx context.Context) error {
	rows := [][]string{{"database", "sessions stored", "ready after ms"}}
	sqlite, err := b.manyUsers(ctx)
	if err != nil {
		return err
	}
	postgres, err := b.postgres()
	if errors.Is(err, errNoPostgres) {
		fmt.Fprintf(b.out, "ready on PostgreSQL left out: %v\n", err)
	} else if err != nil {
		return err
	} else {
		defer postgres.drop()
		if err := b.clone(ctx, postgres); err != nil {
			return err
		}
	}
	for _, db := range []struct {
		name string
		s    *database
	}{{"SQLite", sqlite}, {"PostgreSQL", postgres}} {
		if db.s == nil {
			continue
		}
		var took []float64
		for range max(5, b.rounds) {
			r, err := b.startLarkside(larksideOptions{name: "larkside", store: db.s})
			if err != nil {
				return err
			}
			r.stop()
			took = append(took, float64(r.took)/1e6)
		}
		b.note("ready", db.name, "larkside", "ms", took, nil)
		rows = append(rows, []string{db.name, fmt.Sprint(many), cell(over(took), "%.0f")})
	}
	b.table("From the start of the process to ready", rows)
	return nil
}

// clone fills a PostgreSQL database with rows that count, but do not open: each
// has the tokens of another user.
func (b *bench) clone(ctx context.Context, s *database) error {
	if err := b.seed(ctx, s, 0, 1, nil); err != nil {
		return err
	}
	db, err := sqlx.Open("postgres", s.url)
	if err != nil {
		return err
	}
	defer db.Close()
	var columns []string
	if err := db.SelectContext(ctx, &columns, `SELECT column_name FROM information_schema.columns
		WHERE table_schema = current_schema() AND table_name = 'sessions' AND is_generated = 'NEVER' AND column_name <> 'open_id'`); err != nil {
		return err
	}
	list := ""
	for _, c := range columns {
		list += ", " + c
	}
	_, err = db.ExecContext(ctx, fmt.Sprintf(`INSERT INTO sessions (open_id%s)
		SELECT 'ou_load' || lpad(i::text, %d, '0')%s FROM sessions, generate_series(1, %d) AS i`, list, userDigits, list, many-1))
	if err == nil {
		_, err = db.ExecContext(ctx, "ANALYZE sessions")
	}
	return err
}

// memory is what a larkside keeps in RAM.
func (b *bench) memory(ctx context.Context) error {
	const streams, size = 64, 16 << 20
	s, err := b.manyUsers(ctx)
	if err != nil {
		return err
	}
	empty, err := b.sqlite()
	if err != nil {
		return err
	}
	rows := [][]string{{"", "MiB resident", ""}}
	idle, err := b.startLarkside(larksideOptions{name: "larkside", store: empty})
	if err != nil {
		return err
	}
	defer idle.stop()
	time.Sleep(2 * time.Second) // idle is what it is after a while
	base, err := residentMiB(idle.child.pid())
	if err != nil {
		return err
	}
	b.note("memory", "idle", "larkside", "MiB resident", []float64{base}, nil)
	rows = append(rows, []string{"idle", fmt.Sprintf("%.1f", base), ""})

	full, err := b.startLarkside(larksideOptions{name: "larkside", store: s})
	if err != nil {
		return err
	}
	defer full.stop()
	before, err := residentMiB(full.child.pid())
	if err != nil {
		return err
	}
	if _, err := b.drive(ctx, full.to(job{Loop: onceEach, Conns: 16, Users: many})); err != nil {
		return err
	}
	after, err := residentMiB(full.child.pid())
	if err != nil {
		return err
	}
	tokens := float64(many*tokenBytes) / (1 << 20)
	b.note("memory", "100000 users cached", "larkside", "MiB resident more", []float64{after - before}, []float64{tokens})
	rows = append(rows, []string{
		fmt.Sprintf("%d users cached, with %.0f MiB of tokens", many, tokens), fmt.Sprintf("+%.0f", after-before),
		fmt.Sprintf("%.2f × the tokens", (after-before)/tokens),
	})

	for _, way := range []loop{download, upload} {
		// Streams are told from users: one user, and a process that has done
		// nothing else.
		one, err := b.startSeeded(ctx, "larkside", false)
		if err != nil {
			return err
		}
		defer one.stop()
		if _, err := b.drive(ctx, one.to(job{Loop: closedLoop, Conns: streams, Users: 1, Length: b.length})); err != nil {
			return err
		}
		before, err := residentMiB(one.child.pid())
		if err != nil {
			return err
		}
		most := before
		g, gctx := errgroup.WithContext(ctx)
		done := make(chan struct{})
		g.Go(func() error {
			defer close(done)
			_, err := b.drive(gctx, one.to(job{Loop: way, Conns: streams, Users: 1, Size: size, Length: 2 * b.length}))
			return err
		})
		for running := true; running; {
			select {
			case <-done:
				running = false
			case <-time.After(20 * time.Millisecond):
				if now, err := residentMiB(one.child.pid()); err == nil {
					most = max(most, now)
				}
			}
		}
		if err := g.Wait(); err != nil {
			return err
		}
		b.note("memory", "64 streams "+string(way), "larkside", "MiB resident more", []float64{most - before}, nil)
		rows = append(rows, []string{fmt.Sprintf("%d parallel streams, %s", streams, way), fmt.Sprintf("+%.1f", most-before), fmt.Sprintf("from %.1f after small requests", before)})
	}
	b.table("Memory", rows)
	return nil
}

// expiry is a morning on which all sessions have expired: three replicas on one
// PostgreSQL, everybody comes at once, and others' tokens are cached.
func (b *bench) expiry(ctx context.Context) error {
	const users, expired, perSecond, replicas = 64, 5000, 200, 3
	s, err := b.postgres()
	if errors.Is(err, errNoPostgres) {
		fmt.Fprintf(b.out, "expiry left out: %v\n", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer s.drop()
	err = b.seed(ctx, s, 0, users+expired, func(user int, g *session.Session) {
		if user >= users {
			g.IssuedAt = g.IssuedAt.Add(-3 * time.Hour)
			g.ExpiresAt = g.IssuedAt.Add(2 * time.Hour)
		}
	})
	if err != nil {
		return err
	}
	var addrs []string
	var pids []int
	for range replicas {
		r, err := b.startLarkside(larksideOptions{name: "larkside", store: s, env: []string{fmt.Sprintf("LARKSIDE_REFRESH_RATE=%d/1s", perSecond)}})
		if err != nil {
			return err
		}
		defer r.stop()
		addrs, pids = append(addrs, r.addr), append(pids, r.child.pid())
	}
	hits := job{Loop: openLoop, Addrs: addrs, Conns: 48, Users: users, Rate: b.rate / 4, Warm: time.Second, Length: 5 * time.Second}
	if _, err := b.drive(ctx, job{Loop: onceEach, Addrs: addrs, Conns: replicas * 4, Users: users}); err != nil {
		return err
	}
	quiet, err := b.drive(ctx, hits)
	if err != nil {
		return err
	}
	var busy, all *outcome
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		all, err = b.drive(gctx, job{Loop: onceEach, Addrs: addrs, PIDs: pids, Conns: 510, First: users, Users: expired})
		return err
	})
	g.Go(func() (err error) { busy, err = b.drive(gctx, hits); return err })
	if err := g.Wait(); err != nil {
		return err
	}
	// The first second's calls may all be made at its beginning.
	allowed := float64(expired)/perSecond - 1
	b.note("expiry", "3 replicas", "larkside", "seconds", []float64{all.Seconds}, []float64{allowed})
	b.note("expiry", "3 replicas", "larkside", "p99 µs of hits", []float64{busy.P99}, []float64{quiet.P99})
	b.table(fmt.Sprintf("%d sessions have expired, three replicas, REFRESH_RATE=%d/1s, %.0f hits/s beside them", expired, perSecond, hits.Rate), [][]string{
		{"", "", "vs"},
		{"all renewed after", fmt.Sprintf("%.1f s", all.Seconds), fmt.Sprintf("%.2f of the %.1f s that the rate allows", all.Seconds/allowed, allowed)},
		{"hits meanwhile, p50", fmt.Sprintf("%.0f µs", busy.P50), fmt.Sprintf("%.2f of quiet (%.0f µs)", busy.P50/quiet.P50, quiet.P50)},
		{"hits meanwhile, p99", fmt.Sprintf("%.0f µs", busy.P99), fmt.Sprintf("%.2f of quiet (%.0f µs)", busy.P99/quiet.P99, quiet.P99)},
		{"CPU of the replicas", fmt.Sprintf("%.1f s", all.CPU), ""},
	})
	return nil
}
