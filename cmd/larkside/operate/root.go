// Package operate is larkside's command line: the tree of commands and the
// operator's commands.
//
// sessions, consent, audit, users, backup and keys rotate ask the admin listener of
// a running instance; so do healthcheck and wait. That way they work on SQLite too,
// which one process has to itself. migrate opens the database. env, version and
// keys new need nothing.
//
// [Execute] runs one command line. Commands of other packages are given to it.
package operate

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"larkside/cmd/larkside/settings"
)

// The exit statuses.
const (
	ExitDone   = 0
	ExitFailed = 1
	ExitUsage  = 2 // wrong use or settings
)

// Invocation is what the process was started with.
type Invocation struct {
	Args    []string
	Environ []string // NAME=value
	Out     io.Writer
	ErrOut  io.Writer
	Build   Build // for "larkside version"
}

// UsageError is a command line that makes no sense.
type UsageError string

func (e UsageError) Error() string { return string(e) }

// ErrLogged is a failure that the command has reported already. Nothing is added.
var ErrLogged = errors.New("see the log")

// Execute runs the command that in names and returns the exit status. A command
// line without a command runs serve. more are commands beside serve and those of
// this package.
func Execute(ctx context.Context, in Invocation, serve *cobra.Command, more ...*cobra.Command) int {
	err := newRoot(in, serve, more).ExecuteContext(ctx)
	var wrong settings.Error
	var use UsageError
	switch {
	case err == nil:
		return ExitDone
	case errors.As(err, &wrong):
		fmt.Fprintln(in.ErrOut, wrong)
		return ExitUsage
	case errors.As(err, &use):
		fmt.Fprintf(in.ErrOut, "larkside: %v\nRun \"larkside help\" for what there is.\n", err)
		return ExitUsage
	case !errors.Is(err, ErrLogged):
		fmt.Fprintf(in.ErrOut, "larkside: %v\n", err)
	}
	return ExitFailed
}

// newRoot is the command tree.
func newRoot(in Invocation, serve *cobra.Command, more []*cobra.Command) *cobra.Command {
	root := &cobra.Command{
		Use:   "larkside",
		Short: "A sidecar that calls Lark with each user's own token",
		Long: `Larkside stands between your app and Lark (Feishu). The app names the user in
X-Lark-User-Id; Larkside adds that user's token, renews it, and asks the user
in chat when there is none.

Without a command it serves. Settings are environment variables; "larkside
env --defaults" lists them. The app's id and secret are all that it needs to start:

    LARKSIDE_APP_ID=cli_… LARKSIDE_APP_SECRET=… larkside`,
		Args:          knownCommand,
		RunE:          serve.RunE,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetArgs(in.Args)
	root.SetOut(in.Out)
	root.SetErr(in.ErrOut)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return UsageError(err.Error()) })
	root.AddCommand(serve, newEnv(in), newVersion(in), newHealthcheck(in), newWait(in), newMigrate(in), newKeys(in), newBackup(in),
		newSessions(in), newConsent(in), newAudit(in), newUsers(in), newLogin(in))
	root.AddCommand(more...)
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Args, c.RunE = knownCommand, needsCommand
		}
	}
	checkArguments(root)
	return root
}

// checkArguments makes wrong arguments of every command a [UsageError].
func checkArguments(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return UsageError(err.Error())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		checkArguments(sub)
	}
}

// knownCommand is the Args of a command that only has other commands. An
// argument that is left over is a command that does not exist.
func knownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, sub := range c.Commands() {
		names = append(names, sub.Name())
	}
	return fmt.Errorf("unknown command %q, the nearest known one is %q", args[0], c.CommandPath()+" "+settings.Nearest(args[0], names))
}

// group is a command that only has other commands.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: knownCommand, RunE: needsCommand}
	c.AddCommand(subs...)
	return c
}

func needsCommand(c *cobra.Command, _ []string) error {
	return UsageError(fmt.Sprintf("%q needs a command; \"%s --help\" lists them", c.CommandPath(), c.CommandPath()))
}
