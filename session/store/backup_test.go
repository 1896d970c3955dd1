package store_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"larkside/session"
	"larkside/session/store"
	"larkside/test/dbtest"
)

// A backup ends although writes go on, is whole, and leaves nothing behind.
func TestBackup(t *testing.T) {
	db := dbtest.SQLite(t)
	dir := filepath.Dir(strings.TrimPrefix(db.URL, "sqlite:"))
	left := filepath.Join(dir, ".larkside.db-backup-1")
	if err := os.MkdirAll(filepath.Join(left, "copy"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := db.Open(t, nil)
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the copy of a process that was killed: %v", err)
	}
	for i := range 200 {
		put(t, s, grant(session.Key{AppID: alice.AppID, OpenID: fmt.Sprintf("ou_%d", i)}, "1"))
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				s.Sessions.Put(t.Context(), grant(alice, "w"))
			}
		}
	}()
	copied, size, err := s.Backup(t.Context())
	close(stop)
	<-stopped
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(copied)
	if err != nil || int64(len(content)) != size {
		t.Fatalf("%d bytes of %d, %v", len(content), size, err)
	}
	if err := copied.Close(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(content), "access-1") {
		t.Error("a token is in clear")
	}
	if entries, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %q, %v", entries, err)
	}
	restored := *db
	restored.URL = "sqlite:" + filepath.Join(dir, "restored.db")
	if err := os.WriteFile(strings.TrimPrefix(restored.URL, "sqlite:"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	if row := load(t, restored.Open(t, nil), session.Key{AppID: alice.AppID, OpenID: "ou_199"}); row.RefreshToken.Expose() != "refresh-1" {
		t.Errorf("%+v", row)
	}
}

func TestBackupOfPostgres(t *testing.T) {
	t.Parallel()
	if _, _, err := dbtest.Postgres(t).Open(t, nil).Backup(t.Context()); !errors.Is(err, store.ErrNoBackup) {
		t.Errorf("%v", err)
	}
}
