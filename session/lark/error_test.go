package lark_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"larkside/session"
	"larkside/session/lark"
)

// The table of deploy/docs/lark.md, section 2.5, written a second time on
// purpose: a slip in the product's table shows up here.
func TestTokenEndpointCodes(t *testing.T) {
	const R, A, P, M, U, D, X = lark.Retry, lark.Reauthorize, lark.AppRefused, lark.Misconfigured, lark.UserDisabled, lark.Denied, lark.Unknown
	const S, C = lark.ScopeRefused, lark.CodeRefused
	for _, row := range []struct {
		code, status   int
		onCode, onFrsh lark.Class
		outcome        lark.Outcome
		reason         session.Reason
	}{
		{20001, 400, M, M, lark.Refused, ""},
		{20002, 400, P, P, lark.Refused, ""},
		{20003, 400, A, X, lark.Refused, ""},
		{20004, 400, A, X, lark.Refused, ""},
		{20008, 400, U, U, lark.Refused, session.UserGone},
		{20009, 400, P, P, lark.Refused, ""},
		{20010, 400, U, U, lark.Refused, session.UserNotPermitted},
		{20024, 400, C, A, lark.Refused, session.RefreshTokenInvalid},
		{20026, 400, X, A, lark.Refused, session.RefreshTokenInvalid},
		{20036, 400, M, M, lark.Refused, ""},
		{20037, 400, X, A, lark.Refused, session.RefreshTokenExpired},
		{20048, 400, P, P, lark.Refused, ""},
		{20049, 400, A, X, lark.Refused, ""},
		{20050, 500, R, R, lark.Lost, ""},
		{20050, 400, R, R, lark.Lost, ""},
		{20063, 400, M, M, lark.Refused, ""},
		{20064, 400, X, A, lark.Refused, session.RefreshTokenUsed},
		{20065, 400, A, X, lark.Refused, ""},
		{20066, 400, U, U, lark.Refused, session.UserGone},
		{20067, 400, M, M, lark.Refused, ""},
		{20068, 400, M, M, lark.Refused, ""},
		{20069, 400, P, P, lark.Refused, ""},
		{20070, 400, M, M, lark.Refused, ""},
		{20071, 400, C, X, lark.Refused, ""},
		{20072, 503, R, R, lark.Refused, ""},
		{20073, 400, X, A, lark.Refused, session.RefreshTokenUsed},
		{20074, 400, X, P, lark.Refused, ""},
		{20027, 400, S, X, lark.Refused, ""},
		{20043, 400, S, X, lark.Refused, ""},
		{99991543, 400, P, P, lark.Refused, ""},
		{99991400, 429, R, R, lark.Refused, ""},
		{99991400, 400, R, R, lark.Refused, ""},
		{21000, 400, X, D, lark.Refused, ""},
		{21001, 400, X, D, lark.Refused, ""},
		{1106072, 400, X, M, lark.Refused, ""},
		{29999, 400, X, X, lark.Refused, ""},
		// HTTP 200 with a code is an error all the same.
		{20073, 200, X, A, lark.Refused, session.RefreshTokenUsed},
		{29999, 200, X, X, lark.Refused, ""},
		// A failing server is not believed about a user.
		{20073, 500, R, R, lark.Lost, ""},
		{29999, 502, R, R, lark.Lost, ""},
		{29999, 429, R, R, lark.Refused, ""},
	} {
		t.Run(fmt.Sprintf("%d over HTTP %d", row.code, row.status), func(t *testing.T) {
			f := serve(t, says(row.status, fmt.Sprintf(`{"error":"some_error","error_description":"what it is","code":%d}`, row.code)))
			c := f.client(t)
			onRefresh := asError(t, operations["Refresh"](t.Context(), c))
			onCode := asError(t, operations["Exchange"](t.Context(), c))
			if row.code == 20073 && row.status == 500 {
				row.onCode = R // by the status: the code means nothing there
			}
			if onRefresh.Class != row.onFrsh || onCode.Class != row.onCode {
				t.Errorf("class on code %s, on refresh %s; want %s, %s", onCode.Class, onRefresh.Class, row.onCode, row.onFrsh)
			}
			if onRefresh.Outcome != row.outcome || onCode.Outcome != row.outcome {
				t.Errorf("outcome on code %s, on refresh %s; want %s", onCode.Outcome, onRefresh.Outcome, row.outcome)
			}
			if onRefresh.Reason != row.reason {
				t.Errorf("reason %q, want %q", onRefresh.Reason, row.reason)
			}
			if got := onRefresh; got.Code != row.code || got.HTTPStatus != row.status || got.Name != "some_error" ||
				got.Description != "what it is" || got.LogID != "2026100112345678901234" {
				t.Errorf("the error does not say what came: %+v", got)
			}
			if got := onRefresh.Doubtful(); got != (row.code == 20008) {
				t.Errorf("Doubtful = %v", got)
			}
			if n := len(f.requests("/oauth/v3/token")); n != 2 {
				t.Errorf("%d requests for two calls: a one-time token was sent again", n)
			}
		})
	}
}

