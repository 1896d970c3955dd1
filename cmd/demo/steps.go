package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"larkside/test/larktest"
)

const alice, bob = larktest.Alice, larktest.Bob

// steps are the tour. Each leaves behind what the next one starts from.
var steps = []step{
	{
		says: "The app calls Lark for Alice, by her open_id, without any token. Larkside has none either: it answers 401 with a link, and asks Alice in her chat.",
		act: func(ctx context.Context, t *tour) error {
			if err := t.ask(ctx, records, alice); err != nil {
				return err
			}
			t.card(alice)
			return nil
		},
		check: func(t *tour) error {
			return errors.Join(isChallenge(t.answers[0], "sent"), t.cardHasLink(alice))
		},
		holds: "401 authorization_required, one card, and the card's link is the answer's.",
	},
	{
		says: "The app calls again before she has decided: the same link, no second card.",
		act:  func(ctx context.Context, t *tour) error { return t.ask(ctx, records, alice) },
		check: func(t *tour) error {
			return errors.Join(isChallenge(t.answers[0], "already_sent"), t.cardHasLink(alice))
		},
		holds: "still one card.",
	},
	{
		says:  "Alice approves. Larkside gets her tokens, makes sure that it was she who approved, keeps them encrypted, and updates the card.",
		act:   func(ctx context.Context, t *tour) error { return t.approve(ctx, alice) },
		check: func(t *tour) error { return t.cardIs(alice, "Authorized") },
		holds: "the card says that it is done.",
	},
	{
		says:  "The very same call once more.",
		act:   func(ctx context.Context, t *tour) error { return t.ask(ctx, records, alice) },
		check: func(t *tour) error { return isDataOf(t.answers[0], alice) },
		holds: "200, with Alice's data. The app never saw a token.",
	},
	{
		says: "Bob is somebody else. That Alice has consented is nothing to him; after his own consent each gets only their own.",
		act: func(ctx context.Context, t *tour) error {
			if err := t.ask(ctx, records, bob); err != nil {
				return err
			}
			t.link = t.answers[0].parsed.Error.AuthorizeURL
			if err := t.approve(ctx, bob); err != nil {
				return err
			}
			return errors.Join(t.ask(ctx, records, bob), t.ask(ctx, records, alice))
		},
		check: func(t *tour) error {
			return errors.Join(isChallenge(t.answers[0], "sent"), isDataOf(t.answers[1], bob), isDataOf(t.answers[2], alice))
		},
		holds: "401 for Bob at first, then Bob's data for Bob and Alice's for Alice.",
	},
	{
		says: fmt.Sprintf("Alice's token lives for %v and nears its end. The app just goes on calling.", accessLife),
		act: func(ctx context.Context, t *tour) error {
			return errors.Join(t.callUntil(ctx, alice, func(c *calling) bool { return len(c.tokens) > 1 }), t.showCalls())
		},
		check: func(t *tour) error { return t.allAnswered(2) },
		holds: "renewed behind the app's back, before the end. No call waited, none failed.",
	},
	{
		says: "Now Lark's token endpoint fails (its own \"internal error\", code 20050). The renewal can't be made; the token that is there goes on serving.",
		act: func(ctx context.Context, t *tour) error {
			t.fault = t.lark.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20050, Times: -1})
			failed := 0 // the calls since the renewal failed
			err := t.callUntil(ctx, alice, func(*calling) bool {
				if t.fault.Hits() > 0 {
					failed++
				}
				return failed > 3
			})
			t.out.line("attempts to renew that failed meanwhile: %d", t.fault.Hits())
			return errors.Join(err, t.showCalls())
		},
		check: func(t *tour) error { return t.allAnswered(1) },
		holds: "calls go on.",
	},
	{
		says: "Lark has recovered. Nobody has to do anything.",
		act: func(ctx context.Context, t *tour) error {
			t.fault.Remove()
			return errors.Join(t.callUntil(ctx, alice, func(c *calling) bool { return len(c.tokens) > 1 }), t.showCalls())
		},
		check: func(t *tour) error { return t.allAnswered(2) },
		holds: "the renewal was made up for; the user was not asked again.",
	},
	{
		says: "Three wrong requests: one that names no user, one with a path that could be read in two ways, one for a user's token on a path where none may go.",
		act: func(ctx context.Context, t *tour) error {
			return errors.Join(
				t.ask(ctx, records, ""),
				t.ask(ctx, "/open-apis/apaas/%2e%2e/im/v1/messages", alice),
				t.ask(ctx, "/open-apis/im/v1/messages", alice))
		},
		check: func(t *tour) error {
			sent := t.lark.Calls(func(c larktest.Call) bool {
				return strings.Contains(c.Path, "/im/v1/messages") && c.Method == http.MethodGet
			})
			return errors.Join(is(t.answers[0], 400, "user_id_required"), is(t.answers[1], 400, "ambiguous_path"),
				is(t.answers[2], 403, "path_not_allowed"), problemIf(len(sent) > 0, "a wrong request was sent on to Lark"))
		},
		holds: "each error says what to do, in Lark's own envelope. Nothing was sent on.",
	},
}

