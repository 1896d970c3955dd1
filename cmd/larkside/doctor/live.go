package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"larkside/session"
	"larkside/session/consent"
	"larkside/session/lark"
)

// LiveConfig is what [Live] goes the whole way with.
type LiveConfig struct {
	// App is the app. Its Transport is required.
	App lark.Config
	// Brand and Version stand in the recording.
	Brand, Version string
	// User is the open_id of the person at the terminal.
	User string
	// Scopes are what the person is asked for, offline_access among them.
	Scopes []string
	// Card is how cards look; only what concerns cards counts.
	Card consent.Config
	// HasSession reports whether User has a session in the configured database.
	HasSession func(context.Context) (bool, error)

	// Events is how the app's events come: off, http or websocket. For http,
	// EventKeys verify what comes to Listen's listener.
	Events    string
	EventKeys *lark.EventKeys
	Listen    func(context.Context) (net.Listener, error)
	// EventWait is how long an event is waited for that nobody has to click
	// for. 0: 15 s.
	EventWait time.Duration

	// Spend also sends a spent refresh token again, which may end the grant.
	Spend bool
	// Recording is the file for the exchanges. Empty: none.
	Recording string
	// Secrets must not be in the recording, beside all that is found out.
	Secrets []session.Secret

	In  io.Reader
	Out io.Writer
	// Now is the clock of the recording, and Wait waits between polls. Nil: the
	// real time passes.
	Now  func() time.Time
	Wait func(context.Context, time.Duration) error
}

// cleanup is how long the tokens are revoked at the end, also after Ctrl-C.
const cleanup = time.Minute

// Live goes the whole way with a real person at hand and says at each step what
// to click, what Larkside believes about Lark, and what Lark answered. The
// tokens are in memory only. What Live obtained it revokes before it returns.
//
// The error says why the way was not gone to its end. An answer that differs
// from what is believed is no error.
func Live(ctx context.Context, c LiveConfig) (err error) {
	l, err := newLive(c)
	if err != nil {
		return err
	}
	var file *recordingFile
	if c.Recording != "" {
		if file, err = createRecording(c.Recording); err != nil {
			return err
		}
	}
	ctx, stopListening := context.WithCancel(ctx)
	defer stopListening()
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanup)
		defer cancel()
		l.giveBack(ending)
		l.summarize()
		if file != nil {
			err = errors.Join(err, l.write(file))
		}
	}()
	for _, step := range []func(context.Context) error{
		l.warn, l.app, l.scopeLists, l.pollEverywhere, l.listen,
		l.firstConsent, l.whose, l.throughProxy, l.refresh, l.eventAfterRefresh, l.secondConsent, l.spend, l.revoke,
	} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("stopped before the end: %w", err)
		}
	}
	return nil
}

// live is one run of [Live].
type live struct {
	LiveConfig
	key          session.Key
	client       *lark.Client
	recorder     *recorder
	person       *person
	observations []Observation
	botName      string

	// first and second are the two consents; each is replaced by what a refresh
	// brought. spent is a refresh token that was exchanged.
	first, second lark.Token
	spent         session.Secret
	// held are the tokens that Lark still has to be told to forget.
	held []heldToken
	// events has what Lark sent; nil when nothing listens.
	events chan *lark.Event
}

// heldToken is a token and what kind of one, in the words of RFC 7009.
type heldToken struct {
	token session.Secret
	hint  string
}

var errNotOpenID = errors.New("USER must be an open_id (ou_…) of this app")

