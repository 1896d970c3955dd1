package proxy

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode"
	"unicode/utf8"

	"larkside/session"
	"larkside/session/lark"
)

// readings are what a raw path can mean to some server: decoded never, once or
// twice, then cleaned or not. It is written with net/url and path, of which
// paths uses neither.
func readings(raw string) (all []string, ok bool) {
	decoded := raw
	for range 2 {
		next, err := url.PathUnescape(decoded)
		if err != nil {
			if decoded == raw {
				return nil, false
			}
			// As a careful server does: what is no escape is text.
			next = regexp.MustCompile(`%[0-9a-fA-F]{2}`).ReplaceAllStringFunc(decoded, func(e string) string {
				s, _ := url.PathUnescape(e)
				return s
			})
		}
		decoded = next
		all = append(all, decoded)
	}
	return all, true
}

// oneReading reports whether every server understands raw alike, as far as
// segments go.
func oneReading(raw string) bool {
	all, ok := readings(raw)
	if !ok {
		return false
	}
	for _, s := range all {
		cleaned := path.Clean(s)
		if strings.HasSuffix(s, "/") && cleaned != "/" {
			cleaned += "/"
		}
		unparametered := regexp.MustCompile(`;[^/]*`).ReplaceAllString(s, "")
		dots := slices.ContainsFunc(strings.Split(unparametered, "/"), func(seg string) bool { return seg == "." || seg == ".." })
		odd := strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == '\\' })
		if cleaned != s || dots || odd || !utf8.ValidString(s) {
			return false
		}
	}
	return true
}

func FuzzPath(f *testing.F) {
	for _, seed := range []string{
		"/open-apis/apaas/v1", "/open-apis/im/../contact", "/open-apis/im/%252e%252e", "/open-apis/a%2Fb", "/open-apis/im%2f..%2fx", "/a;x/..;y/b",
		"/open-apis/authen/v1/user_info", "/open-apis/%61uth/v3/", "/open-apis%2Fauth/v3", "//", "/%", "/%c0%ae", "/表", "/%c2%85", "/-/larkside/x", "/open-apis/%2561uth/v3/x",
		"/open-apis/auth;a=b/v3", "/%2e%2f", "/100%25", "/a%5cb", "/OAUTH/",
	} {
		f.Add(seed)
	}
	p := paths{inject: []string{"/open-apis/apaas/", "/open-apis/"}, tenant: []string{"/open-apis/im/"}}
	f.Fuzz(func(t *testing.T, raw string) {
		if !strings.HasPrefix(raw, "/") {
			return
		}
		canonical, c, ok := p.canonical(raw)
		clear := oneReading(raw)
		if ok && !clear {
			t.Fatalf("%q has several readings and passed as %q", raw, canonical)
		}
		if !clear {
			return
		}
		all, _ := readings(raw)
		same := true
		for _, s := range all {
			same = same && p.classify(s) == p.classify(all[0])
		}
		if ok && !same {
			t.Fatalf("%q is of several classes and passed as %q", raw, canonical)
		}
		if !ok && same && !strings.Contains(strings.ToLower(raw), "%2f") {
			t.Fatalf("%q has one reading and was refused", raw)
		}
		if ok && c.inject && regexp.MustCompile(`(?i)^/(open-apis/auth(en)?|oauth)(;[^/]*)?(/|$)`).MatchString(all[0]) && all[0] != userInfoPath {
			t.Fatalf("%q takes a user's token to %q", raw, all[0])
		}
	})
}

