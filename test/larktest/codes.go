package larktest

import "net/http"

// oauthCode is a row of Lark's error table for the token endpoints.
type oauthCode struct {
	status      int
	name        string // RFC 6749 section 5.2
	description string
}

// oauthCodes is that table. Source: Lark "get user_access_token" and "refresh
// user_access_token", 2026-04-08. The RFC names are from answers seen on v3
// where there are any, else the nearest one of the RFC.
var oauthCodes = map[int]oauthCode{
	20001:    {400, "invalid_request", "A required parameter is missing."},
	20002:    {400, "invalid_client", "The client secret is invalid."},
	20003:    {400, "invalid_grant", "The authorization code is not found or has already been used."},
	20004:    {400, "invalid_grant", "The authorization code has expired."},
	20008:    {400, "invalid_grant", "The user does not exist."},
	20009:    {400, "unauthorized_client", "The app is not installed in the tenant."},
	20010:    {400, "access_denied", "The user has no permission to use this app."},
	20024:    {400, "invalid_grant", "The code or refresh token was issued to another client."},
	20026:    {400, "invalid_grant", "The refresh token is invalid."},
	20027:    {400, "invalid_scope", "The app has not enabled a requested scope."},
	20029:    {400, "invalid_request", "The redirect_uri is not registered with the app."},
	20036:    {400, "unsupported_grant_type", "The grant_type is not supported."},
	20037:    {400, "invalid_grant", "The refresh token has expired."},
	20043:    {400, "invalid_scope", "The scope parameter is malformed."},
	20048:    {400, "invalid_client", "The app does not exist."},
	20049:    {400, "invalid_grant", "The PKCE code challenge failed."},
	20050:    {500, "server_error", "Internal error, please retry."},
	20063:    {400, "invalid_request", "The request is malformed or lacks a field."},
	20064:    {400, "invalid_grant", "The refresh token has been revoked. Note that a refresh token works once."},
	20065:    {400, "invalid_grant", "The authorization code has already been used."},
	20066:    {400, "invalid_grant", "The status of the user is invalid."},
	20067:    {400, "invalid_scope", "The scope list has duplicates."},
	20068:    {400, "invalid_scope", "A scope is not within what the user granted."},
	20069:    {400, "unauthorized_client", "The app is not enabled."},
	20070:    {400, "invalid_request", "Only one client authentication method may be used."},
	20071:    {400, "invalid_grant", "The redirect_uri differs from that of the authorization request."},
	20072:    {503, "temporarily_unavailable", "The service is temporarily unavailable, please retry."},
	20073:    {400, "invalid_grant", "The refresh token has already been used."},
	20074:    {400, "unauthorized_client", "The app is not allowed to refresh user_access_token."},
	21000:    {400, "access_denied", "The security policy asks the user to pass a challenge."},
	21001:    {400, "access_denied", "The security policy denies access."},
	99991401: {400, "access_denied", "ip is denied by app setting"},
	99991543: {400, "invalid_client", "login_user invalid"},
	99991400: {429, "temporarily_unavailable", "request trigger frequency limit"},
}

// apiCode is how the gate in front of the API routes words a code.
type apiCode struct {
	status int
	msg    string
}

const invalidToken = "Invalid access token for authorization. Please make a request with token attached."

// apiCodes are the codes whose words or HTTP status clients look at. Source:
// Lark "generic error codes"; the statuses are from recorded probes.
var apiCodes = map[int]apiCode{
	99991401: {400, "ip is denied by app setting"},
	99991661: {400, "Missing access token for authorization. Please make a request with token attached."},
	99991662: {400, "app disabled"},
	99991663: {400, invalidToken},
	99991668: {400, invalidToken},
	99991672: {400, "Access denied. One of the following scopes is required: "},
	99991673: {400, "app not usable in this tenant"},
	99991677: {401, "Authentication token expired"},
	99991679: {400, "Unauthorized. You do not have permission to perform the requested operation on the resource. " +
		"Please request user re-authorization and try again. required one of these privileges under the user identity: "},
	2320005: {403, "insufficient permissions"},
	20005:   {200, "invalid access token"},
	20008:   {200, "user not exist"},
	20021:   {200, "user resigned"},
	20022:   {200, "user frozen"},
	20023:   {200, "user unregistered"},
	20050:   {500, "internal error, please retry"},
	11205:   {200, "app do not have bot"},
}

// userTokenNotSupported is the second meaning of 99991668.
const userTokenNotSupported = "user access token not support"

// refuse answers a code of that table, or any other with HTTP 400.
func (x *exchange) refuse(code int) answer {
	row, ok := apiCodes[code]
	if !ok {
		row = apiCode{http.StatusBadRequest, "error " + itoa(code)}
	}
	if code == 99991672 || code == 99991679 {
		return x.lacks(code, row)
	}
	return x.fail(row.status, code, row.msg)
}

func describe(code int) string {
	if row, ok := oauthCodes[code]; ok {
		return row.description
	}
	return "error " + itoa(code)
}

// oauthError is how the token endpoints say no. detail is added to the
// description; it never holds a secret.
func oauthError(code int, detail string) answer {
	row, ok := oauthCodes[code]
	if !ok {
		row = oauthCode{http.StatusBadRequest, "invalid_request", "error " + itoa(code)}
	}
	description := row.description
	if detail != "" {
		description += " (" + detail + ")"
	}
	return answer{status: row.status, body: object{{"code", code}, {"error", row.name}, {"error_description", description}}}
}
