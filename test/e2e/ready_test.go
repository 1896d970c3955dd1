package e2e

import (
	"maps"
	"strings"
	"testing"
	"time"

	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

// saysReady reports whether the log has the line "ready".
func saysReady(p *process.Process) bool {
	return len(p.Log().Find(func(l process.Line) bool { return l.Msg == "ready" })) > 0
}

// A rollout with a wrong secret stops: the replica does not become ready and says
// why. It asks Lark again by itself, since a replica that is not ready gets no
// traffic that would.
func TestWrongSecretIsNotReady(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Start(t, process.Options{Lark: lark, AppSecret: "not-the-apps-secret", Unready: true})
	line := p.Log().AwaitText(t, "not ready: Lark refuses every app")
	if line.Text("do") == "" {
		t.Errorf("it does not say what to do: %s", line.Raw)
	}
	ready := p.Admin(t, "GET", "/readyz")
	if ready.Status != 503 || !strings.Contains(ready.Body, "Lark refuses every app") || !strings.Contains(ready.Body, "10014") {
		t.Errorf("%d %s", ready.Status, ready.Body)
	}
	if r := p.Command(t, []string{"wait", "--timeout", "300ms", "--admin", p.AdminURL}); r.Status != 1 || !strings.Contains(r.Stderr, "Lark refuses every app") {
		t.Errorf("wait: %d %s", r.Status, r.Stderr)
	}
	if a := p.Admin(t, "GET", "/healthz"); a.Status != 200 {
		t.Errorf("a restart would not help, yet healthz is %d", a.Status)
	}
	if saysReady(p) {
		t.Error("ready in the log")
	}
	if testing.Short() {
		t.Skip("waits for the next probe")
	}
	if err := lark.UpdateApp(larktest.AppID, func(a *larktest.App) { a.Secret = "not-the-apps-secret" }); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); p.Admin(t, "GET", "/readyz").Status != 200; <-time.After(100 * time.Millisecond) {
		if time.Since(began) > 35*time.Second {
			t.Fatal("not ready 35 s after Lark accepted the app, without traffic")
		}
	}
}

// A Lark that can't be reached holds nobody back.
func TestReadyWithoutLark(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]larktest.Fault{
		"it fails":       {Endpoint: larktest.TenantEndpoint, Status: 503, Times: -1},
		"it cuts":        {Endpoint: larktest.TenantEndpoint, Drop: true, Times: -1},
		"it is silent":   {Endpoint: larktest.TenantEndpoint, Hang: true, Times: -1},
		"it is too busy": {Endpoint: larktest.TenantEndpoint, Code: 99991400, Times: -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lark := newLark(t, nil)
			lark.Fault(fault)
			p := process.Seeded(t, process.Options{Lark: lark}, alice)
			if a := p.Admin(t, "GET", "/readyz"); a.Status != 200 {
				t.Errorf("%d %s", a.Status, a.Body)
			}
			isDataOf(t, p.Get(t, records, alice), alice)
		})
	}
}

