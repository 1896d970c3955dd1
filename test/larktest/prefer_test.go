package larktest

import (
	"encoding/json"
	"net/http"
	"testing"
)

// What a proxy loses of Prefer shows in the rows.
func TestPrefer(t *testing.T) {
	p, _ := startAt(t, Config{})
	token := granted(t, p, Alice).AccessToken
	insert := func(records string, prefer ...string) reply {
		body, _ := json.Marshal(map[string]string{"records": records})
		r := newRequest(t, "POST", p.URL+tablesPath+"/notes/records", string(body))
		r.Header["Prefer"] = prefer
		r.Header.Set("Authorization", "Bearer "+token)
		return send(t, r)
	}
	rows := func(id string) (rows []map[string]any) {
		r := call(t, p, "GET", tablesPath+"/notes/records?filter=_id%3Deq."+id, token, "")
		json.Unmarshal([]byte(inside(t, r, "data")["items"].(string)), &rows)
		return rows
	}
	want(t, insert(`[{"_id":"notes-1","title":"again"}]`), 400, 2320006)
	want(t, insert(`[{"_id":"notes-1","title":"merged"}]`, "resolution=merge-duplicates"), 200, 0)
	if got := rows("notes-1"); len(got) != 1 || got[0]["title"] != "merged" {
		t.Errorf("merged: %v", got)
	}
	want(t, insert(`[{"_id":"notes-1","title":"lost"},{"_id":"a"}]`, "resolution=ignore-conflicts"), 200, 0)
	if got := rows("notes-1"); got[0]["title"] != "merged" {
		t.Errorf("ignored: %v", got)
	}
	if got := rows("a"); got[0]["title"] != nil {
		t.Errorf("without missing=default: %v", got)
	}
	shown := insert(`[{"_id":"notes-1","title":"both"},{"_id":"b"}]`, "resolution=merge-duplicates, missing=default", "return=representation")
	want(t, shown, 200, 0)
	var items []map[string]any
	text, _ := inside(t, shown, "data")["items"].(string)
	if err := json.Unmarshal([]byte(text), &items); err != nil || len(items) != 2 || items[0]["title"] != "both" || items[1]["title"] != defaultTitle || items[1]["owner"] != Alice {
		t.Errorf("representation: %s", shown.Raw)
	}
	if r := insert(`[{}]`); inside(t, r, "data")["items"] != nil {
		t.Errorf("unasked: %s", r.Raw)
	}
}

func TestPreferHeaderForms(t *testing.T) {
	for _, c := range []struct {
		lines []string
		want  preferences
	}{
		{nil, preferences{}},
		{[]string{`resolution="merge-duplicates"; x=1 ,MISSING = default`}, preferences{resolution: "merge-duplicates", missing: "default"}},
		{[]string{"return=minimal", "return=representation"}, preferences{returns: "minimal"}},
		{[]string{"wait=5, respond-async"}, preferences{}},
	} {
		if got := preferred(http.Header{"Prefer": c.lines}); got != c.want {
			t.Errorf("%q: %+v", c.lines, got)
		}
	}
}

func TestPreferIsEchoed(t *testing.T) {
	p, _ := startAt(t, Config{})
	r := newRequest(t, "GET", p.URL+helperPath+"echo", "")
	r.Header.Set("Authorization", "Bearer "+granted(t, p, Alice).AccessToken)
	r.Header.Add("Prefer", "resolution=merge-duplicates")
	r.Header.Add("Prefer", "missing=default")
	got := send(t, r)
	if list, _ := got.Fields["prefer"].([]any); len(list) != 2 || list[1] != "missing=default" {
		t.Errorf("echo: %s", got.Raw)
	}
}
