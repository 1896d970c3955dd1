package larktest

import (
	"net/http"
	"slices"
	"strings"

	larkws "github.com/larksuite/oapi-sdk-go/v3/ws"
)

// The families of the paths, for the tables below.
const (
	apaas     = "/open-apis/apaas/v1"
	namespace = apaas + "/applications/:namespace"
	spaces    = apaas + "/workspaces/:workspace_id"
	spark     = "/open-apis/spark/v1"
	sparkApp  = spark + "/apps/:workspace_id"
)

// platformRoutes are OAuth, tenant tokens, people and messages.
var platformRoutes = []route{
	{method: "POST", pattern: "/open-apis/authen/v2/oauth/token", endpoint: TokenEndpoint, takes: takesNone, oauth: true, serve: serveToken},
	{method: "POST", pattern: "/oauth/v3/token", endpoint: TokenEndpoint, takes: takesNone, oauth: true, serve: serveToken},
	{method: "POST", pattern: "/oauth/v1/device_authorization", endpoint: DeviceEndpoint, takes: takesNone, oauth: true, serve: serveDevice},
	{method: "POST", pattern: "/oauth/v1/revoke", endpoint: RevokeEndpoint, takes: takesNone, oauth: true, serve: serveRevoke},
	{method: "POST", pattern: "/open-apis/auth/v3/:kind/internal", endpoint: TenantEndpoint, takes: takesNone, serve: serveTenant},
	{method: "GET", pattern: "/open-apis/authen/v1/user_info", endpoint: UserInfo, takes: takesNone, serve: serveUserInfo},

	{method: "GET", pattern: "/open-apis/bot/v3/info", endpoint: AppEndpoint, takes: TakesTenant, serve: serveBot},
	{method: "GET", pattern: "/open-apis/application/v6/applications/:app_id", endpoint: AppEndpoint, takes: TakesTenant, scopes: applicationScopes, limit: []rate{perSecond(50)}, serve: serveApplication},

	{method: "GET", pattern: "/open-apis/contact/v3/users/batch", endpoint: ContactEndpoint, scopes: contactScopes, limit: tier(50), serve: serveUserBatch},
	{method: "POST", pattern: "/open-apis/contact/v3/users/basic_batch", endpoint: ContactEndpoint, scopes: []string{"contact:user.basic_profile:readonly"}, limit: []rate{perSecond(5)}, serve: serveBasicBatch},
	{method: "GET", pattern: "/open-apis/contact/v3/users/:user_id", endpoint: ContactEndpoint, scopes: contactScopes, limit: tier(50), serve: serveUser},

	{method: "POST", pattern: "/open-apis/im/v1/messages", endpoint: MessageSend, scopes: messageScopes, limit: tier(50), serve: serveSend},
	{method: "POST", pattern: "/open-apis/im/v1/messages/:message_id/reply", endpoint: MessageSend, scopes: messageScopes, limit: tier(50), serve: serveReply},
	{method: "PATCH", pattern: "/open-apis/im/v1/messages/:message_id", endpoint: MessageUpdate, scopes: messageScopes, limit: tier(50), serve: serveUpdate},
	{method: "POST", pattern: larkws.GenEndpointUri, endpoint: EventsEndpoint, takes: takesNone, serve: serveBootstrap},
	{method: "GET", pattern: streamPath, endpoint: EventsEndpoint, takes: takesNone, stream: serveLongConnection},
	{method: "POST", pattern: "/open-apis/interactive/v1/card/update", endpoint: MessageUpdate, takes: TakesTenant, serve: serveDelayedUpdate},
}

var (
	contactScopes = []string{"contact:contact.base:readonly", "contact:user.base:readonly"}
	messageScopes = []string{"im:message", "im:message:send_as_bot", "im:message:send"}
)

func tier(second int) []rate { return []rate{perSecond(second), perMinute(1000)} }

// dataRow is an aPaaS or spark route as Lark's pages list it: "METHOD path",
// the limit and the alternatives of its scope.
type dataRow struct {
	call   string
	limit  []rate
	scopes []string
	serve  func(*Platform, *exchange) answer
}

