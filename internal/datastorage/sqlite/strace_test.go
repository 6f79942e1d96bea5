package sqlite_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/datastorage/sqlite"
	"kubernaut.ai/notification/internal/datastorage/storetest"
	"kubernaut.ai/notification/internal/ledger"
	"kubernaut.ai/notification/test/harness"
)

// childDir names the directory of the database in a process that is to be killed.
const childDir = "SQLITE_TEST_CHILD_DIR"

// record is one of some KiB, so that the file grows.
func record(n int) datastorage.Record {
	return storetest.Record(n, func(e *audit.Event) {
		e.EventData = fmt.Appendf(nil, `{"text":%q}`, strings.Repeat("x", n%3*3000))
	})
}

// child is the process whose system calls fail. It says what was acknowledged to
// it, and ends with "end".
func child(dir string, out io.Writer) error {
	runtime.LockOSThread()
	ctx := context.Background()
	text, err := os.ReadFile(filepath.Join(dir, "key"))
	if err != nil {
		return err
	}
	key, err := ledger.ParseKey(string(text))
	if err != nil {
		return err
	}
	again := func(do func() error) (err error) {
		for range 4 {
			if err = do(); err == nil {
				return nil
			}
			fmt.Fprintln(out, "error:", err)
		}
		return err
	}
	var log *datastorage.Log
	var closeStore func() error
	err = again(func() error {
		store, closeIt, err := sqlite.Open(ctx, "sqlite:"+filepath.Join(dir, "log.db"), false)
		if err != nil {
			return err
		}
		if log, err = datastorage.OpenLog(ctx, store, key); err != nil {
			_ = closeIt()
			return err
		}
		closeStore = closeIt
		return nil
	})
	if err != nil {
		return err
	}
	for n := range 4 {
		var outcome datastorage.Outcome
		records := []datastorage.Record{record(0), record(2*n + 1), record(2*n + 2)}
		if err := again(func() (err error) { outcome, err = log.Append(ctx, records); return err }); err != nil {
			return err
		}
		for i, a := range outcome.Appended {
			fmt.Fprintln(out, "stored", records[i].Event.EventID, a.LogIndex)
		}
		fmt.Fprintln(out, "checkpoint", base64.StdEncoding.EncodeToString([]byte(outcome.Checkpoint)))
	}
	log.Close()
	if err := closeStore(); err != nil {
		fmt.Fprintln(out, "close:", err)
	}
	fmt.Fprintln(out, "end")
	return nil
}

// Whatever fails, what was acknowledged is where it was said to be, and the log
// goes on.
func TestNoFailingSystemCallLosesAnAcknowledgedEvent(t *testing.T) {
	text, err := ledger.NewKey("example.com/log")
	if err != nil {
		t.Fatal(err)
	}
	prepare := func() string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "key"), []byte(text), 0o600); err != nil {
			t.Error(err)
		}
		return dir
	}
	sums := harness.EachSyscall(t, childDir, prepare, func(fault harness.SyscallFault, dir, printed string) map[string]int {
		wrong := map[string]int{"lost": 0, "dead": 0, "contradicted": 0}
		fail := func(what, format string, args ...any) {
			wrong[what]++
			t.Errorf("%v: %s", fault, fmt.Sprintf(format, args...))
		}
		key, err := ledger.ParseKey(text)
		if err != nil {
			t.Error(err)
		}
		store, closeStore, err := sqlite.Open(t.Context(), "sqlite:"+filepath.Join(dir, "log.db"), false)
		if err != nil {
			fail("dead", "open: %v", err)
			return wrong
		}
		defer func() {
			if err := closeStore(); err != nil {
				t.Errorf("%v: close: %v", fault, err)
			}
		}()
		log, err := datastorage.OpenLog(t.Context(), store, key)
		if err != nil {
			fail("dead", "open log: %v", err)
			return wrong
		}
		defer log.Close()
		if _, err := log.Append(t.Context(), []datastorage.Record{record(1000)}); err != nil {
			fail("dead", "append: %v", err)
		}
		judge(t, log, key, printed, fail)
		return wrong
	})
	// The log commits in a goroutine of its own.
	if writes := sums["pwrite64   "+harness.SyscallKill]; writes["runs"]-writes["missed"] < 50 {
		t.Errorf("of %d writes that were to kill, %d did not", writes["runs"], writes["missed"])
	}
}

func judge(t *testing.T, log *datastorage.Log, key *ledger.Key, printed string, fail func(what, format string, args ...any)) {
	page, err := log.Query(t.Context(), datastorage.Filter{Limit: 1000, Until: time.Now().AddDate(100, 0, 0)})
	if err != nil {
		fail("dead", "query: %v", err)
		return
	}
	slices.SortFunc(page.Events, func(a, b datastorage.Stored) int { return int(a.LogIndex - b.LogIndex) })
	tree, roots, bodies := &ledger.Tree{}, []ledger.Hash{}, map[string]string{}
	for i, e := range page.Events {
		if e.LogIndex != int64(i) || ledger.LeafHash(e.Body) != e.LeafHash {
			fail("contradicted", "event %d is at %d", i, e.LogIndex)
		}
		roots = append(roots, tree.Root())
		tree.Append(e.LeafHash)
		bodies[fmt.Sprint(e.LogIndex)] = string(e.Body)
	}
	roots = append(roots, tree.Root())
	for line := range strings.Lines(printed) {
		switch words := strings.Fields(line); {
		case len(words) == 3 && words[0] == "stored":
			if !strings.Contains(bodies[words[2]], words[1]) {
				fail("lost", "event %s is not at %s", words[1], words[2])
			}
		case len(words) == 2 && words[0] == "checkpoint":
			signed, _ := base64.StdEncoding.DecodeString(words[1])
			c, err := ledger.Verify(string(signed), key.Verifier())
			if err != nil || c.Size >= int64(len(roots)) || c.Root != roots[c.Size] {
				fail("contradicted", "checkpoint of %d events, %v", c.Size, err)
			}
		}
	}
}
