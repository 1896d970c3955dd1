package proxy_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"larkside/proxy"
	"larkside/session"
	larkapi "larkside/session/lark"
)

// S1, S2: no spelling of Connection takes the injected header away, or the
// user.
func TestConnectionTokens(t *testing.T) {
	b := start(t, nil)
	for _, header := range [][]string{
		{"Connection: Authorization"},
		{"Connection: authorization"},
		{"Connection: AUTHORIZATION"},
		{"Connection: close, authorization"},
		{"Connection: X-Lark-User-Id"},
		{"Connection: close, x-lark-user-id"},
		{"Connection: keep-alive", "Connection: Authorization"},
		{"Connection: ", "Connection: Authorization, X-Lark-User-Id"},
		{"Connection: TE", "TE: trailers"},
		{"Keep-Alive: Authorization", "Connection: Keep-Alive"},
		{"Trailer: Authorization"},
		{"Proxy-Connection: Authorization"},
	} {
		b.lark.reset()
		if a := b.get(table, header...); a.StatusCode != 200 {
			t.Errorf("%q: status %d", header, a.StatusCode)
			continue
		}
		got := b.lark.one(t)
		sees(t, got, user1)
		for _, name := range []string{"Te", "Keep-Alive", "Trailer", "Proxy-Connection", "Connection"} {
			if got.header.Get(name) != "" {
				t.Errorf("%q: upstream saw %s: %s", header, name, got.header.Get(name))
			}
		}
	}
}

// What never reaches Lark, and what does.
func TestHeadersStayHere(t *testing.T) {
	b := start(t, nil)
	gone := []string{
		"X_Lark_User_Id: ou_2", "X-Lark_User-Id: ou_2", "x-lark-user_id: ou_2", "X-Lark-App-Id: cli_a", "X_Lark_App_Id: cli_b",
		"X-Larkside-Key: k", "X_Larkside_Anything: 1", "x-larkside-Error: e", "Cookie: a=b", "Baggage: a=b",
		"Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Tracestate: a=b", "B3: 0", "X-B3-Traceid: 1",
		"X-Datadog-Trace-Id: 1", "Forwarded: for=1", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Host: x", "X-Forwarded-Proto: https",
		"X-Forwarded-Uri: /open-apis/im/", "X_Forwarded_Prefix: /x", "X-Forwarded-Anything: 1", "X-Real-Ip: 1.2.3.4", "X-Original-Uri: /x",
		"X-Original-Url: /x", "X-Rewrite-Url: /x", "Via: 1.1 x", "Proxy-Authorization: Basic eA==", "Proxy_Authorization: Basic eA==", "Te: trailers",
		"Upgrade: h2c", "Http2-Settings: AAMAAABkAAQAAP__", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive",
	}
	kept := []string{
		"Content-Type: application/json; charset=utf-8", "User-Agent: oapi-sdk-go/v3.12.0", "X-Lark-Helpdesk-Authorization: h", "X-Request-Tag: 1",
		"Oapi-Sdk-Request-Id: r", "Accept: application/json", "If-None-Match: x", "X-Lark-User-Identity: x",
	}
	if a := b.get(table, append(gone, kept...)...); a.StatusCode != 200 {
		t.Fatalf("status %d %s", a.StatusCode, a.body)
	}
	got := b.lark.one(t)
	for _, line := range kept {
		name, value, _ := strings.Cut(line, ": ")
		if got.header.Get(name) != value {
			t.Errorf("upstream saw %s: %q, want %q", name, got.header.Get(name), value)
		}
		delete(got.header, http.CanonicalHeaderKey(name))
	}
	delete(got.header, "Authorization")
	if len(got.header) > 0 {
		t.Errorf("upstream saw more: %v", got.header)
	}
}

// S3: another spelling of the header names nobody.
func TestUnderscoreNamesNobody(t *testing.T) {
	b := start(t, nil)
	for _, spelling := range []string{"X_Lark_User_Id", "X-Lark_User-Id", "x_lark-user-id", "XLarkUserId"} {
		b.raw("GET "+table+" HTTP/1.1", spelling+": ou_1").isError(t, 400, "user_id_required")
	}
	b.lark.none(t)
	b.raw("GET "+table+" HTTP/1.1", "X_Lark_User_Id: ou_1", "Authorization: Bearer t-own")
	got := b.lark.one(t)
	sees(t, got, "Bearer t-own")
	for name := range got.header {
		if regexp.MustCompile(`(?i)lark`).MatchString(name) {
			t.Errorf("upstream saw %s", name)
		}
	}
	if a := b.raw("GET "+table+" HTTP/1.1", "x-lark-user-id : ou_1"); a.StatusCode != 400 {
		t.Errorf("blank before the colon: status %d", a.StatusCode)
	}
}

