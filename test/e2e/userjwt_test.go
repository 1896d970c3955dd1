package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"larkside/test/larktest"
	"larkside/test/process"
)

// issuer is a small OpenID Connect issuer inside TLS.
type issuer struct {
	*httptest.Server
	key    *ecdsa.PrivateKey
	CAFile string
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: key, CAFile: filepath.Join(t.TempDir(), "ca.pem")}
	i.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any = map[string]string{"issuer": i.URL, "jwks_uri": i.URL + "/certs"}
		if r.URL.Path == "/certs" {
			answer = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Use: "sig"}}}
		}
		json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(i.Close)
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw})
	if err := os.WriteFile(i.CAFile, root, 0o600); err != nil {
		t.Fatal(err)
	}
	return i
}

// token returns a JWT of this user that ends after a while.
func (i *issuer) token(t *testing.T, audience, user string, lives time.Duration) string {
	t.Helper()
	by, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: "1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(by).Claims(map[string]any{"iss": i.URL, "aud": audience, "sub": "4711", "lark_id": user, "exp": time.Now().Add(lives).Unix()}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Where users have to be proven, the app's word is not enough on any way in. The
// issuer may go once its keys are known.
func userUnproven(t *testing.T) {
	lark := newLark(t, nil)
	id := newIssuer(t)
	p := process.Seeded(t, process.Options{Lark: lark, Env: map[string]string{
		"USER_JWT_ISSUER": id.URL, "USER_JWT_AUDIENCE": "larkside", "USER_JWT_CLAIM": "lark_id", "UPSTREAM_CA_FILE": id.CAFile,
		"AUTHZ_LISTEN": "127.0.0.1:0", "MCP_URL": lark.URL + "/mcp", "LOG_LEVEL": "debug", "ACCESS_LOG": "true",
	}}, alice, bob)
	const header = "X-Larkside-User-Token"
	good := id.token(t, "larkside", alice, time.Hour)
	wrong := map[string]string{
		"somebody else's": id.token(t, "larkside", bob, time.Hour),
		"expired":         id.token(t, "larkside", alice, -time.Hour),
		"another's":       id.token(t, "another-app", alice, time.Hour),
		"no user":         id.token(t, "larkside", "", time.Hour),
		"cut":             good[:len(good)-4],
	}
	refused := func(openID string, more ...string) {
		t.Helper()
		is(t, p.Get(t, records, openID, more...), 401, "user_unproven")
		is(t, process.Do(t, process.NewRequest(t, "GET", p.AuthzURL+"/-/larkside/authz"+records, openID, "", more...)), 401, "user_unproven")
		is(t, process.Do(t, p.Request(t, "POST", "/mcp", openID, `{"jsonrpc":"2.0","id":1,"method":"tools/call"}`, more...)), 401, "user_unproven")
	}
	refused(alice)
	refused("ou_who_never_consented")
	for sentence, token := range wrong {
		t.Log(sentence)
		refused(alice, header, token)
	}
	nothingSent(t, lark)
	if cards := lark.Messages("ou_who_never_consented"); len(cards) > 0 {
		t.Errorf("%d cards", len(cards))
	}

	id.Close() // its keys are known by now
	for _, openID := range []string{alice, ""} {
		a := p.Get(t, echo, openID, header, good)
		if isDataOf(t, a, alice); strings.Contains(a.Body, good) || strings.Contains(a.Body, "User-Token") {
			t.Errorf("the token reached Lark: %s", a.Body)
		}
	}
	isDataOf(t, p.Get(t, records, "", header, id.token(t, "larkside", bob, time.Hour)), bob)
	if a := process.Do(t, process.NewRequest(t, "GET", p.AuthzURL+"/-/larkside/authz"+records, "", "", header, good)); a.Status != 200 || !strings.HasPrefix(a.Header.Get("Authorization"), "Bearer ") {
		t.Errorf("authz: %d %s", a.Status, a.Body)
	}
	log := p.Log().String()
	for _, token := range []string{good, wrong["somebody else's"], wrong["expired"], wrong["cut"]} {
		for _, part := range strings.Split(token, ".")[1:] {
			if strings.Contains(log, part) {
				t.Errorf("the log has a part of a token")
			}
		}
	}
	if !strings.Contains(log, "a request whose user is not proven was refused") {
		t.Error("no line says why")
	}
}

// An issuer that is away does not stop the start, nor what names no user.
func TestIssuerAwayAtStart(t *testing.T) {
	t.Parallel()
	lark := newLark(t, nil)
	id := newIssuer(t)
	id.Close()
	p := process.Seeded(t, process.Options{Lark: lark, Env: map[string]string{
		"USER_JWT_ISSUER": id.URL, "USER_JWT_AUDIENCE": "larkside", "UPSTREAM_CA_FILE": id.CAFile,
	}}, alice)
	p.AwaitReady()
	a := p.Get(t, records, alice, "X-Larkside-User-Token", id.token(t, "larkside", alice, time.Hour))
	if is(t, a, 401, "user_unproven"); a.Header.Get("Retry-After") == "" || !strings.Contains(a.Envelope.Msg, "can't be checked") {
		t.Errorf("%v %s", a.Header, a.Body)
	}
	if a := p.Get(t, records, "", "Authorization", "Bearer u-own"); a.Name() != "" {
		t.Errorf("the app's own token: %d %s", a.Status, a.Body)
	}
	p.Log().AwaitText(t, "the keys for users' tokens can't be fetched")
	if calls := lark.Calls(larktest.To(larktest.API)); len(calls) != 1 {
		t.Errorf("%d calls reached Lark, want the app's own", len(calls))
	}
}
