package bench

import (
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"os"
	"slices"
	"testing"
	"time"

	"larkside/test/larktest"
	"larkside/test/process"
)

func TestMain(m *testing.M) { os.Exit(process.Main(m)) }

// BenchmarkConsentToCall is the time from a user's consent, which is when the
// browser comes back from Lark, to the answer of the call that waits for it on
// another replica: the real program twice, PostgreSQL, the redirect flow. What
// the exchange and the call cost is in it.
func BenchmarkConsentToCall(b *testing.B) {
	platform := larktest.Start(b, &larktest.Config{AdHocUsers: true, TokenPerSecond: -1})
	o := process.Options{Lark: platform, DB: process.Postgres(b), Ingress: process.NewBalancer(b), Env: map[string]string{"SCOPES": "app_engine:workspace.table:read"}}
	waits := process.Start(b, o)
	process.Start(b, o) // finishes

	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		took = append(took, consentToCall(b, platform, waits, fmt.Sprintf("ou_waits%d", i)))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "median-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

func consentToCall(b *testing.B, platform *larktest.Platform, waits *process.Process, openID string) time.Duration {
	link := waits.Link(b, path, openID)
	jar, err := cookiejar.New(nil)
	if err != nil {
		b.Fatal(err)
	}
	browser := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	start, err := browser.Get(link)
	if err != nil {
		b.Fatal(err)
	}
	start.Body.Close()
	back, err := platform.Consent(start.Header.Get("Location"), openID)
	if err != nil {
		b.Fatal(err)
	}
	r := waits.Request(b, "GET", path, openID, "", "Prefer", "wait=30")
	answered := make(chan time.Time, 1)
	go func() {
		if a, err := process.Try(r); err != nil || a.Status != http.StatusOK {
			b.Errorf("the call: %+v, %v", a, err)
		}
		answered <- time.Now()
	}()
	// Past its first, quick looks a waiting request relies on being woken.
	time.Sleep(1100 * time.Millisecond)
	consented := time.Now()
	done, err := browser.Get(back)
	if err != nil {
		b.Fatal(err)
	}
	done.Body.Close()
	return (<-answered).Sub(consented)
}
