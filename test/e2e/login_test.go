package e2e

import (
	"bufio"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"larkside/test/larktest"
	"larkside/test/process"
)

// signIn runs a login by the admin API, approves it as openID, and returns the last
// line.
func signIn(t *testing.T, p *process.Process, lark *larktest.Platform, openID string) string {
	t.Helper()
	r := process.NewRequest(t, "POST", p.AdminURL+"/api/v1/login", "", "", "Accept", "application/x-ndjson")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	last := ""
	for lines.Scan() {
		last = lines.Text()
		var open struct {
			AuthorizeURL string `json:"authorize_url"`
		}
		if json.Unmarshal(lines.Bytes(), &open); open.AuthorizeURL != "" {
			if err := lark.Approve(open.AuthorizeURL, openID); err != nil {
				t.Fatal(err)
			}
		}
	}
	return last
}

// One person signs in and is meant when nobody is named, by curl and by an SDK that
// insists on a token; so it is after a restart, and until another one signs in.
func TestLogin(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	p := process.Start(t, process.Options{Lark: lark, DB: process.SQLite(t), Env: map[string]string{"DEFAULT_USER": "login", "SCOPES": scopes}})
	is(t, p.Get(t, records, ""), 401, "authorization_required")
	if got := signIn(t, p, lark, alice); !strings.Contains(got, `"open_id":"`+alice) || !strings.Contains(got, `"done":true`) {
		t.Fatal(got)
	}
	isDataOf(t, p.Get(t, records, ""), alice)
	isDataOf(t, process.Do(t, p.Request(t, "GET", records, "", "", "Authorization", "Bearer t-larkside")), alice)
	p.Restart()
	isDataOf(t, p.Get(t, records, ""), alice)
	if got := signIn(t, p, lark, bob); !strings.Contains(got, bob) {
		t.Fatal(got)
	}
	isDataOf(t, p.Get(t, records, ""), bob)
	isDataOf(t, p.Get(t, records, alice), alice)
	is(t, process.Do(t, p.Request(t, "GET", records, "", "", "Sec-Fetch-Site", "none")), 403, "host_not_allowed")
	if a := p.Admin(t, "GET", "/api/v1/audit?action=login"); strings.Count(a.Body, `"actor":"user"`) != 2 {
		t.Errorf("audit: %s", a.Body)
	}
	larktest.NoViolations(t, lark)
}
