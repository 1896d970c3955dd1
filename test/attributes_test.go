package test

import (
	"go/ast"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"

	"larkside/telemetry"
)

// Who searches logs, and builds on spans and metrics, needs one word for one
// thing: the keys are all in package telemetry.
func TestAttributeKeys(t *testing.T) {
	known := telemetry.LogKeys()
	if !slices.IsSorted(known) {
		t.Error("LogKeys is not in order")
	}
	used := map[string]bool{}
	calls(t, func(method string, args []ast.Expr) {
		from := logArguments(method)
		if from == 0 || len(args) <= from {
			return
		}
		if method == "Error" {
			if _, ok := literal(args); !ok {
				return // http.Error
			}
		}
		for i := from; i < len(args); i += 2 {
			lit, ok := args[i].(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				i-- // a slog.Attr stands alone
				continue
			}
			key, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			if used[key] = true; !slices.Contains(known, key) {
				t.Errorf("log key %q is not in telemetry.LogKeys", key)
			}
		}
	})
	for _, key := range []string{"app_id", "error", "retry_in", "failure"} {
		if !used[key] {
			t.Errorf("key %q was not seen: does this test still understand the code?", key)
		}
	}
	for _, file := range sources(t) {
		text := read(t, strings.TrimPrefix(file, "../"))
		for _, call := range []string{"attribute.String(\"", "attribute.Int(\"", "attribute.Int64(\"", "attribute.Bool(\"", "attribute.Float64(\"", "attribute.Key(\""} {
			if strings.Contains(text, call) && !strings.Contains(file, "/telemetry/") {
				t.Errorf("%s makes an attribute of a literal: %s…", file, call)
			}
		}
	}
}

// logArguments returns which argument of a method is the first key of a log
// line; the others follow it, after a value each. 0: it writes none.
func logArguments(method string) int {
	switch method {
	case "Debug", "Info", "Warn", "Error":
		return 1
	case "DebugContext", "InfoContext", "WarnContext", "ErrorContext":
		return 2
	case "Log": // of telemetry.Complaints
		return 4
	}
	return 0
}
