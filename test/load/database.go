package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"larkside/session"
	"larkside/session/seal"
	"larkside/session/store"
	"larkside/test/load/tokens"
)

const appID = "cli_load"

// database is one for sessions.
type database struct {
	kind, url string
	// keys are empty for SQLite: larkside makes a key file.
	keys session.Secret
	drop func()
}

func (b *bench) sqlite() (*database, error) {
	name := filepath.Join(b.dir, fmt.Sprintf("%d.db", time.Now().UnixNano()))
	return &database{kind: "SQLite", url: "sqlite:" + name, drop: func() {}}, nil
}

// postgresURL is of a server on which databases can be made; "" for none.
func postgresURL() string { return os.Getenv("LARKSIDE_TEST_POSTGRES") }

func (b *bench) postgres() (*database, error) {
	u, err := url.Parse(postgresURL())
	if err != nil {
		return nil, errors.New("LARKSIDE_TEST_POSTGRES is no URL") // the parser would quote its password
	}
	server, err := sql.Open("postgres", u.String())
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("larkside_load_%d", time.Now().UnixNano())
	if _, err := server.Exec("CREATE DATABASE " + name); err != nil {
		return nil, fmt.Errorf("LARKSIDE_TEST_POSTGRES: %w", err)
	}
	u.Path = "/" + name
	return &database{"PostgreSQL", u.String(), seal.NewKey("load"), func() {
		server.Exec("DROP DATABASE " + name + " WITH (FORCE)")
		server.Close()
	}}, nil
}

// onEach calls f with a database of each kind that there is, which has sessions.
func (b *bench) onEach(ctx context.Context, sessions int, f func(*database) error) error {
	kinds := []func() (*database, error){b.sqlite, b.postgres}
	if postgresURL() == "" {
		kinds = kinds[:1]
	}
	for _, kind := range kinds {
		d, err := b.seeded(ctx, kind, sessions, nil)
		if err != nil {
			return err
		}
		defer d.drop()
		if err := f(d); err != nil {
			return err
		}
	}
	return nil
}

func (d *database) open(ctx context.Context) (*store.DB, error) {
	c := store.Config{URL: session.NewSecret(d.url)}
	if !d.keys.Empty() {
		ring, err := seal.ParseKeyring(d.keys)
		if err != nil {
			return nil, err
		}
		c.Keys = ring
	}
	return store.Open(ctx, c)
}

// seeded is a new database with fresh sessions of n users, after change has had
// them.
func (b *bench) seeded(ctx context.Context, kind func() (*database, error), n int, change func(user int, s *session.Session)) (*database, error) {
	d, err := kind()
	if err != nil {
		return nil, err
	}
	db, err := d.open(ctx)
	if err != nil {
		d.drop()
		return nil, err
	}
	defer db.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range n {
		g.Go(func() error {
			s := b.fresh(i)
			if change != nil {
				change(i, &s)
			}
			_, err := db.Sessions.Put(ctx, s)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		d.drop()
		return nil, err
	}
	return d, nil
}

// fresh is a user's session right after the consent.
func (b *bench) fresh(user int) session.Session {
	now, name := time.Now(), tokens.User(user)
	return session.Session{
		Key: session.Key{AppID: appID, OpenID: name}, State: session.Active,
		AccessToken: session.NewSecret(tokens.Of(name)), RefreshToken: session.NewSecret(refreshToken(name, 0)),
		TokenType: "Bearer", TokenURL: b.upstreams[0].url + tokenPath, Scope: "offline_access",
		IssuedAt: now, ExpiresAt: now.Add(2 * time.Hour), RefreshExpiresAt: now.Add(7 * 24 * time.Hour),
		GrantedAt: now, SyncedAt: now,
	}
}

// lookups times bare SELECTs by primary key and, in turn with them, look-ups of
// sessions that are not cached, and returns the medians in microseconds.
func (d *database) lookups(ctx context.Context, users int) (sample, error) {
	db, err := d.open(ctx)
	if err != nil {
		return sample{}, err
	}
	defer db.Close()
	driver, dsn := "sqlite", "file:"+strings.TrimPrefix(d.url, "sqlite:")+"?_pragma=busy_timeout(5000)"
	if d.kind == "PostgreSQL" {
		// One round trip for a statement, as the store has it.
		driver, dsn = "postgres", d.url+"&binary_parameters=yes"
	}
	bare, err := sql.Open(driver, dsn)
	if err != nil {
		return sample{}, err
	}
	defer bare.Close()
	var took series
	for i := range 2 * users {
		user, began := tokens.User(i*7919%users), time.Now()
		if i%2 == 0 {
			var token []byte
			err = bare.QueryRowContext(ctx, `SELECT access_token FROM sessions WHERE app_id = $1 AND open_id = $2`, appID, user).Scan(&token)
		} else {
			// Access asks the database, whatever is cached.
			_, err = db.Sessions.Access(ctx, session.Key{AppID: appID, OpenID: user})
		}
		if err != nil {
			return sample{}, err
		}
		took[i%2] = append(took[i%2], float64(time.Since(began))/1e3)
	}
	return sample{median(took[0]), median(took[1])}, nil
}
