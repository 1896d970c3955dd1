package process

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Answer is an HTTP answer, read whole.
type Answer struct {
	Status int
	Header http.Header
	Body   string
	// Envelope is the body as far as it is Lark's envelope or the emulator's.
	Envelope Envelope
}

// Envelope is what tests read of a JSON body, be it Lark's or Larkside's.
type Envelope struct {
	Code  int
	Msg   string
	Error struct {
		Type, Reason, Card string
		AuthorizeURL       string `json:"authorize_url"`
		ExpiresIn          int    `json:"expires_in"`
	}
	// Owner is in the echo helper's answers, Data.Owner in all others.
	Owner Owner
	Data  struct {
		Owner Owner
		Items json.RawMessage
	}
}

// Owner says whose token came to the emulator.
type Owner struct {
	Token  string // user_access_token, tenant_access_token
	AppID  string `json:"app_id"`
	OpenID string `json:"open_id"`
}

// Name is the name of one of larkside's own errors, empty for other answers.
func (a *Answer) Name() string { return a.Header.Get("X-Larkside-Error") }

// Owner is the open_id of whose token the emulator saw.
func (a *Answer) Owner() string {
	if id := a.Envelope.Owner.OpenID; id != "" {
		return id
	}
	return a.Envelope.Data.Owner.OpenID
}

// client never follows redirects and uses no proxy of the environment.
var client = &http.Client{
	Transport:     &http.Transport{MaxIdleConnsPerHost: 100},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Timeout:       2 * Patience,
}

// Do sends r as it is. The test fails when no answer comes.
func Do(t testing.TB, r *http.Request) *Answer {
	t.Helper()
	a, err := Try(r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Try sends r as it is and returns an error where [Do] fails the test. Any
// goroutine may call it.
func Try(r *http.Request) (*Answer, error) {
	res, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	return Read(res)
}

// Read reads an answer to its end.
func Read(res *http.Response) (*Answer, error) {
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	a := &Answer{Status: res.StatusCode, Header: res.Header, Body: string(body)}
	json.Unmarshal(body, &a.Envelope) // tests look at what they need
	return a, err
}

// Request is a request to the proxy listener for a user, or for none if openID
// is empty. header is NAME, value, NAME, value, …; path may have a query.
func (p *Process) Request(t testing.TB, method, path, openID, body string, header ...string) *http.Request {
	t.Helper()
	return NewRequest(t, method, p.URL+path, openID, body, header...)
}

// NewRequest returns a request to any URL, for a user or for none if openID is
// empty. header are NAME, value pairs.
func NewRequest(t testing.TB, method, url, openID, body string, header ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if openID != "" {
		r.Header.Set("X-Lark-User-Id", openID)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
		r.Header.Del("Host")
	}
	return r
}

// Get asks through the proxy listener.
func (p *Process) Get(t testing.TB, path, openID string, header ...string) *Answer {
	t.Helper()
	return Do(t, p.Request(t, http.MethodGet, path, openID, "", header...))
}

// Admin asks the admin listener.
func (p *Process) Admin(t testing.TB, method, path string, header ...string) *Answer {
	t.Helper()
	return Do(t, NewRequest(t, method, p.AdminURL+path, "", "", header...))
}

// Metric is the lines of /metrics that begin with name.
func (p *Process) Metric(t testing.TB, name string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(p.Admin(t, http.MethodGet, "/metrics").Body) {
		if strings.HasPrefix(line, name) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// Raw sends a request line that no client would, and the headers given, as
// "NAME: value". Connection: close is added.
func (p *Process) Raw(t testing.TB, line, openID string, header ...string) *Answer {
	t.Helper()
	header = append(header, "Connection: close")
	if openID != "" {
		header = append(header, "X-Lark-User-Id: "+openID)
	}
	return Send(t, p.URL, line, "", header...)
}

// Send writes a request byte by byte as it is and reads the answer. line has no
// version, header are "NAME: value"; a Host and a Content-Length are added unless
// they are there.
func Send(t testing.TB, url, line, body string, header ...string) *Answer {
	t.Helper()
	conn := Dial(t, url)
	defer conn.Close()
	var b strings.Builder
	fmt.Fprintf(&b, "%s HTTP/1.1\r\n", line)
	all := "\r\n" + strings.ToLower(strings.Join(header, "\r\n"))
	if !strings.Contains(all, "\r\nhost:") {
		fmt.Fprintf(&b, "Host: %s\r\n", Host(url))
	}
	if body != "" && !strings.Contains(all, "\r\ntransfer-encoding:") {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	for _, h := range header {
		b.WriteString(h + "\r\n")
	}
	b.WriteString("\r\n" + body)
	go io.WriteString(conn, b.String()) // who refuses may not read it all
	method, _, _ := strings.Cut(line, " ")
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	a, err := Read(res)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return a
}

// Dial opens a connection to a URL of a listener. It ends with the test, and
// what is done on it fails after [Patience].
func Dial(t testing.TB, url string) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", Host(url), Patience)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(Patience))
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Host is the HOST:PORT of a listener's URL.
func Host(url string) string { return strings.TrimPrefix(url, "http://") }
