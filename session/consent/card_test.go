package consent

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"larkside/session"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-golden +got); -update writes it anew:\n%s", name, diff)
	}
}

func indented(t *testing.T, card []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := json.Indent(&b, card, "", "  "); err != nil {
		t.Fatal(err)
	}
	b.WriteByte('\n')
	return b.Bytes()
}

func pending() *session.Consent {
	return &session.Consent{
		ID: "0192f0c0ffee", Scopes: "app_engine:workspace.table:read my:own_scope:read offline_access",
		Link: session.NewSecret("https://sidecar.test/consent/start?t=x"), Left: 10 * time.Minute, State: session.ConsentPending,
	}
}

func TestCards(t *testing.T) {
	c := &cards{privacy: "https://example.com/privacy(1)", buttons: true}
	over := func(state session.ConsentState, reason string) []byte {
		p := pending()
		p.State, p.Reason = state, reason
		return c.closed("Tables", p)
	}
	for name, card := range map[string][]byte{
		"waiting":       c.waiting("Tables", pending(), session.NoSession),
		"waiting-bare":  (&cards{}).waiting("", pending(), session.RefreshTokenExpired),
		"waiting-own":   (&cards{title: "**Hello**", message: "Don't [click](https://evil.test) <at id=all></at> *now*"}).waiting("Tables", pending(), session.NoSession),
		"done":          over(session.ConsentDone, ""),
		"declined":      over(session.ConsentDeclined, ""),
		"expired":       over(session.ConsentExpired, ""),
		"superseded":    over(session.ConsentSuperseded, reasonScopes),
		"failed":        over(session.ConsentFailed, reasonRefused),
		"wrong-account": over(session.ConsentFailed, reasonWrongAccount),
		"revoked":       c.revoked("Tables"),
	} {
		t.Run(name, func(t *testing.T) { golden(t, "card-"+name+".json", indented(t, card)) })
	}
}

// Lark's page of the device flow may ask for the code in the link: the card shows
// it, unless it would be more than text.
func TestCardShowsTheCode(t *testing.T) {
	for link, code := range map[string]string{
		"https://a.example/verify?flow_id=x&user_code=ABCD-EFGH": "**ABCD-EFGH**",
		"https://a.example/verify?user_code=%2A%5Bx%5D%28y%29":   "",
		"https://a.example/verify?flow_id=x":                     "",
		"https://a.example/%zz":                                  "",
	} {
		p := pending()
		p.Flow, p.Link = session.DeviceFlow, session.NewSecret(link)
		card := string((&cards{}).waiting("Tables", p, session.NoSession))
		if strings.Contains(card, "asks for a code") != (code != "") || !strings.Contains(card, code) {
			t.Errorf("%s: %s", link, card)
		}
	}
	p := pending()
	p.Flow, p.Link = session.RedirectFlow, session.NewSecret("https://a.example/?user_code=ABCD")
	if card := string((&cards{}).waiting("Tables", p, session.NoSession)); strings.Contains(card, "asks for a code") {
		t.Errorf("a redirect has no code: %s", card)
	}
}

// Lark refuses more than 30 KB, and many long scopes must not get there.
func TestCardSize(t *testing.T) {
	p := pending()
	var many []string
	for i := range maxScopes {
		many = append(many, strings.Repeat("x", 120)+string(rune('a'+i%26))+string(rune('a'+i/26)))
	}
	p.Scopes = strings.Join(many, " ")
	c := &cards{title: strings.Repeat("字", 1000), message: strings.Repeat("字", 10_000), privacy: "https://example.com/", buttons: true}
	if n := len(c.waiting(strings.Repeat("名", 100), p, "")); n > 30<<10 {
		t.Errorf("the largest card has %d bytes", n)
	}
}

func TestEscape(t *testing.T) {
	for _, special := range []string{"*", "_", "`", "[", "]", "(", ")", "<", ">", "#", "~", "|", "!", "\\"} {
		if got := escape("a" + special + "b"); strings.Contains(strings.ReplaceAll(got, "&#", ""), special) {
			t.Errorf("escape leaves %q as %q", special, got)
		}
	}
}

func TestScopes(t *testing.T) {
	s := newScopes("a:b", "a:b", "", "two words", "new\nline", "ü", "A:b", "a:", ":a", "a-b", "c:d.e_f")
	if got := s.String(); got != "a:b c:d.e_f" {
		t.Errorf("newScopes: %q", got)
	}
	var many []string
	for i := range 280 {
		many = append(many, fmt.Sprint("s:x", i))
	}
	if n := len(newScopes(many...).with(offlineAccess)); n != maxScopes {
		t.Errorf("%d scopes are asked for at once", n)
	}
	if !newScopes(many...).with(offlineAccess).covers(scopes{offlineAccess}) {
		t.Error("offline_access was crowded out")
	}
}
