package admin

import (
	_ "embed"
	"net/http"
)

//go:embed openapi.json
var openAPI []byte

// OpenAPI returns the description of the API, an OpenAPI 3.1 document as JSON.
// The caller must not change it.
func OpenAPI() []byte { return openAPI }

// describe answers GET /api/v1/openapi.json.
func (a *admin) describe(w http.ResponseWriter, _ *http.Request) error {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.Write(openAPI)
	return nil
}
