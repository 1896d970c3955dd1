package proxy

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"larkside/proxy/edge"
	"larkside/session"
	"larkside/telemetry"
)

// proxy is the handler, and the Transport of its own ReverseProxy.
type proxy struct {
	cfg       Config
	origin    origin
	hosts     edge.Hosts
	callers   callers
	reverse   *httputil.ReverseProxy
	telemetry *instruments
	peeks     peeks
	waiting   chan struct{} // one for each request that waits for a consent
	log       *slog.Logger
	// complaints is for what every request may have to say.
	complaints *telemetry.Complaints
}

// errCallerGone ends a request whose caller can't be answered.
var errCallerGone = errors.New("caller is gone")

// New returns the handler of the proxy listener, or what is wrong with c.
func New(c Config) (http.Handler, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("proxy settings: %w", err)
	}
	c = c.withDefaults()
	waiting := make(chan struct{}, c.MaxWaiters)
	t, err := newInstruments(c, waiting)
	if err != nil {
		return nil, err
	}
	p := &proxy{
		cfg:       c,
		origin:    originOf(c),
		hosts:     edge.Hosts{Names: c.AllowHosts, Loopback: c.AllowHosts == nil},
		callers:   newCallers(c),
		telemetry: t,
		waiting:   waiting,
		log:       c.Log,

		complaints: telemetry.NewComplaints(c.Log),
	}
	p.reverse = &httputil.ReverseProxy{
		Rewrite:        p.rewrite,
		Transport:      p,
		ModifyResponse: p.modify,
		ErrorHandler:   func(_ http.ResponseWriter, out *http.Request, err error) { exchangeOf(out.Context()).err = err },
		BufferPool:     new(buffers),
		ErrorLog:       log.New(reverseLog{c.Log}, "", 0),
	}
	return p, nil
}

// reverseLog takes ReverseProxy's lines, such as why an answer broke off.
type reverseLog struct{ log *slog.Logger }

func (l reverseLog) Write(line []byte) (int, error) {
	l.log.Debug(withoutQuotes(string(line)))
	return len(line), nil
}

func originOf(c Config) origin {
	o := origin{scheme: c.Upstream.Scheme, host: c.Upstream.Host}
	if path := strings.Trim(c.Upstream.EscapedPath(), "/"); path != "" {
		o.prefix = "/" + path
	}
	if t, ok := c.Transport.(*Transport); ok && t.outbound() && o.scheme == "http" {
		// An outbound proxy gets the absolute form, and net/http doesn't make
		// it out of an Opaque; for https it opens a tunnel.
		o.prefix = "//" + o.host + o.prefix
	}
	return o
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := p.begin(w, r)
	defer p.end(x)
	x.pace(p.cfg.BodyPatience)
	defer x.body.release()
	if err := p.serve(x); err != nil {
		p.fail(x, err)
	}
	x.done = true
}

// serve is the policy, top to bottom. Whatever it returns is answered by
// Larkside; up to forward nothing has left this process.
func (p *proxy) serve(x *exchange) error {
	r := x.in
	p.telemetry.startIdentify(x)
	if p.cfg.Draining() {
		return edge.Draining
	}
	if r.Method == http.MethodConnect || r.Method == http.MethodTrace {
		return edge.MethodNotAllowed
	}
	var ok bool
	if x.raw, ok = p.requestTarget(r); !ok {
		return edge.AmbiguousPath
	}
	err := p.hosts.Check(r)
	if err != nil {
		return err
	}
	if x.caller, x.allowed, err = p.callers.identify(r.Header); err != nil {
		return err
	}
	if x.path, x.class, ok = p.judge(pathOf(x.raw)); !ok {
		return edge.AmbiguousPath
	}
	if x.class.own {
		return p.serveOwn(x)
	}
	if err := p.admit(x); err != nil {
		return err
	}
	if x.credential == nothing {
		if answered, err := p.answerTokenCall(x); answered || err != nil {
			return err
		}
		if err := x.allowed.request(x.method, x.path); err != nil {
			return err
		}
	}
	return p.forward(x)
}

