package larktest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"time"
)

// chat is every message that was sent. Users only have the chat with the bot.
type chat struct {
	messages map[string]*message
	order    []*message
	uuids    map[string]*message // app and uuid → the first message
	toasts   map[*User]string    // shown once on the chat page
}

func newChat() chat {
	return chat{messages: map[string]*message{}, uuids: map[string]*message{}, toasts: map[*User]string{}}
}

type message struct {
	Message
	user   *User
	sender *token // whose kind and app must match for an update
	multi  bool   // config.update_multi
	v2     bool   // card JSON 2.0
}

// Version is what a message said from At on.
type Version struct {
	At      time.Time `json:"at"`
	Content string    `json:"content,omitempty"` // the content string: a card's JSON
}

// Message is one message that a user got.
type Message struct {
	ID     string `json:"id,omitempty"`
	ChatID string `json:"chat_id,omitempty"`
	AppID  string `json:"app_id,omitempty"`
	// OpenID is the recipient, in the app that sent it.
	OpenID   string    `json:"open_id,omitempty"`
	UUID     string    `json:"uuid,omitempty"`
	Type     string    `json:"type,omitempty"`
	ParentID string    `json:"parent_id,omitempty"` // of a reply
	SentAt   time.Time `json:"sent_at"`
	// Versions are the content as sent and after each update, oldest first.
	Versions []Version `json:"versions,omitempty"`
}

const (
	maxCard      = 30 << 10
	maxText      = 150 << 10
	uuidLife     = time.Hour
	updatableFor = 14 * 24 * time.Hour
)

// sendRequest is the body of create and reply.
type sendRequest struct {
	ReceiveID string          `json:"receive_id"`
	Type      string          `json:"msg_type"`
	Content   json.RawMessage `json:"content"`
	UUID      string          `json:"uuid"`
}

// serveSend is im/v1/messages.
func serveSend(p *Platform, x *exchange) answer {
	var in sendRequest
	if x.decode(&in) != nil || in.ReceiveID == "" || in.Type == "" {
		return x.fail(400, 230001, "Your request contains an invalid request parameter.")
	}
	user, problem := p.receiver(x, in.ReceiveID)
	if problem != nil {
		return *problem
	}
	return p.send(x, user, in, "")
}

// serveReply is messages/:message_id/reply: it goes to the same user.
func serveReply(p *Platform, x *exchange) answer {
	var in sendRequest
	parent := p.chat.messages[x.vars["message_id"]]
	switch {
	case x.decode(&in) != nil || in.Type == "":
		return x.fail(400, 230001, "Your request contains an invalid request parameter.")
	case parent == nil || parent.AppID != x.call.AppID:
		return x.fail(400, 99992354, "not a valid {open_message_id}")
	}
	return p.send(x, parent.user, in, parent.ID)
}

// recipient names whom a message request is for, for faults.
func (p *Platform) recipient(x *exchange) string {
	if m := p.chat.messages[x.vars["message_id"]]; m != nil {
		return m.OpenID
	}
	var in sendRequest
	x.decode(&in)
	if u, _ := p.who(x.call.AppID, x.r.URL.Query().Get("receive_id_type"), in.ReceiveID); u != nil {
		return p.openID(x.call.AppID, u)
	}
	return in.ReceiveID
}

func (p *Platform) receiver(x *exchange, id string) (*User, *answer) {
	var a answer
	idType := x.r.URL.Query().Get("receive_id_type")
	switch idType {
	case "open_id", "union_id", "user_id", "email":
	case "chat_id":
		return p.receiverByChat(x, id)
	default:
		a = x.fail(400, 99992402, "field validation failed: receive_id_type")
		return nil, &a
	}
	user, known := p.who(x.call.AppID, idType, id)
	switch {
	case user == nil:
		a = x.fail(400, 230034, "The receive_id is invalid.")
	case !known:
		a = x.fail(400, 99992361, "open_id cross app")
	default:
		return user, nil
	}
	return nil, &a
}

func (p *Platform) receiverByChat(x *exchange, id string) (*User, *answer) {
	for _, m := range p.chat.order {
		if m.ChatID == id && m.AppID == x.call.AppID {
			return m.user, nil
		}
	}
	a := x.fail(400, 230002, "Bot/User can NOT be out of the chat.")
	return nil, &a
}

