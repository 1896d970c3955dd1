package settings

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"larkside/session"
	"larkside/session/seal"
)

// buffer is a log that two goroutines write.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newTestSecrets(t *testing.T, vars ...string) (*Secrets, *buffer) {
	t.Helper()
	c, err := Parse(vars)
	if err != nil {
		t.Fatal(err)
	}
	log := &buffer{}
	s, err := NewSecrets(t.Context(), c, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return s, log
}

// watch follows the files in the bubble for the rest of the test and returns a
// function that lets it look at them a few times. Signals stay outside: a bubble
// can't have them.
func watch(t *testing.T, s *Secrets) func() {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.follow(ctx, nil)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return func() {
		time.Sleep(3 * secretPoll) // the bubble's time
		synctest.Wait()
	}
}

func rewrite(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSecretFileChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := writeFile(t, "one\n")
		apps := writeFile(t, "cli_b2:b-one")
		s, log := newTestSecrets(t, "LARKSIDE_APP_ID=cli_a1", "LARKSIDE_APP_SECRET_FILE="+path, "LARKSIDE_APPS_FILE="+apps)
		var changes []string
		s.AppSecret.OnChange(func(v session.Secret) { changes = append(changes, v.Expose()) })
		look := watch(t, s)

		look()
		if got := s.App("cli_a1").Expose(); got != "one" || len(changes) != 0 {
			t.Errorf("before a change: %q, changes %q", got, changes)
		}
		rewrite(t, path, "two\n")
		rewrite(t, apps, "cli_b2:b-two\n")
		look()
		if s.App("cli_a1").Expose() != "two" || s.App("cli_b2").Expose() != "b-two" || !s.App("cli_c3").Empty() {
			t.Errorf("after a change: %s %s", s.App("cli_a1").Expose(), s.App("cli_b2").Expose())
		}
		look()
		if !slices.Equal(changes, []string{"two"}) {
			t.Errorf("changes %q, want one", changes)
		}
		if got := log.String(); strings.Contains(got, "two") || !strings.Contains(got, "LARKSIDE_APP_SECRET") {
			t.Errorf("log %s", got)
		}
	})
}

// What was written between the start and the first look is a change too.
func TestSecretFileChangesBeforeTheFirstLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := writeFile(t, "one")
		s, _ := newTestSecrets(t, "LARKSIDE_APP_ID=cli_a1", "LARKSIDE_APP_SECRET_FILE="+path)
		changed := 0
		s.AppSecret.OnChange(func(session.Secret) { changed++ })
		rewrite(t, path, "two")
		watch(t, s)()
		if changed != 1 || s.AppSecret.Get().Expose() != "two" {
			t.Errorf("%d changes to %s", changed, s.AppSecret.Get().Expose())
		}
	})
}

// Kubernetes replaces a mounted secret by pointing a symbolic link elsewhere.
func TestSecretFileBehindSymlinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		for version, content := range map[string]string{"..v1": "one", "..v2": "two"} {
			if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
				t.Fatal(err)
			}
			rewrite(t, filepath.Join(dir, version, "secret"), content)
		}
		link := func(target, name string) {
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		link("..v1", "..data")
		link(filepath.Join("..data", "secret"), "secret")
		s, _ := newTestSecrets(t, "LARKSIDE_APP_ID=cli_a1", "LARKSIDE_APP_SECRET_FILE="+filepath.Join(dir, "secret"))
		look := watch(t, s)
		link("..v2", "..data_tmp")
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
		look()
		if got := s.AppSecret.Get().Expose(); got != "two" {
			t.Errorf("%q", got)
		}
	})
}

// A mistake in a file must not take down what runs; it is said once.
func TestBadSecretFileKeepsTheValue(t *testing.T) {
	for sentence, spoil := range map[string]func(t *testing.T, path string){
		"a key that is none": func(t *testing.T, path string) { rewrite(t, path, "k1:canary") },
		"an empty file":      func(t *testing.T, path string) { rewrite(t, path, "") },
		"no file": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := writeFile(t, aKey)
				s, log := newTestSecrets(t, "LARKSIDE_APP_ID=cli_a1", "LARKSIDE_APP_SECRET=x", "LARKSIDE_ENCRYPTION_KEYS_FILE="+path)
				s.EncryptionKeys.OnChange(func(session.Secret) { t.Error("a bad content is a change") })
				look := watch(t, s)
				spoil(t, path)
				look()
				look()
				if s.EncryptionKeys.Get().Expose() != aKey {
					t.Error("the value is gone")
				}
				if got := log.String(); strings.Count(got, "level=ERROR") != 1 || strings.Contains(got, "canary") || !strings.Contains(got, path) {
					t.Errorf("log %s", got)
				}
				rewrite(t, path, aKey)
				look()
				rewrite(t, path, "again:bad")
				look()
				if got := log.String(); strings.Count(got, "level=ERROR") != 2 {
					t.Errorf("the next mistake is not said: %s", got)
				}
			})
		})
	}
}

