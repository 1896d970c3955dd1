package larktest

import (
	"net/http"
	"strings"
)

// preferences are what the record routes make of the Prefer header (RFC 7240).
// Behind them is PostgREST.
// [D] Lark "add or update records" (spark/v1, apaas/v1) names
// resolution=merge-duplicates, resolution=ignore-conflicts and missing=default,
// which may stand together. return=representation is PostgREST's; that Lark
// passes it on is UNCONFIRMED.
type preferences struct{ resolution, missing, returns string }

// preferred reads all lines of the header. The first of a name counts, as the
// RFC says.
func preferred(h http.Header) preferences {
	var p preferences
	for item := range strings.SplitSeq(strings.Join(h.Values("Prefer"), ","), ",") {
		item, _, _ = strings.Cut(item, ";")
		name, value, _ := strings.Cut(strings.TrimSpace(item), "=")
		into := map[string]*string{"resolution": &p.resolution, "missing": &p.missing, "return": &p.returns}[strings.ToLower(strings.TrimSpace(name))]
		if into != nil && *into == "" {
			*into = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return p
}

// defaultTitle is the default of the column title.
const defaultTitle = "untitled"

// complete gives a new row the columns that it lacks: their defaults with
// missing=default, null without.
func (p preferences) complete(r row) {
	if _, there := r["title"]; there {
		return
	}
	r["title"] = nil
	if p.missing == "default" {
		r["title"] = defaultTitle
	}
}
