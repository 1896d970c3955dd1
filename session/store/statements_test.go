package store_test

import (
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"larkside/test/dbtest"
)

// statementRows is how many sessions TestStatements fills in, beside as many
// event ids and twice as many consents and audit entries.
var statementRows = flag.Int("statement-rows", 50_000, "sessions that TestStatements fills in; with -v it prints what each statement costs")

// Who runs a statement.
type runBy int

const (
	// alone: it runs by itself, all the time, whether or not anybody calls.
	alone runBy = iota
	// request: something waits for it, a call, a consent or an event.
	request
	// leader: one replica runs it, once a minute. It may read an index from end to
	// end, and never the table.
	leader
	// person: an operator has asked, or it runs once at the start. It may read
	// a table.
	person
)

func (r runBy) String() string { return [...]string{"by itself", "request", "leader", "person"}[r] }

// statement is how one of the package's statements is used.
type statement struct {
	by runBy
	// index names what finds its rows in the tables that grow, separated by blanks;
	// "a|b" is one of two. A table's primary key is called as in PostgreSQL. For a
	// statement of a person it is not checked.
	index string
	args  []any
}

// users of the filled database.
const (
	bigApp = "cli_big"
	someID = "ou_77"
)

// statements are all statements of the package with arguments as they are used.
func statements() map[string]statement {
	now := time.Now().UnixMilli()
	second, hour, day := time.Second.Milliseconds(), time.Hour.Milliseconds(), 24*time.Hour.Milliseconds()
	blob := []byte("sealed")
	consent := consentID(77)
	namesArgs := make([]any, 51)
	namesArgs[0] = bigApp
	for i := range 50 {
		namesArgs[1+i] = fmt.Sprint("ou_", 70+i)
	}
	someTime := fmt.Sprintf("%016x", (now-90*day)*1e6)
	return map[string]statement{
		"queryAuditInsert":     {request, "", []any{"f", now, "a", "a", bigApp, someID, "done", ""}},
		"queryAuditList":       {person, "audit_pkey", []any{"", "", "", "", 50}},
		"queryAuditForget":     {alone, "audit_pkey", []any{someTime}},
		"queryAuditForgetUpTo": {alone, "audit_pkey", []any{someTime, 999}},

		"queryCardSet":     {request, "consents_pkey", []any{consent, "sent", "om_1", "done"}},
		"queryCardShows":   {request, "consents_pkey", []any{consent, "done"}},
		"queryCardsBehind": {alone, "consents_cards_behind", []any{hour, 200}},
		"queryCardClaim":   {request, "consents_pkey", []any{consent, "me", 1000}},

		"queryChangedSince": {alone, "sessions_changed consents_changed", []any{now - 2000, 5000}},

		"queryConsentList":       {person, "consents_pkey", []any{"", "", "", "", 50}},
		"queryConsentOf":         {request, "consents_user", []any{bigApp, someID, 20}},
		"queryConsentCount":      {request, "consents_user", []any{bigApp, someID, hour}},
		"queryConsentOpenCount":  {alone, "consents_poll|consents_pending", nil},
		"queryScopesAnswered":    {request, "consents_user", []any{bigApp, someID, hour, "a", "b", "c"}},
		"queryConsentForget":     {alone, "consents_closed", []any{now - 8*day + 20*second}},
		"queryConsentForgetUpTo": {alone, "consents_closed", []any{now - 7*day, 999}},
		"queryConsentDue":        {alone, "consents_poll|consents_pending", []any{200}},
		"queryConsentClaim":      {request, "consents_pkey", []any{consent, "me", 1000}},
		"queryConsentClaimDue":   {alone, "consents_pkey", []any{consent, "me", 1000}},
		"queryConsentExtend":     {request, "consents_pkey", []any{consent, "me", 1000}},
		"queryConsentPolled":     {alone, "consents_pkey", []any{consent, "me", 1000, 60_000, 1000}},
		"queryConsentReturn":     {alone, "consents_pkey", []any{consent, "me"}},
		"queryConsentTouch":      {request, "consents_pkey", []any{consent, 1000}},
		"queryConsentOpenBy":     {request, "consents_poll|consents_pending", []any{"app"}},
		"queryConsentInsert":     {request, "", []any{"f", bigApp, "ou_new", "device", "s", blob, "app", "me", 1000, 1000}},
		"queryConsentLink":       {request, "consents_pkey", []any{consent, blob, blob, "", 1000, 1000}},
		"queryConsentGet":        {request, "consents_pkey", []any{consent}},
		"queryConsentOpen":       {request, "consents_pending", []any{bigApp, someID}},
		"queryConsentLatest":     {request, "consents_user", []any{bigApp, someID}},
		"queryConsentByTicket":   {request, "consents_ticket", []any{"ticket"}},
		"queryConsentClose":      {request, "consents_pkey", []any{consent, "done", ""}},
		"queryConsentDrop":       {request, "consents_pkey", []any{consent}},

		"queryNow":      {alone, "", nil},
		"queryKeyInUse": {request, "", []any{"k", blob}},

		"querySearchExact":  {request, "sessions_pkey sessions_pkey|sessions_state sessions_union_id sessions_user_id", []any{"u77", "", "", 50}},
		"querySearch":       {person, "sessions_pkey", []any{"", "", "", "", 1000}},
		"queryFailing":      {request, "sessions_failing", []any{"", "", "", 41}},
		"queryEnded":        {request, "sessions_ended", []any{"disabled", int64(1 << 62), "", "", "", 41}},
		"queryWorking":      {request, "sessions_pkey", []any{"", "", "", 41}},
		"queryRevoked":      {request, "sessions_revoked", []any{int64(1 << 62), "", "", "", 41}},
		"queryLatest":       {request, "sessions_changed", []any{int64(1 << 62), "", "", "", "", 41}},
		"queryEndsNext":     {request, "sessions_usable_until", []any{now, "", "", "", "", 41}},
		"queryEndedLast":    {request, "sessions_usable_until", []any{now, "", "", "", "", 41}},
		"queryNames":        {request, "sessions_pkey", namesArgs},
		"queryCounts":       {leader, "sessions_state", nil},
		"queryFingerprint":  {request, "sessions_changed consents_pkey consents_poll|consents_pending audit_pkey", nil},
		"queryAnySession":   {person, "", nil}, // reads one row
		"queryHasSession":   {person, "sessions_pkey", []any{bigApp, someID}},
		"queryNotRenewable": {person, "", nil},

		"queryLeader": {alone, "", []any{"work", 1000}},
		"queryLead":   {alone, "", []any{"work", "me", 1000, 3_600_000}},

		"queryEventInsert":     {request, "", []any{"new", 1000}},
		"queryEventDelete":     {request, "events_pkey", []any{"new"}},
		"queryEventForget":     {alone, "events_expires", []any{now}},
		"queryEventForgetUpTo": {alone, "events_expires", []any{now, 999}},

		"queryDueForRefresh": {alone, "sessions_refresh_due", []any{now, 500}},
		"queryClaim":         {request, "sessions_pkey", []any{bigApp, someID, 1, "me", 1000}},
		"queryReplace":       {request, "sessions_pkey", []any{bigApp, someID, 1, blob, blob, "Bearer", "u", "s", now, now, now, now, now, 0, now, 1, 1000}},
		"queryRelease":       {request, "sessions_pkey", []any{bigApp, someID, 1, "me", 1, 1000, 0}},
		"queryEnd":           {request, "sessions_pkey", []any{bigApp, someID, 1, "me", "consent_required", "r", 1000, 1}},
		"queryBacklog":       {alone, "sessions_refresh_due", []any{now}},
		"queryBacklogDue":    {leader, "sessions_refresh_due", []any{now, 10_000}},

		"queryDueForSync": {alone, "sessions_synced", []any{bigApp, now - day, 100}},
		"querySetProfile": {alone, "sessions_pkey", []any{bigApp, someID, blob, "", "", now, blob, blob}},
		"queryMarkSynced": {alone, "sessions_pkey", []any{bigApp, someID, now}},

		"queryRate":        {request, "", []any{"rate"}},
		"queryRateInsert":  {request, "", []any{"rate", "[]"}},
		"queryRateReplace": {request, "", []any{"rate", "[]", 1, 2}},

		"queryExpiring":        {alone, "sessions_ends", []any{now, now + 3*day, 200}},
		"queryReminderClaim":   {alone, "sessions_pkey", []any{bigApp, someID, now}},
		"queryReminderRelease": {alone, "sessions_pkey", []any{bigApp, someID, now}},

		"queryLeft":           {alone, "sessions_left", []any{bigApp, now - day, 100}},
		"queryDropTokens":     {alone, "sessions_pkey", []any{bigApp, someID, 1}},
		"queryUnusableUpTo":   {alone, "sessions_usable_until", []any{now - 90*day, 499}},
		"queryDeleteUnusable": {alone, "sessions_usable_until", []any{now - 90*day + 20*second, now - 90*day + 20*second}},
		"queryPurge":          {request, "sessions_pkey", []any{bigApp, someID, 1}},
		"queryPurgeConsents":  {request, "consents_user", []any{bigApp, someID}},
		"queryPurgeDefault":   {request, "", []any{bigApp, someID}},

		"querySchema": {person, "", nil},

		"queryDefault":    {request, "", []any{bigApp}},
		"querySetDefault": {person, "", []any{bigApp, someID, blob}},

		"queryAccess":      {request, "sessions_pkey", []any{bigApp, someID}},
		"queryLoad":        {request, "sessions_pkey", []any{bigApp, someID}},
		"queryByUnionID":   {request, "sessions_union_id", []any{bigApp, "on_77"}},
		"queryByUserID":    {request, "sessions_user_id", []any{bigApp, "u77"}},
		"queryTakeUnionID": {request, "sessions_union_id", []any{bigApp, "on_77", someID}},
		"queryTakeUserID":  {request, "sessions_user_id", []any{bigApp, "u77", someID}},
		"queryPut":         {request, "", []any{bigApp, someID, "on_77", "u77", blob, blob, blob, "Bearer", "u", "s", now, now, now, now, now, now, day, blob, blob, now}},
		"queryRevoke":      {request, "sessions_pkey", []any{bigApp, someID, "revoked", 1, blob}},
		"queryDisable":     {request, "sessions_pkey", []any{bigApp, someID, "r"}},
		"queryEnable":      {request, "sessions_pkey", []any{bigApp, someID, "r"}},
	}
}

