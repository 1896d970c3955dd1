package lark_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"larkside/session"
	"larkside/session/lark"
	"larkside/test/port"
)

// closed is a server that doesn't listen.
func closed(t *testing.T) *httptest.Server {
	return &httptest.Server{URL: "http://" + port.Address(t)}
}

const tenantPath = "/open-apis/auth/v3/tenant_access_token/internal"

// im answers tenant tokens and, for all else, what it is told.
func im(t *testing.T, status int, body string) *fake {
	return serve(t, func(w http.ResponseWriter, r request) {
		if r.URL.Path == tenantPath {
			answer(w, 200, `{"code":0,"msg":"ok","tenant_access_token":"t-1","expire":7200}`)
			return
		}
		answer(w, status, body)
	})
}

func TestSendAndUpdateCard(t *testing.T) {
	f := im(t, 200, `{"code":0,"msg":"success","data":{"message_id":"om_9","chat_id":"oc_1"}}`)
	c := f.client(t)
	card := `{"schema":"2.0","body":{"elements":[]}}`
	for range 3 {
		id, err := c.SendCard(t.Context(), "ou_1", "auth-1", []byte(card))
		if err != nil || id != "om_9" {
			t.Fatalf("%q, %v", id, err)
		}
	}
	if err := c.UpdateCard(t.Context(), "om_9", []byte(card)); err != nil {
		t.Fatal(err)
	}
	if n := len(f.requests(tenantPath)); n != 1 {
		t.Errorf("%d tenant tokens for four calls", n)
	}
	send, patch := f.requests("/open-apis/im/v1/messages")[0], f.requests("/open-apis/im/v1/messages/om_9")[0]
	var sent, patched map[string]any
	if json.Unmarshal([]byte(send.body), &sent) != nil || json.Unmarshal([]byte(patch.body), &patched) != nil {
		t.Fatal("bodies are no JSON")
	}
	want := map[string]any{"receive_id": "ou_1", "msg_type": "interactive", "content": card, "uuid": "auth-1"}
	if d := cmp.Diff(want, sent); d != "" || send.URL.RawQuery != "receive_id_type=open_id" {
		t.Errorf("%s %s", send.URL, d)
	}
	if d := cmp.Diff(map[string]any{"content": card}, patched); d != "" || patch.Method != "PATCH" {
		t.Errorf("%s %s", patch.Method, d)
	}
	if send.Header.Get("Authorization") != "Bearer t-1" || patch.Header.Get("Authorization") != "Bearer t-1" {
		t.Error("not sent as the bot")
	}
}

// Two clients of the same app at two platforms must not see each other's token.
func TestTenantTokenStaysWithItsClient(t *testing.T) {
	one, two := im(t, 200, `{"code":0,"data":{"message_id":"om_1"}}`), im(t, 200, `{"code":0,"data":{"message_id":"om_2"}}`)
	for _, f := range []*fake{one, two} {
		if err := operations["SendCard"](t.Context(), f.client(t)); err != nil {
			t.Fatal(err)
		}
		if len(f.requests(tenantPath)) != 1 {
			t.Error("a token of another platform was sent")
		}
	}
}

func TestCardErrors(t *testing.T) {
	const R, U, M = lark.Retry, lark.Undeliverable, lark.Misconfigured
	for code, class := range map[int]lark.Class{
		230001: lark.Rejected, 230002: U, 230006: M, 230013: U, 230018: U, 230020: R, 230022: lark.Rejected, 230028: lark.Rejected,
		230025: lark.Rejected, 230027: M, 230029: lark.UserDisabled, 230034: lark.InvalidID, 230035: U, 230036: M, 230038: U,
		230053: U, 230054: lark.Rejected, 230055: lark.Rejected, 230075: lark.Rejected, 230015: lark.Rejected, 230017: lark.Rejected,
		230019: lark.Rejected, 230099: lark.Rejected, 232009: U, 230011: lark.Gone, 231003: lark.Gone, 230110: lark.Gone, 230031: lark.Gone,
		200830: lark.Rejected, 99992354: lark.Gone, 99992351: lark.InvalidID, 99992361: lark.InvalidID, 99991672: M, 99991400: R, 99991663: R, 239999: lark.Unknown,
		41050: M, 41012: lark.InvalidID, 40001: lark.Rejected,
	} {
		c := im(t, 400, fmt.Sprintf(`{"code":%d,"msg":"Failed, ErrCode: 11310"}`, code)).client(t)
		for _, op := range []string{"SendCard", "UpdateCard", "Users"} {
			e := asError(t, operations[op](t.Context(), c))
			if e.Class != class || e.Outcome != lark.Refused || e.Code != code || e.LogID == "" || !strings.Contains(e.Error(), "ErrCode: 11310") {
				t.Errorf("%s %d: %s, %s: %v", op, code, e.Class, e.Outcome, e)
			}
		}
	}
}

