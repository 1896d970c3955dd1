package browser

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"larkside/test/larktest"
	"larkside/test/process"
)

const consoleKey = "the-admin-key-of-this-test"

// startConsole starts a larkside with some sessions, whose admin listener is
// looked at.
func startConsole(t *testing.T, env map[string]string) *process.Process {
	t.Helper()
	all := map[string]string{"ADMIN_KEY": consoleKey}
	maps.Copy(all, env)
	lark, db := larktest.Start(t, &larktest.Config{AdHocUsers: true, AllowUnknown: true}), process.SQLite(t)
	process.Seed(t, db, lark, 3*time.Hour, "ou_idle", "ou_5f3b8a0c9e7d6b2a1f4e8d7c6b5a4938")
	return process.Seeded(t, process.Options{Lark: lark, DB: db, Env: all}, larktest.Alice, larktest.Bob, larktest.Carol)
}

// signIn is done by whom the console asks.
func (b *browser) signIn(p *process.Process) {
	b.t.Helper()
	b.open(p.AdminURL + "/")
	b.run(chromedp.SendKeys(chromedp.CSS(`input[name="key"]`), consoleKey+"\n"))
	b.await("#status")
}

// says waits until JavaScript in the page finds something true.
func (b *browser) says(what, expression string) {
	b.t.Helper()
	process.Eventually(b.t, what, func() bool { return get(b, chromedp.Evaluate[bool]("Boolean("+expression+")")) })
}

func (b *browser) text(selector string) string {
	b.t.Helper()
	return strings.TrimSpace(get(b, chromedp.Evaluate[string](fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector))))
}

// An operator signs in, sees a call as it is made, finds a user, renews, asks
// and revokes; and sees when larkside has gone.
func TestConsole(t *testing.T) {
	p, b := startConsole(t, nil), start(t)
	b.as("en-US", "light", 1280, 800)
	if at := b.open(p.AdminURL + "/sessions"); at != p.AdminURL+"/sessions" || b.look().Heading != "Sign in to Larkside" {
		t.Fatalf("without a sign-in: %q at %s", b.look().Heading, at)
	}
	b.run(chromedp.SendKeys(chromedp.CSS(`input[name="key"]`), "not-the-key\n"))
	b.await("#problem")
	b.run(chromedp.SendKeys(chromedp.CSS(`input[name="key"]`), consoleKey+"\n"))
	b.await("#list")
	if at := get(b, chromedp.Location()); at != p.AdminURL+"/sessions" {
		t.Errorf("the sign-in leads to %s", at)
	}
	b.open(p.AdminURL + "/")
	b.says("the page to be live", `document.querySelector("#live .words")?.innerText === "Live"`)

	// In place, without a reload.
	get(b, chromedp.Evaluate[bool]("window.same = true"))
	before := b.text(`[data-n="requests"]`)
	p.Get(t, records, larktest.Alice)
	p.Get(t, records, "ou_stranger")
	b.says("the calls to be seen", fmt.Sprintf(`document.querySelector('[data-n="requests"]').innerText !== %q && document.querySelector("#plots rect")`, before))
	b.says("the consent to be seen", `document.querySelector('a[href="/consents?state=pending"] .n').innerText === "1"`)
	if !get(b, chromedp.Evaluate[bool]("window.same === true")) {
		t.Error("the page was loaded anew")
	}

	b.open(p.AdminURL + "/sessions")
	b.run(chromedp.SendKeys(chromedp.CSS(`input[name="q"]`), "OU_IDLE\n"))
	b.says("the user to be found", `document.querySelectorAll("#list tbody tr").length === 1`)
	b.click("#list tbody a")
	b.await("#fields")
	if got := b.text("#fields .lead"); !strings.Contains(got, "Idle") {
		t.Errorf("an idle session: %q", got)
	}
	b.click(`form[action$="/refresh"] button`)
	b.await(".notice.good")
	if got := b.text("#fields .lead"); !strings.Contains(got, "Works") {
		t.Errorf("after the refresh: %q", got)
	}
	b.shoot("console-refreshed")

	b.click(`a[href$="/card"]`)
	b.await(".confirm")
	b.shoot("console-confirm")
	b.click(`.confirm button`)
	b.await(".notice.good")
	if len(p.Lark.Messages("ou_idle")) != 1 {
		t.Errorf("%d cards", len(p.Lark.Messages("ou_idle")))
	}
	b.click(`a[href$="/revoke"]`)
	b.click(`.confirm button`)
	b.await(".notice.good")
	if got := b.text("#fields .lead"); !strings.HasPrefix(got, "Needs consent") {
		t.Errorf("after the revocation: %q", got)
	}
	if a := p.Get(t, records, "ou_idle"); a.Status != 401 || a.Envelope.Error.Reason != "revoked" {
		t.Errorf("a call after it: %d %s", a.Status, a.Envelope.Error.Reason)
	}
	b.open(p.AdminURL + "/audit?user=ou_idle")
	for _, word := range []string{"Refreshed by hand", "Card sent by hand", "Revoked"} {
		if got := b.text("#list"); !strings.Contains(got, word) {
			t.Errorf("%q is not in the audit trail: %q", word, got)
		}
	}
	b.quiet("the walk")

	b.open(p.AdminURL + "/")
	b.says("the page to be live", `document.querySelector("#live .words")?.innerText === "Live"`)
	p.Signal(syscall.SIGTERM)
	stopped := time.Now()
	if status := p.Wait(); status != 0 || time.Since(stopped) > 20*time.Second {
		t.Errorf("with somebody watching the stop took %v, status %d", time.Since(stopped), status)
	}
	b.says("the loss to be seen", `document.querySelector("#live.lost")`)
	b.shoot("console-lost")
}

