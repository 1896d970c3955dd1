package larktest

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Endpoint groups routes for faults and the ledger.
type Endpoint string

const (
	TokenEndpoint   Endpoint = "token"        // both OAuth token endpoints
	DeviceEndpoint  Endpoint = "device"       // device_authorization
	RevokeEndpoint  Endpoint = "revoke"       // oauth/v1/revoke
	TenantEndpoint  Endpoint = "tenant_token" // auth/v3/{tenant,app}_access_token/internal
	UserInfo        Endpoint = "user_info"
	MessageSend     Endpoint = "messages"       // create and reply
	MessageUpdate   Endpoint = "message_update" // PATCH
	ContactEndpoint Endpoint = "contact"
	AppEndpoint     Endpoint = "app"    // bot/v3/info, application/v6/applications/:app_id
	EventsEndpoint  Endpoint = "events" // the long connection: bootstrap and handshake
	MCPEndpoint     Endpoint = "mcp"    // the remote MCP server
	API             Endpoint = "api"    // every other /open-apis/ route
	Unknown         Endpoint = "unknown"
	Any             Endpoint = "" // in a Fault: each of them
)

// Fault is one misbehaviour. The first group of fields says which requests it
// strikes, the second what happens to them. Fields of the second group combine
// in the order in which they stand.
type Fault struct {
	Endpoint Endpoint `json:"endpoint,omitempty"`
	// AppID, OpenID and Grant (an OAuth grant_type, or the end of one, such as
	// "device_code") narrow it; Path is a prefix of the escaped path. OpenID
	// is the owner of the token, code or device code that the request carries,
	// or the recipient of a message.
	AppID  string `json:"app_id,omitempty"`
	OpenID string `json:"open_id,omitempty"`
	Grant  string `json:"grant_type,omitempty"`
	Path   string `json:"path,omitempty"`
	// Match narrows it further; it must not call the Platform.
	Match func(*http.Request) bool `json:"-"`
	// Skip lets that many matching requests pass first; then Times (0 means
	// once, negative for ever) are struck.
	Skip  int `json:"skip,omitempty"`
	Times int `json:"times,omitempty"`

	// Delay waits before anything else; Hang until [Injection.Release]. A
	// request whose client gives up meanwhile is not processed.
	Delay time.Duration `json:"delay,omitempty"`
	Hang  bool          `json:"hang,omitempty"`
	// Processed lets Lark do the work first (a rotation takes place, a message
	// is sent) and spoils only the answer. Without it, Drop, Status, Code and
	// Body mean that nothing was done.
	Processed bool `json:"processed,omitempty"`
	// HangAnswer holds a processed answer back as Hang does the request.
	HangAnswer bool `json:"hang_answer,omitempty"`
	// Drop cuts the connection instead of answering.
	Drop bool `json:"drop,omitempty"`
	// Code answers Lark's error of that number, with its words and HTTP status
	// unless Msg and Status are set. 99991400 brings x-ogw-ratelimit-reset,
	// 99991679 the route's scopes. 99991668 has two meanings: without Msg it
	// is the invalid token, with "user access token not support" the other.
	Code int    `json:"code,omitempty"`
	Msg  string `json:"msg,omitempty"`
	// Status alone answers a non-JSON page of that status; with Body, that.
	Status int    `json:"status,omitempty"`
	Body   string `json:"body,omitempty"`
	// Header is added to the answer.
	Header map[string]string `json:"header,omitempty"`
	// Set and Omit change the fields of a processed answer: absurd lifetimes
	// are Set{"expires_in": -1}, a missing token is Omit{"access_token"}.
	Set  map[string]any `json:"set,omitempty"`
	Omit []string       `json:"omit,omitempty"`
	// ContentType replaces the answer's; Truncate cuts its JSON in half (and
	// with Drop the connection after it); Pad makes it that many bytes longer.
	ContentType string `json:"content_type,omitempty"`
	Truncate    bool   `json:"truncate,omitempty"`
	Pad         int    `json:"pad,omitempty"`
}