var (
	tenPerSecond = []rate{perSecond(10)}
	hundredAMin  = []rate{perMinute(100)}
	tableScopes  = []string{"app_engine:workspace.table:read", "app_engine:workspace.table:write"}
	recordRead   = []string{"app_engine:workspace.table.record:read", "app_engine:workspace.table.record:write"}
	recordWrite  = []string{"app_engine:workspace.table.record:write"}
	auditScopes  = []string{"app_engine:security.audit_log:read"}
	objectRead   = []string{"app_engine:object.record:read", "app_engine:object.record:write"}
	objectWrite  = []string{"app_engine:object.record:write"}
)

// userRows take a user token only: what a sidecar is for. No aPaaS route takes
// both kinds. Source: Lark aPaaS pages; Go SDK v3.12.0 service/{apaas,spark}/v1.
var userRows = []dataRow{
	{"GET " + apaas + "/apps", tenPerSecond, []string{"app_engine:apps:read"}, serveApps},
	{"GET " + namespace + "/audit_log", tenPerSecond, auditScopes, nil},
	{"GET " + namespace + "/audit_log/audit_log_list", tenPerSecond, auditScopes, nil},
	{"GET " + namespace + "/audit_log/data_change_logs_list", tenPerSecond, auditScopes, nil},
	{"GET " + namespace + "/audit_log/data_change_log_detail", tenPerSecond, auditScopes, nil},
	{"GET " + apaas + "/seat_activities", tenPerSecond, []string{"app_engine:seat_activities:read"}, nil},
	{"GET " + apaas + "/seat_assignments", []rate{perSecond(1)}, []string{"app_engine:seat_assignments:read"}, nil},
	{"POST " + apaas + "/tenant_app_metrics/query", nil, nil, nil},
	{"POST " + spaces + "/sql_commands", tenPerSecond, []string{"app_engine:workspace.sql_commands:write"}, serveSQL},
	{"GET " + spaces + "/enums", tenPerSecond, tableScopes, serveEnums},
	{"GET " + spaces + "/enums/:enum_name", tenPerSecond, tableScopes, serveEnum},
	{"GET " + spaces + "/tables", tenPerSecond, tableScopes, serveTables},
	{"GET " + spaces + "/tables/:table_name", tenPerSecond, tableScopes, serveTable},
	{"GET " + spaces + "/tables/:table_name/records", tenPerSecond, recordRead, serveRecords},
	{"POST " + spaces + "/tables/:table_name/records", tenPerSecond, recordWrite, serveInsert},
	{"PATCH " + spaces + "/tables/:table_name/records", tenPerSecond, recordWrite, servePatch},
	{"DELETE " + spaces + "/tables/:table_name/records", tenPerSecond, recordWrite, serveDelete},
	{"PATCH " + spaces + "/tables/:table_name/records_batch_update", tenPerSecond, recordWrite, serveBatchUpdate},
	{"GET " + spaces + "/views/:view_name/records", tenPerSecond, []string{"app_engine:workspace.table.record:read"}, serveRecords},

	{"GET " + spark + "/apps", []rate{perSecond(20)}, nil, serveApps},
	{"POST " + spark + "/apps", []rate{perSecond(20)}, nil, nil},
	{"PATCH " + sparkApp, []rate{perSecond(20)}, nil, nil},
	{"GET " + sparkApp + "/access-scope", nil, nil, nil},
	{"PUT " + sparkApp + "/access-scope", nil, nil, nil},
	{"GET " + sparkApp + "/enums", tenPerSecond, nil, serveEnums},
	{"GET " + sparkApp + "/enums/:enum_name", tenPerSecond, nil, serveEnum},
	{"POST " + sparkApp + "/sql_commands", tenPerSecond, nil, serveSQL},
	{"GET " + sparkApp + "/storage", nil, nil, nil},
	{"POST " + sparkApp + "/storage/upload", []rate{perSecond(5)}, nil, nil},
	{"POST " + sparkApp + "/storage/upload/initialize", []rate{perSecond(5)}, nil, nil},
	{"POST " + sparkApp + "/storage/upload/part", []rate{perSecond(5)}, nil, nil},
	{"POST " + sparkApp + "/storage/upload/complete", []rate{perSecond(5)}, nil, nil},
	{"GET " + sparkApp + "/tables", tenPerSecond, nil, serveTables},
	{"GET " + sparkApp + "/tables/:table_name", tenPerSecond, nil, serveTable},
	{"GET " + sparkApp + "/tables/:table_name/records", tenPerSecond, nil, serveRecords},
	{"POST " + sparkApp + "/tables/:table_name/records", tenPerSecond, nil, serveInsert},
	{"PATCH " + sparkApp + "/tables/:table_name/records", tenPerSecond, nil, servePatch},
	{"DELETE " + sparkApp + "/tables/:table_name/records", tenPerSecond, nil, serveDelete},
	{"PATCH " + sparkApp + "/tables/:table_name/records_batch_update", tenPerSecond, nil, serveBatchUpdate},
	{"GET " + sparkApp + "/views/:view_name/records", tenPerSecond, nil, serveRecords},
	{"POST " + sparkApp + "/upload_and_release_html_code", nil, nil, nil},
	{"POST " + spark + "/icon", nil, nil, nil},
}