// S4.
func TestUserIDForms(t *testing.T) {
	b := start(t, nil)
	const id = "X-Lark-User-Id: "
	for name, header := range map[string][]string{
		"differing":       {id + "ou_1", id + "ou_2"},
		"third differs":   {id + "ou_1", id + "ou_1", "x-lark-user-id: ou_2"},
		"empty":           {id},
		"empty and other": {id, id + "ou_1"},
		"list":            {id + "ou_1,ou_2"},
		"blank inside":    {id + "ou_1 ou_2"},
		"tab inside":      {id + "ou_1\tx"},
		"percent":         {id + "ou%5f1"},
		"not ASCII":       {id + "оu_1"},
		"raw bytes":       {id + "ou_1\xff"},
		"slash":           {id + "../ou_1"},
		"separator":       {id + "cli_a:ou_1"},
		"129 bytes":       {id + strings.Repeat("a", 129)},
		"4 KiB":           {id + strings.Repeat("a", 4096)},
	} {
		a := b.raw(append([]string{"GET " + table + " HTTP/1.1"}, header...)...)
		if a.isError(t, 400, "invalid_user_id"); t.Failed() {
			t.Fatal(name)
		}
	}
	b.lark.none(t)
	if a := b.raw("GET "+table+" HTTP/1.1", id+"ou_1\x00"); a.StatusCode != 400 {
		t.Errorf("NUL: status %d", a.StatusCode)
	}
	for _, header := range [][]string{{id + "ou_1", id + "ou_1"}, {id + " \tou_1\t ", "X-LARK-USER-ID: ou_1"}} {
		b.lark.reset()
		if a := b.raw(append([]string{"GET " + table + " HTTP/1.1"}, header...)...); a.StatusCode != 200 {
			t.Errorf("%q: status %d %s", header, a.StatusCode, a.body)
		}
		sees(t, b.lark.one(t), user1)
	}
	// 128 bytes are an id like any other; nobody has it.
	b.raw("GET "+table+" HTTP/1.1", id+"ou_"+strings.Repeat("a", 125)).isError(t, 401, "authorization_required")
}

func TestUnknownApp(t *testing.T) {
	b := start(t, nil)
	for _, header := range [][]string{{"X-Lark-App-Id: cli_x"}, {"X-Lark-App-Id: "}, {"X-Lark-App-Id: cli_a", "X-Lark-App-Id: cli_b"}} {
		b.get(table, header...).isError(t, 400, "unknown_app")
	}
	b.lark.none(t)
}

// S5: nor in trailers.
func TestTrailersOfTheRequestStayHere(t *testing.T) {
	b := start(t, nil)
	a := b.raw("POST "+table+" HTTP/1.1", "X-Lark-User-Id: ou_1", "Transfer-Encoding: chunked", "Trailer: Authorization, X-T", "",
		"2\r\nhi\r\n0\r\nAuthorization: Bearer evil\r\nX-T: 1\r\n\r\n")
	if a.StatusCode != 200 {
		t.Fatalf("status %d", a.StatusCode)
	}
	got := b.lark.one(t)
	sees(t, got, user1)
	if len(got.trailer) > 0 || got.body != "hi" {
		t.Errorf("upstream saw trailers %v, body %q", got.trailer, got.body)
	}
}

// An ambiguous path is refused on every request, with a user or without.
func TestAmbiguousForEveryRequest(t *testing.T) {
	b := start(t, nil)
	for name, header := range map[string]string{
		"user": "X-Lark-User-Id: ou_1", "own token": "Authorization: Bearer own", "placeholder": "Authorization: Bearer larkside", "nothing": "Accept: */*",
		"user without a session": "X-Lark-User-Id: ou_new", "unknown app": "X-Lark-App-Id: cli_none",
	} {
		for _, target := range []string{
			"/open-apis/apaas/../im/v1/chats", "/open-apis/im/%252e%252e/contact", "/open-apis//im/v1/chats", "/anything/./else",
			"/open-apis/auth/v3/../v3/tenant_access_token/internal", "/-/larkside/../open-apis/im/v1/chats",
		} {
			for _, method := range []string{"GET", "POST", "OPTIONS"} {
				t.Run(name+" "+method+" "+target, func(t *testing.T) {
					b.raw(method+" "+target+" HTTP/1.1", header).isError(t, 400, "ambiguous_path")
				})
			}
		}
	}
	if b.lark.none(t); len(b.asker.all()) != 0 {
		t.Error("somebody was asked")
	}
}

