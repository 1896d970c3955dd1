package consent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/metric"

	"larkside/session"
	"larkside/session/lark"
	"larkside/session/store"
	"larkside/telemetry"
)

const (
	eventsPath = "/consent/events"
	// maxEvent bounds the body of a posted event. A card click has 2 KB.
	maxEvent = 64 << 10
	// eventWait is shorter than the 3 s for which Lark waits for an answer.
	eventWait = 2500 * time.Millisecond
	// keepEvents is longer than the time to Lark's last repetition, about 7
	// hours after the first delivery.
	keepEvents = 12 * time.Hour
	// settleTime is how much later than a rotation an event must be to be about
	// the new pair. Lark does not say whether it reports a rotation, which ends
	// the old pair, as a revocation.
	settleTime = time.Minute
	// revocationTries bounds how often a revocation starts over because the
	// session changed.
	revocationTries = 3
)

// EventReply is the answer to an event. It is empty, or has what Lark's client
// shows to whoever clicked. Source: Lark "card callback communication".
type EventReply struct {
	Toast *eventToast `json:"toast,omitempty"`
	Card  *eventCard  `json:"card,omitempty"`
}

type eventToast struct {
	Type    string            `json:"type"` // info, success, warning, error
	Content string            `json:"content"`
	I18n    map[string]string `json:"i18n"`
}

// eventCard replaces the card that was clicked.
type eventCard struct {
	Type string          `json:"type"`
	Data json.RawMessage `json:"data"`
}

func toast(kind string, t translated) *eventToast {
	text := t.text()
	return &eventToast{Type: kind, Content: text.Content, I18n: text.I18n}
}

// serveEvent answers what Lark posts to the app's request URL. A sender who
// does not prove to be Lark gets a status and nothing else.
func (m *Manager) serveEvent(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEvent))
	if err != nil {
		status := http.StatusBadRequest
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			status = http.StatusRequestEntityTooLarge
		}
		w.WriteHeader(status)
		return
	}
	e, err := m.eventKeys.Open(r.Header, body, m.now())
	switch {
	case errors.Is(err, lark.ErrEventMalformed):
		m.refuseEvent(w, r, http.StatusBadRequest, err)
		return
	case err != nil:
		m.refuseEvent(w, r, http.StatusUnauthorized, err)
		return
	case e.Challenge != "":
		answerEvent(w, map[string]string{"challenge": e.Challenge})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), eventWait)
	defer cancel()
	reply, err := m.HandleEvent(ctx, e)
	switch {
	case errors.Is(err, lark.ErrEventForged):
		m.refuseEvent(w, r, http.StatusUnauthorized, err)
	case err != nil: // Lark sends it again
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		answerEvent(w, reply)
	}
}

// refuseEvent logs the reason, once a minute: if a key was changed on one side
// only, every event is refused.
func (m *Manager) refuseEvent(w http.ResponseWriter, r *http.Request, status int, err error) {
	m.countEvent(r.Context(), "refused")
	m.complaints.Log(r.Context(), slog.LevelWarn, "an event was refused", "", "address", r.RemoteAddr, "error", err)
	w.WriteHeader(status)
}

func answerEvent(w http.ResponseWriter, reply any) {
	body, err := json.Marshal(reply)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Write(body)
}

func (m *Manager) countEvent(ctx context.Context, result string) {
	m.eventCount.Add(ctx, 1, metric.WithAttributes(telemetry.Result.String(result)))
}

// HandleEvent handles an event of Lark's, once for each id over all replicas,
// and returns the answer within 2.5 s. Events of other types get an empty
// answer. After an error nothing was done, and Lark should deliver the event
// again. [lark.ErrEventForged] means that the app is not configured here.
func (m *Manager) HandleEvent(ctx context.Context, e *lark.Event) (EventReply, error) {
	ctx, cancel := context.WithTimeout(ctx, eventWait)
	defer cancel()
	if _, ok := m.apps[e.AppID]; !ok {
		return EventReply{}, errors.Join(errors.New("an event of another app"), lark.ErrEventForged)
	}
	if e.Click == nil && e.Revocation == nil {
		m.countEvent(ctx, "ignored")
		return EventReply{}, nil
	}
	reply, result, err := m.handleOnce(ctx, e)
	m.countEvent(ctx, result)
	if err != nil {
		m.logThrottled(ctx, "can't handle an event", session.Key{AppID: e.AppID}, err)
		if e.Click != nil { // Lark does not deliver it again, and somebody waits for it
			return EventReply{Toast: toast("error", texts.toastFailed)}, nil
		}
	}
	return reply, err
}