// Statements about the schema itself, which has no rows to speak of.
var schemaStatements = []string{"querySchemaTable", "querySchemaInsert", "querySchemaDelete", "queryRightsMissing", "queryTablePostgres", "queryTableSQLite"}

// Every statement of the package is explained on a filled database: what runs by
// itself, or is waited for, finds its rows by the index that was made for it. An
// index on a column that most rows agree in is as slow as no index.
func TestStatements(t *testing.T) {
	if testing.Short() || raceDetector {
		t.Skip("fills databases; -short and the race detector leave it out, ./test/run runs it")
	}
	texts := sourceStatements(t)
	all := statements()
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if _, ok := all[name]; !ok && !slices.Contains(schemaStatements, name) {
			t.Errorf("%s has no arguments in statements()", name)
		}
	}
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		db.Open(t, nil).Close() // registers larkside_now with SQLite's driver
		filled := db.SQL(t)
		if db.Postgres {
			filled = db.SQLBinary(t)
		}
		fill(t, db, filled, *statementRows)
		for _, name := range slices.Sorted(maps.Keys(all)) {
			text, ok := texts[name]
			if !ok {
				t.Errorf("there is no %s", name)
				continue
			}
			explain := explainSQLite
			if db.Postgres {
				explain = explainPostgres
			}
			cost := explain(t, filled, text, all[name].args, all[name].by == leader)
			t.Logf("%-22s %-10s %10.2f ms  %7d rows  %s", name, all[name].by, cost.ms, cost.read, cost.plan)
			if all[name].by == person {
				continue
			}
			if cost.scanned != "" {
				t.Errorf("%s reads %s from end to end:\n%s", name, cost.scanned, cost.plan)
			}
			if cost.vague != "" {
				t.Errorf("%s finds rows by what most of them have, %s:\n%s", name, cost.vague, cost.plan)
			}
			if !sameIndexes(all[name].index, cost.indexes) {
				t.Errorf("%s uses the indexes %q, not %q:\n%s", name, cost.indexes, all[name].index, cost.plan)
			}
			// One session of a hundred is due.
			if cost.read > max(2_000, *statementRows/50) && all[name].by != leader {
				t.Errorf("%s reads %d rows:\n%s", name, cost.read, cost.plan)
			}
		}
	})
}

