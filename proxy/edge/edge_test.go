package edge_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"larkside/proxy/admin"
	"larkside/proxy/edge"
	"larkside/session"
	"larkside/telemetry"

	"larkside/proxy"
)

func TestHosts(t *testing.T) {
	named := edge.Hosts{Names: []string{"larkside", "lark.corp:8443", "[fd00::1]"}}
	for _, tc := range []struct {
		hosts edge.Hosts
		host  string
		want  bool
	}{
		{edge.Hosts{}, "localhost", false},
		{edge.Hosts{}, "", false},
		{edge.Hosts{Loopback: true}, "localhost", true},
		{edge.Hosts{Loopback: true}, "LocalHost.:8080", true},
		{edge.Hosts{Loopback: true}, "127.8.9.1:1", true},
		{edge.Hosts{Loopback: true}, "[::1]", true},
		{edge.Hosts{Loopback: true}, "[::1]:80", true},
		{edge.Hosts{Loopback: true}, "[::ffff:127.0.0.1]:80", true},
		{edge.Hosts{Loopback: true}, "10.0.0.1", false},
		{edge.Hosts{Loopback: true}, "localhost.evil.example", false},
		{edge.Hosts{Loopback: true}, "localhost:x", false},
		{edge.Hosts{Loopback: true}, "", false},
		{named, "LARKSIDE:80", true},
		{named, "larkside.", true},
		{named, "lark.corp:8443", true},
		{named, "lark.corp:1", false},
		{named, "[fd00::1]:80", true},
		{named, "localhost", false},
		{edge.Hosts{Names: named.Names, Loopback: true}, "localhost", true},
		{edge.Hosts{Names: []string{"*"}}, "anything", true},
	} {
		if got := tc.hosts.Allow(tc.host); got != tc.want {
			t.Errorf("%+v, Host %q: %v", tc.hosts, tc.host, got)
		}
	}
}

// A page of the same origin may ask, one of another may not, and no browser gets
// to a Unix socket.
func TestCheck(t *testing.T) {
	for _, tc := range []struct {
		sentence string
		header   http.Header
		unix     bool
		host     string
		ok       bool
	}{
		{"no browser", nil, false, "localhost", true},
		{"an unknown Host", nil, false, "larkside", false},
		{"an unknown Host over a Unix socket", nil, true, "larkside", true},
		{"a page over a Unix socket", http.Header{"Origin": {"https://evil.example"}}, true, "localhost", false},
		{"a page of ours", http.Header{"Origin": {"https://localhost:8081"}, "Sec-Fetch-Site": {"same-origin"}}, false, "localhost:8081", true},
		{"an address typed into a browser", http.Header{"Sec-Fetch-Site": {"none"}}, false, "localhost", true},
		{"a page of another site", http.Header{"Sec-Fetch-Site": {"cross-site"}}, false, "localhost", false},
		{"a page of another port", http.Header{"Origin": {"http://localhost:3000"}}, false, "localhost:8081", false},
		{"a sandboxed frame", http.Header{"Origin": {"null"}}, false, "localhost", false},
		{"two origins", http.Header{"Origin": {"http://localhost", "http://localhost"}}, false, "localhost", false},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		if r.Host = tc.host; tc.header != nil {
			r.Header = tc.header
		}
		if tc.unix {
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.UnixAddr{Net: "unix", Name: "/s"}))
		}
		if err := (edge.Hosts{Loopback: true}).Check(r); (err == nil) != tc.ok || err != nil && !errors.Is(err, edge.HostNotAllowed) {
			t.Errorf("%s: %v", tc.sentence, err)
		}
	}
}

// A name means one status and one code, whoever answers, and each code follows
// from its status.
func TestTable(t *testing.T) {
	byName, byCode := map[string]edge.Failure{}, map[int]string{}
	for _, f := range append(proxy.Failures(), admin.Failures()...) {
		if known, ok := byName[f.Name]; ok && known != f {
			t.Errorf("%s is two things", f.Name)
		}
		if name, ok := byCode[f.Code]; ok && name != f.Name {
			t.Errorf("code %d is %s and %s", f.Code, f.Name, name)
		}
		byName[f.Name], byCode[f.Code] = f, f.Name
		if f.Code/1000 != 18000+f.Status || !strings.HasSuffix(f.Message, ".") {
			t.Errorf("%+v", f)
		}
	}
}

func TestFor(t *testing.T) {
	late := &session.RetryError{Err: session.ErrRefreshUnavailable, After: 1500 * time.Millisecond}
	whole := &edge.Answer{Failure: edge.CallerRateLimited, RetryAfter: time.Minute}
	for _, tc := range []struct {
		err   error
		want  *edge.Failure
		retry time.Duration
	}{
		{fmt.Errorf("looking up: %w", session.ErrUserDisabled), edge.UserDisabled, 0},
		{session.ErrAppMisconfigured, edge.AppMisconfigured, 30 * time.Second},
		{fmt.Errorf("looking up: %w", late), edge.RefreshUnavailable, late.After},
		{session.ErrUnavailable, edge.StoreUnavailable, time.Second},
		{fmt.Errorf("resolving: %w", session.ErrAmbiguous), edge.InvalidUserID, 0},
		{edge.Draining, edge.Draining, time.Second},
		{fmt.Errorf("identifying: %w", whole), edge.CallerRateLimited, time.Minute},
		{edge.AmbiguousPath, edge.AmbiguousPath, 0},
	} {
		if a := edge.For(tc.err); a == nil || a.Failure != tc.want || a.RetryAfter != tc.retry || !errors.Is(a, tc.want) {
			t.Errorf("%v: %+v", tc.err, a)
		}
	}
	for _, err := range []error{errors.New("boom"), session.ErrNotFound, context.Canceled} {
		if a := edge.For(err); a != nil {
			t.Errorf("%v: %+v", err, a)
		}
	}
}

