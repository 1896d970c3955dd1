// Package saves counts what Larkside saves an app in a day. It prints a table:
//
//	go test -v ./test/saves
//
// The day is simulated with the real code: proxy, refresh, session/consent,
// session/lark and session/store, against Lark's emulator, by a clock that runs
// only while everyone waits. Beside it two apps that look after tokens by
// themselves live through the same day.
//
// # The day
//
// The app has three instances, and a call comes to any of them. 1,000 users work
// from 9 to 17 o'clock, each on 16 tasks of ten calls. The calls of a task follow
// each other, a second apart, but one task in four begins with two calls at once.
// A task ends at a call that finds no token. In the morning 50 users have not
// consented yet, and at some time in the day an administrator takes back the
// grants of 20. Who gets a link follows it within five minutes. Access tokens live
// for two hours. Lark takes 0.2 s at the token endpoint and 0.1 s for a call.
// Nothing fails and nothing is restarted, which is kind to everybody.
//
// # Larkside
//
// A replica is beside each instance, with the settings' defaults and the redirect
// flow. (The device flow polls the token endpoint too, every five seconds at first,
// for as long as a consent is open.) Statements in the background are those that
// are executed whether or not anybody calls: each replica looks for consents that
// are due once a second, asks who leads, sweeps, and reads profiles once a day.
//
// The replicas share a SQLite file in place of PostgreSQL, and are not told of each
// other's changes: each hears of a pair that another has stored when its own entry
// is a minute old. Not counted is what PostgreSQL adds, two statements every 15 s
// by which a replica tries its listening connection, and the scrape of the metrics,
// about four statements for each replica.
//
// # The common way
//
// The instances share a table of tokens. Each call reads the user's row. An
// instance that finds the access token expired, or has it refused, spends the
// refresh token and stores the new pair. Nothing keeps two instances, or two calls
// of one, from doing so at once, and Lark answers one of them. The other takes the
// refusal for the end of the grant: it deletes the pair, and sends the user a link,
// every ten minutes at most.
//
// With care an instance keeps a pair in memory until it expires, so that it hears
// of a grant that was taken back from Lark only. After a refusal it reads the row
// again, for a second, before it believes that the grant has ended. It still sends
// refresh tokens that are spent. What Lark does to such a grant is not known: the
// emulator refuses the token, and does nothing else.
package saves

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"larkside/test/process"
)

var (
	users = flag.Int("users", 1000, "users; with -race or -short 100 at most, who work for three hours")
	tasks = flag.Int("tasks", 16, "tasks of a user in the day, of ten calls each")
)

// hours are when people work, and the part of the day that is counted.
type hours struct{ begin, end, from, until time.Duration }

var day = hours{begin: 9 * time.Hour, end: 17 * time.Hour, from: 0, until: 24 * time.Hour}

const (
	instances    = 3
	callsPerTask = 10
	// togetherEvery: of so many tasks one begins with two calls at once.
	togetherEvery = 4
	// newShare and endingShare are the users per thousand who have not consented
	// yet, and whose grant is taken back.
	newShare, endingShare = 50, 20
	callTakes             = 100 * time.Millisecond
	tokenTakes            = 200 * time.Millisecond

	path     = "/open-apis/apaas/v1/saves"
	public   = "https://larkside.test"
	callback = public + "/consent/callback"
	// verifier and challenge are those of RFC 7636, appendix B.
	verifier  = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
)

var scopes = []string{"app_engine:workspace.table:read", "offline_access"}

