// Command load measures what the hop through Larkside costs:
//
//	go run -C test/load .                  # all figures, about an hour
//	go run -C test/load . -short           # all, small, about two minutes
//	go run -C test/load . -only throughput -rounds 5
//
// It prints one table in Markdown per figure. LARKSIDE_TEST_POSTGRES is a URL
// of a PostgreSQL server; without it the figures on PostgreSQL are left out.
//
// # What runs
//
// Larkside is built as it is shipped and runs with metrics on, 1 % of the traces
// exported over OTLP, and no access log; "traced" is the same with every request
// traced. Beside it run "tuned", a bare httputil.ReverseProxy on net/http's
// transport with Larkside's limits; "naive", the five lines that a first attempt
// has; and Caddy, built from its Go module. All of them put a user's token in place
// of the user's name. Each is a process of its own, and none is of this program.
// The upstream is. All is on loopback.
//
// # How it is measured
//
// The generator, the proxies and the upstream share the machine, so a figure is
// only worth something beside another one. Each round measures all proxies in a
// new random order. A proxy's figure is divided by tuned's of the same round,
// and the table has the median of these ratios, with the least and the greatest.
//
// Every answer says whose token came. One wrong user ends the run with status 1.
//
// The closed loop is sent by fasthttp's client: on two cores whatever the
// generator spends is missing at the proxies and brings their ratios nearer to
// 1. For one request through tuned at 64 connections fasthttp spends 15 to 20 µs
// of CPU, net/http's client 32 to 41 µs, and vegeta 41 to 45 µs, where tuned
// itself spends 55 to 75 µs. The open loop sends too little for that to matter,
// and vegeta sends it.
package main

import (
	"context"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 && os.Args[1] == "-upstream" {
		err = serveUpstream(ctx, os.Args[2], os.Args[3])
	} else {
		err = fromFlags(os.Args[1:]).run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// fromFlags ends the process with status 2 if it does not understand args.
func fromFlags(args []string) *bench {
	names := figureNames()
	f := flag.NewFlagSet("load", flag.ExitOnError)
	isShort := f.Bool("short", false, "measure less of everything: the figures only say that it works")
	rounds := f.Uint("rounds", 0, "rounds of each measurement (default 15, or 2 with -short)")
	only := f.String("only", "", "the one `figure` to measure: "+strings.Join(names, ", "))
	f.Parse(args)
	if *only != "" && !slices.Contains(names, *only) || f.NArg() > 0 {
		f.Usage()
		os.Exit(2)
	}
	b := &bench{scale: full, only: *only, out: os.Stdout, repeat: "go run -C test/load ."}
	if *isShort {
		b.scale, b.repeat = short, b.repeat+" -short"
	}
	if *rounds > 0 {
		b.rounds = int(*rounds)
		b.repeat += fmt.Sprintf(" -rounds %d", b.rounds)
	}
	return b
}

// scale is how much is measured.
type scale struct {
	rounds int
	// length is how long the closed loop runs on one proxy in one round. The
	// open loop runs twice as long.
	length time.Duration
	conns  []int
	// many is the number of sessions where there are many.
	many int
	// stream is the size of each of the 64 bodies, in bytes.
	stream int64
	// idle is when an idle process is looked at.
	idle time.Duration
	// expired is the number of sessions that expire at once.
	expired int
}

var (
	full  = scale{15, time.Second, []int{1, 16, 64, 256}, 100_000, 1 << 30, 10 * time.Second, 5000}
	short = scale{2, 300 * time.Millisecond, []int{16, 64}, 5000, 16 << 20, time.Second, 1000}
)

// bench is one run.
type bench struct {
	scale
	// only is the figure to measure; "" for all.
	only string
	out  io.Writer
	// repeat is the command line, without -only.
	repeat string
	// self is this program, binary is Larkside, and reference the two proxies in Go
	// that it is compared with.
	self, binary, reference string
	// dir has all files of the run. roots is a PEM file with the upstream's root
	// certificate.
	dir, roots string
	// upstreams are plain and TLS.
	upstreams []upstream
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	// In memory where there is such a place: this doesn't measure disks.
	parent := "/dev/shm"
	if info, err := os.Stat(parent); err != nil || !info.IsDir() {
		parent = ""
	}
	if b.dir, err = os.MkdirTemp(parent, "larkside-load-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	b.roots = filepath.Join(b.dir, "roots.pem")
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: testCertificate().Raw})
	if err := os.WriteFile(b.roots, root, 0o600); err != nil {
		return err
	}
	if b.binary, err = b.build(ctx, "larkside", "./cmd/larkside"); err != nil {
		return err
	}
	if b.reference, err = b.build(ctx, "larkside/test/load", "./reference"); err != nil {
		return err
	}
	info, err := os.Stat(b.binary)
	if err != nil {
		return err
	}
	plain, secure := freeAddr(), freeAddr()
	b.upstreams = []upstream{{"HTTP/1.1", "http://" + plain}, {"TLS, HTTP/2", "https://" + secure}}
	p, err := b.startProcess(ctx, listens(secure), nil, b.self, "-upstream", plain, secure)
	if err != nil {
		return err
	}
	defer p.stop()
	fmt.Fprintf(b.out, "%d CPUs, %s. The program has %.1f MiB.\n", runtime.NumCPU(), runtime.Version(), float64(info.Size())/(1<<20))
	if postgresURL() == "" {
		fmt.Fprintln(b.out, "What needs PostgreSQL is left out: LARKSIDE_TEST_POSTGRES is not set.")
	}
	for _, g := range figures {
		if b.only != "" && b.only != g.name {
			continue
		}
		t, err := g.measure(b, ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, errors.Join(err, context.Cause(ctx)))
		}
		if t.rows != nil {
			t.print(b.out, b.repeat+" -only "+g.name)
		}
	}
	res, err := http.Get(b.upstreams[0].url + batchesPath)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	batches, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "\nEvery answer was its user's. %s batches of spans were exported.\n", batches)
	return nil
}

// build compiles a program as Larkside is shipped. It does so in the program's
// module, since this one could ask for other versions of what Larkside needs.
func (b *bench) build(ctx context.Context, module, pkg string) (string, error) {
	dir, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("where the module %s is, seen from test/load: %w", module, err)
	}
	to := filepath.Join(b.dir, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", to, pkg)
	cmd.Dir = strings.TrimSpace(string(dir))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return to, nil
}
