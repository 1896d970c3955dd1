package saves

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"larkside/session"
	"larkside/session/lark"
	"larkside/test/dbtest"
	"larkside/test/inprocess"
	"larkside/test/larktest"
)

// common is an app that looks after its users' tokens by itself, in a table that
// its instances share. It speaks to Lark by Larkside's client, which adds nothing
// to the calls.
type common struct {
	world     *world
	instances []*instance
}

type instance struct {
	world *world
	t     testing.TB
	db    *sql.DB
	lark  *lark.Client
	http  http.Client

	// careful has what the best of these apps do without a lock.
	careful bool
	mu      sync.Mutex
	cache   map[string]pair
}

type pair struct {
	access, refresh string
	expires         time.Time
}

func (p pair) good() bool { return p.access != "" && time.Now().Before(p.expires.Add(-time.Minute)) }

func theCommonWay(t testing.TB, w *world, people []*person, careful bool) {
	c := &common{world: w}
	for range instances {
		db, err := sql.Open(w.driverName, "file:"+w.db.URL[len("sqlite:"):]+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)")
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		c.instances = append(c.instances, &instance{
			world: w, t: t, db: db, lark: inprocess.Client(t, w.lark, w), http: http.Client{Transport: w}, careful: careful, cache: map[string]pair{},
		})
	}
	first := c.instances[0]
	first.exec(`CREATE TABLE tokens (open_id TEXT PRIMARY KEY, access_token TEXT, refresh_token TEXT, expires_at INTEGER, asked_at INTEGER)`)
	yesterday(people, func(openID string, at time.Time) {
		granted := dbtest.Session(t, w.lark, dbtest.Key(openID), at)
		first.store(openID, pair{granted.AccessToken.Expose(), granted.RefreshToken.Expose(), granted.ExpiresAt})
	})
	w.live(t, people, c)
}

func (c *common) call(instance int, openID string) (link string, ok bool) {
	a := c.instances[instance]
	access, ok := a.token(openID, "")
	if ok && a.get(openID, access) {
		return "", true
	}
	if ok { // Lark has refused the token
		if access, ok = a.token(openID, access); ok && a.get(openID, access) {
			return "", true
		}
	}
	a.ask(openID)
	return a.lark.AuthorizeURL(callback, openID, challenge, scopes), false
}

func (a *instance) get(openID, access string) bool {
	r, err := http.NewRequest(http.MethodGet, a.world.lark.URL+path, nil)
	if err != nil {
		a.t.Error(err)
		return false
	}
	r.Header.Set("Authorization", "Bearer "+access)
	r.Header.Set(larktest.ExpectUserHeader, openID)
	answer, err := a.http.Do(r)
	if err != nil {
		a.t.Error(err)
		return false
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// token returns an access token that has not expired and is not refused.
func (a *instance) token(openID, refused string) (access string, ok bool) {
	if p := a.cached(openID); a.careful && p.good() && p.access != refused {
		return p.access, true
	}
	p := a.read(openID)
	if p.good() && p.access != refused {
		a.remember(openID, p)
		return p.access, true
	}
	if p.refresh == "" {
		return "", false
	}
	fresh, err := a.lark.Refresh(context.Background(), "", session.NewSecret(p.refresh))
	if err == nil {
		p = pairOf(fresh)
		a.store(openID, p)
		return p.access, true
	}
	if !a.careful {
		a.exec(`UPDATE tokens SET access_token = '', refresh_token = '' WHERE open_id = ?`, openID)
		return "", false
	}
	// Another instance may have spent the refresh token and be about to store what
	// came of it.
	for range 5 {
		if now := a.read(openID); now.refresh != p.refresh {
			a.remember(openID, now)
			return now.access, now.good()
		}
		time.Sleep(200 * time.Millisecond)
	}
	a.exec(`UPDATE tokens SET access_token = '', refresh_token = '' WHERE open_id = ? AND refresh_token = ?`, openID, p.refresh)
	return "", false
}

func pairOf(t lark.Token) pair {
	return pair{t.AccessToken.Expose(), t.RefreshToken.Expose(), time.Now().Add(t.ExpiresIn)}
}

func (a *instance) cached(openID string) pair {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cache[openID]
}

func (a *instance) remember(openID string, p pair) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cache[openID] = p
}

func (a *instance) read(openID string) (p pair) {
	var expires int64
	err := a.db.QueryRow(`SELECT access_token, refresh_token, expires_at FROM tokens WHERE open_id = ?`, openID).Scan(&p.access, &p.refresh, &expires)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		a.t.Error(err)
	}
	p.expires = time.UnixMilli(expires)
	return p
}

func (a *instance) store(openID string, p pair) {
	a.exec(`INSERT INTO tokens (open_id, access_token, refresh_token, expires_at, asked_at) VALUES (?, ?, ?, ?, 0)
		ON CONFLICT (open_id) DO UPDATE SET access_token = excluded.access_token, refresh_token = excluded.refresh_token, expires_at = excluded.expires_at, asked_at = 0`,
		openID, p.access, p.refresh, p.expires.UnixMilli())
	a.remember(openID, p)
}

// ask sends the user a message with the link, every ten minutes at most.
func (a *instance) ask(openID string) {
	var asked int64
	err := a.db.QueryRow(`SELECT asked_at FROM tokens WHERE open_id = ?`, openID).Scan(&asked)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		a.t.Error(err)
	}
	if time.Since(time.UnixMilli(asked)) < 10*time.Minute {
		return
	}
	a.exec(`INSERT INTO tokens (open_id, access_token, refresh_token, expires_at, asked_at) VALUES (?, '', '', 0, ?)
		ON CONFLICT (open_id) DO UPDATE SET asked_at = excluded.asked_at`, openID, time.Now().UnixMilli())
	card := fmt.Sprintf(`{"schema":"2.0","body":{"elements":[{"tag":"markdown","content":%q}]}}`, a.lark.AuthorizeURL(callback, openID, challenge, scopes))
	if _, err := a.lark.SendCard(context.Background(), openID, "", []byte(card)); err != nil {
		a.t.Error(err)
	}
}

func (c *common) consent(t testing.TB, openID, link string) {
	back, err := c.world.lark.Consent(link, openID)
	if err != nil {
		t.Error(err)
		return
	}
	u, err := url.Parse(back)
	if err != nil {
		t.Error(err)
		return
	}
	a := c.instances[0]
	fresh, err := a.lark.Exchange(context.Background(), session.NewSecret(u.Query().Get("code")), callback, session.NewSecret(verifier))
	if err != nil {
		t.Error(err)
		return
	}
	a.store(openID, pairOf(fresh))
}

func (a *instance) exec(query string, args ...any) {
	if _, err := a.db.Exec(query, args...); err != nil {
		a.t.Error(err)
	}
}
