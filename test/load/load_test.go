package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The test binary is also the child processes, as the program is.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "-as" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestPercentile(t *testing.T) {
	hundred := make([]int64, 100)
	for i := range hundred {
		hundred[i] = int64(i + 1)
	}
	for _, tt := range []struct {
		sorted []int64
		p      float64
		want   float64
	}{
		{hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 0.991, 100}, {hundred, 1, 100}, {hundred, 0.001, 1},
		{[]int64{7}, 0.5, 7}, {[]int64{7}, 0.99, 7}, {[]int64{1, 2}, 0.5, 1}, {[]int64{1, 2}, 0.51, 2}, {[]int64{1, 2, 3}, 0.5, 2},
	} {
		if got := percentile(tt.sorted, tt.p); got != tt.want {
			t.Errorf("percentile %v of %d values is %v, want %v", tt.p, len(tt.sorted), got, tt.want)
		}
	}
	if got := percentile(nil, 0.5); !math.IsNaN(got) {
		t.Errorf("of nothing: %v", got)
	}
}

func TestSpread(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   spread
	}{
		{[]float64{3, 1, 2}, spread{2, 1, 3, 3}},
		{[]float64{4, 1, 2, 3}, spread{2.5, 1, 4, 4}},
		{[]float64{math.NaN(), 5, math.Inf(1)}, spread{5, 5, 5, 1}},
		{nil, spread{}},
	} {
		if got := over(tt.values); got != tt.want {
			t.Errorf("over(%v) = %+v, want %+v", tt.values, got, tt.want)
		}
	}
}

// A ratio is one round's by the same round's: the median of the ratios is not
// the ratio of the medians.
func TestRatiosAreByRound(t *testing.T) {
	if got := ratios([]float64{100, 10, 30}, []float64{50, 10, 10}); !slices.Equal(got, []float64{2, 1, 3}) {
		t.Errorf("ratios: %v", got)
	}
	if got := added([]float64{100, 10}, []float64{60, 4}); !slices.Equal(got, []float64{40, 6}) {
		t.Errorf("added: %v", got)
	}
	// Where tuned adds less than nothing there is no ratio.
	if got := over(ratios([]float64{8, 10}, positive([]float64{-2, 5}))); got != (spread{2, 2, 2, 1}) {
		t.Errorf("ratios to what is not above 0: %+v", got)
	}
	if got := ratios([]float64{1, 2}, []float64{2}); len(got) != 1 {
		t.Errorf("a round that one of them lacks: %v", got)
	}
}

func TestSchedule(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	s := schedule{start: start, rate: 1000}
	for i, want := range map[int]time.Duration{0: 0, 1: time.Millisecond, 1500: 1500 * time.Millisecond} {
		if got := s.at(i).Sub(start); got != want {
			t.Errorf("request %d is due after %v, want %v", i, got, want)
		}
	}
	// A rate that does not divide a second does not drift.
	s.rate = 3
	if got := s.at(3_000_000).Sub(start); got != 1_000_000*time.Second {
		t.Errorf("request 3,000,000 at 3 a second is due after %v", got)
	}
	if n := (schedule{rate: 1000}).count(1500 * time.Millisecond); n != 1500 {
		t.Errorf("%d requests in 1.5 s", n)
	}
}

// An upstream that stalls once is seen by every request that was due meanwhile,
// although none was sent: no coordinated omission.
func TestOpenLoopCountsFromWhenDue(t *testing.T) {
	const stall = 200 * time.Millisecond
	var first = make(chan struct{}, 1)
	first <- struct{}{}
	u := &upstream{}
	u.answers.New = func() any { b := slices.Clone(answer()); return &b }
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-first:
			<-time.After(stall)
		default:
		}
		u.ServeHTTP(w, r)
	}))
	defer server.Close()
	j := job{Loop: openLoop, Addrs: []string{server.Listener.Addr().String()}, Direct: true, Conns: 1, Users: 1, Rate: 200, Length: 2 * stall}
	o, err := j.do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if o.Requests != 80 {
		t.Errorf("%d requests, want 80", o.Requests)
	}
	// 40 of the 80 were due during the stall; by when they were sent, one would
	// have been slow.
	if o.P90 < float64(stall.Microseconds())/2 {
		t.Errorf("p90 is %.0f µs, although half of the requests were due in a stall of %v", o.P90, stall)
	}
}

func TestTokens(t *testing.T) {
	for _, user := range []int{0, 42, 99_999, 999_999} {
		token := accessToken(user, user%7)
		if len(token) != tokenBytes {
			t.Errorf("a token of %d bytes", len(token))
		}
		if name, ok := ownerOf("Bearer " + token); !ok || name != userName(user) {
			t.Errorf("the owner of user %d's token is %q, %v", user, name, ok)
		}
	}
	good := "Bearer " + accessToken(7, 0)
	for what, bad := range map[string]string{
		"nothing": "", "a scheme": good[1:], "a cut token": good[:len(good)-1], "one that is longer": good + "A",
		"another letter at the end": good[:len(good)-1] + "~", "another letter within": strings.Replace(good, string(filler()[:9]), "!"+string(filler()[1:9]), 1),
		"no user": strings.Replace(good, userName(7), "ou_loadabcdef", 1),
	} {
		if name, ok := ownerOf(bad); ok {
			t.Errorf("%s is taken for the token of %q", what, name)
		}
	}
}

