package console

import (
	"fmt"

	"golang.org/x/text/language"
)

// lang is a language that the console speaks, as the html lang attribute and the
// cookie have it.
type lang string

const (
	english lang = "en"
	chinese lang = "zh-CN"
)

// languages are in the order in which they are offered.
var languages = []lang{english, chinese}

// understood are matched against what a browser accepts, matched is what it gets
// then; the first is the default. Readers of traditional characters get the
// simplified ones, which the matcher by itself would not give them.
var (
	understood = []language.Tag{language.English, language.Chinese, language.TraditionalChinese}
	matched    = []lang{english, chinese, chinese}
)

// text is the text with this key, filled as fmt does it.
func (l lang) text(key string, args ...any) string {
	text, ok := l.lookup(key)
	switch {
	case !ok:
		return key
	case len(args) == 0:
		return text
	}
	return fmt.Sprintf(text, args...)
}

func (l lang) lookup(key string) (text string, ok bool) {
	t, ok := texts[key]
	if l == chinese {
		return t.zh, ok
	}
	return t.en, ok
}

// word is what a value of the database is called, or else the value itself.
func (l lang) word(kind, value string) string {
	if text, ok := l.lookup(kind + "." + value); ok {
		return text
	}
	return visible(value)
}

// texts is every text, by the keys that templates and handlers use.
var texts = map[string]struct{ zh, en string }{
	"lang.name":                   {"简体中文", "English"},
	"skip":                        {"跳到主要内容", "Skip to the content"},
	"logout":                      {"退出", "Sign out"},
	"nav.label":                   {"主导航", "Main"},
	"nav.overview":                {"总览", "Overview"},
	"nav.sessions":                {"会话", "Sessions"},
	"nav.consents":                {"授权请求", "Consents"},
	"nav.audit":                   {"审计", "Audit"},
	"nav.errors":                  {"错误", "Errors"},
	"footer.openapi":              {"API 描述 (OpenAPI)", "API description (OpenAPI)"},
	"footer.metrics":              {"指标", "Metrics"},
	"live.on":                     {"实时更新", "Live"},
	"live.off":                    {"连接已断开，正在重试；页面内容可能已过时", "Connection lost, trying again; what you see may be old"},
	"time.now":                    {"刚刚", "just now"},
	"time.in":                     {"%s后", "in %s"},
	"time.ago":                    {"%s前", "%s ago"},
	"one.second":                  {"1 秒", "1 second"},
	"one.minute":                  {"1 分钟", "1 minute"},
	"one.hour":                    {"1 小时", "1 hour"},
	"one.day":                     {"1 天", "1 day"},
	"many.second":                 {"%d 秒", "%d seconds"},
	"many.minute":                 {"%d 分钟", "%d minutes"},
	"many.hour":                   {"%d 小时", "%d hours"},
	"many.day":                    {"%d 天", "%d days"},
	"state.active":                {"有效", "Active"},
	"state.consent_required":      {"需要授权", "Needs consent"},
	"state.disabled":              {"已停用", "Disabled"},
	"consent.pending":             {"等待中", "Waiting"},
	"consent.done":                {"已授权", "Granted"},
	"consent.declined":            {"已拒绝", "Declined"},
	"consent.expired":             {"已过期", "Expired"},
	"consent.superseded":          {"已被取代", "Superseded"},
	"consent.failed":              {"失败", "Failed"},
	"card.sent":                   {"已发送", "Sent"},
	"card.already_sent":           {"此前已发送", "Sent before"},
	"card.rate_limited":           {"次数受限", "Rate limited"},
	"card.failed":                 {"发送失败", "Failed"},
	"card.off":                    {"卡片已关闭", "Cards are off"},
	"action.consent":              {"用户答复", "Consent answered"},
	"action.consent_send":         {"发送卡片", "Card sent by hand"},
	"action.refresh":              {"手动刷新", "Refreshed by hand"},
	"action.revoke":               {"撤销", "Revoked"},
	"action.purge":                {"删除", "Deleted"},
	"action.session_lost":         {"会话失效", "Session lost"},
	"action.users_sync":           {"同步用户资料", "Profiles read"},
	"action.login":                {"登录", "Signed in"},
	"action.keys_rotate":          {"轮换加密密钥", "Keys rotated"},
	"actor.admin":                 {"管理员", "Admin"},
	"actor.user":                  {"用户", "User"},
	"actor.lark":                  {"飞书", "Lark"},
	"actor.larkside":              {"Larkside", "Larkside"},
	"result.done":                 {"成功", "Done"},
	"result.failed":               {"失败", "Failed"},
	"result.declined":             {"已拒绝", "Declined"},
	"result.consent_required":     {"需要授权", "Needs consent"},
	"result.disabled":             {"已停用", "Disabled"},
	"col.user":                    {"用户", "User"},
	"col.state":                   {"状态", "State"},
	"col.why":                     {"原因", "Why"},
	"col.access":                  {"访问令牌到期", "Access token ends"},
	"col.refresh":                 {"刷新令牌到期", "Refresh token ends"},
	"col.refreshed":               {"上次刷新", "Last refresh"},
	"col.started":                 {"发起", "Started"},
	"col.expires":                 {"到期", "Ends"},
	"col.card":                    {"卡片", "Card"},
	"col.scopes":                  {"权限", "Scopes"},
	"col.time":                    {"时间", "When"},
	"col.action":                  {"操作", "Action"},
	"col.actor":                   {"执行者", "By"},
	"col.result":                  {"结果", "Result"},
	"col.detail":                  {"详情", "Detail"},
	"scopes.count":                {"%d 项", "%d"},
	"why.good":                    {"有效，会自动刷新。", "Works, and is renewed by itself."},
	"why.idle":                    {"闲置：访问令牌已到期，下次调用时刷新。", "Idle: the access token has ended; the next call renews it."},
	"why.failing":                 {"刷新失败（连续 %d 次），%s重试；会话保留。", "Refreshing failed (%d in a row); the next try is %s. The session is kept."},
	"why.failed":                  {"刷新失败（连续 %d 次），下次调用时重试；会话保留。", "Refreshing failed (%d in a row); the next call tries again. The session is kept."},
	"why.app_refused":             {"飞书拒绝此应用（见总览），暂不刷新；会话保留。", "Lark refuses the app (see the overview), so nothing is renewed. The session is kept."},
	"why.once":                    {"没有刷新令牌（缺少 offline_access）：访问令牌%s到期，之后需要重新授权。", "Has no refresh token (offline_access is missing): ends with its access token, %s; then the user is asked."},
	"why.over":                    {"没有刷新令牌，访问令牌也已到期：下次调用会请用户授权。", "Has no refresh token and the access token has ended: the next call has the user asked."},
	"why.stale":                   {"刷新令牌已到期：下次调用会请用户授权。", "The refresh token has ended: the next call has the user asked."},
	"why.other":                   {"原因：%s。", "Reason: %s."},
	"why.no_session":              {"用户尚未授权。", "The user has not consented yet."},
	"why.refresh_token_expired":   {"刷新令牌长期未使用，已到期。用户需要重新授权。", "The refresh token was not used in time and has expired. The user has to consent again."},
	"why.refresh_token_used":      {"刷新令牌已被使用过，且新令牌没有保存下来（崩溃，或令牌泄露）。用户需要重新授权。", "The refresh token had been used already and what came of it was not stored (a crash, or a leak). The user has to consent again."},
	"why.refresh_token_invalid":   {"飞书不再接受此刷新令牌。用户需要重新授权。", "Lark does not accept the refresh token any more. The user has to consent again."},
	"why.no_refresh_token":        {"飞书没有签发刷新令牌：检查 offline_access 权限和应用的“刷新 user_access_token”开关。", "Lark has issued no refresh token: check the scope offline_access and the app's switch \"refresh user_access_token\"."},
	"why.revoked":                 {"授权已被撤销。", "The authorization was revoked."},
	"why.declined":                {"用户拒绝了授权。", "The user has declined."},
	"why.token_refused":           {"飞书拒绝了刚签发的令牌。用户需要重新授权。", "Lark refused a token that it had just issued. The user has to consent again."},
	"why.unsupported_token_type":  {"飞书签发了无法使用的令牌类型。", "Lark issued a kind of token that can't be used."},
	"why.user_disabled":           {"飞书表示该用户已离职或被冻结。", "Lark says that the user has left or is frozen."},
	"why.user_not_permitted":      {"飞书表示该用户不在应用的可用范围内。", "Lark says that the user may not use the app: see its availability."},
	"overview.title":              {"总览", "Overview"},
	"status.ready":                {"运行正常", "Ready"},
	"status.not_ready":            {"未就绪", "Not ready"},
	"status.replica":              {"实例", "Replica"},
	"status.started":              {"启动", "Started"},
	"status.version":              {"版本", "Version"},
	"status.database":             {"数据库", "Database"},
	"numbers.title":               {"会话与授权请求", "Sessions and consents"},
	"numbers.pending":             {"等待授权", "Consents waiting"},
	"plots.title":                 {"最近一小时", "The last hour"},
	"plots.replica":               {"（此实例）", "on this replica"},
	"plots.hour_ago":              {"60 分钟前", "60 min ago"},
	"plots.now":                   {"现在", "now"},
	"plots.busiest":               {"最忙的一分钟：%d", "Busiest minute: %d"},
	"plots.table":                 {"明细", "As a table"},
	"plots.value":                 {"结果", "Result"},
	"plots.five":                  {"5 分钟", "5 min"},
	"plots.quarter":               {"15 分钟", "15 min"},
	"plots.hour":                  {"1 小时", "1 hour"},
	"plot.requests":               {"请求", "Requests"},
	"plot.requests.forwarded":     {"已转发", "Forwarded"},
	"plot.requests.asked":         {"需要授权", "Needs consent"},
	"plot.requests.failed":        {"失败", "Failed"},
	"plot.requests.refused":       {"被拒绝", "Refused"},
	"plot.refreshes":              {"令牌刷新", "Refreshes"},
	"plot.refreshes.renewed":      {"成功", "Renewed"},
	"plot.refreshes.later":        {"稍后重试", "Tried again later"},
	"plot.refreshes.lost":         {"会话失效", "Sessions lost"},
	"plot.refreshes.ended":        {"无法刷新", "Not renewable"},
	"plot.consents":               {"已结束的授权请求", "Consents ended"},
	"plot.consents.granted":       {"已授权", "Granted"},
	"plot.consents.started":       {"同期发起", "Started meanwhile"},
	"plot.consents.unanswered":    {"拒绝、过期或被取代", "Declined, expired or replaced"},
	"plot.consents.broken":        {"失败", "Failed"},
	"apps.title":                  {"应用与令牌接口额度", "Apps and their token endpoint"},
	"apps.sessions":               {"会话 %d", "Sessions: %d"},
	"apps.good":                   {"正常", "Accepted by Lark"},
	"apps.refused":                {"飞书拒绝此应用。", "Lark refuses the app."},
	"apps.refused.since":          {"首次拒绝：", "First refused"},
	"apps.refused.do":             {"处理方法：", "What to do:"},
	"apps.unconfigured":           {"此应用不在配置中：它的会话既不使用也不刷新。", "The app is not in the settings: its sessions are neither used nor renewed."},
	"apps.resting":                {"令牌接口暂停调用。", "The token endpoint is left alone."},
	"apps.window":                 {"每 %s", "In %s"},
	"apps.high":                   {"接近上限", "near the limit"},
	"apps.full":                   {"已达上限", "at the limit"},
	"apps.about":                  {"额度按所有实例合计（REFRESH_RATE）。", "Calls are counted over all replicas (REFRESH_RATE)."},
	"errors.title":                {"最近的警告和错误", "Last warnings and errors"},
	"errors.none":                 {"启动以来没有警告或错误。", "No warning and no error since the start."},
	"errors.more":                 {"另外 %d 条", "%d more"},
	"errors.about":                {"此实例启动以来的警告和错误，相同内容合并显示。", "What this replica has warned of since its start; what repeats is summed up."},
	"level.error":                 {"错误", "Error"},
	"level.warning":               {"警告", "Warning"},
	"records.times":               {"%d 次", "%d times"},
	"records.last":                {"最近", "last"},
	"records.users":               {"涉及的用户", "Users"},
	"records.more_users":          {"以及更早的其他用户", "and others before them"},
	"records.first":               {"首次", "first"},
	"filter.text":                 {"用户", "User"},
	"filter.text.hint":            {"姓名、邮箱、任意 ID，或日志中的 user 值", "Name, email, any id, or a log line's user"},
	"filter.state":                {"状态", "State"},
	"filter.app":                  {"应用", "App"},
	"filter.any":                  {"全部", "Any"},
	"filter.search":               {"搜索", "Search"},
	"filter.show":                 {"筛选", "Show"},
	"pages.label":                 {"分页", "Pages"},
	"pages.first":                 {"回到第一页", "First page"},
	"pages.next":                  {"下一页", "Next page"},
	"sessions.title":              {"会话", "Sessions"},
	"sessions.none":               {"还没有会话。用户首次授权后会显示在这里。", "No sessions yet. They appear once a user has consented."},
	"sessions.none_found":         {"没有符合条件的会话。", "No session matches."},
	"sessions.asked":              {"已收到授权请求、尚无会话的用户", "Asked, without a session yet"},
	"whom.several":                {"有多位用户符合：请用 open_id，或在“会话”页查找。", "Several users are called that: take the open_id, or look among the sessions."},
	"whom.nobody":                 {"没有找到这位用户。可在“会话”页按姓名的一部分查找。", "Nobody is found by that. The sessions can be searched by a part of a name."},
	"sessions.examined":           {"已查找 %d 个会话，尚未查完。点“下一页”继续；或用完整的 open_id、union_id 或 user_id 查找（无论多少会话都能立即找到），或选定应用和状态。", "Looked through %d sessions, and there are more. Go on with the next page; or search for a whole open_id, union_id or user_id, which is found at once, or choose an app and a state."},
	"session.title":               {"%s", "%s"},
	"session.fields":              {"会话详情", "The session"},
	"session.doings":              {"操作", "Actions"},
	"session.absent":              {"此用户没有会话：", "There is no session of this user:"},
	"field.app":                   {"应用", "App"},
	"field.access":                {"访问令牌到期", "Access token ends"},
	"field.refresh":               {"刷新令牌到期", "Refresh token ends"},
	"field.granted":               {"授权时间", "Consented"},
	"field.refreshed":             {"上次刷新", "Last refresh"},
	"field.failures":              {"连续刷新失败", "Refreshes failed in a row"},
	"field.retry":                 {"下次重试", "next try"},
	"field.status":                {"飞书账号状态", "Account status at Lark"},
	"field.synced":                {"资料读取", "Profile read"},
	"field.version":               {"版本", "Version"},
	"field.endpoint":              {"令牌接口", "Token endpoint"},
	"do.refresh":                  {"立即刷新", "Refresh now"},
	"do.card":                     {"发送授权卡片", "Send card"},
	"do.revoke":                   {"撤销", "Revoke"},
	"did.refresh":                 {"已刷新。", "The session was renewed."},
	"did.sent":                    {"授权卡片已发送。", "The card is in the user's chat."},
	"did.already_sent":            {"用户此前已收到卡片，尚未答复。", "The user has the card already and has not answered yet."},
	"did.rate_limited":            {"未发送：短时间内对此用户的请求过多（CONSENT_RATE）。", "Not sent: this user was asked too often (CONSENT_RATE). Try again later."},
	"did.failed":                  {"卡片未能发送，请查看“错误”页。", "No card could be sent: see the page Errors."},
	"did.off":                     {"卡片已关闭（CARD=off）：用户只能从应用的 401 应答中得到链接。", "Cards are switched off (CARD=off): the user gets the link only by the app's 401."},
	"did.revoke":                  {"已撤销，所有实例立即生效。", "Revoked, here and on every other replica."},
	"confirm.refresh":             {"立即刷新？", "Refresh this session now?"},
	"confirm.refresh.text":        {"会用刷新令牌换取新令牌。", "The refresh token is exchanged for new tokens."},
	"confirm.card":                {"发送授权卡片？", "Send this user a card?"},
	"confirm.card.text":           {"用户会在聊天中收到一张卡片，请求授权。现有会话在用户答复之前不受影响。", "The user gets a card in the chat that asks for authorization. An existing session goes on as it is until they answer."},
	"confirm.revoke":              {"撤销此会话？", "Revoke this session?"},
	"confirm.revoke.text":         {"令牌会在所有实例和飞书端失效并被删除，应用不能再以该用户身份访问，直到用户重新授权。此操作无法撤回。", "The tokens end on every replica and at Lark and are deleted. The app can't act for this user until they consent again. This can't be undone."},
	"confirm.cancel":              {"取消", "Cancel"},
	"consents.title":              {"授权请求", "Consents"},
	"consents.pending":            {"等待用户答复", "Waiting for their users"},
	"consents.none_pending":       {"没有等待中的授权请求。", "Nobody is being asked right now."},
	"consents.over":               {"已结束", "Answered or ended"},
	"consents.more_pending":       {"还有更多：查看全部等待中的请求", "There are more: show all that wait"},
	"consents.none":               {"没有授权请求。", "No consents."},
	"ask.title":                   {"向用户请求授权", "Ask a user"},
	"ask.user":                    {"open_id（曾授权的用户也可用 union_id 或 user_id）", "open_id (of who has consented before also union_id or user_id)"},
	"audit.title":                 {"审计记录", "Audit trail"},
	"audit.none":                  {"没有记录。", "No entries."},
	"login.title":                 {"登录 Larkside", "Sign in to Larkside"},
	"login.key":                   {"管理密钥", "Admin key"},
	"login.about":                 {"即 LARKSIDE_ADMIN_KEY 的值。登录 12 小时内有效。", "The value of LARKSIDE_ADMIN_KEY. You stay signed in for 12 hours."},
	"login.do":                    {"登录", "Sign in"},
	"login.wrong":                 {"密钥不正确。", "That is not the key."},
	"login.too_many":              {"此地址输错密钥次数过多，正确的密钥也暂不接受。请稍后再试。", "Too many wrong keys from this address; for the moment the right one is refused too. Wait a little."},
	"trouble.title":               {"无法完成", "That did not work"},
	"trouble.back":                {"返回总览", "To the overview"},
	"trouble.nothing":             {"这里没有内容。", "There is nothing here."},
	"trouble.no_session":          {"没有这个会话。", "There is no such session."},
	"trouble.method":              {"不支持此请求方式。", "This kind of request is not served here."},
	"trouble.form":                {"表单不是从此控制台发出的，或已过期。请返回，刷新页面后重试。", "The form was not sent from a page of this console, or is too old. Go back, reload the page and try again."},
	"trouble.app":                 {"没有配置这个应用。", "No such app is configured."},
	"trouble.input":               {"无法识别输入的内容。", "The input can't be read."},
	"trouble.starting":            {"正在启动，等待数据库。", "Starting: waiting for the database."},
	"trouble.full":                {"查看实时更新的人太多。", "Too many are watching."},
	"trouble.consent_required":    {"此会话无法刷新，只能由用户重新授权：请发送卡片。", "This session can't be renewed; only the user can do that. Send a card."},
	"trouble.ambiguous":           {"这个 ID 属于两个用户：请用 open_id。", "This id belongs to two users: use the open_id."},
	"trouble.conflict":            {"其他人同时更改了会话，请再看一次。", "Someone else changed the session at the same time: look again."},
	"trouble.user_disabled":       {"飞书表示该用户已离职或不能使用此应用。", "Lark says that this user has left or may not use the app."},
	"trouble.app_misconfigured":   {"飞书拒绝此应用：请检查密钥、可用范围和令牌刷新开关。", "Lark refuses the app itself: check its secret, availability and the token refresh switch."},
	"trouble.refresh_unavailable": {"暂时无法刷新，会话保留，请稍后再试。", "The session can't be renewed at the moment and is kept. Try again later."},
	"trouble.store_unavailable":   {"无法访问数据库，请稍后再试。", "The database can't be reached. Try again in a moment."},
	"trouble.slow":                {"会话数还在统计中，稍后显示。", "The sessions are still being counted; the numbers come in a moment."},
	"trouble.internal":            {"出现意外错误，请查看日志。", "Something unforeseen failed: see the log."},
}
