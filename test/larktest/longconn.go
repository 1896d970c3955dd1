package larktest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
	larkws "github.com/larksuite/oapi-sdk-go/v3/ws"
)

// The long connection: a bootstrap request is answered with the address of a
// WebSocket, on which events come in protobuf frames and are answered in kind.
// [D] Lark "receive events through a long connection", 2026-03-12; [S] the Go
// SDK's ws package, whose frames and constants these are.
const streamPath = "/ws/v2"

const (
	// maxLongConnections of one app; one more is refused. [D]
	maxLongConnections = 50
	// maxAnswer bounds a message from a client.
	maxAnswer = 1 << 20
)

// Conduct is how the long connection behaves.
type Conduct string

const (
	// Proper is as Lark does.
	Proper Conduct = ""
	// HugeSum sends the first of a million million parts, 81 bytes.
	HugeSum Conduct = "huge_sum"
	// EndlessMessage sends one message that does not end.
	EndlessMessage Conduct = "endless_message"
	// EndlessBootstrap answers the bootstrap request with JSON that does not end.
	EndlessBootstrap Conduct = "endless_bootstrap"
	// Deaf answers no pings, and sends none.
	Deaf Conduct = "deaf"
	// Garbage sends 1 MB of random bytes a second, in messages of 64 KiB.
	Garbage Conduct = "garbage"
	// Flood sends 1 MB of events a second that no one has asked for.
	Flood Conduct = "flood"
	// Hasty closes each connection at once.
	Hasty Conduct = "hasty"
)

// LongConnection is one that is open.
type LongConnection struct {
	AppID string    `json:"app_id"`
	Since time.Time `json:"since"`
	// Pings counts those of the client, Sent the events and Answered the answers
	// to them.
	Pings    int `json:"pings"`
	Sent     int `json:"sent"`
	Answered int `json:"answered"`
}

// longConn is an open connection. Everything but ws is guarded by the
// platform's mu.
type longConn struct {
	LongConnection
	ws      *websocket.Conn
	waiting map[string]chan<- larkws.Response // by message id
}

// LongConnections returns those that are open, the oldest first; an empty
// appID: of every app.
func (p *Platform) LongConnections(appID string) []LongConnection {
	p.mu.Lock()
	defer p.mu.Unlock()
	var open []LongConnection
	for _, c := range p.longConns {
		if appID == "" || c.AppID == appID {
			open = append(open, c.LongConnection)
		}
	}
	return open
}

// CutLongConnections ends the app's connections without a word, as a network
// does, and returns how many there were.
func (p *Platform) CutLongConnections(appID string) int {
	p.mu.Lock()
	mine := p.longConnsOf(appID)
	p.mu.Unlock()
	for _, c := range mine {
		p.removeLongConn(c) // now, so that what is asked for next is not sent to it
		c.ws.CloseNow()
	}
	return len(mine)
}

// longConnsOf is called with mu held.
func (p *Platform) longConnsOf(appID string) (mine []*longConn) {
	for _, c := range p.longConns {
		if c.AppID == appID {
			mine = append(mine, c)
		}
	}
	return mine
}

// serveBootstrap is callback/ws/endpoint. [S] It is 200 whatever the code in
// the body says. The code of wrong credentials: UNCONFIRMED.
func serveBootstrap(p *Platform, x *exchange) answer {
	var in larkws.BootstrapRequest
	if x.decode(&in) != nil {
		return bootstrapError(larkws.Forbidden, "bad request")
	}
	app := p.apps[in.AppID]
	if app == nil || app.Secret != in.AppSecret || app.Disabled {
		return bootstrapError(larkws.AuthFailed, "auth failed")
	}
	x.call.AppID = app.ID
	if p.switches.LongConnection == EndlessBootstrap {
		p.mu.Unlock() // nothing else may wait for this
		defer p.mu.Lock()
		return answerWithoutEnd(x)
	}
	ticket := "ticket-" + rand.Text()
	p.tickets[ticket] = app.ID
	address := strings.Replace(p.origin(x.r), "http", "ws", 1) + streamPath + "?" + url.Values{
		"device_id": {strconv.FormatUint(mathrand.Uint64(), 10)}, "service_id": {"33554678"}, "access_key": {rand.Text()}, "ticket": {ticket},
	}.Encode()
	return ok(object{{"code", larkws.OK}, {"msg", ""}, {"data", object{{"URL", address}, {"ClientConfig", p.clientConfig()}}}})
}

