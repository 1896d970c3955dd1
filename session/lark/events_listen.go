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
	// listenFirst and listenMost bound the pauses between connections, which
	// double; one that held for listenHeld starts them over.
	listenFirst = time.Second
	listenMost  = time.Minute
	listenHeld  = time.Minute
	// openTimeout bounds each step on the way to an open connection.
	openTimeout = 10 * time.Second

	opOpen    = "open the long connection"
	opConnect = "connect to the long connection"
)

// Listen keeps a long connection to Lark open, on which the app's events come
// in clear inside TLS, and hands each card click and revocation to handle, whose
// reply is sent as JSON and whose context ends after 3 s. An error of handle's is
// told to Lark, which sends the event again, perhaps to another of the app's
// connections: it picks one for each event, at random. So are events of other
// types refused, which leaves them to the app's own connection, if it has one.
// handle may be called concurrently; a panic in it counts as an error.
//
// Listen connects again, with growing pauses and the secret of the moment,
// until ctx ends; then it returns ctx's cause when no handle is running any more.
// larkside.events.connected is 1 while the connection stands.
//
// The SDK's client is not used. It allocates as many parts as a frame claims,
// reads messages and bootstrap answers of any length, starts a goroutine for
// each message, and dials whatever host it is told to. None of that can be
// bounded from outside. Its frames and constants are the protocol.
// Source: Lark "receive events through a long connection", 2026-03-12; [S] the
// Go SDK's ws package, v3.12.0.
func (c *Client) Listen(ctx context.Context, handle func(context.Context, *Event) (any, error)) error {
	connected, err := otel.Meter("larkside/session/lark").Int64Gauge("larkside.events.connected",
		metric.WithDescription("1 while the long connection for events stands."))
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

// listenOnce is one connection from the bootstrap request to its end. Its error
// is fit for the log.
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
	c.log.InfoContext(ctx, "the long connection for events stands", "app_id", c.appID)
	return newLongConnection(ws, events, address, pings).serve(ctx)
}

// bootstrap asks Lark where to connect. The address has a ticket in it: it works
// once, and is nothing for a log.
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

// brandDomains are where Lark's own hosts are: open.feishu.cn answers with
// msg-frontier.feishu.cn, open.larksuite.com with msg-frontier-sg.larksuite.com.
// Source: [P] logs of both SDKs in public repositories, 2026.
var brandDomains = []string{".feishu.cn", ".larksuite.com"}

// checkAddress parses the address that a bootstrap answer names, and refuses
// all but a WebSocket inside TLS to Lark itself: to a host of the brand's domain
// at its usual port, or, where OpenURL is of no brand (an emulator, a private
// deployment), to the host and port of OpenURL. Only to an emulator on loopback
// without TLS may the connection be without TLS too.
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

// dial connects by the client's own transport, so with its roots, its proxy and
// its limit on headers, and follows no redirect.
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
	// What else is in the answer is text of somebody's.
	return nil, &Error{Op: opConnect, HTTPStatus: resp.StatusCode, Code: handshakeCode(resp.Header), Class: Retry, Outcome: Refused,
		Err: errors.New("no WebSocket")}
}

// handshakeCode is Lark's reason for refusing a connection.
func handshakeCode(h http.Header) int {
	for _, name := range []string{larkws.HeaderHandshakeAuthErrCode, larkws.HeaderHandshakeStatus} {
		if code, err := strconv.Atoi(h.Get(name)); err == nil && code != 0 {
			return code
		}
	}
	return 0
}
