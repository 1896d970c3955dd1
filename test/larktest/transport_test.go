package larktest_test

import (
	"net/http"
	"testing"

	"larkside/test/larktest"
)

// A reverse proxy that passes paths on byte by byte puts them into URL.Opaque.
func TestTransportTakesOpaquePaths(t *testing.T) {
	p := larktest.New(larktest.Config{URL: "https://lark.test"})
	defer p.Close()
	tokens, err := p.Grant(larktest.AppID, larktest.Alice)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodGet, p.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.URL.Path, r.URL.Opaque = "", "/open-apis/apaas/v1/workspaces/w%2Fx/tables"
	r.Header.Set("Authorization", "Bearer "+tokens.AccessToken)
	answer, err := p.Transport().RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("status %d", answer.StatusCode)
	}
	if calls := p.Calls(nil); len(calls) != 1 || calls[0].Target != r.URL.Opaque {
		t.Errorf("calls: %+v", calls)
	}
}
