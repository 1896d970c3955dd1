package consent

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/session/lark"
	"larkside/session/store"
	"larkside/test/dbtest"
	"larkside/test/inprocess"
	"larkside/test/larktest"
)

const (
	encryptKey = "an Encrypt Key"
	eventToken = "a Verification Token"
)

// withEvents is a replica to which the emulator posts its events, over real
// sockets, and the refusals that it reported.
func (w *world) withEvents(change func(*Config)) *Manager {
	w.T.Helper()
	f := w.replica(func(c *Config) {
		c.PublicURL, c.Buttons = public, true
		c.EventKeys = &lark.EventKeys{
			Token:      func() session.Secret { return session.NewSecret(eventToken) },
			EncryptKey: func() session.Secret { return session.NewSecret(encryptKey) },
		}
		if change != nil {
			change(c)
		}
	})
	server := httptest.NewServer(f.Handler())
	w.T.Cleanup(server.Close)
	w.Lark.UpdateApp(larktest.AppID, func(a *larktest.App) {
		a.EventsURL, a.EncryptKey, a.VerificationToken = server.URL+eventsPath, encryptKey, eventToken
	})
	return f
}

func (w *world) send(e larktest.Event) larktest.EventReply {
	w.T.Helper()
	e.AppID = larktest.AppID
	reply, err := w.Lark.SendEvent(w.T.Context(), e)
	if err != nil {
		w.T.Fatal(err)
	}
	return reply
}

// click presses a button of the latest card of key and returns the toast.
func (w *world) click(key session.Key, n int, as string) string {
	w.T.Helper()
	cards := w.Lark.Messages(key.OpenID)
	reply, err := w.Lark.ClickAs(w.T.Context(), cards[len(cards)-1].ID, n, as)
	if err != nil {
		w.T.Fatalf("click: %v, answer %d %s", err, reply.Status, reply.Body)
	}
	var out EventReply
	if err := json.Unmarshal(reply.Body, &out); err != nil {
		w.T.Fatalf("answer %s: %v", reply.Body, err)
	}
	if out.Toast == nil {
		return ""
	}
	if out.Toast.I18n["zh_cn"] == "" || out.Toast.I18n["ja_jp"] == "" {
		w.T.Errorf("the toast lacks a language: %+v", out.Toast)
	}
	return out.Toast.Content
}

// What does not prove to be Lark's gets a status and not a word, does nothing,
// and leaves nothing of itself in the log.
func TestEventsRefused(t *testing.T) {
	w := newWorld(t, nil)
	f := w.withEvents(nil)
	w.ask(f, alice)
	id := w.latest(alice).ID
	body := map[string]any{
		"operator": map[string]string{"open_id": larktest.Alice},
		"action":   map[string]any{"value": map[string]string{"action": actionDecline, "consent": id}},
	}
	for name, c := range map[string]struct {
		change func(*larktest.Event)
		status int
	}{
		"wrong signature":       {func(e *larktest.Event) { e.BadSignature = true }, 401},
		"no signature":          {func(e *larktest.Event) { e.Unsigned = true }, 401},
		"wrong token":           {func(e *larktest.Event) { e.WrongToken = true }, 401},
		"not encrypted":         {func(e *larktest.Event) { e.Plain = true }, 400},
		"nothing proven at all": {func(e *larktest.Event) { e.Plain, e.Unsigned = true, true }, 401},
		"too old":               {func(e *larktest.Event) { e.Stamp = time.Now().Add(-6 * time.Minute) }, 401},
		"from the future":       {func(e *larktest.Event) { e.Stamp = time.Now().Add(6 * time.Minute) }, 401},
		"too large":             {func(e *larktest.Event) { e.Body = strings.Repeat("x", maxEvent) }, 413},
		"no operator":           {func(e *larktest.Event) { e.Body = map[string]any{} }, 400},
		"an id without end":     {func(e *larktest.Event) { e.ID = strings.Repeat("x", 1000) }, 400},
		"an id with a NUL":      {func(e *larktest.Event) { e.ID = "x\x00" }, 400},
		"an operator with a NUL": {func(e *larktest.Event) {
			e.Body = map[string]any{"operator": map[string]string{"open_id": larktest.Alice + "\x00"}}
		}, 400},
		"a revocation of no id": {func(e *larktest.Event) {
			e.Type, e.Body = "auth.user_access_token.revoked_v4", map[string]any{"open_id": "a b"}
		}, 400},
		"verification, unsigned": {func(e *larktest.Event) {
			e.Type, e.Body, e.Unsigned, e.WrongToken = "url_verification", "c", true, true
		}, 401},
		"verification, plain":    {func(e *larktest.Event) { e.Type, e.Body, e.Unsigned, e.Plain = "url_verification", "c", true, true }, 401},
		"verification, forged":   {func(e *larktest.Event) { e.Type, e.Body, e.BadSignature = "url_verification", "c", true }, 401},
		"verification, by token": {func(e *larktest.Event) { e.Type, e.Body, e.WrongToken = "url_verification", "c", true }, 401},
	} {
		t.Run(name, func(t *testing.T) {
			e := larktest.Event{Type: "card.action.trigger", Body: body}
			c.change(&e)
			if reply := w.send(e); reply.Status != c.status || len(reply.Body) != 0 {
				t.Errorf("answer %d %q, want %d", reply.Status, reply.Body, c.status)
			}
		})
	}
	if p := w.latest(alice); p.State != session.ConsentPending {
		t.Errorf("the consent is %s", p.State)
	}
	if log := w.Log.String(); strings.Contains(log, larktest.Alice) && strings.Contains(log, "card.action") || strings.Contains(log, id) {
		t.Errorf("the log has content:\n%s", log)
	}
}

