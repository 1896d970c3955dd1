package session

// Every SQL text. One text serves PostgreSQL and SQLite; only the schema
// differs. larkside_now() is the database's clock in milliseconds.

const sessionColumns = `app_id, open_id, union_id, user_id, profile, state, reason,
	access_token, refresh_token, token_type, token_url, scope, issued_at, expires_at,
	refresh_expires_at, granted_at, refreshed_at, version, attempts, attempt_at,
	failures, retry_at, doubted_at, synced_at, after_refusal`

const queryLoad = `SELECT ` + sessionColumns + ` FROM sessions WHERE app_id = $1 AND open_id = $2`

// The newest first: an administrator may give a user_id to another person.
const queryResolve = `SELECT open_id FROM sessions
	WHERE app_id = $1 AND (union_id = $2 OR user_id = $2)
	ORDER BY granted_at DESC LIMIT 1`

// A new consent replaces whatever was there, whoever is refreshing it: the
// version moves on, so that refresh's result is refused by queryReplace.
const queryPut = `INSERT INTO sessions (app_id, open_id, union_id, user_id, profile, state,
		access_token, refresh_token, token_type, token_url, scope, issued_at, expires_at,
		refresh_expires_at, refresh_due_at, granted_at, synced_at, refresh_life, version, changed_at)
	VALUES ($1, $2, $3, $4, $5, 'active', $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, 1, larkside_now())
	ON CONFLICT (app_id, open_id) DO UPDATE SET
		union_id = excluded.union_id, user_id = excluded.user_id, profile = excluded.profile,
		state = 'active', reason = '',
		access_token = excluded.access_token, refresh_token = excluded.refresh_token,
		token_type = excluded.token_type, token_url = excluded.token_url, scope = excluded.scope,
		issued_at = excluded.issued_at, expires_at = excluded.expires_at,
		refresh_expires_at = excluded.refresh_expires_at, refresh_due_at = excluded.refresh_due_at,
		granted_at = excluded.granted_at, refreshed_at = 0, after_refusal = 0, synced_at = excluded.synced_at,
		refresh_life = excluded.refresh_life,
		version = sessions.version + 1,
		lease_owner = '', lease_until = 0, attempts = 0, attempt_at = 0, failures = 0, retry_at = 0, doubted_at = 0,
		changed_at = larkside_now()
	RETURNING ` + sessionColumns

// The right to spend the refresh token, given to one owner at a time. The
// intention is journaled by the same statement (attempts), so a crash after it
// is seen by the next owner. RETURNING is the re-read under the lease.
const queryClaim = `UPDATE sessions SET
		lease_owner = $4, lease_until = larkside_now() + $5,
		attempts = attempts + 1, attempt_at = larkside_now()
	WHERE app_id = $1 AND open_id = $2 AND version = $3 AND lease_until <= larkside_now()
		AND state <> 'consent_required'
	RETURNING ` + sessionColumns

// The rule that may never break: a rotated pair is stored only over the pair
// that it was made from (version). Whether the lease still holds is not asked:
// if it ran out meanwhile, these tokens are still the only good ones, and
// should another owner have given the grant up for lost, this brings it back.
const queryReplace = `UPDATE sessions SET
		access_token = $4, refresh_token = $5, token_type = $6, token_url = $7, scope = $8,
		issued_at = $9, expires_at = $10, refresh_expires_at = $11, refresh_due_at = $12,
		refreshed_at = $13, after_refusal = $14, state = 'active', reason = '', version = version + 1,
		lease_owner = '', lease_until = 0, attempts = 0, attempt_at = 0, failures = 0, retry_at = 0, doubted_at = 0,
		changed_at = larkside_now()
	WHERE app_id = $1 AND open_id = $2 AND version = $3
	RETURNING ` + sessionColumns

