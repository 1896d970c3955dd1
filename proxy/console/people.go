package console

import (
	"context"
	"slices"
	"strings"

	"larkside/session"
	"larkside/session/store"
	"larkside/telemetry"
)

// person is a user as pages show them: by name where there is one, and by a short
// form of the id, which is copied whole.
type person struct {
	Key                 session.Key
	Name, OpenID, Short string
	// App is shown where there are several, or the session is another one's.
	App string
}

func (k *Console) person(key session.Key, name string) person {
	p := person{Key: key, Name: visible(name), OpenID: visible(key.OpenID), Short: visible(short(key.OpenID))}
	if len(k.Apps) > 1 || !slices.Contains(k.Apps, key.AppID) {
		p.App = visible(key.AppID)
	}
	return p
}

// maxShort is how long an id may be to be shown whole in a list.
const maxShort = 14

// short returns the beginning and the end of an id, by which people tell ids apart.
func short(id string) string {
	r := []rune(id)
	if len(r) <= maxShort {
		return id
	}
	return string(r[:3]) + "…" + string(r[len(r)-6:])
}

// names returns the names of users. Pages do without those that can't be had.
func (k *Console) names(ctx context.Context, keys []session.Key) map[session.Key]string {
	stored := k.Store()
	if stored == nil || len(keys) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, overviewPatience)
	defer cancel()
	names, err := stored.Directory.Names(ctx, keys)
	if err != nil {
		return nil
	}
	return names
}

// whom returns the user whom text names: by any id, by a whole name or email, or as
// a log line shows them. The problem is the key of a text, empty if one user is
// found or none is asked for.
func (k *Console) whom(ctx context.Context, stored *Store, app, text string) (key session.Key, problem string, err error) {
	key = session.Key{AppID: app, OpenID: text}
	if text == "" || strings.HasPrefix(text, "ou_") {
		return key, "", nil
	}
	if len(text) > maxText {
		return key, "", errBadInput
	}
	found, err := stored.Directory.Find(ctx, session.Key{}, store.SessionFilter{AppID: app}, text, 2)
	switch {
	case err != nil:
		return key, "", err
	case len(found.Sessions) == 1:
		return found.Sessions[0].Key, "", nil
	case len(found.Sessions) > 1:
		return key, "whom.several", nil
	}
	asked, err := k.askedAs(ctx, stored, app, text)
	if err != nil {
		return key, "", err
	}
	if len(asked) == 0 {
		return key, "whom.nobody", nil
	}
	return asked[0], "", nil
}

const (
	// askedChunk is how many consents one statement of askedAs reads, and askedMost
	// how many it looks at.
	askedChunk = 1000
	askedMost  = 20_000
)

// askedAs returns those who were asked and whom a log line shows as text.
func (k *Console) askedAs(ctx context.Context, stored *Store, app, text string) (keys []session.Key, err error) {
	if k.UserShown == nil || !telemetry.IsUserHash(text) {
		return nil, nil
	}
	before := ""
	for range askedMost / askedChunk {
		found, err := stored.Consents.List(ctx, before, store.ConsentFilter{Key: session.Key{AppID: app}}, askedChunk)
		if err != nil {
			return nil, err
		}
		for i := range found {
			before = found[i].ID
			if k.UserShown(found[i].OpenID) == text && !slices.Contains(keys, found[i].Key) {
				keys = append(keys, found[i].Key)
			}
		}
		if len(keys) > 0 || len(found) < askedChunk {
			break
		}
	}
	return keys, nil
}

// askedOnly returns the users whom text names and who were asked, but have no
// session: by their whole open_id, or as a log line shows them.
func (k *Console) askedOnly(ctx context.Context, stored *Store, app, text string, found []session.Session) ([]session.Key, error) {
	text = strings.TrimSpace(text)
	if len(found) > 0 || text == "" {
		return nil, nil
	}
	keys, err := k.askedAs(ctx, stored, app, text)
	if err != nil || !strings.HasPrefix(text, "ou_") {
		return keys, err
	}
	for _, id := range k.Apps {
		if app != "" && id != app {
			continue
		}
		key := session.Key{AppID: id, OpenID: text}
		asked, err := stored.Consents.Of(ctx, key, 1)
		if err != nil {
			return nil, err
		}
		if len(asked) > 0 {
			keys = append(keys, key)
		}
	}
	return keys, nil
}
