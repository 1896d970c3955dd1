package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// ErrNoBackup means that the database is PostgreSQL, which has its own
// programs for that.
var ErrNoBackup = errors.New("the database is PostgreSQL: use pg_dump")

// Backup returns a copy of the SQLite database as it is now, and its size.
// Requests go on meanwhile. Until the caller closes it, the copy is a file in
// the directory of the database: a temporary directory may have no disk behind
// it. The keys are not in it. [ErrNoBackup] with PostgreSQL.
func (d *DB) Backup(ctx context.Context) (copy io.ReadCloser, size int64, err error) {
	if d.conn.dialect != dialectSQLite {
		return nil, 0, ErrNoBackup
	}
	// Nobody else may look into this directory, whatever rights SQLite gives its
	// file.
	dir, err := os.MkdirTemp(filepath.Dir(d.conn.path), backupPrefix(d.conn.path))
	if err != nil {
		return nil, 0, fmt.Errorf("making a backup: %w", err)
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	file := filepath.Join(dir, "copy")
	// The sqlite3 shell's .backup begins anew at each write, and so may never end.
	if _, err := d.db.DB.ExecContext(ctx, `VACUUM INTO ?`, file); err != nil {
		return nil, 0, unavailable(err, "making a backup")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, fmt.Errorf("making a backup: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("making a backup: %w", err)
	}
	return &backupFile{f, dir}, info.Size(), nil
}

// backupPrefix is the beginning of the names of directories that hold a copy of
// the database at path.
func backupPrefix(path string) string { return "." + filepath.Base(path) + "-backup-" }

// dropBackups removes copies of the database at path that a killed process left
// behind.
func dropBackups(path string) {
	entries, _ := os.ReadDir(filepath.Dir(path)) // a directory that can't be read fails elsewhere
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), backupPrefix(path)) {
			os.RemoveAll(filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
}

type backupFile struct {
	*os.File
	dir string
}

func (f *backupFile) Close() error { return errors.Join(f.File.Close(), os.RemoveAll(f.dir)) }