// Gives the lease back after a refresh that changed nothing.
const queryRelease = `UPDATE sessions SET
		lease_owner = '', lease_until = 0, attempts = attempts - $5,
		failures = failures + 1, retry_at = larkside_now() + $6, doubted_at = $7
	WHERE app_id = $1 AND open_id = $2 AND version = $3 AND lease_owner = $4
	RETURNING ` + sessionColumns

// Ends a session that can't be renewed. The version stays, so that a pair which
// another owner of this very refresh token may still bring is not refused.
const queryEnd = `UPDATE sessions SET
		state = $5, reason = $6, lease_owner = '', lease_until = 0,
		access_token = CASE WHEN $8 = 1 THEN NULL ELSE access_token END,
		failures = failures + 1, retry_at = larkside_now() + $7, changed_at = larkside_now()
	WHERE app_id = $1 AND open_id = $2 AND version = $3 AND lease_owner = $4
	RETURNING ` + sessionColumns

// Revoking forgets the tokens and the person, and moves the version on so that
// no refresh under way brings them back.
const queryRevoke = `UPDATE sessions SET
		state = 'consent_required', reason = $3, access_token = NULL, refresh_token = NULL,
		profile = NULL, refresh_due_at = 0, refresh_expires_at = 0, expires_at = 0,
		version = version + 1, lease_owner = '', lease_until = 0, attempts = 0, attempt_at = 0,
		failures = 0, retry_at = 0, changed_at = larkside_now()
	WHERE app_id = $1 AND open_id = $2 AND version = $4
	RETURNING ` + sessionColumns

// An alias that the answer lacked (no scope for it) is kept.
const querySetProfile = `UPDATE sessions SET profile = $3, synced_at = $6,
		union_id = CASE WHEN $4 = '' THEN union_id ELSE $4 END,
		user_id = CASE WHEN $5 = '' THEN user_id ELSE $5 END
	WHERE app_id = $1 AND open_id = $2`

const queryMarkSynced = `UPDATE sessions SET synced_at = $3 WHERE app_id = $1 AND open_id = $2`

const queryDisable = `UPDATE sessions SET state = 'disabled', reason = $3, retry_at = 0, changed_at = larkside_now()
	WHERE app_id = $1 AND open_id = $2 AND state <> 'disabled'
	RETURNING ` + sessionColumns

// Only what was disabled for this reason comes back.
const queryEnable = `UPDATE sessions SET state = 'active', reason = '', retry_at = 0, changed_at = larkside_now()
	WHERE app_id = $1 AND open_id = $2 AND state = 'disabled' AND reason = $3
	RETURNING ` + sessionColumns

const queryDueForRefresh = `SELECT app_id, open_id FROM sessions
	WHERE state = 'active' AND refresh_due_at > 0 AND refresh_due_at <= $1 AND retry_at <= larkside_now()
		AND lease_until <= larkside_now()
	ORDER BY refresh_due_at LIMIT $2`

// What queryDueForRefresh finds, without its limit, and the keys in use.
const queryBacklog = `SELECT (SELECT COUNT(*) FROM encryption_keys) AS keys, COUNT(*) AS due,
		COALESCE($1 - MIN(refresh_due_at), 0) AS lag FROM sessions
	WHERE state = 'active' AND refresh_due_at > 0 AND refresh_due_at <= $1 AND retry_at <= larkside_now()
		AND lease_until <= larkside_now()`

const queryDueForSync = `SELECT app_id, open_id FROM sessions
	WHERE app_id = $1 AND synced_at < $2 AND reason <> 'revoked' ORDER BY synced_at LIMIT $3`

const queryChangedSince = `SELECT app_id, open_id, changed_at FROM sessions WHERE changed_at >= $1
	UNION ALL SELECT app_id, open_id, changed_at FROM consents WHERE changed_at >= $1
	ORDER BY changed_at LIMIT $2`

const queryList = `SELECT ` + sessionColumns + ` FROM sessions
	WHERE (app_id, open_id) > ($1, $2)
		AND ($3 = '' OR app_id = $3) AND ($4 = '' OR state = $4)
	ORDER BY app_id, open_id LIMIT $5`

