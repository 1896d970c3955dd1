package console

// message is what a message of the log says in the reader's language; empty where
// there is no translation, or none is needed.
func (l lang) message(text string) string {
	if l == chinese {
		return messages[text]
	}
	return ""
}

// messages are the warnings and errors that an operator may meet, in Chinese, in the
// sections of deploy/docs/operating.md. The page has the message itself beside it:
// that is what stands in the log and in that document.
var messages = map[string]string{
	// Start, settings, secrets
	"larkside failed": "Larkside 停止运行",
	"the database is not there yet; trying again": "数据库尚不可用，正在重试",
	"not ready: the database has no session, and EXPECT_SESSIONS=true says that there are some; nobody is asked for consent": "未就绪：数据库中没有会话，而 EXPECT_SESSIONS=true 表示应当有；不会请任何人授权",
	"not ready: Lark refuses every app; it is asked again every 30 s and when a secret file changes":                         "未就绪：飞书拒绝全部应用；每 30 秒以及密钥文件变更时重新询问",
	"Lark can't be asked now whether it accepts the app":                                                                     "暂时无法向飞书确认应用是否可用",
	"a secret could not be read again; the value before stays":                                                               "无法重新读取密钥，继续使用原来的值",
	"the changed database URL is not used; the one before stays":                                                             "不使用改动后的数据库地址，继续使用原来的",
	"the new encryption keys are not valid; the ones before stay":                                                            "新的加密密钥无效，继续使用原来的",
	"a new caller has no entry in CALLER_LIMITS and may do everything":                                                       "新增的调用方在 CALLER_LIMITS 中没有对应项，不受限制",
	"every user of this machine may read the key file":                                                                       "本机的所有用户都能读取密钥文件",

	// Database
	"the database did not answer a statement":                                                    "数据库没有响应一条语句",
	"PostgreSQL has no more connections for this replica; statements wait for those that it has": "PostgreSQL 没有更多连接可用，语句在等待现有连接",
	"change notifications do not come; changes are polled for until they do":                     "收不到变更通知，改为轮询",
	"idle sessions could not be looked through":                                                  "未能查找闲置会话",
	"can't look up a consent":                                                                    "无法查找授权请求",
	"can't close a consent":                                                                      "无法结束授权请求",
	"can't claim a consent":                                                                      "无法认领授权请求",
	"can't release a consent":                                                                    "无法释放授权请求",
	"can't hold a consent":                                                                       "无法继续占有授权请求",
	"can't drop a consent":                                                                       "无法删除授权请求",
	"can't record a card":                                                                        "无法记录卡片",
	"can't release a renewal":                                                                    "无法撤回已记下的到期提醒",
	"can't look for due consents":                                                                "无法查找需要处理的授权请求",
	"can't ask which replica looks after cards and old consents":                                 "无法确定由哪个副本更新卡片、清理旧的授权请求",
	"can't look for cards to update":                                                             "无法查找需要更新的卡片",
	"can't look for grants that end":                                                             "无法查找即将到期的授权",
	"can't delete old consents":                                                                  "无法删除旧的授权请求",
	"can't delete old event ids":                                                                 "无法删除旧的事件 ID",
	"can't write an audit entry":                                                                 "无法写入审计记录",
	"tokens of users who left could not be dropped":                                              "未能删除离职用户的令牌",
	"sessions that can't be used any more could not be deleted":                                  "未能删除已不可用的会话",
	"old audit entries could not be deleted":                                                     "未能删除旧的审计记录",

	// Lark and renewals
	"the database does not take a renewed token; trying until it does":                                  "续期后的令牌未能写入数据库，正在重试",
	"a renewed token could not be stored before the process ended; its session is lost":                 "进程结束前未能保存续期后的令牌，该会话失效",
	"a refresh failed; the session is kept":                                                             "续期失败，会话保留",
	"a session can't be renewed any more":                                                               "一个会话无法再续期",
	"the circuit to Lark's token endpoint changed":                                                      "飞书令牌接口的熔断状态发生变化",
	"Lark refuses the app; no session is renewed and nobody is asked to authorize until this is mended": "飞书拒绝此应用；处理之前不续期会话，也不请用户授权",
	"Lark's token answer is odd":                                                                        "飞书的令牌响应不符合文档",
	"Lark's answer to a consent is odd":                                                                 "飞书对授权请求的响应不符合文档",
	"users' data could not be read":                                                                     "未能读取用户资料",
	"upstream did not answer":                                                                           "飞书开放平台没有响应",
	"replacing a refused tenant token failed":                                                           "未能更换被拒绝的 tenant_access_token",
	"can't revoke a token at Lark; it lives until it expires":                                           "无法在飞书端撤销令牌；它会在到期前一直有效",

	// Consents and cards
	"asking for consent failed":         "请求用户授权失败",
	"asking for a missing scope failed": "请求缺少的权限失败",
	"waiting for a consent failed":      "等待授权时出错",
	"can't start a consent":             "无法发起授权请求",
	"Lark refused a consent":            "飞书拒绝了一次授权",
	"Lark issued no refresh token; the user is asked again when the access token ends":            "飞书没有签发刷新令牌；访问令牌到期后会再次请用户授权",
	"Lark's token endpoint can't make this kind of grant; the other version is asked from now on": "飞书的令牌接口不支持这种授权方式，此后改用另一版本的接口",
	"both versions of Lark's token endpoint refuse this kind of grant":                            "飞书令牌接口的两个版本都拒绝这种授权方式",
	"can't send a card":                                                                          "无法发送卡片",
	"can't send a renewal card; trying again":                                                    "无法发送授权即将到期的卡片，正在重试",
	"can't update a card; trying again":                                                          "无法更新卡片，正在重试",
	"can't poll a device flow; trying again until it expires":                                    "无法查询设备授权的结果，到期前会继续重试",
	"Lark ended a device flow":                                                                   "飞书结束了一次设备授权",
	"can't exchange an authorization code":                                                       "用授权码换取令牌失败",
	"can't find out who granted a consent":                                                       "无法确认授权者的身份",
	"a consent was granted by another user than it was meant for; nothing is stored":             "授权者不是被请求的用户；没有保存任何内容",
	"a consent was granted after it had ended; the grant is revoked":                             "授权请求已结束后才得到同意；该授权已撤销",
	"a grant could not be stored and is lost":                                                    "一次授权未能保存，已失效",
	"Lark did not see the Authorization header of a device flow; sending the secret in the body": "飞书没有收到设备授权请求的 Authorization 头，改为在请求体中发送密钥",
	"can't find out who signed in":                                                               "无法确认登录者的身份",
	"can't poll a sign-in; trying again until it expires":                                        "无法查询 larkside login 的结果，到期前会继续重试",
	"a sign-in failed":                                                                           "larkside login 登录失败",

	// Events
	"an event was refused":  "拒绝了一个事件",
	"can't handle an event": "无法处理一个事件",
	"the long connection for events is down; connecting again": "事件长连接已断开，正在重连",

	// Callers and operators
	"a caller without a right key was refused":                                     "拒绝了一个没有正确密钥的调用方",
	"a request whose user is not proven was refused":                               "拒绝了一个未能证明用户身份的请求",
	"the keys for users' tokens can't be fetched; the known ones go on being used": "无法获取验证用户 JWT 的公钥，继续使用已知的公钥",
	"a wrong admin key was refused":                                                "拒绝了一个错误的管理密钥",

	// Rows that were changed in the database
	"a stored record does not open":                                   "一条加密记录无法解开",
	"a stored consent was changed in the database; it is closed":      "有人改动了数据库中的授权请求；该请求已结束",
	"a session that was changed in the database is revoked here only": "数据库中被改动的会话只在本地撤销",
	"a stored user id is not the one that Lark gave; it is not used":  "数据库中的用户 ID 与飞书给出的不符，不予使用",

	// Mistakes of Larkside, and the rest
	"a panic in Larkside's client for Lark":        "Larkside 的飞书客户端发生 panic",
	"token lookup failed in an unforeseen way":     "查找令牌时出现意外错误",
	"answering a mesh failed in an unforeseen way": "响应服务网格的授权查询时出现意外错误",
	"an admin request failed in an unforeseen way": "管理 API 出现意外错误",
	"a console page failed in an unforeseen way":   "控制台页面出现意外错误",
	"a console page could not be rendered":         "控制台页面无法显示",
	"the standard library reports a problem":       "Go 标准库报告了一个问题",
	"telemetry could not be exported":              "未能导出遥测数据",
}
