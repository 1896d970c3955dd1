// Package lifecycle has what operators do to a running larkside, and what
// happens to them, while requests go on: a rolling restart, a full disk.
package lifecycle

import (
	"os"
	"testing"

	"larkside/test/process"
)

func TestMain(m *testing.M) { os.Exit(process.Main(m)) }

const call = "/open-apis/apaas/v1/workspaces/workspace_test/tables/orders/records"
