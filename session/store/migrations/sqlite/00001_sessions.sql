-- oldest program: 1

-- Times are milliseconds since 1970 UTC; 0 means never or unknown.
-- "sealed" columns hold AES-256-GCM records (session/seal); nothing secret is in clear.

-- larkside_now() is registered with the driver (sqlite.go), not part of the schema.

CREATE TABLE sessions (
    app_id             text   NOT NULL,
    open_id            text   NOT NULL,
    union_id           text   NOT NULL DEFAULT '',
    user_id            text   NOT NULL DEFAULT '',
    union_id_seal      blob,                       -- sealed: union_id, so that nobody without a key can set it
    user_id_seal       blob,                       -- sealed: user_id
    profile            blob,                       -- sealed
    state              text   NOT NULL,             -- active, consent_required, disabled
    reason             text   NOT NULL DEFAULT '',
    access_token       blob,                       -- sealed
    refresh_token      blob,                       -- sealed; works once
    token_type         text   NOT NULL,
    token_url          text   NOT NULL,             -- the endpoint that issued the grant
    scope              text   NOT NULL DEFAULT '',
    issued_at          integer NOT NULL,
    expires_at         integer NOT NULL,
    refresh_expires_at integer NOT NULL DEFAULT 0,
    refresh_due_at     integer NOT NULL DEFAULT 0,   -- when the sweep renews it if nobody else did
    granted_at         integer NOT NULL,
    refreshed_at       integer NOT NULL DEFAULT 0,
    after_refusal      integer NOT NULL DEFAULT 0,   -- 1: Lark had refused the access token before this one
    version            integer NOT NULL,             -- compare-and-swap operand
    lease_owner        text   NOT NULL DEFAULT '',  -- who may spend the refresh token,
    lease_until        integer NOT NULL DEFAULT 0,   -- and until when (larkside_now)
    attempts           integer NOT NULL DEFAULT 0,   -- sendings of this refresh token without a stored outcome
    attempt_at         integer NOT NULL DEFAULT 0,   -- the latest of them
    failures           integer NOT NULL DEFAULT 0,
    retry_at           integer NOT NULL DEFAULT 0,   -- larkside_now
    doubted_at         integer NOT NULL DEFAULT 0,   -- when Lark first said that the user does not exist
    synced_at          integer NOT NULL DEFAULT 0,
    refresh_life       integer NOT NULL DEFAULT 0,   -- of the grant's first refresh token, milliseconds
    renewal_asked      integer NOT NULL DEFAULT 0,   -- granted_at of the grant whose renewal card was sent
    usable_until       integer NOT NULL DEFAULT 0,   -- when an active session's last token ends; of another, when it ended (larkside_now)
    changed_at         integer NOT NULL,             -- larkside_now; the polling watermark
    PRIMARY KEY (app_id, open_id)
);
CREATE INDEX sessions_union_id ON sessions (app_id, union_id) WHERE union_id <> '';
CREATE INDEX sessions_user_id ON sessions (app_id, user_id) WHERE user_id <> '';
CREATE INDEX sessions_refresh_due ON sessions (refresh_due_at) WHERE state = 'active' AND refresh_due_at > 0;
CREATE INDEX sessions_changed ON sessions (changed_at);
-- To count sessions. It begins with the app since SQLite, which has no statistics,
-- would take an index on the state alone for the best way to the active ones.
CREATE INDEX sessions_state ON sessions (app_id, state);
CREATE INDEX sessions_usable_until ON sessions (usable_until, app_id, open_id);
CREATE INDEX sessions_left ON sessions (app_id, usable_until)
    WHERE state = 'disabled' AND (access_token IS NOT NULL OR refresh_token IS NOT NULL);
