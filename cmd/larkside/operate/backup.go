package operate

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/spf13/cobra"
)

func newBackup(in Invocation) *cobra.Command {
	var o operation
	var file string
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write a copy of the SQLite database to FILE, while it is served",
		Long: `Write a copy of the running instance's SQLite database to FILE, which must not
exist. Only you may read it (mode 0600). The instance serves meanwhile. Tokens are
sealed in it; the key is not in it: keep LARKSIDE_ENCRYPTION_KEYS, or the database's
path with .key, elsewhere. For PostgreSQL use pg_dump. Asks a running instance's
admin listener (LARKSIDE_ADMIN_LISTEN, or --admin) with LARKSIDE_ADMIN_KEY, if that
is set.`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return UsageError("name one FILE, which must not exist")
			}
			file = args[0]
			return o.run(in, func(o *operation) error { return o.backup(file) })(c, args)
		},
	}
	o.flags(c)
	return c
}

// backup writes what the instance sends to a new file. An incomplete file is
// removed.
func (o *operation) backup(file string) (err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file))
		}
	}()
	n, err := o.download(f)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return o.print(map[string]any{"file": file, "bytes": n}, func() error {
		_, err := fmt.Fprintf(o.in.Out, "%d bytes written to %s; the encryption key is not in it\n", n, visible(file))
		return err
	})
}

func (o *operation) download(to io.Writer) (int64, error) {
	resp, err := o.client.send(o.ctx, http.MethodPost, "/api/v1/backup", nil, "application/vnd.sqlite3")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.Header.Get("Content-Type") != "application/vnd.sqlite3" {
		return 0, &apiError{status: resp.StatusCode}
	}
	n, err := io.Copy(to, resp.Body)
	if err != nil || n != resp.ContentLength {
		return n, errors.Join(errors.New("the instance broke off before it was done; run this again"), err)
	}
	return n, nil
}