func TestAnswersNameTheUser(t *testing.T) {
	body := slices.Clone(answer())
	copy(body[nameAt:], userName(31))
	if !json.Valid(body) || len(body) != answerBytes {
		t.Errorf("an answer of %d bytes, JSON: %v", len(body), json.Valid(body))
	}
	if !namesUser(body, 31) || namesUser(body, 32) || namesUser(body[:answerBytes-1], 31) {
		t.Error("an answer is taken for another user's, or a cut one for whole")
	}
}

// One answer with another's name ends the run.
func TestWrongUserFails(t *testing.T) {
	u := &upstream{}
	u.answers.New = func() any { b := slices.Clone(answer()); return &b }
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Authorization", "Bearer "+accessToken(1, 0)) // whoever asks
		u.ServeHTTP(w, r)
	}))
	defer server.Close()
	for _, l := range []loop{closedLoop, openLoop, onceEach, download, events} {
		j := job{Loop: l, Addrs: []string{server.Listener.Addr().String()}, Direct: true, Conns: 2, Users: 3, Rate: 500, Size: 100, Length: 100 * time.Millisecond}
		if o, err := j.do(t.Context()); err == nil {
			t.Errorf("%s: %d answers, and no error", l, o.Requests)
		}
	}
}

func TestReadAnswers(t *testing.T) {
	read := func(raw string) (reply, string, error) {
		c := &conn{r: bufio.NewReader(strings.NewReader(raw))}
		a, err := c.readHeader()
		if err != nil {
			return a, "", err
		}
		body, err := c.readBody(a)
		return a, string(body), err
	}
	a, body, err := read("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nX-Owner: ou_1\r\n\r\nhelloHTTP/1.1")
	if err != nil || a.status != 200 || a.owner != "ou_1" || body != "hello" {
		t.Errorf("%+v %q %v", a, body, err)
	}
	a, body, err = read("HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nA: b\r\n\r\n")
	if err != nil || a.status != 401 || !a.close || body != "hello" {
		t.Errorf("%+v %q %v", a, body, err)
	}
	for _, raw := range []string{"", "HTTP/2 200\r\n\r\n", "HTTP/1.1 abc OK\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"} {
		if _, _, err := read(raw); err == nil {
			t.Errorf("%q is taken for an answer", raw)
		}
	}
}

func TestCPUTime(t *testing.T) {
	stat := []byte("1234 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 9 0 100\n")
	if d, err := cpuTime(stat); err != nil || d != 2*time.Second {
		t.Errorf("%v, %v", d, err)
	}
	if _, err := cpuTime([]byte("1 (x) S 1")); err == nil {
		t.Error("a short file is taken for one")
	}
	before, err := cpuTimes([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	for {
		after, err := cpuTimes([]int{os.Getpid()})
		if err != nil {
			t.Fatal(err)
		}
		if after[0] > before[0] {
			break
		}
	}
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"-short", "-conns", "3"}, io.Discard)
	if err != nil || o.rounds != 2 || !slices.Equal(o.conns, []int{3}) || slices.Contains(o.scenarios, "scale") {
		t.Errorf("%+v, %v", o, err)
	}
	for _, args := range []string{"-run nonsense", "-conns 0", "-conns x", "-proxies apache", "-rounds 0", "-rate 0", "-length 1ns", "-users 0", "rest", "-nonsense"} {
		if _, err := parse(strings.Fields(args), io.Discard); !errors.Is(err, errUsage) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// The smallest run from end to end: the real larkside, beside tuned, and every
// answer looked at.
func TestSmoke(t *testing.T) {
	if testing.Short() {
		t.Skip("builds larkside")
	}
	file := filepath.Join(t.TempDir(), "figures.json")
	var out bytes.Buffer
	before := tempDirs(t)
	err := benchMain(t.Context(), []string{"-run", "closed,open,sse", "-conns", "4", "-rounds", "1", "-length", "100ms", "-proxies", "tuned,larkside", "-users", "8", "-json", file}, &out)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "Every answer was its user's.") {
		t.Errorf("nothing was verified:\n%s", out.String())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got figures
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, f := range got.Figures {
		if len(f.Values) == 1 && f.Values[0] != 0 {
			seen[f.Scenario+" "+f.Proxy+" "+f.Quantity] = true
		}
	}
	for _, want := range []string{"closed larkside requests/s", "closed tuned requests/s", "closed none requests/s", "closed larkside allocations/request", "open larkside added to p50 µs", "sse larkside first event p50 µs"} {
		if !seen[want] {
			t.Errorf("no figure for %s", want)
		}
	}
	if after := tempDirs(t); len(after) > len(before) {
		t.Errorf("left behind: %v", after)
	}
}

func tempDirs(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("/dev/shm/larkside-load-*")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// A child does not outlive a parent that was killed: its standard input ends.
func TestChildEndsWithItsParent(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{self: self}
	c, p, err := b.role("upstream", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	conn, err := net.Dial("tcp", p.Plain)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	c.stdin.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	select {
	case <-c.ended:
	case <-ctx.Done():
		t.Error("the upstream is still there")
	}
}