// tenantRows take an app's token only: a user token answers 99991668 "user
// access token not support".
var tenantRows = []dataRow{
	{"GET " + namespace + "/environment_variables/:name", tenPerSecond, []string{"app_engine:application.environment_variable:read"}, nil},
	{"POST " + namespace + "/environment_variables/query", tenPerSecond, []string{"app_engine:application.environment_variable:read"}, nil},
	{"POST " + namespace + "/functions/:function_api_name/invoke", tenPerSecond, []string{"app_engine:application.function:write"}, nil},
	{"POST " + namespace + "/objects/oql_query", tier(50), objectRead, nil},
	{"POST " + namespace + "/objects/search", tier(50), []string{"app_engine:object.record:read"}, nil},
	{"POST " + namespace + "/objects/:object/records", tier(50), objectWrite, nil},
	{"POST " + namespace + "/objects/:object/records/batch_create", tier(50), objectWrite, nil},
	{"PATCH " + namespace + "/objects/:object/records/batch_update", tier(50), objectWrite, nil},
	{"DELETE " + namespace + "/objects/:object/records/batch_delete", tier(50), objectWrite, nil},
	{"POST " + namespace + "/objects/:object/records/batch_query", tier(50), []string{"app_engine:object.record:read"}, nil},
	{"PATCH " + namespace + "/objects/:object/records/:id", tier(50), objectWrite, nil},
	{"DELETE " + namespace + "/objects/:object/records/:id", tier(50), objectWrite, nil},
	{"POST " + namespace + "/objects/:object/records/:id/query", tier(50), []string{"app_engine:object.record:read"}, nil},
	{"POST " + namespace + "/flows/:flow_id/execute", hundredAMin, []string{"app_engine:flow:write"}, nil},
	{"GET " + namespace + "/roles/:role/member", hundredAMin, []string{"app_engine:role:read"}, nil},
	{"POST " + namespace + "/roles/:role/member/batch_create_authorization", hundredAMin, []string{"app_engine:role.member:write"}, nil},
	{"POST " + namespace + "/roles/:role/member/batch_remove_authorization", hundredAMin, []string{"app_engine:role.member:write"}, nil},
	{"POST " + namespace + "/record_permissions/:rp/member/batch_create_authorization", hundredAMin, []string{"app_engine:record_permission.member:write"}, nil},
	{"POST " + namespace + "/record_permissions/:rp/member/batch_remove_authorization", hundredAMin, []string{"app_engine:record_permission.member:write"}, nil},
	{"POST " + apaas + "/approval_tasks/:id/:action", hundredAMin, []string{"app_engine:approval:write"}, nil},
	{"POST " + apaas + "/approval_instances/:id/cancel", hundredAMin, []string{"app_engine:approval:write"}, nil},
	{"POST " + apaas + "/user_task/query", hundredAMin, []string{"app_engine:approval:read"}, nil},
	{"POST " + apaas + "/user_tasks/:id/rollback_points", hundredAMin, []string{"app_engine:approval:read"}, nil},
	{"POST " + apaas + "/user_tasks/:id/:action", hundredAMin, []string{"app_engine:approval:write"}, nil},
	{"POST /open-apis/contact/v3/users/batch_get_id", tier(50), []string{"contact:user.id:readonly"}, nil},
	{"POST /open-apis/cardkit/v1/cards", tier(50), nil, nil},
}

// services are families whose every path is answered in general, with either
// kind of token: enough to prove what a proxy forwards.
var services = []string{
	"application", "approval", "attendance", "bitable", "calendar", "contact", "docx", "drive",
	"im", "mail", "minutes", "search", "sheets", "task", "vc", "wiki",
}

