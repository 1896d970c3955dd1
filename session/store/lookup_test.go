package store_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
)

// While the database hangs, a look-up ends with its time. Users who are not
// cached come and go, and leave nothing behind that waits on.
func TestLookupsEndWhileTheDatabaseHangs(t *testing.T) {
	t.Parallel()
	db := dbtest.Postgres(t)
	p := startPooler(t, hostOf(t, db.URL))
	s := db.Open(t, func(c *store.Config) {
		c.URL = session.NewSecret(strings.Replace(db.URL, hostOf(t, db.URL), p.address(), 1))
		c.ListenURL, c.MaxConns = session.NewSecret("off"), 2
	})
	speak := p.hush()
	defer speak()
	began := time.Now()
	ended := make(chan error)
	const users = 200
	for user := range users {
		go func() {
			_, err := s.Sessions.Access(t.Context(), session.Key{AppID: "cli_a", OpenID: fmt.Sprint("ou_", user)})
			ended <- err
		}()
	}
	for range users {
		if err := <-ended; err == nil {
			t.Error("an answer although the database hangs")
		}
	}
	dbtest.Eventually(t, "no look-up waits on", func() bool { return lookups() <= 2 }) // one for each connection
	if waited := time.Since(began); waited > 10*time.Second {
		t.Errorf("look-ups waited for a connection for %s", waited)
	}
}

// lookups counts the goroutines that look up a session.
func lookups() int {
	stacks := make([]byte, 4<<20)
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "(*database).getAccess(")
}
