package store_test

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
)

// A step that only adds, as the next version might have it.
const (
	addingStep = `ALTER TABLE sessions ADD COLUMN next_text text NOT NULL DEFAULT '';
ALTER TABLE consents ADD COLUMN next_number bigint NOT NULL DEFAULT 0;
CREATE TABLE next_table (id text NOT NULL PRIMARY KEY);
CREATE INDEX sessions_next ON sessions (next_text) WHERE next_text <> '';`
	addingStepBack = `DROP INDEX sessions_next;
DROP TABLE next_table;
ALTER TABLE consents DROP COLUMN next_number;
ALTER TABLE sessions DROP COLUMN next_text;`
)

func config(db *dbtest.DB) store.Config {
	return store.Config{URL: session.NewSecret(db.URL), Keys: db.Keys}
}

// wholeLife has a session and a consent go through what happens to them.
func wholeLife(t *testing.T, db *dbtest.DB) {
	t.Helper()
	s := db.Open(t, nil)
	defer s.Close()
	ctx := t.Context()
	asked, began, err := s.Consents.Begin(ctx, session.Consent{Key: alice, Flow: session.DeviceFlow, Scopes: "offline_access"}, time.Second, time.Minute)
	if err != nil || !began {
		t.Fatalf("beginning a consent: %v, %v", began, err)
	}
	link, secret := session.NewSecret("link"), session.NewSecret("code")
	if err := s.Consents.SetLink(ctx, asked, link, secret, "", time.Second, time.Minute); err != nil {
		t.Error(err)
	}
	if err := s.Consents.Cards.Set(ctx, asked.ID, session.CardSent, "om_1", session.ConsentPending); err != nil {
		t.Error(err)
	}
	stored, err := s.Consents.Finish(ctx, asked.ID, grant(alice, "1"))
	if err != nil {
		t.Fatal(err)
	}
	if behind, err := s.Consents.Cards.Behind(ctx, time.Hour, 10); err != nil || len(behind) != 1 {
		t.Errorf("%d cards behind, %v", len(behind), err)
	}
	if _, err := s.Leases.Replace(ctx, claim(t, s, alice, stored.Version, time.Minute), renewed("2")); err != nil {
		t.Error(err)
	}
	if err := s.Profiles.Set(ctx, alice, session.Profile{Name: "Alice"}, "", ""); err != nil {
		t.Error(err)
	}
	if _, err := s.Reminders.Due(ctx, time.Hour, 10); err != nil {
		t.Error(err)
	}
	for _, forget := range []func() error{
		func() error { return s.Consents.History.Forget(ctx, 0) },
		func() error { return s.Events.Forget(ctx) },
		func() error { return s.Audit.Forget(ctx, 0) },
	} {
		if err := forget(); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Events.Note(ctx, alice.AppID, "event", time.Minute); err != nil {
		t.Error(err)
	}
	if n, _, err := s.Rates.Take(ctx, "rate", []session.Limit{{N: 1, Period: time.Second}}, 1); n > 1 || err != nil {
		t.Error(n, err)
	}
	if _, err := s.Elections.Lead(ctx, "work", time.Minute); err != nil {
		t.Error(err)
	}
	if _, err := s.Sessions.Revoke(ctx, alice, session.Revoked); err != nil {
		t.Error(err)
	}
	if _, err := s.Directory.Counts(ctx); err != nil {
		t.Error(err)
	}
}

// A newer version's step adds to the schema while this program's replicas serve,
// and one of them starts again: all of its work works.
func TestNewerSchemaThatAdds(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		wholeLife(t, db)
		if err := store.MigrateWith(t.Context(), config(db), 0, addingStep, addingStepBack, 1); err != nil {
			t.Fatal(err)
		}
		wholeLife(t, db)
		if err := store.Migrate(t.Context(), config(db), 0); err != nil {
			t.Errorf("migrating by the older program: %v", err)
		}
		e, err := store.Examine(t.Context(), config(db))
		if err != nil || e.Schema != 2 || e.Knows != 1 || e.Oldest != 1 {
			t.Errorf("examined: %+v, %v", e, err)
		}
	})
}

