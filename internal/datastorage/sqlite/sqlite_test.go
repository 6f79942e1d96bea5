package sqlite_test

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/sqlite"
	"kubernaut.ai/notification/internal/datastorage/storetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := child(dir, os.Stdout); err != nil {
			fmt.Fprintln(os.Stdout, "failed:", err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func open(tb testing.TB, path string) (datastorage.Store, func()) {
	tb.Helper()
	store, closeStore, err := sqlite.Open(tb.Context(), "sqlite:"+path, false)
	if err != nil {
		tb.Fatalf("Open: %v", err)
	}
	stop := sync.OnceFunc(func() {
		if err := closeStore(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	tb.Cleanup(stop)
	return store, stop
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) datastorage.Store {
		store, _ := open(t, filepath.Join(t.TempDir(), "log.db"))
		return store
	})
}

func TestEventsSurviveReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made on the way", "100% #1?.db")
	store, stop := open(t, path)
	key := storetest.NewKey(t)
	add := func(records ...datastorage.Record) []datastorage.Appended {
		log, err := datastorage.OpenLog(t.Context(), store, key)
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		outcome, err := log.Append(t.Context(), records)
		if err != nil {
			t.Fatal(err)
		}
		return outcome.Appended
	}
	add(storetest.Record(0))
	stop()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the file has another name: %v", err)
	}
	store, _ = open(t, path)
	if appended := add(storetest.Record(0), storetest.Record(1)); !appended[0].Duplicate || appended[1].LogIndex != 1 {
		t.Errorf("after reopening got %+v", appended)
	}
}

func TestServersThatStartTogetherAllMigrate(t *testing.T) {
	for range 5 {
		path := filepath.Join(t.TempDir(), "log.db")
		begin := make(chan struct{})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				<-begin
				store, closeStore, err := sqlite.Open(t.Context(), "sqlite:"+path, false)
				if err != nil {
					t.Errorf("Open: %v", err)
					return
				}
				if err := errors.Join(store.CheckWrite(t.Context()), closeStore()); err != nil {
					t.Error(err)
				}
			})
		}
		close(begin)
		wg.Wait()
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	store, stop := open(t, path)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)"); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"readiness of a running server": store.CheckWrite(t.Context()),
		"start":                         openError(t, path),
	} {
		if !errors.Is(err, datastorage.ErrConfig) || !strings.Contains(err.Error(), "schema version 99 is newer") {
			t.Errorf("%s: got %v, want a refusal that names version 99", what, err)
		}
	}
	stop()
}

func TestPathsThatNameNoFileAreRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("this is not a database, but text"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", ":memory:", dir, file, filepath.Join(file, "below")} {
		if err := openError(t, path); !errors.Is(err, datastorage.ErrConfig) {
			t.Errorf("sqlite:%s: got %v, want ErrConfig", path, err)
		}
	}
}

func openError(t *testing.T, path string) error {
	t.Helper()
	_, closeStore, err := sqlite.Open(t.Context(), "sqlite:"+path, false)
	if err == nil {
		_ = closeStore()
	}
	return err
}

func BenchmarkAppend(b *testing.B) {
	path := filepath.Join(b.TempDir(), "log.db")
	store, _ := open(b, path)
	db, err := sql.Open("sqlite", path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate")
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	storetest.Benchmark(b, store, storetest.RawSQLite(b, db))
}
