-- +goose Up

-- Who did what to whose session. Nothing secret is in it.
CREATE TABLE audit (
    id      text   NOT NULL PRIMARY KEY,   -- hex, in the order of time
    at      bigint NOT NULL,               -- milliseconds since 1970 UTC, by the clock of who wrote it
    actor   text   NOT NULL,               -- admin, user, lark, larkside
    action  text   NOT NULL,
    app_id  text   NOT NULL DEFAULT '',
    open_id text   NOT NULL DEFAULT '',
    result  text   NOT NULL,
    detail  text   NOT NULL DEFAULT ''
);
CREATE INDEX audit_user ON audit (app_id, open_id, id);

-- +goose Down
DROP TABLE audit;
