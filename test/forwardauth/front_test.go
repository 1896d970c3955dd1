package forwardauth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"larkside/test/larktest"
)

// larkHost is the one that the shipped files name.
const larkHost = "open.feishu.cn"

// front is the emulator under Lark's name, with TLS. It notes what comes.
type front struct {
	addr string
	// roots is a file with the certificate that vouches for it.
	roots string
	pool  *x509.CertPool

	mu   sync.Mutex
	seen []received
}

// received is one request as Lark got it, its Authorization included.
type received struct {
	method, target, host, sni string
	header, trailer           http.Header
	size                      int64
}

func newFront(t *testing.T, lark *larktest.Platform) *front {
	t.Helper()
	f := &front{roots: filepath.Join(t.TempDir(), "roots.pem"), pool: x509.NewCertPool()}
	certificate := selfSigned(t)
	f.pool.AddCert(certificate.Leaf)
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Leaf.Raw})
	if err := os.WriteFile(f.roots, block, 0o644); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := &counted{ReadCloser: r.Body}
		r.Body = body
		got := received{method: r.Method, target: r.RequestURI, host: r.Host, sni: r.TLS.ServerName, header: r.Header.Clone()}
		f.mu.Lock()
		i := len(f.seen)
		f.seen = append(f.seen, got)
		f.mu.Unlock()
		w.Header().Set("X-Larkside-Hint", "not larkside's")
		lark.ServeHTTP(w, r)
		f.mu.Lock()
		defer f.mu.Unlock()
		if i < len(f.seen) {
			f.seen[i].size, f.seen[i].trailer = body.n, r.Trailer.Clone()
		}
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	f.addr = server.Listener.Addr().String()
	return f
}

type counted struct {
	io.ReadCloser
	n int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.n += int64(n)
	return n, err
}

// selfSigned is a certificate for larkHost, which is its own authority.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: larkHost}, DNSNames: []string{larkHost},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (f *front) requests() []received {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]received(nil), f.seen...)
}

func (f *front) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = nil
}

// proper checks what holds for everything that a mesh sends to Lark.
func (r received) proper(t *testing.T) {
	t.Helper()
	if r.host != larkHost || r.sni != larkHost {
		t.Errorf("Host %q, SNI %q", r.host, r.sni)
	}
	if n := len(r.header["Authorization"]); n != 1 {
		t.Errorf("%d Authorization headers", n)
	}
	for name, values := range r.header {
		folded := strings.ReplaceAll(strings.ToLower(name), "_", "-")
		for _, prefix := range []string{
			"x-lark-user", "x-lark-app", "x-larkside", "cookie", "x-forwarded", "x-original", "forwarded", "via", "x-real-ip",
			"proxy-", "baggage", "prefer", "upgrade", "http2-settings",
		} {
			if strings.HasPrefix(folded, prefix) {
				t.Errorf("Lark got %s: %q", name, values)
			}
		}
	}
}

// shipped is a file of deploy/forward-auth with what an operator would change
// changed: old, new, old, new, …
func shipped(t *testing.T, name string, changes ...string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("../../deploy/forward-auth", name))
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	for i := 0; i+1 < len(changes); i += 2 {
		if !strings.Contains(text, changes[i]) {
			t.Fatalf("%s has no %q", name, changes[i])
		}
		text = strings.ReplaceAll(text, changes[i], changes[i+1])
	}
	return text
}