// A message that Lark is just sending is sent: with the id, if Lark tells it.
func TestBeingSentIsSent(t *testing.T) {
	for body, want := range map[string]string{
		`{"code":230049,"msg":"The message is being sent."}`: "",
		`{"code":230049,"data":{"message_id":"om_5"}}`:       "om_5",
	} {
		if id, err := im(t, 400, body).client(t).SendCard(t.Context(), "ou_1", "u", nil); err != nil || id != want {
			t.Errorf("%s: %q, %v", body, id, err)
		}
	}
	if err := im(t, 400, `{"code":230049}`).client(t).UpdateCard(t.Context(), "om_1", nil); err == nil {
		t.Error("an update was taken as sent")
	}
}

// The SDK fails on members of an odd type, after the card was sent; that must
// not send it again.
func TestSentCardWithOddAnswer(t *testing.T) {
	id, err := im(t, 200, `{"code":"0","data":{"message_id":"om_7","create_time":17}}`).client(t).SendCard(t.Context(), "ou_1", "u", nil)
	if err != nil || id != "om_7" {
		t.Errorf("%q, %v", id, err)
	}
}

// Code 10012, from the token or the call, sends the SDK into a recursion that
// would end the process.
func TestSDKDoesNotRecurse(t *testing.T) {
	for _, f := range []*fake{serve(t, says(200, `{"code":10012,"msg":"x"}`)), im(t, 200, `{"code":10012,"msg":"x"}`)} {
		for _, op := range []string{"SendCard", "UpdateCard", "Users", "TenantAccessToken"} {
			if err := operations[op](t.Context(), f.client(t)); err != nil && asError(t, err).Code != 10012 {
				t.Errorf("%s: %v", op, err)
			}
		}
		if n := len(f.requests("/open-apis/auth/v3/app_ticket/resend")); n != 0 {
			t.Errorf("%d app tickets were asked for", n)
		}
	}
}

// A refused app is seen as such, and named as what failed.
func TestCardWithoutTenantToken(t *testing.T) {
	for body, class := range map[string]lark.Class{
		`{"code":10003,"msg":"invalid param"}`:                lark.AppRefused,
		`{"code":10014,"msg":"app disabled"}`:                 lark.AppRefused,
		`{"code":10015,"msg":"bad secret"}`:                   lark.AppRefused,
		`{"code":10012,"msg":"failed"}`:                       lark.Retry,
		`{"code":10013,"msg":"failed"}`:                       lark.Retry,
		`<html>`:                                              lark.Retry,
		`{"code":0,"tenant_access_token":17,"expire":7200}`:   lark.Retry,
		`{"code":0,"tenant_access_token":"","expire":7200}`:   lark.Retry,
		`{"code":0,"tenant_access_token":"\n","expire":7200}`: lark.Retry,
	} {
		f := serve(t, func(w http.ResponseWriter, r request) {
			if r.URL.Path != tenantPath {
				t.Errorf("%s was called without a token", r.URL.Path)
			}
			answer(w, 200, body)
		})
		for _, op := range []string{"SendCard", "UpdateCard", "Users"} {
			if e := asError(t, operations[op](t.Context(), f.client(t))); e.Class != class || !strings.Contains(e.Op, "tenant token") {
				t.Errorf("%s, %s: %s, %v", op, body, e.Class, e)
			}
		}
	}
	config := im(t, 200, `{}`).config()
	config.Secret = func() session.Secret { return session.Secret{} }
	c, err := lark.New(config)
	if err != nil {
		t.Fatal(err)
	}
	if e := asError(t, operations["SendCard"](t.Context(), c)); e.Class != lark.Misconfigured || e.Outcome != lark.NotSent {
		t.Errorf("without a secret: %v", e)
	}
}

// A token whose life can't be read is used for as long as Lark's last.
func TestTenantTokenWithOddLife(t *testing.T) {
	f := serve(t, func(w http.ResponseWriter, r request) {
		if r.URL.Path == tenantPath {
			answer(w, 200, `{"code":0,"tenant_access_token":"t-1","expire":"odd"}`)
			return
		}
		answer(w, 200, `{"code":0,"data":{"message_id":"om_1"}}`)
	})
	c := f.client(t)
	for range 2 {
		if err := operations["SendCard"](t.Context(), c); err != nil {
			t.Error(err)
		}
	}
	if n := len(f.requests(tenantPath)); n != 1 {
		t.Errorf("%d tokens for two calls", n)
	}
}

