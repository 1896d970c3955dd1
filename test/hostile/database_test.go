package hostile

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

// erin is asked for her consent, and nobody touches hers.
const erin = "ou_0000000000000000000000000000e214"

const script = `"><script>alert(1)</script>`

// column is one of the schema.
type column struct{ table, name, kind string }

// ownTables are those that no row of a user's is in: a row is not made for each
// value.
var ownTables = []string{"encryption_keys", "goose_db_version", "goose_lock", "larkside_schema", "larkside_schema_lock"}

// schema returns the columns of every table, in order.
func schema(t *testing.T, db *dbtest.DB, raw *sql.DB) []column {
	t.Helper()
	query := `SELECT m.name, c.name, lower(c.type) FROM sqlite_master m JOIN pragma_table_xinfo(m.name) c
		WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND c.hidden = 0 ORDER BY 1, c.cid`
	if db.Postgres {
		query = `SELECT table_name, column_name, data_type FROM information_schema.columns
			WHERE table_schema = 'public' AND is_generated = 'NEVER' ORDER BY 1, ordinal_position`
	}
	rows, err := raw.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var all []column
	for rows.Next() {
		var c column
		if err := rows.Scan(&c.table, &c.name, &c.kind); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// Every column of the database is written down in deploy/docs/security.md, with
// what happens when somebody who has no key sets it to anything.
func TestEveryColumnIsExplained(t *testing.T) {
	content, err := os.ReadFile("../../deploy/docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	table := ""
	for line := range strings.Lines(string(content)) {
		if heading, ok := strings.CutPrefix(line, "### "); ok {
			table = strings.Trim(strings.TrimSpace(heading), "`")
		}
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[1], -1) {
				explained[table+"."+name[1]] = true
			}
		}
	}
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		db.Open(t, nil)
		for _, c := range schema(t, db, db.SQL(t)) {
			if !slices.Contains(ownTables, c.table) && !explained[c.table+"."+c.name] {
				t.Errorf("deploy/docs/security.md does not say what happens when somebody sets %s.%s", c.table, c.name)
			}
		}
	})
}

// Somebody who can write to the database and has no key sets each column to
// anything, and the program goes on meanwhile. Nobody gets another user's token,
// nothing goes to another host, no page has a script, nobody completes another
// user's consent, and the process lives.
func TestDatabaseWriter(t *testing.T) {
	t.Parallel()
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		t.Parallel()
		w := newWriter(t, db)
		// The tables and the users do not depend on each other. So each round sets
		// one column of each table, and of sessions and consents another one for
		// each user.
		byTable, seen := map[string][]setting{}, map[string]int{}
		rounds, taken, refused := 0, 0, 0
		for _, c := range schema(t, db, w.raw) {
			if slices.Contains(ownTables, c.table) {
				continue // read at the start only
			}
			for _, v := range w.values(c) {
				list := c.table
				if users := map[string]int{"sessions": len(w.victims), "consents": len(w.asked)}[list]; users > 0 {
					seen[list]++
					list += fmt.Sprint(seen[list] % users)
				}
				byTable[list] = append(byTable[list], setting{c, v, w.rows(list)})
			}
		}
		for _, list := range byTable {
			rounds = max(rounds, len(list))
		}
		for i := range rounds {
			if testing.Short() && i%16 != 0 {
				continue
			}
			var set []setting
			for _, list := range byTable {
				if i < len(list) {
					set = append(set, list[i])
				}
			}
			n := w.try(t, set)
			taken, refused = taken+n, refused+len(set)-n
			if t.Failed() {
				t.Fatalf("after %.500s", fmt.Sprint(set))
			}
		}
		t.Logf("%d values set, %d refused by the database", taken, refused)
	})
}

// setting is a value for a column of some rows.
type setting struct {
	column
	value any
	rows  string
}

func (s setting) String() string { return fmt.Sprintf("%s.%s = %.60v", s.table, s.name, s.value) }

// writer is somebody who can write to the database, and what is seen of the
// program meanwhile.
type writer struct {
	db      *dbtest.DB
	raw     *sql.DB
	store   *store.DB
	p       *process.Process
	lark    *larktest.Platform
	ingress *process.Balancer
	// calls counts what came to Lark. elsewhere is a host that nobody may call.
	calls     atomic.Int64
	elsewhere *httptest.Server
	victims   []victim
	asked     []string // users who are asked for their consent
}

