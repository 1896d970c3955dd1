package admin

import (
	"net/http"
	"slices"

	"larkside/proxy/edge"
)

// Login is a sign-in at a terminal. While it waits, it has the link and how long
// that works, in seconds. At the end it has who signed in.
type Login struct {
	AppID        string `json:"app_id"`
	AuthorizeURL string `json:"authorize_url,omitempty"`
	ExpiresIn    int64  `json:"expires_in,omitempty"`
	OpenID       string `json:"open_id,omitempty"`
	Name         string `json:"name,omitempty"`
}

// login answers POST /api/v1/login?app_id=; see [run]. The link is for whoever reads
// the answer, so it is the one link that the API gives out.
func (a *admin) login(w http.ResponseWriter, r *http.Request) error {
	app := r.URL.Query().Get("app_id")
	switch {
	case app == "" && len(a.Apps) > 0:
		app = a.Apps[0]
	case !slices.Contains(a.Apps, app):
		return edge.UnknownApp
	}
	if !wantsLines(r) {
		return invalid("Send Accept: " + ndjson + ": the first line has the link, the last one who signed in.")
	}
	return run(a, w, r, func(progress func(Login)) (Login, error) { return a.Login(r.Context(), app, progress, actor(r)) })
}