// A tenant token that Lark refuses is replaced, and the call is made again, once.
func TestCallsReplaceRefusedTenantToken(t *testing.T) {
	for _, code := range []int{99991663, 99991665, 99991671} {
		for _, op := range []string{"SendCard", "UpdateCard", "Users"} {
			var issued atomic.Int32
			f := serve(t, func(w http.ResponseWriter, r request) {
				switch {
				case r.URL.Path == tenantPath:
					answer(w, 200, fmt.Sprintf(`{"code":0,"tenant_access_token":"t-%d","expire":7200}`, issued.Add(1)))
				case r.Header.Get("Authorization") == "Bearer t-1":
					answer(w, 400, fmt.Sprintf(`{"code":%d,"msg":"no"}`, code))
				default:
					answer(w, 200, `{"code":0,"data":{"message_id":"om_1","items":[]}}`)
				}
			})
			if err := operations[op](t.Context(), f.client(t)); err != nil {
				t.Errorf("%s after %d: %v", op, code, err)
			}
			if n := len(f.seen); n != 4 || issued.Load() != 2 {
				t.Errorf("%s after %d: %d requests, %d of them for tokens", op, code, n, issued.Load())
			}
		}
	}
}

// The same token again means that the refusal is not about this token: the
// answer stands.
func TestCallsStopAtSameTenantToken(t *testing.T) {
	f := im(t, 400, `{"code":99991663,"msg":"Invalid access token"}`)
	c := f.client(t)
	for range 3 {
		e := asError(t, operations["SendCard"](t.Context(), c))
		if e.Code != 99991663 || e.Class != lark.Retry || e.Op != "send card" {
			t.Error(e)
		}
	}
	if tokens, sent := len(f.requests(tenantPath)), len(f.requests("/open-apis/im/v1/messages")); tokens != 2 || sent != 3 {
		t.Errorf("%d tokens and %d messages for three calls, want 2 and 3", tokens, sent)
	}
}

func TestUserInfo(t *testing.T) {
	f := serve(t, says(200, `{"code":0,"msg":"success","data":{"name":"Li Lei","en_name":"Lei","open_id":"ou_1","union_id":"on_1","user_id":"u1","tenant_key":"tk","email":"a@b","mobile":"+86"}}`))
	u, err := f.client(t).UserInfo(t.Context(), session.NewSecret(accessToken))
	want := lark.UserInfo{OpenID: "ou_1", UnionID: "on_1", UserID: "u1", Profile: session.Profile{Name: "Li Lei", Email: "a@b", Mobile: "+86"}}
	if err != nil || u != want {
		t.Errorf("%+v, %v", u, err)
	}
	for body, want := range map[string]lark.UserInfo{
		`"union_id":"on_\u0000"`:                       {OpenID: "ou_1"},
		`"user_id":"a b"`:                              {OpenID: "ou_1"},
		`"user_id":"` + strings.Repeat("a", 129) + `"`: {OpenID: "ou_1"},
		`"user_id":"` + strings.Repeat("a", 128) + `"`: {OpenID: "ou_1", UserID: strings.Repeat("a", 128)},
		`"user_id":"a.b-c_d@E9","name":"x\u0000"`:      {OpenID: "ou_1", UserID: "a.b-c_d@E9"},
		`"name":"` + strings.Repeat("张", 1000) + `"`:   {OpenID: "ou_1", Profile: session.Profile{Name: strings.Repeat("张", 1000)}},
	} {
		u, err := serve(t, says(200, `{"code":0,"data":{"open_id":"ou_1",`+body+`}}`)).client(t).UserInfo(t.Context(), session.NewSecret(accessToken))
		if err != nil || u != want {
			t.Errorf("%.50s: %+v, %v", body, u, err)
		}
	}
	for _, id := range []string{"", "ou_\u0000", strings.Repeat("o", 129), "ou 1"} {
		f := serve(t, says(200, `{"code":0,"data":{"open_id":"`+id+`"}}`))
		if e := asError(t, operations["UserInfo"](t.Context(), f.client(t))); e.Outcome == "" {
			t.Errorf("open_id %.20q: %v", id, e)
		}
	}
	if r := f.requests("/open-apis/authen/v1/user_info")[0]; r.Method != "GET" || r.Header.Get("Authorization") != "Bearer "+accessToken {
		t.Errorf("%s %v", r.Method, r.Header)
	}
	for code, class := range map[int]lark.Class{
		20001: lark.Misconfigured, 20005: lark.Reauthorize, 20006: lark.Reauthorize, 99991668: lark.Reauthorize, 99991677: lark.Reauthorize,
		99991671: lark.Reauthorize, 4001: lark.Reauthorize, 20008: lark.UserDisabled, 20010: lark.UserDisabled, 20021: lark.UserDisabled, 20022: lark.UserDisabled, 20023: lark.UserDisabled,
		20066: lark.UserDisabled, 20050: lark.Retry, 20072: lark.Retry, 21000: lark.Denied, 21001: lark.Denied, 99991400: lark.Retry,
		99991401: lark.Misconfigured, 99991662: lark.Misconfigured, 99991673: lark.Misconfigured, 77: lark.Unknown,
	} {
		f := serve(t, says(200, fmt.Sprintf(`{"code":%d,"msg":"no"}`, code)))
		e := asError(t, operations["UserInfo"](t.Context(), f.client(t)))
		asked := 1
		if code == 20008 {
			asked = 2
		}
		if e.Class != class || len(f.seen) != asked {
			t.Errorf("%d: %s after %d requests", code, e.Class, len(f.seen))
		}
		if (e.Reason != "") != (class == lark.Reauthorize || class == lark.UserDisabled) {
			t.Errorf("%d: reason %q", code, e.Reason)
		}
	}
}

