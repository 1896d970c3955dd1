package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/prometheus/procfs"

	"larkside/test/port"
)

// process is one that this one has started.
type process struct {
	procfs.Proc
	cancel context.CancelFunc
	ended  chan struct{}
	// ready is how long it took from the start until it was ready.
	ready time.Duration
}

// startProcess starts a command and returns when it is ready. It ends with ctx.
// An env of nil is this process's.
func (b *bench) startProcess(ctx context.Context, ready func() bool, env []string, command ...string) (*process, error) {
	log, err := os.CreateTemp(b.dir, "*.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = env, b.dir, log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 3 * time.Second
	endWithParent(cmd)
	began := time.Now()
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	p := &process{cancel: cancel, ended: make(chan struct{})}
	go func() { cmd.Wait(); close(p.ended) }()
	for !ready() {
		select {
		case <-p.ended:
			err = errors.New("it ended")
		case <-time.After(time.Millisecond):
			if time.Since(began) > patience {
				err = errors.New("it does not get ready")
			}
		}
		if err != nil {
			p.stop()
			said, _ := os.ReadFile(log.Name())
			return nil, fmt.Errorf("starting %s: %w: %s", command[0], err, said[max(0, len(said)-4096):])
		}
	}
	p.ready = time.Since(began)
	if p.Proc, err = procfs.NewProc(cmd.Process.Pid); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *process) stop() {
	p.cancel()
	<-p.ended
}

// cpu is the user and system time so far.
func (p *process) cpu() (time.Duration, error) {
	stat, err := p.Stat()
	return time.Duration(stat.CPUTime() * float64(time.Second)), err
}

// residentMiB is the memory that is in RAM.
func (p *process) residentMiB() (float64, error) {
	stat, err := p.Stat()
	return float64(stat.ResidentMemory()) / (1 << 20), err
}

// freeAddr is an address at which nothing listens. It is reserved until this
// program ends.
func freeAddr() string {
	address, _, err := port.Reserve()
	if err != nil {
		return "127.0.0.1:0" // listening there will say why it can't
	}
	return address
}

// listens reports whether something listens at addr.
func listens(addr string) func() bool {
	return func() bool {
		conn, err := net.Dial("tcp", addr)
		return err == nil && conn.Close() == nil
	}
}
