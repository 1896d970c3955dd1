package larktest

import (
	"maps"
	"net/http"
	"slices"
	"time"
)

// Call is one request that the emulator saw.
type Call struct {
	// Seq counts all calls from 1, in the order in which they ended.
	Seq    int       `json:"seq,omitempty"`
	At     time.Time `json:"at"` // when it arrived
	Method string    `json:"method,omitempty"`
	// Target is the request target as it came; Path its path, still escaped.
	Target   string   `json:"target,omitempty"`
	Path     string   `json:"path,omitempty"`
	Endpoint Endpoint `json:"endpoint,omitempty"`
	// AppID and Owner (an open_id, empty for app tokens) say whose token came;
	// TokenKind is empty when none or an unknown one did. TokenID is the
	// ledger's name of it, so that two tokens of one user can be told apart.
	AppID     string `json:"app_id,omitempty"`
	Owner     string `json:"owner,omitempty"`
	TokenKind Kind   `json:"token_kind,omitempty"`
	TokenID   string `json:"token_id,omitempty"`
	// Status and Code are the answer; Status is 0 when the connection was
	// dropped instead. Fault is the id of the injection that struck, or 0.
	Status int    `json:"status"`
	Code   int    `json:"code"`
	Fault  int    `json:"fault,omitempty"`
	LogID  string `json:"log_id,omitempty"`
	// Header is what came, Authorization and secrets excepted.
	Header http.Header `json:"header,omitempty"`
	// BodySize counts request body bytes; BodySHA256 is their hash in hex.
	BodySize   int64  `json:"body_size,omitempty"`
	BodySHA256 string `json:"body_sha256,omitempty"`
}

// Issued is the ledger's line about a token.
type Issued struct {
	ID          string       `json:"id,omitempty"`
	Kind        Kind         `json:"kind,omitempty"`
	AppID       string       `json:"app_id,omitempty"`
	OpenID      string       `json:"open_id,omitempty"`
	Scope       []string     `json:"scope,omitempty"`
	Issued      time.Time    `json:"issued"`
	Expiry      time.Time    `json:"expiry"`
	Parent      string       `json:"parent,omitempty"` // ID of the refresh token that was redeemed for it
	Grant       int          `json:"grant,omitempty"`  // number of the authorization it goes back to
	GrantedAt   time.Time    `json:"granted_at,omitzero"`
	Spent       bool         `json:"spent,omitempty"`
	Revoked     bool         `json:"revoked,omitempty"`
	Redemptions []Redemption `json:"redemptions,omitempty"`
}

// Outcome is what came of sending a refresh token.
type Outcome string

const (
	// Answered: a new pair was issued and the answer written whole.
	Answered Outcome = "answered"
	// Unanswered: a new pair was issued and the client can't have read it: the
	// connection was cut, or a fault spoiled the answer.
	Unanswered Outcome = "unanswered"
	// Refused: Lark answered an error; nothing was issued.
	Refused Outcome = "refused"
)

// Redemption is one time that a refresh token was sent.
type Redemption struct {
	At      time.Time `json:"at"`
	Outcome Outcome   `json:"outcome,omitempty"`
	Code    int       `json:"code,omitempty"` // of a refusal
	LogID   string    `json:"log_id,omitempty"`
}

// ViolationKind names what a client of Lark must never do.
type ViolationKind string

const (
	// Replayed: a refresh token was sent again after it had been answered.
	Replayed ViolationKind = "refresh_token_replayed"
	// CodeReplayed: an authorization or device code was sent again after it
	// had been answered.
	CodeReplayed ViolationKind = "code_replayed"
	// UnknownToken: a token that was never issued here.
	UnknownToken ViolationKind = "unknown_token"
	// ExpiredToken: an access token past its expiry.
	ExpiredToken ViolationKind = "expired_token"
	// WrongUser: a request that names its user in [ExpectUserHeader] or
	// ?expect_user= came with somebody else's token.
	WrongUser ViolationKind = "wrong_user"
	// LeakedHeader: a header that must not reach Lark, such as X-Lark-User-Id.
	LeakedHeader ViolationKind = "leaked_header"
)

// ExpectUserHeader (an open_id) makes a request whose token belongs to anyone
// else a [WrongUser] violation, for tests of isolation under load.
const ExpectUserHeader = "X-Larktest-Expect-User"

// Violation is something that a client did and must never do.
type Violation struct {
	At     time.Time     `json:"at"`
	Kind   ViolationKind `json:"kind,omitempty"`
	AppID  string        `json:"app_id,omitempty"`
	OpenID string        `json:"open_id,omitempty"`
	Detail string        `json:"detail,omitempty"` // never a token
	LogID  string        `json:"log_id,omitempty"`
}

// ledger remembers calls and violations; tokens keep their own history. The
// platform's mu guards it.
type ledger struct {
	keep       int
	calls      []Call
	seq        int
	violations []Violation
	total      map[ViolationKind]int
}