// A program that is older than the schema allows is refused, and the error says
// which versions there are.
func TestNewerSchemaIsRefused(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		if err := store.MigrateWith(t.Context(), config(db), 0, addingStep, addingStepBack, 2); err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{
			func() error { _, err := store.Open(t.Context(), config(db)); return err }(),
			store.Migrate(t.Context(), config(db), 0),
		} {
			if !errors.Is(err, store.ErrSchemaNewer) || !strings.Contains(err.Error(), "has version 2, which works with programs that know version 2 or newer, and this one knows 1") {
				t.Errorf("got %v", err)
			}
		}
	})
}

// The program that made a step takes it back, and no other can.
func TestMigrateBack(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		if err := store.MigrateWith(t.Context(), config(db), 0, addingStep, addingStepBack, 2); err != nil {
			t.Fatal(err)
		}
		if err := store.Migrate(t.Context(), config(db), 1); !errors.Is(err, store.ErrSchemaNewer) {
			t.Errorf("taken back by a program that does not know the step: %v", err)
		}
		for range 2 {
			if err := store.MigrateWith(t.Context(), config(db), 1, addingStep, addingStepBack, 2); err != nil {
				t.Fatal(err)
			}
		}
		wholeLife(t, db)
		for _, version := range []int64{-1, 2} {
			if err := store.Migrate(t.Context(), config(db), version); !errors.Is(err, store.ErrSetup) {
				t.Errorf("to version %d: %v", version, err)
			}
		}
	})
}

// A step that fails leaves nothing behind.
func TestBrokenStep(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		if err := store.MigrateWith(t.Context(), config(db), 0, addingStep+"SELECT no_such_function();", addingStepBack, 1); err == nil {
			t.Fatal("no error")
		}
		if e, err := store.Examine(t.Context(), config(db)); err != nil || e.Schema != 1 {
			t.Errorf("examined: %+v, %v", e, err)
		}
		if err := store.MigrateWith(t.Context(), config(db), 0, addingStep, addingStepBack, 1); err != nil {
			t.Error(err)
		}
	})
}

// Another program keeps its schema in the same database with goose, and is at
// version 10: both have what they need.
func TestAnotherUserOfGoose(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		sql := db.SQL(t)
		_, err := sql.Exec(`CREATE TABLE goose_db_version (id integer PRIMARY KEY, version_id bigint NOT NULL, is_applied boolean NOT NULL);
			INSERT INTO goose_db_version VALUES (1, 0, true), (2, 10, true)`)
		if err != nil {
			t.Fatal(err)
		}
		wholeLife(t, db)
		var n, version int
		if err := sql.QueryRow(`SELECT count(*), max(version_id) FROM goose_db_version`).Scan(&n, &version); err != nil || n != 2 || version != 10 {
			t.Errorf("goose's table has %d rows up to %d, %v", n, version, err)
		}
	})
}

// A table of another program that is named like one of Larkside's is no reason
// to try again for ever.
func TestTableOfAnotherProgram(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		if _, err := db.SQL(t).Exec(`CREATE TABLE sessions (id integer)`); err != nil {
			t.Fatal(err)
		}
		_, err := store.Open(t.Context(), config(db))
		if !errors.Is(err, store.ErrSetup) || !strings.Contains(err.Error(), "sessions") {
			t.Errorf("got %v", err)
		}
	})
}

// Replicas that start together raise the schema once.
func TestStartTogether(t *testing.T) {
	t.Parallel()
	db := dbtest.Postgres(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s, err := store.Open(t.Context(), config(db))
			if err != nil {
				t.Error(err)
				return
			}
			s.Close()
		})
	}
	wg.Wait()
}

