// Package storetest is what every datastorage.Store must do, with the databases
// to do it on.
package storetest

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/datastorage"
	"kubernaut.ai/notification/internal/ledger"
)

// Epoch is the time of the event that Record(0) makes.
var Epoch = time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)

// Record returns a valid record with an ID, a time and a correlation ID of its
// own for each n. Edit changes the event before its bytes are made.
func Record(n int, edit ...func(*audit.Event)) datastorage.Record {
	e := audit.Event{
		EventID:        audit.EventID("storetest", fmt.Sprint(n)),
		Version:        "1.0",
		EventType:      audit.TypeMessageSent,
		EventTimestamp: Epoch.Add(time.Duration(n) * time.Microsecond),
		EventCategory:  "notification",
		EventAction:    "sent",
		EventOutcome:   audit.OutcomeSuccess,
		ActorType:      "service",
		ActorID:        "notification-controller",
		ResourceType:   "NotificationRequest",
		ResourceID:     fmt.Sprintf("request-%d", n),
		CorrelationID:  fmt.Sprintf("correlation-%d", n),
		Namespace:      "default",
		Severity:       "high",
		EventData: json.RawMessage(`{"attempt":1,"body":"","channel":"console","channel_type":"Console",` +
			`"content_digest":"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",` +
			`"event_type":"notification.message.sent","notification_id":"request","notification_uid":"5c1f4f2e-8d2c-4a3a-9e55-0a2f8f6f3f11",` +
			`"priority":"High","subject":"Node is not ready","type":"Escalation"}`),
	}
	for _, f := range edit {
		f(&e)
	}
	body, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	return datastorage.NewRecord(e, body)
}

// OpenLog opens a log in an empty store, with a key of its own.
func OpenLog(tb testing.TB, store datastorage.Store) *datastorage.Log {
	tb.Helper()
	log, err := datastorage.OpenLog(tb.Context(), store, NewKey(tb))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(log.Close)
	return log
}

// Connect connects to a database as its administrator. The caller imports its driver.
func Connect(tb testing.TB, databaseURL string) *sql.DB {
	tb.Helper()
	driver, source := "pgx", databaseURL
	if path, ok := strings.CutPrefix(databaseURL, "sqlite:"); ok {
		driver, source = "sqlite", path
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = db.Close() })
	return db
}

// Change does to a database what its administrator can.
func Change(tb testing.TB, databaseURL, statement string) {
	tb.Helper()
	db := Connect(tb, databaseURL)
	defer db.Close() // One that somebody has open cannot be copied.
	if _, err := db.ExecContext(tb.Context(), statement); err != nil {
		tb.Fatal(err)
	}
}

// NewKey makes a signing key.
func NewKey(tb testing.TB) *ledger.Key {
	tb.Helper()
	text, err := ledger.NewKey("example.com/log")
	if err != nil {
		tb.Fatal(err)
	}
	key, err := ledger.ParseKey(text)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// Run checks that a log in a store that open makes keeps its promises. Each call
// of open must return an empty store.
func Run(t *testing.T, open func(t *testing.T) datastorage.Store) {
	tests := []struct {
		name string
		test func(t *testing.T, s *datastorage.Log)
	}{
		{"a batch gets contiguous indices in its order", testIndices},
		{"events are read back byte for byte", testBytes},
		{"an event that is stored keeps its index", testDuplicates},
		{"the same event twice in a batch is stored once", testDuplicateInBatch},
		{"a conflict stores nothing and leaves no gap", testConflict},
		{"an ID with two contents in a batch is a conflict", testConflictInBatch},
		{"appends of the same event at once store it once", testConcurrentSame},
		{"appends of different events at once leave no gap", testConcurrentDifferent},
		{"an append whose context has ended stores nothing", testCancelled},
		{"events of any age are taken", testAges},
		{"each filter selects its events", testFilters},
		{"filters together select what passes each", testCombinations},
		{"pages by cursor and by offset give every event once", testPages},
		{"events of one instant come in reverse order of the log", testTies},
		{"an event after the cursor's page does not shift the walk", testStableWalk},
		{"text of every script and of SQL is kept", testText},
		{"what passes a filter is counted up to a bound", testTotal},
		{"a write can be checked", testCheckWrite},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, OpenLog(t, open(t))) })
	}
	t.Run("what expires loses its body and nothing else", func(t *testing.T) { testExpiry(t, open(t)) })
	t.Run("a hold keeps what there is and what is to come", func(t *testing.T) { testHold(t, open(t)) })
	t.Run("more expires than goes into one transaction", func(t *testing.T) { testExpiryOfMany(t, open(t)) })
	t.Run("a sweep passes nothing over and nothing twice", func(t *testing.T) { testSweep(t, open(t)) })
}

