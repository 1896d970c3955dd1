package operate

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"larkside/session/seal"
	"larkside/session/store"
)

func newKeys(in Invocation) *cobra.Command {
	return group("keys", "Work with the keys that seal tokens at rest", newKeysNew(in), newKeysRotate(in))
}

func newKeysNew(in Invocation) *cobra.Command {
	return &cobra.Command{
		Use:   "new",
		Short: "Print a new key for LARKSIDE_ENCRYPTION_KEYS",
		Long: `Print a new key, id:base64(32 random bytes), for LARKSIDE_ENCRYPTION_KEYS. The
id is today's date (UTC) and a few random digits; it is no secret. Put a new key
before the old ones, separated by a comma, on every replica: the first seals,
all open. "larkside keys rotate" then makes the old ones superfluous.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(in.Out, NewKey(time.Now()))
			return err
		},
	}
}

// NewKey returns one entry of ENCRYPTION_KEYS. The date in its id tells an
// operator which key is the old one. The random digits keep two keys of one day
// apart.
func NewKey(now time.Time) string {
	random := make([]byte, 2)
	rand.Read(random) // never fails
	return seal.NewKey(now.UTC().Format("20060102") + "-" + hex.EncodeToString(random)).Expose()
}

func newKeysRotate(in Invocation) *cobra.Command {
	var o operation
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Seal everything under the first key, while replicas serve",
		Long: `Have a running instance seal everything that is stored under the first key of
its LARKSIDE_ENCRYPTION_KEYS anew, while it and other replicas serve. The order:

    1. put a new key ("larkside keys new") before the old ones, on every replica
    2. larkside keys rotate
    3. take out the keys that it names, on every replica

It may be interrupted and run again at any time. On PostgreSQL it ends with a wait
of some seconds, to see that no replica still seals under another key. SQLite's
own key file (the database's path with .key) is a list of the same form, one key
a line; it is read at the start.`,
		Args: cobra.NoArgs,
		RunE: o.run(in, func(o *operation) error {
			var done store.Resealed
			err := o.client.work(o.ctx, "/api/v1/keys/rotate", &done, func(line json.RawMessage) {
				var so store.Resealed
				if json.Unmarshal(line, &so) == nil {
					o.progress(rotationSoFar(so))
				}
			})
			if err != nil {
				return err
			}
			return o.print(done, func() error {
				_, err := fmt.Fprintln(in.Out, rotationDone(done))
				return err
			})
		}),
	}
	o.flags(c)
	return c
}

func rotationSoFar(r store.Resealed) string {
	text := fmt.Sprintf("%d rows sealed under %s", r.Sealed, r.Key)
	if r.Settling {
		text += "; waiting whether another replica still seals under another key"
	}
	return text
}

func rotationDone(r store.Resealed) string {
	text := fmt.Sprintf("everything is sealed under %s (%d rows were sealed anew)", r.Key, r.Sealed)
	if len(r.Retired) > 0 {
		text += "; seals nothing any more and may leave LARKSIDE_ENCRYPTION_KEYS: " + strings.Join(r.Retired, ", ")
	}
	return text
}
