package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// newRoot is the command tree.
func newRoot(in invocation) *cobra.Command {
	serve := newServe(in)
	root := &cobra.Command{
		Use:   "larkside",
		Short: "A sidecar that calls Lark with each user's own token",
		Long: `Larkside stands between your app and Lark (Feishu). The app names the user in
X-Lark-User-Id; Larkside adds that user's token, renews it, and asks the user
in chat when there is none.

Without a command it serves. Settings are environment variables; "larkside env"
lists them. The app's id and secret are all that it needs to start:

    LARKSIDE_APP_ID=cli_… LARKSIDE_APP_SECRET=… larkside`,
		Args:          knownCommand,
		RunE:          serve.RunE,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetArgs(in.args)
	root.SetOut(in.out)
	root.SetErr(in.errOut)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError(err.Error()) })
	root.AddCommand(serve, newEnv(in), newVersion(in), newHealthcheck(in), newWait(in), newMigrate(in), newKeys(in),
		newSessions(in), newConsent(in), newUsers(in), newDoctor(in))
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

// checkArguments makes wrong arguments of every command a [usageError].
func checkArguments(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError(err.Error())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		checkArguments(sub)
	}
}

// knownCommand is the Args of a command that only has other commands: what is
// left over is a command that does not exist.
func knownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, sub := range c.Commands() {
		names = append(names, sub.Name())
	}
	return fmt.Errorf("unknown command %q, the nearest known one is %q", args[0], c.CommandPath()+" "+nearest(args[0], names))
}

// group is a command that only has other commands.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: knownCommand, RunE: needsCommand}
	c.AddCommand(subs...)
	return c
}

func needsCommand(c *cobra.Command, _ []string) error {
	return usageError(fmt.Sprintf("%q needs a command; \"%s --help\" lists them", c.CommandPath(), c.CommandPath()))
}
