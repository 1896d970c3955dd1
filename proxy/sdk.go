package proxy

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"

	"larkside/proxy/edge"
)

// maxTokenCall is how much of the body of an SDK's call for its app's token is
// read, in bytes.
const maxTokenCall = 64 << 10

// placeholderSecret is the app_secret of apps that have none.
const placeholderSecret = "larkside"

// answerTokenCall answers a call for the app's token with a placeholder, if the
// secret in the call is a placeholder. If not, the body is left as it was, and
// the call is for Lark.
func (p *proxy) answerTokenCall(x *request) (answered bool, err error) {
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
	x.result.outcome = AnsweredHere
	h := x.w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set(edge.RequestIDHeader, x.requestID())
	x.w.WriteHeader(http.StatusOK)
	// Lark answers the call for the app's token with both tokens.
	if x.target.path == appTokenPath {
		io.WriteString(&x.w, `{"code":0,"msg":"ok","app_access_token":"t-larkside","tenant_access_token":"t-larkside","expire":7200}`)
	} else {
		io.WriteString(&x.w, `{"code":0,"msg":"ok","tenant_access_token":"t-larkside","expire":7200}`)
	}
	return true, nil
}
