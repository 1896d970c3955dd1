package operate

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// sessionPath is the API's path of a session. Without an app it is the instance's
// first one's.
func sessionPath(app, user string) string {
	if app == "" {
		app = "-"
	}
	return "/api/v1/sessions/" + url.PathEscape(app) + "/" + url.PathEscape(user)
}

// findUser returns the app and open_id of a user who is given by any id, by name or
// email, or as a log line shows them. It returns text itself if nobody is found,
// since somebody without a session is known by the open_id alone.
func (o *operation) findUser(app, text string) (inApp, openID string, err error) {
	if strings.HasPrefix(text, "ou_") {
		return app, text, nil
	}
	var s apiSession
	switch err := o.client.call(o.ctx, http.MethodGet, sessionPath(app, text), nil, &s); {
	case err == nil: // a union_id or user_id, which an index finds
		return s.AppID, s.OpenID, nil
	case !notFound(err):
		return "", "", err
	}
	var found []apiSession
	err = o.client.pages(o.ctx, "/api/v1/sessions", parameters(map[string]string{"app_id": app, "user": text}), func(item json.RawMessage) error {
		var s apiSession
		if err := json.Unmarshal(item, &s); err != nil {
			return err
		}
		found = append(found, s)
		return nil
	})
	switch {
	case err != nil:
		return "", "", err
	case len(found) == 1:
		return found[0].AppID, found[0].OpenID, nil
	case len(found) > 1:
		lines := make([]string, len(found))
		for i, s := range found {
			lines[i] = fmt.Sprintf("  %s of %s: %s", visible(s.OpenID), visible(s.AppID), orDash(s.Name))
		}
		return "", "", fmt.Errorf("%d users are called %s; name one by its open_id, with --app if it is not the first app's:\n%s", len(found), text, strings.Join(lines, "\n"))
	}
	return o.findAsked(app, text)
}

// findAsked looks for a user among those who were asked, as a log line shows them.
func (o *operation) findAsked(app, text string) (inApp, openID string, err error) {
	c, err := o.firstConsent(map[string]string{"app_id": app, "user": text})
	if err != nil || c == nil {
		return app, text, err
	}
	return c.AppID, c.OpenID, nil
}

// lastAsked returns what a user was asked last; nil: nothing that is still known.
func (o *operation) lastAsked(app, openID string) (*apiConsent, error) {
	return o.firstConsent(map[string]string{"app_id": app, "open_id": openID})
}

var errEnough = errors.New("enough items")

func (o *operation) firstConsent(filter map[string]string) (*apiConsent, error) {
	var first *apiConsent
	query := parameters(filter)
	query.Set("limit", "1")
	err := o.client.pages(o.ctx, "/api/v1/consents", query, func(item json.RawMessage) error {
		first = new(apiConsent)
		return errors.Join(errEnough, json.Unmarshal(item, first))
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return first, err
}

// noSession says that a user has no session, and what is known instead.
func (o *operation) noSession(text, app, openID string) error {
	asked, err := o.lastAsked(app, openID)
	switch {
	case err == nil && asked != nil:
	case strings.HasPrefix(text, "ou_"):
		return fmt.Errorf("there is no session of %s", visible(text))
	default:
		return fmt.Errorf("there is no session of %s; \"larkside sessions list --search\" looks for a part of a name, too", visible(text))
	}
	return fmt.Errorf("there is no session of %s: %s", visible(text), asked.outcome(time.Now()))
}
