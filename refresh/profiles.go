package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"larkside/session"
	"larkside/session/lark"
)

// Synced counts what one run of [Source.SyncUsers] did.
type Synced struct {
	// Read counts the users found in Lark's directory, Absent those who are not
	// there (the app may not see them), Disabled those who left or are frozen.
	Read, Absent, Disabled int
}

// SyncUsers reads the profiles of app's users that were last read before a
// time, 50 at a time. It calls progress after each 50. An id that Lark does not
// accept does not stop the others.
func (s *Source) SyncUsers(ctx context.Context, appID string, before time.Time, progress func(Synced)) (Synced, error) {
	var total Synced
	a, ok := s.apps[appID]
	if !ok {
		return total, fmt.Errorf("app %q is not configured", appID)
	}
	var last []session.Key
	for {
		keys, err := s.profiles.Due(ctx, appID, before, lark.MaxUsers)
		if err != nil || len(keys) == 0 {
			return total, err
		}
		if slices.Equal(keys, last) {
			return total, fmt.Errorf("reading profiles: %d users of app %q are due again at once", len(keys), appID)
		}
		last = keys
		if err := s.syncSome(ctx, a, keys, &total); err != nil {
			return total, err
		}
		if progress != nil {
			progress(total)
		}
	}
}

// syncDue reads the profiles that are older than [Config].Sync.
func (s *Source) syncDue(ctx context.Context, appID string) {
	n, err := s.SyncUsers(ctx, appID, s.now().Add(-s.syncEvery), nil)
	switch {
	case err != nil && ctx.Err() != nil:
		return // stopping
	case err != nil:
		s.metrics.synced(ctx, appID, syncFailed, 1)
		s.log.WarnContext(ctx, "users' data could not be read", "app_id", appID, "error", err)
		return
	case n != Synced{}:
		s.log.InfoContext(ctx, "users' data read", "app_id", appID, "read", n.Read, "absent", n.Absent, "disabled", n.Disabled)
	}
	s.metrics.synced(ctx, appID, syncDone, 1)
}

// syncSome reads one batch. Lark refuses a whole batch for one id that it does
// not accept. Such a batch is halved until that id is alone.
func (s *Source) syncSome(ctx context.Context, a *app, keys []session.Key, total *Synced) error {
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = k.OpenID
	}
	users, err := a.client.Users(ctx, ids)
	if refusedID(err) && len(keys) > 1 {
		half := len(keys) / 2
		return errors.Join(s.syncSome(ctx, a, keys[:half], total), s.syncSome(ctx, a, keys[half:], total))
	}
	if err != nil && !refusedID(err) {
		return err
	}
	found := make(map[string]lark.ContactUser, len(users))
	for _, u := range users {
		found[u.OpenID] = u
	}
	for _, key := range keys {
		if err := s.syncOne(ctx, key, found, total); err != nil {
			return err
		}
	}
	return nil
}

// refusedID reports whether Lark did not accept one of the ids.
func refusedID(err error) bool {
	var e *lark.Error
	return errors.As(err, &e) && (e.Class == lark.InvalidID || e.Class == lark.Rejected)
}

func (s *Source) syncOne(ctx context.Context, key session.Key, found map[string]lark.ContactUser, total *Synced) error {
	u, ok := found[key.OpenID]
	if !ok {
		total.Absent++
		return s.profiles.MarkSynced(ctx, key)
	}
	if err := s.profiles.Set(ctx, key, u.Profile, u.UnionID, u.UserID); err != nil {
		return err
	}
	if gone(u) {
		total.Disabled++
		return s.sessions.Disable(ctx, key, session.UserGone)
	}
	total.Read++
	return s.sessions.Enable(ctx, key, session.UserGone)
}

// gone reports whether the directory says that u can't use the app any more.
func gone(u lark.ContactUser) bool {
	return slices.Contains([]string{"resigned", "exited", "frozen"}, u.Profile.Status)
}
