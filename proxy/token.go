package proxy

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"larkside/session"
	"larkside/telemetry"
)

// findToken sets x.credential.access to a token of the user's that may be sent
// now.
func (p *proxy) findToken(x *request) error {
	p.endIdentify(x, false)
	access, lookup, err := p.lookUp(x)
	p.metrics.countLookup(lookup)
	x.result.lookup = lookup
	if err != nil {
		return err
	}
	x.credential.access = access
	return servable(access, x.who.user, time.Now())
}

// lookUp asks the token source, in a span of its own.
func (p *proxy) lookUp(x *request) (*session.Access, session.Lookup, error) {
	var ctx context.Context = x
	var span trace.Span
	if x.trace.server.IsRecording() {
		ctx, span = p.tracer.Start(x, "token.lookup")
		defer span.End()
	}
	access, lookup, err := p.cfg.Tokens.Token(ctx, x.who.user)
	if err != nil {
		lookup = session.Missing
	}
	if span != nil {
		all := attributes{telemetry.Result.String(string(lookup))}
		if err != nil {
			reason, _ := reasonOf(err)
			all.add(telemetry.Reason, string(reason))
			all.add(telemetry.ErrorType, lookupError(err))
			span.SetStatus(codes.Error, "")
		}
		span.SetAttributes(all...)
	}
	return access, lookup, err
}
