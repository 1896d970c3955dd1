package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"larkside/proxy/admin"
	"larkside/proxy/edge"
	"larkside/session"
	"larkside/session/store"
)

// description is what the tests read of the OpenAPI document.
type description struct {
	Paths map[string]map[string]json.RawMessage
}

type operation struct {
	Security  *[]map[string][]string
	Responses map[string]struct {
		Ref     string `json:"$ref"`
		Content map[string]json.RawMessage
		Headers map[string]json.RawMessage
	}
}

// described is the document and a compiler of its schemas.
type described struct {
	operations map[string]operation // by "GET /path"
	compiler   *jsonschema.Compiler
}

func describe(t *testing.T) *described {
	t.Helper()
	var doc description
	if err := json.Unmarshal(admin.OpenAPI(), &doc); err != nil {
		t.Fatal(err)
	}
	whole, err := jsonschema.UnmarshalJSON(bytes.NewReader(admin.OpenAPI()))
	if err != nil {
		t.Fatal(err)
	}
	d := &described{operations: map[string]operation{}, compiler: jsonschema.NewCompiler()}
	d.compiler.DefaultDraft(jsonschema.Draft2020) // OpenAPI 3.1's own
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource("openapi.json", whole); err != nil {
		t.Fatal(err)
	}
	for path, item := range doc.Paths {
		for method, raw := range item {
			if method == "parameters" {
				continue
			}
			var o operation
			if err := json.Unmarshal(raw, &o); err != nil {
				t.Fatalf("%s %s: %v", method, path, err)
			}
			d.operations[strings.ToUpper(method)+" "+path] = o
		}
	}
	return d
}

// pointer is a JSON pointer as a URL fragment.
func pointer(parts ...string) string {
	for i, p := range parts {
		parts[i] = strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(p)
	}
	return "openapi.json#/" + strings.Join(parts, "/")
}

// check compares an answer with its description.
func (d *described) check(t *testing.T, at string, got answer) {
	t.Helper()
	method, path, _ := strings.Cut(at, " ")
	status := strconv.Itoa(got.status)
	response, ok := d.operations[at].Responses[status]
	if !ok {
		t.Errorf("%s answers %s, which is not described: %s", at, status, got.body)
		return
	}
	where := []string{"paths", path, strings.ToLower(method), "responses", status}
	if name, ok := strings.CutPrefix(response.Ref, "#/components/responses/"); ok {
		where = []string{"components", "responses", name}
	}
	kind, _, _ := mime.ParseMediaType(got.header.Get("Content-Type"))
	if got.body == "" && got.status == http.StatusNoContent {
		return
	}
	if kind == "application/x-ndjson" || kind == "text/plain" || kind == "application/vnd.sqlite3" {
		if _, ok := response.Content[kind]; !ok {
			t.Errorf("%s %s answers %s, which is not described", at, status, kind)
		}
		return
	}
	schema, err := d.compiler.Compile(pointer(append(where, "content", kind, "schema")...))
	if err != nil {
		t.Errorf("%s %s %s: %v", at, status, kind, err)
		return
	}
	body, err := jsonschema.UnmarshalJSON(strings.NewReader(got.body))
	if err == nil {
		err = schema.Validate(body)
	}
	if err != nil {
		t.Errorf("%s %s does not fit its schema: %v\n%s", at, status, err, got.body)
	}
	if retry := got.header.Get("Retry-After"); (got.status == 503 && path != "/readyz" || got.status == 429) != (retry != "") {
		t.Errorf("%s %s: Retry-After %q", at, status, retry)
	}
}

// broken answers everything with err, as long as that is not nil.
type broken struct {
	*store.DB
	err *error
}

func (b broken) List(ctx context.Context, after session.Key, f store.SessionFilter, limit int) ([]session.Session, error) {
	if *b.err != nil {
		return nil, *b.err
	}
	return b.Directory.List(ctx, after, f, limit)
}

func (b broken) Search(ctx context.Context, after session.Key, f store.SessionFilter, text string, limit int) (*store.Page, error) {
	return b.Directory.Search(ctx, after, f, text, limit)
}

func (b broken) Find(ctx context.Context, after session.Key, f store.SessionFilter, user string, limit int) (*store.Page, error) {
	return b.Directory.Find(ctx, after, f, user, limit)
}

func (b broken) Load(ctx context.Context, key session.Key) (*session.Session, error) {
	if *b.err != nil {
		return nil, *b.err
	}
	return b.Sessions.Load(ctx, key)
}

func (b broken) Resolve(ctx context.Context, appID, alias string) (session.Key, error) {
	return b.Sessions.Resolve(ctx, appID, alias)
}

// brokenConsents is broken's list of consents.
type brokenConsents struct{ broken }

func (b brokenConsents) List(ctx context.Context, before string, f store.ConsentFilter, limit int) ([]session.Consent, error) {
	if *b.err != nil {
		return nil, *b.err
	}
	return b.Consents.History.List(ctx, before, f, limit)
}

