package settings

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"larkside/session"
	"larkside/session/seal"
)

const (
	// secretPoll is the time between two looks at the files. A new content is
	// taken when two looks in a row have seen it, so that half of a file that is
	// being written is not taken.
	secretPoll = time.Second
	// maxSecretFile is more than any secret or list of secrets needs.
	maxSecretFile = 1 << 20
	// keysCommandTimeout bounds ENCRYPTION_KEYS_COMMAND.
	keysCommandTimeout = 30 * time.Second
)

// secretFile is where a value came from and what stood there at the start.
type secretFile struct{ path, content string }

// Secrets are the present values of the secret settings. A value that came from
// a file changes when the file does, while [Secrets.Run] runs. Everything here
// is safe for concurrent use.
type Secrets struct {
	AppSecret         *Live[session.Secret]
	Apps              *Live[NamedSecrets] // always the app ids of the start
	DatabaseURL       *Live[session.Secret]
	DatabaseListenURL *Live[session.Secret]
	// EncryptionKeys is the list as [seal.ParseKeyring] takes it, from the
	// setting, its file or the command. Empty: SQLite's own key file.
	EncryptionKeys  *Live[session.Secret]
	CallerKeys      *Live[NamedSecrets]
	AdminKey        *Live[session.Secret]
	EventToken      *Live[session.Secret]
	EventEncryptKey *Live[session.Secret]

	appID string
	log   *slog.Logger
	all   []watched
}

type watched interface {
	poll(ctx context.Context, now bool, log *slog.Logger)
}

// NewSecrets takes the values that cfg was parsed with, and runs
// ENCRYPTION_KEYS_COMMAND when there is one.
func NewSecrets(ctx context.Context, cfg *Settings, log *slog.Logger) (*Secrets, error) {
	s := &Secrets{
		AppSecret:         newLive(cfg, "APP_SECRET", cfg.AppSecret, parseSecret),
		Apps:              newLive(cfg, "APPS", cfg.Apps, cfg.parseSameApps),
		DatabaseURL:       newLive(cfg, "DATABASE_URL", cfg.DatabaseURL, cfg.parseSameDatabase),
		DatabaseListenURL: newLive(cfg, "DATABASE_LISTEN_URL", cfg.DatabaseListenURL, cfg.parseListenURL),
		EncryptionKeys:    newLive(cfg, "ENCRYPTION_KEYS", cfg.EncryptionKeys, parseKeys),
		CallerKeys:        newLive(cfg, "CALLER_KEYS", cfg.CallerKeys, cfg.parseCallers),
		AdminKey:          newLive(cfg, "ADMIN_KEY", cfg.AdminKey, parseAdminKey),
		EventToken:        newLive(cfg, "EVENT_TOKEN", cfg.EventToken, parseSecret),
		EventEncryptKey:   newLive(cfg, "EVENT_ENCRYPT_KEY", cfg.EventEncryptKey, parseSecret),
		appID:             cfg.AppID,
		log:               log,
	}
	s.all = []watched{s.AppSecret, s.Apps, s.DatabaseURL, s.DatabaseListenURL, s.EncryptionKeys,
		s.CallerKeys, s.AdminKey, s.EventToken, s.EventEncryptKey}
	if cfg.EncryptionKeysCommand != "" {
		if err := s.EncryptionKeys.runCommand(ctx, cfg.EncryptionKeysCommand); err != nil {
			return nil, fmt.Errorf("%sENCRYPTION_KEYS_COMMAND: %w", Prefix, err)
		}
	}
	s.CallerKeys.OnChange(warnOfUnlimited(cfg, log))
	return s, nil
}

// warnOfUnlimited returns a function that takes each new list of keys. While
// CALLER_LIMITS has entries, it warns about a new caller that has none: that
// caller may do everything.
func warnOfUnlimited(cfg *Settings, log *slog.Logger) func(NamedSecrets) {
	known := cfg.CallerKeys.names()
	return func(keys NamedSecrets) {
		now := keys.names()
		for _, name := range now {
			_, limited := cfg.CallerLimits[name]
			if len(cfg.CallerLimits) > 0 && !limited && !slices.Contains(known, name) {
				log.Warn("a new caller has no entry in CALLER_LIMITS and may do everything", "variable", Prefix+"CALLER_KEYS", "caller", name)
			}
		}
		known = now
	}
}

// App returns the present secret of the app, empty for an unknown one.
func (s *Secrets) App(appID string) session.Secret {
	if appID == s.appID {
		return s.AppSecret.Get()
	}
	return s.Apps.Get().get(appID)
}

// Run follows the files until ctx ends, and reads them at once on SIGHUP. A
// changed file counts within three seconds. What the start would refuse is
// logged once, and the value before stays. Run returns nil.
func (s *Secrets) Run(ctx context.Context) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	s.follow(ctx, hangup)
	return nil
}

func (s *Secrets) follow(ctx context.Context, hangup <-chan os.Signal) {
	ticker := time.NewTicker(secretPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.poll(ctx, false)
		case <-hangup:
			s.log.Info("SIGHUP: reading secret files again")
			s.poll(ctx, true)
		}
	}
}

func (s *Secrets) poll(ctx context.Context, now bool) {
	for _, w := range s.all {
		w.poll(ctx, now, s.log)
	}
}

// Live is the present value of one setting.
type Live[T any] struct {
	name    string // without LARKSIDE_
	path    string // empty: the value does not come from a file
	command []string
	parse   func(string) (T, error) // its errors hold no secret

	value atomic.Pointer[T]

	mu       sync.Mutex
	onChange []func(T) // guarded by mu

	// What follows belongs to the goroutine that polls.
	taken   string // the content that value was made of
	seen    string // the content at the last look
	refused string // the last error that was logged, so that it is not repeated
}