func newLive(c LiveConfig) (*live, error) {
	if !strings.HasPrefix(c.User, "ou_") {
		return nil, errNotOpenID
	}
	if c.EventWait == 0 {
		c.EventWait = 15 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Wait == nil {
		c.Wait = wait
	}
	l := &live{
		LiveConfig: c, key: session.Key{AppID: c.App.AppID, OpenID: c.User}, person: newPerson(c.In, c.Out),
		recorder: &recorder{base: c.App.Transport, open: c.App.OpenURL, accounts: c.App.AccountsURL, now: c.Now, began: c.Now()},
	}
	var err error
	l.client, err = lark.New(l.recorded())
	return l, err
}

// recorded is the app's configuration with the recorder in its way. New grants
// are made at v2, which is what Larkside uses.
func (l *live) recorded() lark.Config {
	c := l.App
	c.TokenURL, c.Transport = "", l.recorder
	return c
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *live) say(format string, args ...any) { fmt.Fprintf(l.Out, format+"\n", args...) }

// step names what the following is for.
func (l *live) step(b belief) belief {
	l.recorder.setStep(b.step)
	return b
}

// errDeclined is a person who does not want to go on.
var errDeclined = errors.New("you chose not to go on")

// warn says what is going to happen, and asks where somebody may be disturbed.
func (l *live) warn(ctx context.Context) error {
	l.say(`This goes the whole way with Lark, as %s, and takes about five minutes. Have Lark
open as that user, in the chat with the app's bot.
It sends three cards and asks for two authorizations. The tokens stay in memory:
nothing is stored in the database, and all of them are revoked at the end.
"facts" is a section of %s in Larkside's repository.
`, l.User, factsPage)
	there, err := l.HasSession(ctx)
	question := "This user has a session in the database. Whether a new authorization ends it is not known (facts 5.4): the user may be asked again by the running instance. Go on?"
	switch {
	case err != nil:
		question = fmt.Sprintf("Whether this user has a session in the database could not be checked: %v. If there is one, a new authorization may end it (facts 5.4). Go on?", err)
	case !there:
		question = ""
	}
	if question != "" {
		if err := l.mustAgree(ctx, question); err != nil {
			return err
		}
	}
	if l.Events == "websocket" {
		return l.mustAgree(ctx, "Lark hands each event to one of the app's long connections. This opens one, so a running instance may miss events meanwhile. Go on?")
	}
	return nil
}

func (l *live) mustAgree(ctx context.Context, question string) error {
	yes, err := l.person.yes(ctx, question)
	if err == nil && !yes {
		err = errDeclined
	}
	return err
}

// app looks at the app itself.
func (l *live) app(ctx context.Context) error {
	b := l.step(belief{"credentials", "the app's id and secret are accepted", "9.1"})
	_, err := l.client.TenantAccessToken(ctx)
	l.expect(b, said(err, "a tenant_access_token"), err == nil)
	if err != nil {
		return err
	}
	b = l.step(belief{"bot", "bot/v3/info has the app's name, and activate_status 2", "9.2"})
	bot, err := l.client.Bot(ctx)
	l.botName = bot.Name
	l.expect(b, said(err, fmt.Sprintf("activate_status %d", bot.Status)), err == nil && bot.Status == botActive && bot.Name != "")

	b = l.step(belief{"scopes", "the app can read its own scopes, and for whose tokens each is enabled", "9.3"})
	info, err := l.client.App(ctx)
	l.expect(b, said(err, fmt.Sprintf("%d scopes", len(info.Scopes))), err == nil)
	return nil
}

// scopeLists asks what device_authorization says to lists that are not in order.
func (l *live) scopeLists(ctx context.Context) error {
	b := l.step(belief{"a malformed scope", "device_authorization refuses the whole list as invalid_scope; with which code is not known", "4.2"})
	_, err := l.client.StartDevice(ctx, []string{"larkside!not-a-scope"})
	l.settle(b, said(err, "it is accepted"))

	b = l.step(belief{"a scope that no app has", "device_authorization drops it silently", "4.2"})
	_, err = l.client.StartDevice(ctx, []string{"offline_access", "larkside:nothing:read"})
	l.expect(b, said(err, "a device code"), err == nil)
	return nil
}

// pollEverywhere polls a flow of its own at each token endpoint, so that no
// interval has to pass in between.
func (l *live) pollEverywhere(ctx context.Context) error {
	for _, at := range []struct {
		b             belief
		url, encoding string
		known         bool
	}{
		{belief{"poll at v2 with a form", "authorization_pending", "2.2, 4.3"}, l.App.OpenURL + "/open-apis/authen/v2/oauth/token", "form", true},
		{belief{"poll at v2 with JSON", "authorization_pending", "2.2, 4.3"}, l.App.OpenURL + "/open-apis/authen/v2/oauth/token", "json", true},
		{belief{"poll at v3", "whether v3 knows device flows is not known", "2.1, 4.3"}, l.App.AccountsURL + "/oauth/v3/token", "form", false},
	} {
		l.step(at.b)
		d, err := l.client.StartDevice(ctx, l.Scopes)
		if err != nil {
			l.expect(at.b, "no device flow is started: "+said(err, ""), false)
			return err
		}
		answered, err := l.poll(ctx, at.url, at.encoding, d.DeviceCode)
		switch {
		case err != nil:
			l.skip(at.b, err.Error())
		case at.known:
			l.expect(at.b, answered, strings.Contains(answered, "authorization_pending"))
		default:
			l.settle(at.b, answered)
		}
	}
	return nil
}

// firstConsent sends the cards, asks how they look, and waits for the click.
func (l *live) firstConsent(ctx context.Context) (err error) {
	l.first, err = l.consent(ctx, "first", true)
	return err
}

// whose checks that the person who clicked is the one who was asked.
func (l *live) whose(ctx context.Context) error {
	b := l.step(belief{"user_info", "it says who authorized: the user who was asked", "8.1"})
	who, err := l.client.UserInfo(ctx, l.first.AccessToken)
	switch {
	case err != nil:
		l.expect(b, said(err, ""), false)
		return err
	case who.OpenID != l.User:
		l.expect(b, "another user", false)
		return errors.New("the link was opened by another user than " + l.User + ": sign in to the browser as that one, and start again")
	}
	l.expect(b, "the user's open_id", true)
	return nil
}

// refresh exchanges the refresh token of the first consent.
func (l *live) refresh(ctx context.Context) error {
	b := l.step(belief{"refresh", "a new pair; the refresh token works once", "5.2"})
	if l.first.RefreshToken.Empty() {
		l.expect(b, "Lark issued no refresh token: "+fixOffline, false)
		return nil
	}
	l.drain()
	old := l.first
	t, err := l.client.Refresh(ctx, l.first.TokenURL, l.first.RefreshToken)
	if err != nil {
		l.expect(b, said(err, ""), false)
		if do := remedies[code(err)]; do != "" {
			l.say("             → %s", do)
		}
		return nil
	}
	l.expect(b, "a new pair", !t.AccessToken.Empty() && !t.RefreshToken.Empty())
	l.forget(old.RefreshToken)
	l.hold(t)
	l.first, l.spent = t, old.RefreshToken

	b = l.step(belief{"the old access token after a refresh", "it works on until its own expiry", "5.2"})
	_, err = l.client.UserInfo(ctx, old.AccessToken)
	l.expect(b, said(err, "the user's open_id"), err == nil)
	return nil
}

// eventAfterRefresh waits for an event that the rotation may have fired.
func (l *live) eventAfterRefresh(ctx context.Context) error {
	b := l.step(belief{"event after a refresh", "whether a rotation fires revoked_v4 is not known", "6.2"})
	return l.awaitRevocation(ctx, b, l.settle)
}

// secondConsent asks again, and looks what became of the first pair.
func (l *live) secondConsent(ctx context.Context) (err error) {
	if l.second, err = l.consent(ctx, "second", false); err != nil {
		return err
	}
	b := l.step(belief{"the first access token after a second consent", "whether a new consent ends the pair before is not known", "5.4"})
	_, err = l.client.UserInfo(ctx, l.first.AccessToken)
	l.settle(b, said(err, "it works"))

	b = l.step(belief{"the first refresh token after a second consent", "whether a new consent ends the pair before is not known", "5.4"})
	if l.first.RefreshToken.Empty() {
		l.skip(b, "there is none")
		return nil
	}
	t, err := l.client.Refresh(ctx, l.first.TokenURL, l.first.RefreshToken)
	l.settle(b, said(err, "it works"))
	if err == nil {
		l.forget(l.first.RefreshToken)
		l.hold(t)
		l.first, l.spent = t, l.first.RefreshToken
	}
	return nil
}

// spend sends a refresh token a second time.
func (l *live) spend(ctx context.Context) error {
	b := l.step(belief{"a spent refresh token", "20073 or 20064", "5.3"})
	if !l.Spend || l.spent.Empty() {
		l.skip(b, "it was not sent; --spend does it, and may end the grant")
		return nil
	}
	yes, err := l.person.yes(ctx, "Now the spent refresh token is sent again. That may end the first authorization, which is revoked afterwards anyway. Go on?")
	if err != nil {
		return err
	}
	if !yes {
		l.skip(b, "you chose not to")
		return nil
	}
	t, err := l.client.Refresh(ctx, l.first.TokenURL, l.spent)
	l.expect(b, said(err, "a new pair"), slices.Contains([]int{20064, 20073}, code(err)))
	if err == nil {
		l.hold(t)
	}
	b = l.step(belief{"the access token of that grant", "whether a replay ends the grant is not known", "5.3"})
	_, err = l.client.UserInfo(ctx, l.first.AccessToken)
	l.settle(b, said(err, "it works"))
	b = l.step(belief{"the refresh token of that grant", "whether a replay ends the grant is not known", "5.3"})
	t, err = l.client.Refresh(ctx, l.first.TokenURL, l.first.RefreshToken)
	l.settle(b, said(err, "it works"))
	if err == nil {
		l.forget(l.first.RefreshToken)
		l.hold(t)
		l.first = t
	}
	return nil
}

// revoke ends the second grant, and asks what its tokens are worth after that.
func (l *live) revoke(ctx context.Context) error {
	if !l.second.RefreshToken.Empty() {
		l.drain()
		b := l.step(belief{"revoke the refresh token", "it succeeds, perhaps with an empty answer", "6.1"})
		err := l.client.Revoke(ctx, l.second.RefreshToken, "refresh_token")
		l.expect(b, said(err, "success"), err == nil)
		if err == nil {
			l.forget(l.second.RefreshToken)
		}
		b = l.step(belief{"event after a revocation", "auth.user_access_token.revoked_v4 comes, with the kinds of tokens and the open_id", "6.2"})
		if err := l.awaitRevocation(ctx, b, func(b belief, answered string) { l.expect(b, answered, answered != noEvent) }); err != nil {
			return err
		}
		b = l.step(belief{"the access token after its refresh token was revoked", "it works on", "6.1"})
		_, err = l.client.UserInfo(ctx, l.second.AccessToken)
		l.expect(b, said(err, "the user's open_id"), err == nil)
		b = l.step(belief{"the revoked refresh token", "20064", "6.1"})
		t, err := l.client.Refresh(ctx, l.second.TokenURL, l.second.RefreshToken)
		l.expect(b, said(err, "a new pair"), code(err) == 20064)
		if err == nil {
			l.hold(t)
		}
	}
	b := l.step(belief{"revoke the access token", "it succeeds, perhaps with an empty answer", "6.1"})
	err := l.client.Revoke(ctx, l.second.AccessToken, "access_token")
	l.expect(b, said(err, "success"), err == nil)
	if err == nil {
		l.forget(l.second.AccessToken)
	}
	b = l.step(belief{"the revoked access token", "user_info answers 20005", "6.1, 8.1"})
	_, err = l.client.UserInfo(ctx, l.second.AccessToken)
	l.expect(b, said(err, "the user's open_id"), code(err) == 20005)
	return nil
}

// hold remembers tokens that are to be revoked at the end.
func (l *live) hold(t lark.Token) {
	for _, h := range []heldToken{{t.RefreshToken, "refresh_token"}, {t.AccessToken, "access_token"}} {
		if !h.token.Empty() {
			l.held = append(l.held, h)
		}
	}
}

// forget is for a token that is revoked or spent.
func (l *live) forget(token session.Secret) {
	l.held = slices.DeleteFunc(l.held, func(h heldToken) bool { return h.token.Equal(token) })
}

// giveBack revokes what is left, whatever happened before.
func (l *live) giveBack(ctx context.Context) {
	if len(l.held) == 0 {
		return
	}
	l.recorder.setStep("revoke what is left")
	failed := 0
	for _, h := range l.held {
		if err := l.client.Revoke(ctx, h.token, h.hint); err != nil {
			failed++
		}
	}
	if failed > 0 {
		l.say("\n%d of %d tokens could not be revoked. The user can end the authorization in Lark; else it ends by itself within seven days.", failed, len(l.held))
	} else {
		l.say("\nWhat is left of the authorizations was revoked at Lark.")
	}
	l.held = nil
}

func (l *live) summarize() {
	counts := map[Verdict]int{}
	for _, o := range l.observations {
		counts[o.Verdict]++
	}
	l.say("\nAs believed: %d. Differs: %d. Settled: %d. Not seen: %d.", counts[AsBelieved], counts[Differs], counts[Settled], counts[NotSeen])
}

// write makes the recording.
func (l *live) write(file *recordingFile) error {
	s := newScrubber()
	texts := map[string]string{"title": l.Card.CardTitle, "message_text": l.Card.CardMessage, "link": l.Card.PrivacyURL, "app_name": l.botName}
	s.known(l.App.Secret(), texts, l.Secrets)
	r := l.recorder.record(s, Recording{
		Version: l.Version, Brand: l.Brand, Date: l.Now().UTC().Format(time.DateOnly), Scopes: l.Scopes,
	}, l.observations, l.App.AppID, l.User)
	if err := file.write(r, s); err != nil {
		return err
	}
	l.say("The exchanges are in %s, without tokens, secrets, names and ids. Please look through it, and attach it to an issue of the project.", l.Recording)
	return nil
}

// httpClient sends what [lark.Client] does not.
func (l *live) httpClient() *http.Client {
	return &http.Client{
		Transport: l.recorder, Timeout: checkTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
