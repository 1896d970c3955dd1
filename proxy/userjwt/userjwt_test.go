package userjwt_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"larkside/proxy/userjwt"
	"larkside/session"
)

const (
	issuerURL = "https://id.example/realms/corp"
	audience  = "larkside"
)

// issuer is an OpenID Connect issuer, and the Transport that leads to it.
type issuer struct {
	mu      sync.Mutex
	public  []any // as they stand in the key set
	away    bool
	gate    chan struct{} // an answer waits for it, if not nil
	fetches int           // of the key set
	asked   int           // requests of any kind
	// name and keysAt are what discovery says; "": as it should be.
	name, keysAt string
	redirect     string // discovery leads there
}

func (i *issuer) RoundTrip(in *http.Request) (*http.Response, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked++
	if gate := i.gate; gate != nil {
		i.mu.Unlock()
		select {
		case <-gate:
		case <-in.Context().Done():
		}
		i.mu.Lock()
		if err := in.Context().Err(); err != nil {
			return nil, err
		}
	}
	answer := func(status int, v any) (*http.Response, error) {
		text, err := json.Marshal(v)
		h := http.Header{"Content-Type": {"application/json"}, "Location": {i.redirect}}
		return &http.Response{StatusCode: status, Header: h, Request: in, Body: io.NopCloser(bytes.NewReader(text))}, err
	}
	or := func(v, otherwise string) string {
		if v == "" {
			return otherwise
		}
		return v
	}
	switch {
	case i.away:
		return nil, errors.New("connection refused")
	case i.redirect != "":
		return answer(http.StatusFound, nil)
	case in.URL.String() == issuerURL+"/.well-known/openid-configuration":
		return answer(200, map[string]any{"issuer": or(i.name, issuerURL), "jwks_uri": or(i.keysAt, issuerURL+"/certs"),
			"id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"}})
	case strings.HasSuffix(in.URL.Path, "/certs"):
		i.fetches++
		return answer(200, map[string]any{"keys": i.public})
	}
	return answer(404, nil)
}

// set changes the issuer.
func (i *issuer) set(change func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change()
}

// count returns how often the key set was fetched, and how many requests came.
func (i *issuer) count() (fetches, asked int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches, i.asked
}

// signer is one of the issuer's keys.
type signer struct {
	alg     jose.SignatureAlgorithm
	id      string
	private any
}

var (
	keyA  = newSigner("a", jose.RS256)
	keyB  = newSigner("b", jose.ES256)
	keyEd = newSigner("ed", jose.EdDSA)
	other = newSigner("a", jose.RS256) // somebody else's, under the same id
)

func newSigner(id string, alg jose.SignatureAlgorithm) signer {
	var private any
	var err error
	switch alg {
	case jose.RS256:
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	case jose.ES256:
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.EdDSA:
		_, private, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		panic(err)
	}
	return signer{alg, id, private}
}

func (s signer) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: s.private.(crypto.Signer).Public(), KeyID: s.id, Algorithm: string(s.alg), Use: "sig"}
}