// Grants that end by themselves before $2 and are in the last tenth of their
// life, as far as nobody has been asked to renew them yet.
const queryExpiring = `SELECT app_id, open_id, scope, granted_at, ends_at FROM sessions
	WHERE state = 'active' AND ends_at > $1 AND ends_at <= $2 AND renewal_asked <> granted_at
		AND (ends_at - $1) * 10 <= ends_at - granted_at
	ORDER BY ends_at LIMIT $3`

// Whoever finds it unset sends the one renewal card of this grant.
const queryRenewalClaim = `UPDATE sessions SET renewal_asked = granted_at
	WHERE app_id = $1 AND open_id = $2 AND granted_at = $3 AND renewal_asked <> granted_at`

const queryRenewalRelease = `UPDATE sessions SET renewal_asked = 0
	WHERE app_id = $1 AND open_id = $2 AND granted_at = $3`

// An id that has expired counts as new.
const queryEventInsert = `INSERT INTO events (id, expires_at) VALUES ($1, larkside_now() + $2)
	ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at WHERE events.expires_at <= larkside_now()`

const queryEventDelete = `DELETE FROM events WHERE id = $1`

const queryEventForget = `DELETE FROM events WHERE expires_at <= larkside_now()`

const queryKeyInUse = `INSERT INTO encryption_keys (id, check_value) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING`

// A named lease: taken when free, kept when one's own.
const queryLead = `INSERT INTO leases (name, owner, until) VALUES ($1, $2, larkside_now() + $3)
	ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until
	WHERE leases.until <= larkside_now() OR leases.owner = excluded.owner
	RETURNING owner`

const queryRate = `SELECT windows, version, larkside_now() AS now FROM rates WHERE name = $1`

const queryNow = `SELECT larkside_now()`

const queryRateInsert = `INSERT INTO rates (name, windows, version) VALUES ($1, $2, 1) ON CONFLICT (name) DO NOTHING`

const queryRateReplace = `UPDATE rates SET windows = $2, version = version + 1 WHERE name = $1 AND version = $3`

const consentColumns = `id, app_id, open_id, flow, state, reason, scopes, link, secret,
	ticket_hash, state_hash, browser_hash, poll_interval, poll_at, card, card_message_id, card_shows,
	created_at, expires_at`

// The claim to be the one open consent of this user: the partial unique index
// lets one replica through. An expired one that nobody has closed yet is closed
// by queryConsentExpireOne first.
const queryConsentInsert = `INSERT INTO consents (id, app_id, open_id, flow, state, scopes,
		lease_owner, lease_until, created_at, expires_at, changed_at)
	VALUES ($1, $2, $3, $4, 'pending', $5, $6, larkside_now() + $7, larkside_now(), larkside_now() + $8, larkside_now())
	ON CONFLICT DO NOTHING`

const queryConsentCount = `SELECT count(*) FROM consents WHERE app_id = $1 AND open_id = $2 AND created_at > larkside_now() - $3`

const queryConsentPendingCount = `SELECT count(*) FROM consents WHERE state = 'pending'`

const queryConsentPending = `SELECT ` + consentColumns + `, larkside_now() AS now FROM consents
	WHERE app_id = $1 AND open_id = $2 AND state = 'pending'`

const queryScopesInVain = `SELECT scopes FROM consents
	WHERE app_id = $1 AND open_id = $2 AND changed_at > larkside_now() - $3
		AND (state = 'done' OR state = 'failed' AND reason IN ($4, $5, $6))`

const queryConsentLatest = `SELECT ` + consentColumns + `, larkside_now() AS now FROM consents
	WHERE app_id = $1 AND open_id = $2 ORDER BY created_at DESC LIMIT 1`

const queryConsentGet = `SELECT ` + consentColumns + `, larkside_now() AS now FROM consents WHERE id = $1`

