package process

import (
	"os"
	"strings"
	"testing"

	"larkside/test/larktest"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// A log is read line by line however it is written, and what may never be in one
// is found.
func TestLog(t *testing.T) {
	l := newLog("hunter2")
	for _, part := range []string{`{"level":"INFO","msg":"list`, `ening","listener":"proxy"}` + "\nplain\n", `{"msg":"x","token":"eyJhbGciOiJFUzI1NiIsImZlYXR1cmVfY29kZSI6"}` + "\n", "with hunter2\npanic: oh"} {
		l.Write([]byte(part))
	}
	l.close()
	lines := l.Lines()
	if len(lines) != 5 || lines[0].Msg != "listening" || lines[0].Text("listener") != "proxy" || lines[1].Raw != "plain" || lines[4].Raw != "panic: oh" {
		t.Errorf("%+v", lines)
	}
	problems := l.Problems()
	if len(problems) != 3 || !strings.HasPrefix(problems[0], "a token") || !strings.HasPrefix(problems[1], "a secret") || !strings.HasPrefix(problems[2], "a panic") {
		t.Errorf("%q", problems)
	}
}

// A process is started, asked, killed, started again, and stopped.
func TestProcess(t *testing.T) {
	t.Parallel()
	lark := larktest.Start(t, nil)
	db := SQLite(t)
	Seed(t, db, lark, 0, larktest.Alice)
	p := Start(t, Options{Lark: lark, DB: db})
	for range 2 {
		a := p.Get(t, "/open-apis/apaas/v1/larktest/echo", larktest.Alice)
		if a.Status != 200 || a.Owner() != larktest.Alice {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		p.Restart()
	}
	if status := p.Stop(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	select {
	case <-p.Ended():
	default:
		t.Error("Stop returned before the end")
	}
}