func (l *ledger) addCall(c Call) {
	l.seq++
	c.Seq = l.seq
	l.calls = append(l.calls, c)
	if len(l.calls) > 2*l.keep {
		l.calls = append([]Call(nil), l.calls[l.keep:]...)
	}
}

func (p *Platform) violate(x *exchange, kind ViolationKind, who identity, detail string) {
	v := Violation{At: p.now(), Kind: kind, AppID: who.app, Detail: detail, LogID: x.logID}
	if who.user != nil {
		v.OpenID = p.openID(who.app, who.user)
	}
	l := &p.ledger
	l.violations = append(l.violations, v)
	if len(l.violations) > l.keep {
		l.violations = append([]Violation(nil), l.violations[l.keep/2:]...)
	}
	if l.total == nil {
		l.total = map[ViolationKind]int{}
	}
	l.total[kind]++
	p.log.Warn("violation", "kind", kind, "open_id", v.OpenID, "detail", detail, "log_id", x.logID)
}

// Calls returns the calls that match, oldest first; nil matches all. Only the
// last Config.KeepCalls and up to as many before are remembered.
func (p *Platform) Calls(match func(Call) bool) []Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	var calls []Call
	for _, c := range p.ledger.calls {
		if match == nil || match(c) {
			calls = append(calls, c)
		}
	}
	return calls
}

// To matches the calls of an endpoint.
func To(endpoint Endpoint) func(Call) bool {
	return func(c Call) bool { return c.Endpoint == endpoint }
}

// Violations returns what clients did and must not do, oldest first; without
// kinds all of them.
func (p *Platform) Violations(kinds ...ViolationKind) []Violation {
	p.mu.Lock()
	defer p.mu.Unlock()
	var violations []Violation
	for _, v := range p.ledger.violations {
		if len(kinds) == 0 || slices.Contains(kinds, v.Kind) {
			violations = append(violations, v)
		}
	}
	return violations
}

// Ledger returns a line for every token that was issued to openID ("" for all
// users and apps), in the order of issue.
func (p *Platform) Ledger(openID string) []Issued {
	p.mu.Lock()
	defer p.mu.Unlock()
	tokens := slices.SortedFunc(maps.Values(p.tokens), func(a, b *token) int { return a.seq - b.seq })
	var lines []Issued
	for _, t := range tokens {
		if line := p.issued(t); openID == "" || line.OpenID == openID {
			lines = append(lines, line)
		}
	}
	return lines
}

func (p *Platform) issued(t *token) Issued {
	line := Issued{
		ID: t.id, Kind: t.kind, AppID: t.who.app, Scope: slices.Clone(t.scope), Issued: t.issued, Expiry: t.expires,
		Parent: t.parent, Spent: t.spent, Revoked: t.revoked, Redemptions: slices.Clone(t.redeemed),
	}
	if t.who.user != nil {
		line.OpenID = p.openID(t.who.app, t.who.user)
	}
	if t.grant != nil {
		line.Grant, line.GrantedAt = t.grant.id, t.grant.at
	}
	return line
}

// Redemptions returns each time that a refresh token was sent. The token is
// given as its text or its ledger ID.
func (p *Platform) Redemptions(refreshToken string) []Redemption {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.find(refreshToken)
	if t == nil {
		t = p.tokens[refreshToken]
	}
	if t == nil {
		return nil
	}
	return slices.Clone(t.redeemed)
}

// Summary is the ledger in numbers.
type Summary struct {
	Calls    int `json:"calls"`
	Messages int `json:"messages"`
	// Tokens counts what was issued, by kind.
	Tokens map[Kind]int `json:"tokens"`
	// Redemptions counts refresh tokens that were sent, by outcome.
	Redemptions map[Outcome]int `json:"redemptions"`
	// MaxAnswered is the most often that any one refresh token was answered:
	// more than 1 can't happen here, since Lark refuses a spent one.
	MaxAnswered int `json:"max_answered"`
	// Lost counts the rotations whose answer nobody got: each ended a chain.
	Lost       int                   `json:"lost"`
	Violations map[ViolationKind]int `json:"violations"`
}

// Summary returns what the ledger has, in numbers.
func (p *Platform) Summary() Summary {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Summary{
		Calls: p.ledger.seq, Messages: len(p.chat.order),
		Tokens: map[Kind]int{}, Redemptions: map[Outcome]int{}, Violations: map[ViolationKind]int{},
	}
	for kind, n := range p.ledger.total {
		s.Violations[kind] = n
	}
	for _, t := range p.tokens {
		s.Tokens[t.kind]++
		answered := 0
		for _, r := range t.redeemed {
			s.Redemptions[r.Outcome]++
			switch r.Outcome {
			case Answered:
				answered++
			case Unanswered:
				s.Lost++
			}
		}
		s.MaxAnswered = max(s.MaxAnswered, answered)
	}
	return s
}