func (m *Manager) handleOnce(ctx context.Context, e *lark.Event) (reply EventReply, result string, err error) {
	first, err := m.events.Note(ctx, e.AppID, e.ID, keepEvents)
	switch {
	case err != nil:
		return EventReply{}, "failed", err
	case !first:
		return EventReply{}, "repeated", nil
	}
	if e.Click != nil {
		reply, err = m.clicked(ctx, session.Key{AppID: e.AppID, OpenID: e.Click.OpenID}, e.Click.Value)
	} else {
		err = m.revokedAtLark(ctx, session.Key{AppID: e.AppID, OpenID: e.Revocation.OpenID}, e)
	}
	if err == nil {
		return reply, "handled", nil
	}
	again, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	return EventReply{}, "failed", errors.Join(err, m.events.Unnote(again, e.AppID, e.ID))
}

// Actions of the cards' buttons, in the "action" of their value. "consent"
// beside it is the id of the card's consent. Cards can be forwarded, so anybody
// may click.
const (
	actionDecline = "decline"
	// actionOpen goes with the link: its user is about to answer.
	actionOpen = "open"
	// actionResend asks for a link instead of one that does not work any more.
	actionResend = "resend"
	// actionRenew asks for a link although the present grant still works.
	actionRenew = "renew"
)

// clicked handles a click by operator.
func (m *Manager) clicked(ctx context.Context, operator session.Key, value map[string]string) (EventReply, error) {
	var theirs *session.Consent // the card's consent, if it is the operator's
	p, err := m.consents.Get(ctx, value["consent"])
	switch {
	case errors.Is(err, session.ErrNotFound):
	case err != nil:
		return EventReply{}, err
	case p.Key == operator:
		theirs = p
	}
	switch value["action"] {
	case actionOpen:
		if theirs != nil && theirs.State == session.ConsentPending {
			m.touch(ctx, theirs.ID, 0)
		}
		return EventReply{}, nil
	case actionDecline:
		return m.clickedDecline(ctx, operator, value["consent"])
	case actionResend, actionRenew:
		return m.clickedResend(ctx, operator, theirs, value["action"] == actionRenew)
	}
	return EventReply{}, nil // a button of the app's own cards
}

func (m *Manager) clickedDecline(ctx context.Context, operator session.Key, id string) (EventReply, error) {
	said := toast("info", texts.declined.title)
	switch err := m.decline(ctx, id, operator.OpenID); {
	case errors.Is(err, errNotTheirs):
		return EventReply{Toast: toast("warning", texts.toastNotYours)}, nil
	case errors.Is(err, session.ErrNotFound): // deleted a week after its end
		return EventReply{Toast: toast("info", texts.toastOver)}, nil
	case errors.Is(err, session.ErrConflict):
		said = toast("info", texts.toastOver)
	case err != nil:
		return EventReply{}, err
	}
	closed, err := m.consents.Get(ctx, id)
	if err != nil {
		return EventReply{}, err
	}
	// Unless the answer has the new card, Lark may show the old one again, even
	// if that was updated meanwhile.
	return EventReply{Toast: said, Card: raw(m.cards.closed(m.apps.name(ctx, operator.AppID), closed))}, nil
}

