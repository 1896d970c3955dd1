package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"larkside/test/load/tokens"
)

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

// serveUpstream serves the upstream at two addresses until ctx ends, with TLS at the
// second one.
func serveUpstream(ctx context.Context, plain, secure string) error {
	u := &lark{}
	first, err := net.Listen("tcp", plain)
	if err != nil {
		return err
	}
	go func() { log.Fatal(http.Serve(first, u)) }()
	l, err := net.Listen("tcp", secure)
	if err != nil {
		return err
	}
	// httptest has a certificate for 127.0.0.1, whose root testRoots is.
	server := httptest.NewUnstartedServer(u)
	server.Listener.Close()
	server.Listener, server.EnableHTTP2 = l, true
	// net/http's server takes frames of 1 MiB. nginx takes 16 KiB, the default of
	// RFC 9113.
	server.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 1000, MaxReadFrameSize: 16 << 10}
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
	owner := tokens.Owner(r.Header.Get("Authorization"))
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
		"access_token": tokens.Of(user), "expires_in": 7200,
		"refresh_token": refreshToken(user, u.renewed.Add(1)), "refresh_token_expires_in": 604800,
	})
}
