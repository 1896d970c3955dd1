package larktest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Status is the state of a user in the tenant.
type Status string

// The zero Status is active.
const (
	Active    Status = ""
	Frozen    Status = "frozen"
	Resigned  Status = "resigned"
	Exited    Status = "exited"
	NotJoined Status = "not_joined"
)

// User is a person of the one tenant.
type User struct {
	// OpenID is the id in the first app; OpenIDs overrides it per app id. In
	// every further app it is derived, and different.
	OpenID  string            `json:"open_id,omitempty"`
	OpenIDs map[string]string `json:"open_ids,omitempty"`
	// UnionID, UserID and the rest are made up when empty.
	UnionID string `json:"union_id,omitempty"`
	UserID  string `json:"user_id,omitempty"`
	Name    string `json:"name,omitempty"`
	EnName  string `json:"en_name,omitempty"`
	Email   string `json:"email,omitempty"`
	Mobile  string `json:"mobile,omitempty"`
	Status  Status `json:"status,omitempty"`
	// Unavailable lists apps whose availability range leaves the user out
	// (20010, 230013). BotMuted: the user stopped the bot's messages (230053).
	Unavailable []string `json:"unavailable,omitempty"`
	BotMuted    bool     `json:"bot_muted,omitempty"`
	// Unregistered hides the user from user_info (20023) and Missing from
	// everything (20008), though ids stay known.
	Unregistered bool `json:"unregistered,omitempty"`
	Missing      bool `json:"missing,omitempty"`
	// Language is what pages and the chat show: zh_cn, en_us (default), ja_jp.
	Language string `json:"language,omitempty"`
}

func defaultUsers() []User {
	return []User{
		{OpenID: Alice, Name: "Alice Zhang", Email: "alice@example.com", Mobile: "+8613800000001"},
		{OpenID: Bob, Name: "Bob Li", Email: "bob@example.com", Mobile: "+8613800000002"},
		{OpenID: Carol, Name: "カロル Carol", Email: "carol@example.com", Mobile: "+819000000003"},
	}
}

// identity is one user in one app: what an open_id names.
type identity struct {
	app  string
	user *User
}

// AddUser adds a user and returns the open_id in the first app.
func (p *Platform) AddUser(user User) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addUser(user).OpenID
}

func (p *Platform) addUser(user User) *User {
	u := &user
	if u.OpenID == "" {
		u.OpenID = "ou_" + randomHex(16)
	}
	sum := sha256.Sum256([]byte(u.OpenID))
	digits := hex.EncodeToString(sum[:])
	setString(&u.UnionID, "on_"+digits[:32])
	setString(&u.UserID, digits[32:40])
	setString(&u.Name, "User "+strings.TrimPrefix(u.OpenID, "ou_"))
	setString(&u.Language, "en_us")
	p.users = append(p.users, u)
	for _, id := range p.appOrder {
		p.byOpenID[p.openID(id, u)] = identity{id, u}
	}
	return u
}

func setString(s *string, to string) {
	if *s == "" {
		*s = to
	}
}

// openID is the id of u in an app: open_ids differ from app to app.
func (p *Platform) openID(app string, u *User) string {
	if id, ok := u.OpenIDs[app]; ok {
		return id
	}
	if len(p.appOrder) == 0 || app == p.appOrder[0] {
		return u.OpenID
	}
	sum := sha256.Sum256([]byte(app + "\x00" + u.UnionID))
	return "ou_" + hex.EncodeToString(sum[:16])
}

// OpenIDIn returns the open_id that the user named by openID (in any app) has
// in the given app; empty when there is no such user.
func (p *Platform) OpenIDIn(appID, openID string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	who, ok := p.byOpenID[openID]
	if !ok {
		return ""
	}
	return p.openID(appID, who.user)
}

// User returns a copy of the user whom openID names in any app.
func (p *Platform) User(openID string) (User, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	who, ok := p.byOpenID[openID]
	if !ok {
		return User{}, fmt.Errorf("user %q: %w", openID, ErrNoUser)
	}
	return *who.user, nil
}

// UpdateUser lets change edit the user whom openID names; ids are kept. change
// must not call the Platform. The tokens of a user who is not active are
// refused until the user is again; no event is sent, see [Platform.SendRevoked].
func (p *Platform) UpdateUser(openID string, change func(*User)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	who, ok := p.byOpenID[openID]
	if !ok {
		return fmt.Errorf("update user %q: %w", openID, ErrNoUser)
	}
	ids := [3]string{who.user.OpenID, who.user.UnionID, who.user.UserID}
	change(who.user)
	who.user.OpenID, who.user.UnionID, who.user.UserID = ids[0], ids[1], ids[2]
	p.touch()
	return nil
}

// who finds the user that an id of the given type (open_id, union_id, user_id,
// email) names in an app. Ad hoc users come into being here.
func (p *Platform) who(app, idType, id string) (*User, bool) {
	if idType == "open_id" {
		return p.whoOpenID(app, id)
	}
	for _, u := range p.users {
		if id != "" && (idType == "union_id" && u.UnionID == id || idType == "user_id" && u.UserID == id || idType == "email" && u.Email == id) {
			return u, true
		}
	}
	return nil, false
}

func (p *Platform) whoOpenID(app, id string) (*User, bool) {
	if who, ok := p.byOpenID[id]; ok {
		return who.user, who.app == app
	}
	if !p.config.AdHocUsers || !strings.HasPrefix(id, "ou_") || len(id) <= 3 || p.apps[app] == nil {
		return nil, false
	}
	if app == p.appOrder[0] {
		return p.addUser(User{OpenID: id}), true
	}
	return p.addUser(User{OpenIDs: map[string]string{app: id}, Name: "User " + id[3:]}), true
}

func (u *User) available(app string) bool { return !slices.Contains(u.Unavailable, app) }
