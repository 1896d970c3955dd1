package lark_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"larkside/session"
	"larkside/session/lark"
)

// Canaries: recognisable values that may appear in requests and nowhere else.
const (
	appSecret    = "canarySecret0123456789abcdefABCD"
	refreshToken = "eyJcanaryRefresh0123456789.abcdef+/=&x"
	accessToken  = "eyJcanaryAccess0123456789.abcdef"
	authCode     = "canaryCode_0123456789-abcdef"
	verifier     = "canaryVerifier~0123456789._-abcdefghijklmnopqrstuv"
	deviceCode   = "canaryDevice0123456789"
)

var canaries = []string{appSecret, refreshToken, accessToken, authCode, verifier, deviceCode, "canary"}

// request is what the fake saw.
type request struct {
	*http.Request
	body string
	form map[string]string
}

// fake is a Lark that answers each path as told, and remembers.
type fake struct {
	*httptest.Server
	mu   sync.Mutex
	seen []request
}

// serve starts a fake whose answers are made by reply.
func serve(t *testing.T, reply func(w http.ResponseWriter, r request)) *fake {
	t.Helper()
	f := &fake{}
	f.Server = httptest.NewServer(f.handler(reply))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) handler(reply func(w http.ResponseWriter, r request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		seen := request{Request: r, body: string(body), form: map[string]string{}}
		if r.ParseForm() == nil {
			for k := range r.PostForm {
				seen.form[k] = strings.Join(r.PostForm[k], "|")
			}
		}
		f.mu.Lock()
		f.seen = append(f.seen, seen)
		f.mu.Unlock()
		reply(w, seen)
	})
}

func (f *fake) requests(path string) (list []request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.seen {
		if r.URL.Path == path {
			list = append(list, r)
		}
	}
	return list
}

// says answers every request with status and body.
func says(status int, body string) func(http.ResponseWriter, request) {
	return func(w http.ResponseWriter, _ request) { answer(w, status, body) }
}

func answer(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("X-Tt-Logid", "2026100112345678901234")
	w.WriteHeader(status)
	io.WriteString(w, body)
}

func (f *fake) config() lark.Config {
	return lark.Config{
		AppID: "cli_test", Secret: func() session.Secret { return session.NewSecret(appSecret) },
		OpenURL: f.URL, AccountsURL: f.URL, TokenURL: f.URL + "/oauth/v3/token",
	}
}

func (f *fake) client(t *testing.T) *lark.Client {
	t.Helper()
	c, err := lark.New(f.config())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// operations is every method that asks Lark, to be held against the same rules.
var operations = map[string]func(context.Context, *lark.Client) error{
	"Exchange": func(ctx context.Context, c *lark.Client) error {
		_, err := c.Exchange(ctx, session.NewSecret(authCode), "https://app.example/cb", session.NewSecret(verifier))
		return err
	},
	"Refresh": func(ctx context.Context, c *lark.Client) error {
		_, err := c.Refresh(ctx, "", session.NewSecret(refreshToken))
		return err
	},
	"StartDevice": func(ctx context.Context, c *lark.Client) error {
		_, err := c.StartDevice(ctx, []string{"offline_access"})
		return err
	},
	"PollDevice": func(ctx context.Context, c *lark.Client) error {
		_, err := c.PollDevice(ctx, session.NewSecret(deviceCode))
		return err
	},
	"UserInfo": func(ctx context.Context, c *lark.Client) error {
		_, err := c.UserInfo(ctx, session.NewSecret(accessToken))
		return err
	},
	"Revoke": func(ctx context.Context, c *lark.Client) error {
		return c.Revoke(ctx, session.NewSecret(refreshToken), "refresh_token")
	},
	"SendCard": func(ctx context.Context, c *lark.Client) error {
		_, err := c.SendCard(ctx, "ou_1", "uuid-1", []byte(`{"schema":"2.0"}`))
		return err
	},
	"UpdateCard": func(ctx context.Context, c *lark.Client) error {
		return c.UpdateCard(ctx, "om_1", []byte(`{"schema":"2.0"}`))
	},
	"Users": func(ctx context.Context, c *lark.Client) error {
		_, err := c.Users(ctx, []string{"ou_1"})
		return err
	},
	"TenantAccessToken": func(ctx context.Context, c *lark.Client) error {
		_, err := c.TenantAccessToken(ctx)
		return err
	},
}

// asError fails the test unless err is an *Error without secrets.
func asError(t *testing.T, err error) *lark.Error {
	t.Helper()
	var e *lark.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v (%T), want a *lark.Error", err, err)
	}
	assertClean(t, e.Error())
	assertClean(t, e.Description+e.Name+e.LogID)
	return e
}

func assertClean(t *testing.T, text string) {
	t.Helper()
	for _, c := range canaries {
		if strings.Contains(text, c) {
			t.Errorf("%q shows a secret (%q)", text, c)
		}
	}
}

func toJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
