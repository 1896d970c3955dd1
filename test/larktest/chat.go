package larktest

import (
	"regexp"
	"strings"
	"time"
)

// chatMessage is a message as the chat page shows it.
type chatMessage struct {
	ID, App string
	At      time.Time
	Updated *time.Time
	Type    string
	Text    string    // of what is no card
	Card    *cardView // of a card
	Version int
}

// cardView is a card in one language, ready for the template.
type cardView struct {
	Template        string
	Title, Subtitle string
	Tags            []tagView
	Elements        []element
}

type tagView struct{ Text, Color string }

// element is a component of a card. Kind says which of the fields are set:
// text (Blocks), hr, button (Button, N), columns (Columns), box (Elements,
// Label), other (Label).
type element struct {
	Kind     string
	Blocks   []block
	Button   Button
	Label    string
	N        int
	Columns  [][]element
	Elements []element
}

// scene is what nested elements need to know of their message.
type scene struct {
	Message, User, Lang, Theme string
	Elements                   []element
}

func newScene(message, user, lang, theme string, elements []element) scene {
	return scene{message, user, lang, theme, elements}
}

// With is the same scene for other elements.
func (s scene) With(elements []element) scene {
	s.Elements = elements
	return s
}

// chatView is the data of the chat page. It is called with mu held.
func (p *Platform) chatView(u *User, openID, lang string) map[string]any {
	var messages []chatMessage
	for _, m := range p.chat.order {
		if m.user == u {
			messages = append(messages, p.chatMessage(m, lang))
		}
	}
	toast := p.chat.toasts[u]
	delete(p.chat.toasts, u)
	return map[string]any{
		"User": *u, "OpenID": openID, "Messages": messages, "Lang": lang, "State": p.chat.state(u), "Toast": toast,
		"Languages": []field{{"zh_cn", "中文"}, {"en_us", "English"}, {"ja_jp", "日本語"}},
	}
}

// Name and Value let a template read a field.
func (f field) Name() string { return f.name }
func (f field) Value() any   { return f.value }

func (p *Platform) chatMessage(m *message, lang string) chatMessage {
	last := m.Versions[len(m.Versions)-1]
	c := chatMessage{ID: m.ID, App: p.apps[m.AppID].Name, At: m.SentAt, Type: m.Type, Version: len(m.Versions)}
	if len(m.Versions) > 1 {
		c.Updated = &last.At
	}
	if m.Type != "interactive" {
		c.Text = last.Content
		return c
	}
	if parsed, problem := checkCard(last.Content); problem == nil {
		c.Card = newCardView(parsed, lang)
	}
	return c
}

func newCardView(c card, lang string) *cardView {
	header, _ := c.root["header"].(map[string]any)
	v := &cardView{Template: "default"}
	if template, ok := header["template"].(string); ok {
		v.Template = template
	}
	v.Title, v.Subtitle = pick(header["title"], lang), pick(header["subtitle"], lang)
	tags, _ := header["text_tag_list"].([]any)
	for _, raw := range tags {
		tag, _ := raw.(map[string]any)
		color, _ := tag["color"].(string)
		v.Tags = append(v.Tags, tagView{pick(tag["text"], lang), color})
	}
	body := c.root
	if c.v2 {
		body, _ = c.root["body"].(map[string]any)
	}
	r := renderer{lang: lang}
	v.Elements = r.elements(body["elements"])
	return v
}

// pick reads a text object in a language, falling back to its default.
func pick(raw any, lang string) string {
	text, _ := raw.(map[string]any)
	all := localized(text)
	if all[lang] != "" {
		return all[lang]
	}
	return all[""]
}

// renderer numbers the buttons in the order in which Message.Buttons does.
type renderer struct {
	lang    string
	buttons int
}

func (r *renderer) elements(raw any) []element {
	list, _ := raw.([]any)
	var elements []element
	for _, item := range list {
		if e, ok := item.(map[string]any); ok {
			elements = append(elements, r.element(e))
		}
	}
	return elements
}

