package operate

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"larkside/cmd/larkside/settings"
)

// apiTimeout bounds one request to the API; some wait for Lark.
const apiTimeout = time.Minute

// operation is one use of the API by a command.
type operation struct {
	where, format string // flags

	in       Invocation
	ctx      context.Context
	client   *Client
	terminal bool // for progress
	shown    bool // a line of progress stands there
}

// flags are those that every such command has.
func (o *operation) flags(c *cobra.Command) {
	AdminFlag(c, &o.where)
	c.Flags().StringVarP(&o.format, "output", "o", "text", "text or json")
}

// run makes the RunE of a command that speaks to the API.
func (o *operation) run(in Invocation, do func(*operation) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, _ []string) error {
		if o.format != "text" && o.format != "json" {
			return UsageError(fmt.Sprintf("output format %q: want text or json", o.format))
		}
		var err error
		if o.client, err = NewClient(in, o.where); err != nil {
			return err
		}
		if o.client.key, err = settings.AdminKey(in.Environ); err != nil {
			return err
		}
		o.in, o.ctx, o.terminal = in, c.Context(), isTerminal(in.ErrOut)
		err = do(o)
		o.progressEnds()
		return err
	}
}

// print writes v as JSON, or what text writes.
func (o *operation) print(v any, text func() error) error {
	o.progressEnds()
	if o.format != "json" {
		return text()
	}
	enc := json.NewEncoder(o.in.Out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// progress shows how far long work has got, on a terminal only.
func (o *operation) progress(text string) {
	if o.terminal {
		fmt.Fprintf(o.in.ErrOut, "\r\x1b[K%s", text)
		o.shown = true
	}
}

func (o *operation) progressEnds() {
	if o.shown {
		fmt.Fprint(o.in.ErrOut, "\r\x1b[K")
		o.shown = false
	}
}

// apiError is a failure that the API has answered.
type apiError struct {
	status    int
	name, msg string // name is error.type
	reason    string
}

func (e *apiError) Error() string {
	switch {
	case e.name == "":
		return fmt.Sprintf("status %d, which no admin listener of Larkside answers; is that the right address?", e.status)
	case e.reason != "":
		return fmt.Sprintf("%s (%s: %s)", e.msg, e.name, e.reason)
	}
	return fmt.Sprintf("%s (%s)", e.msg, e.name)
}

// notFound reports whether the API knows no such thing.
func notFound(err error) bool {
	var e *apiError
	return errors.As(err, &e) && e.name == "not_found"
}

// parseAPIError returns nil if content is no error's envelope.
func parseAPIError(status int, content []byte) *apiError {
	var envelope struct {
		Code  int
		Msg   string
		Error struct{ Type, Reason string }
	}
	if json.Unmarshal(content, &envelope) != nil || envelope.Code == 0 || envelope.Error.Type == "" {
		return nil
	}
	return &apiError{status, envelope.Error.Type, envelope.Msg, envelope.Error.Reason}
}

// call sends one request and decodes the answer into v, if that is not nil. An
// error is an [*apiError], or the instance could not be asked.
func (c *Client) call(ctx context.Context, method, path string, body, v any) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	resp, err := c.send(ctx, method, path, body, "application/json")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxAdminAnswer))
	if err != nil {
		return fmt.Errorf("reading the answer of %s: %w", c.Base, err)
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(content, v); err != nil {
		return &apiError{status: resp.StatusCode}
	}
	return nil
}

// send returns an answer of success, whose body is the caller's to close.
func (c *Client) send(ctx context.Context, method, path string, body any, accept string) (*http.Response, error) {
	var content []byte
	if body != nil {
		var err error
		if content, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if !c.key.Empty() {
		req.Header.Set("Authorization", "Bearer "+c.key.Expose())
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var inURL *url.Error
		if errors.As(err, &inURL) {
			err = inURL.Err
		}
		return nil, fmt.Errorf("can't ask a running instance at %s (LARKSIDE_ADMIN_LISTEN or --admin names it): %w", c.Base, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAdminAnswer))
	if e := parseAPIError(resp.StatusCode, answer); e != nil {
		return nil, e
	}
	return nil, &apiError{status: resp.StatusCode}
}

// pages calls each with every item of a list, over all pages.
func (c *Client) pages(ctx context.Context, path string, query url.Values, each func(json.RawMessage) error) error {
	query.Set("limit", "500")
	for {
		var page struct {
			Items []json.RawMessage
			Next  string
		}
		if err := c.call(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &page); err != nil {
			return err
		}
		for _, item := range page.Items {
			if err := each(item); err != nil {
				return err
			}
		}
		if page.Next == "" {
			return nil
		}
		query.Set("cursor", page.Next)
	}
}

// work has long work done. Its reports go to progress, its result into v.
func (c *Client) work(ctx context.Context, path string, v any, progress func(json.RawMessage)) error {
	resp, err := c.send(ctx, http.MethodPost, path, nil, "application/x-ndjson")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if e := parseAPIError(resp.StatusCode, lines.Bytes()); e != nil {
			return e
		}
		var report struct{ Done *bool }
		switch err := json.Unmarshal(lines.Bytes(), &report); {
		case err != nil || report.Done == nil:
			return &apiError{status: resp.StatusCode}
		case *report.Done:
			return json.Unmarshal(lines.Bytes(), v)
		}
		progress(lines.Bytes())
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the instance broke off before it was done; run this again: %w", err)
	}
	return errors.New("the instance broke off before it was done; run this again")
}

// visible makes text that came from others fit for a terminal.
func visible(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, text)
}

// relative shows a time as people think of it: "in 2h", "3d ago", or "-".
func relative(t *time.Time, now time.Time) string {
	if t == nil {
		return "-"
	}
	if d := t.Sub(now); d > 0 {
		return "in " + roughly(d)
	}
	return roughly(now.Sub(*t)) + " ago"
}

func roughly(d time.Duration) string {
	for _, unit := range []struct {
		length time.Duration
		letter string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if d >= 2*unit.length {
			return fmt.Sprintf("%d%s", d/unit.length, unit.letter)
		}
	}
	return fmt.Sprintf("%ds", d/time.Second)
}