// sign returns a token with these claims, in compact form.
func (s signer) sign(t testing.TB, claims map[string]any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT")
	if s.id != "" {
		options = options.WithHeader("kid", s.id)
	}
	by, err := jose.NewSigner(jose.SigningKey{Algorithm: s.alg, Key: s.private}, options)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(by).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// claims are those of a good token of ou_1, with changes: name, value, …. A nil value
// removes the claim.
func claims(changes ...any) map[string]any {
	now := time.Now()
	c := map[string]any{"iss": issuerURL, "aud": audience, "sub": "ou_1", "iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix()}
	for i := 0; i < len(changes); i += 2 {
		if c[changes[i].(string)] = changes[i+1]; changes[i+1] == nil {
			delete(c, changes[i].(string))
		}
	}
	return c
}

func start(log io.Writer) (*issuer, *userjwt.Verifier) {
	i := &issuer{public: []any{keyA.public()}}
	c := userjwt.Config{Issuer: issuerURL, Audience: audience, Claim: "sub", Transport: i}
	if log != nil {
		c.Log = slog.New(slog.NewTextHandler(log, nil))
	}
	return i, userjwt.New(c)
}

// is fails unless the token proves this user.
func is(t *testing.T, v *userjwt.Verifier, token, want string) {
	t.Helper()
	if user, err := v.User(t.Context(), token); user != want || err != nil {
		t.Errorf("user %q, %v, want %q", user, err, want)
	}
}

// fails fails unless the token proves nobody, for this reason.
func fails(t *testing.T, v *userjwt.Verifier, token string, want error) error {
	t.Helper()
	user, err := v.User(t.Context(), token)
	if user != "" || !errors.Is(err, want) {
		t.Errorf("user %q, %v, want %v", user, err, want)
	}
	return err
}

// segment is a part of a token, in the form that tokens have.
func segment(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// Of all tokens those of the issuer, for this audience, at this time, are taken.
func TestUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, v := start(nil)
		i.set(func() { i.public = []any{keyA.public(), keyB.public(), keyEd.public()} })
		ago := func(d time.Duration) int64 { return time.Now().Add(-d).Unix() }
		nameless := keyB
		nameless.id = ""
		misnamed := keyB
		misnamed.id = "a"
		for sentence, tc := range map[string]struct {
			claims map[string]any
			by     signer
			want   any // the user, or the error
		}{
			"RS256":                                 {claims(), keyA, "ou_1"},
			"ES256":                                 {claims(), keyB, "ou_1"},
			"EdDSA":                                 {claims(), keyEd, "ou_1"},
			"no key id":                             {claims(), nameless, "ou_1"},
			"several audiences":                     {claims("aud", []string{"other", audience}), keyA, "ou_1"},
			"another user":                          {claims("sub", "on_2"), keyA, "on_2"},
			"expired within the skew":               {claims("exp", ago(50*time.Second)), keyA, "ou_1"},
			"expired beyond the skew":               {claims("exp", ago(70*time.Second)), keyA, userjwt.ErrExpired},
			"no expiry":                             {claims("exp", nil), keyA, userjwt.ErrExpired},
			"valid from within the skew on":         {claims("nbf", ago(-50*time.Second)), keyA, "ou_1"},
			"valid from later on":                   {claims("nbf", ago(-6*time.Minute)), keyA, userjwt.ErrNotForUs},
			"another audience":                      {claims("aud", "another-app"), keyA, userjwt.ErrNotForUs},
			"an audience that has ours as a part":   {claims("aud", audience+"2"), keyA, userjwt.ErrNotForUs},
			"no audience":                           {claims("aud", nil), keyA, userjwt.ErrNotForUs},
			"another issuer":                        {claims("iss", "https://evil.example"), keyA, userjwt.ErrNotForUs},
			"another issuer by a slash":             {claims("iss", issuerURL+"/"), keyA, userjwt.ErrNotForUs},
			"no issuer":                             {claims("iss", nil), keyA, userjwt.ErrNotForUs},
			"signed by somebody else":               {claims(), other, userjwt.ErrSignature},
			"signed by another key than it names":   {claims(), misnamed, userjwt.ErrSignature},
			"no claim":                              {claims("sub", nil), keyA, userjwt.ErrNoUser},
			"a claim in another spelling":           {claims("sub", nil, "Sub", "ou_1"), keyA, userjwt.ErrNoUser},
			"an empty claim":                        {claims("sub", ""), keyA, userjwt.ErrNoUser},
			"a claim that is no string: list":       {claims("sub", nil, "sub", []string{"ou_1"}), keyA, nil},
			"times that are no numbers":             {claims("exp", "tomorrow"), keyA, userjwt.ErrNotForUs},
			"a user with control characters":        {claims("sub", "ou_1\r\nX: y"), keyA, "ou_1\r\nX: y"}, // the proxy judges ids
			"claims that are somewhere else (OIDC)": {claims("sub", nil, "_claim_names", map[string]string{"sub": "x"}, "_claim_sources", map[string]any{"x": map[string]string{"endpoint": "https://evil.example"}}), keyA, userjwt.ErrNoUser},
		} {
			token := tc.by.sign(t, tc.claims)
			switch want := tc.want.(type) {
			case string:
				if user, err := v.User(t.Context(), token); user != want || err != nil {
					t.Errorf("%s: %q, %v", sentence, user, err)
				}
			case error:
				if user, err := v.User(t.Context(), token); user != "" || !errors.Is(err, want) {
					t.Errorf("%s: %q, %v, want %v", sentence, user, err, want)
				}
			default:
				if user, err := v.User(t.Context(), token); user != "" || err == nil {
					t.Errorf("%s: %q, %v, want an error", sentence, user, err)
				}
			}
		}
	})
}

