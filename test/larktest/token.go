package larktest

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Kind is what a token is for.
type Kind string

const (
	AccessToken  Kind = "user_access_token"
	RefreshToken Kind = "refresh_token"
	TenantToken  Kind = "tenant_access_token"
	AppToken     Kind = "app_access_token"
)

// token is one issued token. Its text is not stored: it follows from the id
// and the platform's secret, so a million tokens of 1.5 KB need no 1.5 GB.
type token struct {
	id              string
	kind            Kind
	legacy          bool // t-… or a-… rather than a JWT
	who             identity
	scope           []string
	issued, expires time.Time
	grant           *grant // nil for app tokens
	parent          string // id of the refresh token that was redeemed for it
	spent, revoked  bool
	dead            bool // a tenant token that is refused and still handed out
	redeemed        []Redemption
	seq             int               // order of issue
	version         string            // v2 or v3: the endpoint that issued it
	sum             [sha256.Size]byte // of the text, to know it again
}

// life is what expires_in says when the token is handed out first.
func (t *token) life() time.Duration { return t.expires.Sub(t.issued) }

// grant is one authorization by a user: what a refresh chain hangs on.
type grant struct {
	id      int
	who     identity
	at      time.Time
	offline bool
}

// consented accumulates what a user granted to an app (Lark: the newest token
// carries everything the user ever granted).
type consented struct{ scopes []string }

// The payload starts with {"jti":" and the id, 33 bytes that are 44 base64
// characters, so the id can be read without decoding the rest.
const (
	idLength      = 25
	payloadPrefix = `{"jti":"`
)

func newID() string { return rand.Text()[:idLength] }

