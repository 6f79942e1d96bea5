package datastorage_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/jackc/pgx/v5"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/storetest"
)

// refusal checks that events are refused with an answer that says to send them
// again, that what is stored can be read, and that readiness says why.
func refusal(t *testing.T, c *client, event, reason string) {
	t.Helper()
	a := c.post(batchPath, batch(event))
	if a.problem(t, 503, "unavailable"); a.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %q, want 1", a.header.Get("Retry-After"))
	}
	c.get(eventsPath+"/"+id(0)).want(t, 200)
	if a := c.ready(503); reason != "" && !strings.Contains(a.body, reason) {
		t.Errorf("readiness says %s, want %q", a.body, reason)
	}
}

// whole checks that the log has so many events and proves them.
func whole(t *testing.T, databaseURL string, events int) {
	t.Helper()
	if out, err := verifiedDatabase(t, databaseURL); err != nil || !strings.HasPrefix(out, fmt.Sprintf("The log is whole: %d events", events)) {
		t.Errorf("%v\n%s", err, out)
	}
}

func testReadOnly(t *testing.T, postgres *storetest.Postgres) {
	databaseURL := postgres.NewDatabase(t)
	c := newClient(t, "http://"+start(t, databaseURL).address())
	grow(c, 0, 3)
	set := func(value string) {
		t.Helper()
		postgres.Exec(t, "postgres", "ALTER SYSTEM SET default_transaction_read_only = "+value)
		postgres.Exec(t, "postgres", "SELECT pg_reload_conf()")
	}
	set("on")
	defer set("off")
	c.ready(503) // It takes the server a moment to tell all its sessions.
	refusal(t, c, event(3), "read-only")
	set("off")
	c.ready(200)
	grow(c, 3, 5)
	whole(t, databaseURL, 5)
}

func testNoConnections(t *testing.T, postgres *storetest.Postgres) {
	databaseURL := postgres.NewDatabase(t)
	c := newClient(t, "http://"+start(t, databaseURL).address())
	grow(c, 0, 3)
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	// The server loses those it has, and all there can be are taken.
	const lose = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'datastorage' AND datname = current_database()"
	var taken []*pgx.Conn
	defer func() {
		for _, conn := range taken {
			_ = conn.Close(context.Background())
		}
	}()
	for full := 0; full < 2; {
		other, err := pgx.Connect(t.Context(), databaseURL)
		if err == nil {
			taken = append(taken, other)
			continue
		}
		full++
		if _, err := conn.Exec(t.Context(), lose); err != nil {
			t.Fatal(err)
		}
	}
	a := c.post(batchPath, batch(event(3)))
	if a.problem(t, 503, "unavailable"); a.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %q, want 1", a.header.Get("Retry-After"))
	}
	c.get(eventsPath).problem(t, 503, "unavailable")
	// It may be told first of connections that were lost.
	for end := time.Now().Add(10 * time.Second); ; {
		if a := c.ready(503); strings.Contains(a.body, "too many clients") {
			break
		} else if time.Now().After(end) {
			t.Fatalf("readiness says %s", a.body)
		}
	}
	for _, conn := range taken {
		_ = conn.Close(t.Context())
	}
	c.ready(200)
	grow(c, 3, 5)
	whole(t, databaseURL, 5)
}

// disk is one of so many bytes, which anybody may look into.
func disk(t *testing.T, options string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "disk") //nolint:usetesting // PostgreSQL may not look into that of the test
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("mount a small disk: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// fill takes all the room there is on a disk until the returned function is called.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "others")
	if err := os.WriteFile(path, make([]byte, 64<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk has room for all of it: %v", err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func testFullDisk(t *testing.T, databaseURL, dir string) {
	c := newClient(t, "http://"+start(t, databaseURL).address())
	grow(c, 0, 3)
	free := fill(t, dir)
	large := func(n int) string { return with(event(n), "event_data", `{"a":"`+strings.Repeat("x", 1<<20)+`"}`) }
	a := c.post(batchPath, batch(large(3), large(4)))
	if a.problem(t, 503, "unavailable"); a.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %q, want 1", a.header.Get("Retry-After"))
	}
	c.get(eventsPath+"/"+id(0)).want(t, 200)
	free()
	c.ready(200)
	c.post(batchPath, batch(large(3), large(4))).want(t, 201)
	whole(t, databaseURL, 5)
}

func TestAFullDiskLosesNothingThatWasAcknowledged(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		dir := disk(t, "size=16m")
		testFullDisk(t, "sqlite:"+filepath.Join(dir, "log.db"), dir)
	})
	t.Run("postgres", func(t *testing.T) {
		server := storetest.SharedPostgres(t)
		databaseURL := server.NewDatabase(t)
		u, err := url.Parse(databaseURL)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(u.Query().Get("host"))
		if err != nil {
			t.Fatal(err)
		}
		dir := disk(t, fmt.Sprintf("size=32m,uid=%d", info.Sys().(*syscall.Stat_t).Uid))
		name := strings.TrimPrefix(u.Path, "/")
		server.Exec(t, "postgres", "CREATE TABLESPACE small LOCATION '"+dir+"'")
		t.Cleanup(func() {
			server.Exec(t, "postgres", "DROP DATABASE "+name+" WITH (FORCE)")
			server.Exec(t, "postgres", "DROP TABLESPACE small")
		})
		server.Exec(t, "postgres", "ALTER DATABASE "+name+" SET TABLESPACE small")
		testFullDisk(t, databaseURL, dir)
	})
}

