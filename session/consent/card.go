package consent

import (
	"encoding/json"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"larkside/session"
)

// cards makes the auth card in each of its states, as card JSON 2.0. It uses
// only attributes that Lark documents, since Lark refuses others. A card has
// all languages, and the client picks one. At most 30 KB. Source: Lark "card
// JSON 2.0 structure".
type cards struct {
	// title and message replace the texts of the card that asks, and privacy is
	// linked from it.
	title, message, privacy string
	// appLink is [Config.AppLink].
	appLink string
	// buttons is [Config.Buttons].
	buttons bool
}

// newCards returns the cards of c.
func newCards(c Config) *cards {
	return &cards{title: c.CardTitle, message: c.CardMessage, privacy: c.PrivacyURL, appLink: c.AppLink, buttons: c.Buttons}
}

// AskingCard returns the card by which a [Manager] of c asks for p: card JSON 2.0.
// app is the name of the app. It uses only the fields of c that are about
// cards.
func AskingCard(c Config, app string, p *session.Consent) []byte {
	return newCards(c).waiting(app, p, session.NoSession)
}

// ClosedCard returns the card that replaces it when p is over.
func ClosedCard(c Config, app string, p *session.Consent) []byte {
	return newCards(c).closed(app, p)
}

const (
	maxTitle   = 100
	maxMessage = 2000
	// maxCodeShown is longer than any user code of the device flow.
	maxCodeShown = 32
	// maxListed is how many scopes a card lists one by one.
	maxListed = 12
)

type cardJSON struct {
	Schema string     `json:"schema"`
	Config cardConfig `json:"config"`
	Header cardHeader `json:"header"`
	Body   cardBody   `json:"body"`
}

type cardConfig struct {
	// UpdateMulti must be true for the card to be updated, and 2.0 allows
	// nothing else.
	UpdateMulti bool `json:"update_multi"`
	// EnableForward is off, since the link is for one user. A copied link does
	// not help anybody else either: user_info decides.
	EnableForward bool     `json:"enable_forward"`
	Summary       cardText `json:"summary"`
}

type cardHeader struct {
	Title    cardText `json:"title"`
	Template string   `json:"template"`
}

type cardBody struct {
	Elements []any `json:"elements"`
}

type cardText struct {
	Tag     string            `json:"tag,omitempty"`
	Content string            `json:"content"`
	I18n    map[string]string `json:"i18n_content,omitempty"`
}

// cardDiv is text that is shown as it is.
type cardDiv struct {
	Tag  string   `json:"tag"`
	Text cardText `json:"text"`
}

type cardButton struct {
	Tag       string         `json:"tag"`
	Type      string         `json:"type"`
	Width     string         `json:"width"`
	Text      cardText       `json:"text"`
	Behaviors []cardBehavior `json:"behaviors"`
}

type cardBehavior struct {
	Type       string            `json:"type"`
	DefaultURL string            `json:"default_url,omitempty"`
	Value      map[string]string `json:"value,omitempty"`
}

// waiting returns the card that asks.
func (c *cards) waiting(app string, p *session.Consent, reason session.Reason) []byte {
	title, intro := texts.cardTitle, texts.cardIntro
	switch reason {
	case "", session.NoSession:
	case ending:
		title, intro = texts.endingTitle, texts.endingIntro
	case lacking:
		intro = texts.cardLacking
	default:
		intro = texts.cardRenew
	}
	if c.title != "" {
		title = same(clip(c.title, maxTitle))
	}
	var said any = intro.fill("{app}", escape(app), texts.thisApp).markdown()
	if c.message != "" {
		said = cardDiv{"div", cardText{Tag: "plain_text", Content: clip(c.message, maxMessage)}}
	}
	authorize := button("primary", texts.authorize, cardBehavior{Type: "open_url", DefaultURL: c.link(p)})
	if c.buttons && p.Flow == session.DeviceFlow { // then Lark is polled more often
		authorize.Behaviors = append(authorize.Behaviors, callbackBehavior(actionOpen, p.ID))
	}
	elements := []any{said, scopeList(parseScopes(p.Scopes)).markdown(), authorize}
	if code := userCode(p); code != "" {
		elements = append(elements, texts.code.fill("{code}", code, translated{}).markdown())
	}
	if c.buttons {
		elements = append(elements, callback("default", texts.decline, actionDecline, p.ID))
	}
	foot := texts.cardLife.fill("{time}", "", duration(p.Left))
	if c.privacy != "" {
		foot = foot.join(texts.privacy.fill("{url}", escapeURL(c.privacy), translated{}))
	}
	return encodeCard("blue", title, append(elements, foot.markdown()))
}

// link returns the address that the card's button opens. An AppLink opens the
// page beside the chat, in the client, where the account is the one that the
// card was sent to. Source: [S] openclaw-lark. Whether the web view of
// larksuite.com's client shows the consent page is UNCONFIRMED (opentag issue
// 435).
func (c *cards) link(p *session.Consent) string {
	link := p.Link.Expose()
	if c.appLink == "" {
		return link
	}
	return c.appLink + "/client/web_url/open?mode=sidebar-semi&max_width=800&reload=false&url=" + url.QueryEscape(link)
}

