package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func newEnv(in invocation) *cobra.Command {
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
				_, err := io.WriteString(in.out, textTable())
				return err
			case "markdown":
				_, err := io.WriteString(in.out, markdownTable())
				return err
			case "json":
				return writeSettingsJSON(in.out)
			}
			return usageError(fmt.Sprintf("output format %q: want text, json or markdown", format))
		},
	}
	c.Flags().StringVarP(&format, "output", "o", "text", "text, json or markdown (the README's table)")
	return c
}

// settingView is a setting in "larkside env -o json".
type settingView struct {
	Name      string   `json:"name"`
	Required  bool     `json:"required"`
	Default   string   `json:"default"` // in words where no single value says it
	Takes     string   `json:"takes"`
	OneOf     []string `json:"one_of,omitempty"`
	Meaning   string   `json:"meaning"`
	Secret    bool     `json:"secret"`
	FileFrom  string   `json:"file_variable,omitempty"`
	Available bool     `json:"available"`
}

func writeSettingsJSON(w io.Writer) error {
	views := []settingView{}
	for _, s := range settings {
		v := settingView{
			Name: prefix + s.Name, Required: s.Shown == required, Takes: s.takes(), OneOf: s.OneOf,
			Meaning: plain(s.Meaning), Secret: s.Shows == nothing, Available: !isNotYet(s.Name),
		}
		if !v.Required && s.defaultText() != "none" {
			v.Default = plain(s.defaultText())
		}
		if s.File {
			v.FileFrom = prefix + s.Name + "_FILE"
		}
		views = append(views, v)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(views)
}