func newLive[T any](cfg *Settings, name string, value T, parse func(string) (T, error)) *Live[T] {
	file := cfg.files[name]
	l := &Live[T]{name: name, path: file.path, parse: parse, taken: file.content}
	l.value.Store(&value)
	return l
}

// Get returns the present value.
func (l *Live[T]) Get() T { return *l.value.Load() }

// OnChange calls f with each new value from now on, one call at a time, from
// [Secrets.Run].
func (l *Live[T]) OnChange(f func(T)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.onChange = append(l.onChange, f)
}

func (l *Live[T]) changed() {
	l.mu.Lock()
	all := slices.Clone(l.onChange)
	l.mu.Unlock()
	for _, f := range all {
		f(l.Get())
	}
}

func (l *Live[T]) poll(ctx context.Context, now bool, log *slog.Logger) {
	if l.path == "" && (l.command == nil || !now) {
		return
	}
	content, err := l.read(ctx)
	settled := now || content == l.seen
	l.seen = content
	if err == nil && (content == l.taken || !settled) {
		l.refused = ""
		return
	}
	if err == nil {
		err = l.take(content)
	}
	if err != nil {
		if settled && l.refused != err.Error() {
			log.Error("a secret could not be read again; the value before stays", "variable", Prefix+l.name, "file", l.path, "error", err)
			l.refused = err.Error()
		}
		return
	}
	l.refused = ""
	log.Info("a secret has changed", "variable", Prefix+l.name, "file", l.path)
	l.changed()
}

// runCommand takes the value from a command's output, now and at each poll that
// is to read at once.
func (l *Live[T]) runCommand(ctx context.Context, command string) error {
	l.command = strings.Fields(command)
	output, err := l.read(ctx)
	if err != nil {
		return err
	}
	return l.take(output)
}

// take makes content the value.
func (l *Live[T]) take(content string) error {
	value, err := l.parse(content)
	if err != nil {
		return err
	}
	l.value.Store(&value)
	l.taken = content
	return nil
}

func (l *Live[T]) read(ctx context.Context) (string, error) {
	if l.command != nil {
		return runKeysCommand(ctx, l.command)
	}
	return readBounded(l.path)
}

// readBounded returns a file's content, at most maxSecretFile, without
// surrounding white space. Its errors are reasons that leave the path out.
func readBounded(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", reason(fileProblem(err))
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	switch {
	case err != nil:
		return "", reason(fileProblem(err))
	case len(content) > maxSecretFile:
		return "", reason("larger than 1 MiB")
	}
	// Editors on Windows begin a file with a byte order mark.
	value := bytes.TrimSpace(bytes.TrimPrefix(content, []byte("\ufeff")))
	if len(value) == 0 {
		return "", reason("empty")
	}
	return string(value), nil
}

// runKeysCommand returns the standard output of a command. It drops standard
// error, which may hold a secret.
func runKeysCommand(ctx context.Context, command []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, keysCommandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.WaitDelay = time.Second // a grandchild may hold the pipe open
	output, err := cmd.Output()
	if ctx.Err() != nil {
		return "", fmt.Errorf("no answer within %s", keysCommandTimeout)
	}
	if err != nil {
		return "", fmt.Errorf("running %s: %w", command[0], err)
	}
	return string(bytes.TrimSpace(output)), nil
}

// The functions below parse what stands in a changed file. They refuse what the
// start refuses.

func parseSecret(v string) (session.Secret, error) { return session.NewSecret(v), nil }

func parseKeys(v string) (session.Secret, error) {
	keys := session.NewSecret(v)
	_, err := seal.ParseKeyring(keys)
	return keys, err
}

func parseAdminKey(v string) (session.Secret, error) {
	key := session.NewSecret(v)
	return key, checkAdminKey(key)
}

// parseCallers takes keys that fit CALLER_LIMITS.
func (s *Settings) parseCallers(v string) (NamedSecrets, error) {
	keys, err := parseNamedSecrets(v)
	if err != nil {
		return nil, err
	}
	return keys, errors.Join(checkCallerKeys(keys), s.CallerLimits.checkCallers(keys))
}

// parseSameDatabase takes another password or host. Another kind of database
// needs a restart, since the store is opened once.
func (s *Settings) parseSameDatabase(v string) (session.Secret, error) {
	if err := checkDatabaseURL(v); err != nil {
		return session.Secret{}, err
	}
	if isPostgres(v) != s.Postgres() {
		return session.Secret{}, errors.New("another kind of database needs a restart")
	}
	return session.NewSecret(v), nil
}

func (s *Settings) parseListenURL(v string) (session.Secret, error) {
	if err := checkListenURL(v); err != nil {
		return session.Secret{}, err
	}
	if isPostgres(v) && !s.Postgres() {
		return session.Secret{}, errors.New("a PostgreSQL URL although " + Prefix + "DATABASE_URL is SQLite")
	}
	return session.NewSecret(v), nil
}

// parseSameApps takes new secrets of the same apps. Another app needs a restart,
// since each has parts of its own that are made at the start.
func (s *Settings) parseSameApps(v string) (NamedSecrets, error) {
	apps, err := parseNamedSecrets(v)
	if err != nil {
		return nil, err
	}
	before, now := s.AppIDs(), (&Settings{AppID: s.AppID, Apps: apps}).AppIDs()
	slices.Sort(before)
	slices.Sort(now)
	if !slices.Equal(before, now) {
		return nil, errors.New("the apps are not those of the start; other apps need a restart")
	}
	return apps, nil
}

// fileProblem is an error of the file system without the path, which the reader
// of the message has already.
func fileProblem(err error) string {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}
