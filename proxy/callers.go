package proxy

import (
	"net/http"

	"larkside/session"
)

// caller returns the name of the caller that h proves, "" where callers need
// no proof. The check takes the same time whichever key was sent, and tries
// them all.
func (p *proxy) caller(h http.Header) (string, error) {
	if p.cfg.CallerKeys == nil {
		return "", nil
	}
	value, _, agree := one(h, callerHeader)
	sent := session.NewSecret(value)
	name, found := "", false
	for _, c := range p.cfg.CallerKeys() {
		if c.Key.Equal(sent) && !c.Key.Empty() {
			name, found = c.Name, true
		}
	}
	if !found || !agree {
		return "", callerUnauthenticated
	}
	return name, nil
}