func mustAppend(t *testing.T, s *datastorage.Log, records ...datastorage.Record) []datastorage.Appended {
	t.Helper()
	outcome, err := s.Append(t.Context(), records)
	if err != nil {
		t.Fatalf("Append: %v", err)
	}
	return outcome.Appended
}

func mustQuery(t *testing.T, s *datastorage.Log, f datastorage.Filter) datastorage.Page {
	t.Helper()
	if f.Limit == 0 {
		f.Limit = 1000
	}
	page, err := s.Query(t.Context(), f)
	if err != nil {
		t.Fatalf("Query(%+v): %v", f, err)
	}
	return page
}

func indices(page datastorage.Page) []int64 {
	all := []int64{}
	for _, e := range page.Events {
		all = append(all, e.LogIndex)
	}
	return all
}

func equal(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func testIndices(t *testing.T, s *datastorage.Log) {
	equal(t, "first batch", []datastorage.Appended{{LogIndex: 0}, {LogIndex: 1}, {LogIndex: 2}},
		mustAppend(t, s, Record(5), Record(3), Record(4)))
	equal(t, "second batch", []datastorage.Appended{{LogIndex: 3}}, mustAppend(t, s, Record(1)))
	// More rows than one statement of any backend holds.
	var many []datastorage.Record
	for n := range 1000 {
		many = append(many, Record(1000+n))
	}
	for i, a := range mustAppend(t, s, many...) {
		if a.LogIndex != int64(4+i) || a.Duplicate {
			t.Fatalf("record %d of 1000 got %+v, want index %d", i, a, 4+i)
		}
	}
	page := mustQuery(t, s, datastorage.Filter{Equal: map[string]string{"event_id": Record(1999).Event.EventID.String()}})
	equal(t, "index read back", []int64{1003}, indices(page))
}

func testBytes(t *testing.T, s *datastorage.Log) {
	r := Record(1, func(e *audit.Event) { e.EventData = json.RawMessage(`{"z":1,"a":{"\n":"ü \u0001 <>&"},"big":1e21}`) })
	before := time.Now().Add(-time.Second)
	mustAppend(t, s, r)
	page := mustQuery(t, s, datastorage.Filter{})
	if len(page.Events) != 1 {
		t.Fatalf("got %d events, want 1", len(page.Events))
	}
	got := page.Events[0]
	equal(t, "body", string(r.Body), string(got.Body))
	equal(t, "leaf hash", r.LeafHash, got.LeafHash)
	if got.RecordedAt.Before(before) || got.RecordedAt.After(time.Now().Add(time.Second)) {
		t.Errorf("recorded at %v, want about now", got.RecordedAt)
	}
}

func testDuplicates(t *testing.T, s *datastorage.Log) {
	mustAppend(t, s, Record(0), Record(1))
	equal(t, "batch of old and new",
		[]datastorage.Appended{{LogIndex: 1, Duplicate: true}, {LogIndex: 2}, {LogIndex: 0, Duplicate: true}, {LogIndex: 3}},
		mustAppend(t, s, Record(1), Record(2), Record(0), Record(3)))
	equal(t, "batch of old ones", []datastorage.Appended{{LogIndex: 3, Duplicate: true}}, mustAppend(t, s, Record(3)))
	equal(t, "next index", []datastorage.Appended{{LogIndex: 4}}, mustAppend(t, s, Record(4)))
	equal(t, "total", int64(5), mustQuery(t, s, datastorage.Filter{}).Total)
}

func testDuplicateInBatch(t *testing.T, s *datastorage.Log) {
	equal(t, "outcome",
		[]datastorage.Appended{{LogIndex: 0}, {LogIndex: 0, Duplicate: true}, {LogIndex: 1}},
		mustAppend(t, s, Record(7), Record(7), Record(8)))
	equal(t, "total", int64(2), mustQuery(t, s, datastorage.Filter{}).Total)
}

func other(n int) datastorage.Record {
	return Record(n, func(e *audit.Event) { e.EventAction = "other" })
}

func testConflict(t *testing.T, s *datastorage.Log) {
	mustAppend(t, s, Record(0), Record(1))
	_, err := s.Append(t.Context(), []datastorage.Record{Record(2), other(1), Record(3), other(0)})
	var conflict *datastorage.ConflictError
	if !errors.As(err, &conflict) {
		t.Fatalf("got %v, want a ConflictError", err)
	}
	equal(t, "conflicts", []datastorage.Conflict{{Index: 1, LogIndex: 1}, {Index: 3, LogIndex: 0}}, conflict.Conflicts)
	equal(t, "stored", []int64{1, 0}, indices(mustQuery(t, s, datastorage.Filter{})))
	equal(t, "next index", []datastorage.Appended{{LogIndex: 2}}, mustAppend(t, s, Record(2)))
}

func testConflictInBatch(t *testing.T, s *datastorage.Log) {
	_, err := s.Append(t.Context(), []datastorage.Record{Record(0), other(0)})
	var conflict *datastorage.ConflictError
	if !errors.As(err, &conflict) {
		t.Fatalf("got %v, want a ConflictError", err)
	}
	equal(t, "conflicts", []datastorage.Conflict{{Index: 1, LogIndex: -1}}, conflict.Conflicts)
	equal(t, "total", int64(0), mustQuery(t, s, datastorage.Filter{}).Total)
}

func testConcurrentSame(t *testing.T, s *datastorage.Log) {
	const writers = 8
	var wg sync.WaitGroup
	outcomes := make([][]datastorage.Appended, writers)
	for w := range writers {
		wg.Go(func() {
			outcome, err := s.Append(t.Context(), []datastorage.Record{Record(0), Record(1)})
			if err != nil {
				t.Errorf("writer %d: %v", w, err)
			}
			outcomes[w] = outcome.Appended
		})
	}
	wg.Wait()
	first := 0
	for w, o := range outcomes {
		if len(o) != 2 || o[0].LogIndex != 0 || o[1].LogIndex != 1 || o[0].Duplicate != o[1].Duplicate {
			t.Errorf("writer %d got %+v", w, o)
		} else if !o[0].Duplicate {
			first++
		}
	}
	equal(t, "writers that were first", 1, first)
	equal(t, "total", int64(2), mustQuery(t, s, datastorage.Filter{}).Total)
}

func testConcurrentDifferent(t *testing.T, s *datastorage.Log) {
	const writers, batches, size = 6, 5, 10
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for b := range batches {
				records := []datastorage.Record{Record(-1)} // all of them share one
				for n := range size {
					records = append(records, Record((w*batches+b)*size+n))
				}
				if _, err := s.Append(t.Context(), records); err != nil {
					t.Errorf("writer %d: %v", w, err)
				}
			}
		})
	}
	wg.Wait()
	seen := map[int64]bool{}
	for _, e := range mustQuery(t, s, datastorage.Filter{}).Events {
		seen[e.LogIndex] = true
	}
	for i := range int64(writers*batches*size + 1) {
		if !seen[i] {
			t.Errorf("index %d is missing", i)
		}
	}
	equal(t, "number of indices", writers*batches*size+1, len(seen))
}

