package larktest

import (
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"time"
)

// device is one device authorization (RFC 8628).
type device struct {
	code, userCode string
	flowID         string
	app            string
	scopes         []string
	dropped        []string // asked for and not enabled on the app
	expires        time.Time
	interval       time.Duration
	polled         time.Time
	polls          int
	user           *User // who decided; nil until then
	declined       bool
	redeemed       bool
	answered       bool
}

// serveDevice starts a device authorization.
func serveDevice(p *Platform, x *exchange) answer {
	app, refused := p.client(x)
	if app == nil {
		return refused
	}
	if wait := p.admit("device "+app.ID, perSecond(50), perMinute(1000)); wait > 0 {
		return x.rateLimited(wait)
	}
	if app.Unpublished {
		return oauthError(20069, "")
	}
	kept, dropped, malformed := p.deviceScopes(app, x.form.Get("scope"))
	if malformed != nil {
		return *malformed
	}
	life := p.deviceLife()
	d := &device{
		code: rand.Text() + rand.Text(), userCode: newUserCode(), flowID: rand.Text(), app: app.ID, scopes: kept, dropped: dropped,
		expires: p.now().Add(life), interval: p.config.DeviceInterval,
	}
	p.forgetDevices()
	p.devices[d.code] = d
	p.touch()
	page := p.origin(x.r) + devicePagePath
	return ok(object{
		{"device_code", d.code}, {"user_code", d.userCode}, {"verification_uri", page},
		{"verification_uri_complete", page + "?" + url.Values{"flow_id": {d.flowID}, "user_code": {d.userCode}}.Encode()},
		{"expires_in", seconds(life)}, {"interval", seconds(d.interval)},
	})
}

// devicePagePath is where the user approves. [P] larksuite/cli#1004.
const devicePagePath = "/oauth/v1/device/verify"

// deviceLife is how long a link works: 240 s unless configured, and anything
// up to 600 s with RandomLives. [P] larksuite/cli#747: both were seen.
func (p *Platform) deviceLife() time.Duration {
	life := p.config.DeviceLife
	if p.config.RandomLives && life == defaultDeviceLife {
		life += mathrand.N(360*time.Second + 1).Truncate(time.Second)
	}
	return life
}

func newUserCode() string {
	text := rand.Text()
	return text[:4] + "-" + text[4:8]
}

func (p *Platform) forgetDevices() {
	if len(p.devices)%1024 != 1023 {
		return
	}
	for code, d := range p.devices {
		if p.now().Sub(d.expires) > usedMemory {
			delete(p.devices, code)
		}
	}
}

// poll answers the device_code grant.
func (p *Platform) poll(x *exchange, app *App) answer {
	d := p.devices[x.form.Get("device_code")]
	switch {
	case x.form.Get("device_code") == "":
		return oauthError(20001, "device_code")
	case d == nil:
		return rfcError("invalid_grant", "The device_code is not found.")
	case d.app != app.ID:
		return oauthError(20024, "")
	case d.redeemed:
		if d.answered {
			p.violate(x, CodeReplayed, identity{d.app, d.user}, "device code")
		}
		return rfcError("invalid_grant", "The device_code has already been used.")
	case !p.now().Before(d.expires):
		return rfcError("expired_token", "The device_code has expired.")
	case d.declined:
		return rfcError("access_denied", "The user declined.")
	case d.tooFast(p.now()):
		return rfcError("slow_down", "Polled faster than the interval, which is now "+d.interval.String()+".")
	case d.user == nil:
		return rfcError("authorization_pending", "The user has not decided yet.")
	}
	return p.redeemDevice(x, d)
}

// tooFast applies RFC 8628 section 3.5: each poll that comes early adds 5 s. A
// tenth of the interval, at most 200 ms, is forgiven, since the client's clock
// starts at our answer and ours at its request.
func (d *device) tooFast(now time.Time) bool {
	early := d.polls > 0 && now.Sub(d.polled) < d.interval-min(d.interval/10, 200*time.Millisecond)
	d.polls++
	d.polled = now
	if early {
		d.interval += 5 * time.Second
	}
	return early
}