func bootstrapError(code int, msg string) answer {
	return ok(object{{"code", code}, {"msg", msg}, {"data", nil}})
}

// answerWithoutEnd goes on until the client hangs up.
func answerWithoutEnd(x *exchange) answer {
	x.w.Header().Set("Content-Type", jsonType)
	_, err := fmt.Fprint(x.w, `{"code":0,"data":{"URL":"wss://`)
	for part := strings.Repeat("x", 64<<10); err == nil; {
		_, err = fmt.Fprint(x.w, part)
	}
	panic(http.ErrAbortHandler)
}

// clientConfig is called with mu held.
func (p *Platform) clientConfig() object {
	return object{{"ReconnectCount", -1}, {"ReconnectInterval", 120}, {"ReconnectNonce", 30}, {"PingInterval", p.switches.PingInterval}}
}

// serveLongConnection takes a client that comes with a ticket.
func serveLongConnection(p *Platform, x *exchange) {
	ticket := x.r.URL.Query().Get("ticket")
	p.mu.Lock()
	appID, known := p.tickets[ticket]
	delete(p.tickets, ticket)
	full := len(p.longConnsOf(appID)) >= maxLongConnections
	conduct := p.switches.LongConnection
	p.mu.Unlock()
	x.call.AppID = appID
	switch {
	case !known:
		x.refuseHandshake(larkws.Forbidden, 0)
		return
	case full:
		x.refuseHandshake(larkws.AuthFailed, larkws.ExceedConnLimit)
		return
	}
	ws, err := websocket.Accept(x.w, x.r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	x.call.Status = http.StatusSwitchingProtocols
	ws.SetReadLimit(maxAnswer)
	// The request's own context ends when its connection is taken over.
	ctx, cancel := context.WithCancel(context.WithoutCancel(x.r.Context()))
	defer cancel()
	go func() {
		select {
		case <-p.closed:
			ws.CloseNow()
		case <-ctx.Done():
		}
	}()
	if conduct == Hasty {
		ws.Close(websocket.StatusNormalClosure, "")
		return
	}
	c := &longConn{LongConnection: LongConnection{AppID: appID, Since: p.now()}, ws: ws, waiting: map[string]chan<- larkws.Response{}}
	p.addLongConn(c)
	defer p.removeLongConn(c)
	go func() {
		if err := c.misbehave(ctx, conduct); err != nil {
			ws.CloseNow()
		}
	}()
	p.listen(ctx, c, conduct != Deaf)
}

// refuseHandshake has Lark's codes in headers. [S] The HTTP status beside them:
// UNCONFIRMED.
func (x *exchange) refuseHandshake(code, authCode int) {
	h := x.w.Header()
	h.Set(larkws.HeaderHandshakeStatus, strconv.Itoa(code))
	h.Set(larkws.HeaderHandshakeMsg, "refused")
	if authCode != 0 {
		h.Set(larkws.HeaderHandshakeAuthErrCode, strconv.Itoa(authCode))
	}
	x.call.Status, x.call.Code = http.StatusForbidden, code
	x.w.WriteHeader(http.StatusForbidden)
}

func (p *Platform) addLongConn(c *longConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.longConns = append(p.longConns, c)
	p.touch()
}

func (p *Platform) removeLongConn(c *longConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.longConns = slices.DeleteFunc(p.longConns, func(other *longConn) bool { return other == c })
	for id, answered := range c.waiting {
		close(answered)
		delete(c.waiting, id)
	}
	p.touch()
}

// listen takes pings and answers until the connection ends.
func (p *Platform) listen(ctx context.Context, c *longConn, answerPings bool) {
	for {
		_, message, err := c.ws.Read(ctx)
		if err != nil {
			return
		}
		var f larkws.Frame
		if f.Unmarshal(message) != nil {
			c.ws.Close(websocket.StatusUnsupportedData, "")
			return
		}
		kind := larkws.MessageType(larkws.Headers(f.Headers).GetString(larkws.HeaderType))
		switch {
		case larkws.FrameType(f.Method) == larkws.FrameTypeData:
			p.answered(c, f)
		case kind == larkws.MessageTypePing:
			p.mu.Lock()
			c.Pings++
			config, _ := json.Marshal(p.clientConfig())
			p.touch()
			p.mu.Unlock()
			if answerPings {
				c.send(ctx, larkws.Frame{
					Service: f.Service, Method: int32(larkws.FrameTypeControl), Payload: config,
					Headers: []larkws.Header{{Key: larkws.HeaderType, Value: string(larkws.MessageTypePong)}},
				})
			}
		}
	}
}

// answered hands an answer to whoever waits for it.
func (p *Platform) answered(c *longConn, f larkws.Frame) {
	var r larkws.Response
	if json.Unmarshal(f.Payload, &r) != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c.Answered++
	id := larkws.Headers(f.Headers).GetString(larkws.HeaderMessageID)
	if waiting := c.waiting[id]; waiting != nil {
		waiting <- r
		delete(c.waiting, id)
	}
	p.touch()
}

func (c *longConn) send(ctx context.Context, f larkws.Frame) error {
	message, err := f.Marshal()
	if err != nil {
		return err
	}
	return c.ws.Write(ctx, websocket.MessageBinary, message)
}

// overLongConnection sends an event to one of the app's connections, any one,
// and returns the answer. [D] An event goes to one of them, and has 3 s.
func (p *Platform) overLongConnection(ctx context.Context, appID string, body []byte) (EventReply, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	answered := make(chan larkws.Response, 1)
	id := randomHex(16)
	p.mu.Lock()
	mine := p.longConnsOf(appID)
	if len(mine) == 0 {
		p.mu.Unlock()
		return EventReply{}, fmt.Errorf("send event to %s: %w", appID, ErrNoEvents)
	}
	c := mine[mathrand.IntN(len(mine))]
	c.waiting[id] = answered
	c.Sent++
	parts := p.switches.EventParts
	p.mu.Unlock()
	start := time.Now()
	for _, f := range eventFrames(id, body, parts) {
		if err := c.send(ctx, f); err != nil {
			return EventReply{}, fmt.Errorf("send event: %w", err)
		}
	}
	select {
	case r, open := <-answered:
		if !open {
			return EventReply{}, fmt.Errorf("send event: %w", errConnectionLost)
		}
		return EventReply{Status: r.StatusCode, Body: r.Data, Took: time.Since(start)}, nil
	case <-ctx.Done():
		return EventReply{}, fmt.Errorf("send event: %w", ctx.Err())
	}
}

var errConnectionLost = errors.New("the long connection ended before the answer")

// eventFrames has the parts of an event in any order. [S] The receiver puts
// them together by sum and seq.
func eventFrames(id string, body []byte, parts int) []larkws.Frame {
	parts = max(min(parts, len(body)), 1)
	var frames []larkws.Frame
	for i := range parts {
		frames = append(frames, eventFrame(id, body[i*len(body)/parts:(i+1)*len(body)/parts], parts, i))
	}
	mathrand.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
	return frames
}

func eventFrame(id string, payload []byte, sum, seq int) larkws.Frame {
	return larkws.Frame{
		SeqID: 1, LogID: 1, Service: 33554678, Method: int32(larkws.FrameTypeData), Payload: payload,
		Headers: []larkws.Header{
			{Key: larkws.HeaderType, Value: string(larkws.MessageTypeEvent)}, {Key: larkws.HeaderMessageID, Value: id},
			{Key: larkws.HeaderSum, Value: strconv.Itoa(sum)}, {Key: larkws.HeaderSeq, Value: strconv.Itoa(seq)},
			{Key: larkws.HeaderTraceID, Value: randomHex(8)},
		},
	}
}

// misbehave returns when the connection fails.
func (c *longConn) misbehave(ctx context.Context, conduct Conduct) error {
	switch conduct {
	case HugeSum:
		return c.send(ctx, eventFrame("m", nil, 1_000_000_000_000, 0))
	case EndlessMessage:
		w, err := c.ws.Writer(ctx, websocket.MessageBinary)
		for part := make([]byte, 64<<10); err == nil; {
			_, err = w.Write(part)
		}
		return err
	case Garbage:
		part := make([]byte, 64<<10)
		return everySixteenth(ctx, func() error {
			rand.Read(part)
			return c.ws.Write(ctx, websocket.MessageBinary, part)
		})
	case Flood:
		event := []byte(`{"schema":"2.0","header":{"event_type":"larktest.flood"},"event":"` + strings.Repeat("x", 1<<10) + `"}`)
		return everySixteenth(ctx, func() error {
			for range 64 {
				if err := c.send(ctx, eventFrame(randomHex(16), event, 1, 0)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return nil
}

// everySixteenth calls f sixteen times a second until it fails.
func everySixteenth(ctx context.Context, f func() error) error {
	ticker := time.NewTicker(time.Second / 16)
	defer ticker.Stop()
	for {
		if err := f(); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