// Injection is a Fault in force.
type Injection struct {
	Fault
	id      int
	p       *Platform
	skip    int           // guarded by p.mu
	left    int           // guarded by p.mu; negative: for ever
	hits    int           // guarded by p.mu
	release chan struct{} // closed by Release
	once    sync.Once
}

// Fault puts f in force. Faults are tried in the order in which they were
// added; a request is struck by the first that matches.
func (p *Platform) Fault(f Fault) *Injection {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faultSeq++
	i := &Injection{Fault: f, id: p.faultSeq, p: p, skip: f.Skip, left: f.Times, release: make(chan struct{})}
	if i.left == 0 {
		i.left = 1
	}
	p.faults = append(p.faults, i)
	return i
}

// ID is the number by which the control API knows it.
func (i *Injection) ID() int { return i.id }

// Hits counts the requests it struck.
func (i *Injection) Hits() int {
	i.p.mu.Lock()
	defer i.p.mu.Unlock()
	return i.hits
}

// Await returns nil once n requests were struck.
func (i *Injection) Await(ctx context.Context, n int) error {
	return i.p.Wait(ctx, func() bool { return i.Hits() >= n })
}

// Release lets go of every request that it holds and of those to come. The
// fault stays in force otherwise; [Injection.Remove] ends it.
func (i *Injection) Release() { i.once.Do(func() { close(i.release) }) }

// Remove ends the fault and releases what it holds.
func (i *Injection) Remove() {
	i.Release()
	i.p.mu.Lock()
	defer i.p.mu.Unlock()
	i.p.faults = slices.DeleteFunc(i.p.faults, func(other *Injection) bool { return other == i })
}

// ClearFaults removes every fault.
func (p *Platform) ClearFaults() {
	for _, i := range p.Faults() {
		i.Remove()
	}
}

// Faults returns the faults in force, spent ones included.
func (p *Platform) Faults() []*Injection {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.faults)
}

// strike finds the fault for a request and counts it.
func (p *Platform) strike(x *exchange) *Injection {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, i := range p.faults {
		if i.left == 0 || !p.hitBy(x, &i.Fault) {
			continue
		}
		if i.skip > 0 {
			i.skip--
			continue
		}
		if i.left > 0 {
			i.left--
		}
		i.hits++
		p.touch()
		p.log.Info("fault", "id", i.id, "endpoint", x.route.endpoint, "log_id", x.logID)
		return i
	}
	return nil
}

func (p *Platform) hitBy(x *exchange, f *Fault) bool {
	if f.Endpoint != Any && f.Endpoint != x.route.endpoint || !strings.HasPrefix(x.call.Path, f.Path) {
		return false
	}
	if f.Grant != "" && !strings.HasSuffix(x.form.Get("grant_type"), f.Grant) {
		return false
	}
	if f.AppID != "" || f.OpenID != "" {
		app, openID := p.concerns(x)
		if f.AppID != "" && f.AppID != app || f.OpenID != "" && f.OpenID != openID {
			return false
		}
	}
	return f.Match == nil || f.Match(x.r)
}

// concerns says which app and user a request is about.
func (p *Platform) concerns(x *exchange) (app, openID string) {
	who := identity{app: x.form.Get("client_id")}
	switch {
	case x.route.endpoint == MessageSend || x.route.endpoint == MessageUpdate:
		return x.call.AppID, p.recipient(x)
	case x.token != nil:
		who = x.token.who
	case x.form.Get("refresh_token") != "":
		if t := p.find(x.form.Get("refresh_token")); t != nil {
			who = t.who
		}
	case x.form.Get("code") != "":
		if c := p.codes[x.form.Get("code")]; c != nil {
			who = c.who
		}
	case x.form.Get("device_code") != "":
		if d := p.devices[x.form.Get("device_code")]; d != nil {
			who = identity{d.app, d.user}
		}
	}
	if who.user == nil {
		return who.app, ""
	}
	return who.app, p.openID(who.app, who.user)
}

