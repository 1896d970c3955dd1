package forwardauth

import (
	"crypto/tls"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// The clients in this file do what Envoy's filter ext_authz does with envoy.yaml, as
// its source says (source/extensions/filters/common/ext_authz). There is no Envoy to
// be had as a Go module.

// verdict is what the filter makes of Larkside's answer: to forward the request after
// change, or to answer the app.
type verdict struct {
	change func(http.Header)

	status int
	header http.Header
	body   io.Reader
}

// failed is the answer to an app when Larkside gave none (status_on_error).
var failed = &verdict{status: http.StatusServiceUnavailable}

// startEnvoy is Envoy but for the question, which ask asks.
func startEnvoy(t *testing.T, lark *front, ask func(r *http.Request, target string) *verdict) string {
	t.Helper()
	forward := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: lark.pool, ServerName: larkHost}, ForceAttemptHTTP2: true, DisableCompression: true}
	t.Cleanup(forward.CloseIdleConnections)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			w.WriteHeader(http.StatusNotFound) // no route has a connect_matcher
			return
		}
		target := r.RequestURI
		if !strings.HasPrefix(target, "/") {
			target = r.URL.RequestURI()
		}
		v := ask(r, target)
		if v.change == nil {
			maps.Copy(w.Header(), v.header)
			w.WriteHeader(v.status)
			if v.body != nil {
				io.Copy(w, v.body)
			}
			return
		}
		out := &http.Request{
			Method: r.Method, URL: &url.URL{Scheme: "https", Host: lark.addr, Opaque: target}, Host: larkHost,
			Header: r.Header.Clone(), Body: r.Body, ContentLength: r.ContentLength,
		}
		// Envoy's connection manager does that.
		for _, name := range []string{"Connection", "Upgrade", "Http2-Settings"} {
			delete(out.Header, name)
		}
		v.change(out.Header)
		answer, err := forward.RoundTrip(out.WithContext(r.Context()))
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer answer.Body.Close()
		pass(w, answer)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// startExtAuthz is http_service: it asks with the original method and Host, the
// original target behind path_prefix, of the headers Authorization and those of
// allowed_headers, and no body. A 200 sets what allowed_upstream_headers names, and
// removes what x-envoy-auth-headers-to-remove says; a header that the answer doesn't
// have stays the app's. A 5xx is a failure, and the app sees nothing of it.
func startExtAuthz(t *testing.T, larkside string, lark *front) string {
	client := &http.Transport{}
	t.Cleanup(client.CloseIdleConnections)
	return startEnvoy(t, lark, func(r *http.Request, target string) *verdict {
		question := &http.Request{
			Method: r.Method, URL: &url.URL{Scheme: "http", Host: larkside, Opaque: "/-/larkside/authz" + target}, Host: r.Host,
			Header: http.Header{"Content-Length": {"0"}, "X-Envoy-Internal": {"true"}, "X-Forwarded-For": {"10.0.0.1"}},
		}
		for _, name := range []string{"Authorization", "X-Lark-User-Id", "X-Lark-App-Id", "X-Larkside-Key", "X-Larkside-User-Token", "Prefer", "Origin", "Sec-Fetch-Site"} {
			if values := r.Header[name]; values != nil {
				question.Header[name] = values
			}
		}
		answer, err := client.RoundTrip(question.WithContext(r.Context()))
		if err != nil {
			return failed
		}
		t.Cleanup(func() { answer.Body.Close() })
		switch {
		case answer.StatusCode/100 == 5:
			return failed
		case answer.StatusCode != http.StatusOK:
			return &verdict{status: answer.StatusCode, header: answer.Header, body: answer.Body}
		}
		return &verdict{change: func(h http.Header) {
			for _, name := range strings.Split(answer.Header.Get("X-Envoy-Auth-Headers-To-Remove"), ",") {
				h.Del(strings.TrimSpace(name))
			}
			if values := answer.Header["Authorization"]; values != nil {
				h["Authorization"] = values
			}
			removeByRoute(h)
		}}
	})
}