// Every route, method and status that is served is described and nothing else,
// and what is answered is what the schema says, to the field.
func TestOpenAPI(t *testing.T) {
	db := openStore(t)
	put(t, db, "ou_1")
	var failure error
	ready := true
	from := broken{db, &failure}
	asked := session.Consent{ID: "01", Key: session.Key{AppID: app, OpenID: "ou_1"}, Flow: session.DeviceFlow, State: session.ConsentPending, Link: session.NewSecret("canary")}
	cfg := admin.Config{
		Ready: func(context.Context) []admin.Check {
			return []admin.Check{{Name: "a", OK: ready, Detail: "b"}, {Name: "c", OK: true}}
		},
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; version=0.0.4")
			io.WriteString(w, "a 1\n")
		}),
		Quit: func() {},
		Key:  lock("the-key"), Apps: []string{app}, Sessions: from, Directory: from, Consents: brokenConsents{from},
		Refresh: func(context.Context, session.Key, admin.Actor) error { return failure },
		Revoke:  func(context.Context, session.Key, admin.Actor) error { return failure },
		Purge: func(_ context.Context, w admin.PurgeWish, progress func(admin.Purge), _ admin.Actor) (admin.Purge, error) {
			progress(admin.Purge{DryRun: *w.DryRun, Sessions: 1, Session: &admin.PurgedSession{AppID: app, OpenID: "ou_1"}})
			return admin.Purge{DryRun: *w.DryRun, Sessions: 1}, failure
		},
		Backup: func(context.Context, admin.Actor) (io.ReadCloser, int64, error) {
			return io.NopCloser(strings.NewReader("SQLite")), 6, failure
		},
		StartConsent: func(context.Context, session.Key, []string, admin.Actor) (*session.Consent, error) {
			return &asked, failure
		},
		Login: func(_ context.Context, appID string, progress func(admin.Login), _ admin.Actor) (admin.Login, error) {
			if failure != nil {
				return admin.Login{}, failure
			}
			progress(admin.Login{AppID: appID, AuthorizeURL: "https://accounts.feishu.cn/x?a=1&b=2", ExpiresIn: 240})
			return admin.Login{AppID: appID, OpenID: "ou_1", Name: "Alice"}, nil
		},
		SyncUsers: func(context.Context, func(admin.UserSync), admin.Actor) (admin.UserSync, error) {
			return admin.UserSync{Users: 1}, failure
		},
		RotateKeys: func(context.Context, func(store.Resealed), admin.Actor) (store.Resealed, error) {
			return store.Resealed{Retired: []string{"k0"}}, failure
		},
		Audit: func(ctx context.Context, before string, f store.AuditFilter, limit int) ([]store.AuditEntry, error) {
			if failure != nil {
				return nil, failure
			}
			return db.Audit.List(ctx, before, f, limit)
		},
	}
	db.Audit.Write(t.Context(), store.AuditEntry{Actor: store.ByAdmin, Action: store.AuditRefresh, Key: asked.Key, Result: "done"})
	if _, _, err := db.Consents.Begin(t.Context(), session.Consent{Key: asked.Key, Flow: session.RedirectFlow, Scopes: "a b"}, 1e9, 1e9); err != nil {
		t.Fatal(err)
	}
	d := describe(t)

	served := []string{}
	for path, methods := range admin.Routes(cfg) {
		for _, m := range methods {
			served = append(served, m+" "+path)
		}
	}
	slices.Sort(served)
	if documented := slices.Sorted(maps.Keys(d.operations)); !slices.Equal(served, documented) {
		t.Fatalf("served    %v\ndescribed %v", served, documented)
	}

	ask := serve(t, cfg)
	key := []string{"Authorization", "Bearer the-key"}
	seen := map[string]map[string]bool{}
	try := func(at, query, body string, err error, headers ...string) {
		t.Helper()
		method, path, _ := strings.Cut(at, " ")
		path = strings.NewReplacer("{app}", app, "{user}", "ou_1").Replace(path)
		if given, ok := strings.CutPrefix(query, "/"); ok {
			path, query = "/"+given, ""
		}
		failure = err
		got := ask(method, path+query, body, headers...)
		failure = nil
		d.check(t, at, got)
		if seen[at] == nil {
			seen[at] = map[string]bool{}
		}
		seen[at][strconv.Itoa(got.status)] = true
		if strings.Contains(got.body, "canary") {
			t.Errorf("%s: a secret is in %s", at, got.body)
		}
	}
	open := []string{"GET /healthz", "GET /readyz", "GET /metrics"}
	for _, at := range served {
		body := ""
		if at == "POST /api/v1/consents" {
			body = `{"open_id":"ou_1"}`
		}
		if at == "POST /api/v1/sessions/purge" {
			body = `{"left":true,"dry_run":true}`
		}
		try(at, "", body, nil, key...)
		if slices.Contains(open, at) {
			continue
		}
		try(at, "", body, nil)
		try(at, "", body, nil, append(key, "Host", "evil.example")...)
		if at == "GET /api/v1/openapi.json" || at == "POST /quitquitquit" {
			continue
		}
		try(at, "", body, session.ErrUnavailable, key...)
		try(at, "", body, errors.New("unforeseen"), key...)
	}
	ready = false
	try("GET /readyz", "", "", nil)
	for _, at := range []string{"GET /api/v1/sessions", "GET /api/v1/consents", "GET /api/v1/audit"} {
		try(at, "?limit=0", "", nil, key...)
		try(at, "?limit=1&cursor=", "", nil, key...)
	}
	for range 11 {
		ask("GET", "/api/v1/audit", "", "Authorization", "Bearer not-the-key")
	}
	for _, at := range served {
		if !slices.Contains(open, at) {
			try(at, "", "", nil, "Authorization", "Bearer not-the-key")
		}
	}
	const one = "/api/v1/sessions/{app}/{user}"
	for at, rest := range map[string]string{"GET " + one: "", "DELETE " + one: "", "POST " + one + "/refresh": "/refresh"} {
		try(at, "/api/v1/sessions/cli_zz/ou_1"+rest, "", nil, key...)
		try(at, "/api/v1/sessions/cli_a1/on_nobody"+rest, "", nil, key...)
	}
	for _, err := range []error{session.ErrConflict, &session.ConsentRequiredError{Reason: session.Revoked}, session.ErrUserDisabled,
		session.ErrAppMisconfigured, &session.RetryError{Err: session.ErrRefreshUnavailable, After: 3e9}} {
		try("POST "+one+"/refresh", "", "", err, key...)
	}
	try("DELETE "+one, "", "", session.ErrConflict, key...)
	const purge = "POST /api/v1/sessions/purge"
	for _, unclear := range []string{`{}`, `{"left":true}`, `{"dry_run":false}`, `{"left":true,"user":"ou_1","dry_run":true}`, `{"state":"foo","dry_run":true}`, `{"left":true,"app_id":"cli_a1","dry_run":true}`} {
		if got := ask("POST", "/api/v1/sessions/purge", unclear, key...); got.status != 400 {
			t.Errorf("purge %s: %d %s", unclear, got.status, got.body)
		}
	}
	try("POST /api/v1/backup", "", "", store.ErrNoBackup, key...)
	try(purge, "", `{}`, nil, key...)
	try(purge, "", `{"user":"ou_1","dry_run":true}`, session.ErrNotFound, key...)
	try(purge, "", `{"user":"ou_1","dry_run":false}`, nil, append(key, "Accept", "application/x-ndjson")...)
	try("POST /api/v1/consents", "", `{"open_id":""}`, nil, key...)
	try("POST /api/v1/consents", "", `{"open_id":"on_nobody"}`, nil, key...)
	try("POST /api/v1/consents", "", `{"open_id":"ou_1"}`, session.ErrConflict, key...)
	try("POST /api/v1/keys/rotate", "", "", store.ErrReseal, key...)
	try("POST /api/v1/login", "", "", edge.NotSignedIn, append(key, "Accept", "application/x-ndjson")...)
	for _, err := range []error{session.ErrUnavailable, errors.New("unforeseen")} {
		try("POST /api/v1/login", "", "", err, append(key, "Accept", "application/x-ndjson")...)
	}
	for _, at := range []string{"POST /api/v1/login", "POST /api/v1/users/sync", "POST /api/v1/keys/rotate", "GET /api/v1/audit"} {
		try(at, "", "", nil, append(key, "Accept", "application/x-ndjson")...)
	}
	for _, at := range served {
		documented := slices.Sorted(maps.Keys(d.operations[at].Responses))
		if answered := slices.Sorted(maps.Keys(seen[at])); !slices.Equal(documented, answered) {
			t.Errorf("%s: described %v, answered %v", at, documented, answered)
		}
		if free := d.operations[at].Security != nil; free != slices.Contains(open, at) {
			t.Errorf("%s: described as open to all: %v", at, free)
		}
	}
}

// Each name in the table of failures is in the description.
func TestOpenAPINamesFailures(t *testing.T) {
	for _, f := range admin.Failures() {
		if f.Name != "method_not_allowed" && !bytes.Contains(admin.OpenAPI(), []byte(f.Name)) {
			t.Errorf("%s is not described", f.Name)
		}
	}
}

// The document itself is served, to who has the key.
func TestOpenAPIServed(t *testing.T) {
	got := serve(t, admin.Config{})("GET", "/api/v1/openapi.json", "")
	var served, own any
	if json.Unmarshal([]byte(got.body), &served) != nil || json.Unmarshal(admin.OpenAPI(), &own) != nil || !reflect.DeepEqual(served, own) {
		t.Errorf("%+v", got)
	}
}