// victim are two users in whose rows the same is set: one whose token is fresh,
// with the other ids of that user, and one whose token has to be renewed.
type victim struct {
	fresh, stale string
	ids          []string
}

func newWriter(t *testing.T, db *dbtest.DB) *writer {
	w := &writer{db: db}
	w.elsewhere = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a request went elsewhere: %s %s", r.Method, r.URL)
	}))
	t.Cleanup(w.elsewhere.Close)
	server := httptest.NewUnstartedServer(w.serveLark(t))
	w.lark = larktest.New(larktest.Config{URL: "http://" + server.Listener.Addr().String(), AdHocUsers: true, DeviceInterval: time.Second, TokenPerSecond: -1, TokenPerMinute: -1})
	t.Cleanup(w.lark.Close)
	server.Start()
	t.Cleanup(server.Close)
	db.Shared = !db.Postgres
	w.store, w.raw = db.Open(t, nil), db.SQL(t)
	for i := range 4 {
		w.asked = append(w.asked, fmt.Sprintf("ou_%031xd", i))
		v := victim{fresh: fmt.Sprintf("ou_%031xf", i), stale: fmt.Sprintf("ou_%031xe", i)}
		if _, err := w.lark.Grant(larktest.AppID, v.fresh); err != nil { // now Lark knows the user
			t.Fatal(err)
		}
		user, err := w.lark.User(v.fresh)
		if err != nil {
			t.Fatal(err)
		}
		v.ids = []string{user.UnionID, user.UserID}
		w.victims = append(w.victims, v)
	}
	w.seed(t)
	o := process.Options{Lark: w.lark, DB: db, Env: map[string]string{
		"CACHE_TTL": "1ms", "CONSENT_RATE": "1000000/1m", "REFRESH_RATE": "1000000/1s", "REFRESH_SWEEP": "1s", "USER_SYNC": "1s", "LOG_LEVEL": "info",
	}}
	if db.Postgres { // on SQLite the device flow
		w.ingress = process.NewBalancer(t)
		o.Ingress = w.ingress
	}
	w.p = process.Start(t, o)
	return w
}

