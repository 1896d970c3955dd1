package proxy

import (
	"errors"
	"log/slog"

	"larkside/proxy/edge"
	"larkside/session"
)

// prove returns the name of the user whose request it is. named is what
// X-Lark-User-Id says, or "". If users have to be proven, the token in
// X-Larkside-User-Token names the user, and named must mean the same one: an app
// that mixes up two users must get no token.
func (p *proxy) prove(x *request, named string) (string, error) {
	if p.cfg.ProveUser == nil {
		return named, nil
	}
	token, present, agree := one(x.in.Header, proofHeader)
	switch {
	case !present:
		return "", p.unproven(x, errors.New("is missing"))
	case !agree:
		return "", p.unproven(x, errors.New("stands more than once with different values"))
	}
	proven, err := p.cfg.ProveUser(x.identifyContext(), token)
	if err != nil {
		return "", p.unproven(x, err)
	}
	if fault := faultOfID(proven); fault != "" {
		return "", p.unproven(x, errors.New("names a user by an id that "+fault))
	}
	if named == "" || named == proven {
		return proven, nil
	}
	same, err := p.sameUser(x, named, proven)
	switch {
	case err != nil:
		return "", err
	case !same:
		return "", p.unproven(x, errors.New("is for another user than X-Lark-User-Id, or for one who is not known by that id yet"))
	}
	return named, nil
}

// sameUser reports whether two names are known to mean the same user.
func (p *proxy) sameUser(x *request, a, b string) (bool, error) {
	first, err := p.resolve(x, a)
	if err == nil {
		var second session.Key
		second, err = p.resolve(x, b)
		if err == nil {
			return first == second, nil
		}
	}
	if errors.Is(err, session.ErrNotFound) {
		return false, nil
	}
	return false, err
}

// unproven returns the answer to a request whose user is not proven. why ends a
// sentence about the token.
func (p *proxy) unproven(x *request, why error) error {
	cause := why
	if retry, ok := errors.AsType[*session.RetryError](why); ok {
		cause = retry.Err // the time would make each text another one
	}
	if x.Err() == nil {
		p.complaints.Log(x, slog.LevelInfo, "a request whose user is not proven was refused", cause.Error(),
			"error", "the token "+cause.Error(), "caller", x.who.caller)
	}
	a := edge.New(edge.UserUnproven, why)
	a.Detail = "Nothing proves who the user is: the token in X-Larkside-User-Token " + cause.Error() + "."
	return a
}
