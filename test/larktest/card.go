package larktest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// card is a parsed card. Version 1.0 is taken as it is; 2.0 is checked
// attribute by attribute, since Lark refuses what it doesn't know.
type card struct {
	v2, multi bool
	root      map[string]any
}

// cardProblem becomes 230099 with the sub-code in the message.
type cardProblem struct {
	code   int
	detail string
}

func (c *cardProblem) msg() string {
	return fmt.Sprintf("Failed to create card content, ext=ErrCode: %d; ErrMsg: %s; ErrorValue: ; ", c.code, c.detail)
}

// The attributes of card JSON 2.0. Source: Lark "card JSON 2.0 structure" and
// "breaking changes", as read for this emulator; components that an auth card
// has no use for are listed with what is common to all.
var (
	cardRoot   = strings.Fields("schema config header body card_link i18n_header")
	cardConfig = strings.Fields("streaming_mode streaming_config summary locales enable_forward update_multi width_mode use_custom_translation enable_forward_interaction style")
	cardHeader = strings.Fields("title subtitle text_tag_list i18n_text_tag_list template icon padding")
	cardBody   = strings.Fields("direction padding horizontal_spacing horizontal_align vertical_spacing vertical_align elements")
	common     = "tag element_id margin "
	cardTags   = map[string][]string{
		"markdown":              strings.Fields(common + "content i18n_content text_align text_size icon href"),
		"div":                   strings.Fields(common + "text icon width"),
		"plain_text":            strings.Fields(common + "content i18n_content text_size text_color text_align lines"),
		"lark_md":               strings.Fields(common + "content i18n_content text_size text_color text_align lines"),
		"hr":                    strings.Fields(common),
		"button":                strings.Fields(common + "type size width text icon hover_tips disabled disabled_tips confirm behaviors name required form_action_type"),
		"column_set":            strings.Fields(common + "horizontal_spacing horizontal_align flex_mode background_style columns behaviors"),
		"column":                strings.Fields(common + "background_style width weight horizontal_align horizontal_spacing vertical_align vertical_spacing direction padding elements behaviors"),
		"interactive_container": strings.Fields(common + "width height background_style has_border border_color corner_radius padding behaviors hover_tips disabled disabled_tips confirm direction horizontal_spacing horizontal_align vertical_align vertical_spacing elements"),
		"collapsible_panel":     strings.Fields(common + "expanded background_color header border vertical_spacing padding elements direction horizontal_spacing horizontal_align vertical_align"),
		"form":                  strings.Fields(common + "name elements padding direction horizontal_spacing horizontal_align vertical_align vertical_spacing confirm"),
		"img":                   strings.Fields(common + "img_key alt title corner_radius scale_type size transparent preview"),
		"standard_icon":         strings.Fields("tag token color size"),
		"custom_icon":           strings.Fields("tag img_key size"),
		"text_tag":              strings.Fields("tag element_id text color"),
		"person":                strings.Fields(common + "user_id size show_avatar show_name style"),
		"input":                 strings.Fields(common + "name required disabled placeholder default_value width max_length input_type rows auto_resize max_rows show_icon label label_position value behaviors confirm fallback"),
	}
	// versionOne are tags that 2.0 has dropped.
	versionOne = []string{"action", "note"}
	templates  = strings.Fields("blue wathet turquoise green yellow orange red carmine violet purple indigo grey default")
)

// checkCard parses a card's content string.
func checkCard(content string) (card, *cardProblem) {
	var root map[string]any
	if err := json.Unmarshal([]byte(content), &root); err != nil {
		return card{}, &cardProblem{200621, "parse card json err, please check whether the card json is correct"}
	}
	c := card{root: root}
	config, _ := root["config"].(map[string]any)
	multi, set := config["update_multi"].(bool)
	if root["schema"] != "2.0" {
		c.multi = multi
		return c, nil
	}
	c.v2, c.multi = true, multi || !set
	if set && !multi {
		return c, &cardProblem{300302, "update_multi can only be true in schema 2.0"}
	}
	if problem := checkTop(root); problem != nil {
		return c, problem
	}
	body, _ := root["body"].(map[string]any)
	elements, _ := body["elements"].([]any)
	count := 0
	return c, checkElements(elements, &count)
}

func checkTop(root map[string]any) *cardProblem {
	if problem := onlyHas("card", root, cardRoot); problem != nil {
		return problem
	}
	for name, allowed := range map[string][]string{"config": cardConfig, "header": cardHeader, "body": cardBody} {
		part, ok := root[name].(map[string]any)
		if root[name] != nil && !ok {
			return &cardProblem{200621, name + " is not an object"}
		}
		if problem := onlyHas(name, part, allowed); problem != nil {
			return problem
		}
	}
	if root["body"] == nil {
		return &cardProblem{200621, "body is missing"}
	}
	header, _ := root["header"].(map[string]any)
	if template, ok := header["template"].(string); ok && !slices.Contains(templates, template) {
		return &cardProblem{200621, "unknown header template " + template}
	}
	return checkTexts(header, "title", "subtitle")
}

func onlyHas(what string, part map[string]any, allowed []string) *cardProblem {
	for name := range part {
		if !slices.Contains(allowed, name) {
			return &cardProblem{200861, "cards of schema V2 no longer support this capability: " + what + "." + name}
		}
	}
	return nil
}