// TestDay holds Larkside to what the documents say, on a day with nothing wrong: a
// refresh token is sent once, and a user is asked once, when there is no grant.
func TestDay(t *testing.T) {
	if process.RaceEnabled || testing.Short() {
		*users, *tasks = min(*users, 100), min(*tasks, 6)
		day = hours{begin: 9 * time.Hour, end: 12 * time.Hour, from: 9*time.Hour - time.Minute, until: 12*time.Hour + 10*time.Minute}
	}
	var larkside, careful, plain *world
	t.Run("ways", func(t *testing.T) {
		larkside = lived(t, "larkside", throughLarkside)
		careful = lived(t, "careful", func(t testing.TB, w *world, p []*person) { theCommonWay(t, w, p, true) })
		plain = lived(t, "plain", func(t testing.TB, w *world, p []*person) { theCommonWay(t, w, p, false) })
	})
	if t.Failed() {
		return
	}
	if testing.Verbose() {
		table(os.Stdout, larkside, careful, plain)
	}

	asked, ended := 0, 0
	for _, p := range people(*users, *tasks) {
		if p.asked() {
			asked++
		}
		if p.ends > 0 {
			ended++
		}
	}
	if larkside.messages != asked || larkside.messagesSteady != 0 {
		t.Errorf("%d users had to be asked, and %d messages were sent, %d of them to others", asked, larkside.messages, larkside.messagesSteady)
	}
	if n := larkside.withoutSteady.Load(); n != 0 {
		t.Errorf("%d calls found no token though there was a grant", n)
	}
	if n := larkside.refusals.Load(); n > int64(ended) {
		t.Errorf("Lark refused %d refreshes, and %d grants were taken back", n, ended)
	}
	if mine, theirs := larkside.tokenCalls.Load(), careful.tokenCalls.Load(); mine > theirs {
		t.Errorf("%d calls to the token endpoint, and %d without Larkside", mine, theirs)
	}
	if mine, theirs := larkside.requested.Load(), plain.requested.Load(); mine > theirs {
		t.Errorf("calls led to %d statements, and to %d without Larkside", mine, theirs)
	}
	seconds := (day.until - day.from).Seconds()
	if each := float64(larkside.background.Load()) / seconds / instances; each > 2 {
		t.Errorf("%.1f statements a second in the background of each replica", each)
	}
	// Else there was nothing to save.
	if plain.messagesSteady == 0 || careful.refusals.Load() <= larkside.refusals.Load() {
		t.Error("no two instances have spent one refresh token: what is this day good for?")
	}
}

// lived returns the world in which a way has lived through the day. Parallel ones
// are over when the test around them is.
func lived(t *testing.T, name string, live func(testing.TB, *world, []*person)) *world {
	w := &world{}
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			people := people(*users, *tasks)
			w.begin(t, people)
			live(t, w, people)
		})
	})
	return w
}

// table prints what was counted.
func table(out io.Writer, larkside, careful, plain *world) {
	fmt.Fprintf(out, "\n| %s users, %.0f hours | Larkside | the common way, with care | the common way |\n|---|---:|---:|---:|\n", number(int64(*users)), (day.until - day.from).Hours())
	for _, row := range []struct {
		what string
		of   func(*world) int64
	}{
		{"calls that the app made", func(w *world) int64 { return w.calls.Load() }},
		{"calls to Lark's token endpoint", func(w *world) int64 { return w.tokenCalls.Load() }},
		{"… which Lark refused", func(w *world) int64 { return w.refusals.Load() }},
		{"messages that asked a user for consent", func(w *world) int64 { return int64(w.messages) }},
		{"… to a user whose consent was good all day", func(w *world) int64 { return int64(w.messagesSteady) }},
		{"calls that ended with 401", func(w *world) int64 { return w.without.Load() }},
		{"… for a user whose consent was good all day", func(w *world) int64 { return w.withoutSteady.Load() }},
		{"database statements for the calls", func(w *world) int64 { return w.requested.Load() }},
		{"database statements in the background", func(w *world) int64 { return w.background.Load() }},
	} {
		fmt.Fprintf(out, "| %s | %s | %s | %s |\n", row.what, number(row.of(larkside)), number(row.of(careful)), number(row.of(plain)))
	}
	fmt.Fprintln(out)
}

// number writes n with a comma between thousands.
func number(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