// text returns what the client sees of a token: it looks like a JWT, is as
// long as configured and must be treated as opaque.
func (p *Platform) text(t *token) string {
	if t.legacy {
		return legacyPrefix(t.kind) + t.id
	}
	seed := sha256.Sum256(append([]byte(t.id), p.secret[:]...))
	filler := mathrand.NewChaCha8(seed)
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","feature_code":"FeatureOAuthJWTSign","kid":"` + hex.EncodeToString(p.secret[:6]) + `","typ":"JWT"}`))
	signature := make([]byte, 64)
	filler.Read(signature)
	claims := fmt.Sprintf(`%s%s","typ":%q,"client_id":%q,"iat":%d,"pad":"`, payloadPrefix, t.id, t.kind, t.who.app, t.issued.Unix())
	pad := max(0, (max(p.config.TokenSize, 256)-len(header)-88)*3/4-len(claims)-2)
	padding := make([]byte, (pad+1)/2)
	filler.Read(padding)
	claims += hex.EncodeToString(padding)[:pad] + `"}`
	return header + "." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func legacyPrefix(kind Kind) string {
	if kind == AppToken {
		return "a-"
	}
	return "t-"
}

// find returns the token that text is, nil when nothing like it was issued.
// It is called with mu held.
func (p *Platform) find(text string) *token {
	if id, ok := strings.CutPrefix(text, "t-"); ok {
		return p.legacyToken(id, TenantToken)
	}
	if id, ok := strings.CutPrefix(text, "a-"); ok {
		return p.legacyToken(id, AppToken)
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 || len(parts[1]) < 44 {
		return nil
	}
	start, err := base64.RawURLEncoding.DecodeString(parts[1][:44])
	if err != nil || !strings.HasPrefix(string(start), payloadPrefix) {
		return nil
	}
	t := p.tokens[string(start[len(payloadPrefix):])]
	if t == nil || t.sum != sha256.Sum256([]byte(text)) {
		return nil
	}
	return t
}

func (p *Platform) legacyToken(id string, kind Kind) *token {
	if t := p.tokens[id]; t != nil && t.legacy && t.kind == kind {
		return t
	}
	return nil
}

// issue stores a token that lives from now on. It is called with mu held.
func (p *Platform) issue(t *token, now time.Time, life time.Duration) *token {
	p.tokenSeq++
	t.id, t.seq, t.issued, t.expires = newID(), p.tokenSeq, now, now.Add(life)
	p.tokens[t.id] = t
	t.sum = sha256.Sum256([]byte(p.text(t)))
	if len(p.tokens) > p.config.KeepTokens {
		p.forgetTokens()
	}
	p.touch()
	return t
}

func (p *Platform) forgetTokens() {
	horizon := p.now().Add(-24 * time.Hour)
	for id, t := range p.tokens {
		if t.expires.Before(horizon) {
			delete(p.tokens, id)
		}
	}
}

// pair issues an access token and, where the grant allows, a refresh token.
func (p *Platform) pair(g *grant, scope []string, parent, version string) (access, refresh *token) {
	now := p.now()
	life := p.config.AccessLife
	if p.config.RandomLives {
		life = life/2 + mathrand.N(life/2+1)
	}
	access = p.issue(&token{kind: AccessToken, who: g.who, scope: scope, grant: g, parent: parent, version: version}, now, life)
	if g.offline && p.apps[g.who.app].forUsers("offline_access") {
		life = min(p.config.RefreshLife, g.at.Add(p.config.GrantLife).Sub(now))
		refresh = p.issue(&token{kind: RefreshToken, who: g.who, scope: scope, grant: g, parent: parent, version: version}, now, life)
	}
	return access, refresh
}

// newGrant records that a user said yes to scopes.
func (p *Platform) newGrant(who identity, scopes []string) *grant {
	if p.switches.ConsentEndsEarlier {
		p.revokeWhere(func(t *token) bool { return t.who == who })
	}
	p.grantSeq++
	all := p.grants[who]
	if all == nil {
		all = &consented{}
		p.grants[who] = all
	}
	for _, s := range scopes {
		if s != "offline_access" && !slices.Contains(all.scopes, s) {
			all.scopes = append(all.scopes, s)
		}
	}
	return &grant{id: p.grantSeq, who: who, at: p.now(), offline: slices.Contains(scopes, "offline_access")}
}

// granted is everything a token of g may carry now: what the user ever
// granted, less what the app no longer has, in the order of granting.
func (p *Platform) granted(g *grant) []string {
	app, scopes := p.apps[g.who.app], []string{}
	if all := p.grants[g.who]; all != nil {
		for _, s := range all.scopes {
			if app.forUsers(s) {
				scopes = append(scopes, s)
			}
		}
	}
	if g.offline && app.forUsers("offline_access") {
		scopes = append(scopes, "offline_access")
	}
	return scopes
}

// Tokens is what [Platform.Grant] issues.
type Tokens struct {
	AccessToken, RefreshToken   string
	ExpiresIn, RefreshExpiresIn time.Duration
	Scope                       string
}

// Grant lets a user authorize an app without any page, as if by the v2
// endpoint, and returns the tokens: the short way to a stored session. Without
// scopes it grants "offline_access auth:user.id:read" and the aPaaS workspace
// scopes.
func (p *Platform) Grant(appID, openID string, scopes ...string) (Tokens, error) {
	return p.grantBy("v2", appID, openID, scopes)
}

// GrantV3 is Grant by the v3 endpoint. Only v3 refreshes such a grant, unless
// Switches.V2TakesV3.
func (p *Platform) GrantV3(appID, openID string, scopes ...string) (Tokens, error) {
	return p.grantBy("v3", appID, openID, scopes)
}

func (p *Platform) grantBy(version, appID, openID string, scopes []string) (Tokens, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	user, ok := p.whoOpenID(appID, openID)
	if !ok {
		return Tokens{}, fmt.Errorf("grant %q: %w", openID, ErrNoUser)
	}
	if len(scopes) == 0 {
		scopes = []string{"offline_access", "auth:user.id:read",
			"app_engine:workspace.table:read", "app_engine:workspace.table.record:read", "app_engine:workspace.table.record:write", "app_engine:workspace.sql_commands:write"}
	}
	g := p.newGrant(identity{appID, user}, scopes)
	access, refresh := p.pair(g, p.granted(g), "", version)
	tokens := Tokens{AccessToken: p.text(access), ExpiresIn: access.life(), Scope: strings.Join(access.scope, " ")}
	if refresh != nil {
		tokens.RefreshToken, tokens.RefreshExpiresIn = p.text(refresh), refresh.life()
	}
	return tokens, nil
}

// revokeWhere revokes the tokens of which match is true.
func (p *Platform) revokeWhere(match func(*token) bool) {
	for _, t := range p.tokens {
		if match(t) {
			t.revoked = true
		}
	}
}

// Expire ends the life of the user's tokens of the given kinds now (no kinds:
// access and refresh tokens). Nothing is revoked: they answer 99991677 and
// 20037.
func (p *Platform) Expire(openID string, kinds ...Kind) error {
	return p.eachToken(openID, kinds, func(t *token) { t.expires = p.now() })
}

// Revoke ends the user's tokens of the given kinds (no kinds: both) as the
// user, an administrator or Lark's security would: 99991668 and 20064. It
// sends no event; [Platform.SendRevoked] does.
func (p *Platform) Revoke(openID string, kinds ...Kind) error {
	return p.eachToken(openID, kinds, func(t *token) { t.revoked = true })
}

func (p *Platform) eachToken(openID string, kinds []Kind, change func(*token)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	who, ok := p.byOpenID[openID]
	if !ok {
		return fmt.Errorf("tokens of %q: %w", openID, ErrNoUser)
	}
	for _, t := range p.tokens {
		if t.who == who && (len(kinds) == 0 || slices.Contains(kinds, t.kind)) && p.now().Before(t.expires) {
			change(t)
		}
	}
	p.touch()
	return nil
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

func hexUpper(b []byte) string { return strings.ToUpper(hex.EncodeToString(b)) }