// send checks in the order: app, content, user, duplicate, frequency.
func (p *Platform) send(x *exchange, user *User, in sendRequest, parent string) answer {
	if app := p.apps[x.call.AppID]; !app.hasBot() || app.botStatus() != botActive {
		return x.fail(400, 230006, "Bot ability is not activated.")
	}
	content, problem := x.content(in.Content, in.Type)
	if problem != nil {
		return *problem
	}
	if len(in.UUID) > 50 {
		return x.fail(400, 230001, "Your request contains an invalid request parameter, ext=uuid is longer than 50.")
	}
	if problem := p.deliveryProblem(x, user); problem != nil {
		return *problem
	}
	key := uuidKey(x.call.AppID, in.UUID)
	if first := p.chat.uuids[key]; in.UUID != "" && first != nil && p.now().Sub(first.SentAt) < uuidLife {
		return p.duplicate(x, first)
	}
	if p.admit("user "+x.call.AppID+" "+user.UnionID, perSecond(5)) > 0 {
		return x.fail(400, 230020, "This operation triggers the frequency limit.")
	}
	if wait := p.admit("im "+x.call.AppID, tier(50)...); wait > 0 {
		return x.rateLimited(wait)
	}
	m := p.deliver(x, user, in, content, parent)
	if in.UUID != "" {
		p.chat.uuids[key] = m
	}
	return success(m.data())
}

// content reads the content field: a string that is itself JSON.
func (x *exchange) content(raw json.RawMessage, kind string) (string, *answer) {
	var content string
	var a answer
	limit := maxCard
	if kind == "text" {
		limit = maxText
	}
	if json.Unmarshal(raw, &content) != nil {
		a = x.fail(400, 230001, "Your request contains an invalid request parameter, ext=content is not a string in json format.")
		return "", &a
	}
	if len(x.body) > limit {
		a = x.fail(400, 230025, "The length of the message content reaches its limit.")
		return "", &a
	}
	if kind != "interactive" {
		if !json.Valid([]byte(content)) {
			a = x.fail(400, 230001, "Your request contains an invalid request parameter, ext=content is not a string in json format.")
			return "", &a
		}
		return content, nil
	}
	if _, problem := checkCard(content); problem != nil {
		a = x.fail(400, 230099, problem.msg())
		return "", &a
	}
	return content, nil
}

func (p *Platform) deliveryProblem(x *exchange, user *User) *answer {
	var a answer
	switch {
	case user.Status == Resigned || user.Missing:
		a = x.fail(400, 230029, "The user has resigned.")
	case !user.available(x.call.AppID) || user.Status != Active:
		a = x.fail(400, 230013, "Bot has NO availability to this user.")
	case user.BotMuted:
		a = x.fail(400, 230053, "The user has stopped the bot from sending messages.")
	default:
		return nil
	}
	return &a
}

// duplicate answers a uuid that was seen within the hour.
func (p *Platform) duplicate(x *exchange, first *message) answer {
	if code := p.switches.DuplicateUUID; code != 0 {
		return x.fail(400, code, "The message is being sent.")
	}
	return success(first.data())
}

func (p *Platform) deliver(x *exchange, user *User, in sendRequest, content, parent string) *message {
	openID := p.openID(x.call.AppID, user)
	sum := sha256.Sum256([]byte(x.call.AppID + openID))
	m := &message{user: user, sender: x.token, Message: Message{
		ID: "om_" + randomHex(16), ChatID: "oc_" + hex.EncodeToString(sum[:16]), AppID: x.call.AppID, OpenID: openID,
		UUID: in.UUID, Type: in.Type, ParentID: parent, SentAt: p.now(), Versions: []Version{{p.now(), content}},
	}}
	if in.Type == "interactive" {
		card, _ := checkCard(content)
		m.multi, m.v2 = card.multi, card.v2
	}
	p.chat.messages[m.ID] = m
	p.chat.order = append(p.chat.order, m)
	if len(p.chat.order) > 2*p.config.KeepCalls {
		p.chat.forget(p.config.KeepCalls)
	}
	p.touch()
	return m
}

// forget drops the n oldest messages.
func (c *chat) forget(n int) {
	for _, m := range c.order[:n] {
		delete(c.messages, m.ID)
		if key := uuidKey(m.AppID, m.UUID); c.uuids[key] == m {
			delete(c.uuids, key)
		}
	}
	c.order = slices.Clone(c.order[n:])
}

