package main

import (
	"errors"

	"github.com/spf13/cobra"

	"larkside/cmd/larkside/operate"
	"larkside/cmd/larkside/settings"
)

func newServe(in operate.Invocation) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Serve until SIGTERM or SIGINT (what larkside does without a command)",
		Long: `Serve until SIGTERM or SIGINT. Then running requests may finish for
LARKSIDE_SHUTDOWN_GRACE; a second signal stops at once. SIGHUP reads the secret
files again. The log goes to standard error.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := settings.Parse(in.Environ)
			if err != nil {
				return err
			}
			log, err := operate.NewLog(cfg, in.ErrOut)
			if err != nil {
				return err
			}
			for _, w := range cfg.Warnings {
				log.Warn(w)
			}
			err = run(c.Context(), cfg, log)
			var wrong settings.Error
			if err == nil || errors.As(err, &wrong) {
				return err
			}
			log.Error("larkside failed", "error", err)
			return operate.ErrLogged
		},
	}
}
