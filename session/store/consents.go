package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/jmoiron/sqlx"

	"larkside/session"
	"larkside/session/seal"
)

// Consents keeps the requests to users, from the link to the answer.
type Consents struct {
	// Leases gives one replica the right to poll for a consent or to finish it.
	Leases *ConsentLeases
	// Cards keeps what the auth cards show.
	Cards *Cards
	// History is what was asked of users before.
	History *ConsentHistory

	db       *database
	sealer   *sealer
	sessions *Sessions
	changes  *Changes
	audit    *Audit
	now      func() time.Time
	owner    string // this process, random
}

func newConsents(sessions *Sessions, audit *Audit, owner string) *Consents {
	db, sealer := sessions.db, sessions.sealer
	return &Consents{
		Leases:  &ConsentLeases{db: db, sealer: sealer, owner: owner},
		Cards:   &Cards{db: db, sealer: sealer, owner: owner},
		History: &ConsentHistory{db: db, sealer: sealer},
		db:      db, sealer: sealer, sessions: sessions, changes: sessions.changes, audit: audit, now: sessions.now, owner: owner,
	}
}

// The insert is the claim to be the one open consent of this user: by the
// partial unique index it succeeds on one replica. A consent that has expired
// stands in the way until it is closed (ConsentLeases.Claim, Close).
const queryConsentInsert = `INSERT INTO consents (id, app_id, open_id, flow, state, scopes, seal, caller,
		lease_owner, lease_until, created_at, expires_at, changed_at)
	VALUES ($1, $2, $3, $4, 'pending', $5, $6, $7, $8, larkside_now() + $9, larkside_now(), larkside_now() + $10, larkside_now())
	ON CONFLICT DO NOTHING`

// Begin claims to be the one open consent of draft's user, for the flow, scopes
// and caller of draft. If there is one already, that is returned and began is
// false. Otherwise the caller has the time lease to start the flow and call
// [Consents.SetLink]. If it dies, another replica takes over after that time.
func (c *Consents) Begin(ctx context.Context, draft session.Consent, lease, life time.Duration) (consent *session.Consent, began bool, err error) {
	if err := c.sealer.noteKey(ctx); err != nil {
		return nil, false, err
	}
	// The id sorts by time of creation.
	draft.ID = fmt.Sprintf("%012x", c.now().UnixMilli()) + randomID()[:20]
	result, err := c.db.ExecContext(ctx, queryConsentInsert, draft.ID, draft.AppID, draft.OpenID, draft.Flow, draft.Scopes,
		c.sealer.Seal(consentSeal, sealPlace(&draft)), draft.Caller, c.owner, lease.Milliseconds(), life.Milliseconds())
	if err != nil {
		return nil, false, unavailable(err, "beginning a consent")
	}
	if n, err := result.RowsAffected(); err == nil && n == 1 {
		consent, err := c.Get(ctx, draft.ID)
		return consent, err == nil, err
	}
	consent, err = c.Open(ctx, draft.Key)
	return consent, false, err
}

const queryConsentLink = `UPDATE consents SET link = $2, secret = $3, ticket_hash = $4,
		poll_interval = $5, poll_at = larkside_now() + $5, polled_at = larkside_now(), touched_at = larkside_now(),
		expires_at = CASE WHEN expires_at < larkside_now() + $6 THEN expires_at ELSE larkside_now() + $6 END,
		lease_owner = '', lease_until = 0, changed_at = larkside_now()
	WHERE id = $1 AND state = 'pending'`

// SetLink stores the user's link. For the device flow it also stores the
// device_code and how often to poll, for the redirect flow the key of the
// code_verifiers and the hash of the link's ticket. left shortens the consent's
// life if Lark gives it less. [session.ErrConflict] if the consent is over.
func (c *Consents) SetLink(ctx context.Context, consent *session.Consent, link, secret session.Secret, ticketHash string, interval, left time.Duration) error {
	if err := c.sealer.noteKey(ctx); err != nil {
		return err
	}
	result, err := c.db.ExecContext(ctx, queryConsentLink, consent.ID,
		c.sealer.Seal(link, consentPlace(consent, "link")), c.sealer.Seal(secret, consentPlace(consent, "secret")),
		ticketHash, interval.Milliseconds(), left.Milliseconds())
	return changedOne(result, err, "storing a consent's link")
}

// The comparisons with the empty string are the conditions of the indexes.
const (
	queryConsentGet = `SELECT ` + consentColumns + ` FROM consents WHERE id = $1`

	queryConsentOpen = `SELECT ` + consentColumns + ` FROM consents
	WHERE app_id = $1 AND open_id = $2 AND state = 'pending'`

	queryConsentLatest = `SELECT ` + consentColumns + ` FROM consents
	WHERE app_id = $1 AND open_id = $2 ORDER BY created_at DESC LIMIT 1`

	queryConsentByTicket = `SELECT ` + consentColumns + ` FROM consents WHERE ticket_hash = $1 AND ticket_hash <> ''`
)

// Get returns the consent with id, in whatever state. [session.ErrNotFound] if
// there is none.
func (c *Consents) Get(ctx context.Context, id string) (*session.Consent, error) {
	return c.sealer.consent(ctx, queryConsentGet, id)
}

