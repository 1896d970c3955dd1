package main

import (
	"errors"
	"slices"
	"testing"
	"time"

	"larkside/proxy/admin"
	"larkside/session"
	"larkside/test/dbtest"
)

// A person is one and the same in two apps by the union_id alone.
func TestPurgeFindsPerson(t *testing.T) {
	db := dbtest.SQLite(t).Open(t, nil)
	p := &parts{db: db}
	for _, s := range []session.Session{
		{Key: session.Key{AppID: "cli_a", OpenID: "ou_a1"}, UnionID: "on_1", UserID: "one"},
		{Key: session.Key{AppID: "cli_b", OpenID: "ou_b1"}, UnionID: "on_1", UserID: "one"},
		{Key: session.Key{AppID: "cli_a", OpenID: "ou_a2"}, UnionID: "on_2", UserID: "two"},
		{Key: session.Key{AppID: "cli_b", OpenID: "ou_b3"}, UnionID: "on_3", UserID: "two"}, // of another tenant
	} {
		s.TokenType, s.AccessToken, s.IssuedAt, s.ExpiresAt = "Bearer", session.NewSecret("u"), time.Now(), time.Now().Add(time.Hour)
		if _, err := db.Sessions.Put(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Sessions.Disable(t.Context(), session.Key{AppID: "cli_b", OpenID: "ou_b3"}, session.UserGone); err != nil {
		t.Fatal(err)
	}
	if err := db.Sessions.Disable(t.Context(), session.Key{AppID: "cli_a", OpenID: "ou_a2"}, session.UserNotPermitted); err != nil {
		t.Fatal(err)
	}
	dry := true
	for _, c := range []struct {
		wish admin.PurgeWish
		want []string
		err  error
	}{
		{admin.PurgeWish{User: "ou_a1"}, []string{"ou_a1", "ou_b1"}, nil},
		{admin.PurgeWish{User: "ou_b1", AppID: "cli_b"}, []string{"ou_a1", "ou_b1"}, nil},
		{admin.PurgeWish{User: "on_1"}, []string{"ou_a1", "ou_b1"}, nil},
		{admin.PurgeWish{User: "one"}, []string{"ou_a1", "ou_b1"}, nil},
		{admin.PurgeWish{User: "two", AppID: "cli_a"}, []string{"ou_a2"}, nil},
		{admin.PurgeWish{User: "two"}, nil, session.ErrAmbiguous},
		{admin.PurgeWish{User: "ou_nobody"}, nil, session.ErrNotFound},
		{admin.PurgeWish{Left: true}, []string{"ou_b3"}, nil},
		{admin.PurgeWish{State: session.Disabled}, []string{"ou_a2", "ou_b3"}, nil},
		{admin.PurgeWish{State: session.ConsentRequired}, nil, nil},
	} {
		c.wish.DryRun = &dry
		var got []string
		total, err := p.purge(t.Context(), []string{"cli_a", "cli_b"}, c.wish, func(so admin.Purge) { got = append(got, so.Session.OpenID) }, admin.Actor{})
		slices.Sort(got)
		if !errors.Is(err, c.err) || !slices.Equal(got, c.want) || total.Sessions != len(c.want) || total.Deleted != 0 {
			t.Errorf("%+v: %q, %+v, %v", c.wish, got, total, err)
		}
	}
}
