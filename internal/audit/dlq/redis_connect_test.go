package dlq

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/redis/go-redis/v9"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/test/standin"
)

const secret = "s3cr3t"

func TestRedisSettingsThatMayLoseEventsAreLoggedOnce(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want []string // parts of the one line, none where none is to be logged
	}{
		"safe":       {nil, nil},
		"snapshots":  {[]string{"--appendonly", "no"}, []string{"appendonly", "no", "yes"}},
		"everysec":   {[]string{"--appendfsync", "everysec"}, []string{"appendfsync", "everysec", "always"}},
		"evicting":   {[]string{"--maxmemory-policy", "allkeys-lru"}, []string{"maxmemory-policy", "allkeys-lru", "noeviction"}},
		"everything": {[]string{"--appendonly", "no", "--appendfsync", "no", "--maxmemory-policy", "volatile-ttl"}, []string{"appendonly", "appendfsync", "maxmemory-policy"}},
		"forbidden":  {[]string{"--rename-command", "CONFIG", ""}, []string{"Could not check", "appendonly", "appendfsync", "maxmemory-policy"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := startRedis(t, c.args...)
			var log lines
			r := openRedis(t, s.url(), "one", log.log())
			mustPut(t, r, events(0, 1), 1)
			mustSettle(t, r, nil, nil)
			got := log.all()
			if len(c.want) == 0 {
				if len(got) > 0 {
					t.Errorf("logged %q", got)
				}
				return
			}
			if len(got) != 1 {
				t.Fatalf("%d lines, want one: %q", len(got), got)
			}
			for _, part := range c.want {
				if !strings.Contains(got[0], part) {
					t.Errorf("%q lacks %q", got[0], part)
				}
			}
		})
	}
}

func TestSettingsOfRedisThatCannotBeUsedAreNamedWithoutTheirSecrets(t *testing.T) {
	for url, want := range map[string]string{
		"":                                  "is required",
		"localhost:6379":                    "scheme",
		"unix:///tmp/redis.sock":            "scheme",
		"http://:" + secret + "@host:6379":  "scheme",
		"redis://":                          "no host",
		"redis://:" + secret + "@":          "no host",
		"redis://:" + secret + "@host:port": "not a URL",
		"redis://user:" + secret + "/x@host:6379":           "not a URL",
		"redis://user:%zz" + secret + "@host:6379":          "not a URL",
		"redis://:1" + secret + "?x@host:6379":              "not a URL",
		"redis://u:1/" + secret + "@host:6379":              "database",
		"redis://h:1#" + secret + "@host:6379":              "option",
		"redis://h:1?" + secret + "@host:6379":              "option",
		"redis://:" + secret + "@host/first":                "database",
		"redis://:" + secret + "@host/-1":                   "database",
		"redis://:" + secret + "@host/1/2":                  "database",
		"redis://:" + secret + "@host?read_timeout=-1":      "option",
		"redis://:" + secret + "@host?skip_verify=true":     "option",
		"rediss://:" + secret + "@host?skip_verify=perhaps": "option",
	} {
		_, err := OpenRedis(url, prefix, "one", logr.Discard())
		if err == nil || !strings.Contains(err.Error(), "--redis-url") || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "allowed is redis://") {
			t.Errorf("%s: error is %v, want %q", url, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "@host:6379")) {
			t.Errorf("%s: shown in %v", url, err)
		}
	}
	for _, prefix := range []string{"", "a b", "a*", "é", "a\n", strings.Repeat("x", 129)} {
		if _, err := OpenRedis("redis://host", prefix, "one", logr.Discard()); err == nil || !strings.Contains(err.Error(), "--dlq-key-prefix") || !strings.Contains(err.Error(), "allowed are") {
			t.Errorf("%q: error is %v", prefix, err)
		}
	}
	if _, err := OpenRedis("redis://host", prefix, "", logr.Discard()); err == nil {
		t.Error("a process without a name has no error")
	}
}

func TestRedisIsReachedWithPasswordAndTLS(t *testing.T) {
	certificate, dir := standin.NewCertificate(t, time.Hour, "127.0.0.1"), t.TempDir()
	certificate.Write(t, dir)
	secure := freeAddress(t)
	_, port, _ := net.SplitHostPort(secure)
	s := startRedis(t, "--requirepass", secret+"/?#", "--tls-port", port, "--tls-cert-file", filepath.Join(dir, "tls.crt"), "--tls-key-file", filepath.Join(dir, "tls.key"), "--tls-auth-clients", "no")
	trusting := func(r *Redis) {
		r.options.TLSConfig.RootCAs = certificate.Roots()
		r.client.Close()
		r.client = redis.NewClient(r.options)
	}
	added := 0
	for name, c := range map[string]struct {
		url  string
		with func(*Redis)
		want string // "": it works
	}{
		"password":               {"redis://:" + secret + "%2F%3F%23@" + s.addr, nil, ""},
		"user and database":      {"redis://default:" + secret + "%2F%3F%23@" + s.addr + "/3", nil, ""},
		"wrong password":         {"redis://:" + secret + "@" + s.addr, nil, "WRONGPASS"},
		"no password":            {"redis://" + s.addr, nil, "NOAUTH"},
		"TLS, trusted":           {"rediss://:" + secret + "%2F%3F%23@" + secure, trusting, ""},
		"TLS, unknown authority": {"rediss://:" + secret + "%2F%3F%23@" + secure, nil, "unknown authority"},
		"TLS, unchecked":         {"rediss://:" + secret + "%2F%3F%23@" + secure + "?skip_verify=true", nil, ""},
		"plain to a TLS port":    {"redis://:" + secret + "%2F%3F%23@" + secure, nil, "(--redis-url)"},
		"nobody there":           {"redis://:" + secret + "%2F%3F%23@" + freeAddress(t), nil, "connection refused"},
	} {
		var log lines
		r := openRedis(t, c.url, "one", log.log())
		if c.with != nil {
			c.with(r)
		}
		n, err := r.Put(t.Context(), events(0, 1))
		added += n
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error is %v, want %q", name, err, c.want)
		}
		if _, err := r.Settle(t.Context(), nil, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: shown in %v", name, err)
		}
		if all := strings.Join(log.all(), "\n"); strings.Contains(all, secret) {
			t.Errorf("%s: shown in %s", name, all)
		}
	}
	if added != 2 {
		t.Errorf("the event was added %d times, want once in each of two databases", added)
	}
}

func TestCallsOfARedisThatHangsEndWithTheirContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, scheme := range []string{"redis://", "rediss://"} {
		r := openRedis(t, scheme+l.Addr().String(), "one", logr.Discard())
		for name, call := range map[string]func(context.Context) error{
			"put":    func(ctx context.Context) error { _, err := r.Put(ctx, events(0, 1)); return err },
			"next":   func(ctx context.Context) error { _, _, err := r.Next(ctx, 1); return err },
			"settle": func(ctx context.Context) error { _, err := r.Settle(ctx, ids(events(0, 1)), nil); return err },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			begun := time.Now()
			if err := call(ctx); err == nil {
				t.Errorf("%s%s: no error", scheme, name)
			}
			if d := time.Since(begun); d > 2*time.Second {
				t.Errorf("%s%s: took %v", scheme, name, d)
			}
			cancel()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		depth, err := r.Settle(ctx, nil, nil)
		cancel()
		if err != nil {
			t.Errorf("%s: report: %v", scheme, err)
		}
		wantDepth(t, audit.Depth{}, depth)
	}
}
