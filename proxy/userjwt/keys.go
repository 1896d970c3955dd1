package userjwt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"larkside/session"
	"larkside/session/singleflight"
	"larkside/telemetry"
)

const (
	// fetchPause is the time between two fetches. Whoever sends tokens with unknown
	// keys can't make Larkside ask the issuer more often.
	fetchPause = 10 * time.Second
	// fetchTimeout bounds one fetch, and so the wait of a request for it.
	fetchTimeout = 5 * time.Second
	// keysAge is how old keys may get before they are fetched again. A key that the
	// issuer has withdrawn counts that long.
	keysAge = 5 * time.Minute
	// maxDocument is the size of the issuer's largest document, in bytes.
	maxDocument = 1 << 20
)

// keys are the issuer's, as far as they are known.
type keys struct {
	issuer     string
	client     http.Client
	complaints *telemetry.Complaints
	current    atomic.Pointer[keySet] // nil before the first fetch
	last       atomic.Pointer[outcome]
	fetches    singleflight.Group[struct{}, *keySet]
}

// keySet are the keys of one fetch. It is never changed.
type keySet struct {
	all     []jose.JSONWebKey
	fetched time.Time
}

// outcome is that of the last fetch.
type outcome struct {
	ended time.Time
	err   error
}

// known returns the present keys, or nil before the first fetch, and does not wait.
// Old keys are fetched again behind its back.
func (k *keys) known() *keySet {
	set := k.current.Load()
	if set != nil && time.Since(set.fetched) > keysAge && k.pause() <= 0 {
		k.fetches.Start(context.Background(), struct{}{}, k.fetchInTurn)
	}
	return set
}

// newer returns other keys than those of old. It fetches them if it is time to.
func (k *keys) newer(ctx context.Context, old *keySet) (*keySet, error) {
	if set := k.current.Load(); set != old {
		return set, nil
	}
	set, _, err := k.fetches.Do(ctx, struct{}{}, k.fetchInTurn)
	switch {
	case err == nil:
		return set, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	if set := k.current.Load(); set != old { // another request's fetch has just ended
		return set, nil
	}
	retry := &session.RetryError{Err: ErrSignature, After: max(time.Second, k.pause())}
	if k.last.Load().err != nil {
		retry.Err = ErrIssuerAway
	}
	return nil, retry
}

// pause returns how long the next fetch has to wait.
func (k *keys) pause() time.Duration {
	last := k.last.Load()
	if last == nil {
		return 0
	}
	return fetchPause - time.Since(last.ended)
}

// errTooSoon means that the last fetch was a moment ago.
var errTooSoon = errors.New("the keys were fetched a moment ago")

// fetchInTurn fetches the keys, unless the last fetch was a moment ago.
func (k *keys) fetchInTurn(ctx context.Context) (*keySet, error) {
	if k.pause() > 0 {
		return nil, errTooSoon
	}
	set, err := k.fetch(ctx)
	if err != nil {
		k.complaints.Log(ctx, slog.LevelWarn, "the keys for users' tokens can't be fetched; the known ones go on being used", "", "error", err)
	} else {
		k.current.Store(set)
	}
	k.last.Store(&outcome{time.Now(), err})
	return set, err
}

// fetch asks the issuer for its keys (OpenID Connect Discovery 1.0 section 4).
func (k *keys) fetch(ctx context.Context) (*keySet, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	var about struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := k.get(ctx, strings.TrimSuffix(k.issuer, "/")+"/.well-known/openid-configuration", &about); err != nil {
		return nil, err
	}
	if about.Issuer != k.issuer {
		return nil, fmt.Errorf("the issuer calls itself %.200q, not %q", about.Issuer, k.issuer)
	}
	from, err := url.Parse(about.Keys)
	if err != nil || from.Scheme != "https" && from.Scheme != "http" || from.Scheme == "http" && strings.HasPrefix(k.issuer, "https:") {
		return nil, errors.New("the issuer's jwks_uri is no https URL")
	}
	set := &keySet{fetched: time.Now()}
	var all struct{ Keys []json.RawMessage }
	if err := k.get(ctx, about.Keys, &all); err != nil {
		return nil, err
	}
	for _, one := range all.Keys {
		// Keys of unknown kinds are left out (RFC 7517 section 5). A shared secret is
		// never public. A key for encryption signs nothing.
		var key jose.JSONWebKey
		if key.UnmarshalJSON(one) == nil && key.Valid() && key.IsPublic() && key.Use != "enc" {
			set.all = append(set.all, key)
		}
	}
	if len(set.all) == 0 {
		return nil, errors.New("the issuer has no public key for signatures")
	}
	return set, nil
}

// get reads the JSON document at an address of the issuer's.
func (k *keys) get(ctx context.Context, address string, into any) error {
	in, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	in.Header.Set("Accept", "application/json")
	res, err := k.client.Do(in)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: status %d", in.URL.Redacted(), res.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxDocument))
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		return fmt.Errorf("GET %s: %w", in.URL.Redacted(), err)
	}
	return nil
}

// refuseRedirect keeps the fetch at the issuer's own addresses: a redirect may lead
// from https to http.
func refuseRedirect(*http.Request, []*http.Request) error {
	return http.ErrUseLastResponse
}