// Answers that have an OAuth error and no code, and answers that are none.
func TestAnswersWithoutCode(t *testing.T) {
	for _, tt := range []struct {
		status  int
		body    string
		class   lark.Class
		outcome lark.Outcome
	}{
		{400, `{"error":"invalid_grant"}`, lark.Reauthorize, lark.Refused},
		{200, `{"error":"invalid_grant"}`, lark.Reauthorize, lark.Refused},
		{400, `{"error":"invalid_client"}`, lark.AppRefused, lark.Refused},
		{401, `{"error":"invalid_client","code":29999}`, lark.AppRefused, lark.Refused},
		{400, `{"error":"invalid_scope"}`, lark.ScopeRefused, lark.Refused},
		{400, `{"error":"invalid_dpop_proof"}`, lark.Misconfigured, lark.Refused},
		{400, `{"error":"server_error"}`, lark.Retry, lark.Lost},
		{400, `{"error":"temporarily_unavailable"}`, lark.Retry, lark.Refused},
		{400, `{"error":"what_is_this"}`, lark.Unknown, lark.Refused},
		{500, `{"error":"invalid_grant"}`, lark.Retry, lark.Lost},
		{302, `{"error":"invalid_grant"}`, lark.Retry, lark.Lost},
		{400, `{}`, lark.Unknown, lark.Lost},
		{404, `404 page not found`, lark.Unknown, lark.Lost},
		{403, `<html>proxy</html>`, lark.Unknown, lark.Lost},
		{408, ``, lark.Retry, lark.Lost},
		{429, ``, lark.Retry, lark.Refused},
		{500, ``, lark.Retry, lark.Lost},
		{502, `<html>bad gateway</html>`, lark.Retry, lark.Lost},
		{504, `{}`, lark.Retry, lark.Lost},
	} {
		t.Run(fmt.Sprintf("%d %s", tt.status, tt.body), func(t *testing.T) {
			e := asError(t, operations["Refresh"](t.Context(), serve(t, says(tt.status, tt.body)).client(t)))
			if e.Class != tt.class || e.Outcome != tt.outcome || e.HTTPStatus != tt.status {
				t.Errorf("%s, %s, HTTP %d; want %s, %s", e.Class, e.Outcome, e.HTTPStatus, tt.class, tt.outcome)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	for _, tt := range []struct {
		name, header, value string
		min, max            time.Duration
	}{
		{"Lark's own", "X-Ogw-Ratelimit-Reset", "7", 7 * time.Second, 7 * time.Second},
		{"seconds", "Retry-After", "9", 9 * time.Second, 9 * time.Second},
		{"date", "Retry-After", time.Now().Add(20 * time.Second).UTC().Format(http.TimeFormat), 15 * time.Second, 20 * time.Second},
		{"past date", "Retry-After", "Mon, 02 Jan 2006 15:04:05 GMT", 0, 0},
		{"absurd", "X-Ogw-Ratelimit-Reset", "4000000000", 5 * time.Minute, 5 * time.Minute},
		{"negative", "Retry-After", "-1", 0, 0},
		{"garbage", "Retry-After", "soon", 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := serve(t, func(w http.ResponseWriter, _ request) {
				w.Header().Set(tt.header, tt.value)
				answer(w, 429, `{"code":99991400,"msg":"slow"}`)
			})
			e := asError(t, operations["Refresh"](t.Context(), f.client(t)))
			if e.RetryAfter < tt.min || e.RetryAfter > tt.max {
				t.Errorf("RetryAfter = %s, want %s to %s", e.RetryAfter, tt.min, tt.max)
			}
		})
	}
}

// Whatever Lark, or who stands in its place, writes into an answer: no secret
// that was sent reaches an error, nor does a token that came.
func TestErrorsNeverShowSecrets(t *testing.T) {
	for _, status := range []int{200, 302, 400, 401, 429, 500} {
		for _, format := range []string{
			`{"code":20001,"error":%[1]s,"error_description":%[1]s,"msg":%[1]s}`,
			`{"code":0,"error":%[1]s,"access_token":"` + accessToken + `"}`,
			`{"code":230099,"msg":%[1]s,"data":{"open_id":%[1]s}}`,
			`%[1]s`,
			`{"access_token":%[1]s`,
		} {
			f := serve(t, func(w http.ResponseWriter, r request) {
				echo := r.body + " " + r.Header.Get("Authorization") + " " + strings.Join(canaries[:6], "\r\n\x00") +
					" http://x.example/?state=canary " + r.form["client_secret"] + r.form["refresh_token"]
				w.Header().Set("Location", "http://127.0.0.1:1/?"+appSecret)
				w.Header().Set("X-Tt-Logid", strings.Repeat("A", 65))
				answer(w, status, fmt.Sprintf(format, toJSON(t, echo)))
			})
			c := f.client(t)
			for name, op := range operations {
				if err := op(t.Context(), c); err == nil {
					t.Errorf("%s: no error for HTTP %d %s", name, status, format)
				} else if e := asError(t, err); strings.ContainsAny(e.Error(), "\r\n\x00") || len([]rune(e.Error())) > 600 {
					t.Errorf("%s: not one short line: %q", name, e.Error())
				}
			}
		}
	}
}

// net/http quotes what it can't parse.
func TestMalformedHTTPNeverShowsSecrets(t *testing.T) {
	for _, raw := range []string{appSecret + " " + accessToken + "\r\n\r\n", "HTTP/1.1 " + accessToken + "\r\n\r\n", "HTTP/1.1 200 OK\r\n" + refreshToken + "\r\n\r\n"} {
		f := serve(t, func(w http.ResponseWriter, _ request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				conn.Write([]byte(raw))
				conn.Close()
			}
		})
		for name, op := range operations {
			e := asError(t, op(t.Context(), f.client(t)))
			if e.Class != lark.Retry || e.Outcome != lark.Lost {
				t.Errorf("%s: %s, %s", name, e.Class, e.Outcome)
			}
		}
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var followed int
	elsewhere := serve(t, func(w http.ResponseWriter, r request) { followed++ })
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, location := range []string{elsewhere.URL + "/x", "//" + strings.TrimPrefix(elsewhere.URL, "http://"), "http://u:p@" + strings.TrimPrefix(elsewhere.URL, "http://"), "/again", ":bad", ""} {
			f := serve(t, func(w http.ResponseWriter, r request) {
				if r.URL.Path == "/again" {
					followed++
				}
				if location != "" {
					w.Header().Set("Location", location)
				}
				w.Header().Set("Refresh", "0; url="+elsewhere.URL)
				w.WriteHeader(status)
			})
			c := f.client(t)
			for name, op := range operations {
				e := asError(t, op(t.Context(), c))
				if e.Class != lark.Retry || e.Outcome != lark.Lost || e.HTTPStatus != status {
					t.Errorf("%s, %d to %q: %s, %s, HTTP %d", name, status, location, e.Class, e.Outcome, e.HTTPStatus)
				}
			}
		}
	}
	if followed != 0 {
		t.Errorf("%d redirects were followed", followed)
	}
}

func TestChallengeURL(t *testing.T) {
	for body, want := range map[string]string{
		`{"code":21000,"challenge_url":"https://accounts.feishu.cn/c?x=1"}`:          "https://accounts.feishu.cn/c?x=1",
		`{"code":21001,"data":{"challenge_url":"https://accounts.feishu.cn/c?x=1"}}`: "https://accounts.feishu.cn/c?x=1",
		`{"code":21000,"challenge_url":"javascript:alert(1)"}`:                       "",
		`{"code":21000,"challenge_url":"https://u:p@accounts.feishu.cn/"}`:           "",
		`{"code":20002,"challenge_url":"https://accounts.feishu.cn/c"}`:              "",
	} {
		e := asError(t, operations["Refresh"](t.Context(), serve(t, says(400, body)).client(t)))
		if e.ChallengeURL != want {
			t.Errorf("%s: ChallengeURL %q, want %q", body, e.ChallengeURL, want)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := serve(t, says(200, `{}`)).config()
	for name, spoil := range map[string]func(*lark.Config){
		"no app":         func(c *lark.Config) { c.AppID = "" },
		"no secret":      func(c *lark.Config) { c.Secret = nil },
		"no host":        func(c *lark.Config) { c.OpenURL = "https://" },
		"other scheme":   func(c *lark.Config) { c.AccountsURL = "ftp://x" },
		"password":       func(c *lark.Config) { c.TokenURL = "https://u:canary@x/token" },
		"trailing slash": func(c *lark.Config) { c.OpenURL += "/" },
		"query":          func(c *lark.Config) { c.TokenURL += "?canary" },
		"unparseable":    func(c *lark.Config) { c.TokenURL = "http://[canary" },
	} {
		c := good
		spoil(&c)
		if _, err := lark.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		} else if name != "query" {
			assertClean(t, err.Error())
		}
	}
	if _, err := lark.New(good); err != nil {
		t.Error(err)
	}
}

func TestCancelledBeforeSending(t *testing.T) {
	f := serve(t, says(200, `{}`))
	c := f.client(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, op := range operations {
		if e := asError(t, op(ctx, c)); e.Class != lark.Retry || e.Outcome != lark.NotSent && name != "TenantAccessToken" {
			t.Errorf("%s: %s, %s", name, e.Class, e.Outcome)
		}
	}
}

// What came instead of JSON is named by its type, and by nothing else of it.
func TestAnswerThatIsNotJSON(t *testing.T) {
	for contentType, want := range map[string]string{
		"text/html; charset=utf-8":     "not a JSON object, but text/html",
		"":                             "not a JSON object, but of no content type",
		"text/<script>":                "not a JSON object, but of no content type",
		"x/" + strings.Repeat("y", 99): "not a JSON object, but of no content type",
	} {
		server := serve(t, func(w http.ResponseWriter, _ request) {
			w.Header()["Content-Type"] = []string{contentType}
			io.WriteString(w, "<p>Please sign in")
		})
		_, err := server.client(t).Refresh(t.Context(), "", session.NewSecret("r"))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sign in") {
			t.Errorf("%q: %v", contentType, err)
		}
	}
}
