package larktest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// The control API steers an emulator from another process. Everything is JSON;
// a failure is {"error": "…"} with 400, 404 or 409. Names and values are those
// of the Go types. GET /larktest/ lists the routes.
//
// It is as open as the emulator itself: whoever reaches the port may grant,
// read and break everything.

// command is a control route.
type command struct {
	pattern, help string
	run           func(p *Platform, r *http.Request) (any, error)
}

var commands = []command{
	{"GET /larktest/summary", "the ledger in numbers", func(p *Platform, _ *http.Request) (any, error) { return p.Summary(), nil }},
	{"GET /larktest/ledger", "tokens issued: ?open_id=", func(p *Platform, r *http.Request) (any, error) {
		return items(p.Ledger(r.URL.Query().Get("open_id")))
	}},
	{"GET /larktest/calls", "requests seen: ?endpoint= ?owner= ?last=N", controlCalls},
	{"GET /larktest/violations", "what clients must not do: ?kind=", controlViolations},
	{"GET /larktest/messages", "?open_id=; with ?min=N and ?wait=10s it waits for N of them", controlMessages},
	{"GET /larktest/devices", "device authorizations", func(p *Platform, _ *http.Request) (any, error) { return items(p.Devices()) }},
	{"GET /larktest/switches", "positions of the Switches", controlSwitches},
	{"PATCH /larktest/switches", "change fields of Switches", controlPatchSwitches},
	{"GET /larktest/apps", "apps, without secrets", controlApps},
	{"PATCH /larktest/apps/{app}", "change fields of an App", controlPatchApp},
	{"GET /larktest/users", "users", controlUsers},
	{"POST /larktest/users", "add a User; answers open_id", controlAddUser},
	{"PATCH /larktest/users/{user}", "change fields of a User", controlPatchUser},
	{"POST /larktest/approve", `device: {"code","open_id"}; code may be the user code or the link`, controlDevice((*Platform).Approve)},
	{"POST /larktest/decline", "the same", controlDevice((*Platform).Decline)},
	{"POST /larktest/consent", `authorize page: {"url","open_id"}; answers redirect`, controlLink((*Platform).Consent)},
	{"POST /larktest/refuse", "the same", controlLink((*Platform).Refuse)},
	{"POST /larktest/grant", `{"app_id","open_id","scopes"}; answers tokens; with "endpoint":"v3" as that one issues them`, controlGrant},
	{"POST /larktest/expire", `{"open_id","kinds":["user_access_token","refresh_token"]}`, controlTokens((*Platform).Expire)},
	{"POST /larktest/revoke", `the same; with "by":"user" the app also gets the event`, controlRevoke},
	{"POST /larktest/tenant_tokens/end", `{"app_id"}: refuse those that are out; with "sticky":true fetches bring the same one`, controlEndTenantTokens},
	{"POST /larktest/click", `{"message_id","button":0,"open_id"}`, controlClick},
	{"POST /larktest/events", "an Event to the app's events URL or long connection; answers status and body", controlEvent},
	{"GET /larktest/long_connections", "those that are open: ?app_id=", func(p *Platform, r *http.Request) (any, error) {
		return items(p.LongConnections(r.URL.Query().Get("app_id")))
	}},
	{"DELETE /larktest/long_connections", "cut them: ?app_id=; answers cut", func(p *Platform, r *http.Request) (any, error) {
		return map[string]int{"cut": p.CutLongConnections(r.URL.Query().Get("app_id"))}, nil
	}},
	{"GET /larktest/faults", "those in force", controlFaults},
	{"POST /larktest/faults", `a Fault, with delay as "1.5s"; answers id`, controlAddFault},
	{"POST /larktest/faults/{id}/release", "let go of what it holds", controlFault((*Injection).Release)},
	{"DELETE /larktest/faults/{id}", "end it", controlFault((*Injection).Remove)},
	{"DELETE /larktest/faults", "end all", func(p *Platform, _ *http.Request) (any, error) { p.ClearFaults(); return done, nil }},
}

var done = map[string]bool{"ok": true}

// errNotFound is a control route's 404.
var errNotFound = errors.New("not found")

func (p *Platform) addControl(mux *http.ServeMux) {
	help := map[string]string{}
	for _, c := range commands {
		help[c.pattern] = c.help
		mux.HandleFunc(c.pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			result, err := c.run(p, r)
			answerControl(w, result, err)
		})
	}
	mux.HandleFunc("GET /larktest/{$}", func(w http.ResponseWriter, _ *http.Request) { answerControl(w, help, nil) })
}