func TestEventsRefuseOthers(t *testing.T) {
	w := newWorld(t, nil)
	f := w.withEvents(nil)
	server := httptest.NewServer(f.Handler())
	defer server.Close()
	if resp, err := http.Get(server.URL + eventsPath); err != nil || resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "POST" {
		t.Errorf("GET: %v, %v", resp, err)
	}
	if resp, err := http.Post(server.URL+eventsPath, "application/json", strings.NewReader(`{"challenge":"x"}`)); err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("POST: %v, %v", resp, err)
	}
	none := w.replica(redirect)
	rec := httptest.NewRecorder()
	none.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodPost, eventsPath, nil))
	if rec.Code != http.StatusNotFound {
		t.Errorf("with events off: %d", rec.Code)
	}
	// An app that is not ours, though signed with our key.
	other := w.Lark.AddApp(larktest.App{Name: "Other", EventsURL: server.URL + eventsPath, EncryptKey: encryptKey, VerificationToken: eventToken})
	if reply, err := w.Lark.SendEvent(t.Context(), larktest.Event{AppID: other, Type: "im.message.receive_v1", Body: map[string]any{}}); err != nil || reply.Status != http.StatusUnauthorized {
		t.Errorf("another app: %d, %v", reply.Status, err)
	}
}

func TestEventsVerification(t *testing.T) {
	w := newWorld(t, nil)
	w.withEvents(nil)
	if err := w.Lark.VerifyURL(t.Context(), larktest.AppID); err != nil {
		t.Error(err)
	}
	// Lark does not say that it signs this one.
	if reply := w.send(larktest.Event{Type: "url_verification", Body: "abc", Unsigned: true}); string(reply.Body) != `{"challenge":"abc"}` {
		t.Errorf("unsigned: %d %s", reply.Status, reply.Body)
	}
	// An event of a type that is of no concern here.
	if reply := w.send(larktest.Event{Type: "im.message.receive_v1", Body: map[string]any{}}); reply.Status != 200 || string(reply.Body) != "{}" {
		t.Errorf("another event: %d %s", reply.Status, reply.Body)
	}
}