// serveLark is Lark's door. The app's secret may come to the endpoints that
// take it, and nowhere else.
func (w *writer) serveLark(t *testing.T) http.HandlerFunc {
	secretGoesTo := []string{dbtest.TokenPath, "/oauth/v3/token", "/oauth/v1/revoke", "/oauth/v1/device_authorization", "/open-apis/auth/v3/tenant_access_token/internal"}
	known := regexp.MustCompile(`^/open-apis/(apaas/v1/larktest/echo|bot/v3/info|application/v6/applications/\w+|im/v1/messages(/om_\w+)?|contact/v3/users/batch|authen/v1/(user_info|authorize))$`)
	return func(rw http.ResponseWriter, r *http.Request) {
		w.calls.Add(1)
		body, _ := io.ReadAll(r.Body)
		takesSecret := slices.Contains(secretGoesTo, r.URL.Path)
		if !takesSecret && (strings.Contains(string(body), larktest.AppSecret) || strings.Contains(string(body), "refresh_token")) {
			t.Errorf("the secret or a refresh token went to %s", r.URL.Path)
		}
		if !takesSecret && !known.MatchString(r.URL.Path) {
			t.Errorf("Lark was asked for %s %s", r.Method, r.URL)
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		w.lark.ServeHTTP(rw, r)
	}
}

// seed makes the database as the program leaves it: bob and the victims have
// sessions, and there is a row in every table.
func (w *writer) seed(t *testing.T) {
	t.Helper()
	for _, table := range []string{"sessions", "consents", "audit", "events", "leases", "rates"} {
		w.exec(t, "DELETE FROM "+table)
	}
	dbtest.Seed(t, w.store, w.lark, time.Now().Add(-time.Minute), bob)
	for _, v := range w.victims {
		dbtest.Seed(t, w.store, w.lark, time.Now().Add(-time.Minute), v.fresh)
		dbtest.Seed(t, w.store, w.lark, time.Now().Add(-3*time.Hour), v.stale)
	}
	ctx := t.Context()
	w.store.Audit.Write(ctx, store.AuditEntry{Actor: store.ByAdmin, Action: store.AuditSync, Key: dbtest.Key(bob), Result: "done", Detail: "x"})
	_, err := w.store.Events.Note(ctx, larktest.AppID, "event", time.Hour)
	w.must(t, err)
	_, err = w.store.Elections.Lead(ctx, "sweep", time.Second)
	w.must(t, err)
	_, _, err = w.store.Rates.Take(ctx, larktest.AppID, []session.Limit{{N: 1000000, Period: time.Second}}, 1)
	w.must(t, err)
}

func (w *writer) must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *writer) exec(t *testing.T, query string, args ...any) {
	t.Helper()
	if _, err := w.raw.Exec(query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// another stands for the value of the same column in another user's row.
type another struct{}

// values are what a column is set to. A text is no longer than 20,000 bytes:
// lib/pq takes a longer error message, which would quote it, for something else
// and waits for a gigabyte.
func (w *writer) values(c column) []any {
	now := time.Now()
	switch c.kind {
	case "bigint", "integer":
		return []any{another{}, int64(0), int64(-1), int64(math.MaxInt64), int64(math.MinInt64), now.Add(time.Hour).UnixMilli(), now.Add(-time.Hour).UnixMilli()}
	case "bytea", "blob":
		return []any{another{}, nil, []byte("garbage"), []byte("\x01\x04testgarbage"), make([]byte, 20_000)}
	}
	values := []any{another{}, "", bob, script, w.elsewhere.URL + dbtest.TokenPath, strings.Repeat("A", 20_000)}
	switch c.name {
	case "state", "card", "card_shows", "flow", "reason":
		values = append(values, "active", "disabled", "pending", "done", "redirect", "device", "sent")
	case "token_url":
		values = append(values, w.lark.URL+"/anycross/trigger/callback/X")
	case "windows":
		values = append(values, "[]", `[{"first":-1,"counts":[-1]},{"first":9000000000000000000,"counts":[9000000000000000000]}]`)
	case "union_id", "user_id":
		values = append(values, "on_x", alice)
	default:
		values = append(values, "../../x", "\x1b]0;x\a")
	}
	return values
}

// try sets columns and drives the program. It returns how many values the
// database took.
func (w *writer) try(t *testing.T, set []setting) (taken int) {
	t.Helper()
	w.seed(t)
	links := w.ask(t, append(w.asked, erin)...)
	for _, s := range set {
		if w.set(s) {
			taken++
		}
	}
	w.calls.Store(0)
	w.drive(t, links)
	if n := w.calls.Load(); n > 150 {
		t.Errorf("%d calls to Lark", n)
	}
	return taken
}

// rows returns the condition for the rows of a table that are set: those of one
// victim, the consent of one user, or all.
func (w *writer) rows(list string) string {
	if n, ok := strings.CutPrefix(list, "consents"); ok {
		return " WHERE open_id = '" + w.asked[n[0]-'0'] + "'"
	}
	if n, ok := strings.CutPrefix(list, "sessions"); ok {
		v := w.victims[n[0]-'0']
		return " WHERE open_id IN ('" + v.fresh + "', '" + v.stale + "')"
	}
	return ""
}

// set sets a column. It reports false if the database refuses the value.
func (w *writer) set(s setting) bool {
	value, args := "$1", []any{s.value}
	if s.value == (another{}) {
		from := map[string]string{"sessions": bob, "consents": erin}[s.table]
		value, args = fmt.Sprintf("(SELECT o.%s FROM %s o WHERE o.open_id = '%s' LIMIT 1)", s.name, s.table, from), nil
		if from == "" {
			return false
		}
	}
	_, err := w.raw.Exec(fmt.Sprintf("UPDATE %s SET %s = %s%s", s.table, s.name, value, s.rows), args...)
	return err == nil
}

// ask has users asked for their consent, and returns their links.
func (w *writer) ask(t *testing.T, openIDs ...string) map[string]string {
	t.Helper()
	links := map[string]string{}
	for _, id := range openIDs {
		links[id] = w.p.Link(t, echo, id)
	}
	return links
}

// drive uses the program as everybody does, and judges what comes.
func (w *writer) drive(t *testing.T, links map[string]string) {
	t.Helper()
	owners := map[string]string{bob: bob}
	for _, id := range w.asked {
		owners[id] = id
	}
	for _, v := range w.victims {
		owners[v.fresh], owners[v.stale] = v.fresh, v.stale
		for _, id := range v.ids {
			owners[id] = v.fresh
		}
	}
	for name, owner := range owners {
		a := w.get(t, w.p.Request(t, "GET", echo, name, "", larktest.ExpectUserHeader, owner))
		switch {
		case a == nil: // it waits for a lease, for example
		case a.Status == 200 && a.Owner() != owner:
			t.Errorf("a request of %s went out with the token of %s", name, a.Owner())
		case a.Status == 200 && slices.Contains(w.asked, name):
			t.Errorf("%s has not consented, and got %s", name, a.Body)
		case a.Status == 200 || a.Name() != "" && a.Name() != "internal_error":
		default:
			t.Errorf("a request of %s: %d %.300s", name, a.Status, a.Body)
		}
		if name == bob && (a == nil || a.Status != 200) {
			t.Errorf("bob, whose row nobody has touched, got %+v", a)
		}
		if a != nil {
			w.safe(t, a)
		}
	}
	for _, id := range w.asked {
		w.stranger(t, id, links[id])
	}
	for _, path := range []string{"/api/v1/sessions", "/api/v1/sessions/-/" + w.victims[0].fresh, "/api/v1/consents", "/api/v1/audit",
		"/", "/sessions", "/sessions/" + larktest.AppID + "/" + w.victims[0].fresh, "/consents", "/audit", "/healthz", "/readyz"} {
		a := w.get(t, process.NewRequest(t, "GET", w.p.AdminURL+path, "", ""))
		if a == nil || a.Status >= 500 && a.Status != 503 {
			t.Errorf("%s: %+v", path, a)
			continue
		}
		w.safe(t, a)
	}
	for _, v := range w.lark.Violations(larktest.WrongUser, larktest.LeakedHeader, larktest.UnknownToken) {
		t.Errorf("%s %s %s", v.Kind, v.OpenID, v.Detail)
	}
	select {
	case <-w.p.Ended():
		t.Error("the process has ended")
	default:
	}
}

// get sends a request, and returns nil if there is no answer in time.
func (w *writer) get(t *testing.T, r *http.Request) *process.Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	a, err := process.Try(r.WithContext(ctx))
	if err != nil && ctx.Err() == nil {
		t.Errorf("%s: %v", r.URL, err)
	}
	if err != nil {
		return nil
	}
	return a
}

// safe: nothing in an answer leads elsewhere or is a script.
func (w *writer) safe(t *testing.T, a *process.Answer) {
	t.Helper()
	if strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") && strings.Contains(a.Body, "<script>alert") {
		t.Errorf("a page has a script from the database: %.300s", a.Body)
	}
	for _, to := range []string{a.Header.Get("Location"), a.Header.Get("X-Larkside-Authorize-Url"), a.Envelope.Error.AuthorizeURL} {
		own := to == "" || strings.HasPrefix(to, "/") && !strings.HasPrefix(to, "//") || strings.HasPrefix(to, w.lark.URL+"/") ||
			w.ingress != nil && strings.HasPrefix(to, w.ingress.URL+"/consent/start?")
		if !own || strings.Contains(to, "anycross") {
			t.Errorf("somebody is sent to %s", to)
		}
	}
}