func TestAFileThatBecameReadOnlyIsRefusedAtTheStart(t *testing.T) {
	dir := disk(t, "size=16m")
	databaseURL := "sqlite:" + filepath.Join(dir, "log.db")
	options := func(listening func()) datastorage.Options {
		return datastorage.Options{
			Listen: "127.0.0.1:0", DatabaseURL: databaseURL, Auth: "none", SigningKey: filepath.Join(dir, "signing.key"),
			Openers: openers, Log: logr.Discard(), Listening: func(net.Addr) { listening() },
		}
	}
	run := func() error {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		return datastorage.Run(ctx, options(stop))
	}
	if err := run(); err != nil {
		t.Fatal(err)
	}
	remount := func(flags uintptr) {
		t.Helper()
		err := error(syscall.EBUSY)
		for errors.Is(err, syscall.EBUSY) {
			// The kernel may not be done with files that were closed a moment ago.
			runtime.Gosched()
			err = syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|flags, "")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	remount(syscall.MS_RDONLY)
	if err := run(); !errors.Is(err, datastorage.ErrConfig) || !strings.Contains(err.Error(), "read-only file system") {
		t.Errorf("got %v, want a sentence that says why", err)
	}
	remount(0)
	if err := run(); err != nil {
		t.Error(err)
	}
}

// hold does what migrates a schema until the returned function is called.
func hold(t *testing.T, databaseURL string) (release func()) {
	t.Helper()
	statement := "SELECT pg_advisory_lock(4097083626)"
	if strings.HasPrefix(databaseURL, "sqlite:") {
		databaseURL += ".migrate"
		statement = "BEGIN IMMEDIATE"
	}
	conn, err := storetest.Connect(t, databaseURL).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
	return func() {
		// A connection that is only given back keeps what it holds.
		_ = conn.Raw(func(any) error { return driver.ErrBadConn })
		_ = conn.Close()
	}
}

func TestAServerWaitsWhileAnotherMigrates(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		release := hold(t, databaseURL)
		waiting := make(chan string, 100)
		log := funcr.New(func(_, line string) { waiting <- line }, funcr.Options{})
		stopped := start(t, databaseURL, func(o *datastorage.Options) { o.Log = log })
		s := start(t, databaseURL, func(o *datastorage.Options) { o.Log = log })
		if strings.HasPrefix(databaseURL, "sqlite:") {
			for !strings.Contains(<-waiting, "another process migrates") {
			}
		} else {
			waitForPostgres(t, databaseURL)
		}
		select {
		case a := <-s.listening:
			t.Fatalf("listens on %s while another migrates", a)
		default:
		}
		stopped.stop()
		if err := stopped.wait(); err != nil {
			t.Errorf("a server that waits was stopped: %v", err)
		}
		release()
		grow(newClient(t, "http://"+s.address()), 0, 3)
	})
}

// waitForPostgres returns once somebody asks for the lock of the migration.
func waitForPostgres(t *testing.T, databaseURL string) {
	t.Helper()
	db := storetest.Connect(t, databaseURL)
	for asking := 0; asking < 2; {
		err := db.QueryRow("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_try_advisory_lock%' AND pid <> pg_backend_pid()").Scan(&asking)
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A clock that was wrong changes neither the order nor what is found to be whole,
// and is told of, since times are not proven.
func TestAClockThatIsSetLeavesTheLogWhole(t *testing.T) {
	onBothBackends(t, func(t *testing.T, databaseURL string) {
		log := storetest.OpenLog(t, openURL(t, databaseURL))
		c := serveLog(t, log, nil)
		clock := time.Now().Add(time.Minute)
		log.SetClock(func() time.Time { return clock })
		next := 0
		kept := func() (n int) {
			if err := storetest.Connect(t, databaseURL).QueryRow("SELECT count(*) FROM audit_checkpoints").Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		run := func() {
			t.Helper()
			before := kept()
			for range 8 {
				grow(c, next, next+3)
				next, clock = next+3, clock.Add(400*time.Millisecond)
			}
			// One for the step, and one each second.
			if n := kept() - before; n != 3 {
				t.Errorf("%d checkpoints of 3.2 s were kept, want 3", n)
			}
		}
		run()
		clock = clock.Add(24 * time.Hour)
		run()
		whole(t, databaseURL, next)
		if out, _ := verifiedDatabase(t, databaseURL); strings.Contains(out, "clock") {
			t.Errorf("a clock that only goes forward is told of: %s", out)
		}
		clock = clock.Add(-time.Hour)
		run()
		clock = clock.Add(-30 * time.Hour)
		run()
		whole(t, databaseURL, next)
		out, _ := verifiedDatabase(t, databaseURL)
		if want := "the times are not: the clock of a server was set back, or those of several differ. the kept checkpoint "; !strings.Contains(out, want) || !strings.Contains(out, "This happened 2 times.") {
			t.Errorf("got %s, want %q twice", out, want)
		}
		if out, err := verified(t, c.get(exportPath).want(t, 200).body); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}
