package store

import (
	"strconv"
	"strings"
	"testing"

	"github.com/lib/pq"

	"larkside/session"
)

// URLs as people and cloud consoles write them mean to the driver what they say.
func TestDriverURL(t *testing.T) {
	tests := []struct{ raw, want string }{
		{"postgres://u:p@db/x", "db:5432 u p x any 5s"},
		{"postgresql://u@db:6543/x?connect_timeout=9", "db:6543 u  x any 9s"},
		{"postgres://u:p@h1:5433,h2/x", "h1:5433 h2:5432 u p x read-write 2s"},
		{"postgres://u:p@h1,h2,h3/x?port=7777&target_session_attrs=any", "h1:7777 h2:7777 h3:7777 u p x any 1s"},
		{"postgres://u:p@[::1]:5433,[fe80::2]/x", "::1:5433 fe80::2:5432 u p x read-write 2s"},
		{"postgres://u:p@/x?host=h1,h2", "h1:5432 h2:5432 u p x read-write 2s"},
		{"postgres://db/x?user=u@server&password=p", "db:5432 u@server p x any 5s"},
		{"postgres:///x?host=/run/postgresql&user=u", "/run/postgresql:5432 u  x any 5s"},
		{"postgres://u:a%40b%2Fc,d@h1,h2/x", "h1:5432 h2:5432 u a@b/c,d x read-write 2s"},
		{"postgres://u:p@db/x?sslmode=require&channel_binding=prefer&gssencmode=disable&keepalives_idle=30", "db:5432 u p x any 5s"},
		{"postgres://u:p@db/x?sslmode=verify-full&channel_binding=require", "db:5432 u p x any 5s"},
		{"postgres://u:p@db/x?sslrootcert=system&channel_binding=require", "db:5432 u p x any 5s"},
	}
	for _, tt := range tests {
		text, err := driverURL(session.NewSecret(tt.raw))
		if err != nil {
			t.Errorf("%s: %v", tt.raw, err)
			continue
		}
		cfg, err := pq.NewConfig(text)
		if err != nil {
			t.Errorf("%s: %v", tt.raw, err)
			continue
		}
		hosts := []string{portOf(cfg.Host, cfg.Port)}
		for _, h := range cfg.Multi {
			hosts = append(hosts, portOf(h.Host, h.Port))
		}
		target := string(cfg.TargetSessionAttrs)
		if target == "" {
			target = "any"
		}
		got := strings.Join(append(hosts, cfg.User, cfg.Password, cfg.Database, target, cfg.ConnectTimeout.String()), " ")
		if got != tt.want {
			t.Errorf("%s is\n%s, want\n%s", tt.raw, got, tt.want)
		}
		for name := range cfg.Runtime {
			t.Errorf("%s: the server would be asked for %s", tt.raw, name)
		}
	}
}

func portOf(host string, port uint16) string { return host + ":" + strconv.Itoa(int(port)) }

// What is refused is named, with what to write instead, and never quoted.
func TestCheckURL(t *testing.T) {
	const encode = "percent-encoding"
	tests := []struct{ raw, want string }{
		{"postgres://u:canary/x@db/x", encode},
		{"postgres://u:12/canary@db/x", encode},
		{"postgres://u:12#canary@db/x", encode},
		{"postgres://u:12?canary@db/x", encode},
		{"postgres://u:12?a=canary@db/x", encode},
		{"postgres://u:canary#x@db/x", encode},
		{"postgres://u:canary?x@db/x", encode},
		{"postgres://u:canary%zz@db/x", encode},
		{"postgres://u:[canary]@db/x", encode},
		{"postgres://u:canary x@db/x", encode},
		{"postgres://u:canary@db:port/x", "no URL"},
		{"postgres://u:canary@h1:1,h2:port/x", "port"},
		{"postgres://u:canary@%2Frun%2Fpostgresql/x", "?host=/"},
		{"postgres://u:canary@db/x?channel_binding=require", "channel_binding=require"},
		{"postgres://u:canary@db/x?sslmode=require&channel_binding=require", "sslmode=verify-full"},
		{"postgres://u:canary@db/x?sslmode=on", "sslmode"},
		{"postgres://u:canary@h1,h2/x?port=1,2,3", "port"},
		{"mysql://u:canary@db/x", "postgres://"},
	}
	for _, tt := range tests {
		err := CheckURL(session.NewSecret(tt.raw))
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v, want %q", tt.raw, err, tt.want)
		}
	}
}
