package main

import (
	"errors"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"larkside/telemetry"
)

func newServe(in invocation) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Serve until SIGTERM or SIGINT (what larkside does without a command)",
		Long: `Serve until SIGTERM or SIGINT. Then running requests may finish for
LARKSIDE_SHUTDOWN_GRACE; a second signal stops at once. SIGHUP reads the secret
files again. The log goes to standard error.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := parseConfig(in.environ)
			if err != nil {
				return err
			}
			log, err := newLog(cfg, in.errOut)
			if err != nil {
				return err
			}
			for _, w := range cfg.warnings {
				log.Warn(w)
			}
			err = run(c.Context(), cfg, log)
			var wrong settingsError
			if err == nil || errors.As(err, &wrong) {
				return err
			}
			log.Error("larkside failed", "error", err)
			return errLogged
		},
	}
}

// newLog returns the process's log, in LOG_FORMAT or else in text on a terminal
// and JSON anywhere else.
func newLog(cfg *config, w io.Writer) (*slog.Logger, error) {
	format := cfg.LogFormat
	if format == "" {
		format = telemetry.FormatJSON
		if isTerminal(w) {
			format = telemetry.FormatText
		}
	}
	handler, err := telemetry.NewHandler(w, format, cfg.LogLevel)
	if err != nil {
		return nil, err
	}
	return slog.New(handler), nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
