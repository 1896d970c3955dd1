package edge

import (
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"larkside/session"
	"larkside/telemetry"
)

const (
	// wrongAdminKeys from one peer are answered with [AdminUnauthenticated] in
	// wrongAdminKeysIn, all further ones with [AdminRateLimited].
	wrongAdminKeys   = 10
	wrongAdminKeysIn = time.Minute
	// maxPeers is how many peers are remembered.
	maxPeers = 4096
)

// AdminKey is the lock of the admin listener: it judges the keys that the API
// and the console are sent. Both share one AdminKey, so that the wrong keys of a
// peer are counted and logged together. A nil AdminKey lets everybody in. It is
// safe for concurrent use; make it with [NewAdminKey].
type AdminKey struct {
	key        func() session.Secret
	complaints *telemetry.Complaints

	mu sync.Mutex
	// peers are those that have sent a wrong key, by [Peer]. The one that has
	// sent none for the longest time makes room. Guarded by mu.
	peers *simplelru.LRU[string, *suspect]
	// news bounds how fast peers enter the log: each of them has lines of its own.
	news *rate.Limiter
}

// suspect is a peer that has sent a wrong key.
type suspect struct {
	allowed *rate.Limiter
	logged  bool
}

// NewAdminKey returns the lock for the key that key returns. It is asked for each
// request, so the key can change; while it is empty, everybody is let in. A nil
// log means that nothing is logged.
func NewAdminKey(key func() session.Secret, log *slog.Logger) *AdminKey {
	peers, _ := simplelru.NewLRU[string, *suspect](maxPeers, nil) // it only fails without a size
	return &AdminKey{
		key: key, complaints: telemetry.NewComplaints(log), peers: peers,
		news: rate.NewLimiter(rate.Every(time.Second), 10),
	}
}

// Secret returns the present key, empty if there is none.
func (k *AdminKey) Secret() session.Secret {
	if k == nil {
		return session.Secret{}
	}
	return k.key()
}

// Check returns nil if sent is the key or none is needed. Otherwise it counts a
// wrong key of the peer of r, and returns [AdminUnauthenticated], or an [Answer]
// with [AdminRateLimited] if the peer sends too many. The right key is let
// through even then: those who share an address, such as all behind one ingress,
// must not lock each other out of the API.
func (k *AdminKey) Check(r *http.Request, sent string) error {
	key := k.Secret()
	sent = strings.TrimSpace(sent)
	switch {
	case key.Empty() || key.Equal(session.NewSecret(sent)):
		return nil
	case sent == "":
		return AdminUnauthenticated // that is no guess
	}
	if wait := k.count(r); wait > 0 {
		return &Answer{Failure: AdminRateLimited, RetryAfter: wait}
	}
	return AdminUnauthenticated
}

// Wait returns how long the peer of r has to wait because of its wrong keys; 0:
// not at all. The sign-in asks it before [AdminKey.Check], and looks at no key
// meanwhile.
func (k *AdminKey) Wait(r *http.Request) time.Duration {
	if k == nil {
		return 0
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if s, ok := k.peers.Peek(Peer(r)); ok {
		return s.wait(time.Now())
	}
	return 0
}

// count counts a wrong key, and returns how long its peer has to wait if it
// has sent too many.
func (k *AdminKey) count(r *http.Request) (wait time.Duration) {
	peer, now := Peer(r), time.Now()
	k.mu.Lock()
	s, known := k.peers.Get(peer)
	if !known {
		s = &suspect{allowed: rate.NewLimiter(rate.Every(wrongAdminKeysIn/wrongAdminKeys), wrongAdminKeys)}
		k.peers.Add(peer, s)
	}
	if !s.allowed.AllowN(now, 1) {
		wait = s.wait(now)
	}
	s.logged = s.logged || k.news.AllowN(now, 1)
	logged := s.logged
	k.mu.Unlock()
	if logged {
		address := r.RemoteAddr // its port leads to the process, on the same machine
		if peer == unixPeer {
			address = unixPeer
		}
		k.complaints.Log(r.Context(), slog.LevelWarn, "a wrong admin key was refused", peer, "address", address)
	}
	return wait
}

// wait returns the time until allowed admits another wrong key.
func (s *suspect) wait(now time.Time) time.Duration {
	missing := 1 - s.allowed.TokensAt(now)
	return max(0, time.Duration(missing*float64(wrongAdminKeysIn/wrongAdminKeys)))
}

// Bearer returns the bearer token of r, and whether there is one (RFC 6750
// section 2.1).
func Bearer(r *http.Request) (token string, ok bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", false
	}
	return token, true
}

// unixPeer stands for all who come over a Unix socket: they have no address.
const unixPeer = "the Unix socket"

// Peer returns whom r comes from: the IP address of the connection, of IPv6 the /64
// network, since that is what one customer has. Headers that a proxy adds do not
// count: anybody can write them.
func Peer(r *http.Request) string {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return unixPeer
	}
	ip := at.Addr().Unmap().WithZone("")
	if network, err := ip.Prefix(64); err == nil && ip.Is6() {
		return network.String()
	}
	return ip.String()
}
