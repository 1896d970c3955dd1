// Demo is a guided tour of Larkside. It needs nothing but Go.
//
//	go run ./cmd/demo [-flow device|redirect] [-keep]
//
// It starts the Lark emulator (test/larktest) and, beside it, the real larkside
// as a child process that is given documented settings only. Then it walks
// through the main job and prints what was really asked and answered: a call
// without a token, the card, the consent, the same call again; a second user; a
// token that is renewed in time; Lark's token endpoint failing; wrong requests;
// a clean stop.
//
// Consents are made by the device flow, which needs no address that browsers can
// reach; with -flow redirect by the authorization code flow, through larkside's
// consent listener.
//
// The exit status is 0 when every step was as it should be, else 1, and the
// step that was not is named. With -keep both stay up after the tour until Ctrl-C,
// as a place to develop against: on ports 8080, 8081 and 9000 if these are free, with
// the lines to try by hand, for an SDK, and for a larkside of one's own on the same
// emulator.
//
// Colours are used on a terminal only, and not when NO_COLOR is set.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	keep := flag.Bool("keep", false, "leave both running after the tour, until Ctrl-C")
	flow := flag.String("flow", deviceFlow, "how users consent: "+deviceFlow+" or "+redirectFlow)
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "Usage: go run ./cmd/demo [-flow device|redirect] [-keep]\n\nA guided tour of Larkside: see go doc ./cmd/demo.")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 || *flow != deviceFlow && *flow != redirectFlow {
		flag.Usage()
		os.Exit(2)
	}
	// The signals stay caught to the end, so that larkside is stopped whatever
	// is pressed how often.
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	out := newScreen(os.Stdout, isTerminal(os.Stdout) && os.Getenv("NO_COLOR") == "")
	if err := run(ctx, out, *flow, *keep); err != nil {
		out.problem(err)
		os.Exit(1)
	}
}

// run is the demo: start, tour, stop.
func run(ctx context.Context, out *screen, flow string, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "larkside-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	t, err := start(ctx, out, flow, dir, keep)
	if err != nil {
		return err
	}
	defer t.close()
	if err := t.walk(ctx, steps); err != nil {
		return t.explain(err)
	}
	if keep {
		t.stay(ctx)
	}
	// A Ctrl-C that ended the stay is no reason to stop uncleanly.
	if err := t.walk(context.WithoutCancel(ctx), ending); err != nil {
		return t.explain(err)
	}
	out.end()
	return nil
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
