package postgres_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/postgres"
	"kubernaut.ai/notification/internal/datastorage/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(storetest.Exit)) }

func open(tb testing.TB, url string) datastorage.Store {
	tb.Helper()
	store, closeStore, err := postgres.Open(tb.Context(), url, false)
	if err != nil {
		tb.Fatalf("Open: %v", err)
	}
	tb.Cleanup(func() {
		if err := closeStore(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return store
}

func TestStore(t *testing.T) {
	server := storetest.SharedPostgres(t)
	storetest.Run(t, func(t *testing.T) datastorage.Store {
		store := open(t, server.NewDatabase(t))
		return store
	})
}

func TestStart(t *testing.T) {
	server := storetest.SharedPostgres(t)
	t.Run("servers that start together all migrate", func(t *testing.T) {
		url := server.NewDatabase(t)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				store, closeStore, err := postgres.Open(t.Context(), url, false)
				if err != nil {
					t.Errorf("Open: %v", err)
					return
				}
				if err := errors.Join(store.CheckWrite(t.Context()), closeStore()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
	t.Run("a newer schema is refused", func(t *testing.T) {
		url := server.NewDatabase(t)
		store := open(t, url)
		exec(t, url, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, true)")
		for _, err := range []error{store.CheckWrite(t.Context()), openError(t, url)} {
			wantRefusal(t, err, "schema version 99 is newer")
		}
	})
	t.Run("a server that acknowledges before it stores is refused", func(t *testing.T) {
		url := server.NewDatabase(t)
		unsafe := url + "&options=-csynchronous_commit%3Doff"
		wantRefusal(t, openError(t, unsafe), "synchronous_commit is off")
		_, closeStore, err := postgres.Open(t.Context(), unsafe, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := closeStore(); err != nil {
			t.Error(err)
		}
	})
	t.Run("a server that leaves its writes in memory is refused", func(t *testing.T) {
		server := storetest.StartPostgres(t)
		server.Exec(t, "postgres", "ALTER SYSTEM SET fsync = off")
		server.Stop(t)
		server.Start(t)
		wantRefusal(t, openError(t, server.NewDatabase(t)), "fsync is off")
	})
	t.Run("a database that cannot hold all of Unicode is refused", func(t *testing.T) {
		server.Exec(t, "postgres", "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
		wantRefusal(t, openError(t, server.URL("latin")), "encoding is LATIN1")
	})
	t.Run("a read-only server is not ready to write", func(t *testing.T) {
		url := server.NewDatabase(t)
		open(t, url)
		store := open(t, url+"&options=-cdefault_transaction_read_only%3Don")
		if err := store.CheckWrite(t.Context()); err == nil || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("got %v, want an error that says read-only", err)
		}
	})
	t.Run("a URL that cannot be parsed is refused without its password", func(t *testing.T) {
		err := openError(t, "postgres://user:hunter2@host:port/")
		wantRefusal(t, err, "cannot parse")
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error tells the password: %v", err)
		}
	})
	t.Run("a server that does not answer may be tried again", func(t *testing.T) {
		err := openError(t, "postgres://user:hunter2@/db?host="+t.TempDir())
		if err == nil || errors.Is(err, datastorage.ErrConfig) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v, want an error that is not ErrConfig and does not tell the password", err)
		}
	})
}

// Rows of different partitions have the same ctid, and a purge that goes by that
// removes what is still to be kept.
func TestExpiryTouchesNoOtherMonth(t *testing.T) {
	url := storetest.SharedPostgres(t).NewDatabase(t)
	now := time.Now().UTC().Truncate(time.Microsecond)
	past := &storetest.At{Store: open(t, url), Time: now}
	log := storetest.OpenLog(t, past)
	for month := 1; month <= 4; month++ {
		past.Time = now.Add(-time.Duration(month) * 31 * storetest.Day)
		if _, err := log.Append(t.Context(), []datastorage.Record{storetest.Record(2 * month), storetest.Record(2*month + 1)}); err != nil {
			t.Fatal(err)
		}
	}
	count := func(query string, args ...any) (n int) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		if err := conn.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	const partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit_bodies'::regclass"
	if n, same := count(partitions), count("SELECT count(*) - count(DISTINCT ctid) FROM audit_bodies"); n != 4 || same != 6 {
		t.Fatalf("there are %d months, and %d rows with the ctid of another; want 4 and 6", n, same)
	}
	past.Time = now
	if n, err := log.Expire(t.Context(), now, 80); err != nil || n != 4 {
		t.Fatalf("expired %d, %v; want the four of the two oldest months", n, err)
	}
	cutoff := now.AddDate(0, 0, -80)
	if old, kept := count("SELECT count(*) FROM audit_bodies WHERE recorded_at < $1", cutoff), count("SELECT count(*) FROM audit_bodies WHERE recorded_at >= $1", cutoff); old != 0 || kept != 5 {
		t.Errorf("%d of what has expired and %d of what has not is there; want 0 and 5", old, kept)
	}
	if err := past.Reclaim(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if n := count(partitions); n != 3 {
		t.Errorf("there are %d months after those that are empty were dropped, want 3", n)
	}
	past.Time = now.Add(-4 * 31 * storetest.Day)
	if _, err := log.Append(t.Context(), []datastorage.Record{storetest.Record(100)}); err != nil {
		t.Errorf("a clock that steps back into a month that was dropped: %v", err)
	}
}

func wantRefusal(t *testing.T, err error, reason string) {
	t.Helper()
	if !errors.Is(err, datastorage.ErrConfig) || !strings.Contains(err.Error(), reason) {
		t.Errorf("got %v, want a refusal that says %q", err, reason)
	}
}

func openError(t *testing.T, url string) error {
	t.Helper()
	_, closeStore, err := postgres.Open(t.Context(), url, false)
	if err == nil {
		_ = closeStore()
	}
	return err
}

func exec(t *testing.T, url, statement string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkAppend(b *testing.B) {
	url := storetest.SharedPostgres(b).NewDatabase(b)
	store := open(b, url)
	conn, err := pgx.Connect(b.Context(), url)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close(b.Context())
	storetest.Benchmark(b, store, storetest.RawPostgres(b, conn))
}