// Matrix 4.2 of the paths, S13 to S16. "" is: forwarded, byte by byte.
func TestPathMatrix(t *testing.T) {
	const ambiguous, denied, plainHTTP = "ambiguous_path", "path_not_allowed", "net/http"
	for target, want := range map[string]string{
		"/open-apis/apaas/../im/v1/messages":          ambiguous,
		"/open-apis/im/../contact/v3/users":           ambiguous,
		"/open-apis/apaas/%2e%2e/contact":             ambiguous,
		"/open-apis/apaas/%2E%2e/contact":             ambiguous,
		"/open-apis/apaas/.%2e/contact":               ambiguous,
		"/open-apis/apaas/%252e%252e/contact":         ambiguous,
		"/open-apis/apaas/%2e/contact":                ambiguous,
		"/open-apis/apaas/..":                         ambiguous,
		"/open-apis/apaas/.":                          ambiguous,
		"/open-apis/apaas/..;x/contact":               ambiguous,
		"//open-apis/apaas/v1":                        ambiguous,
		"/open-apis//apaas/v1":                        ambiguous,
		"/open-apis/apaas/v1//":                       ambiguous,
		"/./open-apis/apaas/v1":                       ambiguous,
		"/open-apis/apaas%2f..%2fcontact":             ambiguous,
		"/open-apis/apaas/a%2f..%2f..%2fcontact":      ambiguous,
		"/open-apis/apaas/%5c..%5ccontact":            ambiguous,
		"/open-apis/apaas/\\..\\contact":              ambiguous,
		"/open-apis/apaas/a%2F%2Fb":                   ambiguous,
		"/open-apis%2Fapaas/v1":                       ambiguous,
		"/open-apis/apaas%2Fv1":                       ambiguous,
		"/open-apis/apaas%00":                         ambiguous,
		"/open-apis/apaas/%0d%0aX:1":                  ambiguous,
		"/open-apis/apaas/%7f":                        ambiguous,
		"/open-apis/apaas/%c2%85":                     ambiguous,
		"/open-apis/apaas/%c0%ae%c0%ae/x":             ambiguous,
		"/open-apis/apaas/\xc0\xae/x":                 ambiguous,
		"/open-apis/apaas/ok#/../im":                  ambiguous,
		"/open-apis/apaas/ok#frag":                    ambiguous,
		"/open-apis/apaas/ok?x#frag":                  ambiguous,
		"http://evil.example/open-apis/apaas/v1":      ambiguous,
		"http://u@127.0.0.1/open-apis/apaas/v1":       ambiguous,
		"open.feishu.cn/open-apis/apaas/v1":           plainHTTP,
		"open-apis/apaas/v1":                          plainHTTP,
		"":                                            plainHTTP,
		"/open-apis/apaas/%zz":                        plainHTTP,
		"*":                                           ambiguous,
		"/open-apis/sheets/v2/spreadsheets/T/a%2Fb":   "",
		"/open-apis/sheets/v2/spreadsheets/T/a%2fb":   "",
		"/open-apis/sheets/v2/spreadsheets/T/a%252Fb": "",
		"/open-apis/sheets/v2/T/values/s!A1:B2":       "",
		"/open-apis/sheets/v2/T/values/s%21A1%3AB2":   "",
		"/open-apis/sheets/v2/T/50%25/100%25":         "",
		"/open-apis/sheets/v2/T/%E8%A1%A8":            "",
		"/open-apis/sheets/v2/T/表":                    "",
		"/open-apis/sheets/v2/T/a%23b%3Fc":            "",
		"/open-apis/sheets/v2/T/a..b/.c/...":          "",
		"/open-apis/apaas/v1;a=b":                     "",
		"/open-apis/%61paas/v1":                       "",
		"/open-apis/apaas/":                           "",
		"/open-apis/apaas/v1/?a;b=1&%zz&c=%":          "",
		"/open-apis/apaas/v1?":                        "",
		"/open-apis/apaas/v1?/../x=//":                "",
		"/open-apis/apaas;x=/contact":                 denied,
		"/open-apis/apaasx":                           denied,
		"/open-apis/APAAS/":                           denied,
		"/open-apis/apaas.":                           denied,
		"/open-apis/apaas":                            denied,
		"/denied?x=/open-apis/apaas/":                 denied,
		"/x/open-apis/apaas/v1":                       denied,
		"/":                                           denied,
		"/-/larkside":                                 denied,
		"/-/larkside/":                                denied,
		"/-/larkside/metrics":                         denied,
		"/-/larkside/authz":                           denied,
		"/-/larkside/authz/open-apis/apaas/v1":        denied,
		"/-/larkside/authzx":                          denied,
		"/%2D/larkside/authz":                         denied,
		"/-/larkside%2Fauthz":                         ambiguous,
		"/healthz/../open-apis/apaas/v1":              ambiguous,
		"/healthz%2f..%2fopen-apis":                   ambiguous,
		"/debug/pprof":                                denied,
		"/metrics":                                    denied,
	} {
		t.Run(target, func(t *testing.T) {
			b := start(t, nil)
			a := b.get(target)
			switch want {
			case "":
				if a.StatusCode != 200 {
					t.Fatalf("status %d %s", a.StatusCode, a.body)
				}
				got := b.lark.one(t)
				sees(t, got, user1)
				if got.uri != target {
					t.Errorf("upstream saw %q", got.uri)
				}
				return
			case ambiguous:
				a.isError(t, 400, want)
			case denied:
				a.isError(t, 403, want)
			case plainHTTP:
				if a.StatusCode != 400 {
					t.Errorf("status %d", a.StatusCode)
				}
			}
			b.lark.none(t)
			// Judged with or without a user.
			if want == ambiguous {
				b.raw("GET "+target+" HTTP/1.1", "Authorization: Bearer own").isError(t, 400, want)
				b.lark.none(t)
			}
		})
	}
}

