package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"larkside/proxy/admin"
	"larkside/session"
	"larkside/session/consent"
	"larkside/session/store"
)

// purge deletes the sessions that an operator names, or tells which they are.
func (p *parts) purge(ctx context.Context, appIDs []string, w admin.PurgeWish, progress func(admin.Purge), by admin.Actor) (admin.Purge, error) {
	total := admin.Purge{DryRun: *w.DryRun}
	if w.User != "" {
		found, err := p.sessionsOf(ctx, appIDs, w.AppID, w.User)
		if err == nil {
			err = p.purgeSome(ctx, found, &total, progress, by)
		}
		return total, err
	}
	filter := store.SessionFilter{State: w.State}
	if w.Left {
		filter.State = session.Disabled
	}
	for after := (session.Key{}); ; {
		page, err := p.db.Directory.List(ctx, after, filter, consent.PurgeAtOnce)
		if err != nil || len(page) == 0 {
			return total, err
		}
		after = page[len(page)-1].Key
		if w.Left {
			page = slices.DeleteFunc(page, func(s session.Session) bool { return s.Reason != session.UserGone })
		}
		if err := p.purgeSome(ctx, page, &total, progress, by); err != nil {
			return total, err
		}
	}
}

// purgeSome purges some of the sessions, and adds them to total.
func (p *parts) purgeSome(ctx context.Context, found []session.Session, total *admin.Purge, progress func(admin.Purge), by admin.Actor) error {
	about := make(map[session.Key]*admin.PurgedSession, len(found))
	keys := make([]session.Key, len(found))
	for i := range found {
		s := &found[i]
		keys[i] = s.Key
		about[s.Key] = &admin.PurgedSession{AppID: s.AppID, OpenID: s.OpenID, Name: s.Profile.Name, State: s.State, Reason: s.Reason}
	}
	report := func(key session.Key) {
		total.Sessions++
		so := *total
		so.Session = about[key]
		progress(so)
	}
	if total.DryRun {
		for _, key := range keys {
			report(key)
		}
		return nil
	}
	return p.consents.Purge(ctx, keys, func(one consent.Purged) {
		e := store.AuditEntry{Actor: by.Name, Action: store.AuditPurge, Key: one.Key, Result: "done", Detail: origin(by)}
		if one.Deleted {
			total.Deleted++
			total.Consents += one.Consents
			was := about[one.Key]
			e.Detail += fmt.Sprintf(": it was %s; consents deleted: %d", strings.TrimSpace(string(was.State)+" "+string(was.Reason)), one.Consents)
		} else {
			total.Kept++
			e.Result, e.Detail = "failed", e.Detail+": its user consented anew meanwhile"
		}
		if !one.Revoked {
			total.Unrevoked++
			e.Detail += "; Lark has not taken back its tokens at once"
		}
		p.db.Audit.Write(ctx, e)
		report(one.Key)
	})
}

// sessionsOf returns the sessions of one person in all apps. user is an open_id,
// union_id or user_id in appID, or in any app if that is empty. Only a union_id
// leads from one app to another: a user_id may be another person's in another
// tenant.
func (p *parts) sessionsOf(ctx context.Context, appIDs []string, appID, user string) ([]session.Session, error) {
	var found []session.Session
	add := func(key session.Key, err error) error {
		if err == nil && !slices.ContainsFunc(found, func(s session.Session) bool { return s.Key == key }) {
			var s *session.Session
			if s, err = p.db.Sessions.Load(ctx, key); err == nil {
				found = append(found, *s)
			}
		}
		return ignoreNotFound(err)
	}
	for _, id := range appIDs {
		if appID != "" && id != appID {
			continue
		}
		key, err := session.Key{AppID: id, OpenID: user}, error(nil)
		if !strings.HasPrefix(user, "ou_") {
			key, err = p.db.Sessions.Resolve(ctx, id, user)
		}
		if err := add(key, err); err != nil {
			return nil, err
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("looking for a user's sessions: %w", session.ErrNotFound)
	}
	person := found[0]
	for _, s := range found {
		if s.UnionID != person.UnionID {
			return nil, fmt.Errorf("looking for a user's sessions: %w", session.ErrAmbiguous)
		}
	}
	if person.UnionID == "" {
		return found, nil
	}
	// Somebody without a key may have written another user's union_id into the row.
	// It does not resolve to this one then.
	if key, err := p.db.Sessions.Resolve(ctx, person.AppID, person.UnionID); err != nil || key != person.Key {
		return found, ignoreNotFound(err)
	}
	for _, id := range appIDs {
		if err := add(p.db.Sessions.Resolve(ctx, id, person.UnionID)); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func ignoreNotFound(err error) error {
	if errors.Is(err, session.ErrNotFound) {
		return nil
	}
	return err
}
