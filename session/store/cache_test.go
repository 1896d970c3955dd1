package store

import (
	"fmt"
	"testing"
	"time"

	"larkside/session"
)

var bob = session.Key{AppID: "cli_a", OpenID: "ou_bob"}

// access is bob's access token of a version.
func access(version int64, state session.State) *session.Access {
	now := time.Now()
	return session.NewAccess(&session.Session{
		Key: bob, State: state, Version: version, AccessToken: session.NewSecret(fmt.Sprint("token ", version)),
		TokenType: "Bearer", IssuedAt: now, ExpiresAt: now.Add(time.Hour),
	})
}

// What is cached after two statements and the news of a change, in each order
// in which they may meet.
func TestCacheKeepsTheNewest(t *testing.T) {
	type c = *cache
	read := func(a *session.Access) func(c) func(c) {
		return func(k c) func(c) {
			t := k.ticket(bob)
			return func(k c) { k.replace(a, t, false, time.Now()) }
		}
	}
	write := func(a *session.Access) func(c) func(c) {
		return func(k c) func(c) {
			t := k.ticket(bob)
			return func(k c) { k.replace(a, t, true, time.Now()) }
		}
	}
	v1, v2, v3 := access(1, session.Active), access(2, session.Active), access(3, session.Active)
	revoked := access(2, session.ConsentRequired)
	for _, tc := range []struct {
		sentence string
		steps    func(k c)
		want     *session.Access
		checked  bool
	}{
		{"a read", func(k c) { read(v1)(k)(k) }, v1, true},
		{"a write after a read", func(k c) { read(v1)(k)(k); write(v2)(k)(k) }, v2, true},
		{"a read that began before a write ends after it", func(k c) { end := read(v1)(k); write(v2)(k)(k); end(k) }, v2, true},
		{"a read that began before the news of a key that is not cached", func(k c) { end := read(v1)(k); k.heard(bob, 2, session.ConsentRequired); end(k) }, nil, false},
		{"a read that began before the news of a key that is cached", func(k c) { read(v1)(k)(k); end := read(v1)(k); k.heard(bob, 2, session.ConsentRequired); end(k) }, nil, false},
		{"a read after the news", func(k c) { k.heard(bob, 2, session.ConsentRequired); read(revoked)(k)(k) }, revoked, true},
		{"news of what is cached already", func(k c) { write(v2)(k)(k); k.heard(bob, 2, session.Active) }, v2, true},
		{"an older write ends after a newer one", func(k c) { older := write(v2)(k); newer := write(v3)(k); newer(k); older(k) }, v3, true},
		{"a newer write ends after an older one", func(k c) { older := write(v2)(k); newer := write(v3)(k); older(k); newer(k) }, v3, false},
		{"a write ends after its own news", func(k c) { end := write(v2)(k); k.heard(bob, 2, session.Active); end(k) }, v2, false},
		{"of two writes of one version the last is not sure", func(k c) { one, two := write(v2)(k), write(revoked)(k); two(k); one(k) }, v2, false},
		{"no row", func(k c) { read(v1)(k)(k); k.absent(bob, k.ticket(bob)) }, nil, false},
		{"no row, but a write meanwhile", func(k c) { t := k.ticket(bob); write(v1)(k)(k); k.absent(bob, t) }, v1, true},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			k, err := newCache(10)
			if err != nil {
				t.Fatal(err)
			}
			tc.steps(k)
			e, ok := k.get(bob)
			if e.access != tc.want || ok && (e.epoch == k.epoch.Load()) != tc.checked {
				t.Errorf("cached %+v, checked %v", e.access, e.epoch == k.epoch.Load())
			}
		})
	}
}
