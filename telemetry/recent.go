package telemetry

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// recentKept is how many messages [Recent] keeps, recentAttrs how many
	// attributes of each, and recentText how many bytes of a value.
	recentKept  = 100
	recentAttrs = 16
	recentText  = 500
	// recentUsers is how many users it keeps of each message.
	recentUsers = 20
)

// Recent keeps the last warnings and errors of a log, summed up by message, for
// people who look at one process. [NewRecent] makes one, and [Recent.Handler]
// what to log through. What is less than a warning costs nothing. It is safe
// for concurrent use.
type Recent struct {
	mu sync.Mutex
	// records are in the order in which they were last seen, the latest last.
	records []Record
	seen    int
}

// Record is one message and how often it was logged.
type Record struct {
	Level   slog.Level
	Message string
	// Attrs are those of the latest time, rendered as the log renders them: what
	// must not be seen has a type that prints as REDACTED. Groups are joined by
	// dots.
	Attrs []Attr
	Count int
	// Users are whom it was logged of by [Users.Log], the latest first. MoreUsers:
	// some are left out.
	Users     []RecentUser
	MoreUsers bool
	// First and Last are when.
	First, Last time.Time
}

// RecentUser is a user whom a message was logged of.
type RecentUser struct {
	// AppID is the message's attribute app_id, empty if it had none. Shown is what
	// the line says instead of OpenID.
	AppID, OpenID, Shown string
	Count                int
}

// Attr is an attribute of a log line, as text.
type Attr struct{ Name, Value string }

// NewRecent returns an empty Recent.
func NewRecent() *Recent { return &Recent{} }

// Records returns the messages, the latest first.
func (r *Recent) Records() []Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	records := slices.Clone(r.records)
	slices.Reverse(records)
	return records
}

// Seen returns how many warnings and errors were logged since the start.
func (r *Recent) Seen() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen
}

func (r *Recent) note(record Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen++
	record.Count, record.First = 1, record.Last
	i := slices.IndexFunc(r.records, func(o Record) bool { return o.Message == record.Message && o.Level == record.Level })
	if i < 0 && len(r.records) == recentKept {
		i = 0 // seen longest ago
	} else if i >= 0 {
		record.Count += r.records[i].Count
		record.First = r.records[i].First
		record.mergeUsers(r.records[i])
	}
	if i >= 0 {
		r.records = slices.Delete(r.records, i, i+1)
	}
	r.records = append(r.records, record)
}

// mergeUsers adds the users of the record before.
func (r *Record) mergeUsers(before Record) {
	users, more := slices.Clone(r.Users), before.MoreUsers
	for _, old := range before.Users {
		i := slices.IndexFunc(users, func(u RecentUser) bool { return u.AppID == old.AppID && u.OpenID == old.OpenID })
		switch {
		case i >= 0:
			users[i].Count += old.Count
		case len(users) < recentUsers:
			users = append(users, old)
		default:
			more = true
		}
	}
	r.Users, r.MoreUsers = users, more
}

// Handler returns a handler that notes warnings and errors and hands everything
// on to next, as far as next wants it.
func (r *Recent) Handler(next slog.Handler) slog.Handler {
	return &recentHandler{Handler: next, recent: r}
}

type recentHandler struct {
	slog.Handler
	recent *Recent
	// attrs and group are what WithAttrs and WithGroup have gathered.
	attrs []Attr
	group string
	// user is the one that WithAttrs has; nil: none.
	user *loggedUser
}

func (h *recentHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn || h.Handler.Enabled(ctx, l)
}

func (h *recentHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		attrs, user := slices.Clone(h.attrs), h.user
		r.Attrs(func(a slog.Attr) bool {
			attrs = appendAttr(attrs, h.group, a)
			if u, ok := a.Value.Any().(loggedUser); ok {
				user = &u
			}
			return true
		})
		record := Record{Level: r.Level, Message: cut(r.Message), Attrs: attrs, Last: r.Time}
		if user != nil {
			u := RecentUser{OpenID: user.id, Shown: user.shown, Count: 1}
			if i := slices.IndexFunc(attrs, func(a Attr) bool { return a.Name == "app_id" }); i >= 0 {
				u.AppID = attrs[i].Value
			}
			record.Users = []RecentUser{u}
		}
		h.recent.note(record)
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h *recentHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	n.Handler, n.attrs = h.Handler.WithAttrs(attrs), slices.Clone(h.attrs)
	for _, a := range attrs {
		n.attrs = appendAttr(n.attrs, h.group, a)
		if u, ok := a.Value.Any().(loggedUser); ok {
			n.user = &u
		}
	}
	return &n
}

func (h *recentHandler) WithGroup(name string) slog.Handler {
	n := *h
	n.Handler = h.Handler.WithGroup(name)
	if name != "" {
		n.group = h.group + name + "."
	}
	return &n
}

func appendAttr(to []Attr, group string, a slog.Attr) []Attr {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, member := range v.Group() {
			to = appendAttr(to, group, member)
		}
		return to
	}
	if a.Equal(slog.Attr{}) || len(to) == recentAttrs {
		return to
	}
	return append(to, Attr{group + a.Key, cut(v.String())})
}

func cut(s string) string {
	if len(s) > recentText {
		return strings.ToValidUTF8(s[:recentText], "") + "…"
	}
	return s
}
