package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The proxies of others, with the smallest configuration that does the same:
// the user's token for the user's name, the name removed, nothing buffered or
// logged, connections to the upstream kept.

// caddyFile is where test/forwardauth leaves the Caddy that it builds.
const caddyFile = "larkside-test/caddy-v2.11.4"

// find returns the program, or "".
func find(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	if cache, err := os.UserCacheDir(); err == nil && name == "caddy" {
		if path, err := exec.LookPath(filepath.Join(cache, caddyFile)); err == nil {
			return path
		}
	}
	return ""
}

// other is how one of them is run.
type other struct {
	config func(o otherConfig) string
	args   func(file, dir string) []string
}

type otherConfig struct {
	// listen and to are host:port, roots a PEM file or "", tokens the file with
	// what tokenLines makes.
	listen, to, roots, tokens, dir string
}

var others = map[string]other{
	"nginx": {
		config: func(o otherConfig) string {
			scheme, tls := "http", ""
			if o.roots != "" {
				// nginx speaks no HTTP/2 to upstreams in most builds: HTTP/1.1 over TLS.
				scheme, tls = "https", "proxy_ssl_verify on; proxy_ssl_name localhost; proxy_ssl_trusted_certificate "+o.roots+";"
			}
			user := ""
			if os.Getuid() == 0 {
				user = "user root;"
			}
			return fmt.Sprintf(`
daemon off; worker_processes auto; pid %[5]s/nginx.pid; error_log stderr error; %[6]s
events { worker_connections 4096; }
http {
  access_log off; map_hash_bucket_size 4096; map_hash_max_size 16384; keepalive_requests 100000000;
  client_body_temp_path %[5]s/b; proxy_temp_path %[5]s/p; fastcgi_temp_path %[5]s/f; uwsgi_temp_path %[5]s/u; scgi_temp_path %[5]s/s;
  client_max_body_size 0;
  map $http_x_lark_user_id $token { include %[3]s; }
  upstream lark { server %[2]s; keepalive 512; keepalive_requests 100000000; }
  server {
    listen %[1]s;
    location / {
      proxy_pass %[4]s://lark; proxy_http_version 1.1; proxy_set_header Connection ""; %[7]s
      proxy_set_header Authorization "Bearer $token"; proxy_set_header X-Lark-User-Id "";
      proxy_buffering off; proxy_request_buffering off;
    }
  }
}`, o.listen, o.to, o.tokens, scheme, o.dir, user, tls)
		},
		args: func(file, dir string) []string { return []string{"-p", dir, "-c", file} },
	},
	"haproxy": {
		config: func(o otherConfig) string {
			// maxrewrite: a token is longer than the room that HAProxy keeps for
			// headers beside a body, 1 KiB, and would be a 500.
			tls := ""
			if o.roots != "" {
				tls = "ssl alpn h2 verify required verifyhost localhost sni str(localhost) ca-file " + o.roots
			}
			return fmt.Sprintf(`
global
  maxconn 4096
  tune.maxrewrite 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
  option http-no-delay
frontend app
  bind %s
  http-request set-header Authorization "Bearer %%[req.hdr(x-lark-user-id),map(%s)]"
  http-request del-header X-Lark-User-Id
  default_backend lark
backend lark
  server lark %s %s
`, o.listen, o.tokens, o.to, tls)
		},
		args: func(file, dir string) []string { return []string{"-db", "-q", "-f", file} },
	},
	"caddy": {
		config: func(o otherConfig) string {
			scheme, tls := "http", ""
			if o.roots != "" {
				scheme, tls = "https", "tls_server_name localhost\n tls_trust_pool file "+o.roots
			}
			lines, _ := os.ReadFile(o.tokens)
			return fmt.Sprintf(`
{
  admin off
  auto_https off
  persist_config off
}
http://%s {
  map {http.request.header.X-Lark-User-Id} {token} {
%s
  }
  reverse_proxy %s://%s {
    header_up Authorization "Bearer {token}"
    header_up -X-Lark-User-Id
    transport http {
      keepalive_idle_conns_per_host 1024
      compression off
      %s
    }
  }
}
`, o.listen, lines, scheme, o.to, tls)
		},
		args: func(file, dir string) []string {
			return []string{"run", "--adapter", "caddyfile", "--config", file}
		},
	},
}

// tokenLines is a line for each user: the name, the token, and what the proxy
// wants behind it.
func tokenLines(users int, end string) string {
	var b strings.Builder
	for i := range users {
		fmt.Fprintf(&b, "%s %s%s\n", userName(i), accessToken(i, 0), end)
	}
	return b.String()
}

// startOther starts one of them; nil without an error when it is not installed.
func (b *bench) startOther(name string, secure bool) (*target, error) {
	path := find(name)
	if path == "" {
		return nil, nil
	}
	dir, err := os.MkdirTemp(b.dir, name+"-")
	if err != nil {
		return nil, err
	}
	listen, err := freeAddr()
	if err != nil {
		return nil, err
	}
	o := otherConfig{listen: listen, to: b.up.Plain, tokens: filepath.Join(dir, "tokens"), dir: dir}
	if secure {
		o.to, o.roots = b.up.TLS, b.rootsFile
	}
	end := ""
	if name == "nginx" {
		end = ";"
	}
	if err := os.WriteFile(o.tokens, []byte(tokenLines(b.users, end)), 0o600); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "config")
	if err := os.WriteFile(file, []byte(others[name].config(o)), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(path, others[name].args(file, dir)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}
	c, err := spawn(cmd)
	if err != nil {
		return nil, err
	}
	if err := awaitPort(c, listen); err != nil {
		c.stop()
		return nil, err
	}
	return &target{name: name, addr: listen, child: c}, nil
}
