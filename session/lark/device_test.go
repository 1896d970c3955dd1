package lark_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"larkside/session"
	"larkside/session/lark"
)

const started = `{"device_code":"dc-1","user_code":"ABCD-1234","verification_uri":"https://a.example/d","verification_uri_complete":"https://a.example/d?user_code=ABCD-1234","expires_in":600,"interval":7}`

func TestStartDevice(t *testing.T) {
	f := serve(t, says(200, started))
	d, err := f.client(t).StartDevice(t.Context(), []string{"offline_access", "task:task:read"})
	if err != nil {
		t.Fatal(err)
	}
	if d.DeviceCode.Expose() != "dc-1" || d.UserCode != "ABCD-1234" || d.VerificationURI != "https://a.example/d" ||
		d.VerificationURIComplete != "https://a.example/d?user_code=ABCD-1234" || d.ExpiresIn != 10*time.Minute || d.Interval != 7*time.Second {
		t.Errorf("%+v", d)
	}
	seen := f.requests("/oauth/v1/device_authorization")
	if len(seen) != 1 {
		t.Fatalf("%d requests", len(seen))
	}
	if d := cmp.Diff(map[string]string{"client_id": "cli_test", "scope": "offline_access task:task:read"}, seen[0].form); d != "" {
		t.Error(d)
	}
	if user, password, ok := seen[0].BasicAuth(); !ok || user != "cli_test" || password != appSecret {
		t.Error("not authenticated by HTTP Basic")
	}
}

// A proxy that strips Authorization: the secret goes into the body, once, and
// never in both places.
func TestStartDeviceWithoutBasic(t *testing.T) {
	f := serve(t, func(w http.ResponseWriter, r request) {
		if r.form["client_secret"] == "" {
			answer(w, 400, `{"error":"invalid_request","error_description":"missing required parameter: client_secret"}`)
			return
		}
		answer(w, 200, started)
	})
	if _, err := f.client(t).StartDevice(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if len(f.seen) != 2 || f.seen[1].form["client_secret"] != appSecret || f.seen[1].Header.Get("Authorization") != "" {
		t.Errorf("%d requests, the second with Authorization %q", len(f.seen), f.seen[1].Header.Get("Authorization"))
	}
	stubborn := serve(t, says(400, `{"error":"invalid_request","error_description":"missing required parameter: client_secret"}`))
	if e := asError(t, operations["StartDevice"](t.Context(), stubborn.client(t))); e.Class != lark.Misconfigured || len(stubborn.seen) != 2 {
		t.Errorf("%s after %d requests", e.Class, len(stubborn.seen))
	}
}

func TestStartDeviceOddAnswers(t *testing.T) {
	for body, want := range map[string]lark.DeviceAuthorization{
		`{"device_code":"d","verification_uri":"https://a.example/d"}`:                                            {VerificationURI: "https://a.example/d", VerificationURIComplete: "https://a.example/d", ExpiresIn: 240 * time.Second, Interval: 5 * time.Second},
		`{"device_code":"d","verification_uri_complete":"https://a.example/d","expires_in":1e12,"interval":1e12}`: {VerificationURI: "https://a.example/d", VerificationURIComplete: "https://a.example/d", ExpiresIn: time.Hour, Interval: time.Minute},
		`{"device_code":"d","verification_uri":"https://a.example/d","expires_in":-1,"interval":0}`:               {VerificationURI: "https://a.example/d", VerificationURIComplete: "https://a.example/d", ExpiresIn: 240 * time.Second, Interval: 5 * time.Second},
		`{"device_code":"d"}`: {},
		`{"device_code":"d","verification_uri":"javascript:alert(1)","verification_uri_complete":"//x"}`: {},
	} {
		d, err := serve(t, says(200, body)).client(t).StartDevice(t.Context(), nil)
		if want == (lark.DeviceAuthorization{}) {
			if e := asError(t, err); e.Class != lark.Retry {
				t.Errorf("%s: %v", body, e)
			}
			continue
		}
		d.DeviceCode = session.Secret{}
		if err != nil || d != want {
			t.Errorf("%s: %+v, %v", body, d, err)
		}
	}
}

func TestPollDevice(t *testing.T) {
	sentinels := []error{lark.ErrAuthorizationPending, lark.ErrSlowDown, lark.ErrAccessDenied, lark.ErrExpired}
	for _, tt := range []struct {
		status int
		body   string
		want   error
		class  lark.Class
	}{
		{400, `{"error":"authorization_pending"}`, lark.ErrAuthorizationPending, lark.Retry},
		{200, `{"code":20099,"error":"authorization_pending"}`, lark.ErrAuthorizationPending, lark.Unknown},
		{400, `{"error":"slow_down"}`, lark.ErrSlowDown, lark.Retry},
		{400, `{"error":"access_denied"}`, lark.ErrAccessDenied, lark.Reauthorize},
		{400, `{"error":"expired_token"}`, lark.ErrExpired, lark.Reauthorize},
		{400, `{"error":"invalid_grant"}`, lark.ErrExpired, lark.Reauthorize},
		{400, `{"error":"invalid_client","code":20002}`, nil, lark.AppRefused},
		{503, `{"error":"access_denied"}`, nil, lark.Retry},
		{502, `<html>`, nil, lark.Retry},
	} {
		f := serve(t, says(tt.status, tt.body))
		err := operations["PollDevice"](t.Context(), f.client(t))
		if e := asError(t, err); e.Class != tt.class {
			t.Errorf("%d %s: class %s", tt.status, tt.body, e.Class)
		}
		for _, s := range sentinels {
			if errors.Is(err, s) != (s == tt.want) {
				t.Errorf("%d %s: is %q = %v", tt.status, tt.body, s, errors.Is(err, s))
			}
		}
	}
	f := serve(t, says(200, issued))
	tok, err := f.client(t).PollDevice(t.Context(), session.NewSecret(deviceCode))
	if err != nil || tok.RefreshToken.Expose() != "eyJr.1" {
		t.Errorf("%+v, %v", tok, err)
	}
	if d := cmp.Diff(map[string]string{
		"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": deviceCode,
		"client_id": "cli_test", "client_secret": appSecret,
	}, f.seen[0].form); d != "" {
		t.Error(d)
	}
	// A deadline is still visible, though poll errors are put in its place.
	if err := operations["PollDevice"](t.Context(), (&fake{Server: closed(t)}).client(t)); asError(t, err).Err == nil {
		t.Error("the cause was lost")
	}
}
