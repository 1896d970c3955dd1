package lifecycle

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"larkside/test/dbtest"
	"larkside/test/larktest"
	"larkside/test/process"
)

// smallDisk is a file system of its own of size bytes.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := dbtest.TempDir(t)
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+size)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		t.Skip("mounting a small file system needs root")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill leaves no room in dir and returns how to give it back.
func fill(t *testing.T, dir string) (empty func()) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); ; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Error(err)
		}
	}
}

// SQLite's disk is full: who has a token goes on, a renewed pair that can't be
// written is kept until it can, and nobody has lost a grant or is asked again.
func TestDiskFull(t *testing.T) {
	dir := smallDisk(t, "1m")
	lark := larktest.Start(t, nil)
	db := process.SQLite(t)
	db.URL = "sqlite:" + filepath.Join(dir, "larkside.db")
	process.Seed(t, db, lark, 0, larktest.Alice)
	process.Seed(t, db, lark, 3*time.Hour, larktest.Bob)
	p := process.Start(t, process.Options{Lark: lark, DB: db})
	if a := p.Get(t, call, larktest.Alice); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}

	empty := fill(t, dir)
	if a := p.Get(t, call, larktest.Alice); a.Status != 200 {
		t.Errorf("a cached token: %d %s", a.Status, a.Body)
	}
	a := p.Get(t, call, larktest.Bob)
	if a.Status != 503 || a.Name() != "store_unavailable" {
		t.Errorf("a renewal that can't be stored: %d %s", a.Status, a.Body)
	}
	if a := p.Get(t, call, larktest.Carol); a.Status != 503 || a.Name() != "store_unavailable" {
		t.Errorf("a consent that can't be stored: %d %s", a.Status, a.Body)
	}
	if a := p.Admin(t, "GET", "/healthz"); a.Status != 200 {
		t.Errorf("healthz: %d", a.Status)
	}

	empty()
	process.Eventually(t, "the session whose renewal waited for the disk", func() bool {
		return p.Get(t, call, larktest.Bob).Status == 200
	})
	if status := p.Stop(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	p.Restart()
	if a := p.Get(t, call, larktest.Bob); a.Status != 200 {
		t.Errorf("after a restart: %d %s", a.Status, a.Body)
	}
	larktest.NoViolations(t, lark)
	if n := len(lark.Messages(larktest.Bob)); n != 0 {
		t.Errorf("Bob got %d cards", n)
	}
}