// cost is what explaining a statement said.
type cost struct {
	ms float64
	// read counts the rows that were read, and those that were left out.
	// PostgreSQL only.
	read int
	// scanned is a table that was read from end to end.
	scanned string
	// vague are the terms of a search that does not tell rows apart. SQLite only;
	// PostgreSQL has statistics, and read.
	vague string
	// indexes are those of the big tables that were used.
	indexes []string
	plan    string
}

// sameIndexes reports whether used is what statement.index says.
func sameIndexes(stated string, used []string) bool {
	fields := strings.Fields(stated)
	fits := func(field, index string) bool { return slices.Contains(strings.Split(field, "|"), index) }
	for _, index := range used {
		if !slices.ContainsFunc(fields, func(field string) bool { return fits(field, index) }) {
			return false
		}
	}
	for _, field := range fields {
		if !slices.ContainsFunc(used, func(index string) bool { return fits(field, index) }) {
			return false
		}
	}
	return true
}

func isBig(index string) bool {
	table, _, _ := strings.Cut(index, "_")
	return slices.Contains(bigTables, table)
}

// The tables that have a row for each user, or more.
var bigTables = []string{"sessions", "consents", "audit", "events"}

type planNode struct {
	Type     string     `json:"Node Type"`
	Relation string     `json:"Relation Name"`
	Index    string     `json:"Index Name"`
	Rows     float64    `json:"Actual Rows"`
	Loops    float64    `json:"Actual Loops"`
	Removed  float64    `json:"Rows Removed by Filter"`
	Removed2 float64    `json:"Rows Removed by Index Recheck"`
	Plans    []planNode `json:"Plans"`
}

