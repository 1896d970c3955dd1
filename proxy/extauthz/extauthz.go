// Package extauthz speaks Envoy's external authorization over gRPC, the service
// envoy.service.auth.v3.Authorization, by which Envoy, Istio and others ask about
// each request before they forward it.
//
// It only translates. What may be done is decided by the handler of the authz
// listener, which answers the same questions over HTTP. So both ways have the same
// answers, limits, metrics and traces.
package extauthz

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"larkside/proxy"
)

// maxQuestion is the size of the largest question, in bytes. Envoy takes headers of
// up to 60 KiB, and need not send bodies (with_request_body).
const maxQuestion = 256 << 10

// path is where authz answers over HTTP.
const path = "/-/larkside/authz"

// NewHandler returns a handler that answers gRPC by authz, the handler of the authz
// listener, and leaves any other request to it. log gets panics. The server has to
// speak HTTP/2.
func NewHandler(authz http.Handler, log *slog.Logger) http.Handler {
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxQuestion))
	authv3.RegisterAuthorizationServer(server, &service{authz: authz, log: log})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			server.ServeHTTP(w, r)
			return
		}
		authz.ServeHTTP(w, r)
	})
}

type service struct {
	authv3.UnimplementedAuthorizationServer
	authz http.Handler
	log   *slog.Logger
}

// Check answers one question of Envoy's. After an error Envoy forwards nothing.
func (s *service) Check(ctx context.Context, question *authv3.CheckRequest) (answer *authv3.CheckResponse, err error) {
	asked := question.GetAttributes().GetRequest().GetHttp()
	if asked == nil {
		return nil, status.Error(codes.InvalidArgument, "the question is about no HTTP request")
	}
	defer func() {
		// gRPC's goroutines, unlike net/http's, end the process with a panic.
		if v := recover(); v == http.ErrAbortHandler {
			answer, err = nil, status.Error(codes.Canceled, "nobody waits for the answer")
		} else if v != nil {
			s.log.ErrorContext(ctx, "answering a mesh failed in an unforeseen way", "stack", string(debug.Stack()))
			answer, err = nil, status.Error(codes.Internal, "the answer failed in an unforeseen way")
		}
	}()
	header := headerOf(asked)
	said := &recorder{header: http.Header{}}
	s.authz.ServeHTTP(said, request(ctx, asked, header))
	if said.status == http.StatusOK {
		return allow(said.header, header), nil
	}
	return deny(said), nil
}

// headerOf returns the header of the request that is asked about. Without
// encode_raw_headers Envoy has joined the lines of one name by commas. No id and no
// JWT has a comma, so what some SDKs send twice becomes two lines again.
func headerOf(asked *authv3.AttributeContext_HttpRequest) http.Header {
	h := http.Header{}
	add := func(name, value string) {
		if !strings.HasPrefix(name, ":") { // such as :path, which has a field of its own
			h.Add(name, value)
		}
	}
	if raw := asked.GetHeaderMap().GetHeaders(); len(raw) > 0 {
		for _, line := range raw {
			value := line.GetValue()
			if value == "" {
				value = string(line.GetRawValue())
			}
			add(line.GetKey(), value)
		}
		return h
	}
	for name, value := range asked.GetHeaders() {
		switch http.CanonicalHeaderKey(name) {
		case "X-Lark-User-Id", "X-Lark-App-Id", "X-Larkside-User-Token":
			for part := range strings.SplitSeq(value, ",") {
				add(name, strings.TrimSpace(part))
			}
		default:
			add(name, value)
		}
	}
	return h
}

// request returns the question as it is asked over HTTP. Target and method are
// Envoy's; what the app says about them in its headers doesn't count.
func request(ctx context.Context, asked *authv3.AttributeContext_HttpRequest, header http.Header) *http.Request {
	r := &http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: path}, RequestURI: path, Host: asked.GetHost(),
		Proto: "HTTP/2.0", ProtoMajor: 2, Header: header.Clone(), Body: http.NoBody,
	}
	h := r.Header
	for _, name := range []string{"X-Forwarded-Method", "X-Forwarded-Uri"} {
		h.Del(name)
	}
	h.Set("X-Original-Method", asked.GetMethod())
	h.Set("X-Original-Uri", asked.GetPath())
	// What the mesh says for itself (initial_metadata, tracing) counts before what
	// the app says.
	for _, name := range []string{"X-Larkside-Key", "Traceparent", "Tracestate"} {
		if own := metadata.ValueFromIncomingContext(ctx, name); len(own) > 0 {
			h[name] = own
		}
	}
	if p, ok := peer.FromContext(ctx); ok {
		r.RemoteAddr = p.Addr.String()
	}
	return r.WithContext(ctx)
}

// allow returns the answer that Envoy may forward the request. Its changes to the
// header leave the Authorization that authz returned, or none, and remove what Lark
// must not get.
func allow(said, header http.Header) *authv3.CheckResponse {
	ok := &authv3.OkHttpResponse{}
	forwarded := header.Clone()
	proxy.Strip(forwarded)
	forwarded["Authorization"] = said["Authorization"]
	for name := range header {
		if len(forwarded[name]) == 0 {
			ok.HeadersToRemove = append(ok.HeadersToRemove, strings.ToLower(name))
		}
	}
	for _, name := range []string{"Authorization", "Prefer"} {
		if values := forwarded[name]; len(values) > 0 {
			ok.Headers = append(ok.Headers, set(name, strings.Join(values, ", ")))
		}
	}
	if applied := said.Get("Preference-Applied"); applied != "" {
		ok.ResponseHeadersToAdd = append(ok.ResponseHeadersToAdd, set("Preference-Applied", applied))
	}
	return &authv3.CheckResponse{
		Status:       &statuspb.Status{Code: int32(codes.OK)},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: ok},
	}
}

// deny returns the answer that makes Envoy send the app what authz returned.
// Envoy sets Content-Length itself.
func deny(said *recorder) *authv3.CheckResponse {
	denied := &authv3.DeniedHttpResponse{
		Status: &typev3.HttpStatus{Code: typev3.StatusCode(said.status)}, Body: said.body.String(),
	}
	for name, values := range said.header {
		if name != "Content-Length" && name != "Connection" && len(values) > 0 {
			denied.Headers = append(denied.Headers, set(name, strings.Join(values, ", ")))
		}
	}
	code := codes.PermissionDenied
	if said.status == http.StatusUnauthorized {
		code = codes.Unauthenticated
	}
	return &authv3.CheckResponse{
		Status:       &statuspb.Status{Code: int32(code)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: denied},
	}
}

// set returns an option that sets a header in place of whatever is there under its
// name. The action is never left to its default: newer versions of Envoy take that
// for "append", older ones for "overwrite".
func set(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: strings.ToLower(name), Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// recorder is the ResponseWriter that keeps what authz says.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(b)
}
