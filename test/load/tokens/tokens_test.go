package tokens

import (
	"strings"
	"testing"
)

func TestOwner(t *testing.T) {
	good := "Bearer " + Of(User(7))
	if owner := Owner(good); owner != User(7) {
		t.Errorf("the owner is %q", owner)
	}
	for what, bad := range map[string]string{
		"nothing": "", "a scheme": good[1:], "another scheme": "X" + good[1:], "another kind": strings.Replace(good, "u-", "t-", 1), "a cut token": good[:len(good)-1], "a longer one": good + "A", "another letter": good[:len(good)-1] + "~",
	} {
		if owner := Owner(bad); owner != "" {
			t.Errorf("%s is taken for the token of %q", what, owner)
		}
	}
}
