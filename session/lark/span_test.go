package lark_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	api "go.opentelemetry.io/otel/trace"
)

// Each request to Lark is one client span after the OTel HTTP conventions,
// without a query, a body or a secret.
func TestSpans(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	before := otel.GetTracerProvider()
	otel.SetTracerProvider(trace.NewTracerProvider(trace.WithSpanProcessor(spans)))
	t.Cleanup(func() { otel.SetTracerProvider(before) })

	f := serve(t, func(w http.ResponseWriter, r request) {
		switch r.URL.Path {
		case tenantPath:
			answer(w, 200, `{"code":0,"tenant_access_token":"t-canary","expire":7200}`)
		case "/open-apis/authen/v1/user_info":
			answer(w, 200, `{"code":20005,"msg":"`+accessToken+`"}`)
		case "/oauth/v1/revoke":
			w.WriteHeader(204)
		default:
			answer(w, 400, `{"code":20064,"error":"invalid_grant","error_description":"`+refreshToken+`"}`)
		}
	})
	c := f.client(t)
	ctx, root := otel.Tracer("test").Start(t.Context(), "test")
	for _, op := range operations {
		op(ctx, c)
	}
	operations["Refresh"](ctx, (&fake{Server: closed(t)}).client(t))

	got := map[string]string{}
	for _, s := range spans.Ended() {
		if s.SpanContext().TraceID() != root.SpanContext().TraceID() {
			continue // a fetch that another test's caller didn't wait for
		}
		if s.SpanKind() != api.SpanKindClient {
			t.Errorf("%s: kind %s", s.Name(), s.SpanKind())
		}
		assertClean(t, fmt.Sprint(s.Name(), s.Attributes(), s.Events(), s.Status()))
		attrs := map[string]string{}
		for _, a := range s.Attributes() {
			attrs[string(a.Key)] = a.Value.String()
		}
		if attrs["server.address"] != "127.0.0.1" || attrs["server.port"] == "" || attrs["http.request.method"]+" "+attrs["url.template"] != s.Name() {
			t.Errorf("%s: %v", s.Name(), attrs)
		}
		if (s.Status().Code == codes.Error) != (attrs["error.type"] != "") {
			t.Errorf("%s: status %v with error.type %q", s.Name(), s.Status(), attrs["error.type"])
		}
		key := s.Name()
		if attrs["error.type"] == "not_sent" {
			key += " (down)"
		}
		got[key] = attrs["http.response.status_code"] + " " + attrs["error.type"] + " " + attrs["lark.code"] + " " + attrs["lark.log_id"]
	}
	refused := "400 400 20064 2026100112345678901234"
	want := map[string]string{
		"POST /oauth/v3/token":                        refused,
		"POST /oauth/v3/token (down)":                 " not_sent  ",
		"POST /oauth/v1/device_authorization":         refused,
		"POST /oauth/v1/revoke":                       "204   ",
		"GET /open-apis/authen/v1/user_info":          "200 lark_code 20005 2026100112345678901234",
		"POST " + tenantPath:                          "200   2026100112345678901234",
		"POST /open-apis/im/v1/messages":              refused,
		"PATCH /open-apis/im/v1/messages/:message_id": refused,
		"GET /open-apis/contact/v3/users/batch":       refused,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