// explainPostgres runs the statement and takes it back.
func explainPostgres(t *testing.T, db *sql.DB, text string, args []any, _ bool) cost {
	t.Helper()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	var answer []byte
	if err := tx.QueryRow("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) "+text, args...).Scan(&answer); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	var explained []struct {
		Plan     planNode
		Planning float64 `json:"Planning Time"`
		Time     float64 `json:"Execution Time"`
	}
	if err := json.Unmarshal(answer, &explained); err != nil {
		t.Fatal(err)
	}
	c := cost{ms: explained[0].Planning + explained[0].Time}
	var nodes []string
	var walk func(planNode)
	walk = func(n planNode) {
		if strings.Contains(n.Type, "Scan") && n.Type != "Bitmap Index Scan" && n.Type != "Subquery Scan" {
			c.read += int((n.Rows + n.Removed + n.Removed2) * n.Loops)
		}
		if n.Type == "Seq Scan" && slices.Contains(bigTables, n.Relation) {
			c.scanned = n.Relation
		}
		if strings.Contains(n.Type, "Scan") {
			nodes = append(nodes, strings.TrimSpace(n.Type+" "+orElse(n.Index, n.Relation)))
			if isBig(n.Index) {
				c.indexes = append(c.indexes, n.Index)
			}
		}
		for _, below := range n.Plans {
			walk(below)
		}
	}
	walk(explained[0].Plan)
	c.plan = strings.Join(nodes, ", ")
	return c
}

