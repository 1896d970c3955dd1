package larktest

import (
	"crypto/rand"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// authorization is a request to the authorize page that passed its checks.
type authorization struct {
	app         *App
	redirectURI string
	state       string
	scopes      []string
	challenge   string
	method      string
	prompt      string
}

// pageProblem is shown to the person; such errors never reach redirect_uri.
type pageProblem struct {
	code   int
	detail string
}

// challengeShape is RFC 7636 section 4.2.
var challengeShape = regexp.MustCompile(`^[A-Za-z0-9\-._~]{43,128}$`)

// authorization checks the query of an authorize link. It is called with mu
// held.
func (p *Platform) authorization(query url.Values) (authorization, *pageProblem) {
	a := authorization{
		app: p.apps[query.Get("client_id")], redirectURI: query.Get("redirect_uri"), state: query.Get("state"), prompt: query.Get("prompt"),
		scopes: strings.Fields(query.Get("scope")), challenge: query.Get("code_challenge"), method: query.Get("code_challenge_method"),
	}
	for name, values := range query {
		if len(values) > 1 {
			return a, &pageProblem{20063, name + " is given twice"}
		}
	}
	setString(&a.method, "plain")
	switch {
	case query.Get("client_id") == "":
		return a, &pageProblem{20001, "client_id"}
	case a.app == nil:
		return a, &pageProblem{20048, query.Get("client_id")}
	case a.app.Disabled, a.app.Unpublished:
		return a, &pageProblem{20069, ""}
	case a.app.NotInstalled:
		return a, &pageProblem{20009, ""}
	case query.Get("response_type") != "code":
		return a, &pageProblem{20001, "response_type must be code"}
	case !slices.Contains(a.app.RedirectURIs, a.redirectURI):
		return a, &pageProblem{20029, a.redirectURI}
	case a.challenge != "" && (!challengeShape.MatchString(a.challenge) || a.method != "S256" && a.method != "plain"):
		return a, &pageProblem{20063, "code_challenge"}
	}
	return a, p.scopeProblem(a, query.Get("scope"))
}

// approve makes a code for the user and returns where the browser goes.
func (p *Platform) approve(a authorization, user *User) string {
	c := &code{
		who: identity{a.app.ID, user}, redirectURI: a.redirectURI, scopes: a.scopes,
		challenge: a.challenge, method: a.method, issued: p.now(),
	}
	text := rand.Text() + "-" + rand.Text() + "_" + rand.Text()
	p.forgetCodes()
	p.codes[text] = c
	p.touch()
	return a.redirect("code", text)
}

func (p *Platform) forgetCodes() {
	if len(p.codes)%1024 != 1023 {
		return
	}
	for text, c := range p.codes {
		if p.now().Sub(c.issued) > usedMemory {
			delete(p.codes, text)
		}
	}
}

// redirect adds a field and the state to redirect_uri. A fragment goes to the
// very end.
func (a authorization) redirect(name, value string) string {
	base, fragment, _ := strings.Cut(a.redirectURI, "#")
	query := url.Values{name: {value}}
	if a.state != "" {
		query.Set("state", a.state)
	}
	joint := "?"
	if strings.Contains(base, "?") {
		joint = "&"
	}
	target := base + joint + query.Encode()
	if fragment != "" {
		target += "#" + fragment
	}
	return target
}

// silently says whether Lark would send the browser on without a click: the
// user has granted all of it before and prompt=consent was not asked for.
func (p *Platform) silently(a authorization, user *User) bool {
	all := p.grants[identity{a.app.ID, user}]
	if a.prompt == "consent" || all == nil {
		return false
	}
	for _, s := range a.scopes {
		if s != "offline_access" && !slices.Contains(all.scopes, s) {
			return false
		}
	}
	return true
}

// Consent approves an authorize link as the user named by openID and returns
// the redirect to the app, with code and state. The error wraps ErrRefused
// when the page would show one of Lark's codes instead.
func (p *Platform) Consent(link, openID string) (redirect string, err error) {
	return p.answerLink(link, openID, true)
}

// Refuse declines an authorize link as the user named by openID and returns the
// redirect to the app, with error=access_denied and state.
func (p *Platform) Refuse(link, openID string) (redirect string, err error) {
	return p.answerLink(link, openID, false)
}

func (p *Platform) answerLink(link, openID string, yes bool) (string, error) {
	u, err := url.Parse(link)
	if err != nil {
		return "", fmt.Errorf("parse authorize link: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a, problem := p.authorization(u.Query())
	if problem != nil {
		return "", fmt.Errorf("authorize page shows %d (%s): %w", problem.code, problem.detail, ErrRefused)
	}
	user, known := p.whoAnywhere(a.app.ID, openID)
	if !known {
		return "", fmt.Errorf("consent as %q: %w", openID, ErrNoUser)
	}
	target, problem := p.answerPage(a, user, yes)
	if problem != nil {
		return "", fmt.Errorf("authorize page shows %d: %w", problem.code, ErrRefused)
	}
	return target, nil
}

func (p *Platform) answerPage(a authorization, user *User, yes bool) (string, *pageProblem) {
	if !yes {
		return a.redirect("error", "access_denied"), nil
	}
	if problem := userProblem(a.app.ID, user); problem != 0 {
		return "", &pageProblem{problem, user.Name}
	}
	return p.approve(a, user), nil
}
