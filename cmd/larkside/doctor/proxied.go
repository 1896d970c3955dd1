package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"larkside/proxy"
	"larkside/session"
	"larkside/session/lark"
)

// calledPath takes a user's token and needs no scope.
const calledPath = "/open-apis/authen/v1/user_info"

// throughProxy makes a call as an app does: to a proxy, with the user's open_id.
func (l *live) throughProxy(ctx context.Context) error {
	b := l.step(belief{"a call through Larkside's proxy", "Lark answers with the user's data", "12.4"})
	answered, ok, err := l.callThroughProxy(ctx)
	if err != nil {
		l.skip(b, err.Error())
		return nil
	}
	l.expect(b, answered, ok)
	return nil
}

func (l *live) callThroughProxy(ctx context.Context) (answered string, ok bool, err error) {
	upstream, err := url.Parse(l.App.OpenURL)
	if err != nil {
		return "", false, err
	}
	now := time.Now()
	access := session.NewAccess(&session.Session{
		Key: l.key, State: session.Active, AccessToken: l.first.AccessToken, TokenType: l.first.TokenType,
		IssuedAt: now, ExpiresAt: now.Add(l.first.ExpiresIn),
	})
	handler, err := proxy.New(proxy.Config{
		Upstream: upstream, Transport: l.recorder, Apps: []string{l.key.AppID}, InjectPaths: []string{calledPath}, Tokens: oneToken{l.key, access},
		UserTokenRefusal: lark.UserTokenRefusal, TenantTokenRefusal: lark.TenantTokenRefusal,
	})
	if err != nil {
		return "", false, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", false, err
	}
	server := proxy.NewServer(handler)
	go server.Serve(listener)
	defer server.Close()

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+listener.Addr().String()+calledPath, nil)
	if err != nil {
		return "", false, err
	}
	req.Header.Set("X-Lark-User-Id", l.User)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: checkTimeout}
	resp, err := client.Do(req)
	if err != nil {
		return "", false, err
	}
	defer resp.Body.Close()
	var answer struct {
		Code int
		Data struct {
			OpenID string `json:"open_id"`
		}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxRecorded))
	if err != nil || json.Unmarshal(body, &answer) != nil {
		return fmt.Sprintf("HTTP %d, no JSON", resp.StatusCode), false, nil
	}
	return fmt.Sprintf("HTTP %d, code %d", resp.StatusCode, answer.Code), answer.Data.OpenID == l.User, nil
}

// oneToken is a proxy.TokenSource for one user.
type oneToken struct {
	key    session.Key
	access *session.Access
}

func (t oneToken) Token(_ context.Context, key session.Key) (*session.Access, session.Lookup, error) {
	if key != t.key {
		return nil, session.Missing, &session.ConsentRequiredError{Reason: session.NoSession}
	}
	return t.access, session.FromCache, nil
}

func (t oneToken) ReplaceRefused(context.Context, session.Key, int64) (*session.Access, error) {
	return nil, &session.ConsentRequiredError{Reason: session.TokenRefused}
}
