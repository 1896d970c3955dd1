package settings

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestCallerLimits(t *testing.T) {
	const keys = "LARKSIDE_CALLER_KEYS=web:key-of-web-1,web:key-of-web-2,job:key-of-job-3,all:key-of-all-4"
	c := mustRead(t, keys, "LARKSIDE_CALLER_LIMITS= web:users=ou_a|on_b | jane@x ; paths=/open-apis/apaas/|/open-apis/im/v1/chats; methods=GET | HEAD;rate=10/1s,\n job:rate=600/1m , all:users=*")
	want := CallerLimits{
		"web": {Users: []string{"ou_a", "on_b", "jane@x"}, Paths: []string{"/open-apis/apaas/", "/open-apis/im/v1/chats"}, Methods: []string{"GET", "HEAD"}, Requests: 10, Period: time.Second},
		"job": {Requests: 600, Period: time.Minute},
		"all": {},
	}
	if !reflect.DeepEqual(c.CallerLimits, want) {
		t.Errorf("%+v", c.CallerLimits)
	}
	for value, says := range map[string]string{
		"web":                           `"web" is not name:users=…;paths=…;methods=…;rate=…`,
		"web:":                          `"" is not users=, paths=, methods= or rate=`,
		"we b:rate=1/1s":                `is not name:`,
		"web:rate=1/1s,web:rate=2/1s":   `"web" is there twice`,
		"web:rate=1/1s;rate=2/1s":       `each once`,
		"web:user=ou_a":                 `"user": the nearest known field is "users"`,
		"web:users=":                    `users= names nobody`,
		"web:users=ou_a|*":              `"*" is no user's id`,
		"web:users=ou a":                `"ou a" is no user's id`,
		"web:paths=open-apis/":          `"open-apis/" is no path in plain form`,
		"web:paths=/a/../b":             `is no path in plain form`,
		"web:paths=/a/*":                `"/a/*": a path that ends in / is a prefix, so write "/a/"`,
		"web:methods=":                  `methods= names none`,
		"web:methods=GET|get":           `"get" is no method in capital letters`,
		"web:methods=GET,POST":          `"POST" is not name:`,
		"web:method=GET":                `"method": the nearest known field is "methods"`,
		"web:paths=|":                   `paths= names none`,
		"web:rate=10":                   `"10" is not count/duration`,
		"web:rate=0/1s":                 `"0/1s" is not count/duration`,
		"web:rate=1/1s|2/1m":            `is not count/duration`,
		"wbe:rate=1/1s":                 `LARKSIDE_CALLER_KEYS has no "wbe", the nearest is "web"`,
		"web:users=ou_a;;rate=1/1s":     `"" is not users=`,
		"web:users=" + long("ou_", 129): `is no user's id`,
	} {
		_, err := read(t, keys, "LARKSIDE_CALLER_LIMITS="+value)
		lines := problems(t, err)
		if len(lines) != 1 || !strings.HasPrefix(lines[0], "LARKSIDE_CALLER_LIMITS: got ") || !strings.Contains(lines[0], says) {
			t.Errorf("%s: %q", value, lines)
		}
	}
	if lines := problems(t, second(read(t, "LARKSIDE_CALLER_LIMITS=web:rate=1/1s"))); len(lines) != 1 || !strings.Contains(lines[0], "there are no LARKSIDE_CALLER_KEYS") {
		t.Errorf("%q", lines)
	}
}

func second(_ *Settings, err error) error { return err }

func long(begin string, n int) string { return begin + strings.Repeat("x", n-len(begin)) }