// A step that has to wait for a long transaction does not make readers wait for
// longer than a second, and is made when that transaction is over.
func TestStepWaitsItsTurn(t *testing.T) {
	t.Parallel()
	db := dbtest.Postgres(t)
	if err := store.Migrate(t.Context(), config(db), 0); err != nil {
		t.Fatal(err)
	}
	sql := db.SQL(t)
	long, err := sql.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer long.Rollback()
	if _, err := long.Exec(`SELECT count(*) FROM sessions`); err != nil {
		t.Fatal(err)
	}
	migrated := make(chan error, 1)
	go func() {
		migrated <- store.MigrateWith(context.WithoutCancel(t.Context()), config(db), 0, addingStep, addingStepBack, 1)
	}()
	// Readers come one after the other until two tries have been seen to wait.
	longest, tries, waiting := time.Duration(0), 0, false
	for deadline := time.Now().Add(30 * time.Second); tries < 2 && time.Now().Before(deadline); {
		var blocked int
		err := sql.QueryRow(`SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&blocked)
		if err != nil {
			t.Fatal(err)
		}
		if blocked == 0 && waiting {
			tries++
		}
		waiting = blocked > 0
		began := time.Now()
		if _, err := sql.Exec(`SELECT count(*) FROM sessions`); err != nil {
			t.Fatal(err)
		}
		longest = max(longest, time.Since(began))
	}
	if tries < 2 {
		t.Error("the step was not tried twice")
	}
	if longest > time.Second {
		t.Errorf("a reader waited %v", longest)
	}
	select {
	case err := <-migrated:
		t.Fatalf("ended beside the long transaction: %v", err)
	default:
	}
	if err := long.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-migrated; err != nil {
		t.Error(err)
	}
	t.Logf("%d tries, the longest wait of a reader %v", tries, longest)
}

// A role that may make no tables is told what to grant, and one that may only
// read and write works with the rights that operating.md lists.
func TestRights(t *testing.T) {
	db := dbtest.Postgres(t)
	role := db.Role(t)
	_, err := store.Open(t.Context(), config(role))
	if !errors.Is(err, store.ErrRights) || !errors.Is(err, store.ErrSetup) || !strings.Contains(err.Error(), "GRANT USAGE, CREATE ON SCHEMA public TO "+role.RoleName()+";") {
		t.Errorf("an empty database: %v", err)
	}
	if err := store.Migrate(t.Context(), config(db), 0); err != nil {
		t.Fatal(err)
	}
	// Without any right the error names the version table.
	if _, err := store.Open(t.Context(), config(role)); !errors.Is(err, store.ErrRights) {
		t.Errorf("no rights: %v", err)
	}
	sql := db.SQL(t)
	// With the right to see the version it names every table that there is.
	if _, err := sql.Exec(`GRANT SELECT ON larkside_schema TO ` + role.RoleName()); err != nil {
		t.Fatal(err)
	}
	_, err = store.Open(t.Context(), config(role))
	tables, listErr := sql.Query(`SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'larkside_schema'`)
	if listErr != nil {
		t.Fatal(listErr)
	}
	defer tables.Close()
	for tables.Next() {
		var name string
		if scanErr := tables.Scan(&name); scanErr != nil {
			t.Fatal(scanErr)
		}
		if !errors.Is(err, store.ErrRights) || !regexp.MustCompile(`\b`+name+`\b`).MatchString(err.Error()) {
			t.Errorf("no right on %s: %v", name, err)
		}
	}
	if _, err := sql.Exec(grants(t, role.RoleName())); err != nil {
		t.Fatal(err)
	}
	wholeLife(t, role)

	if _, err := sql.Exec(`REVOKE DELETE ON consents FROM ` + role.RoleName()); err != nil {
		t.Fatal(err)
	}
	_, err = store.Open(t.Context(), config(role))
	want := "GRANT SELECT, INSERT, UPDATE, DELETE ON consents TO " + role.RoleName()
	if !errors.Is(err, store.ErrRights) || !strings.HasSuffix(err.Error(), want) {
		t.Fatalf("one right is missing: %v", err)
	}
	if _, err := sql.Exec(want); err != nil {
		t.Fatal(err)
	}
	if _, err := sql.Exec(`REVOKE EXECUTE ON FUNCTION larkside_now() FROM PUBLIC, ` + role.RoleName()); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), config(role)); !errors.Is(err, store.ErrRights) || !strings.Contains(err.Error(), "larkside_now()") {
		t.Errorf("may not call larkside_now: %v", err)
	}
	if _, err := sql.Exec(grants(t, role.RoleName())); err != nil {
		t.Fatal(err)
	}

	// A newer program raises the schema as the tables' owner only.
	err = store.MigrateWith(t.Context(), config(role), 0, addingStep, addingStepBack, 1)
	if !errors.Is(err, store.ErrRights) || !strings.Contains(err.Error(), `run "larkside migrate" as the role that owns the tables`) {
		t.Errorf("a step by a role without the right: %v", err)
	}
}

// grants returns the statements of operating.md for a role.
func grants(t *testing.T, role string) string {
	t.Helper()
	text, err := os.ReadFile("../../deploy/docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```sql\n(GRANT USAGE ON SCHEMA .*?)```").FindSubmatch(text)
	if block == nil {
		t.Fatal("operating.md has no block of GRANT statements")
	}
	return strings.ReplaceAll(string(block[1]), "larkside_app", role)
}