func (p *Platform) redeemDevice(x *exchange, d *device) answer {
	if problem := userProblem(d.app, d.user); problem != 0 {
		return oauthError(problem, "")
	}
	d.redeemed = true
	g := p.newGrant(identity{d.app, d.user}, d.scopes)
	a := p.tokenAnswer(x, g, nil, "")
	if len(d.dropped) > 0 && p.switches.DroppedScopesHint {
		a.body = a.body.with("status_message", "not enabled on the app: "+strings.Join(d.dropped, " "))
	}
	a.done = func(delivered bool) { d.answered = delivered }
	return a
}

// decide records a user's word on a device authorization. It is called with
// mu held.
func (p *Platform) decide(code, openID string, approve bool) error {
	d := p.deviceFor(code)
	if d == nil {
		return fmt.Errorf("decide on %q: %w", code, ErrNoDevice)
	}
	user, known := p.whoAnywhere(d.app, openID)
	switch {
	case !known:
		return fmt.Errorf("decide on %q as %q: %w", code, openID, ErrNoUser)
	case !p.now().Before(d.expires):
		return fmt.Errorf("decide on %q: expired: %w", code, ErrRefused)
	case d.user != nil || d.declined:
		return fmt.Errorf("decide on %q: already decided: %w", code, ErrRefused)
	}
	d.user, d.declined = user, !approve
	p.touch()
	return nil
}

// whoAnywhere takes an open_id of any app: people, not ids, click.
func (p *Platform) whoAnywhere(app, openID string) (*User, bool) {
	if who, ok := p.byOpenID[openID]; ok {
		return who.user, true
	}
	return p.whoOpenID(app, openID)
}

// deviceFor finds by device code, user code or a link that carries one.
func (p *Platform) deviceFor(code string) *device {
	if d := p.devices[code]; d != nil {
		return d
	}
	if u, err := url.Parse(code); err == nil && u.Query().Get("user_code") != "" {
		code = u.Query().Get("user_code")
	}
	code = strings.ToUpper(strings.TrimSpace(code))
	for _, d := range p.devices {
		if d.userCode == code {
			return d
		}
	}
	return nil
}

// Approve lets the user named by openID say yes to a device authorization,
// which is named by its user code, device code or verification link.
func (p *Platform) Approve(code, openID string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.decide(code, openID, true)
}

// Decline lets the user named by openID say no to a device authorization, which
// is named as for [Platform.Approve].
func (p *Platform) Decline(code, openID string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.decide(code, openID, false)
}

// Device is a device authorization as the ledger shows it.
type Device struct {
	UserCode string        `json:"user_code,omitempty"`
	AppID    string        `json:"app_id,omitempty"`
	Scopes   []string      `json:"scopes,omitempty"`
	Expires  time.Time     `json:"expires"`
	Interval time.Duration `json:"interval,omitempty"`
	Polls    int           `json:"polls,omitempty"`
	// State is pending, approved, declined, redeemed or expired; OpenID who
	// decided.
	State  string `json:"state,omitempty"`
	OpenID string `json:"open_id,omitempty"`
}

// Devices returns every device authorization that is remembered, in the order in
// which they expire.
func (p *Platform) Devices() []Device {
	p.mu.Lock()
	defer p.mu.Unlock()
	var devices []Device
	for _, d := range p.devices {
		line := Device{UserCode: d.userCode, AppID: d.app, Scopes: slices.Clone(d.scopes), Expires: d.expires, Interval: d.interval, Polls: d.polls, State: d.state(p.now())}
		if d.user != nil {
			line.OpenID = p.openID(d.app, d.user)
		}
		devices = append(devices, line)
	}
	slices.SortFunc(devices, func(a, b Device) int { return a.Expires.Compare(b.Expires) })
	return devices
}

func (d *device) state(now time.Time) string {
	switch {
	case d.redeemed:
		return "redeemed"
	case d.declined:
		return "declined"
	case !now.Before(d.expires):
		return "expired"
	case d.user != nil:
		return "approved"
	}
	return "pending"
}