// Buttons of a waiting card: 0 authorizes, 1 declines.
func TestClickDecline(t *testing.T) {
	w := newWorld(t, nil)
	f := w.withEvents(nil)
	w.ask(f, alice)
	if said := w.click(alice, 1, larktest.Bob); said != texts.toastNotYours.en || w.latest(alice).State != session.ConsentPending {
		t.Errorf("somebody else: %q, consent %s", said, w.latest(alice).State)
	}
	if said := w.click(alice, 1, larktest.Alice); said != texts.declined.title.en || w.latest(alice).State != session.ConsentDeclined {
		t.Errorf("the user: %q, consent %s", said, w.latest(alice).State)
	}
	w.AwaitCard(alice.OpenID, texts.declined.title.en)
	// No card comes by itself; the next call may bring one, and says why.
	if n := w.cards(larktest.Alice); n != 1 {
		t.Errorf("%d cards", n)
	}
	for _, known := range []session.Reason{session.NoSession, session.RefreshTokenUsed} {
		if why := f.Reason(t.Context(), alice, known); why != session.Declined {
			t.Errorf("the reason is %q, with a session that says %q", why, known)
		}
	}
	if c := w.ask(f, alice); c.Card != session.CardSent {
		t.Errorf("the next call: %+v", c)
	}
	if why := f.Reason(t.Context(), alice, session.NoSession); why != session.NoSession {
		t.Errorf("asked anew, the reason is %q", why)
	}
}

func TestDeclinedBeyondTheRate(t *testing.T) {
	w := newWorld(t, nil)
	f := w.withEvents(func(c *Config) { c.Rate = session.Limit{N: 1, Period: time.Minute} })
	w.ask(f, alice)
	w.click(alice, 1, larktest.Alice)
	if c := w.ask(f, alice); c.Card != session.CardRateLimited || c.AuthorizeURL != "" {
		t.Errorf("the next call: %+v", c)
	}
	if said := w.click(alice, 0, larktest.Alice); said != texts.toastRate.en {
		t.Errorf("asking for a link: %q", said)
	}
}

// "Send me a new link" is for whoever clicks, whosever card it is.
func TestClickResend(t *testing.T) {
	w := newWorld(t, nil)
	f := w.withEvents(nil)
	w.ask(f, alice, "im:message")
	if _, err := f.close(t.Context(), w.latest(alice), session.ConsentExpired, ""); err != nil {
		t.Fatal(err)
	}
	w.AwaitCard(alice.OpenID, texts.expired.title.en)
	if said := w.click(alice, 0, larktest.Bob); said != texts.toastSent.en {
		t.Errorf("somebody else: %q", said)
	}
	if p := w.latest(bob); p.State != session.ConsentPending || p.Scopes != offlineAccess {
		t.Errorf("their consent: %s for %q", p.State, p.Scopes)
	}
	if p := w.latest(alice); p.State != session.ConsentExpired {
		t.Errorf("the user's consent is %s", p.State)
	}
	if said := w.click(alice, 0, larktest.Alice); said != texts.toastSent.en {
		t.Errorf("the user: %q", said)
	}
	if p := w.latest(alice); p.State != session.ConsentPending || p.Scopes != "im:message offline_access" {
		t.Errorf("the user's consent: %s for %q", p.State, p.Scopes)
	}
	messages := w.Lark.Messages(larktest.Alice)
	if len(messages) != 2 || len(messages[0].Buttons()) != 0 || !strings.Contains(messages[0].Content(), texts.superseded.title.en) {
		t.Errorf("%d cards, the old one is %s", len(messages), messages[0].Content())
	}
}

func TestClickResendWhenAuthorized(t *testing.T) {
	w := newWorld(t, nil)
	f := w.withEvents(nil)
	w.ask(f, alice)
	w.click(alice, 1, larktest.Alice)
	w.grant(f, alice)
	messages := w.Lark.Messages(larktest.Alice)
	reply, err := w.Lark.Click(t.Context(), messages[0].ID, 0)
	if err != nil || !bytes.Contains(reply.Body, []byte(texts.toastAlready.en)) {
		t.Errorf("answer %s, %v", reply.Body, err)
	}
	if p := w.latest(alice); p.State != session.ConsentDone {
		t.Errorf("a consent was started: %s", p.State)
	}
}

// grant has key's user consent in the redirect flow.
func (w *world) grant(f *Manager, key session.Key) {
	w.T.Helper()
	b := w.browser(f)
	wantPage(w.T, b.get(b.consent(b.open(w.ask(f, key).AuthorizeURL), key.OpenID)), http.StatusOK, texts.done)
}

