package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"larkside/test/larktest"
	"larkside/test/process"
)

const records = "/open-apis/apaas/v1/workspaces/workspace_test/tables/orders/records"

// A replica keeps to DATABASE_MAX_CONNS, and works with the least that it takes.
func TestDatabaseMaxConns(t *testing.T) {
	t.Parallel()
	db := process.Postgres(t)
	lark := larktest.Start(t, nil)
	process.Seed(t, db, lark, 3*time.Hour, larktest.Alice, larktest.Bob)
	p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"DATABASE_MAX_CONNS": "2"}})
	var g errgroup.Group
	for i := range 20 {
		openID := []string{larktest.Alice, larktest.Bob}[i%2]
		g.Go(func() error {
			a, err := process.Try(p.Request(t, "GET", records, openID, ""))
			if err != nil || a.Status != 200 {
				return fmt.Errorf("%v %d %s", err, a.Status, a.Body)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if a := p.Admin(t, "GET", "/metrics"); !regexp.MustCompile(`(?m)^larkside_database_connections_max(\{[^}]*\})? 2$`).MatchString(a.Body) {
		t.Errorf("%s", regexp.MustCompile(`(?m)^larkside_database_connections_max.*$`).FindString(a.Body))
	}
}

// Callers are held to their limits, whatever the route.
func TestCallerLimitsAreEnforced(t *testing.T) {
	t.Parallel()
	db := process.SQLite(t)
	lark := larktest.Start(t, nil)
	process.Seed(t, db, lark, time.Minute, larktest.Alice, larktest.Bob)
	p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{
		"CALLER_KEYS": "web:key-of-web-x1", "CALLER_LIMITS": "web:users=" + larktest.Alice + ";rate=3/1h", "AUTHZ_LISTEN": "127.0.0.1:0"}})
	for i, want := range []struct {
		listener, user, path string
		status               int
	}{{p.URL, larktest.Alice, records, 200}, {p.URL, larktest.Bob, records, 403}, {p.AuthzURL, larktest.Bob, "/-/larkside/authz" + records, 403}, {p.URL, larktest.Alice, records, 429}} {
		if a := process.Do(t, process.NewRequest(t, "GET", want.listener+want.path, want.user, "", "X-Larkside-Key", "key-of-web-x1")); a.Status != want.status {
			t.Errorf("request %d: %d %s", i, a.Status, a.Body)
		}
	}
}

// The trail has what users answered and what Lark took away.
func TestAuditTrail(t *testing.T) {
	t.Parallel()
	db := process.SQLite(t)
	lark := larktest.Start(t, &larktest.Config{DeviceInterval: time.Second})
	process.Seed(t, db, lark, 3*time.Hour, larktest.Alice)
	if err := lark.Revoke(larktest.Alice); err != nil {
		t.Fatal(err)
	}
	p := process.Start(t, process.Options{Lark: lark, DB: db})
	for _, step := range []struct {
		user  string
		what  func(code, openID string) error
		trail string
	}{
		{larktest.Alice, lark.Approve, `"actor":"user","action":"consent","app_id":"` + larktest.AppID + `","open_id":"` + larktest.Alice + `","result":"done"`},
		{larktest.Carol, lark.Decline, `"open_id":"` + larktest.Carol + `","result":"declined"`},
	} {
		a := p.Get(t, records, step.user)
		if err := step.what(a.Envelope.Error.AuthorizeURL, step.user); err != nil {
			t.Fatal(err)
		}
		process.Eventually(t, "an entry with "+step.trail, func() bool {
			return strings.Contains(p.Admin(t, "GET", "/api/v1/audit").Body, step.trail)
		})
	}
	export := p.Admin(t, "GET", "/api/v1/audit", "Accept", "application/x-ndjson")
	lost := `"actor":"lark","action":"session_lost","app_id":"` + larktest.AppID + `","open_id":"` + larktest.Alice + `","result":"consent_required"`
	if !strings.Contains(export.Body, lost) || strings.Count(export.Body, "\n") != 3 {
		t.Errorf("%s", export.Body)
	}
}
