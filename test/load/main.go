package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := dispatch(ctx, os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("load")

// dispatch is this program, or, behind -as, one of its child processes.
func dispatch(ctx context.Context, args []string) error {
	if len(args) < 2 || args[0] != "-as" {
		return benchMain(ctx, args, os.Stdout)
	}
	switch name := args[1]; name {
	case "client":
		return clientMain(ctx)
	case "upstream":
		return upstreamMain(ctx)
	case "wired":
		return wiredMain(ctx)
	default:
		return referenceMain(ctx, name, os.Getenv("LOAD_TARGET"))
	}
}

// options are the command line.
type options struct {
	scenarios []string
	conns     []int
	proxies   []string
	rounds    int
	length    time.Duration
	rate      float64
	users     int
	json      string
	pgo       string
	short     bool
}

// bench is one run.
type bench struct {
	options
	out         io.Writer
	self        string
	dir         string
	binary      string
	upstream    *child
	up          places
	rootsFile   string
	postgresURL *url.URL
	databases   int
	manyStore   *database
	figures     figures
}

// scenario is one part of a run.
type scenario struct {
	name, about string
	run         func(*bench, context.Context) error
}

func scenarios() []scenario {
	return []scenario{
		{"closed", "throughput, CPU and allocations, closed loop", (*bench).closed},
		{"open", "added latency at a constant rate", (*bench).open},
		{"refresh", "the same with sessions being refreshed, and with a sweep running", (*bench).refreshing},
		{"stream", "10 MiB up and down", (*bench).streams},
		{"sse", "the first byte of a stream of events", (*bench).sse},
		{"miss", "a session that is not cached, against a bare SELECT", (*bench).miss},
		{"ready", "time from start to ready with many sessions stored", (*bench).ready},
		{"memory", "resident memory: idle, many users, many streams", (*bench).memory},
		{"expiry", "thousands of sessions that expire at once, three replicas", (*bench).expiry},
		{"scale", "users, connections and replicas from one to many", (*bench).scale},
	}
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	f.SetOutput(out)
	names := []string{}
	about := ""
	for _, s := range scenarios() {
		names = append(names, s.name)
		about += fmt.Sprintf("\n  %-8s %s", s.name, s.about)
	}
	var run, conns, proxies string
	f.StringVar(&run, "run", "", "scenarios, comma separated; all by default:"+about)
	f.StringVar(&conns, "conns", "1,16,64,256", "`numbers` of connections of the closed loop")
	f.StringVar(&proxies, "proxies", "naive,tuned,larkside,traced,nginx,haproxy,caddy", "`names`; those that are not installed are left out; traced is larkside with all requests sampled")
	f.IntVar(&o.rounds, "rounds", 3, "rounds of each measurement")
	f.DurationVar(&o.length, "length", 700*time.Millisecond, "how long one proxy runs in one round")
	f.Float64Var(&o.rate, "rate", 1000, "requests per second of the open loop")
	f.IntVar(&o.users, "users", 64, "users of the closed and the open loop")
	f.BoolVar(&o.short, "short", false, "about a minute: two rounds of 200 ms, 16 and 64 connections, fewer scenarios")
	f.StringVar(&o.json, "json", "", "write all figures to this `file`")
	f.StringVar(&o.pgo, "pgo", "", "profile larkside's handler under load into this `file`, and measure what a build with it gains; nothing else is run")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, fmt.Errorf("%w: %w", errUsage, err)
	}
	given := map[string]bool{}
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	set := func(name string, change func()) {
		if o.short && !given[name] {
			change()
		}
	}
	set("rounds", func() { o.rounds = 2 })
	set("length", func() { o.length = 200 * time.Millisecond })
	set("conns", func() { conns = "16,64" })
	set("run", func() { run = "closed,open,stream,sse,miss,memory" })
	if o.scenarios = names; run != "" {
		o.scenarios = strings.Split(run, ",")
	}
	for _, s := range o.scenarios {
		if !slices.Contains(names, s) {
			return o, fmt.Errorf("%w: -run %q: want some of %s", errUsage, s, strings.Join(names, ","))
		}
	}
	o.proxies = strings.Split(proxies, ",")
	for _, p := range o.proxies {
		if !slices.Contains([]string{"naive", "tuned", "larkside", "traced", "nginx", "haproxy", "caddy"}, p) {
			return o, fmt.Errorf("%w: -proxies %q is not known", errUsage, p)
		}
	}
	for _, c := range strings.Split(conns, ",") {
		n, err := strconv.Atoi(c)
		if err != nil || n < 1 || n > 4096 {
			return o, fmt.Errorf("%w: -conns %q: want numbers from 1 to 4096", errUsage, c)
		}
		o.conns = append(o.conns, n)
	}
	if o.rounds < 1 || o.length < 10*time.Millisecond || o.rate <= 0 || o.users < 1 || o.users > 10_000 || f.NArg() > 0 {
		return o, fmt.Errorf("%w: want at least one round of 10 ms, a rate above 0, 1 to 10000 users, and no further arguments", errUsage)
	}
	return o, nil
}