// Lark's answer comes after the replica has become ready: the refusal counts, and
// the replica stays in service.
func TestRefusedAfterReady(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	held := lark.Fault(larktest.Fault{Endpoint: larktest.TenantEndpoint, Hang: true, Times: -1})
	p := process.Start(t, process.Options{Lark: lark, AppSecret: "not-the-apps-secret"})
	held.Release()
	p.Log().AwaitText(t, "Lark refuses the app")
	is(t, p.Get(t, records, carol), 503, "app_misconfigured")
	a := p.Admin(t, "GET", "/readyz")
	if a.Status != 200 || !strings.Contains(a.Body, `"advisory":true`) || !strings.Contains(a.Body, "10014") {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// With two apps, the wrong secret of one takes nobody down.
func TestOneAppOfTwoIsRefused(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark, Env: map[string]string{"APPS": "cli_theother00000:not-its-secret"}}, alice)
	isDataOf(t, p.Get(t, records, alice), alice)
	is(t, p.Get(t, records, alice, "X-Lark-App-Id", "cli_theother00000"), 503, "app_misconfigured")
	if a := p.Admin(t, "GET", "/readyz"); a.Status != 200 || !strings.Contains(a.Body, "cli_theother00000") {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if a := p.Admin(t, "GET", "/metrics"); !strings.Contains(a.Body, `larkside_app_refused{app_id="cli_theother00000"`) {
		t.Error("no metric of the refused app")
	}
}

// With EXPECT_SESSIONS an empty database is taken for the wrong one: nobody gets
// a card, and the replica says why. It serves as soon as there are sessions.
func TestEmptyDatabaseAsksNobody(t *testing.T) {
	t.Parallel()
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		lark := newLark(t, nil)
		o := process.Options{Lark: lark, DB: db, Env: map[string]string{"EXPECT_SESSIONS": "true"}, Unready: true}
		p := process.Start(t, o)
		p.Log().AwaitText(t, "not ready: the database has no session")
		is(t, p.Get(t, records, alice), 503, "store_unavailable")
		if a := p.Admin(t, "GET", "/readyz"); a.Status != 503 || !strings.Contains(a.Body, "EXPECT_SESSIONS") {
			t.Errorf("%d %s", a.Status, a.Body)
		}
		if n := len(lark.Messages("")); n > 0 {
			t.Errorf("%d cards", n)
		}
		checkReadiness(t, p, map[string]string{"started": "0", "serving": "1"})
		if saysReady(p) {
			t.Error("it says that it is ready")
		}
		if r := p.Command(t, []string{"doctor"}); r.Status != 1 || db.Postgres && !strings.Contains(r.Stdout, "LARKSIDE_EXPECT_SESSIONS") {
			t.Errorf("doctor: %d %s", r.Status, r.Stdout)
		}
		// Nobody is told that a user has no session by who can't know.
		if r := p.Command(t, []string{"sessions", "show", alice, "--admin", p.AdminURL}); r.Status != 1 || !strings.Contains(r.Stderr, "waits for its database (the database has no session") {
			t.Errorf("sessions show: %d %s", r.Status, r.Stderr)
		}
		p.Stop()
		process.Seed(t, db, lark, time.Minute, alice)
		p.Restart()
		p.AwaitReady()
		isDataOf(t, p.Get(t, records, alice), alice)
		if a := p.Get(t, records, bob); a.Name() != "authorization_required" {
			t.Errorf("a new user beside others: %d %s", a.Status, a.Body)
		}
	})
}

// checkReadiness compares larkside_readiness with what /readyz says.
func checkReadiness(t *testing.T, p *process.Process, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for line := range strings.Lines(p.Metric(t, "larkside_readiness{")) {
		labels, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		_, check, _ := strings.Cut(labels, `check="`)
		check, _, _ = strings.Cut(check, `"`)
		got[check] = value
	}
	if !maps.Equal(got, want) {
		t.Errorf("larkside_readiness is %v and should be %v", got, want)
	}
}

// An alert on how much a counter has grown sees the first time too only if the
// counter was at zero before.
func TestCountersBeginAtZero(t *testing.T) {
	t.Parallel()
	p := process.Start(t, process.Options{Lark: newLark(t, nil), DB: process.SQLite(t)})
	for metric, labels := range map[string][]string{
		"larkside_refreshes_total":         {`class="rotation_lost"`, `class="reused"`},
		"larkside_consents_total":          {`state="pending"`, `state="failed"`},
		"larkside_cards_total":             {`result="sent"`, `result="failed"`},
		"larkside_profile_syncs_total":     {`result="done"`, `result="failed"`},
		"larkside_database_failures_total": {""},
	} {
		series := p.Metric(t, metric)
		for _, label := range labels {
			found := false
			for line := range strings.Lines(series) {
				found = found || strings.Contains(line, label) && strings.HasSuffix(line, " 0\n")
			}
			if !found {
				t.Errorf("no %s{%s} that is 0:\n%s", metric, label, series)
			}
		}
	}
	checkReadiness(t, p, map[string]string{"started": "1", "serving": "1", "lark": "1"})
}

// The sessions come while the replica waits for them.
func TestSessionsComeLater(t *testing.T) {
	t.Parallel()
	db := process.Postgres(t)
	lark := newLark(t, nil)
	p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"EXPECT_SESSIONS": "true"}, Unready: true})
	p.Log().AwaitText(t, "not ready: the database has no session")
	process.Seed(t, db, lark, time.Minute, alice)
	p.AwaitReady()
	isDataOf(t, p.Get(t, records, alice), alice)
}

// The database loses its sessions while it serves: new users are not asked.
func TestSessionsVanish(t *testing.T) {
	t.Parallel()
	db := process.Postgres(t)
	lark := newLark(t, nil)
	p := process.Seeded(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"EXPECT_SESSIONS": "true"}}, alice)
	isDataOf(t, p.Get(t, records, alice), alice)
	if _, err := db.SQL(t).Exec("DELETE FROM sessions"); err != nil {
		t.Fatal(err)
	}
	is(t, p.Get(t, records, bob), 503, "store_unavailable")
	if n := len(lark.Messages("")); n > 0 {
		t.Errorf("%d cards", n)
	}
}