func answerControl(w http.ResponseWriter, result any, err error) {
	status := http.StatusOK
	switch {
	case err == nil:
	case errors.Is(err, errNotFound), errors.Is(err, ErrNoUser), errors.Is(err, ErrNoApp), errors.Is(err, ErrNoDevice), errors.Is(err, ErrNoMessage):
		status = http.StatusNotFound
	case errors.Is(err, ErrRefused), errors.Is(err, ErrNoEvents):
		status = http.StatusConflict
	default:
		status = http.StatusBadRequest
	}
	if err != nil {
		result = map[string]string{"error": err.Error()}
	}
	w.Header().Set("Content-Type", jsonType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.Encode(result)
}

// items is how lists are answered, empty ones included.
func items[T any](list []T) (any, error) {
	if list == nil {
		list = []T{}
	}
	return map[string][]T{"items": list}, nil
}

func readControl(r *http.Request, into any) error {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	return nil
}

// patch changes the fields that the body names. The body is read before
// anything is locked.
func patch[T any](r *http.Request, update func(func(*T)) error) (any, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	var bad error
	err = update(func(v *T) {
		changed := *v
		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.DisallowUnknownFields()
		if bad = decoder.Decode(&changed); bad == nil {
			*v = changed
		}
	})
	return done, errors.Join(err, bad)
}

func controlCalls(p *Platform, r *http.Request) (any, error) {
	query := r.URL.Query()
	calls := p.Calls(func(c Call) bool {
		return (query.Get("endpoint") == "" || query.Get("endpoint") == string(c.Endpoint)) && (query.Get("owner") == "" || query.Get("owner") == c.Owner)
	})
	if last := number(query.Get("last"), len(calls)); last >= 0 && last < len(calls) {
		calls = calls[len(calls)-last:]
	}
	return items(calls)
}

func controlViolations(p *Platform, r *http.Request) (any, error) {
	var kinds []ViolationKind
	for _, kind := range r.URL.Query()["kind"] {
		kinds = append(kinds, ViolationKind(kind))
	}
	return items(p.Violations(kinds...))
}

// shownMessage adds what a script wants of a card.
type shownMessage struct {
	Message
	Links   []string `json:"links"`
	Buttons []Button `json:"buttons"`
}

func controlMessages(p *Platform, r *http.Request) (any, error) {
	query := r.URL.Query()
	openID := query.Get("open_id")
	if wait, err := time.ParseDuration(query.Get("wait")); err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), wait)
		defer cancel()
		// Running out of time is no failure: the caller sees how many came.
		p.Wait(ctx, func() bool { return len(p.Messages(openID)) >= number(query.Get("min"), 1) })
	}
	var shown []shownMessage
	for _, m := range p.Messages(openID) {
		shown = append(shown, shownMessage{m, m.Links(), m.Buttons()})
	}
	return items(shown)
}

func controlApps(p *Platform, _ *http.Request) (any, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var apps []App
	for _, id := range p.appOrder {
		app := *p.apps[id]
		app.Secret, app.EncryptKey, app.VerificationToken = "", "", ""
		app.Scopes, app.UserScopes, app.TenantScopes = slices.Clone(app.Scopes), slices.Clone(app.UserScopes), slices.Clone(app.TenantScopes)
		app.RedirectURIs, app.AllowIPs = slices.Clone(app.RedirectURIs), slices.Clone(app.AllowIPs)
		apps = append(apps, app)
	}
	return items(apps)
}

func controlPatchApp(p *Platform, r *http.Request) (any, error) {
	return patch(r, func(change func(*App)) error { return p.UpdateApp(r.PathValue("app"), change) })
}

func controlUsers(p *Platform, _ *http.Request) (any, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var users []User
	for _, u := range p.users {
		c := *u
		c.Unavailable, c.OpenIDs = slices.Clone(u.Unavailable), maps.Clone(u.OpenIDs)
		users = append(users, c)
	}
	return items(users)
}

func controlAddUser(p *Platform, r *http.Request) (any, error) {
	var user User
	if err := readControl(r, &user); err != nil {
		return nil, err
	}
	return map[string]string{"open_id": p.AddUser(user)}, nil
}

func controlPatchUser(p *Platform, r *http.Request) (any, error) {
	return patch(r, func(change func(*User)) error { return p.UpdateUser(r.PathValue("user"), change) })
}

func controlDevice(decide func(*Platform, string, string) error) func(*Platform, *http.Request) (any, error) {
	return func(p *Platform, r *http.Request) (any, error) {
		var in struct {
			Code   string `json:"code"`
			OpenID string `json:"open_id"`
		}
		if err := readControl(r, &in); err != nil {
			return nil, err
		}
		return done, decide(p, in.Code, in.OpenID)
	}
}

func controlLink(answer func(*Platform, string, string) (string, error)) func(*Platform, *http.Request) (any, error) {
	return func(p *Platform, r *http.Request) (any, error) {
		var in struct {
			URL    string `json:"url"`
			OpenID string `json:"open_id"`
		}
		if err := readControl(r, &in); err != nil {
			return nil, err
		}
		redirect, err := answer(p, in.URL, in.OpenID)
		return map[string]string{"redirect": redirect}, err
	}
}

