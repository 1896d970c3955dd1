-- +goose Up

-- Events that have been taken up. Lark sends one again when it is in doubt.
CREATE TABLE events (
    id         text   NOT NULL PRIMARY KEY,       -- app_id, a blank, header.event_id
    expires_at integer NOT NULL                     -- larkside_now
);
CREATE INDEX events_expires ON events (expires_at);

ALTER TABLE sessions ADD COLUMN refresh_life integer NOT NULL DEFAULT 0;  -- of the grant's first refresh token, milliseconds
ALTER TABLE sessions ADD COLUMN renewal_asked integer NOT NULL DEFAULT 0; -- granted_at of the grant whose renewal card was sent
-- When the grant ends by itself, whatever is done for it: with its access token
-- if nothing can renew that; 365 days after it was made (Lark's error 20037); or
-- earlier, where each new refresh token lives shorter than the first did.
ALTER TABLE sessions ADD COLUMN ends_at integer GENERATED ALWAYS AS (CASE
    WHEN refresh_token IS NULL THEN expires_at
    WHEN (refresh_expires_at - issued_at) * 10 < refresh_life * 9
        AND refresh_expires_at < granted_at + 31536000000 THEN refresh_expires_at
    ELSE granted_at + 31536000000 END) VIRTUAL;
CREATE INDEX sessions_ends ON sessions (ends_at) WHERE state = 'active';

-- +goose Down
DROP INDEX sessions_ends;
ALTER TABLE sessions DROP COLUMN ends_at;
ALTER TABLE sessions DROP COLUMN renewal_asked;
ALTER TABLE sessions DROP COLUMN refresh_life;
DROP TABLE events;
