package extauthz_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"larkside/proxy/edge"
	"larkside/proxy/extauthz"
)

// serve returns the address of a listener whose authz is this handler.
func serve(t *testing.T, authz http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewUnstartedServer(extauthz.NewHandler(authz, slog.New(slog.DiscardHandler)))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func client(t *testing.T, addr string) authv3.AuthorizationClient {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return authv3.NewAuthorizationClient(conn)
}

func question(http *authv3.AttributeContext_HttpRequest) *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: http}}}
}

// headerMap are lines "name: value" as encode_raw_headers sends them.
func headerMap(lines ...string) *corev3.HeaderMap {
	m := &corev3.HeaderMap{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
	}
	return m
}

// texts are headers to set as "name: value", sorted. Each of them has to replace
// what is there, in whatever version of Envoy.
func texts(t *testing.T, options []*corev3.HeaderValueOption) (all []string) {
	t.Helper()
	for _, o := range options {
		//lint:ignore SA1019 older Envoys read it
		if o.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD || o.GetAppend() != nil {
			t.Errorf("%v does not replace", o)
		}
		all = append(all, o.GetHeader().GetKey()+": "+o.GetHeader().GetValue())
	}
	slices.Sort(all)
	return all
}

// authz is asked what Envoy was asked, and nothing that an app says about the target
// in its headers counts.
func TestQuestion(t *testing.T) {
	asked := make(chan *http.Request, 1)
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		w.WriteHeader(http.StatusOK)
	})
	c := client(t, addr)
	const target = "/open-apis/apaas/v1/a%2Fb?x=/../"
	for name, http := range map[string]*authv3.AttributeContext_HttpRequest{
		"raw": {HeaderMap: headerMap(":path: /evil", "x-lark-user-id: ou_1", "x-lark-user-id: ou_1", "x-forwarded-uri: /evil", "x-original-uri: /evil",
			"x-forwarded-method: GET", "x-original-method: GET", "prefer: wait=3", "x-larkside-key: app", "x-larkside-user-token: a.b.c", "x-larkside-user-token: a.b.c")},
		"joined": {Headers: map[string]string{":path": "/evil", "x-lark-user-id": "ou_1,ou_1", "x-forwarded-uri": "/evil", "x-original-uri": "/evil",
			"x-forwarded-method": "GET", "x-original-method": "GET", "prefer": "wait=3", "x-larkside-key": "app", "x-larkside-user-token": "a.b.c,a.b.c"}},
	} {
		http.Method, http.Path, http.Host = "DELETE", target, "open.feishu.cn"
		ctx := t.Context()
		key := "app"
		if name == "raw" {
			key = "mesh" // which it says for itself
			ctx = metadata.AppendToOutgoingContext(ctx, "x-larkside-key", key)
		}
		if _, err := c.Check(ctx, question(http)); err != nil {
			t.Fatal(err)
		}
		r := <-asked
		got := fmt.Sprint(r.RequestURI, r.Host, r.Header["X-Original-Uri"], r.Header["X-Original-Method"], r.Header["X-Lark-User-Id"], r.Header["X-Larkside-Key"], r.Header["X-Larkside-User-Token"], r.Header["Prefer"])
		if want := fmt.Sprint("/-/larkside/authz", "open.feishu.cn", []string{target}, []string{"DELETE"}, []string{"ou_1", "ou_1"}, []string{key}, []string{"a.b.c", "a.b.c"}, []string{"wait=3"}); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		if r.Header["X-Forwarded-Uri"] != nil || r.Header["X-Forwarded-Method"] != nil || r.Header[":path"] != nil || r.RemoteAddr == "" {
			t.Errorf("%s: %v from %q", name, r.Header, r.RemoteAddr)
		}
	}
	_, err := c.Check(t.Context(), &authv3.CheckRequest{})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a question about a TCP connection: %v", err)
	}
}

