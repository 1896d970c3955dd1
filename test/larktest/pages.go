package larktest

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed pages/*.html
var pageFiles embed.FS

// newPages serves what people click and what steers the emulator from outside.
// A browser's cross-site POST is refused: these pages hand out grants.
func (p *Platform) newPages() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.indexPage)
	mux.HandleFunc("GET /open-apis/authen/v1/authorize", p.authorizePage)
	mux.HandleFunc("POST /open-apis/authen/v1/authorize", p.authorizeDecision)
	mux.HandleFunc("GET "+devicePagePath, p.devicePage)
	mux.HandleFunc("POST "+devicePagePath, p.deviceDecision)
	mux.HandleFunc("GET /chat", p.chatPage)
	mux.HandleFunc("POST /chat/click", p.chatClick)
	mux.HandleFunc("GET /chat/changes", p.chatChanges)
	p.addControl(mux)
	mux.HandleFunc("/", p.notFound)
	guarded := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// ServeMux would redirect an unclean path; the open host answers 404.
		if clean := path.Clean(r.URL.Path); clean != r.URL.Path && clean+"/" != r.URL.Path {
			p.notFound(w, r)
			return
		}
		guarded.ServeHTTP(w, r)
	})
}

// view is what every page's template gets.
type view struct {
	Title string
	// Nonce lets the page's own style and script through its policy.
	Nonce string
	// Theme is light, dark, or empty for the browser's choice.
	Theme string
	Lang  string
	Data  any
}

// newTemplates parses the pages once. They are part of the binary: an error is
// a mistake in this package that its tests show.
func newTemplates() *template.Template {
	return template.Must(template.New("").Funcs(template.FuncMap{
		"words": scopeWords, "initial": initial, "clock": func(t time.Time) string { return t.Local().Format("15:04:05") },
		"join": strings.Join, "hue": hue, "scene": newScene, "inClient": InClient,
	}).ParseFS(pageFiles, "pages/*.html"))
}

// show renders a page under a strict policy: nothing from elsewhere.
func (p *Platform) show(w http.ResponseWriter, r *http.Request, status int, name string, v view) {
	v.Nonce = randomHex(16)
	if theme := r.URL.Query().Get("theme"); theme == "light" || theme == "dark" {
		v.Theme = theme
	}
	setString(&v.Lang, "en")
	var b bytes.Buffer
	if err := p.templates.ExecuteTemplate(&b, name, v); err != nil {
		p.log.Error("page", "name", name, "error", err)
		http.Error(w, "larktest: page "+name+" failed", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'nonce-"+v.Nonce+"'; script-src 'nonce-"+v.Nonce+"'; connect-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

// problem is Lark's error page.
func (p *Platform) problem(w http.ResponseWriter, r *http.Request, status int, problem pageProblem) {
	p.show(w, r, status, "problem.html", view{Title: "Authorization failed", Data: map[string]any{
		"Code": problem.code, "Meaning": describe(problem.code), "Detail": problem.detail, "LogID": w.Header().Get("X-Tt-Logid"),
	}})
}

// account is a line of the account switcher.
type account struct {
	OpenID, Name, Email string
	Status              Status
	Chosen              bool
}

const (
	accountCookie = "larktest_account"
	maxAccounts   = 50
)

// accounts lists people by their id in an app, the one of the cookie chosen.
// It is called with mu held.
func (p *Platform) accounts(r *http.Request, app string) []account {
	chosen := p.signedIn(r)
	var list []account
	for _, u := range p.users {
		if len(list) == maxAccounts && u != chosen {
			continue
		}
		list = append(list, account{p.openID(app, u), u.Name, u.Email, u.Status, u == chosen})
	}
	if chosen == nil && len(list) > 0 {
		list[0].Chosen = true
	}
	return list
}

// signedIn is the user that this browser last acted as; nil for none.
func (p *Platform) signedIn(r *http.Request) *User {
	cookie, err := r.Cookie(accountCookie)
	if err != nil {
		return nil
	}
	return p.byOpenID[cookie.Value].user
}

func signIn(w http.ResponseWriter, openID string) {
	http.SetCookie(w, &http.Cookie{Name: accountCookie, Value: url.QueryEscape(openID), Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

// chosen is the account of a submitted form: the typed open_id, or the picked.
func chosen(r *http.Request) string {
	if typed := strings.TrimSpace(r.PostFormValue("other")); typed != "" {
		return typed
	}
	return r.PostFormValue("account")
}

func (p *Platform) indexPage(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	var apps []App
	for _, id := range p.appOrder {
		apps = append(apps, *p.apps[id])
	}
	accounts := p.accounts(r, p.firstApp())
	p.mu.Unlock()
	p.show(w, r, http.StatusOK, "index.html", view{Title: "Lark emulator", Data: map[string]any{
		"Apps": apps, "Accounts": accounts, "Summary": p.Summary(), "Faults": len(p.Faults()),
	}})
}

func (p *Platform) firstApp() string {
	if len(p.appOrder) == 0 {
		return ""
	}
	return p.appOrder[0]
}

// authorizePage is GET authen/v1/authorize.
func (p *Platform) authorizePage(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	a, problem := p.authorization(r.URL.Query())
	if problem != nil {
		p.mu.Unlock()
		p.problem(w, r, http.StatusBadRequest, *problem)
		return
	}
	if user := p.signedIn(r); user != nil && userProblem(a.app.ID, user) == 0 && p.silently(a, user) {
		target := p.approve(a, user)
		p.mu.Unlock()
		http.Redirect(w, r, target, http.StatusFound)
		return
	}
	data := map[string]any{"App": a.app.Name, "AppID": a.app.ID, "Scopes": a.scopes, "Accounts": p.accounts(r, a.app.ID), "Action": r.URL.RequestURI()}
	p.mu.Unlock()
	p.show(w, r, http.StatusOK, "authorize.html", view{Title: "Authorize " + data["App"].(string), Data: data})
}

// authorizeDecision is the form of that page; its action repeats the query.
func (p *Platform) authorizeDecision(w http.ResponseWriter, r *http.Request) {
	openID := chosen(r)
	p.mu.Lock()
	a, problem := p.authorization(r.URL.Query())
	if problem != nil {
		p.mu.Unlock()
		p.problem(w, r, http.StatusBadRequest, *problem)
		return
	}
	user, known := p.whoAnywhere(a.app.ID, openID)
	if !known {
		p.mu.Unlock()
		p.problem(w, r, http.StatusBadRequest, pageProblem{20008, openID})
		return
	}
	target, problem := p.answerPage(a, user, r.PostFormValue("decision") == "approve")
	p.mu.Unlock()
	if problem != nil {
		p.problem(w, r, http.StatusForbidden, *problem)
		return
	}
	signIn(w, openID)
	http.Redirect(w, r, target, http.StatusSeeOther)
}

// devicePage is the verification_uri.
func (p *Platform) devicePage(w http.ResponseWriter, r *http.Request) {
	code := r.URL.Query().Get("user_code")
	p.mu.Lock()
	d := p.deviceFor(code)
	if flow := r.URL.Query().Get("flow_id"); d != nil && flow != "" && flow != d.flowID {
		d = nil // somebody put two links together
	}
	data := map[string]any{"Code": code, "Wrong": d == nil && code != "", "Action": devicePagePath}
	if d != nil {
		data["App"], data["AppID"], data["Scopes"] = p.apps[d.app].Name, d.app, d.scopes
		data["State"], data["Accounts"], data["Expires"] = d.state(p.now()), p.accounts(r, d.app), d.expires
	}
	p.mu.Unlock()
	p.show(w, r, http.StatusOK, "device.html", view{Title: "Connect a device", Data: data})
}

func (p *Platform) deviceDecision(w http.ResponseWriter, r *http.Request) {
	openID := chosen(r)
	p.mu.Lock()
	d := p.deviceFor(r.PostFormValue("user_code"))
	problem := 0
	if user, known := p.whoAnywhere("", openID); d != nil && known {
		problem = userProblem(d.app, user)
	}
	approve := r.PostFormValue("decision") == "approve"
	var err error
	if problem == 0 || !approve {
		err = p.decide(r.PostFormValue("user_code"), openID, approve)
	}
	p.mu.Unlock()
	if problem != 0 && approve {
		p.problem(w, r, http.StatusForbidden, pageProblem{problem, openID})
		return
	}
	if err == nil {
		signIn(w, openID)
	}
	p.show(w, r, http.StatusOK, "device.html", view{Title: "Connect a device", Data: map[string]any{"Action": devicePagePath, "Done": true, "Approved": approve, "Error": err}})
}

// chatPage shows the list of users, or one user's chat with the bot.
func (p *Platform) chatPage(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	openID, lang := query.Get("user"), query.Get("lang")
	p.mu.Lock()
	who, known := p.byOpenID[openID]
	if openID == "" || !known {
		accounts := p.accounts(r, p.firstApp())
		counts := map[string]int{}
		for _, m := range p.chat.order {
			counts[p.openID(p.firstApp(), m.user)]++
		}
		p.mu.Unlock()
		p.show(w, r, http.StatusOK, "chats.html", view{Title: "Chats", Data: map[string]any{"Accounts": accounts, "Counts": counts, "Wrong": openID}})
		return
	}
	if !slices.Contains(languages, lang) {
		lang = who.user.Language
	}
	data := p.chatView(who.user, openID, lang)
	p.mu.Unlock()
	signIn(w, openID)
	p.show(w, r, http.StatusOK, "chat.html", view{Title: who.user.Name, Lang: htmlLang[lang], Data: data})
}

var (
	languages = []string{"zh_cn", "en_us", "ja_jp"}
	htmlLang  = map[string]string{"zh_cn": "zh-CN", "en_us": "en", "ja_jp": "ja"}
)

// chatClick presses a callback button and goes back to the chat.
func (p *Platform) chatClick(w http.ResponseWriter, r *http.Request) {
	openID, messageID := r.PostFormValue("user"), r.PostFormValue("message")
	n, _ := strconv.Atoi(r.PostFormValue("button"))
	reply, err := p.ClickAs(r.Context(), messageID, n, openID)
	toast := "Sent to the app."
	if err != nil {
		toast = err.Error()
	} else if said := toastOf(reply); said != "" {
		toast = said
	}
	p.mu.Lock()
	if who, ok := p.byOpenID[openID]; ok {
		p.chat.toasts[who.user] = toast
	}
	p.mu.Unlock()
	back := url.Values{"user": {openID}, "lang": {r.PostFormValue("lang")}, "theme": {r.PostFormValue("theme")}}
	http.Redirect(w, r, "/chat?"+back.Encode(), http.StatusSeeOther)
}

func toastOf(reply EventReply) string {
	var out struct {
		Toast struct {
			Content string `json:"content"`
		} `json:"toast"`
	}
	if json.Unmarshal(reply.Body, &out) != nil {
		return ""
	}
	return out.Toast.Content
}

// chatChanges is the page's long poll: 200 once there is something new, 204
// when half a minute went by without.
func (p *Platform) chatChanges(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 25*time.Second)
	defer cancel()
	err := p.Wait(ctx, func() bool { return p.chatState(r.URL.Query().Get("user")) != r.URL.Query().Get("since") })
	if err != nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// chatState changes with every message and update that the user sees.
func (p *Platform) chatState(openID string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.chat.state(p.byOpenID[openID].user)
}

func (c *chat) state(u *User) string {
	messages, versions := 0, 0
	for _, m := range c.order {
		if m.user == u {
			messages++
			versions += len(m.Versions)
		}
	}
	return itoa(messages) + "." + itoa(versions)
}

// initial is what an avatar shows.
func initial(name string) string {
	for _, r := range name {
		return strings.ToUpper(string(r))
	}
	return "?"
}

// hue colours an avatar by name, one of eight.
func hue(name string) int {
	sum := 0
	for _, b := range []byte(name) {
		sum += int(b)
	}
	return sum % 8
}

// scopeText says what a scope lets an app do.
var scopeText = map[string]string{
	"offline_access":                          "Keep access while you are away, until you or an administrator end it",
	"auth:user.id:read":                       "Know your user id in this app",
	"user_profile":                            "Read your name and avatar",
	"task:task:read":                          "Read your tasks",
	"task:task:write":                         "Create and change your tasks",
	"im:message":                              "Read and send messages",
	"contact:user.email:readonly":             "Read your email address",
	"contact:user.phone:readonly":             "Read your phone number",
	"contact:user.employee_id:readonly":       "Read your user id in the company",
	"contact:contact.base:readonly":           "Look people up in the company's contacts",
	"app_engine:workspace.table:read":         "See the tables of your aPaaS workspaces",
	"app_engine:workspace.table:write":        "Change the tables of your aPaaS workspaces",
	"app_engine:workspace.table.record:read":  "Read records in your aPaaS workspaces",
	"app_engine:workspace.table.record:write": "Create, change and delete records in your aPaaS workspaces",
	"app_engine:workspace.sql_commands:write": "Run SQL in your aPaaS workspaces",
	"app_engine:apps:read":                    "List your aPaaS apps",
}

// scopeWords falls back to the scope's own words.
func scopeWords(scope string) string {
	if text, ok := scopeText[scope]; ok {
		return text
	}
	parts := strings.FieldsFunc(scope, func(r rune) bool { return r == ':' || r == '.' || r == '_' })
	if n := len(parts); n > 1 {
		return strings.ToUpper(parts[n-1][:1]) + parts[n-1][1:] + ": " + strings.Join(parts[:n-1], " ")
	}
	return scope
}
