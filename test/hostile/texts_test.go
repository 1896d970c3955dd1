package hostile

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

// noise is a text that no database can make shorter.
func noise(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + rand.IntN(26))
	}
	return string(b)
}

// S31: a text in an answer of Lark's that a database can't hold costs no grant.
// PostgreSQL takes no NUL, and no index takes a value of a page.
func TestTextsThatNoDatabaseHolds(t *testing.T) {
	t.Parallel()
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		t.Parallel()
		f := newFront(t, larktest.Config{DeviceInterval: time.Second, TokenPerSecond: -1, TokenPerMinute: -1, AdHocUsers: true})
		process.Seed(t, db, f.lark, time.Minute, alice)
		p := process.Start(t, process.Options{Lark: f.lark, DB: db, Env: map[string]string{"REFRESH_SWEEP": "0", "USER_SYNC": "0", "CONSENT_RATE": "1000/1m"}})
		for _, set := range []map[string]any{
			{"scope": "a\x00b offline_access"},
			{"scope": noise(20_000)},
			{"token_type": "Bearer\x00"},
			{"token_type": "\x00"},
			{"status_message": "\x00"},
		} {
			fault := f.lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Processed: true, Set: set})
			if a := p.Admin(t, "POST", "/api/v1/sessions/-/"+alice+"/refresh"); a.Status != 200 || fault.Hits() != 1 {
				t.Fatalf("a renewal that brings %.40q: %d %s", set, a.Status, a.Body)
			}
			if a := p.Get(t, echo, alice); a.Status != 200 || a.Owner() != alice {
				t.Fatalf("after a renewal that brings %.40q: %d %s", set, a.Status, a.Body)
			}
		}
		for _, set := range []map[string]any{
			{"union_id": "on_\x00"}, {"union_id": noise(20_000)}, {"user_id": "\x00"}, {"user_id": noise(20_000)}, {"user_id": "a b"},
			{"name": "\x00"}, {"name": noise(20_000)}, {"email": "\x00@x"}, {"open_id": bob + "\x00"}, {"open_id": noise(20_000)},
		} {
			if testing.Short() && set["union_id"] == nil {
				continue // each consent takes a second
			}
			data := map[string]any{"open_id": bob, "name": "Bob", "union_id": "on_b", "user_id": "b"}
			for name, value := range set {
				data[name] = value
			}
			link := p.Link(t, echo, bob)
			fault := f.lark.Fault(larktest.Fault{Endpoint: larktest.UserInfo, Processed: true, Set: map[string]any{"data": data}})
			if err := f.lark.Approve(link, bob); err != nil {
				t.Fatal(err)
			}
			process.Eventually(t, "user_info was asked", func() bool { return fault.Hits() == 1 })
			process.Eventually(t, "an end of the consent", func() bool { return p.Get(t, echo, bob).Status == 200 })
			if a := p.Get(t, echo, bob); a.Status != 200 || a.Owner() != bob {
				t.Fatalf("after a consent that brings %.40q: %d %s", set, a.Status, a.Body)
			}
			if a := p.Admin(t, "DELETE", "/api/v1/sessions/-/"+bob); a.Status != 204 {
				t.Fatalf("%d %s", a.Status, a.Body)
			}
		}
		// The directory.
		for _, set := range []map[string]any{{"union_id": "on_\x00"}, {"union_id": noise(20_000)}, {"user_id": "\x00"}, {"name": "\x00"}, {"open_id": "\x00"}} {
			item := map[string]any{"open_id": alice, "name": "Alice", "status": map[string]any{"is_activated": true}}
			for name, value := range set {
				item[name] = value
			}
			fault := f.lark.Fault(larktest.Fault{Endpoint: larktest.ContactEndpoint, Processed: true, Set: map[string]any{"data": map[string]any{"items": []any{item}}}})
			// Who was read in this very millisecond is not read again.
			process.Eventually(t, "a synchronisation", func() bool {
				a := p.Admin(t, "POST", "/api/v1/users/sync")
				nobody := set["open_id"] != nil // so alice counts as not told of
				if a.Status != 200 || !nobody && !strings.Contains(a.Body, `"failed":0`) {
					t.Errorf("a synchronisation that brings %.40q: %d %s", set, a.Status, a.Body)
				}
				return fault.Hits() == 1
			})
		}
		if a := p.Get(t, echo, alice); a.Status != 200 {
			t.Errorf("alice in the end: %d %s", a.Status, a.Body)
		}
		larktest.NoViolations(t, f.lark, larktest.Replayed, larktest.WrongUser, larktest.UnknownToken)
	})
}

// S31: tokens that are of no use cost their user's requests an answer, and nobody
// else the rate of the token endpoint.
func TestUselessTokens(t *testing.T) {
	t.Parallel()
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		t.Parallel()
		f := newFront(t, larktest.Config{TokenPerSecond: -1, TokenPerMinute: -1, AdHocUsers: true})
		useless := map[string]map[string]any{}
		for i, set := range []map[string]any{{"expires_in": 0}, {"expires_in": -7200}, {"token_type": "MAC"}, {"access_token": "a\x00b"}} {
			user := fmt.Sprintf("ou_%032x", i)
			useless[user] = set
			process.Seed(t, db, f.lark, 3*time.Hour, user)
		}
		process.Seed(t, db, f.lark, 3*time.Hour, bob)
		p := process.Start(t, process.Options{Lark: f.lark, DB: db})
		for user, set := range useless {
			fault := f.lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, OpenID: user, Processed: true, Times: -1, Set: set})
			began := time.Now()
			for range 100 {
				if a := p.Get(t, echo, user); a.Name() != "refresh_unavailable" || a.Header.Get("Retry-After") == "" {
					t.Fatalf("%q: %d %s", set, a.Status, a.Body)
				}
			}
			// One at once, and one in a second after that at most.
			if n, most := fault.Hits(), 2+int(time.Since(began)/time.Second); n < 1 || n > most {
				t.Errorf("%q: %d rotations, want at most %d", set, n, most)
			}
			fault.Remove()
			process.Eventually(t, "service when Lark is well", func() bool { return p.Get(t, echo, user).Status == 200 })
		}
		if a := p.Get(t, echo, bob); a.Status != 200 || a.Owner() != bob {
			t.Errorf("bob: %d %s", a.Status, a.Body)
		}
		larktest.NoViolations(t, f.lark)
	})
}
