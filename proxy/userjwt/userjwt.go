// Package userjwt verifies the JWTs that prove whose request a request is.
//
// [Verifier.User] checks a token by OpenID Connect: its signature, issuer, audience
// and times. It returns the one claim that names the user. The tokens are those of
// the app's own identity provider, and have nothing to do with Lark's.
//
// The issuer's keys are found by discovery when the first token comes. They are
// fetched again every few minutes, and when a token comes that none of them has
// signed. While the issuer is away, the known keys go on being used. So the issuer
// holds up neither a start nor the users whose keys are known, and at most one fetch
// in ten seconds reaches it, whatever is sent here.
//
// No error and no log line has anything of a token in it.
package userjwt

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"larkside/telemetry"
)

const (
	// clockSkew is how far the issuer's clock may be ahead of or behind this one.
	clockSkew = time.Minute
	// maxToken is the size of the longest token, in bytes.
	maxToken = 16 << 10
	// remembered is how many verified tokens are remembered at most: about 1 MiB.
	remembered = 4096
)

// Why a token proves nobody. Each text ends a sentence that begins with "the token".
var (
	ErrMalformed = errors.New("is not a JWT with a public-key signature")
	ErrSignature = errors.New("is signed by none of the issuer's keys")
	ErrExpired   = errors.New("has expired")
	ErrNotForUs  = errors.New("has another issuer or audience than the configured one, or is not valid yet")
	ErrNoUser    = errors.New("lacks the claim that names the user, or has it empty or not as a string")
	// ErrIssuerAway means that the token can't be checked now.
	ErrIssuerAway = errors.New("can't be checked, since the issuer's keys can't be fetched")
)

// algorithms are the accepted ones. Those with a shared secret (HS256) are not among
// them: whoever knows the public key could sign by them. Neither is none.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// Config says which tokens count. All fields but Log are required.
type Config struct {
	// Issuer is the iss of each token, byte by byte, and the URL for discovery.
	Issuer string
	// Audience is one of the aud of each token.
	Audience string
	// Claim is the name of the claim that holds the user's id.
	Claim string
	// Transport fetches the issuer's keys.
	Transport http.RoundTripper
	// Log gets the failures to fetch keys. nil: nothing is logged.
	Log *slog.Logger
}

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	issuer, claim string
	oidc          oidc.Config
	keys          keys
	// memory has the tokens that were verified last, each at the index that its
	// hash gives. Only valid tokens are stored, in place of the one that was there.
	memory [remembered]atomic.Pointer[verified]
}

// verified is a token that was found valid. The token itself is not kept.
type verified struct {
	sum   [sha256.Size]byte // of the token
	by    *keySet           // the result doesn't outlive these keys
	user  string
	until time.Time
}

// New returns a Verifier. It fetches nothing yet.
func New(c Config) *Verifier {
	v := &Verifier{issuer: c.Issuer, claim: c.Claim}
	v.keys = keys{issuer: c.Issuer, complaints: telemetry.NewComplaints(c.Log), client: http.Client{
		Transport: c.Transport, CheckRedirect: refuseRedirect,
	}}
	v.oidc = oidc.Config{ClientID: c.Audience, Now: func() time.Time { return time.Now().Add(-clockSkew) }}
	for _, a := range algorithms {
		v.oidc.SupportedSigningAlgs = append(v.oidc.SupportedSigningAlgs, string(a))
	}
	return v
}

// Keys fetches the issuer's keys and returns how many of them can be used.
func (v *Verifier) Keys(ctx context.Context) (int, error) {
	set, err := v.keys.fetch(ctx)
	if err != nil {
		return 0, err
	}
	return len(set.all), nil
}

// User returns the user whom the token proves. It may block while keys are fetched,
// and returns when ctx ends. Its error is one of this package's, wrapped in a
// [session.RetryError] if other keys may be had after a while, or ctx's.
func (v *Verifier) User(ctx context.Context, token string) (string, error) {
	if len(token) > maxToken {
		return "", ErrMalformed
	}
	sum := sha256.Sum256([]byte(token))
	place := &v.memory[binary.LittleEndian.Uint16(sum[:])%remembered]
	set := v.keys.known()
	if m := place.Load(); m != nil && m.by == set && m.sum == sum && time.Now().Before(m.until) {
		return m.user, nil
	}
	signed, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil {
		return "", ErrMalformed
	}
	if set == nil {
		if set, err = v.keys.newer(ctx, nil); err != nil {
			return "", err
		}
	}
	m, err := v.verify(ctx, token, signed, set)
	if errors.Is(err, ErrSignature) {
		// The issuer may have a new key.
		if set, err = v.keys.newer(ctx, set); err != nil {
			return "", err
		}
		m, err = v.verify(ctx, token, signed, set)
	}
	if err != nil {
		return "", err
	}
	m.sum = sum
	place.Store(m)
	return m.user, nil
}

// verify checks the token by the keys of set.
func (v *Verifier) verify(ctx context.Context, token string, signed *jose.JSONWebSignature, set *keySet) (*verified, error) {
	by := &signatureCheck{signed: signed, keys: set}
	t, err := oidc.NewVerifier(v.issuer, by, &v.oidc).Verify(ctx, token)
	_, expired := errors.AsType[*oidc.TokenExpiredError](err)
	switch {
	case expired:
		return nil, ErrExpired
	case by.failed:
		return nil, ErrSignature
	case err != nil:
		return nil, ErrNotForUs
	}
	var claims map[string]json.RawMessage
	var user string
	if t.Claims(&claims) != nil || json.Unmarshal(claims[v.claim], &user) != nil || user == "" {
		return nil, ErrNoUser
	}
	return &verified{by: set, user: user, until: t.Expiry.Add(clockSkew)}, nil
}

// signatureCheck is the [oidc.KeySet] for one token.
type signatureCheck struct {
	signed *jose.JSONWebSignature
	keys   *keySet
	failed bool
}

// VerifySignature returns the payload of the token if one of the keys has signed it.
// A token that names its key is checked by that key alone.
func (c *signatureCheck) VerifySignature(context.Context, string) ([]byte, error) {
	h := c.signed.Signatures[0].Header
	for _, key := range c.keys.all {
		if h.KeyID != "" && key.KeyID != h.KeyID || key.Algorithm != "" && key.Algorithm != h.Algorithm {
			continue
		}
		if payload, err := c.signed.Verify(key.Key); err == nil {
			return payload, nil
		}
	}
	c.failed = true
	return nil, fmt.Errorf("none of %d keys fits", len(c.keys.all))
}
