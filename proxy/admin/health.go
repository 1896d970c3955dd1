package admin

import (
	"context"
	"net/http"

	"larkside/proxy/edge"
)

// Check is one condition of readiness.
type Check struct {
	// Name is a word or two: "schema", "keys".
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Detail says what is wrong and what to do. It holds no secret and no user's id.
	Detail string `json:"detail,omitempty"`
	// Advisory: the instance is ready although the check fails.
	Advisory bool `json:"advisory,omitempty"`
}

// healthz says only that the process answers. It doesn't look at the database or at
// Lark, since a restart would help neither.
func (a *admin) healthz(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

func (a *admin) readyz(w http.ResponseWriter, r *http.Request) error {
	ready, checks := a.ready(r.Context())
	status := http.StatusOK
	if !ready {
		status = http.StatusServiceUnavailable
	}
	return writeJSON(w, status, map[string]any{"ready": ready, "checks": checks})
}

func (a *admin) ready(ctx context.Context) (ready bool, checks []Check) {
	ready, checks = true, []Check{}
	if a.Ready == nil {
		return ready, checks
	}
	for _, c := range a.Ready(ctx) {
		ready = ready && (c.OK || c.Advisory)
		checks = append(checks, c)
	}
	return ready, checks
}

// wait answers the API's requests while the database is awaited.
func (a *admin) wait(w http.ResponseWriter, r *http.Request) {
	answer := edge.New(edge.StoreUnavailable, nil)
	_, checks := a.ready(r.Context())
	for _, c := range checks {
		if !c.OK && !c.Advisory {
			answer.Detail = "This instance waits for its database (" + c.Detail + "): try again after Retry-After."
			break
		}
	}
	a.fail(w, r, answer)
}

func (a *admin) metrics(w http.ResponseWriter, r *http.Request) error {
	a.Metrics.ServeHTTP(w, r)
	return nil
}

// quit ends the process. In a Job the main container calls it when it has finished,
// so that the sidecar doesn't keep the pod alive.
func (a *admin) quit(w http.ResponseWriter, r *http.Request) error {
	by := actor(r)
	a.Log.InfoContext(r.Context(), "asked to quit", "address", by.Address)
	err := writeJSON(w, http.StatusOK, map[string]string{"status": "stopping"})
	a.Quit()
	return err
}
