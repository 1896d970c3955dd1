package session

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Flow is how a consent is obtained.
type Flow string

const (
	// DeviceFlow is RFC 8628: no public URL, Lark is polled.
	DeviceFlow Flow = "device"
	// RedirectFlow is the authorization code grant with PKCE.
	RedirectFlow Flow = "redirect"
)

// ConsentState is where a consent stands. All but pending are final.
type ConsentState string

const (
	ConsentPending    ConsentState = "pending"
	ConsentDone       ConsentState = "done"
	ConsentDeclined   ConsentState = "declined"
	ConsentExpired    ConsentState = "expired"
	ConsentSuperseded ConsentState = "superseded"
	ConsentFailed     ConsentState = "failed"
)

// Why a consent failed for its scopes: Lark's 20027, 20043 and invalid_scope.
const (
	ScopeNotEnabled = "scope_not_enabled"
	ScopeMalformed  = "scope_malformed"
	InvalidScope    = "invalid_scope"
)

// Pending is one authorization request that awaits its user, or what became of
// it. It lies in the database because the callback, the click and the poll may
// reach any replica.
type Pending struct {
	// ID is no secret: hex, in the order of creation.
	ID string
	Key
	Flow   Flow
	State  ConsentState
	Reason string
	// Scopes is space separated, as asked of the user.
	Scopes string
	// Link is for this user's eyes; empty until the flow has been started and
	// again when it is over. Sealed at rest.
	Link Secret
	// Secret is the device_code (device flow) or the code_verifier (redirect
	// flow, once a browser has started). Sealed at rest.
	Secret Secret
	// PollInterval is how often Lark may be asked (device flow).
	PollInterval time.Duration
	// BrowserHash is [Hash] of the cookie of the browser that started.
	BrowserHash string
	// Card says what became of the auth card, CardMessageID which message it is
	// and CardShows the state that it was last made to show.
	Card          CardResult
	CardMessageID string
	CardShows     ConsentState
	CreatedAt     time.Time
	ExpiresAt     time.Time
	// Left is what remained until ExpiresAt by the database's clock when the
	// row was read; negative when it is over.
	Left time.Duration
}

// Hash returns the hex SHA-256 of a value of at least 128 random bits that is
// looked up but must not be readable in the database.
func Hash(value string) string {
	sum := sha256.Sum256([]byte(value))
	return hex.EncodeToString(sum[:])
}

// consentID sorts by time of creation.
func consentID(now time.Time) string {
	return fmt.Sprintf("%012x", now.UnixMilli()) + randomID()[:20]
}

// BeginConsent claims to be the one open consent of key. When there is one
// already it is returned with began false. Otherwise the caller has lease long
// to start the flow and call [Store.SetConsentLink]; should it die, the next
// call after that takes over.
func (s *Store) BeginConsent(ctx context.Context, key Key, flow Flow, scopes string, lease, life time.Duration) (p *Pending, began bool, err error) {
	id := consentID(s.now())
	result, err := s.db.ExecContext(ctx, queryConsentInsert, id, key.AppID, key.OpenID, flow, scopes,
		s.owner, lease.Milliseconds(), life.Milliseconds())
	if err != nil {
		return nil, false, unavailable(err, "beginning a consent")
	}
	if n, err := result.RowsAffected(); err == nil && n == 1 {
		p, err := s.Consent(ctx, id)
		return p, err == nil, err
	}
	p, err = s.PendingConsent(ctx, key)
	return p, false, err
}

// SetConsentLink records how the user gets on: the link, for the device flow
// the device_code and how often to poll, for the redirect flow the hash of the
// link's ticket. left shortens the consent's life where Lark gives it less.
// [ErrConflict] when the consent is over.
func (s *Store) SetConsentLink(ctx context.Context, p *Pending, link, secret Secret, ticketHash string, interval, left time.Duration) error {
	if err := s.noteKey(ctx); err != nil {
		return err
	}
	result, err := s.db.ExecContext(ctx, queryConsentLink, p.ID,
		s.ring.seal(link, p.place("link")), s.ring.seal(secret, p.place("secret")),
		ticketHash, interval.Milliseconds(), left.Milliseconds())
	return affectedOne(result, err, "storing a consent's link")
}

// SetConsentBrowser binds a redirect consent to the browser that opened its
// link: the hash of the OAuth state, of the browser's cookie, and the
// code_verifier. A second browser takes over from the first.
func (s *Store) SetConsentBrowser(ctx context.Context, p *Pending, stateHash, browserHash string, verifier Secret) error {
	if err := s.noteKey(ctx); err != nil {
		return err
	}
	result, err := s.db.ExecContext(ctx, queryConsentBrowser, p.ID, stateHash, browserHash,
		s.ring.seal(verifier, p.place("secret")))
	return affectedOne(result, err, "storing a consent's browser")
}

