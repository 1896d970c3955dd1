package refresh

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"larkside/session"
	"larkside/test/dbtest"
	"larkside/test/larktest"
)

// The drill of deploy/docs/operating.md: a backup is taken, the work goes on, and a day
// later the backup is restored. Who has to authorize again is who that page says.
func TestRestoreDrill(t *testing.T) {
	inWorld(t, nil, nil, func(t *testing.T, w *world) {
		all := users(w, 4)
		idle, active, revoked, again := all[0], all[1], all[2], all[3]
		w.Lark.AddUser(larktest.User{OpenID: "ou_late", Name: "Late"})

		copied, _, err := w.Store.Backup(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(copied)
		if err != nil {
			t.Fatal(err)
		}
		if err := copied.Close(); err != nil {
			t.Fatal(err)
		}

		time.Sleep(3 * time.Hour)
		if _, _, err := w.token(active); err != nil { // its refresh token is spent
			t.Fatal(err)
		}
		if err := w.Lark.Revoke(revoked.OpenID); err != nil {
			t.Fatal(err)
		}
		late := w.consented("ou_late")
		w.consented(again.OpenID) // the grant before lives on at Lark
		time.Sleep(21 * time.Hour)
		w.shutdown()

		file := filepath.Join(t.TempDir(), "restored.db")
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		db := &dbtest.DB{URL: "sqlite:" + file, Keys: w.DB.Keys}
		var over []session.Key
		source := w.newSource(db.Open(t, nil), func(c *Config) {
			c.Ended = func(_ context.Context, s *session.Session) { over = append(over, s.Key) }
		})
		for _, c := range []struct {
			key  session.Key
			want session.Reason // empty: goes on
		}{
			{idle, ""}, {again, ""}, {active, session.RefreshTokenUsed}, {revoked, session.RefreshTokenUsed}, {late, session.NoSession},
		} {
			a, _, err := source.Token(t.Context(), c.key)
			var asked *session.ConsentRequiredError
			switch {
			case c.want == "":
				if err != nil || !a.Usable(time.Now()) {
					t.Errorf("%s has to authorize again: %v", c.key.OpenID, err)
				}
			case !errors.As(err, &asked) || asked.Reason != c.want:
				t.Errorf("%s: %v, want %s", c.key.OpenID, err, c.want)
			}
		}
		if len(over) != 2 {
			t.Errorf("ended: %v", over)
		}
		if err := source.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
