package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"larkside/session"
)

func newKeys(in invocation) *cobra.Command {
	return group("keys", "Work with the keys that seal tokens at rest", newKeysNew(in))
}

func newKeysNew(in invocation) *cobra.Command {
	return &cobra.Command{
		Use:   "new",
		Short: "Print a new key for LARKSIDE_ENCRYPTION_KEYS",
		Long: `Print a new key, id:base64(32 random bytes), for LARKSIDE_ENCRYPTION_KEYS. The
id is today's date (UTC) and a few random digits; it is no secret. Put a new key
before the old ones, separated by a comma: the first seals, all open.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(in.out, newKey(time.Now()))
			return err
		},
	}
}

// newKey returns one entry of ENCRYPTION_KEYS. Dates in ids tell an operator
// which key is the old one; the random digits keep two of a day apart.
func newKey(now time.Time) string {
	random := make([]byte, 2)
	rand.Read(random) // never fails
	return session.NewKey(now.UTC().Format("20060102") + "-" + hex.EncodeToString(random)).Expose()
}
