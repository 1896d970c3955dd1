package main

import (
	"strings"
	"testing"
	"time"

	"larkside/test/larktest"
	"larkside/test/process"
)

const records = "/open-apis/apaas/v1/workspaces/workspace_test/tables/orders/records"

// Callers are held to their limits, whatever the route.
func TestCallerLimitsAreEnforced(t *testing.T) {
	db := process.SQLite(t)
	lark := larktest.Start(t, nil)
	process.Seed(t, db, lark, time.Minute, larktest.Alice, larktest.Bob)
	p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{
		"CALLER_KEYS": "web:key-of-web-x1", "CALLER_LIMITS": "web:users=" + larktest.Alice + ";rate=3/1h"}})
	for i, want := range []struct {
		user, path string
		status     int
	}{{larktest.Alice, records, 200}, {larktest.Bob, records, 403}, {larktest.Bob, "/-/larkside/authz" + records, 403}, {larktest.Alice, records, 429}} {
		if a := p.Get(t, want.path, want.user, "X-Larkside-Key", "key-of-web-x1"); a.Status != want.status {
			t.Errorf("request %d: %d %s", i, a.Status, a.Body)
		}
	}
}

// The trail has what users answered and what Lark took away.
func TestAuditTrail(t *testing.T) {
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