// One event is handled once, however often and to whichever replica it comes.
func TestEventsOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		w := newWorldOn(t, db, nil)
		f := w.withEvents(nil)
		stores := []*store.DB{w.Store, w.Store}
		if db.Postgres {
			stores[1] = db.Open(t, nil)
		}
		var gone sync.WaitGroup
		var mu sync.Mutex
		first := 0
		for i := range 20 {
			gone.Go(func() {
				ok, err := stores[i%2].Events.Note(t.Context(), larktest.AppID, "e1", time.Hour)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				if ok {
					first++
				}
			})
		}
		gone.Wait()
		if first != 1 {
			t.Errorf("%d deliveries were the first", first)
		}

		body := map[string]any{
			"operator": map[string]string{"open_id": larktest.Alice},
			"action":   map[string]any{"value": map[string]string{"action": actionResend}},
		}
		for range 3 {
			if reply := w.send(larktest.Event{Type: "card.action.trigger", ID: "e2", Body: body}); reply.Status != 200 {
				t.Errorf("answer %d", reply.Status)
			}
			if p, err := w.Store.Consents.Open(t.Context(), alice); err == nil {
				f.close(t.Context(), p, session.ConsentExpired, "")
			}
		}
		if n := w.cards(larktest.Alice); n != 1 {
			t.Errorf("%d cards", n)
		}
	})
}

func TestEventIDsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		note := func(want bool) {
			t.Helper()
			if got, err := w.Store.Events.Note(t.Context(), "cli_x", "e", time.Minute); got != want || err != nil {
				t.Errorf("first: %v, %v", got, err)
			}
		}
		note(true)
		note(false)
		if err := w.Store.Events.Forget(t.Context()); err != nil {
			t.Fatal(err)
		}
		note(false)
		if err := w.Store.Events.Unnote(t.Context(), "cli_x", "e"); err != nil {
			t.Fatal(err)
		}
		note(true)
		time.Sleep(time.Minute)
		note(true)
	})
}

// ended reports whether key's session is over, in the row and in the cache.
func (w *world) ended(key session.Key) bool {
	w.T.Helper()
	row := w.Row(key)
	if a, _ := w.Store.Sessions.Cached(key); a != nil && a.Usable(time.Now()) != (row.State == session.Active) {
		w.T.Errorf("the cache says %v, the row %s", a.Usable(time.Now()), row.State)
	}
	return row.State == session.ConsentRequired && row.Reason == session.Revoked && row.RefreshToken.Empty()
}

func TestRevokedAtLark(t *testing.T) {
	both := []larktest.Kind{larktest.AccessToken, larktest.RefreshToken}
	for name, c := range map[string]struct {
		kinds []larktest.Kind
		// at is when, after the grant; alive: the tokens of the event are others.
		at    time.Duration
		alive bool
		want  bool
	}{
		"everything":                           {both, 0, false, true},
		"everything, long after":               {both, time.Hour, true, true},
		"of an earlier grant":                  {both, -time.Minute, false, false},
		"of an earlier grant, told late":       {both, 0, true, false},
		"the refresh token":                    {[]larktest.Kind{larktest.RefreshToken}, 0, false, true},
		"the access token":                     {[]larktest.Kind{larktest.AccessToken}, 0, false, false},
		"an earlier access token":              {[]larktest.Kind{larktest.AccessToken}, time.Hour, true, false},
		"nothing that is known":                {[]larktest.Kind{"id_token"}, time.Hour, true, false},
		"refresh token of an earlier grant":    {[]larktest.Kind{larktest.RefreshToken}, -time.Minute, false, false},
		"the refresh token, among other words": {[]larktest.Kind{"x", larktest.RefreshToken}, time.Hour, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			refused := make(chan int64, 1)
			f := w.withEvents(func(c *Config) {
				c.TokenRefused = func(_ context.Context, _ session.Key, version int64) { refused <- version }
			})
			w.grant(f, alice)
			w.AwaitCard(alice.OpenID, texts.done.title.en) // which might come after "revoked" else
			if !c.alive {
				if err := w.Lark.Revoke(larktest.Alice, c.kinds...); err != nil {
					t.Fatal(err)
				}
			}
			w.sendRevoked(c.at, c.kinds...)
			if got := w.ended(alice); got != c.want {
				t.Errorf("session ended: %v", got)
			}
			if c.want {
				w.AwaitCard(alice.OpenID, texts.revoked.title.en)
				w.allRevoked(larktest.Alice)
			}
			if name == "the access token" {
				if v := <-refused; v != 1 {
					t.Errorf("version %d was refused", v)
				}
			}
		})
	}
}