// S26: nothing in a request picks the upstream.
func TestHostPicksNothing(t *testing.T) {
	b := start(t, func(c *proxy.Config) { c.AllowHosts = []string{"*"} })
	want := strings.TrimPrefix(b.lark.URL, "http://")
	for _, lines := range [][]string{
		{"GET " + table + " HTTP/1.1", "Host: evil.example"},
		{"GET " + table + " HTTP/1.1", "Host: open.feishu.cn."},
		{"GET " + table + " HTTP/1.1", "Host: open.feishu.cn:443"},
		{"GET http://evil.example" + table + " HTTP/1.1", "Host: evil.example"},
		{"GET https://EVIL.example:8443" + table + " HTTP/1.1", "Host: x"},
	} {
		b.lark.reset()
		if a := b.raw(append(lines, "X-Lark-User-Id: ou_1")...); a.StatusCode != 200 {
			t.Errorf("%q: status %d %s", lines, a.StatusCode, a.body)
			continue
		}
		if got := b.lark.one(t); got.host != want || got.uri != table {
			t.Errorf("%q: upstream saw %q for %q", lines, got.uri, got.host)
		}
	}
	if a := b.raw("GET "+table+" HTTP/1.1", "Host: a", "Host: b", "X-Lark-User-Id: ou_1"); a.StatusCode != 400 {
		t.Errorf("two Hosts: status %d", a.StatusCode)
	}
	// An absolute target that names this proxy, as RFC 9112 wants it served.
	b = start(t, nil)
	for target, uri := range map[string]string{"": "/", "?a": "/?a", table + "?a": table + "?a"} {
		b.lark.reset()
		b.raw("GET http://"+b.addr+target+" HTTP/1.1", "Authorization: Bearer own")
		if got := b.lark.one(t); got.uri != uri {
			t.Errorf("upstream saw %q, want %q", got.uri, uri)
		}
	}
}

