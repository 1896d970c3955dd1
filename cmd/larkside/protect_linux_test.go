package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"larkside/test/process"
)

// The socket's file is made with its mode. A chmod afterwards would leave a
// moment in which everybody can connect.
func TestSocketIsNarrowFromTheStart(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077} {
		before := syscall.Umask(umask)
		path := filepath.Join(t.TempDir(), "proxy.sock")
		l, err := bind(t.Context(), "unix", path)
		syscall.Umask(before)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm()&^socketMode != 0 {
			t.Errorf("umask %o: mode %v, %v", umask, info.Mode(), err)
		}
		l.Close()
	}
	if l, err := bind(t.Context(), "tcp", "127.0.0.1:0"); err != nil {
		t.Error(err)
	} else if _, ok := l.(*net.TCPListener); !ok {
		t.Errorf("%T", l)
	}
}

// Another process of the same user can't read what the program has in memory: the
// system gives what is in /proc of such a process to root.
func TestMemoryIsPrivate(t *testing.T) {
	binary, err := os.Open(process.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	// A command that waits for an instance that isn't there.
	cmd := exec.CommandContext(t.Context(), "/proc/self/fd/3", "wait", "--timeout=1m", "--admin=http://127.0.0.1:1")
	cmd.ExtraFiles, cmd.Env, cmd.Dir = []*os.File{binary}, []string{}, "/"
	user := uint32(os.Getuid())
	if user == 0 {
		user = 65534
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	process.Eventually(t, "the memory to be private", func() bool {
		info, err := os.Stat(fmt.Sprintf("/proc/%d/mem", cmd.Process.Pid))
		return err == nil && info.Sys().(*syscall.Stat_t).Uid != user
	})
}