// Everything works without JavaScript.
func TestConsoleWithoutScript(t *testing.T) {
	p, b := startConsole(t, nil), start(t)
	b.as("zh-CN", "light", 1280, 800)
	call(b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	b.signIn(p)
	b.open(p.AdminURL + "/sessions/" + larktest.AppID + "/ou_idle")
	b.click(`form[action$="/refresh"] button`)
	b.await(".notice.good")
	b.click(`a[href$="/revoke"]`)
	b.click(`.confirm button`)
	b.await(".notice.good")
	b.click(`.tools a[lang="en"]`)
	b.await(`html[lang="en"] #fields`)
	b.click(`.tools button`)
	b.await(`input[name="key"]`)
	b.quiet("the pages")
}

// Forty sessions stand on a screen, a line each, and no id is broken. "/" goes to the
// search. The next page is left and come back to where it was.
func TestConsoleDense(t *testing.T) {
	lark, db := larktest.Start(t, &larktest.Config{AdHocUsers: true, AllowUnknown: true}), process.SQLite(t)
	var users []string
	for i := range 55 {
		users = append(users, fmt.Sprintf("ou_%032x", i))
	}
	process.Seed(t, db, lark, time.Minute, users...)
	p, b := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"ADMIN_KEY": consoleKey}}), start(t)
	b.as("en-US", "light", 1280, 1280)
	b.signIn(p)
	b.open(p.AdminURL + "/sessions")
	type dense struct{ Rows, Lines, Bottom, Wide float64 }
	d := get(b, chromedp.Evaluate[dense](`(() => {
		const rows = [...document.querySelectorAll("#list tbody tr")], heights = rows.map(r => r.getBoundingClientRect().height);
		return { Rows: rows.length, Lines: Math.max(...heights) / 21, Bottom: rows.at(-1).getBoundingClientRect().bottom, Wide: document.documentElement.scrollWidth };
	})()`))
	if d.Rows != 40 || d.Lines >= 2 || d.Bottom > 1280 || d.Wide > 1280 {
		t.Errorf("%+v", d)
	}
	b.shoot("console-dense")
	get(b, chromedp.Evaluate[bool](`document.dispatchEvent(new KeyboardEvent("keydown", {key: "/", bubbles: true}))`))
	b.says("the search to have the focus", `document.activeElement?.name === "q"`)
	b.click("#list tbody .copy")
	b.says("the id to be copied", `document.querySelector("#list tbody .copy.done")`)

	b.click(`a[rel="next"]`)
	b.says("the second page", `document.querySelector(".pages")?.innerText.includes("Rows 41–55")`)
	at := get(b, chromedp.Location())
	b.click("#list tbody a")
	b.await("#fields")
	b.run(chromedp.NavigateBack())
	b.says("the page as it was", `document.querySelector(".pages")?.innerText.includes("Rows 41–55")`)
	if back := get(b, chromedp.Location()); back != at {
		t.Errorf("back at %s, want %s", back, at)
	}
	b.quiet("the pages")
}

