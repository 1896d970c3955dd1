package proxy_test

import (
	"net/http"
	"testing"

	"larkside/proxy"
	"larkside/proxy/http1"
)

// Requests go by package http1, and by net/http when there is an outbound
// proxy, which http1 knows nothing of.
func TestNewUpstream(t *testing.T) {
	lark := mustURL("https://open.feishu.cn")
	if rt, ok := proxy.NewUpstream(lark, proxy.TransportConfig{}).(*http1.Transport); !ok {
		t.Errorf("got %T", rt)
	}
	rt, ok := proxy.NewUpstream(lark, proxy.TransportConfig{Proxy: mustURL("http://outbound.test:3128")}).(*http.Transport)
	if !ok || rt.Proxy == nil {
		t.Errorf("behind an outbound proxy: %T", rt)
	}
}
