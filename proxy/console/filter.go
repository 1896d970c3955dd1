package console

import (
	"net/url"
	"strconv"

	"larkside/session"
)

// chip is one value of a filter, as a link to the page with that value.
type chip struct {
	Label, URL string
	On         bool
}

// chips returns the values that a parameter may have, first "any".
func chips[S ~string](l lang, q url.Values, name string, label func(S) string, values []S) []chip {
	now := q.Get(name)
	all := []chip{{l.text("filter.any"), with(q, name, ""), now == ""}}
	for _, v := range values {
		all = append(all, chip{label(v), with(q, name, string(v)), now == string(v)})
	}
	return all
}

// appChips returns the apps to choose from; none if there is one only.
func (k *Console) appChips(l lang, q url.Values) []chip {
	if len(k.Apps) < 2 {
		return nil
	}
	return chips(l, q, "app", visible, k.Apps)
}

// pageParams are the parameters that say which page of a list is shown.
var pageParams = []string{"after", "before", "n", "did"}

// with returns a link to the first page of the same list with one parameter
// changed. An empty value removes the parameter.
func with(q url.Values, name, value string) string {
	next := url.Values{}
	for n, v := range q {
		next[n] = v
	}
	for _, n := range pageParams {
		next.Del(n)
	}
	next.Set(name, value)
	if value == "" {
		next.Del(name)
	}
	return "?" + next.Encode()
}

// paging is where in a list a page is.
type paging struct {
	// Next and First are the queries of the following page and of the first one,
	// empty where there is none, or where this is it.
	Next, First string
	// From and To number the rows of this page.
	From, To int
}

// maxCounted bounds the numbers of rows, which the address has.
const maxCounted = 1 << 30

// onePage returns the rows of one page out of up to perPage+1 that were read.
// next is the id of the last one if there are more, else "".
func onePage[T any](rows []T, id func(T) string) (page []T, next string) {
	if len(rows) <= perPage {
		return rows, ""
	}
	return rows[:perPage], id(rows[perPage-1])
}

// pageOf returns where a page of rows is. at is the parameter that says where a
// page begins, and next its value for the following one; empty: this is the last
// one.
func pageOf(q url.Values, at, next string, rows int) paging {
	before, err := strconv.Atoi(q.Get("n"))
	if err != nil || before < 0 || before > maxCounted || q.Get(at) == "" {
		before = 0
	}
	p := paging{From: before + 1, To: before + rows}
	if q.Get(at) != "" {
		p.First = with(q, at, "")
	}
	if next != "" {
		following := url.Values{}
		for n, v := range q {
			following[n] = v
		}
		following.Del("did")
		following.Set(at, next)
		following.Set("n", strconv.Itoa(p.To))
		p.Next = "?" + following.Encode()
	}
	return p
}

// hiddenField is a filter that a form keeps.
type hiddenField struct{ Name, Value string }

// kept returns those of the parameters that are set.
func kept(q url.Values, names ...string) (fields []hiddenField) {
	for _, n := range names {
		if q.Get(n) != "" {
			fields = append(fields, hiddenField{n, q.Get(n)})
		}
	}
	return fields
}

// filter is what stands above a list.
type filter struct {
	// Path is the list's, Name the parameter of the search, Text its value.
	Path, Name, Text string
	Hidden           []hiddenField
	// Rows are the chips, a row for each parameter.
	Rows []chipRow
}

type chipRow struct {
	Label string
	Chips []chip
}

func (k *Console) filter(l lang, q url.Values, path, name string, hidden []hiddenField, rows ...chipRow) filter {
	f := filter{Path: path, Name: name, Text: q.Get(name), Hidden: hidden, Rows: rows}
	if apps := k.appChips(l, q); apps != nil {
		f.Rows = append(f.Rows, chipRow{l.text("filter.app"), apps})
	}
	return f
}

// stateLabel names a state.
func (l lang) stateLabel(s session.State) string { return l.text("state." + string(s)) }