// SetConsentCard records what became of the auth card.
func (s *Store) SetConsentCard(ctx context.Context, id string, card CardResult, messageID string, shows ConsentState) error {
	if _, err := s.db.ExecContext(ctx, queryConsentCard, id, card, messageID, shows); err != nil {
		return unavailable(err, "storing a card")
	}
	return nil
}

// SetConsentShows records which state the card shows now.
func (s *Store) SetConsentShows(ctx context.Context, id string, shows ConsentState) error {
	if _, err := s.db.ExecContext(ctx, queryConsentShows, id, shows); err != nil {
		return unavailable(err, "storing a card's state")
	}
	return nil
}

// ConsentsSince counts the consents started for key in the last period.
func (s *Store) ConsentsSince(ctx context.Context, key Key, period time.Duration) (int, error) {
	var n int
	if err := s.db.GetContext(ctx, &n, queryConsentCount, key.AppID, key.OpenID, period.Milliseconds()); err != nil {
		return 0, unavailable(err, "counting consents")
	}
	return n, nil
}

// ScopesInVain returns the scopes that key's user granted, or that Lark refused
// to ask for, in the consents that ended in the last period: those of them that
// the session lacks were asked for in vain.
func (s *Store) ScopesInVain(ctx context.Context, key Key, period time.Duration) ([]string, error) {
	var lists []string
	err := s.db.SelectContext(ctx, &lists, queryScopesInVain, key.AppID, key.OpenID, period.Milliseconds(), ScopeNotEnabled, ScopeMalformed, InvalidScope)
	if err != nil {
		return nil, unavailable(err, "looking for scopes that were asked for")
	}
	return strings.Fields(strings.Join(lists, " ")), nil
}

// PendingConsents counts the open consents of all users.
func (s *Store) PendingConsents(ctx context.Context) (int, error) {
	var n int
	if err := s.db.GetContext(ctx, &n, queryConsentPendingCount); err != nil {
		return 0, unavailable(err, "counting consents")
	}
	return n, nil
}

// Consent returns the consent with id, in whatever state. [ErrNotFound].
func (s *Store) Consent(ctx context.Context, id string) (*Pending, error) {
	return s.consent(ctx, queryConsentGet, id)
}

// PendingConsent returns the open consent of key. [ErrNotFound].
func (s *Store) PendingConsent(ctx context.Context, key Key) (*Pending, error) {
	return s.consent(ctx, queryConsentPending, key.AppID, key.OpenID)
}

// LatestConsent returns the newest consent of key. [ErrNotFound].
func (s *Store) LatestConsent(ctx context.Context, key Key) (*Pending, error) {
	return s.consent(ctx, queryConsentLatest, key.AppID, key.OpenID)
}

// ConsentByTicket returns the consent whose link holds the ticket. [ErrNotFound].
func (s *Store) ConsentByTicket(ctx context.Context, ticket string) (*Pending, error) {
	return s.consent(ctx, queryConsentByTicket, Hash(ticket))
}

// ConsentByState returns the consent to which the OAuth state belongs. [ErrNotFound].
func (s *Store) ConsentByState(ctx context.Context, state string) (*Pending, error) {
	return s.consent(ctx, queryConsentByState, Hash(state))
}

// ClaimConsent takes the right to poll for an open consent, or to finish it,
// for ttl. [ErrLeased] when it is over or another has it.
func (s *Store) ClaimConsent(ctx context.Context, id string, ttl time.Duration) (*Pending, error) {
	p, err := s.consent(ctx, queryConsentClaim, id, s.owner, ttl.Milliseconds())
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("claiming a consent: %w", ErrLeased)
	}
	return p, err
}

// RestConsent gives the right back until the next poll is due, after interval.
func (s *Store) RestConsent(ctx context.Context, id string, interval time.Duration) error {
	if _, err := s.db.ExecContext(ctx, queryConsentRest, id, s.owner, interval.Milliseconds()); err != nil {
		return unavailable(err, "releasing a consent")
	}
	return nil
}

// DueConsents returns the ids of up to limit open consents that have expired or
// whose poll is due.
func (s *Store) DueConsents(ctx context.Context, limit int) ([]string, error) {
	var ids []string
	if err := s.db.SelectContext(ctx, &ids, queryConsentDue, limit); err != nil {
		return nil, unavailable(err, "finding due consents")
	}
	return ids, nil
}

