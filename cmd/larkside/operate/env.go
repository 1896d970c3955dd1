package operate

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"larkside/cmd/larkside/settings"
)

func newEnv(in Invocation) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "env",
		Short: "Print every setting with its default and meaning",
		Long: `Print every setting with its default and meaning. Values are never printed.
A secret (marked _FILE) can come from a file instead: the same name with _FILE
holds its path; the file is read again when it changes and on SIGHUP. Export of
traces and metrics follows the standard OTEL_* variables.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			switch format {
			case "text":
				_, err := io.WriteString(in.Out, settings.Text())
				return err
			case "markdown":
				_, err := io.WriteString(in.Out, settings.Markdown())
				return err
			case "json":
				return settings.WriteJSON(in.Out)
			}
			return UsageError(fmt.Sprintf("output format %q: want text, json or markdown", format))
		},
	}
	c.Flags().StringVarP(&format, "output", "o", "text", "text, json or markdown (the README's table)")
	return c
}
