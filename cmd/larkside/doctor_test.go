package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"larkside/cmd/larkside/doctor"
	"larkside/cmd/larkside/operate"
	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

func toLark(url string) []string {
	return []string{"LARKSIDE_APP_ID=" + larktest.AppID, "LARKSIDE_APP_SECRET=" + larktest.AppSecret,
		"LARKSIDE_OPEN_URL=" + url, "LARKSIDE_ACCOUNTS_URL=" + url}
}

// doctored runs the doctor and returns its exit status and what it found.
func doctored(t *testing.T, environ []string, args ...string) (status int, by map[string]doctor.Finding) {
	t.Helper()
	got := larkside(t, environ, append([]string{"doctor", "-o", "json"}, args...)...)
	var answer struct {
		OK     bool
		Checks []doctor.Finding
	}
	if err := json.Unmarshal([]byte(got.out), &answer); err != nil || got.err != "" || answer.OK != (got.status == operate.ExitDone) {
		t.Fatalf("%v: %+v", err, got)
	}
	by = map[string]doctor.Finding{}
	for _, f := range answer.Checks {
		by[f.Name] = f
	}
	return got.status, by
}

func TestDoctorOutput(t *testing.T) {
	lark := larktest.Start(t, &larktest.Config{AllowUnknown: true})
	environ := append(toLark(lark.URL), "LARKSIDE_CARD=off", "LARKSIDE_DATABASE_URL=sqlite:"+filepath.Join(dbtest.TempDir(t), "x.db"))
	got := larkside(t, environ, "doctor")
	if got.status != operate.ExitDone || got.err != "" {
		t.Errorf("%+v", got)
	}
	for _, want := range []string{"ok    settings: ", "ok    database: SQLite, empty", "ok    credentials of cli_", "ok    consent for cli_"} {
		if !strings.Contains(got.out, "\n"+want) && !strings.HasPrefix(got.out, want) {
			t.Errorf("%q is missing:\n%s", want, got.out)
		}
	}
	got = larkside(t, append(environ, "LARKSIDE_APP_SECRET="+canary), "doctor")
	if got.status != operate.ExitFailed || got.err != "" || !strings.Contains(got.out, "\nfail  credentials of ") || !strings.Contains(got.out, "\n      → ") || strings.Contains(got.out, canary) {
		t.Errorf("%+v", got)
	}
	if got := larkside(t, environ, "doctor", "-o", "yaml"); got.status != operate.ExitUsage {
		t.Errorf("%+v", got)
	}
}

// Beside a running instance a SQLite database can't be opened, so the instance
// is asked.
func TestDoctorBesideAnInstance(t *testing.T) {
	db := process.SQLite(t)
	lark := larktest.Start(t, &larktest.Config{AllowUnknown: true})
	p := process.Start(t, process.Options{Lark: lark, DB: db})
	environ := append(toLark(lark.URL), "LARKSIDE_DATABASE_URL="+db.URL, "LARKSIDE_ENCRYPTION_KEYS="+process.Keys)
	if _, by := doctored(t, environ, "--admin", p.AdminURL); by["database"].Status != doctor.OK || !strings.Contains(by["database"].Detail, "/readyz that it is ready") {
		t.Errorf("%+v", by)
	}
	if _, by := doctored(t, environ, "--admin", "http://127.0.0.1:1"); by["database"].Status != doctor.Warn || !strings.Contains(by["database"].Detail, "can't be asked") {
		t.Errorf("%+v", by)
	}
	if got := p.Get(t, "/-/larkside/x", ""); got.Status != 403 {
		t.Errorf("the instance after the visit: %d", got.Status)
	}
}

func TestDoctorSettings(t *testing.T) {
	got := larkside(t, []string{"LARKSIDE_APP_ID=cli_a1", "LARKSIDE_BRAND=x"}, "doctor")
	if got.status != operate.ExitFailed || strings.Count(got.out, "fail  settings: LARKSIDE_") != 2 || got.err != "" {
		t.Errorf("%+v", got)
	}
	command := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(command, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	status, by := doctored(t, append(toLark("http://127.0.0.1:1"), fmt.Sprint("LARKSIDE_ENCRYPTION_KEYS_COMMAND=", command)))
	if f := by["settings"]; status != operate.ExitFailed || f.Status != doctor.Fail || !strings.Contains(f.Detail, "ENCRYPTION_KEYS_COMMAND") || len(by) != 1 {
		t.Errorf("%+v", by)
	}
}