func orElse(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

var (
	// An index on a few of the rows may be read from end to end.
	partialIndex = regexp.MustCompile(`(?s)CREATE (?:UNIQUE )?INDEX (\w+) [^;]*?WHERE`)
	usedIndex    = regexp.MustCompile(`USING (?:COVERING )?INDEX (?:sqlite_autoindex_)?(\w+)`)
	primaryKey   = regexp.MustCompile(`_1$`)
	vagueSearch  = regexp.MustCompile(`^SEARCH .* \(((?:AND |(?:app_id|state|reason)=\? ?)+)\)$`)
)

func explainSQLite(t *testing.T, db *sql.DB, text string, args []any, mayReadIndex bool) cost {
	t.Helper()
	rows, err := db.Query("EXPLAIN QUERY PLAN "+text, args...)
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	defer rows.Close()
	var c cost
	var nodes []string
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, detail)
		if m := usedIndex.FindStringSubmatch(detail); m != nil && isBig(m[1]) {
			c.indexes = append(c.indexes, primaryKey.ReplaceAllString(m[1], "_pkey"))
			if m := vagueSearch.FindStringSubmatch(detail); m != nil {
				c.vague = m[1]
			}
		}
		table, found := strings.CutPrefix(detail, "SCAN ")
		table, how, _ := strings.Cut(table, " ")
		if !found || !slices.Contains(bigTables, table) {
			continue
		}
		index := how[strings.LastIndex(how, " ")+1:]
		if mayReadIndex && strings.Contains(how, "COVERING INDEX") {
			continue
		}
		if !slices.Contains(partialIndexes(t), index) {
			c.scanned = table
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	c.plan = strings.Join(nodes, ", ")
	began := time.Now()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	result, err := tx.Query(text, args...)
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	for result.Next() {
	}
	result.Close()
	c.ms = float64(time.Since(began).Microseconds()) / 1000
	return c
}

func partialIndexes(t *testing.T) (names []string) {
	t.Helper()
	text, err := os.ReadFile("migrations/sqlite/00001_sessions.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range partialIndex.FindAllStringSubmatch(string(text), -1) {
		names = append(names, m[1])
	}
	return names
}

// sourceStatements returns the statements in the package's source, by name.
// Statements on the big tables have to be constants whose names begin with
// query, but those that reseal.go puts together for an operator.
func sourceStatements(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	constants := map[string]ast.Expr{}
	inline := regexp.MustCompile(`(?s)^["` + "`" + `](SELECT|INSERT|UPDATE|DELETE|WITH)\s.*\b(` + strings.Join(bigTables, "|") + `)\b`)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		named := map[ast.Node]bool{}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GenDecl:
				if n.Tok == token.CONST {
					for _, spec := range n.Specs {
						spec := spec.(*ast.ValueSpec)
						for i, id := range spec.Names {
							if i < len(spec.Values) {
								constants[id.Name] = spec.Values[i]
							}
						}
						ast.Inspect(spec, func(n ast.Node) bool { named[n] = true; return true })
					}
				}
			case *ast.BasicLit:
				if n.Kind == token.STRING && !named[n] && inline.MatchString(n.Value) && name != "reseal.go" && len(n.Value) > 30 {
					t.Errorf("%s: make a constant of %s", name, n.Value)
				}
			}
			return true
		})
	}
	var text func(ast.Expr) (string, bool)
	text = func(e ast.Expr) (string, bool) {
		switch e := e.(type) {
		case *ast.BasicLit:
			s, err := strconv.Unquote(e.Value)
			return s, e.Kind == token.STRING && err == nil
		case *ast.Ident:
			return text(constants[e.Name])
		case *ast.BinaryExpr:
			left, ok1 := text(e.X)
			right, ok2 := text(e.Y)
			return left + right, ok1 && ok2
		}
		return "", false
	}
	all := map[string]string{}
	for name, value := range constants {
		if s, ok := text(value); ok && strings.HasPrefix(name, "query") {
			all[name] = s
		}
	}
	if len(all) < 50 {
		t.Fatalf("found %d statements only", len(all))
	}
	return all
}

// consentID is the id of a filled consent. It sorts like those of a year ago.
func consentID(i int) string { return fmt.Sprintf("%032d", i) }

