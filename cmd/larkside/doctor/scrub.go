package doctor

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"larkside/session"
)

// scrubber replaces what must not leave this machine by placeholders such as
// "<access_token 1>". A value has the same one wherever it stands, so that a
// reader, and a program, can follow it.
//
// It works by what may stay, not by what must go: of the strings and numbers of
// a message, only those of the fields in [plainFields] are kept. A field that
// Lark adds tomorrow is replaced.
type scrubber struct {
	placeholders map[string]string // by value
	counts       map[string]int    // by kind
	// secrets are values that must be nowhere in the result, with what they are.
	secrets map[string]string
}

func newScrubber() *scrubber {
	return &scrubber{placeholders: map[string]string{}, counts: map[string]int{}, secrets: map[string]string{}}
}

// plainFields are kept, of requests and answers alike. None of them names
// anybody. Free text among them is still searched for what is known by then, and
// for what looks like an id or a token.
var plainFields = fieldSet(`
	code msg error error_description message status_message
	token_type scope grant_type token_type_hint expires_in refresh_token_expires_in expire interval
	receive_id_type user_id_type msg_type lang
	activate_status status level token_types type scene_type payment_type
	is_frozen is_resigned is_activated is_exited is_unjoin
	schema event_type tag action revoke_token_type revoke_reason sender_type id_type
	primary_language i18n_key mobile_default_ability pc_default_ability`)

// sameKind are fields that hold the same kind of thing under two names.
var sameKind = map[string]string{"client_id": "app_id", "client_secret": "app_secret"}

// secretKinds are those that must not be in the result even as a part of
// something else. Of the other kinds only longer values are looked for there:
// a short name may well be a word.
var secretKinds = fieldSet(`
	access_token refresh_token tenant_access_token app_access_token token secret app_secret code device_code user_code flow_id
	code_verifier authorization`)

func fieldSet(names string) map[string]bool {
	set := map[string]bool{}
	for _, name := range strings.Fields(names) {
		set[name] = true
	}
	return set
}

// longEnough is the length in bytes from which a value can be looked for inside
// of other text.
const longEnough = 6

// know makes sure that value, which is a secret of that kind, is replaced and
// nowhere in the result.
func (s *scrubber) know(kind string, value session.Secret) {
	if !value.Empty() {
		s.replace(kind, value.Expose())
		s.secrets[value.Expose()] = kind
	}
}

// replace returns the placeholder of value, which is of that kind.
func (s *scrubber) replace(kind, value string) string {
	if value == "" || strings.HasPrefix(value, "<") && strings.HasSuffix(value, ">") {
		return value // nothing, or a placeholder already
	}
	if p, ok := s.placeholders[value]; ok {
		return p
	}
	kind = cmp.Or(sameKind[kind], kind)
	s.counts[kind]++
	p := fmt.Sprintf("<%s %d>", kind, s.counts[kind])
	s.placeholders[value] = p
	// The content of a message is checked for everything that is in it.
	if secretKinds[kind] || len(value) >= longEnough && kind != "content" {
		s.secrets[value] = kind
	}
	return p
}

var (
	// idShape has Lark's ids, of which the first letters say what they name.
	idShape = regexp.MustCompile(`\b(ou|on|oc|om|omt|cli|oav)_[A-Za-z0-9]{6,}`)
	// opaqueShape has what may be a token or a piece of one. Letters alone and
	// digits alone are words and numbers.
	opaqueShape = regexp.MustCompile(`[A-Za-z0-9_\-+=~]{16,}`)

	idKinds = map[string]string{"ou": "open_id", "on": "union_id", "oc": "chat_id", "om": "message_id", "omt": "thread_id", "cli": "app_id", "oav": "version_id"}
)

// text replaces what is known in free text, and what looks like an id or a token.
func (s *scrubber) text(text string) string {
	// The longest first: one value may begin with another.
	known := slices.SortedFunc(maps.Keys(s.placeholders), func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	for _, value := range known {
		if len(value) >= longEnough {
			text = strings.ReplaceAll(text, value, s.placeholders[value])
		}
	}
	text = idShape.ReplaceAllStringFunc(text, func(id string) string {
		kind, _, _ := strings.Cut(id, "_")
		return s.replace(idKinds[kind], id)
	})
	return opaqueShape.ReplaceAllStringFunc(text, func(run string) string {
		if strings.ContainsAny(run, "0123456789") && strings.ContainsAny(strings.ToLower(run), "abcdefghijklmnopqrstuvwxyz") {
			return s.replace("opaque", run)
		}
		return run
	})
}

// value scrubs a decoded JSON value that stands in a field of that name.
func (s *scrubber) value(name string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for _, key := range slices.Sorted(maps.Keys(v)) { // the order numbers the placeholders
			out[s.text(key)] = s.value(key, v[key])
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = s.value(name, v[i])
		}
		return out
	case string:
		if plainFields[name] {
			return s.text(v)
		}
		return s.replace(name, v)
	case json.Number:
		if !plainFields[name] {
			return json.Number("0")
		}
	}
	return v // true, false and null name nobody
}

// card scrubs the content of a message that Larkside sends: all of it is either
// Larkside's own words or known.
func (s *scrubber) card(content string) string {
	var card any
	if json.Unmarshal([]byte(content), &card) != nil {
		return s.replace("content", content)
	}
	return encodeJSON(s.cardValue(card))
}

// encodeJSON writes v as it is, with < and > as they are.
func encodeJSON(v any) string {
	var out strings.Builder
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if enc.Encode(v) != nil {
		return "" // nothing that was decoded can fail
	}
	return strings.TrimSuffix(out.String(), "\n")
}

func (s *scrubber) cardValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			out[key] = s.cardValue(v[key])
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = s.cardValue(v[i])
		}
		return out
	case string:
		if strings.HasPrefix(v, "http://") || strings.HasPrefix(v, "https://") {
			return s.replace("link", v)
		}
		return s.text(v)
	}
	return v
}

// path scrubs a path segment by segment.
func (s *scrubber) path(path string) string {
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		if p, ok := s.placeholders[segment]; ok {
			segments[i] = p
		} else {
			segments[i] = s.text(segment)
		}
	}
	return strings.Join(segments, "/")
}

// authorization scrubs an Authorization header.
func (s *scrubber) authorization(value string) string {
	scheme, credentials, _ := strings.Cut(value, " ")
	if pair, err := base64.StdEncoding.DecodeString(credentials); scheme == "Basic" && err == nil {
		id, secret, _ := strings.Cut(string(pair), ":")
		s.secrets[credentials] = "authorization"
		return "Basic " + s.replace("app_id", id) + ":" + s.replace("app_secret", secret)
	}
	return scheme + " " + s.replace("token", credentials)
}

var errSecretLeft = errors.New("the recording is not written")

// check refuses data if a value that had to be replaced is still in it, as it
// is or as JSON, a URL or a form would write it.
func (s *scrubber) check(data []byte) error {
	for value, kind := range s.secrets {
		quoted := encodeJSON(value)
		for _, form := range []string{value, quoted[1 : len(quoted)-1], url.QueryEscape(value), url.PathEscape(value)} {
			if bytes.Contains(data, []byte(form)) {
				return fmt.Errorf("%w: a value of the kind %s is still in it; please report this", errSecretLeft, kind)
			}
		}
	}
	return nil
}
