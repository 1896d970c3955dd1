package larktest

import (
	"cmp"
	"net/http"
)

// contactUser is a user as contact v3 shows it. Email and mobile need no scope
// here: the tenant token is taken to have them.
func (p *Platform) contactUser(app string, u *User) object {
	return object{
		{"open_id", p.openID(app, u)}, {"union_id", u.UnionID}, {"user_id", u.UserID}, {"name", u.Name}, {"en_name", u.EnName},
		{"email", u.Email}, {"mobile", u.Mobile}, {"mobile_visible", true},
		{"status", map[string]bool{
			"is_frozen": u.Status == Frozen, "is_resigned": u.Status == Resigned, "is_activated": u.Status == Active,
			"is_exited": u.Status == Exited, "is_unjoin": u.Status == NotJoined,
		}},
	}
}

func (x *exchange) idType() string { return cmp.Or(x.r.URL.Query().Get("user_id_type"), "open_id") }

// contactProblem is why an id can't be answered; nil when it can.
func (p *Platform) contactProblem(x *exchange, id string) (*User, *answer) {
	var a answer
	switch x.idType() {
	case "open_id", "union_id", "user_id":
	default:
		a = x.fail(http.StatusBadRequest, 40001, "param error: user_id_type")
		return nil, &a
	}
	u, known := p.who(x.call.AppID, x.idType(), id)
	switch {
	case u == nil && x.idType() == "open_id":
		a = x.fail(http.StatusBadRequest, 99992351, "not a valid {open_id}")
	case u == nil:
		a = x.fail(http.StatusBadRequest, 41012, "user id invalid error")
	case !known:
		a = x.fail(http.StatusBadRequest, 99992361, "open_id cross app")
	case u.Missing || !u.available(x.call.AppID):
		a = x.fail(http.StatusBadRequest, 41050, "no user authority error")
	default:
		return u, nil
	}
	return nil, &a
}

func serveUser(p *Platform, x *exchange) answer {
	u, problem := p.contactProblem(x, x.vars["user_id"])
	if problem != nil {
		return *problem
	}
	return success(object{{"user", p.contactUser(x.call.AppID, u)}})
}

// serveUserBatch leaves out whom the app may not see, as Lark does.
func serveUserBatch(p *Platform, x *exchange) answer {
	ids := x.r.URL.Query()["user_ids"]
	if len(ids) == 0 || len(ids) > 50 {
		return x.fail(http.StatusBadRequest, 40001, "param error: user_ids takes 1 to 50")
	}
	items := []object{}
	for _, id := range ids {
		if u, problem := p.contactProblem(x, id); problem == nil {
			items = append(items, p.contactUser(x.call.AppID, u))
		} else if code := problem.code(); code != 41050 && code != 99992351 && code != 41012 {
			return *problem
		}
	}
	return success(object{{"items", items}})
}

func serveBasicBatch(p *Platform, x *exchange) answer {
	var in struct {
		UserIDs []string `json:"user_ids"`
	}
	if err := x.decode(&in); err != nil || len(in.UserIDs) == 0 || len(in.UserIDs) > 10 {
		return x.fail(http.StatusBadRequest, 40001, "param error: user_ids takes 1 to 10")
	}
	users := []object{}
	for _, id := range in.UserIDs {
		if u, _ := p.who(x.call.AppID, x.idType(), id); u != nil && !u.Missing {
			users = append(users, object{{"user_id", id}, {"name", u.Name}})
		}
	}
	return success(object{{"users", users}})
}