func testCancelled(t *testing.T, s *datastorage.Log) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Append(ctx, []datastorage.Record{Record(0)}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	equal(t, "next index", []datastorage.Appended{{LogIndex: 0}}, mustAppend(t, s, Record(1)))
}

func testCheckWrite(t *testing.T, s *datastorage.Log) {
	if err := s.CheckWrite(t.Context()); err != nil {
		t.Errorf("CheckWrite: %v", err)
	}
	equal(t, "total", int64(0), mustQuery(t, s, datastorage.Filter{}).Total)
}

func testText(t *testing.T, s *datastorage.Log) {
	for n, text := range []string{"日本語 ﷽ 🎉", "'; DROP TABLE audit_events; --", `"\\{}$1?%_`, "{a,b}", "NULL", "tab\tand\nline"} {
		id := uuid.New()
		r := Record(n, func(e *audit.Event) { e.EventID, e.CorrelationID, e.ResourceID = id, text, text })
		mustAppend(t, s, r)
		page := mustQuery(t, s, datastorage.Filter{Equal: map[string]string{"correlation_id": text, "resource_id": text}})
		if len(page.Events) != 1 || string(page.Events[0].Body) != string(r.Body) {
			t.Errorf("%q: got %d events, want the one that was stored", text, len(page.Events))
		}
	}
}
