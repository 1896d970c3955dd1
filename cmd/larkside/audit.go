package main

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"larkside/proxy/admin"
	"larkside/session"
)

// audit writes down what an operator did and what came of it.
func (p *parts) audit(ctx context.Context, by admin.Actor, action session.AuditAction, key session.Key, err error) {
	e := session.AuditEntry{Actor: by.Name, Action: action, Key: key, Result: "done", Detail: "from " + by.Address}
	if by.Address == "" || by.Address == "@" {
		e.Detail = "from the Unix socket"
	}
	if err != nil {
		e.Result, e.Detail = "failed", e.Detail+": "+err.Error()
	}
	p.store.Audit(ctx, e)
}

// auditSweep is how often old entries are looked for.
const auditSweep = time.Hour

// forgetAudit deletes entries older than retention, soon after the start and
// then every auditSweep, on one replica at a time, until ctx ends.
func (p *parts) forgetAudit(ctx context.Context, retention time.Duration, log *slog.Logger) error {
	for wait := time.Minute; ; wait = auditSweep {
		// The jitter keeps replicas that were started together apart.
		timer := time.NewTimer(wait + rand.N(wait/10))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		leads, err := p.store.Lead(ctx, "audit", auditSweep)
		if err == nil && leads {
			err = p.store.ForgetAudit(ctx, retention)
		}
		if err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "old audit entries could not be deleted", "error", err)
		}
	}
}
