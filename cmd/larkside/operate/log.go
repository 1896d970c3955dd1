package operate

import (
	"io"
	"log/slog"
	"os"

	"larkside/cmd/larkside/settings"
	"larkside/telemetry"
)

// NewLog returns the process's log. Without LOG_FORMAT it is text on a terminal
// and JSON anywhere else.
func NewLog(cfg *settings.Settings, w io.Writer) (*slog.Logger, error) {
	format := cfg.LogFormat
	if format == "" {
		format = telemetry.FormatJSON
		if IsTerminal(w) {
			format = telemetry.FormatText
		}
	}
	handler, err := telemetry.NewHandler(w, format, cfg.LogLevel)
	if err != nil {
		return nil, err
	}
	return slog.New(handler), nil
}

// IsTerminal reports whether a person may read what is written to w.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
