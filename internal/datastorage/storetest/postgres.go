package storetest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Postgres is a PostgreSQL server of its own, on a socket in a temporary
// directory, durable as in production. It is a child of the test's process and
// in its group, so that an interrupt from the terminal ends both.
type Postgres struct {
	dir    string
	server *exec.Cmd
	mu     sync.Mutex
	last   int
}

var shared struct {
	mu     sync.Mutex
	server *Postgres
}

// SharedPostgres returns the one server of the test binary, which must end with
// Exit. Use NewDatabase to be alone. Where PostgreSQL is not installed the test
// is skipped, or fails if REQUIRE_POSTGRES is 1.
func SharedPostgres(tb testing.TB) *Postgres {
	tb.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.server == nil {
		shared.server = newPostgres(tb)
	}
	return shared.server
}

// Exit ends the shared server, where there is one, and the process. It is for
// TestMain, as the function that goleak.Cleanup takes.
func Exit(code int) {
	if shared.server != nil {
		shared.server.remove()
	}
	os.Exit(code)
}

// StartPostgres starts a server that a test may stop, and that ends with the
// test. Where PostgreSQL is not installed it does what SharedPostgres does.
func StartPostgres(tb testing.TB) *Postgres {
	tb.Helper()
	p := newPostgres(tb)
	tb.Cleanup(p.remove)
	return p
}

func newPostgres(tb testing.TB) *Postgres {
	tb.Helper()
	if !HavePostgres() {
		if os.Getenv("REQUIRE_POSTGRES") == "1" {
			tb.Fatal("REQUIRE_POSTGRES is 1, but there is no initdb in PATH or /usr/lib/postgresql/*/bin")
		}
		tb.Skip("PostgreSQL is not installed: no initdb in PATH or /usr/lib/postgresql/*/bin")
	}
	// Not tb.TempDir: its path is too long for a socket, and closed to the
	// user that the server runs as.
	dir, err := os.MkdirTemp("", "pg") //nolint:usetesting // see above
	if err != nil {
		tb.Fatal(err)
	}
	p := &Postgres{dir: dir}
	if err := InitPostgres(tb, dir, p.data()); err != nil {
		p.remove()
		tb.Fatal(err)
	}
	p.Start(tb)
	return p
}

// Start starts the server after Stop and returns once it takes connections.
func (p *Postgres) Start(tb testing.TB) {
	tb.Helper()
	log, err := os.Create(filepath.Join(p.dir, "log"))
	if err != nil {
		tb.Fatal(err)
	}
	defer log.Close()
	p.server = PostgresCommand(tb, p.dir, "postgres", "-D", p.data(), "-k", p.dir, "-c", "listen_addresses=", "-c", "max_connections=60")
	p.server.Stderr = log
	if err := p.server.Start(); err != nil {
		tb.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := pgx.Connect(context.Background(), p.URL("postgres"))
		if err == nil {
			_ = conn.Close(context.Background())
			return
		}
		if time.Now().After(deadline) {
			lines, _ := os.ReadFile(log.Name())
			tb.Fatalf("PostgreSQL does not start: %v\n%s", err, lines)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// Stop ends the server as a crash would: with no checkpoint, and with sessions
// cut off.
func (p *Postgres) Stop(tb testing.TB) {
	tb.Helper()
	if err := p.server.Process.Signal(syscall.SIGQUIT); err != nil {
		tb.Fatal(err)
	}
	_ = p.server.Wait()
}

func (p *Postgres) remove() {
	if p.server != nil && p.server.Process.Signal(syscall.SIGQUIT) == nil {
		_ = p.server.Wait()
	}
	_ = os.RemoveAll(p.dir)
}

// NewDatabase makes an empty database and returns its URL.
func (p *Postgres) NewDatabase(tb testing.TB) string {
	tb.Helper()
	p.mu.Lock()
	p.last++
	name := fmt.Sprintf("test%d", p.last)
	p.mu.Unlock()
	p.Exec(tb, "postgres", "CREATE DATABASE "+name)
	return p.URL(name)
}

// Exec runs a statement in a database as the superuser.
func (p *Postgres) Exec(tb testing.TB, database, statement string) {
	tb.Helper()
	conn, err := pgx.Connect(context.Background(), p.URL(database))
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), statement); err != nil {
		tb.Fatal(err)
	}
}

// URL returns the URL of a database.
func (p *Postgres) URL(database string) string {
	return fmt.Sprintf("postgres:///%s?%s", database, url.Values{"host": {p.dir}, "user": {"postgres"}}.Encode())
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }

// HavePostgres reports whether PostgreSQL's server is installed.
func HavePostgres() bool { return findPostgres() != "" }

// InitPostgres makes a database cluster in a directory within dir, which becomes
// the property of whom the server runs as. Whoever connects to it over loopback or
// a socket is believed to be the user that he says he is; "postgres" may do all.
func InitPostgres(tb testing.TB, dir, data string) error {
	tb.Helper()
	if c := credential(tb); c != nil {
		if err := os.Chown(dir, int(c.Uid), int(c.Gid)); err != nil {
			return err
		}
	}
	initdb := PostgresCommand(tb, dir, "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

// PostgresCommand is one of the server's programs, to be run in a directory by a
// user who may run it.
func PostgresCommand(tb testing.TB, dir, name string, args ...string) *exec.Cmd {
	tb.Helper()
	cmd := exec.Command(filepath.Join(findPostgres(), name), args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential(tb)}
	return cmd
}

// findPostgres returns the directory of the server's programs, of the newest
// version where there are several.
func findPostgres() string {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path)
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return ""
	}
	return filepath.Dir(slices.Max(found))
}

// credential is whom the server runs as, since it refuses to run as root.
func credential(tb testing.TB) *syscall.Credential {
	if os.Getuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if uidErr == nil && gidErr == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	tb.Fatal("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as")
	return nil
}
