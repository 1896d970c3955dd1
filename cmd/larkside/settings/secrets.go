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
)

const (
	// secretPoll is the time between two looks at the files. A new content is
	// taken when two looks in a row saw the same, so that a file that is being
	// written in place is not taken half.
	secretPoll = time.Second
	// maxSecretFile is more than any secret or list of secrets needs.
	maxSecretFile = 1 << 20
	// keysCommandTimeout bounds ENCRYPTION_KEYS_COMMAND.
	keysCommandTimeout = 30 * time.Second
)

// secretFile is where a value came from and what stood there at the start.
type secretFile struct{ path, content string }

// Secrets are the present values of the secret settings. A value that came from
// a file changes when the file does; [Secrets.Run] watches. Everything here is
// safe for concurrent use.
type Secrets struct {
	AppSecret         *Live[session.Secret]
	Apps              *Live[NamedSecrets] // always the app ids of the start
	DatabaseURL       *Live[session.Secret]
	DatabaseListenURL *Live[session.Secret]
	// EncryptionKeys is the list as [session.ParseKeyring] takes it, from the
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

// NewSecrets takes the values that c was parsed with, and runs
// ENCRYPTION_KEYS_COMMAND when there is one.
func NewSecrets(ctx context.Context, c *Settings, log *slog.Logger) (*Secrets, error) {
	keys := newLive(c, "ENCRYPTION_KEYS", c.EncryptionKeys, parseKeys)
	if c.EncryptionKeysCommand != "" {
		keys.command = strings.Fields(c.EncryptionKeysCommand)
		output, err := keys.read(ctx)
		if err == nil {
			err = keys.take(output)
		}
		if err != nil {
			return nil, fmt.Errorf("%sENCRYPTION_KEYS_COMMAND: %w", Prefix, err)
		}
	}
	ids := c.AppIDs()
	s := &Secrets{
		AppSecret:         newLive(c, "APP_SECRET", c.AppSecret, parseSecret),
		Apps:              newLive(c, "APPS", c.Apps, func(v string) (NamedSecrets, error) { return parseSameApps(v, ids) }),
		DatabaseURL:       newLive(c, "DATABASE_URL", c.DatabaseURL, c.parseSameDatabase),
		DatabaseListenURL: newLive(c, "DATABASE_LISTEN_URL", c.DatabaseListenURL, parseListenURL),
		EncryptionKeys:    keys,
		CallerKeys:        newLive(c, "CALLER_KEYS", c.CallerKeys, c.parseCallers),
		AdminKey:          newLive(c, "ADMIN_KEY", c.AdminKey, parseAdminKey),
		EventToken:        newLive(c, "EVENT_TOKEN", c.EventToken, parseSecret),
		EventEncryptKey:   newLive(c, "EVENT_ENCRYPT_KEY", c.EventEncryptKey, parseSecret),
		appID:             c.AppID,
		log:               log,
	}
	s.CallerKeys.OnChange(warnOfUnlimited(c, log))
	s.all = []watched{s.AppSecret, s.Apps, s.DatabaseURL, s.DatabaseListenURL, s.EncryptionKeys,
		s.CallerKeys, s.AdminKey, s.EventToken, s.EventEncryptKey}
	return s, nil
}

// warnOfUnlimited returns what tells of a caller that is new in the file and has
// no entry in CALLER_LIMITS although there are some: it may do everything.
func warnOfUnlimited(c *Settings, log *slog.Logger) func(NamedSecrets) {
	known := c.CallerKeys.names()
	return func(keys NamedSecrets) {
		now := keys.names()
		for _, name := range now {
			if _, limited := c.CallerLimits[name]; !limited && len(c.CallerLimits) > 0 && !slices.Contains(known, name) {
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
// changed file counts within three seconds. Content that is not valid is logged
// once and the value before it stays. Run returns nil.
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

// Live is one setting's present value.
type Live[T any] struct {
	name    string // without LARKSIDE_
	path    string // empty: the value does not come from a file
	command []string
	parse   func(string) (T, error) // errors are fit for the log

	value atomic.Pointer[T]

	mu       sync.Mutex
	onChange []func(T) // guarded by mu

	// What follows belongs to the goroutine that polls.
	taken   string // what value was made of
	seen    string // what the last look saw
	refused string // the last complaint, so as not to repeat it
}

func newLive[T any](c *Settings, name string, value T, parse func(string) (T, error)) *Live[T] {
	file := c.files[name]
	s := &Live[T]{name: name, path: file.path, parse: parse, taken: file.content}
	s.value.Store(&value)
	return s
}

// Get returns the present value.
func (s *Live[T]) Get() T { return *s.value.Load() }

// OnChange calls f with each new value from now on, one call at a time, from
// [Secrets.Run].
func (s *Live[T]) OnChange(f func(T)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onChange = append(s.onChange, f)
}

func (s *Live[T]) changed() {
	s.mu.Lock()
	all := slices.Clone(s.onChange)
	s.mu.Unlock()
	for _, f := range all {
		f(s.Get())
	}
}

func (s *Live[T]) poll(ctx context.Context, now bool, log *slog.Logger) {
	if s.path == "" && (s.command == nil || !now) {
		return
	}
	content, err := s.read(ctx)
	settled := now || content == s.seen
	s.seen = content
	if err == nil && (content == s.taken || !settled) {
		s.refused = ""
		return
	}
	if err == nil {
		err = s.take(content)
	}
	if err != nil {
		if settled && s.refused != err.Error() {
			log.Error("a secret could not be read again; the value before stays", "variable", Prefix+s.name, "file", s.path, "error", err)
			s.refused = err.Error()
		}
		return
	}
	s.refused = ""
	log.Info("a secret has changed", "variable", Prefix+s.name, "file", s.path)
	s.changed()
}

// take makes content the value.
func (s *Live[T]) take(content string) error {
	value, err := s.parse(content)
	if err != nil {
		return err
	}
	s.value.Store(&value)
	s.taken = content
	return nil
}

func (s *Live[T]) read(ctx context.Context) (string, error) {
	if s.command != nil {
		return runKeysCommand(ctx, s.command)
	}
	return readBounded(s.path)
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

// runKeysCommand returns the standard output of a command. What it writes to
// standard error is not passed on: it may hold anything.
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

func parseSecret(v string) (session.Secret, error) { return session.NewSecret(v), nil }

func parseKeys(v string) (session.Secret, error) {
	keys := session.NewSecret(v)
	_, err := session.ParseKeyring(keys)
	return keys, err
}

func parseAdminKey(v string) (session.Secret, error) {
	key := session.NewSecret(v)
	return key, checkAdminKey(key)
}

// parseSameDatabase takes another password or host, not another kind: the store
// is opened once.
func (c *Settings) parseSameDatabase(v string) (session.Secret, error) {
	if err := checkDatabaseURL(v); err != nil {
		return session.Secret{}, err
	}
	if isPostgres(v) != c.Postgres() {
		return session.Secret{}, errors.New("another kind of database needs a restart")
	}
	return session.NewSecret(v), nil
}

// parseCallers takes keys that the limits of the start fit.
func (c *Settings) parseCallers(v string) (NamedSecrets, error) {
	keys, err := parseNamedSecrets(v)
	if err != nil {
		return nil, err
	}
	return keys, errors.Join(checkCallerKeys(keys), c.CallerLimits.checkCallers(keys))
}

func parseListenURL(v string) (session.Secret, error) {
	return session.NewSecret(v), checkListenURL(v)
}

// parseSameApps takes new secrets, not other apps: each app has parts of its
// own, which are made at the start.
func parseSameApps(v string, ids []string) (NamedSecrets, error) {
	apps, err := parseNamedSecrets(v)
	if err != nil {
		return nil, err
	}
	now := (&Settings{AppID: ids[0], Apps: apps}).AppIDs()
	slices.Sort(now)
	if !slices.Equal(now, slices.Sorted(slices.Values(ids))) {
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