// admit decides what goes into the request's Authorization, and gets it.
func (p *proxy) admit(x *exchange) error {
	h := x.in.Header
	id, err := userID(h)
	if err != nil {
		return err
	}
	if x.app, err = p.appID(h); err != nil {
		return err
	}
	if x.class.tokenCall {
		id = "" // the SDK sets the header on all it sends
	}
	x.own = ownAuthorization(h)
	if tokenCall(x.method, x.path) && x.own == "" {
		// Answered here, or judged when it turns out not to be.
		x.outcome = PassedThrough
		return nil
	}
	if err := x.allowed.request(x.method, x.path); err != nil {
		return err
	}
	switch {
	case id != "" && !x.class.inject:
		return edge.PathNotAllowed
	case id != "":
		x.credential, x.outcome = userToken, Proxied
		return p.admitUser(x, id)
	case x.own != "":
		x.credential, x.outcome = own, PassedThrough
		return nil
	case x.class.tenant:
		x.credential, x.outcome = tenantToken, WithTenantToken
		if err := x.allowed.tenant(); err != nil {
			return err
		}
		x.tenant, err = p.cfg.Tenant.TenantAccessToken(x, x.app)
		return err
	}
	return edge.UserIDRequired
}

// admitUser gets the token of the user whom id names.
func (p *proxy) admitUser(x *exchange, id string) error {
	var err error
	x.key, err = p.resolve(x, id)
	if err == nil || errors.Is(err, session.ErrNotFound) {
		// Whether anybody has that name isn't the caller's to know either.
		if refused := x.allowed.user(x.key.OpenID, id); refused != nil {
			return refused
		}
	}
	if err == nil {
		err = p.findToken(x)
	}
	if err == nil {
		return nil
	}
	return p.askAndWait(x, err)
}

// resolve returns whom id names. An open_id names a user by itself.
func (p *proxy) resolve(x *exchange, id string) (session.Key, error) {
	switch {
	case strings.HasPrefix(id, "ou_"):
		return session.Key{AppID: x.app, OpenID: id}, nil
	case p.cfg.Resolver == nil:
		return session.Key{}, session.ErrNotFound
	}
	ctx := x.identifying
	if ctx == nil {
		ctx = x
	}
	key, err := p.cfg.Resolver.Resolve(ctx, x.app, id)
	switch {
	case err != nil:
		return session.Key{}, err
	case key.AppID != x.app || key.OpenID == "":
		return session.Key{}, fmt.Errorf("resolver returned a user of another app: %w", session.ErrUnavailable)
	}
	return key, nil
}

// findToken sets x.access to a token that may be sent now.
func (p *proxy) findToken(x *exchange) error {
	access, lookup, err := p.telemetry.token(x, p.cfg.Tokens)
	x.lookup = lookup
	if err != nil {
		return err
	}
	x.access = access
	return servable(access, x.key, time.Now())
}

// forward sends the request on and passes the answer back. It goes round once
// more when the user consents while the request waits.
func (p *proxy) forward(x *exchange) error {
	if !p.takeBody(x) {
		return errCallerGone
	}
	for {
		if x.upload != nil {
			x.in.Body = x.upload.open()
		}
		x.err = nil
		p.reverse.ServeHTTP(&x.w, x.in)
		if x.err == nil {
			x.stripTrailers()
			return nil
		}
		if err := p.askAndWait(x, x.err); err != nil {
			return err
		}
	}
}

// takeBody arranges for the request's body to be kept while it passes. One
// that is short and came with its length is read first, so that it can be
// replayed whenever Lark answers; not when the caller wants to hear from Lark
// before it sends (RFC 9110 section 10.1.1). It is false when the body breaks
// off.
func (p *proxy) takeBody(x *exchange) bool {
	if x.upload == nil {
		x.upload = keep(x.in, p.keepLimit(x))
	}
	if x.upload == nil {
		return true
	}
	x.in.GetBody = x.upload.reopen
	first := x.in.ContentLength > 0 && x.upload.fits() && len(x.in.Header["Expect"]) == 0
	return !first || x.upload.fill()
}

// keepLimit is how much of a body is kept: none of one that is never replayed.
func (p *proxy) keepLimit(x *exchange) int {
	if !x.credential.injected() {
		return 0
	}
	return p.cfg.ReplayBuffer
}

// fail answers err, if there is still somebody to answer.
func (p *proxy) fail(x *exchange, err error) {
	if x.Err() != nil || err == errCallerGone {
		x.outcome = ClientGone
		// A silent return would be a 200 to a caller that has only closed its
		// sending side.
		panic(http.ErrAbortHandler)
	}
	x.answer(p.answerTo(x, err))
}