func checkElements(elements []any, count *int) *cardProblem {
	for _, e := range elements {
		element, ok := e.(map[string]any)
		if !ok {
			return &cardProblem{200621, "an element is not an object"}
		}
		if *count++; *count > 200 {
			return &cardProblem{11310, "element exceeds the limit"}
		}
		if problem := checkElement(element, count); problem != nil {
			return problem
		}
	}
	return nil
}

func checkElement(element map[string]any, count *int) *cardProblem {
	tag, _ := element["tag"].(string)
	allowed, known := cardTags[tag]
	switch {
	case slices.Contains(versionOne, tag):
		return &cardProblem{200861, "cards of schema V2 no longer support this capability; unsupported tag " + tag}
	case !known:
		return &cardProblem{200621, "unknown tag " + tag}
	}
	if problem := onlyHas(tag, element, allowed); problem != nil {
		return problem
	}
	if problem := checkTexts(element, "text"); problem != nil {
		return problem
	}
	if problem := checkBehaviors(element["behaviors"]); problem != nil {
		return problem
	}
	for _, inner := range []string{"columns", "elements"} {
		nested, _ := element[inner].([]any)
		if problem := checkElements(nested, count); problem != nil {
			return problem
		}
	}
	return nil
}

// checkTexts looks at text objects: plain_text or lark_md with a content.
func checkTexts(part map[string]any, names ...string) *cardProblem {
	for _, name := range names {
		if part[name] == nil {
			continue
		}
		text, ok := part[name].(map[string]any)
		tag, _ := text["tag"].(string)
		if !ok || tag != "plain_text" && tag != "lark_md" && tag != "markdown" {
			return &cardProblem{200621, name + " must be a plain_text or lark_md object"}
		}
		if problem := onlyHas(tag, text, cardTags[tag]); problem != nil {
			return problem
		}
	}
	return nil
}

var behaviorAttributes = map[string][]string{
	"open_url":    strings.Fields("type default_url pc_url ios_url android_url"),
	"callback":    strings.Fields("type value"),
	"form_action": strings.Fields("type behavior"),
}

func checkBehaviors(raw any) *cardProblem {
	if raw == nil {
		return nil
	}
	behaviors, ok := raw.([]any)
	if !ok {
		return &cardProblem{200621, "behaviors is not an array"}
	}
	for _, b := range behaviors {
		behavior, _ := b.(map[string]any)
		kind, _ := behavior["type"].(string)
		allowed, known := behaviorAttributes[kind]
		if !known {
			return &cardProblem{200621, "unknown behavior " + kind}
		}
		if problem := onlyHas("behaviors."+kind, behavior, allowed); problem != nil {
			return problem
		}
	}
	return nil
}

// Button is a button of a card as the chat shows it.
type Button struct {
	// Text is by locale: zh_cn, en_us, ja_jp, …; "" is the default.
	Text map[string]string `json:"text,omitempty"`
	// Type is Lark's: default, primary, danger, …
	Type string `json:"type,omitempty"`
	// URL is set on a button that opens a link; Callback on one whose click is
	// sent to the app, with Value.
	URL      string `json:"url,omitempty"`
	Callback bool   `json:"callback,omitempty"`
	Value    any    `json:"value,omitempty"`
	Name     string `json:"name,omitempty"`
	Disabled bool   `json:"disabled,omitempty"`
	// Confirm is shown before the click, when there is something to confirm.
	Confirm string `json:"confirm,omitempty"`
}

// buttons walks the body in order.
func (c card) buttons() []Button {
	body, _ := c.root["body"].(map[string]any)
	if !c.v2 {
		body = c.root
	}
	var found []Button
	walk(body, func(element map[string]any) {
		if element["tag"] == "button" {
			found = append(found, newButton(element))
		}
	})
	return found
}

func walk(part map[string]any, visit func(map[string]any)) {
	for _, name := range []string{"elements", "columns", "actions"} {
		children, _ := part[name].([]any)
		for _, child := range children {
			if element, ok := child.(map[string]any); ok {
				visit(element)
				walk(element, visit)
			}
		}
	}
}

func newButton(element map[string]any) Button {
	text, _ := element["text"].(map[string]any)
	b := Button{Text: localized(text)}
	b.Type, _ = element["type"].(string)
	b.Name, _ = element["name"].(string)
	b.Disabled, _ = element["disabled"].(bool)
	b.URL, _ = element["url"].(string) // 1.0
	if value, ok := element["value"]; ok {
		b.Callback, b.Value = true, value // 1.0
	}
	behaviors, _ := element["behaviors"].([]any)
	for _, raw := range behaviors {
		behavior, _ := raw.(map[string]any)
		switch behavior["type"] {
		case "open_url":
			b.URL, _ = behavior["default_url"].(string)
			if pc, _ := behavior["pc_url"].(string); pc != "" {
				b.URL = pc
			}
		case "callback":
			b.Callback, b.Value = true, behavior["value"]
		}
	}
	if confirm, ok := element["confirm"].(map[string]any); ok {
		title, _ := confirm["title"].(map[string]any)
		b.Confirm = localized(title)[""]
	}
	return b
}

// localized reads a text object or a markdown element.
func localized(text map[string]any) map[string]string {
	all := map[string]string{}
	all[""], _ = text["content"].(string)
	translations, _ := text["i18n_content"].(map[string]any)
	for locale, t := range translations {
		all[locale], _ = t.(string)
	}
	return all
}