// What Envoy is to change: the one Authorization is Larkside's, whatever the app has
// brought, and what Lark must not get goes, in every spelling.
func TestAllowed(t *testing.T) {
	for name, tc := range map[string]struct {
		token  string
		header []string
		set    []string
		remove []string
	}{
		"a token":                       {"Bearer u-1", []string{"x-lark-user-id: ou_1", "accept: */*"}, []string{"authorization: Bearer u-1"}, []string{"x-lark-user-id"}},
		"in place of the app's":         {"Bearer u-1", []string{"authorization: Bearer own", "authorization: Bearer second"}, []string{"authorization: Bearer u-1"}, nil},
		"none, and the app has one":     {"", []string{"authorization: Bearer larkside"}, nil, []string{"authorization"}},
		"none at all":                   {"", []string{"accept: */*"}, nil, nil},
		"what is not Lark's to know":    {"", []string{"cookie: a", "x_lark_user_id: ou_2", "x-lark-app-id: cli", "x-larkside-key: k", "x-larkside-user-token: jwt", "x-larkside-x: y", "x-forwarded-for: 1", "forwarded: for=1", "proxy-authorization: x", "baggage: x", "content-type: text/plain"}, nil, []string{"baggage", "cookie", "forwarded", "proxy-authorization", "x-forwarded-for", "x-lark-app-id", "x-larkside-key", "x-larkside-user-token", "x-larkside-x", "x_lark_user_id"}},
		"wait alone":                    {"", []string{"x-lark-user-id: ou_1", "prefer: wait=3"}, nil, []string{"prefer", "x-lark-user-id"}},
		"wait beside what is Lark's":    {"", []string{"x-lark-user-id: ou_1", "prefer: resolution=merge-duplicates, wait=3"}, []string{"prefer: resolution=merge-duplicates"}, []string{"x-lark-user-id"}},
		"wait of a proven user":         {"", []string{"x-larkside-user-token: jwt", "prefer: wait=3"}, nil, []string{"prefer", "x-larkside-user-token"}},
		"wait without a user is Lark's": {"", []string{"prefer: wait=3"}, []string{"prefer: wait=3"}, nil},
	} {
		c := client(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
			if tc.token != "" {
				w.Header().Set("Authorization", tc.token)
			}
			w.Header().Set("Cache-Control", "no-store")
			w.Header().Set("Preference-Applied", "wait")
			w.WriteHeader(http.StatusOK)
		}))
		answer, err := c.Check(t.Context(), question(&authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/", HeaderMap: headerMap(tc.header...)}))
		if err != nil {
			t.Fatal(err)
		}
		ok := answer.GetOkResponse()
		removed := ok.GetHeadersToRemove()
		slices.Sort(removed)
		if answer.GetStatus().GetCode() != int32(codes.OK) || !slices.Equal(texts(t, ok.GetHeaders()), tc.set) || !slices.Equal(removed, tc.remove) {
			t.Errorf("%s: set %q, remove %q", name, texts(t, ok.GetHeaders()), removed)
		}
		if got := texts(t, ok.GetResponseHeadersToAdd()); !slices.Equal(got, []string{"preference-applied: wait"}) {
			t.Errorf("%s: answer gets %q", name, got)
		}
	}
}

// A refusal is Larkside's own, status, headers and body, a 5xx too.
func TestDenied(t *testing.T) {
	for failure, code := range map[*edge.Failure]codes.Code{
		edge.AuthorizationRequired: codes.Unauthenticated, edge.PathNotAllowed: codes.PermissionDenied, edge.RefreshUnavailable: codes.PermissionDenied,
	} {
		c := client(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			edge.New(failure, failure).Write(w, r)
		}))
		answer, err := c.Check(t.Context(), question(&authv3.AttributeContext_HttpRequest{Method: "HEAD", Path: "/"}))
		if err != nil {
			t.Fatal(err)
		}
		denied := answer.GetDeniedResponse()
		header := strings.Join(texts(t, denied.GetHeaders()), "\n")
		if codes.Code(answer.GetStatus().GetCode()) != code || int(denied.GetStatus().GetCode()) != failure.Status ||
			!strings.Contains(denied.GetBody(), `"type":"`+failure.Name+`"`) || !strings.Contains(header, "x-larkside-error: "+failure.Name) ||
			!strings.Contains(header, "content-type: application/json; charset=utf-8") || strings.Contains(header, "content-length") || strings.Contains(header, "connection") {
			t.Errorf("%s: %v", failure.Name, answer)
		}
	}
}

// A panic of the handler, by which it breaks off an answer too, fails the question
// and nothing else.
func TestPanics(t *testing.T) {
	var v any
	c := client(t, serve(t, func(http.ResponseWriter, *http.Request) { panic(v) }))
	for _, tc := range []struct {
		v    any
		code codes.Code
	}{{http.ErrAbortHandler, codes.Canceled}, {"u-secret", codes.Internal}} {
		v = tc.v
		_, err := c.Check(t.Context(), question(&authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/"}))
		if status.Code(err) != tc.code || strings.Contains(err.Error(), "u-secret") {
			t.Errorf("%v: %v", tc.v, err)
		}
	}
}

// An Envoy that stops waiting ends the request.
func TestCancelled(t *testing.T) {
	began, ended := make(chan bool), make(chan bool)
	c := client(t, serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
		close(ended)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	if _, err := c.Check(ctx, question(&authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/"})); status.Code(err) != codes.Canceled {
		t.Error(err)
	}
	<-ended
}

// The same listener answers over HTTP.
func TestHTTP(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto+" "+r.URL.Path) })
	plain := &http.Transport{}
	prior := &http.Transport{Protocols: new(http.Protocols)}
	prior.Protocols.SetUnencryptedHTTP2(true)
	for want, transport := range map[string]*http.Transport{"HTTP/1.1 /-/larkside/authz/x": plain, "HTTP/2.0 /-/larkside/authz/x": prior} {
		defer transport.CloseIdleConnections()
		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr+"/-/larkside/authz/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if string(body) != want {
			t.Errorf("%q, want %q", body, want)
		}
	}
}