// stranger follows the link of another user, and approves as bob.
func (w *writer) stranger(t *testing.T, of, link string) {
	t.Helper()
	if w.ingress == nil {
		w.lark.Approve(link, bob) // the device code may be gone
		return
	}
	start := w.get(t, process.NewRequest(t, "GET", link, "", ""))
	if start == nil {
		t.Errorf("no answer to the link of %s", of)
		return
	}
	w.safe(t, start)
	to := start.Header.Get("Location")
	if start.Status != http.StatusFound {
		return
	}
	at, err := url.Parse(to)
	if err != nil || at.Path != "/open-apis/authen/v1/authorize" {
		t.Errorf("the link of %s leads to %s", of, to)
		return
	}
	if asked := at.Query().Get("scope"); asked != "offline_access" {
		t.Errorf("%s is asked for %.200q", of, asked)
	}
	back, err := w.lark.Consent(to, bob)
	if err != nil {
		t.Errorf("bob can't approve %s: %v", to, err)
		return
	}
	cookie, _, _ := strings.Cut(start.Header.Get("Set-Cookie"), ";")
	a := w.get(t, process.NewRequest(t, "GET", back, "", "", "Cookie", cookie))
	if a == nil {
		return
	}
	w.safe(t, a)
	if w.get(t, w.p.Request(t, "GET", echo, of, "")).Status == 200 {
		t.Errorf("bob has completed the consent of %s", of)
	}
}
