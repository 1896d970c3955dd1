package larktest

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// workspaceKey: each user has data of their own in every workspace, so that an
// answer shows whose token fetched it.
type workspaceKey struct {
	who identity
	id  string
}

// workspace holds rows by table name.
type workspace struct{ tables map[string][]row }

type row map[string]any

// maxRows bounds a table; inserts beyond it are refused.
const maxRows = 1000

// workspace returns the user's data: at first a table "orders" and a table
// "notes" with three rows each that name their owner. It is made afresh for
// every reader, so that a hundred thousand users cost nothing, until the user
// writes; see keep.
func (p *Platform) workspace(x *exchange) *workspace {
	if w := p.data[workspaceKey{x.token.who, x.vars["workspace_id"]}]; w != nil {
		return w
	}
	w := &workspace{tables: map[string][]row{}}
	for _, table := range []string{"orders", "notes"} {
		for _, n := range []string{"1", "2", "3"} {
			w.tables[table] = append(w.tables[table], row{
				"_id": table + "-" + n, "owner": x.call.Owner, "title": x.token.who.user.Name + ": " + table + " " + n,
			})
		}
	}
	return w
}

// keep is workspace for writers: what is returned stays.
func (p *Platform) keep(x *exchange) *workspace {
	w := p.workspace(x)
	p.data[workspaceKey{x.token.who, x.vars["workspace_id"]}] = w
	return w
}

func tableObject(name, owner string) object {
	return object{
		{"name", name}, {"description", "belongs to " + owner},
		{"columns", []object{
			{{"name", "_id"}, {"description", "record id"}, {"data_type", "uuid"}},
			{{"name", "owner"}, {"description", "open_id of the owner"}, {"data_type", "text"}},
			{{"name", "title"}, {"description", "title"}, {"data_type", "text"}},
		}},
	}
}

func serveTables(p *Platform, x *exchange) answer {
	items := []object{}
	tables := p.workspace(x).tables
	names := make([]string, 0, len(tables))
	for name := range tables {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		items = append(items, tableObject(name, x.call.Owner))
	}
	return success(object{{"items", items}, {"has_more", false}, {"owner", p.owner(x)}})
}

func serveTable(p *Platform, x *exchange) answer {
	if _, ok := p.workspace(x).tables[x.vars["table_name"]]; !ok {
		return x.fail(http.StatusBadRequest, 2320001, "table not found")
	}
	return success(tableObject(x.vars["table_name"], x.call.Owner).with("owner", p.owner(x)))
}

// serveRecords serves tables and views; items is a JSON string, as at Lark.
func serveRecords(p *Platform, x *exchange) answer {
	rows := x.selected(p.workspace(x))
	if rows == nil {
		rows = []row{}
	}
	items, _ := json.Marshal(rows)
	return success(object{{"items", string(items)}, {"total", len(rows)}, {"has_more", false}, {"owner", p.owner(x)}})
}

func (x *exchange) table() string {
	if name := x.vars["table_name"]; name != "" {
		return name
	}
	return x.vars["view_name"]
}

// selected are the rows that the filter names. Of Lark's filter language only
// a lone "_id=eq.<id>" (or "_id.eq.<id>") is understood; anything else selects
// all.
func (x *exchange) selected(w *workspace) []row {
	rows := w.tables[x.table()]
	filter := strings.Replace(x.r.URL.Query().Get("filter"), "_id=eq.", "_id.eq.", 1)
	id, ok := strings.CutPrefix(filter, "_id.eq.")
	if !ok {
		return rows
	}
	return slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return r["_id"] != id })
}

func serveInsert(p *Platform, x *exchange) answer {
	var in struct {
		Records string `json:"records"`
	}
	var rows []row
	if x.decode(&in) != nil || json.Unmarshal([]byte(in.Records), &rows) != nil {
		return x.fail(http.StatusBadRequest, 2320001, "records must be a JSON string of an array")
	}
	w, table, prefer := p.keep(x), x.table(), preferred(x.r.Header)
	if len(w.tables[table])+len(rows) > maxRows {
		return x.fail(http.StatusBadRequest, 2320006, "the emulator keeps at most 1000 rows a table")
	}
	if prefer.resolution == "" && slices.ContainsFunc(rows, func(r row) bool { return find(w.tables[table], r["_id"]) != nil }) {
		return x.fail(http.StatusBadRequest, 2320006, "duplicate key value violates unique constraint")
	}
	written := []row{}
	for _, r := range rows {
		there := find(w.tables[table], r["_id"])
		switch {
		case there == nil:
			if id, given := r["_id"].(string); !given || id == "" {
				r["_id"] = "rec-" + newID()
			}
			r["owner"] = x.call.Owner
			prefer.complete(r)
			w.tables[table] = append(w.tables[table], r)
			written = append(written, r)
		case prefer.resolution == "merge-duplicates":
			there.merge(r)
			written = append(written, there)
		}
	}
	return p.writtenRecords(x, written)
}

