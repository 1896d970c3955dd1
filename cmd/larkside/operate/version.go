package operate

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Build is what this binary was made of.
type Build struct {
	Version  string // v1.2.3, or devel
	Revision string // the commit; with "+dirty" when the tree had changes; or unknown
	Go       string // go1.26.8
}

// BuildInfo takes version and revision, which main has from the linker, else what the go command recorded.
func BuildInfo(version, revision string) Build {
	b := Build{Version: version, Revision: revision, Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if ok && b.Version == "" && info.Main.Version != "(devel)" {
		b.Version = info.Main.Version
	}
	if ok && b.Revision == "" {
		b.Revision = vcsRevision(info.Settings)
	}
	if b.Version == "" {
		b.Version = "devel"
	}
	if b.Revision == "" {
		b.Revision = "unknown"
	}
	return b
}

func vcsRevision(recorded []debug.BuildSetting) string {
	var commit, dirty string
	for _, s := range recorded {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	if commit == "" {
		return ""
	}
	return commit + dirty
}

func newVersion(in Invocation) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version, the commit and the Go version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b := in.Build
			_, err := fmt.Fprintf(in.Out, "larkside %s (commit %s, %s, %s/%s)\n", b.Version, b.Revision, b.Go, runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