// S27.
func TestWebPagesAreRefused(t *testing.T) {
	b := start(t, nil)
	for _, header := range []string{
		"Host: evil.example", "Host: evil.example:80", "Host: 127.0.0.1.evil.example", "Host: localhost.evil.example", "Host: 10.0.0.1",
		"Host: 127.0.0.1@evil.example", "Host: ", "Host: [::2]", "Host: localhost:x",
		"Origin: https://evil.example", "Origin: null", "Origin: http://localhost:3000", "Origin: ",
		"Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "Sec-Fetch-Site: anything",
	} {
		a := b.get(table, header)
		if strings.Contains(header, "@") && a.StatusCode == 400 {
			continue // refused by net/http
		}
		if a.isError(t, 403, "host_not_allowed"); t.Failed() {
			t.Fatal(header)
		}
		if a.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: CORS header", header)
		}
	}
	b.lark.none(t)
	for _, header := range []string{
		"Host: localhost", "Host: LocalHost:1", "Host: localhost.", "Host: 127.0.0.1", "Host: 127.8.9.1:1", "Host: [::1]:80", "Host: [::1]",
		"Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none", "Origin: http://" + b.addr,
	} {
		if a := b.get(table, header); a.StatusCode != 200 {
			t.Errorf("%s: status %d", header, a.StatusCode)
		}
	}
	b = start(t, func(c *proxy.Config) { c.AllowHosts = []string{"larkside", "lark.corp:8443", "[fd00::1]"} })
	for host, status := range map[string]int{
		"larkside": 200, "LARKSIDE:80": 200, "lark.corp:8443": 200, "lark.corp": 403, "lark.corp:1": 403, "[fd00::1]:80": 200, "localhost": 403,
	} {
		if a := b.get(table, "Host: "+host); a.StatusCode != status {
			t.Errorf("Host %s: status %d, want %d", host, a.StatusCode, status)
		}
	}
}

// A browser doesn't reach a Unix socket, and its clients name any Host.
func TestUnixSocketNeedsNoHost(t *testing.T) {
	b := start(t, nil)
	h, err := proxy.New(proxy.Config{
		Upstream: mustURL(b.lark.URL), Apps: []string{app}, InjectPaths: []string{"/"}, Tokens: b.tokens,
		UserTokenRefusal: larkapi.UserTokenRefusal, TenantTokenRefusal: larkapi.TenantTokenRefusal,
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := proxy.NewServer(h)
	go server.Serve(ln)
	defer server.Close()
	conn, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: unix\r\nX-Lark-User-Id: ou_1\r\n\r\n", table)
	if a := b.read(bufio.NewReader(conn), "GET"); a.StatusCode != 200 {
		t.Errorf("status %d %s", a.StatusCode, a.body)
	}
}

// S29: CONNECT and TRACE end with the connection, and don't reach the pool.
func TestMethodsThatAreNotForwarded(t *testing.T) {
	b := start(t, nil)
	for _, lines := range [][]string{
		{"CONNECT evil.example:443 HTTP/1.1", "Host: evil.example:443"},
		{"CONNECT " + b.addr + " HTTP/1.1", "Content-Length: 4", "", "GET "},
		{"TRACE " + table + " HTTP/1.1", "X-Lark-User-Id: ou_1"},
	} {
		a := b.raw(lines...)
		a.isError(t, 405, "method_not_allowed")
		if !a.Close || a.Header.Get("Allow") == "" {
			t.Errorf("%s: Close %v, Allow %q", lines[0], a.Close, a.Header.Get("Allow"))
		}
		b.lark.none(t)
	}
	b.raw("OPTIONS * HTTP/1.1", "X-Lark-User-Id: ou_1").isError(t, 400, "ambiguous_path")
	b.lark.none(t)
	b.get(table)
	sees(t, b.lark.one(t), user1)
}

// S8: an upgrade is an ordinary request, and an unasked 101 no tunnel.
func TestNoUpgrade(t *testing.T) {
	b := start(t, nil)
	for _, upgrade := range []string{"h2c", "websocket", "TLS/1.0", "\xff"} {
		b.lark.reset()
		a := b.get(table, "Connection: Upgrade, HTTP2-Settings", "Upgrade: "+upgrade, "HTTP2-Settings: AAMAAABkAAQAAP__")
		if a.StatusCode != 200 {
			t.Fatalf("%q: status %d %s", upgrade, a.StatusCode, a.body)
		}
		got := b.lark.one(t)
		sees(t, got, user1)
		if got.header.Get("Upgrade")+got.header.Get("Connection")+got.header.Get("Http2-Settings") != "" {
			t.Errorf("upstream saw %v", got.header)
		}
	}
	for _, upgrade := range []string{"", "Upgrade: h2c\r\nConnection: Upgrade\r\n"} {
		b.lark.answer(func(w http.ResponseWriter, _ *http.Request) {
			conn, rw, _ := w.(http.Hijacker).Hijack()
			defer conn.Close()
			fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\n%s\r\nsecret", upgrade)
			rw.Flush()
		})
		b.get(table, "Connection: Upgrade", "Upgrade: h2c").isError(t, 502, "upstream_unreachable")
	}
}

// S9: what could be read as two requests isn't read as one.
func TestSmuggling(t *testing.T) {
	b := start(t, nil)
	post := "POST " + table + " HTTP/1.1"
	for name, lines := range map[string][]string{
		"TE twice":         {post, "X-Lark-User-Id: ou_1", "Transfer-Encoding: chunked, identity", "", "0", "", ""},
		"unknown TE":       {post, "X-Lark-User-Id: ou_1", "Transfer-Encoding: gzip", "", "0", "", ""},
		"two lengths":      {post, "X-Lark-User-Id: ou_1", "Content-Length: 1", "Content-Length: 2", "", "xx"},
		"negative length":  {post, "X-Lark-User-Id: ou_1", "Content-Length: -1", "", "xx"},
		"folded user":      {post, "X-Lark-User-Id: ou_1", " ou_2", "Content-Length: 0", "", ""},
		"name with blanks": {post, "X-Lark-User-Id : ou_1", "Content-Length: 0", "", ""},
	} {
		b.lark.reset()
		a := b.raw(lines...)
		if a.StatusCode/100 != 4 && a.StatusCode != 501 {
			t.Errorf("%s: status %d", name, a.StatusCode)
		}
		if len(b.lark.requests()) != 0 {
			t.Errorf("%s: forwarded", name)
		}
	}
	// With both, chunked counts (RFC 9112 section 6.3) and the length is gone.
	b.lark.reset()
	b.raw(post, "X-Lark-User-Id: ou_1", "Content-Length: 3", "Transfer-Encoding: chunked", "", "1\r\nx\r\n0\r\n\r\n")
	for _, got := range b.lark.requests() {
		if got.body != "x" {
			t.Errorf("upstream saw %q", got.body)
		}
	}
}

// A body that breaks off is nobody's answer and not Lark's failure.
func TestBrokenBody(t *testing.T) {
	b := start(t, nil)
	for _, text := range []string{
		"Content-Length: 10\r\n\r\nabc",
		"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc",
		"Content-Length: 100000\r\n\r\nabc",
	} {
		conn := b.dial()
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: ou_1\r\n%s", table, b.addr, text)
		conn.(*net.TCPConn).CloseWrite()
		answer, _ := io.ReadAll(conn)
		if len(answer) > 0 && !strings.HasPrefix(string(answer), "HTTP/1.1 4") {
			t.Errorf("%q was answered %q", text, answer)
		}
	}
	for _, got := range b.lark.requests() {
		if !got.broken {
			t.Errorf("upstream took %q for the whole body", got.body)
		}
	}
}

// S10: a redirect is the app's to follow.
func TestRedirectsAreNotFollowed(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("followed") }))
	defer other.Close()
	b := start(t, nil)
	for _, status := range []int{301, 302, 303, 307, 308} {
		b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", other.URL)
			w.Header().Set("Refresh", "0; url="+other.URL)
			w.WriteHeader(status)
		})
		if a := b.get(table); a.StatusCode != status || a.Header.Get("Location") != other.URL {
			t.Errorf("answer %d to %s", a.StatusCode, a.Header.Get("Location"))
		}
	}
}