func TestWrite(t *testing.T) {
	a := &edge.Answer{
		Failure: edge.AuthorizationRequired, RetryAfter: 1500 * time.Millisecond, Reason: session.NoSession,
		Challenge: session.Challenge{AuthorizeURL: "https://x.example/?a=1&b=2", ExpiresIn: 90 * time.Second, Card: session.CardSent},
	}
	r := httptest.NewRequest("GET", "/", nil)
	r = r.WithContext(context.WithValue(r.Context(), telemetry.RequestIDKey{}, "AN-ID"))
	w := httptest.NewRecorder()
	w.Header().Set("Preference-Applied", "wait")
	a.Write(w, r)
	want := `{"code":18401001,"msg":"` + edge.AuthorizationRequired.Message + `","error":{"type":"authorization_required","request_id":"AN-ID",` +
		`"reason":"no_session","authorize_url":"https://x.example/?a=1&b=2","expires_in":90,"card":"sent"}}` + "\n"
	if w.Code != 401 || w.Body.String() != want {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for name, value := range map[string]string{
		"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store", "X-Larkside-Error": "authorization_required",
		"X-Larkside-Request-Id": "AN-ID", "Retry-After": "2", "Www-Authenticate": `Bearer realm="lark", error="invalid_token"`,
		"X-Larkside-Authorize-Url": "https://x.example/?a=1&b=2", "Preference-Applied": "wait", "Content-Length": fmt.Sprint(len(want)),
	} {
		if got := w.Header().Get(name); got != value {
			t.Errorf("%s: %q, want %q", name, got, value)
		}
	}

	// A HEAD has no body, and without an id in the context there is one all the same.
	w = httptest.NewRecorder()
	edge.New(edge.NotFound, nil).Write(w, httptest.NewRequest("HEAD", "/", nil))
	if w.Body.Len() != 0 || w.Header().Get("X-Larkside-Request-Id") == "" || w.Header().Get("Retry-After") != "" {
		t.Errorf("%v %s", w.Header(), w.Body)
	}
	var body struct{ Error map[string]any }
	if json.Unmarshal((&edge.Answer{Failure: edge.NotFound, Detail: "Here."}).Envelope("X"), &body) != nil || len(body.Error) != 2 {
		t.Errorf("%v", body)
	}
}

// What acts for a user without naming one must come from no browser at all: not from
// a page of another site, nor from a file that was opened from this listener.
func TestMayBePage(t *testing.T) {
	const (
		firefox    = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
		powershell = "Mozilla/5.0 (Windows NT; Windows NT 10.0; en-US) WindowsPowerShell/5.1.1"
	)
	for _, tc := range []struct {
		sentence, method string
		header           []string
		want             bool
	}{
		{"curl", "GET", []string{"User-Agent", "curl/8.5.0"}, false},
		{"an SDK", "POST", []string{"User-Agent", "oapi-node-sdk/1.74.0", "Content-Type", "application/json"}, false},
		{"fetch of Node, which sends a mode and no site", "GET", []string{"User-Agent", "node", "Sec-Fetch-Mode", "cors"}, false},
		{"no header at all", "GET", nil, false},
		{"an image of another site", "GET", []string{"User-Agent", firefox, "Sec-Fetch-Site", "cross-site"}, true},
		{"an image of another port", "GET", []string{"User-Agent", firefox, "Sec-Fetch-Site", "same-site"}, true},
		{"a script in a file that was opened from here", "GET", []string{"User-Agent", firefox, "Sec-Fetch-Site", "same-origin"}, true},
		{"a link in a chat, opened in the browser", "GET", []string{"User-Agent", firefox, "Sec-Fetch-Site", "none"}, true},
		{"the same without a known User-Agent", "GET", []string{"Sec-Fetch-Site", "none"}, true},
		{"an old browser's image", "GET", []string{"User-Agent", firefox}, true},
		{"an old browser's form", "POST", []string{"User-Agent", firefox, "Content-Type", "application/x-www-form-urlencoded"}, true},
		{"a form of text that looks like JSON", "POST", []string{"User-Agent", firefox, "Sec-Fetch-Site", "none", "Content-Type", "text/plain"}, true},
		{"a script of the same origin that posts", "POST", []string{"User-Agent", "x", "Origin", "http://localhost", "Content-Type", "application/json"}, true},
		{"a sandboxed frame", "GET", []string{"Origin", "null"}, true},
		{"an empty Origin", "GET", []string{"Origin", ""}, true},
		{"two sites", "POST", []string{"Sec-Fetch-Site", "none", "Sec-Fetch-Site", "cross-site", "Content-Type", "application/json"}, true},
		{"an editor that is made of a browser", "POST", []string{"User-Agent", firefox, "Sec-Fetch-Site", "none", "Content-Type", "application/json; charset=utf-8"}, false},
		{"PowerShell that posts JSON", "POST", []string{"User-Agent", powershell, "Content-Type", "application/json"}, false},
		{"JSON with a GET, which no client sends", "GET", []string{"User-Agent", firefox, "Content-Type", "application/json"}, true},
		{"JSON that another site sent", "POST", []string{"User-Agent", firefox, "Sec-Fetch-Site", "cross-site", "Content-Type", "application/json"}, true},
	} {
		r := httptest.NewRequest(tc.method, "/", nil)
		for i := 0; i+1 < len(tc.header); i += 2 {
			r.Header.Add(tc.header[i], tc.header[i+1])
		}
		if got := edge.MayBePage(r); got != tc.want {
			t.Errorf("%s: %v", tc.sentence, got)
		}
	}
}