// On a phone the list is sorted like on a desk, and says what it is sorted by. What
// works is not shown like what fails.
func TestConsoleSortedOnPhone(t *testing.T) {
	p, b := startConsole(t, nil), start(t)
	p.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Status: 503, Times: 1})
	path := p.AdminURL + "/api/v1/sessions/" + larktest.AppID + "/" + larktest.Alice + "/refresh"
	process.Do(t, process.NewRequest(t, "POST", path, "", "", "Authorization", "Bearer "+consoleKey))
	b.as("en-US", "light", 390, 844)
	b.signIn(p)
	b.open(p.AdminURL + "/sessions")
	if got := b.text("#list tbody tr .warn"); !strings.HasPrefix(got, "Refreshing failed") {
		t.Errorf("what fails is shown as %q", got)
	}
	if n := get(b, chromedp.Evaluate[int](`document.querySelectorAll("#list tbody .warn").length`)); n != 1 {
		t.Errorf("%d sessions seem to fail", n)
	}
	b.click("#list thead .k-ends a")
	b.says("the list to be sorted by the end", `document.querySelector('#list thead .k-ends[aria-sort="ascending"]')`)
	if got := b.text("#list tbody tr"); !strings.Contains(got, "End: in 6 days") || strings.Contains(got, "Changed") {
		t.Errorf("sorted by the end: %q", got)
	}
	b.shoot("console-sorted-phone")
	b.click("#list thead .k-time a")
	b.says("the list to be sorted by the change", `document.querySelector('#list thead .k-time[aria-sort="descending"]')`)
	if got := b.text("#list tbody tr"); !strings.Contains(got, "Changed: ") || strings.Contains(got, "End: ") {
		t.Errorf("sorted by the change: %q", got)
	}
	b.quiet("the pages")
}

// The key is asked for nowhere when there is none.
func TestConsoleOpen(t *testing.T) {
	p, b := startConsole(t, map[string]string{"ADMIN_KEY": ""}), start(t)
	b.open(p.AdminURL + "/sessions/" + larktest.AppID + "/" + larktest.Alice)
	b.click(`form[action$="/refresh"] button`)
	b.await(".notice.good")
	b.quiet("the page")
}

// accessibility is what a page looks like to those who can't see it, or use keys.
type accessibility struct{ Problems []string }

const accessibilityScript = `(() => {
	const problems = [], shown = e => e.checkVisibility() && e.getBoundingClientRect().width > 1;
	const name = e => (e.getAttribute("aria-label") || e.innerText || e.labels?.[0]?.innerText || e.textContent || "").trim();
	if (document.querySelectorAll("h1").length !== 1) problems.push("not one h1");
	for (const l of ["header", "main", "footer"]) if (document.querySelectorAll(l).length !== 1) problems.push("not one " + l);
	for (const e of document.querySelectorAll("a[href], button, input:not([type=hidden]), select, summary"))
		if (shown(e) && !name(e)) problems.push("no name: " + e.outerHTML.slice(0, 120));
	for (const e of document.querySelectorAll("button, .button, select, input:not([type=hidden])"))
		if (shown(e) && e.getBoundingClientRect().height < 24) problems.push("small: " + e.outerHTML.slice(0, 120));
	let level = 1;
	for (const h of document.querySelectorAll("h1, h2, h3, h4")) { const n = +h.tagName[1]; if (n > level + 1) problems.push("skips to " + h.tagName); level = n; }
	for (const e of document.querySelectorAll("[aria-labelledby]")) if (!document.getElementById(e.getAttribute("aria-labelledby"))) problems.push("labelled by nothing");
	for (const e of document.querySelectorAll("main *")) { const r = e.getBoundingClientRect(); if (shown(e) && !e.closest("svg") && r.right > innerWidth + 1) problems.push("sticks out: " + e.outerHTML.slice(0, 120)); }
	// A phone has no pointer to rest on what is cut, so only names are.
	if (innerWidth < 768) for (const e of document.querySelectorAll("main *"))
		if (shown(e) && getComputedStyle(e).overflowX === "hidden" && e.scrollWidth > e.clientWidth + 1 && !e.closest(".who > a, thead, svg")) problems.push("cut: " + e.outerHTML.slice(0, 120));
	document.querySelector(".skip").focus();
	if (getComputedStyle(document.querySelector(".skip")).outlineStyle === "none" && document.querySelector(".skip").matches(":focus-visible")) problems.push("the focus is not seen");
	document.activeElement.blur();
	return { Problems: problems };
})()`