const queryConsentByTicket = `SELECT ` + consentColumns + `, larkside_now() AS now FROM consents WHERE ticket_hash = $1`

const queryConsentByState = `SELECT ` + consentColumns + `, larkside_now() AS now FROM consents WHERE state_hash = $1`

const queryConsentLink = `UPDATE consents SET link = $2, secret = $3, ticket_hash = $4,
		poll_interval = $5, poll_at = larkside_now() + $5, expires_at = CASE WHEN expires_at < larkside_now() + $6 THEN expires_at ELSE larkside_now() + $6 END,
		lease_owner = '', lease_until = 0, changed_at = larkside_now()
	WHERE id = $1 AND state = 'pending'`

const queryConsentBrowser = `UPDATE consents SET state_hash = $2, browser_hash = $3, secret = $4
	WHERE id = $1 AND state = 'pending'`

const queryConsentCard = `UPDATE consents SET card = $2, card_message_id = $3, card_shows = $4 WHERE id = $1`

const queryConsentShows = `UPDATE consents SET card_shows = $2 WHERE id = $1`

// One replica polls; another takes over when its lease runs out.
const queryConsentClaim = `UPDATE consents SET lease_owner = $2, lease_until = larkside_now() + $3
	WHERE id = $1 AND state = 'pending' AND lease_until <= larkside_now()
	RETURNING ` + consentColumns + `, larkside_now() AS now`

const queryConsentDue = `SELECT id FROM consents
	WHERE state = 'pending' AND (expires_at <= larkside_now()
		OR (flow = 'device' AND poll_interval > 0 AND poll_at <= larkside_now() AND lease_until <= larkside_now()))
	ORDER BY poll_at LIMIT $1`

const queryConsentRest = `UPDATE consents SET poll_interval = $3, poll_at = larkside_now() + $3,
		lease_owner = '', lease_until = 0
	WHERE id = $1 AND lease_owner = $2 AND state = 'pending'`

// Closing is done once, by whoever finds it pending.
const queryConsentClose = `UPDATE consents SET state = $2, reason = $3, secret = NULL, link = NULL,
		lease_owner = '', lease_until = 0, changed_at = larkside_now()
	WHERE id = $1 AND state = 'pending'
	RETURNING ` + consentColumns + `, larkside_now() AS now`

const queryConsentClaimDue = `UPDATE consents SET lease_owner = $2, lease_until = larkside_now() + $3
	WHERE id = $1 AND state = 'pending' AND lease_until <= larkside_now()
		AND (poll_at <= larkside_now() OR expires_at <= larkside_now())
	RETURNING ` + consentColumns + `, larkside_now() AS now`

const queryConsentHold = `UPDATE consents SET lease_until = larkside_now() + $3
	WHERE id = $1 AND lease_owner = $2 AND state = 'pending'`

// Cards that do not show yet what became of their consent.
const queryConsentCardsBehind = `SELECT ` + consentColumns + `, larkside_now() AS now FROM consents
	WHERE state <> 'pending' AND card_message_id <> '' AND card_shows <> state
		AND changed_at > larkside_now() - $1 AND lease_until <= larkside_now()
	ORDER BY changed_at LIMIT $2`

const queryConsentCardClaim = `UPDATE consents SET lease_owner = $2, lease_until = larkside_now() + $3
	WHERE id = $1 AND card_shows <> state AND lease_until <= larkside_now()`

const queryConsentForget = `DELETE FROM consents WHERE state <> 'pending' AND created_at < larkside_now() - $1`

const queryConsentDrop = `DELETE FROM consents WHERE id = $1 AND state = 'pending'`

const queryConsentList = `SELECT ` + consentColumns + `, larkside_now() AS now FROM consents
	WHERE ($1 = '' OR id < $1) AND ($2 = '' OR app_id = $2) AND ($3 = '' OR open_id = $3) AND ($4 = '' OR state = $4)
	ORDER BY id DESC LIMIT $5`
