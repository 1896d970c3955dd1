package doctor

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"larkside/session"
	"larkside/session/consent"
	"larkside/session/lark"
)

const (
	// clickWait is how long the click on a callback button is waited for.
	clickWait = time.Minute
	// consentTries bounds how often a link may expire.
	consentTries = 3
	// slower is what each slow_down adds, RFC 8628 section 3.5.
	slower = 5 * time.Second
)

var errExpired = errors.New("the link expired before it was used")

// consent sends a card and waits until the person has authorized. With looks, it
// also asks how the card looks.
func (l *live) consent(ctx context.Context, which string, looks bool) (lark.Token, error) {
	for try := 1; ; try++ {
		t, err := l.consentOnce(ctx, which, looks && try == 1)
		if !errors.Is(err, errExpired) || try == consentTries {
			return t, err
		}
		if err := l.mustAgree(ctx, "The link has expired. Send another one?"); err != nil {
			return lark.Token{}, err
		}
	}
}

func (l *live) consentOnce(ctx context.Context, which string, looks bool) (lark.Token, error) {
	b := l.step(belief{which + " consent: device authorization", "a link for at least 240 s, and an interval", "4.1"})
	d, err := l.client.StartDevice(ctx, l.Scopes)
	if err != nil {
		l.expect(b, said(err, ""), false)
		return lark.Token{}, err
	}
	l.expect(b, fmt.Sprintf("%s to use it, polls every %s", d.ExpiresIn, d.Interval), d.ExpiresIn >= 240*time.Second)
	p := &session.Consent{
		ID: strings.ToLower(rand.Text()), Key: l.key, Flow: session.DeviceFlow, State: session.ConsentPending,
		Scopes: strings.Join(l.Scopes, " "), Link: session.NewSecret(d.VerificationURIComplete), Left: d.ExpiresIn,
	}
	messageID := l.sendCard(ctx, which, p, false)
	if messageID != "" && looks {
		if err := l.looks(ctx, p, messageID); err != nil {
			return lark.Token{}, err
		}
	}
	if messageID != "" {
		l.say("\n→ Click the first button of the latest card (%s authorization), and authorize on the page that opens.", which)
	} else {
		l.say("\n→ The card did not go out. Open this link as the user, and authorize:\n  %s", d.VerificationURIComplete)
	}
	t, err := l.awaitClick(ctx, which, d)
	if messageID != "" {
		p.State = session.ConsentDone
		if err != nil {
			p.State = session.ConsentExpired
		}
		l.updateCard(ctx, messageID, p)
	}
	return t, err
}

// sendCard returns the message's id, or nothing if it did not go out.
func (l *live) sendCard(ctx context.Context, which string, p *session.Consent, events bool) string {
	b := l.step(belief{which + " consent: send the card", "a message id", "10.1"})
	c := l.Card
	c.Buttons = events
	messageID, err := l.client.SendCard(ctx, l.User, cardUUID(p, events), consent.AskingCard(c, l.botName, p))
	l.expect(b, said(err, "a message id"), err == nil && messageID != "")
	return messageID
}

func cardUUID(p *session.Consent, events bool) string {
	return fmt.Sprintf("larkside-doctor-%t-%s", events, p.ID[:16])
}

// looks asks about the card, without and with the button whose click comes back
// as an event, and about a second sending of the same message.
func (l *live) looks(ctx context.Context, p *session.Consent, messageID string) error {
	b := l.step(belief{"the same message uuid again", "no second card; whether the first one's id or an error (230049) comes is not known", "10.2"})
	again, err := l.client.SendCard(ctx, l.User, cardUUID(p, false), consent.AskingCard(l.withoutEvents(), l.botName, p))
	switch {
	case err == nil && again == "":
		l.settle(b, "230049: it is being sent")
	case err == nil && again != messageID:
		l.settle(b, "another message id")
	default:
		l.settle(b, said(err, "the first message's id"))
	}
	if err := l.askPerson(ctx, belief{"the card arrives", "once, in the chat with the bot", "10.1"}, "Did exactly one card arrive?"); err != nil {
		return err
	}
	err = l.askPerson(ctx, belief{"the card's look", "the app's name, what it will be able to do, one button, in the language of the client", "10.3"},
		"Does it look right: the app's name, a list of what it may do, one button, all in your language?")
	if err != nil {
		return err
	}
	withButton := l.sendCard(ctx, "first", p, true)
	if withButton == "" {
		return nil
	}
	err = l.askPerson(ctx, belief{"the card's look with a callback button", "the same, and a second button below", "10.3"}, "A second card has one more button, to decline. Does it look right?")
	if err == nil {
		err = l.awaitCardClick(ctx)
	}
	p.State = session.ConsentSuperseded
	l.updateCard(ctx, withButton, p)
	p.State = session.ConsentPending
	return err
}