func uuidKey(app, uuid string) string { return app + "\x00" + uuid }

// data is what create, reply and so on say about a message.
func (m *message) data() object {
	last := m.Versions[len(m.Versions)-1]
	return object{
		{"message_id", m.ID}, {"root_id", m.ParentID}, {"parent_id", m.ParentID}, {"chat_id", m.ChatID}, {"msg_type", m.Type},
		{"create_time", itoa(int(m.SentAt.UnixMilli()))}, {"update_time", itoa(int(last.At.UnixMilli()))},
		{"deleted", false}, {"updated", len(m.Versions) > 1}, {"body", map[string]string{"content": last.Content}},
		{"sender", map[string]string{"id": m.AppID, "id_type": "app_id", "sender_type": "app", "tenant_key": tenantKey}},
	}
}

// serveUpdate is PATCH messages/:message_id.
func serveUpdate(p *Platform, x *exchange) answer {
	var in struct {
		Content json.RawMessage `json:"content"`
	}
	m := p.chat.messages[x.vars["message_id"]]
	if m == nil {
		return x.fail(400, 99992354, "not a valid {open_message_id}")
	}
	if x.decode(&in) != nil {
		return x.fail(400, 230001, "Your request contains an invalid request parameter.")
	}
	if problem := p.updateProblem(x, m); problem != nil {
		return *problem
	}
	content, problem := x.content(in.Content, "interactive")
	if problem != nil {
		return *problem
	}
	if bad := m.accepts(content); bad != nil {
		return x.fail(400, 230099, bad.msg())
	}
	if p.admit("patch "+m.ID, perSecond(5)) > 0 {
		return x.fail(400, 230020, "This operation triggers the frequency limit.")
	}
	m.update(p.now(), content)
	p.touch()
	return answer{status: http.StatusOK, body: object{{"code", 0}, {"msg", "success"}, {"data", map[string]any{}}}}
}

func (p *Platform) updateProblem(x *exchange, m *message) *answer {
	var a answer
	switch {
	case m.AppID != x.call.AppID || m.sender.kind != x.token.kind:
		a = x.fail(400, 230027, "Lack of necessary permissions, ext=the card was sent by another identity.")
	case m.Type != "interactive":
		a = x.fail(400, 230054, "This operation is not supported for this message type.")
	case p.now().Sub(m.SentAt) > updatableFor:
		a = x.fail(400, 230031, "Message can only be modified within 14 days after sending.")
	default:
		return nil
	}
	return &a
}

// accepts checks what an update adds to the rules of a card: update_multi
// before and after, and no way back from 2.0.
func (m *message) accepts(content string) *cardProblem {
	card, problem := checkCard(content)
	switch {
	case problem != nil:
		return problem
	case m.v2 && !card.v2:
		return &cardProblem{200830, "a 2.0 card can't become a 1.0 card"}
	case !m.multi || !card.multi:
		return &cardProblem{300302, "config.update_multi must be true before and after"}
	}
	return nil
}

func (m *message) update(at time.Time, content string) {
	card, _ := checkCard(content)
	m.v2, m.multi = card.v2, card.multi
	m.Versions = append(m.Versions, Version{at, content})
}

// Messages returns what a user got, in order, by any of the user's open_ids;
// "" for everyone's messages.
func (p *Platform) Messages(openID string) []Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	who := p.byOpenID[openID]
	var messages []Message
	for _, m := range p.chat.order {
		if openID == "" || m.user == who.user {
			messages = append(messages, m.copy())
		}
	}
	return messages
}

func (m *message) copy() Message {
	c := m.Message
	c.Versions = slices.Clone(c.Versions)
	return c
}

// Content is the latest version.
func (m Message) Content() string { return m.Versions[len(m.Versions)-1].Content }

// Links are what the latest card's open_url buttons open in the client, in
// order.
func (m Message) Links() []string {
	var links []string
	for _, b := range m.Buttons() {
		if b.URL != "" {
			links = append(links, InClient(b.URL))
		}
	}
	return links
}

// Buttons are those of the latest card, in the order in which they stand.
func (m Message) Buttons() []Button {
	card, problem := checkCard(m.Content())
	if m.Type != "interactive" || problem != nil {
		return nil
	}
	return card.buttons()
}