// Open returns the open consent of key. [session.ErrNotFound] if there is none.
func (c *Consents) Open(ctx context.Context, key session.Key) (*session.Consent, error) {
	consent, err := c.sealer.consent(ctx, queryConsentOpen, key.AppID, key.OpenID)
	if err == nil && consent.State != session.ConsentPending {
		return nil, fmt.Errorf("reading a consent: %w", session.ErrNotFound)
	}
	return consent, err
}

// Latest returns the newest consent of key. [session.ErrNotFound] if there is
// none.
func (c *Consents) Latest(ctx context.Context, key session.Key) (*session.Consent, error) {
	return c.sealer.consent(ctx, queryConsentLatest, key.AppID, key.OpenID)
}

// ByTicket returns the consent whose link has the ticket. [session.ErrNotFound]
// if there is none.
func (c *Consents) ByTicket(ctx context.Context, ticket string) (*session.Consent, error) {
	return c.sealer.consent(ctx, queryConsentByTicket, session.Hash(ticket))
}

// Whoever finds the consent pending closes it, so it is closed once.
const queryConsentClose = `UPDATE consents SET state = $2, reason = $3, secret = NULL, link = NULL,
		lease_owner = '', lease_until = 0, changed_at = larkside_now()
	WHERE id = $1 AND state = 'pending'
	RETURNING ` + consentColumns

// Close ends an open consent and deletes its secrets. [session.ErrConflict] if
// it is over already.
func (c *Consents) Close(ctx context.Context, id string, state session.ConsentState, reason string) (*session.Consent, error) {
	consent, err := c.sealer.consent(ctx, queryConsentClose, id, state, reason)
	if errors.Is(err, session.ErrNotFound) {
		return nil, fmt.Errorf("closing a consent: %w", session.ErrConflict)
	}
	if err == nil {
		c.changes.wake(consent.Key)
		c.audit.consent(ctx, consent)
	}
	return consent, err
}

const queryConsentDrop = `DELETE FROM consents WHERE id = $1 AND state = 'pending'`

// Drop deletes an open consent, since there is nobody to ask.
func (c *Consents) Drop(ctx context.Context, consent *session.Consent) error {
	if _, err := c.db.ExecContext(ctx, queryConsentDrop, consent.ID); err != nil {
		return unavailable(err, "dropping a consent")
	}
	c.changes.wake(consent.Key)
	return nil
}

// Finish stores what the user granted and closes the consent as done, in one
// transaction. Neither a crash, nor a consent that was superseded or has
// expired meanwhile, can leave one without the other. [session.ErrConflict] if
// the consent is over. After any other error the outcome is unknown, and Finish
// may be called again: it succeeds if it finds its own grant stored.
func (c *Consents) Finish(ctx context.Context, id string, g session.Session) (*session.Session, error) {
	t := c.sessions.cache.ticket(g.Key)
	row, err := c.finish(ctx, id, g)
	if errors.Is(err, session.ErrConflict) {
		return c.sessions.alreadyStored(ctx, g.Key, g.AccessToken, err)
	}
	if err != nil {
		return nil, err
	}
	stored, err := c.sessions.stored(row, t)
	c.audit.consent(ctx, &session.Consent{Key: g.Key, State: session.ConsentDone, Scopes: g.Scope})
	return stored, err
}

func (c *Consents) finish(ctx context.Context, id string, g session.Session) (*sessionRow, error) {
	args, err := c.sessions.putArgs(ctx, g)
	if err != nil {
		return nil, err
	}
	const doing = "finishing a consent"
	var row sessionRow
	err = c.db.transact(ctx, doing, queryTimeout, func(ctx context.Context, tx *sqlx.Tx) error {
		var closed consentRow
		err := tx.GetContext(ctx, &closed, queryConsentClose, id, session.ConsentDone, "")
		if err := noRows(err, session.ErrConflict, doing); err != nil {
			return err
		}
		if err := tx.GetContext(ctx, &row, queryPut, args...); err != nil {
			return unavailable(err, doing)
		}
		return takeAliases(ctx, tx, g.Key, g.UnionID, g.UserID)
	})
	if err != nil {
		return nil, err
	}
	return &row, nil
}

const consentColumns = `id, app_id, open_id, flow, state, reason, scopes, seal, caller, link, secret,
	ticket_hash, poll_interval, poll_soon, card, card_message_id, card_shows,
	created_at, expires_at, larkside_now() AS now`

// consentRow is a row of consents, and the time when it was read.
type consentRow struct {
	ID            string `db:"id"`
	AppID         string `db:"app_id"`
	OpenID        string `db:"open_id"`
	Flow          string `db:"flow"`
	State         string `db:"state"`
	Reason        string `db:"reason"`
	Scopes        string `db:"scopes"`
	Seal          []byte `db:"seal"`
	Caller        string `db:"caller"`
	Link          []byte `db:"link"`
	Secret        []byte `db:"secret"`
	TicketHash    string `db:"ticket_hash"`
	PollInterval  int64  `db:"poll_interval"`
	PollSoon      int64  `db:"poll_soon"`
	Card          string `db:"card"`
	CardMessageID string `db:"card_message_id"`
	CardShows     string `db:"card_shows"`
	CreatedAt     int64  `db:"created_at"`
	ExpiresAt     int64  `db:"expires_at"`
	Now           int64  `db:"now"`
}

