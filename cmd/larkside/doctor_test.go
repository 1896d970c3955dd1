package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
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

// The issuer of users' JWTs is asked for its keys, as serve asks it.
func TestDoctorIssuer(t *testing.T) {
	keys := `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
	name := ""
	var issuer *httptest.Server
	issuer = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/certs" {
			io.WriteString(w, keys)
			return
		}
		json.NewEncoder(w).Encode(map[string]string{"issuer": issuer.URL + name, "jwks_uri": issuer.URL + "/certs"})
	}))
	defer issuer.Close()
	lark := larktest.Start(t, &larktest.Config{AllowUnknown: true})
	environ := append(toLark(lark.URL), "LARKSIDE_CARD=off", "LARKSIDE_DATABASE_URL=sqlite:"+filepath.Join(dbtest.TempDir(t), "x.db"),
		"LARKSIDE_USER_JWT_ISSUER="+issuer.URL, "LARKSIDE_USER_JWT_AUDIENCE=larkside")
	if status, by := doctored(t, environ); status != operate.ExitDone || by["issuer"].Status != doctor.OK || !strings.HasSuffix(by["issuer"].Detail, "keys that prove users: 1") {
		t.Errorf("%d %+v", status, by["issuer"])
	}
	name = "/" // the same to people, another one in iss
	if status, by := doctored(t, environ); status != operate.ExitFailed || by["issuer"].Status != doctor.Fail || by["issuer"].Do == "" {
		t.Errorf("%d %+v", status, by["issuer"])
	}
	issuer.Close()
	if status, by := doctored(t, environ); status != operate.ExitFailed || by["issuer"].Status != doctor.Fail {
		t.Errorf("%d %+v", status, by["issuer"])
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
