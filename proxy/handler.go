package proxy

import (
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httputil"

	"go.opentelemetry.io/otel"

	"larkside/proxy/edge"
	"larkside/telemetry"
)

// Handler is the handler of the proxy listener.
type Handler struct{ p *proxy }

// New returns the handler of the proxy listener, or an error that says what is
// wrong with c.
func New(c Config) (*Handler, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("proxy settings: %w", err)
	}
	c = c.withDefaults()
	places := newPlaces(c.MaxWaiters)
	metrics, err := newMetrics(places)
	if err != nil {
		return nil, err
	}
	p := &proxy{
		cfg:        c,
		hosts:      edge.Hosts{Names: c.AllowHosts, Loopback: c.AllowHosts == nil},
		callers:    newCallers(c.CallerKeys, c.CallerLimits),
		paths:      paths{c.InjectPaths, c.TenantPaths, c.MCP != nil},
		origin:     newOrigin(c.Upstream, c.Transport),
		mcp:        newMCPOrigin(c.MCP, c.Transport),
		places:     places,
		kept:       keptTotal{limit: maxKeptBodies * int64(max(c.ReplayBuffer, maxMCPCall))},
		metrics:    metrics,
		tracer:     otel.Tracer(scope),
		complaints: telemetry.NewComplaints(c.Log),
	}
	p.reverse = &httputil.ReverseProxy{
		Rewrite:        p.rewrite,
		Transport:      p,
		ModifyResponse: p.modifyAnswer,
		ErrorHandler: func(_ http.ResponseWriter, out *http.Request, err error) {
			requestOf(out.Context()).answer.err = err
		},
		BufferPool: new(buffers),
		ErrorLog:   log.New(reverseLog{c.Log}, "", 0),
	}
	return &Handler{p}, nil
}

// reverseLog takes ReverseProxy's lines, such as why an answer broke off.
type reverseLog struct{ log *slog.Logger }

func (l reverseLog) Write(line []byte) (int, error) {
	l.log.Debug(withoutQuotes(string(line)))
	return len(line), nil
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.p.handle(w, r, (*proxy).serve) }

// Authz returns the handler of the authz listener. It has the callers, their
// limits, and the places for requests that wait, in common with h.
func (h *Handler) Authz() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.p.handle(w, r, (*proxy).serveAuthz) })
}

// handle answers r by serve, whose error becomes an answer of Larkside's.
func (p *proxy) handle(w http.ResponseWriter, r *http.Request, serve func(*proxy, *request) error) {
	x := p.begin(w, r)
	defer p.end(x)
	x.body.pace(x.in, x.w.ResponseWriter, p.cfg.BodyPatience)
	defer x.body.paced.release()
	if err := serve(p, x); err != nil {
		p.fail(x, err)
	}
	x.result.returned = true
}

// serve is the way of a request, from top to bottom. Nothing leaves this process
// before forward.
func (p *proxy) serve(x *request) error {
	// Who may speak.
	raw, err := p.identifyCaller(x)
	if err != nil {
		return err
	}

	// What for.
	if x.target, err = p.paths.judge(x.in.Method, raw); err != nil {
		return err
	}
	if x.target.class.own {
		return &edge.Answer{Failure: edge.PathNotAllowed, Detail: "There is nothing at this path: /-/larkside/ is reserved. Forward-auth has a listener of its own, LARKSIDE_AUTHZ_LISTEN."}
	}

	// For whom, and with which token.
	if err := p.chooseCredential(x, p.cfg.DefaultUser); err != nil {
		return err
	}
	if x.credential.kind == nothing {
		if answered, err := p.answerTokenCall(x); answered || err != nil {
			return err
		}
		if err := x.who.limit.request(x.target.method, x.target.path); err != nil {
			return err
		}
	}
	return p.forward(x)
}

// identifyCaller decides who may speak. It returns the target as it came.
func (p *proxy) identifyCaller(x *request) (raw string, err error) {
	p.startIdentify(x)
	if p.stopping() {
		return "", edge.Draining
	}
	if x.in.Method == http.MethodConnect || x.in.Method == http.MethodTrace {
		return "", edge.MethodNotAllowed
	}
	raw, ok := originForm(x.in, p.hosts)
	if !ok {
		return "", edge.AmbiguousPath
	}
	if err := p.hosts.Check(x.in); err != nil {
		return "", err
	}
	if x.who.caller, x.who.limit, err = p.callers.identify(x.in.Header); err != nil {
		if x.who.caller == "" {
			p.complaints.Log(x, slog.LevelWarn, "a caller without a right key was refused", "", "address", x.in.RemoteAddr)
		}
		return "", err
	}
	return raw, nil
}

// stopping reports whether the process is about to stop.
func (p *proxy) stopping() bool {
	select {
	case <-p.cfg.Stopping:
		return true
	default:
		return false
	}
}

// fail answers err, if there is still somebody to answer.
func (p *proxy) fail(x *request, err error) {
	if x.Err() != nil || err == errCallerGone {
		x.result.outcome = ClientGone
		// If the handler returned here, net/http would answer 200 to a caller that
		// has only closed its sending side.
		panic(http.ErrAbortHandler)
	}
	p.answer(x, p.answerTo(x, err))
}
