package hostile

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"larkside/test/larktest"
	"larkside/test/process"
)

func TestMain(m *testing.M) { os.Exit(process.Main(m)) }

const (
	alice, bob, carol = larktest.Alice, larktest.Bob, larktest.Carol

	echo = "/open-apis/apaas/v1/larktest/echo"
)

// front is Lark's door: it notes what comes as it came, and may answer in the
// emulator's stead.
type front struct {
	*httptest.Server
	lark *larktest.Platform

	mu      sync.Mutex
	seen    []arrived
	attacks map[string]http.HandlerFunc // by the beginning of a path
}

// arrived is a request as it came.
type arrived struct {
	method, target, host string
	header, trailer      http.Header
}

func newFront(t *testing.T, c larktest.Config) *front {
	f := &front{attacks: map[string]http.HandlerFunc{}}
	f.Server = httptest.NewUnstartedServer(f)
	f.Config.DisableGeneralOptionsHandler = true
	c.URL = "http://" + f.Listener.Addr().String()
	f.lark = larktest.New(c)
	t.Cleanup(f.lark.Close)
	f.Start()
	t.Cleanup(f.Close)
	return f
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.seen = append(f.seen, arrived{r.Method, r.RequestURI, r.Host, r.Header.Clone(), nil})
	n := len(f.seen) - 1
	var attack http.HandlerFunc
	for prefix, a := range f.attacks {
		if strings.HasPrefix(r.URL.Path, prefix) {
			attack = a
		}
	}
	f.mu.Unlock()
	if attack != nil {
		attack(w, r)
		return
	}
	f.lark.ServeHTTP(w, r)
	io.Copy(io.Discard, r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	if n < len(f.seen) {
		f.seen[n].trailer = r.Trailer.Clone()
	}
}

// attack answers every path that begins so in Lark's stead until the returned
// function is called.
func (f *front) attack(prefix string, a http.HandlerFunc) (stop func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.attacks[prefix] = a
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.attacks, prefix)
	}
}

// taken returns the API calls since the last time, and forgets them.
func (f *front) taken() []arrived {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := slices.DeleteFunc(slices.Clone(f.seen), func(a arrived) bool { return !strings.HasPrefix(a.target, "/open-apis/") })
	f.seen = nil
	return calls
}

// begin starts a larkside behind a front, in whose database alice and bob have
// sessions.
func begin(t *testing.T, env map[string]string, environ ...string) (*process.Process, *front) {
	t.Helper()
	f := newFront(t, larktest.Config{DeviceInterval: time.Second, TokenPerSecond: -1, TokenPerMinute: -1})
	p := process.Seeded(t, process.Options{Lark: f.lark, Env: env, Environ: environ}, alice, bob)
	f.taken() // what Larkside asks at the start
	return p, f
}

// send writes text to a listener, as it is but for {host}, and returns what
// comes back until the connection ends; Connection: close is the text's to say.
func send(t *testing.T, url, text string) string {
	t.Helper()
	conn := process.Dial(t, url)
	defer conn.Close()
	io.WriteString(conn, strings.ReplaceAll(text, "{host}", process.Host(url)))
	answer, err := io.ReadAll(conn)
	if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Errorf("%.200q: the connection does not end; so far %.200q", text, answer)
	}
	return string(answer)
}

// status is that of an answer as it came, 0 for none.
func status(answer string) (n int) {
	var minor int
	fmt.Sscanf(answer, "HTTP/1.%d %d ", &minor, &n)
	return n
}

// unharmed: what comes next, on any connection of p's pool, is right.
func (f *front) unharmed(t *testing.T, p *process.Process, after string) {
	t.Helper()
	f.taken()
	var group sync.WaitGroup
	for i := range 8 {
		id := []string{alice, bob}[i%2]
		r := p.Request(t, "POST", echo, id, id, larktest.ExpectUserHeader, id)
		group.Go(func() {
			a, err := process.Try(r)
			if err != nil || a.Status != 200 || a.Owner() != id {
				t.Errorf("after %.200q a request of %s: %+v, %v", after, id, a, err)
			}
		})
	}
	group.Wait()
	for _, v := range f.lark.Violations(larktest.WrongUser, larktest.LeakedHeader, larktest.UnknownToken) {
		t.Errorf("after %.200q: %s %s %s", after, v.Kind, v.OpenID, v.Detail)
	}
	f.taken()
}

// ofAlice judges what came to Lark: with her token, once, and nothing that
// belongs to the hop.
func (f *front) ofAlice(t *testing.T, p *process.Process, what string, calls []arrived) {
	t.Helper()
	want := f.tokenOf(t, p, alice)
	for _, c := range calls {
		if auth := c.header["Authorization"]; len(auth) != 1 || auth[0] != want {
			t.Errorf("%.200q: Lark got %d Authorization headers, or not hers", what, len(auth))
		}
		if len(c.trailer) > 0 {
			t.Errorf("%.200q: Lark got trailers %v", what, c.trailer)
		}
		if c.host != process.Host(f.URL) {
			t.Errorf("%.200q: Lark was called %q", what, c.host)
		}
		for name := range c.header {
			folded := strings.ToLower(strings.ReplaceAll(name, "_", "-"))
			for _, ours := range []string{"x-lark-user-id", "x-lark-app-id", "x-larkside", "cookie", "baggage", "x-forwarded", "forwarded", "connection", "te", "upgrade", "proxy-"} {
				if strings.HasPrefix(folded, ours) && folded != "x-larktest-expect-user" {
					t.Errorf("%.200q: Lark got %s", what, name)
				}
			}
		}
	}
}

// tokenOf is what a user's requests carry, learnt from one.
func (f *front) tokenOf(t *testing.T, p *process.Process, openID string) string {
	t.Helper()
	f.mu.Lock()
	before := len(f.seen)
	f.mu.Unlock()
	if a := p.Get(t, echo, openID); a.Status != 200 || a.Owner() != openID {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	token := f.seen[before].header.Get("Authorization")
	f.seen = f.seen[:before]
	return token
}
