package consent

import (
	"context"
	"errors"
	"slices"
	"time"

	"larkside/session"
	"larkside/session/lark"
)

const (
	// notAgainFor is how long a scope is not asked for again after a consent
	// that did not bring it.
	notAgainFor = time.Hour
	// appInfoFor is how long an app's configuration is cached, and appInfoWait
	// is how long Ask waits for it.
	appInfoFor  = 10 * time.Minute
	appInfoWait = 2 * time.Second
)

// choose picks the scope to ask key's user for, if an API wants one of several:
// the first that is configured, else the first that is enabled on the app for
// users, else the first. It returns none if there is nothing to ask for: the
// session has each of them, or a consent in the last hour did not bring it.
//
// Lark's message says "one of these privileges" ([D]), and not all of them are
// enabled on the app. Asking for one that is not enabled fails (20027, or
// silence in the device flow). One report says that all were needed
// (coze-studio issue 2235, UNCONFIRMED). Then the API names the rest when it is
// called again, and the next one is asked for.
func (m *Manager) choose(ctx context.Context, key session.Key, alternatives []string) (scopes, error) {
	left := newScopes(alternatives...)
	row, err := m.sessions.Load(ctx, key)
	switch {
	case err == nil:
		left = left.without(parseScopes(row.Scope))
	case !errors.Is(err, session.ErrNotFound):
		return nil, err
	}
	inVain, err := m.consents.History.ScopesAnswered(ctx, key, notAgainFor)
	if err != nil {
		return nil, err
	}
	left = left.without(inVain)
	if len(left) == 0 {
		return nil, nil
	}
	pick := left[0]
	if i := slices.IndexFunc(left, func(scope string) bool { return slices.Contains(m.scopes, scope) }); i >= 0 {
		pick = left[i]
	} else if info, ok := m.apps.info(ctx, key.AppID); ok {
		if i := slices.IndexFunc(left, info.ForUsers); i >= 0 {
			pick = left[i]
		}
	}
	return scopes{pick}.with(offlineAccess), nil
}

// apps has Lark's clients by app id, with what is cached of each app.
type apps map[string]*app

type app struct {
	Lark
	info cached[lark.AppInfo]
	bot  cached[lark.Bot]
}

func newApps(clients map[string]Lark) apps {
	a := make(apps, len(clients))
	for id, client := range clients {
		a[id] = &app{Lark: client, info: newCached[lark.AppInfo](), bot: newCached[lark.Bot]()}
	}
	return a
}

// info returns an app's configuration. ok is false if it can't be read, for
// example because the app lacks a scope.
func (a apps) info(ctx context.Context, id string) (info lark.AppInfo, ok bool) {
	one, known := a[id]
	if !known {
		return info, false
	}
	return one.info.get(ctx, appInfoFor, appInfoWait, one.App)
}

// name returns the name by which users know an app, or "" if it can't be read.
func (a apps) name(ctx context.Context, id string) string {
	one, known := a[id]
	if !known {
		return ""
	}
	bot, _ := one.bot.get(ctx, nameFor, nameWait, one.Bot)
	return clip(bot.Name, maxName)
}

const (
	// nameFor is how long an app's name is cached, and nameWait is how long a
	// card waits for it.
	nameFor  = 24 * time.Hour
	nameWait = 3 * time.Second
	// failedFor is how long Lark is not asked again after a failure.
	failedFor = time.Minute
	maxName   = 60
)

// cached is an answer of Lark's. It is asked for again when it is too old. If
// that fails, the last one is used.
type cached[V any] struct {
	// turn has an item while a caller uses the other fields.
	turn  chan struct{}
	value V
	had   bool
	until time.Time
}

func newCached[V any]() cached[V] { return cached[V]{turn: make(chan struct{}, 1)} }

// get returns the answer, and false if there has never been one. One caller
// asks at a time, for wait at most. The others wait for its answer.
func (c *cached[V]) get(ctx context.Context, life, wait time.Duration, ask func(context.Context) (V, error)) (v V, ok bool) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return v, false
	}
	if time.Now().Before(c.until) {
		return c.value, c.had
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	v, err := ask(ctx)
	if err != nil {
		c.until = time.Now().Add(failedFor)
		return c.value, c.had
	}
	c.value, c.had, c.until = v, true, time.Now().Add(life)
	return v, true
}
