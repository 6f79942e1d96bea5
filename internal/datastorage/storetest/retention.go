package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"kubernaut.ai/notification/internal/audit"
	"kubernaut.ai/notification/internal/datastorage"
)

// At is a store that records at a time of its own.
type At struct {
	datastorage.Store
	Time time.Time
}

// Append is as datastorage.Writer says.
func (s *At) Append(ctx context.Context, ids []uuid.UUID, plan func(datastorage.Known) (datastorage.Addition, error)) error {
	return s.Store.Append(ctx, ids, func(known datastorage.Known) (datastorage.Addition, error) {
		add, err := plan(known)
		add.RecordedAt = s.Time
		return add, err
	})
}

// Day is what retention counts in.
const Day = 24 * time.Hour

// Keep has a record's event say how long it is kept, as a client does.
func Keep(r datastorage.Record, days int64) datastorage.Record {
	if days > 0 {
		body := strings.Replace(string(r.Body), `,"severity"`, fmt.Sprintf(`,"retention_days":%d,"severity"`, days), 1)
		r = datastorage.NewRecord(r.Event, []byte(body))
	}
	r.RetentionDays = days
	return r
}

func mustExpire(t *testing.T, log *datastorage.Log, now time.Time, days int64, want int) {
	t.Helper()
	n, err := log.Expire(t.Context(), now, days)
	if err != nil || n != want {
		t.Fatalf("expired %d events, %v; want %d", n, err, want)
	}
}

// bodies returns the log indices of the events that have one.
func bodies(t *testing.T, log *datastorage.Log) []int64 {
	t.Helper()
	all := []int64{}
	for _, e := range mustQuery(t, log, datastorage.Filter{}).Events {
		if e.Body != nil {
			all = append(all, e.LogIndex)
		}
	}
	return all
}

func testExpiry(t *testing.T, store datastorage.Store) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	past := &At{store, now.Add(-31 * Day)}
	log := OpenLog(t, past)
	before := Record(0)
	mustAppend(t, log, before, Keep(Record(1), 365), Keep(Record(2), 30), Keep(Record(3), 32), Keep(Record(4), datastorage.Forever), Record(5))
	past.Time = now.Add(-29 * Day)
	mustAppend(t, log, Record(6), Keep(Record(7), 30), Keep(Record(8), 7))
	past.Time = now

	mustExpire(t, log, now, 0, 2) // those that say so themselves
	mustExpire(t, log, now, 0, 0)
	equal(t, "kept without a policy", []int64{9, 7, 6, 5, 4, 3, 1, 0}, bodies(t, log))
	mustExpire(t, log, now, 30, 2)
	mustExpire(t, log, now, 30, 0)
	equal(t, "kept for 30 days", []int64{10, 9, 7, 6, 4, 3, 1}, bodies(t, log))
	// A clock that is ahead of the database's removes nothing there, and what is
	// recorded of an expiry never goes.
	equal(t, "events", int64(11), mustQuery(t, log, datastorage.Filter{}).Total)

	page := mustQuery(t, log, datastorage.Filter{Equal: map[string]string{"event_id": before.Event.EventID.String()}})
	remains := page.Events[0]
	equal(t, "leaf hash", before.LeafHash, remains.LeafHash)
	want := audit.Event{
		EventID: before.Event.EventID, EventTimestamp: before.Event.EventTimestamp, EventType: before.Event.EventType,
		EventCategory: "notification", EventOutcome: "success", CorrelationID: "correlation-0", Severity: "high",
		ResourceID: "request-0", Namespace: "default",
	}
	equal(t, "what remains", want, remains.Columns)
	equal(t, "an expired event that comes again", []datastorage.Appended{{LogIndex: 0, Duplicate: true}}, mustAppend(t, log, Record(0)))
	if _, err := log.Append(t.Context(), []datastorage.Record{other(0)}); !errors.As(err, new(*datastorage.ConflictError)) {
		t.Errorf("other content under the ID of an expired event: %v, want a ConflictError", err)
	}

	records := mustQuery(t, log, datastorage.Filter{Equal: map[string]string{"event_type": "datastorage.events.expired"}}).Events
	var said [2]datastorage.Expiry
	for i, e := range records {
		var body struct {
			EventData datastorage.Expiry `json:"event_data"`
		}
		if err := json.Unmarshal(e.Body, &body); err != nil {
			t.Fatal(err)
		}
		said[i] = body.EventData
		if len(said[i].Remains) != 16*said[i].Count {
			t.Errorf("an expiry of %d says in %d bytes what remains", said[i].Count, len(said[i].Remains))
		}
		said[i].Remains = nil
	}
	equal(t, "expiries", [2]datastorage.Expiry{
		{Count: 2, LogIndices: [][2]int64{{0, 0}, {5, 5}}}, {Count: 2, LogIndices: [][2]int64{{2, 2}, {8, 8}}},
	}, said)
}