// A file that is being written must not be taken half.
func TestSecretFileIsTakenWhenItHasSettled(t *testing.T) {
	path := writeFile(t, "one")
	s, _ := newTestSecrets(t, "LARKSIDE_APP_ID=cli_a1", "LARKSIDE_APP_SECRET_FILE="+path)
	rewrite(t, path, "tw")
	s.poll(t.Context(), false)
	rewrite(t, path, "two")
	s.poll(t.Context(), false)
	if got := s.AppSecret.Get().Expose(); got != "one" {
		t.Errorf("took %q at once", got)
	}
	s.poll(t.Context(), false)
	if got := s.AppSecret.Get().Expose(); got != "two" {
		t.Errorf("%q after two looks alike", got)
	}
}

// What is checked at the start is checked of a file that has changed: the value
// before stays, and an error says why.
func TestChangesAreCheckedAsTheStartIs(t *testing.T) {
	const callers = "web:key-of-web-one,job:key-of-job-one"
	for _, tc := range []struct {
		sentence      string
		variable      string
		before, after string
		says          string
		more          []string
	}{
		{"a caller with a limit is renamed, which would lift the limit", "CALLER_KEYS", callers, "web2:key-of-web-one,job:key-of-job-one",
			`LARKSIDE_CALLER_KEYS has no "web", the nearest is "web2"`, []string{"LARKSIDE_CALLER_LIMITS=web:rate=1/1s"}},
		{"a caller with a limit is gone", "CALLER_KEYS", callers, "job:key-of-job-one",
			`LARKSIDE_CALLER_KEYS has no "web"`, []string{"LARKSIDE_CALLER_LIMITS=web:rate=1/1s,job:rate=1/1s"}},
		{"one key under two names", "CALLER_KEYS", callers, "web:canary-long-enough,job:canary-long-enough", `"web" and "job" have the same key`, nil},
		{"a key that can be guessed", "CALLER_KEYS", callers, "web:canary", `the key of "web" has fewer than 12 characters`, nil},
		{"an admin key that can be guessed", "ADMIN_KEY", "the-key-of-admin", "canary", "fewer than 16 characters", nil},
		{"a database in memory", "DATABASE_URL", "sqlite:x.db", "sqlite::memory:", "every session would be lost at a restart", nil},
		{"another kind of database", "DATABASE_URL", "sqlite:x.db", "postgres://u:canary@h/d", "another kind of database needs a restart", nil},
		{"LISTEN on SQLite", "DATABASE_LISTEN_URL", "postgres://u:p@h/d", "sqlite:canary", "neither postgres://… nor off",
			[]string{"LARKSIDE_DATABASE_URL=postgres://u:p@h/d", "LARKSIDE_ENCRYPTION_KEYS=" + aKey}},
		{"LISTEN on PostgreSQL with SQLite", "DATABASE_LISTEN_URL", "off", "postgres://u:canary@h/d", "DATABASE_URL is SQLite", nil},
	} {
		t.Run(tc.sentence, func(t *testing.T) {
			path := writeFile(t, tc.before)
			s, log := newTestSecrets(t, append(tc.more, "LARKSIDE_APP_ID=cli_a1", "LARKSIDE_APP_SECRET=x", "LARKSIDE_"+tc.variable+"_FILE="+path)...)
			present := func() string {
				var keys []string
				for _, k := range s.CallerKeys.Get() {
					keys = append(keys, k.Name+":"+k.Secret.Expose())
				}
				return map[string]string{"CALLER_KEYS": strings.Join(keys, ","), "ADMIN_KEY": s.AdminKey.Get().Expose(),
					"DATABASE_URL": s.DatabaseURL.Get().Expose(), "DATABASE_LISTEN_URL": s.DatabaseListenURL.Get().Expose()}[tc.variable]
			}
			rewrite(t, path, tc.after)
			s.poll(t.Context(), true)
			if got := present(); got != tc.before {
				t.Errorf("the value is %s", got)
			}
			got := strings.ReplaceAll(log.String(), `\"`, `"`)
			if strings.Count(got, "level=ERROR") != 1 || !strings.Contains(got, tc.says) || strings.Contains(got, "canary") {
				t.Errorf("log %s", got)
			}
		})
	}
}

