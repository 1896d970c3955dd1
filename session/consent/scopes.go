package consent

import (
	"regexp"
	"slices"
	"strings"
)

// offlineAccess is the scope without which Lark issues no refresh token.
const offlineAccess = "offline_access"

// maxScopes is how many scopes Lark's authorize page accepts in one request: 50
// by a page of 2026-03-19, 200 by a crawl of 2026-09-11 ([D+]). How many the
// device flow accepts is not known.
const maxScopes = 200

// scopes are distinct, well-formed scopes in the order they were asked for.
type scopes []string

// newScopes returns the valid scopes of list. They may come from an upstream's
// answer, and a space in one would make two of it. It returns at most
// [maxScopes]-1, so that there is room for offline_access.
func newScopes(list ...string) scopes {
	var s scopes
	for _, scope := range list {
		if len(s) < maxScopes-1 && validScope(scope) && !slices.Contains(s, scope) {
			s = append(s, scope)
		}
	}
	return s
}

func parseScopes(joined string) scopes { return scopes(strings.Fields(joined)) }

// scopeShape is that of Lark's scopes: segments of small letters, digits, "_" and
// "." with colons between them. Lark refuses a whole list for one scope that has
// another shape ([P] lark-cli issue 416), and an upstream's answer must not bring
// that about. Source: [S] lark-cli.
var scopeShape = regexp.MustCompile(`^[a-z0-9_.]+(:[a-z0-9_.]+)*$`)

func validScope(s string) bool { return len(s) <= 128 && scopeShape.MatchString(s) }

// with returns s and those of more that it lacks, up to [maxScopes].
func (s scopes) with(more ...string) scopes {
	all := slices.Clone(s)
	for _, scope := range more {
		if len(all) < maxScopes && !slices.Contains(all, scope) {
			all = append(all, scope)
		}
	}
	return all
}

// without returns the scopes of s that are not in others.
func (s scopes) without(others scopes) scopes {
	return slices.DeleteFunc(slices.Clone(s), func(scope string) bool { return slices.Contains(others, scope) })
}

func (s scopes) covers(want scopes) bool {
	for _, scope := range want {
		if !slices.Contains(s, scope) {
			return false
		}
	}
	return true
}

func (s scopes) String() string { return strings.Join(s, " ") }

// words has texts for scopes, in the languages of [texts]. The names are
// Lark's. A scope without a text is shown by its name.
var words = map[string]translated{
	"offline_access":                          {"在你离线时保持授权", "stay authorized while you are away", "オフライン時も許可を保持"},
	"app_engine:apps:read":                    {"查看你的应用列表", "see your list of apps", "アプリ一覧の表示"},
	"app_engine:workspace.table:read":         {"查看数据表结构", "see the structure of data tables", "データテーブルの構造の表示"},
	"app_engine:workspace.table:write":        {"修改数据表结构", "change the structure of data tables", "データテーブルの構造の変更"},
	"app_engine:workspace.table.record:read":  {"以你的权限读取数据记录", "read records that you may read", "あなたの権限でのレコードの読み取り"},
	"app_engine:workspace.table.record:write": {"以你的权限新增、修改和删除数据记录", "add, change and delete records as you may", "あなたの権限でのレコードの追加・変更・削除"},
	"app_engine:workspace.sql_commands:write": {"以你的权限执行 SQL", "run SQL with your permissions", "あなたの権限での SQL の実行"},
	"app_engine:security.audit_log:read":      {"查看审计日志", "read audit logs", "監査ログの閲覧"},
	"app_engine:seat_activities:read":         {"查看席位使用情况", "see seat activity", "シートの利用状況の表示"},
	"app_engine:seat_assignments:read":        {"查看席位分配", "see seat assignments", "シートの割り当ての表示"},
	"spark:app:read":                          {"查看妙搭应用", "see your Spark apps", "Spark アプリの表示"},
	"spark:app:write":                         {"修改妙搭应用", "change your Spark apps", "Spark アプリの変更"},
	"auth:user.id:read":                       {"查看你的用户 ID", "see your user id", "ユーザー ID の表示"},
	"user_profile":                            {"查看你的基本资料", "see your profile", "プロフィールの表示"},
	"contact:user.email:readonly":             {"查看你的邮箱", "see your email address", "メールアドレスの表示"},
	"contact:user.phone:readonly":             {"查看你的手机号", "see your phone number", "電話番号の表示"},
	"contact:user.employee_id:readonly":       {"查看你的用户 ID", "see your user id in the tenant", "テナント内ユーザー ID の表示"},
	"contact:user.base:readonly":              {"查看你的姓名和头像", "see your name and picture", "氏名と画像の表示"},
	"im:message":                              {"以你的身份收发消息", "read and send messages as you", "あなたとしてのメッセージの送受信"},
	"calendar:calendar":                       {"查看和修改你的日历", "see and change your calendar", "カレンダーの表示と変更"},
	"calendar:calendar:readonly":              {"查看你的日历", "see your calendar", "カレンダーの表示"},
	"docx:document":                           {"查看和修改你的文档", "see and change your documents", "ドキュメントの表示と変更"},
	"docx:document:readonly":                  {"查看你的文档", "see your documents", "ドキュメントの表示"},
	"drive:drive":                             {"查看和修改你的云空间文件", "see and change your files", "ファイルの表示と変更"},
	"drive:drive:readonly":                    {"查看你的云空间文件", "see your files", "ファイルの表示"},
	"bitable:app":                             {"查看和修改你的多维表格", "see and change your Bases", "Base の表示と変更"},
	"bitable:app:readonly":                    {"查看你的多维表格", "see your Bases", "Base の表示"},
	"sheets:spreadsheet":                      {"查看和修改你的电子表格", "see and change your spreadsheets", "スプレッドシートの表示と変更"},
	"sheets:spreadsheet:readonly":             {"查看你的电子表格", "see your spreadsheets", "スプレッドシートの表示"},
	"task:task:read":                          {"查看你的任务", "see your tasks", "タスクの表示"},
	"task:task:write":                         {"修改你的任务", "change your tasks", "タスクの変更"},
	"wiki:wiki":                               {"查看和修改你的知识库", "see and change your wiki", "Wiki の表示と変更"},
	"wiki:wiki:readonly":                      {"查看你的知识库", "see your wiki", "Wiki の表示"},
}
