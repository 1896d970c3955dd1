package lark

import (
	"strings"

	"larkside/session"
)

// What an API answers because of the token that was sent, by the code in the
// body. Source: Lark "generic error codes", crawled 2026-05-24; 20005, 20006 and
// 4001 are those of older APIs.

// UserTokenRefusal returns what an answer with this code and msg says about the
// user_access_token that was sent. Without the msg the result may be
// [session.TokenInvalid] where it would be [session.WrongTokenKind], but it is
// [session.NotRefused] only where no msg would change that.
func UserTokenRefusal(code int, msg string) session.Refusal {
	switch code {
	case 99991668:
		// Two meanings, told apart by the msg.
		if strings.Contains(strings.ToLower(msg), "user access token not support") {
			return session.WrongTokenKind
		}
		return session.TokenInvalid
	case 99991677, 99991671, 20005, 20006, 4001:
		return session.TokenInvalid
	case 99991679:
		return session.ScopeMissing
	case 99991672:
		return session.AppScopeMissing
	}
	return session.NotRefused
}

// TenantTokenRefusal returns what an answer with this code says about the
// tenant_access_token that was sent. The msg says nothing more.
func TenantTokenRefusal(code int, _ string) session.Refusal {
	switch code {
	case 99991663, 99991665, 99991671:
		return session.TokenInvalid
	}
	return session.NotRefused
}
