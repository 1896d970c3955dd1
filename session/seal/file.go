package seal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"time"

	"larkside/session"
)

// OpenFile reads the ring from the file at path. It makes the file with a new
// key if there is none and create is true.
func OpenFile(path string, create bool) (*Keyring, error) {
	content, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && create:
		key := NewKey("local-" + time.Now().UTC().Format("20060102"))
		if err := writeFile(path, key); err != nil {
			return nil, err
		}
		return ParseKeyring(key)
	case err != nil:
		return nil, err
	}
	ring, err := ParseKeyring(session.NewSecret(string(content)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ring, nil
}

// IsOpenToAll reports whether every user of the machine may read or change the
// file at path. Windows keeps its rights elsewhere, so there nothing is known.
func IsOpenToAll(path string) bool {
	info, err := os.Stat(path)
	return err == nil && runtime.GOOS != "windows" && info.Mode()&0o006 != 0
}

func writeFile(path string, key session.Secret) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(key.Expose() + "\n")
	return errors.Join(err, f.Sync(), f.Close())
}