// CloseConsent ends an open consent and forgets its secrets. [ErrConflict] when
// it is over already: of several who close it, one succeeds.
func (s *Store) CloseConsent(ctx context.Context, id string, state ConsentState, reason string) (*Pending, error) {
	p, err := s.consent(ctx, queryConsentClose, id, state, reason)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("closing a consent: %w", ErrConflict)
	}
	if err == nil {
		s.watch.wake(p.Key)
		s.auditConsent(ctx, p)
	}
	return p, err
}

// DropConsent removes an open consent as if it had never been: there is nobody
// to ask.
func (s *Store) DropConsent(ctx context.Context, p *Pending) error {
	if _, err := s.db.ExecContext(ctx, queryConsentDrop, p.ID); err != nil {
		return unavailable(err, "dropping a consent")
	}
	s.watch.wake(p.Key)
	return nil
}

// ClaimDueConsent is [Store.ClaimConsent] for what [Store.DueConsents] listed:
// also [ErrLeased] when another has polled since, so that it is not due any more.
func (s *Store) ClaimDueConsent(ctx context.Context, id string, ttl time.Duration) (*Pending, error) {
	p, err := s.consent(ctx, queryConsentClaimDue, id, s.owner, ttl.Milliseconds())
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("claiming a due consent: %w", ErrLeased)
	}
	return p, err
}

// HoldConsent lengthens this store's claim on an open consent to ttl from now,
// for work that must not be overtaken. [ErrConflict] when the claim is lost.
func (s *Store) HoldConsent(ctx context.Context, id string, ttl time.Duration) error {
	result, err := s.db.ExecContext(ctx, queryConsentHold, id, s.owner, ttl.Milliseconds())
	return affectedOne(result, err, "holding a consent")
}

// FinishConsent stores what the user granted and closes the consent as done:
// both or neither, in one transaction, so that neither a crash nor a consent
// that was superseded or expired meanwhile can leave one without the other.
// [ErrConflict] when the consent is over. After another error the outcome is
// not known and FinishConsent may be called again: a repetition that finds its
// own grant stored succeeds.
func (s *Store) FinishConsent(ctx context.Context, id string, g Session) (*Session, error) {
	if err := s.noteKey(ctx); err != nil {
		return nil, err
	}
	r, err := s.finishConsent(ctx, id, g)
	if errors.Is(err, ErrConflict) {
		return s.alreadyReplaced(ctx, g.Key, Tokens{AccessToken: g.AccessToken}, err)
	}
	if err != nil {
		return nil, err
	}
	stored, err := s.stored(r)
	s.auditConsent(ctx, &Pending{Key: g.Key, State: ConsentDone, Scopes: g.Scope})
	return stored, err
}

func (s *Store) finishConsent(ctx context.Context, id string, g Session) (*row, error) {
	profile, err := s.sealProfile(g.Key, g.Profile)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	tx, err := s.db.BeginTxx(ctx, nil)
	if err != nil {
		return nil, unavailable(err, "finishing a consent")
	}
	defer tx.Rollback() // does nothing after Commit
	var closed consentRow
	err = tx.GetContext(ctx, &closed, queryConsentClose, id, ConsentDone, "")
	if err := noRows(err, ErrConflict, "finishing a consent"); err != nil {
		return nil, err
	}
	var r row
	err = tx.GetContext(ctx, &r, queryPut, g.AppID, g.OpenID, g.UnionID, g.UserID, profile,
		s.ring.seal(g.AccessToken, accessPlace(g.Key)), s.ring.seal(g.RefreshToken, refreshPlace(g.Key)),
		g.TokenType, g.TokenURL, g.Scope, millis(g.IssuedAt), millis(g.ExpiresAt),
		millis(g.RefreshExpiresAt), refreshDue(g.IssuedAt, g.RefreshExpiresAt), millis(g.GrantedAt), millis(g.SyncedAt), refreshLife(g))
	if err != nil {
		return nil, unavailable(err, "finishing a consent")
	}
	if err := tx.Commit(); err != nil {
		return nil, unavailable(err, "finishing a consent")
	}
	return &r, nil
}

// CardsBehind returns up to limit closed consents, closed within the last
// period, whose card still shows an earlier state.
func (s *Store) CardsBehind(ctx context.Context, period time.Duration, limit int) ([]Pending, error) {
	return s.consents(ctx, "finding cards to update", queryConsentCardsBehind, period.Milliseconds(), limit)
}

