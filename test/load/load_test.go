package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"larkside/test/load/tokens"
)

// The test's binary is also the upstream, as the program is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-upstream" {
		main()
		return
	}
	os.Exit(m.Run())
}

// All figures can still be measured, with everything that runs beside Larkside.
func TestFigures(t *testing.T) {
	if testing.Short() {
		t.Skip("builds larkside and caddy, and measures for half a minute")
	}
	var out strings.Builder
	b := fromFlags([]string{"-short", "-rounds", "1"})
	b.out = &out
	b.length, b.conns, b.many, b.stream, b.idle, b.expired = 50*time.Millisecond, []int{2}, 200, 1<<20, 0, 300
	if err := b.run(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	measured := strings.Split(out.String(), "\n## ")[1:]
	for _, name := range figureNames() {
		if name == "expiry" && postgresURL() == "" {
			continue
		}
		if len(measured) == 0 || !strings.Contains(measured[0], "-short -rounds 1 -only "+name+"`\n") {
			t.Fatalf("%s was not measured:\n%s", name, out.String())
		}
		_, rows, _ := strings.Cut(measured[0], "|---|")
		if !regexp.MustCompile(`^(---\|)+\n(\|.*\d.*\|\n)+\n`).MatchString(rows) || strings.Contains(rows, "NaN") {
			t.Errorf("%s: not all rows have figures:\n%s", name, measured[0])
		}
		measured = measured[1:]
	}
	if strings.Contains(out.String(), "\n0 batches") {
		t.Error("no trace came to the receiver")
	}
	if _, err := os.Stat(b.dir); err == nil {
		t.Errorf("%s is left behind", b.dir)
	}
}

// One answer with another user's token ends the run, whatever sends the request.
func TestWrongUser(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(ownerHeader, tokens.User(1)) // whoever asks
		w.Header().Set("Content-Length", "0")
	}))
	defer server.Close()
	h := newHop("wrong", server.URL, &process{})
	for name, send := range map[string]func(context.Context) error{
		"closed": func(ctx context.Context) error { _, err := h.closed(ctx, 1, once(0, 3)); return err },
		"open":   func(ctx context.Context) error { _, err := open(ctx, []*hop{h}, 100, 5, 0, time.Second); return err },
		"stream": func(ctx context.Context) error { return h.stream(ctx, "GET", 0) },
	} {
		if err := send(t.Context()); err == nil || !strings.Contains(err.Error(), tokens.User(1)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A ratio is one round's to the same round's: the median of the ratios is not
// the ratio of the medians.
func TestRatiosAreByRound(t *testing.T) {
	got := spread("%.1f", byRound([]float64{100, 10, 30, 5}, []float64{50, 10, 10, 5}, ratio))
	if want := "1.5 (1.0 to 3.0)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A process that does not get ready is an error with what the process said.
func TestProcessEnds(t *testing.T) {
	b := &bench{dir: t.TempDir()}
	_, err := b.startProcess(t.Context(), listens(freeAddr()), nil, "go", "no-such-command")
	if err == nil || !strings.Contains(err.Error(), "no-such-command: unknown command") {
		t.Errorf("got %v", err)
	}
}