func controlGrant(p *Platform, r *http.Request) (any, error) {
	var in struct {
		AppID  string   `json:"app_id"`
		OpenID string   `json:"open_id"`
		Scopes []string `json:"scopes"`
		// Endpoint is v2 (default) or v3.
		Endpoint string `json:"endpoint"`
	}
	if err := readControl(r, &in); err != nil {
		return nil, err
	}
	setString(&in.AppID, p.defaultApp())
	grant := p.Grant
	if in.Endpoint == "v3" {
		grant = p.GrantV3
	}
	tokens, err := grant(in.AppID, in.OpenID, in.Scopes...)
	return map[string]any{
		"access_token": tokens.AccessToken, "expires_in": seconds(tokens.ExpiresIn), "scope": tokens.Scope,
		"refresh_token": tokens.RefreshToken, "refresh_token_expires_in": seconds(tokens.RefreshExpiresIn),
	}, err
}

// defaultApp is the app of requests that name none.
func (p *Platform) defaultApp() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.firstApp()
}

func controlEndTenantTokens(p *Platform, r *http.Request) (any, error) {
	var in struct {
		AppID  string `json:"app_id"`
		Sticky bool   `json:"sticky"`
	}
	if err := readControl(r, &in); err != nil {
		return nil, err
	}
	setString(&in.AppID, p.defaultApp())
	if in.Sticky {
		return done, p.SpoilTenantTokens(in.AppID)
	}
	return done, p.EndTenantTokens(in.AppID)
}

// tokenRequest names tokens of a user.
type tokenRequest struct {
	OpenID string `json:"open_id"`
	Kinds  []Kind `json:"kinds"`
	By     string `json:"by"`
}

func controlTokens(change func(*Platform, string, ...Kind) error) func(*Platform, *http.Request) (any, error) {
	return func(p *Platform, r *http.Request) (any, error) {
		var in tokenRequest
		if err := readControl(r, &in); err != nil {
			return nil, err
		}
		return done, change(p, in.OpenID, in.Kinds...)
	}
}

func controlRevoke(p *Platform, r *http.Request) (any, error) {
	var in tokenRequest
	if err := readControl(r, &in); err != nil {
		return nil, err
	}
	if in.By == "" {
		return done, p.Revoke(in.OpenID, in.Kinds...)
	}
	reply, err := p.SendRevoked(r.Context(), in.OpenID, in.By, in.Kinds...)
	return shownReply(reply), err
}

func shownReply(reply EventReply) map[string]any {
	return map[string]any{"status": reply.Status, "body": string(reply.Body), "took_ms": reply.Took.Milliseconds()}
}

func controlClick(p *Platform, r *http.Request) (any, error) {
	var in struct {
		MessageID string `json:"message_id"`
		Button    int    `json:"button"`
		OpenID    string `json:"open_id"`
	}
	if err := readControl(r, &in); err != nil {
		return nil, err
	}
	click := func() (EventReply, error) { return p.Click(r.Context(), in.MessageID, in.Button) }
	if in.OpenID != "" {
		click = func() (EventReply, error) { return p.ClickAs(r.Context(), in.MessageID, in.Button, in.OpenID) }
	}
	reply, err := click()
	return shownReply(reply), err
}

func controlEvent(p *Platform, r *http.Request) (any, error) {
	var event Event
	if err := readControl(r, &event); err != nil {
		return nil, err
	}
	reply, err := p.SendEvent(r.Context(), event)
	return shownReply(reply), err
}

// shownFault is a fault with its state.
type shownFault struct {
	ID   int `json:"id"`
	Hits int `json:"hits"`
	Fault
	Delay string `json:"delay,omitempty"`
}

func controlFaults(p *Platform, _ *http.Request) (any, error) {
	var shown []shownFault
	for _, i := range p.Faults() {
		line := shownFault{ID: i.ID(), Hits: i.Hits(), Fault: i.Fault}
		if i.Fault.Delay > 0 {
			line.Delay = i.Fault.Delay.String()
		}
		shown = append(shown, line)
	}
	return items(shown)
}

func controlAddFault(p *Platform, r *http.Request) (any, error) {
	var in struct {
		Fault
		Delay string `json:"delay"`
	}
	if err := readControl(r, &in); err != nil {
		return nil, err
	}
	if in.Delay != "" {
		delay, err := time.ParseDuration(in.Delay)
		if err != nil {
			return nil, fmt.Errorf("delay: %w", err)
		}
		in.Fault.Delay = delay
	}
	return map[string]int{"id": p.Fault(in.Fault).ID()}, nil
}

func controlFault(do func(*Injection)) func(*Platform, *http.Request) (any, error) {
	return func(p *Platform, r *http.Request) (any, error) {
		id, _ := strconv.Atoi(r.PathValue("id"))
		for _, i := range p.Faults() {
			if i.ID() == id {
				do(i)
				return done, nil
			}
		}
		return nil, fmt.Errorf("fault %q: %w", r.PathValue("id"), errNotFound)
	}
}