// 20008 comes at times though the user is there.
func TestUserInfoAsksTwice(t *testing.T) {
	var n atomic.Int32
	f := serve(t, func(w http.ResponseWriter, _ request) {
		if n.Add(1) == 1 {
			answer(w, 200, `{"code":20008,"msg":"user not exist"}`)
			return
		}
		answer(w, 200, `{"code":0,"data":{"open_id":"ou_1","en_name":"Lei"}}`)
	})
	if u, err := f.client(t).UserInfo(t.Context(), session.NewSecret(accessToken)); err != nil || u.OpenID != "ou_1" || u.Profile.Name != "Lei" {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestUsers(t *testing.T) {
	f := im(t, 200, `{"code":0,"data":{"items":[
		{"open_id":"ou_1","union_id":"on_1","user_id":"u1","name":"A","email":"a@x","mobile":"1","status":{"is_activated":true,"is_frozen":false}},
		{"open_id":"ou_2","status":{"is_activated":true,"is_frozen":true}},
		{"open_id":"ou_3","status":{"is_resigned":true,"is_frozen":true,"is_exited":true}},
		{"open_id":"ou_4","status":{"is_exited":true}},
		{"open_id":"ou_5","status":{"is_unjoin":true,"is_activated":true}},
		{"open_id":"ou_6","status":{"is_activated":false}},
		{"open_id":"ou_7","status":"odd","name":7},
		{"name":"no id"}, null, 5]}}`)
	c := f.client(t)
	got, err := c.Users(t.Context(), []string{"ou_1", "ou_2", "ou_absent"})
	if err != nil {
		t.Fatal(err)
	}
	user := func(id, status string) lark.ContactUser {
		return lark.ContactUser{OpenID: id, Profile: session.Profile{Status: status}}
	}
	want := []lark.ContactUser{
		{OpenID: "ou_1", UnionID: "on_1", UserID: "u1", Profile: session.Profile{Name: "A", Email: "a@x", Mobile: "1", Status: "active"}},
		user("ou_2", "frozen"), user("ou_3", "resigned"), user("ou_4", "exited"), user("ou_5", "not_joined"), user("ou_6", ""), user("ou_7", ""),
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	r := f.requests("/open-apis/contact/v3/users/batch")[0]
	if q := r.URL.Query(); !cmp.Equal(q["user_ids"], []string{"ou_1", "ou_2", "ou_absent"}) || q.Get("user_id_type") != "open_id" || r.Header.Get("Authorization") != "Bearer t-1" {
		t.Errorf("%s %v", r.URL, r.Header)
	}
	before := len(f.seen)
	if _, err := c.Users(t.Context(), make([]string, lark.MaxUsers+1)); err == nil {
		t.Error("51 users were asked for")
	}
	if got, err := c.Users(t.Context(), nil); got != nil || err != nil || len(f.seen) != before {
		t.Error("nobody was asked for, and Lark was asked")
	}
}

func TestRevoke(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		ok     bool
	}{
		{200, ``, true}, {204, ``, true}, {200, "\n", true}, {200, `{}`, true}, {200, `{"code":0}`, true},
		{200, `{"code":20001}`, false}, {200, `{"error":"unsupported_token_type"}`, false}, {200, `<html>`, false}, {400, ``, false}, {500, ``, false},
	} {
		f := serve(t, says(tt.status, tt.body))
		err := operations["Revoke"](t.Context(), f.client(t))
		if (err == nil) != tt.ok {
			t.Errorf("%d %q: %v", tt.status, tt.body, err)
		}
		if err != nil {
			asError(t, err)
		}
		want := map[string]string{"token": refreshToken, "token_type_hint": "refresh_token", "client_id": "cli_test", "client_secret": appSecret}
		if d := cmp.Diff(want, f.requests("/oauth/v1/revoke")[0].form); d != "" {
			t.Error(d)
		}
	}
}
