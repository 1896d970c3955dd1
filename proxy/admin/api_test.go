package admin_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"larkside/proxy/admin"
	"larkside/session"
	"larkside/session/seal"
	"larkside/session/store"
)

const app = "cli_a1"

func openStore(t *testing.T) *store.DB {
	t.Helper()
	keys, err := seal.ParseKeyring(seal.NewKey("k1"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), store.Config{
		URL: session.NewSecret("sqlite:" + filepath.Join(t.TempDir(), "admin.db")), Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func put(t *testing.T, db *store.DB, openID string) *session.Session {
	t.Helper()
	now := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	s, err := db.Sessions.Put(t.Context(), session.Session{
		Key: session.Key{AppID: app, OpenID: openID}, UnionID: "on_" + openID, UserID: "id." + openID,
		Profile:     session.Profile{Name: "Name of " + openID, Email: "x@example.com"},
		AccessToken: session.NewSecret("canary-access"), RefreshToken: session.NewSecret("canary-refresh"),
		TokenType: "Bearer", TokenURL: "https://accounts.feishu.cn/oauth/v3/token", Scope: "a:b offline_access",
		IssuedAt: now, ExpiresAt: now.Add(2 * time.Hour), RefreshExpiresAt: now.Add(7 * 24 * time.Hour), GrantedAt: now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSession(t *testing.T) {
	db := openStore(t)
	put(t, db, "ou_1")
	ask := serve(t, admin.Config{Apps: []string{app, "cli_b2"}, Sessions: db.Sessions, Directory: db.Directory})

	got := ask("GET", "/api/v1/sessions/cli_a1/ou_1", "")
	want := map[string]any{
		"app_id": app, "open_id": "ou_1", "union_id": "on_ou_1", "user_id": "id.ou_1", "name": "Name of ou_1",
		"state": "active", "reason": "", "scope": "a:b offline_access", "granted_at": "2026-10-01T12:00:00Z",
		"access_expires_at": "2026-10-01T14:00:00Z", "refresh_expires_at": "2026-10-08T12:00:00Z", "refreshed_at": nil,
	}
	if !maps.Equal(got.json(t), want) {
		t.Errorf("got %s\nwant %v", got.body, want)
	}
	for _, alias := range []string{"on_ou_1", "id.ou_1"} {
		if got := ask("GET", "/api/v1/sessions/cli_a1/"+alias, ""); got.json(t)["open_id"] != "ou_1" {
			t.Errorf("by %s: %+v", alias, got)
		}
	}
	for path, name := range map[string]string{
		"/api/v1/sessions/cli_a1/ou_2":    "not_found",
		"/api/v1/sessions/cli_a1/on_none": "not_found",
		"/api/v1/sessions/cli_b2/ou_1":    "not_found", // an open_id belongs to one app
		"/api/v1/sessions/cli_c3/ou_1":    "unknown_app",
	} {
		if got := ask("GET", path, ""); got.name(t) != name {
			t.Errorf("%s: %+v, want %s", path, got, name)
		}
	}
}

// A client that follows next sees every session once.
func TestSessionPages(t *testing.T) {
	db := openStore(t)
	var want []string
	for i := range 7 {
		id := fmt.Sprintf("ou_%d", i)
		put(t, db, id)
		want = append(want, id)
	}
	ask := serve(t, admin.Config{Apps: []string{app}, Sessions: db.Sessions, Directory: db.Directory})
	var seen []string
	cursor := ""
	for range 10 {
		got := ask("GET", "/api/v1/sessions?limit=3&cursor="+cursor, "").json(t)
		for _, item := range got["items"].([]any) {
			seen = append(seen, item.(map[string]any)["open_id"].(string))
		}
		if cursor = got["next"].(string); cursor == "" {
			break
		}
	}
	if !slices.Equal(seen, want) {
		t.Errorf("pages show %v, want %v", seen, want)
	}

	if got := ask("GET", "/api/v1/sessions?state=disabled", ""); got.body != `{"items":[],"next":""}`+"\n" {
		t.Errorf("an empty list: %+v", got)
	}
	if got := ask("GET", "/api/v1/sessions?app_id=cli_other", ""); got.body != `{"items":[],"next":""}`+"\n" {
		t.Errorf("another app's list: %+v", got)
	}
	for query, want := range map[string]string{"user=ou_3": "ou_3", "user=OU_": "", "search=U_3": "ou_3", "search=nobody": ""} {
		got := ask("GET", "/api/v1/sessions?"+query, "")
		if got.status != 200 || strings.Contains(got.body, `"open_id"`) != (want != "") || !strings.Contains(got.body, want) {
			t.Errorf("?%s: %+v", query, got)
		}
	}
	for _, query := range []string{"search=a&user=b", "limit=0", "limit=501", "limit=x", "cursor=%21", "cursor=b25l", "cursor=AApv", "cursor=_wpv", "state=dead", "app_id=%00", "app_id=%ff"} {
		if got := ask("GET", "/api/v1/sessions?"+query, ""); got.status != 400 || got.name(t) != "invalid_request" {
			t.Errorf("?%s: %+v", query, got)
		}
	}
}

// No answer ever holds a token, whichever way it is asked for.
func TestNoTokens(t *testing.T) {
	db := openStore(t)
	put(t, db, "ou_1")
	p, _, err := db.Consents.Begin(t.Context(), session.Consent{Key: session.Key{AppID: app, OpenID: "ou_1"}, Flow: session.DeviceFlow, Scopes: "a:b"}, time.Minute, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Consents.SetLink(t.Context(), p, session.NewSecret("https://x/?user_code=canary"), session.NewSecret("canary-device"), "", time.Second, time.Minute); err != nil {
		t.Fatal(err)
	}
	ask := serve(t, admin.Config{Apps: []string{app}, Sessions: db.Sessions, Directory: db.Directory, Consents: db.Consents.History,
		Refresh: func(context.Context, session.Key, admin.Actor) error { return nil },
		StartConsent: func(context.Context, session.Key, []string, admin.Actor) (*session.Consent, error) {
			return db.Consents.Get(t.Context(), p.ID)
		}})
	for _, at := range [][3]string{
		{"GET", "/api/v1/sessions", ""}, {"GET", "/api/v1/sessions/cli_a1/ou_1", ""},
		{"POST", "/api/v1/sessions/cli_a1/ou_1/refresh", ""},
		{"GET", "/api/v1/consents", ""}, {"POST", "/api/v1/consents", `{"open_id":"ou_1"}`},
	} {
		got := ask(at[0], at[1], at[2])
		if got.status >= 300 || strings.Contains(got.body, "canary") || strings.Contains(got.body, "REDACTED") {
			t.Errorf("%s %s: %+v", at[0], at[1], got)
		}
	}
}

func TestRevokeAndRefresh(t *testing.T) {
	db := openStore(t)
	put(t, db, "ou_1")
	var asked []string
	var fail error
	note := func(action string) func(context.Context, session.Key, admin.Actor) error {
		return func(_ context.Context, key session.Key, by admin.Actor) error {
			asked = append(asked, fmt.Sprintf("%s %s/%s by %s from 127.0.0.1 %t", action, key.AppID, key.OpenID, by.Name, strings.HasPrefix(by.Address, "127.0.0.1:")))
			return fail
		}
	}
	ask := serve(t, admin.Config{Apps: []string{app}, Sessions: db.Sessions, Directory: db.Directory, Revoke: note("revoke"), Refresh: note("refresh")})

	if got := ask("DELETE", "/api/v1/sessions/cli_a1/on_ou_1", ""); got.status != 204 || got.body != "" {
		t.Errorf("DELETE: %+v", got)
	}
	if got := ask("POST", "/api/v1/sessions/cli_a1/ou_1/refresh", ""); got.status != 200 || got.json(t)["open_id"] != "ou_1" {
		t.Errorf("refresh: %+v", got)
	}
	want := []string{"revoke cli_a1/ou_1 by admin from 127.0.0.1 true", "refresh cli_a1/ou_1 by admin from 127.0.0.1 true"}
	if !slices.Equal(asked, want) {
		t.Errorf("asked for %q, want %q", asked, want)
	}

	for _, tc := range []struct {
		err    error
		status int
		name   string
	}{
		{&session.ConsentRequiredError{Reason: session.RefreshTokenExpired}, 409, "consent_required"},
		{fmt.Errorf("refreshing: %w", session.ErrConflict), 409, "conflict"},
		{session.ErrUserDisabled, 403, "user_disabled"},
		{session.ErrAppMisconfigured, 503, "app_misconfigured"},
		{session.ErrUnavailable, 503, "store_unavailable"},
		{&session.RetryError{Err: session.ErrRefreshUnavailable, After: 7 * time.Second}, 503, "refresh_unavailable"},
		{session.ErrNotFound, 404, "not_found"},
		{&session.RetryError{Err: session.ErrNotAsked, After: 7 * time.Second}, 409, "not_asked"},
	} {
		fail = tc.err
		got := ask("POST", "/api/v1/sessions/cli_a1/ou_1/refresh", "")
		if got.status != tc.status || got.name(t) != tc.name {
			t.Errorf("%v: %+v, want %d %s", tc.err, got, tc.status, tc.name)
		}
		after := cmp.Or(got.header.Get("Retry-After"), "none")
		if want := map[string]string{"refresh_unavailable": "7", "not_asked": "7", "store_unavailable": "1", "app_misconfigured": "30"}[tc.name]; after != cmp.Or(want, "none") {
			t.Errorf("%v: Retry-After %s", tc.err, after)
		}
		if tc.name == "consent_required" && !strings.Contains(got.body, `"reason":"refresh_token_expired"`) {
			t.Errorf("no reason: %s", got.body)
		}
	}
}

func TestConsents(t *testing.T) {
	db := openStore(t)
	put(t, db, "ou_1")
	var asked session.Key
	var scopes []string
	ask := serve(t, admin.Config{Apps: []string{app, "cli_b2"}, Sessions: db.Sessions, Directory: db.Directory, Consents: db.Consents.History,
		StartConsent: func(ctx context.Context, key session.Key, s []string, _ admin.Actor) (*session.Consent, error) {
			asked, scopes = key, s
			p, _, err := db.Consents.Begin(ctx, session.Consent{Key: key, Flow: session.DeviceFlow, Scopes: "a:b offline_access"}, time.Minute, 10*time.Minute)
			return p, err
		}})

	got := ask("POST", "/api/v1/consents", `{"open_id":"on_ou_1","scopes":["a:b"]}`)
	if got.status != 201 || asked != (session.Key{AppID: app, OpenID: "ou_1"}) || !slices.Equal(scopes, []string{"a:b"}) {
		t.Errorf("%+v asked %v for %q", got, asked, scopes)
	}
	made := got.json(t)
	if made["state"] != "pending" || made["flow"] != "device" || fmt.Sprint(made["scopes"]) != "[a:b offline_access]" {
		t.Errorf("consent %s", got.body)
	}
	created, err1 := time.Parse(time.RFC3339, made["created_at"].(string))
	expires, err2 := time.Parse(time.RFC3339, made["expires_at"].(string))
	if err1 != nil || err2 != nil || !expires.After(created) {
		t.Errorf("times %v %v", made["created_at"], made["expires_at"])
	}
	for _, key := range []string{"id", "app_id", "open_id", "flow", "state", "scopes", "card", "created_at", "expires_at"} {
		if _, ok := made[key]; !ok {
			t.Errorf("a consent has no %s", key)
		}
	}
	if got := ask("POST", "/api/v1/consents", `{"app_id":"cli_b2","open_id":"ou_9"}`); got.status != 201 || asked.AppID != "cli_b2" {
		t.Errorf("%+v asked %v", got, asked)
	}

	first := ask("GET", "/api/v1/consents?limit=1", "").json(t)
	second := ask("GET", "/api/v1/consents?limit=1&cursor="+first["next"].(string), "").json(t)
	both := []string{first["items"].([]any)[0].(map[string]any)["open_id"].(string), second["items"].([]any)[0].(map[string]any)["open_id"].(string)}
	slices.Sort(both)
	if !slices.Equal(both, []string{"ou_1", "ou_9"}) || second["next"] != "" {
		t.Errorf("two pages show %q, then %q", both, second["next"])
	}
	if got := ask("GET", "/api/v1/consents?open_id=ou_1&state=pending", ""); strings.Count(got.body, `"id"`) != 1 {
		t.Errorf("filtered: %+v", got)
	}
	if got := ask("GET", "/api/v1/consents?state=done", ""); got.body != `{"items":[],"next":""}`+"\n" {
		t.Errorf("filtered by state: %+v", got)
	}
}

func TestConsentBadInput(t *testing.T) {
	ask := serve(t, admin.Config{Apps: []string{app}, Sessions: openStore(t).Sessions,
		StartConsent: func(context.Context, session.Key, []string, admin.Actor) (*session.Consent, error) {
			t.Error("a consent was started")
			return nil, session.ErrUnavailable
		}})
	for sentence, tc := range map[string]struct {
		body, name string
	}{
		"no body":            {"", "invalid_request"},
		"no user":            {`{"scopes":[]}`, "invalid_request"},
		"not JSON":           {`open_id=ou_1`, "invalid_request"},
		"a wrong type":       {`{"open_id":1}`, "invalid_request"},
		"a misspelt field":   {`{"openid":"ou_1"}`, "invalid_request"},
		"two objects":        {`{"open_id":"ou_1"}{}`, "invalid_request"},
		"too large":          {`{"open_id":"` + strings.Repeat("x", 1<<17) + `"}`, "invalid_request"},
		"an unknown app":     {`{"app_id":"cli_x","open_id":"ou_1"}`, "unknown_app"},
		"an unknown user id": {`{"open_id":"on_nobody"}`, "not_found"},
		"NUL in the user":    {`{"open_id":"ou_\u0000"}`, "invalid_user_id"},
		"NUL in a scope":     {`{"open_id":"ou_1","scopes":["a:b","\u0000"]}`, "invalid_request"},
		"a user without end": {`{"open_id":"ou_` + strings.Repeat("x", 126) + `"}`, "invalid_user_id"},
		"a user's name":      {`{"open_id":"Li Lei"}`, "invalid_user_id"},
	} {
		t.Run(sentence, func(t *testing.T) {
			if got := ask("POST", "/api/v1/consents", tc.body); got.name(t) != tc.name {
				t.Errorf("%+v", got)
			}
		})
	}
	t.Run("a form, as a web page could send it", func(t *testing.T) {
		if got := ask("POST", "/api/v1/consents", `{"open_id":"ou_1"}`, "Content-Type", "text/plain"); got.name(t) != "invalid_request" {
			t.Errorf("%+v", got)
		}
	})
}

func TestStoreDown(t *testing.T) {
	db := openStore(t)
	ask := serve(t, admin.Config{Apps: []string{app}, Sessions: db.Sessions, Directory: db.Directory, Consents: db.Consents.History})
	db.Close()
	for _, path := range []string{"/api/v1/sessions", "/api/v1/sessions/cli_a1/ou_1", "/api/v1/sessions/cli_a1/on_1", "/api/v1/consents"} {
		got := ask("GET", path, "")
		if got.status != 503 || got.name(t) != "store_unavailable" || got.header.Get("Retry-After") == "" {
			t.Errorf("%s: %+v", path, got)
		}
	}
	if got := ask("GET", "/healthz", ""); got.status != 200 {
		t.Errorf("/healthz: %+v", got)
	}
}

func TestAudit(t *testing.T) {
	at := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	key := session.Key{AppID: app, OpenID: "ou_1"}
	all := []store.AuditEntry{
		{ID: "2", Time: at, Actor: "admin", Action: "revoke", Key: key, Result: "done", Detail: "by hand"},
		{ID: "1", Time: at.Add(-time.Hour), Actor: "user", Action: "consent", Key: key, Result: "done"},
	}
	ask := serve(t, admin.Config{Audit: func(_ context.Context, before string, f store.AuditFilter, limit int) ([]store.AuditEntry, error) {
		var found []store.AuditEntry
		for _, e := range all {
			if (before == "" || e.ID < before) && (f.Action == "" || f.Action == e.Action) && len(found) < limit {
				found = append(found, e)
			}
		}
		return found, nil
	}})
	first := ask("GET", "/api/v1/audit?limit=1", "")
	if !strings.HasPrefix(first.body, `{"items":[{"time":"2026-10-01T12:00:00Z","actor":"admin","action":"revoke","app_id":"cli_a1","open_id":"ou_1","result":"done","detail":"by hand"}],"next":"`) {
		t.Errorf("%s", first.body)
	}
	second := ask("GET", "/api/v1/audit?cursor="+first.json(t)["next"].(string), "")
	if !strings.Contains(second.body, `"action":"consent"`) || second.json(t)["next"] != "" {
		t.Errorf("%s", second.body)
	}
	if got := ask("GET", "/api/v1/audit?action=consent", ""); strings.Count(got.body, "action") != 1 {
		t.Errorf("%s", got.body)
	}
}
