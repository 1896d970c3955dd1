package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"larkside/proxy"
)

// The processes that are this same program: the upstream and the two proxies
// that Larkside is compared with.

// serveAs is such a process: "upstream ADDR ADDR", plain and TLS, or "naive ADDR
// URL USERS", or "tuned" with the same arguments.
func serveAs(ctx context.Context, args []string) error {
	if args[0] == "upstream" {
		return serveUpstream(ctx, args[1], args[2])
	}
	to, err := url.Parse(args[2])
	if err != nil {
		return err
	}
	users, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	handler := map[string]func(*url.URL, tokens) http.Handler{"naive": naive, "tuned": tuned}[args[0]]
	server := http.Server{Addr: args[1], Handler: handler(to, newTokens(users))}
	context.AfterFunc(ctx, func() { server.Close() })
	return server.ListenAndServe()
}

// tokens are the users' Authorization headers.
type tokens map[string]string

func newTokens(users int) tokens {
	t := tokens{}
	for i := range users {
		t[userName(i)] = "Bearer " + accessToken(userName(i))
	}
	return t
}

func (t tokens) rewrite(to *url.URL) func(*httputil.ProxyRequest) {
	return func(pr *httputil.ProxyRequest) {
		pr.SetURL(to)
		user := pr.Out.Header.Get("X-Lark-User-Id")
		pr.Out.Header.Del("X-Lark-User-Id")
		pr.Out.Header.Set("Authorization", t[user])
	}
}

// naive is what a first attempt looks like. The transport is net/http's default,
// which keeps two connections.
func naive(to *url.URL, t tokens) http.Handler {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: testRoots()}
	return &httputil.ReverseProxy{Rewrite: t.rewrite(to), Transport: transport}
}

// tuned is the least that a proxy in Go costs: Larkside's own transport, buffers
// that are used again, and nothing else.
func tuned(to *url.URL, t tokens) http.Handler {
	transport := proxy.TransportConfig{RootCAs: testRoots()}.Standard()
	return &httputil.ReverseProxy{Rewrite: t.rewrite(to), Transport: transport, BufferPool: &buffers{}}
}

type buffers struct{ pool sync.Pool }

const copySize = 32 << 10

func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[copySize]byte); ok {
		return buf[:]
	}
	return make([]byte, copySize)
}

func (b *buffers) Put(buf []byte) { b.pool.Put((*[copySize]byte)(buf)) }

// tokenBytes is the length of an access token, which is as long as Lark's.
const tokenBytes = 1500

func userName(i int) string { return fmt.Sprintf("ou_load%06d", i) }

// accessToken is the token of user. It says whose it is, so that the upstream
// needs no table.
func accessToken(user string) string {
	head := "u-" + user + "."
	return head + filler[:tokenBytes-len(head)]
}

// filler does not repeat itself too soon, as a token doesn't: HTTP/2 compresses
// headers by the letter.
var filler = func() string {
	var b strings.Builder
	for i := 0; b.Len() < tokenBytes; i++ {
		b.WriteString(strconv.FormatInt(int64(i)*7_919_997_773, 36))
	}
	return b.String()
}()

// ownerOf is whose token an Authorization header has; "" if it has no good one.
func ownerOf(authorization string) string {
	user, rest, _ := strings.Cut(strings.TrimPrefix(authorization, "Bearer u-"), ".")
	if len(authorization) != len("Bearer ")+tokenBytes || !strings.HasPrefix(filler, rest) {
		return ""
	}
	return user
}

const (
	jsonPath   = "/open-apis/apaas/v1/workspaces/w/tables?page_size=20"
	streamPath = "/open-apis/apaas/v1/load/stream"
	// batchesPath answers how many batches of spans have come to spansPath.
	batchesPath, spansPath = "/batches", "/v1/traces"
	// ownerHeader of each answer says whose token came.
	ownerHeader = "X-Owner"
)

// lark is the upstream: Lark as far as it is needed. It says whose token came,
// streams, renews tokens and takes traces. The emulator (test/larktest) does far
// more for each request than any proxy does, so the proxies would hardly be seen.
type lark struct{ batches, renewed atomic.Int64 }

func serveUpstream(ctx context.Context, plain, secure string) error {
	u := &lark{}
	go func() { log.Fatal(http.ListenAndServe(plain, u)) }()
	l, err := net.Listen("tcp", secure)
	if err != nil {
		return err
	}
	// httptest has a certificate for 127.0.0.1, whose root testRoots is.
	server := httptest.NewUnstartedServer(u)
	server.Listener.Close()
	server.Listener, server.EnableHTTP2 = l, true
	server.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 1000}
	server.StartTLS()
	<-ctx.Done()
	return nil
}

// testCertificate is that of the upstream. It is its own root.
var testCertificate = sync.OnceValue(func() *x509.Certificate {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	return server.Certificate()
})

func testRoots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(testCertificate())
	return pool
}

func (u *lark) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case batchesPath:
		fmt.Fprint(w, u.batches.Load())
		return
	case spansPath:
		u.batches.Add(1)
		w.Header().Set("Content-Type", "application/x-protobuf")
		return
	case tokenPath:
		u.renew(w, r)
		return
	}
	owner := ownerOf(r.Header.Get("Authorization"))
	if owner == "" || len(r.Header["Authorization"]) != 1 || r.Header["X-Lark-User-Id"] != nil {
		http.Error(w, "not one good token, or the user's header came too", http.StatusTeapot)
		return
	}
	w.Header().Set(ownerHeader, owner)
	if r.URL.Path == streamPath && r.Method == "GET" {
		size, _ := strconv.ParseInt(r.URL.Query().Get("bytes"), 10, 64)
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		io.CopyN(w, zeros{}, size)
		return
	}
	if n, err := io.Copy(io.Discard, r.Body); err != nil || r.ContentLength >= 0 && n != r.ContentLength {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	io.WriteString(w, answer)
}

// answer is 1 KiB of JSON.
var answer = func() string {
	head, tail := `{"code":0,"msg":"success","data":{"text":"`, `"}}`
	return head + strings.Repeat("x", 1024-len(head)-len(tail)) + tail
}()

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

const tokenPath = "/oauth/v3/token"

// refreshToken is the n-th one of user.
func refreshToken(user string, n int64) string { return fmt.Sprintf("ur-%s.%d", user, n) }

func (u *lark) renew(w http.ResponseWriter, r *http.Request) {
	user, _, ok := strings.Cut(strings.TrimPrefix(r.PostFormValue("refresh_token"), "ur-"), ".")
	if !ok {
		http.Error(w, `{"code":20026,"error":"invalid_grant"}`, http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	json.NewEncoder(w).Encode(map[string]any{
		"code": 0, "token_type": "Bearer", "scope": "offline_access",
		"access_token": accessToken(user), "expires_in": 7200,
		"refresh_token": refreshToken(user, u.renewed.Add(1)), "refresh_token_expires_in": 604800,
	})
}
