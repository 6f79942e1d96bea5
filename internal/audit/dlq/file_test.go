package dlq

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"kubernaut.ai/notification/internal/audit"
)

// roomy is more than a test puts.
const roomy = 128 << 20

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir, os.Stdout)
		return
	}
	goleak.VerifyTestMain(m)
}

func event(n int) audit.Event {
	return audit.Event{
		EventID: audit.EventID(fmt.Sprint(n)), Version: "1.0", EventType: audit.TypeMessageSent,
		EventTimestamp: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), EventOutcome: audit.OutcomeSuccess,
		CorrelationID: "c", DurationMS: new(int64(12)), EventData: json.RawMessage(`{"subject":"a < b","n":1.0}`),
	}
}

func events(from, to int) []audit.Event {
	var list []audit.Event
	for n := from; n < to; n++ {
		list = append(list, event(n))
	}
	return list
}

func ids(list []audit.Event) []uuid.UUID {
	var ids []uuid.UUID
	for _, e := range list {
		ids = append(ids, e.EventID)
	}
	return ids
}

func open(t *testing.T, dir string) *File {
	t.Helper()
	f, err := Open(dir, roomy, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func put(t *testing.T, f *File, list []audit.Event, want int) {
	t.Helper()
	if added, err := f.Put(t.Context(), list); err != nil || added != want {
		t.Fatalf("put: %d added, error %v; want %d", added, err, want)
	}
}

func next(t *testing.T, f *File, limit int) []audit.Event {
	t.Helper()
	list, _, err := f.Next(t.Context(), limit)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func settle(t *testing.T, f *File, recorded []uuid.UUID, rejected []audit.Rejection) audit.Depth {
	t.Helper()
	depth, err := f.Settle(t.Context(), recorded, rejected)
	if err != nil {
		t.Fatal(err)
	}
	return depth
}

func TestWhatWasPutIsThereAfterTheProcessDiedByteForByte(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "is", "created")
	f := open(t, dir)
	put(t, f, events(0, 5), 5)
	put(t, f, events(3, 8), 3)
	// What a dead process leaves are its files; its lock the kernel has dropped.
	f.lock.Close()
	again := open(t, dir)
	f.lock = nil
	depth := settle(t, again, nil, nil)
	if depth.Waiting != 8 || time.Since(depth.Oldest) > time.Minute {
		t.Errorf("depth is %+v", depth)
	}
	want, _ := json.Marshal(events(0, 8))
	got, _ := json.Marshal(next(t, again, 100))
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestARejectedEventKeepsItsLastReasonAndStatus(t *testing.T) {
	f := open(t, t.TempDir())
	settle(t, f, nil, []audit.Rejection{{Event: event(9), Status: 400, Reason: "is bad"}})
	settle(t, f, nil, []audit.Rejection{{Event: event(9), Status: 409, Reason: strings.Repeat("é", maxReason)}})
	var status int
	var reason, payload string
	row := f.db.QueryRow("SELECT status, reason, payload FROM rejected WHERE event_id = ?", event(9).EventID.String())
	if err := row.Scan(&status, &reason, &payload); err != nil {
		t.Fatal(err)
	}
	if status != 409 || reason != strings.Repeat("é", maxReason/2) || !strings.Contains(payload, event(9).EventID.String()) {
		t.Errorf("rejected row is %d, %s, %s", status, reason, payload)
	}
}

func TestARejectedEventIsOfferedAgainAfterItsRestAndNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, err := Open(t.TempDir(), roomy, logr.Discard())
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		reject := func(n int) {
			settle(t, f, nil, []audit.Rejection{{Event: event(n), Status: 400, Reason: "bad"}})
		}
		wait := func(d time.Duration, want ...audit.Event) {
			t.Helper()
			<-time.After(d)
			list, depth, err := f.Next(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(ids(want), ids(list)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			if depth.Waiting == 1 && !depth.Oldest.Equal(time.Now()) {
				t.Errorf("depth is %+v; it began to wait at %s", depth, time.Now())
			}
		}
		reject(0)
		wait(audit.RejectedRecheck / 2)
		reject(1)
		wait(audit.RejectedRecheck/2 - time.Second)
		wait(time.Second, event(0))
		settle(t, f, ids(events(0, 1)), nil)
		wait(audit.RejectedRecheck/2 - time.Second)
		wait(time.Second, event(1))
		reject(1)
		wait(audit.RejectedRecheck - time.Second)
		wait(time.Second, event(1))
		settle(t, f, ids(events(1, 2)), nil)
		// Put again, it wakes, and rests anew when it is rejected anew.
		reject(2)
		wait(time.Minute)
		put(t, f, events(2, 3), 0)
		wait(0, event(2))
		reject(2)
		wait(audit.RejectedRecheck - time.Second)
		wait(time.Second, event(2))
		settle(t, f, ids(events(2, 3)), nil)
		// Offered again, an event comes after those that were never sent.
		reject(1)
		put(t, f, events(5, 6), 1)
		wait(audit.RejectedRecheck, event(5))
		put(t, f, events(6, 7), 1)
		wait(0, event(6))
	})
}

func TestUnreadableRowsAreSetAsideWhileOthersFlow(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	for n := range 4 {
		put(t, f, events(2*n, 2*n+2), 2)
	}
	settle(t, f, nil, []audit.Rejection{{Event: event(8), Status: 400, Reason: "bad"}, {Event: event(9), Status: 400, Reason: "bad"}, {Event: event(10), Status: 400, Reason: "bad"}})
	for _, change := range []string{
		`UPDATE batches SET payload = replace(payload, 'success', 'failure') WHERE seq = 1`,
		`UPDATE batches SET crc32c = 1 WHERE seq = 2`,
		`UPDATE batches SET (payload, crc32c) = (SELECT payload, crc32c FROM batches WHERE seq = 4) WHERE seq = 3`,
		`UPDATE rejected SET reason = 'worse' WHERE event_id = '` + event(8).EventID.String() + `'`,
		`UPDATE rejected SET event_id = '` + uuid.NewString() + `' WHERE event_id = '` + event(9).EventID.String() + `'`,
	} {
		if result, err := f.db.Exec(change); err != nil {
			t.Fatal(err)
		} else if n, err := result.RowsAffected(); n != 1 || err != nil {
			t.Fatalf("%d rows changed, %v: %s", n, err, change)
		}
	}
	if diff := cmp.Diff(ids(events(6, 8)), ids(next(t, f, 100))); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	wantDepth(t, audit.Depth{Waiting: 2, Rejected: 3, Aside: 6}, settle(t, f, nil, nil))
	// The fact behind an unreadable event can be recorded anew.
	put(t, f, events(0, 1), 1)
	f.Close()
	f = open(t, dir)
	if diff := cmp.Diff(ids(append(events(6, 8), event(0), event(10))), ids(next(t, f, 100))); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	// Row 3 is now a good copy of row 4.
	wantDepth(t, audit.Depth{Waiting: 4, Aside: 6}, settle(t, f, nil, nil))
}

func TestASecondOwnerIsRefusedUntilTheFirstHasGone(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	_, err := Open(dir, roomy, logr.Discard())
	if err == nil || !strings.Contains(err.Error(), "--dlq-path") || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "another process uses it") {
		t.Errorf("error is %v", err)
	}
	put(t, first, events(0, 1), 1)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func TestAPathThatCannotBeUsedIsNamedWithItsFlag(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	newer, taken := t.TempDir(), t.TempDir()
	f := open(t, newer)
	if _, err := f.db.Exec("PRAGMA user_version = 7"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := os.MkdirAll(filepath.Join(taken, currentDir, dbName), 0o700); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		"":                           "a directory on a local disk is required",
		file:                         "not a directory",
		filepath.Join(file, "below"): "not a directory",
		"/proc/nowhere":              "/proc/nowhere",
		newer:                        "schema version is 7 and this program knows only 1",
		taken:                        "unable to open database file",
	} {
		_, err := Open(dir, roomy, logr.Discard())
		if err == nil || !strings.Contains(err.Error(), "--dlq-path") || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v, want %q", dir, err, want)
		}
	}
	if again, err := os.ReadDir(newer); err != nil || len(again) != 2 {
		t.Errorf("a database of a newer program has become %v, %v", again, err)
	}
}

func TestTheDatabaseSyncsEachWriteAndNeedsNoOtherDirectory(t *testing.T) {
	f := open(t, t.TempDir())
	for pragma, want := range map[string]string{"synchronous": "2", "temp_store": "2", "journal_mode": "wal", "wal_autocheckpoint": "0"} {
		var got string
		if err := f.db.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", pragma, got, err, want)
		}
	}
}