// The claim that is configured counts, whatever sub says.
func TestClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _ := start(nil)
		v := userjwt.New(userjwt.Config{Issuer: issuerURL, Audience: audience, Claim: "https://larkside.example/open_id", Transport: i})
		const name = "https://larkside.example/open_id"
		is(t, v, keyA.sign(t, claims("sub", "4711", name, "ou_2")), "ou_2")
		for _, value := range []any{nil, "", 7, true, map[string]any{"open_id": "ou_2"}, []string{"ou_2"}} {
			fails(t, v, keyA.sign(t, claims(name, value)), userjwt.ErrNoUser)
		}
		fails(t, v, keyA.sign(t, claims()), userjwt.ErrNoUser)
	})
}

// Whoever has only the public key can make no token, by none of the known confusions
// about algorithms and keys.
func TestAlgorithms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, v := start(nil)
		shared := []byte("a secret that the issuer should not have published")
		i.set(func() {
			i.public = []any{keyA.public(), jose.JSONWebKey{Key: shared, KeyID: "shared", Algorithm: "HS256"},
				map[string]string{"kty": "nonsense", "kid": "x"}, "no key at all",
				jose.JSONWebKey{Key: keyEd.private.(ed25519.PrivateKey).Public(), KeyID: "enc", Use: "enc"}}
		})
		good := keyA.sign(t, claims())
		is(t, v, good, "ou_1") // unusable keys beside it hurt nobody
		parts := strings.Split(good, ".")

		der, err := x509.MarshalPKIXPublicKey(keyA.public().Key)
		if err != nil {
			t.Fatal(err)
		}
		inPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		modulus := keyA.public().Key.(*rsa.PublicKey).N.Bytes()
		for name, secret := range map[string][]byte{"PEM": inPEM, "DER": der, "modulus": modulus, "published secret": shared} {
			for _, alg := range []jose.SignatureAlgorithm{jose.HS256, jose.HS384, jose.HS512} {
				if alg != jose.HS256 && len(secret) < 64 {
					continue // this signer insists on longer secrets
				}
				for _, id := range []string{"a", "shared", ""} {
					if user, err := v.User(t.Context(), (signer{alg, id, secret}).sign(t, claims())); user != "" || !errors.Is(err, userjwt.ErrMalformed) {
						t.Errorf("%s with the %s: %q, %v", alg, name, user, err)
					}
				}
			}
		}
		for _, header := range []string{`{"alg":"none"}`, `{"alg":"None","kid":"a"}`, `{"alg":"","kid":"a"}`, `{"kid":"a"}`, `{}`, `[]`} {
			fails(t, v, segment(header)+"."+parts[1]+".", userjwt.ErrMalformed)
			fails(t, v, segment(header)+"."+parts[1]+"."+parts[2], userjwt.ErrMalformed)
		}
		// The header says ES256 or PS256, the key is for RS256.
		for _, alg := range []string{"ES256", "PS256", "RS512", "EdDSA"} {
			fails(t, v, segment(`{"alg":"`+alg+`","kid":"a"}`)+"."+parts[1]+"."+parts[2], userjwt.ErrSignature)
		}
		// A key for encryption signs nothing, and a key that comes along counts for nothing.
		fails(t, v, signer{jose.EdDSA, "enc", keyEd.private}.sign(t, claims()), userjwt.ErrSignature)
		by, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: other.private}, &jose.SignerOptions{EmbedJWK: true})
		if err != nil {
			t.Fatal(err)
		}
		text, _ := json.Marshal(claims())
		signed, err := by.Sign(text)
		if err != nil {
			t.Fatal(err)
		}
		embedded, _ := signed.CompactSerialize()
		fails(t, v, embedded, userjwt.ErrSignature)
		fails(t, v, signed.FullSerialize(), userjwt.ErrMalformed)

		// Changed claims, signatures, and what is no token.
		fails(t, v, parts[0]+"."+segment(`{"sub":"ou_2"}`)+"."+parts[2], userjwt.ErrSignature)
		fails(t, v, parts[0]+"."+parts[1]+"."+segment("x"), userjwt.ErrSignature)
		for _, nonsense := range []string{"", ".", "..", "...", "ou_1", parts[0] + "." + parts[1], parts[0] + "." + parts[1] + ".", "Bearer " + good, good + ".x", strings.Repeat("a", 17<<10), "\x00\xff"} {
			if user, err := v.User(t.Context(), nonsense); user != "" || err == nil {
				t.Errorf("%.40q: %q, %v", nonsense, user, err)
			}
		}
		is(t, v, good, "ou_1")
	})
}

