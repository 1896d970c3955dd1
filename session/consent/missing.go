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
	// notAgainFor is how long a scope that a consent was to bring, and did not,
	// is not asked for again.
	notAgainFor = time.Hour
	// appInfoFor is how long what the console says about an app is believed,
	// and appInfoWait how long an Ask waits for it.
	appInfoFor  = 10 * time.Minute
	appInfoWait = 2 * time.Second
)

// choose picks the scope to ask key's user for when an API has named several of
// which one is enough: the first that is among the configured scopes, else the
// first that is enabled on the app for users, else the first. It is empty when
// there is nothing to ask for: the session has each of them, or a consent of the
// last hour was to bring it and did not.
//
// Lark's message says "one of these privileges" ([D]), and not all that it names
// are enabled on the app: asking for one that is not is a dead end (20027, or
// silence in the device flow). One report says that all were needed
// (coze-studio issue 2235, UNCONFIRMED): then the API names the rest when it is
// called again, and the next one is asked for.
func (f *Flow) choose(ctx context.Context, key session.Key, alternatives []string) (scopes, error) {
	left := newScopes(alternatives...)
	row, err := f.sessions.Load(ctx, key)
	switch {
	case err == nil:
		left = left.without(parseScopes(row.Scope))
	case !errors.Is(err, session.ErrNotFound):
		return nil, err
	}
	inVain, err := f.consents.History.ScopesAnswered(ctx, key, notAgainFor)
	if err != nil {
		return nil, err
	}
	left = left.without(inVain)
	if len(left) == 0 {
		return nil, nil
	}
	pick := left[0]
	if i := slices.IndexFunc(left, func(scope string) bool { return slices.Contains(f.scopes, scope) }); i >= 0 {
		pick = left[i]
	} else if info, ok := f.apps.info(ctx, key.AppID); ok {
		if i := slices.IndexFunc(left, info.ForUsers); i >= 0 {
			pick = left[i]
		}
	}
	return scopes{pick}.with(offlineAccess), nil
}

// apps are Lark's clients by app id, with what is known of each app.
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

// info returns what the console says about an app. ok is false when it can't be
// had, for want of a scope for example.
func (a apps) info(ctx context.Context, id string) (info lark.AppInfo, ok bool) {
	one, known := a[id]
	if !known {
		return info, false
	}
	return one.info.get(ctx, appInfoFor, appInfoWait, one.App)
}

// name returns the name by which users know an app, "" when it can't be had.
func (a apps) name(ctx context.Context, id string) string {
	one, known := a[id]
	if !known {
		return ""
	}
	bot, _ := one.bot.get(ctx, nameFor, nameWait, one.Bot)
	return clip(bot.Name, maxName)
}

const (
	// nameFor is how long an app's name is believed, and nameWait how long a
	// card waits for it.
	nameFor  = 24 * time.Hour
	nameWait = 3 * time.Second
	// failedFor is how long an answer that could not be had is not asked for
	// again.
	failedFor = time.Minute
	maxName   = 60
)

// cached is an answer of Lark's that is asked for again when it is too old. The
// last one is good enough while no newer one can be had.
type cached[V any] struct {
	// turn holds an item while somebody looks or asks.
	turn  chan struct{}
	value V
	had   bool
	until time.Time
}

func newCached[V any]() cached[V] { return cached[V]{turn: make(chan struct{}, 1)} }

// get returns the answer, and false when there has never been one. One caller
// asks at a time, for at most wait; the others wait for its result.
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
