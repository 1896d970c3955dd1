package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"larkside/session/lark"
)

// address is an address that a setting names.
type address struct{ setting, url string }

func openHost(a app) address     { return address{"LARKSIDE_OPEN_URL", a.OpenURL} }
func accountsHost(a app) address { return address{"LARKSIDE_ACCOUNTS_URL", a.AccountsURL} }
func tokenURL(a app) address     { return address{"LARKSIDE_TOKEN_URL", a.TokenURL} }

// spoke reports whether Lark answered in its own words, with a code or an OAuth
// error. Anything else (a 404, HTML, no answer) says nothing about the app.
func spoke(err error) bool {
	var e *lark.Error
	return errors.As(err, &e) && (e.Code != 0 || e.Name != "")
}

// transient reports whether Lark fails for the moment.
func transient(err error) bool {
	var e *lark.Error
	return errors.As(err, &e) && (e.HTTPStatus/100 == 5 || e.HTTPStatus == http.StatusTooManyRequests || spoke(err) && e.Class == lark.Retry)
}

// larkFails adds a failure at Lark with what mends it, unless that cause has a
// line already.
func (x *examination) larkFails(name string, a app, asked address, err error) {
	if detail, do := x.explain(a, asked, err); do != "" {
		x.r.fail(name, detail, do)
	}
}

// notChecked is larkFails for what Larkside can do without.
func (x *examination) notChecked(name string, a app, asked address, err error) {
	if detail, do := x.explain(a, asked, err); do != "" {
		x.r.warn(name, detail, do)
	}
}

// explain says what err means and what to do about it. Both are empty when that
// was said before: of the same app, or of any app where the cause is the address
// that they share.
func (x *examination) explain(a app, asked address, err error) (detail, do string) {
	detail, cause := err.Error(), a.AppID
	var e *lark.Error
	errors.As(err, &e)
	switch do = remedy(e); {
	case do != "":
	case e != nil && e.HTTPStatus == 0:
		do = fmt.Sprintf("%s can't be reached: check LARKSIDE_BRAND and %s, the network, LARKSIDE_UPSTREAM_PROXY and LARKSIDE_UPSTREAM_CA_FILE", asked.url, asked.setting)
		cause = asked.url
	case transient(err):
		do = "Lark fails for the moment: run this again in a minute; Lark's support asks for the log id"
		cause = asked.url
	case !spoke(err):
		detail = "could not be checked, since the answer is not Lark's: " + detail
		do = fmt.Sprintf("something else answers at %s: check %s and LARKSIDE_UPSTREAM_PROXY", asked.url, asked.setting)
		cause = asked.url
	default:
		do = fixUnknown
		cause += fmt.Sprint(" ", e.Code, e.Name)
	}
	cause += "\n" + do
	if x.told[cause] {
		return "", ""
	}
	x.told[cause] = true
	return detail, do
}

// remedy says what mends an error that Lark has words for, else nothing.
func remedy(e *lark.Error) string {
	switch {
	case e == nil:
		return ""
	case e.Code == 10014 && strings.Contains(e.Description, "secret"):
		return fixSecret
	case e.Code == 10014 && strings.Contains(e.Description, "app id"):
		return fixID
	case e.Code == 0 && e.Name == "invalid_client":
		return fixCredentials
	case e.Code == 0 && e.Name == "invalid_scope":
		return fixScopes
	case e.Name == "unsupported_grant_type":
		return "Lark's token endpoint takes no device flows from this app: use the redirect flow (LARKSIDE_PUBLIC_URL)"
	}
	return remedies[e.Code]
}

// Remedy says what mends Lark's refusal of an app, in English and in Chinese.
func Remedy(err error) (english, chinese string) {
	var e *lark.Error
	errors.As(err, &e)
	english = cmp.Or(remedy(e), fixUnknown)
	return english, inChinese[english]
}

