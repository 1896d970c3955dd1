package admin_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"larkside/proxy/admin"
	"larkside/session"
	"larkside/session/store"
)

const asLines = "application/x-ndjson"

func TestUserSync(t *testing.T) {
	ask := serve(t, admin.Config{SyncUsers: func(_ context.Context, progress func(admin.UserSync), _ admin.Actor) (admin.UserSync, error) {
		progress(admin.UserSync{Users: 2, Updated: 2})
		return admin.UserSync{Users: 3, Updated: 2, Failed: 1}, nil
	}})
	if got := ask("POST", "/api/v1/users/sync", ""); got.body != `{"users":3,"updated":2,"failed":1}`+"\n" {
		t.Errorf("%+v", got)
	}
	got := ask("POST", "/api/v1/users/sync", "", "Accept", asLines)
	want := `{"done":false,"failed":0,"updated":2,"users":2}
{"done":true,"failed":1,"updated":2,"users":3}
`
	if got.body != want || got.header.Get("Content-Type") != asLines || got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%+v", got)
	}
}

func TestRotateKeys(t *testing.T) {
	var failing error
	reports := 1
	ask := serve(t, admin.Config{RotateKeys: func(_ context.Context, progress func(store.Resealed), by admin.Actor) (store.Resealed, error) {
		if by.Name != "admin" {
			t.Errorf("actor %+v", by)
		}
		for range reports {
			progress(store.Resealed{Key: "k2", Sealed: 50, Retired: []string{}})
		}
		return store.Resealed{Key: "k2", Sealed: 70, Retired: []string{"k1"}}, failing
	}})
	if got := ask("GET", "/api/v1/keys/rotate", ""); got.status != 405 {
		t.Errorf("a link must not rotate keys: %+v", got)
	}
	got := ask("POST", "/api/v1/keys/rotate", "")
	if got.body != `{"key":"k2","sealed":70,"unreadable":0,"retired":["k1"],"settling":false}`+"\n" {
		t.Errorf("%+v", got)
	}
	got = ask("POST", "/api/v1/keys/rotate", "", "Accept", "application/json, "+asLines+";q=0.9")
	lines := strings.Split(strings.TrimSpace(got.body), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], `"sealed":50`) || !strings.Contains(lines[1], `"done":true`) {
		t.Errorf("%+v", got)
	}

	failing = fmt.Errorf("rotating: %w", store.ErrReseal)
	got = ask("POST", "/api/v1/keys/rotate", "", "Accept", asLines)
	lines = strings.Split(strings.TrimSpace(got.body), "\n")
	if got.status != 200 || len(lines) != 2 || !strings.Contains(lines[1], `"type":"not_all_sealed"`) || strings.Contains(lines[1], `"code":0`) {
		t.Errorf("work that fails on its way: %+v", got)
	}
	reports = 0
	for _, accept := range []string{asLines, "application/json"} {
		if got = ask("POST", "/api/v1/keys/rotate", "", "Accept", accept); got.status != 409 || got.name(t) != "not_all_sealed" {
			t.Errorf("work that fails at once: %+v", got)
		}
	}
}

// A report is sent when it is made; and long work outlives the listener's limit
// on the time of a request.
func TestProgressComesAtOnce(t *testing.T) {
	next := make(chan struct{})
	handler := admin.New(admin.Config{SyncUsers: func(ctx context.Context, progress func(admin.UserSync), _ admin.Actor) (admin.UserSync, error) {
		progress(admin.UserSync{Users: 1})
		<-next
		return admin.UserSync{Users: 2}, ctx.Err()
	}})
	server := httptest.NewUnstartedServer(handler)
	server.Config.ReadTimeout = 50 * time.Millisecond
	server.Start()
	defer server.Close()
	req, err := http.NewRequestWithContext(t.Context(), "POST", server.URL+"/api/v1/users/sync", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", asLines)
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() || !strings.Contains(lines.Text(), `"users":1`) {
		t.Fatalf("first %q", lines.Text())
	}
	<-time.After(150 * time.Millisecond) // the limit has passed
	close(next)
	if !lines.Scan() || !strings.Contains(lines.Text(), `"done":true`) {
		t.Errorf("last %q, %v", lines.Text(), lines.Err())
	}
}

// An export goes on over all pages.
func TestAuditExport(t *testing.T) {
	db := openStore(t)
	const entries = 1100
	for i := range entries {
		db.Audit.Write(t.Context(), store.AuditEntry{Actor: "admin", Action: store.AuditRevoke,
			Key: session.Key{AppID: app, OpenID: fmt.Sprint("ou_", i%2)}, Result: "done", Detail: fmt.Sprint(i)})
	}
	ask := serve(t, admin.Config{Audit: db.Audit.List})
	got := ask("GET", "/api/v1/audit", "", "Accept", asLines)
	lines := strings.Split(strings.TrimSpace(got.body), "\n")
	if got.header.Get("Content-Type") != asLines || len(lines) != entries {
		t.Fatalf("%d lines, %q", len(lines), got.header.Get("Content-Type"))
	}
	for i, line := range lines {
		var e struct{ Time, Actor, Action, Detail string }
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Detail != fmt.Sprint(entries-1-i) || e.Time == "" {
			t.Fatalf("line %d: %s", i, line)
		}
	}
	if got := ask("GET", "/api/v1/audit?open_id=ou_1&action=revoke", "", "Accept", asLines); strings.Count(got.body, "\n") != entries/2 {
		t.Errorf("of one user: %d", strings.Count(got.body, "\n"))
	}
	if got := ask("GET", "/api/v1/audit?open_id=nobody", "", "Accept", asLines); got.status != 200 || got.body != "" {
		t.Errorf("of nobody: %+v", got)
	}
	db.Close()
	if got := ask("GET", "/api/v1/audit", "", "Accept", asLines); got.status != 503 || got.name(t) != "store_unavailable" {
		t.Errorf("without the database: %+v", got)
	}
}

// The app "-" is the first one.
func TestFirstApp(t *testing.T) {
	db := openStore(t)
	put(t, db, "ou_1")
	ask := serve(t, admin.Config{Apps: []string{app, "cli_b2"}, Sessions: db.Sessions, Directory: db.Directory})
	if got := ask("GET", "/api/v1/sessions/-/ou_1", ""); got.status != 200 || got.json(t)["app_id"] != app {
		t.Errorf("%+v", got)
	}
}