// fill makes n sessions, n event ids, 2n consents and 2n audit entries, as years
// of use would leave them: 19 of 20 sessions are active, one of a hundred is due
// for something, one of two thousand consents is open, and few cards are behind.
func fill(t *testing.T, db *dbtest.DB, to *sql.DB, n int) {
	t.Helper()
	began := time.Now()
	replace := strings.NewReplacer("{app}", bigApp, "{now}", fmt.Sprint(began.UnixMilli()), "{day}", "86400000", "{n}", fmt.Sprint(n), "{2n}", fmt.Sprint(2*n),
		"{blob}", "randomblob(160)", "{id}", "printf('%032d', i)", "{hex}", "printf('%016x', ({now} - i * 3500) * 1000000)",
		"{upto}", "(WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < {2n}) SELECT i FROM s) AS series")
	if db.Postgres {
		replace = strings.NewReplacer("{app}", bigApp, "{now}", fmt.Sprint(began.UnixMilli()), "{day}", "86400000", "{n}", fmt.Sprint(n), "{2n}", fmt.Sprint(2*n),
			"{blob}", "decode(repeat(md5(i::text), 10), 'hex')", "{id}", "lpad(i::text, 32, '0')", "{hex}", "lpad(to_hex(({now} - i * 3500) * 1000000), 16, '0')",
			"{upto}", "generate_series(1::bigint, {2n}::bigint) AS series(i)")
	}
	tx, err := to.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if db.Postgres { // each row would be notified
		for _, table := range []string{"sessions", "consents"} {
			if _, err := tx.Exec("ALTER TABLE " + table + " DISABLE TRIGGER USER"); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, s := range []string{
		`INSERT INTO sessions (app_id, open_id, union_id, user_id, profile, state, reason,
				access_token, refresh_token, token_type, token_url, scope, issued_at, expires_at,
				refresh_expires_at, refresh_due_at, granted_at,
				refreshed_at, version, synced_at, refresh_life, usable_until, changed_at)
			SELECT '{app}', 'ou_' || i, 'on_' || i, 'u' || i, {blob},
				CASE WHEN i % 100 < 95 THEN 'active' WHEN i % 100 < 99 THEN 'consent_required' ELSE 'disabled' END,
				CASE WHEN i % 100 = 95 THEN 'revoked' WHEN i % 100 = 99 THEN 'user_disabled' WHEN i % 100 > 95 THEN 'refresh_token_expired' ELSE '' END,
				{blob}, {blob}, 'Bearer', 'https://open.example/token', 'offline_access', {now} - i % 7200 * 1000, {now} - i % 7200 * 1000 + 7200000,
				{now} + {day} * 7, {now} + (i * 7919 % 500000 - 5000) * 1000, {now} - i * 7919 % 360 * {day},
				{now} - i % 7200 * 1000, 1, {now} - (i * 104729 % 88000) * 1000, {day} * 7,
				CASE WHEN i % 100 < 95 THEN {now} + {day} * 7 ELSE {now} - i * 7919 % 91 * {day} END, {now} - i * 7919 % 7200 * 1000
			FROM {upto} WHERE i <= {n}`,
		`INSERT INTO consents (id, app_id, open_id, flow, state, scopes,
				link, secret, poll_interval,
				poll_at, card, card_message_id, card_shows, created_at, expires_at, changed_at)
			SELECT {id}, '{app}', 'ou_' || (i % {n}), 'device', state, 'offline_access',
				CASE WHEN state = 'pending' THEN {blob} END, CASE WHEN state = 'pending' THEN {blob} END, 5000,
				{now} + i % 5 * 1000, 'sent', 'om_' || i, CASE WHEN i % 100003 = 5 THEN 'pending' ELSE state END, made, made + 600000, made + 60000
			FROM (SELECT i, {now} - ({2n} - i) * 8 * {day} / {2n} AS made,
				CASE WHEN i > {2n} - {2n} / 2000 THEN 'pending' WHEN i % 10 < 7 THEN 'done' WHEN i % 10 = 7 THEN 'declined' ELSE 'expired' END AS state
				FROM {upto}) AS x`,
		`INSERT INTO audit (id, at, actor, action, app_id, open_id, result, detail)
			SELECT {hex} || 'f' || i, {now} - i * 3500, 'user', 'consent', '{app}', 'ou_' || i % {n}, 'done', 'scopes: offline_access' FROM {upto}`,
		`INSERT INTO events (id, expires_at) SELECT '{app} ' || i, {now} + (i - 500) * 1000 FROM {upto} WHERE i <= {n}`,
	} {
		s = replace.Replace(replace.Replace(s)) // the values have placeholders, too
		if _, err := tx.Exec(s); err != nil {
			t.Fatalf("%v in %s", err, s)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if db.Postgres { // SQLite has no statistics, as in production
		if _, err := to.Exec("VACUUM ANALYZE"); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d sessions filled in, in %v", n, time.Since(began).Round(time.Millisecond))
}
