package lark

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
	larkws "github.com/larksuite/oapi-sdk-go/v3/ws"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	"larkside/session"
	"larkside/telemetry"
)

const (
	// listenFirst is the first pause between connections. Pauses double up to
	// listenMost. After a connection that lasted for listenHeld they start
	// over.
	listenFirst = time.Second
	listenMost  = time.Minute
	listenHeld  = time.Minute
	// openTimeout bounds each step of opening a connection.
	openTimeout = 10 * time.Second

	opOpen    = "open the long connection"
	opConnect = "connect to the long connection"
)

// Listen keeps a long connection to Lark open, on which the app's events come
// unencrypted inside TLS. It passes each card click and revocation to handle and
// sends its reply as JSON. handle may be called concurrently. Its context ends
// after 3 s. If handle returns an error or panics, Lark sends the event again.
// Lark picks one of the app's connections for each event, at random. Events of
// other types are refused, so that Lark sends them to the app's own connection,
// if it has one.
//
// Listen connects again until ctx ends, with growing pauses and the present
// secret. Then it returns ctx's cause when no handle is running any more.
// larkside.events.connected is 1 while the connection is open.
//
// The SDK's client is not used. It allocates as many parts as a frame claims,
// reads messages and bootstrap answers of any length, starts a goroutine for
// each message, and dials any host that Lark's answer names. A caller of the SDK
// can't limit any of this. Only the SDK's frame type and constants are used.
// Source: Lark "receive events through a long connection", 2026-03-12; [S] the
// Go SDK's ws package, v3.12.0.
func (c *Client) Listen(ctx context.Context, handle func(context.Context, *Event) (any, error)) error {
	connected, err := otel.Meter("larkside/session/lark").Int64Gauge("larkside.events.connected",
		metric.WithDescription("1 while the long connection for events is open."))
	if err != nil {
		return fmt.Errorf("listening for events: %w", err)
	}
	state := func(up int64) {
		connected.Record(context.WithoutCancel(ctx), up, metric.WithAttributes(telemetry.App.String(c.appID)))
	}
	state(0)
	events := newEventHandlers(c, handle)
	defer events.running.Wait()
	for pause := listenFirst; ; pause = min(2*pause, listenMost) {
		began := time.Now()
		err := c.guard(ctx, func() error { return c.listenOnce(ctx, events, state) })
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if time.Since(began) >= listenHeld {
			pause = listenFirst
		}
		wait := pause + rand.N(pause/2)
		c.log.WarnContext(ctx, "the long connection for events is down; connecting again", "app_id", c.appID,
			"retry_in", wait.Round(time.Millisecond).String(), "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// listenOnce opens one connection and returns when it ends. Its error has no
// secret and may be logged.
func (c *Client) listenOnce(ctx context.Context, events *eventHandlers, state func(int64)) error {
	address, pings, err := c.bootstrap(ctx)
	if err != nil {
		return err
	}
	ws, err := c.dial(ctx, address)
	if err != nil {
		return err
	}
	defer ws.CloseNow()
	state(1)
	defer state(0)
	c.log.InfoContext(ctx, "the long connection for events is open", "app_id", c.appID)
	return newLongConnection(ws, events, address, pings).serve(ctx)
}

// bootstrap asks Lark where to connect, and how often pings are to be sent. The
// address has a ticket, so it must not be logged.
func (c *Client) bootstrap(ctx context.Context) (address *url.URL, pings time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	secret := c.secret()
	body, err := json.Marshal(larkws.BootstrapRequest{AppID: c.appID, AppSecret: secret.Expose()})
	if err != nil {
		return nil, 0, err
	}
	x := &call{op: opOpen, limit: tokenLimit, secrets: []session.Secret{secret}}
	c.post(ctx, x, c.openURL+larkws.GenEndpointUri, "application/json; charset=utf-8", string(body),
		func(r *http.Request) { r.Header.Set("Locale", "zh") })
	f, err := x.result(onApp)
	if err != nil {
		return nil, 0, err
	}
	data := f.object("data")
	named := data.text("URL")
	if named == "" {
		return nil, 0, x.unusable("URL")
	}
	if address, err = c.checkAddress(named, secret); err != nil {
		return nil, 0, &Error{Op: opOpen, Class: Misconfigured, Outcome: Refused, Err: err}
	}
	seconds, _ := data.object("ClientConfig").number("PingInterval")
	return address, clampPings(seconds), nil
}

// brandDomains are the domains of Lark's own hosts. open.feishu.cn answers with
// msg-frontier.feishu.cn, open.larksuite.com with msg-frontier-sg.larksuite.com.
// Source: [P] logs of both SDKs in public repositories, 2026.
var brandDomains = []string{".feishu.cn", ".larksuite.com"}

// checkAddress parses the address that a bootstrap answer names. It accepts wss
// only, to a host of the brand's domain at port 443. If OpenURL has neither
// brand's domain (an emulator, a private deployment), it accepts only the host
// and port of OpenURL. It accepts ws only if OpenURL is http on loopback.
func (c *Client) checkAddress(named string, secret session.Secret) (*url.URL, error) {
	address, err := url.Parse(named)
	if err != nil { // url.Error quotes the ticket
		return nil, errors.New("the address in Lark's answer can't be parsed")
	}
	open, err := url.Parse(c.openURL)
	if err != nil {
		return nil, errors.New("the address of the Open Platform can't be parsed")
	}
	refuse := func(why string) (*url.URL, error) {
		host := scrub(address.Host, []session.Secret{secret})
		return nil, fmt.Errorf("the address in Lark's answer is refused: host %q: %s", host, why)
	}
	host, configured := strings.ToLower(address.Hostname()), strings.ToLower(open.Hostname())
	plain := address.Scheme == "ws" && open.Scheme == "http" && isLoopback(configured)
	switch {
	case address.Scheme != "wss" && !plain:
		return refuse("want wss")
	case address.User != nil:
		return refuse("it has a user part")
	}
	for _, domain := range brandDomains {
		if !strings.HasSuffix(configured, domain) {
			continue
		}
		if !strings.HasSuffix(host, domain) || port(address) != "443" {
			return refuse("want a host below " + domain[1:] + ", port 443")
		}
		return address, nil
	}
	if host != configured || port(address) != port(open) {
		return refuse("want the host and port of " + open.Host)
	}
	return address, nil
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "https" || u.Scheme == "wss":
		return "443"
	}
	return "80"
}

// dial connects through the client's own transport, so the transport's roots,
// proxy and limit on headers apply. It follows no redirect.
func (c *Client) dial(ctx context.Context, address *url.URL) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, address.String(), &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: c.http.Transport.(*recorder).base, CheckRedirect: c.http.CheckRedirect},
	})
	switch {
	case err == nil:
		return ws, nil
	case resp == nil:
		return nil, &Error{Op: opConnect, Class: Retry, Outcome: NotSent, Err: opaqueCause(err, []session.Secret{c.secret()})}
	}
	// err may quote headers of the answer, so it is not logged.
	return nil, &Error{Op: opConnect, HTTPStatus: resp.StatusCode, Code: handshakeCode(resp.Header), Class: Retry, Outcome: Refused,
		Err: errors.New("no WebSocket")}
}

// handshakeCode returns the code with which Lark refuses a connection, or 0.
func handshakeCode(h http.Header) int {
	for _, name := range []string{larkws.HeaderHandshakeAuthErrCode, larkws.HeaderHandshakeStatus} {
		if code, err := strconv.Atoi(h.Get(name)); err == nil && code != 0 {
			return code
		}
	}
	return 0
}
