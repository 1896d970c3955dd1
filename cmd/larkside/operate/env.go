package operate

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"larkside/cmd/larkside/settings"
)

func newEnv(in Invocation) *cobra.Command {
	var format string
	var defaults bool
	c := &cobra.Command{
		Use:   "env",
		Short: "Print what is in force of every setting, and where it comes from",
		Long: `Print what is in force of every setting in this environment, and where it comes
from: the environment, a file, or the default. *** stands for a secret. Problems
that would stop the start follow on standard error, with exit status 2.

With --defaults print every setting with its default and meaning instead. A
secret can come from a file: the same name with _FILE holds its path; the file is
read again when it changes and on SIGHUP. Export of traces and metrics follows the
standard OTEL_* variables.`,
		Example: "  larkside env\n  larkside env --defaults",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if defaults {
				return printDefaults(in.Out, format)
			}
			if format != "text" && format != "json" {
				return UsageError(fmt.Sprintf("output format %q: want text or json, or markdown with --defaults", format))
			}
			values, problems := settings.InForce(in.Environ)
			if err := settings.WriteValues(in.Out, values, format == "json"); err != nil {
				return err
			}
			return problems
		},
	}
	c.Flags().BoolVar(&defaults, "defaults", false, "every setting with its default and meaning")
	c.Flags().StringVarP(&format, "output", "o", "text", "text or json; with --defaults also markdown (the table of deploy/docs/settings.md)")
	return c
}

func printDefaults(w io.Writer, format string) error {
	switch format {
	case "text":
		_, err := io.WriteString(w, settings.Text())
		return err
	case "markdown":
		_, err := io.WriteString(w, settings.Markdown())
		return err
	case "json":
		return settings.WriteJSON(w)
	}
	return UsageError(fmt.Sprintf("output format %q: want text, json or markdown", format))
}