// ClaimCard takes the right to update the card of a closed consent for ttl.
func (s *Store) ClaimCard(ctx context.Context, id string, ttl time.Duration) (bool, error) {
	result, err := s.db.ExecContext(ctx, queryConsentCardClaim, id, s.owner, ttl.Milliseconds())
	if err = affectedOne(result, err, "claiming a card"); errors.Is(err, ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

// ForgetConsents deletes what was closed and is older than period.
func (s *Store) ForgetConsents(ctx context.Context, period time.Duration) error {
	if _, err := s.db.ExecContext(ctx, queryConsentForget, period.Milliseconds()); err != nil {
		return unavailable(err, "deleting old consents")
	}
	return nil
}

// ConsentFilter selects consents; empty fields select all.
type ConsentFilter struct {
	Key
	State ConsentState
}

// ListConsents returns up to limit consents, the newest first, older than the
// one with id before (empty: from the newest).
func (s *Store) ListConsents(ctx context.Context, before string, f ConsentFilter, limit int) ([]Pending, error) {
	return s.consents(ctx, "listing consents", queryConsentList, before, f.AppID, f.OpenID, f.State, limit)
}

func affectedOne(result sql.Result, err error, doing string) error {
	if err != nil {
		return unavailable(err, doing)
	}
	if n, err := result.RowsAffected(); err != nil {
		return unavailable(err, doing)
	} else if n == 0 {
		return fmt.Errorf("%s: %w", doing, ErrConflict)
	}
	return nil
}

func (s *Store) consent(ctx context.Context, query string, args ...any) (*Pending, error) {
	var r consentRow
	err := s.db.GetContext(ctx, &r, query, args...)
	if err := noRows(err, ErrNotFound, "reading a consent"); err != nil {
		return nil, err
	}
	return s.unsealConsent(&r)
}

func (s *Store) consents(ctx context.Context, doing, query string, args ...any) ([]Pending, error) {
	var rows []consentRow
	if err := s.db.SelectContext(ctx, &rows, query, args...); err != nil {
		return nil, unavailable(err, doing)
	}
	list := make([]Pending, 0, len(rows))
	for i := range rows {
		p, err := s.unsealConsent(&rows[i])
		if err != nil {
			return nil, err
		}
		list = append(list, *p)
	}
	return list, nil
}

// consentRow is a consents row as it lies in the database.
type consentRow struct {
	ID            string `db:"id"`
	AppID         string `db:"app_id"`
	OpenID        string `db:"open_id"`
	Flow          string `db:"flow"`
	State         string `db:"state"`
	Reason        string `db:"reason"`
	Scopes        string `db:"scopes"`
	Link          []byte `db:"link"`
	Secret        []byte `db:"secret"`
	TicketHash    string `db:"ticket_hash"`
	StateHash     string `db:"state_hash"`
	BrowserHash   string `db:"browser_hash"`
	PollInterval  int64  `db:"poll_interval"`
	PollAt        int64  `db:"poll_at"`
	Card          string `db:"card"`
	CardMessageID string `db:"card_message_id"`
	CardShows     string `db:"card_shows"`
	CreatedAt     int64  `db:"created_at"`
	ExpiresAt     int64  `db:"expires_at"`
	Now           int64  `db:"now"`
}

func (p *Pending) place(column string) place {
	return place{key: p.Key, column: "consents." + column, row: p.ID}
}

func (s *Store) unsealConsent(r *consentRow) (*Pending, error) {
	p := &Pending{
		ID: r.ID, Key: Key{r.AppID, r.OpenID}, Flow: Flow(r.Flow), State: ConsentState(r.State), Reason: r.Reason,
		Scopes: r.Scopes, BrowserHash: r.BrowserHash,
		PollInterval: time.Duration(r.PollInterval) * time.Millisecond,
		Card:         CardResult(r.Card), CardMessageID: r.CardMessageID, CardShows: ConsentState(r.CardShows),
		CreatedAt: fromMillis(r.CreatedAt), ExpiresAt: fromMillis(r.ExpiresAt),
		Left: time.Duration(r.ExpiresAt-r.Now) * time.Millisecond,
	}
	var err1, err2 error
	p.Link, err1 = s.ring.open(r.Link, p.place("link"))
	p.Secret, err2 = s.ring.open(r.Secret, p.place("secret"))
	if err := errors.Join(err1, err2); err != nil {
		return nil, unavailable(err, "opening a stored consent "+strconv.Quote(p.ID))
	}
	return p, nil
}
