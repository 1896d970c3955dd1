package lark_test

import (
	"testing"

	"larkside/session"
	"larkside/session/lark"
)

func TestTokenRefusals(t *testing.T) {
	const dead = "Invalid access token for authorization. Please make a request with token attached."
	const notForUsers = "user access token not support"
	for _, tc := range []struct {
		code         int
		msg          string
		user, tenant session.Refusal
	}{
		{0, "success", session.NotRefused, session.NotRefused},
		{99991668, dead, session.TokenInvalid, session.NotRefused},
		{99991668, notForUsers, session.WrongTokenKind, session.NotRefused},
		{99991668, "User Access Token Not Support.", session.WrongTokenKind, session.NotRefused},
		{99991677, notForUsers, session.TokenInvalid, session.NotRefused},
		{99991671, "token must start with t- or u-", session.TokenInvalid, session.TokenInvalid},
		{20005, "", session.TokenInvalid, session.NotRefused},
		{20006, "", session.TokenInvalid, session.NotRefused},
		{4001, "", session.TokenInvalid, session.NotRefused},
		{99991679, "", session.ScopeMissing, session.NotRefused},
		{99991672, "", session.AppScopeMissing, session.NotRefused},
		{99991663, dead, session.NotRefused, session.TokenInvalid},
		{99991665, "invalid tenant code", session.NotRefused, session.TokenInvalid},
		{99991400, "rate limit", session.NotRefused, session.NotRefused},
	} {
		if got := lark.UserTokenRefusal(tc.code, tc.msg); got != tc.user {
			t.Errorf("%d %q of a user's token: %d, want %d", tc.code, tc.msg, got, tc.user)
		}
		if got := lark.TenantTokenRefusal(tc.code, tc.msg); got != tc.tenant {
			t.Errorf("%d %q of a tenant's token: %d, want %d", tc.code, tc.msg, got, tc.tenant)
		}
		// The proxy asks without the msg whether it has to read on for it.
		if got := lark.UserTokenRefusal(tc.code, ""); (got == session.NotRefused) != (tc.user == session.NotRefused) {
			t.Errorf("%d without its msg: %d", tc.code, got)
		}
	}
}