// find is the row of an id; nil when there is none.
func find(rows []row, id any) row {
	for _, r := range rows {
		if id != nil && r["_id"] == id {
			return r
		}
	}
	return nil
}

// writtenRecords names the rows that a write touched, and shows them with
// return=representation: a JSON string, as where records are read.
func (p *Platform) writtenRecords(x *exchange, written []row) answer {
	ids := []string{}
	for _, r := range written {
		id, _ := r["_id"].(string)
		ids = append(ids, id)
	}
	data := object{{"record_ids", ids}, {"owner", p.owner(x)}}
	if preferred(x.r.Header).returns == "representation" {
		items, _ := json.Marshal(written)
		data = data.with("items", string(items))
	}
	return success(data)
}

func servePatch(p *Platform, x *exchange) answer {
	var in struct {
		Record string `json:"record"`
	}
	var change row
	if x.decode(&in) != nil || json.Unmarshal([]byte(in.Record), &change) != nil {
		return x.fail(http.StatusBadRequest, 2320001, "record must be a JSON string of an object")
	}
	selected := x.selected(p.keep(x))
	for _, r := range selected {
		r.merge(change)
	}
	return p.writtenRecords(x, selected)
}

// merge changes a row but for its id and owner.
func (r row) merge(change row) {
	for name, value := range change {
		if name != "_id" && name != "owner" {
			r[name] = value
		}
	}
}

func serveBatchUpdate(p *Platform, x *exchange) answer {
	var in struct {
		Records string `json:"records"`
	}
	var changes []row
	if x.decode(&in) != nil || json.Unmarshal([]byte(in.Records), &changes) != nil {
		return x.fail(http.StatusBadRequest, 2320001, "records must be a JSON string of an array")
	}
	rows, written := p.keep(x).tables[x.table()], []row{}
	for _, change := range changes {
		if r := find(rows, change["_id"]); r != nil {
			r.merge(change)
			written = append(written, r)
		}
	}
	return p.writtenRecords(x, written)
}

func serveDelete(p *Platform, x *exchange) answer {
	gone := map[any]bool{}
	w, table := p.keep(x), x.table()
	for _, r := range x.selected(w) {
		gone[r["_id"]] = true
	}
	w.tables[table] = slices.DeleteFunc(w.tables[table], func(r row) bool { return gone[r["_id"]] })
	return success(object{{"owner", p.owner(x)}})
}

// serveSQL answers every SELECT with who asked, and other commands with
// nothing, as Lark does. It runs no SQL.
func serveSQL(p *Platform, x *exchange) answer {
	var in struct {
		SQL string `json:"sql"`
	}
	if x.decode(&in) != nil || in.SQL == "" {
		return x.fail(http.StatusBadRequest, 2320001, "sql is missing")
	}
	result := ""
	if strings.HasPrefix(strings.ToUpper(strings.TrimSpace(in.SQL)), "SELECT") {
		rows, _ := json.Marshal([]row{{"current_user": x.call.Owner, "sql": in.SQL}})
		result = string(rows)
	}
	return success(object{{"result", result}, {"owner", p.owner(x)}})
}

func serveApps(p *Platform, x *exchange) answer {
	name := x.token.who.user.Name
	return success(object{{"items", []object{{
		{"namespace", "package_larktest__c"}, {"name", []object{{{"language_code", "1033"}, {"text", name + "'s app"}}}},
	}}}, {"has_more", false}, {"owner", p.owner(x)}})
}

func enumObject(name string) object {
	return object{{"name", name}, {"description", "a sample"}, {"options", []string{"open", "done"}}}
}

func serveEnums(p *Platform, x *exchange) answer {
	return success(object{{"items", []object{enumObject("state")}}, {"has_more", false}, {"owner", p.owner(x)}})
}

func serveEnum(p *Platform, x *exchange) answer {
	return success(enumObject(x.vars["enum_name"]).with("owner", p.owner(x)))
}
