package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"kubernaut.ai/notification/internal/datastorage/storetest"
)

// serverStart is ample for what takes a second or two on an idle machine.
const serverStart = time.Minute

// server is a server that is killed and started again at one address. Its methods
// are for one goroutine at a time.
type server struct {
	tb      testing.TB
	process *Process
	ready   func(context.Context) error
}

func startServer(tb testing.TB, cmd *exec.Cmd, ready func(context.Context) error) server {
	tb.Helper()
	s := server{tb: tb, process: Start(tb, cmd), ready: ready}
	s.wait()
	return s
}

// Start starts the server again with the data that it had, and returns once it
// answers.
func (s *server) Start() {
	s.tb.Helper()
	s.process.Restart()
	s.wait()
}

func (s *server) wait() {
	s.tb.Helper()
	Eventually(s.tb, serverStart, func() error {
		if s.process.Ended() {
			s.tb.Fatalf("%s ended (%v) before it was ready", s.process.cmd.Path, s.process.err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return s.ready(ctx)
	})
}

// Kill ends the server as kill -9 does and returns when it has ended.
func (s *server) Kill() {
	s.tb.Helper()
	s.process.Kill()
}

// Redis is a redis-server of the test's own, which has each write on disk before
// it acknowledges it.
type Redis struct {
	server
	Address  string // host:port, always the same
	password string
}

// HaveRedis reports whether redis-server is installed.
func HaveRedis() bool {
	_, err := exec.LookPath("redis-server")
	return err == nil
}

// StartRedis starts a server, which asks for the password unless that is "". It
// ends with the test.
func StartRedis(tb testing.TB, password string) *Redis {
	tb.Helper()
	r := &Redis{Address: FreeAddress(tb), password: password}
	host, port, _ := net.SplitHostPort(r.Address)
	cmd := exec.Command("redis-server", "--bind", host, "--port", port, "--dir", tb.TempDir(),
		"--appendonly", "yes", "--appendfsync", "always", "--save", "", "--requirepass", password)
	r.server = startServer(tb, cmd, r.ping)
	return r
}

// ping asks by hand: a client that finds nobody dials again when it sees fit.
func (r *Redis) ping(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	want, ask := "+PONG\r\n", "PING\r\n"
	if r.password != "" {
		want, ask = "+OK\r\n"+want, fmt.Sprintf("AUTH %q\r\n", r.password)+ask
	}
	if _, err := io.WriteString(conn, ask); err != nil {
		return err
	}
	answer := make([]byte, len(want))
	n, err := io.ReadFull(conn, answer)
	if err == nil && string(answer) != want {
		err = errors.New("it is not ready")
	}
	if err != nil {
		return fmt.Errorf("redis answers %q: %w", answer[:n], err)
	}
	return nil
}

// URL returns the URL of the database 0, with the password.
func (r *Redis) URL() string {
	u := url.URL{Scheme: "redis", Host: r.Address, Path: "/0"}
	if r.password != "" {
		u.User = url.UserPassword("", r.password)
	}
	return u.String()
}

// Postgres is a PostgreSQL server of the test's own, durable as in production,
// which listens on loopback so that a proxy can stand before it.
type Postgres struct {
	server
	Address string // host:port, always the same
}

// HavePostgres reports whether PostgreSQL's server is installed.
func HavePostgres() bool { return storetest.HavePostgres() }

// StartPostgres starts a server with an empty database. It ends with the test.
func StartPostgres(tb testing.TB) *Postgres {
	tb.Helper()
	s, err := workshop()
	if err != nil {
		tb.Fatal(err)
	}
	// Not tb.TempDir, which is closed to the user that the server runs as.
	dir, err := os.MkdirTemp(s.dir, "postgres") //nolint:usetesting // see above
	if err != nil {
		tb.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	if err := errors.Join(os.Chmod(s.dir, 0o711), storetest.InitPostgres(tb, dir, data)); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &Postgres{Address: FreeAddress(tb)}
	host, port, _ := net.SplitHostPort(p.Address)
	cmd := storetest.PostgresCommand(tb, dir, "postgres", "-D", data, "-h", host, "-p", port, "-k", "", "-c", "max_connections=60")
	p.server = startServer(tb, cmd, func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, p.URL())
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
	tb.Cleanup(p.Kill) // with its children, and before the directory goes
	return p
}

// Kill ends the server and the processes of its sessions as kill -9 does and
// returns when all have ended.
func (p *Postgres) Kill() {
	p.tb.Helper()
	if p.process.Ended() {
		return
	}
	// A stopped parent neither has more children nor buries those that it has, so
	// that their numbers stay theirs.
	p.process.Signal(syscall.SIGSTOP)
	parent := p.process.cmd.Process.Pid
	Eventually(p.tb, serverStart, func() error {
		_, state, err := procStat(parent)
		if err == nil && state != "T" {
			err = fmt.Errorf("the server's state is %s, want T", state)
		}
		return err
	})
	children, err := childrenOf(parent)
	if err != nil {
		p.tb.Fatal(err)
	}
	for _, child := range children {
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
	Eventually(p.tb, serverStart, func() error {
		for _, child := range children {
			if _, state, err := procStat(child); err == nil && state != "Z" {
				return fmt.Errorf("process %d of the server is still there, in state %s", child, state)
			}
		}
		return nil
	})
	p.process.Kill()
}

// childrenOf returns the processes that a process has started.
func childrenOf(parent int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var children []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if its, _, err := procStat(pid); err == nil && its == parent {
			children = append(children, pid)
		}
	}
	return children, nil
}

// procStat returns a process's parent and its state, a letter.
func procStat(pid int) (parent int, state string, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, "", err
	}
	// The program's name, in parentheses before the state, may hold anything.
	_, err = fmt.Sscan(string(text[strings.LastIndexByte(string(text), ')')+1:]), &state, &parent)
	return parent, state, err
}

// URL returns the URL of the database, for a user who may do all.
func (p *Postgres) URL() string {
	return "postgres://postgres@" + p.Address + "/postgres?sslmode=disable"
}
