package test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// mayExpose lists the files that may call Secret.Expose, with what for. A token
// leaves its wrapping where it goes to Lark, to the database driver or into
// AES, and nowhere else.
var mayExpose = map[string]string{
	"session/secret.go":                 "Equal and Empty",
	"session/access.go":                 "the Authorization header of an Access",
	"session/seal/keyring.go":           "sealing, and reading the key list",
	"session/seal/file.go":              "the key file",
	"session/store/sessions.go":         "opening a sealed profile",
	"session/store/connection.go":       "the database's URL",
	"session/store/postgres.go":         "the database's URL",
	"session/store/postgres_url.go":     "the URLs of the pool and of the listening connection",
	"session/store/examine.go":          "the path of a SQLite database",
	"session/lark/token.go":             "forms to the token endpoint",
	"session/lark/device.go":            "forms to the device endpoints",
	"session/lark/revoke.go":            "the form to the revocation endpoint",
	"session/lark/userinfo.go":          "the Authorization header to user_info",
	"session/lark/reply.go":             "scrubbing what was sent out of errors",
	"session/lark/sdk.go":               "the SDK's configuration",
	"session/lark/events.go":            "verifying and decrypting what Lark posts",
	"session/lark/events_listen.go":     "the bootstrap request of the long connection",
	"session/consent/ask.go":            "the link, for the challenge",
	"session/consent/card.go":           "the link, for the card's button",
	"session/consent/browser.go":        "the browser's cookie and the PKCE challenge",
	"session/consent/start.go":          "the link of a device flow",
	"proxy/authorize.go":                "the Authorization header of a tenant path",
	"cmd/larkside/settings/settings.go": "which database it is, without its password",
	"cmd/larkside/settings/check.go":    "checking settings",
	"cmd/larkside/doctor/examine.go":    "which kind of database it is",
	"cmd/larkside/doctor/consent.go":    "polls in an encoding of the doctor's own",
	"cmd/larkside/doctor/scrub.go":      "taking secrets out of a recording",
	"cmd/larkside/operate/client.go":    "the admin key, in a request to the admin listener",
	"cmd/larkside/operate/keys.go":      "printing a new key, once, for its owner",
	"cmd/larkside/clients.go":           "the upstream proxy's URL",
}

// Secrets are exposed only where they have to be.
func TestExpose(t *testing.T) {
	used := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		name := filepath.ToSlash(strings.TrimPrefix(path, "../"))
		if strings.HasPrefix(name, "test/") {
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.SelectorExpr)
			if !ok || call.Sel.Name != "Expose" {
				return true
			}
			used[name] = true
			if mayExpose[name] == "" {
				t.Errorf("%s calls Expose and is not on the list", set.Position(call.Pos()))
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range mayExpose {
		if !used[name] {
			t.Errorf("%s is on the list and calls Expose nowhere", name)
		}
	}
}