func testHold(t *testing.T, store datastorage.Store) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	past := &At{store, now.Add(-31 * Day)}
	log := OpenLog(t, past)
	held := func(e *audit.Event) { e.CorrelationID = "held" }
	mustAppend(t, log, Record(0, held), Keep(Record(1, held), 7), Record(2))
	hold := datastorage.Hold{CorrelationID: "held", Reason: "case 7", PlacedBy: "alice"}
	placed, err := log.PlaceHold(t.Context(), hold)
	if err != nil {
		t.Fatal(err)
	}
	again, err := log.PlaceHold(t.Context(), datastorage.Hold{CorrelationID: "held", Reason: "another", PlacedBy: "bob"})
	if !errors.Is(err, datastorage.ErrHeld) {
		t.Errorf("placed twice: %v", err)
	}
	equal(t, "hold that was there", placed, again)
	placed.PlacedAt = hold.PlacedAt
	equal(t, "hold", hold, placed)
	mustAppend(t, log, Keep(Record(3, held), 7))
	past.Time = now
	mustExpire(t, log, now, 30, 1)
	mustExpire(t, log, now, 30, 0)
	equal(t, "kept", []int64{0, 1, 4}, without(bodies(t, log), 3, 5, 2))
	if err := log.ReleaseHold(t.Context(), "held", "carol"); err != nil {
		t.Fatal(err)
	}
	if err := log.ReleaseHold(t.Context(), "held", "carol"); !errors.Is(err, datastorage.ErrNotHeld) {
		t.Errorf("released twice: %v", err)
	}
	mustExpire(t, log, now, 30, 3)
	holds, err := log.Holds(t.Context())
	if err != nil || len(holds) != 0 {
		t.Errorf("holds %v, %v", holds, err)
	}
	for eventType, by := range map[string]string{"datastorage.hold.placed": "alice", "datastorage.hold.released": "carol"} {
		page := mustQuery(t, log, datastorage.Filter{Equal: map[string]string{"event_type": eventType, "correlation_id": "held"}})
		var event audit.Event
		if len(page.Events) == 1 {
			_ = json.Unmarshal(page.Events[0].Body, &event)
		}
		if event.ActorID != by {
			t.Errorf("%s: %d events, by %q", eventType, len(page.Events), event.ActorID)
		}
	}
}

// without returns a list in reverse, and without some of it.
func without(list []int64, gone ...int64) []int64 {
	kept := []int64{}
	for _, n := range slices.Backward(list) {
		if !slices.Contains(gone, n) {
			kept = append(kept, n)
		}
	}
	return kept
}

func testExpiryOfMany(t *testing.T, store datastorage.Store) {
	now := time.Now()
	past := &At{store, now.Add(-2 * Day).Truncate(time.Microsecond)}
	log := OpenLog(t, past)
	const all = 2500
	for first := 0; first < all; first += 500 {
		var records []datastorage.Record
		for n := range 500 {
			records = append(records, Record(first+n))
		}
		mustAppend(t, log, records...)
	}
	past.Time = now.Truncate(time.Microsecond)
	for _, want := range []int{1000, 1000, 500, 0} {
		mustExpire(t, log, now, 1, want)
	}
	large := func(e *audit.Event) { e.EventData = json.RawMessage(`{"x":"` + strings.Repeat("x", 3<<20) + `"}`) }
	past.Time = now.Add(-2 * Day).Truncate(time.Microsecond)
	mustAppend(t, log, Record(all, large), Record(all+1, large), Record(all+2, large), Record(all+3, large))
	past.Time = now.Truncate(time.Microsecond)
	for _, want := range []int{3, 1, 0} { // so many as a page of 8 MiB begins with
		mustExpire(t, log, now, 1, want)
	}
	seen := mustQuery(t, log, datastorage.Filter{Equal: map[string]string{"event_category": "datastorage"}})
	equal(t, fmt.Sprint("expiries of ", all), int64(5), seen.Total)
}

// testSweep has what is held among what expires by either rule, recorded by a clock
// that goes back at times.
func testSweep(t *testing.T, store datastorage.Store) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	past := &At{Store: store}
	log := OpenLog(t, past)
	var want, held []int64
	for n := range 60 {
		past.Time = now.Add(-time.Duration(31+n*7%13) * Day)
		r := Record(n, func(e *audit.Event) {
			if n%3 == 0 {
				e.CorrelationID = "held"
			}
		})
		days := int64([...]int{0, 7, 365, 14, 0}[n%5])
		mustAppend(t, log, Keep(r, days))
		switch {
		case days == 365:
		case n%3 == 0:
			held = append(held, int64(n))
		default:
			want = append(want, int64(n))
		}
	}
	past.Time = now
	if _, err := log.PlaceHold(t.Context(), datastorage.Hold{CorrelationID: "held", Reason: "case 7", PlacedBy: "alice"}); err != nil {
		t.Fatal(err)
	}
	expire := func(sweep *datastorage.Sweep) (gone []int64) {
		t.Helper()
		err := store.Append(t.Context(), nil, func(known datastorage.Known) (datastorage.Addition, error) {
			list, err := known.Tx.Expirable(t.Context(), sweep, 4)
			for i := range list {
				gone = append(gone, list[i].LogIndex)
			}
			return datastorage.Addition{RecordedAt: now, Head: known.Head, Expired: list}, err
		})
		if err != nil {
			t.Fatal(err)
		}
		return gone
	}
	sweep := func() *datastorage.Sweep { return &datastorage.Sweep{Now: now, Policy: now.Add(-30 * Day)} }
	var got []int64
	one := sweep()
	for some := expire(one); len(some) > 0; some = expire(one) {
		got = append(got, some...)
	}
	slices.Sort(got)
	equal(t, "what expired", want, got)
	if err := log.ReleaseHold(t.Context(), "held", "carol"); err != nil {
		t.Fatal(err)
	}
	// Those that were newer than all else are yet to come in either order.
	for some := expire(one); len(some) > 0; some = expire(one) {
		held = slices.DeleteFunc(held, func(n int64) bool { return slices.Contains(some, n) })
	}
	if len(held) < 10 {
		t.Errorf("a sweep went back to all but %d of those that it had passed", len(held))
	}
	got = nil
	another := sweep()
	for some := expire(another); len(some) > 0; some = expire(another) {
		got = append(got, some...)
	}
	slices.Sort(got)
	equal(t, "what the next sweep found of what was held", held, got)
}