func consentPlace(c *session.Consent, column string) seal.Place {
	return seal.Place{Key: c.Key, Column: "consents." + column, Row: c.ID}
}

// consentSeal is what consents.seal holds. Only what it vouches for matters.
var consentSeal = session.NewSecret("consent")

// sealPlace is where the seal of c is: beside what was asked of whom.
func sealPlace(c *session.Consent) seal.Place {
	p := consentPlace(c, "seal")
	p.Vouches = []string{string(c.Flow), c.Scopes}
	return p
}

// mostLeft is longer than any consent lasts.
const mostLeft = 7 * 24 * time.Hour

// view returns the consent of a row without its secrets. Words and time spans
// are limited to possible ones, whatever the row says.
func (r *consentRow) view() *session.Consent {
	return &session.Consent{
		ID: r.ID, Key: session.Key{AppID: r.AppID, OpenID: r.OpenID}, Flow: session.Flow(r.Flow),
		State:  oneOf(session.ConsentState(r.State), session.ConsentFailed, consentStates...),
		Reason: r.Reason, Scopes: r.Scopes, Caller: r.Caller, TicketHash: r.TicketHash,
		PollInterval: span(r.PollInterval, 0, time.Minute), PollSoon: r.PollSoon != 0,
		Card: oneOf(session.CardResult(r.Card), session.CardFailed, cardResults...), CardMessageID: r.CardMessageID,
		CardShows: session.ConsentState(r.CardShows),
		CreatedAt: fromMillis(r.CreatedAt), ExpiresAt: fromMillis(r.ExpiresAt),
		Left: span(r.ExpiresAt, r.Now, mostLeft),
	}
}

var (
	consentStates = []session.ConsentState{session.ConsentPending, session.ConsentDone, session.ConsentDeclined,
		session.ConsentExpired, session.ConsentSuperseded, session.ConsentFailed}
	cardResults = []session.CardResult{"", session.CardSent, session.CardAlreadySent, session.CardRateLimited, session.CardFailed, session.CardOff}
)

// open returns the consent of a row. Only an open one has secrets, and one
// without a valid seal has no scopes. An error that wraps [seal.ErrChanged]
// means that somebody without a key has changed the row of an open one.
func (r *consentRow) open(ring *seal.Keyring) (*session.Consent, error) {
	c := r.view()
	mark, err0 := ring.Open(r.Seal, sealPlace(c))
	if err0 == nil && mark.Empty() {
		err0 = fmt.Errorf("%w: the seal is missing", seal.ErrChanged)
	}
	if c.State != session.ConsentPending {
		if err0 != nil {
			c.Scopes = "" // a click on its card may ask for them again
		}
		return c, nil
	}
	var err1, err2 error
	c.Link, err1 = ring.Open(r.Link, consentPlace(c, "link"))
	c.Secret, err2 = ring.Open(r.Secret, consentPlace(c, "secret"))
	if err := errors.Join(err0, err1, err2); err != nil {
		return nil, unavailable(err, "opening a stored consent "+strconv.Quote(c.ID))
	}
	return c, nil
}

// reasonChanged is the reason of a consent that was closed because somebody
// without a key has changed its row.
const reasonChanged = "changed_in_database"

// consent runs a query for one consent. [session.ErrNotFound] if it finds none.
// An open consent whose row somebody without a key has changed is closed as
// failed, so that its user can be asked again, and returned so.
func (s *sealer) consent(ctx context.Context, query string, args ...any) (*session.Consent, error) {
	var r consentRow
	err := s.db.GetContext(ctx, &r, query, args...)
	if err := noRows(err, session.ErrNotFound, "reading a consent"); err != nil {
		return nil, err
	}
	c, err := r.open(s.Keyring)
	if !errors.Is(err, seal.ErrChanged) || errors.Is(err, seal.ErrUnknownKey) {
		return c, err
	}
	s.complaints.Log(ctx, slog.LevelError, "a stored consent was changed in the database; it is closed", "", "consent", r.ID, "error", err)
	closeErr := s.db.GetContext(ctx, &r, queryConsentClose, r.ID, session.ConsentFailed, reasonChanged)
	if closeErr != nil && !errors.Is(closeErr, sql.ErrNoRows) {
		return nil, err
	}
	c = r.view()
	c.State = session.ConsentFailed
	return c, nil
}

// consents runs a query for any number of consents, and returns them without
// their secrets.
func (s *sealer) consents(ctx context.Context, doing, query string, args ...any) ([]session.Consent, error) {
	var rows []consentRow
	if err := s.db.SelectContext(ctx, &rows, query, args...); err != nil {
		return nil, unavailable(err, doing)
	}
	list := make([]session.Consent, len(rows))
	for i := range rows {
		list[i] = *rows[i].view()
	}
	return list, nil
}