// Our own headers never come from upstream: not in the header, not in 1xx, not
// in trailers.
func TestUpstreamCannotSpeakForLarkside(t *testing.T) {
	b := start(t, nil)
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, _ := w.(http.Hijacker).Hijack()
		defer conn.Close()
		io.WriteString(rw, "HTTP/1.1 103 Early Hints\r\nX-Larkside-Hint: evil\r\nLink: <x>\r\n\r\n"+
			"HTTP/1.1 200 OK\r\nX-Larkside-Error: evil\r\nx_larkside_hint: evil\r\nConnection: X-Larkside-Hint\r\nX-Kept: 1\r\n"+
			"Transfer-Encoding: chunked\r\nTrailer: X-Larkside-Authorize-Url, X-T\r\n\r\n"+
			"2\r\nhi\r\n0\r\nX-Larkside-Authorize-Url: evil\r\nX-Larkside-Late: evil\r\nX-T: 1\r\nX-Late: 2\r\n\r\n")
		rw.Flush()
	})
	conn := b.dial()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: ou_1\r\nConnection: close\r\n\r\n", table, b.addr)
	answer, _ := io.ReadAll(conn)
	text := string(answer)
	if regexp.MustCompile(`(?i)larkside`).MatchString(text) {
		t.Errorf("upstream spoke for Larkside: %q", text)
	}
	for _, want := range []string{"HTTP/1.1 103", "Link: <x>", "X-Kept: 1", "X-T: 1", "X-Late: 2"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in %q", want, text)
		}
	}
}

