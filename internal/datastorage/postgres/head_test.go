package postgres

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/storetest"
	"kubernaut.ai/notification/test/harness"
)

const holdDatabase = "TEST_HOLD_DATABASE"

// TestHoldTheHead is no test of its own: it holds the head of a log in a process
// that TestWhoeverEndsOrStopsWithTheHeadOfTheLogKeepsNobodyFromIt kills or stops.
func TestHoldTheHead(t *testing.T) {
	url := os.Getenv(holdDatabase)
	if url == "" {
		t.Skip("it runs in a process of its own")
	}
	store, _, err := Open(t.Context(), url, false)
	if err != nil {
		t.Fatal(err)
	}
	err = store.Append(t.Context(), nil, func(datastorage.Known) (datastorage.Addition, error) {
		fmt.Fprintln(os.Stdout, "held")
		_, err := io.Copy(io.Discard, os.Stdin) // which ends with the other process
		return datastorage.Addition{}, err
	})
	t.Log(err)
}

// holdHead starts a process that holds the head of a log.
func holdHead(t *testing.T, url string) *os.Process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHoldTheHead$")
	cmd.Env = append(os.Environ(), holdDatabase+"="+url)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill() // It may have ended.
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "held\n" {
		t.Fatalf("it says %q, %v", line, err)
	}
	return cmd.Process
}

// opened is a store that is closed when the test ends.
func opened(t *testing.T, url string) *store {
	t.Helper()
	s, closeStore, err := Open(t.Context(), url, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := closeStore(); err != nil {
			t.Error(err)
		}
	})
	return s.(*store)
}

func TestWhoeverEndsOrStopsWithTheHeadOfTheLogKeepsNobodyFromIt(t *testing.T) {
	for name, signal := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := storetest.SharedPostgres(t).NewDatabase(t)
			log := storetest.OpenLog(t, opened(t, url))
			conn, err := pgx.Connect(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			holder := holdHead(t, url)
			appended := make(chan error, 1)
			go func() {
				outcome, err := log.Append(t.Context(), []datastorage.Record{storetest.Record(0)})
				if err == nil && outcome.Appended[0] != (datastorage.Appended{}) {
					err = fmt.Errorf("the first event is %+v", outcome.Appended[0])
				}
				appended <- err
			}()
			for waiting := 0; waiting == 0; {
				if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").Scan(&waiting); err != nil {
					t.Fatal(err)
				}
			}
			if err := holder.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if err := <-appended; err != nil {
				t.Errorf("whoever waited for it: %v", err)
			}
		})
	}
}

func TestWhoeverTakesNoAnswerKeepsNobodyFromTheHeadOfTheLog(t *testing.T) {
	server := harness.StartPostgres(t)
	log := storetest.OpenLog(t, opened(t, server.URL()))
	holder, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close(t.Context())
	if _, err := holder.Exec(t.Context(), settings+"; BEGIN; "+selectHead+" FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	// More than the kernel has room for on both sides.
	unread := holder.PgConn().Frontend()
	unread.SendQuery(&pgproto3.Query{String: "SELECT repeat('x', 8000) FROM generate_series(1, 2000)"})
	if err := unread.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Append(t.Context(), []datastorage.Record{storetest.Record(0)}); err != nil {
		t.Error(err)
	}
}

func TestASessionEndsSoonAfterItsMachineIsGone(t *testing.T) {
	server := harness.StartPostgres(t)
	var texts [3]string
	if err := opened(t, server.URL()).writer.QueryRow(t.Context(), "SELECT current_setting('tcp_keepalives_idle'), current_setting('tcp_keepalives_interval'), current_setting('tcp_keepalives_count')").
		Scan(&texts[0], &texts[1], &texts[2]); err != nil {
		t.Fatal(err)
	}
	var seconds [3]int
	for i, text := range texts {
		var err error
		if seconds[i], err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	if after := seconds[0] + seconds[1]*seconds[2]; after < 5 || after > 15 {
		t.Errorf("it ends %d seconds after the last sign of life; want less than the 20 that others wait for the head", after)
	}
}

func TestWhoeverReadsForLongKeepsNobodyFromWriting(t *testing.T) {
	url := storetest.SharedPostgres(t).NewDatabase(t)
	store := opened(t, url)
	log := storetest.OpenLog(t, store)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "BEGIN; LOCK TABLE audit_holds"); err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	defer readers.Wait()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for range 100 {
		readers.Go(func() { _, _ = store.Holds(ctx) })
	}
	for reading := int32(0); reading < store.pool.Config().MaxConns; {
		if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE relation = 'audit_holds'::regclass AND NOT granted").Scan(&reading); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := log.Append(t.Context(), []datastorage.Record{storetest.Record(0)}); err != nil {
		t.Fatal(err)
	}
	if err := store.CheckWrite(t.Context()); err != nil {
		t.Error(err)
	}
}