func (w *world) sendRevoked(after time.Duration, kinds ...larktest.Kind) {
	w.T.Helper()
	row := w.Row(alice)
	var names []string
	for _, k := range kinds {
		names = append(names, string(k))
	}
	at := row.GrantedAt.Add(after + 5*time.Millisecond)
	reply := w.send(larktest.Event{Type: larktest.RevokedEvent, At: at, Body: map[string]string{
		"revoke_token_type": strings.Join(names, " ") + " ", "open_id": larktest.Alice, "revoke_reason": "Revoked by user action.",
	}})
	if reply.Status != 200 || string(reply.Body) != "{}" {
		w.T.Errorf("answer %d %s", reply.Status, reply.Body)
	}
}

// Should Lark tell of a rotation as of a revocation, the session goes on.
func TestRotationIsNoRevocation(t *testing.T) {
	w := newWorld(t, nil)
	f := w.withEvents(nil)
	w.grant(f, alice)
	row := w.Row(alice)
	lease, err := w.Store.Leases.Claim(t.Context(), alice, row.Version, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	asked := time.Now()
	token, err := inprocess.Client(t, w.Lark, nil).Refresh(t.Context(), row.TokenURL, row.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Store.Leases.Replace(t.Context(), lease, store.Tokens{
		AccessToken: token.AccessToken, RefreshToken: token.RefreshToken, TokenType: token.TokenType, TokenURL: token.TokenURL,
		IssuedAt: asked, ExpiresAt: asked.Add(token.ExpiresIn), RefreshExpiresAt: asked.Add(token.RefreshExpiresIn),
	}); err != nil {
		t.Fatal(err)
	}
	for _, kinds := range [][]larktest.Kind{{larktest.RefreshToken}, {larktest.AccessToken}, {larktest.AccessToken, larktest.RefreshToken}} {
		w.sendRevoked(time.Since(row.GrantedAt)+time.Second, kinds...)
		if w.ended(alice) {
			t.Errorf("the session ended by %v", kinds)
		}
	}
}

// While Lark can't be asked the event is not taken, so that it comes again.
func TestRevokedComesAgain(t *testing.T) {
	w := newWorld(t, nil)
	f := w.withEvents(nil)
	w.grant(f, alice)
	w.Lark.Fault(larktest.Fault{Endpoint: larktest.UserInfo, Status: 503, Times: -1})
	if err := w.Lark.Revoke(larktest.Alice); err != nil {
		t.Fatal(err)
	}
	e := larktest.Event{Type: larktest.RevokedEvent, ID: "again", At: time.Now().Add(time.Second), Body: map[string]string{
		"revoke_token_type": "user_access_token refresh_token", "open_id": larktest.Alice,
	}}
	if reply := w.send(e); reply.Status != http.StatusServiceUnavailable || w.ended(alice) {
		t.Errorf("answer %d, ended %v", reply.Status, w.ended(alice))
	}
	w.Lark.ClearFaults()
	if reply := w.send(e); reply.Status != http.StatusOK || !w.ended(alice) {
		t.Errorf("the next delivery: %d, ended %v", reply.Status, w.ended(alice))
	}
}

// A revocation reaches the other replica's cache within a second.
func TestRevokedOverReplicas(t *testing.T) {
	db := dbtest.Postgres(t)
	w := newWorldOn(t, db, nil)
	f := w.withEvents(nil)
	other := db.Open(t, nil)
	w.grant(f, alice)
	if a, err := other.Sessions.Access(t.Context(), alice); err != nil || !a.Usable(time.Now()) {
		t.Fatalf("%v, %v", a, err)
	}
	if _, err := w.Lark.SendRevoked(t.Context(), larktest.Alice, "administrator"); err != nil {
		t.Fatal(err)
	}
	sent := time.Now()
	w.Await("the other replica", func() bool {
		a, checked := other.Sessions.Cached(alice)
		return a == nil || !checked || !a.Usable(time.Now())
	})
	if took := time.Since(sent); took > time.Second {
		t.Errorf("it took %s", took)
	}
}
