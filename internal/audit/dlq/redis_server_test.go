package dlq

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/redis/go-redis/v9"
)

const prefix = "audit:dlq:notification:"

// server is a redis-server of the test's own, durable as it should be in
// production unless the arguments say otherwise.
type server struct {
	t      testing.TB
	addr   string
	args   []string
	cmd    *exec.Cmd
	read   sync.WaitGroup
	client *redis.Client // somebody with redis-cli
}

func startRedis(t testing.TB, args ...string) *server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("REQUIRE_REDIS") == "1" {
			t.Fatal("REQUIRE_REDIS is 1, but there is no redis-server in PATH")
		}
		t.Skip("Redis is not installed: no redis-server in PATH")
	}
	s := &server{t: t, addr: freeAddress(t)}
	_, port, _ := net.SplitHostPort(s.addr)
	s.args = append([]string{
		"--bind", "127.0.0.1", "--port", port, "--dir", t.TempDir(),
		"--appendonly", "yes", "--appendfsync", "always", "--save", "",
	}, args...)
	s.start()
	t.Cleanup(func() { s.kill() })
	s.client = redis.NewClient(&redis.Options{Addr: s.addr, MaxRetries: -1, PoolSize: 100, DisableIdentity: true, Protocol: 2})
	t.Cleanup(func() { s.client.Close() })
	return s
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start returns when the server takes connections.
func (s *server) start() {
	s.t.Helper()
	s.cmd = exec.Command("redis-server", s.args...)
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ready := make(chan struct{})
	var lines []string
	s.read.Go(func() {
		defer close(ready)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			lines = append(lines, scan.Text())
			if strings.Contains(scan.Text(), "Ready to accept connections") {
				ready <- struct{}{}
			}
		}
	})
	if _, ok := <-ready; !ok {
		s.t.Fatalf("redis-server does not start:\n%s", strings.Join(lines, "\n"))
	}
}

// kill ends the server as kill -9 does.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	s.read.Wait()
	_ = s.cmd.Wait()
}

func (s *server) url() string { return "redis://" + s.addr }

// open returns what a process of a name gets, which ends with the test.
func (s *server) open(instance string) *Redis {
	s.t.Helper()
	return openRedis(s.t, s.url(), instance, logr.Discard())
}

func openRedis(t testing.TB, url, instance string, log logr.Logger) *Redis {
	t.Helper()
	r, err := OpenRedis(url, prefix, instance, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// do runs a command as a person would.
func (s *server) do(args ...any) any {
	s.t.Helper()
	reply, err := s.client.Do(s.t.Context(), args...).Result()
	if err != nil {
		s.t.Fatalf("%v: %v", args, err)
	}
	return reply
}

// entryOf returns the ID of the entry in which an event waits.
func (s *server) entryOf(n int) string {
	s.t.Helper()
	entry, _ := s.do("HGET", prefix+"waiting:ids", event(n).EventID.String()).(string)
	return entry
}

// lines collects what is logged.
type lines struct {
	mu   sync.Mutex
	list []string
}

func (l *lines) log() logr.Logger {
	return funcr.New(func(_, line string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.list = append(l.list, line)
	}, funcr.Options{Verbosity: 9})
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list)
}

// lossy is a connection that ends in place of the next answer where lose says
// so: the server has done the work all the same.
type lossy struct {
	net.Conn
	lose *bool
}

func (c lossy) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if *c.lose && err == nil {
		*c.lose = false
		c.Close()
		return 0, io.EOF
	}
	return n, err
}

// lossy makes a process lose the next answer of the server once what it returns
// is set to true.
func (s *server) lossy(r *Redis) *bool {
	s.t.Helper()
	lose := new(bool)
	r.options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		return lossy{conn, lose}, err
	}
	r.client.Close()
	r.client = redis.NewClient(r.options)
	if _, err := r.Settle(s.t.Context(), nil, nil); err != nil {
		s.t.Fatal(err)
	}
	return lose
}