func (r *renderer) element(e map[string]any) element {
	tag, _ := e["tag"].(string)
	switch tag {
	case "markdown":
		return element{Kind: "text", Blocks: markdown(pick(e, r.lang))}
	case "plain_text", "lark_md":
		return r.text(e)
	case "div":
		text, _ := e["text"].(map[string]any)
		return r.text(text)
	case "hr":
		return element{Kind: "hr"}
	case "button":
		return r.button(e)
	case "column_set":
		return r.columns(e)
	case "action": // 1.0
		return element{Kind: "box", Elements: r.elements(e["actions"])}
	case "interactive_container", "form", "collapsible_panel", "column":
		header, _ := e["header"].(map[string]any)
		return element{Kind: "box", Label: pick(header["title"], r.lang), Elements: r.elements(e["elements"])}
	}
	return element{Kind: "other", Label: tag}
}

func (r *renderer) text(text map[string]any) element {
	if text["tag"] == "lark_md" {
		return element{Kind: "text", Blocks: markdown(pick(text, r.lang))}
	}
	return element{Kind: "text", Blocks: []block{{Kind: "p", Spans: []span{{Text: pick(text, r.lang)}}}}}
}

func (r *renderer) button(e map[string]any) element {
	b := newButton(e)
	out := element{Kind: "button", Button: b, N: r.buttons, Label: b.Text[r.lang]}
	if out.Label == "" {
		out.Label = b.Text[""]
	}
	r.buttons++
	return out
}

func (r *renderer) columns(e map[string]any) element {
	list, _ := e["columns"].([]any)
	out := element{Kind: "columns"}
	for _, raw := range list {
		column, _ := raw.(map[string]any)
		out.Columns = append(out.Columns, r.elements(column["elements"]))
	}
	return out
}

// block is a paragraph (p), heading (h), list item (li) or rule (hr).
type block struct {
	Kind  string
	Spans []span
}

// span is a run of text; Kind is empty, b, i, code, s, a, at or font.
type span struct {
	Kind, Text, Href, Color string
}

// markdown reads the part of Lark's markdown that cards use. Nothing becomes
// markup here: the template escapes every text and checks every address.
func markdown(text string) []block {
	var blocks []block
	for line := range strings.SplitSeq(text, "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "":
		case trimmed == "---":
			blocks = append(blocks, block{Kind: "hr"})
		case strings.HasPrefix(trimmed, "#"):
			blocks = append(blocks, block{"h", spans(strings.TrimLeft(trimmed, "# "))})
		case strings.HasPrefix(trimmed, "- "), strings.HasPrefix(trimmed, "* "):
			blocks = append(blocks, block{"li", spans(trimmed[2:])})
		default:
			blocks = append(blocks, block{"p", spans(line)})
		}
	}
	return blocks
}

// inline finds, in this order of preference at each place: code, bold,
// strike, link, bare address, font, at, italic.
var inline = regexp.MustCompile("`([^`]+)`" + `|\*\*([^*]+)\*\*|~~([^~]+)~~|\[([^\]]+)\]\(([^)\s]+)\)|(https?://[^\s<>()]+)|<font color=['"]?([a-z-]+)['"]?>([^<]*)</font>|<at id=['"]?([^'">]*)['"]?>(?:</at>)?|\*([^*]+)\*`)

func spans(text string) []span {
	var out []span
	for text != "" {
		at := inline.FindStringSubmatchIndex(text)
		if at == nil {
			return append(out, span{Text: text})
		}
		if at[0] > 0 {
			out = append(out, span{Text: text[:at[0]]})
		}
		group := func(n int) string {
			if at[2*n] < 0 {
				return ""
			}
			return text[at[2*n]:at[2*n+1]]
		}
		out = append(out, newSpan(group))
		text = text[at[1]:]
	}
	return out
}

func newSpan(group func(int) string) span {
	switch {
	case group(1) != "":
		return span{Kind: "code", Text: group(1)}
	case group(2) != "":
		return span{Kind: "b", Text: group(2)}
	case group(3) != "":
		return span{Kind: "s", Text: group(3)}
	case group(4) != "":
		return span{Kind: "a", Text: group(4), Href: group(5)}
	case group(6) != "":
		return span{Kind: "a", Text: group(6), Href: group(6)}
	case group(7) != "":
		return span{Kind: "font", Color: group(7), Text: group(8)}
	case group(10) != "":
		return span{Kind: "i", Text: group(10)}
	}
	return span{Kind: "at", Text: group(9)}
}
