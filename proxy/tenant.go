package proxy

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"

	"larkside/proxy/edge"
)

// maxTokenCall bounds the body of an SDK's call for its app token.
const maxTokenCall = 64 << 10

// placeholderSecret is the app_secret of apps that have none.
const placeholderSecret = "larkside"

// tokenCall reports whether an SDK calls for its tenant's or app's token with
// the app's secret, which needs no Authorization.
func tokenCall(method, path string) bool {
	return method == http.MethodPost &&
		(path == tokenPrefix+"tenant_access_token/internal" || path == tokenPrefix+"app_access_token/internal")
}

// answerTokenCall answers a call for an app token with a placeholder, if the
// secret in it is one. Otherwise the body is as before, and the call is Lark's.
func (p *proxy) answerTokenCall(x *exchange) (answered bool, err error) {
	if x.in.Body == nil {
		return false, nil
	}
	head, err := io.ReadAll(io.LimitReader(x.in.Body, maxTokenCall))
	if err != nil {
		return false, errCallerGone
	}
	var call struct {
		AppSecret string `json:"app_secret"`
	}
	if json.Unmarshal(head, &call) != nil || call.AppSecret != placeholderSecret {
		x.in.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(head), x.in.Body), x.in.Body}
		return false, nil
	}
	x.outcome = AnsweredHere
	h := x.w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set(edge.RequestIDHeader, x.requestID())
	x.w.WriteHeader(http.StatusOK)
	// As Lark answers: the app call brings both.
	if x.path == tokenPrefix+"app_access_token/internal" {
		io.WriteString(&x.w, `{"code":0,"msg":"ok","app_access_token":"t-larkside","tenant_access_token":"t-larkside","expire":7200}`)
	} else {
		io.WriteString(&x.w, `{"code":0,"msg":"ok","tenant_access_token":"t-larkside","expire":7200}`)
	}
	return true, nil
}
