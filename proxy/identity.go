package proxy

import (
	"net/http"
	"slices"
	"strings"

	"larkside/proxy/edge"
	"larkside/session"
)

// The headers by which an app tells Larkside what it wants, in the one spelling
// that counts. Another spelling that some server would take for the same
// (X_Lark_User_Id) is ignored, and is not forwarded either.
const (
	userHeader   = "X-Lark-User-Id"
	appHeader    = "X-Lark-App-Id"
	callerHeader = "X-Larkside-Key"
	proofHeader  = "X-Larkside-User-Token"
)

// one returns the value of a header that may stand once, or several times with the
// same value. The Go SDK sends a header twice that is set on the client and on the
// call.
func one(h http.Header, name string) (value string, present, agree bool) {
	values := h[name]
	if len(values) == 0 {
		return "", false, true
	}
	for _, v := range values[1:] {
		if v != values[0] {
			return "", true, false
		}
	}
	return values[0], true, true
}

// userID returns the user that h names, or "" when it names none.
func userID(h http.Header) (string, error) {
	id, present, agree := one(h, userHeader)
	switch {
	case !present:
		return "", nil
	case !agree:
		return "", badUserID("the header stands more than once with different values")
	}
	if fault := faultOfID(id); fault != "" {
		return "", badUserID("the value " + fault)
	}
	return id, nil
}

// faultOfID says why a user's id can't be one, or returns "".
func faultOfID(id string) string {
	switch {
	case session.IsUserID(id):
		return ""
	case id == "" || len(id) > session.MaxUserID:
		return "is empty or longer than 128 bytes"
	}
	return "has a character outside [A-Za-z0-9_.@-]"
}

// badUserID returns an invalid_user_id that names its cause.
func badUserID(cause string) error {
	return &edge.Answer{Failure: edge.InvalidUserID, Detail: "X-Lark-User-Id is not usable: " + cause + "."}
}

// appID returns the app that h names, or the first one.
func appID(h http.Header, apps []string) (string, error) {
	id, present, agree := one(h, appHeader)
	switch {
	case !present:
		return apps[0], nil
	case !agree || !slices.Contains(apps, id):
		return "", edge.UnknownApp
	}
	return id, nil
}

// placeholders are the tokens that apps configure because their SDK insists on
// one. The Python SDK sends the last one when it has none.
var placeholders = [...]string{"larkside", "t-larkside", "u-larkside", "None"}

// ownAuthorization returns the Authorization header that the app sent, or "" if
// there is none or only a placeholder.
func ownAuthorization(h http.Header) string {
	values := h["Authorization"]
	if len(values) == 0 {
		return ""
	}
	value := strings.TrimSpace(values[0])
	scheme, token, _ := strings.Cut(value, " ")
	if strings.EqualFold(scheme, "Bearer") {
		token = strings.TrimSpace(token)
		if token == "" || slices.Contains(placeholders[:], token) {
			return ""
		}
	}
	return value
}