// ending is taken last, with -keep after the stay.
var ending = []step{
	{
		says:  "Larkside is told to stop (SIGTERM) while Lark is still working on a call of Bob's.",
		act:   stopDuringCall,
		check: func(t *tour) error { return isDataOf(t.answers[0], bob) },
		holds: "the running call got its answer, then the process ended with status 0.",
	},
	{
		says: "Last, the emulator's ledger: each token that it issued, and what came back.",
		act: func(_ context.Context, t *tour) error {
			s := t.lark.Summary()
			t.out.line("%d calls; %d access tokens issued; %d refresh tokens redeemed, none of them twice; %d breaches of Lark's rules",
				s.Calls, s.Tokens[larktest.AccessToken], s.Redemptions[larktest.Answered], len(t.violations()))
			return nil
		},
		check: func(t *tour) error {
			for _, v := range t.violations() {
				return fmt.Errorf("the emulator saw a violation: %s: %s", v.Kind, v.Detail)
			}
			return problemIf(t.lark.Summary().MaxAnswered > 1, "a refresh token was redeemed twice")
		},
		holds: "no token was sent for another user, past its end or twice; no header of ours reached Lark.",
	},
}

// stopDuringCall holds a call at Lark, tells larkside to stop, and lets the
// call go on only when larkside says that it is stopping.
func stopDuringCall(ctx context.Context, t *tour) error {
	held := t.lark.Fault(larktest.Fault{Endpoint: larktest.API, Path: records, OpenID: bob, Hang: true})
	defer held.Remove()
	asked := make(chan error, 1)
	var a answer
	t.out.request(records, bob)
	go func() {
		var err error
		a, err = t.call(ctx, records, bob)
		asked <- err
	}()
	if err := held.Await(ctx, 1); err != nil {
		return fmt.Errorf("the call did not reach Lark: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- t.child.stop(30 * time.Second) }()
	line, err := t.child.log.await(ctx, func(l logLine) bool { return l.Msg == "stopping" })
	if err != nil {
		return fmt.Errorf("larkside did not say that it is stopping: %w", err)
	}
	t.out.note("larkside: %s", line.text)
	held.Release()
	if err := <-asked; err != nil {
		return fmt.Errorf("the running call was cut: %w", err)
	}
	t.out.answer(a)
	t.answers = append(t.answers, a)
	if err := <-ended; err != nil {
		return fmt.Errorf("larkside did not stop cleanly: %w", err)
	}
	t.out.note("larkside: exit status 0")
	return nil
}

func problemIf(wrong bool, text string) error {
	if wrong {
		return errors.New(text)
	}
	return nil
}

// is judges one of larkside's own errors.
func is(a answer, status int, name string) error {
	if a.status != status || a.header.Get("X-Larkside-Error") != name || a.parsed.Error.Type != name || a.parsed.Code == 0 {
		return fmt.Errorf("want %d %s, got %d %s", status, name, a.status, a.body)
	}
	return nil
}

func isChallenge(a answer, card string) error {
	if err := is(a, http.StatusUnauthorized, "authorization_required"); err != nil {
		return err
	}
	e := a.parsed.Error
	if e.Reason != "no_session" || e.Card != card || e.AuthorizeURL == "" {
		return fmt.Errorf("want the reason no_session, the card %s and a link, got %+v", card, e)
	}
	return nil
}

func isDataOf(a answer, openID string) error {
	items := a.parsed.Data.Items
	if a.status != http.StatusOK || a.parsed.Data.Owner.OpenID != openID || !strings.Contains(items, openID) {
		return fmt.Errorf("want 200 with data of %s, got %d %s", openID, a.status, a.body)
	}
	return nil
}

// cardHasLink judges that the user has one card, which links where the present
// answer does. The link is kept for the approval.
func (t *tour) cardHasLink(openID string) error {
	t.link = t.answers[0].parsed.Error.AuthorizeURL
	all := t.lark.Messages(openID)
	if len(all) != 1 {
		return fmt.Errorf("want one card, the chat has %d", len(all))
	}
	if links := all[0].Links(); len(links) != 1 || links[0] != t.link {
		return fmt.Errorf("want the link %s on the card, got %q", t.link, links)
	}
	return nil
}

func (t *tour) cardIs(openID, title string) error {
	all := t.lark.Messages(openID)
	if len(all) != 1 || !strings.Contains(all[0].Content(), `"`+title+`"`) || len(all[0].Links()) != 0 {
		return fmt.Errorf("want one card that says %q and has no link, got %d, the last: %s", title, len(all), all[len(all)-1].Content())
	}
	return nil
}

func (t *tour) showCalls() error {
	c := t.run
	t.out.line("%d calls in %.1f s, %d answered 200; at Lark they came with %s",
		c.calls, c.took.Seconds(), c.calls-c.failed, strings.Join(c.tokens, ", then "))
	return nil
}

// allAnswered judges that no call of the series failed, and with how many
// tokens they came to Lark.
func (t *tour) allAnswered(tokens int) error {
	c := t.run
	if c.failed > 0 {
		return fmt.Errorf("%d of %d calls failed, the first with %d %s", c.failed, c.calls, c.firstFailure.status, c.firstFailure.body)
	}
	if len(c.tokens) != tokens {
		return fmt.Errorf("want %d tokens at Lark, got %q", tokens, c.tokens)
	}
	return nil
}
