package admin

import (
	"net/http"

	"larkside/session"
)

// PurgeWish says which sessions to delete: those of users who left, those in a
// state, or those of one user in all apps.
type PurgeWish struct {
	Left  bool          `json:"left"`
	State session.State `json:"state"`
	// User is any id of theirs. AppID is where it is looked for; empty: in every
	// app.
	User  string `json:"user"`
	AppID string `json:"app_id"`
	// DryRun has to be given, so that nothing is deleted by an oversight.
	DryRun *bool `json:"dry_run"`
}

// Purge counts what was deleted, or would be.
type Purge struct {
	DryRun bool `json:"dry_run"`
	// Sessions were found. Of them, Deleted are gone, Unrevoked have tokens that
	// Lark has not taken back yet, and Kept belong to users who consented anew
	// meanwhile.
	Sessions  int `json:"sessions"`
	Deleted   int `json:"deleted"`
	Unrevoked int `json:"unrevoked"`
	Kept      int `json:"kept"`
	// Consents were deleted with them.
	Consents int `json:"consents"`
	// Session is the one that a line of progress is about.
	Session *PurgedSession `json:"session,omitempty"`
}

// PurgedSession is a session that was found.
type PurgedSession struct {
	AppID  string         `json:"app_id"`
	OpenID string         `json:"open_id"`
	Name   string         `json:"name"`
	State  session.State  `json:"state"`
	Reason session.Reason `json:"reason"`
}

// purge answers POST /api/v1/sessions/purge; see [run].
func (a *admin) purge(w http.ResponseWriter, r *http.Request) error {
	var wish PurgeWish
	if err := readJSON(w, r, &wish); err != nil {
		return err
	}
	chosen := 0
	for _, given := range []bool{wish.Left, wish.State != "", wish.User != ""} {
		if given {
			chosen++
		}
	}
	switch {
	case chosen != 1 || wish.AppID != "" && wish.User == "":
		return invalid("Give one of left, state and user; app_id goes with user only.")
	case wish.DryRun == nil:
		return invalid("dry_run is required: true shows what would be deleted, false deletes it.")
	case wish.State != "" && wish.State != session.Active && wish.State != session.ConsentRequired && wish.State != session.Disabled:
		return invalid("state takes active, consent_required or disabled.")
	case !storable(wish.User + wish.AppID):
		return invalid("user and app_id have to be text without NUL.")
	}
	return run(a, w, r, func(progress func(Purge)) (Purge, error) {
		return a.Purge(r.Context(), wish, progress, actor(r))
	})
}
