package lark_test

import (
	"context"
	"errors"
	"fmt"

	"larkside/session"
	"larkside/session/lark"
	"larkside/test/larktest"
)

// A refresh brings a pair of tokens, or an error whose class says what to do
// and whose outcome says whether the refresh token may be spent.
func ExampleClient_Refresh() {
	emulator := larktest.New(larktest.Config{})
	defer emulator.Close()
	client, err := lark.New(lark.Config{
		AppID:   larktest.AppID,
		Secret:  func() session.Secret { return session.NewSecret(larktest.AppSecret) },
		OpenURL: "http://lark.test", AccountsURL: "http://lark.test",
		Transport: emulator.Transport(),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	granted, err := emulator.Grant(larktest.AppID, larktest.Alice)
	if err != nil {
		fmt.Println(err)
		return
	}
	refreshToken := session.NewSecret(granted.RefreshToken)

	for range 2 {
		token, err := client.Refresh(context.Background(), "", refreshToken)
		var e *lark.Error
		if errors.As(err, &e) {
			fmt.Println(e.Code, e.Class, e.Outcome, e.Reason)
			return
		}
		fmt.Println("a new pair:", token.AccessToken, token.RefreshToken, token.ExpiresIn)
	}
	// Output:
	// a new pair: REDACTED REDACTED 2h0m0s
	// 20073 reauthorize refused refresh_token_used
}
