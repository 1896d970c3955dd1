package hostile

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"larkside/test/larktest"
	"larkside/test/process"
)

// attacks are answers of a Lark that was bought, or of somebody between.
var attacks = map[string]http.HandlerFunc{
	"1 GiB": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"access_token":"`)
		pour(w, strings.Repeat("x", 1<<20), 1<<10)
	},
	"1 GiB, status 400": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(400)
		io.WriteString(w, `{"msg":"`)
		pour(w, strings.Repeat("x", 1<<20), 1<<10)
	},
	"1 GiB of blanks": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(500)
		pour(w, strings.Repeat(" ", 1<<20), 1<<10)
	},
	"endless header line": func(w http.ResponseWriter, _ *http.Request) {
		raw(w, "HTTP/1.1 200 OK\r\nX-A: ", strings.Repeat("a", 1<<20), 256)
	},
	"endless headers": func(w http.ResponseWriter, _ *http.Request) {
		raw(w, "HTTP/1.1 200 OK\r\n", strings.Repeat("X-A: 1\r\n", 1<<17), 256)
	},
	"endless 1xx": func(w http.ResponseWriter, _ *http.Request) {
		raw(w, "", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n", 1<<10), 256)
	},
	"endless trailers": func(w http.ResponseWriter, _ *http.Request) {
		raw(w, "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", strings.Repeat("X-A: 1\r\n", 1<<17), 256)
	},
	"deep JSON": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(400)
		io.WriteString(w, `{"data":`+strings.Repeat("[", 60_000))
	},
	"gzip bomb": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(400)
		w.Write(bomb())
	},
	"wrong types": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"code":"0","msg":{},"access_token":7,"refresh_token":[],"expires_in":"x","token_type":null,"data":"no","device_code":{},"tenant_access_token":1}`)
	},
	"a number without end": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(400)
		io.WriteString(w, `{"code":`+strings.Repeat("9", 60_000)+`}`)
	},
	"not HTTP": func(w http.ResponseWriter, _ *http.Request) { raw(w, "SSH-2.0-OpenSSH\r\n", "\x00", 1) },
	"a redirect": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://evil.invalid/")
		w.WriteHeader(307)
	},
}

// pour writes part n times, or until nobody takes it.
func pour(w io.Writer, part string, n int) {
	for range n {
		if _, err := io.WriteString(w, part); err != nil {
			return
		}
	}
}

func raw(w http.ResponseWriter, head, part string, n int) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	io.WriteString(conn, head)
	pour(conn, part, n)
}

// bomb is a MiB that becomes a GiB: members one after the other, since to
// compress a GiB takes longer under the race detector than anybody waits.
var bomb = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	pour(w, strings.Repeat(" ", 1<<20), 1)
	w.Close()
	return bytes.Repeat(b.Bytes(), 1<<10)
})

// peak is the most memory that a process has had, in MiB.
func peak(t *testing.T, pid int) int {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skip("no /proc")
	}
	for line := range strings.Lines(string(content)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kib >> 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// headroom is by how much memory may grow, in MiB: a fraction of what was sent.
func headroom() int {
	if process.RaceEnabled {
		return 500
	}
	return 120
}

// S31: whatever Lark answers, memory stays bounded, nobody loses a grant, the
// caller gets an answer that says what is wrong, and all is well again when
// Lark is.
func TestLarkAttacks(t *testing.T) {
	t.Parallel()
	f := newFront(t, larktest.Config{DeviceInterval: time.Second, TokenPerSecond: -1, TokenPerMinute: -1, AdHocUsers: true})
	lark, db := f.lark, process.SQLite(t)
	process.Seed(t, db, lark, time.Minute, alice)
	process.Seed(t, db, lark, 3*time.Hour, bob) // to be renewed
	victims := map[string]string{}              // likewise, one for each attack: who fails is let rest
	for name := range attacks {
		victims[name] = fmt.Sprintf("ou_%032x", len(victims))
		process.Seed(t, db, lark, 3*time.Hour, victims[name])
	}
	// Larkside asks for the app's token at its start, and must not have one here.
	stop := f.attack("/open-apis/auth/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"CONSENT_RATE": "1000/1m", "TENANT_PATHS": "/open-apis/contact/"}})
	p.AwaitReady()
	stop()
	begun := peak(t, p.PID())
	bounded := func(what string) {
		if now := peak(t, p.PID()); now > begun+headroom() {
			t.Fatalf("%s: memory went from %d MiB to %d MiB", what, begun, now)
		}
		if a := p.Admin(t, "GET", "/healthz"); a.Status != 200 {
			t.Fatalf("%s: %d %s", what, a.Status, a.Body)
		}
	}
	for name, attack := range attacks {
		stops := []func(){
			f.attack("/oauth/", attack), f.attack("/open-apis/authen/", attack), f.attack("/open-apis/auth/", attack),
			f.attack("/open-apis/im/", attack), f.attack("/open-apis/contact/", attack), f.attack("/open-apis/interactive/", attack),
		}
		p.Get(t, echo, bob)
		a := p.Get(t, echo, victims[name])
		if a.Status != 503 || a.Name() != "refresh_unavailable" {
			t.Errorf("%s to a refresh: %d %s", name, a.Status, a.Body)
		}
		a = p.Get(t, echo, carol)
		if a.Status != 401 && a.Status != 503 || a.Name() == "" || a.Envelope.Error.AuthorizeURL != "" {
			t.Errorf("%s to a consent: %d %s", name, a.Status, a.Body)
		}
		if a := p.Admin(t, "POST", "/api/v1/users/sync"); a.Status == 0 {
			t.Errorf("%s to a synchronisation: %s", name, a.Body)
		}
		if a := p.Get(t, "/open-apis/contact/v3/departments/0", ""); a.Name() == "" {
			t.Errorf("%s to a tenant token: %d %.200s", name, a.Status, a.Body)
		}
		for _, stop := range stops {
			stop()
		}
		bounded(name + " of the platform's own calls")

		// Upstream of the proxy, where answers are passed on.
		stop := f.attack("/open-apis/apaas/v1/attack", attack)
		conn := process.Dial(t, p.URL)
		fmt.Fprintf(conn, "GET /open-apis/apaas/v1/attack HTTP/1.1\r\nHost: %s\r\nX-Lark-User-Id: %s\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n", process.Host(p.URL), alice)
		head := make([]byte, 12)
		if _, err := io.ReadFull(conn, head); err != nil || status(string(head)+" ") == 0 {
			t.Errorf("%s from upstream: %q, %v", name, head, err)
		}
		io.CopyN(io.Discard, conn, 1<<20)
		conn.Close()
		stop()
		bounded(name + " from upstream")
		if a := p.Get(t, echo, alice); a.Status != 200 || a.Owner() != alice {
			t.Errorf("after %s: %d %s", name, a.Status, a.Body)
		}
	}
	for _, id := range victims {
		process.Eventually(t, "a renewal of "+id, func() bool { return p.Get(t, echo, id).Status == 200 })
	}
	process.Eventually(t, "bob's renewal", func() bool { return p.Get(t, echo, bob).Status == 200 })
	larktest.NoViolations(t, lark)
	if n := len(lark.Messages(bob)); n > 0 {
		t.Errorf("bob got %d cards for a failure that passed", n)
	}
}

// S31: user_info, which says who has consented, is the attacker's.
func TestUserInfoAttacks(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"1 GiB", "endless headers", "gzip bomb", "wrong types", "deep JSON"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFront(t, larktest.Config{DeviceInterval: time.Second})
			p := process.Start(t, process.Options{Lark: f.lark})
			begun := peak(t, p.PID())
			link := p.Get(t, echo, carol).Envelope.Error.AuthorizeURL
			asked := make(chan bool, 1)
			stop := f.attack("/open-apis/authen/v1/user_info", func(w http.ResponseWriter, r *http.Request) {
				select {
				case asked <- true:
				default:
				}
				attacks[name](w, r)
			})
			if err := f.lark.Approve(link, carol); err != nil {
				t.Fatal(err)
			}
			select {
			case <-asked:
			case <-time.After(process.Patience):
				t.Fatal("user_info was not asked")
			}
			if a := p.Get(t, echo, carol); a.Status != 401 {
				t.Errorf("served before it is known whose token it is: %d %s", a.Status, a.Body)
			}
			stop()
			// Whatever becomes of that consent, one that works is a request away.
			process.Eventually(t, "an end", func() bool {
				a := p.Get(t, echo, carol)
				if again := a.Envelope.Error.AuthorizeURL; again != "" && again != link {
					link = again
					if err := f.lark.Approve(link, carol); err != nil {
						t.Error(err)
					}
				}
				return a.Status == 200 && a.Owner() == carol
			})
			if now := peak(t, p.PID()); now > begun+headroom() {
				t.Errorf("memory went from %d MiB to %d MiB", begun, now)
			}
		})
	}
}