// A new key counts with the first token that it has signed. A withdrawn one counts
// for five minutes at most, also for a token that was verified before.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, v := start(nil)
		long := claims("exp", time.Now().Add(24*time.Hour).Unix())
		old := keyA.sign(t, long)
		is(t, v, old, "ou_1")
		time.Sleep(time.Minute)
		i.set(func() { i.public = []any{keyA.public(), keyB.public()} })
		is(t, v, keyB.sign(t, claims("sub", "ou_2")), "ou_2")
		if fetches, _ := i.count(); fetches != 2 {
			t.Errorf("%d fetches", fetches)
		}

		i.set(func() { i.public = []any{keyB.public()} })
		time.Sleep(5*time.Minute + time.Second)
		is(t, v, old, "ou_1") // nobody waits: the keys are fetched behind this request
		synctest.Wait()
		err := fails(t, v, old, userjwt.ErrSignature)
		if _, retry := errors.AsType[*session.RetryError](err); !retry {
			t.Errorf("%v: the next fetch may bring the key back", err)
		}
		is(t, v, keyB.sign(t, claims("sub", "ou_2")), "ou_2")
	})
}

// The issuer is away: whose key is known goes on for as long as it lasts, anybody
// else hears when to try again.
func TestIssuerAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		i, v := start(&log)
		i.set(func() { i.away = true })
		token := keyA.sign(t, claims("exp", time.Now().Add(24*time.Hour).Unix()))
		err := fails(t, v, token, userjwt.ErrIssuerAway)
		if retry, ok := errors.AsType[*session.RetryError](err); !ok || retry.After < time.Second || retry.After > 10*time.Second {
			t.Errorf("%v", err)
		}
		i.set(func() { i.away = false })
		fails(t, v, token, userjwt.ErrIssuerAway) // not asked again so soon
		time.Sleep(10 * time.Second)
		is(t, v, token, "ou_1")

		i.set(func() { i.away = true })
		for range 12 {
			time.Sleep(time.Hour)
			is(t, v, token, "ou_1")
			is(t, v, keyA.sign(t, claims("sub", "ou_2")), "ou_2") // never seen before
			fails(t, v, keyB.sign(t, claims()), userjwt.ErrIssuerAway)
		}
		i.set(func() { i.away, i.public = false, []any{keyB.public()} })
		time.Sleep(10 * time.Second)
		is(t, v, keyB.sign(t, claims()), "ou_1")
		if text := log.String(); !strings.Contains(text, "can't be fetched") || strings.Contains(text, token[:20]) || strings.Contains(text, strings.Split(token, ".")[2]) {
			t.Errorf("log: %s", text)
		}
	})
}

// An issuer that does not answer holds a request for five seconds at most, and
// a caller who leaves not at all.
func TestIssuerHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, v := start(nil)
		i.set(func() { i.gate = make(chan struct{}) })
		token := keyA.sign(t, claims())
		began := time.Now()
		fails(t, v, token, userjwt.ErrIssuerAway)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("a request waited for %s", took)
		}
		time.Sleep(10 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		if _, err := v.User(ctx, token); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		time.Sleep(5 * time.Second) // the fetch ends by itself
	})
}

// Whatever is sent here, the issuer hears of it once in ten seconds at most, and
// many who need its keys wait for one fetch.
func TestNobodyCanHammerTheIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, v := start(nil)
		gate := make(chan struct{})
		i.set(func() { i.gate = gate })
		good := keyA.sign(t, claims())
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { is(t, v, good, "ou_1") })
		}
		synctest.Wait()
		close(gate)
		all.Wait()
		if _, asked := i.count(); asked != 2 {
			t.Errorf("%d requests for the first keys, want discovery and the keys", asked)
		}

		began := time.Now()
		for n := range 1000 {
			forger := other
			forger.id = fmt.Sprint("made-up-", n)
			token := forger.sign(t, claims())
			for range 4 {
				all.Go(func() {
					if user, err := v.User(t.Context(), token); user != "" || !errors.Is(err, userjwt.ErrSignature) {
						t.Errorf("%q, %v", user, err)
					}
				})
			}
			all.Go(func() { is(t, v, good, "ou_1") })
			all.Wait()
			time.Sleep(100 * time.Millisecond)
		}
		fetches, _ := i.count()
		if most := int(time.Since(began)/(10*time.Second)) + 1; fetches-1 > most {
			t.Errorf("%d fetches in %s, want at most %d", fetches-1, time.Since(began), most)
		}
	})
}

