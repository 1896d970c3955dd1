package proxy_test

import (
	"slices"
	"testing"

	"larkside/proxy"
)

// Of Prefer only the wait item stays here. Lark's record APIs take
// the other items, and read what they take in a strict way.
func TestPreferGoesOn(t *testing.T) {
	for _, tc := range []struct {
		sentence string
		sent     []string
		want     []string // what Lark gets; nil: no header
	}{
		{"nothing to take out", []string{"resolution=merge-duplicates, missing=default"}, []string{"resolution=merge-duplicates, missing=default"}},
		{"only wait", []string{"wait=5"}, nil},
		{"only wait and empty items", []string{", wait=5,"}, nil},
		{"wait is last", []string{"resolution=merge-duplicates, wait=5"}, []string{"resolution=merge-duplicates"}},
		{"wait is first", []string{"wait=5, handling=strict"}, []string{"handling=strict"}},
		{"wait is in the middle", []string{"a=1,  wait=5 ,b=2"}, []string{"a=1,b=2"}},
		{"blanks, case and empty items stay as they are", []string{"Return = Minimal ,, A , wait=5"}, []string{"Return = Minimal ,, A"}},
		{"any case, blanks, quotes and parameters of wait", []string{`a, WAIT = "5" ; x="y, wait=1"; z, b`}, []string{"a, b"}},
		{"wait in quotes is data", []string{`a="x, wait=5, y", wait=7`}, []string{`a="x, wait=5, y"`}},
		{"an escaped quote doesn't end the quotes", []string{`a="x\", wait=5", wait=7`}, []string{`a="x\", wait=5"`}},
		{"quotes that don't end take the rest of the line", []string{`a="x, wait=5`}, []string{`a="x, wait=5`}},
		{"wait as a parameter belongs to its item", []string{"a=1; wait=5"}, []string{"a=1; wait=5"}},
		{"a name that begins or ends with wait", []string{"waits=5, await=1"}, []string{"waits=5, await=1"}},
		{"every repetition, malformed ones too", []string{"wait=5, a, wait=soon, wait"}, []string{"a"}},
		{"each line by itself", []string{"a=1", "wait=5", "b=2 , c", "d, wait=9"}, []string{"a=1", "b=2 , c", "d"}},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			b := start(t, nil)
			b.get(table, preferLines(tc.sent)...)
			if got := b.lark.one(t).header["Prefer"]; !slices.Equal(got, tc.want) {
				t.Errorf("Lark got %q, want %q", got, tc.want)
			}
		})
	}
}

// On a request for a user wait is Larkside's word whether or not anything waits;
// any other request passes as it came.
func TestPreferWithoutWaiting(t *testing.T) {
	off := start(t, func(c *proxy.Config) { c.Waiter = nil })
	off.get(table, "Prefer: handling=strict, wait=5")
	if got := off.lark.one(t).header["Prefer"]; !slices.Equal(got, []string{"handling=strict"}) {
		t.Errorf("with waiting off Lark got %q", got)
	}
	for name, request := range map[string][]string{
		"own token":    {"GET " + table + " HTTP/1.1", "Authorization: Bearer own", "Prefer: wait=5, a"},
		"tenant token": {"GET " + pathIM + " HTTP/1.1", "Prefer: wait=5, a"},
	} {
		b := start(t, nil)
		b.raw(request...)
		if got := b.lark.one(t).header["Prefer"]; !slices.Equal(got, []string{"wait=5, a"}) {
			t.Errorf("%s: Lark got %q", name, got)
		}
	}
}

// RFC 7240 section 2: of a preference that stands more than once the first one
// counts, also when it can't be read.
func TestFirstWaitCounts(t *testing.T) {
	for _, header := range []string{
		"Prefer: wait=soon, wait=30", "Prefer: wait\r\nPrefer: wait=30", "Prefer: wait=, wait=30", `Prefer: wait="30`,
		"Prefer: wait=-1, wait=30", "Prefer: wait=+5", "Prefer: wait=1.5", `Prefer: a="x, wait=30"`, "Prefer: a;wait=30",
	} {
		b := start(t, nil)
		a := b.raw("GET "+table+" HTTP/1.1", "X-Lark-User-Id: ou_new", header)
		if a.isError(t, 401, "authorization_required"); a.Header.Get("Preference-Applied") != "" {
			t.Errorf("%s: waited", header)
		}
	}
	for _, header := range []string{
		"Prefer: wait=30, wait=soon", `Prefer: a="\", wait=0", wait=30`, "Prefer: ,, wait=30",
		"Prefer: wait=99999999999999999999", // longer than a number: as long as may be
	} {
		b := start(t, nil)
		answer := b.hold("GET "+table+" HTTP/1.1", "X-Lark-User-Id: ou_new", header)
		b.tokens.grant("ou_new")
		if a := answer(); a.StatusCode != 200 || a.Header.Get("Preference-Applied") != "wait" {
			t.Errorf("%s: status %d, Preference-Applied %q", header, a.StatusCode, a.Header.Get("Preference-Applied"))
		}
	}
}

func preferLines(values []string) []string {
	var lines []string
	for _, v := range values {
		lines = append(lines, "Prefer: "+v)
	}
	return lines
}