// clickedResend starts a consent for the operator, whose card it was or not. It
// takes the scopes of the card's consent if that was the operator's, and
// nothing else.
func (m *Manager) clickedResend(ctx context.Context, operator session.Key, theirs *session.Consent, renew bool) (EventReply, error) {
	want, reason := m.scopes, session.NoSession
	if theirs != nil && theirs.State != session.ConsentPending {
		want = parseScopes(theirs.Scopes)
	}
	s, err := m.sessions.Load(ctx, operator)
	switch {
	case err != nil && !errors.Is(err, session.ErrNotFound):
		return EventReply{}, err
	case err == nil && s.State == session.Active && !renew && parseScopes(s.Scope).with(offlineAccess).covers(want):
		return EventReply{Toast: toast("success", texts.toastAlready)}, nil
	case err == nil && renew:
		want, reason = want.with(parseScopes(s.Scope)...), s.Reason
	}
	c, err := m.Ask(ctx, operator, session.ConsentRequest{Reason: reason, Scopes: want, Caller: ownCaller})
	switch {
	case errors.Is(err, context.DeadlineExceeded): // the start goes on
		return EventReply{Toast: toast("info", texts.toastSent)}, nil
	case errors.Is(err, session.ErrUnavailable):
		return EventReply{}, err
	}
	switch c.Card {
	case session.CardSent, session.CardAlreadySent:
		reply := EventReply{Toast: toast("success", texts.toastSent)}
		if theirs != nil && theirs.State != session.ConsentPending || renew {
			reply.Card = raw(m.cards.final("grey", texts.superseded, m.apps.name(ctx, operator.AppID)))
		}
		return reply, nil
	case session.CardRateLimited:
		return EventReply{Toast: toast("warning", texts.toastRate)}, nil
	}
	return EventReply{Toast: toast("error", texts.toastFailed)}, nil
}

func raw(card []byte) *eventCard { return &eventCard{Type: "raw", Data: card} }

// revokedAtLark ends the stored session if a revocation is about its tokens,
// and not about tokens that they have replaced.
func (m *Manager) revokedAtLark(ctx context.Context, key session.Key, e *lark.Event) error {
	for range revocationTries {
		s, err := m.sessions.Load(ctx, key)
		if errors.Is(err, session.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		dead, err := m.isAbout(ctx, s, e)
		switch {
		case err != nil || !dead:
			return err
		case !e.Revocation.RefreshToken:
			// The refresh token still works. Renewing now saves the next
			// request from being refused.
			m.task(ctx, func(ctx context.Context) { m.tokenRefused(ctx, key, s.Version) })
			return nil
		}
		err = m.sessions.RevokeLoaded(ctx, s, session.Revoked)
		if errors.Is(err, session.ErrConflict) {
			continue
		}
		if err == nil {
			m.audit.Write(ctx, store.AuditEntry{Actor: store.ByLark, Action: store.AuditRevoke, Key: key, Result: "done"})
			m.log.InfoContext(ctx, "a user's authorization was revoked at Lark", "app_id", key.AppID, m.users.Log(key.OpenID))
			m.task(ctx, func(ctx context.Context) {
				m.Discard(ctx, key, s.AccessToken, s.RefreshToken)
				m.showRevoked(ctx, key)
			})
		}
		return err
	}
	return session.ErrConflict
}

// isAbout reports whether a revocation is about the tokens of s. A revocation
// that is older than the tokens is not. If it is hardly newer, or about an
// access token only, Lark is asked whether it accepts the access token.
func (m *Manager) isAbout(ctx context.Context, s *session.Session, e *lark.Event) (bool, error) {
	r, since := e.Revocation, s.GrantedAt
	if s.RefreshedAt.After(since) {
		since = s.RefreshedAt
	}
	switch {
	case s.AccessToken.Empty() && s.RefreshToken.Empty(), !r.AccessToken && !r.RefreshToken:
		return false, nil
	case !e.CreatedAt.After(since):
		return false, nil
	case r.RefreshToken && e.CreatedAt.After(since.Add(settleTime)):
		return true, nil
	case !r.AccessToken:
		// A refresh token can't be checked without spending it. After a
		// rotation the event may be about the spent one. If it is about the
		// present one, the next refresh finds out.
		return s.RefreshedAt.IsZero(), nil
	case s.AccessToken.Empty() || !m.now().Before(s.ExpiresAt):
		return r.RefreshToken, nil
	}
	_, err := m.apps[s.AppID].UserInfo(ctx, s.AccessToken)
	var known *lark.Error
	switch {
	case err == nil:
		return false, nil
	case errors.As(err, &known) && (known.Class == lark.Reauthorize || known.Class == lark.UserDisabled):
		return true, nil
	}
	return false, err
}