// routeTable builds the table; what a test added goes first.
func routeTable(added []Route) []*route {
	var table []route
	for _, r := range added {
		row := route{method: r.Method, pattern: r.Pattern, takes: r.Takes, scopes: r.Scopes}
		if r.Serve != nil {
			row.stream = func(_ *Platform, x *exchange) { r.Serve(&statusWriter{x.w, &x.call}, x.r, x.call.Owner) }
		}
		table = append(table, row)
	}
	table = append(table, platformRoutes...)
	table = append(table, mcpRoutes...)
	table = append(table, helperRoutes...)
	table = append(table, dataRoutes(userRows, TakesUser)...)
	table = append(table, dataRoutes(tenantRows, TakesTenant)...)
	table = append(table, route{method: "POST", pattern: spark + "/directory/user/id_convert"})
	for _, service := range services {
		table = append(table, route{method: "*", pattern: "/open-apis/" + service + "/*"})
	}
	rows := make([]*route, len(table))
	for i := range table {
		rows[i] = table[i].finish()
	}
	return rows
}

// statusWriter books the status that an added route answers with.
type statusWriter struct {
	http.ResponseWriter
	call *Call
}

func (w *statusWriter) WriteHeader(status int) {
	w.call.Status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func dataRoutes(rows []dataRow, takes Takes) []route {
	var routes []route
	for _, row := range rows {
		method, pattern, _ := strings.Cut(row.call, " ")
		routes = append(routes, route{method: method, pattern: pattern, takes: takes, scopes: row.scopes, limit: row.limit, serve: row.serve})
	}
	return routes
}

// finish fills in what most rows leave out.
func (r route) finish() *route {
	r.segments = strings.Split(r.pattern[1:], "/")
	if r.endpoint == Any {
		r.endpoint = API
	}
	if r.serve == nil && r.stream == nil {
		r.serve = serveGeneral
	}
	return &r
}

// serveGeneral answers a route that has no data of its own: who came, and how.
func serveGeneral(p *Platform, x *exchange) answer {
	return success(map[string]any{"owner": p.owner(x), "method": x.r.Method, "path": x.call.Path, "body_sha256": x.call.BodySHA256})
}

// owner describes whose token came, in every data answer.
func (p *Platform) owner(x *exchange) map[string]string {
	owner := map[string]string{"token": string(x.call.TokenKind), "app_id": x.call.AppID}
	if x.token != nil && x.token.who.user != nil {
		owner["open_id"], owner["name"] = x.call.Owner, x.token.who.user.Name
	}
	return owner
}

// serveUserInfo is authen/v1/user_info: user tokens only, errors with HTTP
// 200, and fields by scope.
func serveUserInfo(p *Platform, x *exchange) answer {
	if _, ok := bearer(x.r); !ok {
		return x.refuse(99991661)
	}
	t := x.token
	if t == nil {
		p.violate(x, UnknownToken, identity{}, "token for user_info")
	}
	if t == nil || t.kind != AccessToken || t.revoked {
		return x.refuse(20005)
	}
	if !p.now().Before(t.expires) {
		p.violate(x, ExpiredToken, t.who, "access token "+t.id)
		return x.refuse(20005)
	}
	u := t.who.user
	switch {
	case !p.apps[t.who.app].allows(x.r.RemoteAddr):
		return x.refuse(99991401)
	case u.Missing:
		return x.refuse(20008)
	case u.Unregistered:
		return x.refuse(20023)
	case u.Status == Frozen:
		return x.refuse(20022)
	case u.Status != Active:
		return x.refuse(20021)
	}
	return success(userInfo(p, t))
}

func userInfo(p *Platform, t *token) object {
	u := t.who.user
	data := object{
		{"name", u.Name}, {"en_name", u.EnName}, {"open_id", p.openID(t.who.app, u)}, {"union_id", u.UnionID}, {"tenant_key", tenantKey},
		{"avatar_url", ""}, {"avatar_thumb", ""}, {"avatar_middle", ""}, {"avatar_big", ""},
	}
	for scope, f := range map[string]field{
		"contact:user.employee_id:readonly": {"user_id", u.UserID},
		"contact:user.email:readonly":       {"email", u.Email},
		"contact:user.phone:readonly":       {"mobile", u.Mobile},
		"contact:user.employee:readonly":    {"employee_no", u.UserID},
	} {
		if slices.Contains(t.scope, scope) {
			data = data.with(f.name, f.value)
		}
	}
	return data
}

// tenantKey is the one tenant's.
const tenantKey = "larktest0tenant0"
