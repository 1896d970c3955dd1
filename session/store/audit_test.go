package store_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
)

func audit(t *testing.T, s *store.DB, f store.AuditFilter) []store.AuditEntry {
	t.Helper()
	entries, err := s.Audit.List(t.Context(), "", f, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func TestAudit(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
		s := db.Open(t, func(c *store.Config) { c.Now = func() time.Time { return now } })
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for i := range 5 {
			now = now.Add(time.Hour)
			s.Audit.Write(gone, store.AuditEntry{Actor: store.ByAdmin, Action: store.AuditRevoke, Key: user(i % 2), Result: "done", Detail: fmt.Sprint("from ", i)})
		}
		now = now.Add(time.Second)
		s.Audit.Write(t.Context(), store.AuditEntry{Actor: store.ByAdmin, Action: store.AuditSync, Result: "failed", Detail: strings.Repeat("é", 1000)})

		all := audit(t, s, store.AuditFilter{})
		if len(all) != 6 || all[1].Detail != "from 4" || all[0].Time != now || all[1].Key != user(0) || all[5].Detail != "from 0" {
			t.Fatalf("%+v", all)
		}
		if len(all[0].Detail) > 510 || !strings.HasSuffix(all[0].Detail, "é…") {
			t.Errorf("a detail of %d bytes", len(all[0].Detail))
		}
		if got := audit(t, s, store.AuditFilter{Key: user(1)}); len(got) != 2 {
			t.Errorf("of one user: %+v", got)
		}
		if got := audit(t, s, store.AuditFilter{Action: store.AuditSync}); len(got) != 1 {
			t.Errorf("of one action: %+v", got)
		}
		page, err := s.Audit.List(t.Context(), all[2].ID, store.AuditFilter{}, 2)
		if err != nil || len(page) != 2 || page[0].Detail != "from 2" {
			t.Errorf("a later page: %+v, %v", page, err)
		}

		now = now.Add(time.Hour)
		if err := s.Audit.Forget(t.Context(), 3*time.Hour+time.Minute); err != nil {
			t.Fatal(err)
		}
		if left := audit(t, s, store.AuditFilter{}); len(left) != 4 || left[3].Detail != "from 2" {
			t.Errorf("after the retention: %+v", left)
		}
	})
}

// What users answered is written down where it is decided, once.
func TestConsentsAreAudited(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		begin := func(key session.Key) string {
			p, _, err := s.Consents.Begin(t.Context(), session.Consent{Key: key, Flow: session.DeviceFlow, Scopes: "a:b"}, time.Minute, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			return p.ID
		}
		done := begin(user(0))
		for range 2 { // the second is a repetition
			if _, err := s.Consents.Finish(t.Context(), done, grant(user(0), "1")); err != nil {
				t.Fatal(err)
			}
		}
		for i, state := range []session.ConsentState{session.ConsentDeclined, session.ConsentFailed, session.ConsentExpired, session.ConsentSuperseded} {
			if _, err := s.Consents.Close(t.Context(), begin(user(i+1)), state, "why"); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, e := range audit(t, s, store.AuditFilter{Action: store.AuditConsent}) {
			got = append(got, fmt.Sprintf("%s %s %s %s", e.OpenID, e.Actor, e.Result, e.Detail))
		}
		want := "ou_002 larkside failed why,ou_001 user declined ,ou_000 user done scopes: offline_access"
		if strings.Join(got, ",") != want {
			t.Errorf("got %q", got)
		}
	})
}

// An audit entry that can't be written is logged, and that is all.
func TestAuditFails(t *testing.T) {
	var log bytes.Buffer
	db := dbtest.SQLite(t)
	s := db.Open(t, func(c *store.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	if _, err := db.SQL(t).Exec("DROP TABLE audit"); err != nil {
		t.Fatal(err)
	}
	p, _, err := s.Consents.Begin(t.Context(), session.Consent{Key: alice, Flow: session.DeviceFlow, Scopes: ""}, time.Minute, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Consents.Close(t.Context(), p.ID, session.ConsentDeclined, ""); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "can't write an audit entry") {
		t.Errorf("log %s", log.String())
	}
}