// What Lark's codes mean for who can mend it. Source: Lark "get
// user_access_token", "refresh user_access_token", "generic error codes".
const (
	fixBug         = "this is a mistake of Larkside's: please report it with the log id"
	fixSecret      = "the secret is not that app's: copy App Secret from Credentials & Basic Info in the developer console into LARKSIDE_APP_SECRET (or the entry in LARKSIDE_APPS)"
	fixID          = "there is no such app at this brand: check LARKSIDE_APP_ID and LARKSIDE_BRAND (feishu and lark are separate)"
	fixCredentials = "the app id and the secret do not belong together: copy both from Credentials & Basic Info in the developer console into LARKSIDE_APP_ID and LARKSIDE_APP_SECRET (or the entry in LARKSIDE_APPS)"
	fixEither      = "the app id or the secret is wrong, or the app is not enabled: compare both with Credentials & Basic Info in the developer console; if they are right, have the tenant's administrator enable the app"
	fixEnabled     = "the app is not enabled: publish a version in the developer console and have the tenant's administrator enable it"
	fixInstall     = "the app is not installed in the tenant: publish a version and have the tenant's administrator approve it, with its availability"
	fixScopes      = "write LARKSIDE_SCOPES as Lark's console shows the scopes; if they are right, ask for fewer of them"
	fixUnknown     = "look the code up in Lark's documentation; its support asks for the log id"
	fixRefresh     = "switch \"refresh user_access_token\" on under Security Settings in the developer console, and publish a version"
	fixOffline     = "enable offline_access as a user token scope under Permissions & Scopes in the developer console, and publish a version"
)

var remedies = map[int]string{
	10003: fixID, 20048: fixID,
	10014: fixEither, 20069: fixEnabled, 99991662: fixEnabled,
	10015: fixSecret, 20002: fixSecret,
	99991543: fixCredentials,
	20009:    fixInstall, 99991673: fixInstall,
	20001: fixBug, 20036: fixBug, 20063: fixBug, 20067: fixBug, 20068: fixBug, 20070: fixBug,
	20024: "what is stored belongs to another app: check that LARKSIDE_APP_ID was not changed under this database",
	20027: "enable them as user token scopes under Permissions & Scopes in the developer console and publish a version, or take them out of LARKSIDE_SCOPES",
	20029: "add LARKSIDE_PUBLIC_URL followed by /consent/callback under Security Settings, Redirect URLs, in the developer console, exactly so",
	20043: fixScopes,
	20071: "LARKSIDE_PUBLIC_URL was changed while a consent was open: have the user start again",
	20074: fixRefresh,

	99991400: "Lark is asked too often for the moment: run this again, and look at LARKSIDE_REFRESH_RATE",
	99991401: "this host's address is not on the app's list: add it under Security Settings, IP allow list, in the developer console, or empty the list",
	99991403: "the tenant's monthly quota of API calls is used up: see the tenant's plan",
	99991672: "enable the scope that the message names under Permissions & Scopes in the developer console, and publish a version",
}

// inChinese are the remedies of what makes Lark refuse an app as a whole, and
// nothing of one user, in Chinese.
var inChinese = map[string]string{
	fixSecret:      "密钥不是这个应用的：从开发者后台的“凭证与基础信息”复制 App Secret，填入 LARKSIDE_APP_SECRET（或 LARKSIDE_APPS 中的对应项）",
	fixID:          "该平台上没有这个应用：请检查 LARKSIDE_APP_ID 和 LARKSIDE_BRAND（feishu 与 lark 互不相通）",
	fixCredentials: "App ID 与密钥不匹配：从开发者后台的“凭证与基础信息”复制两者，填入 LARKSIDE_APP_ID 和 LARKSIDE_APP_SECRET（或 LARKSIDE_APPS 中的对应项）",
	fixEither:      "App ID 或密钥不正确，或应用未启用：先与开发者后台的“凭证与基础信息”核对；如果无误，请企业管理员启用应用",
	fixEnabled:     "应用未启用：在开发者后台发布版本，并请企业管理员启用",
	fixInstall:     "应用尚未安装到企业：发布版本，并请企业管理员审核通过，同时检查可用范围",
	fixRefresh:     "在开发者后台的“安全设置”中打开“刷新 user_access_token”开关，并发布版本",
	fixBug:         "这是 Larkside 的错误：请附上 log id 反馈",
	fixScopes:      "LARKSIDE_SCOPES 应与开发者后台显示的权限一致；如果已经一致，请减少权限数量",
	fixUnknown:     "请在飞书开放平台文档中查询此错误码；联系飞书技术支持时需提供 log id",
}