// S30: requests that announce a body and are refused leave the others alone.
func TestExpectContinue(t *testing.T) {
	b := start(t, nil)
	b.lark.answer(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Expect") != "100-continue" {
			b.lark.record(r)
			return
		}
		if r.Header.Get("X-Refuse") != "" {
			w.Header().Set("Connection", "close")
			w.WriteHeader(417)
			return
		}
		b.lark.record(r)
	})
	for range 50 {
		a := b.raw("POST "+table+" HTTP/1.1", "X-Lark-User-Id: ou_1", "Expect: 100-continue", "X-Refuse: 1", "Content-Length: 5")
		if a.StatusCode != 417 {
			t.Fatalf("status %d", a.StatusCode)
		}
	}
	b.get(table)
	sees(t, b.lark.one(t), user1)

	// And the caller gets its 100 from Lark, then sends.
	conn := b.dial()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: ou_1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", table, b.addr)
	r := bufio.NewReader(conn)
	if line, _ := r.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("got %q", line)
	}
	r.ReadString('\n')
	io.WriteString(conn, "hello")
	if a := b.read(r, "POST"); a.StatusCode != 200 {
		t.Errorf("status %d", a.StatusCode)
	}
	if all := b.lark.requests(); all[len(all)-1].body != "hello" {
		t.Errorf("upstream saw %q", all[len(all)-1].body)
	}
}

// With CALLER_KEYS only those who bring one of them are served, on every path.
func TestCallerKeys(t *testing.T) {
	var keys atomic.Pointer[[]proxy.Caller]
	keys.Store(&[]proxy.Caller{{Name: "web", Key: session.NewSecret("key-of-web")}, {Name: "job", Key: session.NewSecret("key-of-job")}, {Name: "none"}})
	var b *bed
	for i, path := range []string{table, pathIM, "/-/larkside/authz" + table, "/-/larkside/x", "/", "/-/larkside/authz" + table, "/-/larkside/x", "/"} {
		// One for each path: many wrong keys are answered with 429.
		b = start(t, func(c *proxy.Config) { c.CallerKeys = func() []proxy.Caller { return *keys.Load() } })
		b := b
		if i > 4 {
			b = b.authz()
		}
		for _, header := range [][]string{nil, {"X-Larkside-Key: "}, {"X-Larkside-Key: key-of-we"}, {"X-Larkside-Key: KEY-OF-WEB"},
			{"X_Larkside_Key: key-of-web"}, {"X-Larkside-Key: key-of-web", "X-Larkside-Key: x"}, {"Authorization: Bearer key-of-web"}} {
			a := b.get(path, header...)
			a.isError(t, 401, "caller_unauthenticated")
			if a.Header.Get("WWW-Authenticate") == "" {
				t.Error("no WWW-Authenticate")
			}
		}
		b.lark.none(t)
	}
	for _, k := range []string{"key-of-web", "key-of-job"} {
		b.lark.reset()
		b.get(table, "X-Larkside-Key: "+k)
		got := b.lark.one(t)
		sees(t, got, user1)
		if got.header.Get("X-Larkside-Key") != "" {
			t.Error("the caller key went upstream")
		}
	}
	// Re-read at run time; nobody left means nobody.
	keys.Store(new([]proxy.Caller))
	b.get(table, "X-Larkside-Key: key-of-web").isError(t, 401, "caller_unauthenticated")
}

// Rows of section 5 that come from below.
func TestFailures(t *testing.T) {
	retry := func(err error) error {
		return fmt.Errorf("looking up: %w", &session.RetryError{Err: err, After: 2500 * time.Millisecond})
	}
	for _, c := range []struct {
		name   string
		err    error
		status int
		retry  string
	}{
		{"user_disabled", session.ErrUserDisabled, 403, ""},
		{"store_unavailable", session.ErrUnavailable, 503, "1"},
		{"store_unavailable", retry(session.ErrUnavailable), 503, "3"},
		{"refresh_unavailable", retry(session.ErrRefreshUnavailable), 503, "3"},
		{"app_misconfigured", session.ErrAppMisconfigured, 503, "30"},
		{"app_misconfigured", retry(session.ErrAppMisconfigured), 503, "3"},
		{"store_unavailable", errors.New("u-secret-in-an-error"), 503, "1"},
	} {
		t.Run(fmt.Sprint(c.err), func(t *testing.T) {
			b := start(t, nil)
			b.tokens.fail(c.err)
			a := b.get(table)
			a.isError(t, c.status, c.name)
			if got := a.Header.Get("Retry-After"); got != c.retry {
				t.Errorf("Retry-After %q, want %q", got, c.retry)
			}
			if strings.Contains(a.body, "u-secret") {
				t.Error("the error itself was shown")
			}
			b.lark.none(t)
			if len(b.asker.all()) != 0 {
				t.Error("a user was asked")
			}
		})
	}
}