func TestAClosedQueueSaysSo(t *testing.T) {
	f := open(t, t.TempDir())
	f.Close()
	if _, err := f.Put(t.Context(), events(0, 1)); err == nil || !strings.Contains(err.Error(), "the queue is closed") {
		t.Errorf("put: error is %v", err)
	}
	if _, err := f.Settle(t.Context(), ids(events(0, 1)), nil); err == nil || !strings.Contains(err.Error(), "the queue is closed") {
		t.Errorf("settle: error is %v", err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestARejectedEventThatIsRecordedBeforeItIsOfferedIsGone(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	settle(t, f, nil, []audit.Rejection{{Event: event(0), Status: 400, Reason: "no"}})
	f.Close()
	f = open(t, dir)
	settle(t, f, ids(events(0, 1)), nil)
	if list := next(t, f, 10); len(list) != 0 {
		t.Errorf("%d events", len(list))
	}
	wantDepth(t, audit.Depth{}, settle(t, f, nil, nil))
}

func TestARejectedEventThatIsPutBeforeItIsOfferedIsOfferedOnce(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	settle(t, f, nil, []audit.Rejection{{Event: event(0), Status: 400, Reason: "no"}})
	f.Close()
	f = open(t, dir)
	put(t, f, events(0, 1), 0)
	wantNext(t, f, 10, events(0, 1))
	wantDepth(t, audit.Depth{}, settle(t, f, ids(events(0, 1)), nil))
	next(t, f, 10)
	wantDepth(t, audit.Depth{}, settle(t, f, nil, nil))
}

func TestOneEventThatStaysHoldsNoMemoryOfOthers(t *testing.T) {
	f := open(t, t.TempDir())
	put(t, f, events(0, 1), 1)
	for n := 1; n < 200; n++ {
		put(t, f, events(n, n+1), 1)
		settle(t, f, ids(events(n, n+1)), nil)
	}
	if len(f.batches) > 100 {
		t.Errorf("%d batches are known, one waits", len(f.batches))
	}
}
