package operate

import (
	"github.com/spf13/cobra"

	"larkside/cmd/larkside/settings"
	"larkside/session/store"
)

func newMigrate(in Invocation) *cobra.Command {
	return &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database's schema up to this version and stop",
		Long: `Bring the database's schema up to this version and stop. "larkside serve" does
so by itself; this is for who wants it as a step of its own. It needs
LARKSIDE_DATABASE_URL only, and refuses a schema that is newer than itself.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := settings.Parse(in.Environ, "DATABASE_URL", "LOG_LEVEL", "LOG_FORMAT")
			if err != nil {
				return err
			}
			log, err := NewLog(cfg, in.ErrOut)
			if err != nil {
				return err
			}
			return store.Migrate(c.Context(), store.Config{URL: cfg.DatabaseURL, Log: log})
		},
	}
}
