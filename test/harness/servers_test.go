package harness

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

func TestRestartRunsTheSameProgramAgain(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sh", "-c", `echo "$0 $MARK $(pwd)"; exec sleep 1000`, "argument")
	cmd.Env, cmd.Dir = append(os.Environ(), "MARK=kept"), t.TempDir()
	p := Start(t, cmd)
	line := p.WaitLog(10*time.Second, "argument kept "+cmd.Dir)
	p.Restart()
	Eventually(t, 10*time.Second, func() error {
		if p.Log() != line+"\n"+line+"\n" {
			return fmt.Errorf("the log is %q", p.Log())
		}
		return nil
	})
	if p.Ended() {
		t.Error("it does not run")
	}
}

func TestPostgresKeepsWhatItCommittedThroughKills(t *testing.T) {
	t.Parallel()
	if !HavePostgres() {
		t.Skip("PostgreSQL is not installed")
	}
	p := StartPostgres(t)
	connect := func() *pgx.Conn {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), p.URL())
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	number := func(statement string) int {
		t.Helper()
		conn := connect()
		defer conn.Close(t.Context())
		n := 0
		if err := conn.QueryRow(t.Context(), statement).Scan(&n); err != nil {
			t.Error(err)
		}
		return n
	}
	conn := connect()
	if _, err := conn.Exec(t.Context(), "CREATE TABLE kept (n int)"); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close(t.Context())
	for kill := range 3 {
		acknowledged := make(chan int)
		var writers sync.WaitGroup
		for range 4 {
			conn := connect()
			writers.Go(func() {
				defer conn.Close(t.Context())
				for {
					if _, err := conn.Exec(t.Context(), fmt.Sprintf("INSERT INTO kept VALUES (%d)", kill)); err != nil {
						return
					}
					acknowledged <- kill
				}
			})
		}
		var done sync.WaitGroup
		n := 0
		enough := make(chan struct{})
		done.Go(func() {
			for range acknowledged {
				if n++; n == 20 {
					close(enough)
				}
			}
		})
		<-enough
		children, err := childrenOf(p.process.cmd.Process.Pid)
		if err != nil || len(children) < 4 {
			t.Errorf("the server has the children %v, %v", children, err)
		}
		p.Kill()
		writers.Wait()
		close(acknowledged)
		done.Wait()
		for _, child := range children {
			if its, state, err := procStat(child); err == nil && state != "Z" {
				t.Errorf("child %d, of %d, survived in state %s", child, its, state)
			}
		}
		if _, err := net.Dial("tcp", p.Address); err == nil {
			t.Error("something listens after the kill")
		}
		begin := time.Now()
		p.Start()
		t.Logf("started again within %s", time.Since(begin))
		if got := number(fmt.Sprintf("SELECT count(*)::int FROM kept WHERE n = %d", kill)); got < n {
			t.Errorf("%d rows after %d were acknowledged", got, n)
		}
	}
	if got := number("SELECT current_setting('fsync')::bool::int"); got != 1 {
		t.Errorf("fsync is %d", got)
	}
}

func TestRedisKeepsWhatItAcknowledgedThroughKills(t *testing.T) {
	t.Parallel()
	if !HaveRedis() {
		t.Skip("Redis is not installed")
	}
	for _, password := range []string{"", "p@ss word/1"} {
		r := StartRedis(t, password)
		options, err := redis.ParseURL(r.URL())
		if err != nil {
			t.Fatal(err)
		}
		options.MaxRetries = -1
		client := redis.NewClient(options)
		t.Cleanup(func() { _ = client.Close() })
		for kill := range 3 {
			key, n := strconv.Itoa(kill), int64(0)
			killed := make(chan struct{})
			enough := make(chan struct{})
			go func() {
				<-enough
				r.Kill()
				close(killed)
			}()
			for {
				if err := client.Incr(t.Context(), key).Err(); err != nil {
					break
				}
				if n++; n == 50 {
					close(enough)
				}
			}
			<-killed
			begin := time.Now()
			r.Start()
			t.Logf("started again within %s", time.Since(begin))
			if got, err := client.Get(t.Context(), key).Int64(); err != nil || got < n {
				t.Errorf("the number is %d, %v, after %d were acknowledged", got, err, n)
			}
		}
		for name, want := range map[string]string{"appendonly": "yes", "appendfsync": "always"} {
			if got, err := client.ConfigGet(t.Context(), name).Result(); err != nil || got[name] != want {
				t.Errorf("%s is %v, %v, want %s", name, got, err, want)
			}
		}
	}
	r := StartRedis(t, "secret")
	client := redis.NewClient(&redis.Options{Addr: r.Address, MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	if err := client.Ping(t.Context()).Err(); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
		t.Errorf("without the password: %v", err)
	}
}

func TestServersLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	if !HavePostgres() {
		t.Skip("PostgreSQL is not installed")
	}
	var pids []int
	var dir string
	t.Run("server", func(t *testing.T) {
		p := StartPostgres(t)
		parent := p.process.cmd.Process.Pid
		var err error
		if pids, err = childrenOf(parent); err != nil {
			t.Fatal(err)
		}
		pids, dir = append(pids, parent), p.process.cmd.Dir
	})
	for _, pid := range pids {
		if _, state, err := procStat(pid); err == nil && state != "Z" {
			t.Errorf("process %d is in state %s", pid, state)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory of the server: %v", err)
	}
}
