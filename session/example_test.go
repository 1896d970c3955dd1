package session_test

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"larkside/session"
)

// The token goes from the session into the request's header. Nothing prints it.
func ExampleAccess_Authorize() {
	received := time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)
	access := session.NewAccess(&session.Session{
		Key:   session.Key{AppID: "cli_a1b2c3", OpenID: "ou_alice"},
		State: session.Active, AccessToken: session.NewSecret("alices-token"), TokenType: "Bearer",
		IssuedAt: received, ExpiresAt: received.Add(2 * time.Hour),
	})
	fmt.Println("usable in time:", access.Usable(received.Add(time.Hour)))
	fmt.Println("usable at its end:", access.Usable(received.Add(2*time.Hour)))
	fmt.Println("to be renewed from", access.RefreshAt(0.1).Format(time.TimeOnly))

	r, err := http.NewRequest("GET", "https://open.feishu.cn/open-apis/apaas/v1/apps", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	access.Authorize(r.Header)
	fmt.Println(r.Header.Get("Authorization"))
	// Output:
	// usable in time: true
	// usable at its end: false
	// to be renewed from 10:48:00
	// Bearer alices-token
}

// A caller decides by what an error means, and tells the user by its reason.
func ExampleConsentRequiredError() {
	err := fmt.Errorf("looking for a token: %w", &session.ConsentRequiredError{Reason: session.RefreshTokenExpired})

	var needed *session.ConsentRequiredError
	switch {
	case errors.As(err, &needed):
		fmt.Println("ask the user, because of", needed.Reason)
	case errors.Is(err, session.ErrUnavailable):
		fmt.Println("the database did not answer: nothing is known")
	}
	fmt.Println(errors.Is(err, session.ErrConsentRequired))
	// Output:
	// ask the user, because of refresh_token_expired
	// true
}

// A Secret is shown by Expose only.
func ExampleSecret() {
	token := session.NewSecret("alices-token")
	fmt.Println(token)
	fmt.Printf("%q %+v\n", token, []session.Secret{token})
	fmt.Println(token.Expose())
	// Output:
	// REDACTED
	// REDACTED [REDACTED]
	// alices-token
}