// removeByRoute is request_headers_to_remove of the variant over HTTP, and
// headers_with_underscores_action.
func removeByRoute(h http.Header) {
	for _, name := range []string{
		"X-Lark-User-Id", "X-Lark-App-Id", "X-Larkside-Key", "X-Larkside-User-Token", "Cookie", "Proxy-Authorization", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host",
		"X-Forwarded-Proto", "X-Forwarded-Method", "X-Forwarded-Uri", "X-Original-Method", "X-Original-Uri", "X-Real-Ip", "Baggage", "Prefer",
	} {
		delete(h, name)
	}
	for name := range h {
		if strings.Contains(name, "_") {
			delete(h, name)
		}
	}
}

// startExtAuthzGRPC is grpc_service with encode_raw_headers.
func startExtAuthzGRPC(t *testing.T, larkside string, lark *front) string {
	return startGRPC(t, larkside, lark, true)
}

// startExtAuthzJoined is grpc_service without it.
func startExtAuthzJoined(t *testing.T, larkside string, lark *front) string {
	return startGRPC(t, larkside, lark, false)
}

// startGRPC asks with all headers. The answer says what to set, append and remove; no
// route removes anything.
func startGRPC(t *testing.T, larkside string, lark *front, raw bool) string {
	conn, err := grpc.NewClient(larkside, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("larkside"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	client := authv3.NewAuthorizationClient(conn)
	return startEnvoy(t, lark, func(r *http.Request, target string) *verdict {
		asked := &authv3.AttributeContext_HttpRequest{
			Id: "1", Method: r.Method, Path: target, Host: r.Host, Scheme: "http", Protocol: "HTTP/1.1", Size: r.ContentLength,
		}
		lines := map[string][]string{":method": {r.Method}, ":path": {target}, ":authority": {r.Host}, ":scheme": {"http"}, "x-request-id": {"1"}, "x-forwarded-proto": {"http"}}
		for name, values := range r.Header {
			lines[strings.ToLower(name)] = values
		}
		if raw {
			asked.HeaderMap = &corev3.HeaderMap{}
			for name, values := range lines {
				for _, value := range values {
					asked.HeaderMap.Headers = append(asked.HeaderMap.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
				}
			}
		} else {
			asked.Headers = map[string]string{}
			for name, values := range lines {
				asked.Headers[name] = strings.ToValidUTF8(strings.Join(values, ","), "!")
			}
		}
		answer, err := client.Check(r.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: asked}}})
		if err != nil {
			return failed
		}
		if answer.GetStatus().GetCode() == 0 {
			ok := answer.GetOkResponse()
			return &verdict{change: func(h http.Header) {
				mutate(t, h, ok.GetHeaders())
				for _, name := range ok.GetHeadersToRemove() {
					if slices.ContainsFunc(ok.GetHeaders(), func(o *corev3.HeaderValueOption) bool { return o.GetHeader().GetKey() == name }) {
						t.Errorf("%s is to be set and to be removed: in which order?", name)
					}
					for own := range h {
						if strings.EqualFold(own, name) {
							delete(h, own)
						}
					}
				}
			}}
		}
		denied := answer.GetDeniedResponse()
		v := &verdict{status: int(denied.GetStatus().GetCode()), header: http.Header{}, body: strings.NewReader(denied.GetBody())}
		mutate(t, v.header, denied.GetHeaders())
		return v
	})
}

// mutate does as the newest Envoy does. Older ones take any action for "overwrite".
func mutate(t *testing.T, h http.Header, options []*corev3.HeaderValueOption) {
	for _, o := range options {
		if o.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			t.Errorf("%s: versions of Envoy differ in what %v does", o.GetHeader().GetKey(), o.GetAppendAction())
		}
		h.Set(o.GetHeader().GetKey(), o.GetHeader().GetValue())
	}
}
