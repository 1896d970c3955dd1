package larktest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"

	"larkside/test/larktest"
)

// A user's token fetches that user's data.
func Example() {
	p := larktest.New(larktest.Config{})
	defer p.Close()
	server := httptest.NewServer(p)
	defer server.Close()

	tokens, err := p.Grant(larktest.AppID, larktest.Alice)
	if err != nil {
		fmt.Println(err)
		return
	}
	r, _ := http.NewRequest("GET", server.URL+"/open-apis/apaas/v1/workspaces/w1/tables", nil)
	r.Header.Set("Authorization", "Bearer "+tokens.AccessToken)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer response.Body.Close()
	var answer struct {
		Code int
		Data struct {
			Owner struct{ Name string }
			Items []struct{ Name string }
		}
	}
	json.NewDecoder(response.Body).Decode(&answer)
	fmt.Println(answer.Code, answer.Data.Owner.Name, answer.Data.Items)
	fmt.Println(p.Calls(larktest.To(larktest.API))[0].Owner == larktest.Alice)
	// Output:
	// 0 Alice Zhang [{notes} {orders}]
	// true
}

// The rotation takes place and the answer is lost: the refresh token is spent,
// though nobody has its successor.
func ExamplePlatform_Fault() {
	p := larktest.New(larktest.Config{})
	defer p.Close()
	client := &http.Client{Transport: p.Transport()}
	tokens, _ := p.Grant(larktest.AppID, larktest.Alice)
	refresh := func() {
		response, err := client.PostForm("http://lark.test/open-apis/authen/v2/oauth/token", url.Values{
			"grant_type": {"refresh_token"}, "refresh_token": {tokens.RefreshToken},
			"client_id": {larktest.AppID}, "client_secret": {larktest.AppSecret},
		})
		if err != nil {
			fmt.Println("no answer")
			return
		}
		defer response.Body.Close()
		var answer struct{ Code int }
		json.NewDecoder(response.Body).Decode(&answer)
		fmt.Println("code", answer.Code)
	}

	p.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Code: 20050})
	p.Fault(larktest.Fault{Endpoint: larktest.TokenEndpoint, Drop: true, Processed: true})
	refresh()
	refresh()
	refresh()
	for _, r := range p.Redemptions(tokens.RefreshToken) {
		fmt.Println(r.Outcome, r.Code)
	}
	// Output:
	// code 20050
	// no answer
	// code 20073
	// unanswered 0
	// refused 20073
}

// A device authorization, approved as a person would by the page.
func ExamplePlatform_Approve() {
	p := larktest.New(larktest.Config{})
	defer p.Close()
	client := &http.Client{Transport: p.Transport()}
	post := func(path string, form url.Values) map[string]any {
		form.Set("client_id", larktest.AppID)
		form.Set("client_secret", larktest.AppSecret)
		response, err := client.PostForm("http://lark.test"+path, form)
		if err != nil {
			return nil
		}
		defer response.Body.Close()
		var answer map[string]any
		json.NewDecoder(response.Body).Decode(&answer)
		return answer
	}

	device := post("/oauth/v1/device_authorization", url.Values{"scope": {"offline_access"}})
	fmt.Println(p.Approve(device["verification_uri_complete"].(string), larktest.Alice))
	token := post("/open-apis/authen/v2/oauth/token", url.Values{
		"grant_type":  {"urn:ietf:params:oauth:grant-type:device_code"},
		"device_code": {device["device_code"].(string)},
	})
	fmt.Println(token["token_type"], token["expires_in"], token["scope"])
	// Output:
	// <nil>
	// Bearer 7200 offline_access
}