CREATE INDEX sessions_synced ON sessions (app_id, synced_at) WHERE reason <> 'revoked';
-- What an operator sees first: what fails, what has ended, and last what was revoked.
CREATE INDEX sessions_failing ON sessions (app_id, open_id) WHERE state = 'active' AND failures > 0;
CREATE INDEX sessions_ended ON sessions (state, changed_at, app_id, open_id) WHERE state <> 'active' AND reason <> 'revoked';
CREATE INDEX sessions_revoked ON sessions (changed_at, app_id, open_id) WHERE reason = 'revoked';
-- When the grant ends by itself, whatever is done for it: with its access token
-- if nothing can renew that; 365 days after it was made (Lark's error 20037); or
-- earlier, where each new refresh token lives shorter than the first did. The
-- expression is that of endsAt in reminders.go. It is no column, since changing a
-- generated column rewrites the table.
CREATE INDEX sessions_ends ON sessions ((CASE
    WHEN refresh_token IS NULL THEN expires_at
    WHEN (refresh_expires_at - issued_at) * 10 < refresh_life * 9
        AND refresh_expires_at < granted_at + 31536000000 THEN refresh_expires_at
    ELSE granted_at + 31536000000 END)) WHERE state = 'active' AND renewal_asked <> granted_at;

CREATE TABLE consents (
    id              text   NOT NULL PRIMARY KEY,
    app_id          text   NOT NULL,
    open_id         text   NOT NULL,
    flow            text   NOT NULL,              -- device, redirect
    state           text   NOT NULL,              -- pending, done, declined, expired, superseded, failed
    reason          text   NOT NULL DEFAULT '',
    scopes          text   NOT NULL,
    seal            blob,                        -- sealed: vouches for app_id, open_id, flow and scopes while the consent is open
    caller          text   NOT NULL DEFAULT '',   -- for whom it was started
    link            blob,                        -- sealed: the user's link
    secret          blob,                        -- sealed: device_code, or the key of the code_verifiers
    ticket_hash     text   NOT NULL DEFAULT '',   -- SHA-256 of the ticket in the redirect flow's link
    poll_interval   integer NOT NULL DEFAULT 0,    -- milliseconds
    poll_at         integer NOT NULL DEFAULT 0,
    poll_soon       integer NOT NULL DEFAULT 0,    -- 1: something has happened since the last poll
    polled_at       integer NOT NULL DEFAULT 0,
    touched_at      integer NOT NULL DEFAULT 0,    -- when something last happened: it began, its user called or clicked
    awaited_until   integer NOT NULL DEFAULT 0,    -- until when a request may wait for it
    card            text   NOT NULL DEFAULT '',   -- sent, rate_limited, failed, off; empty while unknown
    card_message_id text   NOT NULL DEFAULT '',
    card_shows      text   NOT NULL DEFAULT '',   -- the state that the card was last made to show
    lease_owner     text   NOT NULL DEFAULT '',
    lease_until     integer NOT NULL DEFAULT 0,
    created_at      integer NOT NULL,
    expires_at      integer NOT NULL,
    changed_at      integer NOT NULL
);
-- At most one open consent for one user of one app, whichever replica asks.
CREATE UNIQUE INDEX consents_pending ON consents (app_id, open_id) WHERE state = 'pending';
CREATE INDEX consents_user ON consents (app_id, open_id, created_at);
CREATE INDEX consents_poll ON consents (poll_at) WHERE state = 'pending';
CREATE INDEX consents_ticket ON consents (ticket_hash) WHERE ticket_hash <> '';
CREATE INDEX consents_changed ON consents (changed_at);
CREATE INDEX consents_closed ON consents (created_at) WHERE state <> 'pending';
CREATE INDEX consents_cards_behind ON consents (changed_at)
    WHERE state <> 'pending' AND card_message_id <> '' AND card_shows <> state;

-- Which encryption keys have sealed something here. A start with a ring that
-- lacks one of them, or holds other bytes under its name, is refused.
CREATE TABLE encryption_keys (
    id    text  NOT NULL PRIMARY KEY,
    check_value blob NOT NULL                    -- sealed constant
);

-- Named leases for work that one replica does for all.
CREATE TABLE leases (
    name  text   NOT NULL PRIMARY KEY,
    owner text   NOT NULL,
    until integer NOT NULL                         -- larkside_now
);

-- Calls to the token endpoint per app, counted over all replicas.
CREATE TABLE rates (
    name    text   NOT NULL PRIMARY KEY,
    windows text   NOT NULL,                      -- JSON, see rates.go
    version integer NOT NULL
);

-- Events that have been taken up. Lark sends one again when it is in doubt.
CREATE TABLE events (
    id         text   NOT NULL PRIMARY KEY,       -- app_id, a blank, header.event_id
    expires_at integer NOT NULL                     -- larkside_now
);
CREATE INDEX events_expires ON events (expires_at);

-- Who did what to whose session. Nothing secret is in it.
CREATE TABLE audit (
    id      text   NOT NULL PRIMARY KEY,   -- hex, in the order of time
    at      integer NOT NULL,               -- milliseconds since 1970 UTC, by the clock of who wrote it
    actor   text   NOT NULL,               -- admin, user, lark, larkside
    action  text   NOT NULL,
    app_id  text   NOT NULL DEFAULT '',
    open_id text   NOT NULL DEFAULT '',
    result  text   NOT NULL,
    detail  text   NOT NULL DEFAULT ''
);
CREATE INDEX audit_user ON audit (app_id, open_id, id);

-- Who signed in last by "larkside login", for each app.
CREATE TABLE default_users (
    app_id  text NOT NULL PRIMARY KEY,
    open_id text NOT NULL,
    proof   blob NOT NULL                   -- sealed: only who has a key can name another user
);
