// Package doctor finds out why Larkside does not work, and says what to do.
//
// [Examine] looks at a configuration: the database and its keys, and at Lark
// the app's credentials, token endpoint, bot, scopes and the start of a
// consent. It changes nothing and asks nobody. [Report] takes what it finds,
// a [Finding] each.
//
// A cause has one line. What depends on it, or would only say the same, is left
// out: an app whose secret is wrong has no line about its bot. An answer that is
// not Lark's own (a 404, a page of HTML) is never read as one of Lark's: then the
// line says that this could not be checked.
//
// [Live] goes the whole way with a real person at hand, from the credentials to
// the revocation, and writes down what Lark answers at each step: most of what
// Larkside believes about Lark was read, not seen. A [Recording] of it is what
// the emulator can be compared with.
package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"larkside/session"
	"larkside/session/lark"
)

// Config is what is looked at.
type Config struct {
	// Apps are the configured apps, the main one first. Each Transport is
	// required.
	Apps []lark.Config
	// Scopes are those that users are asked for, offline_access among them.
	Scopes []string
	// RedirectURL is where Lark sends browsers in the redirect flow. Empty: the
	// device flow is used.
	RedirectURL string
	// UserJWTIssuer issues the tokens that prove who a user is; empty: the app is
	// believed. IssuerKeys fetches its keys and returns how many can be used.
	UserJWTIssuer string
	IssuerKeys    func(context.Context) (int, error)
	// Card: consents are asked for by card.
	Card bool

	// DatabaseURL is postgres://… or sqlite:PATH.
	DatabaseURL session.Secret
	// EncryptionKeys are the keys for it. Empty: SQLite's own key file.
	EncryptionKeys session.Secret
	// ExpectSessions: a database without a session is the wrong one.
	ExpectSessions bool
	// Instance asks a running instance whether it is ready, and returns what it
	// says. It is called when that instance holds the SQLite database.
	Instance func(context.Context) (ready bool, says string)
}

// Status is what a check came to.
type Status string

const (
	OK   Status = "ok"
	Warn Status = "warn" // works, but likely not as meant, or could not be checked
	Fail Status = "fail"
)

// Finding is one line of a [Report].
type Finding struct {
	// Name says what was looked at, such as "database" or "bot of cli_…".
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	// Do says what to do about it. A failure always has it.
	Do string `json:"do,omitempty"`
}

// Report collects findings. Its zero value is ready to use.
type Report struct {
	// Out gets each finding as a line of text, at once. Nil: nothing is written.
	Out io.Writer

	findings []Finding
}

func (r *Report) ok(name, detail string)       { r.add(Finding{name, OK, detail, ""}) }
func (r *Report) warn(name, detail, do string) { r.add(Finding{name, Warn, detail, do}) }
func (r *Report) fail(name, detail, do string) { r.add(Finding{name, Fail, detail, do}) }

func (r *Report) add(f Finding) {
	r.findings = append(r.findings, f)
	if r.Out == nil {
		return
	}
	line := fmt.Sprintf("%-4s  %s: %s", f.Status, f.Name, f.Detail)
	if f.Do != "" {
		line += "\n      → " + f.Do
	}
	fmt.Fprintln(r.Out, line)
}

// Failed reports whether a check failed.
func (r *Report) Failed() bool {
	return slices.ContainsFunc(r.findings, func(f Finding) bool { return f.Status == Fail })
}

// WriteJSON writes all findings.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(map[string]any{"ok": !r.Failed(), "checks": r.findings})
}

// SettingsInvalid adds the problems that stop the start, one line each.
func (r *Report) SettingsInvalid(problems ...string) {
	for _, problem := range problems {
		r.fail("settings", problem, `"larkside env" prints what is in force, "larkside env --defaults" what there is`)
	}
}

// SettingsValid says that the settings can be used, and warns of those that
// are probably a mistake.
func (r *Report) SettingsValid(warnings []string) {
	for _, warning := range warnings {
		r.warn("settings", warning, "")
	}
	r.ok("settings", "they are valid together")
}