// A document that is not the issuer's own, or leads away from TLS, brings no keys.
func TestIssuerDocuments(t *testing.T) {
	for sentence, change := range map[string]func(*issuer){
		"another issuer's discovery":  func(i *issuer) { i.name = "https://evil.example" },
		"keys without TLS":            func(i *issuer) { i.keysAt = "http://id.example/certs" },
		"keys at no URL":              func(i *issuer) { i.keysAt = "file:///certs" },
		"a redirect":                  func(i *issuer) { i.redirect = "http://id.example/elsewhere" },
		"no keys":                     func(i *issuer) { i.public = nil },
		"no usable key":               func(i *issuer) { i.public = []any{jose.JSONWebKey{Key: []byte("x"), KeyID: "a"}} },
		"a private key in the public": func(i *issuer) { i.public = []any{jose.JSONWebKey{Key: keyA.private, KeyID: "a"}} },
		"a document without an end":   func(i *issuer) { i.public = []any{strings.Repeat("x", 2<<20)} },
	} {
		synctest.Test(t, func(t *testing.T) {
			i, v := start(nil)
			i.set(func() { change(i) })
			fails(t, v, keyA.sign(t, claims()), userjwt.ErrIssuerAway)
			if n, err := v.Keys(t.Context()); n != 0 || err == nil {
				t.Errorf("%s: %d keys, %v", sentence, n, err)
			}
			if _, asked := i.count(); i.redirect != "" && asked != 2 {
				t.Errorf("%s was followed", sentence)
			}
		})
	}
}

func TestKeys(t *testing.T) {
	i, v := start(nil)
	i.public = append(i.public, keyB.public())
	if n, err := v.Keys(t.Context()); n != 2 || err != nil {
		t.Errorf("%d keys, %v", n, err)
	}
}

// A token that was verified before counts no longer than it lives.
func TestVerifiedTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, v := start(nil)
		token := keyA.sign(t, claims("exp", time.Now().Add(time.Minute).Unix()))
		for range 2 {
			is(t, v, token, "ou_1")
			time.Sleep(59 * time.Second)
		}
		time.Sleep(3 * time.Second) // a minute of skew is over too
		fails(t, v, token, userjwt.ErrExpired)
	})
}

// contents are the parts of a token, decoded.
func contents(token string) (all []string) {
	for part := range strings.SplitSeq(token, ".") {
		text, err := base64.RawURLEncoding.DecodeString(part)
		all = append(all, fmt.Sprint(string(text), err))
	}
	return all
}

// Whatever is sent, it proves nobody, unless the issuer has signed it.
func FuzzUser(f *testing.F) {
	i, v := start(nil)
	good := keyA.sign(f, claims("exp", time.Now().Add(24*time.Hour).Unix()))
	parts := strings.Split(good, ".")
	if user, err := v.User(f.Context(), good); user != "ou_1" {
		f.Fatal(err)
	}
	i.set(func() { i.away = true })
	for _, token := range []string{good, "", "..", "a.b.c", parts[0] + "." + parts[1] + ".", segment(`{"alg":"none"}`) + "." + parts[1] + ".",
		segment(`{"alg":"HS256","kid":"a"}`) + "." + parts[1] + "." + parts[2], segment(`{"alg":"RS256","crit":["b64"],"b64":false}`) + "." + parts[1] + "." + parts[2],
		`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		user, err := v.User(t.Context(), token)
		// Base64 may have bits that mean nothing, so its content counts.
		signed := slices.Equal(contents(token), contents(good))
		if (user != "") == (err != nil) || user != "" && (user != "ou_1" || !signed) {
			t.Errorf("%q: user %q, %v", token, user, err)
		}
		if err != nil && len(token) > 20 && strings.Contains(err.Error(), token) {
			t.Errorf("the error has the token: %v", err)
		}
	})
}

// What a token costs: the first time, and again.
func BenchmarkUser(b *testing.B) {
	for _, key := range []signer{keyA, keyB} {
		i, v := start(nil)
		i.public = []any{keyA.public(), keyB.public()}
		token := key.sign(b, claims("exp", time.Now().Add(time.Hour).Unix(), "groups", strings.Repeat("group,", 100)))
		if _, err := v.User(b.Context(), token); err != nil {
			b.Fatal(err)
		}
		b.Run(string(key.alg)+"/again", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				v.User(b.Context(), token)
			}
		})
		b.Run(string(key.alg)+"/first", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				v.Forget()
				v.User(b.Context(), token)
			}
		})
	}
}
