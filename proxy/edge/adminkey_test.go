package edge_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"larkside/proxy/edge"
	"larkside/session"
)

// lines is a log. Its last line may come from a timer.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(line))
	return len(line), nil
}

func (l *lines) count(text string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.all {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func by(address string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = address
	r.Header.Set("X-Forwarded-For", "203.0.113.9")
	return r
}

// Ten wrong keys a minute are told that they are wrong, more are told to wait.
func TestAdminKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, key := &lines{}, "the-right-key"
		k := edge.NewAdminKey(func() session.Secret { return session.NewSecret(key) }, slog.New(slog.NewTextHandler(log, nil)))
		const one, two = "192.0.2.1:1000", "[2001:db8::1]:1000"
		for i := range 10 {
			if err := k.Check(by(one), fmt.Sprint("canary-", i)); !errors.Is(err, edge.AdminUnauthenticated) || k.Wait(by(one)) > 0 != (i == 9) {
				t.Fatalf("wrong key %d: %v, wait %s", i, err, k.Wait(by(one)))
			}
		}
		err := k.Check(by("192.0.2.1:2000"), "canary-11")
		answer := edge.For(err)
		if !errors.Is(err, edge.AdminRateLimited) || answer.RetryAfter <= 5*time.Second || answer.RetryAfter > 6*time.Second {
			t.Fatalf("one too many: %v, %+v", err, answer)
		}
		if err := k.Check(by(one), " the-right-key "); err != nil {
			t.Errorf("the right key meanwhile: %v", err)
		}
		if err := k.Check(by(one), ""); !errors.Is(err, edge.AdminUnauthenticated) {
			t.Errorf("no key meanwhile: %v", err)
		}
		if err := k.Check(by(two), "canary"); !errors.Is(err, edge.AdminUnauthenticated) || k.Wait(by(two)) > 0 {
			t.Errorf("another peer: %v, wait %s", err, k.Wait(by(two)))
		}
		time.Sleep(answer.RetryAfter)
		if err := k.Check(by(one), "canary"); !errors.Is(err, edge.AdminUnauthenticated) {
			t.Errorf("after the wait: %v", err)
		}
		if err := k.Check(by(one), "canary"); !errors.Is(err, edge.AdminRateLimited) {
			t.Errorf("right after that: %v", err)
		}
		key = ""
		if err := k.Check(by(one), "canary"); err != nil {
			t.Errorf("while no key is needed: %v", err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		for text, want := range map[string]int{
			"canary": 0, "the-right-key": 0, "203.0.113.9": 0,
			"address=192.0.2.1:1000": 2, "repeated=12": 1, "address=[2001:db8::1]:1000": 1,
		} {
			if n := log.count(text); n != want {
				t.Errorf("%q is in %d lines, want %d\n%s", text, n, want, log.all)
			}
		}
	})
}

func TestNoAdminKey(t *testing.T) {
	var none *edge.AdminKey
	if err := none.Check(by("192.0.2.1:1000"), "x"); err != nil || none.Wait(by("192.0.2.1:1000")) != 0 || !none.Secret().Empty() {
		t.Errorf("a nil lock: %v", err)
	}
}

func TestPeer(t *testing.T) {
	for address, want := range map[string]string{
		"10.0.0.1:5": "10.0.0.1", "[::ffff:10.0.0.1]:6": "10.0.0.1", "[::1]:1": "::/64",
		"[2001:db8:0:1::2]:9": "2001:db8:0:1::/64", "[fe80::1%eth0]:1": "fe80::/64",
		"@": "the Unix socket", "": "the Unix socket", "/run/client.sock": "the Unix socket",
	} {
		if got := edge.Peer(by(address)); got != want {
			t.Errorf("%q: %q, want %q", address, got, want)
		}
	}
}

// Many addresses neither fill the memory nor the log, and one that goes on
// trying is not forgotten because of them.
func TestManyPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &lines{}
		k := edge.NewAdminKey(func() session.Secret { return session.NewSecret("the-right-key") }, slog.New(slog.NewTextHandler(log, nil)))
		worst := by("192.0.2.1:1000")
		for range 11 {
			k.Check(worst, "x")
		}
		for i := range 20_000 {
			k.Check(by(fmt.Sprintf("10.0.%d.%d:1", i/256, i%256)), "x")
			if i%4000 == 0 {
				k.Check(worst, "x")
			}
		}
		if k.Wait(worst) == 0 {
			t.Error("the worst one is forgiven")
		}
		if n := k.Peers(); n != 4096 {
			t.Errorf("%d peers are remembered", n)
		}
		if n := log.count("level=WARN"); n != 10 {
			t.Errorf("%d lines at once", n)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
	})
}
