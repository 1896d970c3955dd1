package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"larkside/cmd/larkside/operate"
	"larkside/cmd/larkside/settings"
)

// banner tells a person at a terminal what has started, in place of the log's
// first lines. A nil banner says nothing: there is only the log.
type banner struct {
	out io.Writer
	cfg *settings.Settings
	// fresh are the files that were not there before the start.
	fresh map[string]bool
}

// newBanner returns nil unless a person reads errOut. It looks at the files before
// the store makes them.
func newBanner(cfg *settings.Settings, errOut io.Writer) *banner {
	if cfg.LogFormat == "json" || !operate.IsTerminal(errOut) {
		return nil
	}
	b := &banner{out: errOut, cfg: cfg, fresh: map[string]bool{}}
	for _, path := range []string{b.databaseFile(), b.keyFile()} {
		if _, err := os.Stat(path); path != "" && errors.Is(err, fs.ErrNotExist) {
			b.fresh[path] = true
		}
	}
	return b
}

// databaseFile is SQLite's file, "" with PostgreSQL.
func (b *banner) databaseFile() string {
	path := b.cfg.SQLiteFile()
	if full, err := filepath.Abs(path); err == nil && path != "" {
		return full
	}
	return path
}

// keyFile is SQLite's own key file, "" if the keys come from elsewhere.
func (b *banner) keyFile() string {
	if b.databaseFile() == "" || !b.cfg.EncryptionKeys.Empty() || b.cfg.EncryptionKeysCommand != "" {
		return ""
	}
	return b.databaseFile() + ".key"
}

func (b *banner) line(label, format string, args ...any) {
	fmt.Fprintf(b.out, "  %-9s %s\n", label, fmt.Sprintf(format, args...))
}

// begin is the title.
func (b *banner) begin(build operate.Build) {
	if b == nil {
		return
	}
	fmt.Fprintf(b.out, "Larkside %s\n\n", build.Version)
	b.line("app", "%s at %s", strings.Join(b.cfg.AppIDs(), ", "), b.cfg.OpenURL)
}

// listening says where a listener is and who may reach it.
func (b *banner) listening(name string, a net.Addr) {
	where, console := "http://"+reachable(a), "http://"+reachable(a)+"/"
	if a.Network() == "unix" {
		where, console = "unix:"+a.String(), "unix:"+a.String()
	}
	switch name {
	case "admin":
		b.line("console", "%s  (%s)", console, who(a, !b.cfg.AdminKey.Empty(), "LARKSIDE_ADMIN_KEY"))
	case "consent":
		b.line(name, "%s  (users' browsers, by %s)", where, cmp.Or(string(b.cfg.PublicURL), "the events' address in Lark's console"))
	default:
		b.line(name, "%s  (%s)", where, who(a, len(b.cfg.CallerKeys) > 0, "LARKSIDE_CALLER_KEYS"))
	}
}

// reachable is a listener's address as this machine's own browser takes it.
func reachable(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if ok && tcp.IP.IsUnspecified() {
		return net.JoinHostPort("localhost", fmt.Sprint(tcp.Port))
	}
	return a.String()
}

// who says who can use a listener.
func who(a net.Addr, key bool, setting string) string {
	callers := "every program on this machine"
	switch tcp, ok := a.(*net.TCPAddr); {
	case !ok:
		callers = "who may open the socket"
	case !tcp.IP.IsLoopback():
		callers = "every machine that can reach it"
	}
	if key {
		return callers + ", with a key of " + setting
	}
	return callers + ", without a key"
}

// opened says where the database and its keys are.
func (b *banner) opened() {
	if b == nil {
		return
	}
	fresh := func(path, advice string) string {
		if b.fresh[path] {
			return "  (made just now" + advice + ")"
		}
		return ""
	}
	if file := b.databaseFile(); file != "" {
		b.line("database", "%s%s", file, fresh(file, ""))
	} else {
		b.line("database", "%s", cmp.Or(b.cfg.ShownDatabase(), "PostgreSQL"))
	}
	switch file := b.keyFile(); {
	case file != "":
		b.line("its key", "%s%s", file, fresh(file, ": back it up, apart from the database"))
	case b.cfg.EncryptionKeysCommand != "":
		b.line("its key", "from LARKSIDE_ENCRYPTION_KEYS_COMMAND")
	default:
		b.line("its key", "from %s", cmp.Or(b.cfg.File("ENCRYPTION_KEYS"), "LARKSIDE_ENCRYPTION_KEYS"))
	}
	b.warn()
	fmt.Fprintln(b.out)
}

// warn names the settings that are probably a mistake.
func (b *banner) warn() {
	all := b.cfg.Warnings
	if b.cfg.AdminKey.Empty() {
		all = append(all[:len(all):len(all)], "No LARKSIDE_ADMIN_KEY: whoever reaches the console sees all users and can end their sessions.")
	}
	if len(all) > 0 {
		fmt.Fprintln(b.out)
	}
	for _, text := range all {
		for i, line := range settings.Fold(text, 74) {
			fmt.Fprintf(b.out, "  %s %s\n", map[bool]string{true: "!", false: " "}[i == 0], line)
		}
	}
}

// ready is the last line.
func (b *banner) ready() {
	user := "the user\nin X-Lark-User-Id"
	if b.cfg.UserJWTIssuer != "" {
		user = "a JWT\nof the user in X-Larkside-User-Token"
	}
	fmt.Fprintf(b.out, "Ready. Send what you would send to %s to the proxy, with %s. Ctrl-C stops.\n", b.cfg.OpenURL, user)
	switch b.cfg.DefaultUser {
	case "":
	case settings.SignedIn:
		fmt.Fprintf(b.out, "Requests that name no user are yours once you have signed in: run \"larkside login\"\nin another terminal.\n")
	default:
		fmt.Fprintf(b.out, "Requests that name no user are those of %s.\n", b.cfg.DefaultUser)
	}
	fmt.Fprintln(b.out)
}

// announce says that a listener is open.
func (s *server) announce(name string, a net.Addr) {
	if s.banner != nil {
		s.banner.listening(name, a)
		return
	}
	s.log.Info("listening", "listener", name, "address", a.String())
}

// announceReady says that requests may be sent.
func (s *server) announceReady() {
	if s.banner != nil {
		s.banner.ready()
		return
	}
	s.log.Info("ready", "version", s.build.Version, "apps", len(s.clients))
}
