package admin

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	defaultLimit = 100
	maxLimit     = 500
	// maxBody is in bytes, and more than any request of this API needs.
	maxBody = 64 << 10
)

// page is one page of a list, as it is answered.
type page[T any] struct {
	Items []T `json:"items"`
	// Next is the cursor of the following page; empty on the last one.
	Next string `json:"next"`
}

// newPage shows up to limit of the items found. The caller asked for one more than
// limit: if it came, there is a next page, whose cursor is the position of the last
// item that is shown.
func newPage[T, V any](found []T, limit int, show func(*T) V, position func(*T) []string) page[V] {
	p := page[V]{Items: []V{}}
	for i := range found[:min(limit, len(found))] {
		p.Items = append(p.Items, show(&found[i]))
	}
	if len(found) > limit {
		p.Next = encodeCursor(position(&found[limit-1]))
	}
	return p
}

// paging reads the parameters limit and cursor. A cursor has n parts; without one they
// are empty.
func paging(query url.Values, n int) (limit int, after []string, err error) {
	limit = defaultLimit
	if given := query.Get("limit"); given != "" {
		if limit, err = strconv.Atoi(given); err != nil || limit < 1 || limit > maxLimit {
			return 0, nil, invalid(fmt.Sprintf("limit takes 1 to %d.", maxLimit))
		}
	}
	after = make([]string, n)
	if given := query.Get("cursor"); given != "" {
		if after, err = decodeCursor(given); err != nil || len(after) != n {
			return 0, nil, invalid("cursor takes what an answer gave as next.")
		}
	}
	return limit, after, nil
}

// encodeCursor makes a cursor, which is opaque to clients. It holds nothing that isn't
// in the list.
func encodeCursor(position []string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strings.Join(position, "\n")))
}

func decodeCursor(cursor string) ([]string, error) {
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil && !storable(string(raw)) {
		err = errors.New("a cursor that no answer gave")
	}
	return strings.Split(string(raw), "\n"), err
}

// oneOf reads a parameter that takes one of a few words, or is absent.
func oneOf[S ~string](query url.Values, name string, words ...S) (S, error) {
	word := S(query.Get(name))
	if word == "" || slices.Contains(words, word) {
		return word, nil
	}
	return "", invalid(fmt.Sprintf("%s takes one of %q.", name, words))
}

// readJSON reads a body of at most maxBody bytes into v. An empty body leaves v as it
// is.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return invalid(fmt.Sprintf("The body could not be read or is larger than %d bytes.", maxBody))
	}
	if len(raw) == 0 {
		return nil
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return invalid("The body takes Content-Type: application/json.")
	}
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil || dec.More() {
		return invalid("The body is not the JSON object that this path takes.")
	}
	return nil
}

// instant shows a time as RFC 3339 in UTC, and an unknown time as null.
func instant(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	s := t.UTC().Format(time.RFC3339)
	return &s
}