// userCode returns the code that Lark's page of the device flow may ask for; empty
// if the link has none. It is shown to the same person as the link.
func userCode(p *session.Consent) string {
	if p.Flow != session.DeviceFlow {
		return ""
	}
	u, err := url.Parse(p.Link.Expose())
	if err != nil {
		return ""
	}
	code := u.Query().Get("user_code")
	if len(code) > maxCodeShown || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return "" // it could be markdown
	}
	return code
}

// closed returns the card of a consent that is over.
func (c *cards) closed(app string, p *session.Consent) []byte {
	color, k, over := "grey", texts.expired, true
	switch {
	case p.State == session.ConsentDone:
		color, k, over = "green", texts.done, false
	case p.State == session.ConsentDeclined:
		k = texts.declined
	case p.State == session.ConsentSuperseded:
		k, over = texts.superseded, false
	case p.State == session.ConsentFailed && p.Reason == reasonWrongAccount:
		color, k = "red", texts.wrongAccount
	case p.State == session.ConsentFailed:
		color, k = "orange", texts.failed
	}
	if over && c.buttons {
		return c.final(color, k, app, callback("default", texts.resend, actionResend, p.ID))
	}
	return c.final(color, k, app)
}

// ending returns the card that announces the end of a grant and has no link.
func (c *cards) ending(app string) []byte {
	text := texts.endingIntro.fill("{app}", escape(app), texts.thisApp)
	return encodeCard("blue", texts.endingTitle, []any{text.markdown(), callback("primary", texts.renew, actionRenew, "")})
}

// revoked is the card of a consent whose session was ended later.
func (c *cards) revoked(app string) []byte { return c.final("grey", texts.revoked, app) }

func (c *cards) final(color string, m message, app string, buttons ...any) []byte {
	text := m.card.fill("{app}", escape(app), texts.thisApp)
	return encodeCard(color, m.title, append([]any{text.markdown()}, buttons...))
}

func encodeCard(color string, title translated, elements []any) []byte {
	heading := title.text()
	heading.Tag = "plain_text"
	card, err := json.Marshal(cardJSON{
		Schema: "2.0",
		Config: cardConfig{UpdateMulti: true, Summary: title.text()},
		Header: cardHeader{Title: heading, Template: color},
		Body:   cardBody{Elements: elements},
	})
	if err != nil {
		return nil // only strings are in it
	}
	return card
}

func button(kind string, label translated, b cardBehavior) cardButton {
	text := label.text()
	text.Tag = "plain_text"
	return cardButton{Tag: "button", Type: kind, Width: "fill", Text: text, Behaviors: []cardBehavior{b}}
}

// callback returns a button whose click comes to [Manager.HandleEvent].
func callback(kind string, label translated, action, consent string) cardButton {
	return button(kind, label, callbackBehavior(action, consent))
}

func callbackBehavior(action, consent string) cardBehavior {
	value := map[string]string{"action": action}
	if consent != "" {
		value["consent"] = consent
	}
	return cardBehavior{Type: "callback", Value: value}
}

// duration returns d in words, in whole minutes, hours or days.
func duration(d time.Duration) translated {
	unit, words := time.Minute, texts.minutes
	switch {
	case d >= 48*time.Hour:
		unit, words = 24*time.Hour, texts.days
	case d >= 2*time.Hour:
		unit, words = time.Hour, texts.hours
	}
	n := max(1, int(math.Round(float64(d)/float64(unit))))
	return words.fill("{n}", strconv.Itoa(n), translated{})
}

// scopeList returns the list of what is asked for, in words where there are
// some.
func scopeList(list scopes) translated {
	all := texts.cardScopes
	for i, scope := range list {
		if i == maxListed {
			return all.join(texts.more.fill("{n}", strconv.Itoa(len(list)-maxListed), translated{}))
		}
		line, ok := words[scope]
		if !ok {
			line = same(scope) // a scope has no characters of markdown
		}
		all = all.join(same("\n- ")).join(line)
	}
	return all
}

// text returns the form from which Lark's clients pick a language.
func (t translated) text() cardText {
	return cardText{Content: t.en, I18n: map[string]string{"zh_cn": t.zh, "en_us": t.en, "ja_jp": t.ja}}
}

func (t translated) markdown() cardText {
	text := t.text()
	text.Tag = "markdown"
	return text
}

// markdownEscapes are the HTML entities that Lark shows as the character
// itself. Source: Lark "rich text component", special characters.
var markdownEscapes = strings.NewReplacer(
	"&", "&amp;", "<", "&#60;", ">", "&#62;", "*", "&#42;", "_", "&#95;", "~", "&#126;", "`", "&#96;",
	"[", "&#91;", "]", "&#93;", "(", "&#40;", ")", "&#41;", "#", "&#35;", "!", "&#33;", "\\", "&#92;", "|", "&#124;",
)

// escape returns markdown that is shown as text.
func escape(text string) string { return markdownEscapes.Replace(text) }

// escapeURL returns an address for a markdown link that can't end the link.
func escapeURL(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return strings.NewReplacer("(", "%28", ")", "%29", "[", "%5B", "]", "%5D", "<", "%3C", ">", "%3E", " ", "%20").Replace(u.String())
}

// clip returns text cut to n characters.
func clip(text string, n int) string {
	if r := []rune(text); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return text
}
