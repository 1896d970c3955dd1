package admin

import (
	"errors"
	"io"
	"net/http"
	"strconv"

	"larkside/session/store"
)

// backup answers POST /api/v1/backup with a copy of the SQLite database. It goes
// to the client, which decides where it is stored: a caller of this API can't make
// the server write to a path.
func (a *admin) backup(w http.ResponseWriter, r *http.Request) error {
	copied, size, err := a.Backup(r.Context(), actor(r))
	if errors.Is(err, store.ErrNoBackup) {
		return invalid("The database is PostgreSQL: use pg_dump.")
	}
	if err != nil {
		return err
	}
	defer copied.Close()
	h := w.Header()
	h.Set("Content-Type", "application/vnd.sqlite3")
	h.Set("Content-Length", strconv.FormatInt(size, 10)) // so that the client notices if the end is missing
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	io.Copy(w, copied) // if the peer is gone, nobody can be told
	return nil
}