func TestDraining(t *testing.T) {
	stopping := make(chan struct{})
	b := start(t, func(c *proxy.Config) { c.Stopping = stopping })
	if a := b.get(table); a.StatusCode != 200 {
		t.Fatal(a.StatusCode)
	}
	close(stopping)
	a := b.get(table)
	a.isError(t, 503, "draining")
	if !a.Close || a.Header.Get("Retry-After") != "1" {
		t.Errorf("Close %v, Retry-After %q", a.Close, a.Header.Get("Retry-After"))
	}
}

func TestUpstreamFailures(t *testing.T) {
	t.Run("nobody there", func(t *testing.T) {
		b := start(t, func(c *proxy.Config) { c.Upstream = nobody(t) })
		b.get(table).isError(t, 502, "upstream_unreachable")
		b.post(table, "x").isError(t, 502, "upstream_unreachable")
	})
	t.Run("certificate of a stranger", func(t *testing.T) {
		other := httptest.NewTLSServer(http.NotFoundHandler())
		other.Config.ErrorLog = nil
		defer other.Close()
		b := start(t, func(c *proxy.Config) { c.Upstream = mustURL(other.URL) })
		b.get(table).isError(t, 502, "upstream_unreachable")
	})
	t.Run("TLS 1.1", func(t *testing.T) {
		other := httptest.NewUnstartedServer(http.NotFoundHandler())
		other.TLS = &tls.Config{MaxVersion: tls.VersionTLS11}
		other.StartTLS()
		defer other.Close()
		b := start(t, func(c *proxy.Config) { c.Upstream, c.Transport = mustURL(other.URL), trusting(other) })
		b.get(table).isError(t, 502, "upstream_unreachable")
	})
	t.Run("no status of an answer", func(t *testing.T) {
		b := start(t, nil)
		b.lark.answer(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			io.WriteString(conn, "HTTP/1.1 099 What\r\nContent-Length: 0\r\n\r\n")
			conn.Close()
		})
		b.get(table).isError(t, 502, "upstream_unreachable")
	})
	t.Run("not HTTP", func(t *testing.T) {
		b := start(t, nil)
		b.lark.answer(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			io.WriteString(conn, "SSH-2.0-OpenSSH\r\n")
			conn.Close()
		})
		b.get(table).isError(t, 502, "upstream_unreachable")
	})
	// Not Lark's silence, though net/http calls it a timeout as well.
	t.Run("no handshake", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		tr := &http.Transport{TLSHandshakeTimeout: 50 * time.Millisecond}
		b := start(t, func(c *proxy.Config) { c.Upstream, c.Transport = mustURL("https://"+ln.Addr().String()), tr })
		b.get(table).isError(t, 502, "upstream_unreachable")
	})
	t.Run("silence", func(t *testing.T) {
		b := start(t, func(c *proxy.Config) { c.UpstreamTimeout = 50 * time.Millisecond })
		b.lark.answer(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		b.get(table).isError(t, 504, "upstream_timeout")
	})
}

// The README's table is made of these; every name of section 5 has one row.
func TestFailuresTable(t *testing.T) {
	want := []string{
		"invalid_user_id", "user_id_required", "ambiguous_path", "unknown_app", "malformed_request", "authorization_required", "caller_unauthenticated", "user_unproven",
		"path_not_allowed", "host_not_allowed", "user_disabled", "caller_not_allowed", "method_not_allowed", "caller_rate_limited", "header_too_large",
		"upstream_unreachable", "store_unavailable", "refresh_unavailable", "app_misconfigured", "draining", "upstream_timeout",
	}
	var names []string
	codes := map[int]bool{}
	for _, f := range proxy.Failures() {
		names = append(names, f.Name)
		if codes[f.Code] || f.Code/1000 != 18000+f.Status || f.Message == "" || strings.Count(f.Message, ". ") > 0 {
			t.Errorf("row %+v", f)
		}
		codes[f.Code] = true
	}
	if !slices.Equal(names, want) {
		t.Errorf("rows %v", names)
	}
}