func FuzzIdentity(f *testing.F) {
	f.Add("X-Lark-User-Id", "ou_1", "X_Lark_User_Id", "ou_2")
	f.Add("x-lark-user-id", "ou_1", "X-Lark-User-Id", "ou_1")
	f.Add("Authorization", "Bearer None", "Cookie", "a")
	f.Add("X-LARKSIDE-KEY ", "x", "X__Lark-User-Id", "")
	f.Add("Connection", "X-Lark-User-Id", "X-Lark-User-Identity-Of-Somebody-Else", "x")
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2 string) {
		h := http.Header{}
		h.Add(name1, value1)
		h.Add(name2, value2)
		id, err := userID(h)
		if id != "" && (!regexp.MustCompile(`^[A-Za-z0-9_.@-]{1,128}$`).MatchString(id) || err != nil) {
			t.Fatalf("%v: user %q, %v", h, id, err)
		}
		values := h["X-Lark-User-Id"]
		if distinct := slices.Compact(slices.Clone(values)); id == "" && err == nil && len(values) > 0 || id != "" && len(distinct) != 1 {
			t.Fatalf("%v: user %q, %v", h, id, err)
		}
		stripRequest(h)
		for name := range h {
			plain := strings.ToLower(strings.TrimRight(strings.ReplaceAll(name, "_", "-"), " \t"))
			if plain == "x-lark-user-id" || plain == "x-lark-app-id" || plain == "authorization" && name == "Authorization" || plain == "cookie" ||
				plain == "connection" || plain == "upgrade" || strings.HasPrefix(plain, "x-larkside-") || strings.HasPrefix(plain, "x-forwarded-") {
				t.Fatalf("%q goes upstream", name)
			}
		}
	})
}

// FuzzUpstreamErrorBody checks that whatever Lark answers, the app gets those
// bytes, and that the code found is the one that encoding/json finds.
func FuzzUpstreamErrorBody(f *testing.F) {
	for _, seed := range []string{
		`{"code":99991677,"msg":"x"}`, `{"code":0}`, ` {"a":{"code":1},"code":99991668,"msg":"user access token not support"}`, `[]`, `{"code":"1"}`,
		`{"code":-1.5e3}`, `{"code":1`, `{"a":"\"code\":1"`, `{"\u0063ode":4001}`, "{\"code\":20005}\n", `{"code" : 99991679 ,"error":{"permission_violations":[{"subject":"a:b"}]}}`,
		`{"a":[{"code":1}],"code":4001}`, `{"code":20005}}`,
	} {
		f.Add([]byte(seed), 400, true)
		f.Add([]byte(seed), 200, false)
	}
	f.Fuzz(func(t *testing.T, content []byte, status int, whole bool) {
		if status < 200 || status > 599 {
			return
		}
		source := io.Reader(strings.NewReader(string(content)))
		if !whole {
			source = iotest.OneByteReader(source)
		}
		res := &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, ContentLength: -1,
			Body: io.NopCloser(source), Request: &http.Request{Method: "GET"}}
		found := new(larkAnswer).inspect(res, new(peekBuffers), lark.UserTokenRefusal)
		passed, err := io.ReadAll(res.Body)
		if err != nil || string(passed) != string(content) {
			t.Fatalf("passed on %q, %v", passed, err)
		}
		for _, s := range found.scopes() {
			if !scopeName(s) {
				t.Fatalf("scope %q", s)
			}
		}
		var want struct {
			Code json.RawMessage `json:"code"`
		}
		if found.refusal == session.TokenInvalid && json.Unmarshal(content, &want) == nil {
			if code := strings.TrimSpace(string(want.Code)); !regexp.MustCompile(`^-?[0-9]+$`).MatchString(code) {
				t.Fatalf("refused by the code %s in %q", code, content)
			}
		}
	})
}

// FuzzPrefer: no wait gets through, and a header without one stays as it is.
func FuzzPrefer(f *testing.F) {
	f.Add("a=1, wait=5", `b="x, wait=9"`)
	f.Add(`a="\`, ",,")
	f.Add("wait;x", " ")
	f.Fuzz(func(t *testing.T, first, second string) {
		sent := []string{first, second}
		_, rest := splitPrefer(sent)
		if wait, again := splitPrefer(rest); wait != 0 || !slices.Equal(rest, again) {
			t.Errorf("%q leaves %q, which leaves %q and a wait of %v", sent, rest, again, wait)
		}
		if !strings.Contains(strings.ToLower(first+second), "wait") && !slices.Equal(rest, sent) {
			t.Errorf("%q became %q", sent, rest)
		}
	})
}
