package e2e

import (
	"strings"
	"testing"
	"time"

	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

// Over the long connection come a click on "decline" and a revocation, whole and
// in parts, and again after the connection broke.
func TestLongConnection(t *testing.T) {
	t.Parallel()
	process.Each(t, func(t *testing.T, db *dbtest.DB) {
		lark := newLark(t, nil)
		process.Seed(t, db, lark, time.Minute, alice, carol)
		p := process.Start(t, process.Options{Lark: lark, DB: db, Env: map[string]string{"EVENTS": "websocket"}})
		connected := func() {
			process.Await(t, lark, "a long connection", func() bool { return len(lark.LongConnections(larktest.AppID)) == 1 })
		}
		connected()

		is(t, p.Get(t, records, bob), 401, "authorization_required")
		card := process.Card(t, lark, bob)
		reply, err := lark.Click(t.Context(), card.ID, len(card.Buttons())-1)
		if err != nil || reply.Status != 200 || !strings.Contains(string(reply.Body), `"card"`) {
			t.Fatalf("%d %s, %v", reply.Status, reply.Body, err)
		}
		a := p.Get(t, records, bob)
		if is(t, a, 401, "authorization_required"); a.Envelope.Error.Reason != "declined" {
			t.Errorf("reason %q", a.Envelope.Error.Reason)
		}

		revoke := func(openID string, parts int) {
			isDataOf(t, p.Get(t, records, openID), openID)
			lark.Switch(func(s *larktest.Switches) { s.EventParts = parts })
			reply, err := lark.SendRevoked(t.Context(), openID, "user")
			if err != nil || reply.Status != 200 || len(reply.Body) > 0 {
				t.Fatalf("%d %s, %v", reply.Status, reply.Body, err)
			}
			a := p.Get(t, records, openID)
			if is(t, a, 401, "authorization_required"); a.Envelope.Error.Reason != "revoked" {
				t.Errorf("reason %q", a.Envelope.Error.Reason)
			}
		}
		revoke(alice, 7)
		if n := lark.CutLongConnections(larktest.AppID); n != 1 {
			t.Errorf("%d connections", n)
		}
		p.Log().AwaitText(t, "the long connection for events is down; connecting again")
		connected()
		revoke(carol, 1)
		larktest.NoViolations(t, lark)
	})
}
