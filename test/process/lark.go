package process

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"larkside/test/larktest"
)

// Await waits until the emulator has seen something. Where it does not notice
// the change, use [Eventually].
func Await(t testing.TB, lark *larktest.Platform, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	if err := lark.Wait(ctx, done); err != nil {
		t.Fatalf("waiting for %s: %v", what, err)
	}
}

// AwaitHit waits until a fault has struck.
func AwaitHit(t testing.TB, fault *larktest.Injection) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	if err := fault.Await(ctx, 1); err != nil {
		t.Fatalf("the fault never struck: %v", err)
	}
}

// Card is the one message that a user has got.
func Card(t testing.TB, lark *larktest.Platform, openID string) larktest.Message {
	t.Helper()
	all := lark.Messages(openID)
	if len(all) != 1 {
		t.Fatalf("%d messages, want one", len(all))
	}
	return all[0]
}

// AwaitCard waits for the one card of a user to have been updated. It says text
// then, and has no link any more.
func AwaitCard(t testing.TB, lark *larktest.Platform, openID, text string) {
	t.Helper()
	Await(t, lark, "an updated card", func() bool { return len(Card(t, lark, openID).Versions) > 1 })
	if m := Card(t, lark, openID); !strings.Contains(m.Content(), text) || len(m.Links()) > 0 {
		t.Errorf("the card is %s", m.Content())
	}
}

// Approve has a user agree to what the link asks for.
func Approve(t testing.TB, lark *larktest.Platform, link, openID string) {
	t.Helper()
	if err := lark.Approve(link, openID); err != nil {
		t.Fatal(err)
	}
}

// Link is the one that a call of this user's, who has no session, is answered
// with.
func (p *Process) Link(t testing.TB, path, openID string) string {
	t.Helper()
	a := p.Get(t, path, openID)
	if a.Name() != "authorization_required" || a.Envelope.Error.AuthorizeURL == "" {
		t.Fatalf("want a link for %s, got %d %s", openID, a.Status, a.Body)
	}
	return a.Envelope.Error.AuthorizeURL
}

// Consent brings a user through the device flow and returns when a call is
// answered.
func (p *Process) Consent(t testing.TB, path, openID string) {
	t.Helper()
	Approve(t, p.Lark, p.Link(t, path, openID), openID)
	Eventually(t, "a session for "+openID, func() bool { return p.Get(t, path, openID).Status == http.StatusOK })
}