// benchMain measures and prints.
func benchMain(ctx context.Context, args []string, out io.Writer) (err error) {
	o, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	b := &bench{options: o, out: out}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	defer b.clean()
	b.figures.Machine = fmt.Sprintf("%d CPUs, %s, load %s", runtime.NumCPU(), runtime.Version(), loadAverage())
	fmt.Fprintf(out, "%s; %d rounds of %v; the middle, and from least to greatest\n", b.figures.Machine, o.rounds, o.length)
	if o.pgo != "" {
		err = b.profileGuided(ctx)
	} else {
		for _, s := range scenarios() {
			if err == nil && slices.Contains(o.scenarios, s.name) {
				if err = s.run(b, ctx); err != nil {
					err = fmt.Errorf("%s: %w", s.name, err)
				}
			}
		}
	}
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	var stats upstreamStats
	if err == nil {
		if err = getJSON("http://"+b.up.Plain+"/stats", &stats); err == nil && stats.Errors > 0 {
			err = fmt.Errorf("the upstream got %d requests that were not as they should be", stats.Errors)
		}
	}
	if err == nil {
		fmt.Fprintf(out, "\nEvery answer was its user's. Load at the end: %s.\n", loadAverage())
	}
	if o.json != "" {
		text, jerr := json.MarshalIndent(b.figures, "", "  ")
		err = errors.Join(err, jerr, os.WriteFile(o.json, append(text, '\n'), 0o644))
	}
	return err
}

func (b *bench) prepare(ctx context.Context) (err error) {
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if s := os.Getenv("LARKSIDE_TEST_POSTGRES"); s != "" {
		if b.postgresURL, err = url.Parse(s); err != nil {
			return errors.New("LARKSIDE_TEST_POSTGRES is no URL")
		}
	}
	// In memory where there is such a place: no disk is measured here.
	parent := "/dev/shm"
	if info, err := os.Stat(parent); err != nil || !info.IsDir() {
		parent = ""
	}
	if b.dir, err = os.MkdirTemp(parent, "larkside-load-"); err != nil {
		return err
	}
	// nginx gives its workers another user, who has to get in.
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			b.clean()
		}
	}()
	if b.upstream, b.up, err = b.role("upstream", nil); err != nil {
		return err
	}
	b.rootsFile = filepath.Join(b.dir, "roots.pem")
	if err := os.WriteFile(b.rootsFile, []byte(b.up.Roots), 0o644); err != nil {
		return err
	}
	b.binary = filepath.Join(b.dir, "larkside")
	if err := build(ctx, b.binary); err != nil {
		return err
	}
	info, err := os.Stat(b.binary)
	if err != nil {
		return err
	}
	b.figures.BinaryMiB = float64(info.Size()) / (1 << 20)
	fmt.Fprintf(b.out, "larkside, static and stripped: %.1f MiB\n", b.figures.BinaryMiB)
	return nil
}

func (b *bench) clean() {
	if b.upstream != nil {
		b.upstream.stop()
	}
	os.RemoveAll(b.dir)
}
