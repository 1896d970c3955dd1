package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	jsonPath   = "/open-apis/apaas/v1/workspaces/w/tables?page_size=20"
	streamPath = "/open-apis/apaas/v1/load/"
)

// upstream is Lark as far as it is needed: it says whose token came, streams,
// renews tokens, and takes traces. The emulator (test/larktest) does far more
// for each request than any proxy here, which would then hardly be seen.
type upstream struct {
	refreshes, traces, errors atomic.Int64
	answers                   sync.Pool
}

// upstreamStats is what GET /stats has.
type upstreamStats struct{ Refreshes, Traces, Errors int64 }

// places is what a child process tells its parent in its first line.
type places struct {
	// Plain and TLS are host:port.
	Plain, TLS string
	// Roots is PEM.
	Roots string
	// Stats is the URL of a Go process's [runtimeStats].
	Stats string
}

func upstreamMain(ctx context.Context) error {
	certificate, roots, err := selfSigned()
	if err != nil {
		return err
	}
	u := &upstream{}
	u.answers.New = func() any { b := append([]byte(nil), answer()...); return &b }
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	secure, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: u, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 1000}}
	secureServer := &http.Server{Handler: u, TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}}, HTTP2: server.HTTP2}
	defer server.Close()
	defer secureServer.Close()
	go server.Serve(plain)
	go secureServer.ServeTLS(secure, "", "")
	return report(ctx, places{Plain: plain.Addr().String(), TLS: secure.Addr().String(), Roots: roots})
}

// report tells the parent where this process is and waits for its end, by ctx or
// by the end of standard input: a parent that was killed leaves nothing behind.
func report(ctx context.Context, p places) error {
	if err := json.NewEncoder(os.Stdout).Encode(p); err != nil {
		return err
	}
	gone := make(chan struct{})
	go func() { io.Copy(io.Discard, os.Stdin); close(gone) }()
	select {
	case <-ctx.Done():
	case <-gone:
	}
	return nil
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/stats":
		json.NewEncoder(w).Encode(upstreamStats{u.refreshes.Load(), u.traces.Load(), u.errors.Load()})
		return
	case "/v1/traces":
		u.traces.Add(1)
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/x-protobuf")
		return
	case "/oauth/v3/token":
		u.refresh(w, r)
		return
	}
	owner, ok := ownerOf(r.Header.Get("Authorization"))
	if len(r.Header["Authorization"]) != 1 || len(r.Header["X-Lark-User-Id"]) != 0 {
		ok = false
	}
	if !ok {
		u.errors.Add(1)
		http.Error(w, "load: not one good token, or the user's header came too", http.StatusTeapot)
		return
	}
	h := w.Header()
	h["X-Owner"] = []string{owner}
	h["X-Tt-Logid"] = []string{"20260101000000000000000000000001"}
	switch r.URL.Path {
	case streamPath + "down":
		u.down(w, r)
	case streamPath + "events":
		u.events(w)
	case streamPath + "up":
		if n, err := io.Copy(io.Discard, r.Body); err != nil || n != r.ContentLength && r.ContentLength >= 0 {
			u.errors.Add(1)
			http.Error(w, "load: the body was cut", http.StatusTeapot)
			return
		}
		u.answer(w, owner)
	default:
		u.answer(w, owner)
	}
}

func (u *upstream) answer(w http.ResponseWriter, owner string) {
	b := u.answers.Get().(*[]byte)
	defer u.answers.Put(b)
	copy((*b)[nameAt:], owner)
	h := w.Header()
	h["Content-Type"] = []string{"application/json; charset=utf-8"}
	h["Content-Length"] = []string{strconv.Itoa(answerBytes)}
	w.Write(*b)
}

func (u *upstream) down(w http.ResponseWriter, r *http.Request) {
	left, err := strconv.ParseInt(r.URL.Query().Get("bytes"), 10, 64)
	if err != nil {
		http.Error(w, "load: bytes", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(left, 10))
	for left > 0 {
		n, err := w.Write(block[:min(left, int64(len(block)))])
		if err != nil {
			return
		}
		left -= int64(n)
	}
}

// eventsPerStream is how long a stream is.
const eventsPerStream = 3

func (u *upstream) events(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w)
	for range eventsPerStream {
		fmt.Fprintf(w, "data: %d\n\n", time.Now().UnixNano())
		if flush.Flush() != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// refreshToken is what stands behind a session: whose it is, its generation, and
// how long the access tokens live that it brings, in seconds.
func refreshToken(user, generation, life int) string {
	return fmt.Sprintf("ur-%s.%d.%d", userName(user), generation, life)
}

func (u *upstream) refresh(w http.ResponseWriter, r *http.Request) {
	u.refreshes.Add(1)
	token := strings.TrimPrefix(r.PostFormValue("refresh_token"), "ur-")
	parts := strings.Split(token, ".")
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	user, ok := userNumber(parts[0])
	if !ok || len(parts) != 3 {
		u.errors.Add(1)
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"code":20026,"error":"invalid_grant","error_description":"load: no such refresh token"}`)
		return
	}
	generation, _ := strconv.Atoi(parts[1])
	life, _ := strconv.Atoi(parts[2])
	json.NewEncoder(w).Encode(map[string]any{
		"code": 0, "token_type": "Bearer", "scope": "offline_access",
		"access_token": accessToken(user, generation+1), "expires_in": life,
		"refresh_token": refreshToken(user, generation+1, life), "refresh_token_expires_in": 604800,
	})
}

// selfSigned is a certificate for localhost and 127.0.0.1, its own authority.
func selfSigned() (tls.Certificate, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	roots := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots, nil
}