// Every page in both languages, light and dark, on a phone and on a desk.
func TestConsolePages(t *testing.T) {
	p, b := startConsole(t, nil), start(t)
	life(t, p)
	b.as("en-US", "light", 1280, 800)
	b.open(p.AdminURL + "/login")
	for _, lang := range []string{"zh-CN", "en"} {
		for _, theme := range []string{"light", "dark"} {
			b.as(lang, theme, 360, 740)
			b.open(p.AdminURL + "/login")
			b.decent(p, lang)
			b.shoot(fmt.Sprintf("console-login-%s-%s-360", lang, theme))
		}
	}
	b.signIn(p)
	pages := map[string]string{
		"overview": "/", "sessions": "/sessions", "none": "/sessions?q=nobody", "session": "/sessions/" + larktest.AppID + "/" + larktest.Carol,
		"lost": "/sessions/" + larktest.AppID + "/ou_idle", "consents": "/consents", "audit": "/audit", "errors": "/errors",
		"revoke": "/sessions/" + larktest.AppID + "/" + larktest.Alice + "/revoke", "trouble": "/nothing",
	}
	for name, path := range pages {
		for _, lang := range []string{"zh-CN", "en"} {
			for _, theme := range []string{"light", "dark"} {
				for _, width := range []int64{360, 1280} {
					t.Run(fmt.Sprintf("%s/%s/%s/%d", name, lang, theme, width), func(t *testing.T) {
						b := &browser{t: t, ctx: b.ctx}
						b.as(lang, theme, width, 800)
						b.open(p.AdminURL + path)
						b.decent(p, lang)
						if *keep != "" { // eighty pictures take a minute
							b.shoot(fmt.Sprintf("console-%s-%s-%s-%d", name, lang, theme, width))
						}
					})
				}
			}
		}
	}
	b.quiet("the pages")
}

// life makes something happen that pages can show.
func life(t *testing.T, p *process.Process) {
	t.Helper()
	for _, user := range []string{larktest.Alice, larktest.Alice, larktest.Bob, larktest.Carol, "ou_5f3b8a0c9e7d6b2a1f4e8d7c6b5a4938", "ou_stranger", "ou_other"} {
		p.Get(t, records, user)
	}
	p.Get(t, "/open-apis/im/v1/chats", larktest.Alice)
	name := "<script>alert(1)</script> \u202e" + strings.Repeat("W", 60)
	if err := p.Lark.UpdateUser(larktest.Carol, func(u *larktest.User) { u.Name = name }); err != nil {
		t.Fatal(err)
	}
	admin := func(method, path string) {
		if a := process.Do(t, process.NewRequest(t, method, p.AdminURL+"/api/v1"+path, "", "", "Authorization", "Bearer "+consoleKey)); a.Status >= 300 {
			t.Fatalf("%s %s: %d %s", method, path, a.Status, a.Body)
		}
	}
	answer := func(user string, how func(link, openID string) error, as, card string) {
		if err := how(p.Link(t, records, user), as); err != nil {
			t.Fatal(err)
		}
		process.AwaitCard(t, p.Lark, user, card)
	}
	answer("ou_granted", p.Lark.Approve, "ou_granted", "Authorized")
	answer("ou_declines", p.Lark.Decline, "ou_declines", "You declined")
	answer("ou_lends", p.Lark.Approve, "ou_borrows", "Someone else's account")
	admin("POST", "/users/sync")
	admin("POST", "/sessions/"+larktest.AppID+"/"+larktest.Bob+"/refresh")
	admin("DELETE", "/sessions/"+larktest.AppID+"/ou_idle")
	p.Lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Status: 503, Times: 1})
	process.Do(t, process.NewRequest(t, "POST", p.AdminURL+"/api/v1/sessions/"+larktest.AppID+"/"+larktest.Alice+"/refresh", "", "", "Authorization", "Bearer "+consoleKey))
}

// decent checks what holds for every page.
func (b *browser) decent(p *process.Process, lang string) {
	b.t.Helper()
	l := b.look()
	if l.Lang != lang || l.Title != l.Heading+" · Larkside" || l.Heading == "" {
		b.t.Errorf("lang=%q, title %q, heading %q", l.Lang, l.Title, l.Heading)
	}
	if l.Wide {
		b.t.Error("the page scrolls sideways")
	}
	if l.Contrast < 4.5 || l.Smallest < 14 {
		b.t.Errorf("contrast %.2f, smallest text %gpx", l.Contrast, l.Smallest)
	}
	if slices.ContainsFunc(l.Foreign, func(url string) bool { return !strings.HasPrefix(url, p.AdminURL+"/") }) {
		b.t.Errorf("loaded from elsewhere: %v", l.Foreign)
	}
	for _, problem := range get(b, chromedp.Evaluate[accessibility](accessibilityScript)).Problems {
		b.t.Error(problem)
	}
}
