// Package e2e has the tests of the whole: the real binary, on SQLite and
// PostgreSQL, alone and as replicas, with the emulator as Lark.
package e2e

import (
	"os"
	"testing"
	"time"

	"larkside/test/larktest"
	"larkside/test/process"
)

func TestMain(m *testing.M) { os.Exit(process.Main(m)) }

const (
	alice, bob, carol = larktest.Alice, larktest.Bob, larktest.Carol

	workspace = "/open-apis/apaas/v1/workspaces/workspace_test"
	tables    = workspace + "/tables"
	records   = workspace + "/tables/orders/records"
	helpers   = "/open-apis/apaas/v1/larktest"
	echo      = helpers + "/echo"

	scopes = "app_engine:workspace.table:read app_engine:workspace.table.record:read"
)

// newLark is an emulator that may be polled once a second, the least that the
// device flow can say.
func newLark(t *testing.T, change func(*larktest.Config)) *larktest.Platform {
	c := &larktest.Config{DeviceInterval: time.Second}
	if change != nil {
		change(c)
	}
	return larktest.Start(t, c)
}

// is judges an answer that is one of larkside's own errors, with what they all
// have.
func is(t *testing.T, a *process.Answer, status int, name string) {
	t.Helper()
	e := a.Envelope
	if a.Status != status || a.Name() != name || e.Error.Type != name {
		t.Errorf("want %d %s, got %d %q %s", status, name, a.Status, a.Name(), a.Body)
	}
	if e.Code/1000000 != 18 || e.Code/1000%1000 != status || e.Msg == "" {
		t.Errorf("%s: code %d, msg %q", name, e.Code, e.Msg)
	}
	if got := a.Header.Get("Content-Type"); got != "application/json; charset=utf-8" {
		t.Errorf("%s: Content-Type %q", name, got)
	}
	if got := a.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("%s: Cache-Control %q", name, got)
	}
}

// isDataOf judges an answer with a user's own data.
func isDataOf(t *testing.T, a *process.Answer, openID string) {
	t.Helper()
	if a.Status != 200 || a.Owner() != openID {
		t.Errorf("want data of %s, got %d of %q: %s", openID, a.Status, a.Owner(), a.Body)
	}
}