// before runs what comes ahead of processing. A request whose client gave up
// meanwhile is not processed: to have it processed, use HangAnswer.
func (i *Injection) before(p *Platform, x *exchange) {
	if i.Delay > 0 && !p.sleep(x, i.Delay) || i.Hang && !i.hold(p, x) {
		panic(http.ErrAbortHandler)
	}
	if i.Drop && !i.Processed && !i.Truncate {
		panic(http.ErrAbortHandler)
	}
}

// hold waits for Release and reports whether it came.
func (i *Injection) hold(p *Platform, x *exchange) bool {
	select {
	case <-i.release:
		return true
	case <-x.r.Context().Done():
	case <-p.closed:
	}
	return false
}

// replaces says whether the fault answers by itself, with nothing done.
func (i *Injection) replaces() bool {
	return i != nil && !i.Processed && !i.HangAnswer && (i.Code != 0 || i.Status != 0 || i.Body != "")
}

// spoils says whether a processed answer is changed.
func (i *Injection) spoils() bool {
	return i.Processed || i.HangAnswer || i.Set != nil || i.Omit != nil || i.ContentType != "" || i.Truncate || i.Pad > 0 || i.Header != nil
}

// answer is what a replacing fault says: Lark's error in the endpoint's own
// shape, or a page of a gateway in front of Lark.
func (i *Injection) answer(x *exchange) answer {
	var a answer
	switch {
	case i.Code == 99991400:
		a = x.rateLimited(1)
	case i.Code != 0 && x.route.oauth:
		a = oauthError(i.Code, "injected")
	case i.Code != 0:
		a = x.refuse(i.Code)
	default:
		a = i.page()
	}
	if i.Status != 0 {
		a.status = i.Status
	}
	if i.Msg != "" && a.raw == nil {
		a.body = a.body.set("msg", i.Msg)
	}
	return i.adorn(a)
}

func (i *Injection) page() answer {
	a := answer{status: http.StatusOK, raw: []byte(i.Body), contentType: i.ContentType}
	if i.Body == "" {
		a.raw = []byte("<html><head><title>" + http.StatusText(i.Status) + "</title></head><body>larktest: injected</body></html>")
	}
	if a.contentType == "" {
		a.contentType = "text/html"
		if json.Valid(a.raw) {
			a.contentType = jsonType
		}
	}
	return a
}

func (i *Injection) adorn(a answer) answer {
	if len(i.Header) > 0 && a.header == nil {
		a.header = http.Header{}
	}
	for name, value := range i.Header {
		a.header.Set(name, value)
	}
	return a
}

// spoil sends a processed answer as the fault wants it. A pair of tokens in an
// answer that can't be used as it stands counts as unanswered.
func (p *Platform) spoil(x *exchange, i *Injection, a answer) {
	delivered := i.readable()
	if i.HangAnswer {
		delivered = i.hold(p, x) && delivered
	}
	if !delivered {
		p.settle(a, false)
		a.done = nil
	}
	switch {
	case i.Drop && !i.Truncate:
		panic(http.ErrAbortHandler)
	case i.Code != 0 || i.Status != 0 || i.Body != "":
		a = i.answer(x)
	default:
		a = i.bend(a)
	}
	p.write(x, a)
	if i.Drop {
		panic(http.ErrAbortHandler)
	}
}

// readable says whether a client can still use what was processed.
func (i *Injection) readable() bool {
	for _, name := range i.Omit {
		if name == "access_token" || name == "refresh_token" {
			return false
		}
	}
	return !(i.Drop || i.Status != 0 || i.Code != 0 || i.Body != "" || i.Truncate || i.Pad > 0 || i.ContentType != "")
}

// bend changes fields and bytes of an answer.
func (i *Injection) bend(a answer) answer {
	for _, name := range i.Omit {
		a.body = a.body.drop(name)
	}
	for _, name := range slices.Sorted(maps.Keys(i.Set)) {
		a.body = a.body.set(name, i.Set[name])
	}
	if i.Pad > 0 {
		a.body = a.body.set("padding", strings.Repeat("x", i.Pad))
	}
	a.contentType = i.ContentType
	if i.Truncate {
		whole, _ := json.Marshal(a.body)
		a.raw = whole[:len(whole)/2]
	}
	return i.adorn(a)
}