// While there are limits, a new caller without one may do everything, which is
// likely not meant.
func TestNewCallerWithoutLimit(t *testing.T) {
	for limits, warnings := range map[string]int{"web:rate=1/1s": 1, "": 0} {
		path := writeFile(t, "web:key-of-web-one,job:key-of-job-one")
		s, log := newTestSecrets(t, "LARKSIDE_APP_ID=cli_a1", "LARKSIDE_APP_SECRET=x", "LARKSIDE_CALLER_KEYS_FILE="+path, "LARKSIDE_CALLER_LIMITS="+limits)
		rewrite(t, path, "web:key-of-web-two,job:key-of-job-two,crm:key-of-crm-one,crm:key-of-crm-two")
		s.poll(t.Context(), true)
		rewrite(t, path, "web:key-of-web-two,job:key-of-job-two,crm:key-of-crm-two")
		s.poll(t.Context(), true)
		if got := log.String(); strings.Count(got, "level=WARN") != warnings || warnings > 0 && !strings.Contains(got, "caller=crm") {
			t.Errorf("limits %q: log %s", limits, got)
		}
		if len(s.CallerKeys.Get()) != 3 {
			t.Errorf("limits %q: the new keys are not taken", limits)
		}
	}
}

// Each app's parts are made at the start, so other apps need a restart.
func TestOtherAppsNeedARestart(t *testing.T) {
	path := writeFile(t, "cli_b2:one")
	s, log := newTestSecrets(t, "LARKSIDE_APP_ID=cli_a1", "LARKSIDE_APP_SECRET=x", "LARKSIDE_APPS_FILE="+path)
	rewrite(t, path, "cli_b2:two,cli_c3:three")
	s.poll(t.Context(), true)
	if s.App("cli_b2").Expose() != "one" || !strings.Contains(log.String(), "need a restart") {
		t.Errorf("%s, log %s", s.App("cli_b2").Expose(), log)
	}
}

func TestSIGHUPReadsAtOnce(t *testing.T) {
	path := writeFile(t, "one")
	s, _ := newTestSecrets(t, "LARKSIDE_APP_ID=cli_a1", "LARKSIDE_APP_SECRET_FILE="+path)
	changed := make(chan string, 1)
	s.AppSecret.OnChange(func(v session.Secret) { changed <- v.Expose() })
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	s.all = append(s.all, firstPoll{started})
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	<-started // so SIGHUP is caught and does not end the test
	rewrite(t, path, "two")
	began := time.Now()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if got := <-changed; got != "two" {
		t.Errorf("%q", got)
	}
	if took := time.Since(began); took >= secretPoll {
		t.Errorf("SIGHUP took %s", took)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// firstPoll tells when Run has looked for the first time.
type firstPoll struct{ started chan struct{} }

func (f firstPoll) poll(context.Context, bool, *slog.Logger) {
	select {
	case <-f.started:
	default:
		close(f.started)
	}
}

func TestKeysCommand(t *testing.T) {
	path := writeFile(t, aKey)
	c, err := Parse([]string{"LARKSIDE_APP_ID=cli_a1", "LARKSIDE_APP_SECRET=x", "LARKSIDE_ENCRYPTION_KEYS_COMMAND=cat " + path})
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSecrets(t.Context(), c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if s.EncryptionKeys.Get().Expose() != aKey {
		t.Error("the output of the command is not the key")
	}
	second := seal.NewKey("k2").Expose()
	rewrite(t, path, second)
	s.poll(t.Context(), false)
	s.poll(t.Context(), false)
	if s.EncryptionKeys.Get().Expose() != aKey {
		t.Error("a command is run again on SIGHUP only")
	}
	s.poll(t.Context(), true)
	if s.EncryptionKeys.Get().Expose() != second {
		t.Error("SIGHUP did not run the command")
	}
}

func TestKeysCommandProblems(t *testing.T) {
	for sentence, tc := range map[string]struct{ command, want string }{
		"it is not there":        {"/nope/keys", "LARKSIDE_ENCRYPTION_KEYS_COMMAND: running /nope/keys: "},
		"it fails":               {"false", "LARKSIDE_ENCRYPTION_KEYS_COMMAND: running false: exit status 1"},
		"it prints nothing":      {"true", "LARKSIDE_ENCRYPTION_KEYS_COMMAND: no encryption key"},
		"it prints something":    {"echo k1:canary", "LARKSIDE_ENCRYPTION_KEYS_COMMAND: encryption key 1: "},
		"its errors are secrets": {"ls /canary/" + canary, "LARKSIDE_ENCRYPTION_KEYS_COMMAND: running ls: exit status "},
	} {
		t.Run(sentence, func(t *testing.T) {
			c := mustRead(t, "LARKSIDE_ENCRYPTION_KEYS_COMMAND="+tc.command)
			_, err := NewSecrets(t.Context(), c, slog.New(slog.DiscardHandler))
			if err == nil || !strings.HasPrefix(err.Error(), tc.want) || strings.Contains(err.Error(), "canary") {
				t.Errorf("got %v, want %s…", err, tc.want)
			}
		})
	}
}
