package operate

import (
	"errors"

	"github.com/spf13/cobra"

	"larkside/cmd/larkside/settings"
	"larkside/session/store"
)

func newMigrate(in Invocation) *cobra.Command {
	var to int64
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database's schema to this version, or back, and stop",
		Long: `Bring the database's schema to the version of this program and stop. "larkside
serve" does so by itself; this is for who wants it as a step of its own, as
another database role for example. It needs LARKSIDE_DATABASE_URL only.

--to N takes the schema back to version N. Stop the replicas that need what is
undone first: they are those of the version that made it.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("to") && to < 1 {
				return UsageError("--to takes a schema version from 1 on")
			}
			cfg, err := settings.Parse(in.Environ, "DATABASE_URL", "LOG_LEVEL", "LOG_FORMAT")
			if err != nil {
				return err
			}
			log, err := NewLog(cfg, in.ErrOut)
			if err != nil {
				return err
			}
			err = store.Migrate(c.Context(), store.Config{URL: cfg.DatabaseURL, Log: log}, to)
			if errors.Is(err, store.ErrRights) {
				return settings.Error{settings.Prefix + "DATABASE_URL: " + err.Error()}
			}
			return err
		},
	}
	c.Flags().Int64Var(&to, "to", 0, "schema version to go to (default: the newest that this program knows)")
	return c
}