func (l *live) withoutEvents() consent.Config {
	c := l.Card
	c.Buttons = false
	return c
}

// askPerson observes what the person sees.
func (l *live) askPerson(ctx context.Context, b belief, question string) error {
	l.step(b)
	yes, err := l.person.yes(ctx, question)
	if err != nil {
		return err
	}
	answered := "the person says no"
	if yes {
		answered = "the person says yes"
	}
	l.expect(b, answered, yes)
	return nil
}

func (l *live) updateCard(ctx context.Context, messageID string, p *session.Consent) {
	b := l.step(belief{"update a card", "it is replaced", "10.4"})
	err := l.client.UpdateCard(ctx, messageID, consent.ClosedCard(l.withoutEvents(), l.botName, p))
	l.expect(b, said(err, "success"), err == nil)
}

// awaitClick polls until the person has decided or the link has expired.
func (l *live) awaitClick(ctx context.Context, which string, d lark.DeviceAuthorization) (lark.Token, error) {
	b := l.step(belief{which + " consent: poll", "authorization_pending until the click, then a pair of tokens with the granted scopes", "4.3, 7.1"})
	interval, refused := d.Interval, false
	for left := d.ExpiresIn; left > 0; left -= interval {
		if err := l.Wait(ctx, interval); err != nil {
			return lark.Token{}, err
		}
		t, err := l.client.PollDevice(ctx, d.DeviceCode)
		switch {
		case err == nil:
			l.hold(t)
			refresh := "no refresh token"
			if !t.RefreshToken.Empty() {
				refresh = fmt.Sprintf("a refresh token for %s", t.RefreshExpiresIn)
			}
			answered := fmt.Sprintf("an access token for %s, %s, scope %s", t.ExpiresIn, refresh, t.Scope)
			l.expect(b, strings.Join(append([]string{answered}, t.Warnings...), "; "), !t.RefreshToken.Empty() && t.TokenType == "Bearer")
			return t, nil
		case errors.Is(err, lark.ErrSlowDown):
			interval += slower
		case errors.Is(err, lark.ErrAccessDenied):
			l.expect(b, said(err, ""), false)
			return lark.Token{}, errors.New("you declined the authorization")
		case errors.Is(err, lark.ErrExpired):
			left = 0
		case pending(err), transient(err), ctx.Err() != nil:
		case refused:
			l.expect(b, said(err, ""), false)
			return lark.Token{}, err
		default:
			// The next poll goes to the other version of the token endpoint.
			refused = true
			l.expect(b, said(err, ""), false)
		}
	}
	l.expect(b, "the link expired", false)
	return lark.Token{}, errExpired
}

// poll asks a token endpoint about a device flow, in an encoding of its own.
// What [lark.Client] makes of a refusal is not wanted here.
func (l *live) poll(ctx context.Context, to, encoding string, deviceCode session.Secret) (answered string, err error) {
	fields := map[string]string{
		"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": deviceCode.Expose(),
		"client_id": l.App.AppID, "client_secret": l.App.Secret().Expose(),
	}
	form := url.Values{}
	for name, value := range fields {
		form.Set(name, value)
	}
	body, contentType := []byte(form.Encode()), "application/x-www-form-urlencoded"
	if encoding == "json" {
		contentType = "application/json; charset=utf-8"
		if body, err = json.Marshal(fields); err != nil {
			return "", err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := l.httpClient().Do(req)
	if err != nil {
		return "", errors.New("no answer") // net/http would quote the address
	}
	defer resp.Body.Close()
	var answer struct {
		Code        int    `json:"code"`
		Error       string `json:"error"`
		AccessToken string `json:"access_token"`
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxRecorded))
	switch {
	case err != nil:
		return "", errors.New("the answer broke off")
	case json.Unmarshal(text, &answer) != nil:
		return fmt.Sprintf("HTTP %d, no JSON", resp.StatusCode), nil
	case answer.AccessToken != "":
		return "", errors.New("it answers with a token that nobody granted")
	}
	return strings.TrimRight(fmt.Sprintf("HTTP %d, code %d, %s", resp.StatusCode, answer.Code, answer.Error), ", "), nil
}
